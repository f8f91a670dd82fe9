# shellcheck shell=bash
# Commands into a running test host: one ssh connection that stays open and carries every command. Sourced by e2e/host.
# A host on the instruction clock would spin a whole CPU while idle, as its clock leaps from timer to timer; so it is
# stopped (SIGSTOP to its QEMU) whenever no command runs in it.

CONNECT_SECONDS=60

ssh_options() {
    SSH=(ssh -F none -S "$RUN/ssh" -p "$(<"$RUN/port")" -i "$KEY" -o IdentitiesOnly=yes -o BatchMode=yes
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR
        -o ConnectTimeout=15 -o TCPKeepAlive=no -o Compression=no -o EscapeChar=none
        -o Ciphers=aes128-gcm@openssh.com -o KexAlgorithms=curve25519-sha256)
    # A host that is stopped between commands cannot answer either, and is not dead.
    [[ -n $ICOUNT ]] || SSH+=(-o ServerAliveInterval=60 -o ServerAliveCountMax=5)
    SSH+=(root@127.0.0.1)
}

channel_open() { "${SSH[@]}" -O check >/dev/null 2>&1; }

# The lock that `up` holds must not stay with the connection that outlives it. Other commands hold none.
channel_try() {
    machine_alive || return 0
    [[ -n ${LOCK:-} ]] || exec {LOCK}</dev/null
    channel_open || "${SSH[@]}" -o ControlMaster=yes -o ControlPersist=yes -fN </dev/null >"$RUN/ssh.log" 2>&1 {LOCK}>&-
}

# channel_connect: opens the connection unless it is open.
channel_connect() {
    if channel_open; then return 0; fi
    wait_until "$CONNECT_SECONDS" channel_try || {
        cat "$RUN/ssh.log"
        echo "no ssh connection within $CONNECT_SECONDS s"
        return 1
    }
    machine_alive || { crash_report 2>&1; return 1; }
}

# shell_quote WORD...: the words as one line that a POSIX shell reads back exactly.
shell_quote() {
    local word quoted line=''
    for word in "$@"; do
        quoted=${word//\'/\'\\\'\'}
        line+=" '$quoted'"
    done
    printf '%s' "${line# }"
}

# channel_run [-t] CMD ARG...: runs it in the host with this process's stdin, stdout and stderr; returns its status.
channel_run() {
    local terminal=() status=0 pid
    if [[ $1 == -t ]]; then
        terminal=(-tt)
        shift
    fi
    if [[ -n $ICOUNT ]]; then
        exec {RUNNING}<"$RUN/running"
        wait_until 60 flock -s -n "$RUNNING" || die "another command holds the host; giving up after 60 s"
        pid=$(machine_pid) && kill -CONT "$pid"
    fi
    "${SSH[@]}" "${terminal[@]}" -- "$(shell_quote "$@"); exit \$?" || status=$?
    if [[ -n $ICOUNT ]]; then
        flock -u "$RUNNING"
        channel_idle
        exec {RUNNING}<&-
    fi
    return "$status"
}

# channel_idle: stops a host on the instruction clock unless a command runs in it.
channel_idle() {
    local pid lock
    [[ -n $ICOUNT ]] || return 0
    exec {lock}<"$RUN/running"
    if flock -x -n "$lock"; then
        if pid=$(machine_pid); then kill -STOP "$pid"; fi
    fi
    exec {lock}<&-
}
