"""10,000 one-line jobs through to SUCCEEDED, every state durable; beside it HyperQueue, and what the machine can do.

HyperQueue is measured where its Python package is installed: pip install hyperqueue."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time

import harness
import quadtest

JOBS = 10_000
SLOTS = 8  # at once, for each of them
SPAWNS = 3000

# In a process of its own, because its cluster prints what it likes.
HYPERQUEUE = """
import sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=int(sys.argv[2])))
    client = cluster.client()
    job = Job()
    for _ in range(int(sys.argv[1])):
        job.program(["true"], stdout=None, stderr=None)
    began = time.perf_counter()
    client.wait_for_jobs([client.submit(job)])
    print("seconds", time.perf_counter() - began)
"""


def quad():
    with harness.server(nodes=1, gpus="", options=["--cpus", str(SLOTS), "--memory", "64"]) as server:
        with harness.Api(server) as api:
            began = time.perf_counter()
            for _ in range(JOBS // 1000):
                api.post("/v1/jobs:bulk", {"jobs": [harness.ONE_LINE_JOB] * 1000})
            quadtest.wait_until(lambda: api.jobs_with("SUCCEEDED") == JOBS, 300, "all jobs have SUCCEEDED", every=0.1)
            took = time.perf_counter() - began
        harness.report(f"throughput: {JOBS:,} one-line jobs to SUCCEEDED", JOBS / took, "jobs/s", ">= 300 jobs/s")
        harness.report(f"throughput: the server's RSS after {JOBS:,} jobs", harness.rss_mb(server.process.pid), "MB")


def hyperqueue():
    if importlib.util.find_spec("hyperqueue") is None:
        harness.skip("HyperQueue is not installed (pip install hyperqueue)")
        return
    with tempfile.TemporaryDirectory(prefix="quad-bench-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", HYPERQUEUE, str(JOBS), str(SLOTS)], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, cwd=folder,
            env=os.environ | {"HOME": folder}, timeout=300,
        )  # fmt: skip
    if done.returncode != 0:
        harness.skip(f"HyperQueue ended with {done.returncode}")
        return
    seconds = float(done.stdout.split()[-1])
    harness.report(f"rival: HyperQueue, {JOBS:,} x true, nothing durable", JOBS / seconds, "jobs/s")


def machine():
    """How many processes a second this machine starts and reaps, two at a time."""
    for name, command in (("true", [shutil.which("true")]), ("bash -c true", [shutil.which("bash"), "-c", "true"])):
        began = time.perf_counter()
        for number in range(SPAWNS):
            os.posix_spawn(command[0], command, {})
            if number > 0:
                os.wait()
        os.wait()
        harness.report(f"machine: spawn and reap {name}", SPAWNS / (time.perf_counter() - began), "1/s")


def main():
    quad()
    hyperqueue()
    machine()


if __name__ == "__main__":
    main()
