"""One rank prints 1 GB as fast as it can: how fast that arrives, whether all of it does, and how far a follower lags."""

import re
import time

import harness
import quadtest

BLOCK = 64 * 16384
BLOCKS = 954  # just over 1 GB
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


def blocks(stream):
    """The blocks' heads, each with when it came; checks all that lies between them."""
    held = bytearray()
    for piece in stream:
        held += piece
        now = time.time_ns()
        while len(held) >= BLOCK:
            head = HEAD.match(bytes(held[:64]))
            assert head and held[head.end() : BLOCK] == REST, "the output is not what was printed"
            del held[:BLOCK]
            yield int(head[1]), int(head[2]), now
    assert not held, f"{len(held)} bytes too many"


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
        began = time.perf_counter()
        numbers = [number for number, _, _ in blocks(pieces(api, job, follow=1))]
        reading = time.perf_counter() - began
    assert numbers == list(range(BLOCKS)), f"{len(numbers)} blocks of {BLOCKS} are here"
    return (SIZE - first) / took / 1e6, SIZE / reading / 1e6


def lag_in_flood(server):
    with harness.Api(server) as api:
        heads = list(blocks(pieces(api, submit(server, api, PRINTER), follow=1)))
    assert [number for number, _, _ in heads] == list(range(BLOCKS)), f"{len(heads)} blocks of {BLOCKS} came"
    return [(seen - printed) / 1e6 for _, printed, seen in heads]


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
        rate, reading = throughput(server)
        harness.report("logs: 1 GB from one rank, all of it there", rate, "MB/s", ">= 200 MB/s")
        harness.report("logs: reading that back over HTTP", reading, "MB/s")
        flood, lines = lag_in_flood(server), lag_of_lines(server)
        harness.report("logs: a follower's lag in the flood, p99", harness.percentile(flood, 0.99), "ms", "<= 200 ms")
        harness.report("logs: a follower's lag, line by line, p99", harness.percentile(lines, 0.99), "ms", "<= 200 ms")


if __name__ == "__main__":
    main()
