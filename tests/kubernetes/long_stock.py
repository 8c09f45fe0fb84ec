"""How soon a job runs its user's code again, with Kubernetes' own timing: leases renewed each ten seconds, a grace of fifty."""

import os
import statistics
import time
import unittest

import faulttest
import quadtest

TIMEOUT_SECONDS = 1800
ROUNDS = int(os.environ.get("ROUNDS", 3))


class StockTiming(faulttest.TestCase):
    nodes = 3
    options = {"gpus": 4, "timing": "stock"}

    def rounds(self, what, fault, mend):
        """The seconds from each fault to the first step of the attempt that follows."""
        server = self.server()
        resources = {"accelerators": "H100:4", "cpus": 0.3, "memory": 0.3}
        job = self.launch(server, "job", ranks=2, tick=0.1, resources=resources)
        took = []
        for epoch in range(1, ROUNDS + 1):
            view = self.wait_for_attempt(server, job, epoch, timeout=240)
            self.wait_for_checkpoint(server, job, epoch)
            node = view["attempts"][-1]["nodes"][-1]
            began = time.time()
            fault(job, node)
            first = quadtest.wait_until(lambda epoch=epoch: self.ticks(job, epoch + 1, 0)[:1], 240, "the next attempt does a step")
            took.append(first[0][0] - began)
            mend(node)
            self.wait_for_health(server, 120)
        print(f"{what}: user code again after {', '.join(f'{one:.1f}' for one in took)} s; p50 {statistics.median(took):.1f} s")
        self.end(server, job)
        self.expect_attempts(server, job, ROUNDS + 1)
        self.expect_invariants(server, job)

    def test_a_power_cut(self):
        self.rounds(
            "node powered off", lambda _, node: self.testbed.call("node", "off", node), lambda node: self.testbed.call("node", "on", node)
        )

    def test_a_pod_deleted(self):
        def delete(job, _):
            (pod,) = self.testbed.get("pods", f"quad.io/job={job},quad.io/rank=1", fields="status.phase=Running")
            self.testbed.call("kubectl", "delete", "pod", pod["metadata"]["name"], "--wait=false")

        self.rounds("pod deleted", delete, lambda _: None)


if __name__ == "__main__":
    unittest.main()
