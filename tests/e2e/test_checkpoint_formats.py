"""Real checkpoint files, cut off where a crash would cut them: each is passed over for the one before it."""

import os
import signal
import tempfile
from pathlib import Path

import quadtest

TIMEOUT_SECONDS = 300

# Writes two whole checkpoints, then a third that is cut off at CUT (a fraction of its bytes), and waits for its death.
# The second attempt prints what it was given.
WRITER = """
import json, os, sys, time
folder, resume = os.environ["QUAD_CHECKPOINT_DIR"], os.environ.get("QUAD_RESUME_FROM", "")
form, cut = os.environ["FORM"], float(os.environ["CUT"])
if resume:
    print("resumed from", os.path.basename(resume), flush=True)
    sys.exit(0)

def torch_file(step):
    import torch
    model = torch.nn.Linear(64, 64)
    def write(path):
        torch.save({"model": model.state_dict(), "step": step}, path)
    return f"step-{step:06d}.pt", write

def safetensors(step):
    def write(path):
        body = bytes(4 * 4096)
        header = json.dumps({"w": {"dtype": "F32", "shape": [4096], "data_offsets": [0, len(body)]}}).encode()
        with open(path, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + body)
    return f"model-{step:06d}.safetensors", write

def marked(step):
    def write(path):
        os.makedirs(path)
        for name in ("weights", "optimizer"):
            with open(f"{path}/{name}", "wb") as file:
                file.write(os.urandom(1000))
        with open(f"{path}/DONE", "w") as file:
            file.write("done")
    return f"save-{step}", write

def trainer(step):
    import torch
    def write(path):
        os.makedirs(path)
        torch.save(torch.nn.Linear(8, 8).state_dict(), f"{path}/pytorch_model.bin")
        torch.save({"state": {}}, f"{path}/optimizer.pt")
        torch.save({"last": 1}, f"{path}/scheduler.pt")
        torch.save({"cpu": torch.get_rng_state()}, f"{path}/rng_state.pth")
        with open(f"{path}/trainer_state.json", "w") as file:
            json.dump({"global_step": step, "epoch": 1.0}, file)
    return f"checkpoint-{step}", write

make = {"torch": torch_file, "safetensors": safetensors, "marked": marked, "trainer": trainer}[form]
for step in (100, 200, 300):
    name, write = make(step)
    path = os.path.join(folder, name)
    write(path)
    if step == 300:
        last = {"marked": path + "/DONE", "trainer": path + "/pytorch_model.bin"}.get(form, path)
        if form == "marked":
            os.unlink(last)
        else:
            os.truncate(last, int(os.path.getsize(last) * cut))
print("written", flush=True)
open(os.environ["QUAD_PROGRESS"], "a").write(json.dumps({"step": 300}) + "\\n")
time.sleep(600)
"""

CASES = [
    ("torch", 0.0), ("torch", 0.3), ("torch", 0.999), ("safetensors", 0.0), ("safetensors", 0.5),
    ("safetensors", 0.9999), ("trainer", 0.5), ("marked", 0),
]  # fmt: skip


# One checkpoint that is deleted in time, and two that are written at the very end.
ROTATING = """
import json, os, time
os.chdir(os.environ["QUAD_CHECKPOINT_DIR"])

def save(step):
    body = bytes(4 * 4096)
    header = json.dumps({"w": {"dtype": "F32", "shape": [4096], "data_offsets": [0, len(body)]}}).encode()
    with open("writing", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + body)
    os.rename("writing", f"step-{step:06d}.safetensors")

save(100)
while not os.path.exists("go-on"):
    time.sleep(0.05)
os.unlink("step-000100.safetensors")
save(200)
save(300)
"""

# Writes over its only checkpoint: the number of its attempt, whole. The second attempt is then caught in mid-write.
IN_PLACE = """
import json, os, time
folder, resume = os.environ["QUAD_CHECKPOINT_DIR"], os.environ.get("QUAD_RESUME_FROM", "")
epoch = int(os.environ["QUAD_EPOCH"])

def whole(text):
    body = text.encode().ljust(4096)
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(body)], "data_offsets": [0, len(body)]}}).encode()
    return len(header).to_bytes(8, "little") + header + body

if resume:
    print("attempt", epoch, "read", open(resume, "rb").read()[-4096:].decode().strip(), flush=True)
if epoch < 3:
    path = os.path.join(folder, "last.safetensors")
    open(path, "wb").write(whole(f"the state of attempt {epoch}"))
    while not os.path.exists(os.path.join(folder, "go-on")):
        time.sleep(0.05)
    if epoch == 2:
        open(path, "wb").write(whole("torn")[:300])
    print("attempt", epoch, "waits", flush=True)
    time.sleep(600)
"""

# Two trainings in one job, the second with smaller steps than the first; a name in "go-on" for each further step.
STAGES = """
import json, os, time
os.chdir(os.environ["QUAD_CHECKPOINT_DIR"])
for stage, steps in (("stage1", (200, 400, 600)), ("stage2", (40, 80, 120))):
    os.makedirs(stage)
    for step in steps:
        body = bytes(4096)
        header = json.dumps({"w": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}}).encode()
        with open("writing", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + body)
        os.rename("writing", f"{stage}/step-{step}.safetensors")
        while not os.path.exists(f"go-on-{stage}-{step}"):
            time.sleep(0.05)
"""


