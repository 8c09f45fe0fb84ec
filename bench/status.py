"""`quad status`, the whole process, with 5,000 jobs in the store."""

import harness

RUNS = 60


def main():
    with harness.server(nodes=4) as server:
        harness.fill_store(server, finished=4900, pending=100)
        server.start()
        harness.run_time(server, "status")
        times = [harness.run_time(server, "status") * 1000 for _ in range(RUNS)]
        harness.report("status: whole process, 5,000 jobs, p50", harness.median(times), "ms", "<= 15 ms")
        harness.report("status: p99", harness.percentile(times, 0.99), "ms")


if __name__ == "__main__":
    main()
