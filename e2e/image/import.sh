#!/bin/bash
# Run in a fresh test host as `bash -s`: imports the images into containerd and Docker, then makes the host ready to be saved.
# bulkhead/debian is large for an emulated CPU, so it goes into containerd's namespace `default` alone; a suite that wants it
# elsewhere imports /images/debian.tar there.
set -euo pipefail
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose images /images

# Without --local (where this ctr has it) an import spends three times as much on reporting its progress.
local_option=
if ctr images import --help | grep -q -- --local; then local_option=--local; fi
into() {
    local namespace=$1 name
    shift
    for name in "$@"; do
        ctr -n "$namespace" images import $local_option "/images/$name.tar"
    done
}
into k8s.io pause busybox redis
into default busybox redis pause debian
for name in busybox redis; do
    docker load -q -i "/images/$name.tar"
done
umount /images
sync
echo 1 >/proc/sys/vm/drop_caches
# Free memory goes back to the machine outside within two seconds of its being freed.
sleep 4
