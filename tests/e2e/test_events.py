"""The stream of events: complete and in order for whoever comes back with a cursor, bounded for whoever does not read."""

import http.client
import json
import select
import subprocess
import threading

import quadapi
import quadtest

TIMEOUT_SECONDS = 240


class Events(quadtest.TestCase):
    def follow(self, server):
        """`quad events --follow -o json`, until the test ends."""
        follower = subprocess.Popen(
            [quadtest.quad_bin(), "events", "--follow", "-o", "json"], env=server.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(follower.kill)
        self.addCleanup(follower.stdout.close)
        return follower

    @quadtest.quick
    def test_filters_and_pages_show_the_same_history_as_the_stream(self):
        server = self.server(nodes=2)
        api = quadapi.Api(server)
        for command in ("true", "exit 3"):
            job = server.launch({"run": command})
            server.wait_for_status(job, "SUCCEEDED", "FAILED")
        server.ok("node", "drain", "local-2")
        newest = api.get("/v1/info").json["revision"]
        pages, after = [], 0
        while page := api.get(f"/v1/events?after={after}&limit=3").json["events"]:
            pages += page
            after = page[-1]["revision"]
        self.assertEqual([event["revision"] for event in pages], list(range(1, newest + 1)))
        for query, wanted in (
            ("", lambda event: True),
            ("job=2", lambda event: event.get("job") == 2),
            ("node=local-2", lambda event: event.get("node") == "local-2"),
            ("kind=job.", lambda event: event["kind"].startswith("job.")),
            ("kind=job.&job=1", lambda event: event["kind"].startswith("job.") and event.get("job") == 1),
            ("kind=node.&node=local-2", lambda event: event["kind"].startswith("node.") and event.get("node") == "local-2"),
            ("kind=none.such", lambda event: False),
        ):
            expected = [event for event in pages if wanted(event)]
            self.assertEqual(api.get(f"/v1/events?limit=1000&{query}").json["events"], expected, query)
            if expected:
                with api.events(f"after=0&{query}") as stream:
                    events = stream.events()
                    got = [next(events) for _ in expected]
                self.assertEqual([(i, kind, data) for i, kind, data in got],
                                 [(event["revision"], event["kind"], event) for event in expected], query)  # fmt: skip
        lines = server.ok("events", "--kind", "job.", "-o", "json").splitlines()
        self.assertEqual([json.loads(line) for line in lines], [e for e in pages if e["kind"].startswith("job.")])
        self.assertIn("job.submitted", server.ok("events"))

    def test_nothing_is_lost_or_doubled_over_killed_servers(self):
        server = self.server(nodes=1)
        follower = self.follow(server)
        seen, cursor = [], 0

        def read_up_to(revision):
            """Comes back with the last id, as often as it takes."""
            nonlocal cursor
            while cursor < revision:
                try:
                    with quadapi.Api(server).events(last=cursor) as stream:
                        for cursor, kind, _ in stream.events():
                            seen.append((cursor, kind))
                            if cursor >= revision:
                                break
                except (OSError, ValueError, http.client.HTTPException):
                    quadtest.time.sleep(0.01)

        for round_ in range(4):
            with quadapi.Api(server).events(last=cursor) as stream:
                job = server.launch({"run": "true"})
                for cursor, kind, data in stream.events():
                    seen.append((cursor, kind))
                    if data.get("job") == job:
                        break
                if round_ % 2:
                    server.wait_for_status(job, "SUCCEEDED")
                server.kill()
                with self.assertRaises(ConnectionError):
                    for cursor, kind, _ in stream.events():
                        seen.append((cursor, kind))
            server.start()
            server.wait_for_status(job, "SUCCEEDED")
        newest = quadapi.Api(server).get("/v1/info").json["revision"]
        read_up_to(newest)
        stored = quadapi.Api(server).get("/v1/events?limit=10000").json["events"]
        self.assertEqual(seen, [(event["revision"], event["kind"]) for event in stored if event["revision"] <= newest])
        # The command line comes back by itself.
        told = [json.loads(follower.stdout.readline())["revision"] for _ in range(newest)]
        self.assertEqual(told, list(range(1, newest + 1)))

    def read_a_little(self, stream, done):
        """At most 64 KiB in five seconds, kept for events(), until `done`."""
        while not done.wait(5):
            most = len(stream.held) + 65536
            while len(stream.held) < most and select.select([stream.socket], [], [], 0)[0]:
                stream.held += stream.read(4096)

    def test_who_is_too_far_behind_is_told_to_read_the_state_again(self):
        server = self.server(nodes=1, start=False)
        server.data.mkdir(mode=0o700)
        (server.data / "config.yaml").write_text("jobs: {limits: {active_per_user: 100000}}\n")
        server.start()
        server.ok("node", "drain", "local-1")
        api = quadapi.Api(server)
        with api.open("/v1/events?follow=1", receive_buffer=65536) as slow, api.events("job=7") as narrow:
            before = quadtest.resident_kib(server.process.pid)
            # Far too slow to keep up, but never so still that the server gives it up, however long this takes here.
            done = threading.Event()
            trickle = threading.Thread(target=self.read_a_little, args=(slow, done))
            trickle.start()
            self.addCleanup(done.set)
            for _ in range(3):
                answer = api.post("/v1/jobs:bulk", {"jobs": [{"command": "true"}] * 10_000})
                self.assertEqual(answer.status, 201, answer)
            self.assertEqual(api.post("/v1/jobs:cancel", {"all": True}).status, 200)
            newest = api.get("/v1/info").json["revision"]
            self.assertGreater(newest, 60_000)
            done.set()
            trickle.join()
            # Now it reads: what was on its way, then the word that events were left out, then the rest.
            resyncs, last = [], 0
            for revision, kind, data in slow.events():
                if kind == "resync":
                    resyncs.append(data)
                    self.assertEqual((data["reason"], data["after"], data["revision"]), ("behind", last, revision))
                else:
                    self.assertEqual(revision, last + 1)
                last = revision
                if last >= newest:
                    break
            self.assertTrue(resyncs)
            # The follower of one job is never told so.
            of_job = api.get("/v1/events?job=7").json["events"]
            self.assertEqual([data for _, (_, _, data) in zip(of_job, narrow.events())], of_job)
        # Nothing was queued for the slow one: what the server holds is its 30,000 jobs.
        if not quadtest.is_sanitized():
            self.assertLess(quadtest.resident_kib(server.process.pid) - before, 150 << 10)
        with api.events(last=1) as old:
            revision, kind, data = next(old.events())
            self.assertEqual((kind, data["reason"], data["after"], revision), ("resync", "behind", 1, newest))
        with api.events(last=newest + 1000) as foreign:
            revision, kind, data = next(foreign.events())
            self.assertEqual((kind, data["reason"], revision), ("resync", "unknown_cursor", newest))
        # Pages have all that was left out, and the command line reads them by itself.
        self.assertEqual(api.get("/v1/events?after=1&limit=1").json["events"][0]["revision"], 2)
        told = server.ok("events", "-o", "json", "--kind", "job.submitted").splitlines()
        self.assertEqual(len(told), 30_000)
        follower = self.follow(server)
        for revision in range(1, newest + 1):
            self.assertEqual(json.loads(follower.stdout.readline())["revision"], revision)
