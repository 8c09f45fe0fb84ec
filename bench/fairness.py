"""How long a health check and a runner's heartbeat wait while eight users send the dearest requests that the bounds allow.

Two each send dry runs in bulk, texts with large sets to validate, requests for long histories and lists, and uploads, one
after the other without a pause, each from a process of its own.
"""

import hashlib
import http.client
import json
import multiprocessing
import os
import threading
import time
import urllib.parse

import harness
import runnerwire

SECONDS = harness.count(20, 1)
WAITING = harness.count(8_000, 500)  # jobs in the queue, whose place each dry run asks for
AT_ONCE = 4_000
PAUSE = 0.02  # between two looks
SLOW_DOWN = (429, 503)  # what a caller who has too much under way is told


# As many alternatives as a task may have, of which one fits: all of them are weighed.
LARGE_SET = "run: x\nresources:\n  accelerators: {H100: 1, " + ", ".join(f"X{i}: 1" for i in range(990)) + "}\n"


def dry_runs():
    large = json.dumps({"jobs": [{"yaml": LARGE_SET, "dryrun": True}] * 20})
    many = json.dumps({"jobs": [harness.ONE_LINE_JOB | {"dryrun": True}] * 10_000})
    while True:
        yield "POST", "/v1/jobs:bulk", large
        yield "POST", "/v1/jobs:bulk", many


def sets():
    body = json.dumps({"yaml": LARGE_SET})
    while True:
        yield "POST", "/v1/validate", body


def histories():
    while True:
        yield "GET", "/v1/events?limit=10000", None
        yield "GET", "/v1/jobs?limit=10000", None
        yield "GET", "/v1/jobs/1/story", None


def uploads():
    while True:
        content = os.urandom(8 << 20)
        yield "PUT", f"/v1/blobs/{hashlib.sha256(content).hexdigest()}", content


KINDS = (dry_runs, sets, histories, uploads) * 2


def call_on(url, token, number, told):
    """Sends a kind of request for as long as it lives; tells how many were answered, after each."""
    host = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname, host.port, timeout=120)
    headers = {"Authorization": f"Bearer {token}"}
    for method, path, body in KINDS[number]():
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300 and answer.status not in SLOW_DOWN:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
        told.value += answer.status not in SLOW_DOWN
        if answer.status in SLOW_DOWN:
            time.sleep(1)


def sample(look, seconds):
    """How long each look took, in milliseconds."""
    took, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        look()
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE)
    return took


def measure(server):
    """{what: [milliseconds]} under load, and the same without."""
    with harness.Api(server) as api:
        task = "run: sleep 3600\nquad: {fence: strict}\nresources: {cpus: 1, memory: 0.1}\n"
        job = api.post("/v1/jobs", {"yaml": task})["jobs"][0]["id"]
        harness.quadtest.wait_until(lambda: api.jobs_with("RUNNING") == 1, 60, "the job runs")
        harness.drain_all(server)
        for _ in range(0, WAITING, AT_ONCE):
            api.post("/v1/jobs:bulk", {"jobs": [harness.ONE_LINE_JOB] * min(AT_ONCE, WAITING)})
        tokens = [api.post("/v1/tokens", {"user": f"user{i}"})["token"] for i in range(len(KINDS))]
        with runnerwire.Runner(server, job) as runner, harness.Api(server) as health:
            looks = {"/healthz": lambda: health.call("GET", "/healthz"), "a heartbeat": runner.heartbeat}

            def both():
                took = {}
                threads = [
                    threading.Thread(target=lambda name=name, look=look: took.update({name: sample(look, SECONDS)}))
                    for name, look in looks.items()
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                return took

            quiet = both()
            answers = [multiprocessing.Value("q", 0) for _ in tokens]
            callers = [
                multiprocessing.Process(target=call_on, args=(server.url, token, i, answers[i]), daemon=True)
                for i, token in enumerate(tokens)
            ]
            for caller in callers:
                caller.start()
            try:
                # Each has been answered once, so that all are under way.
                harness.quadtest.wait_until(lambda: all(one.value for one in answers), 120, "each caller is served")
                loaded = both()
                ended = [i for i, caller in enumerate(callers) if not caller.is_alive()]
                assert not ended, f"callers {ended} met with a fault"
            finally:
                for caller in callers:
                    caller.kill()
                    caller.join()
        api.post("/v1/jobs:cancel", {"ids": [job]})
    return loaded, quiet


def main():
    with harness.server(nodes=2) as server:
        loaded, quiet = measure(server)
    for what, took in loaded.items():
        name = f"fairness: {what} beside eight dear callers"
        harness.report(f"{name}, p50", harness.median(took), "ms")
        harness.report(f"{name}, p99", harness.percentile(took, 0.99), "ms", "<= 250 ms")
        harness.report(f"fairness: {what} on a quiet server, p99", harness.percentile(quiet[what], 0.99), "ms")


if __name__ == "__main__":
    main()
