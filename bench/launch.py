"""`quad launch` against a server that runs, without setup: to the first line of the user's output, and to its end."""

import subprocess
import time

import harness
import quadtest

RUNS = 25


def launch(server, number):
    """Seconds to the first line of output, and to the end of the process."""
    line = f"hello {number}"
    command = [quadtest.quad_bin(), "launch", "-y", f"echo {line}"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=server.environment(), cwd=server.folder,
    ) as process:  # fmt: skip
        seen = ""
        while seen.strip() != line:
            seen = process.stdout.readline()
            assert seen, "quad launch ended without the job's output"
        first = time.perf_counter() - began
        process.stdout.read()
    assert process.returncode == 0, f"quad launch ended with {process.returncode}"
    return first, time.perf_counter() - began


def main():
    with harness.server(nodes=2) as server:
        launch(server, 0)
        times = [launch(server, number) for number in range(1, RUNS + 1)]
        first, whole = ([one[i] * 1000 for one in times] for i in range(2))
        harness.report("launch: to the first line of output, p50", harness.median(first), "ms", "<= 150 ms")
        harness.report("launch: p90", harness.percentile(first, 0.9), "ms")
        harness.report("launch: whole process, p50", harness.median(whole), "ms")


if __name__ == "__main__":
    main()
