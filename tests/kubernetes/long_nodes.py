"""Nodes that fail, seem to, and come back: one try runs at a time, from the newest valid checkpoint, and nothing is lost."""

import json
import time
import unittest

import faulttest
import quadtest

TIMEOUT_SECONDS = 3600
SHUT_DOWN = "node.cloudprovider.kubernetes.io/shutdown"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
ZOMBIE_SECONDS = 15  # in which a rank that was given up dies once its node goes on: a second, and a busy machine's delays


class Nodes(faulttest.TestCase):
    nodes = 3
    options = {"gpus": 4}

    def launch_on_two_nodes(self, server, name="job", ranks=2, **more):
        """The job, and the node of its last rank."""
        resources = {"accelerators": "H100:4", "cpus": 0.3, "memory": 0.3}
        job = self.launch(server, name, ranks=ranks, resources=resources, **more)
        view = self.wait_for_attempt(server, job, 1)
        return job, view["attempts"][0]["nodes"][-1]

    def expect_recovered_without(self, server, job, node, epoch=2):
        view = self.wait_for_attempt(server, job, epoch)
        self.assertNotIn(node, view["attempts"][-1]["nodes"])
        return view

    def all_well(self, server):
        self.wait_for_health(server, 120)

    def test_a_kubelet_that_is_away_for_a_minute(self):
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        self.testbed.call("kubelet", "stop", node)
        self.addCleanup(self.testbed.call, "kubelet", "start", node, check=False)
        self.wait_for_health(server, 60, **{node: "suspect"})
        time.sleep(60)  # the time itself is what is tested
        self.wait_for_ticks(job, 1, ranks=range(2))
        self.testbed.call("kubelet", "start", node)
        self.all_well(server)
        self.wait_for_ticks(job, 1, ranks=range(2))
        self.end(server, job)
        self.assertEqual(self.expect_attempts(server, job, 1)["recoveries"], 0)
        self.expect_invariants(server, job)

    def test_a_job_that_ends_while_its_kubelet_is_away(self):
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        self.testbed.call("kubelet", "stop", node)
        self.addCleanup(self.testbed.call, "kubelet", "start", node, check=False)
        self.end(server, job)
        self.testbed.call("kubelet", "start", node)
        self.expect_attempts(server, job, 1)
        self.expect_invariants(server, job)

    def lose_and_return(self, away, back):
        """Of a node with a rank: it is declared lost, and comes back with the old rank still in memory."""
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        step = self.wait_for_checkpoint(server, job)
        self.testbed.call("node", away, node)
        self.addCleanup(self.testbed.call, "node", back, node, check=False)
        view = self.expect_recovered_without(server, job, node)
        self.assertGreaterEqual(view["attempts"][1]["resumed_step"], step)
        self.assertEqual(self.health(server)[node], "lost")
        self.wait_for_ticks(job, 2, 3)
        self.testbed.call("node", back, node)
        end_by = time.time() + ZOMBIE_SECONDS
        self.all_well(server)

        def old_pod_gone():
            left = [one["metadata"]["name"] for one in self.testbed.get("pods", f"quad.io/job={job},quad.io/epoch=1")]
            assert not left, left
            return True

        quadtest.wait_until(old_pod_gone, 90, "the old ranks' pods are gone", every=0.5)
        self.expect_attempts(server, job, 2)
        self.wait_for_ticks(job, 2, 3)
        self.end(server, job)
        self.expect_invariants(server, job, zombies_end_by=end_by)

    def test_a_node_that_stands_still_and_goes_on(self):
        self.lose_and_return("freeze", "thaw")

    def test_a_node_that_is_cut_off_and_joins_again(self):
        self.lose_and_return("cut", "join")

    def test_a_pod_deleted_by_force_on_a_node_that_is_cut_off(self):
        """Nobody has seen its rank end, so the next attempt waits behind the fence; the node's return makes it certain."""
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        self.wait_for_checkpoint(server, job)
        self.testbed.call("node", "cut", node)
        self.addCleanup(self.testbed.call, "node", "join", node, check=False)
        self.testbed.call("kubectl", "delete", "pod", "-l", f"quad.io/job={job},quad.io/rank=1", "--force", "--grace-period=0")
        self.expect_recovered_without(server, job, node)
        self.wait_for_ticks(job, 2, 2)
        self.testbed.call("node", "join", node)
        end_by = time.time() + ZOMBIE_SECONDS
        self.all_well(server)
        self.end(server, job)
        self.expect_invariants(server, job, zombies_end_by=end_by, timeout=180)

    def test_a_node_that_is_cut_off_and_then_removed_from_the_cluster(self):
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        self.wait_for_checkpoint(server, job)
        self.testbed.call("node", "cut", node)
        self.addCleanup(self.testbed.call, "node", "join", node, check=False)
        self.testbed.call("kubectl", "delete", "node", node)
        began = time.monotonic()
        self.expect_recovered_without(server, job, node)
        print(f"a node removed from the cluster: the next attempt ran after {time.monotonic() - began:.1f} s")
        self.end(server, job)
        self.testbed.call("node", "join", node)
        end_by = time.time() + ZOMBIE_SECONDS
        # Its kubelet makes its node anew only when it starts.
        self.testbed.call("kubelet", "stop", node)
        self.testbed.call("kubelet", "start", node)
        self.all_well(server)
        self.expect_invariants(server, job, zombies_end_by=end_by, timeout=180)

    def test_a_power_cut_during_the_writing_of_a_checkpoint(self):
        server = self.server()
        job, node = self.launch_on_two_nodes(server, ranks=1, envs={"HOLD_HALF": "12"})
        quadtest.wait_until((self.folder(job) / "held").exists, 60, "the checkpoint of step 12 is half written")
        self.testbed.call("node", "off", node)
        self.addCleanup(self.testbed.call, "node", "on", node, check=False)
        began = time.monotonic()
        view = self.expect_recovered_without(server, job, node)
        print(f"a power cut: the next attempt ran after {time.monotonic() - began:.1f} s")
        self.assertEqual(view["attempts"][1]["resumed_step"], 8)
        story = server.ok("story", job)
        self.assertIn("step 8", story)
        self.assertIn("step-12.safetensors", story)
        self.testbed.call("node", "on", node)
        self.all_well(server)
        self.end(server, job)
        self.expect_attempts(server, job, 2)
        self.expect_invariants(server, job)

    def test_a_power_cut_of_a_node_that_does_not_come_back_before_its_job_ends(self):
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        self.wait_for_checkpoint(server, job)
        self.testbed.call("node", "off", node)
        self.addCleanup(self.testbed.call, "node", "on", node, check=False)
        self.expect_recovered_without(server, job, node)
        self.end(server, job)
        self.testbed.call("node", "on", node)
        self.all_well(server)
        self.expect_invariants(server, job)

    def test_a_node_that_its_provider_says_is_dead(self):
        """Nobody waits for it, and the cluster is told to let go of it, by the one taint that the server may write."""
        server = self.server(out_of_service_taint=True)
        job, node = self.launch_on_two_nodes(server)
        self.wait_for_checkpoint(server, job)

        def marks():
            (found,) = [one for one in self.testbed.get("nodes") if one["metadata"]["name"] == node]
            return {one["key"]: one.get("value") for one in found["spec"].get("taints", [])}

        self.testbed.call("node", "off", node)
        self.addCleanup(self.testbed.call, "node", "on", node, check=False)
        self.addCleanup(self.testbed.call, "kubectl", "taint", "node", node, f"{SHUT_DOWN}-", check=False)
        self.testbed.call("kubectl", "taint", "node", node, f"{SHUT_DOWN}:NoSchedule")
        self.expect_recovered_without(server, job, node)
        self.assertIn("its provider says that it is shut down", server.ok("story", job))
        quadtest.wait_until(lambda: marks().get(OUT_OF_SERVICE) == "quad", 60, "the node is tainted", every=0.5)
        gone = ("pods", f"quad.io/job={job},quad.io/epoch=1")
        quadtest.wait_until(lambda: not self.testbed.get(*gone), 90, "the cluster has let go of the dead node's pod", every=0.5)
        self.testbed.call("node", "on", node)
        self.testbed.call("kubectl", "taint", "node", node, f"{SHUT_DOWN}-")
        self.all_well(server)
        quadtest.wait_until(lambda: OUT_OF_SERVICE not in marks(), 60, "the taint is taken off again", every=0.5)
        self.end(server, job)
        self.expect_attempts(server, job, 2)
        self.expect_invariants(server, job)

    def test_a_node_that_dies_while_the_api_server_is_away(self):
        server = self.server()
        job, node = self.launch_on_two_nodes(server)
        self.wait_for_checkpoint(server, job)
        self.testbed.call("apiserver", "stop")
        self.addCleanup(self.testbed.call, "apiserver", "start", check=False)
        quadtest.wait_until(lambda: "does not see its nodes" in server.ok("events"), 60, "it is told", every=0.5)
        self.testbed.call("node", "off", node)
        self.addCleanup(self.testbed.call, "node", "on", node, check=False)
        time.sleep(30)  # longer than node_lost_after: the time itself is what is tested
        self.assertEqual(server.job(job)["epoch"], 1)
        self.testbed.call("apiserver", "start")
        self.expect_recovered_without(server, job, node)
        self.testbed.call("node", "on", node)
        self.all_well(server)
        self.end(server, job)
        self.expect_attempts(server, job, 2)
        self.expect_invariants(server, job)

    def breaker(self, server):
        return json.loads(server.ok("node", "list", "-o", "json"))["breaker"]

    def test_two_of_three_nodes_at_once(self):
        """Nobody can tell who is cut off, so nothing is given up; with power back, the jobs go on from their checkpoints."""
        server = self.server()
        job, _ = self.launch_on_two_nodes(server)
        waits = self.launch(server, "waits", ranks=3, resources={"accelerators": "H100:4", "cpus": 0.3, "memory": 0.3})
        nodes = server.job(job)["attempts"][0]["nodes"]
        self.wait_for_checkpoint(server, job)
        for node in nodes:
            self.testbed.call("node", "off", node)
            self.addCleanup(self.testbed.call, "node", "on", node, check=False)
        quadtest.wait_until(lambda: self.breaker(server), 60, "the breaker opens", every=0.2)
        self.assertIn("2 of 3 nodes", server.ok("status"))
        self.assertIn("2 of 3 nodes", server.ok("why", waits))
        time.sleep(faulttest.seconds(100, 600))  # far beyond node_lost_after: the time itself is what is tested
        self.assertTrue(self.breaker(server), "it closed although nobody is back")
        self.assertEqual(server.job(job)["epoch"], 1, server.describe(job))
        for node in nodes:
            self.testbed.call("node", "on", node)
        self.all_well(server)
        self.assertFalse(self.breaker(server))
        self.wait_for_attempt(server, job, 2)
        self.end(server, job)
        self.wait_for_attempt(server, waits, 1)
        self.end(server, waits)
        self.expect_attempts(server, job, 2)
        self.expect_invariants(server, job, waits)

    def test_two_of_three_nodes_cut_off_at_once_and_joined_again(self):
        server = self.server()
        job, _ = self.launch_on_two_nodes(server)
        nodes = server.job(job)["attempts"][0]["nodes"]
        for node in nodes:
            self.testbed.call("node", "cut", node)
            self.addCleanup(self.testbed.call, "node", "join", node, check=False)
        quadtest.wait_until(lambda: self.breaker(server), 60, "the breaker opens", every=0.2)
        time.sleep(30)  # beyond node_lost_after: the time itself is what is tested
        for node in nodes:
            self.testbed.call("node", "join", node)
        self.all_well(server)
        self.wait_for_ticks(job, 1, 3, ranks=range(2))
        self.end(server, job)
        self.assertEqual(self.expect_attempts(server, job, 1)["recoveries"], 0)
        self.expect_invariants(server, job)


if __name__ == "__main__":
    unittest.main()
