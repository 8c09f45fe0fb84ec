"""The server's configuration: where it is read from, what goes before what, what its faults look like, and that the
server does what it says."""

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import quadtest
from quadtest import quick

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "server" / "config.yaml"

BAD = """\
lisen: 127.0.0.1
port: 70000
tls: {certificate: /c, key: "-----BEGIN PRIVATE KEY----- hunter2"}
engines:
  west: {image: reg/quad:1, write_rate: fast}
"""


class Verbs(quadtest.TestCase):
    """quad config show|check|schema, which ask no server."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.data = self.folder / "data"
        self.data.mkdir()

    def write(self, text, name="config.yaml"):
        (self.data / name).write_text(text)
        return self.data / name

    def config(self, *args, **env):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("QUAD_")}
        done = subprocess.run([quadtest.quad_bin(), "config", *map(str, args)], capture_output=True, text=True, timeout=60,
                              cwd=self.folder, env=kept | {"QUAD_DATA_DIR": str(self.data), "NO_COLOR": "1"} | env)  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def shown(self, *args, **env):
        code, out, err = self.config("show", "-o", "json", *args, **env)
        self.assertEqual(code, 0, err)
        return {one["key"]: one for one in json.loads(out)["settings"]}

    @quick
    def test_check_tells_all_faults_at_once_and_never_a_secret(self):
        self.write(BAD)
        code, out, err = self.config("check")
        self.assertEqual((code, out), (1, ""))
        places = [line.removeprefix(f"{self.data}/config.yaml:").split(": ")[:3] for line in err.splitlines()]
        self.assertEqual(places, [
            ["1:1", "error", "lisen"], ["2:7", "error", "port"], ["3:29", "error", "tls.key"],
            ["5:3", "error", "engines.west.server_url"], ["5:41", "error", "engines.west.write_rate"],
        ])  # fmt: skip
        self.assertIn("did you mean listen?", err)
        code, out, _ = self.config("check", "-o", "json")
        self.assertEqual(code, 1)
        told = json.loads(out)
        self.assertEqual((told["ok"], len(told["errors"])), (False, 5))
        self.assertEqual((told["errors"][0]["line"], told["errors"][0]["hint"]), (1, "listen"))
        self.assertNotIn("hunter2", err + out)
        self.assertEqual(self.config("show")[0], 1)

    def test_check_looks_at_the_file_that_is_named(self):
        self.write(BAD)
        self.assertEqual(self.config("check", EXAMPLE), (0, f"{EXAMPLE} is good.\n", ""))
        self.assertEqual(self.config("check", QUAD_CONFIG=str(EXAMPLE))[0], 0)
        code, _, err = self.config("check", self.folder / "none.yaml")
        self.assertEqual(code, 1)
        self.assertIn("none.yaml", err)
        (self.data / "config.yaml").unlink()
        code, out, _ = self.config("check")
        self.assertEqual(code, 0)
        self.assertIn("the defaults hold", out)

    def test_a_file_that_everybody_may_write_to_is_refused(self):
        self.write("port: 8080\n").chmod(0o666)
        code, _, err = self.config("check")
        self.assertEqual(code, 1)
        self.assertIn("chmod o-w", err)

    @quick
    def test_show_tells_where_each_value_is_from(self):
        self.write("node_lost_after: 50s\nport: 1\n")
        shown = self.shown("--port", "2", "--nodes", "3")
        self.assertEqual(shown["node_lost_after"], {"key": "node_lost_after", "value": "50s", "origin": "file", "line": 1, "flag": None})
        self.assertEqual(shown["port"], {"key": "port", "value": 2, "origin": "flag", "line": None, "flag": "--port"})
        self.assertEqual((shown["engines.local.nodes"]["value"], shown["engines.local.nodes"]["flag"]), (3, "--nodes"))
        self.assertEqual((shown["spool"]["value"], shown["spool"]["origin"]), ("1GB", "default"))
        code, out, _ = self.config("show", "--port", "2")
        self.assertRegex(out, r"(?m)^node_lost_after +50s +config\.yaml:1$")
        self.assertRegex(out, r"(?m)^port +2 +--port$")
        self.assertRegex(out, r"(?m)^spool +1GB +default$")

    def test_show_has_what_an_engine_gets_from_kubernetes_and_no_passwords(self):
        self.write("url: https://q.example\n"
                   "kubernetes:\n"
                   "  image: reg/quad:1\n"
                   "  pod_config: {spec: {containers: [{env: [{name: http_proxy, value: 'http://ana:hunter2@p:1'}]}]}}\n"
                   "engines:\n"
                   "  west:\n")  # fmt: skip
        shown = self.shown()
        self.assertEqual((shown["engines.west.image"]["value"], shown["engines.west.image"]["line"]), ("reg/quad:1", 3))
        self.assertNotIn("engines.local.nodes", shown)
        self.assertNotIn("hunter2", json.dumps(shown) + self.config("show")[1])
        self.assertIn("<redacted>@p:1", json.dumps(shown))

    def test_schema_is_json_and_a_table(self):
        code, out, _ = self.config("schema")
        self.assertEqual(code, 0)
        self.assertEqual(json.loads(out)["properties"]["port"]["maximum"], 65535)
        self.assertIn("| `engines.NAME.write_rate` |", self.config("schema", "--table")[1])


class Served(quadtest.TestCase):
    def configured(self, text, start=True):
        """A server that is told by its file alone."""
        server = self.server(start=False)
        server.options = []
        server.data.mkdir()
        (server.data / "config.yaml").write_text(text)
        return server.start() if start else server

    @quick
    def test_the_server_does_what_the_file_says_and_a_flag_goes_before_it(self):
        hot = Path(tempfile.mkdtemp()) / "hot"
        server = self.configured(
            "url: http://quad.example:1234\n"
            "engines: {local: {nodes: 2, gpus: 'H100:2', cpus: 16, memory: 64GB}}\n"
            f"hot_tier: {{host_path: {hot}}}\n"
            "jobs:\n"
            "  defaults: {cpus: 3, memory: 5GB, cpus_per_gpu: 7, memory_per_gpu: 9GB}\n"
            "  limits: {max_duration: 1h, active_per_user: 2}\n",
            start=False,
        )
        server.options = ["--gpus", "A100:2"]
        server.start()
        nodes = server.json("node", "list")["nodes"]
        self.assertEqual([(n["gpu_model"], n["gpus"], n["cpus"], n["memory_bytes"]) for n in nodes], [("A100", 2, 16, 64e9)] * 2)
        self.assertEqual(server.json("api", "info")["url"], "http://quad.example:1234")
        self.assertRegex(server.url, r"^http://127\.0\.0\.1:\d+$")

        def shape(*args):
            found = server.json("launch", "--dryrun", *args, "true")["requests"][0]["shapes"][0]
            return found["cpu"], found["memory"]

        self.assertEqual(shape(), (3000, 5e9))
        self.assertEqual(shape("--gpus", "A100:2"), (14000, 18e9))
        self.assertEqual(shape("--cpus", "1"), (1000, 5e9))

        code, _, err = server.quad("launch", "-d", self.task(server, "run: 'true'\nquad: {max_duration: 2h}\n"))
        self.assertEqual(code, 2)
        self.assertIn("at most 1 h", err)

        job = server.launch("run: echo \"$QUAD_CHECKPOINT_DIR\"; sleep 600\n")
        server.wait_for_status(job, "RUNNING")
        quadtest.wait_until(lambda: str(hot) in server.ok("logs", job, "--no-follow"), 30, "the job tells its folder")
        self.assertTrue((hot / str(job)).is_dir())

        # Another job of this user may wait, a third is refused; so it is after a restart.
        second = server.launch("run: sleep 600\n")
        for _ in range(2):
            code, _, err = server.quad("launch", "-d", "true")
            self.assertNotEqual(code, 0)
            self.assertIn("At most 2 jobs of one user", err)
            server.restart()
        server.ok("cancel", second)
        server.wait_for_status(second, "CANCELLED")
        server.wait_for_status(server.launch("run: 'true'\n"), "SUCCEEDED")
        self.assertEqual(server.job(job)["status"], "RUNNING")

    def task(self, server, text):
        path = server.folder / "task.yaml"
        path.write_text(text)
        return path

    def test_runners_over_tcp_use_the_url(self):
        # The same server by another name, which only the configuration knows.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        server = self.configured(
            f"port: {port}\nurl: http://localhost:{port}\nrunners_over_tcp: true\nengines: {{local: {{nodes: 1}}}}\n", start=False
        )
        server.port = None
        server.start()
        self.assertEqual(server.url, f"http://127.0.0.1:{port}")
        job = server.launch("run: sleep 600\n")
        server.wait_for_status(job, "RUNNING")
        starts = [json.loads(path.read_text()) for path in server.data.glob("nodes/*/*/start.json")]
        self.assertEqual([start["server"] for start in starts], [f"http://localhost:{port}"])

    def test_a_file_with_faults_starts_no_server(self):
        server = self.configured(BAD, start=False)
        code, _, err = server.quad("serve", "--port", "0")
        self.assertEqual(code, 2)
        self.assertIn("The configuration has 5 errors; the first is", err)
        self.assertNotIn("hunter2", err)
        (server.data / "config.yaml").write_text("port: x\n")
        code, _, err = server.quad("status")
        self.assertEqual(code, 3)
        self.assertIn("config.yaml:1:7: error: port: port must be an integer", err)
        (server.data / "config.yaml").write_text("tls: {certificate: none.pem, key: none.key}\n")
        code, _, err = server.quad("serve", "--port", "0")
        self.assertEqual(code, 2)
        self.assertIn(f"certificate {server.data}/none.pem: No such file", err)
        code, _, err = server.quad("serve", "--config", "none.yaml")
        self.assertEqual(code, 2)
        self.assertIn("none.yaml", err)
        self.assertFalse((server.data / "server.json").exists())

    def test_a_cluster_that_cannot_be_found_is_said(self):
        server = self.configured("engines: {local: {}, west: {in_cluster: true}}\nurl: https://quad:1\n", start=False)
        code, _, err = server.quad("serve", "--port", "0")
        self.assertNotEqual(code, 0)
        self.assertIn("engines.west: This does not run in a pod of Kubernetes", err)
