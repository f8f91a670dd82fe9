# shellcheck shell=bash
# Functions for the cases' scripts. The harness sets RT (the runtime's name for ctr), DRT (for Docker), ID (unique in this
# run) and W (an empty folder). Every wait is bounded; the harness also ends the whole script after its time.
# shellcheck disable=SC2034 # the images are used by the cases
BUSYBOX=docker.io/bulkhead/busybox:latest
DEBIAN=docker.io/bulkhead/debian:latest
REDIS=docker.io/bulkhead/redis:latest

# run [CTR-OPTION...] IMAGE ID COMMAND...: a container in the foreground.
run() { ctr run --rm --runtime "$RT" "$@"; }

# begin [CTR-OPTION...] IMAGE ID COMMAND...: a container in the background, its output in $W/out and $W/err; returns when it
# has printed "ready".
begin() {
    run "$@" >"$W/out" 2>"$W/err" </dev/null &
    CTR=$!
    await ready
}

# await WORD [FILE]: waits until the container of begin has printed WORD, or until it is in FILE.
await() {
    local tries file=${2:-$W/out}
    for ((tries = 0; tries < 600; tries++)); do
        grep -qsF -- "$1" "$file" && return 0
        kill -0 "$CTR" 2>/dev/null || break
        sleep 0.05
    done
    echo "'$1' has not been printed but:"
    cat "$file" "$W/err"
    exit 99
}

# aside EXEC-ID COMMAND...: an exec in the background; returns when it has printed "going" into $W/EXEC-ID. joined EXEC-ID
# waits for its end and prints its exit status.
declare -A ASIDE
aside() {
    local id=$1
    shift
    ctr task exec --exec-id "$id" "$ID" "$@" >"$W/$id" 2>"$W/$id.err" </dev/null &
    ASIDE[$id]=$!
    await going "$W/$id"
}
joined() {
    wait "${ASIDE[$1]}"
    echo "$1 ended with $?"
}

# finish: waits for the container of begin, shows its output and exit status.
finish() {
    wait "$CTR"
    echo "ended with $?"
    cat "$W/out"
    cat "$W/err" >&2
}

# detached [CTR-OPTION...] IMAGE ID COMMAND...: a container whose task and record stay until `gone`.
detached() { ctr run -d --null-io --runtime "$RT" "$@"; }

# stopped: waits until the task is seen as stopped.
stopped() {
    local tries
    for ((tries = 0; tries < 60; tries++)); do
        [[ $(ctr task ls | awk -v id="$ID" '$1 == id {print $3}') == STOPPED ]] && return 0
        sleep 0.1
    done
    echo "the task has not stopped:"
    ctr task ls
    exit 99
}

# gone: removes what `detached` made.
gone() {
    ctr task rm -f "$ID" >/dev/null
    ctr container rm "$ID"
}

# listen: keeps containerd's events from now on in $W/events; heard ends that.
listen() {
    ctr events >"$W/events" 2>&1 &
    EVENTS=$!
    sleep 1
}

# heard [N]: prints the topics of this container's task events in their order once N of its processes have ended (one), without
# its deletion: now and then runc's shim ends before that last event has left.
heard() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        (($(grep -c ' /tasks/exit .*"'"$ID"'"' "$W/events") >= ${1:-1})) && break
        sleep 0.1
    done
    kill "$EVENTS"
    grep -F "\"$ID\"" "$W/events" | grep -v ' /tasks/delete ' | tee "$W/heard" | grep -o ' /tasks/[a-z-]* '
}

# tell COMMAND...: runs it and prints its exit status.
tell() {
    "$@"
    echo "-> $?"
}
