"""What an operator relies on: metrics that Prometheus can read, backups taken under way, and damage that is found."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path

import quadapi
import quadtest

TIMEOUT_SECONDS = 180


def parse_prometheus(text):
    """The text format 0.0.4, strictly: {family: (type, {(name, labels): value})}."""
    name = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
    label = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
    families, current = {}, None
    assert text.endswith("\n"), "the last line must end"
    for line in text.splitlines():
        if help_ := re.fullmatch(rf"# HELP ({name}) (\S.*)", line):
            current = help_[1]
            assert current not in families, f"{current} comes twice"
            families[current] = [None, {}]
        elif type_ := re.fullmatch(rf"# TYPE ({name}) (counter|gauge|histogram)", line):
            assert type_[1] == current and families[current][0] is None, line
            families[current][0] = type_[2]
        else:
            sample = re.fullmatch(rf"({name})(?:\{{({label}(?:,{label})*)\}})? (\S+)", line)
            assert sample, f"this is no sample: {line}"
            kind, samples = families[current]
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert sample[1] in [current + suffix for suffix in suffixes], f"{line} is under {current}"
            assert kind != "counter" or current.endswith("_total"), f"{current} is a counter"
            key = (sample[1], sample[2] or "")
            assert key not in samples, f"{line} comes twice"
            samples[key] = float(sample[3])
    for family, (kind, samples) in families.items():
        if kind == "histogram":
            buckets = [v for (n, _), v in samples.items() if n.endswith("_bucket")]
            assert buckets == sorted(buckets), f"{family} is not cumulative"
            assert (f"{family}_bucket", 'le="+Inf"') in samples
            assert buckets[-1] == samples[(f"{family}_count", "")] and (f"{family}_sum", "") in samples
    return families


class Metrics(quadtest.TestCase):
    @quadtest.quick
    def test_they_parse_and_tell_the_truth(self):
        server = self.server(nodes=3)
        gate = server.folder / "gate"
        job = server.launch(f"resources: {{accelerators: 'H100:3'}}\nrun: until test -e {gate}; do sleep 0.05; done; echo done")
        server.wait_for_status(job, "RUNNING")
        server.kill_runners()
        quadtest.wait_until(lambda: server.job(job)["epoch"] == 2, 30, "it was recovered")
        server.wait_for_status(job, "RUNNING")
        used = server.job(job)["nodes"][0]
        others = [node for node in ("local-1", "local-2", "local-3") if node != used]
        server.ok("node", "drain", others[0])
        server.ok("node", "fail", others[1])
        quadtest.wait_until(lambda: quadapi.Api(server).metrics()['quad_nodes{health="lost"}'] == 1, 30, "a node is lost")
        server.launch("resources: {accelerators: 'H100:8'}\nrun: 'true'")
        with quadapi.Api(server).events(), quadapi.Api(server).open(f"/v1/jobs/{job}/logs?follow=1"):
            answer = quadapi.Api(server).get("/metrics")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        families = parse_prometheus(answer.text)
        flat = {name + (f"{{{labels}}}" if labels else ""): value
                for _, samples in families.values() for (name, labels), value in samples.items()}  # fmt: skip
        for name, value in (
            ('quad_jobs{status="RUNNING"}', 1),
            ('quad_jobs{status="PENDING"}', 1),
            ('quad_jobs{status="FAILED"}', 0),
            ("quad_jobs_waiting", 1),
            ('quad_recoveries_total{verdict="platform"}', 1),
            ('quad_recoveries_total{verdict="hardware"}', 0),
            ('quad_nodes{health="ready"}', 2),
            ('quad_nodes{health="lost"}', 1),
            ("quad_nodes_drained", 1),
            ('quad_gpus{model="H100",state="held"}', 3),
            ('quad_gpus{model="H100",state="free"}', 5),
            ('quad_gpus{model="H100",state="closed"}', 16),
            ("quad_event_streams", 1),
            ("quad_log_streams", 1),
            ("quad_runner_sessions", 1),
            ("quad_breaker_open", 0),
            ("quad_log_lost_bytes_total", 0),
            ("quad_events_total", quadapi.Api(server).get("/v1/info").json["revision"]),
        ):
            self.assertEqual(flat[name], value, name)
        for name in ("quad_inbox_length", "quad_http_connections", 'quad_http_requests_total{status="2xx"}',
                     "process_start_time_seconds"):  # fmt: skip
            self.assertGreaterEqual(flat[name], 0, name)
        self.assertGreater(flat["quad_commit_seconds_count"], 5)
        self.assertGreater(flat["quad_commit_seconds_sum"], 0)
        before = flat["quad_log_bytes_total"]
        gate.touch()
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(quadapi.Api(server).metrics()["quad_log_bytes_total"], before + len("done\n"))
        documented = (Path(__file__).resolve().parents[2] / "docs" / "operating.md").read_text()
        for family in families:
            self.assertIn(f"`{family}", documented, "docs/operating.md tells of every metric")


class Backup(quadtest.TestCase):
    def test_a_copy_taken_under_way_starts_as_a_server(self):
        server = self.server(nodes=2)
        server.ok("node", "drain", "local-1")
        waiting = server.launch("num_nodes: 2\nresources: {accelerators: 'H100:8'}\nrun: printf %s $TOKEN | sha256sum",
                                "--secret", "TOKEN", env={"TOKEN": "tell-nobody"})  # fmt: skip
        done, made = threading.Event(), []

        def keep_busy():
            while not done.is_set():
                made.append(server.launch("run: echo $QUAD_JOB_ID", "--name", "busy"))

        busy = threading.Thread(target=keep_busy)
        busy.start()
        copies = []
        try:
            for number in range(3):
                quadtest.wait_until(lambda: len(made) > 3 * number, 60, "jobs run")
                copies.append(server.folder / f"copy-{number}.db")
                said = server.ok("admin", "backup", copies[-1])
                self.assertIn(str(copies[-1]), said)
        finally:
            done.set()
            busy.join()
        server.ok("admin", "backup", copies[0])  # an older copy is replaced
        self.assertEqual(copies[0].stat().st_mode & 0o777, 0o600)
        (server.folder / "precious").write_text("not a database")
        code, _, err = server.quad("admin", "backup", server.folder / "precious")
        self.assertNotEqual(code, 0)
        self.assertIn("name another file", err)
        code, _, err = server.quad("admin", "backup", server.data / "quad.db")
        self.assertNotEqual(code, 0, err)
        os.mkfifo(server.folder / "pipe")
        code, _, err = server.quad("admin", "backup", server.folder / "pipe")
        self.assertIn("pipe is there already and is no database; name another file", err)
        code, _, err = server.quad("admin", "backup", "/proc/copy.db")
        self.assertEqual(code, 2, err)
        self.assertIn("The backup to /proc/copy.db failed: no file can be made in /proc", err)
        for copy in copies:
            self.assertEqual(sqlite3.connect(copy).execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        token, newest = server.token, quadapi.Api(server).get("/v1/info").json["revision"]
        server.close()

        restored = self.server(nodes=2, start=False, options=["--accept-lost-records"])
        restored.data.mkdir(mode=0o700)
        shutil.copy(copies[1], restored.data / "quad.db")
        for key in ("secret.key", "attempt.key"):
            shutil.copy(server.data / key, restored.data / key)
        restored.start()
        self.assertIn("sound", restored.ok("admin", "check"))
        api = quadapi.Api(restored, token)
        now = api.get("/v1/info").json["revision"]
        self.assertLess(now, newest)
        jobs = {job["id"]: job for job in api.get("/v1/jobs?limit=1000").json["jobs"]}
        self.assertEqual(sorted(jobs), list(range(1, max(jobs) + 1)))
        self.assertEqual(jobs[waiting]["status"], "PENDING")
        # What waited goes on there, with its secret; what ran is brought back, as its runners are not there.
        restored.ok("node", "resume", "local-1")
        for job in jobs:
            restored.wait_for_status(job, "SUCCEEDED", timeout=60)
        proof = hashlib.sha256(b"tell-nobody").hexdigest()
        self.assertEqual(restored.ok("logs", waiting).count(proof), 2)
        with api.events(last=newest + 100_000) as events:
            self.assertEqual(next(events.events())[1], "resync")


    def test_a_backup_that_is_broken_off_leaves_no_half_file(self):
        server = self.server(nodes=1)
        server.ok("node", "drain", "local-1")
        # Enough that a copy takes a while.
        body = {"jobs": [{"command": f"echo {'x' * 4000}"}] * 5_000}
        self.assertEqual(quadapi.Api(server).post("/v1/jobs:bulk", body).status, 201)
        copy = server.folder / "copy.db"

        def is_whole():
            database = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
            with contextlib.closing(database):
                self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                self.assertEqual(database.execute("SELECT count(*) FROM jobs").fetchone(), (5_000,))
            return True

        def under_way():
            """A backup that has begun to write."""
            asked = subprocess.Popen([quadtest.quad_bin(), "admin", "backup", copy], env=server.environment(),
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
            self.addCleanup(asked.kill)
            begun = lambda: list(server.folder.glob("copy.db.tmp-*")) or asked.poll() is not None
            quadtest.wait_until(begun, 30, "it is under way", every=0.002)
            return asked

        # Whoever asked goes away: the server makes the copy all the same, and it counts once it is whole.
        for number in (signal.SIGTERM, signal.SIGKILL):
            copy.unlink(missing_ok=True)
            asked = under_way()
            asked.send_signal(number)
            asked.communicate(timeout=30)
            quadtest.wait_until(lambda: copy.exists(), 60, "the copy is made")
            self.assertTrue(is_whole())
        # The server itself is killed: the copy from before stays as it was.
        asked = under_way()
        server.kill()
        _, err = asked.communicate(timeout=60)
        self.assertIn(asked.returncode, (0, 3), err)
        self.assertTrue(is_whole())
        server.start()
        copy.unlink()
        server.ok("admin", "backup", copy)
        self.assertTrue(is_whole())
        self.assertIn("sound", server.ok("admin", "check"))


class Damage(quadtest.TestCase):
    def damaged(self, change):
        """A server's data with some history, after `change(path)` had its way with the stopped database."""
        server = self.server(nodes=1)
        server.ok("node", "drain", "local-1")
        answer = quadapi.Api(server).post("/v1/jobs:bulk", {"jobs": [{"command": "echo hello"}] * 300})
        self.assertEqual(answer.status, 201)
        server.stop()
        change(server.data / "quad.db")
        return server

    def flip_page_of(self, name):
        def change(path):
            database = sqlite3.connect(path)
            page = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
            size = database.execute("PRAGMA page_size").fetchone()[0]
            database.close()
            with open(path, "r+b") as file:
                file.seek((page - 1) * size + 8)
                data = bytes(byte ^ 0x5A for byte in file.read(200))
                file.seek((page - 1) * size + 8)
                file.write(data)

        return change

    def test_a_damaged_page_is_found_and_said(self):
        server = self.damaged(self.flip_page_of("events_by_job")).start()
        self.assertEqual(server.json("status", 1)["jobs"][0]["status"], "PENDING")
        code, out, err = server.quad("admin", "check")
        self.assertEqual(code, 1, out + err)
        self.assertNotIn("sound", out)
        self.assertTrue(out.strip())
        code, out, _ = server.quad("admin", "check", "-o", "json")
        self.assertEqual((code, json.loads(out)["ok"]), (1, False))

    def test_what_cannot_be_opened_is_refused_in_a_sentence(self):
        def overwrite(path):
            with open(path, "r+b") as file:
                file.write(b"this is no database" * 20)

        for change in (overwrite, self.flip_page_of("jobs")):
            server = self.damaged(change)
            with self.assertRaises(RuntimeError) as ended:
                server.start()
            self.assertRegex(str(ended.exception), "damaged.*restore the last backup")
            server.process = None
            code, out, err = server.quad("admin", "check")
            self.assertNotEqual(code, 0, out)
            self.assertRegex(err, "damaged.*restore the last backup")
            self.assertEqual(quadtest.processes_of(str(server.data)), [])


