"""What the benchmarks of Kubernetes share: a testbed, a server on it whose requests are counted, pods beside Quad's, and a
watch that tells when pods run.

A benchmark begins with `with kubebench.testbed(...) as bed:`, which ends the program with one line where there can be none.
Whatever is measured is compared with the same done by kubectl, in the same run: the testbed's programs share this machine's
processors with what is measured.
"""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import harness

sys.path.insert(0, str(harness.ROOT / "tests" / "kubernetes"))

import kubetest  # noqa: E402
import quadtest  # noqa: E402
from api import ApiError  # noqa: E402,F401

# kwok's nodes take only pods that say that they need no process.
TOLERATION = {"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}
WRITES = ("create", "update", "patch", "delete", "deletecollection")


@contextlib.contextmanager
def testbed(nodes=0, **options):
    """A kubetest.Testbed that is gone when the block ends, or the one that there is for all tests. Where there can be none,
    says so and ends the program."""
    if reason := kubetest.why_not_here():
        harness.skip(reason)
        sys.exit()
    if shared := os.environ.get("QUAD_TESTBED"):  # of the tests
        yield kubetest.Testbed.shared(shared)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a testbed is never left behind
    bed = kubetest.Testbed(nodes, **options)
    try:
        yield bed
    finally:
        bed.down()


@contextlib.contextmanager
def server(bed, **more):
    """A kubetest.Server; kwok's nodes are tolerated."""
    with tempfile.TemporaryDirectory(prefix="quad-bench-", ignore_cleanup_errors=True) as folder:
        one = kubetest.Server(bed, {"tolerations": [TOLERATION], **more}, folder=folder)
        try:
            yield one.start()
        finally:
            one.close()
            bed.call("kubectl", "delete", "configmaps,secrets,pods", "-l", "quad.io/server", "--now", "--wait=false", check=False)


def api(bed):
    """A connection to the API server, as the administrator."""
    return bed.api(timeout=60)


class Requests:
    """What the server asked of the API server since this was made, by the audit log."""

    def __init__(self, server):
        self.account = server.account
        self.begin = server.testbed.audit_log.stat().st_size

    def all(self):
        """[(verb, resource)], of answered requests."""
        return [(one["verb"], one.get("objectRef", {}).get("resource", "")) for one in self.account.requests(self.begin)]


class RunningPods:
    """When pods that a label selects began to run: a watch of its own, the same for Quad's pods and for others."""

    def __init__(self, bed, labels):
        self.times = {}  # name: time.perf_counter()
        self.changed = threading.Condition()
        pki = bed.folder / "pki"
        context = ssl.create_default_context(cafile=pki / "ca.crt")
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self.connection = http.client.HTTPSConnection("127.0.0.1", bed.port, context=context, timeout=600)
        path = f"/api/v1/namespaces/default/pods?labelSelector={labels}&fieldSelector=status.phase%3DRunning"
        self.connection.request("GET", path + "&limit=1&resourceVersion=0")
        version = json.loads(self.connection.getresponse().read())["metadata"]["resourceVersion"]
        self.connection.request("GET", f"{path}&watch=1&resourceVersion={version}")
        self.answer = self.connection.getresponse()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        with contextlib.suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            for line in iter(self.answer.readline, b""):
                now = time.perf_counter()
                event = json.loads(line)
                if event["type"] == "ADDED":  # to what the selector selects
                    with self.changed:
                        self.times[event["object"]["metadata"]["name"]] = now
                        self.changed.notify_all()

    def wait_for(self, count, timeout=120):
        """The time at which so many pods had begun to run."""
        with self.changed:
            reached = self.changed.wait_for(lambda: len(self.times) >= count, timeout)
            assert reached, f"{len(self.times)} of {count} pods run after {timeout} s"
            return sorted(self.times.values())[count - 1]

    def close(self):
        self.connection.sock and self.connection.sock.close()


@contextlib.contextmanager
def running_pods(bed, labels):
    one = RunningPods(bed, labels)
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def runners(bed, *options):
    """The program that speaks for the ranks of kwok's pods; fails if one of them met with a fault."""
    command = [*exec_prefix(bed), harness.program("pod_runners"), bed.kubeconfig, *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n", "pod_runners did not begin"
        yield process
        process.stdin.close()
        result = json.loads(process.stdout.read())
        assert not result["faults"], f"ranks met with faults: {result['faults']}"
    finally:
        process.kill()
        process.wait()


def exec_prefix(bed):
    return [kubetest.PROGRAM, "--dir", bed.folder, "exec"]


def bare_pod(name, image="quad.test/busybox:1", command=None, gpus=1, cpu="1", memory="1Gi", node=None):
    """A pod as Quad makes a rank's, but for the runner: what it asks for, and how it is kept on kwok's nodes."""
    resources = {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"bench": "bare"}},
        "spec": {
            "restartPolicy": "Never",
            "tolerations": [TOLERATION],
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": resources, "limits": resources},
                **({"command": command} if command else {}),
            }],
        },
    }  # fmt: skip
    if node:
        pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    return pod


def create_bare(bed, pods):
    """Starts `kubectl create` of these, without waiting for it."""
    path = bed.folder / "bare.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    # kubectl itself, as the testbed's own verb takes a moment to start it.
    command = [kubetest.builder.built_folder() / "bin" / "kubectl", f"--kubeconfig={bed.kubeconfig}", "create", "-f", path]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def remove_bare(bed):
    bed.call("kubectl", "delete", "pods", "-l", "bench=bare", "--grace-period=0", "--force", "--wait=false", timeout=180)
    quadtest.wait_until(lambda: not bed.get("pods", "bench=bare"), 120, "the bare pods are gone", every=1)


def submit(server, tasks):
    """Submits them at once; returns their ids."""
    with harness.Api(server) as api:
        answer = api.post("/v1/jobs:bulk", {"jobs": [{"yaml": json.dumps(one)} for one in tasks]})
        return [job["id"] for job in answer["jobs"]]


def task(name, ranks=1, gpus=1, run="true", cpus=1, memory=1):
    resources = {"cpus": cpus, "memory": memory} | ({"accelerators": f"H100:{gpus}"} if gpus else {})
    return {"name": name, "num_nodes": ranks, "resources": resources, "run": run}


def wait_for_jobs(server, count, status, timeout):
    """Until so many jobs have a status."""
    with harness.Api(server) as api:
        quadtest.wait_until(lambda: api.jobs_with(status) >= count, timeout, f"{count} jobs are {status}", every=0.05)
        return time.perf_counter()


def wait_until_empty(bed, timeout=120):
    """Until nothing of Quad's jobs is left in the cluster."""
    quadtest.wait_until(
        lambda: not bed.get("pods,secrets,services", "quad.io/server"), timeout, "nothing is left in the cluster", every=1
    )
