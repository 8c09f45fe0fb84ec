"""Jobs come back from every kind of failure: at their newest valid checkpoint, never twice at once, nothing lost."""

import os
import re
import signal
import tempfile
import time
from pathlib import Path

import quadtest
import witness as evidence

TIMEOUT_SECONDS = 400

# Counts steps, one file a step in the shape of a safetensors checkpoint whose name carries the step. Each line says
# which attempt wrote it.
COUNTER = """
import json, os, time
home = os.environ["QUAD_CHECKPOINT_DIR"]
resume = os.environ.get("QUAD_RESUME_FROM", "")
step = int(resume.rsplit("-", 1)[1].split(".")[0]) if resume else 0
print(f"epoch {os.environ['QUAD_EPOCH']} begins at step {step}", flush=True)
while step < int(os.environ["STEPS"]):
    time.sleep(0.1)
    step += 1
    print(f"epoch {os.environ['QUAD_EPOCH']} step {step}", flush=True)
    if os.environ["SKYPILOT_NODE_RANK"] == "0" and step % 5 == 0:
        path = f"{home}/step-{step:06d}.safetensors"
        with open(path + ".tmp", "wb") as file:
            file.write((2).to_bytes(8, "little") + b"{}")
        os.replace(path + ".tmp", path)
    with open(os.environ["QUAD_PROGRESS"], "a") as file:
        file.write(json.dumps({"step": step, "total": int(os.environ["STEPS"])}) + "\\n")
"""


