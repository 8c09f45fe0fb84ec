"""A server of 100 kwok nodes with 1,000 pods running and 5,000 jobs in its store: its memory; and how soon a change of a
pod's state is in its event stream.

The change is written as a kubelet would write it: the container has ended, and left its runner's result. Counted from
before the write is sent until a subscriber of the stream has an event of that job.
"""

import argparse
import json
import threading
import time

import harness
import kubebench

NODES, RUNNING, FINISHED = harness.count((100, 1000, 4000), (4, 12, 20))
CHANGES, INTERVAL = harness.count(200, 4), 0.05
RESULT = {"how": "exited", "code": 0, "by_quad": False, "out_of_memory": False, "in_setup": False, "detail": "", "at_ms": 1}


def ended(name):
    """What a kubelet writes of a pod whose container has ended."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now, "message": json.dumps(RESULT)}}
    container = {"name": name, "image": "none", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"status": {"phase": "Succeeded", "containerStatuses": [container]}}


def subscribe(api, after, jobs, seen):
    """Notes when the first event of each of the jobs came."""
    api.request("GET", f"/v1/events?after={after}&follow=1")
    answer = api.getresponse()
    for line in iter(answer.readline, b""):
        if line.startswith(b"data: "):
            now, job = time.perf_counter(), json.loads(line[6:]).get("job")
            if job in jobs:
                seen.setdefault(job, now)
                if len(seen) == len(jobs):
                    return


def lags(bed, server, jobs):
    """Milliseconds from each change to the event."""
    pods = {int(pod["metadata"]["labels"]["quad.io/job"]): pod["metadata"]["name"] for pod in bed.get("pods", "quad.io/server")}
    api, sent, seen = kubebench.api(bed), {}, {}
    with harness.Api(server) as asking, harness.Api(server) as following:
        after = asking.get("/v1/events?limit=1")["revision"]
        thread = threading.Thread(target=subscribe, args=(following, after, set(jobs), seen), daemon=True)
        thread.start()
        due = time.perf_counter()
        for job in jobs:
            due += INTERVAL
            time.sleep(max(0, due - time.perf_counter()))
            sent[job] = time.perf_counter()
            api.merge(f"/api/v1/namespaces/default/pods/{pods[job]}/status", ended("rank"))
        thread.join(30)
    assert len(seen) == len(jobs), f"of {len(jobs)} changes {len(seen)} were seen in the event stream"
    return [(seen[job] - sent[job]) * 1000 for job in jobs]


def main():
    argparse.ArgumentParser().parse_args()
    with kubebench.testbed(kwok=NODES, gpus=8, timing="stock") as bed, kubebench.server(bed) as server:
        with kubebench.runners(bed):
            harness.fill_store(server, FINISHED, 1)
        server.start()
        with harness.Api(server) as api:
            waiting = api.get("/v1/jobs?status=active")["jobs"]
            for job in waiting:
                api.post(f"/v1/jobs/{job['id']}/cancel")
        harness.drain_all(server, drained=False)
        before = harness.rss_mb(server.process.pid)
        with kubebench.runners(bed, "--hold"):
            jobs = kubebench.submit(server, [kubebench.task("held", gpus=0) for _ in range(RUNNING)])
            kubebench.wait_for_jobs(server, RUNNING, "RUNNING", 300)
            time.sleep(harness.count(10, 0))  # what the start took is given back, and heartbeats have come for a while
            memory = harness.rss_mb(server.process.pid)
            times = lags(bed, server, jobs[:CHANGES])
    harness.report(f"kubernetes: RSS with {NODES} nodes, {FINISHED + RUNNING:,} jobs in the store", before, "MB")
    harness.report(f"kubernetes: RSS with {NODES} nodes, {RUNNING:,} pods, {FINISHED + RUNNING:,} jobs in the store", memory, "MB", "<= 100 MB")
    harness.report("kubernetes: a pod's change to a stream subscriber, p50", harness.median(times), "ms")
    harness.report("kubernetes: a pod's change to a stream subscriber, p99", harness.percentile(times, 0.99), "ms", "<= 250 ms")


if __name__ == "__main__":
    main()
