"""A runner that stands still for a minute (SIGSTOP) and goes on: its process exists, so nothing is started again, and
nothing is lost."""

import os
import signal
import time

import quadtest
import witness as evidence

TIMEOUT_SECONDS = 200
STANDS_STILL = 60


class StoppedRunner(quadtest.TestCase):
    def test_runners_that_stand_still_for_a_minute_lose_nothing(self):
        server = self.server(nodes=8, gpus="H100:1", options=("--cpus", "1", "--memory", "2"))
        witness = evidence.Witness(server)
        jobs = {
            "setup": witness.launch("setup", setup=True, HOLD="setup"),
            "barrier": witness.launch("barrier", ranks=2, setup=True, HOLD="barrier"),
            "run": witness.launch("run", ranks=2, STEPS=9999, EVERY=20),
            "ends": witness.launch("ends", STEPS=60),  # comes to its end while its runner stands still
        }
        witness.wait_for("setup", "held")
        witness.wait_for("barrier", "held")
        witness.wait_for("barrier", "set_up", rank=0)
        witness.wait_for("run", "step", rank=1)
        witness.wait_for("ends", "step")
        before = evidence.rank_processes(server, "witness_rank.py", "run")
        stopped = {name: evidence.runner_of(server, job, 1, 0) for name, job in jobs.items()}
        for pid in stopped.values():
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()

        def are_suspect():
            return {node["name"] for node in server.json("node", "list")["nodes"] if node["health"] == "suspect"}

        quadtest.wait_until(lambda: len(are_suspect()) == 4, 30, "the silence is seen")
        witness.wait_for("ends", "end")  # its output goes into the pipe
        # Ranks are not held up by it, and a server that starts meanwhile starts nothing again either.
        server.kill()
        server.start()
        self.assertGreater(len(witness.records("run", "step", rank=0)), 20)
        time.sleep(max(0, began + STANDS_STILL - time.monotonic()))
        for name, job in jobs.items():
            self.assertEqual(server.job(job)["epoch"], 1, name)
        for pid in stopped.values():
            os.kill(pid, signal.SIGCONT)
        quadtest.wait_until(lambda: not are_suspect(), 30, "the nodes are themselves again")
        for name in ("setup", "barrier"):
            witness.say(name, "go")
        step = witness.records("run", "step", rank=0)[-1]["step"]
        witness.wait_for("run", "step", rank=0, step=step + 20)
        after = evidence.rank_processes(server, "witness_rank.py", "run")
        for key, pids in before.items():
            if key[0] == jobs["run"]:
                self.assertEqual(after[key], pids, "something was started again")
        self.assertEqual(evidence.runner_of(server, jobs["run"], 1, 0), stopped["run"])
        for name in ("setup", "barrier", "ends"):
            server.wait_for_status(jobs[name], "SUCCEEDED")
        server.ok("cancel", jobs["run"])
        server.wait_for_status(jobs["run"], "CANCELLED")
        for name, job in jobs.items():
            view = server.job(job)
            self.assertEqual((view["epoch"], view["recoveries"]), (1, 0), view)
            witness.expect_never_twice(name)
            witness.expect_logs(name, job, view)
            self.assertNotIn("lost", server.ok("story", job))
        evidence.expect_sound_store(server)
