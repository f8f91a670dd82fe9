# shellcheck shell=bash
# The image of the workloads and of the file system suite, bulkhead/workloads: servers, languages, tools and, for apt-get, a folder
# of packages that are not installed. Sourced by e2e/host; built only for a host that is asked for with --workloads.

WORKLOADS_DIR=$E2E_DIR/workloads
WORKLOADS_PACKAGES=apt,bash,coreutils,procps,util-linux,passwd,login,busybox-static,libcap2-bin,attr,acl,curl,ca-certificates
WORKLOADS_PACKAGES+=,python3,libpython3.14-testsuite,perl,git,postgresql,sqlite3,redis-server,redis-tools,nginx-light
WORKLOADS_PACKAGES+=,default-jre-headless,tini,dumb-init,s6,runit
# Crates that install programs, with their versions: a POSIX file system test, and random operations on one file.
FILE_SYSTEM_TOOLS=(pjdfstest@0.2.2 fsx@0.3.2)

# workloads_images IMAGES: prints the folder with the image archives of IMAGES and workloads.tar.
workloads_images() {
    local tools
    tools=$(artefact workloads-tools "$(hash_of "${FILE_SYSTEM_TOOLS[*]}")" workloads_tools_build)
    artefact workloads-images "$(hash_of "$WORKLOADS_DIR/image.sh" "$WORKLOADS_DIR/image-hook.sh" "$WORKLOADS_DIR/Main.java" \
        "$E2E_DIR/images/oci.py" "${tools##*/}" "${1##*/}")" workloads_build "$1" "$tools"
}

workloads_tools_build() {
    step "building the tools of the file system suite (${FILE_SYSTEM_TOOLS[*]})" workloads_tools "$1"
}

workloads_tools() {
    local tool
    for tool in "${FILE_SYSTEM_TOOLS[@]}"; do
        RUSTFLAGS='-C target-feature=+crt-static' CARGO_TARGET_DIR=$1/target \
            cargo install --locked --root "$1" --target x86_64-unknown-linux-gnu "$tool" || return
    done
    rm -rf "$1/target"
}

workloads_build() {
    step "building the image of the workloads" workloads_fill "$@"
}

workloads_fill() {
    local out=$1 images=$2 work=$1/work
    mkdir -p "$work/extra/usr/local" && cp -a "$3/bin" "$work/extra/usr/local/" || return
    cp "$WORKLOADS_DIR/Main.java" "$work/" || return
    # Some packages make links among the manual pages, whose folders nothing else makes.
    # shellcheck disable=SC2016 # mmdebstrap sets $1 for its hooks
    bootstrap "$IMAGE_SUITE" "$work/root" minbase "$WORKLOADS_PACKAGES" \
        --essential-hook='mkdir -p "$1/usr/share/man/man1" "$1/usr/share/man/man7"' \
        --customize-hook='bash '"'$WORKLOADS_DIR/image-hook.sh'"' "$1" '"'$work'" || return
    image_write "$out" workloads '{"Cmd":["/bin/bash"]}' "$work/workloads.tar" || return
    cp -l "$images"/*.tar "$out/" || return
    remove_tree "$work"
}

# workloads_import: the commands that take the image up, for a shell in the host.
workloads_import() {
    cat <<'END'
set -euo pipefail
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose images /images
local_option=
if ctr images import --help | grep -q -- --local; then local_option=--local; fi
ctr images import $local_option /images/workloads.tar
umount /images
sync
echo 1 >/proc/sys/vm/drop_caches
sleep 4
END
}
