"""kill -9 of the server at more moments of a gang's life: each pod is made once, and nothing is left behind."""

import unittest

import faulttest
import quadtest

TIMEOUT_SECONDS = 1800


class ServerKills(faulttest.TestCase):
    nodes = 3
    options = {"gpus": 4}  # room for an attempt beside one whose end is not certain

    def test_after_the_secret(self):
        self.kill_amid_a_gang(pods=0)

    def test_after_the_first_pod(self):
        self.kill_amid_a_gang(pods=1)

    def test_before_the_last_pod(self):
        self.kill_amid_a_gang(pods=14)

    def test_again_and_again(self):
        server = self.server(write_rate=4, write_burst=1)
        with faulttest.PodsSeen(self.testbed) as seen:
            job = self.launch(server, "gang", ranks=12, tick=1, resources={"cpus": 0.1, "memory": 0.1})
            for pods in (2, 5, 8, 11):
                seen.wait_for(pods)
                server.kill()
                server.start()
            self.wait_for_attempt(server, job, 1, timeout=180)
            self.wait_for_ticks(job, 1, ranks=range(12))
            self.end(server, job)
            self.expect_attempts(server, job, 1)
        self.assertEqual({len(uids) for uids in seen.uids.values()}, {1}, "a pod was made twice")
        self.expect_invariants(server, job)

    def test_while_a_gang_that_was_cancelled_is_half_made(self):
        server = self.server(write_rate=4, write_burst=1)
        with faulttest.PodsSeen(self.testbed) as seen:
            job = self.launch(server, "gang", ranks=12, resources={"cpus": 0.1, "memory": 0.1})
            seen.wait_for(4)
            server.ok("cancel", job, "-y")
            server.kill()
            server.start()
            server.wait_for_status(job, "CANCELLED", timeout=120)
        self.expect_nothing_left(server)

    def test_pods_deleted_while_the_server_is_away(self):
        server = self.server()
        job = self.launch(server, "gang", ranks=2)
        self.wait_for_attempt(server, job, 1)
        self.wait_for_checkpoint(server, job)
        server.kill()
        self.kubectl("delete", "pods", "-l", "quad.io/server", "--grace-period=1")
        server.start()
        view = self.wait_for_attempt(server, job, 2)
        self.assertGreater(view["attempts"][1]["resumed_step"], 0)
        self.wait_for_ticks(job, 2)
        self.end(server, job)
        # No kubelet tells of pods that went unseen, so their end is only certain after five minutes.
        self.expect_invariants(server, job, timeout=420)

    def test_as_soon_as_a_job_has_ended(self):
        server = self.server(write_rate=4, write_burst=1)
        for name in ("one", "two", "three"):
            job = self.launch(server, name, ranks=3, resources={"cpus": 0.1, "memory": 0.1})
            self.wait_for_attempt(server, job, 1)
            self.let_end(job)
            quadtest.wait_until(lambda job=job: server.job(job)["status"] == "SUCCEEDED", 60, "it has ended", every=0)
            server.kill()
            server.start()
        self.expect_nothing_left(server)


if __name__ == "__main__":
    unittest.main()
