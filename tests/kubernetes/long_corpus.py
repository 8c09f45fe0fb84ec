"""Forty of SkyPilot's own task files run on Kubernetes, with a probe in the place of what they would do (test_corpus.py)."""

import collections
import json
import unittest

import quadtest
import test_corpus
from test_corpus import GPUS_OF_NODES, models_of, portable_files, spelled

TIMEOUT_SECONDS = 400
RUNS = 40
HOME = {
    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "quad-home"},
    "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "shared", "resources": {"requests": {"storage": "1Gi"}}},
}  # fmt: skip


class Runs(test_corpus.TestCase):
    """On real nodes whose GPUs are of whatever model is asked for. These have two processors, so the tasks ask for fewer."""

    nodes = 3
    options = {"gpus": GPUS_OF_NODES}

    def test_forty_of_them_run(self):
        file = self.testbed.folder / "home.json"
        file.write_text(json.dumps(HOME))
        self.testbed.call("kubectl", "apply", "-f", str(file))
        server = self.server()
        self.wait_for_nodes(server, self.nodes)
        by_model = collections.defaultdict(list)
        for path, documents in portable_files():
            if len(documents) != 1 or "resources" not in documents[0]:
                continue
            if test_corpus.IPC_LOCK in json.dumps(documents):
                continue  # RDMA needs more than "baseline"
            (task,) = documents
            resources = {key: value for key, value in task["resources"].items() if key in ("accelerators", "labels")}
            models = {spelled(model) for model in models_of(resources)}
            if len(models) <= 1:
                kept = {key: task[key] for key in ("name", "num_nodes", "envs", "secrets", "run", "config") if key in task}
                by_model[next(iter(models), "H100")].append((path, kept | {"resources": resources | {"cpus": 0.1, "memory": 0.1}}))
        chosen = 0
        for model, tasks in sorted(by_model.items(), key=lambda one: -len(one[1])):
            tasks = tasks[: RUNS - chosen]
            if not tasks:
                break
            self.testbed.call("kubectl", "label", "--overwrite", "nodes", "--all", f"quad.io/gpu={model}")
            quadtest.wait_until(
                lambda model=model: {one["gpu_model"] for one in server.json("node", "list")["nodes"]} == {model},
                30, f"the nodes have {model}",
            )  # fmt: skip
            jobs = {server.launch(task): path for path, task in tasks}
            for job, path in jobs.items():
                with self.subTest(path):
                    server.wait_for_status(job, "SUCCEEDED", timeout=180)
                    self.assertIn("probe: rank 0 of", server.ok("logs", job, "--no-follow"))
            chosen += len(jobs)
        self.assertEqual(chosen, RUNS)
        self.expect_nothing_left(server)


if __name__ == "__main__":
    unittest.main()
