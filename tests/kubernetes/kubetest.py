"""A Quad server on a real Kubernetes, for end-to-end tests: the testbed, its images, and the server in its network."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE / "testbed")]

import api  # noqa: E402  of the testbed
import builder  # noqa: E402
import host  # noqa: E402
import images  # noqa: E402
import links  # noqa: E402
import quadtest  # noqa: E402

PROGRAM = HERE / "testbed" / "testbed"
IMAGE = HERE.parents[1] / "tools" / "image"
CHART = HERE.parents[1] / "deploy" / "helm" / "quad"
ADDRESS = "10.99.0.1"  # of the control plane's network, which pods reach
PORT = 8443
OWNER = "root"  # of jobs that come by the server's socket, as whom tests run; so /home/root is what they see of the hot tier
SERVERS = "quad-servers"  # the namespace of the servers' service accounts, as if they ran there

CONFIG = """
listen: {address}
port: {port}
url: https://{address}:{port}
tls: {{certificate: server.pem, key: server.key, ca: server.pem}}
engines:
  kubernetes:
    kubeconfig: {kubeconfig}
    image: quad.test/runner:1
    default_image: quad.test/bash:1
    hot_tier: {{host_path: /home, mount: /home}}
"""
GROUPS = {"poddisruptionbudgets": "/apis/policy/v1"}  # of kinds that are not of the core
PYTHON = "quad.test/python:1"
PYTHON_OF_NODES = {
    "spec": {
        "containers": [{"volumeMounts": [
            {"name": "usr", "mountPath": "/usr", "readOnly": True},
            {"name": "alternatives", "mountPath": "/etc/alternatives", "readOnly": True},
        ]}],
        "volumes": [
            {"name": "usr", "hostPath": {"path": "/usr"}},
            {"name": "alternatives", "hostPath": {"path": "/etc/alternatives"}},
        ],
    }
}  # fmt: skip


def pause_pod(name, labels=None, **spec):
    """A pod that does nothing until it is deleted, which is at once."""
    container = {"name": "c", "image": images.PAUSE, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }  # fmt: skip


def why_not_here():
    """Why a testbed cannot be had, or nothing."""
    if os.geteuid() != 0:
        return "a testbed of Kubernetes needs root"
    programs = ("containerd", "runc", "busybox", "openssl", "ip", "nft", "iptables")
    missing = [one for one in programs if not shutil.which(one)]
    if missing or not Path("/bin/bash-static").exists():
        return f"the testbed lacks {', '.join(missing) or 'bash-static'} (./dev setup kubernetes)"
    if not builder.is_built():
        return "the testbed's programs are not built (./dev testbed build)"
    if refused := what_is_refused():
        return f"the testbed's nodes cannot be made here: {refused}"
    return None


def what_is_refused():
    """Which of the things that make a node this machine does not let root do, as most containers do not; or nothing."""
    name = f"quad-probe-{os.getpid()}"
    group = host.Cgroup(name)
    steps = [
        ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "none", "/mnt"],
        ["ip", "netns", "add", name],
        ["ip", "-n", name, "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1"],
        ["ip", "netns", "exec", name, "nft", "add", "table", "inet", "probe"],
    ]
    try:
        for step in steps:
            host.run(*step)
        group.create_for_kubelet()
    except (host.TestbedError, OSError) as refused:
        return " ".join(str(refused).split())
    finally:
        subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        group.remove()
    return None


SHARED = {"nodes": 3, "options": {"gpus": 1}}  # of the cluster that files share, one after the other


class Testbed:
    """A cluster in a folder of its own."""

    def __init__(self, nodes=3, folder=None, **options):
        self.folder = folder or Path(tempfile.mkdtemp(prefix="quad-testbed-"))
        flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self.kubeconfig = self.call("up", "--nodes", str(nodes), *flags, timeout=300).split()[-1]
        self.load_quad_image("runner", "quad.test/runner:1")
        self.call("image", "load", str(self.bash_image()))
        self.load_python_image()

    @property
    def audit_log(self):
        """Each request of a service account that is not the cluster's own, as a line of JSON."""
        return self.folder / "log" / "audit.log"

    @classmethod
    def shared(cls, folder):
        """The one that is up in this folder."""
        one = cls.__new__(cls)
        one.folder = Path(folder)
        one.kubeconfig = str(one.folder / "kubeconfig")
        return one

    def call(self, *words, timeout=120, check=True):
        done = subprocess.run(
            [PROGRAM, "--dir", self.folder, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=timeout,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"testbed {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    @property
    def port(self):
        """Of the API server."""
        return int((self.folder / "port").read_text())

    def api(self, **more):
        """A connection to the API server, as the administrator."""
        return api.Api(self.port, self.folder / "pki", **more)

    def get(self, kinds, labels="", namespace="default", fields=""):
        """The objects of kinds, such as "pods,secrets"; in every namespace with None. As waits ask often, it starts no program."""
        where = f"/namespaces/{namespace}" if namespace else ""
        selected = urllib.parse.urlencode({"labelSelector": labels, "fieldSelector": fields})
        found = []
        try:
            administrator = self.api()
            for kind in kinds.split(","):
                path = f"{'' if kind == 'nodes' else where}/{kind}?{selected}"
                items = administrator.get(GROUPS.get(kind, "/api/v1") + path)["items"]
                found += [{"kind": kind} | one for one in items]
        except (OSError, api.ApiError) as error:
            raise AssertionError(f"{kinds}: {error}") from None
        return found

    @functools.cache
    def account(self, namespace="default", taints=False):
        """A service account with what the chart gives a server whose jobs run in this namespace, and nothing else."""
        return Account(self, namespace, taints)

    def mend(self):
        """After tests that may have failed in the middle of a fault: everything runs again, for those that come next."""
        status = self.call("status")
        for program in ("etcd", "apiserver", "controllers", "scheduler", "dns"):
            if f"{program} stopped" in status:
                self.call(program, "start")
        for line in status.partition("nodes:")[2].splitlines():
            name, _, state = line.strip().partition(" ")
            for word, cure in (("off;", ("node", "on")), ("frozen", ("node", "thaw")), ("cut off", ("node", "join")),
                               ("kubelet stopped", ("kubelet", "start"))):  # fmt: skip
                if word in state:
                    self.call(*cure, name)

        def all_ready():
            nodes = self.get("nodes")
            return all(any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])
                       for node in nodes)  # fmt: skip

        quadtest.wait_until(all_ready, 60, "all nodes are ready")

    def down(self):
        self.call("down")
        shutil.rmtree(self.folder, ignore_errors=True)

    def load_quad_image(self, variant, tag):
        """Quad's own image, as it is given away."""
        archive = self.folder / "image" / f"{variant}.tar"
        archive.parent.mkdir(exist_ok=True)
        command = [IMAGE, variant, "--tag", tag, "--bin", Path(quadtest.quad_bin()).parent, "--output", archive]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.call("image", "load", str(archive))

    def load_python_image(self):
        """For pods with PYTHON_OF_NODES: Python and PyTorch are the nodes' own."""
        self.call("image", "load", str(links.make_links_image(PYTHON, self.folder / "image")))

    def bash_image(self):
        """busybox and a bash, which tasks need."""
        root = self.folder / "image" / "bash"
        for name in ("bin", "tmp", "etc", "usr"):
            (root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        listed = subprocess.run([root / "bin/busybox", "--list"], stdout=subprocess.PIPE, text=True, check=True)
        for applet in listed.stdout.split():
            if applet not in ("busybox", "bash"):
                (root / "bin" / applet).symlink_to("busybox")
        shutil.copy("/bin/bash-static", root / "bin/bash")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "usr/bin").symlink_to("../bin")
        images.make_image("quad.test/bash:1", root, ["/bin/bash"], root.with_suffix(".tar"))
        return root.with_suffix(".tar")


