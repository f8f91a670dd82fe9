# shellcheck shell=bash
# Starts, watches and ends one QEMU, the machine under a test host. Sourced by e2e/host, which sets:
#   FLAVOUR, ICOUNT (empty or 1), ACCEL (tcg or kvm), RUN (the instance's folder), KEY (the ssh key)
# and emulator.sh: EMULATOR

# shellcheck disable=SC2034 # used in lifecycle.sh
VIRTUAL_DISK=24G
BOOT_SECONDS=400

# accelerator: kvm where this machine's KVM can run a host that itself has KVM, else tcg.
# A page-table-virtualization KVM (kvm_pvm) opens, too, but does not run stock kernels.
accelerator() {
    local nested
    [[ -z $ICOUNT && -r /dev/kvm && -w /dev/kvm && ! -d /sys/module/kvm_pvm ]] || { echo tcg; return; }
    for nested in /sys/module/kvm_intel/parameters/nested /sys/module/kvm_amd/parameters/nested; do
        if [[ -r $nested && $(<"$nested") == [1Y] ]]; then
            echo kvm
            return
        fi
    done
    echo tcg
}

# machine_memory: MiB of the machine. The instruction clock's hosts hold their disk in it.
machine_memory() {
    echo "${BULKHEAD_HOST_MEMORY:-6144}"
}

# machine_options: one word a line, all that must be equal when a saved machine is resumed.
machine_options() {
    printf '%s\n' -M q35 -m "$(machine_memory)" -nodefaults -no-user-config -display none -no-reboot
    if [[ -n $ICOUNT ]]; then
        printf '%s\n' -accel tcg,thread=single -icount shift=1,sleep=off -smp 1 -cpu EPYC,+svm,+npt -rtc base=utc,clock=vm
    elif [[ $ACCEL == kvm ]]; then
        printf '%s\n' -accel kvm -smp 2 -cpu host -rtc base=utc
    else
        # One CPU: with two, running several nested guests at a time ends this machine within a minute (kernel stacks overwritten,
        # guests that reset themselves), whatever kvm_amd's parameters are. With one it was never seen.
        printf '%s\n' -accel tcg,thread=single -smp 1 -cpu EPYC,+svm,+npt -rtc base=utc
    fi
    printf '%s\n' -device virtio-rng-pci
}

kernel_command_line() {
    # init_on_alloc=0: clearing each page that is handed out is what an emulated CPU is slowest at.
    printf 'console=ttyS0 mitigations=off init_on_alloc=0 quiet loglevel=4 panic=-1 random.trust_cpu=on cgroup_no_v1=all'
    if [[ $FLAVOUR == trixie ]]; then
        printf ' apparmor=1 security=apparmor'
    else
        printf ' apparmor=0'
    fi
    [[ -z $ICOUNT ]] || printf ' testhost.ram=%d' $((3 * 1024 * 1024))
    [[ $ACCEL != tcg ]] || printf ' tsc=reliable no_timer_check'
}

# machine_start KERNEL INITRD DISK [QEMU-ARG...]: starts QEMU in the background; its pid is in $RUN/pid.
machine_start() {
    local kernel=$1 initrd=$2 disk=$3 options tries port=''
    shift 3
    mapfile -t options < <(machine_options)
    : >"$RUN/console.log"
    for ((tries = 0; tries < 20; tries++)); do
        port=$((20000 + RANDOM % 20000))
        rm -f "$RUN/pid" "$RUN/qmp"
        if "${EMULATOR[@]}" -name "bulkhead-$FLAVOUR" "${options[@]}" \
            -kernel "$kernel" -initrd "$initrd" -append "$(kernel_command_line)" \
            -drive "file=$disk,format=qcow2,if=none,id=disk0,cache=unsafe,discard=unmap" \
            -device virtio-blk-pci,drive=disk0 \
            -netdev "user,id=net0,hostfwd=tcp:127.0.0.1:$port-10.0.2.15:22" -device virtio-net-pci,netdev=net0,romfile= \
            -virtfs "local,path=$REPO,mount_tag=repo,security_model=none,readonly=on,multidevs=remap" \
            -virtfs "local,path=$RUN/shared,mount_tag=shared,security_model=none,multidevs=remap" \
            -virtfs "local,path=$IMAGES_DIR,mount_tag=images,security_model=none,readonly=on,multidevs=remap" \
            -serial "file:$RUN/console.log" -qmp "unix:$RUN/qmp,server=on,wait=off" \
            -pidfile "$RUN/pid" -daemonize "$@" 2>"$RUN/qemu.log" {LOCK}>&-; then
            echo "$port" >"$RUN/port"
            return 0
        fi
        grep -q 'host forwarding' "$RUN/qemu.log" || break
    done
    cat "$RUN/qemu.log" >&2
    return 1
}

# machine_pid: prints the pid of the instance's QEMU, or fails when there is none.
machine_pid() {
    local pid
    [[ -s $RUN/pid ]] && pid=$(<"$RUN/pid") && [[ -r /proc/$pid/cmdline ]] &&
        tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$RUN/pid" && echo "$pid"
}

machine_alive() { machine_pid >/dev/null; }

console_says() {
    machine_alive || return 0
    grep -qa -- "$1" "$RUN/console.log"
}

# crash_report: what is known about a QEMU that ended by itself.
crash_report() {
    say "the test host's QEMU has ended; the last lines of its console ($RUN/console.log):"
    tail -n 20 "$RUN/console.log" 2>/dev/null | tr -cd '\11\12\40-\176' >&2
    grep -v "TCG doesn.t support requested feature" "$RUN/qemu.log" 2>/dev/null | tail -n 5 >&2 || true
}

# machine_boot_wait: waits for the boot script's last line.
machine_boot_wait() {
    wait_until "$BOOT_SECONDS" console_says 'testhost: .*READY' || {
        tail -n 20 "$RUN/console.log"
        echo "the host did not come up within $BOOT_SECONDS s"
        return 1
    }
    machine_alive || { crash_report 2>&1; return 1; }
    if grep -a 'testhost: .*FAILED' "$RUN/console.log"; then return 1; fi
}

machine_quit() {
    local pid
    pid=$(machine_pid) || return 0
    kill -CONT "$pid" 2>/dev/null || true
    kill -TERM "$pid" 2>/dev/null || true
    wait_until 10 eval '! machine_alive' && return 0
    kill -KILL "$pid" 2>/dev/null || true
    wait_until 10 eval '! machine_alive'
}
