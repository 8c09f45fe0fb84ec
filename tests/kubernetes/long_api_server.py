"""An API server that is away, compacted, or cut off from Quad, and pods that are cut off from it: nothing is restarted, nothing
is lost."""

import re
import time
import unittest

import faulttest
import quadtest

TIMEOUT_SECONDS = 3600
ROWS = 200_000  # of 100 bytes: more than a runner keeps in memory
TALKS = f"""
while [ ! -e $WITNESS/talk ]; do sleep 0.2; done
i=0
while [ $i -lt {ROWS} ]; do i=$((i + 1)); printf 'row %096d\\n' $i; done
"""


class ApiServer(faulttest.TestCase):
    nodes = 2
    options = {"gpus": 12}
    asks_in_vain = {"storageclasses"}  # `quad check`

    def expect_it_is_said(self, server, what="does not see its nodes"):
        quadtest.wait_until(lambda: what in server.ok("events"), 90, f"'{what}' is told", every=0.5)

    def test_an_api_server_that_is_away_while_20_jobs_run(self):
        server = self.server()
        jobs = [self.launch(server, f"job-{i}", tick=2, resources={"accelerators": "H100:1", "cpus": 0.1, "memory": 0.1})
                for i in range(20)]  # fmt: skip
        for job in jobs:
            self.wait_for_attempt(server, job, 1)
        self.testbed.call("apiserver", "stop")
        began = time.monotonic()
        self.expect_it_is_said(server)
        for job in jobs:  # what they print comes to Quad by itself
            line = f"line 1 0 {len(self.ticks(job, 1, 0)) + 1}\n"
            quadtest.wait_until(lambda job=job, line=line: line in server.ok("logs", job, "--no-follow"), 60, f"job {job} goes on")
        waiting = self.launch(server, "waits")
        time.sleep(max(0, 90 - (time.monotonic() - began)))
        self.testbed.call("apiserver", "start")  # returns when it is ready
        back = time.monotonic()
        self.wait_for_health(server, 60)
        healthy = time.monotonic() - back
        self.wait_for_attempt(server, waiting, 1)
        print(f"the API server is ready: all nodes are after {healthy:.1f} s, what waited runs after {time.monotonic() - back:.1f} s")
        print(server.ok("story", waiting))
        self.wait_for_ticks(jobs[-1], 1, 3)
        for job in (*jobs, waiting):
            self.expect_attempts(server, job, 1)
        self.end(server, *jobs, waiting)
        self.expect_invariants(server, *jobs, waiting)

    def test_a_job_cancelled_and_one_submitted_while_the_api_server_is_away(self):
        server = self.server()
        stays, goes = (self.launch(server, name) for name in ("stays", "goes"))
        for job in (stays, goes):
            self.wait_for_attempt(server, job, 1)
        self.testbed.call("apiserver", "stop")
        self.expect_it_is_said(server)
        server.ok("cancel", goes, "-y")
        server.wait_for_status(goes, "CANCELLED")  # its runner is told directly
        self.testbed.call("apiserver", "start")
        self.wait_for_health(server, 60)
        self.end(server, stays)
        self.expect_attempts(server, stays, 1)
        self.expect_invariants(server, stays, goes)

    def test_a_server_restarted_while_the_api_server_is_away(self):
        server = self.server()
        runs, ends = (self.launch(server, name, ranks=2) for name in ("runs", "ends"))
        for job in (runs, ends):
            self.wait_for_attempt(server, job, 1)
        self.testbed.call("apiserver", "stop")
        server.kill()
        self.let_end(ends)
        quadtest.Server.start(server)  # no node can be known yet
        server.wait_for_status(ends, "SUCCEEDED", timeout=90)
        self.wait_for_ticks(runs, 1, 3)
        self.assertEqual(server.job(runs)["status"], "RUNNING")
        self.testbed.call("apiserver", "start")
        self.wait_for_health(server, 60)
        self.end(server, runs)
        self.expect_attempts(server, runs, 1)
        self.expect_invariants(server, runs, ends)

    def test_an_api_server_that_goes_away_while_a_gang_is_half_made(self):
        server = self.server(write_rate=2, write_burst=1)
        with faulttest.PodsSeen(self.testbed) as seen:
            job = self.launch(server, "gang", ranks=8, resources={"cpus": 0.1, "memory": 0.1})
            seen.wait_for(3)
            self.testbed.call("apiserver", "stop")
        self.expect_it_is_said(server)
        time.sleep(130)  # longer than a start may take: the time itself is what is tested
        self.testbed.call("apiserver", "start")
        self.wait_for_attempt(server, job, 1)
        self.wait_for_ticks(job, 1, ranks=range(8))
        self.end(server, job)
        self.expect_attempts(server, job, 1)
        self.expect_invariants(server, job)

    def test_watches_that_are_told_that_they_are_too_old(self):
        """What happened in the time of which no watch can tell is seen all the same, and once."""
        server = self.server()
        stays, deleted, ends = (self.launch(server, name) for name in ("stays", "deleted", "ends"))
        for job in (stays, deleted, ends):
            self.wait_for_attempt(server, job, 1)
        self.wait_for_checkpoint(server, deleted)
        with server.cut_off_api_server():
            (pod,) = self.testbed.get("pods", f"quad.io/job={deleted}")
            self.testbed.call("kubectl", "delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
            self.let_end(ends)
            server.wait_for_status(ends, "SUCCEEDED")
            self.testbed.call("apiserver", "stop")
            self.testbed.call("etcd", "compact")
            self.testbed.call("apiserver", "start")
            self.testbed.call("kubectl", "create", "configmap", "later")  # history goes on beyond what was compacted
            self.addCleanup(self.testbed.call, "kubectl", "delete", "configmap", "later")
        self.wait_for_health(server, 90)
        self.wait_for_attempt(server, deleted, 2)
        self.end(server, stays, deleted)
        self.expect_attempts(server, stays, 1)
        self.expect_attempts(server, deleted, 2)
        self.expect_attempts(server, ends, 1)
        told = server.ok("story", stays)
        self.assertEqual(told.count("Running on"), 1, told)
        self.expect_invariants(server, stays, deleted, ends)

    def test_quad_cut_off_from_the_api_server(self):
        server = self.server()
        jobs = [self.launch(server, f"job-{i}", ranks=2) for i in range(2)]
        for job in jobs:
            self.wait_for_attempt(server, job, 1)
        with server.cut_off_api_server():
            self.expect_it_is_said(server)
            time.sleep(faulttest.seconds(60, 600))  # the time itself is what is tested
            for job in jobs:
                self.wait_for_ticks(job, 1)
        self.wait_for_health(server, 60)
        self.end(server, *jobs)
        for job in jobs:
            self.assertEqual(self.expect_attempts(server, job, 1)["recoveries"], 0)
        self.expect_invariants(server, *jobs)

    def test_a_server_cut_off_while_another_with_the_same_records_takes_over(self):
        server = self.server()
        job = self.launch(server, "kept")
        (node,) = self.wait_for_attempt(server, job, 1)["attempts"][0]["nodes"]
        pods = self.uids_of("kept")
        server.stop()
        copy = self.copy_of(server)
        server.start()
        self.wait_for_health(server, 60)
        copy.start()
        quadtest.wait_until(lambda: "gives no orders: another server" in copy.ok("events"), 60, "the copy waits")
        with server.cut_off_api_server():
            quadtest.wait_until(lambda: "this server gives them" in copy.quad("check")[1], 60, "the copy takes over")
            other = self.launch(copy, "other")
            copy.wait_for_status(other, "RUNNING", timeout=120)
            # The rank of the first server's job has no reason to turn to the copy.
            notes = {one["name"]: one["reason"] for one in copy.json("node", "list")["nodes"]}
            self.assertEqual(notes.pop(node), "its ranks' heartbeats have stopped for 5 s")
            self.assertEqual(set(notes.values()), {""})
        quadtest.wait_until(lambda: "gives no orders: another server" in server.ok("events"), 60, "the first has noticed")
        waits = self.launch(server, "waits")
        copy.ok("cancel", other, "-y")
        copy.wait_for_status(other, "CANCELLED")
        quadtest.wait_until(lambda: not self.uids_of("other"), 120, "its pod is gone")
        self.assertEqual(server.job(waits)["status"], "PENDING")
        self.assertEqual((self.uids_of("waits"), self.uids_of("kept")), (set(), pods))
        self.wait_for_ticks(job, 1)
        copy.stop()
        server.wait_for_status(waits, "RUNNING", timeout=120)
        self.end(server, job, waits)
        self.assertEqual(self.expect_attempts(server, job, 1)["recoveries"], 0)
        self.expect_invariants(server, job, waits)

    def uids_of(self, name):
        return {one["metadata"]["uid"] for one in self.testbed.get("pods", f"quad.io/name={name}")}

    def test_quad_cut_off_from_the_pods(self):
        server = self.server()
        runs, ends = (self.launch(server, name, ranks=2) for name in ("runs", "ends"))
        for job in (runs, ends):
            self.wait_for_attempt(server, job, 1)
        talks = self.launch(server, "talks", run=TALKS)
        self.wait_for_attempt(server, talks, 1)
        with server.cut_off_pods():
            (self.folder(runs).parent / "talk").touch()  # its rows and its result have to wait
            time.sleep(faulttest.seconds(30, 300))  # the time itself is what is tested
            self.let_end(ends)
            time.sleep(faulttest.seconds(30, 300))
            for job in (runs, ends):
                self.assertEqual(server.job(job)["epoch"], 1, server.describe(job))
        for job in (ends, talks):
            server.wait_for_status(job, "SUCCEEDED", timeout=90)
        rows = re.findall(r"row 0*(\d+)$", server.ok("logs", talks, "--no-follow"), re.MULTILINE)
        self.assertEqual(rows, [str(i + 1) for i in range(ROWS)])
        self.wait_for_health(server, 60)
        self.end(server, runs)
        for job in (runs, ends, talks):
            self.assertEqual(self.expect_attempts(server, job, 1)["recoveries"], 0)
        self.expect_invariants(server, runs, ends)

    def test_quad_cut_off_from_both(self):
        server = self.server()
        job = self.launch(server, "job", ranks=2)
        self.wait_for_attempt(server, job, 1)
        with server.cut_off_pods(), server.cut_off_api_server():
            time.sleep(faulttest.seconds(60, 600))  # the time itself is what is tested
            self.assertEqual(server.job(job)["epoch"], 1, server.describe(job))
        self.wait_for_health(server, 60)
        self.end(server, job)
        self.assertEqual(self.expect_attempts(server, job, 1)["recoveries"], 0)
        self.expect_invariants(server, job)


if __name__ == "__main__":
    unittest.main()