class Account:
    """A service account and its roles, made by the chart's own templates in a cluster where Quad is not installed."""

    def __init__(self, testbed, namespace, taints):
        """With `taints`, it may also write the taint of a dead node (docs/kubernetes.md, "What the server may do")."""
        self._testbed = testbed
        release = f"{namespace}-taints" if taints else namespace
        self.name = f"{release}-quad"
        self.user = f"system:serviceaccount:{SERVERS}:{self.name}"
        self.kubeconfig = testbed.folder / f"{self.name}.kubeconfig"
        values = {
            "image": {"repository": "quad.test/quad"},
            "jobs": {"namespace": namespace},
            "config": {"kubernetes": {"out_of_service_taint": taints}},
        }
        files = ["serviceaccount", "rbac", *(["taint-policy"] if taints else [])]
        command = ["template", release, str(CHART), "--namespace", SERVERS, "--kube-version", "1.34", "--values"]
        command += [self._write("values", values), *(word for one in files for word in ("--show-only", f"templates/{one}.yaml"))]
        objects = [one for one in yaml.safe_load_all(testbed.call("helm", *command)) if one]
        objects.insert(0, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SERVERS}})
        testbed.call("kubectl", "apply", "-f", self._write("objects", {"apiVersion": "v1", "kind": "List", "items": objects}))
        token = testbed.call("kubectl", "create", "token", self.name, "--namespace", SERVERS, "--duration=24h").strip()
        config = json.loads(Path(testbed.kubeconfig).read_text())
        config["users"][0]["user"] = {"token": token}
        self._write("kubeconfig", config)
        # The API server learns of new roles by watching itself.
        for right in (("list", "nodes"), ("create", "pods", "--namespace", namespace)):
            asked = ("kubectl", "auth", "can-i", *right, "--as", self.user)
            quadtest.wait_until(lambda asked=asked: testbed.call(*asked, check=False).startswith("yes"), 30, "its roles are known")

    def _write(self, what, value):
        """As JSON, which is YAML too; returns the path."""
        file = self._testbed.folder / f"{self.name}.{what}"
        file.touch(mode=0o600)
        file.write_text(json.dumps(value))
        return str(file)

    def requests(self, since=0, stages=("ResponseComplete",)):
        """What it asked of the API server, each as the audit log tells it, from that many bytes of the log on. A watch has a
        stage ResponseStarted too; it is complete when it has ended."""
        with open(self._testbed.audit_log, "rb") as log:
            log.seek(since)
            told = [json.loads(line) for line in log if line.endswith(b"\n")]
        return [one for one in told if one["user"]["username"] == self.user and one["stage"] in stages]


