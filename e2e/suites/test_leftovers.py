"""What bears no container's name, such as sockets, is counted after all cases together; and what a living pod keeps."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, fail


def test_nothing_is_left_of_all_cases(collected):
    if collected.left:
        fail("left behind by the cases of this session:\n" + "\n".join(collected.left))


@pytest.mark.bulkhead
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
