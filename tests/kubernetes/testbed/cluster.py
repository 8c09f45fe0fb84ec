"""A testbed: its control plane, its nodes, and the switch between them, all in a folder and under names of its own."""

import base64
import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import builder
import fake_nodes
import host
import pki
from api import Api, ApiError, is_ready
from host import Cgroup, TestbedError, run, start, wait_until
from node import Node

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Timing:
    """How soon Kubernetes sees that a node is lost, and lets its pods go."""

    lease: int  # seconds; the kubelet renews its lease after a quarter of them
    status: str
    monitor: str
    grace: str
    eviction: int


TIMINGS = {
    "fast": Timing(lease=4, status="2s", monitor="1s", grace="8s", eviction=5),
    "stock": Timing(lease=40, status="10s", monitor="5s", grace="50s", eviction=300),
}

# Who has a kubeconfig with a token, and as whom.
USERS = {
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "tools": ("testbed", "system:masters"),  # CoreDNS and kwok
}
PREFIX = "quad-testbed-"
MOST_NODES = 100
VOLUMES = 16
# What is in its folder. The mark is written first and removed last: a folder with it is a testbed's.
MARK = "testbed.json"
# What pods ask of the API server is in log/audit.log, and what became of it.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
CONTENTS = ("port", "port.new", "kubeconfig", "kwok.yaml", "pki", "log", "etcd", "nodes", "images", "shared")
HOSTPATH_VOLUMES = Path("/tmp/hostpath_pv")

CORE_FILE = """\
.:53 {
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local {
    kubeconfig "%s"
  }
}
"""


