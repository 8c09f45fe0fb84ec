"""Jobs that misbehave: each ends with a clear word, nothing of it stays, and the next job on the same server runs."""

import hashlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import quadapi
import quadtest
import runnerwire

TIMEOUT_SECONDS = 300


def task_folder(**files):
    folder = Path(tempfile.mkdtemp())
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content)
    return folder


class HostileJobs(quadtest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = quadtest.Server(nodes=4, gpus="")
        cls.addClassCleanup(cls.shared.close)
        cls.shared.start()

    def tearDown(self):
        """Whatever the job did: nothing of it is alive, and another one runs."""
        server = self.shared
        live = [job["id"] for job in server.json("status")["jobs"] if job["status"] not in quadtest.TERMINAL]
        if live:  # a failed test's; the next shall not suffer for it
            server.ok("cancel", *live)
        code, out, err = server.quad("launch", "echo still $((40 + 2))")
        self.assertEqual((code, out), (0, "still 42\n"), err)
        quadtest.wait_until(lambda: not quadtest.processes_of(f"{server.data}/nodes/"), 20, "no process of a job is left")
        self.assertIsNone(server.process.poll(), server.log_tail())

    def logs(self, job, *args):
        """The output, byte for byte."""
        command = [quadtest.quad_bin(), "logs", str(job), "--no-follow", *args]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=self.shared.environment()).stdout

    def processes(self, text):
        return quadtest.processes_of(f"{self.shared.data}/nodes/", text)

    def test_what_a_rank_reports_of_itself_is_bounded(self):
        server = self.shared
        job = server.launch("run: echo up; sleep 1000\nresources: {cpus: 1, memory: 0.5}\nquad: {fence: strict}\n")
        server.wait_for_status(job, "RUNNING")
        api = quadapi.Local(server)
        with runnerwire.Runner(server, job) as runner:
            for number in range(700):
                runner.send(type="note", kind="k" * 5_000, message="n" * 20_000, seq=100 + number)
            runner.send(type="progress", step=7, total=9, at_ms=1,
                        metrics={f"m{number}-{'x' * 100}": number for number in range(20_000)})  # fmt: skip
            runner.heartbeat()  # answered behind all of them
            quadtest.wait_until(lambda: "note.limit" in api.get(f"/v1/events?job={job}&limit=10000").text, 30, "it says so")
            story = api.get(f"/v1/jobs/{job}/story")
            self.assertLess(len(story.body), 2 << 20)
            self.assertIn("further ones are not recorded", story.text)
            progress = api.get("/v1/jobs?limit=10").json["jobs"][0]["progress"]
            self.assertEqual((progress["step"], progress["total"]), (7, 9))
            self.assertLess(len(str(progress)), 8_000)
            self.assertGreater(len(progress["metrics"]), 10)
        server.ok("cancel", job)
        server.wait_for_status(job, "CANCELLED")

    def test_one_rank_has_few_runners_connected(self):
        server = self.shared
        job = server.launch("run: echo up; sleep 1000\nresources: {cpus: 1, memory: 0.5}\n")
        server.wait_for_status(job, "RUNNING")
        heads = []
        for number in range(30):
            link, head = runnerwire.connect(server, job, f"ghost-{number}")
            self.addCleanup(link.close)
            heads.append(head.split(b"\r\n")[0])
        self.assertLess(sum(b" 101 " in head for head in heads), 5, heads)
        self.assertIn(b"HTTP/1.1 429 Too Many Requests", heads)
        server.ok("cancel", job)
        server.wait_for_status(job, "CANCELLED")

    def test_a_gigabyte_without_a_line_end(self):
        server, size = self.shared, 1_000_000_000
        job = server.launch(f"run: head -c {size} /dev/zero | tr '\\0' x\n")
        server.wait_for_status(job, "SUCCEEDED", timeout=120)
        logs = subprocess.Popen([quadtest.quad_bin(), "logs", str(job), "--no-follow"], stdout=subprocess.PIPE,
                                env=server.environment())  # fmt: skip
        total, other = 0, 0
        while piece := logs.stdout.read(1 << 20):
            total += len(piece)
            other += len(piece) - piece.count(b"x")
        self.assertEqual((logs.wait(), total, other), (0, size, 0))
        # A search has to hold a line, but not this one.
        self.assertEqual(server.ok("logs", job, "--no-follow", "--grep", "y", timeout=120), "")
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        if not quadtest.is_sanitized():
            self.assertLess(memory, 300_000, "the server held the line in memory (kB)")
        next(server.data.glob(f"logs/{job}/1/0.log")).unlink()

    def test_output_that_is_no_text(self):
        server = self.shared
        every = bytes(range(256)) * 300
        broken = b"\xff\xfe cut off: \xc3\n\xed\xa0\x80 \xf8\x88\x80\x80\x80 \x00 \x1b[2J\r\n"
        folder = task_folder(write__py=f"import sys\nfor _ in range(50): sys.stdout.buffer.write({broken!r} + bytes(range(256)) * 300)\n",
                             task__yaml="workdir: .\nrun: python3 write.py\n")  # fmt: skip
        job = server.launch("task.yaml", cwd=folder)
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(hashlib.sha256(self.logs(job)).hexdigest(), hashlib.sha256((broken + every) * 50).hexdigest())
        self.assertEqual(self.logs(job, "--tail", "1"), every.rpartition(b"\n")[2])
        self.assertIn(b"cut off", self.logs(job, "--grep", "cut off"))
        # Nor need progress be any, or what ends up in a message.
        job = server.launch(r"""run: |
            head -c 100000 /dev/urandom > $QUAD_PROGRESS; printf '\n{"step": 1e999}\n{"step": "x"}\n[[[[\n' >> $QUAD_PROGRESS
            printf '{"step": 7, "loss": NaN}\n{"step": 8, "loss": 2.5}\n' >> $QUAD_PROGRESS
            printf '\377\376\n'; until [ -e ~/go ]; do sleep 0.05; done; exit 3
            """)
        quadtest.wait_until(lambda: (server.job(job)["progress"] or {}).get("step") == 8, 20, "the good lines are read")
        next(server.data.glob(f"nodes/*/{job}-1-0/home")).joinpath("go").touch()
        server.wait_for_status(job, "FAILED")
        self.assertEqual(server.job(job)["exit_code"], 3)

    @quadtest.quick
    def test_a_job_of_a_thousand_processes_dies_as_one(self):
        server = self.shared
        # Half of them leave the session and the process group, and ignore what can be ignored.
        job = server.launch("""run: |
            trap '' TERM HUP INT
            for i in $(seq 500); do sleep 4321 & done
            for i in $(seq 500); do setsid sleep 4321 & done
            until [ -e ~/go ]; do sleep 0.05; done; exit 4
            """)
        quadtest.wait_until(lambda: len(self.processes("4321")) >= 1000, 60, "all are there", every=0.3)
        next(server.data.glob(f"nodes/*/{job}-1-0/home")).joinpath("go").touch()
        server.wait_for_status(job, "FAILED")
        self.assertEqual(self.processes("4321"), [])
        view = server.job(job)
        self.assertEqual((view["cause"], view["exit_code"], view["epoch"]), ("user", 4, 1), view)

    @quadtest.quick
    def test_a_job_that_becomes_a_daemon_ends_with_its_script(self):
        server = self.shared
        folder = task_folder(daemon__py="""
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/"); os.umask(0); os.closerange(0, 1024)
os.environ.clear()
open(sys.argv[1], "w").write("up")
os.execve("/bin/sleep", ["sleep", "4322"], {})
""", task__yaml="workdir: .\nrun: |\n  python3 daemon.py ~/up; until [ -s ~/up ]; do sleep 0.02; done; echo the script ends\n")  # fmt: skip
        job = server.launch("task.yaml", cwd=folder)
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.ok("logs", job, "--no-follow"), "the script ends\n")
        # Its environment, arguments and folder say nothing of the job: it is looked for by its name alone.
        self.assertEqual([pid for pid in quadtest.pids() if quadtest.command_of(pid)[1:] == ["4322"]], [])

    def test_a_job_that_closes_its_output_runs_on(self):
        server = self.shared
        job = server.launch("run: |\n  echo before; exec >&- 2>&- <&-; sleep 0.5; echo after > ~/after; (exit 6)\n")
        server.wait_for_status(job, "FAILED")
        self.assertEqual(server.job(job)["exit_code"], 6)
        log = server.ok("logs", job, "--no-follow")
        self.assertTrue(log.startswith("before\n"), log)

    def test_a_setup_that_fails_on_one_rank_of_four(self):
        server = self.shared
        job = server.launch("""
            num_nodes: 4
            setup: |
                [ $SKYPILOT_SETUP_NODE_RANK = 2 ] || sleep 300
                echo no compiler on rank $SKYPILOT_SETUP_NODE_RANK; exit 9
            run: echo never
            """)
        server.wait_for_status(job, "FAILED")
        view = server.job(job)
        self.assertEqual((view["cause"], view["skypilot_status"], view["epoch"]), ("setup", "FAILED_SETUP", 1), view)
        self.assertRegex(view["message"], r"(?i)setup.*rank 2.*code 9|rank 2.*setup.*code 9", view["message"])
        log = server.ok("logs", job, "--no-follow")
        self.assertIn("no compiler on rank 2", log)
        self.assertNotIn("never", log)

    def test_a_job_that_takes_more_memory_than_it_asked_for(self):
        server = self.shared
        job = server.launch("""
            resources: {memory: 200MB}
            run: |
                python3 -c 'x = b"x" * 50_000_000; print("small is fine", flush=True); y = b"y" * 1_000_000_000'
                echo ended with $?; exit 137
            """)
        server.wait_for_status(job, "FAILED")
        if "memory limit cannot be set here" in server.ok("story", job):
            self.skipTest("a memory limit is not permitted here")
        view = server.job(job)
        self.assertRegex(view["message"], r"killed: memory \d+\.\d of 186\.3 MiB", view)
        self.assertEqual((view["cause"], view["epoch"]), ("limit", 1), view)
        self.assertIn("small is fine\nended with 137\n", server.ok("logs", job, "--no-follow"))
        # A runner that is killed cannot remove the group of its limit itself.
        job = server.launch("resources: {memory: 1}\nrun: sleep 4325\n")
        quadtest.wait_until(lambda: self.processes("4325"), 20, "it runs")
        groups = [Path(line) for path in server.data.glob(f"nodes/*/{job}-1-0/cgroup") for line in path.read_text().splitlines()]
        self.assertEqual({group.name.rpartition("-")[0] for group in groups}, {f"quad-{job}-1-0"})
        self.assertTrue(all(group.is_dir() for group in groups))
        os.kill(server.job(job)["attempts"][0]["ranks"][0]["pid"], signal.SIGKILL)
        quadtest.wait_until(lambda: not any(group.exists() for group in groups), 20, "the groups are gone")
        server.ok("cancel", job)
        server.wait_for_status(job, "CANCELLED")

    @quadtest.quick
    def test_a_fork_bomb_stops_at_its_bound(self):
        server = self.server(nodes=1, gpus="", start=False)
        server.data.mkdir()
        (server.data / "config.yaml").write_text("engines: {local: {processes: 200}}\n")
        server.start()
        job = server.launch("run: |\n  bomb() { bomb | bomb & }; bomb; sleep 4326\n")
        told = "as many processes and threads as it may, 200"
        quadtest.wait_until(lambda: told in server.ok("story", job) or "cannot be limited" in server.ok("story", job), 60,
                            "the story tells of it")  # fmt: skip
        if told not in server.ok("story", job):
            server.ok("cancel", job)
            self.skipTest("a bound on processes is not permitted here")
        self.assertLessEqual(len(quadtest.processes_of(f"QUAD_RANK_KEY={job}-1-0")), 210)
        code, out, err = server.quad("exec", job, "--", "true")
        if code != 0:  # unless one of its processes has just ended
            self.assertIn("as many processes as it may", err)
        # Everybody else goes on.
        self.assertEqual(server.ok("launch", "echo still here"), "still here\n")
        server.ok("cancel", job)
        server.wait_for_status(job, "CANCELLED")
        quadtest.wait_until(lambda: not quadtest.processes_of(f"{server.data}/nodes/", "4326"), 20, "nothing of it is left")

    @quadtest.quick
    def test_a_root_rank_stays_within_its_limits(self):
        server = self.shared
        folder = task_folder(leave__py="""
import glob, os, subprocess
tried = []
def attempt(what, action):
    try:
        action()
        tried.append(what)
    except (OSError, subprocess.CalledProcessError):
        pass
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True) + glob.glob("/sys/fs/cgroup/**/tasks", recursive=True):
    attempt(f"moved by {path}", lambda: write(path, "0"))
for name, more in ("memory.limit_in_bytes", 1 << 40), ("memory.max", "max"), ("pids.max", "max"), ("cpuset.cpus", "0-1"):
    for path in glob.glob(f"/sys/fs/cgroup/**/{name}", recursive=True):
        attempt(f"changed {path}", lambda: write(path, str(more)))
os.makedirs("there", exist_ok=True)
for kind, options in ("cgroup2", ""), ("cgroup", "memory"), ("cgroup", "pids"), ("tmpfs", ""):
    attempt(f"mounted {kind} {options}", lambda: run("mount", "-t", kind, *(["-o", options] if options else []), "none", "there"))
attempt("remounted", lambda: run("mount", "-o", "remount,rw", "/sys/fs/cgroup/memory"))
attempt("left a namespace", lambda: run("nsenter", "-t", "1", "-m", "-C", "mount", "-t", "tmpfs", "none", "there"))
# In a user namespace of its own, root may mount its view of the groups, and change what is in that.
subprocess.run(["unshare", "-UrmC", "sh", "-c", "for kind in memory pids; do mount -t cgroup -o $kind none there && { echo 0 > there/cgroup.procs; "
                "echo max > there/pids.max; echo -1 > there/memory.limit_in_bytes; umount there; }; done; mount -t cgroup2 none there && { "
                "echo 0 > there/cgroup.procs; echo max > there/memory.max; }"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    os.sched_setaffinity(0, range(os.cpu_count()))
except OSError:
    pass
print("escapes:", tried, "CPUs:", len(os.sched_getaffinity(0)), flush=True)
while not os.path.exists(os.path.expanduser("~/go")):
    run("sleep", "0.05")
x = bytearray(700 << 20)
print("took 700 MiB")
""", task__yaml="workdir: .\nresources: {cpus: 1, memory: 256MB}\nrun: python3 leave.py\n")  # fmt: skip
        job = server.launch("task.yaml", cwd=folder)
        quadtest.wait_until(lambda: "escapes:" in server.ok("logs", job, "--no-follow"), 60, "it has tried")
        story = server.ok("story", job)
        pid = next(iter(self.processes("leave.py")))
        groups = {line.split(":")[1] or "v2": line.split(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
        next(server.data.glob(f"nodes/*/{job}-1-0/home")).joinpath("go").touch()
        if "cannot be" in story:
            server.ok("cancel", job)
            self.skipTest("limits are not permitted here")
        server.wait_for_status(job, "FAILED")
        log = server.ok("logs", job, "--no-follow")
        self.assertIn("escapes: [] ", log)
        self.assertNotIn("took", log)
        self.assertEqual(server.job(job)["cause"], "limit", server.describe(job))
        held = [path for path in groups.values() if f"/quad-{job}-1-0-" in path]
        self.assertTrue(held, groups)
        if "cpuset" in groups:
            self.assertIn(f"/quad-{job}-1-0-", groups["cpuset"])
            self.assertIn("CPUs: 1\n", log)

    def test_tasks_and_sessions_of_a_cluster_share_its_limits(self):
        server = self.shared
        server.ok("launch", "-c", "small", "--memory", "0.3", "true", timeout=120)
        take = "python3 -c 'import os, time; x = b\"x\" * 200_000_000; print(\"taken\", flush=True); time.sleep({})'"
        first = server.json("exec", "small", "-d", take.format(600))["job"]
        quadtest.wait_until(lambda: "taken" in server.ok("logs", first, "--no-follow"), 30, "the first has its part")
        if "cannot be set" in server.ok("story", first):
            self.skipTest("a memory limit is not permitted here")
        second = server.json("exec", "small", "-d", take.format(0))["job"]
        quadtest.wait_until(lambda: any(server.job(job)["status"] == "FAILED" for job in (first, second)), 60,
                            "one is killed, as both together take more than the cluster has")  # fmt: skip
        server.quad("down", "-y", "small")

    def test_more_output_than_is_kept_while_the_server_is_away(self):
        # What a runner keeps while the server is away is small here, so that it overflows soon. (So it would when the
        # server is only slower than the job, which is why the other tests have a server of their own.)
        server = self.server(nodes=1, gpus="", options=("--spool-gb", "0.02"))
        lines = 600_000  # of 100 bytes
        job = server.launch(f"""run: |
            echo begin; until [ -e ~/go ]; do sleep 0.02; done
            python3 -c 'for i in range({lines}): print(f"line {{i:094}}")'
            echo written > ~/written; until [ -e ~/end ]; do sleep 0.02; done; echo end
            """)
        quadtest.wait_until(lambda: "begin" in server.ok("logs", job, "--no-follow"), 30, "it runs")
        home = next(server.data.glob(f"nodes/*/{job}-1-0/home"))
        server.kill()
        (home / "go").touch()
        quadtest.wait_until((home / "written").exists, 60, "the job is not held up by its output")
        kept = sum(path.stat().st_size for path in home.parent.glob("spool.*"))
        self.assertLessEqual(kept, 25_000_000)
        server.start()
        (home / "end").touch()
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.job(job)["epoch"], 1)
        log = server.ok("logs", job, "--no-follow").splitlines()
        marks = [line for line in log if line.startswith("[quad: ")]
        self.assertEqual(len(marks), 1, marks)
        lost = int(marks[0].split()[1])
        self.assertRegex(marks[0], r"^\[quad: \d+ bytes were lost here: ")
        self.assertEqual((log[0], log[-1]), ("begin", "end"))
        numbers = [int(line[5:]) for line in log if line.startswith("line ")]
        self.assertEqual(lost, (lines - len(numbers)) * 100)
        # The newest are kept, whole and in order.
        at = log.index(marks[0])
        after = [int(line[5:]) for line in log[at + 1 : -1]]
        self.assertEqual(after, list(range(lines - len(after), lines)))
        self.assertGreater(len(after), 100_000)
