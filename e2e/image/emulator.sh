# shellcheck shell=bash
# The emulator: QEMU with one defect mended and made quicker, built from the distribution's source in a few minutes. Sourced by e2e/host.
# emulator.patch has both.
#
# An interrupt that KVM injects into a nested guest (EVENTINJ) is delivered by VMRUN, and stays noted as an exception that is still to
# be delivered. When QEMU leaves its loop before the guest's next exit, for a timer or for another CPU, it delivers the interrupt once
# more, whether the guest has interrupts on or not. Such guests hang on a lock that they hold, or die of a double fault.
#
# A quarter of the time went into finding translated code, after each flush of the TLB and each change of a page with code. What was
# found before stays noted, and counts again when its page is still where it was. For one emulated CPU, which is all a host has.

EMULATOR_VERSION=10.0.2
EMULATOR_SHA256=0901da33844a331bf8b3602b9c1fbd178e60b737c8e3ade678255bd090c9b9f1
# QEMU's build asks for a newer Meson than Debian 12 has.
EMULATOR_REQUIREMENTS='meson==1.5.2 --hash=sha256:77706e2368a00d789c097632ccf4fc39251fba56d03e1e1b262559a3c7a08f5b
pycotap==1.3.1 --hash=sha256:1c3a25b3ff89e48f4e00f1f71dbbc1642b4f65c65d416524d07e73492fff25ea'
# What machine.sh's options need.
EMULATOR_DEVICES=(Q35 VIRTIO_PCI VIRTIO_BLK VIRTIO_NET VIRTIO_RNG VIRTIO_9P SERIAL_ISA)
EMULATOR_FEATURES=(--enable-system --enable-tcg --enable-slirp --enable-virtfs --enable-attr)
# Firmware comes with the distribution's QEMU.
EMULATOR_FIRMWARE=(-L /usr/share/qemu -L /usr/share/seabios)

# choose_emulator: sets EMULATOR, a command with its first arguments.
# shellcheck disable=SC2034 # used in machine.sh
choose_emulator() {
    local folder
    EMULATOR=(qemu-system-x86_64)
    [[ $ACCEL == tcg ]] || return 0
    if folder=$(artefact emulator "$(hash_of "$IMAGE_DIR/emulator.sh" "$IMAGE_DIR/emulator.patch")" emulator_build); then
        EMULATOR=("$folder/qemu-system-x86_64" "${EMULATOR_FIRMWARE[@]}")
    else
        say "going on with the distribution's QEMU: guests hang or crash now and then, measurements of files always"
    fi
}

emulator_build() {
    step "building the emulator (QEMU $EMULATOR_VERSION with mended nested guests)" emulator_make "$1"
}

emulator_make() {
    local out=$1 source=$1/source tarball=$1/source.tar.xz device
    mkdir "$source" || return
    /usr/lib/apt/apt-helper download-file "$(debian_mirror)/pool/main/q/qemu/qemu_$EMULATOR_VERSION+ds.orig.tar.xz" "$tarball" \
        "SHA256:$EMULATOR_SHA256" || return
    tar -C "$source" --strip-components=1 -xf "$tarball" || return
    patch -s -d "$source" -p1 --fuzz=0 <"$IMAGE_DIR/emulator.patch" || return
    python3 -m venv "$out/venv" || return
    "$out/venv/bin/pip" install -q --require-hashes -r /dev/stdin <<<"$EMULATOR_REQUIREMENTS" || return
    printf 'CONFIG_%s=y\n' "${EMULATOR_DEVICES[@]}" >"$source/configs/devices/x86_64-softmmu/testhost.mak" || return
    # The distribution leaves out what is not free: the build only wants to see the names.
    for device in aarch64-code arm-code arm-vars riscv-code riscv-vars loongarch64-code loongarch64-vars \
        {i386,x86_64}-{code,secure-code} i386-vars; do
        : >"$source/pc-bios/edk2-$device.fd.bz2" || return
    done
    mkdir "$source/build" && cd "$source/build" || return
    ../configure --python="$out/venv/bin/python3" --target-list=x86_64-softmmu --without-default-features \
        --without-default-devices --with-devices-x86_64=testhost "${EMULATOR_FEATURES[@]}" --disable-fdt --disable-docs \
        --disable-tools --disable-werror --disable-debug-info --disable-install-blobs --disable-pie --extra-ldflags=-no-pie \
        -Doptimization=3 || return
    timeout 1800 ninja qemu-system-x86_64 || return
    cp qemu-system-x86_64 "$out/" && cd / && rm -rf "$source" "$tarball" "$out/venv"
}
