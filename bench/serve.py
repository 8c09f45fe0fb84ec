"""`quad serve`: from its start to its first answer, and the memory that it takes."""

import harness

STARTS = harness.count(9, 1)
FINISHED, PENDING = harness.count((5000, 1000), (40, 10))


def start_times(server):
    times = []
    for _ in range(STARTS):
        if server.process:
            server.stop()
        times.append(harness.start_time(server) * 1000)
    return times


def settled_rss(server):
    """What it holds once it has answered what a page or a person asks first."""
    with harness.Api(server) as api:
        for target in ("/v1/jobs?limit=50", "/v1/nodes", "/metrics"):
            api.call("GET", target)
    return harness.rss_mb(server.process.pid)


def main():
    with harness.server(nodes=4) as server:
        harness.report("serve: start to first answer", harness.median(start_times(server)), "ms", "<= 100 ms")
        harness.report("serve: RSS when idle", settled_rss(server), "MB", "<= 20 MB")
        harness.fill_store(server, FINISHED, PENDING)
        harness.report(f"serve: start with {FINISHED + PENDING:,} jobs", harness.median(start_times(server)), "ms", "<= 100 ms")
        with harness.Api(server) as api:
            held = api.jobs_with("SUCCEEDED"), api.jobs_with("PENDING")
        assert held == (FINISHED, PENDING), f"the server holds {held} jobs"
        harness.report(f"serve: RSS with {FINISHED:,} jobs finished, {PENDING:,} pending", settled_rss(server), "MB", "<= 64 MB")


if __name__ == "__main__":
    main()
