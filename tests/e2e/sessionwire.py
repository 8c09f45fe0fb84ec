"""The wire of a session (docs/runner-protocol.md, "Sessions") in tests: its frames, a client that sends what it likes, and a
runner that answers as it likes.

Started as a program, under the name quad-runner beside a copy of quad, it is such a runner: it lives through the order of
work of a rank, and in each session first sends what the file `says` beside it holds."""

import json
import os
import socket
import struct
import sys
import urllib.parse
from pathlib import Path

PROTOCOL = "quad-session/1"
GONE = (ConnectionError, TimeoutError)


def frame(kind, payload=b""):
    """Any frame: its type is a letter or a number."""
    number = ord(kind) if isinstance(kind, str) else kind
    return struct.pack("<IB", len(payload), number) + payload


def message(**members):
    return frame("J", json.dumps(members).encode())


def data(stream, piece):
    return frame("D", struct.pack("<I", stream) + piece)


def window(stream, room):
    return frame("W", struct.pack("<II", stream, room))


class Frames:
    """What comes on a socket, frame by frame."""

    def __init__(self, connection, rest=b""):
        self.connection, self.rest = connection, rest

    def next(self):
        """The next (type, payload); None at the end, however it came."""
        while len(self.rest) < 5 or len(self.rest) < 5 + struct.unpack_from("<I", self.rest)[0]:
            try:
                piece = self.connection.recv(65536)
            except ConnectionError:
                return None
            if not piece:
                return None
            self.rest += piece
        (length,) = struct.unpack_from("<I", self.rest)
        kind, payload = chr(self.rest[4]), self.rest[5 : 5 + length]
        self.rest = self.rest[5 + length :]
        return kind, payload

    def messages(self):
        """Every message until the end."""
        while found := self.next():
            if found[0] == "J":
                yield json.loads(found[1])


def upgrade(connection, target, token, protocol=PROTOCOL, behind=b""):
    """Asks for an upgrade, with these bytes right behind the request; the frames that follow, or the refusal as text."""
    head = f"GET {target} HTTP/1.1\r\nHost: quad\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    connection.sendall(head.encode() + behind)
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(65536)
        if not piece:
            return got.decode(errors="replace")
        got += piece
    head, _, rest = got.partition(b"\r\n\r\n")
    return Frames(connection, rest) if head.startswith(b"HTTP/1.1 101 ") else got.decode(errors="replace")


class Client:
    """A user's end of a session on a bare socket."""

    def __init__(self, server, job, kind="exec", behind=b"", timeout=60):
        url = urllib.parse.urlsplit(server.url)
        self.socket = socket.create_connection((url.hostname, url.port), timeout=timeout)
        self.frames = upgrade(self.socket, f"/v1/jobs/{job}/session?kind={kind}&rank=0", server.token, behind=behind)
        assert isinstance(self.frames, Frames), self.frames

    def send(self, *pieces):
        """False if the other end has had enough."""
        try:
            self.socket.sendall(b"".join(pieces))
            return True
        except GONE:
            return False

    def close(self):
        self.socket.close()


def be_a_runner(folder):
    import fcntl
    import threading
    import time

    start = json.loads((folder / "start.json").read_text())
    lock = open(folder / "runner.pid", "w")  # noqa: SIM115: as long as the process lives
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    lock.write(f"{os.getpid()} {stat[19]}\n")
    lock.flush()
    who = f"job={start['job']}&epoch={start['epoch']}&rank={start['rank']}"

    def connect():
        kind, _, rest = start["server"].partition(":")
        if kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(rest)
            return connection
        url = urllib.parse.urlsplit(start["server"])
        return socket.create_connection((url.hostname, url.port))

    def dial_back(one):
        connection = connect()
        frames = upgrade(connection, f"/v1/runner/session?{who}&id={one}", start["token"])
        if isinstance(frames, Frames):
            said = Path(sys.argv[0]).with_name("says").read_bytes()
            close, said = said[:1] == b"!", said[1:]
            try:
                connection.sendall(said)
            except OSError:
                return
            while not close and frames.next():
                pass
        connection.close()

    connection = connect()
    frames = upgrade(connection, f"/v1/runner?{who}&nonce=abcdef", start["token"], "quad-runner/1")
    seq = iter(range(1, 100))
    sending = threading.Lock()

    def say(**members):
        with sending:
            connection.sendall(message(**members))

    def beat():
        while True:
            say(type="heartbeat", rss_bytes=1, cpu_percent=0, at_ms=int(time.monotonic() * 1000))
            time.sleep(1)

    say(type="hello", version=1, address="127.0.0.1", port=1, pid=os.getpid(), phase="connected", log_offset=0)
    threading.Thread(target=beat, daemon=True).start()
    for one in frames.messages():
        if one["type"] == "order":
            say(type="phase", seq=next(seq), phase="setting_up")
            say(type="phase", seq=next(seq), phase="ready")
        elif one["type"] == "go":
            say(type="phase", seq=next(seq), phase="running")
        elif one["type"] == "session":
            threading.Thread(target=dial_back, args=(one["id"],), daemon=True).start()
        elif one["type"] in ("stop", "leave", "bye"):
            return


if __name__ == "__main__":
    be_a_runner(Path(sys.argv[1]))
