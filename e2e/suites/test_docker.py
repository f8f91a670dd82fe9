"""Docker as the caller: run, exec, logs, stop, kill, rm, terminals, limits. Networks are not part of it."""

import pytest

from harness.answers import Case
from harness.shell import ASKS

pytestmark = pytest.mark.callers

RUN = "docker run --runtime $DRT --network none"
SLEEP = f"{RUN} -d --name $ID bulkhead/busybox sleep 1000 >/dev/null"
STATE = "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' $ID"

CASES = (
    Case("docker-status", f"{RUN} --rm bulkhead/busybox sh -c 'echo out; echo err >&2; exit 7'", status=7, stdout="out"),
    Case("docker-stdin", f"echo given | {RUN} --rm -i bulkhead/busybox cat", stdout="given"),
    Case("docker-missing-program", f"{RUN} --rm bulkhead/busybox no-such-program", status=127, complains=("no-such-program",)),
    Case("docker-not-executable", f"{RUN} --rm bulkhead/busybox /etc/passwd", status=126, complains=("permission denied",)),
    Case(
        "docker-terminal",
        f"{RUN} --rm -it bulkhead/busybox sh",
        terminal=(31, 91),
        dialogue=(("# " + ASKS, b"PS1='> '\n"), ("\n> " + ASKS, b"stty size; echo 1$((1 + 1))3\n"), ("123[^>]*> " + ASKS, b"exit 6\n")),
        status=6,
        says=("\n31 91\n123\n",),
    ),
    Case(
        "docker-life",
        f"""
        {RUN} -d --name $ID bulkhead/busybox sh -c 'trap "echo got-term; exit 3" TERM; echo started; while :; do sleep 0.1; done' >/dev/null
        docker exec $ID sh -c 'echo executed; exit 4'; echo "-> $?"
        echo through | docker exec -i $ID cat
        docker exec -u app -w /tmp -e X=y $ID sh -c 'id -un; pwd; echo $X'
        {STATE}
        docker stop -t 20 $ID >/dev/null; {STATE}
        docker logs $ID
        docker start $ID >/dev/null; docker exec $ID echo again; docker kill -s TERM $ID >/dev/null; docker wait $ID
        docker logs $ID | grep -c started
        docker rm $ID >/dev/null""",
        stdout="executed\n-> 4\nthrough\napp\n/tmp\ny\nrunning 0 false\nexited 3 false\nstarted\ngot-term\nagain\n3\n2",
        timeout=150,
    ),
    Case(
        "docker-host-folders",
        f"""
        mkdir $W/v; echo given >$W/v/f
        {RUN} --rm -v /:/host:ro bulkhead/busybox sh -c 'cat /host/etc/hostname; touch /host/x'
        {RUN} --rm -v $W/v:/v:rslave bulkhead/busybox cat /v/f
        {RUN} --rm -v /proc:/hp:ro -v /sys/fs/cgroup:/hc:ro bulkhead/busybox sh -c 'head -n 1 /hp/1/comm; head -n 1 /hp/meminfo; grep -o memory /hc/cgroup.controllers' |
            sed "s|^$(head -n 1 /proc/meminfo)$|the memory of the host|"
        """,
        says=("^testhost\ngiven\n(init|systemd).*\nthe memory of the host\nmemory$",),
        complains=("Read-only file system",),
    ),
    Case(
        "docker-file-over-folder",
        f"echo x >$W/f; {RUN} --rm -v $W/f:/etc bulkhead/busybox true",
        status=125,
        complains=('error mounting "W/f" to rootfs at "/etc"',),
    ),
    Case("docker-update-restart-policy", f"{SLEEP}; docker update --restart always $ID | grep -cxF $ID; docker inspect -f '{{{{.HostConfig.RestartPolicy.Name}}}}' $ID; docker rm -f $ID >/dev/null", stdout="1\nalways"),
    Case("docker-kill", f"{SLEEP}; docker kill $ID >/dev/null; docker wait $ID; {STATE}; docker rm $ID >/dev/null", stdout="137\nexited 137 false"),
    Case("docker-stop-by-kill", f"{SLEEP}; docker stop -t 1 $ID >/dev/null; {STATE}; docker rm $ID >/dev/null", stdout="exited 137 false"),
    Case("docker-rm-running", f"{SLEEP}; docker rm -f $ID >/dev/null; docker ps -aq --filter name=$ID", stdout=""),
    Case("docker-pause", f"{SLEEP}; docker pause $ID >/dev/null; {STATE}; docker unpause $ID >/dev/null; {STATE}; docker exec $ID echo lives; docker rm -f $ID >/dev/null", stdout="paused 0 false\nrunning 0 false\nlives"),
    Case(
        "docker-out-of-memory",
        f"{RUN} -d --memory 32m --name $ID bulkhead/busybox tail /dev/zero >/dev/null; docker wait $ID; {STATE}; docker rm $ID >/dev/null",
        stdout="137\nexited 137 true",
    ),
    Case(
        "docker-limits",
        f"{RUN} --rm --memory 64m --cpus 0.5 --pids-limit 77 --ulimit nofile=123:456 --shm-size 1m bulkhead/busybox sh -c '"
        "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; ulimit -n; ulimit -Hn; df -k /dev/shm | tail -n 1 | awk \"{print \\$2}\"'",
        stdout="67108864\n50000 100000\n77\n123\n456\n1024",
        complains=("",),
    ),
    Case(
        "docker-spec",
        f"echo inside >$W/f; chmod 755 $W; {RUN} --rm --read-only --user app --cap-drop ALL --hostname named --env A=1 --workdir /home/app --sysctl kernel.msgmax=4444"
        " --security-opt no-new-privileges --tmpfs /scratch:size=1m --add-host there:1.2.3.4 --mount type=bind,src=$W,dst=/data bulkhead/busybox sh -c '"
        "id -u; grep -E \"^(Cap|NoNew|Seccomp:)\" /proc/self/status; hostname; echo $A; pwd; cat /proc/sys/kernel/msgmax; echo x >/scratch/x; cat /scratch/x;"
        " grep there /etc/hosts; ls /etc/resolv.conf /etc/hostname; cat /data/f; touch /x 2>&1; cat /proc/self/cgroup'",
        says=("^1000\n", "named\n1\n/home/app\n4444\nx\n", "there"),
        timeout=60,
    ),
    Case("docker-volume-is-kept", f"{RUN} --rm -v $W/v:/v bulkhead/busybox sh -c 'echo kept >/v/f; chown 1000:1000 /v/f'; cat $W/v/f; stat -c %u:%g $W/v/f", stdout="kept\n1000:1000"),
    Case("docker-stats", f"{SLEEP}; docker stats --no-stream --format '{{{{.PIDs}}}}' $ID; docker rm -f $ID >/dev/null", stdout="1"),
    Case(
        "docker-server",
        f"""{RUN} -d --name $ID bulkhead/redis >/dev/null
        for ((n = 0; n < 100; n++)); do docker exec $ID redis-cli ping 2>/dev/null | grep -q PONG && break; sleep 0.2; done
        docker exec $ID redis-cli set a 1; docker exec $ID redis-cli incrby a 41; docker exec $ID sh -c 'ps -eo user,comm | grep redis-server'
        docker stop -t 20 $ID >/dev/null; {STATE}; docker logs $ID 2>&1 | grep -o 'Redis is now ready to exit'; docker rm $ID >/dev/null""",
        says=("^OK\n42\nredis +redis-server\nexited 0 false\n",),
        timeout=150,
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
            "docker-python",
            f"""docker image inspect bulkhead/debian >/dev/null 2>&1 || ctr images export --local - $DEBIAN | docker load -q >/dev/null
        {RUN} --rm bulkhead/debian python3 -c 'import sys; print(sum(range(10**6)), sys.version_info[0])'""",
            stdout="499999500000 3",
            # Docker takes minutes to load the image.
            timeout=600,
        ),
    ),
    ids=lambda case: case.name,
)
def test_an_image_that_takes_long_to_load(case, beside_runc):
    beside_runc(case)
