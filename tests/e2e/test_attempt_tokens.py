"""The token of an attempt, in the hands of somebody who has read it: it dies with the attempt, lets only the accepted
runner speak, and opens nothing but what that attempt needs."""

import hashlib
import json
import socket
import struct
import tempfile
import urllib.parse
from pathlib import Path

import quadapi
import quadtest
import sessionwire

TIMEOUT_SECONDS = 120


class AttemptTokens(quadtest.TestCase):
    def setUp(self):
        self.quad_server = self.server(nodes=2, gpus="")

    def launched(self, run, **task):
        """A job that runs, with the token of its attempt."""
        job = self.quad_server.launch({"run": run, "resources": {"cpus": 0.1, "memory": 0.2}, **task})
        self.quad_server.wait_for_status(job, "RUNNING")
        start = next(self.quad_server.data.glob(f"nodes/*/{job}-1-0/start.json"))
        return job, json.loads(start.read_text())["token"]

    def runner(self, job, token, nonce, rank=0):
        """A runner's connection over TCP, or the answer that refuses it."""
        url = urllib.parse.urlsplit(self.quad_server.url)
        connection = socket.create_connection((url.hostname, url.port), timeout=30)
        self.addCleanup(connection.close)
        path = f"/v1/runner?job={job}&epoch=1&rank={rank}&nonce={nonce}"
        return connection, sessionwire.upgrade(connection, path, token, "quad-runner/1")

    def get(self, path, token):
        return quadapi.Api(self.quad_server, token).get(path)

    def test_it_dies_with_the_attempt(self):
        job, token = self.launched("echo before; while [ ! -e ~/go-on ]; do sleep 0.05; done")
        self.quad_server.ok("exec", job, "--", "sh", "-c", "touch ~/go-on")
        self.quad_server.wait_for_status(job, "SUCCEEDED")
        _, answer = self.runner(job, token, "ghost")
        self.assertNotIsInstance(answer, sessionwire.Frames)
        self.assertIn(" 410 ", answer.partition("\r\n")[0])
        self.assertEqual(self.quad_server.ok("logs", job, "--no-follow"), "before\n")

    def test_only_the_accepted_runner_speaks_for_its_rank(self):
        job, token = self.launched("echo before; while [ ! -e ~/go-on ]; do sleep 0.05; done; echo after")
        for offset in (0, 7, 1 << 40, 1 << 63):
            for greeted in (False, True):
                with self.subTest(offset=offset, greeted=greeted):
                    connection, frames = self.runner(job, token, "ghost")
                    self.assertIsInstance(frames, sessionwire.Frames)
                    if greeted:
                        connection.sendall(sessionwire.message(type="hello", version=1, address="10.1.1.1", port=1, pid=1,
                                                               phase="connected", log_offset=0))  # fmt: skip
                    connection.sendall(
                        sessionwire.message(type="heartbeat", rss_bytes=1 << 60, cpu_percent=7)
                        + sessionwire.message(type="progress", step=666, total=667, metrics={"forged": 1})
                        + sessionwire.message(type="gap", **{"from": 0, "to": 1 << 40})
                        + sessionwire.frame("L", struct.pack("<Q", offset) + b"forged\n")
                    )
                    while frames.next():  # whatever it is told, until the server has closed the connection
                        pass
        shown = json.dumps(self.quad_server.json("status", job)) + self.quad_server.ok("story", job)
        for forged in ("666", "forged", "10.1.1.1"):
            self.assertNotIn(forged, shown)
        self.quad_server.ok("exec", job, "--", "sh", "-c", "touch ~/go-on")
        self.quad_server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(self.quad_server.ok("logs", job, "--no-follow"), "before\nafter\n")

    def test_it_reads_only_the_uploads_of_its_job(self):
        api = quadapi.Api(self.quad_server)
        other = b"another user's work"
        name = hashlib.sha256(other).hexdigest()
        self.assertEqual(api.request("PUT", f"/v1/blobs/{name}", other).status, 201)
        folder = Path(tempfile.mkdtemp())
        (folder / "own.txt").write_text("own")
        task = folder / "task.yaml"
        task.write_text("workdir: .\nresources: {cpus: 0.1, memory: 0.2}\nrun: sleep 600\n")
        # With a secret, what is brought is sealed in the records.
        job = self.quad_server.launch(task, "--secret", "KEY=1", cwd=folder)
        self.quad_server.wait_for_status(job, "RUNNING")
        token = json.loads(next(self.quad_server.data.glob(f"nodes/*/{job}-1-0/start.json")).read_text())["token"]
        own = next(path.name for path in (self.quad_server.data / "blobs").iterdir() if path.name != name)
        self.assertEqual(self.get(f"/v1/blobs/{own}", token).status, 200)
        self.assertEqual(self.get(f"/v1/blobs/{name}", token).status, 401)
        self.quad_server.ok("cancel", job)
        self.quad_server.wait_for_status(job, "CANCELLED")
        self.assertEqual(self.get(f"/v1/blobs/{own}", token).status, 401)

    def test_it_reaches_ranks_only_from_where_the_runner_is(self):
        # The runner is connected through the unix socket; whoever asks over TCP is somewhere else.
        job, token = self.launched("sleep 600")
        url = urllib.parse.urlsplit(self.quad_server.url)
        connection = socket.create_connection((url.hostname, url.port), timeout=30)
        self.addCleanup(connection.close)
        answer = sessionwire.upgrade(connection, f"/v1/runner/reach?job={job}&epoch=1&rank=0&host=rank-0", token)
        self.assertNotIsInstance(answer, sessionwire.Frames)
        self.assertIn(" 403 ", answer.partition("\r\n")[0])
        self.assertNotIn("session", self.quad_server.ok("events", "--job", job))

    def test_a_session_is_used_as_it_was_asked_for(self):
        job, _ = self.launched("sleep 600")
        for asked, used in (("copy", "shell"), ("copy", "exec"), ("forward", "exec"), ("exec", "copy_from"), ("shell", "forward")):
            with self.subTest(asked=asked, used=used):
                client = sessionwire.Client(self.quad_server, job, kind=asked)
                self.addCleanup(client.close)
                client.send(sessionwire.message(type="begin", kind=used, arguments=["id"], path="/etc/hostname"))
                told = next(client.frames.messages())
                self.assertEqual((told["type"], told["code"]), ("failed", 2), told)
                self.assertIn(f"'{asked}'", told["message"])
