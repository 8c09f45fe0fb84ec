"""Who may do what: tokens and roles, TLS, files that are nobody else's, and secrets that stay secret."""

import hashlib
import http.client
import http.server
import json
import os
import re
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import quadapi
import quadtest

TIMEOUT_SECONDS = 180


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def files_with(folder, needle):
    """Files below the folder that hold the bytes; what vanishes meanwhile is none."""
    found = []
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            try:
                if stat.S_ISREG(os.lstat(path).st_mode) and needle in path.read_bytes():
                    found.append(path)
            except OSError:
                pass
    return found


def make_certificates(folder):
    """An authority, a certificate of it for 127.0.0.1, one for another name, and an authority that signed nothing."""

    def openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, cwd=folder)

    for name in ("ca", "other-ca"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj",
                f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name, names in (("server", "IP:127.0.0.1"), ("stranger", "DNS:quad.example")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", 2,
                "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip


def listening_addresses(pid):
    """Local addresses of the process's listening TCP sockets, as the kernel writes them."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(fd)))
        except OSError:
            pass
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].split(":")[0])
    return found


class Tokens(quadtest.TestCase):
    @quadtest.quick
    def test_roles_and_what_lies_on_the_disk(self):
        server = self.server(nodes=1)
        self.assertEqual(listening_addresses(server.process.pid), ["0100007F"])
        for name, wanted in (("admin.token", 0o600), ("secret.key", 0o600), ("attempt.key", 0o600), ("quad.db", 0o600),
                             ("server.json", 0o600), ("quad.sock", 0o600), ("", 0o700), ("logs", 0o700), ("blobs", 0o700)):  # fmt: skip
            self.assertEqual(oct(mode(server.data / name)), oct(wanted), name)
        job = server.launch("run: sleep 1000")
        tokens = {role: server.json("token", "create", f"{role}-1", "--role", role) for role in ("viewer", "user", "admin")}
        api = {role: quadapi.Api(server, made["token"]) for role, made in tokens.items()}
        self.assertEqual(quadapi.Api(server).get("/v1/tokens").status, 200)
        for method, path, body, allowed in (
            ("GET", "/v1/info", None, {"viewer", "user", "admin"}),
            ("GET", f"/v1/jobs/{job}", None, {"viewer", "user", "admin"}),
            ("GET", "/v1/events", None, {"viewer", "user", "admin"}),
            ("GET", "/metrics", None, {"viewer", "user", "admin"}),
            ("POST", "/v1/jobs", {"command": "true"}, {"user", "admin"}),
            ("POST", "/v1/jobs:bulk", {"jobs": [{"command": "true"}]}, {"user", "admin"}),
            ("POST", "/v1/jobs:cancel", {"mine": True}, {"user", "admin"}),
            ("POST", "/v1/jobs:cancel", {"all": True}, {"admin"}),
            ("PUT", f"/v1/blobs/{hashlib.sha256(b'x').hexdigest()}", "x", {"user", "admin"}),
            ("POST", "/v1/nodes/local-1/resume", None, {"admin"}),
            ("GET", "/v1/tokens", None, {"admin"}),
            ("POST", "/v1/tokens", {"user": "x"}, {"admin"}),
            ("DELETE", "/v1/tokens/none", None, {"admin"}),
            ("POST", "/v1/admin/check", None, {"admin"}),
            ("POST", "/v1/admin/backup", {"file": str(server.folder / "b.db")}, {"admin"}),
        ):
            for role in ("viewer", "user", "admin"):
                answer = api[role].request(method, path, body)
                self.assertEqual(answer.status != 403, role in allowed, (role, method, path, answer))
                if answer.status == 403:
                    self.assertEqual(answer.json["error"]["code"], "denied")
            answer = quadapi.Api(server, None).request(method, path, body)
            self.assertEqual((answer.status, answer.headers["WWW-Authenticate"]), (401, "Bearer"), (method, path))
        # A job is its owner's: another user may look, and no more.
        other = server.launch("run: sleep 1000")
        answer = api["user"].post(f"/v1/jobs/{other}/cancel")
        self.assertEqual((answer.status, answer.json["error"]["code"]), (403, "denied"))
        self.assertEqual(quadapi.Api(server, None).get("/healthz").json, {"status": "ok"})
        for wrong in ("", "quad_" + "0" * 48, tokens["admin"]["token"][:-1], tokens["admin"]["token"] + "0"):
            answer = quadapi.Api(server, None).get("/v1/info", headers={"Authorization": f"Bearer {wrong}"})
            self.assertEqual(answer.status, 401, wrong)
        server.restart()
        self.assertEqual(quadapi.Api(server, tokens["viewer"]["token"]).get("/v1/info").json["role"], "viewer")
        for made in [*tokens.values(), {"token": server.token}]:
            found = files_with(server.data, made["token"].encode())
            self.assertEqual([path.name for path in found], ["admin.token"] if made["token"] == server.token else [])
        self.assertNotIn("quad_", server.log_path.read_text())

    def test_who_may_not_is_refused_before_the_body_is_sent(self):
        server = self.server(nodes=1)
        viewer = quadapi.Api(server).post("/v1/tokens", {"user": "vera", "role": "viewer"}).json["token"]
        for method, path in (("POST", "/v1/jobs"), ("POST", "/v1/jobs:bulk"), ("POST", "/v1/jobs:cancel"),
                             ("PUT", f"/v1/blobs/{'a' * 64}"), ("POST", "/v1/tokens"), ("POST", "/v1/admin/backup")):  # fmt: skip
            with quadapi.Raw(server) as raw:
                raw.send(
                    f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {viewer}\r\n"
                    "Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{".encode()
                )
                answer = raw.read_answer()
            self.assertEqual((path, answer.status), (path, 403), answer)
            self.assertIn("vera has 'viewer'", answer.json["error"]["message"])

    def test_a_revoked_token_ends_what_it_opened(self):
        server = self.server(nodes=1)
        job = server.launch("run: while true; do echo tick; sleep 0.1; done")
        server.wait_for_status(job, "RUNNING")
        made, kept = server.json("token", "create", "ana"), server.json("token", "create", "bob")
        api, other = quadapi.Api(server, made["token"]), quadapi.Api(server, kept["token"])
        with api.events() as events, api.open(f"/v1/jobs/{job}/logs?follow=1") as log, \
                api.open(f"/v1/jobs/{job}/logs?follow=1&grep=never") as silent, \
                other.open(f"/v1/jobs/{job}/logs?follow=1&tail=0") as others:  # fmt: skip
            next(events.events())
            log.read_until(b"tick")
            open_streams = quadapi.Local(server).metrics()
            self.assertEqual((open_streams["quad_event_streams"], open_streams["quad_log_streams"]), (1, 3))
            idle = api.connect()
            idle.request("GET", "/v1/info", headers=api.headers())
            self.assertEqual(idle.getresponse().read()[:1], b"{")
            server.ok("token", "revoke", made["id"])
            for stream in (events, log, silent):
                with self.assertRaises(ConnectionError):
                    stream.read_all()
            others.read_until(b"tick\ntick\ntick\n")
            idle.request("GET", "/v1/info", headers=api.headers())
            self.assertEqual(idle.getresponse().status, 401)
            idle.close()
        self.assertEqual(api.get("/v1/info").status, 401)
        self.assertNotIn(made["id"], [token["id"] for token in server.json("token", "list")["tokens"]])

    def test_nothing_listens_beyond_this_machine_without_tls(self):
        server = self.server(nodes=1, start=False)
        server.options += ["--host", "0.0.0.0"]
        server.port = None
        server.start()
        told = json.loads((server.data / "server.json").read_text())
        port = told["url"].rsplit(":", 1)[1]
        self.assertTrue(told["url"].startswith("https://"), told)
        with self.assertRaises((http.client.HTTPException, OSError)):
            plain = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
            plain.request("GET", "/v1/health")
            plain.getresponse()
        keys = [server.data / "tls" / name for name in ("ca.key", "server.key")]
        self.assertEqual([stat.S_IMODE(key.stat().st_mode) for key in keys], [0o600, 0o600])
        token = (server.data / "admin.token").read_text().strip()
        # Whoever has the data directory trusts its authority; others are given the file.
        code, out, err = server.quad("--server", told["url"], "node", "list", env={"QUAD_TOKEN": token})
        self.assertEqual(code, 0, err)
        stranger = ["--data-dir", str(server.folder / "stranger"), "--server", f"https://127.0.0.1:{port}"]
        code, _, err = server.quad(*stranger, "node", "list", env={"QUAD_TOKEN": token})
        self.assertEqual(code, 1)
        self.assertIn("does not verify", err)
        code, _, err = server.quad(*stranger, "--ca", server.data / "tls" / "ca.pem", "node", "list", env={"QUAD_TOKEN": token})
        self.assertEqual(code, 0, err)
        before = (server.data / "tls" / "server.pem").read_bytes()
        server.stop()
        server.start()
        self.assertEqual((server.data / "tls" / "server.pem").read_bytes(), before, "made once")
        self.assertIn("hello", server.ok("launch", "-y", "echo hello"))


class Tls(quadtest.TestCase):
    def test_a_server_and_runners_that_speak_tls(self):
        server = self.server(nodes=2, start=False)
        make_certificates(server.folder)
        f = server.folder
        for options, word in (
            (("--tls-cert", f / "server.pem"), "belong together"),
            (("--tls-cert", f / "server.pem", "--tls-key", f / "stranger.key"), "private key"),
            (("--tls-cert", f / "server.key", "--tls-key", f / "server.key"), "certificate"),
            (("--tls-cert", f / "none.pem", "--tls-key", f / "server.key"), "none.pem"),
        ):
            code, _, err = server.quad("serve", "--port", "0", *options)
            self.assertNotEqual(code, 0)
            self.assertIn(word, err)
        # A port of its own, which it keeps over a restart: the runners know it.
        server.options += ["--tls-cert", str(f / "server.pem"), "--tls-key", str(f / "server.key"), "--tls-ca", str(f / "ca.pem"),
                           "--runners-over-tcp"]  # fmt: skip
        server.port = None
        server.start()
        self.assertTrue(server.url.startswith("https://127.0.0.1:"), server.url)
        token = {"QUAD_TOKEN": server.token}

        def remote(*args, ca="ca.pem", url=server.url, **more):
            trust = ["--ca", f / ca] if ca else []
            return server.quad("--server", url, *trust, *args, env=token, **more)

        work = f / "work"
        work.mkdir()
        (work / "data").write_bytes(os.urandom(1 << 20))
        (work / "task.yaml").write_text("num_nodes: 2\nworkdir: .\nrun: |\n  sha256sum data\n  until test -e gate; do sleep 0.1; done\n")
        code, out, err = remote("launch", "-d", "-y", "task.yaml", cwd=work)
        self.assertEqual(code, 0, err)
        server.wait_for_status(1, "RUNNING")
        starts = [path.read_text() for path in server.data.glob("nodes/*/*/start.json")]
        self.assertEqual(len(starts), 2)
        self.assertEqual([json.loads(text)["server"] for text in starts], [server.url] * 2)
        url = server.url
        server.restart()
        self.assertEqual(server.url, url)
        server.wait_for_status(1, "RUNNING")
        for path in server.data.glob("nodes/*/*/home/sky_workdir"):
            (path / "gate").touch()
        server.wait_for_status(1, "SUCCEEDED")
        code, out, err = remote("logs", "1")
        self.assertEqual((code, out.count(hashlib.sha256((work / "data").read_bytes()).hexdigest())), (0, 2), err)

        for options, word in (
            ({"ca": "other-ca.pem"}, "certificate"),
            ({"ca": None}, "certificate"),
            ({"url": url.replace("https", "http")}, ""),
            ({"url": url.replace("127.0.0.1", "localhost")}, "certificate"),  # it names the address only
        ):
            code, out, err = remote("status", **options)
            self.assertNotEqual(code, 0, options)
            self.assertIn(word, err)
            self.assertEqual(err.count("\n"), 1, err)
        code, out, err = server.quad("--server", url, "--ca", f / "ca.pem", "status", env={"QUAD_TOKEN": "wrong"})
        self.assertEqual(code, 1, err)
        self.assertIn("token", err)
        self.assertEqual(quadapi.Api(server, ca=f / "ca.pem").get("/v1/info").json["user"], "admin")
        old = ssl.create_default_context(cafile=str(f / "ca.pem"))
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with quadapi.Raw(server) as raw, self.assertRaises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(raw.socket, server_hostname="127.0.0.1")


class Secrets(quadtest.TestCase):
    SECRET = "s3cr3t-Zq7-value"

    def test_a_secret_is_seen_by_the_job_and_nowhere_else(self):
        asked = []

        class Files(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"bytes")

            def log_message(self, *_):
                pass

        files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
        self.addCleanup(files.server_close)
        self.addCleanup(files.shutdown)
        threading.Thread(target=files.serve_forever, daemon=True).start()
        server = self.server(nodes=2)
        gate = server.folder / "gate"
        task = server.folder / "task.yaml"
        task.write_text(
            f"num_nodes: 2\nenvs: {{GATE: {gate}}}\nfile_mounts:\n"
            f"  ~/got: http://127.0.0.1:{files.server_port}/file?token=${{TOKEN}}\n"
            "setup: test -n \"$TOKEN\"\nrun: |\n  printf %s \"$TOKEN\" | sha256sum\n  cat ~/got; echo\n"
            "  until test -e $GATE; do sleep 0.05; done\n"
        )
        env = {"TOKEN": self.SECRET}  # not in our own arguments either
        job = server.launch(task, "--secret", "TOKEN", env=env)
        server.wait_for_status(job, "RUNNING")
        proof = hashlib.sha256(self.SECRET.encode()).hexdigest()
        quadtest.wait_until(lambda: server.ok("logs", job, "--no-follow").count("bytes") == 2, 30, "both ranks printed")
        self.assertEqual(server.ok("logs", job, "--no-follow").count(proof), 2)
        self.assertEqual(asked, [f"/file?token={self.SECRET}"] * 2)
        self.nowhere(server, job, while_running=True)
        for pid in quadtest.processes_of(str(server.data)):
            self.assertNotIn(self.SECRET, " ".join(quadtest.command_of(pid)), pid)
        backup = server.folder / "copy.db"
        server.ok("admin", "backup", backup)
        self.assertNotIn(self.SECRET.encode(), backup.read_bytes())

        # A killed server takes it from its records, for another attempt.
        server.kill()
        server.start()
        server.kill_runners()
        quadtest.wait_until(lambda: server.job(job)["epoch"] == 2, 30, "a second attempt")
        gate.touch()
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.ok("logs", job, "--no-follow").count(proof), 4)
        self.nowhere(server, job, while_running=False)

        # What fails is told without it.
        task.write_text("file_mounts: {~/got: 'http://127.0.0.1:1/file?token=${TOKEN}'}\nrun: echo never\n")
        failing = server.launch(task, "--secret", "TOKEN", env=env)
        server.wait_for_status(failing, "FAILED")
        self.assertIn("token=<TOKEN>", server.ok("story", failing))
        self.nowhere(server, failing, while_running=False)
        answer = quadapi.Api(server).post("/v1/validate", {
            "yaml": task.read_text(), "overrides": {"secrets": [["TOKEN", self.SECRET]]}})  # fmt: skip
        self.assertIn("<redacted>", answer.text)
        self.assertNotIn(self.SECRET, answer.text)

    def nowhere(self, server, job, while_running):
        if while_running:  # the scripts that the job's own shell reads, which nobody else can
            for path in files_with(server.data, self.SECRET.encode()):
                self.assertIn(path.name, ("setup.sh", "run.sh"))
                self.assertEqual((mode(path), mode(path.parent) & 0o077), (0o600, 0), path)
        else:
            quadtest.wait_until(lambda: not files_with(server.data, self.SECRET.encode()), 30, "no file holds the secret")
        self.assertNotIn(self.SECRET, server.log_path.read_text())
        api = quadapi.Api(server)
        for path in ("", "/task", "/why", "/story", "/checkpoints", "/logs"):
            self.assertNotIn(self.SECRET, api.get(f"/v1/jobs/{job}{path}").text, path)
        for path in ("/v1/jobs", "/v1/events?limit=10000", "/v1/nodes", "/metrics"):
            self.assertNotIn(self.SECRET, api.get(path).text, path)
        self.assertIn("<redacted>", api.get(f"/v1/jobs/{job}/task").text)
