"""From an event's own time to a subscriber of the stream that has it in hand, while jobs are submitted steadily."""

import datetime
import json
import threading
import time

import harness

EVENTS = harness.count(800, 20)
INTERVAL = 0.01


def subscribe(api, after, seen):
    """Appends (event, when it came) until the last one was seen."""
    api.request("GET", f"/v1/events?after={after}&follow=1")
    answer = api.getresponse()
    for line in iter(answer.readline, b""):
        if line.startswith(b"data: "):
            seen.append((json.loads(line[6:]), time.time()))
            if len(seen) == EVENTS:
                return


def main():
    with harness.server(nodes=1) as server:
        harness.drain_all(server)
        with harness.Api(server) as producer, harness.Api(server) as consumer:
            after = producer.get("/v1/events?limit=1")["revision"]
            seen = []
            thread = threading.Thread(target=subscribe, args=(consumer, after, seen))
            thread.start()
            due = time.perf_counter()
            for _ in range(EVENTS):
                producer.post("/v1/jobs", harness.ONE_LINE_JOB)
                due += INTERVAL
                time.sleep(max(0, due - time.perf_counter()))
            thread.join(30)
        assert len(seen) == EVENTS, f"{len(seen)} of {EVENTS} events were seen"
        revisions = [event["revision"] for event, _ in seen]
        assert revisions == list(range(after + 1, after + 1 + EVENTS)), "events are missing or out of order"
        lags = [(when - datetime.datetime.fromisoformat(event["at"]).timestamp()) * 1000 for event, when in seen]
        harness.report("events: to a stream subscriber, p50", harness.median(lags), "ms")
        harness.report("events: to a stream subscriber, p99", harness.percentile(lags, 0.99), "ms", "<= 20 ms")


if __name__ == "__main__":
    main()
