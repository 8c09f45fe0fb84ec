"""Quad on a real Kubernetes, on this machine alone: `./dev demo kubernetes`, as root.

A cluster of three real nodes comes up, without Docker and without a registry, and Quad is installed there with its Helm
chart. The training of the other demo, from the same task file, runs as pods on two of the nodes. In mid-training one of
them loses its power, and the job goes on with the third from its newest checkpoint. Every claim is checked: the demo ends
with an error and exit code 1 if one does not hold. The cluster is gone afterwards.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TESTBED = ROOT / "tests" / "kubernetes" / "testbed"
sys.path += [str(HERE.parent), str(TESTBED)]

import builder  # noqa: E402  of the testbed
import demonstration  # noqa: E402
import links  # noqa: E402
from demonstration import BOLD, GREEN, PLAIN, QUAD, DemoFailed, check, quad, say, wait_for  # noqa: E402

NODES = 3
SERVER_USER = 64000  # as whom the chart runs the server


class Cluster:
    """A Kubernetes with Quad in it, in a folder that vanishes with it."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="quad-demo-"))
        self.variables = {}  # with which the command line finds the server
        self.forward = None

    def testbed(self, *words, timeout=120):
        done = subprocess.run([TESTBED / "testbed", "--dir", self.folder / "testbed", *map(str, words)], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)  # fmt: skip
        check(done.returncode == 0, f"`testbed {' '.join(map(str, words))}` failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def kubectl(self, *words):
        return self.testbed("kubectl", *words)

    def up(self):
        self.testbed("up", "--nodes", NODES, "--gpus", 1, "--gpu-product", "NVIDIA-H100-80GB-HBM3", "--timing", "stock",
                     timeout=300)  # fmt: skip

    def load_images(self):
        """Quad's own, as it is given away, and one for the training that only leads to the nodes' programs."""
        quads = self.folder / "quad.tar"
        made = subprocess.run([ROOT / "tools" / "image", "server", "--bin", Path(QUAD).parent, "--tag", "quad.test/quad:demo",
                               "--output", quads], stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
        check(made.returncode == 0, f"Quad's image cannot be made: {made.stderr.strip()}")
        for archive in (quads, links.make_links_image("quad.test/python:demo", self.folder)):
            self.testbed("image", "load", archive)

    def install(self):
        self.testbed("helm", "install", "quad", ROOT / "deploy" / "helm" / "quad", "--namespace", "quad",
                     "--create-namespace", "--values", HERE / "values.yaml")  # fmt: skip
        # The testbed's volumes belong to root, and its storage does not know of groups.
        volumes = self.folder / "testbed" / "shared" / "local"
        os.chown(wait_for("the server's volume is there", 60, lambda: list(volumes.iterdir()))[0], SERVER_USER, SERVER_USER)
        self.kubectl("-n", "quad", "rollout", "status", "deployment/quad", "--timeout=90s")

    def reach_server(self):
        """As a user does from outside the cluster (the testbed's own kubectl would listen in there)."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with open(self.folder / "forward.log", "wb") as log:
            self.forward = subprocess.Popen(
                [builder.built_folder() / "bin" / "kubectl", "--kubeconfig", self.folder / "testbed" / "kubeconfig", "-n", "quad",
                 "port-forward", "service/quad", f"{port}:8443"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        (secret,) = json.loads(self.kubectl("-n", "quad", "get", "secret", "quad-tls", "-o", "jsonpath=[{.data}]"))
        authority = self.folder / "quad-ca.pem"
        authority.write_bytes(base64.b64decode(secret["ca.crt"]))
        told = self.kubectl("-n", "quad", "exec", "deployment/quad", "--", "quad", "token", "create", "ana", "-o", "json")
        self.variables = {"QUAD_SERVER": f"https://localhost:{port}", "QUAD_CA": str(authority),
                          "QUAD_TOKEN": json.loads(told)["token"]}  # fmt: skip

        def answers():
            try:
                return self.quad("status") or True
            except DemoFailed:
                check(self.forward.poll() is None, f"kubectl port-forward ended: {(self.folder / 'forward.log').read_text()}")
                return False

        wait_for("the server answers", 30, answers)

    def quad(self, *args):
        return quad(*args, **self.variables)

    def node_of_server(self):
        return self.kubectl("-n", "quad", "get", "pods", "-o", "jsonpath={.items[0].spec.nodeName}")

    def last_words(self):
        try:
            return self.kubectl("-n", "quad", "logs", "deployment/quad", "--tail=20")
        except DemoFailed as failure:
            return str(failure)

    def close(self):
        if self.forward:
            self.forward.kill()
            self.forward.wait()
        self.testbed("down")
        shutil.rmtree(self.folder, ignore_errors=True)


def demo(cluster):
    say(f"{BOLD}A Kubernetes of {NODES} nodes with one H100 each comes up.{PLAIN}")
    cluster.up()
    version = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    say(f"Kubernetes {version} is up, and its nodes are Ready.")
    cluster.load_images()
    say("Quad's image is on the nodes.  (./dev image)")
    cluster.install()
    say(f"{BOLD}Quad is installed, and its server runs on {cluster.node_of_server()}.{PLAIN}  (helm install quad deploy/helm/quad)")
    cluster.reach_server()

    job = demonstration.launch(cluster)
    say(f"{BOLD}Job {job}: a PyTorch training of 600 steps on 2 nodes.{PLAIN}  (quad launch task.yaml)")
    saved = demonstration.trains_with_checkpoint(cluster, job, seconds=90)
    columns = "POD:.metadata.name,NODE:.spec.nodeName,STATUS:.status.phase"
    for line in cluster.kubectl("-n", "research", "get", "pods", "-o", f"custom-columns={columns}").splitlines():
        print(f"          {line}")

    # Not the server's own: it would be back after minutes, with its volume, and the ranks would train on meanwhile.
    failed = next(node for node in reversed(saved.nodes) if node != cluster.node_of_server())
    cluster.testbed("node", "off", failed)
    say(f"{BOLD}The node {failed} loses its power.{PLAIN}")
    second = demonstration.trains_again(cluster, job, saved, failed, seconds=120)
    demonstration.succeeds(cluster, job, second)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("The demo needs root: its nodes have namespaces and control groups of their own.")
    demonstration.main(Cluster(), demo)
