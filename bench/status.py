"""`quad status`, the whole process, with 5,000 jobs in the store."""

import harness

RUNS = harness.count(60, 2)
FINISHED, PENDING = harness.count((4900, 100), (10, 5))


def main():
    with harness.server(nodes=4) as server:
        harness.fill_store(server, FINISHED, PENDING)
        server.start()
        harness.run_time(server, "status")
        times = [harness.run_time(server, "status") * 1000 for _ in range(RUNS)]
        harness.report(f"status: whole process, {FINISHED + PENDING:,} jobs, p50", harness.median(times), "ms", "<= 15 ms")
        harness.report("status: p99", harness.percentile(times, 0.99), "ms")


if __name__ == "__main__":
    main()
