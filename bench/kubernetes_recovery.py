"""On real nodes with Kubernetes' stock timing: a rank is killed, its pod is deleted by hand, its node loses its power; each
time until the user's code of the next attempt has printed its first line.

The power cuts take a minute each; --cuts says how many.
"""

import argparse
import os
import signal
import threading
import time

import harness
import kubebench
import quadtest

NODES = 3
DEATHS = harness.count(3, 1)  # a job without checkpoints may recover so often


class Lines:
    """Counts the lines `alive` in a job's output as they come."""

    def __init__(self, server, job):
        self.api = harness.Api(server)
        self.api.request("GET", f"/v1/jobs/{job}/logs?follow=1")
        self.output = self.api.getresponse()
        self.times = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in iter(self.output.readline, b""):
            if line.endswith(b"alive\n"):
                with self.changed:
                    self.times.append(time.perf_counter())
                    self.changed.notify_all()

    def wait_for(self, count, timeout):
        with self.changed:
            reached = self.changed.wait_for(lambda: len(self.times) >= count, timeout)
            assert reached, f"{len(self.times)} of {count} ranks have printed their line after {timeout} s"
            return self.times[count - 1]


def begin(server, number, ranks=1):
    """A job whose ranks have printed their line, and its lines. `number` tells its processes from others'."""
    run = f"echo alive; exec sleep {3600 + number}"
    (job,) = kubebench.submit(server, [kubebench.task(f"job-{number}", ranks, run=run, cpus=0.5, memory=0.25)])
    lines = Lines(server, job)
    lines.wait_for(ranks, 60)
    return job, lines


def end(bed, server, job):
    server.ok("cancel", str(job), "-y")
    server.wait_for_status(job, "CANCELLED")
    kubebench.wait_until_empty(bed)


def kill_rank(_bed, job, number):
    pids = quadtest.processes_of(f"QUAD_RANK_KEY={job}-", f"sleep\0{3600 + number}")
    assert len(pids) == 1, f"the rank has {len(pids)} processes"
    began = time.perf_counter()
    os.kill(pids[0], signal.SIGKILL)
    return began


def delete_pod(bed, job, _number):
    name = bed.get("pods", f"quad.io/job={job}")[-1]["metadata"]["name"]
    api = kubebench.api(bed)
    began = time.perf_counter()
    api("DELETE", f"/api/v1/namespaces/default/pods/{name}")
    return began


def deaths(bed, server, number, strike):
    """Seconds from each of a job's deaths to the next attempt's line."""
    job, lines = begin(server, number)
    times = []
    for count in range(1, DEATHS + 1):
        began = strike(bed, job, number)
        times.append(lines.wait_for(count + 1, 60) - began)
    end(bed, server, job)
    return times


def power_cut(bed, server, number):
    """Seconds from a node's power cut until both ranks of its job print their line elsewhere."""
    job, lines = begin(server, number, 2)
    lost = server.job(job)["attempts"][0]["nodes"][0]
    began = time.perf_counter()
    bed.call("node", "off", lost)
    took = lines.wait_for(4, 180) - began
    bed.call("node", "on", lost)
    end(bed, server, job)

    def all_ready():
        nodes = server.json("node", "list")["nodes"]
        return len(nodes) == NODES and all(node["health"] == "ready" for node in nodes)

    quadtest.wait_until(all_ready, 120, "the node is back", every=0.5)
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=harness.count(3, 0))
    cuts = parser.parse_args().cuts
    with kubebench.testbed(nodes=NODES, gpus=1, timing="stock") as bed, kubebench.server(bed) as server:
        killed = deaths(bed, server, 1, kill_rank)
        deleted = deaths(bed, server, 2, delete_pod)
        lost = [power_cut(bed, server, 3 + number) for number in range(cuts)]
    harness.report("kubernetes: rank killed to the next attempt's first line, p50", harness.median(killed), "s")
    harness.report("kubernetes: the slowest of them", max(killed), "s", "<= 6 s")
    harness.report("kubernetes: pod deleted to the next attempt's first line, p50", harness.median(deleted), "s")
    harness.report("kubernetes: the slowest of them", max(deleted), "s", "<= 6 s")
    if not cuts:
        return
    harness.report(f"kubernetes: power cut to the next attempt's first line, p50 of {cuts}", harness.median(lost), "s", "<= 35 s")
    harness.report("kubernetes: p95", harness.percentile(lost, 0.95), "s", "<= 50 s")


if __name__ == "__main__":
    main()
