"""A cluster on a real Kubernetes: tasks in the pods that are kept for it, which comes back from a node that dies."""

import unittest

import kubetest
import quadtest

TIMEOUT_SECONDS = 600

RESOURCES = {"accelerators": "H100:1", "cpus": 1, "memory": 0.5}  # room for two tasks


class Clusters(kubetest.TestCase):
    nodes = 3

    def wait_for_logs(self, server, job, text, timeout=120):
        def written():
            assert text in server.ok("logs", job, "--no-follow"), server.describe(job)
            return True

        quadtest.wait_until(written, timeout, f"job {job} has written {text!r}")

    def pods(self, server, name):
        job = server.json("status", name)["clusters"][0]["job"]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"]
                for pod in self.testbed.get("pods", f"quad.io/job={job}")
                if pod["status"]["phase"] == "Running"}  # fmt: skip

    def test_tasks_share_pods_and_come_back(self):
        server = self.server()
        # Made by launch, in pods that stay; exec finds what setup left, and starts in no new pod.
        job = server.launch(
            {"num_nodes": 2, "resources": RESOURCES, "setup": "echo $HOSTNAME > ~/made", "run": "echo rank $QUAD_RANK: $(cat ~/made)"},
            "-c", "dev",
        )  # fmt: skip
        server.wait_for_status(job, "SUCCEEDED", timeout=120)
        quadtest.wait_until(lambda: len(self.pods(server, "dev")) == 2, 60, "the kubelets say so too")
        pods = self.pods(server, "dev")
        out = server.ok("exec", "dev", "--num-nodes", "2", "echo rank $QUAD_RANK: $(cat ~/made) gpus=$CUDA_VISIBLE_DEVICES")
        self.assertEqual(out.count("gpus="), 2, out)
        self.assertEqual(self.pods(server, "dev"), pods)
        code, out, err = server.quad("exec", "dev", "exit 7")
        self.assertEqual(code, 7, out + err)

        long = server.json("exec", "dev", "-d", "--num-nodes", "2", "--gpus", "H100:1",
                           "echo attempt $QUAD_EPOCH rank $QUAD_RANK; sleep 3600")["job"]  # fmt: skip
        for rank in (0, 1):
            self.wait_for_logs(server, long, f"attempt 1 rank {rank}")
        with self.subTest("server killed: cluster and task are adopted"):
            server.kill()
            server.start()
            self.assertIn("here", server.ok("exec", "dev", "echo here"))
            self.assertEqual(server.job(long)["epoch"], 1)
            self.assertEqual(self.pods(server, "dev"), pods)
        with self.subTest("a node dies: the cluster comes back, and the task onto it"):
            lost = server.json("status", "dev")["clusters"][0]["nodes"][1]
            self.testbed.call("node", "off", lost)
            for rank in (0, 1):
                self.wait_for_logs(server, long, f"attempt 2 rank {rank}", timeout=180)
            now = server.json("status", "dev")["clusters"][0]
            self.assertEqual((now["status"], now["recoveries"]), ("UP", 1), now)
            self.assertNotIn(lost, now["nodes"])
            self.testbed.call("node", "on", lost)
        server.ok("down", "dev")
        server.wait_for_status(long, "CANCELLED")
        quadtest.wait_until(lambda: server.quad("status", "dev")[0] == 4, 120, "the cluster is gone")
        self.expect_nothing_left(server, timeout=180)


if __name__ == "__main__":
    unittest.main()
