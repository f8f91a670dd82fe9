"""Bad input and bad luck: each ends in an error that names the object and the remedy, in bounded time, and leaves nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from harness import shell
from harness.answers import BULKHEAD, fail, sweep

pytestmark = pytest.mark.bulkhead

SHIM = "/usr/local/bin/containerd-shim-bulkhead-v2"
INSTALLED = Path("/usr/local/share/bulkhead")
# Longer than any single wait of ours; the time that the whole `ctr run` may take.
BOUND = 60.0


def run(script, name, timeout=BOUND):
    """Runs the script for a container of its own and returns its answer, in which the container is ID, and the seconds it took."""
    identifier = f"{name}-{uuid.uuid4().hex[:6]}"
    start = time.monotonic()
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": identifier}, timeout)
    took = time.monotonic() - start
    if answer.status == shell.Answer.TIMED_OUT:
        sweep(identifier)
        fail(f"it did not end within {timeout} s: {answer}")
    # Else an error would name every object that the case is called after.
    answer.stderr = answer.stderr.replace(identifier, "ID")
    return answer, took


def expect(answer, words, status=1):
    missing = [word for word in words if not re.search(word, answer.stderr)]
    if answer.status != status or missing:
        fail(f"status {answer.status}, expected {status}; the error does not say {missing}:\n{answer.stderr}\n{answer.stdout}")


def with_config(text, arguments="true"):
    return f"cat >$W/bulkhead.toml <<END\n{text}\nEND\nrun --runtime-config-path $W/bulkhead.toml $BUSYBOX $ID {arguments}"


# name, config file, what the error must say
CONFIGS = (
    ("unknown-key", "defualt_memory_mib = 128", ("defualt_memory_mib", "bulkhead.toml", "correct or remove")),
    ("value-out-of-range", "default_memory_mib = 1", ("default_memory_mib", "bulkhead.toml", "from 64")),
    ("no-toml", "this is = = no toml", ("bulkhead.toml", "line 1")),
    ("kernel-missing", 'kernel = "/no/vmlinux"', ("/no/vmlinux", "kernel")),
    ("kernel-is-no-elf", 'kernel = "/etc/services"', ("/etc/services", "ELF")),
    ("kernel-is-a-folder", 'kernel = "/etc"', (r"/etc\b", "kernel")),
    ("kernel-is-another-program", 'kernel = "/bin/true"', ("/bin/true", "ELF|kernel")),
    ("agent-image-missing", 'agent_image = "/no/agent.erofs"', ("/no/agent.erofs", "agent")),
    ("agent-image-is-none", 'agent_image = "/etc/services"\nboot_timeout_s = 10', ("/etc/services", "erofs")),
    ("monitor-missing", 'vmm = "/no/bulkhead-vmm"', ("/no/bulkhead-vmm",)),
    ("monitor-is-no-program", 'vmm = "/etc/services"', ("/etc/services",)),
    ("monitor-ends-at-once", 'vmm = "/bin/false"', ("/bin/false", "exit status 1")),
)


@pytest.mark.parametrize(("name", "text", "words"), CONFIGS, ids=[config[0] for config in CONFIGS])
def test_config(name, text, words, nothing_left):
    answer, took = run(with_config(text), name)
    expect(answer, words)
    assert took < BOUND


def test_config_file_missing(nothing_left):
    answer, _ = run("run --runtime-config-path /no/bulkhead.toml $BUSYBOX $ID true", "config-missing")
    expect(answer, ("/no/bulkhead.toml",))


def test_monitor_never_answers(nothing_left):
    script = 'printf "#!/bin/sh\\nexec sleep 1000\\n" >$W/vmm; chmod 755 $W/vmm\n' + with_config('vmm = "$W/vmm"\nboot_timeout_s = 3')
    answer, took = run(script, "monitor-sleeps")
    expect(answer, ("monitor", r"\b3 s"))
    assert took < 40


def test_agent_never_answers(nothing_left, tmp_path):
    """An agent's image whose init only sleeps: the error says so after boot_timeout_s."""
    image = sleeping_agent(tmp_path)
    answer, took = run(with_config(f'agent_image = "{image}"\nboot_timeout_s = 5'), "agent-sleeps")
    expect(answer, ("agent in the guest did not answer within 5 s", "boot_timeout_s", "verbose_console"))
    assert 4 < took < 40


