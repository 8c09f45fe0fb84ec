"""Durable submissions: one at a time from 16 clients, and in bulk. Nothing runs: every node is drained."""

import http.client
import json
import subprocess
import time

import harness

CLIENTS = 16
SECONDS = harness.count(5, 1)
BULK_BODIES = harness.count(6, 2)
BULK_JOBS = harness.count(5000, 50)


def single(server):
    """What the load generator, a C++ program, saw."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    command = [str(harness.program("http_load")), host, port, server.token, "/v1/jobs", json.dumps(harness.ONE_LINE_JOB)]
    done = subprocess.run([*command, str(CLIENTS), str(SECONDS)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def bulk(server):
    """Jobs a second, body by body over one connection."""
    body = json.dumps({"jobs": [harness.ONE_LINE_JOB] * BULK_JOBS}).encode()
    rates = []
    with harness.Api(server) as api:
        for _ in range(BULK_BODIES):
            began = time.perf_counter()
            api.request("POST", "/v1/jobs:bulk", body)
            answer = api.getresponse()
            text = answer.read()
            took = time.perf_counter() - began
            assert answer.status == http.client.CREATED, text
            rates.append(BULK_JOBS / took)
    return rates


def main():
    with harness.server(nodes=1) as server:
        harness.drain_all(server)
        seen = single(server)
        with harness.Api(server) as api:
            held = api.jobs_with("PENDING")
        assert held == seen["answered"], f"{seen['answered']} submissions were answered, but {held} jobs are there"
        name = f"submit: singly, {CLIENTS} clients"
        harness.report(name, seen["per_second"], "jobs/s", ">= 2000 jobs/s")
        harness.report(f"{name}, p50", seen["p50_ms"], "ms")
        harness.report(f"{name}, p99", seen["p99_ms"], "ms")
    with harness.server(nodes=1) as server:
        harness.drain_all(server)
        rates = bulk(server)
        # All of them together, not the best: a checkpoint of the store that falls into one of them counts.
        rate = len(rates) / sum(1 / one for one in rates)
        harness.report(f"submit: in bulk, {BULK_JOBS:,} at once", rate, "jobs/s", ">= 20000 jobs/s")


if __name__ == "__main__":
    main()