class Formats(quadtest.TestCase):
    def test_a_save_over_what_was_resumed_from_is_seen_and_kept(self):
        server = self.server(nodes=1)
        folder = Path(tempfile.mkdtemp())
        (folder / "write.py").write_text(IN_PLACE)
        task = folder / "in_place.yaml"
        task.write_text("workdir: .\nresources: {cpus: 0.1, memory: 0.2}\nrun: exec /usr/bin/python3 write.py\n")
        job = server.launch(task, cwd=folder)
        for epoch in (1, 2):
            own = server.data / "hot" / str(job) / f"e{epoch}"

            def listed():
                paths = [one["path"] for one in server.json("checkpoints", job)["checkpoints"]]
                return str(own / "last.safetensors") in paths and (own / ".quad/kept/last.safetensors").exists()

            quadtest.wait_until(listed, 60, f"the save of attempt {epoch} is listed, and a copy of it kept")
            (own / "go-on").touch()
            quadtest.wait_until(
                lambda: f"attempt {epoch} waits" in server.ok("logs", job, "--no-follow"), 60, f"attempt {epoch} waits"
            )
            for pid in server.rank_pids("write.py"):
                os.kill(pid, signal.SIGKILL)
        server.wait_for_status(job, "SUCCEEDED", timeout=120)
        output = server.ok("logs", job, "--no-follow")
        self.assertIn("attempt 2 read the state of attempt 1", output)
        self.assertIn("attempt 3 read the state of attempt 2", output)

    def test_retention_never_deletes_the_newest_of_a_stage(self):
        server = self.server(nodes=1)
        folder = Path(tempfile.mkdtemp())
        (folder / "stages.py").write_text(STAGES)
        task = folder / "stages.yaml"
        task.write_text(
            "workdir: .\nresources: {cpus: 0.1, memory: 0.2}\nquad: {checkpoint: {keep: 2}}\n"
            "run: exec /usr/bin/python3 stages.py\n"
        )
        job = server.launch(task, cwd=folder)
        own = server.data / "hot" / str(job) / "e1"

        def there():
            return {f"{path.parent.name}-{path.stem.split('-')[1]}" for path in own.glob("stage*/step-*")}

        expected = set()
        for stage, steps in (("stage1", (200, 400, 600)), ("stage2", (40, 80, 120))):
            for index, step in enumerate(steps):
                expected.add(f"{stage}-{step}")
                if index == 2:
                    expected.discard(f"{stage}-{steps[0]}")

                def seen():
                    listed = server.json("checkpoints", job)["checkpoints"]
                    return any(one["path"].endswith(f"{stage}/step-{step}.safetensors") for one in listed)

                quadtest.wait_until(lambda: seen() and there() == expected, 60, f"{stage}-{step}: {expected}")
                (own / f"go-on-{stage}-{step}").touch()
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(there(), expected)

    def test_the_newest_whole_one_is_taken(self):
        server = self.server(nodes=1)
        folder = Path(tempfile.mkdtemp())
        (folder / "write.py").write_text(WRITER)
        jobs = {}
        for form, cut in CASES:
            task = folder / f"{form}-{cut}.yaml"
            marker = "quad: {checkpoint: {framework: marker, marker: DONE}}\n" if form == "marked" else ""
            task.write_text(
                f"name: {form}\nworkdir: .\nenvs: {{FORM: {form}, CUT: '{cut}'}}\nresources: {{cpus: 0.1, memory: 0.2}}\n"
                f"{marker}run: exec /usr/bin/python3 write.py\n"
            )
            jobs[server.launch(task, cwd=folder)] = (form, cut)
        for job in jobs:
            quadtest.wait_until(lambda: "written" in server.ok("logs", job, "--no-follow"), 120, f"{jobs[job]} has written")
        for pid in server.rank_pids("write.py"):
            os.kill(pid, signal.SIGKILL)
        names = {"torch": "step-000{}.pt", "safetensors": "model-000{}.safetensors", "marked": "save-{}",
                 "trainer": "checkpoint-{}"}  # fmt: skip
        for job, (form, cut) in jobs.items():
            with self.subTest(form=form, cut=cut):
                server.wait_for_status(job, "SUCCEEDED", timeout=120)
                self.assertIn("resumed from " + names[form].format(200), server.ok("logs", job, "--no-follow"))
                story = server.ok("story", job)
                self.assertIn(names[form].format(300), story, "the story names what was passed over")
                self.assertIn("Passed over", story)

    def test_the_list_has_what_is_there_and_nothing_else(self):
        server = self.server(nodes=1)
        folder = Path(tempfile.mkdtemp())
        (folder / "rotate.py").write_text(ROTATING)
        task = folder / "rotate.yaml"
        task.write_text("workdir: .\nresources: {cpus: 0.1, memory: 0.2}\nrun: exec /usr/bin/python3 rotate.py\n")
        job = server.launch(task, cwd=folder)

        def listed():
            return {one["step"]: not one["gone"] for one in server.json("checkpoints", job)["checkpoints"]}

        quadtest.wait_until(lambda: listed() == {100: True}, 60, "the first is seen")
        directory = Path(server.json("checkpoints", job)["checkpoints"][0]["path"]).parent
        (directory / "go-on").touch()
        # The first is deleted; the others are written just before the end.
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(listed(), {100: False, 200: True, 300: True})
        text = server.ok("checkpoints", job)
        self.assertIn("step-000300.safetensors", text)
        self.assertNotIn("step-000100.safetensors", text)
        self.assertIn("1 earlier: deleted or written over since.", text)
        self.assertNotIn("deleted", server.ok("story", job))

    def test_a_job_that_writes_nothing_leaves_no_folder(self):
        server = self.server(nodes=2)
        folder = Path(tempfile.mkdtemp())
        task = folder / "nothing.yaml"
        task.write_text("num_nodes: 2\nresources: {cpus: 0.1, memory: 0.2}\nrun: test -d $QUAD_CHECKPOINT_DIR\n")
        job = server.launch(task)
        server.wait_for_status(job, "SUCCEEDED")
        quadtest.wait_until(lambda: not (server.data / "hot" / str(job)).exists(), 20, "its folder is removed")
