"""What a cluster refuses, what an administrator does, and a server killed in the middle of a gang. Those that take longer are
in long_*.py."""

import base64
import json
import subprocess
import sys
import time
import unittest

import faulttest
import kubetest
import quadtest
import webhook

TIMEOUT_SECONDS = 400
WEBHOOK_PORT = 8444
POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-ranks}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  validations: [{expression: "false", message: "no pods on Fridays"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-ranks}
spec: {policyName: no-ranks, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}}
"""


class Faults(faulttest.TestCase):
    nodes = 3
    options = {"gpus": 8}

    def expect_why(self, server, job, *words):
        """Told, soon after the submission, and plainly."""
        began = time.monotonic()

        def told():
            why = server.ok("why", job)
            assert all(word in why for word in words), why
            return why

        why = quadtest.wait_until(told, 30, "quad why tells the reason", every=0.1)
        print(f"{time.monotonic() - began:.1f} s after the submission: {why}")

    def expect_it_starts(self, server, job):
        view = self.wait_for_attempt(server, job, 1)
        self.wait_for_ticks(job, 1)
        self.assertEqual(view["recoveries"], 0, view)
        self.end(server, job)
        self.expect_invariants(server, job)

    def test_a_quota_is_told_and_waited_for(self):
        server = self.server()
        self.addCleanup(self.kubectl, "delete", "quota", "few", "--ignore-not-found")
        self.kubectl("create", "quota", "few", "--hard=pods=1")
        job = self.launch(server, "gang", ranks=3)
        self.expect_why(server, job, "quota", "few", "pods")
        self.kubectl("delete", "quota", "few")
        self.expect_it_starts(server, job)

    def test_a_refusal_of_an_admission_policy_is_told_and_waited_for(self):
        server = self.server()
        file = self.testbed.folder / "policy.yaml"
        file.write_text(POLICY)
        self.addCleanup(self.kubectl, "delete", "-f", str(file), "--ignore-not-found")
        self.kubectl("apply", "-f", str(file))

        def in_force():
            probe = ["run", "probe", "--image=quad.test/pause:1", "--dry-run=server"]
            return "no pods on Fridays" in self.refusal(*probe)

        quadtest.wait_until(in_force, 60, "the policy is in force")
        job = self.launch(server, "refused")
        self.expect_why(server, job, "no-ranks", "no pods on Fridays")
        self.kubectl("delete", "-f", str(file))
        self.expect_it_starts(server, job)

    def test_a_refusal_of_an_admission_webhook_and_one_that_is_away_are_told_and_waited_for(self):
        server = self.server()
        command = ["exec", sys.executable, webhook.__file__, kubetest.ADDRESS, str(WEBHOOK_PORT), "server.pem", "server.key"]
        process = subprocess.Popen(
            [kubetest.PROGRAM, "--dir", self.testbed.folder, *command], stdout=subprocess.PIPE, text=True, cwd=server.folder
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "ready\n")
        hook = {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "images"},
            "webhooks": [{
                "name": "images.quad.test", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 5,
                "clientConfig": {
                    "url": f"https://{kubetest.ADDRESS}:{WEBHOOK_PORT}/",
                    "caBundle": base64.b64encode((server.folder / "server.pem").read_bytes()).decode(),
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "objectSelector": {"matchExpressions": [{"key": "quad.test/hooked", "operator": "In", "values": ["yes"]}]},
            }],
        }  # fmt: skip
        file = self.testbed.folder / "webhook.json"
        file.write_text(json.dumps(hook))
        self.addCleanup(self.kubectl, "delete", "-f", str(file), "--ignore-not-found")
        self.kubectl("apply", "-f", str(file))
        probe = ["run", "probe", "--image=quad.test/pause:1", "--labels=quad.test/hooked=yes", "--dry-run=server"]
        quadtest.wait_until(lambda: webhook.REASON in self.refusal(*probe), 60, "the webhook is in force")
        hooked = {"config": {"kubernetes": {"custom_metadata": {"labels": {"quad.test/hooked": "yes"}}}}}
        job = self.launch(server, "refused", **hooked)
        self.expect_why(server, job, "images.quad.test", webhook.REASON)
        process.kill()
        process.wait()
        self.expect_why(server, job, "images.quad.test does not answer")
        self.kubectl("delete", "-f", str(file))
        self.expect_it_starts(server, job)

    def test_a_drained_node_is_left(self):
        server = self.server()
        job = self.launch(server, "gang", ranks=2)
        nodes = self.wait_for_attempt(server, job, 1)["attempts"][0]["nodes"]
        self.wait_for_checkpoint(server, job)
        with self.subTest("no rank is evicted from a node that is open"):
            (pod,) = self.testbed.get("pods", f"quad.io/job={job},quad.io/rank=1")
            with self.assertRaises(kubetest.api.ApiError) as refused:
                self.evict(pod)
            self.assertEqual(refused.exception.status, 429)
        self.addCleanup(self.kubectl, "uncordon", nodes[1])
        drain = ["kubectl", "drain", nodes[1], "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"]
        print(self.testbed.call(*drain, timeout=150))
        view = self.wait_for_attempt(server, job, 2)
        self.assertNotIn(nodes[1], view["attempts"][1]["nodes"])
        self.assertGreater(view["attempts"][1]["resumed_step"], 0)
        self.wait_for_ticks(job, 2)
        self.kubectl("uncordon", nodes[1])
        self.end(server, job)
        self.expect_invariants(server, job)

    def test_a_server_killed_while_a_gang_is_half_made(self):
        self.kill_amid_a_gang(pods=7)

    def evict(self, pod):
        about = pod["metadata"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": about["name"], "namespace": about["namespace"]}}
        self.testbed.api()("POST", f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}/eviction", body)


if __name__ == "__main__":
    unittest.main()
