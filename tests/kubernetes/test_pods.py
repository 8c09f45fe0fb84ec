"""Jobs as pods of a real Kubernetes: they run, and come back from what happens to pods and nodes."""

import json
import time
import unittest

import kubetest
import quadtest

TIMEOUT_SECONDS = 600

COUNT = """
step=${QUAD_RESUME_STEP:-0}
echo "rank $SKYPILOT_NODE_RANK begins at $step"
while [ $step -lt $STEPS ]; do
  sleep 0.5
  step=$((step + 1))
  echo "step $step"
  if [ "$SKYPILOT_NODE_RANK" = 0 ] && [ $((step % 2)) = 0 ]; then
    printf '\\x02\\0\\0\\0\\0\\0\\0\\0{}' > $QUAD_CHECKPOINT_DIR/tmp
    mv $QUAD_CHECKPOINT_DIR/tmp $QUAD_CHECKPOINT_DIR/step-$step.safetensors
  fi
done
"""


def task(name, ranks=1, run=COUNT, **more):
    return {
        "name": name, "num_nodes": ranks, "envs": {"STEPS": "1000"},
        "resources": {"accelerators": "H100:1", "cpus": 0.5, "memory": 0.5}, "run": run, **more,
    }  # fmt: skip


class Pods(kubetest.TestCase):
    asks_in_vain = {"storageclasses"}  # `quad check`

    def launch(self, server, *args, **more):
        return server.launch(task(*args, **more))

    def wait_for_attempt(self, server, job, epoch, timeout=90):
        def reached():
            view = server.job(job)
            assert (view["epoch"], view["status"]) == (epoch, "RUNNING"), f"{view['status']}: {view['message']}"
            return view

        return quadtest.wait_until(reached, timeout, f"attempt {epoch} of job {job} runs")

    def wait_for_step(self, server, job, step, timeout=60):
        quadtest.wait_until(
            lambda: f"step {step}\n" in server.ok("logs", job, "--no-follow"), timeout, f"job {job} has written step {step}"
        )

    def installers_ended(self, job):
        """Whether the container that brings the runner has been killed in a pod of the job's."""
        pods = self.testbed.get("pods", f"quad.io/job={job},quad.io/epoch=2")
        states = [one["state"] for pod in pods for one in pod["status"]["containerStatuses"] if one["name"] == "quad-install"]
        return any(state.get("terminated", {}).get("exitCode") == 137 for state in states)

    def all_ready(self, server):
        nodes = server.json("node", "list")["nodes"]
        return len(nodes) == self.nodes and all(one["health"] == "ready" for one in nodes)

    def wait_for_kubernetes(self, server):
        """Until its scheduler and kubelets, which look at an API server that was away ever less often, start pods again."""
        nodes = [f"n{number}" for number in range(1, self.nodes + 1)]
        items = [
            kubetest.pause_pod(f"probe-{node}", {"quad.test/probe": "yes"}, nodeSelector={"kubernetes.io/hostname": node})
            for node in nodes
        ]
        manifest = server.folder / "probes.json"
        manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        self.testbed.call("kubectl", "apply", "-f", str(manifest))
        self.addCleanup(self.testbed.call, "kubectl", "delete", "pods", "-l", "quad.test/probe", "--ignore-not-found", "--wait=false")

        def run():
            return {one["status"].get("phase") for one in self.testbed.get("pods", "quad.test/probe")} == {"Running"}

        quadtest.wait_until(run, 120, "Kubernetes starts pods again")
        self.testbed.call("kubectl", "delete", "pods", "-l", "quad.test/probe", "--wait=false")

    def cancel(self, server, job):
        server.ok("cancel", job, "-y")
        server.wait_for_status(job, "CANCELLED")

    def test_a_job_runs_and_leaves_nothing(self):
        server = self.server()
        out = server.ok("launch", "-y", "echo hello; exit 0")
        self.assertIn("hello", out)
        code, out, _ = server.quad("launch", "-y", "exit 7")
        self.assertEqual(code, 7, out)
        self.expect_nothing_left(server)

    def test_ranks_of_a_gang_find_each_other_by_name(self):
        server = self.server()
        run = 'for i in 0 1; do until ping -c1 -W1 "${HOSTNAME%-r*}-r$i.$(hostname -d | cut -d. -f1)"; do sleep 0.2; done; done; echo met'
        self.assertEqual(server.ok("launch", "-y", "--num-nodes", "2", run, timeout=90).count("met"), 2)

    def test_what_happens_to_pods(self):
        server = self.server()
        absent = server.launch(task("absent", resources={"image_id": "docker:quad.test/absent:1", "cpus": 0.5, "memory": 0.5}))
        job = self.launch(server, "deleted", ranks=2)
        self.wait_for_attempt(server, job, 1)
        self.wait_for_step(server, job, 4)
        with self.subTest("deleted by hand"):
            pods = self.testbed.get("pods", f"quad.io/rank=0,quad.io/job={job}")
            began = time.monotonic()
            self.testbed.call("kubectl", "delete", "pod", pods[0]["metadata"]["name"], "--wait=false")
            view = self.wait_for_attempt(server, job, 2)
            print(f"pod deleted by hand: the next attempt ran after {time.monotonic() - began:.1f} s")
            self.assertGreaterEqual(view["attempts"][1]["resumed_step"], 4)
        with self.subTest("whoever brought the runner dies: the rank does not care"):
            node = view["attempts"][1]["nodes"][0]
            self.testbed.call("in", node, "pkill", "-KILL", "-f", "quad-runner keep")
            quadtest.wait_until(lambda: self.installers_ended(job), 30, "the kubelet has seen it")
            self.assertEqual(len(server.wait_for_status(job, "RUNNING")["attempts"]), 2)
        with self.subTest("server killed; the pods are adopted"):
            server.kill()
            server.start()
            self.assertEqual(len(server.wait_for_status(job, "RUNNING")["attempts"]), 2)
        with self.subTest("an image that is not there is said"):
            quadtest.wait_until(lambda: "quad.test/absent:1" in server.ok("why", absent), 60, "the reason is told")
        server.ok("cancel", job, absent, "-y")
        for one in (job, absent):
            server.wait_for_status(one, "CANCELLED")
        self.expect_nothing_left(server)

    def test_a_server_on_a_copied_data_directory_waits_until_the_other_has_stopped(self):
        server = self.server()
        job = self.launch(server, "kept")
        self.wait_for_attempt(server, job, 1)
        (mine,) = [one["metadata"]["uid"] for one in self.testbed.get("pods", "quad.io/name=kept")]
        server.stop()
        copy = self.copy_of(server)
        server.start()
        quadtest.wait_until(lambda: self.all_ready(server), 30, "it gives orders again, with no wait")
        copy.start()
        quadtest.wait_until(lambda: "gives no orders: another server" in copy.ok("events"), 30, "it is said")
        code, told, _ = copy.quad("check")
        self.assertEqual(code, 1, told)
        self.assertRegex(told, r"missing +orders +another server with the same records, on .*; this one waits")
        self.assertRegex(server.quad("check")[1], r"ok +orders +this server gives them")
        waits = self.launch(copy, "waits", resources={"cpus": 0.5, "memory": 0.5})
        told = copy.ok("why", waits)
        self.assertRegex(told, "Nothing new starts on .* now: another server", f"{copy.log_tail()}\n---\n{server.log_tail()}")
        self.assertEqual(copy.job(waits)["status"], "PENDING")
        self.wait_for_attempt(server, job, 1)
        self.assertEqual(self.testbed.get("pods", f"quad.io/job={waits}"), [])
        server.stop()
        self.wait_for_attempt(copy, waits, 1)
        self.cancel(copy, waits)
        pods = self.testbed.get("pods", "quad.io/name=kept")
        self.assertEqual([(one["metadata"]["uid"], one["status"]["phase"]) for one in pods], [(mine, "Running")], "it runs on")
        copy.stop()
        server.start()
        self.wait_for_attempt(server, job, 1)
        self.cancel(server, job)
        self.expect_nothing_left(server)

    def test_a_node_that_is_removed_from_the_cluster_is_not_listed_any_more(self):
        server = self.server()

        def listed():
            return "guest" in {one["name"] for one in server.json("node", "list")["nodes"]}

        manifest = server.folder / "node.json"
        manifest.write_text('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "guest"}}')
        self.testbed.call("kubectl", "create", "-f", str(manifest))
        self.addCleanup(self.testbed.call, "kubectl", "delete", "--ignore-not-found", "node", "guest")
        quadtest.wait_until(listed, 10, "the node is found")
        self.testbed.call("kubectl", "delete", "node", "guest")
        quadtest.wait_until(lambda: not listed(), 10, "it is gone")
        self.assertIn("guest is no longer in the cluster.", server.ok("events"))

    def test_a_power_cut_and_an_absent_api_server(self):
        server = self.server()
        job = self.launch(server, "cut", ranks=2)
        self.wait_for_step(server, job, 4)
        with self.subTest("API server away: nothing is restarted"):
            stopped = time.monotonic()
            self.testbed.call("apiserver", "stop")
            quadtest.wait_until(
                lambda: "does not see its nodes" in server.ok("events"), 60, "it is said"
            )
            # Longer than node_lost_after: the time itself is what is tested.
            time.sleep(max(0, stopped + 30 - time.monotonic()))
            self.testbed.call("apiserver", "start")
            quadtest.wait_until(lambda: self.all_ready(server), 60, "all is well again")
            view = server.wait_for_status(job, "RUNNING")
            self.assertEqual(len(view["attempts"]), 1, view)
        self.wait_for_kubernetes(server)
        lost = view["attempts"][0]["nodes"][0]
        began = time.monotonic()
        self.testbed.call("node", "off", lost)
        view = self.wait_for_attempt(server, job, 2)
        print(f"node powered off: the next attempt ran after {time.monotonic() - began:.1f} s")
        self.assertNotIn(lost, view["attempts"][1]["nodes"])
        self.assertGreaterEqual(view["attempts"][1]["resumed_step"], 4)
        self.testbed.call("node", "on", lost)
        self.cancel(server, job)
        quadtest.wait_until(lambda: self.all_ready(server), 90, "the node is back")
        self.expect_nothing_left(server, 120)


if __name__ == "__main__":
    unittest.main()