class Testbed:
    GATEWAY = "10.99.0.1"  # of the nodes' network: the control plane's address
    POD_NETWORK = "10.98.0.0/16"
    SERVICE_NETWORK = "10.96.0.0/16"
    PROGRAMS = ("etcd", "apiserver", "controllers", "scheduler", "dns", "kwok", "door")

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.name = f"{PREFIX}{sha256(str(self.folder).encode()).hexdigest()[:8]}"
        self.cgroup = Cgroup(self.name)
        self.pki = self.folder / "pki"
        self.log = self.folder / "log"
        self.kubeconfig = self.folder / "kubeconfig"
        self.built = builder.built_folder()
        self.programs = self.built / "bin"
        self._options = None

    # What it was set up with.

    @property
    def options(self):
        if self._options is None:
            try:
                self._options = json.loads((self.folder / MARK).read_text())
            except FileNotFoundError:
                raise TestbedError(f"there is no testbed in {self.folder}; `testbed up` makes one") from None
        return self._options

    def require(self):
        """There must be one, up or not."""
        assert self.options

    @property
    def timing(self):
        return TIMINGS[self.options["timing"]]

    @property
    def port(self):
        """Of the API server: on this machine's loopback address, and in the testbed's own network."""
        return int((self.folder / "port").read_text())

    @property
    def nodes(self):
        return [Node(self, f"n{index}") for index in range(1, self.options["nodes"] + 1)]

    def node(self, name):
        for node in self.nodes:
            if node.name == name:
                return node
        known = [node.name for node in self.nodes] + ([f"{fake_nodes.name(0)}…"] if self.options["kwok"] else [])
        raise TestbedError(f"there is no node '{name}'; those are: {', '.join(known)}")

    def is_fake(self, name):
        return name in map(fake_nodes.name, range(self.options["kwok"]))

    def api(self, **options):
        return Api(self.port, self.pki, **options)

    def image_archives(self):
        return sorted([*(self.built / "images").glob("*.tar"), *(self.folder / "images").glob("*.tar")])

    @contextlib.contextmanager
    def only_one(self):
        """One `up` or `down` at a time. The lock is the folder itself, which may be removed under us."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.folder.exists() and os.path.samestat(os.fstat(lock), os.stat(self.folder)):
                    yield
                    return
            finally:
                os.close(lock)

    # Up and down.

    def up(self, options):
        """Brings up everything, and returns how long each part took, {part: seconds since the beginning}."""
        builder.require_built()
        if os.geteuid() != 0:
            raise TestbedError("a testbed needs root: it makes namespaces and control groups")
        with self.only_one():
            if self.cgroup.pids():
                raise TestbedError(f"the testbed in {self.folder} is up already; `testbed down` ends it")
            self._remove_traces()
            if any(self.folder.iterdir()):
                raise TestbedError(f"{self.folder} holds other things than a testbed; give an empty folder with --dir")
            return self._up(options)

    def _up(self, options):
        began, marks = time.monotonic(), {}

        def mark(part):
            marks[part] = time.monotonic() - began

        (self.folder / MARK).write_text(json.dumps(options) + "\n")
        for folder in ("log", "images", "nodes", "shared/home", "shared/volumes", "shared/local"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        (self.folder / "shared" / "home").chmod(0o1777)
        self._lay_network()
        self.start("door")
        wait_until((self.folder / "port").exists, 20, "the API server's port is known", every=0.01)
        self._make_credentials()
        self.start("etcd")
        self.start("apiserver")
        self.wait_for_api()
        mark("API server ready")
        self.start("controllers")
        self.start("scheduler")
        self.start("dns")
        if options["kwok"]:
            self.start("kwok")
        self._create_objects()
        if options["kwok"]:
            fake_nodes.create(self, options["kwok"])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Node.switch_on, self.nodes))
        self.wait_for_nodes()
        mark("all nodes ready")
        wait_until(self._has_default_account, 60, "pods can be created")
        mark("pods can be created")
        return marks

    def down(self):
        """Removes everything, whatever is left of it."""
        with self.only_one():
            self._remove_traces()
            with contextlib.suppress(OSError):  # somebody put something in
                self.folder.rmdir()
            # To remove a folder ends the mounts on it, those of other testbeds too.
            if not any(Cgroup.root.glob(f"{PREFIX}*")):
                with contextlib.suppress(OSError):
                    HOSTPATH_VOLUMES.rmdir()

    def _remove_traces(self):
        self.cgroup.kill()
        for name in host.network_names(self.name):
            host.remove_network(name)
        self.cgroup.remove()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted(mounts, reverse=True):
            if Path(mount).is_relative_to(self.folder) and Path(mount) != self.folder:
                run("umount", "--lazy", mount)
        if (self.folder / MARK).exists():  # else the folder is not ours
            for name in (*CONTENTS, MARK):
                path = self.folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def _lay_network(self):
        """A namespace with a switch that the nodes are plugged into; the control plane's programs run in it."""
        run("ip", "netns", "add", self.name)
        # The bridge's own address: without one, it takes a port's, and changes it when that node goes.
        run("ip", "-n", self.name, "-batch", "-", input=f"""\
link set lo up
link add switch address 02:00:00:00:00:01 type bridge
address add {self.GATEWAY}/24 dev switch
link set switch up
route add {self.SERVICE_NETWORK} dev switch
""")  # fmt: skip
        settings = "echo 1 > ipv4/ip_forward; echo 0 > ipv4/conf/all/send_redirects; echo 0 > ipv4/conf/switch/send_redirects"
        run("nsenter", f"--net={host.NETNS / self.name}", "sh", "-c", f"cd /proc/sys/net; {settings}")

    def _make_credentials(self):
        pki.make(
            self.pki,
            addresses=["127.0.0.1", self.GATEWAY, "10.96.0.1"],
            names=["localhost", *(f"kubernetes{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local"))],
        )  # fmt: skip
        nodes = {node.name: (f"system:node:{node.name}", "system:nodes") for node in self.nodes}
        remote = {*nodes, "kube-proxy"}
        pki.make_users(
            self.pki, USERS | nodes, lambda file: f"https://{self.GATEWAY if file in remote else '127.0.0.1'}:{self.port}"
        )
        self.kubeconfig.write_text(pki.admin_kubeconfig(self.pki, f"https://127.0.0.1:{self.port}"))
        self.kubeconfig.chmod(0o600)

    # The control plane's programs.

    def start(self, program):
        # The door begins outside, where it is to be found, and enters by itself.
        network = None if program == "door" else self.name
        start(self._program(program), self._command(program), self.log / f"{program}.log", network=network)

    def stop(self, program):
        if not self._program(program).pids():
            raise TestbedError(f"{program} is stopped already")
        self._program(program).kill()

    def is_running(self, program):
        return bool(self._program(program).pids())

    def _program(self, name):
        return self.cgroup.below(f"control/{name}")

    def _command(self, program):
        pki, programs, timing = self.pki, self.programs, self.timing
        if program == "etcd":
            return [programs / "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--log-level=warn"]
        if program == "apiserver":
            (pki / "audit.yaml").write_text(json.dumps(AUDIT_POLICY))
            return [
                programs / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--secure-port={self.port}",
                "--bind-address=0.0.0.0", f"--advertise-address={self.GATEWAY}", f"--client-ca-file={pki / 'ca.crt'}",
                f"--tls-cert-file={pki / 'apiserver.crt'}", f"--tls-private-key-file={pki / 'apiserver.key'}",
                f"--token-auth-file={pki / 'tokens.csv'}", "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction", "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki / 'service-accounts.pub'}",
                f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
                f"--service-cluster-ip-range={self.SERVICE_NETWORK}", "--allow-privileged=true", "--profiling=false",
                # Webhooks are called at their pods: no kube-proxy runs where the API server does.
                "--enable-aggregator-routing=true",
                "--kubelet-preferred-address-types=InternalIP",
                f"--default-not-ready-toleration-seconds={timing.eviction}",
                f"--default-unreachable-toleration-seconds={timing.eviction}",
                f"--audit-policy-file={pki / 'audit.yaml'}", f"--audit-log-path={self.log / 'audit.log'}",
            ]  # fmt: skip
        if program == "controllers":
            # Where it makes volumes is fixed in its code; the nodes see the same folder there.
            HOSTPATH_VOLUMES.mkdir(exist_ok=True)
            mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
            return [
                "unshare", "--mount", "sh", "-c", mount, self.folder / "shared" / "local", HOSTPATH_VOLUMES,
                programs / "kube-controller-manager", f"--kubeconfig={pki / 'controllers.kubeconfig'}",
                "--leader-elect=false", "--enable-hostpath-provisioner=true",
                "--use-service-account-credentials=true", f"--root-ca-file={pki / 'ca.crt'}",
                f"--service-account-private-key-file={pki / 'service-accounts.key'}",
                f"--node-monitor-period={timing.monitor}", f"--node-monitor-grace-period={timing.grace}",
                # At once, not one node in ten seconds: a testbed's nodes are few.
                "--node-eviction-rate=50", "--secondary-node-eviction-rate=50", "--kube-api-qps=300", "--kube-api-burst=600",
            ]  # fmt: skip
        if program == "scheduler":
            configuration = {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": str(pki / "scheduler.kubeconfig"), "qps": 1000, "burst": 2000},
                "leaderElection": {"leaderElect": False},
            }
            (pki / "scheduler.yaml").write_text(json.dumps(configuration))
            return [programs / "kube-scheduler", f"--config={pki / 'scheduler.yaml'}"]
        if program == "dns":
            (pki / "Corefile").write_text(CORE_FILE % (pki / "tools.kubeconfig"))
            return [programs / "coredns", "-conf", pki / "Corefile"]
        if program == "kwok":
            return fake_nodes.command(self)
        assert program == "door", program
        return [sys.executable, HERE / "door.py", host.NETNS / self.name, self.folder / "port"]

    def wait_for_api(self, timeout=90):
        def answers():
            if not self.is_running("apiserver") or not self.is_running("etcd"):
                which = "etcd" if not self.is_running("etcd") else "apiserver"
                raise TestbedError(f"{which} ended; the last that it said:\n{host.tail(self.log / f'{which}.log')}")
            try:
                return self.api(timeout=5).get("/readyz") == "ok"
            except (OSError, ApiError):
                return False

        wait_until(answers, timeout, "the API server is ready")

    def _has_default_account(self):
        try:
            return self.api().get("/api/v1/namespaces/default/serviceaccounts/default")
        except ApiError:
            return None

    def wait_for_nodes(self, timeout=120):
        """Until every node is Ready, those with GPUs have them, and names are resolved."""
        wanted = {node.name for node in self.nodes} | set(map(fake_nodes.name, range(self.options["kwok"])))
        gpus = str(self.options["gpus"])

        def ready():
            found = set()
            for node in self.api(timeout=30).get("/api/v1/nodes")["items"]:
                if is_ready(node) and node["status"]["allocatable"].get("nvidia.com/gpu", "0") == gpus:
                    found.add(node["metadata"]["name"])
            return wanted <= found

        wait_until(ready, timeout, f"all of the {len(wanted)} nodes are Ready", every=0.1)

    def _create_objects(self):
        """Storage: `local`, whose volumes are made as they are asked for, and `shared`, with some that many pods may mount."""
        api = self.api()
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        for name, provisioner, annotations in (
            ("local", "kubernetes.io/host-path", default), ("shared", "kubernetes.io/no-provisioner", {}),
        ):  # fmt: skip
            api.create("/apis/storage.k8s.io/v1/storageclasses", {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": name, "annotations": annotations},
                "provisioner": provisioner,
                "reclaimPolicy": "Delete" if name == "local" else "Retain",
            })  # fmt: skip
        for index in range(VOLUMES):
            name = f"shared-{index}"
            (self.folder / "shared" / "volumes" / name).mkdir(mode=0o777, exist_ok=True)
            (self.folder / "shared" / "volumes" / name).chmod(0o777)
            api.create("/api/v1/persistentvolumes", {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": "100Gi"},
                    "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                    "storageClassName": "shared",
                    "hostPath": {"path": f"/srv/volumes/{name}", "type": "Directory"},
                },
            })  # fmt: skip

    # What else can be done to it.

    def compact_etcd(self):
        """Forgets all history but the present, and returns the revision. A watch from before it is then told 410 Gone, once
        the API server has forgotten too: its own cache of recent events goes when it is restarted."""
        host.enter_network(self.name)
        connection = http.client.HTTPConnection("127.0.0.1", 2379, timeout=30)

        def ask(path, body):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            told = json.loads(response.read())
            if response.status != 200:
                raise TestbedError(f"etcd says {response.status}: {told.get('message', told)}")
            return told

        key = base64.b64encode(b"/").decode()
        try:
            revision = ask("/v3/kv/range", {"key": key, "count_only": True})["header"]["revision"]
            ask("/v3/kv/compaction", {"revision": revision, "physical": True})
        except OSError as error:
            raise TestbedError(f"etcd does not answer: {error}") from None
        return revision

    def load_image(self, path):
        """Keeps an image for every node, and has those import it that are on; the others do when they come back."""
        path = Path(path)
        if not path.exists():
            raise TestbedError(f"there is no file {path}")
        name = re.sub(r"[^\w.-]", "-", path.name.removesuffix(".tar")) + ".tar"
        target = self.folder / "images" / name
        unfinished = target.with_suffix(".new")
        if path.is_dir():
            with tarfile.open(unfinished, "w") as archive:
                for entry in sorted(path.iterdir()):
                    archive.add(entry, arcname=entry.name)
        else:
            shutil.copyfile(path, unfinished)
        unfinished.rename(target)
        ready = [node for node in self.nodes if node.is_on() and not node.is_frozen()]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Node.import_images, ready))
        return [node.name for node in ready]
