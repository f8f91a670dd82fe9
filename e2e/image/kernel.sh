# shellcheck shell=bash
# The test host's kernel and initial RAM disk. Debian's generic kernel, not its cloud variant: the cloud variant has no 9p,
# by which the host sees the repository. Sourced by e2e/host.

KERNEL_SUITE=trixie
# What the initial RAM disk loads, in this order and with what these depend on.
INITRD_MODULES=(virtio_pci virtio_blk ext4 brd)
# Driver families of real hardware that an emulated host never has.
KERNEL_PRUNE=(sound drivers/gpu drivers/media drivers/infiniband drivers/staging drivers/usb drivers/hwmon drivers/iio
    drivers/net/wireless drivers/net/ethernet drivers/net/can drivers/input drivers/platform drivers/scsi drivers/video
    drivers/mtd drivers/ata drivers/comedi drivers/bluetooth drivers/hid drivers/power drivers/edac drivers/firewire
    drivers/target drivers/isdn drivers/mfd drivers/i2c drivers/spi drivers/leds drivers/accel drivers/soundwire
    drivers/message drivers/nfc drivers/gpio drivers/char/tpm drivers/thunderbolt drivers/pinctrl)

# kernel_artefact: prints the folder with vmlinuz, release (a file with its name) and modules/.
kernel_artefact() {
    artefact kernel "$(hash_of "$IMAGE_DIR/kernel.sh")" kernel_build
}

kernel_build() {
    step "downloading the host kernel (Debian $KERNEL_SUITE)" kernel_fetch "$1"
}

kernel_fetch() {
    local out=$1 apt=$1/apt package release
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/deb" "$out/unpacked" || return
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $KERNEL_SUITE main" \
        >"$apt/sources.list"
    kernel_apt "$apt" apt-get -q update || return
    package=$(kernel_apt "$apt" apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" {print $2; exit}')
    [[ -n $package ]] || { echo "linux-image-amd64 of $KERNEL_SUITE names no kernel"; return 1; }
    (cd "$apt/deb" && kernel_apt "$apt" apt-get -q download "$package") || return
    dpkg-deb -x "$apt"/deb/*.deb "$out/unpacked" || return
    release=${package#linux-image-}
    echo "$release" >"$out/release"
    cp "$out/unpacked/boot/vmlinuz-$release" "$out/vmlinuz" || return
    mkdir -p "$out/modules/lib"
    mv "$out/unpacked/usr/lib/modules" "$out/modules/lib/modules" || return
    (cd "$out/modules/lib/modules/$release/kernel" && rm -rf "${KERNEL_PRUNE[@]}") || return
    # Of the crypto drivers only AMD's secure processor is kept: kvm_amd does not load without it.
    find "$out/modules/lib/modules/$release/kernel/drivers/crypto" -mindepth 1 -maxdepth 1 ! -name ccp \
        -exec rm -rf {} + || return
    depmod -b "$out/modules" "$release" || return
    rm -rf "$apt" "$out/unpacked"
}

kernel_apt() {
    local dir=$1 command=$2
    shift 2
    "$command" -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o Acquire::Languages=none \
        -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# initrd_artefact KERNEL BUSYBOX: prints the folder with initrd.
initrd_artefact() {
    artefact initrd "$(hash_of "$IMAGE_DIR/kernel.sh" "$IMAGE_DIR/initrd-init" "${1##*/}" "$2")" initrd_build "$@"
}

initrd_build() {
    local out=$1 kernel=$2 busybox=$3 root=$1/root release module path name
    release=$(<"$kernel/release")
    mkdir -p "$root"/{bin,dev,proc,sys,root,modules}
    cp "$busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -m 755 "$IMAGE_DIR/initrd-init" "$root/init"
    for module in "${INITRD_MODULES[@]}"; do
        while read -r _ path _; do
            [[ $path == *.ko* ]] || continue
            name=$(basename "${path%%.ko*}")
            [[ ! -e $root/modules/$name.ko ]] || continue
            case $path in
            *.xz) xz -dc "$path" >"$root/modules/$name.ko" ;;
            *.zst) zstd -qdc "$path" >"$root/modules/$name.ko" ;;
            *) cp "$path" "$root/modules/$name.ko" ;;
            esac
            echo "$name" >>"$root/modules/order"
        done < <(modprobe -d "$kernel/modules" -S "$release" --show-depends "$module")
    done
    (cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$out/initrd"
    rm -rf "$root"
}
