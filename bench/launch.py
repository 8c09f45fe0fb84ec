"""`quad launch` against a server that runs, without setup: to the first line of the user's output, and to its end."""

import harness

RUNS = harness.count(25, 1)


def main():
    with harness.server(nodes=2) as server:
        harness.launch(server, 0)
        times = [harness.launch(server, number) for number in range(1, RUNS + 1)]
        first, whole = ([one[i] * 1000 for one in times] for i in range(2))
        harness.report("launch: to the first line of output, p50", harness.median(first), "ms", "<= 150 ms")
        harness.report("launch: p90", harness.percentile(first, 0.9), "ms")
        harness.report("launch: whole process, p50", harness.median(whole), "ms")


if __name__ == "__main__":
    main()
