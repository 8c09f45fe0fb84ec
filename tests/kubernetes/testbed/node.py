"""A real node: containerd, a kubelet and a kube-proxy in namespaces of their own, which can be powered off."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import images
from host import TestbedError, remove_network, run, start, wait_until

HERE = Path(__file__).resolve().parent

CONTAINERD = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true  # a root user without CAP_SYS_RESOURCE may not lower it
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"""


def gpu_labels(product, count):
    """What NVIDIA's GPU feature discovery says of a node with these GPUs."""
    gib = int(found[1]) if (found := re.search(r"(\d+)GB", product)) else 80
    family = next((name for key, name in {"H100": "hopper", "H200": "hopper", "A100": "ampere"}.items() if key in product), "")
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(gib * 1024 - 361),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/mig.capable": "true",
    } | ({"nvidia.com/gpu.family": family} if family else {})


class Node:
    def __init__(self, testbed, name):
        self.testbed = testbed
        self.name = name
        self.index = int(name[1:])
        self.folder = testbed.folder / "nodes" / name
        self.disk = self.folder / "disk"
        self.cgroup = testbed.cgroup.below(f"nodes/{name}")
        self.network = f"{testbed.name}-{name}"
        self.address = f"10.99.0.{10 + self.index}"
        self.pod_network = f"10.98.{self.index}.0/24"

    def _daemon(self, name):
        return self.cgroup.below(f"host/{name}")

    # Power.

    def is_on(self):
        return bool(self._daemon("init").pids())

    def is_frozen(self):
        return self.cgroup.is_frozen()

    def require_on(self):
        if not self.is_on():
            raise TestbedError(f"{self.name} is off")
        if self.is_frozen():
            raise TestbedError(f"{self.name} is frozen")

    def switch_on(self):
        """Boots. The disk is as it was left, so the kubelet finds the containers that died with the power."""
        if self.is_on():
            raise TestbedError(f"{self.name} is on already")
        self._plug_in()
        self.cgroup.create_for_kubelet()
        self._write_configuration()
        command = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", HERE / "node-root", self.name, self.disk,
                   self.testbed.programs, self.testbed.folder / "shared"]  # fmt: skip
        process = start(self._daemon("init"), command, self._log("init"), network=self.network)

        def booted():
            if process.poll() is not None:
                raise TestbedError(f"{self.name} does not boot: {self._log('init').read_text().strip()}")
            return self._first_process(running="pause")

        wait_until(booted, 30, f"{self.name} has booted", every=0.02)
        self._start("containerd", ["containerd", "--config", "/etc/containerd/config.toml"])
        self._wait_for_containerd()
        self.import_images()
        self.start_kubelet()
        self._start("kube-proxy", ["/opt/testbed/kube-proxy", "--config=/etc/kubernetes/proxy.yaml"])
        if gpus := self.testbed.options["gpus"]:
            self._start("gpus", ["/opt/testbed/fake-gpu-plugin", f"--count={gpus}", "--sick=/etc/sick-gpus"])

    def switch_off(self):
        """A power cut: the network is dead before any process is, so that nothing says goodbye."""
        if not self.cgroup.pids():
            raise TestbedError(f"{self.name} is off already")
        self._link("down")
        self.remove()

    def remove(self):
        self.cgroup.kill()
        self._unplug()
        self.cgroup.remove()

    def freeze(self):
        self.require_on()
        self.cgroup.freeze()

    def thaw(self):
        if not self.is_frozen():
            raise TestbedError(f"{self.name} is not frozen")
        self.cgroup.thaw()
        self.import_images()  # those that came meanwhile

    # The network.

    def _plug_in(self):
        switch = self.testbed.name
        self._unplug()  # of a boot that failed
        run("ip", "netns", "add", self.network)
        run("ip", "-n", switch, "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.network)
        run("ip", "-n", switch, "-batch", "-", input=f"""\
link set {self.name} master switch up
route replace {self.pod_network} via {self.address}
""")  # fmt: skip
        run("ip", "-n", self.network, "-batch", "-", input=f"""\
link set lo up
address add {self.address}/24 dev eth0
link set eth0 up
route add default via {self.testbed.GATEWAY}
""")  # fmt: skip
        run("nsenter", f"--net=/run/netns/{self.network}", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def _unplug(self):
        # The kernel removes what is in a namespace some time after its name; the plug must be free at once.
        with contextlib.suppress(TestbedError):
            run("ip", "-n", self.testbed.name, "link", "del", self.name)
        remove_network(self.network)

    def _link(self, state):
        run("ip", "-n", self.testbed.name, "link", "set", self.name, state)

    def is_cut(self):
        link = run("ip", "-n", self.testbed.name, "-json", "link", "show", self.name)
        return "UP" not in json.loads(link)[0]["flags"]

    def cut(self):
        if not self.is_on():
            raise TestbedError(f"{self.name} is off")
        self._link("down")

    def join(self):
        if not self.is_on():
            raise TestbedError(f"{self.name} is off")
        self._link("up")

    # What runs on it.

    def _first_process(self, running=None):
        """The id, as the machine knows it, of the node's process 1; None if there is none (that runs this program)."""
        for pid in self._daemon("init").pids():
            try:
                status = dict(
                    line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
            if status["NSpid"].split()[1:] == ["1"] and running in (None, status["Name"]):
                return pid
        return None

    def enter(self):
        """The command that runs another one inside the node."""
        self.require_on()
        return ["nsenter", f"--target={self._first_process()}", "--mount", "--uts", "--ipc", "--net", "--pid"]

    def _log(self, name):
        return self.folder / f"{name}.log"

    def _start(self, name, command):
        start(self._daemon(name), command, self._log(name), node=self._first_process())

    def start_kubelet(self):
        self.require_on()
        labels = {"quad.test/kind": "real"}
        if gpus := self.testbed.options["gpus"]:
            labels |= gpu_labels(self.testbed.options["gpu_product"], gpus)
        self._start("kubelet", [
            "/opt/testbed/kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
            f"--hostname-override={self.name}", f"--node-ip={self.address}",
            f"--node-labels={','.join(f'{key}={value}' for key, value in labels.items())}",
        ])  # fmt: skip

    def stop_kubelet(self):
        """Its containers run on."""
        self.require_on()
        if not self._daemon("kubelet").pids():
            raise TestbedError(f"the kubelet of {self.name} is stopped already")
        self._daemon("kubelet").kill()

    def is_kubelet_running(self):
        return bool(self._daemon("kubelet").pids())

    def _containers(self, *arguments, **options):
        return run(*self.enter(), "ctr", "--namespace", "k8s.io", *arguments, **options)

    def _wait_for_containerd(self):
        def answers():
            if not self._daemon("containerd").pids():
                raise TestbedError(f"containerd of {self.name} ended; see {self._log('containerd')}")
            try:
                return self._containers("version", timeout=10)
            except TestbedError:
                return None

        wait_until(answers, 60, f"containerd of {self.name} answers")

    def import_images(self):
        """Those that the node does not have yet."""
        done = self.folder / "images"
        done.mkdir(exist_ok=True)
        for archive in self.testbed.image_archives():
            mark = done / f"{archive.name}-{archive.stat().st_mtime_ns}"
            if not mark.exists():
                with open(archive, "rb") as data:  # through standard input: the node does not see the file
                    self._containers("images", "import", "--all-platforms", "-", stdin=data, timeout=600)
                mark.touch()

    def set_gpu(self, index, healthy):
        """What its device plugin says of one GPU."""
        file = self.disk / "etc" / "sick-gpus"
        sick = set(file.read_text().split()) if file.exists() else set()
        sick = sick - {f"GPU-{index}"} if healthy else sick | {f"GPU-{index}"}
        unfinished = file.with_suffix(".new")
        unfinished.write_text("".join(f"{gpu}\n" for gpu in sorted(sick)))
        unfinished.rename(file)

    # Its configuration.

    def _write_configuration(self):
        etc = self.disk / "etc"
        for folder in ("cni/net.d", "containerd", "kubernetes"):
            (etc / folder).mkdir(parents=True, exist_ok=True)
        (etc / "containerd" / "config.toml").write_text(CONTAINERD)
        pki = self.testbed.pki
        shutil.copy(pki / f"{self.name}.kubeconfig", etc / "kubernetes" / "kubelet.kubeconfig")
        shutil.copy(pki / "kube-proxy.kubeconfig", etc / "kubernetes" / "proxy.kubeconfig")
        ipam = {
            "type": "host-local",
            "dataDir": "/run/cni",  # addresses are free again after a power cut
            "ranges": [[{"subnet": self.pod_network}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        # Routed, not bridged: traffic between two pods of a node then passes by kube-proxy's rules as any other does.
        plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}
        (etc / "cni/net.d/10-pods.conflist").write_text(json.dumps(network))
        timing = self.testbed.timing
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "protectKernelDefaults": True,  # never writes the machine's; node-root shows it what it wants
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "readOnlyPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [self.testbed.GATEWAY],
            "clusterDomain": "cluster.local",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            "nodeStatusUpdateFrequency": timing.status,
            "nodeLeaseDurationSeconds": timing.lease,
        }
        (etc / "kubernetes" / "kubelet.yaml").write_text(json.dumps(kubelet))
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": "/etc/kubernetes/proxy.kubeconfig"},
            "mode": "nftables",
            "hostnameOverride": self.name,
            "clusterCIDR": self.testbed.POD_NETWORK,
            "oomScoreAdj": 0,
            # These belong to the machine.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (etc / "kubernetes" / "proxy.yaml").write_text(json.dumps(proxy))
