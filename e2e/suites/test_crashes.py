"""Programs that are killed under a running pod: containerd, the shim, the monitor, the guest's kernel."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case
from harness.oci import ROOT

pytestmark = pytest.mark.callers

# shim: prints the pid of the process that serves the container's task.
SHIM = 'shim() { pgrep -f -- "^[^ ]*containerd-shim[^ ]* .*-id $ID( |$)" | head -n 1; }'
TASK_PID = "ctr task ls | awk -v id=$ID '$1 == id {print $2}'"
# ended PID: waits until the process is gone.
ENDED = 'ended() { for ((n = 0; n < 100; n++)); do [[ -d /proc/$1 ]] || return 0; sleep 0.1; done; echo "still there: $1"; }'

CASES = (
    Case(
        "containerd-killed",
        """
        detached $BUSYBOX $ID sh -c 'while :; do sleep 1; done'
        svc kill containerd; svc start containerd
        ctr task ls | awk -v id=$ID '$1 == id {print $3}'
        ctr task exec --exec-id a $ID sh -c 'echo executed; exit 5'; echo "-> $?"
        ctr task ps $ID | tail -n +2 | wc -l
        ctr task kill -s KILL $ID; stopped
        tell ctr task rm $ID; ctr container rm $ID""",
        stdout="RUNNING\nexecuted\n-> 5\n2\n-> 0",
        complains=("",),
        timeout=150,
        alone=True,
    ),
    Case(
        "containerd-killed-and-container-ends-meanwhile",
        """
        detached $BUSYBOX $ID sh -c 'sleep 6; exit 9'
        svc kill containerd; sleep 6; svc start containerd
        for ((n = 0; n < 100; n++)); do ctr task ls -q | grep -qxF $ID || break; sleep 0.1; done
        ctr task ls -q | grep -cxF $ID; ctr container rm $ID""",
        stdout="0",
        complains=("",),
        timeout=150,
        alone=True,
    ),
    Case(
        "shim-killed",
        f"""{SHIM}; {ENDED}
        detached $BUSYBOX $ID sleep 1000
        init=$({TASK_PID}); shim=$(shim); kill -KILL $shim; ended $shim; ended $init
        for ((n = 0; n < 50; n++)); do ctr task ls -q | grep -qxF $ID || break; sleep 0.1; done
        ctr task ls -q | grep -cxF $ID
        ctr container rm $ID""",
        stdout="0",
    ),
    Case(
        "shim-killed-with-a-hook-for-the-end",
        f"""{SHIM}; {ENDED}; {ROOT}
        printf '#!/bin/sh\\nread -r state; echo "$state" >>"$1/told"\\n' >$W/hook; chmod 755 $W/hook; export SCRIPT='exec sleep 1000'
        spec '.hooks.poststop = [{{path: ($w + "/hook"), args: ["hook", $w]}}]'
        detached --config $W/spec.json $ID
        init=$({TASK_PID}); shim=$(shim); kill -KILL $shim; ended $shim; ended $init
        for ((n = 0; n < 50; n++)); do ctr task ls -q | grep -qxF $ID || break; sleep 0.1; done
        ctr container rm $ID; sleep 1; jq -r '.id + " " + .status' $W/told""",
        stdout="ID stopped",
    ),
    Case(
        "init-killed-from-the-host",
        f"""
        detached $BUSYBOX $ID sleep 1000; CTR=$$
        aside a sh -c 'echo going; sleep 1000'
        kill -KILL $({TASK_PID}); joined a; stopped; gone""",
        stdout="a ended with 137",
        complains=("",),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


def run(script, identifier, timeout=90):
    return shell.bash(script, {**BULKHEAD, "ID": identifier}, timeout)[0]


@pytest.mark.bulkhead
@pytest.mark.parametrize(("name", "command"), [("panic", "echo c >/proc/sysrq-trigger"), ("reset", "echo b >/proc/sysrq-trigger")])
def test_guest_kernel_ends(name, command, nothing_left):
    """A guest that panics or resets itself ends its containers with 137, and the host's log says why."""
    answer = run(f"run --privileged $BUSYBOX $ID sh -c '{command}; sleep 60'", f"guest-{name}")
    assert answer.status == 137, answer
    with open("/var/log/containerd.log", encoding="utf-8", errors="replace") as log:
        said = [line for line in log if f"guest-{name}" in line]
    if name == "panic":
        assert any("sysrq triggered crash" in line or "Kernel panic" in line for line in said), said[-20:]


