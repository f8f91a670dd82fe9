"""What a living pod keeps, and how one ends."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, fail


pytestmark = pytest.mark.bulkhead


def test_a_living_pod_lets_go_of_a_removed_containers_files(nothing_left):
    """The monitor holds a file open for as long as the guest remembers it: after the container's removal, none of it."""
    script = """
    GROUP="--annotation io.containerd.bulkhead.v2.group=$ID"
    detached $GROUP $BUSYBOX $ID sleep 1000
    vmm=$(ctr task ls | awk -v id="$ID" '$1 == id {print $2}')
    # Not its events: it gets more of them once the pod has settled.
    files() { ls -l /proc/$vmm/fd | grep -c -- '-> /'; }
    before=$(files)
    run $GROUP $BUSYBOX $ID-2 sh -c 'find / -xdev | wc -l; cat /bin/* | wc -c; sleep 1; echo done' >/dev/null &
    most=0
    while kill -0 $! 2>/dev/null; do now=$(files); ((now <= most)) || most=$now; sleep 0.5; done
    wait $!; echo "ended with $?"
    ((most > before + 100)) && echo "held files"
    for ((n = 0; n < 50; n++)); do (($(files) <= before + 3)) && break; sleep 0.1; done
    ((n < 50)) && echo "let go" || echo "holds $(files) files instead of $before"
    ctr task kill -s KILL $ID; stopped; gone
    """
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": "lets-go"}, 300)
    if (answer.status, answer.stdout) != (0, "ended with 0\nheld files\nlet go\n"):
        fail(str(answer))


@pytest.mark.long
def test_a_living_pod_lets_go_of_what_processes_and_containers_had(nothing_left):
    """Descriptors and threads of shim and monitor, once the pod has settled: after twelve execs and two containers more, as many."""
    script = """
    GROUP="--annotation io.containerd.bulkhead.v2.group=$ID"
    detached $GROUP $BUSYBOX $ID sleep 1000
    vmm=$(ctr task ls | awk -v id="$ID" '$1 == id {print $2}')
    shim=$(pgrep -f -- "^[^ ]*containerd-shim[^ ]* .*-id $ID( |$)")
    held() { for pid in $vmm $shim; do ls /proc/$pid/fd | wc -l; ls /proc/$pid/task | wc -l; done | xargs; }
    use() {
        for ((n = 0; n < $1; n++)); do echo word | ctr task exec --exec-id e$n $ID cat >/dev/null; done
        for ((n = 0; n < $2; n++)); do run $GROUP $BUSYBOX $ID-$n sh -c 'ls -R /etc; ls /no' >/dev/null 2>&1; done
    }
    use 2 1
    for ((n = 0; n < 600; n++)); do
        ctr task exec --exec-id look $ID sh -c 'ls /sys/bus/virtio/drivers/virtio_balloon' | grep -q virtio && break
        sleep 0.5
    done
    sleep 12; before=$(held); use 12 2
    for ((n = 0; n < 40; n++)); do
        now=$(held)
        # A file that the guest still remembers is one descriptor.
        paste <(xargs -n 1 <<<"$before") <(xargs -n 1 <<<"$now") | awk '$2 > $1 + (NR == 1 ? 3 : 0) {exit 1}' && break
        sleep 0.5
    done
    ((n < 40)) && echo "let go" || echo "monitor's and shim's descriptors and threads before: $before, after: $now"
    ctr task kill -s KILL $ID; stopped; gone
    """
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": "lets-go-of-all"}, 400)
    if (answer.status, answer.stdout) != (0, "let go\n"):
        fail(str(answer))


@pytest.mark.long
def test_a_walk_over_many_files_is_bounded(nothing_left):
    """The monitor's descriptors, and its memory besides the guest's, whose mapping is large: 200,000 files cost no more than 50,000."""
    script = """
    mkdir $W/v; mount -t tmpfs -o nr_inodes=0 v $W/v && trap 'umount $W/v' EXIT
    python3 -c 'if True:
        import os, sys
        for folder in range(200):
            os.mkdir(f"{sys.argv[1]}/{folder}")
            for name in range(1000): os.close(os.open(f"{sys.argv[1]}/{folder}/{name}", os.O_CREAT, 0o644))' $W/v
    detached --mount type=bind,src=$W/v,dst=/v,options=rbind:rw $BUSYBOX $ID sleep 10000
    vmm=$(ctr task ls | awk -v id="$ID" '$1 == id {print $2}')
    memory() { awk '/^Size:/ {own = $2 < 65536} /^Anonymous:/ && own {n += $2} END {print n}' /proc/$vmm/smaps; }
    walk() { # FIRST LAST
        ctr task exec --exec-id walk$1 $ID sh -c "for f in \$(seq $1 $2); do find /v/\$f -type f -size 0; done | wc -l" &
        while kill -0 $! 2>/dev/null; do
            now=$(ls /proc/$vmm/fd | wc -l); ((now <= files)) || files=$now
            now=$(memory); ((now <= kib)) || kib=$now
            sleep 3
        done
    }
    files=0 kib=0; walk 0 49; few="$files descriptors, $kib KiB"; had=$kib
    files=0 kib=0; walk 50 199; many="$files descriptors, $kib KiB"
    echo "$few; $many" >&2
    ((files < 42000 && kib < had + 8192)) && echo bounded || echo "after 50,000: $few; after 200,000: $many"
    ctr task kill -s KILL $ID; stopped; gone
    """
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": "walks"}, 2400)
    print(answer.stderr)
    if answer.stdout != "50000\n150000\nbounded\n":
        fail(str(answer))


def test_a_guest_powers_itself_off(nothing_left):
    """The end of a pod's only container ends its guest in order, and is not the end of patience."""
    script = """
    from=$(stat -c %s /var/log/containerd.log)
    run $BUSYBOX $ID echo it ran
    tail -c +$((from + 1)) /var/log/containerd.log | grep -oE "the guest powered itself off|did not power off"
    """
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": "powers-off"}, 60)
    if answer.stdout != "it ran\nthe guest powered itself off\n":
        fail(str(answer))
