"""A rank dies: until the first line of the next attempt. The server dies with 200 running jobs: until all are adopted."""

import os
import signal
import time

import harness
import quadtest

JOBS = harness.count(3, 1)
DEATHS = harness.count(3, 1)  # of each; a job without checkpoints may recover so often
RUNNING = harness.count(200, 5)


def recovery_times(server):
    """Seconds from kill -9 of a rank's process to the first line of the attempt that follows, for each death."""
    times = []
    for number in range(JOBS):
        task = {"command": f"echo alive; exec sleep {3600 + number}", "overrides": harness.ONE_LINE_JOB["overrides"]}
        with harness.Api(server) as api:
            job = api.post("/v1/jobs", task)["jobs"][0]["id"]
            api.request("GET", f"/v1/jobs/{job}/logs?follow=1")
            output = api.getresponse()
            died = None
            for line in iter(output.readline, b""):
                if line != b"alive\n":
                    continue  # how the last attempt ended
                if died:
                    times.append(time.perf_counter() - died)
                if len(times) == (number + 1) * DEATHS:
                    break
                pids = quadtest.wait_until(
                    lambda: list(server.rank_pids(f"sleep\0{3600 + number}")), 10, "the rank sleeps", every=0.01
                )
                died = time.perf_counter()
                os.kill(pids[0], signal.SIGKILL)
    return times


def adoption_time(server):
    """Seconds from the start of the server after kill -9 until every running job is its own again."""
    task = {"command": "exec sleep 3600", "overrides": harness.ONE_LINE_JOB["overrides"]}
    with harness.Api(server) as api:
        api.post("/v1/jobs:bulk", {"jobs": [task] * RUNNING})
        quadtest.wait_until(lambda: api.jobs_with("RUNNING") == RUNNING, 120, f"{RUNNING} jobs run")
    server.kill()
    began = time.perf_counter()
    harness.start_time(server)
    with harness.Api(server) as api:
        quadtest.wait_until(
            lambda: api.metrics()["quad_runner_sessions"] == RUNNING, 60, "all are adopted", every=0.005
        )
        took = time.perf_counter() - began
        jobs = api.get(f"/v1/jobs?limit={RUNNING}&status=active")["jobs"]
    again = [job["id"] for job in jobs if job["status"] != "RUNNING" or job["epoch"] != 1]
    assert len(jobs) == RUNNING and not again, f"of {len(jobs)} jobs these were started again: {again}"
    return took


def main():
    with harness.server(nodes=2, gpus="") as server:
        times = recovery_times(server)
        harness.report("recovery: rank dies to next attempt's first line, p50", harness.median(times), "s")
        harness.report("recovery: the slowest of them", max(times), "s", "<= 2 s")
    with harness.server(nodes=4, gpus="", options=["--cpus", "64", "--memory", "64"]) as server:
        took = adoption_time(server)
        harness.report(f"recovery: server killed, {RUNNING} running jobs adopted", took, "s", "<= 2 s")


if __name__ == "__main__":
    main()