def test_agent_ends_at_once(nothing_left, tmp_path):
    """An init that ends is a guest panic; the error shows the guest's last words."""
    image = sleeping_agent(tmp_path, "exit 3")
    answer, took = run(with_config(f'agent_image = "{image}"\nboot_timeout_s = 20'), "agent-ends")
    expect(answer, ("Kernel panic",))
    assert took < 40


def test_agent_cannot_boot(nothing_left, tmp_path):
    """The agent says what it misses, and the error shows that."""
    image = tmp_path / "agent.erofs"
    extract = ["fsck.erofs", f"--extract={tmp_path}/root", INSTALLED / "agent.erofs"]
    subprocess.run(extract, check=True, timeout=60, capture_output=True)
    (tmp_path / "root/sys").rmdir()
    subprocess.run(["mkfs.erofs", "--quiet", image, tmp_path / "root"], check=True, timeout=60, capture_output=True)
    answer, took = run(with_config(f'agent_image = "{image}"\nboot_timeout_s = 20'), "agent-cannot-boot")
    expect(answer, ("the guest reset itself", "cannot mount sysfs on /sys"))
    assert took < 40


def sleeping_agent(folder, command="exec /bin/busybox sleep 100000"):
    root = folder / "root"
    for name in ("bin", "dev", "proc", "sys", "run", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    (root / "init").write_text(f"#!/bin/busybox sh\n{command}\n", encoding="utf-8")
    (root / "init").chmod(0o755)
    image = folder / "agent.erofs"
    subprocess.run(["mkfs.erofs", "--quiet", image, root], check=True, timeout=60, capture_output=True)
    return image


# How many files it takes until it is full, what fills its space beforehand, and whether the pod must fail: for files in between it may
# get along with those that it could make.
STATE_FOLDERS = {
    "1-file": (1, ":", True),
    "2-files": (2, ":", True),
    "3-files": (3, ":", None),
    "4-files": (4, ":", None),
    "6-files": (6, ":", None),
    "no-space": (100, "dd if=/dev/zero of=$W/state/full bs=4k 2>/dev/null", True),
    "room": (1000, ":", False),
}


@pytest.mark.parametrize("name", STATE_FOLDERS)
def test_state_folder_is_full(name, nothing_left):
    nodes, fill, fails = STATE_FOLDERS[name]
    script = f"""
    mkdir $W/state; mount -t tmpfs -o size=64k,nr_inodes={nodes} tmpfs $W/state; trap 'umount $W/state' EXIT; {fill}
    """ + with_config('state_dir = "$W/state"')
    answer, _ = run(script + "\nstatus=$?; rm -f $W/state/full; find $W/state -mindepth 1 >&2; exit $status", "full")
    assert fails is None or fails == (answer.status != 0), answer
    if answer.status != 0:
        expect(answer, ("/state", "[Nn]o space left", "free some space"))
    assert not re.search("^/.*/state/", answer.stderr, re.MULTILINE), answer


class Bundle:
    """A bundle folder, and calls of the shim in it as containerd makes them."""

    def __init__(self, folder):
        self.folder = folder

    def config(self):
        spec = {
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        }
        (self.folder / "rootfs").mkdir()
        (self.folder / "config.json").write_text(json.dumps(spec), encoding="utf-8")
        return self

    def call(self, action, identifier, namespace="default", stdin=b""):
        command = [SHIM, "-namespace", namespace, "-id", identifier, "-address", "/run/containerd/containerd.sock"]
        command += ["-publish-binary", "/usr/bin/containerd", "-bundle", str(self.folder), action]
        return subprocess.run(command, cwd=self.folder, input=stdin, capture_output=True, timeout=15, check=False)


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path)


BAD_IDS = {
    "empty": "",
    "separator": "a/b",
    "parent": "..",
    "up": "../../../etc/x",
    "long": "x" * 10_000,
    "newline": "a\nb",
    "space": "a b",
    "not-ascii": "ü",
    "absolute": "/tmp/x",
}


