"""The API: what api/openapi.yaml promises holds on the running server, and every refusal has the same shape."""

import concurrent.futures
import json
import re
import subprocess
import threading
import unittest
from pathlib import Path

import quadapi
import quadtest

TIMEOUT_SECONDS = 400
ROOT = Path(__file__).resolve().parents[2]
SCHEMATHESIS = quadtest.cache_folder() / "schemathesis"


def is_error(answer):
    """Whether the body is an Error of api/openapi.yaml."""
    error = answer.json["error"]
    assert set(error) <= {"code", "message", "where", "index", "errors", "warnings"}, error
    assert re.fullmatch(r"[a-z_]+", error["code"]) and error["message"], error
    assert answer.headers["Content-Type"] == "application/json", answer.headers
    return True


class Description(quadtest.TestCase):
    @unittest.skipUnless(
        (SCHEMATHESIS / "installed").exists(), "schemathesis is missing: ./dev setup test gets it from a package index"
    )
    def test_schemathesis_finds_nothing_that_breaks_it(self):
        server = self.server(nodes=2)
        # Thousands of jobs are submitted; none of them need run.
        for node in ("local-1", "local-2"):
            server.ok("node", "drain", node)
        done = subprocess.run(
            [
                SCHEMATHESIS / "bin" / "schemathesis", "--config-file", Path(__file__).with_name("schemathesis.toml"), "--no-color",
                "run", ROOT / "api" / "openapi.yaml", "--url", server.url, "-H", f"Authorization: Bearer {server.token}",
                "--checks", "all", "--max-examples", "10", "--seed", "20", "--generation-database", "none",
                "--continue-on-failure", "--warnings", "off", "--request-timeout", "30",
            ],
            cwd=server.folder, capture_output=True, text=True,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + server.log_tail())
        self.assertGreater(int(re.search(r"(\d+) generated", done.stdout)[1]), 1000, done.stdout)
        self.assertNotIn("a request failed", server.log_tail(10_000))


class Refusals(quadtest.TestCase):
    """One server for all of them: a refusal changes nothing."""

    @classmethod
    def setUpClass(cls):
        cls.quad = quadtest.Server(nodes=1).start()
        cls.addClassCleanup(cls.quad.close)
        cls.api = quadapi.Api(cls.quad)

    @quadtest.quick
    def test_wrong_methods_and_paths(self):
        for method, path, allowed in (
            ("DELETE", "/v1/jobs", {"GET", "HEAD", "POST"}),
            ("OPTIONS", "/v1/jobs", {"GET", "HEAD", "POST"}),
            ("PUT", "/v1/jobs/1", {"GET", "HEAD"}),
            ("GET", "/v1/jobs/1/cancel", {"POST"}),
            ("BREW", "/v1/events", {"GET", "HEAD"}),
            ("POST", "/metrics", {"GET", "HEAD"}),
        ):
            answer = self.api.request(method, path)
            self.assertEqual(answer.status, 405, (method, path, answer))
            self.assertEqual(set(answer.headers["Allow"].split(", ")), allowed, (method, path))
            self.assertTrue(is_error(answer))
        for path in ("/", "/v1", "/v1/jobs/", "/v1/jobs/1/nothing", "/v2/jobs", "/v1/jobs%2F1"):
            answer = self.api.get(path)
            self.assertEqual(answer.status, 404, (path, answer))
            self.assertTrue(is_error(answer))

    def test_head_answers_as_get_without_a_body(self):
        for path in ("/healthz", "/v1/jobs", "/v1/info", "/metrics", "/v1/events?follow=1"):
            answer = self.api.request("HEAD", path)
            self.assertEqual((answer.status, answer.body), (200, b""), path)
        self.assertEqual(self.api.request("HEAD", "/v1/jobs/999").status, 404)

    def test_what_is_no_json_is_not_taken_for_it(self):
        body = json.dumps({"command": "echo never"})
        for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""):
            answer = self.api.post("/v1/jobs", body, headers={"Content-Type": kind})
            self.assertEqual(answer.status, 415, (kind, answer))
            self.assertTrue(is_error(answer))
        for broken in ("", "{", "[]", "null", '"x"', '{"command": "a"} x', "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe",
                       "[" * 100_000, '{"command": ' + "[" * 100_000):  # fmt: skip
            answer = self.api.post("/v1/jobs", broken, headers={"Content-Type": "application/json"})
            self.assertEqual(answer.status, 400, (broken[:20], answer))
            self.assertTrue(is_error(answer))
        self.assertEqual(self.api.get("/v1/jobs").json["jobs"], [])
        for kind in ("application/json", "Application/JSON; charset=utf-8"):
            answer = self.api.post("/v1/jobs", body[:-1] + ', "dryrun": true}', headers={"Content-Type": kind})
            self.assertEqual(answer.status, 200, (kind, answer))

    def test_slips_are_named(self):
        for path, where in (
            ("/v1/jobs?limt=3", "limt"),
            ("/v1/jobs?limit=0", "limit"),
            ("/v1/jobs?limit=1&limit=2", "limit"),
            ("/v1/jobs?status=RUNNIG", "status"),
            ("/v1/jobs/0", "id"),
            ("/v1/jobs/9223372036854775808", "id"),
            ("/v1/events?after=-1", "after"),
            ("/v1/events?follow=maybe", "follow"),
        ):
            answer = self.api.get(path)
            self.assertEqual(answer.status, 400, (path, answer))
            self.assertTrue(is_error(answer))
            self.assertEqual(answer.json["error"]["where"], where, answer)
        for body, where in (
            ({"comand": "echo"}, "comand"),
            ({"command": 3}, "command"),
            ({"command": "x", "overrides": {"num_nodes": 0}}, "overrides.num_nodes"),
            ({"command": "x", "client_key": "k" * 201}, "client_key"),
        ):
            answer = self.api.post("/v1/jobs", body)
            self.assertEqual((answer.status, answer.json["error"].get("where")), (400, where), answer)

    def test_a_fault_of_the_task_is_told_with_its_line_and_column(self):
        task = "run: x\nfile_mounts:\n  /data: s3://bucket\n"
        errors = [
            self.api.post("/v1/jobs", {"yaml": task}).json["error"]["errors"],
            self.api.post("/v1/validate", {"yaml": task}).json["errors"],
        ]
        for (error,) in errors:
            self.assertEqual((error["key"], error["line"], error["column"]), ("file_mounts./data", 3, 10))

    def test_what_is_too_large_is_refused_before_it_is_sent(self):
        for path, limit in (("/v1/jobs", 8 << 20), ("/v1/jobs:bulk", 64 << 20), ("/v1/tokens", 8 << 20)):
            with quadapi.Raw(self.quad) as raw:
                raw.send(
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.quad.token}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {limit + 1}\r\n\r\n".encode()
                )
                answer = raw.read_answer()
            self.assertEqual(answer.status, 413, answer)
            self.assertTrue(is_error(answer))
        # In chunks, nothing is promised: it is counted.
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        with quadapi.Raw(self.quad) as raw:
            raw.send(
                f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.quad.token}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n".encode()
            )
            try:
                for _ in range(9):
                    raw.send(chunk)
            except ConnectionError:
                pass
            answer = raw.read_answer()
        self.assertEqual(answer.status, 413, answer)
        # A task file has a smaller bound of its own, and so has a bulk.
        answer = self.api.post("/v1/jobs", {"yaml": "run: " + "x" * (5 << 20)})
        self.assertEqual(answer.status, 400, answer)
        answer = self.api.post("/v1/jobs:bulk", {"jobs": [{"command": "true"}] * 10_001})
        self.assertEqual((answer.status, answer.json["error"]["where"]), (400, "jobs"))
        self.assertEqual(self.api.get("/v1/jobs").json["jobs"], [])


