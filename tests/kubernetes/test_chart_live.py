"""A Quad that the Helm chart installed runs jobs: in a namespace under PodSecurity "restricted", with the rights that the chart
gives and no others, over upgrades.
"""

import collections
import json
import os
import subprocess
import unittest
from pathlib import Path

import kubetest
import quadtest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 300
USER = 64000  # as whom the chart runs the server
IMAGE = "quad.test/quad:0.1.0"

# It needs a Service for its ranks and one for its port, and a Secret with a login to the registry.
GANG = {
    "name": "gang",
    "num_nodes": 2,
    "resources": {"cpus": 0.2, "memory": 0.2, "ports": [8080], "image_id": "docker:quad.test/bash:1"},
    "envs": {"SKYPILOT_DOCKER_USERNAME": "u", "SKYPILOT_DOCKER_PASSWORD": "p", "SKYPILOT_DOCKER_SERVER": "quad.test"},
    "run": "echo rank $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES",
}
WAIT = {
    "name": "wait",
    "resources": {"cpus": 0.2, "memory": 0.2},
    "envs": {"SECONDS_AT_MOST": "200"},
    "run": "i=0; while [ ! -e /tmp/go ] && [ $i -lt $SECONDS_AT_MOST ]; do i=$((i + 1)); sleep 1; done; [ -e /tmp/go ]",
}
VALUES = {
    "image": {"repository": "quad.test/quad", "tag": "0.1.0", "pullPolicy": "Never"},
    "config": {"jobs": {"defaults": {"image": "quad.test/bash:1"}}},
    "persistence": {"storageClass": "local"},
}


class ChartLive(kubetest.TestCase):
    nodes = 2
    alone = True  # other tests have the namespace and all nodes for themselves

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        testbed = cls.testbed
        testbed.load_quad_image("server", IMAGE)
        testbed.call("kubectl", "create", "namespace", "quad")
        testbed.call("kubectl", "label", "namespace", "quad", "pod-security.kubernetes.io/enforce=restricted")
        cls.helm("install", VALUES)
        # The testbed's volumes belong to root, and are beyond an fsGroup.
        volumes = testbed.folder / "shared" / "local"
        folder = quadtest.wait_until(lambda: list(volumes.iterdir()), 60, "the server's volume is there")[0]
        os.chown(folder, USER, USER)
        cls.rolled_out()

    @classmethod
    def helm(cls, verb, values):
        file = cls.testbed.folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        chart = ROOT / "deploy" / "helm" / "quad"
        cls.testbed.call("helm", verb, "quad", str(chart), "--namespace", "quad", "--values", str(file))

    @classmethod
    def rolled_out(cls):
        cls.testbed.call("kubectl", "-n", "quad", "rollout", "status", "deployment/quad", "--timeout=180s", timeout=200)

    def requests(self):
        """What the server has asked of the API server since it began: {(verb, resource, code of the answer): how often}."""
        account = "system:serviceaccount:quad:quad"
        lines = (self.testbed.folder / "log" / "audit.log").read_text().splitlines()
        asked = [one for one in map(json.loads, lines) if one["user"]["username"] == account]
        return collections.Counter(
            (one["verb"], one.get("objectRef", {}).get("resource"), one["responseStatus"]["code"]) for one in asked
        )

    def quad(self, *words):
        """In the server's own pod, as its administrator."""
        return self.testbed.call("kubectl", "-n", "quad", "exec", "deployment/quad", "--", "quad", *words)

    def launch(self, task):
        """The id of the job."""
        done = subprocess.run(
            [kubetest.PROGRAM, "--dir", self.testbed.folder, "kubectl", "-n", "quad", "exec", "-i", "deployment/quad", "--",
             "quad", "launch", "-d", "-o", "json", "-"],
            input=yaml.safe_dump(task), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        return str(yaml.safe_load(done.stdout)["job"])

    def job(self, job):
        return yaml.safe_load(self.quad("status", job, "-o", "json"))["jobs"][0]

    def wait_for_status(self, job, status):
        def reached():
            view = self.job(job)
            assert view["status"] == status, f"{view['status']}: {view['message']}"
            return view

        return quadtest.wait_until(reached, 90, f"job {job} is {status}", every=0.5)

    def test_a_gang_needs_no_more_rights_than_the_chart_gives(self):
        job = self.launch(GANG)
        self.wait_for_status(job, "SUCCEEDED")
        log = self.quad("logs", job)
        for rank in range(2):
            self.assertIn(f"rank {rank} of 2", log)
        self.assertTrue(self.testbed.get("poddisruptionbudgets", namespace="quad-jobs"))

        def nothing_left():
            left = self.testbed.get("pods,secrets,services,persistentvolumeclaims", namespace="quad-jobs", labels=f"quad.io/job={job}")
            assert not left, ", ".join(f"{one['kind']} {one['metadata']['name']}" for one in left)
            return True

        quadtest.wait_until(nothing_left, 60, "nothing of the job is left")
        asked = self.requests()
        # Services of its ranks and its port, the login to the registry.
        self.assertEqual((asked["patch", "services", 201], asked["patch", "secrets", 201]), (2, 1), asked)
        self.assertFalse([one for one in asked if one[2] in (401, 403)], asked)

    def test_a_job_takes_neither_the_servers_volume_nor_its_place(self):
        for more, words in (
            ({"volumes": {"/steal": "quad-data"}}, "'quad-data' is Quad's own"),
            ({"resources": {"labels": {"app.kubernetes.io/name": "quad"}}}, "know pods by it"),
        ):
            done = subprocess.run(
                [kubetest.PROGRAM, "--dir", self.testbed.folder, "kubectl", "-n", "quad", "exec", "-i", "deployment/quad", "--",
                 "quad", "launch", "-d", "-"],
                input=yaml.safe_dump({"run": "true"} | more), capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            self.assertNotEqual(done.returncode, 0, done.stdout)
            self.assertIn(words, done.stderr)
        # Nor is there anything of the server where jobs are.
        claims = self.testbed.get("persistentvolumeclaims", namespace="quad-jobs")
        self.assertEqual([one["metadata"]["name"] for one in claims], [])
        secrets = self.testbed.get("secrets", namespace="quad-jobs")
        self.assertEqual([one["metadata"]["name"] for one in secrets if "quad.io/job" not in one["metadata"].get("labels", {})], [])

    def test_jobs_run_on_over_an_upgrade(self):
        job = self.launch(WAIT)
        before = self.wait_for_status(job, "RUNNING")
        (pod,) = self.testbed.get("pods", namespace="quad-jobs", labels=f"quad.io/job={job}")
        servers = {one["metadata"]["uid"] for one in self.testbed.get("pods", namespace="quad")}

        self.helm("upgrade", VALUES | {"config": VALUES["config"] | {"node_lost_after": "25s"}})
        self.rolled_out()
        self.assertIn("25s", self.quad("config", "show", "--config", "/etc/quad/config.yaml"))
        now = {one["metadata"]["uid"] for one in self.testbed.get("pods", namespace="quad")}
        self.assertFalse(servers & now, "the server did not restart")

        self.testbed.call("kubectl", "-n", "quad-jobs", "exec", pod["metadata"]["name"], "-c", "rank", "--", "touch", "/tmp/go")
        after = self.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(after["epoch"], before["epoch"])


if __name__ == "__main__":
    unittest.main()
