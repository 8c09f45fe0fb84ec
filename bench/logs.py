"""One rank prints 1 GB as fast as it can: how fast that arrives, whether all of it does, and how far a follower lags."""

import json
import re
import subprocess
import time

import harness
import quadtest

BLOCK = 64 * 16384
BLOCKS = harness.count(954, 10)  # just over 1 GB
SIZE = BLOCK * BLOCKS

# Each block begins with its number and the time, and is otherwise lines of 64 bytes.
PRINTER = f"""
import os, time
rest = (b"%063d\\n" % 7) * ({BLOCK} // 64 - 1)
for number in range({BLOCKS}):
    left = memoryview(b"block %8d at %20d %s\\n" % (number, time.time_ns(), b"." * 24) + rest)
    while left:
        left = left[os.write(1, left):]
"""
HEAD = re.compile(rb"block +(\d+) at +(\d+) \.{24}\n")
REST = (b"%063d\n" % 7) * (BLOCK // 64 - 1)
TICKER = "import time\nfor _ in range(150): print('tick', time.time_ns(), flush=True); time.sleep(0.02)\n"


def submit(server, api, text):
    script = server.folder / f"printer-{time.time_ns()}.py"
    script.write_text(text)
    body = {"command": f"exec python3 {script}", "overrides": harness.ONE_LINE_JOB["overrides"]}
    return api.post("/v1/jobs", body)["jobs"][0]["id"]


def pieces(api, job, follow):
    """The job's output as it arrives."""
    api.request("GET", f"/v1/jobs/{job}/logs?follow={follow}")
    answer = api.getresponse()
    assert answer.status == 200, answer.status
    while piece := answer.read1(1 << 20):
        yield piece


def check(stream):
    """Holds every byte against what was printed."""
    held, number = bytearray(), 0
    for piece in stream:
        held += piece
        while len(held) >= BLOCK:
            head = HEAD.match(bytes(held[:64]))
            assert head and int(head[1]) == number and held[64:BLOCK] == REST, f"block {number} is not what was printed"
            del held[:BLOCK]
            number += 1
    assert number == BLOCKS and not held, f"{number} blocks of {BLOCKS} and {len(held)} bytes are here"


def throughput(server):
    """Megabytes a second that reach the server's log, with nobody who reads it."""
    with harness.Api(server) as api:
        job = submit(server, api, PRINTER)
        log = server.data / "logs" / str(job) / "1" / "0.log"

        def size():
            return log.stat().st_size if log.exists() else 0

        quadtest.wait_until(lambda: size() > 0, 30, "the first output is here", every=0.002)
        began, first = time.perf_counter(), size()
        quadtest.wait_until(lambda: size() >= SIZE, 120, "all output is here", every=0.005)
        took = time.perf_counter() - began
        check(pieces(api, job, follow=1))
    return (SIZE - first) / took / 1e6


def lag_in_flood(server):
    """What a follower sees that does as the command line does; it counts the blocks too."""
    with harness.Api(server) as api:
        job = submit(server, api, PRINTER)
    command = [str(harness.program("log_follower")), server.info()["socket"], str(job), str(BLOCK)]
    seen = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout)
    assert seen["blocks"] == BLOCKS, f"{seen['blocks']} blocks of {BLOCKS} came"
    return seen["p99_ms"]


def lag_of_lines(server):
    lags = []
    with harness.Api(server) as api:
        held = b""
        for piece in pieces(api, submit(server, api, TICKER), follow=1):
            now = time.time_ns()
            *lines, held = (held + piece).split(b"\n")
            lags += [(now - int(line.split()[1])) / 1e6 for line in lines]
    assert len(lags) == 150, f"{len(lags)} lines came"
    return lags


def main():
    with harness.server(nodes=1, gpus="") as server:
        harness.report(f"logs: {SIZE / 1e9:.2g} GB from one rank, all of it there", throughput(server), "MB/s", ">= 200 MB/s")
        harness.report("logs: a follower's lag in that flood, p99", lag_in_flood(server), "ms", "<= 200 ms")
        lines = lag_of_lines(server)
        harness.report("logs: a follower's lag, line by line, p99", harness.percentile(lines, 0.99), "ms", "<= 200 ms")


if __name__ == "__main__":
    main()
