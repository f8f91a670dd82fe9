# shellcheck shell=bash
# What e2e/host's commands do with an instance. An instance is a folder of its own below the cache:
#   pid, port, qmp, ssh      of the running QEMU            console.log, qemu.log    what it said
#   disk.qcow2               its disk, thrown away at down  shared/                  /shared inside
#   build, started           what sync installed; when it came up
#
# A host boots once for each content of its inputs. When it is up with its images imported, QEMU writes the machine's state
# to a file; every later `up` resumes from there on a fresh overlay of that disk, so that any number of hosts can share it.
# The 9p folders are mounted after the resume: a mounted one would forbid saving.

# instance: sets the instance's folder and its accelerator.
instance() {
    INSTANCE=$FLAVOUR${ICOUNT:+-icount}${WORKLOADS:+-workloads}${NAME:+-$NAME}
    RUN=$BULKHEAD_CACHE/run/$(printf '%s' "$REPO" | sha256sum | cut -c1-8)/$INSTANCE
    KEY=$BULKHEAD_CACHE/ssh-key
    ((${#RUN} < 80)) || die "the path $RUN is too long for sockets; set BULKHEAD_CACHE to a shorter one"
    ACCEL=$(accelerator)
}

# instance_lock: one `up` or `down` of an instance at a time.
instance_lock() {
    mkdir -p "$RUN/shared"
    : >>"$RUN/running"
    exec {LOCK}>"$RUN/lock"
    wait_until 2400 flock -n "$LOCK" || die "another command has been starting or ending this host for 40 minutes; giving up"
}

require_tools() {
    [[ $(id -u) == 0 ]] || die "the host's images hold files of many owners: run as root"
    need qemu-system-x86_64 "-t bookworm-backports qemu-system-x86"
    need qemu-img qemu-utils
    need mmdebstrap mmdebstrap
    need mke2fs e2fsprogs
    need cpio cpio
    need depmod kmod
    need ssh openssh-client
    need rsync rsync
    need python3 python3
    need gcc "gcc libc6-dev"
    need flock util-linux
    need apt-get apt
    need xz xz-utils
    local version
    version=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')
    ((version >= 9)) || die "QEMU $version cannot emulate this host correctly; install 10 from bookworm-backports"
}

# make_key: the ssh key that the hosts of this cache let in.
make_key() {
    local lock
    mkdir -p "$BULKHEAD_CACHE/locks"
    exec {lock}>"$BULKHEAD_CACHE/locks/key"
    wait_until 60 flock -n "$lock" || die "the lock of the ssh key stays taken"
    [[ -s $KEY && -s $KEY.pub ]] || ssh-keygen -q -t ed25519 -N '' -C e2e-host -f "$KEY" <<<y >/dev/null
    exec {lock}>&-
}

# prepare: builds or finds the artefacts of the instance: KERNEL_DIR, INITRD_DIR, IMAGES_DIR, DISK_DIR.
prepare() {
    local base busybox
    require_tools
    make_key
    choose_emulator
    KERNEL_DIR=$(kernel_artefact)
    base=$(base_artefact "$FLAVOUR")
    busybox=$base/rootfs/usr/bin/busybox
    INITRD_DIR=$(initrd_artefact "$KERNEL_DIR" "$busybox")
    IMAGES_DIR=$(images_artefact)
    [[ -z $WORKLOADS ]] || IMAGES_DIR=$(workloads_images "$IMAGES_DIR")
    DISK_DIR=$(disk_artefact "$FLAVOUR" "$base" "$KERNEL_DIR" "$KEY")
}

# warm_artefact: prints the folder with the machine's state and disk, up and with its images imported.
# shellcheck disable=SC2153 # IMAGE_DIR holds the scripts, IMAGES_DIR the container images
warm_artefact() {
    local options
    options=$(machine_options; kernel_command_line; "${EMULATOR[@]}" --version; echo "${EMULATOR[*]}")
    artefact "warm-$FLAVOUR${ICOUNT:+-icount}${WORKLOADS:+-workloads}" \
        "$(hash_of "${KERNEL_DIR##*/}" "${INITRD_DIR##*/}" "${IMAGES_DIR##*/}" "${DISK_DIR##*/}" "$options" \
            "$IMAGE_DIR/import.sh" warm-1)" warm_build
}

# warm_build OUT: runs in a subshell, with a machine of its own in OUT.
warm_build() {
    RUN=$1
    trap machine_quit EXIT
    mkdir -p "$RUN/shared"
    : >"$RUN/running"
    # A disk that is copied to a RAM disk stays as small as the image.
    local size=("$VIRTUAL_DISK")
    [[ -z $ICOUNT ]] || size=()
    qemu-img create -q -f qcow2 -F raw -b "$DISK_DIR/disk.raw" "$RUN/disk.qcow2" "${size[@]}"
    machine_start "$KERNEL_DIR/vmlinuz" "$INITRD_DIR/initrd" "$RUN/disk.qcow2" || die "QEMU does not start"
    step "booting the $INSTANCE host for the first time ($ACCEL)" machine_boot_wait
    ssh_options
    step "connecting to it" channel_connect
    step "importing the images into containerd and Docker" warm_import
    [[ -z $WORKLOADS ]] || step "importing the image of the workloads" warm_import_workloads
    "${SSH[@]}" -O exit >/dev/null 2>&1 || true
    step "saving its state" python3 "$IMAGE_DIR/qmp.py" "$RUN/qmp" save "$RUN/state"
    wait_until 30 eval '! machine_alive' || die "QEMU does not end after saving"
    trap - EXIT
    rm -rf "$RUN"/{pid,port,qmp,ssh,ssh.log,qemu.log,running,shared}
}

warm_import() { timeout 1500 "${SSH[@]}" bash -s <"$IMAGE_DIR/import.sh"; }

warm_import_workloads() { timeout 1500 "${SSH[@]}" bash -s < <(workloads_import); }

host_prepare() {
    mkdir -p "$BULKHEAD_CACHE"
    instance_lock
    prepare
    warm_artefact >/dev/null
    exec {LOCK}>&-
}

host_up() {
    local start=$EPOCHREALTIME warm
    mkdir -p "$BULKHEAD_CACHE"
    instance_lock
    if machine_alive; then
        say "$INSTANCE is up already"
    else
        rm -f "$RUN"/{pid,port,qmp,ssh,disk.qcow2,build,started}
        prepare
        warm=$(warm_artefact)
        qemu-img create -q -f qcow2 -F qcow2 -b "$warm/disk.qcow2" "$RUN/disk.qcow2"
        machine_start "$KERNEL_DIR/vmlinuz" "$INITRD_DIR/initrd" "$RUN/disk.qcow2" -incoming defer ||
            die "QEMU does not start"
        python3 "$IMAGE_DIR/qmp.py" "$RUN/qmp" load "$warm/state" || { machine_quit; die "QEMU cannot load the saved state"; }
        date +%s >"$RUN/started"
        ssh_options
        wake
        if ! channel_connect >&2 || ! after_resume; then
            crash_report
            machine_quit
            die "the host does not answer after the resume"
        fi
    fi
    exec {LOCK}>&-
    host_sync
    channel_idle
    say "$INSTANCE is up after $(seconds_since "$start") s"
}

# wake: lets a stopped machine run; `channel_idle` stops it again.
wake() {
    local pid
    pid=$(machine_pid) && kill -CONT "$pid"
}

# after_resume: what a saved machine cannot hold: today's time and the folders of outside.
after_resume() {
    # With `readahead` and `mmap` every open sees what is in the file by then; without a cache each small read is a message.
    local options=trans=virtio,version=9p2000.L,msize=524288
    timeout 60 "${SSH[@]}" "date -s @$(date +%s.%N) >/dev/null &&
        mount -t 9p -o ro,$options,cache=readahead,access=any repo /repo &&
        mount -t 9p -o rw,$options,cache=mmap,access=any shared /shared &&
        mount -t 9p -o ro,$options,cache=readahead images /images" </dev/null
}

# require_up: the instance must run; a crash is reported as such.
require_up() {
    if ! machine_alive; then
        [[ ! -s $RUN/pid ]] || crash_report
        die "$INSTANCE is not up; start it: e2e/host up --flavour $FLAVOUR${ICOUNT:+ --icount}${WORKLOADS:+ --workloads}${NAME:+ --name $NAME}"
    fi
    ssh_options
}

host_exec() {
    local status=0
    require_up
    if ! channel_open; then
        wake
        channel_connect >&2 || die "no way into the host"
    fi
    channel_run "$@" || status=$?
    if [[ $status == 255 ]] && ! machine_alive; then crash_report; fi
    return "$status"
}

host_sync() {
    local dist=$REPO/target/dist start=$EPOCHREALTIME out
    require_up
    if [[ ! -d $dist/usr ]]; then
        say "no build in target/dist (make dist): the host has runc alone"
        return 0
    fi
    out=$(channel_run bash -s <"$IMAGE_DIR/install.sh") || die "the copy into the host failed"
    build_name "$dist" >"$RUN/build"
    say "installed $(<"$RUN/build") in $(seconds_since "$start") s ($out)"
}

# build_name DIST: names the build by its source's commit and by its content.
build_name() {
    local commit
    commit=$(git -C "$REPO" rev-parse --short HEAD 2>/dev/null || echo unknown)
    printf 'commit %s, content %s, built %s\n' "$commit" "$(hash_of "$1")" \
        "$(find "$1" -type f -printf '%TY-%Tm-%Td %TH:%TM\n' | sort | tail -n 1)"
}

host_down() {
    instance_lock
    if machine_alive; then
        ssh_options
        "${SSH[@]}" -O exit >/dev/null 2>&1 || true
        machine_quit || die "QEMU does not end"
        say "$INSTANCE is down"
    else
        [[ ! -s $RUN/pid ]] || crash_report
        say "$INSTANCE is not up"
    fi
    rm -f "$RUN"/{pid,port,qmp,ssh,disk.qcow2,build,started}
}

host_status() {
    local pid state=up
    if ! pid=$(machine_pid); then
        if [[ -s $RUN/pid ]]; then
            crash_report
            state=crashed
        else
            state=down
        fi
    elif [[ -n $ICOUNT ]] && grep -q '^State:.T' "/proc/$pid/status"; then
        state='up (stopped until the next command)'
    fi
    printf 'instance: %s\nstate: %s\n' "$INSTANCE" "$state"
    [[ $state == up* ]] || return 1
    printf 'flavour: %s\naccel: %s%s\nuptime: %d s\npid: %s\nssh port: %s\nbuild: %s\nshared: %s\nconsole: %s\n' \
        "$FLAVOUR" "$ACCEL" "${ICOUNT:+ with the instruction clock}" $(($(date +%s) - $(<"$RUN/started"))) "$pid" \
        "$(<"$RUN/port")" "$(cat "$RUN/build" 2>/dev/null || echo none)" "$RUN/shared" "$RUN/console.log"
}

# host_clean: removes artefacts that no running host has open and that were not wanted for an hour.
host_clean() {
    [[ ! -d $BULKHEAD_CACHE/artefacts ]] || prune '*' 60
}
