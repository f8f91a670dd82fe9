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
