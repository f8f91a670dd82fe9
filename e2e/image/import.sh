# Run in a fresh test host as `bash -s -- NAME...`: imports /images/NAME.tar into containerd (namespaces default and k8s.io)
# and Docker, then makes the host ready to be saved.
set -euo pipefail
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=1048576,cache=none images /images
for name in "$@"; do
    ctr -n default images import "/images/$name.tar"
    ctr -n k8s.io images import "/images/$name.tar"
    docker load -q -i "/images/$name.tar"
done
umount /images
sync
