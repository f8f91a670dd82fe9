"""How large a pod is: what it is given, that it grows when it needs more and gives back what it does not, and what an update changes."""

import re

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case
from test_cri import FUNCTIONS

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
    # The kernel's own share of a machine grows with it, and above 4 GiB of addresses it has more.
    Case("size-a-limit-can-be-used", f"run --memory-limit 1073741824 $BUSYBOX $ID sh -c '{TOUCH.format(970)}'", stdout="touched 970"),
    Case("size-a-large-limit-can-be-used", f"run --memory-limit 3221225472 $BUSYBOX $ID sh -c '{TOUCH.format(2900)}'", stdout="touched 2900"),
    Case(
        "size-of-a-pod-with-containers-without-limits",
        FUNCTIONS
        + f"""
        pod '{{"resources": {{"memory_limit_in_bytes": 67108864, "cpu_quota": 20000, "cpu_period": 100000}}}}'
        MORE='{{"linux": {{"resources": {{"memory_limit_in_bytes": 67108864, "cpu_quota": 20000, "cpu_period": 100000}}}}}}' \\
            container side docker.io/bulkhead/busybox:latest sleep 1000
        container main docker.io/bulkhead/busybox:latest sh -c '{TOUCH.format(700)}'
        for ((i = 0; i < 5; i++)); do exited $main; done >/dev/null; state $main; crictl logs $main; crictl exec -s $side cat /sys/fs/cgroup/memory.max; away""",
        stdout="CONTAINER_EXITED\n0\nCompleted\ntouched 700\n67108864",
        timeout=300,
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
        "size-a-tmpfs-without-a-size",
        "run --mount type=tmpfs,src=tmpfs,dst=/t,options=rw $BUSYBOX $ID sh -c 'dd if=/dev/zero of=/t/x bs=1M count=700 2>/dev/null; stat -c %s /t/x'",
        stdout="734003200",
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


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    (
        Case(
            "size-page-cache-gives-way",
            "mkdir -m 755 $W/v && truncate -s 520M $W/v/large && chmod 755 $W && run --mount type=bind,src=$W/v,dst=/v,options=rbind:ro $BUSYBOX $ID sh -c 'cat /v/large | wc -c; " + TOUCH.format(400) + "'",
            stdout="545259520\ntouched 400",
            timeout=400,
        ),
    ),
    ids=lambda case: case.name,
)
def test_much_page_cache(case, beside_runc):
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
def test_memory_is_what_the_pod_was_given_at_the_first_look(nothing_left):
    answer = run("run --memory-limit 268435456 $BUSYBOX $ID awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo", "first-look")
    assert re.fullmatch(r"\d+\n", answer.stdout) and 256 <= int(answer.stdout) < 256 + 64, answer


@pytest.mark.bulkhead
def test_a_machine_grows_and_shrinks_with_its_limit(nothing_left):
    """The guest's memory and the limit on the host, as made, with a higher limit and with the first one again."""
    answer = run(
        """
        docker run -d --network none --name $ID --runtime $DRT --memory 64m bulkhead/busybox sleep 1000 >/dev/null
        group=$(find /sys/fs/cgroup -type d -name "*$(docker inspect -f '{{.Id}}' $ID)*")
        look() { echo $(docker exec $ID awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo) $(($(cat $group/memory.max) >> 20)); }
        look
        docker update --memory 1g --memory-swap 1g $ID >/dev/null; look
        docker update --memory 64m --memory-swap 64m $ID >/dev/null; look
        docker rm -f $ID >/dev/null""",
        "follows",
    )
    found = [[int(number) for number in line.split()] for line in answer.stdout.splitlines()]
    assert len(found) == 3, answer
    (first, first_host), (grown, grown_host), (last, last_host) = found
    # What describes the pages that were added lies in them.
    assert 64 <= first < 128 and grown >= first + 960 - 16 and last < first + 16, answer
    assert grown_host >= grown and first_host <= last_host < first_host + 64, answer


@pytest.mark.bulkhead
def test_a_quota_of_a_pod_s_container_acts_on_the_host_too(nothing_left, crictl):
    answer = run(
        FUNCTIONS
        + """
        limits='{"resources": {"cpu_quota": 20000, "cpu_period": 100000}}'
        pod "$(jq -c '. + {cgroup_parent: "/size-quota"}' <<<"$limits")"
        group=$(find /sys/fs/cgroup/size-quota -type d -name "*$POD*" | head -n 1)
        MORE="{\\"linux\\": $limits}" container main docker.io/bulkhead/busybox:latest sleep 1000
        look() { echo $(crictl exec -s $main cat /sys/fs/cgroup/cpu.max) - $(cat $group/cpu.max); }
        look
        crictl update --cpu-quota 50000 $main >/dev/null; look
        crictl update --cpu-quota 10000 $main >/dev/null; look
        away; rmdir /sys/fs/cgroup/size-quota""",
        "quota",
    )
    wanted = [f"{quota} 100000 - {quota} 100000" for quota in (20000, 50000, 10000)]
    assert answer.stdout.splitlines() == wanted, answer


@pytest.mark.bulkhead
def test_a_higher_quota_brings_cpus_to_a_running_pod(nothing_left, crictl):
    """The host has one CPU and is made to say four."""
    answer = run(
        FUNCTIONS
        + """
        echo 0-3 >$W/online && mount --bind $W/online /sys/devices/system/cpu/online && trap 'umount /sys/devices/system/cpu/online' EXIT
        limits='{"resources": {"cpu_quota": 90000, "cpu_period": 100000}}'
        pod "$limits"; MORE="{\\"linux\\": $limits}" container main docker.io/bulkhead/busybox:latest sleep 1000
        look() { echo $(crictl exec -s $main sh -c 'nproc; grep -c ^processor /proc/cpuinfo'); }
        look
        crictl update --cpu-quota 250000 $main >/dev/null; look
        crictl update --cpu-quota 50000 $main >/dev/null; look
        away""",
        "more-cpus",
        timeout=300,
    )
    assert answer.stdout == "1 1\n3 3\n3 3\n", answer


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
