"""A Kubernetes pod as the kubelet makes it, through containerd's CRI: by both of containerd's sandboxers."""

import pytest

from harness.answers import Case

pytestmark = pytest.mark.callers

# pod NAME [LINUX]: writes the pod's config; container NAME IMAGE ARG...: a container's. run_container NAME: creates and
# starts it and prints nothing; its id is in the variable NAME.
FUNCTIONS = """
mkdir $W/logs
if [[ -n ${CRICTL:-} ]]; then
    crictl() {
        local name=$W/crictl.$RANDOM$RANDOM status
        status=$(printf '%s\\0' "$name" "$@" | socat -t 200 - "UNIX-CONNECT:$CRICTL") || return
        cat "$name.out"
        cat "$name.err" >&2
        return "$status"
    }
fi
pod() {
    local linux=${1:-}
    [[ -n $linux ]] || linux='{}'
    jq -n --arg name "$ID" --arg logs "$W/logs" --argjson linux "$linux" '{
        metadata: {name: $name, namespace: "tests", uid: $name, attempt: 0}, hostname: "podhost", log_directory: $logs,
        annotations: {note: "kept"}, labels: {app: "test"}, linux: ({security_context: {namespace_options: {pid: 1}}} * $linux)}' >$W/pod.json
    POD=$(crictl runp --runtime "$HANDLER" $W/pod.json) || exit
}
container() {
    local name=$1 image=$2; shift 2
    jq -n --arg name "$name" --arg image "$image" '{
        metadata: {name: $name, attempt: 0}, image: {image: $image}, command: $ARGS.positional, log_path: ($name + ".log"),
        envs: [{key: "GREETING", value: "hello"}],
        linux: {security_context: {namespace_options: {pid: 1}}}} * ($ENV.MORE // "{}" | fromjson)' --args -- "$@" >$W/$name.json
    local id
    id=$(crictl create "$POD" $W/$name.json $W/pod.json) && printf -v "$name" %s "$id" && crictl start "$id" >/dev/null
}
state() { crictl inspect "$1" | jq -r '.status | .state, .exitCode, .reason'; }
exited() {
    local n
    for ((n = 0; n < 100; n++)); do [[ $(crictl inspect "$1" | jq -r .status.state) == CONTAINER_EXITED ]] && return; sleep 0.2; done
    echo "still not exited"
}
away() { crictl stopp "$POD" >/dev/null; crictl rmp "$POD" >/dev/null; crictl pods -q --name "$ID"; }
"""

CASES = (
    Case(
        "cri-life",
        FUNCTIONS
        + """
        pod; container main docker.io/bulkhead/busybox:latest sh -c 'echo "$GREETING"; echo problem >&2; trap "echo bye; exit 3" TERM; while :; do sleep 0.1; done'
        crictl exec -s $main sh -c 'echo executed; echo also >&2; hostname'; crictl exec -s $main sh -c 'exit 5' 2>/dev/null; echo "-> $((!!$?))"
        crictl inspect $main | jq -r .status.state
        crictl inspectp $POD | jq -r .status.state
        crictl stop -t 20 $main >/dev/null; state $main
        crictl logs $main 2>&1 | sort
        crictl rm $main >/dev/null; away""",
        stdout="executed\npodhost\n-> 1\nCONTAINER_RUNNING\nSANDBOX_READY\nCONTAINER_EXITED\n3\nError\nbye\nhello\nproblem",
        complains=("also",),
        timeout=180,
    ),
    Case(
        "cri-two-containers",
        FUNCTIONS
        + """
        pod; container one docker.io/bulkhead/busybox:latest sh -c 'echo shared >/dev/shm/f; nc -l -p 8080 -e echo pong'
        container two docker.io/bulkhead/busybox:latest sh -c 'sleep 2; cat /dev/shm/f; exit 6'
        exited $two; state $two; crictl logs $two
        container three docker.io/bulkhead/busybox:latest sh -c 'nc 127.0.0.1 8080 </dev/null; hostname'
        exited $three; state $three; crictl logs $three
        crictl ps -a -q --pod $POD | wc -l
        away""",
        stdout="CONTAINER_EXITED\n6\nError\nshared\nCONTAINER_EXITED\n0\nCompleted\npong\npodhost\n3",
        timeout=240,
    ),
    Case(
        "cri-container-restarts",
        FUNCTIONS
        + """
        pod; container main docker.io/bulkhead/busybox:latest sh -c 'exit 7'
        exited $main; state $main; crictl rm $main >/dev/null
        container main docker.io/bulkhead/busybox:latest sleep 1000
        crictl inspect $main | jq -r .status.state
        crictl stop -t 0 $main >/dev/null; state $main
        away""",
        stdout="CONTAINER_EXITED\n7\nError\nCONTAINER_RUNNING\nCONTAINER_EXITED\n137\nError",
        timeout=180,
    ),
    Case(
        "cri-security",
        FUNCTIONS
        + """
        pod
        MORE='{"linux": {"security_context": {"run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}, "readonly_rootfs": true,
            "no_new_privs": true, "capabilities": {"drop_capabilities": ["ALL"]}, "supplemental_groups": [4444],
            "seccomp": {"profile_type": 0}}, "resources": {"memory_limit_in_bytes": 50331648}}, "working_dir": "/home/app"}' \\
            container main docker.io/bulkhead/busybox:latest sh -c 'id -u; id -G; pwd; touch x 2>&1; grep -E "^(CapEff|CapBnd|NoNew|Seccomp:)" /proc/self/status; cat /sys/fs/cgroup/memory.max'
        exited $main; crictl logs $main 2>&1
        away""",
        says=("^1000\n1000 (2000 )?4444\n/home/app\n.*Read-only", "Seccomp:\t2\n50331648"),
        timeout=180,
    ),
    Case(
        "cri-high-ids",
        FUNCTIONS
        + """
        mkdir -m 2770 $W/volume; chgrp 1000660000 $W/volume; pod
        for user in 1000650000 1000650001; do
            MORE='{"linux": {"security_context": {"run_as_user": {"value": '$user'}, "supplemental_groups": [1000660000]}},
                "mounts": [{"container_path": "/volume", "host_path": "'$W/volume'"}]}' \\
                container main docker.io/bulkhead/busybox:latest sh -c 'id -u; echo x >/volume/$(id -u); stat -c %u:%g /volume/*; echo y >/tmp/f; stat -c %u /tmp/f'
            exited $main; cat $W/logs/main.log | cut -d " " -f 4-; crictl rm $main >/dev/null; rm $W/logs/main.log
        done
        stat -c %u:%g $W/volume/*
        away""",
        stdout="1000650000\n1000650000:1000660000\n1000650000\n1000650001\n1000650000:1000660000\n1000650001:1000660000\n1000650001\n"
        "1000650000:1000660000\n1000650001:1000660000",
        timeout=180,
    ),
    Case(
        "cri-shared-volume",
        FUNCTIONS
        + """
        mkdir -m 777 $W/volume; pod; export MORE='{"mounts": [{"container_path": "/volume", "host_path": "'$W/volume'"}]}'
        container server docker.io/bulkhead/redis:latest redis-server --port 0 --unixsocket /volume/socket --save "" --dir /tmp
        container client docker.io/bulkhead/redis:latest sh -c 'until redis-cli -s /volume/socket set key value; do sleep 0.5; done 2>/dev/null; mkfifo -m 666 /volume/fifo; cat /volume/fifo'
        container third docker.io/bulkhead/busybox:latest sh -c 'until [ -p /volume/fifo ]; do sleep 0.5; done; echo through >/volume/fifo'
        exited $client; exited $third; state $client; crictl logs $client
        crictl rm $client >/dev/null
        container client docker.io/bulkhead/redis:latest redis-cli -s /volume/socket get key
        exited $client; tail -n 1 $W/logs/client.log | cut -d " " -f 4-
        crictl stop -t 0 $server >/dev/null; away""",
        stdout="CONTAINER_EXITED\n0\nCompleted\nOK\nthrough\nvalue",
        timeout=240,
    ),
)