class Server(quadtest.Server):
    """`quad serve` on a testbed's cluster, with the rights that the chart gives."""

    def __init__(self, testbed, engine=None, users=None, **more):
        """`engine` has keys of the engine's configuration that go before those of CONFIG; with None, there is no such key.
        `users` is the configuration's."""
        super().__init__(nodes=0, gpus="", **more)
        self.testbed = testbed
        engine = engine or {}
        self.account = testbed.account(engine.get("namespace", "default"), engine.get("out_of_service_taint", False))
        self._began = testbed.audit_log.stat().st_size
        self.prefix = [str(PROGRAM), "--dir", str(testbed.folder), "exec"]
        self.port = None
        self.folder.chmod(0o755)
        config = self.folder / "config.yaml"
        told = yaml.safe_load(CONFIG.format(address=ADDRESS, port=PORT, kubeconfig=self.account.kubeconfig))
        told["engines"]["kubernetes"] |= engine
        told["engines"]["kubernetes"] = {key: value for key, value in told["engines"]["kubernetes"].items() if value is not None}
        told["users"] = users or {}
        config.write_text(json.dumps(told))  # which is YAML too
        config.chmod(0o644)
        self.options = ["--config", str(config)]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=quad",
             "-addext", f"subjectAltName=IP:{ADDRESS}", "-keyout", "server.key", "-out", "server.pem"],
            cwd=self.folder, check=True, capture_output=True,
        )  # fmt: skip

    def start(self, timeout=20):
        super().start(timeout)
        quadtest.wait_until(lambda: self.json("node", "list")["nodes"], 60, "the cluster's nodes are known")
        return self

    def quad_as(self, token, *args, **more):
        """Runs `quad ARGS` as whom the token is of, from the network of the pods; returns its exit code, output and errors."""
        command = [*self.prefix, quadtest.quad_bin(), "--server", f"https://{ADDRESS}:{PORT}", "--ca", "server.pem", *map(str, args)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=self.folder, env=self.environment(QUAD_TOKEN=token), **more,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def requests(self):
        """What it asked of the API server, or has begun to ask, each as the audit log tells it."""
        return self.account.requests(self._began, ("ResponseStarted", "ResponseComplete"))


class TestCase(unittest.TestCase):
    """One testbed for all tests of a class; a server for each test."""

    nodes = SHARED["nodes"]
    options = SHARED["options"]
    engine = {}
    pod_security = "privileged"  # of the jobs' namespace: the hot tier of CONFIG is a path of the nodes, all else needs no more
    # than "baseline" (docs/kubernetes.md)
    server_class = Server
    asks_in_vain = set()  # for what it can do without
    alone = False  # on a cluster of its own, whatever it needs: it changes what others would see

    @classmethod
    def setUpClass(cls):
        reason = why_not_here()
        if reason:
            raise unittest.SkipTest(reason)
        shared = os.environ.get("QUAD_TESTBED")  # of tests/run.py
        if shared and not cls.alone and cls.nodes <= SHARED["nodes"] and cls.options == SHARED["options"]:
            cls.nodes = SHARED["nodes"]
            cls.testbed = Testbed.shared(shared)
            cls.addClassCleanup(cls.testbed.mend)
        else:
            cls.testbed = Testbed(cls.nodes, **cls.options)
            cls.addClassCleanup(cls.testbed.down)
        cls.testbed.call(
            "kubectl", "label", "--overwrite", "namespace", "default", f"pod-security.kubernetes.io/enforce={cls.pod_security}"
        )

    def server(self, users=None, **engine):
        """`engine` has keys of the engine's configuration that go before those of the class."""
        more = {"users": users} if users else {}
        one = self.server_class(self.testbed, self.engine | engine, **more)
        self.addCleanup(self.remove_all)
        self.addCleanup(self.expect_rights_suffice, one)
        self.addCleanup(one.close)
        return one.start()

    def copy_of(self, server):
        """Another server with the records of one that is stopped, reached at the next port; not started."""
        copy = Server(self.testbed, self.engine)
        self.addCleanup(copy.close)
        shutil.copytree(server.data, copy.data)
        config = copy.folder / "config.yaml"
        config.write_text(config.read_text().replace(str(PORT), str(PORT + 1)))
        return copy

    def expect_rights_suffice(self, server):
        """It needed no right that the chart does not give. For a moment after its start, an API server knows no roles yet and
        refuses what it allows before and after."""
        allowed, refused = set(), set()
        for one in server.requests():
            about = one.get("objectRef", {})
            right = (one["verb"], about.get("resource", one["requestURI"]), about.get("subresource"), about.get("namespace"))
            if one.get("annotations", {}).get("authorization.k8s.io/decision") == "allow":
                allowed.add(right)
            elif about.get("resource") not in self.asks_in_vain:
                refused.add(right)
        self.assertTrue(allowed, f"the audit log knows of no request of {server.account.user}")
        self.assertFalse(refused - allowed, "the chart does not give these rights")

    def remove_all(self):
        """Whatever a test that failed has left: all of it belongs to the server's ConfigMap."""
        self.testbed.call("kubectl", "delete", "configmaps,secrets,pods", "-l", "quad.io/server", "--grace-period=1", "--wait=false")

    def expect_nothing_left(self, server, timeout=60):
        """Of jobs that have ended: no pod, no Secret, no Service."""

        def nothing():
            left = [f"{one['kind']} {one['metadata']['name']}"
                    for one in self.testbed.get("pods,secrets,services", "quad.io/server")]  # fmt: skip
            assert not left, ", ".join(left)
            return True

        quadtest.wait_until(nothing, timeout, "nothing is left in the cluster")


if __name__ == "__main__":  # brings up the one that is shared
    Testbed(SHARED["nodes"], Path(sys.argv[1]), **SHARED["options"])
