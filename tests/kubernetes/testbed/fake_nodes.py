"""kwok's nodes: they look real to the API server, but their pods are only said to run."""

from host import TestbedError
from node import gpu_labels

DOWN = "quad.test/down"  # the annotation of a node whose heartbeats stop
RESOURCES = {"cpu": "96", "memory": "1Ti", "pods": "110", "ephemeral-storage": "1Ti"}


def name(index):
    return f"kwok-{index:03d}"


def command(testbed):
    # A node that is down is left as it is by every stage.
    stages = (testbed.programs / "kwok-stages.yaml").read_text()
    left_alone = "    matchExpressions:\n    - key: '.metadata.annotations[\"%s\"]'\n      operator: 'DoesNotExist'\n" % DOWN
    (testbed.folder / "kwok.yaml").write_text(stages.replace("    matchExpressions:\n", left_alone))
    return [
        testbed.programs / "kwok", f"--config={testbed.folder / 'kwok.yaml'}",
        f"--kubeconfig={testbed.pki / 'tools.kubeconfig'}",
        "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--node-lease-duration-seconds={max(16, testbed.timing.lease)}", "--cidr=10.97.0.1/16", "--server-address=",
    ]  # fmt: skip


def create(testbed, count):
    api, gpus = testbed.api(timeout=30), testbed.options["gpus"]
    resources = RESOURCES | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    for index in range(count):
        labels = {
            "quad.test/kind": "kwok",
            "kubernetes.io/hostname": name(index),
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        labels |= gpu_labels(testbed.options["gpu_product"], gpus) if gpus else {}
        api.create("/api/v1/nodes", {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name(index), "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            # Only pods that say that they need no process come here.
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
            "status": {"capacity": resources, "allocatable": resources},
        })  # fmt: skip


def switch(testbed, node, on):
    """Stops a node's heartbeats, or lets them go on. Whoever holds a node's lease sends them; nobody does when it is down."""
    api = testbed.api()
    path, lease = f"/api/v1/nodes/{node}", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    is_down = DOWN in api.get(path)["metadata"].get("annotations", {})
    if is_down != on:
        raise TestbedError(f"{node} is {'on' if on else 'off'} already")
    api.merge(path, {"metadata": {"annotations": {DOWN: None if on else "true"}}})
    holder = {"holderIdentity": None} if on else {"holderIdentity": "nobody", "leaseDurationSeconds": 1000000}
    api.merge(lease, {"spec": holder})