# containerd 1.7 refuses mounts with mappings.
USER_NAMESPACE = Case(
    "cri-user-namespace",
    FUNCTIONS
    + """
    MAP='{"security_context": {"namespace_options": {"pid": 1, "userns_options": {"mode": 0,
        "uids": [{"host_id": 200000, "container_id": 0, "length": 65536}], "gids": [{"host_id": 200000, "container_id": 0, "length": 65536}]}}}}'
    mkdir $W/volume; echo given >$W/volume/given; chown 5:6 $W/volume/given; pod "$MAP"
    for user in 0 1000; do
        MORE='{"linux": '$(jq -c --argjson user $user '.security_context.run_as_user.value = $user' <<<"$MAP")',
            "mounts": [{"container_path": "/volume", "host_path": "'$W/volume'",
                "uidMappings": [{"host_id": 200000, "container_id": 0, "length": 65536}], "gidMappings": [{"host_id": 200000, "container_id": 0, "length": 65536}]}]}' \\
            container user$user docker.io/bulkhead/busybox:latest sh -c 'id -u; tr -s " " </proc/self/uid_map; stat -c "%u %g" /bin/busybox /volume/given
                touch /volume/$(id -u) /tmp/f && stat -c "%u %g" /volume/$(id -u) /tmp/f; echo x >/dev/stdout; ls -d /sys/kernel /dev/mqueue; hostname; echo end; sleep 1000'
    done
    for user in 0 1000; do
        for ((n = 0; n < 100; n++)); do grep -q "end$" $W/logs/user$user.log && break; sleep 0.2; done
        name=user$user; crictl logs ${!name} 2>&1 | sed "s/.*: //"; crictl exec -s ${!name} sh -c 'id -u; cat /proc/1/comm'
    done
    stat -c "%n %u %g" $W/volume/* | sed "s,$W/,,"
    away""",
    says=("^0\n 0 200000 65536\n0 0\n5 6\n0 0\n0 0\nx\n/dev/mqueue\n/sys/kernel\npodhost\nend\n0\nsleep\n1000\n 0 200000 65536\n",),
    timeout=180,
)


@pytest.mark.parametrize("case", (*CASES, pytest.param(USER_NAMESPACE, marks=pytest.mark.needs_containerd2)), ids=lambda case: case.name)
def test_podsandbox(case, beside_runc):
    beside_runc(case)


@pytest.mark.needs_containerd2
@pytest.mark.shim_sandboxer
@pytest.mark.parametrize("case", (*CASES, USER_NAMESPACE), ids=lambda case: case.name)
def test_shim_sandboxer(case, beside_runc):
    beside_runc(case)
