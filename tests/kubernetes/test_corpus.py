"""SkyPilot's own task files on Kubernetes: each that any cluster could run becomes manifests that a real API server takes, with
a probe in the place of what it would do. long_corpus.py runs forty of them.

What the corpus holds is told in tests/corpus. Where it is not at hand, the test says that it was skipped.
"""

import collections
import json
import sys
import unittest

import kubetest
import quadapi
import quadtest
import yaml

sys.path[:0] = [str(kubetest.HERE / "testbed"), str(kubetest.HERE.parent / "corpus")]

import api  # noqa: E402  of the testbed
from corpus_test import CORPUS  # noqa: E402

TIMEOUT_SECONDS = 180
PROBE = 'echo "probe: rank $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES, $SKYPILOT_NUM_GPUS_PER_NODE GPUs"'
PLURALS = {"Pod": "pods", "Service": "services", "PersistentVolumeClaim": "persistentvolumeclaims"}
GPUS_OF_NODES = 8
IPC_LOCK = '"IPC_LOCK"'
PRIVILEGED = "kube-public"  # a namespace without PodSecurity
BIG = {"cpu": "256", "memory": "4Ti", "pods": "110", "ephemeral-storage": "100Ti"}


def portable_files():
    """[(path, its documents with the probe in them)] of what needs no cloud and no bucket of somebody's."""
    found = []
    for line in (CORPUS / "expected.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if case.get("portable") != "yes" or case["oracle"] == "unavailable" or not (case["filled"] or case["plain"])["ok"]:
            continue
        documents = [one for one in yaml.safe_load_all((CORPUS / case["path"]).read_text(encoding="utf-8")) if one]
        # Services, pools, pipelines and groups are launched as Quad says: without that section, and task by task.
        documents = [one for one in documents if one.keys() - {"name", "execution", "primary_tasks", "termination_delay"}]
        for document in documents:
            for section in ("service", "pool"):
                document.pop(section, None)
            for key in ("envs", "secrets"):
                for name, value in (document.get(key) or {}).items():
                    if value is None:
                        document[key][name] = f"value-{name.lower()}"
            document["run"] = PROBE
            document.pop("setup", None)
        found.append((case["path"], documents))
    return found


def models_of(value):
    """Every GPU that stands anywhere under an `accelerators`."""
    if isinstance(value, dict):
        here = value.get("accelerators")
        words = [here] if isinstance(here, str) else list(here) if isinstance(here, (list, dict)) else []
        inner = [model for key, one in value.items() if key != "accelerators" for model in models_of(one)]
        return [str(word).partition(":")[0] for word in words] + inner
    if isinstance(value, list):
        return [model for one in value for model in models_of(one)]
    return []


def spelled(model):
    """As the label of a node has it: names differ in no more than their case."""
    return model if model == "Inferentia" else model.upper()


class TestCase(kubetest.TestCase):
    alone = True
    engine = {"hot_tier": {"pvc": "quad-home", "mount": "/home"}}
    pod_security = "baseline"

    @classmethod
    def setUpClass(cls):
        if not (CORPUS / "expected.jsonl").exists():
            raise unittest.SkipTest(f"no corpus at {CORPUS}")
        super().setUpClass()

    def wait_for_nodes(self, server, count):
        def ready():
            nodes = server.json("node", "list")["nodes"]
            assert sum(one["health"] == "ready" for one in nodes) >= count, nodes
            return True

        quadtest.wait_until(ready, 60, f"{count} nodes are ready")


class Manifests(TestCase):
    nodes = 0
    options = {"kwok": 1}

    def add_big_nodes(self, cluster, models):
        """Two for each model: what the tasks of a whole university ask for. kwok says that they live."""
        for model in models:
            resource = "amd.com/gpu" if model.upper().startswith("MI") else "nvidia.com/gpu"
            for index in range(2):
                amount = BIG | {resource: str(GPUS_OF_NODES)}
                cluster.create("/api/v1/nodes", {
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {"name": f"big-{model.lower()}-{index}", "annotations": {"kwok.x-k8s.io/node": "fake"},
                                 "labels": {"quad.io/gpu": model, "quad.test/kind": "kwok"}},
                    "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
                    "status": {"capacity": amount, "allocatable": amount},
                })  # fmt: skip

    def dry_run(self, quad, document):
        """The answer; where a job would wait, it is asked again: a node that is new, or slow to beat, is not used at once."""

        def answered():
            answer = quad.post("/v1/jobs", {"yaml": json.dumps(document), "dryrun": True})
            waits = [] if answer.status != 200 else [one["why"] for one in answer.json["plans"] if not one["starts"]]
            assert not waits or waits[0]["impossible"], waits[0]["message"]
            return answer

        return quadtest.wait_until(answered, 60, "the nodes are healthy", every=0.5)

    def test_each_becomes_manifests_that_the_api_server_takes(self):
        files = portable_files()
        models = sorted({spelled(model) for _, documents in files for model in models_of(documents)})
        cluster = self.testbed.api(timeout=60)
        self.add_big_nodes(cluster, models)
        server = self.server(tolerations=[{"key": "kwok.x-k8s.io/node", "operator": "Exists"}])
        self.wait_for_nodes(server, 2 * len(models))
        quad = quadapi.Local(server)
        refused, kinds, taken = {}, collections.Counter(), 0
        for path, documents in files:
            for document in documents:
                answer = self.dry_run(quad, document)
                if answer.status != 200:
                    refused[path] = answer.text[:300]
                    continue
                for plan in answer.json["plans"]:
                    if not plan["starts"]:
                        refused[path] = json.dumps(plan["why"])[:500]
                        continue
                    self.assertTrue(plan["manifests"], path)
                    for manifest in plan["manifests"]:
                        kinds[manifest["kind"]] += 1
                        if IPC_LOCK in json.dumps(manifest):  # RDMA needs more than "baseline" (docs/kubernetes.md)
                            manifest["metadata"]["namespace"] = PRIVILEGED
                        space = manifest["metadata"]["namespace"]
                        place = f"/api/v1/namespaces/{space}/{PLURALS[manifest['kind']]}?dryRun=All&fieldValidation=Strict"
                        try:
                            cluster("POST", place, manifest)
                        except api.ApiError as error:
                            refused[path] = f"{manifest['kind']}: {error}"
            taken += path not in refused
        print(f"{taken} of {len(files)} files, {dict(kinds)}")
        self.assertFalse(refused, "\n".join(f"{path}: {why}" for path, why in refused.items()))


if __name__ == "__main__":
    unittest.main()
