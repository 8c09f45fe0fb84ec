"""The same for a user who is not root: a server of one's own, PyTorch, MPI and the shell, and nothing escapes."""

import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import quadtest

TIMEOUT_SECONDS = 240
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

DAEMON = """
import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/"); os.closerange(0, 1024)
open(sys.argv[1], "w").write(str(os.getpid()))
os.execve("/bin/sleep", ["sleep", "4324"], {})
"""


class Person:
    """Who runs Quad, and a `quad` that runs as that person."""

    def __init__(self, test_class):
        self.folder = Path(tempfile.mkdtemp(prefix="quad-user-"))
        self.bin = Path(quadtest.quad_bin())
        self.name = pwd.getpwuid(os.geteuid()).pw_name

    @classmethod
    def ordinary(cls, test_class):
        """A new user of this machine when root; else the one who runs the test."""
        person = cls(test_class)
        if os.geteuid() != 0:
            return person
        person.name = f"quad-{secrets.token_hex(4)}"
        added = subprocess.run(["useradd", "--no-create-home", "--user-group", "--shell", "/bin/bash",
                                "--home-dir", person.folder / "home", person.name], capture_output=True, text=True)  # fmt: skip
        if added.returncode != 0:
            raise AssertionError(f"no user can be made here: {added.stderr}")
        test_class.addClassCleanup(subprocess.run, ["userdel", person.name], check=True, stderr=subprocess.DEVNULL)
        # The way to the user's folder, in what the test runner made for this file alone.
        for above in person.folder.parents:
            mode = above.stat().st_mode
            if not mode & stat.S_IXOTH:
                above.chmod(mode | stat.S_IXOTH)
        (person.folder / "home").mkdir()
        (person.folder / "bin").mkdir()
        real = person.folder / "real"
        real.mkdir()
        for program in ("quad", "quad-runner"):
            shutil.copy(Path(quadtest.quad_bin()).with_name(program), real / program)
        person.bin = person.folder / "bin" / "quad"
        person.bin.write_text(f"""#!/bin/sh
export HOME={person.folder}/home USER={person.name} LOGNAME={person.name} TMPDIR=/tmp
exec setpriv --reuid {person.name} --regid {person.name} --init-groups --inh-caps=-all {real}/quad "$@"
""")
        person.bin.chmod(0o755)
        for path in (person.folder, person.folder / "home"):
            shutil.chown(path, person.name, person.name)
        return person

    def copy(self, source):
        """A copy of an example that is this person's own."""
        target = self.folder / "home" / source.name
        shutil.copytree(source, target)
        if os.geteuid() == 0:
            for path in [target, *target.rglob("*")]:
                shutil.chown(path, self.name, self.name)
        return target


