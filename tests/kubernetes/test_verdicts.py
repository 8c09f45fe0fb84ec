"""Why ranks end that others than Quad end: each has its own verdict and sentence, in the story and for programs."""

import json
import subprocess
import unittest

import kubetest
import quadtest

TIMEOUT_SECONDS = 300

WAIT = "trap 'exit 0' TERM; echo begun; while true; do sleep 0.2; done"

QUOTA = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}

POLICY = [
    {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-banned"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
            "validations": [{
                "expression": "!has(object.metadata.labels) || !('banned' in object.metadata.labels)",
                "message": "this site bans what is banned"}],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-banned"},
        "spec": {"policyName": "no-banned", "validationActions": ["Deny"]},
    },
]  # fmt: skip


def task(name, run=WAIT, **more):
    resources = {"cpus": 0.2, "memory": 0.1, **more.pop("resources", {})}
    return {"name": name, "resources": resources, "run": run, "quad": {"stop_grace": "2s"}, **more}


class Verdicts(kubetest.TestCase):
    nodes = 2
    options = {}
    engine = {"hot_tier": None}
    pod_security = "baseline"

    def setUp(self):
        self.one = self.server()

    def kubectl(self, *words, **options):
        return self.testbed.call("kubectl", *words, **options)

    def apply(self, *objects):
        whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        path = self.testbed.folder / "apply.json"
        path.write_text(whole)
        self.kubectl("apply", "-f", str(path))
        self.addCleanup(self.kubectl, "delete", "-f", str(path), "--wait=false", "--ignore-not-found", check=False)
        return path

    def launch(self, *args, **more):
        return self.one.launch(task(*args, **more))

    def node_of(self, job):
        """Where it runs, once it does."""
        return self.one.wait_for_status(job, "RUNNING", timeout=90)["attempts"][0]["nodes"][0]

    def pod(self, job):
        return self.testbed.get("pods", f"quad.io/job={job}")[0]["metadata"]["name"]

    def expect_recovery(self, job, verdict, words):
        def recovered():
            view = self.one.job(job)
            assert view["epoch"] == 2 and view["status"] == "RUNNING", f"{view['status']}: {view['message']}"
            return view

        view = quadtest.wait_until(recovered, 90, f"job {job} runs again")
        first = view["attempts"][0]
        self.assertEqual(first["verdict"], verdict, first)
        self.assertIn(words, first["reason"])
        self.assertIn(words, self.one.ok("story", job))
        return view

    def expect_ended(self, *jobs):
        for job in jobs:
            self.one.wait_for_status(job, "CANCELLED")

    def test_pods_that_others_end(self):
        # Each begins while the one before it recovers or ends.
        deleted, forced = self.launch("deleted"), self.launch("forced")
        for job in (deleted, forced):
            self.node_of(job)
        self.kubectl("delete", "pod", self.pod(deleted), "--wait=false")
        self.kubectl("delete", "pod", self.pod(forced), "--force", "--grace-period=0")
        drained = self.launch("drained")
        with self.subTest("deleted by hand"):
            self.expect_recovery(deleted, "deleted", "its pod was deleted from outside Quad")
        with self.subTest("force-deleted: nobody knows whether it has ended"):
            self.expect_recovery(forced, "deleted", "its pod was deleted from outside Quad")
        self.one.ok("cancel", deleted, forced, "-y")
        with self.subTest("drained"):
            node = self.node_of(drained)
            self.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=80s", timeout=90)
            self.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 1000})
            preempted = self.launch("preempted", resources={"cpus": 1})
            view = self.expect_recovery(drained, "drained", f"evicted from node {node}: it is being drained")
            self.assertNotEqual(view["attempts"][1]["nodes"], [node])
            self.kubectl("uncordon", node)
            self.one.ok("cancel", drained, "-y")
        with self.subTest("preempted"):
            node = self.node_of(preempted)
            self.expect_ended(deleted, forced, drained)  # they would be preempted too
            cpus = [one["status"]["allocatable"]["cpu"] for one in self.testbed.get("nodes") if one["metadata"]["name"] == node]
            pod = kubetest.pause_pod("urgent", priorityClassName="urgent", nodeSelector={"kubernetes.io/hostname": node})
            pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": f"{int(cpus[0]) * 1000 - 500}m"}}
            self.apply(pod)
            self.expect_recovery(preempted, "preempted", "preempted by kube-scheduler for a pod of higher priority")
            self.kubectl("delete", "pod", "urgent", "--wait=false")
            self.one.ok("cancel", preempted, "-y")
            self.expect_ended(preempted)

    def test_limits_and_refusals(self):
        path = self.apply(*POLICY)  # which takes a while to be in force
        hungry = self.launch("hungry", "tail /dev/zero", config={"kubernetes": {"set_pod_resource_limits": True}})
        with self.subTest("an admission policy: it waits, in its words, and goes on"):
            refused = ["run", "probe", "--image=quad.test/pause:1", "--labels=banned=yes", "--dry-run=server"]

            def in_force():
                done = subprocess.run(
                    [kubetest.PROGRAM, "--dir", self.testbed.folder, "kubectl", *refused], capture_output=True, text=True, check=False
                )
                return "this site bans" in done.stderr

            quadtest.wait_until(in_force, 60, "the policy is in force")
            banned = self.launch("banned", "exit 0", resources={"labels": {"banned": "yes"}})
            quadtest.wait_until(lambda: "this site bans what is banned" in self.one.ok("why", banned), 30, "the policy is named")
            self.kubectl("delete", "-f", str(path))
        with self.subTest("out of memory"):
            view = self.one.wait_for_status(hungry, "FAILED", timeout=60)
            self.assertEqual(view["cause"], "limit", view)
            self.assertRegex(view["message"], r"memory 95\.4 of 95\.4 MiB|killed: memory")
            self.assertIn("memory", self.one.ok("story", hungry))
        with self.subTest("a quota: it waits, says so, and goes on"):
            self.one.wait_for_status(banned, "SUCCEEDED", timeout=60)
            path = self.apply(QUOTA)
            job = self.launch("waiting", "exit 0")
            quadtest.wait_until(lambda: "quota" in self.one.ok("why", job), 30, "the quota is named")
            self.kubectl("delete", "-f", str(path))
            self.one.wait_for_status(job, "SUCCEEDED", timeout=60)
        with self.subTest("what no pod can be is refused before it is one"):
            code, _, err = self.one.quad("launch", "-d", "-y", "--config", "kubernetes.pod_config.spec.restartPolicy=Always", "echo no")
            self.assertNotEqual(code, 0, err)
            self.assertIn("restartPolicy", err)
        self.expect_nothing_left(self.one)


if __name__ == "__main__":
    unittest.main()
