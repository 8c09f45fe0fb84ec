"""Nodes that lose their power, and nodes that stand still and go on, in each phase of a job's life.

The jobs of one test run beside each other on nodes of their own, each brought to a moment of its life and then hit."""

import time

import quadtest
import witness as evidence

TIMEOUT_SECONDS = 300

# The moments: what holds the first attempt there (see witness_rank.py), how many ranks, and whose node is hit.
MOMENTS = {
    "setup": {"HOLD": "setup", "setup": True},
    "barrier": {"HOLD": "barrier", "setup": True, "ranks": 2},  # rank 0 waits there
    "barrier-late": {"HOLD": "barrier", "setup": True, "ranks": 2, "hit": 1},  # rank 1, for which it waits
    "run": {"HOLD": "run"},  # at a random step
    "gang": {"HOLD": "run", "ranks": 2, "hit": 1},
    "half": {"HOLD": "half", "HOLD_STEP": 10, "STEPS": 16},  # in the middle of writing a checkpoint
}


class NodeFailures(quadtest.TestCase):
    def launch(self, witness, name, moment, random_, **more):
        options = {key: value for key, value in MOMENTS[moment].items() if key != "hit"}
        return witness.launch(name, **({"STEPS": 30, "HOLD_STEP": random_.randint(2, 29)} | options | more))

    def reach(self, witness, name, moment):
        """Waits until the job is there."""
        if moment in ("setup", "barrier-late"):
            witness.wait_for(name, "held", epoch=1)
        elif moment == "barrier":
            witness.wait_for(name, "held", epoch=1)
            witness.wait_for(name, "set_up", epoch=1, rank=0)
        elif moment == "half":
            witness.wait_for(name, "half", epoch=1)
        else:
            witness.wait_for(name, "step", epoch=1, rank=0)

    def node_of(self, server, job, moment):
        return server.job(job)["attempts"][0]["nodes"][MOMENTS[moment].get("hit", 0)]

    def test_a_node_loses_its_power_in_each_phase(self):
        random_ = evidence.seeded(self)
        server = self.server(nodes=18, gpus="H100:1", options=("--cpus", "1", "--memory", "2"))
        witness = evidence.Witness(server)
        jobs = []
        for round_ in range(2):
            for moment in MOMENTS:
                name = f"{moment}-{round_}"
                jobs.append((name, moment, self.launch(witness, name, moment, random_)))
        random_.shuffle(jobs)
        hit = {}
        for name, moment, job in jobs:
            self.reach(witness, name, moment)
            time.sleep(random_.uniform(0, 0.7))
            hit[name] = self.node_of(server, job, moment)
            server.ok("node", "fail", hit[name])
            if random_.random() < 0.5:
                server.ok("node", "return", hit[name])
        for name, moment, job in jobs:
            with self.subTest(name):
                server.wait_for_status(job, "SUCCEEDED")
                witness.expect_sound(name, job)
                view = server.job(job)
                self.assertEqual((view["epoch"], view["attempts"][0]["verdict"]), (2, "hardware"), view)
                self.assertNotIn(hit[name], view["attempts"][1]["nodes"])
                story = server.ok("story", job)
                self.assertIn(f"node {hit[name]} was lost (powered off)", story)
                if moment == "half":
                    self.assertIn("Passed over e1/step-000010.safetensors: ", story)
        evidence.expect_sound_store(server)

    def test_a_node_loses_its_power_while_its_job_is_cancelled(self):
        random_ = evidence.seeded(self)
        server = self.server(nodes=6, gpus="H100:1", options=("--cpus", "1", "--memory", "2"))
        witness = evidence.Witness(server)
        jobs = {}
        for round_ in range(3):
            name = f"cancel-{round_}"
            jobs[name] = witness.launch(name, ranks=2, HOLD="term", STEPS=9999, quad={"stop_grace": "10m"})
        for name, job in jobs.items():
            witness.wait_for(name, "step", rank=0)
            server.ok("cancel", job)
            witness.wait_for(name, "term", rank=0)
            witness.wait_for(name, "term", rank=1)
            time.sleep(random_.uniform(0, 0.5))
            self.assertEqual(server.job(job)["status"], "CANCELLING")
            first, second = server.job(job)["nodes"]
            server.ok("node", "fail", first)
            if name == "cancel-0":
                server.ok("node", "fail", second)
            else:
                witness.say(name, "go")  # the other ends by itself
        for name, job in jobs.items():
            server.wait_for_status(job, "CANCELLED")
            self.assertEqual(server.job(job)["epoch"], 1)
            witness.expect_never_twice(name)
        self.assertEqual(evidence.rank_processes(server), {})
        evidence.expect_sound_store(server)

    def test_a_frozen_node_is_given_up_and_what_wakes_up_on_it_dies_and_does_not_count(self):
        random_ = evidence.seeded(self)
        # As many nodes as it takes for those that stand still not to be more than a quarter.
        server = self.server(nodes=25, gpus="H100:1",
                             options=("--cpus", "1", "--memory", "2", "--node-lost-after", "2"))  # fmt: skip
        witness = evidence.Witness(server)
        jobs = {moment: self.launch(witness, moment, moment, random_, LOCK=0, STEPS=9999) for moment in MOMENTS}
        nodes, zombies = {}, {}
        for moment, job in jobs.items():
            self.reach(witness, moment, moment)
        for moment, job in jobs.items():
            time.sleep(random_.uniform(0, 0.3))
            nodes[moment] = self.node_of(server, job, moment)
            server.ok("node", "freeze", nodes[moment])
        for moment, job in jobs.items():
            server.wait_for_status(job, "RUNNING")
            quadtest.wait_until(lambda job=job: server.job(job)["epoch"] == 2, 60, f"{moment} is given up")
            server.wait_for_status(job, "RUNNING")
            witness.wait_for(moment, "step", epoch=2, rank=0)
            of_old = [pids for key, pids in evidence.rank_processes(server).items() if key[:2] == (job, 1)]
            zombies[moment] = [pid for pids in of_old for pid in pids]
            self.assertTrue(zombies[moment], f"{moment}: nothing stands still")
        thawed = {}
        for moment, job in jobs.items():
            witness.say(moment, "go")  # what had been held would go on
            thawed[moment] = evidence.now()
            server.ok("node", "thaw", nodes[moment])
        for moment, pids in zombies.items():
            quadtest.wait_until(
                lambda pids=pids: not any(quadtest.is_alive(pid) for pid in pids), 5, f"the zombies of {moment} are gone"
            )
        # What they wrote does not count: the next attempt goes on from what the second one wrote.
        for moment, job in jobs.items():
            witness.wait_for(moment, "checkpoint", epoch=2)
            server.ok("node", "fail", server.job(job)["attempts"][1]["nodes"][0])
        for moment, job in jobs.items():
            witness.wait_for(moment, "checkpoint", epoch=3)
            witness.say(moment, "end")
            with self.subTest(moment):
                server.wait_for_status(job, "SUCCEEDED")
                witness.expect_sound(moment, job, zombies=[(1, thawed[moment])])
                view = server.job(job)
                self.assertEqual([one["verdict"] for one in view["attempts"]], ["hardware", "hardware", "success"])
        evidence.expect_sound_store(server)

    def test_a_strict_job_waits_for_the_lease_or_for_the_death_of_what_stands_still(self):
        lease = 8
        server = self.server(nodes=12, gpus="H100:1", options=(
            "--cpus", "1", "--memory", "2", "--node-lost-after", "1", "--strict-lease", str(lease)))  # fmt: skip
        witness = evidence.Witness(server)
        jobs = {name: witness.launch(name, ranks=2, setup=True, STEPS=9999, LOCK=0, quad={"fence": "strict"})
                for name in ("waits", "thawed", "failed")}  # fmt: skip
        frozen, thawed = {}, {}
        for name, job in jobs.items():
            witness.wait_for(name, "step", epoch=1, rank=1)
            frozen[name] = server.job(job)["nodes"][0]
            server.ok("node", "freeze", frozen[name])
        for name, job in jobs.items():
            quadtest.wait_until(lambda job=job: server.job(job)["epoch"] == 2, 60, f"{name} is given up")
        why = server.json("why", jobs["waits"])
        self.assertEqual(why["code"], "waiting_behind_the_fence", why)
        self.assertIn(f"until rank 0 of attempt 1 on {frozen['waits']} is dead for certain or its lease has run out", why["message"])
        server.kill()  # the wait is nothing that a server could forget
        server.start()
        thawed["thawed"] = evidence.now()
        server.ok("node", "thaw", frozen["thawed"])
        server.ok("node", "fail", frozen["failed"])
        for name, job in jobs.items():
            with self.subTest(name):
                began = witness.wait_for(name, "setup", epoch=2)["at"]
                last = witness.records(name, epoch=1)[-1]["at"]
                if name == "waits":
                    # Its lease began at the earliest with the last thing that it did.
                    self.assertGreater((began - last) / 1e9, lease)
                else:
                    attempt = server.job(job)["attempts"][1]
                    self.assertLess((began - last) / 1e9, lease, f"nobody was left to wait for: {attempt}")
                self.assertLess(last, began)
        thawed["waits"] = evidence.now()
        server.ok("node", "thaw", frozen["waits"])
        quadtest.wait_until(lambda: not any(key[1] == 1 for key in evidence.rank_processes(server)), 5,
                            "the zombies are gone")  # fmt: skip
        for name, job in jobs.items():
            server.ok("cancel", job)
            server.wait_for_status(job, "CANCELLED")
            witness.expect_never_twice(name, zombies=[(1, thawed[name])] if name in thawed else [])
        evidence.expect_sound_store(server)