class Submission(quadtest.TestCase):
    @quadtest.quick
    def test_a_bulk_is_taken_as_a_whole_or_not_at_all(self):
        server = self.server(nodes=1)
        api = quadapi.Api(server)
        good = {"command": "true"}
        answer = api.post("/v1/jobs:bulk", {"jobs": [good, {"yaml": "run: x\nresources: {cpus: -3}\n"}, good]})
        self.assertEqual((answer.status, answer.json["error"]["index"]), (400, 1), answer)
        self.assertIn("cpus", answer.json["error"]["where"])
        answer = api.post("/v1/jobs:bulk", {"jobs": [good, {"command": "true", "nmae": "x"}]})
        self.assertEqual((answer.status, answer.json["error"]["index"]), (400, 1), answer)
        self.assertEqual(api.get("/v1/jobs").json["jobs"], [])
        answer = api.post("/v1/jobs:bulk", {"jobs": [good | {"client_key": f"k{i}"} for i in (1, 2, 1)]})
        ids = [job["id"] for job in answer.json["jobs"]]
        self.assertEqual((answer.status, ids), (201, [1, 2, 1]), answer)
        self.assertEqual(len(api.get("/v1/jobs").json["jobs"]), 2)

    def test_one_key_is_one_job_from_16_clients_over_a_killed_server(self):
        server = self.server(nodes=1)
        server.ok("node", "drain", "local-1")  # what is submitted stays
        keys, clients = 40, 16
        answered = [[] for _ in range(keys)]
        lock = threading.Lock()

        def submit(client):
            """Sends every key until it is answered, as a client does that was cut off."""
            for key in range(keys):
                body = {"command": "true", "overrides": {"name": f"n{key}"}, "client_key": f"key-{key}"}
                for _ in range(10_000):
                    try:
                        answer = quadapi.Api(server).post("/v1/jobs", body)
                        if answer.status != 503:
                            break
                    except (OSError, ValueError, quadapi.http.client.HTTPException):
                        quadtest.time.sleep(0.01)
                assert answer.status == 201, answer
                with lock:
                    answered[key].append(answer.json["jobs"][0]["id"])

        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            work = [pool.submit(submit, client) for client in range(clients)]
            for quarter in (1, 2, 3):
                most = keys * clients * quarter // 4
                quadtest.wait_until(lambda: sum(map(len, answered)) >= most, 60, f"{most} answers have come", every=0.002)
                server.kill()
                server.start()
            for one in work:
                one.result(120)
        self.assertTrue(all(len(ids) == clients and len(set(ids)) == 1 for ids in answered), answered)
        jobs = quadapi.Api(server).get("/v1/jobs?limit=1000").json["jobs"]
        self.assertEqual({job["name"]: job["id"] for job in jobs}, {f"n{k}": min(ids) for k, ids in enumerate(answered)})
        self.assertEqual(len(jobs), keys)
        self.assertIn("sound", server.ok("admin", "check"))

    def test_a_key_is_its_owners_own(self):
        server = self.server(nodes=1)
        body = {"command": "true", "client_key": "same"}
        ids = []
        for user in ("ana", "bob"):
            token = server.json("token", "create", user)["token"]
            ids += [quadapi.Api(server, token).post("/v1/jobs", body).json["jobs"][0]["id"] for _ in range(2)]
        self.assertEqual(ids, [1, 1, 2, 2])
