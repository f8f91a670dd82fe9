"""Programs that people run in containers, each a script in workloads/ that does what its users do, beside runc.

Not part of the suites: it needs an image of its own. Run by e2e/workloads/run.
"""

from pathlib import Path

import pytest

from harness.answers import Case, Differs

SCRIPTS = Path(__file__).parent / "workloads"
IMAGE = "docker.io/bulkhead/workloads:latest"
# What the largest of them needs; java sizes its heap by it.
MEMORY = 1_610_612_736


def script(name):
    """Shell that puts the script into $W/scripts, as run.sh."""
    text = (SCRIPTS / f"{name}.sh").read_text(encoding="utf-8")
    return f"mkdir -p $W/scripts $W/volume\ncat >$W/scripts/run.sh <<'END-OF-SCRIPT'\n{text}END-OF-SCRIPT\n"


def container(more="", environment=""):
    """Shell that runs the script in a container with a volume at /volume."""
    return (
        f"run --memory-limit {MEMORY} --allow-new-privs {environment} "
        "--mount type=bind,src=$W/scripts,dst=/scripts,options=rbind:ro "
        "--mount type=bind,src=$W/volume,dst=/volume,options=rbind:rw "
        f"{more} {IMAGE} $ID bash /scripts/run.sh"
    )


def workload(name, *says, timeout=900.0, differs=None, environment="", variant=""):
    """A workload whose script ends with "end", which tells that it came so far."""
    return Case(
        f"workload-{name}{variant}",
        script(name) + container(environment=environment),
        says=(*says, r"\nend\n?$"),
        timeout=timeout,
        differs=differs,
    )


# Of python's own tests, with what does not pass under Bulkhead.
PYTHON = dict.fromkeys(("fcntl", "mmap", "os", "shutil", "tempfile", "fileio", "signal", "subprocess", "socket")) | {
    "fcntl": Differs("the guest kernel has no F_NOTIFY", stdout=r"^== test_fcntl: \d+ tests\n.*F_NOTIFY not available.*\n.*F_GETPATH.*\nend\n?$"),
    "socket": Differs(
        "the guest kernel has no CAN, SCTP and AF_ALG",
        stdout=r"(?s)^== test_socket: \d+ tests\n(?!.*(fails|error): ).*SocketCan required.*\nend\n?$",
    ),
    "posix": Differs(
        "it changes owners to numbers above 65535, for which the pod's range of host ids has no place",
        stdout=r"(?s)^== test_posix: \d+ tests\n(?!.*(fails|error): (?!OSError: .Errno N. Invalid argument)).*_chown: error",
    ),
}

# The heap goes by the memory limit where java can see it: in a cgroup namespace, which `ctr run` alone does not make.
HEAP = f"""
mkdir $W/root && ctr images mount --rw {IMAGE} $W/root >/dev/null
ctr oci spec | jq --arg root "$W/root" --arg id "$ID" '.root = {{path: $root}} | .linux.cgroupsPath = "/default/" + $id
    | .process.env = ["PATH=/usr/bin:/bin"] | .linux.namespaces += [{{type: "cgroup"}}]
    | .mounts += [{{destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro", "nosuid", "nodev", "noexec"]}}]
    | .linux.resources.memory = {{limit: 1073741824, swap: 1073741824}}
    | .process.args = ["sh", "-c", "java -XX:+PrintFlagsFinal -version 2>/dev/null | grep -o \\"MaxHeapSize *= [0-9]*\\""]' >$W/spec.json
run --config $W/spec.json $ID
ctr images unmount --rm $W/root >/dev/null
"""

# Two containers of one pod.
TWO = f"""
mkdir -p $W/scripts $W/volume
cat >$W/scripts/two_writers.py <<'END-OF-SCRIPT'
{(SCRIPTS / "two_writers.py").read_text(encoding="utf-8")}END-OF-SCRIPT
writer() {{
    run --annotation io.containerd.bulkhead.v2.group=$ID \
        --mount type=bind,src=$W/scripts,dst=/scripts,options=rbind:ro --mount type=bind,src=$W/volume,dst=/volume,options=rbind:rw \
        {IMAGE} $2 python3 /scripts/two_writers.py JOURNAL $1 2 >$W/$1 2>&1
}}
writer 1 $ID &
for ((tries = 0; tries < 600; tries++)); do [[ -e $W/volume/ready1 ]] && break; sleep 0.2; done
writer 2 $ID-2; wait
cat $W/1 $W/2
python3 $W/scripts/two_writers.py check $W/volume 2>&1 | tail -n 2
true
"""

BOTH = ("1, 50.*2, 50", "ok")

CASES = (
    workload("packages", "install: 0", "1 received", r"sum \d+"),
    workload("git", "^1000"),
    workload("postgresql", "start after the crash: 0", "nothing is lost: t"),
    workload("postgresql", "start after the crash: 0", "nothing is lost: t", environment="--env DATA=/volume/data", variant="-on-a-volume"),
    workload("sqlite", "1.40.820|1.30.465"),
    workload("sqlite", "1.40.820|1.30.465", environment="--env DATA=/volume", variant="-on-a-volume"),
    workload("redis", "501\nv77"),
    workload("nginx", "404"),
    workload(
        "java",
        "seen true",
        "-> 0",
        differs=Differs("outside of a cgroup namespace java goes by the machine, which is the pod's", lines={r"heap by the limit: \d+": r"heap by the limit: 3\d\d"}),
    ),
    workload("init", "-> 7", "-> 5", "-> 111"),
    workload("privileges", "a write takes the capability away: \n"),
    Case(
        "workload-set-id-bits-after-a-write-by-root",
        "run $BUSYBOX $ID sh -c 'touch /x; chmod 6777 /x; echo x >>/x; stat -c %a /x'",
        stdout="6777",
        differs=Differs("the file server has CAP_FSETID in its user namespace alone, which the host's kernel does not count", stdout="^777$"),
    ),
    workload("file_names", "4001"),
    *(
        workload("python", "tests", environment=f"--env MODULES=test_{name}", variant=f"-{name}", timeout=1300, differs=differs)
        for name, differs in PYTHON.items()
    ),
    workload("many_files", "listed 100000", "removed 50000 ..", timeout=3000),
    Case("workload-java-heap", HEAP, says=("MaxHeapSize *= 268435456",), timeout=300),
    Case("workload-sqlite-in-a-pod-rollback", TWO.replace("JOURNAL", "delete"), says=BOTH, timeout=400),
    Case("workload-sqlite-in-a-pod-wal", TWO.replace("JOURNAL", "wal"), says=BOTH, timeout=400),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_workload(case, beside_runc):
    beside_runc(case)