class AnOrdinaryUser(quadtest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.person = Person.ordinary(cls)
        before = os.environ.get("QUAD_BIN")
        os.environ["QUAD_BIN"] = str(cls.person.bin)
        cls.addClassCleanup(lambda: os.environ.update(QUAD_BIN=before) if before else os.environ.pop("QUAD_BIN"))
        cls.shared = quadtest.Server(nodes=3, folder=cls.person.folder)
        cls.addClassCleanup(cls.shared.close)
        cls.shared.start()

    @classmethod
    def uid(cls):
        return pwd.getpwnam(cls.person.name).pw_uid

    @quadtest.quick
    def test_everything_runs_as_that_user(self):
        server = self.shared
        self.assertEqual(Path(f"/proc/{server.process.pid}").stat().st_uid, self.uid())
        code, out, err = server.quad("launch", "id -u; echo user=$USER $SKYPILOT_USER; touch ~/x && echo wrote")
        self.assertEqual((code, out), (0, f"{self.uid()}\nuser={self.person.name} {self.person.name}\nwrote\n"), err)
        # By find, which does not mind that files come and go.
        foreign = subprocess.run(["find", server.data, "-not", "-user", str(self.uid())], capture_output=True, text=True).stdout
        self.assertEqual(foreign, "")

    def test_a_shell_task_of_three_ranks(self):
        server = self.shared
        job = server.launch({"num_nodes": 3, "setup": "echo $SKYPILOT_SETUP_NODE_RANK > ~/rank",
                             "run": 'test $(cat ~/rank) = $SKYPILOT_NODE_RANK && echo "rank $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES"'})  # fmt: skip
        server.wait_for_status(job, "SUCCEEDED")
        log = server.ok("logs", job, "--no-follow")
        self.assertEqual(sorted(re.findall(r"rank \d of 3", log)), [f"rank {rank} of 3" for rank in range(3)])

    def test_pytorch_trains_over_two_nodes_and_recovers(self):
        server = self.shared
        folder = self.person.copy(EXAMPLES / "charlm")
        job = server.launch("task.yaml", "--env", "STEPS=150", "--env", "SECONDS_PER_STEP=0.04", cwd=folder)
        quadtest.wait_until(lambda: server.json("checkpoints", job)["checkpoints"], 90, "there is a checkpoint")
        lost = server.job(job)["attempts"][0]["nodes"][1]
        server.ok("node", "fail", lost)
        server.wait_for_status(job, "SUCCEEDED", timeout=120)
        server.ok("node", "return", lost)
        view = server.job(job)
        self.assertEqual(view["epoch"], 2, view)
        self.assertGreater(view["attempts"][1]["resumed_step"], 0)

    def test_mpi_over_three_nodes(self):
        server = self.shared
        job = server.launch("task.yaml", cwd=self.person.copy(EXAMPLES / "mpi"))
        server.wait_for_status(job, "SUCCEEDED", timeout=90)
        log = server.ok("logs", job, "--no-follow")
        for rank in range(3):
            self.assertIn(f"MPI rank {rank} of 3, on the job's node {rank}: the ranks add up to 3", log)

    def daemon_job(self, end):
        folder = self.person.folder / "home" / secrets.token_hex(4)
        folder.mkdir()
        (folder / "daemon.py").write_text(DAEMON)
        (folder / "task.yaml").write_text(
            "workdir: .\nquad: {stop_grace: 1s}\nrun: |\n  python3 daemon.py ~/up; until [ -s ~/up ]; do sleep 0.02; done\n"
            "  setsid sleep 4324 >/dev/null 2>&1 &\n  nohup sh -c 'trap \"\" TERM; sleep 4324' &\n  echo ready; " + end + "\n")  # fmt: skip
        return self.shared.launch("task.yaml", cwd=folder)

    def daemons(self):
        return [pid for pid in quadtest.pids() if "4324" in quadtest.command_of(pid)]

    @quadtest.quick
    def test_nothing_escapes_by_becoming_a_daemon(self):
        server = self.shared
        job = self.daemon_job("exit 5")
        server.wait_for_status(job, "FAILED")
        self.assertEqual(self.daemons(), [])
        for way in ("cancel", "runner", "node"):
            job = self.daemon_job("sleep 4324")
            quadtest.wait_until(lambda: "ready" in server.ok("logs", job, "--no-follow"), 20, "it is up")
            quadtest.wait_until(lambda: len(self.daemons()) >= 4, 20, "so are its daemons")
            if way == "runner":
                os.kill(server.job(job)["attempts"][0]["ranks"][0]["pid"], signal.SIGKILL)
            elif way == "node":
                server.ok("node", "fail", server.job(job)["attempts"][0]["nodes"][0])
            if way != "cancel":
                quadtest.wait_until(lambda: server.job(job)["epoch"] == 2, 30, f"the next attempt begins after: {way}")
            server.ok("cancel", job)
            server.wait_for_status(job, "CANCELLED", timeout=60)
            self.assertEqual(self.daemons(), [], way)
            if way == "node":
                for node in server.json("node", "list")["nodes"]:
                    server.ok("node", "return", node["name"])

    def test_what_cannot_be_limited_is_said(self):
        server = self.shared
        job = server.launch("resources: {memory: 200MB}\nrun: python3 -c 'x = b\"x\" * 500_000_000; print(len(x))'\n")
        server.wait_for_status(job, *quadtest.TERMINAL)
        story = server.ok("story", job)
        if server.job(job)["status"] == "SUCCEEDED":
            self.assertIn("A memory limit cannot be set here, so none is enforced by Quad", story)
        else:
            self.assertRegex(server.job(job)["message"], r"killed: memory")


class Cpus(quadtest.TestCase):
    """A rank is kept to the CPUs that it asked for; that takes no permission."""

    def setUp(self):
        self.cpus = sorted(os.sched_getaffinity(0))
        if len(self.cpus) < 2:
            self.skipTest("this machine has one CPU only, which nothing can be kept from")

    def check(self, server):
        show = "run: |\n  python3 -c 'import os; print(sorted(os.sched_getaffinity(0)))'; nproc; until [ -e ~/go ]; do sleep 0.05; done\n"
        one = [server.launch("resources: {cpus: 1, memory: 1}\n" + show) for _ in range(2)]
        whole = server.launch(f"resources: {{cpus: {len(self.cpus)}, memory: 1}}\n" + show)
        printed = {}
        for job in [*one, whole]:
            quadtest.wait_until(lambda job=job: server.ok("logs", job, "--no-follow").count("\n") == 2, 30, "it has printed")
            printed[job] = server.ok("logs", job, "--no-follow").splitlines()
        self.assertEqual(sorted(printed[job][0] for job in one), [f"[{cpu}]" for cpu in self.cpus[:2]])
        self.assertEqual([printed[job][1] for job in one], ["1", "1"])
        self.assertEqual(printed[whole], [str(self.cpus), str(len(self.cpus))])
        # A server that is started again still knows whose they are.
        server.restart()
        for path in server.data.glob(f"nodes/*/{one[0]}-1-0/home"):
            (path / "go").touch()
        server.wait_for_status(one[0], "SUCCEEDED")
        quadtest.wait_until(lambda: not list(server.data.glob(f"nodes/*/{one[0]}-1-0")), 20, "its runner is gone")
        last = server.launch("resources: {cpus: 1, memory: 1}\n" + show)
        quadtest.wait_until(lambda: server.ok("logs", last, "--no-follow").count("\n") == 2, 30, "it has printed")
        self.assertEqual(server.ok("logs", last, "--no-follow").splitlines()[0], printed[one[0]][0])
        server.ok("cancel", "--all")
        for job in (one[1], whole, last):
            server.wait_for_status(job, "CANCELLED")
        self.assertNotIn("cannot be kept", server.ok("story", last))

    def test_as_whoever_runs_this_test(self):
        self.check(self.server(nodes=2, gpus="", options=("--cpus", str(len(self.cpus) * 2))))

    def test_as_an_ordinary_user(self):
        if os.geteuid() != 0:
            self.skipTest("that is who runs this test already")
        person = Person.ordinary(type(self))
        before = os.environ.get("QUAD_BIN")
        os.environ["QUAD_BIN"] = str(person.bin)
        self.addCleanup(lambda: os.environ.update(QUAD_BIN=before) if before else os.environ.pop("QUAD_BIN"))
        self.check(self.server(nodes=2, gpus="", folder=person.folder, options=("--cpus", str(len(self.cpus) * 2))))
