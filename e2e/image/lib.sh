# shellcheck shell=bash
# Common parts of the test host's scripts: messages with times, the artefact cache, bounded waits.
# Sourced by e2e/host and by the build scripts beside this file.

: "${BULKHEAD_CACHE:=${HOME:-/root}/.cache/bulkhead}"
BULKHEAD_CACHE=$(realpath -m "$BULKHEAD_CACHE")
IMAGE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
E2E_DIR=$(dirname "$IMAGE_DIR")
# shellcheck disable=SC2034 # used by the scripts that source this file
REPO=$(dirname "$E2E_DIR")

say() { printf 'e2e/host: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# need COMMAND PACKAGE: fails with the remedy when COMMAND is missing.
need() {
    command -v "$1" >/dev/null || die "'$1' is missing; install it: apt-get install $2"
}

# seconds_since START: prints the time since START (an $EPOCHREALTIME) in seconds with one digit.
seconds_since() {
    local now=${EPOCHREALTIME/[.,]/} then=${1/[.,]/}
    printf '%d.%d' $(((now - then) / 1000000)) $(((now - then) / 100000 % 10))
}

# step TEXT COMMAND ARG...: runs COMMAND, says before what is being done and after how long it took.
# The command's output is kept and shown only when it fails. A function runs in this shell with set -e off.
step() {
    local text=$1 start=$EPOCHREALTIME out status=0
    shift
    say "$text ..."
    out=$(mktemp "${TMPDIR:-/tmp}/bulkhead-step.XXXXXX")
    "$@" >"$out" 2>&1 </dev/null || status=$?
    if [[ $status != 0 ]]; then
        tail -n 40 "$out" >&2
        rm -f "$out"
        die "failed after $(seconds_since "$start") s (status $status): $text"
    fi
    rm -f "$out"
    say "$text: done in $(seconds_since "$start") s"
}

# wait_until SECONDS COMMAND ARG...: tries COMMAND ten times a second until it succeeds or the time is over. Locks are taken in
# this way too: a `flock -w` that outlived its script would keep every lock that the script held.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# hash_of WORD...: a short content hash; a word that names a file or folder stands for what it holds.
hash_of() {
    local word
    for word in "$@"; do
        if [[ -d $word ]]; then
            (cd "$word" && find . ! -type d ! -name '*.pyc' -printf '%m %p\n' | LC_ALL=C sort &&
                find . -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
        elif [[ -f $word ]]; then
            sha256sum <"$word"
        else
            printf '%s\n' "$word"
        fi
    done | sha256sum | cut -c1-16
}

# artefact NAME HASH BUILDER ARG...: prints the folder of the artefact, which BUILDER fills when it is missing:
# it is called as BUILDER OUTDIR ARG... and the folder appears under its name only when BUILDER succeeded.
artefact() {
    local name=$1 dir=$BULKHEAD_CACHE/artefacts/$1-$2 tmp lock
    shift 2
    if [[ ! -d $dir ]]; then
        mkdir -p "$BULKHEAD_CACHE/artefacts" "$BULKHEAD_CACHE/locks"
        exec {lock}>"$BULKHEAD_CACHE/locks/$name"
        wait_until 2400 flock -n "$lock" || die "another process has been building $name for 40 minutes; giving up"
        if [[ ! -d $dir ]]; then
            tmp=$dir.tmp
            remove_tree "$tmp"
            mkdir -p "$tmp"
            "$1" "$tmp" "${@:2}" {lock}>&-
            mv "$tmp" "$dir"
            prune "$name-*" 1440 {lock}>&-
        fi
        exec {lock}>&-
    fi
    touch "$dir"
    printf '%s\n' "$dir"
}

# prune PATTERN MINUTES: removes the artefacts whose names match and that nobody has wanted or had open for so long.
prune() {
    local dir
    while read -r dir; do
        if [[ -n $(find /proc/[0-9]*/fd \( -lname "$dir" -o -lname "$dir/*" \) -print -quit 2>/dev/null) ]]; then continue; fi
        say "removing ${dir##*/} from the cache"
        remove_tree "$dir"
    done < <(find "$BULKHEAD_CACHE/artefacts" -mindepth 1 -maxdepth 1 -type d -name "$1" -mmin "+$2")
}

# remove_tree DIR: removes DIR, but never crosses into a mount that a failed build left in it.
remove_tree() {
    [[ -e $1 ]] || return 0
    if command -v findmnt >/dev/null && findmnt -rno TARGET | grep -qF "$1/"; then
        die "something is still mounted under $1; unmount it first"
    fi
    rm -rf --one-file-system "$1"
}

# debian_mirror: the mirror that this machine is configured to use.
debian_mirror() {
    local site
    # shellcheck disable=SC2016 # apt's own variable
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/\?$' || true)
    printf '%s\n' "${site:-http://deb.debian.org/debian}"
}

# bootstrap SUITE DIR VARIANT PACKAGES [MMDEBSTRAP-ARG...]: installs PACKAGES (comma separated) of SUITE into DIR.
bootstrap() {
    local suite=$1 dir=$2 variant=$3 packages=$4
    shift 4
    # Testing suites' Release files may be past their Valid-Until; the signature is still checked.
    timeout 900 mmdebstrap --mode=root --variant="$variant" --architectures=amd64 \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --aptopt='Acquire::Languages "none"' \
        --aptopt='Acquire::Retries "3"' \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='force-unsafe-io' \
        --include="$packages" "$@" "$suite" "$dir" "$(debian_mirror)"
}
