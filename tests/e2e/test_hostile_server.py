"""A server that answers whatever it likes: another version, another program, or one that means harm. The command line ends
with an exit code and a sentence, never by a signal and never not at all.

The answers of a real server are taken down once; then a false one gives them again, changed. Each change follows from a
number, which a failure tells: QUAD_HOSTILE_SEED=N runs that one alone for each verb."""

import copy
import http.server
import json
import os
import random
import re
import subprocess
import threading
import urllib.parse

import quadapi
import quadtest
import sessionwire

TIMEOUT_SECONDS = 170
ROUNDS = 12  # for each verb
MOST_REQUESTS = 12  # of one call of the command line; what asks on and on gets an end then
STRANGE = [None, True, False, 0, -1, 1 << 62, -(1 << 63), (1 << 64) - 1, 1.5, 1e300, -1e300, "", "x", "\x1b[2J\u202e", "9" * 400,
           "2026-13-45T99:99:99Z", "9999-12-31T23:59:59Z", [], {}, [[]], [None], [{}], [1, "a", {}], {"a": [1]}, "y" * 100_000]  # fmt: skip
WHOLE = [b"", b"null", b"[]", b"{}", b'"text"', b"17", b"{", b"\xff\xfe\0", b"<html>hello</html>", b"[" * 100_000, b"x" * (1 << 20),
         b'{"jobs":{"a":[1]},"clusters":5,"breaker":{}}', b'{"jobs":[{}],"clusters":[{}],"nodes":[{}],"events":[{}]}',
         b'{"jobs":[5],"clusters":["a"],"nodes":[null],"attempts":[[]],"lines":[1],"tokens":[[]],"gpus":[0]}',
         b'{"error":{"code":"unavailable"}}', b'{"error":5}', b'{"error":{"code":7,"message":{},"errors":[5,{"line":[]}]}}']  # fmt: skip


class Changes:
    """What becomes of an answer, as a number says."""

    def __init__(self, number):
        self.random = random.Random(number)

    def value(self, value):
        """With one to three changes anywhere inside."""
        value = copy.deepcopy(value)
        for _ in range(self.random.randint(1, 3)):
            value = self.changed(value)
        return value

    def changed(self, value):
        inside = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
        if not inside or self.random.random() < 0.15:
            return self.random.choice(STRANGE)
        key = self.random.choice(inside)
        what = self.random.random()
        if what < 0.2:
            del value[key]
        elif what < 0.25 and isinstance(value, list):
            value.extend([value[key]] * 50)
        else:
            value[key] = self.changed(value[key])
        return value

    def text(self, answer):
        """Of a JSON answer."""
        return self.random.choice(WHOLE) if self.random.random() < 0.2 else json.dumps(self.value(answer)).encode()

    def piece(self, raw):
        """Of bytes in frames or lines: some changed, cut, doubled."""
        raw = bytearray(raw)
        for _ in range(self.random.randint(1, 4)):
            if raw:
                at = self.random.randrange(len(raw))
                what = self.random.randrange(4)
                if what == 0:
                    raw[at] = self.random.randrange(256)
                elif what == 1:
                    del raw[at : at + self.random.randrange(20)]
                elif what == 2:
                    raw[at:at] = raw[at : at + self.random.randrange(40)]
                else:
                    raw[at:at] = self.random.choice([b"\n", b"{}\n", b"[]\n", b"null\n", b'{"type":"output","bytes":5}\n'])
        return bytes(raw)

    def frames(self, raw):
        """Of a log: a line of JSON and, behind some, output."""
        if self.random.random() < 0.5:
            return self.piece(raw)
        changed, rest = b"", raw
        while rest:
            line, _, rest = rest.partition(b"\n")
            head = json.loads(line)
            size = head.get("bytes", 0)
            body, rest = rest[:size], rest[size:]
            changed += json.dumps(self.value(head) if self.random.random() < 0.5 else head).encode() + b"\n" + body
        return changed

    def session(self):
        """What comes behind an upgrade."""
        known = [{"type": "begun", "is_file": True, "mode": 420, "name": "x"}, {"type": "begun", "is_file": False, "name": "../y"},
                 {"type": "exit", "code": 0}, {"type": "failed", "message": "no"}, {"type": "ping"}, {"type": "pong"},
                 {"type": "refused", "stream": 1, "message": "no"}]  # fmt: skip
        sent = b""
        for _ in range(self.random.randint(0, 12)):
            what = self.random.random()
            if what < 0.5:
                sent += sessionwire.frame("J", json.dumps(self.value(self.random.choice(known))).encode())
            elif what < 0.7:
                sent += sessionwire.data(self.random.randrange(4), self.random.randbytes(self.random.randrange(2000)))
            elif what < 0.8:
                sent += sessionwire.window(self.random.randrange(4), self.random.choice([0, 1, 1 << 31, (1 << 32) - 1]))
            elif what < 0.9:
                sent += sessionwire.frame(self.random.randrange(256), self.random.randbytes(self.random.randrange(9)))
            else:
                sent += self.random.randbytes(self.random.randrange(30))
        return sent


class FalseServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers, log):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.log = answers, log
        self.begin(0)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def begin(self, number):
        self.changes, self.asked, self.lock = Changes(number), 0, threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, status=200, kind="application/json", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self):
        server = self.server
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.urlsplit(self.path).path
        if path == "/healthz":
            return self.reply(b'{"ok":true}')
        with server.lock:
            server.asked += 1
            if server.asked > MOST_REQUESTS:
                return self.reply(b'{"error":{"code":"not_found","message":"This is the end."}}', 404)
            changes = server.changes
            self.close_connection = True
            known = server.answers.get((self.command, re.sub(r"\d+", "1", path)), {"id": 1, "status": "RUNNING"})
            if path.endswith("/session") and changes.random.random() < 0.9:
                self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
                                 + sessionwire.PROTOCOL.encode() + b"\r\n\r\n" + changes.session())  # fmt: skip
                return None
            if path.endswith("/logs"):
                body, kind = changes.frames(server.log), "application/octet-stream"
            elif "follow=1" in self.path:
                body = "".join(f"event: event\nid: {event.get('revision')}\ndata: {json.dumps(changes.value(event))}\n\n"
                               for event in known["events"]).encode()  # fmt: skip
                body, kind = changes.piece(body), "text/event-stream"
            else:
                body, kind = changes.text(known), "application/json"
            how = changes.random.random()
            status = changes.random.choice([200, 200, 201, 204, 302, 400, 404, 409, 422, 429, 500, 503, 599]) if how < 0.15 else 200
            length = changes.random.choice([0, 1, len(body) + 5, 1 << 40]) if 0.15 < how < 0.2 else None
            if 0.2 < how < 0.23:
                self.wfile.write(changes.random.randbytes(50))
                return None
            return self.reply(body, status, kind, length)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer


VERBS = [["status"], ["status", "1"], ["status", "dev"], ["queue"], ["queue", "dev"], ["jobs", "queue"], ["logs", "1"],
         ["logs", "-f", "1"], ["logs", "1", "-o", "json"], ["logs"], ["jobs", "logs", "dev"], ["cancel", "1"], ["cancel", "--all"],
         ["cancel", "dev"], ["jobs", "cancel", "-n", "x"], ["launch", "true"], ["launch", "-d", "true"], ["launch", "--dryrun", "true"],
         ["launch", "true", "-o", "json"], ["launch", "--workdir", ".", "true"], ["launch", "-c", "dev", "-d", "true"],
         ["jobs", "launch", "true"], ["exec", "dev", "true"], ["exec", "1", "--", "true"], ["cp", "1:x", "here"], ["cp", "there", "1:x"],
         ["port-forward", "1", "0:80"], ["why", "1"], ["story", "1"], ["story", "dev"], ["checkpoints", "1"], ["events"],
         ["events", "-f"], ["events", "-o", "json"], ["gpus", "list"], ["gpus", "list", "H100:1"], ["node", "list"],
         ["node", "drain", "a"], ["stop", "dev"], ["start", "--all"], ["down", "dev"], ["autostop", "dev", "-i", "5"], ["api", "status"],
         ["api", "info"], ["token", "list"], ["token", "create", "ana"], ["token", "revoke", "a"], ["admin", "check"],
         ["admin", "backup", "copy.db"], ["check"], ["status", "-o", "json"], ["node", "list", "-o", "json"],
         ["__complete", "status", ""], ["__complete", "node", "drain", ""]]  # fmt: skip


