"""Jobs come back from every kind of failure: at their newest valid checkpoint, never twice at once, nothing lost."""

import os
import re
import signal
import tempfile
from pathlib import Path

import quadtest

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

    def test_a_killed_rank_process_is_started_again(self):
        server = self.server(nodes=2)
        job = self.counter(server)
        self.at_step(server, job, 12)
        os.kill(min(server.rank_pids("count.py")), signal.SIGKILL)
        view = self.expect_continued(server, job, 2)
        self.assertEqual(view["attempts"][0]["verdict"], "platform")

    def test_a_killed_runner_takes_its_rank_with_it_and_is_started_again(self):
        server = self.server(nodes=2)
        job = self.counter(server, ranks=1)
        self.at_step(server, job, 12)
        old = server.rank_pids("count.py")
        for pid in quadtest.processes_of(str(server.data), "quad-runner"):
            os.kill(pid, signal.SIGKILL)
        quadtest.wait_until(lambda: not any(quadtest.is_alive(pid) for pid in old), 5, "the rank's processes are gone")
        self.expect_continued(server, job, 2)

    def test_a_killed_server_finds_its_jobs_again(self):
        server = self.server(nodes=2)
        job = self.counter(server, steps=80)
        self.at_step(server, job, 12)
        before = server.rank_pids("count.py")
        for _ in range(5):
            server.kill()
            server.start()
        self.at_step(server, job, 30)
        self.assertEqual(server.rank_pids("count.py"), before)
        self.expect_continued(server, job, 1)
        log = server.ok("logs", job, "--rank", "0", "--no-follow").splitlines()
        self.assertEqual([line for line in log if " step " in line and "begins" not in line],
                         [f"epoch 1 step {step}" for step in range(1, 81)])  # fmt: skip

    def test_everything_killed_at_once_comes_back(self):
        server = self.server(nodes=2)
        job = self.counter(server)
        self.at_step(server, job, 12)
        pids = quadtest.processes_of(str(server.data), "quad-runner")
        server.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        server.start()
        self.expect_continued(server, job, 2)

    def test_a_frozen_node_is_given_up_and_its_zombies_die_when_it_thaws(self):
        server = self.server(nodes=3, options=("--node-lost-after", "3"))
        job = self.counter(server, steps=150)
        view = self.at_step(server, job, 12)
        frozen = view["attempts"][0]["nodes"][0]
        zombies = server.rank_pids("count.py")
        server.ok("node", "freeze", frozen)
        quadtest.wait_until(lambda: server.job(job)["epoch"] == 2 and server.job(job)["status"] == "RUNNING", 60,
                            "the job runs elsewhere")  # fmt: skip
        server.ok("node", "thaw", frozen)
        quadtest.wait_until(lambda: not any(quadtest.is_alive(pid) for pid in zombies), 5, "the zombies are gone")
        self.expect_continued(server, job, 2)

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
