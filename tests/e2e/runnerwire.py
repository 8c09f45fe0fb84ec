"""Speaks the runner's protocol in the place of a rank's own runner, which stands still meanwhile: what a job that got hold
of its runner could do, and how long the server takes to answer a runner.

    with runnerwire.Runner(server, job) as runner:
        runner.send(type="note", kind="x", message="hello", seq=7)
"""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import struct
import time

import quadtest


def start_of(server, job, epoch=1, rank=0):
    """start.json of a rank: its token, and where its runner finds the server."""
    (path,) = server.data.glob(f"nodes/*/{job}-{epoch}-{rank}/start.json")
    return json.loads(path.read_text())


def nonce_of(server, job, rank=0):
    """By which the server knows the runner that it accepted."""
    with contextlib.closing(sqlite3.connect(f"file:{server.data / 'quad.db'}?mode=ro", uri=True)) as db:
        (record,) = db.execute("SELECT record FROM jobs WHERE id = ?", (job,)).fetchone()
    return json.loads(record)["attempts"][-1]["ranks"][rank]["nonce"]


def connect(server, job, nonce, epoch=1, rank=0, patience=30):
    """A connection to /v1/runner over the unix socket, and the head of its answer."""
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(patience)
    link.connect(server.info()["socket"])
    link.sendall(
        f"GET /v1/runner?job={job}&epoch={epoch}&rank={rank}&nonce={nonce} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {start_of(server, job, epoch, rank)['token']}\r\n"
        "Connection: Upgrade\r\nUpgrade: quad-runner/1\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        piece = link.recv(1)
        assert piece, f"the server closed after {head!r}"
        head += piece
    return link, head


class Runner:
    """In the place of the runner of a job's only rank, until the block ends."""

    def __init__(self, server, job):
        self.pids = quadtest.processes_of(f"/{job}-1-0", "quad-runner")
        assert self.pids, "the rank has no runner"
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        self.link, head = connect(server, job, nonce_of(server, job))
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.held = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.link.close()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def send(self, **message):
        text = json.dumps(message).encode()
        self.link.sendall(struct.pack("<IB", len(text), ord("J")) + text)

    def _take(self, size):
        while len(self.held) < size:
            piece = self.link.recv(65536)
            assert piece, "the server closed the runner's connection"
            self.held += piece
        taken, self.held = self.held[:size], self.held[size:]
        return taken

    def receive(self, wanted):
        """The next message of that type; others are passed over."""
        while True:
            length, kind = struct.unpack("<IB", self._take(5))
            payload = self._take(length)
            if kind == ord("J") and (message := json.loads(payload)).get("type") == wanted:
                return message

    def heartbeat(self):
        """Seconds until the server has answered a heartbeat, of a rank with a strict fence."""
        began = time.perf_counter()
        at = int(began * 1000)
        self.send(type="heartbeat", rss_bytes=1, cpu_percent=0.0, at_ms=at)
        while self.receive("lease")["at_ms"] != at:
            pass
        return time.perf_counter() - began
