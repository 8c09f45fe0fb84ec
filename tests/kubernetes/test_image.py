"""Quad's image and runner on a real kubelet: the image is taken, the runner is brought into pods of another image, under
a user without a name, runs there as process 1, and leaves its result as the termination message.

The server's part in it is played by the test, with just enough of docs/runner-protocol.md.
"""

import base64
import json
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import kubetest
import quadtest

ROOT = Path(__file__).resolve().parents[2]
TESTBED = kubetest.PROGRAM
BUSYBOX = "quad.test/busybox:1"
TIMEOUT_SECONDS = 240
USER = 12345

ORDER = {
    "type": "order", "num_ranks": 1, "ips": ["127.0.0.1"], "ports": [40000], "task_id": "t", "user": "ana", "name": "train",
    "cluster_info": {}, "num_gpus": 0, "setup": "", "envs": [], "secrets": [], "workdir": None, "mounts": [],
    "stop_grace_ms": 20000,
}  # fmt: skip


def serve(address, run):
    """One rank's server: prints its port, then a line for all that it is told."""
    listener = socket.create_server((address, 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        stream = connection.makefile("rwb")
        try:
            if play(stream, run):
                return
        except (OSError, struct.error):
            pass


def play(stream, run):
    request = stream.readline()
    while stream.readline().strip():
        pass
    assert request.startswith(b"GET /v1/runner?job=17&"), request
    stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: quad-runner/1\r\n\r\n")

    def send(message):
        data = json.dumps(message).encode()
        stream.write(struct.pack("<IB", len(data), ord("J")) + data)
        stream.flush()

    send(ORDER | {"run": run})
    output = b""
    while True:
        length, kind = struct.unpack("<IB", stream.read(5))
        payload = stream.read(length)
        if kind == ord("L"):
            output += payload[8:]
            print(json.dumps({"output": output.decode()}), flush=True)
        elif kind == ord("J"):
            message = json.loads(payload)
            print(json.dumps(message), flush=True)
            if message["type"] == "phase" and message["phase"] == "ready":
                send({"type": "go", "ips": ["127.0.0.1"], "master_addr": "127.0.0.1", "master_port": 40000})
            if message["type"] == "exited":
                send({"type": "bye"})
                return True


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = kubetest.why_not_here()
        if quadtest.is_sanitized():
            reason = "images are made of programs without sanitizers"
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = Path(tempfile.mkdtemp(prefix="quad-image-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(cls.on_testbed, "down")
        cls.on_testbed("up", "--nodes", "1")
        programs = Path(quadtest.quad_bin()).parent
        cls.images = {}
        for variant in ("runner", "server"):
            archive = cls.folder / f"quad-{variant}.tar"
            cls.images[variant] = f"quad.test/{variant}:1"
            tool = [ROOT / "tools" / "image", variant, "--bin", programs, "--output", archive, "--tag", cls.images[variant]]
            subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
            cls.on_testbed("image", "load", archive)

    @classmethod
    def on_testbed(cls, *words, **options):
        command = [TESTBED, "--dir", cls.folder / "testbed", *words]
        return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, **options).stdout

    def kubectl(self, *words, **options):
        return self.on_testbed("kubectl", *words, **options)

    def wait_for(self, what, condition, seconds=120):
        end = time.monotonic() + seconds
        while not (found := condition()):
            self.assertLess(time.monotonic(), end, f"{what} did not come")
            time.sleep(0.1)
        return found

    def logs(self, pod):
        return self.kubectl("logs", pod, "--container", self.pod(pod)["spec"]["containers"][-1]["name"])

    def pod(self, name):
        return json.loads(self.kubectl("get", "pod", name, "-o", "json"))

    def apply(self, *objects):
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def ended(self, name):
        """How the pod's last container ended, which is the rank's."""

        def terminated():
            containers = self.pod(name)["status"].get("containerStatuses", [{}])
            return containers[-1].get("state", {}).get("terminated")

        return self.wait_for(f"the end of {name}", terminated)

    def server(self, run):
        """(port, process): the server's part, where pods reach it."""
        command = [TESTBED, "--dir", self.folder / "testbed", "exec", sys.executable, __file__, "serve", "10.99.0.1", run]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return int(process.stdout.readline()), process

    def rank(self, name, port, quad="runner", limits=None):
        """A pod as Quad makes them: docs/kubernetes.md."""
        start = {
            "server": f"http://10.99.0.1:{port}", "token": "t", "job": 17, "epoch": 1, "rank": 0,
            "termination_message": "/dev/termination-log", "limits": {"namespaces": False},
        }  # fmt: skip
        secret = {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {"start.json": base64.b64encode(json.dumps(start).encode()).decode()},
        }  # fmt: skip
        quad_mount = {"name": "quad", "mountPath": "/quad"}
        closed = {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 60,
                "securityContext": {"runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": True,
                                    "seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": "quad", "emptyDir": {}},
                            {"name": "start", "secret": {"secretName": name, "defaultMode": 0o444}}],
                "containers": [{
                    "name": "quad-install", "image": self.images[quad], "imagePullPolicy": "Never",
                    "command": ["/usr/bin/quad-runner", "keep", "/quad"], "securityContext": closed,
                    "lifecycle": {"postStart": {"exec": {"command": ["/usr/bin/quad-runner", "installed", "/quad"]}}},
                    "volumeMounts": [quad_mount, {"name": "start", "mountPath": "/quad-start", "readOnly": True}]}, {
                    "name": "rank", "image": BUSYBOX, "imagePullPolicy": "Never", "securityContext": closed,
                    "terminationMessagePolicy": "FallbackToLogsOnError", "resources": {"limits": limits or {}},
                    "command": ["/quad/quad-runner", "/quad/rank"], "volumeMounts": [quad_mount]}],
            },
        }  # fmt: skip
        self.apply(secret, pod)

    def test_a_rank_runs_in_an_image_without_bash_and_leaves_its_result(self):
        for quad in ("runner", "server"):
            with self.subTest(quad=quad):
                port, process = self.server("id -u; ps -o pid,args | grep '^ *1 '; touch /x || echo read-only; exit 3")
                self.rank(f"rank-{quad}", port, quad)
                ended = self.ended(f"rank-{quad}")
                told = [json.loads(line) for line in process.communicate(timeout=60)[0].splitlines()]
                [output] = [one["output"] for one in told if "output" in one][-1:]
                self.assertIn("12345\n", output)
                self.assertRegex(output, r" 1 /quad/quad-runner /quad/rank\n")
                self.assertIn("read-only\n", output)
                [note] = [one for one in told if one.get("type") == "note"]
                self.assertIn("has no bash", note["message"])
                [exited] = [one for one in told if one.get("type") == "exited"]
                self.assertEqual(ended["exitCode"], 0, "the runner's own")
                left = json.loads(ended["message"])
                self.assertEqual(left, {key: exited[key] for key in left})
                self.assertEqual((left["how"], left["code"]), ("exited", 3))

    def test_a_deletion_is_a_stop_with_the_orders_grace(self):
        port, process = self.server(
            "trap 'echo saving; sleep 1; echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
        )
        self.rank("stopped", port)
        told = []
        while not any("up\n" in one.get("output", "") for one in told):
            told.append(json.loads(process.stdout.readline()))
        self.kubectl("delete", "pod", "stopped", "--wait=true", "--timeout=50s")
        told += [json.loads(line) for line in process.communicate(timeout=60)[0].splitlines()]
        # busybox tells of the `sleep` that the signal has killed.
        output = [one["output"] for one in told if "output" in one][-1]
        self.assertEqual(output.replace("Terminated\n", ""), "up\nsaving\nsaved\n")
        [exited] = [one for one in told if one.get("type") == "exited"]
        self.assertTrue(exited["by_quad"])

    def test_a_runner_that_cannot_begin_says_why_in_the_pods_status(self):
        self.rank("nowhere", "x")
        ended = self.ended("nowhere")
        self.assertEqual(ended["exitCode"], 2)
        self.assertIn("http://10.99.0.1:x", ended["message"])

        self.rank("lonely", 1)  # where nobody listens: it goes on trying
        self.wait_for("the pod", lambda: self.pod("lonely")["status"]["phase"] == "Running")
        self.wait_for("a line about it", lambda: "No connection to http://10.99.0.1:1" in self.logs("lonely"))
        self.kubectl("delete", "pod", "lonely", "--wait=false")

    def test_a_rank_that_takes_more_memory_than_its_pod_may_have_says_so(self):
        port, process = self.server("tail /dev/zero; exit $?")
        self.rank("greedy", port, limits={"memory": "64Mi"})
        ended = self.ended("greedy")
        if ended["reason"] != "OOMKilled":  # as with control groups of version 2: the runner is killed with it
            left = json.loads(ended["message"])
            self.assertTrue(left["out_of_memory"], left)
            self.assertRegex(left["detail"], r"^killed: memory 6\d\.\d of 64\.0 MiB$")

    def test_the_servers_image_runs(self):
        container = {
            "name": "quad", "image": self.images["server"], "imagePullPolicy": "Never", "args": ["--version"],
            "securityContext": {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]}},
        }  # fmt: skip
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }  # fmt: skip
        self.apply(pod)
        self.assertEqual(self.ended("server")["exitCode"], 0)
        self.assertRegex(self.logs("server"), r"^quad \d")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    else:
        unittest.main()
