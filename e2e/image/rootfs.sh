# shellcheck shell=bash
# The test host's userland: Debian packages of the flavour's suite, then the files of files/common and files/FLAVOUR, made
# into an ext4 image. Sourced by e2e/host.

HOST_PACKAGES=(
    # what is tested against
    containerd runc docker.io containernetworking-plugins erofs-utils
    # what suites and benchmarks use
    python3 python3-pytest python3-protobuf python3-h2 strace jq rsync socat psmisc procps iproute2 iputils-ping nftables
    iptables fio
    # what the host itself runs on
    busybox-static openssh-server kmod e2fsprogs util-linux mount ca-certificates xz-utils
)
# The image is made small and grown at boot to the size of its disk.
BASE_IMAGE_MIB=1536

flavour_packages() {
    case $1 in
    forky) printf '%s\n' "${HOST_PACKAGES[@]}" docker-cli crun ;;
    trixie) printf '%s\n' "${HOST_PACKAGES[@]}" docker-cli apparmor ;;
    esac
}

# base_artefact FLAVOUR: prints the folder whose rootfs/ holds the installed packages.
base_artefact() {
    local packages
    packages=$(flavour_packages "$1" | LC_ALL=C sort -u | paste -sd,)
    artefact "base-$1" "$(hash_of "$1" "$packages" base-1)" base_build "$1" "$packages"
}

base_build() {
    step "installing the packages of the $2 host" bootstrap "$2" "$1/rootfs" minbase "$3"
}

# disk_artefact FLAVOUR BASE KERNEL KEY: prints the folder with disk.raw, which lets the holder of the ssh key KEY in.
disk_artefact() {
    artefact "disk-$1" "$(hash_of "$IMAGE_DIR/rootfs.sh" "$IMAGE_DIR/files/common" "$IMAGE_DIR/files/$1" "$1" \
        "$REPO/configs/containerd-2.toml" "$REPO/configs/docker-daemon.json" "${2##*/}" "${3##*/}" "$4.pub")" disk_build "$@"
}

disk_build() {
    step "making the disk of the $2 host" disk_fill "$@"
}

disk_fill() {
    local out=$1 flavour=$2 base=$3 kernel=$4 key=$5 root=$1/rootfs tree
    # Hard links: everything below replaces files and changes none in place.
    cp -al "$base/rootfs" "$root" || return
    for tree in "$IMAGE_DIR/files/common" "$IMAGE_DIR/files/$flavour"; do
        rsync -rlp --chown=root:root --chmod=D755 "$tree/" "$root/" || return
    done
    rsync -rlp --chown=root:root "$kernel/modules/lib/modules" "$root/usr/lib/" || return
    mkdir -p "$root"/{repo,shared,images,etc/docker,etc/containerd/conf.d,root/.ssh} || return
    # The files that Bulkhead ships for containerd and Docker are tried as they are.
    cp "$REPO/configs/docker-daemon.json" "$root/etc/docker/daemon.json" || return
    if [[ $flavour == forky ]]; then
        cp "$REPO/configs/containerd-2.toml" "$root/etc/containerd/conf.d/bulkhead.toml" || return
    fi
    chmod 700 "$root/root/.ssh"
    cp "$key.pub" "$root/root/.ssh/authorized_keys" || return
    rm -f "$root"/etc/ssh/ssh_host_* "$root/sbin/init" "$root/etc/resolv.conf" "$root/etc/hosts" "$root/etc/hostname" \
        "$root/etc/machine-id"
    ssh-keygen -q -t ed25519 -N '' -C testhost -f "$root/etc/ssh/ssh_host_ed25519_key" || return
    ln -s /usr/bin/busybox "$root/sbin/init"
    echo testhost >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 testhost\n::1 localhost\n' >"$root/etc/hosts"
    echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
    mke2fs -q -t ext4 -d "$root" -L testhost -E lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0 \
        -m 0 "$out/disk.raw" "${BASE_IMAGE_MIB}M" || return
    rm -rf "$root"
}