@pytest.mark.parametrize("action", ["start", "delete"])
@pytest.mark.parametrize("name", BAD_IDS)
def test_malformed_id(name, action, bundle, nothing_left):
    done = bundle.config().call(action, BAD_IDS[name])
    text = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode != 0, text
    assert re.search(r"\bid\b|identifier", text), text
    assert len(text) < 2000, "the error repeats all of the id"
    assert "panicked" not in text, text


@pytest.mark.parametrize("namespace", ["", "a/b", "..", "x" * 10_000])
def test_malformed_namespace(namespace, bundle, nothing_left):
    done = bundle.config().call("start", "fine", namespace)
    text = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode != 0 and "namespace" in text and len(text) < 2000, text


BROKEN_SPECS = {
    "missing": "rm config.json",
    "empty": ": >config.json",
    "cut-off": "printf '{' >config.json",
    "no-object": "printf '[]' >config.json",
    "wrong-type": "sed -i 's/\"ociVersion\":\"[^\"]*\"/\"ociVersion\":7/' config.json",
    "binary": "head -c 100 /dev/zero >config.json",
    "folder": "rm config.json; mkdir config.json",
}


@pytest.mark.parametrize("name", BROKEN_SPECS)
def test_spec_of_bundle(name, nothing_left):
    """A shim whose bundle loses its spec between containerd's writing and the shim's reading it."""
    script = f"""
    cat >$W/containerd-shim-broken-v2 <<'END'
#!/bin/sh
case "$*" in *" start") {BROKEN_SPECS[name]} ;; esac
exec {SHIM} "$@"
END
    chmod 755 $W $W/containerd-shim-broken-v2
    ctr run --rm --runtime $W/containerd-shim-broken-v2 $BUSYBOX $ID true"""
    answer, _ = run(script, f"spec-{name}")
    expect(answer, ("config.json|OCI spec",))


def test_unknown_type_of_options(bundle, nothing_left):
    """Runtime options of a type that nobody knows, in the way in which containerd hands them to `start`."""
    kind = b"example.com/no.such.Options"
    done = bundle.config().call("start", f"options-{uuid.uuid4().hex[:6]}", stdin=b"\x0a" + bytes([len(kind)]) + kind)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode != 0 and "no.such.Options" in text, text


def test_delete_of_nothing(bundle, nothing_left):
    """`delete` of a container that never was is what containerd calls after a failed start: it must succeed."""
    done = bundle.call("delete", f"nothing-{uuid.uuid4().hex[:6]}")
    assert done.returncode == 0, done


def test_socket_exists_already(bundle, nothing_left):
    """A living shim of the same id is an error and stays alive; the socket of a dead one is replaced."""
    identifier = f"socket-{uuid.uuid4().hex[:6]}"
    bundle.config()
    first = bundle.call("start", identifier)
    assert first.returncode == 0, first
    address = re.search(rb"/run/containerd/s/[0-9a-f]+", first.stdout).group().decode()
    try:
        second = bundle.call("start", identifier)
        text = (second.stdout + second.stderr).decode()
        assert second.returncode != 0 and address in text and "already exists" in text, text
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address)
        end_shims(identifier)
        assert os.path.exists(address)
        third = bundle.call("start", identifier)
        assert third.returncode == 0, third
    finally:
        end_shims(identifier)
        bundle.call("delete", identifier)
    assert not os.path.exists(address)


def processes(name):
    """Pids of the processes whose command line holds the text."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                if name in (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_shims(identifier):
    pids = processes(f"-id {identifier}")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)


# Starts a pod in the background and kills a program of it (program_pids lists those of its kind) after a delay that begins when it is seen.
KILL_DURING_CREATE = """
run $BUSYBOX $ID sh -c 'echo ran; sleep 60' >$W/out 2>$W/err & CTR=$!
for ((n = 0; n < 2000; n++)); do
    pid=$(comm -13 <(echo "$BEFORE") <(program_pids) | head -n 1)
    [[ -z $pid ]] || break
    sleep 0.01
