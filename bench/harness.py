"""What the benchmarks share: a server in a temporary folder, its API, a store full of jobs, and how figures are told.

A benchmark is a script beside this one that calls report() for each figure; run.py gathers them. Figures are medians or
percentiles of several runs, because a machine with two cores is never quiet.
"""

import contextlib
import http.client
import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quadtest

ROOT = Path(__file__).resolve().parent.parent
SMALL = os.environ.get("QUAD_BENCH_SMALL") == "1"  # of run.py --small
ONE_LINE_JOB = {"command": "true", "overrides": {"cpus": "1", "memory": "0.1"}}


def count(full, small):
    """How many of something a benchmark takes: fewer in a small round, which tells only that it works."""
    return small if SMALL else full


def report(name, value, unit, goal=""):
    """One row of the table."""
    command = f"./dev bench {Path(sys.argv[0]).name}"
    print(json.dumps({"name": name, "value": value, "unit": unit, "goal": goal, "command": command}), flush=True)


def skip(why):
    """Says on the console that something could not be measured here."""
    print(f"skipped: {why}", file=sys.stderr, flush=True)


def percentile(values, share):
    """The smallest value that at least `share` of them do not exceed: 0.5 is the median."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values):
    return percentile(values, 0.5)


def launch(server, number, *flags):
    """Seconds from the start of `quad launch` to the first line of output, and to the end of the process."""
    line = f"hello {number}"
    command = [quadtest.quad_bin(), "launch", "-y", *flags, f"echo {line}"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=server.environment(), cwd=server.folder,
    ) as process:  # fmt: skip
        seen = ""
        while not seen.strip().endswith(line):
            seen = process.stdout.readline()
            assert seen, "quad launch ended without the job's output"
        first = time.perf_counter() - began
        process.stdout.read()
    assert process.returncode == 0, f"quad launch ended with {process.returncode}"
    return first, time.perf_counter() - began


def program(name):
    """A program of the build that is measured."""
    return Path(quadtest.quad_bin()).with_name(name)


@contextlib.contextmanager
def server(start=True, **options):
    """A quadtest.Server that ends, with its folder and all that it started, when the block does."""
    with tempfile.TemporaryDirectory(prefix="quad-bench-", ignore_cleanup_errors=True) as folder:
        one = quadtest.Server(folder=folder, **options)
        # More jobs of one user than a server takes as a rule.
        one.data.mkdir(mode=0o700)
        (one.data / "config.yaml").write_text("jobs: {limits: {active_per_user: 1000000}}\n")
        try:
            yield one.start() if start else one
        finally:
            one.close()


def rss_mb(pid):
    """What the process has in memory now, its program's pages included, in megabytes."""
    return quadtest.resident_kib(pid) * 1024 / 1e6


class Api(http.client.HTTPConnection):
    """A connection to the server's unix socket that stays open; a context manager."""

    def __init__(self, server):
        super().__init__("localhost", timeout=120)
        self.path = server.info()["socket"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def call(self, method, target, body=None):
        """The answer's body; an AssertionError if the server refuses."""
        self.request(method, target, None if body is None else json.dumps(body))
        answer = self.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{method} {target}: {answer.status} {text.decode(errors='replace')}"
        return text

    def get(self, target):
        return json.loads(self.call("GET", target))

    def post(self, target, body=None):
        return json.loads(self.call("POST", target, {} if body is None else body))

    def metrics(self):
        """{name with labels: value}"""
        lines = self.call("GET", "/metrics").decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def jobs_with(self, status):
        return int(self.metrics()[f'quad_jobs{{status="{status}"}}'])


def drain_all(server, drained=True):
    """Takes every node out of service, so that what is submitted waits, or puts it back."""
    with Api(server) as api:
        for node in api.get("/v1/nodes")["nodes"]:
            api.post(f"/v1/nodes/{node['name']}/{'drain' if drained else 'resume'}")


def _copy_job(db, template, job, revision):
    """Records `job` as a copy of another one, with its events from `revision` on; returns the last revision."""
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (template,)).fetchone()
    record = json.loads(row[5])
    record["id"] = job
    db.execute("INSERT INTO jobs VALUES (?,?,?,?,?,?,?)", (job, *row[1:5], json.dumps(record, separators=(",", ":")), row[6]))
    db.execute("INSERT INTO bodies SELECT ?, body FROM bodies WHERE job = ?", (job, template))
    events = db.execute("SELECT * FROM events WHERE job = ? AND job > 0 ORDER BY revision", (template,)).fetchall()
    for event in events:
        revision += 1
        db.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?)", (revision, event[1], job, *event[3:]))
    return revision


def fill_store(server, finished, pending):
    """Leaves a stopped server with so many jobs in its store: copies of a few that it really ran.

    Every fourth of the finished ones had four ranks. The pending ones wait, as all nodes are drained."""
    with Api(server) as api:
        wide = ONE_LINE_JOB | {"overrides": ONE_LINE_JOB["overrides"] | {"num_nodes": 4}}
        ran = [api.post("/v1/jobs", one)["jobs"][0]["id"] for one in (wide, ONE_LINE_JOB, ONE_LINE_JOB, ONE_LINE_JOB)]
        quadtest.wait_until(lambda: api.jobs_with("SUCCEEDED") == len(ran), 60, "the jobs to copy have run")
        drain_all(server)
        waiting = api.post("/v1/jobs", ONE_LINE_JOB)["jobs"][0]["id"]
    server.stop()
    templates = [ran[i % len(ran)] for i in range(len(ran), finished)] + [waiting] * (pending - 1)
    with contextlib.closing(sqlite3.connect(server.data / "quad.db")) as db, db:
        revision = db.execute("SELECT max(revision) FROM events").fetchone()[0]
        for job, template in enumerate(templates, waiting + 1):
            revision = _copy_job(db, template, job, revision)


def start_time(server):
    """Starts it; returns the seconds to its first answer over the unix socket."""
    (server.data / "server.json").unlink(missing_ok=True)
    command = [quadtest.quad_bin(), "serve", "--data-dir", str(server.data), "--port", "0", *server.options]
    with open(server.log_path, "ab") as log:
        began = time.perf_counter()
        server.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=server.folder
        )
    while True:
        try:
            with Api(server) as api:
                api.call("GET", "/healthz")
            return time.perf_counter() - began
        except (OSError, ValueError):
            assert server.process.poll() is None, f"the server ended:\n{server.log_tail()}"
            assert time.perf_counter() - began < 60, f"the server does not answer:\n{server.log_tail()}"
            time.sleep(0.001)


def run_time(server, *args):
    """Seconds from the start of `quad ARGS` to its end."""
    began = time.perf_counter()
    pid = os.posix_spawn(
        quadtest.quad_bin(),
        [quadtest.quad_bin(), *args],
        server.environment(),
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)],
    )
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    assert status == 0, f"quad {' '.join(args)} ended with {status}"
    return took