@pytest.mark.bulkhead
def test_monitor_killed_under_two_execs_and_docker(nothing_left):
    """Docker sees a killed monitor as a container that ended with 137."""
    answer = run(
        """docker run -d --runtime bulkhead --network none --name $ID bulkhead/busybox sleep 1000 >/dev/null
        kill -KILL $(docker inspect -f '{{.State.Pid}}' $ID); docker wait $ID; docker rm $ID >/dev/null""",
        "docker-monitor-killed",
    )
    assert (answer.status, answer.stdout) == (0, "137\n"), answer


@pytest.mark.bulkhead
def test_client_gives_up_while_the_guest_boots(nothing_left):
    """containerd deletes what its killed client was creating, and the shim says at once that there is no such container yet."""
    answer = run(
        """
        ctr run -d --null-io --runtime $RT $BUSYBOX $ID sleep 1000 & ctr=$!
        for ((n = 0; n < 500; n++)); do vmm=$(jq .vmm.pid /run/bulkhead/default/$ID/pod.json 2>/dev/null); ((vmm > 0)) && break; sleep 0.01; done
        kill -STOP $vmm; kill -KILL $ctr; wait 2>/dev/null
        for ((n = 0; n < 100; n++)); do grep -q "failed to delete task.*$ID" /var/log/containerd.log && break; sleep 0.1; done
        ((n < 100)) && echo deleted; sleep 3; kill -CONT $vmm
        for ((n = 0; n < 150; n++)); do [[ -e /run/bulkhead/default/$ID ]] || break; sleep 0.1; done
        for ((n = 0; n < 50; n++)); do ctr container rm $ID 2>/dev/null && break; sleep 0.1; done; ctr container ls -q | grep -cF $ID""",
        "given-up",
    )
    assert answer.stdout == "deleted\n0\n", answer


# hang FOLDER: a file system whose server never answers; answers are over when the process $HUNG is killed.
HANG = r"""
hang() {
    mkdir $1
    python3 -c '
import ctypes, os, signal, sys
server = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
sys.exit(1 if ctypes.CDLL(None).mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options) else signal.pause())' $1 & HUNG=$!
    trap 'kill -KILL $HUNG; umount -l '$1 EXIT
    for ((n = 0; n < 100; n++)); do grep -q " $1 fuse" /proc/mounts && break; sleep 0.1; done
}
# left: whether anything of the pod is there.
left() { [[ -e /run/bulkhead/default/$ID ]] || pgrep -f -- "-id $ID( |$)" >/dev/null; }
"""


@pytest.mark.bulkhead
@pytest.mark.parametrize("folder", ["", "below"])
def test_client_gives_up_while_the_host_does_not_answer(folder, nothing_left):
    """A volume on a file system that hangs keeps neither the microVM nor the shim of a container that nobody wants any more."""
    answer = run(
        HANG
        + """
        hang $W/hung
        ctr run -d --null-io --runtime $RT --mount type=bind,src=$W/hung/FOLDER,dst=/v,options=rbind:rw $BUSYBOX $ID true & ctr=$!
        for ((n = 0; n < 100; n++)); do left && break; sleep 0.1; done; sleep 2
        left && echo waits; kill -KILL $ctr; wait $ctr
        for ((n = 0; n < 150; n++)); do left || break; sleep 0.1; done; left || echo gone
        for ((n = 0; n < 50; n++)); do ctr container rm $ID 2>/dev/null && break; sleep 0.1; done; ctr container ls -q | grep -cF $ID
        # The next pod takes the same host ids, and tidies up after those who could not.
        kill -KILL $HUNG; run $BUSYBOX $ID echo next""".replace("FOLDER", folder),
        "hung-volume",
    )
    assert answer.stdout == "waits\ngone\n0\nnext\n", answer


@pytest.mark.bulkhead
def test_a_container_takes_all_threads_of_the_guest(nothing_left):
    """The agent still lists, adds a process and kills."""
    answer = run(
        """
        echo 'kernel_parameters = "sysctl.kernel.threads-max=500"' >$W/bulkhead.toml
        begin --runtime-config-path $W/bulkhead.toml $DEBIAN $ID python3 -c '
import threading, time
made = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        made += 1
except RuntimeError:
    print("no more", 100 < made < 500, "ready", flush=True)
time.sleep(1000)'
        ctr task ps $ID | tail -n +2 | wc -l
        tell ctr task exec --exec-id a $ID true
        ctr task ps $ID | tail -n +2 | wc -l
        ctr task kill -s KILL $ID; finish""",
        "all-threads",
    )
    assert answer.stdout == "1\n-> 0\n1\nended with 137\nno more True ready\n", answer
