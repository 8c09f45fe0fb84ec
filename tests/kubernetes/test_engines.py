"""A server with several engines: two contexts of a kubeconfig, each with a namespace and nodes of its own, and the machine it
runs on. Each job is on one of them."""

import json
import unittest

import kubetest
import quadtest
import yaml

HALF = "quad.test/half"
CONTEXTS = {"left": "default", "right": "jobs-right"}  # and their namespaces


class Server(kubetest.Server):
    """On one cluster by two contexts, whose service accounts may do nothing in each other's namespace."""

    def __init__(self, testbed, engine):
        super().__init__(testbed, engine)
        config = self.folder / "config.yaml"
        told = yaml.safe_load(config.read_text())
        common = told["engines"].pop("kubernetes")
        kubeconfigs = {name: yaml.safe_load(testbed.account(namespace).kubeconfig.read_text()) for name, namespace in CONTEXTS.items()}
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(json.dumps({
            "clusters": kubeconfigs["left"]["clusters"],
            "users": [{"name": name, "user": one["users"][0]["user"]} for name, one in kubeconfigs.items()],
            "contexts": [
                {"name": name, "context": {"cluster": one["clusters"][0]["name"], "user": name, "namespace": CONTEXTS[name]}}
                for name, one in kubeconfigs.items()
            ],
        }))  # fmt: skip
        kubeconfig.chmod(0o600)
        for name in CONTEXTS:
            told["engines"][name] = common | {"kubeconfig": str(kubeconfig), "context": name, "node_selector": {HALF: name}}
        told["engines"]["local"] = {}
        config.write_text(json.dumps(told))


class Engines(kubetest.TestCase):
    asks_in_vain = {"storageclasses"}  # `quad check`
    server_class = Server

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.kubectl("create", "namespace", CONTEXTS["right"])
        cls.addClassCleanup(cls.kubectl, "delete", "namespace", CONTEXTS["right"], "--wait=false")
        cls.kubectl("label", "namespace", CONTEXTS["right"], "pod-security.kubernetes.io/enforce=privileged")
        for node, half in {"n1": "left", "n2": "right"}.items():
            cls.kubectl("label", "node", node, f"{HALF}={half}")
            cls.addClassCleanup(cls.kubectl, "label", "node", node, f"{HALF}-")

    @classmethod
    def kubectl(cls, *words):
        return cls.testbed.call("kubectl", *words)

    def remove_all(self):
        for namespace in CONTEXTS.values():
            self.kubectl("delete", "configmaps,secrets,pods", "-n", namespace, "-l", "quad.io/server", "--grace-period=1", "--wait=false")

    def pods(self, context):
        return self.testbed.get("pods", namespace=CONTEXTS[context], labels="quad.io/server")

    def test_each_job_is_on_one_of_them(self):
        server = self.server()
        quadtest.wait_until(lambda: self.nodes_of(server), 60, "the nodes of all engines are known")

        wait = "echo on $(hostname); until [ -e $HOME/go-on ]; do sleep 0.2; done"
        small = {"cpus": 0.1, "memory": 0.1}
        jobs = {}
        for infra in ("k8s/left", "k8s/right", "local"):
            jobs[infra] = server.launch({"name": infra.replace("/", "-"), "run": wait, "resources": small | {"infra": infra}})
        for infra, job in jobs.items():
            server.wait_for_status(job, "RUNNING")
            quadtest.wait_until(lambda job=job: "on " in server.ok("logs", job, "--no-follow"), 60, f"{infra} has begun")
        where = {infra: server.job(job)["nodes"] for infra, job in jobs.items()}
        self.assertEqual([where[f"k8s/{one}"][0].rpartition(":")[2] for one in CONTEXTS], ["n1", "n2"])
        self.assertNotIn(where["local"][0].rpartition(":")[2], ("n1", "n2"))
        for context, node in {"left": "n1", "right": "n2"}.items():
            (pod,) = self.pods(context)
            self.assertEqual(pod["spec"]["nodeName"], node)

        # No gang is spread over engines, and who asks for what no engine is hears which there are.
        spread = server.launch({"name": "spread", "num_nodes": 2, "run": "true", "resources": {"cpus": 1.5, "infra": "k8s"}})
        quadtest.wait_until(lambda: "2 nodes" in server.ok("why", spread), 20, "it waits for two nodes of one cluster")
        self.assertEqual(server.job(spread)["status"], "PENDING")
        server.ok("cancel", "-y", spread)
        code, _, err = server.quad("launch", "-d", "-y", "--infra", "k8s/middle", "true")
        self.assertNotEqual(code, 0)
        for name in CONTEXTS:
            self.assertIn(name, err)

        told = {one["engine"]: one["ok"] for one in server.json("check")["engines"]}
        self.assertEqual(told, {"left": True, "right": True, "local": True})

        # A server that was killed finds the jobs of all of them again.
        server.kill()
        server.start()
        for infra, job in jobs.items():
            self.assertEqual(server.wait_for_status(job, "RUNNING")["epoch"], 1, infra)
        for infra, job in jobs.items():
            quadtest.wait_until(lambda job=job: self.goes_on(server, job), 60, f"{infra} hears of it")
            self.assertEqual(server.wait_for_status(job, "SUCCEEDED")["epoch"], 1, infra)
        quadtest.wait_until(lambda: not self.pods("left") and not self.pods("right"), 60, "no pod is left")

    def nodes_of(self, server):
        names = {one["name"] for one in server.json("node", "list")["nodes"]}
        assert len(names) == 3, f"{names}; {server.log_tail()}"
        return names

    def goes_on(self, server, job):
        """`quad exec` reaches a rank as soon as its runner is back. What it does ends the job, maybe before it has ended itself."""
        code, _, err = server.quad("exec", job, "--", "sh", "-c", "touch $HOME/go-on")
        assert code == 0 or server.job(job)["status"] == "SUCCEEDED", f"{err}{server.describe(job)}"
        return True


if __name__ == "__main__":
    unittest.main()
