"""Talking to a server over HTTP in tests: whole requests, server-sent events, and bytes that no decent client sends.

    api = quadapi.Api(server)
    api.post("/v1/jobs", {"command": "echo hello"}).json["jobs"][0]["id"]
    for event in api.events(after=0): ...
"""

import http.client
import json
import socket
import ssl
import threading
import urllib.parse

PATIENCE = 60


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode(errors="replace")

    def __repr__(self):
        return f"{self.status} {self.text[:500]}"


class Api:
    """Requests with a token, over TCP, each on a connection of its own. `token`: None sends none."""

    def __init__(self, server, token="", ca=None):
        self.url = urllib.parse.urlsplit(server.url)
        self.token = server.token if token == "" else token
        self.ca = ca

    def connect(self, timeout=PATIENCE):
        host, port = self.url.hostname, self.url.port
        if self.url.scheme == "https":
            return http.client.HTTPSConnection(
                host, port, timeout=timeout, context=ssl.create_default_context(cafile=str(self.ca))
            )
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def headers(self, more=None):
        told = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return told | (more or {})

    def metrics(self):
        """{'name{label="x"}': value} of /metrics."""
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def request(self, method, path, body=None, headers=None):
        if isinstance(body, (dict, list)):
            body, headers = json.dumps(body), {"Content-Type": "application/json"} | (headers or {})
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers(headers))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.request("POST", path, body, **more)

    def open(self, path, headers=None, receive_buffer=0):
        """A response that is read piece by piece: a Stream."""
        return Stream(self, path, headers, receive_buffer)

    def events(self, query="", last=None):
        """A Stream of events. `last`: the id to come back with."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last is not None else {})
        return self.open(f"/v1/events?{query}", headers)


class Local(Api):
    """The same over the unix socket, as the server's own user, who needs no token."""

    def __init__(self, server):
        super().__init__(server, token=None)
        self.path = server.info()["socket"]

    def connect(self, timeout=PATIENCE):
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(self.path)
        return connection


class Stream:
    """A body under way. read() gives what there is; events() parses server-sent ones. Closed by close() or `with`."""

    def __init__(self, api, path, headers=None, receive_buffer=0):
        self.connection = api.connect()
        self.connection.connect()
        if receive_buffer:
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.request("GET", path, headers=api.headers(headers))
        self.held = b""  # the beginning of an event
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        if self.response.status != 200:
            raise AssertionError(f"GET {path} was answered with {self.response.status} {self.response.read()[:500]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.connection.close()
        self.response.close()

    def read(self, size=65536):
        """At least a byte, or b"" at the proper end of the body. A body that was cut short raises ConnectionError."""
        try:
            return self.response.read1(size)
        except (http.client.IncompleteRead, ConnectionError, ValueError) as error:
            raise ConnectionError(f"the body was cut short ({error!r})") from None

    def read_until(self, mark, most=1 << 26):
        """What comes until `mark` is in it."""
        got = b""
        while mark not in got:
            piece = self.read()
            assert piece, f"the body ended before {mark!r} came; it ended with {got[-300:]!r}"
            got += piece
            assert len(got) <= most, f"{mark!r} did not come within {most} bytes"
        return got

    def read_all(self):
        got = b""
        while piece := self.read():
            got += piece
        return got

    def events(self):
        """(id, kind, data as JSON) of each event until the body ends; comments are left out."""
        while True:
            while b"\n\n" in self.held:
                block, self.held = self.held.split(b"\n\n", 1)
                fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if not line.startswith(":"))
                if fields:
                    yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            piece = self.read()
            if not piece:
                return
            self.held += piece


class Follower(threading.Thread):
    """Reads a stream of events in the background; what came is in `seen`, and why it ended in `ended`."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.seen, self.ended = stream, [], None
        self.start()

    def run(self):
        try:
            for event in self.stream.events():
                self.seen.append(event)
            self.ended = "end"
        except (ConnectionError, OSError) as error:
            self.ended = repr(error)


class Raw:
    """A bare TCP connection to the server."""

    def __init__(self, server, timeout=PATIENCE):
        url = urllib.parse.urlsplit(server.url)
        self.socket = socket.create_connection((url.hostname, url.port), timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def read_all(self):
        """Everything until the server closes."""
        got = b""
        try:
            while piece := self.socket.recv(65536):
                got += piece
        except ConnectionResetError:
            pass
        return got

    def read_answer(self):
        """One response with a Content-Length."""
        return read_answer(self.socket)


def read_answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Answer(response.status, dict(response.headers.items()), response.read())
