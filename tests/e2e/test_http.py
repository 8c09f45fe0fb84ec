"""Clients that mean harm, or are broken: each is cut off or told so, and the others are served all the while."""

import random
import socket
import threading
import time
import urllib.parse

import quadapi
import quadtest

TIMEOUT_SECONDS = 180


class Hostile(quadtest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.quad = quadtest.Server(nodes=1).start()
        cls.addClassCleanup(cls.quad.close)
        cls.api = quadapi.Api(cls.quad)

    def tearDown(self):
        self.assertIsNone(self.quad.process.poll(), self.quad.log_tail())
        self.assertEqual(self.api.get("/v1/info").status, 200)
        self.assertNotIn("a request failed", self.quad.log_tail(1000))

    def head(self, method, path, *lines):
        told = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.quad.token}", *lines]
        return ("\r\n".join(told) + "\r\n\r\n").encode()

    @quadtest.quick
    def test_what_is_no_http_is_refused(self):
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /healthz\r\n\r\n",
            b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n bad: folded\r\n\x00: y\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        ):
            with quadapi.Raw(self.quad) as raw:
                answer = raw.send(garbage).read_answer()
                self.assertEqual(answer.status, 400, (garbage[:60], answer))
                self.assertEqual(answer.json["error"]["code"], "invalid")
                self.assertEqual(raw.read_all(), b"", garbage[:60])
        for bad in (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.1\r\n\r\n"):
            with quadapi.Raw(self.quad) as raw:  # where it ends is clear, so the connection goes on
                self.assertEqual(raw.send(bad).read_answer().status, 400, bad)
                self.assertEqual(raw.send(self.head("GET", "/healthz")).read_answer().status, 200, bad)
        with quadapi.Raw(self.quad) as raw:
            answer = raw.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n").read_answer()
            self.assertEqual(answer.status, 431, answer)
        with quadapi.Raw(self.quad) as raw:
            answer = raw.send(self.head("POST", "/v1/jobs", "Transfer-Encoding: gzip")).read_answer()
            self.assertEqual(answer.status, 501, answer)
        with quadapi.Raw(self.quad) as raw:
            answer = raw.send(self.head("POST", "/v1/jobs", "Transfer-Encoding: chunked") + b"zz\r\n").read_answer()
            self.assertEqual((answer.status, answer.json["error"]["code"]), (400, "invalid"), answer)
        # Both lengths at once is how requests are smuggled past proxies: whichever is meant, there is one request.
        with quadapi.Raw(self.quad) as raw:
            raw.send(self.head("POST", "/v1/validate", "Content-Length: 4", "Transfer-Encoding: chunked") +
                     b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")  # fmt: skip
            self.assertEqual(raw.read_answer().status, 400)
            raw.socket.shutdown(socket.SHUT_WR)
            self.assertNotIn(b"smuggled", raw.read_all())

    def test_random_bytes_end_nothing(self):
        dice = random.Random(7)
        whole = self.head("GET", "/v1/jobs?limit=1") + self.head("POST", "/v1/validate", "Content-Length: 2") + b"{}"
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(dice.randrange(1, 6)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            with quadapi.Raw(self.quad) as raw:
                try:
                    raw.send(bytes(data[: dice.randrange(len(data))] if dice.random() < 0.5 else data))
                    raw.socket.shutdown(socket.SHUT_WR)
                    answer = raw.read_all()
                except OSError:
                    continue
                self.assertTrue(not answer or answer.startswith(b"HTTP/1.1 "), (bytes(data), answer[:100]))

    def test_requests_in_a_row_are_answered_in_their_order(self):
        paths = ["/healthz", "/v1/nothing", "/v1/jobs?limit=1", "/v1/jobs/77", "/healthz"] * 20
        with quadapi.Raw(self.quad) as raw:
            raw.send(b"".join(self.head("GET", path) for path in paths))
            stream = raw.socket.makefile("rb")
            got = []
            for _ in paths:
                status = int(stream.readline().split()[1])
                length = 0
                while (line := stream.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                got.append(status)
        self.assertEqual(got, [200, 404, 200, 404, 200] * 20)

    def test_an_upgrade_to_what_is_not_spoken_is_refused(self):
        for extra in ((), ("Connection: Upgrade", "Upgrade: websocket"), ("Connection: Upgrade", "Upgrade: quad-runner/1")):
            with quadapi.Raw(self.quad) as raw:
                answer = raw.send(self.head("GET", "/v1/runner?job=1&epoch=1&rank=0&nonce=abc", *extra)).read_answer()
                self.assertEqual((answer.status, answer.json["error"]["code"]), (401, "unauthenticated"), answer)
            with quadapi.Raw(self.quad) as raw:
                self.assertEqual(raw.send(self.head("GET", "/v1/info", *extra)).read_answer().status, 200)


class Crowds(quadtest.TestCase):
    def test_half_requests_of_strangers_hold_up_neither_runners_nor_administrators(self):
        server = self.server(nodes=1, options=["--runners-over-tcp"], start=False)
        server.prefix = ["prlimit", "--nofile=330:330"]  # 165 connections over TCP
        server.start()
        port = urllib.parse.urlsplit(server.url).port
        crowd, over = [], threading.Event()

        def keep_coming():
            """Holds 170 half requests open, and brings new ones for those that are cut off."""
            while not over.is_set():
                if len(crowd) >= 170:
                    crowd.pop(0).close()
                one = socket.create_connection(("127.0.0.1", port))
                one.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                crowd.append(one)
                over.wait(0 if len(crowd) < 170 else 0.02)

        strangers = threading.Thread(target=keep_coming)
        strangers.start()
        try:
            quadtest.wait_until(lambda: len(crowd) >= 170, 30, "the crowd is there")
            for _ in range(20):
                self.assertEqual(quadapi.Api(server).get("/v1/info").status, 200)
            job = server.launch("run: seq 1000", env={"QUAD_SERVER": server.url, "QUAD_TOKEN": server.token})
            server.wait_for_status(job, "SUCCEEDED")
            self.assertEqual(server.ok("logs", job).split(), [str(number) for number in range(1, 1001)])
            self.assertEqual(len(crowd), 170)
        finally:
            over.set()
            strangers.join()
            for one in crowd:
                one.close()
        self.assertGreater(quadapi.Api(server).metrics()["quad_http_rejected_total"], 50)

    def test_idle_and_slow_connections_of_one_user_leave_room_for_others(self):
        server = self.server(nodes=1, start=False)
        server.prefix = ["prlimit", "--nofile=300:300"]
        server.start()
        token = quadapi.Api(server).post("/v1/tokens", {"user": "eve", "role": "viewer"}).json["token"]
        head = f"GET /v1/events?follow=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        followers = []
        for _ in range(120):
            raw = quadapi.Raw(server)
            self.addCleanup(raw.socket.close)
            raw.send(head)
            followers.append(raw.socket.recv(4096).split(b"\r\n")[0])
        self.assertIn(b"HTTP/1.1 200 OK", followers)
        self.assertIn(b"HTTP/1.1 429 Too Many Requests", followers)
        for _ in range(5):
            self.assertEqual(quadapi.Api(server).get("/v1/info").status, 200)
        refused = quadapi.Api(server, token=token).get("/v1/events?follow=1")
        self.assertEqual(refused.status, 429)
        self.assertRegex(refused.json["error"]["message"], "eve (has as many connections|follows events or output)")
        self.assertEqual(refused.headers["Retry-After"], "1")

    def test_slow_clients_are_cut_off_and_take_no_room_that_others_need(self):
        server = self.server(nodes=1, start=False)
        server.prefix = ["prlimit", "--nofile=300:300"]  # a crowd is soon too large
        server.start()
        own = quadapi.Local(server)
        port = urllib.parse.urlsplit(server.url).port
        began = time.monotonic()
        crowd = []
        for _ in range(400):
            one = socket.socket()
            self.addCleanup(one.close)
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            crowd.append(one)

        def send_on(data):
            """How many are still connected after they sent a little."""
            left = 0
            for one in crowd:
                try:
                    one.send(data)
                    left += one.recv(4096) != b""
                except BlockingIOError:
                    left += 1
                except OSError:
                    pass
            return left

        quadtest.wait_until(lambda: own.metrics()["quad_http_rejected_total"] > 0, 30, "some are turned away")
        # Strangers have half of the room, and the first of a crowd leave for the next.
        self.assertGreater(send_on(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "), 50)
        # The server's own user and the runners come in all the same, and nothing of a job is lost.
        job = server.launch("run: seq 1000")
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.ok("logs", job).split(), [str(number) for number in range(1, 1001)])
        # However slowly they send on, their time is over together.
        quadtest.wait_until(lambda: send_on(b"x") == 0, 60, "no slow client is left", every=0.5)
        self.assertGreater(time.monotonic() - began, 5, "they were given some time")
        quadtest.wait_until(lambda: own.metrics()["quad_http_connections"] < 10, 30, "their connections are closed")
        self.assertEqual(quadapi.Api(server).get("/healthz").status, 200)