class Recovery(quadtest.TestCase):
    def counter(self, server, steps=60, ranks=2):
        folder = Path(tempfile.mkdtemp())
        (folder / "count.py").write_text(COUNTER)
        (folder / "task.yaml").write_text(
            f"name: counter\nnum_nodes: {ranks}\nworkdir: .\nenvs: {{STEPS: '{steps}'}}\n"
            "resources: {accelerators: 'H100:1'}\nrun: exec python3 count.py\n"
        )
        return server.launch("task.yaml", cwd=folder)

    def at_step(self, server, job, step):
        def there():
            view = server.job(job)
            return view if view["progress"] and view["progress"]["step"] >= step else None

        return quadtest.wait_until(there, 60, f"job {job} reaches step {step}")

    def expect_continued(self, server, job, attempts):
        server.wait_for_status(job, "SUCCEEDED", timeout=120)
        view = server.job(job)
        self.assertEqual(view["epoch"], attempts, view)
        log = server.ok("logs", job, "--rank", "0", "--no-follow")
        for before, after in zip(view["attempts"], view["attempts"][1:]):
            # The checkpoint of a multiple of five is written after its line is printed.
            steps = re.findall(rf"epoch {before['epoch']} step (\d+)", log)
            self.assertGreaterEqual(after["resumed_step"], (int(steps[-1]) - 1) // 5 * 5, view)
            self.assertGreaterEqual(after["resumed_step"], before["checkpoint_step"] or 0, view)
        for attempt in view["attempts"]:
            self.assertIn(f"epoch {attempt['epoch']} begins at step {attempt['resumed_step'] or 0}", log)
        self.assertIn("The store is sound", server.ok("admin", "check"))
        return view

    @quadtest.quick
    def test_a_node_that_is_powered_off_is_left_for_another(self):
        server = self.server(nodes=3)
        job = self.counter(server)
        view = self.at_step(server, job, 12)
        lost = view["attempts"][0]["nodes"][1]
        server.ok("node", "fail", lost)
        view = self.expect_continued(server, job, 2)
        self.assertNotIn(lost, view["attempts"][1]["nodes"])
        self.assertEqual(view["attempts"][0]["verdict"], "hardware")
        self.assertIn("powered off", server.ok("story", job))

    def kill_all(self, pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it died with another

    def test_ranks_and_runners_killed_at_random_moments_come_back(self):
        random_ = evidence.seeded(self)
        server = self.server(nodes=9, gpus="H100:1", options=("--cpus", "1", "--memory", "2"))
        witness = evidence.Witness(server)
        jobs = {f"job-{i}": witness.launch(f"job-{i}", ranks=1 + i % 2, STEPS=9999, EVERY=4) for i in range(6)}
        kills = {name: [] for name in jobs}
        for round_ in range(18):
            name = f"job-{round_ % len(jobs)}"
            epoch = len(kills[name]) + 1
            witness.wait_for(name, "checkpoint", epoch=epoch)  # a recovery without one would count against it
            time.sleep(random_.uniform(0, 0.4))
            rank = random_.randrange(1 + (round_ % len(jobs)) % 2)
            what = random_.choice(["process", "runner", "all"])
            kills[name].append(what)
            processes = evidence.rank_processes(server)[jobs[name], epoch, rank]
            chosen = {
                "process": lambda pid: "witness_rank.py" in " ".join(quadtest.command_of(pid)),
                "runner": lambda pid, runner=evidence.runner_of(server, jobs[name], epoch, rank): pid == runner,
                "all": lambda pid: True,
            }[what]
            self.kill_all(filter(chosen, processes))
        for name, job in jobs.items():
            witness.say(name, "end")
            with self.subTest(name, kills=kills[name]):
                server.wait_for_status(job, "SUCCEEDED")
                witness.expect_sound(name, job)
                verdicts = [attempt["verdict"] for attempt in server.job(job)["attempts"]]
                self.assertEqual(verdicts, ["platform"] * len(kills[name]) + ["success"])
        evidence.expect_sound_store(server)

    def test_everything_killed_at_once_comes_back(self):
        random_ = evidence.seeded(self)
        server = self.server(nodes=9, gpus="H100:1", options=("--cpus", "1", "--memory", "2"))
        witness = evidence.Witness(server)
        jobs = {f"job-{i}": witness.launch(f"job-{i}", ranks=1 + i % 2, setup=i % 3 == 0, STEPS=9999, EVERY=4)
                for i in range(6)}  # fmt: skip
        for round_ in range(1, 5):
            for name in jobs:
                witness.wait_for(name, "checkpoint", epoch=round_)
            time.sleep(random_.uniform(0, 0.6))
            pids = [pid for pids in evidence.rank_processes(server).values() for pid in pids]
            random_.shuffle(pids)
            before = random_.randrange(len(pids))
            self.kill_all(pids[:before])
            server.kill()
            self.kill_all(pids[before:])
            time.sleep(random_.choice([0, 0, random_.uniform(0, 1)]))
            server.start()
        for name, job in jobs.items():
            witness.wait_for(name, "checkpoint", epoch=5)
            witness.say(name, "end")
            with self.subTest(name):
                server.wait_for_status(job, "SUCCEEDED")
                witness.expect_sound(name, job)
        evidence.expect_sound_store(server)

    def test_damaged_checkpoints_are_passed_over_and_named(self):
        random_ = evidence.seeded(self)
        server = self.server(nodes=10, gpus="H100:1", options=("--cpus", "1", "--memory", "2"))
        witness = evidence.Witness(server)
        cases = {f"{form}-{damage}": (form, damage) for form in ("safetensors", "torch")
                 for damage in ("cut", "cut-anywhere", "empty", "every")}  # fmt: skip
        jobs = {name: witness.launch(name, HOLD="run", HOLD_STEP=12, STEPS=20, FORMAT=form)
                for name, (form, _) in cases.items()}  # fmt: skip
        damaged = {}
        for name, (form, damage) in cases.items():
            witness.wait_for(name, "held")
            folder = server.data / "hot" / str(jobs[name]) / "e1"
            damaged[name] = sorted(folder.glob("step-*"))[-1 if damage != "every" else -2 :]
            for path in damaged[name]:
                size = path.stat().st_size
                os.truncate(path, {"cut": size - 1, "empty": 0}.get(damage, random_.randrange(size)))
            os.kill(evidence.rank_processes(server, "witness_rank.py")[jobs[name], 1, 0][0], signal.SIGKILL)
        for name, job in jobs.items():
            with self.subTest(name):
                server.wait_for_status(job, "SUCCEEDED")
                story = server.ok("story", job)
                for path in damaged[name]:
                    self.assertIn(f"Passed over e1/{path.name}: ", story)
                left = 0 if cases[name][1] == "every" else 5
                self.assertEqual(server.job(job)["attempts"][1]["resumed_step"] or 0, left, story)
                begin = witness.records(name, "begin", epoch=2)[0]
                self.assertEqual(begin["step"], left)
                witness.expect_never_twice(name)
        evidence.expect_sound_store(server)

    @quadtest.quick
    def test_cancelling_ends_everything_that_a_job_started(self):
        server = self.server(nodes=1)
        folder = Path(tempfile.mkdtemp())
        (folder / "task.yaml").write_text("run: |\n  setsid nohup sleep 4321 >/dev/null 2>&1 &\n  sleep 4321; true\n")
        job = server.launch("task.yaml", cwd=folder)
        quadtest.wait_until(lambda: len(quadtest.processes_of(str(server.data), "4321")) >= 2, 20, "both run")
        server.ok("cancel", job)
        server.wait_for_status(job, "CANCELLED")
        self.assertEqual(quadtest.processes_of(str(server.data), "4321"), [])

    @quadtest.quick
    def test_a_users_own_failure_is_not_repeated_and_its_code_is_passed_on(self):
        server = self.server(nodes=1)
        code, _, err = server.quad("launch", "echo before; exit 7")
        self.assertEqual(code, 7, err)
        view = server.job(1)
        self.assertEqual((view["status"], view["cause"], view["epoch"], view["exit_code"]), ("FAILED", "user", 1, 7))

    def test_a_setup_that_fails_on_one_rank_fails_the_job_and_says_so(self):
        server = self.server(nodes=4)
        folder = Path(tempfile.mkdtemp())
        (folder / "task.yaml").write_text(
            "num_nodes: 4\nsetup: test $SKYPILOT_SETUP_NODE_RANK != 2 || exit 9\nrun: echo never\n"
        )
        job = server.launch("task.yaml", cwd=folder)
        server.wait_for_status(job, "FAILED")
        view = server.job(job)
        self.assertEqual((view["cause"], view["skypilot_status"]), ("setup", "FAILED_SETUP"), view)
        self.assertNotIn("never", server.ok("logs", job, "--no-follow"))
