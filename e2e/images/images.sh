# shellcheck shell=bash
# The container images of the tests, built from Debian packages without any registry. Sourced by e2e/host.
#   bulkhead/busybox  one static program with its links, users root, nobody and app (1000)
#   bulkhead/debian   a Debian base with bash, coreutils, procps and python3; users as above
#   bulkhead/redis    the layer of bulkhead/busybox and one with redis-server and redis-cli above it
#   bulkhead/pause    what holds a CRI pod's namespaces

IMAGES=(busybox debian redis pause)
IMAGE_SUITE=forky
IMAGE_PACKAGES=bash,coreutils,procps,python3-minimal,python3,busybox-static,libcap2-bin,util-linux

# images_artefact: prints the folder with NAME.tar of every image.
images_artefact() {
    artefact images "$(hash_of "$E2E_DIR/images")" images_build
}

images_build() {
    step "building the container images (${IMAGES[*]})" images_fill "$1"
}

images_fill() {
    local out=$1 work=$1/work
    mkdir -p "$work" || return
    # One installation gives both: the base as it is before redis is installed, and redis.
    # shellcheck disable=SC2016 # mmdebstrap sets $1 for its hooks
    bootstrap "$IMAGE_SUITE" "$work/debian" minbase "$IMAGE_PACKAGES" \
        --customize-hook='bash '"'$E2E_DIR/images/debian-hook.sh'"' "$1" '"'$work'" || return
    image_busybox "$work" || return
    image_redis "$work" || return
    image_pause "$work" || return
    image_write "$out" busybox '{"Cmd":["/bin/sh"]}' "$work/busybox.tar" || return
    image_write "$out" debian '{"Cmd":["/bin/bash"]}' "$work/debian.tar" || return
    image_write "$out" redis '{"Entrypoint":["/usr/bin/redis-server"],"Cmd":["--save","","--dir","/var/lib/redis"],
        "User":"redis","WorkingDir":"/var/lib/redis","ExposedPorts":{"6379/tcp":{}},"StopSignal":"SIGTERM"}' \
        "$work/busybox.tar" "$work/redis.tar" || return
    image_write "$out" pause '{"Entrypoint":["/pause"]}' "$work/pause.tar" || return
    remove_tree "$work"
}

# image_write OUT NAME CONFIG LAYER...: writes OUT/NAME.tar with the image bulkhead/NAME.
image_write() {
    local out=$1 name=$2 config=$3
    shift 3
    python3 "$E2E_DIR/images/oci.py" "$out/$name.tar" "docker.io/bulkhead/$name:latest" "$config" "$@"
}

image_busybox() {
    local root=$1/busybox applet
    mkdir -p "$root"/{bin,sbin,dev,etc,proc,sys,root,home/app,tmp,usr/bin,usr/sbin,var/tmp,run} || return
    cp "$1/debian/usr/bin/busybox" "$root/bin/busybox" || return
    for applet in $("$root/bin/busybox" --list-full); do
        [[ $applet == bin/busybox ]] || ln -s /bin/busybox "$root/$applet" || return
    done
    chmod 1777 "$root/tmp" "$root/var/tmp"
    chmod 700 "$root/root"
    cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
END
    printf 'root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n' >"$root/etc/group"
    printf 'root:*:19700:0:99999:7:::\nnobody:*:19700:0:99999:7:::\napp:*:19700:0:99999:7:::\n' >"$root/etc/shadow"
    chmod 640 "$root/etc/shadow"
    tar -C "$root" --sort=name --mtime=@1704067200 --owner=0 --group=0 --numeric-owner --exclude=./home/app \
        -cf "$1/busybox.tar" . || return
    tar -C "$root" --mtime=@1704067200 --owner=1000 --group=1000 --numeric-owner -rf "$1/busybox.tar" ./home/app
}

image_redis() {
    local root=$1/redis
    { cat "$1/busybox/etc/passwd" && echo 'redis:x:100:100:redis:/var/lib/redis:/bin/false'; } >"$root/etc/passwd" || return
    { cat "$1/busybox/etc/group" && echo 'redis:x:100:'; } >"$root/etc/group" || return
    tar -C "$root" --sort=name --mtime=@1704067200 --owner=0 --group=0 --numeric-owner --exclude=./var/lib/redis \
        -cf "$1/redis.tar" . || return
    tar -C "$root" --mtime=@1704067200 --owner=100 --group=100 --numeric-owner -rf "$1/redis.tar" ./var/lib/redis
}

image_pause() {
    mkdir -p "$1/pause" && gcc -static -Os -s -Wall -Werror -o "$1/pause/pause" "$E2E_DIR/images/pause.c" &&
        tar -C "$1/pause" --mtime=@1704067200 --owner=0 --group=0 --numeric-owner -cf "$1/pause.tar" ./pause
}