done
[[ -n $pid ]] || { echo "it was never seen"; cat $W/err; exit 98; }
sleep DELAY
kill -KILL $pid
wait $CTR; status=$?
cat $W/out; cat $W/err >&2; exit $status
"""


def kill_during_create(program_pids, delay):
    script = f'program_pids() {{ {program_pids}; }}\nBEFORE=$(program_pids)\n' + KILL_DURING_CREATE.replace("DELAY", str(delay))
    return run(script, "killed")


def expect_killed_monitor(answer, too_early_to_run):
    """Before the container's start it is an error of the create that says how the monitor ended; after it, the container's end by SIGKILL."""
    if answer.status == 137 and not too_early_to_run:
        return
    expect(answer, ("monitor", "SIGKILL", "dmesg"))
    assert "ran" not in answer.stdout, answer


@pytest.mark.parametrize("delay", [0, 0.03, 0.1, 0.2, 0.4, 0.7, 1.1, 1.6])
def test_monitor_killed_during_create(delay, nothing_left):
    answer, took = kill_during_create("pgrep -x bulkhead-vmm | sort", delay)
    expect_killed_monitor(answer, delay <= 0.1)
    assert took < BOUND


@pytest.mark.parametrize("delay", [0.1, 0.6, 1.2])
def test_shim_killed_during_create(delay, nothing_left):
    """The one that serves; not the process that starts it and ends."""
    answer, took = kill_during_create("pgrep -ax containerd-shim | grep -v ' start$' | cut -d' ' -f1 | sort", delay)
    if answer.status != 137:
        expect(answer, ("ttrpc: closed",))
    assert took < BOUND


@pytest.mark.parametrize("phase", ["vmm", "kernel", "mounts", "agent", "created"])
def test_monitor_killed_after_phase(phase, nothing_left):
    """Kills the monitor as soon as the shim's log says that the phase is over."""
    script = """
    from=$(stat -c %s /var/log/containerd.log)
    run $BUSYBOX $ID sh -c 'echo ran; sleep 60' >$W/out 2>$W/err & CTR=$!
    for ((n = 0; n < 1000; n++)); do
        tail -c +$((from + 1)) /var/log/containerd.log | grep -q "phase=PHASE .*" && break
        sleep 0.01
    done
    ((n < 1000)) || { echo "the log never says phase=PHASE"; kill $CTR; wait; exit 98; }
    for ((n = 0; n < 1000; n++)); do monitor=$(pgrep -x bulkhead-vmm) && break; sleep 0.01; done
    kill -KILL $monitor
    wait $CTR; status=$?; cat $W/out; cat $W/err >&2; exit $status
    """
    answer, took = run(script.replace("PHASE", phase), f"phase-{phase}")
    expect_killed_monitor(answer, phase in ("vmm", "kernel", "mounts"))
    assert took < BOUND


def test_check_says_whether_the_host_is_ready(tmp_path):
    """`bulkhead check`: exit status, lines and JSON, of a host that is ready, with a wrong kernel, and for somebody without permission."""

    def check(*arguments, user=0):
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "bulkhead", *arguments, "check"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.stderr == "", done
        return done.returncode, done.stdout

    status, text = check()
    assert status == 0 and re.search("^OK +kvm ", text, re.MULTILINE) and "FAIL" not in text, text
    config = tmp_path / "bulkhead.toml"
    config.write_text('kernel = "/etc/services"\n', encoding="utf-8")
    tmp_path.chmod(0o755)
    status, text = check("--config", str(config))
    assert status == 1 and re.search("^FAIL kernel .*/etc/services.*ELF", text, re.MULTILINE), text
    done = subprocess.run(["bulkhead", "--config", str(config), "check", "--json"], capture_output=True, timeout=30, check=False)
    verdicts = {finding["name"]: finding["verdict"] for finding in json.loads(done.stdout)}
    assert (done.returncode, verdicts["kernel"], verdicts["kvm"]) == (1, "FAIL", "OK"), done
    status, text = check(user=65534)
    assert status == 1 and re.search("^FAIL kvm .*permission denied: .*root", text, re.MULTILINE), text
    assert re.search("^FAIL state .*not writable", text, re.MULTILINE), text


def test_config_file_is_optional(nothing_left):
    script = """
    mv /etc/bulkhead/bulkhead.toml $W/aside && trap 'mv $W/aside /etc/bulkhead/bulkhead.toml' EXIT
    run $BUSYBOX $ID echo it ran
    """
    answer, _ = run(script, "no-config", 300)
    assert (answer.status, answer.stdout) == (0, "it ran\n"), answer