class OddMachines(quadtest.TestCase):
    """What somebody does to a server's folder, and a shell that allows it little."""

    def test_folders_and_a_socket_that_somebody_removes_are_made_again(self):
        server = self.server(nodes=1, gpus="")
        self.assertEqual(server.ok("launch", "echo before"), "before\n")
        shutil.rmtree(server.data / "nodes")
        shutil.rmtree(server.data / "trash")
        self.assertEqual(server.ok("launch", "echo without nodes"), "without nodes\n")
        (server.data / "quad.sock").unlink()
        self.assertEqual(server.json("status")["jobs"][0]["status"], "SUCCEEDED")
        self.assertEqual(server.ok("launch", "echo with a new socket"), "with a new socket\n")
        self.assertIsNone(server.process.poll())

    def test_a_low_soft_limit_of_open_files_is_raised(self):
        server = self.server(nodes=1, gpus="", start=False)
        server.prefix = ["prlimit", "--nofile=64:4096"]
        server.start()
        self.assertEqual(server.ok("launch", "ulimit -Sn; ulimit -Hn"), "1024\n4096\n")

    def test_a_hard_limit_of_few_open_files_is_told(self):
        server = self.server(nodes=1, gpus="", start=False)
        server.prefix = ["prlimit", "--nofile=128:128"]
        server.start()
        self.assertIn("may open 128 files only", server.log_tail())
        self.assertEqual(server.ok("launch", "echo runs"), "runs\n")

    def test_a_server_dumps_no_core(self):
        server = self.server(nodes=1, gpus="", start=False)
        server.prefix = ["prlimit", "--core=unlimited"]
        server.start()
        self.assertEqual(server.ok("launch", "ulimit -c"), "unlimited\n")
        os.kill(server.process.pid, signal.SIGSEGV)
        self.assertEqual(server.process.wait(20), -signal.SIGSEGV)
        server.process = None
        self.assertEqual(list(server.folder.glob("core*")), [])
