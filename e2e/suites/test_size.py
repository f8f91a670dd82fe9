"""How large a pod is: what it is given, that it grows when it needs more and gives back what it does not, and what an update changes."""

import re

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case

# A pod without limits begins with 512 MiB.
TOUCH = "dd if=/dev/zero of=/dev/null bs={0}M count=1 2>/dev/null && echo touched {0}"

# What runtimes of languages size themselves by: Go's processors (asked of a Go program of the host's), Python's, and the kernel's own.
ASK = """
GODEBUG=schedtrace=1 /host/ctr --version 2>&1 | grep -m 1 -o "gomaxprocs=[0-9]*"
python3 -c "import os, concurrent.futures as f; print(os.cpu_count(), len(os.sched_getaffinity(0)), f.ThreadPoolExecutor()._max_workers)"
nproc; grep -c ^processor /proc/cpuinfo
"""
LANGUAGES = "--mount type=bind,src=/usr/bin,dst=/host,options=rbind:ro $DEBIAN $ID"

CASES = (
    Case("size-seen-by-languages", f"run {LANGUAGES} sh -c '{ASK}'", says=(r"^gomaxprocs=(\d+)\n\1 \1 \d+\n\1\n\1\n$",)),
    Case(
        "size-seen-by-languages-with-limits",
        f"run --cpu-quota 100000 --memory-limit 100000000 {LANGUAGES} sh -c '{ASK}'",
        stdout="gomaxprocs=1\n1 1 5\n1\n1",
    ),
    Case("size-one-program-grows-it", f"run $BUSYBOX $ID sh -c '{TOUCH.format(1024)}'", stdout="touched 1024"),
    Case(
        "size-four-programs-grow-it",
        "run $BUSYBOX $ID sh -c 'for n in 1 2 3 4; do " + TOUCH.format(300) + " & done; wait'",
        stdout="\n".join(["touched 300"] * 4),
    ),
    Case(
        "size-a-tmpfs-grows-it",
        "run --mount type=tmpfs,src=tmpfs,dst=/t,options=size=1g $BUSYBOX $ID sh -c 'dd if=/dev/zero of=/t/x bs=1M count=900 2>/dev/null; stat -c %s /t/x'",
        stdout="943718400",
    ),
    Case(
        "size-page-cache-gives-way",
        "mkdir -m 755 $W/v && truncate -s 640M $W/v/large && chmod 755 $W && run --mount type=bind,src=$W/v,dst=/v,options=rbind:ro $BUSYBOX $ID sh -c 'cat /v/large | wc -c; " + TOUCH.format(400) + "'",
        stdout="671088640\ntouched 400",
        timeout=400,
    ),
    Case(
        "size-update-through-docker",
        """docker run -d --network none --name $ID --runtime $DRT --memory 64m bulkhead/busybox sh -c 'sleep 1000' >/dev/null
        docker update --memory 512m --memory-swap 512m $ID >/dev/null && docker exec $ID sh -c 'cat /sys/fs/cgroup/memory.max; dd if=/dev/zero of=/dev/null bs=300M count=1 2>/dev/null && echo touched 300'
        docker update --memory 48m --memory-swap 48m $ID >/dev/null && docker exec $ID cat /sys/fs/cgroup/memory.max
        docker update --cpus 0.5 $ID >/dev/null && docker exec $ID cat /sys/fs/cgroup/cpu.max
        docker update --pids-limit 77 $ID >/dev/null && docker exec $ID cat /sys/fs/cgroup/pids.max
        docker rm -f $ID >/dev/null""",
        stdout="536870912\ntouched 300\n50331648\n50000 100000\n77",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


def run(script, name, timeout=120):
    return shell.bash(script, {**BULKHEAD, "ID": f"size-{name}"}, timeout)[0]


@pytest.mark.bulkhead
def test_languages_see_the_cpus_of_the_pod(nothing_left):
    """All of them are there when the first process looks."""
    answer = run(f"run --annotation io.bulkhead.vcpus=3 {LANGUAGES} sh -c '{ASK}'", "languages", timeout=400)  # three vCPUs on the host's one
    assert answer.stdout == "gomaxprocs=3\n3 3 7\n3\n3\n", answer


@pytest.mark.bulkhead
def test_a_pod_at_its_most_ends_by_the_killer(nothing_left):
    """A pod that may not grow any more: the out-of-memory killer comes, and containerd is told."""
    answer = run(
        f"""
        printf 'max_memory_mib = 640\n' >$W/bulkhead.toml
        listen
        run --runtime-config-path $W/bulkhead.toml $BUSYBOX $ID sh -c '{TOUCH.format(1500)}; echo "-> $?"'
        kill $EVENTS; grep -o '/tasks/oom' $W/events | sort -u""",
        "at-its-most",
    )
    assert answer.stdout == "-> 137\n/tasks/oom\n", answer


@pytest.mark.bulkhead
def test_pods_that_stay_have_the_text_of_their_kernel_in_common(nothing_left):
    """With one CPU and with more; the guest goes on; who does not want to share does not."""
    answer = run(
        """
        rm -rf /run/bulkhead/.kernel-text
        printf 'share_kernel = false\\n' >$W/bulkhead.toml
        # The file's name is hexadecimal, and there is no way to it that the monitor could know.
        shared() { awk '/^[0-9a-f]+-/ {text = / \\/[0-9a-f]+$/} /^Size:/ && text {sum += $2} END {print int(sum / 1024)}' /proc/$1/smaps; }
        ctr run -d --null-io --runtime $RT --runtime-config-path $W/bulkhead.toml $BUSYBOX $ID-0 sleep 1000
        MONITORS[0]=$(pgrep -n -x bulkhead-vmm)
        for n in 1 2; do
            ctr run -d --null-io --runtime $RT --annotation io.bulkhead.vcpus=$n $BUSYBOX $ID-$n sleep 1000
            MONITORS[n]=$(pgrep -n -x bulkhead-vmm)
        done
        for ((n = 0; n < 300; n++)); do
            (($(shared ${MONITORS[1]}) > 12 && $(shared ${MONITORS[2]}) > 12)) && break; sleep 0.2
        done
        for n in 0 1 2; do
            echo "$(($(shared ${MONITORS[n]}) > 12)) $(ctr task exec --exec-id x $ID-$n sh -c 'nproc; cat /proc/uptime | wc -l' | tr '\n' ' ')"
        done
        for n in 0 1 2; do ctr task kill -s KILL $ID-$n; ctr task delete -f $ID-$n >/dev/null; ctr container rm $ID-$n; done""",
        "in-common",
        timeout=240,
    )
    assert answer.stdout == "0 1 1 \n1 1 1 \n1 2 1 \n", answer


@pytest.mark.bulkhead
def test_what_a_pod_frees_is_the_host_s_again(nothing_left):
    """What the host holds for a pod: little before, much while a program uses it, little when it has ended."""
    answer = run(
        f"""
        pss() {{ awk '/^Pss:/ {{print int($2 / 1024)}}' /proc/$VMM/smaps_rollup; }}
        detached $BUSYBOX $ID sleep 1000; CTR=$$
        VMM=$(pgrep -n -x bulkhead-vmm)
        before=$(pss)
        aside a sh -c 'echo going; dd if=/dev/zero bs=600M count=1 2>/dev/null | {{ sleep 5; cat >/dev/null; }}'
        for ((n = 0; n < 100; n++)); do peak=$(pss); ((peak > before + 500)) && break; sleep 0.1; done
        joined a
        for ((n = 0; n < 600; n++)); do after=$(pss); ((after < before + 60)) && break; sleep 0.1; done
        echo "$before $peak $after"
        ctr task kill -s KILL $ID; stopped; gone >/dev/null""",
        "gives-back",
        timeout=240,
    )
    sizes = re.fullmatch(r"a ended with 0\n(\d+) (\d+) (\d+)\n", answer.stdout)
    assert sizes, answer
    before, peak, after = map(int, sizes.groups())
    assert before < 120 and peak > before + 500 and after < before + 60, (before, peak, after)