def taken_down(server):
    """Each route's answer, and a log in its frames."""
    api = quadapi.Api(server)
    server.ok("launch", "-c", "dev", "true")
    task = {"num_nodes": 2, "run": "echo one; echo '{\"step\": 3, \"total\": 9, \"loss\": 0.5}' >> $QUAD_PROGRESS; echo two"}
    job = server.launch(task)
    server.wait_for_status(job, "SUCCEEDED")
    stays = server.launch({"run": "sleep 600"})
    server.wait_for_status(stays, "RUNNING")
    waits = server.launch({"num_nodes": 2, "run": "sleep 600", "resources": {"accelerators": "H100:8"}})
    answers = {}

    def take(method, path, body=None, key=None):
        found = api.request(method, path, body).json
        answers[method, re.sub(r"\d+", "1", key or urllib.parse.urlsplit(path).path)] = found

    for path in ("/v1/jobs", "/v1/clusters", "/v1/clusters/dev", f"/v1/jobs/{stays}", f"/v1/jobs/{waits}/why", f"/v1/jobs/{job}/story",
                 f"/v1/jobs/{job}/checkpoints", "/v1/events?limit=50", "/v1/gpus", "/v1/nodes", "/v1/tokens", "/v1/info", "/v1/check"):  # fmt: skip
        take("GET", path)
    take("POST", "/v1/jobs", {"command": "true", "dryrun": True})
    answers["POST", "/v1/jobs"] |= api.request("POST", "/v1/jobs", {"command": "true"}).json
    take("POST", f"/v1/jobs/{stays}/cancel")
    answers["POST", "/v1/jobs:cancel"] = {"jobs": [answers["POST", "/v1/jobs/1/cancel"]]}
    take("POST", "/v1/nodes/local-1/drain", key="/v1/nodes/a/drain")
    take("POST", "/v1/tokens", {"user": "bob", "role": "user"})
    take("POST", "/v1/admin/check")
    for verb in ("stop", "start", "down", "autostop"):
        answers["POST", f"/v1/clusters/dev/{verb}"] = answers["GET", "/v1/clusters/dev"]
    log = api.get(f"/v1/jobs/{job}/logs?follow=0&cursor=start").body
    return answers, log


class HostileServer(quadtest.TestCase):
    def test_no_answer_ends_the_command_line_by_a_signal_or_holds_it_up(self):
        real = self.server(nodes=2, gpus="H100:8")
        answers, log = taken_down(real)
        self.assertIn(b'"type":"output"', log)
        real.close()
        false = FalseServer(answers, log)
        self.addCleanup(false.shutdown)
        folder = real.folder / "here"
        folder.mkdir()
        (folder / "there").write_text("x")
        given = os.environ.get("QUAD_HOSTILE_SEED")
        wrong = []
        for i, verb in enumerate(VERBS):
            for number in [int(given)] if given else range(i * ROUNDS, (i + 1) * ROUNDS):
                false.begin(number)
                said = self.call(false, folder, verb)
                if said:
                    wrong.append(f"quad {' '.join(verb)}, QUAD_HOSTILE_SEED={number}: {said}")
        self.assertEqual(wrong, [])

    def call(self, false, folder, verb):
        """What was wrong with how it ended; None if nothing was."""
        env = os.environ | {"QUAD_SERVER": false.url, "QUAD_TOKEN": "x", "NO_COLOR": "1", "QUAD_DATA_DIR": str(folder / "none")}
        try:
            done = subprocess.run([quadtest.quad_bin(), *verb], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                                  cwd=folder, env=env)  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return f"has not ended: {(late.stderr or b'')[-300:]}"
        if done.returncode < 0 or b"terminate called" in done.stderr or b"internal error at" in done.stderr:
            return f"ended by {done.returncode}: {done.stderr[-300:]}"
        if b"\x1b" in done.stderr or (b"\x1b" in done.stdout and "logs" not in verb and "launch" not in verb and "exec" not in verb):
            return f"gave escape sequences on: {done.stdout[-300:]}{done.stderr[-300:]}"
        if done.returncode in (1, 2, 3, 4, 5) and not done.stderr and "logs" not in verb and verb[0] not in ("launch", "exec", "jobs", "check", "admin"):
            return f"ended with {done.returncode} and no word"
        return None
