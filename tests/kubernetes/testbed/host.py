"""What the testbed asks of the machine: control groups, network namespaces, and processes that outlive their starter.

Nothing here remembers process ids. Every process of a testbed is in a control group whose name follows from the
testbed's folder, so it is found and ended whatever happened to the program that started it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000


class TestbedError(Exception):
    """What went wrong, in one sentence for the user."""


def say(text):
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def wait_until(predicate, timeout, what, every=0.05):
    """Returns the first true value of `predicate()`."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TestbedError(f"waited {timeout} s in vain until {what}")
        time.sleep(every)


def run(*command, timeout=60, input=None, stdin=subprocess.DEVNULL, **options):
    """Runs a command to its end and returns what it printed; its failure is an error with its own words."""
    try:
        given = {"stdin": stdin} if input is None else {"input": input}
        done = subprocess.run(list(map(str, command)), text=True, capture_output=True, timeout=timeout, **given, **options)
    except FileNotFoundError:
        raise TestbedError(f"there is no `{command[0]}` here; `./dev setup kubernetes` installs what is needed") from None
    except subprocess.TimeoutExpired:
        raise TestbedError(f"`{' '.join(map(str, command))}` did not end within {timeout} s") from None
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise TestbedError(f"`{' '.join(map(str, command))}` failed with {done.returncode}: {' / '.join(words)}")
    return done.stdout


class Cgroup:
    """A control group by its name below the root: `quad-testbed-1a2b3c4d/nodes/n1`.

    With version 1, processes are followed in the freezer hierarchy, and the others are only for the kubelet's limits.
    """

    unified = (CGROUPS / "cgroup.controllers").exists()
    root = CGROUPS if unified else CGROUPS / "freezer"

    def __init__(self, name):
        self.name = name
        self.path = self.root / name

    def below(self, name):
        return Cgroup(f"{self.name}/{name}")

    def create(self):
        if not self.root.is_dir():
            raise TestbedError(f"there are no control groups with a freezer at {self.root}")
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def create_for_kubelet(self):
        """Also in each hierarchy of version 1, or with the controllers of version 2, as a kubelet's cgroupRoot wants."""
        self.create()
        steps = [self.name.rsplit("/", n)[0] for n in reversed(range(self.name.count("/") + 1))]
        if self.unified:
            for step in ["", *steps]:
                (CGROUPS / step / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids")
            return self
        for hierarchy in self._hierarchies():
            for step in steps:
                folder = hierarchy / step
                folder.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):  # a new group has none, and then takes no process
                    if (folder / file).exists():
                        (folder / file).write_text((folder.parent / file).read_text())
        return self

    @staticmethod
    def _hierarchies():
        if Cgroup.unified:
            return [CGROUPS]
        return [path for path in CGROUPS.iterdir() if not path.is_symlink() and (path / "cgroup.procs").exists()]

    def pids(self):
        """Those of the group and of all groups below it."""
        found = []
        for folder, _, _ in os.walk(self.path):
            try:
                found += map(int, Path(folder, "cgroup.procs").read_text().split())
            except OSError:
                pass  # removed as we looked
        return found

    def freeze(self):
        file, value = ("cgroup.freeze", "1") if self.unified else ("freezer.state", "FROZEN")
        (self.path / file).write_text(value)
        wait_until(self.is_frozen, 20, f"{self.name} is frozen", every=0.01)

    def is_frozen(self):
        try:
            if self.unified:
                return "frozen 1" in (self.path / "cgroup.events").read_text()
            return (self.path / "freezer.state").read_text().strip() == "FROZEN"
        except FileNotFoundError:
            return False

    def thaw(self):
        file, value = ("cgroup.freeze", "0") if self.unified else ("freezer.state", "THAWED")
        try:
            (self.path / file).write_text(value)
        except FileNotFoundError:
            pass

    def kill(self):
        """Ends every process at once: none of them runs on to see another one end."""
        if not self.path.exists():
            return
        deadline = time.monotonic() + 30
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise TestbedError(f"processes of {self.name} do not end: {pids}")
            try:
                self.freeze()
            except (OSError, TestbedError):
                pass  # then they end one after the other
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for folder, _, _ in os.walk(self.path):  # a container may have been paused on its own
                Cgroup(str(Path(folder).relative_to(self.root))).thaw()
            time.sleep(0.01)

    def remove(self):
        """The group, those below it, and what a kubelet made of them in other hierarchies. No process may be left."""
        for hierarchy in self._hierarchies():
            for folder, _, _ in os.walk(hierarchy / self.name, topdown=False):
                for _ in range(100):
                    try:
                        os.rmdir(folder)
                    except FileNotFoundError:
                        pass
                    except OSError:  # its last process is not quite gone
                        time.sleep(0.02)
                        continue
                    break


def start(cgroup, command, log, network=None, node=None):
    """Starts a process that lives on when we end: in its own control group, in the network namespace of that name, or
    in all the namespaces of the process `node`."""
    cgroup.create()
    if cgroup.pids():
        raise TestbedError(f"{cgroup.name.rpartition('/')[2]} runs already")
    enter = []
    if network:
        enter = ["nsenter", f"--net={NETNS / network}"]
    if node:
        enter = ["nsenter", f"--target={node}", "--mount", "--uts", "--ipc", "--net", "--pid"]
    join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup.path)]
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [*join, *enter, *map(str, command)], cwd="/", env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    # From now on an empty group means that it ended.
    wait_until(lambda: cgroup.pids() or process.poll() is not None, 20, f"{command[0]} has started", every=0.005)
    return process


def network_names(prefix):
    return sorted(path.name for path in NETNS.iterdir() if path.name.startswith(prefix)) if NETNS.is_dir() else []


def remove_network(name):
    if (NETNS / name).exists():
        try:
            run("ip", "netns", "del", name)
        except TestbedError:
            (NETNS / name).unlink(missing_ok=True)  # a name without a namespace behind it


def enter_network(name):
    """From here on this process's new sockets are in that network namespace."""
    with open(NETNS / name) as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise TestbedError(f"cannot enter the network {name}: {os.strerror(ctypes.get_errno())}")


def tail(path, lines=5):
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"
