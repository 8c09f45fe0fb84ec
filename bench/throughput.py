"""10,000 one-line jobs through to SUCCEEDED, every state durable; beside it what the machine can do."""

import os
import shutil
import time

import harness
import quadtest

JOBS = harness.count(10_000, 20)
BODY = min(JOBS, 1000)
SLOTS = 8  # at once, for each of them
SPAWNS = harness.count(3000, 10)


def quad():
    with harness.server(nodes=1, gpus="", options=["--cpus", str(SLOTS), "--memory", "64"]) as server:
        with harness.Api(server) as api:
            began = time.perf_counter()
            for _ in range(JOBS // BODY):
                api.post("/v1/jobs:bulk", {"jobs": [harness.ONE_LINE_JOB] * BODY})
            quadtest.wait_until(lambda: api.jobs_with("SUCCEEDED") == JOBS, 300, "all jobs have SUCCEEDED", every=0.1)
            took = time.perf_counter() - began
        harness.report(f"throughput: {JOBS:,} one-line jobs to SUCCEEDED", JOBS / took, "jobs/s", ">= 300 jobs/s")
        harness.report(f"throughput: the server's RSS after {JOBS:,} jobs", harness.rss_mb(server.process.pid), "MB")


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
    machine()


if __name__ == "__main__":
    main()
