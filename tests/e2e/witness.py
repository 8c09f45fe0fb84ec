"""What a job itself says of how it ran: the evidence on which recovery tests rest, besides Quad's own word.

Every rank of a witnessing job (witness_rank.py) takes a lock that all attempts share, and writes down each thing that it
does, with its epoch and the time, in a file that outlives it. From this alone follows whether two attempts ran at once,
whether any attempt was started twice, what was lost, and from which checkpoint an attempt went on.

    witness = Witness(server)
    job = witness.launch("a", ranks=2, STEPS=50)
    ...
    witness.expect_sound("a", job)
"""

import json
import os
import random
import sys
import time
from pathlib import Path

import quadtest

RANK_PROGRAM = Path(__file__).resolve().parent / "witness_rank.py"
A_SECOND = 1_000_000_000


def seeded(test):
    """A source of random numbers for one test, whose seed is printed; QUAD_SEED=N replays."""
    seed = int(os.environ.get("QUAD_SEED") or random.randrange(1_000_000))
    print(f"{test.id()}: QUAD_SEED={seed}", flush=True)
    return random.Random(seed)


def rank_processes(server, *what):
    """{(job, epoch, rank): [pid, …]} of the live processes of this server's ranks whose arguments hold all of `what`,
    runners too."""
    found = {}
    for pid in quadtest.processes_of(str(server.data)):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        key = next((entry[14:].decode() for entry in environment if entry.startswith(b"QUAD_RANK_KEY=")), None)
        if key and all(word in " ".join(quadtest.command_of(pid)) for word in what):
            found.setdefault(tuple(map(int, key.split("-"))), []).append(pid)
    return found


def runner_of(server, job, epoch, rank):
    """The process of one rank's runner: the oldest of that program, as it forks its workers."""
    found = rank_processes(server, "quad-runner", f"/{job}-{epoch}-{rank}")[job, epoch, rank]
    return min(found, key=lambda pid: (quadtest.start_time(pid) or float("inf"), pid))


class Witness:
    def __init__(self, server):
        self.server = server
        self.folder = server.folder / "witness"
        self.folder.mkdir(exist_ok=True)

    def task(self, name, ranks=1, quad=None, setup=False, **env):
        """A task whose ranks testify under this name; `env` is for witness_rank.py, which says what there is."""
        envs = {"WITNESS": str(self.folder), "NAME": name, **{key: str(value) for key, value in env.items()}}
        task = {
            "name": name, "num_nodes": ranks, "envs": envs,
            "resources": {"accelerators": "H100:1", "cpus": 1, "memory": 1},
            "run": f"exec {sys.executable} {RANK_PROGRAM} run",
        }  # fmt: skip
        if setup:
            task["setup"] = f"{sys.executable} {RANK_PROGRAM} setup"
        if quad:
            task["quad"] = quad
        return task

    def launch(self, name, *args, **more):
        return self.server.launch(self.task(name, *args, **more))

    def say(self, name, word):
        """Tells the ranks of a job that wait for this word."""
        (self.folder / f"{name}.{word}").touch()

    def records(self, name, what=None, **wanted):
        """What its ranks wrote, in the order of time: dicts of what, epoch, rank, step and at (nanoseconds)."""
        try:
            lines = (self.folder / f"{name}.records").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = sorted((json.loads(line) for line in lines), key=lambda record: record["at"])
        return [one for one in found if what in (None, one["what"]) and wanted.items() <= one.items()]

    def wait_for(self, name, what, timeout=60, **wanted):
        """The first such record, once there is one."""
        return quadtest.wait_until(
            lambda: self.records(name, what, **wanted), timeout, f"job {name} records {what} {wanted or ''}"
        )[0]

    # What must hold of every job, whatever befell it. Each raises AssertionError.

    def expect_sound(self, name, job, zombies=()):
        """`zombies`: (epoch, when) of attempts whose ranks stood still and went on at that time."""
        self.expect_never_twice(name, zombies)
        view = self.server.job(job)
        assert view["status"] == "SUCCEEDED", f"{view['status']}:\n{self.server.describe(job)}"
        self.expect_resumed_from_the_newest(name, view)
        self.expect_logs(name, job, view)

    def expect_never_twice(self, name, zombies=()):
        """Nothing of an attempt happens after anything of the next one, and no rank begins twice in an attempt. What
        stood still may act for another 5 s."""
        records = self.records(name)
        twice = [one for one in records if one["what"] == "locked_out"]
        assert not twice, f"a rank of {name} began while another attempt of it ran: {twice}"
        begun = [(one["what"], one["epoch"], one["rank"]) for one in records if one["what"] in ("begin", "setup")]
        assert len(begun) == len(set(begun)), f"a rank of {name} was started twice in one attempt: {begun}"
        newest = 0
        for one in records:
            newest = max(newest, one["epoch"])
            excused = any(
                one["epoch"] == epoch and when <= one["at"] <= when + 5 * A_SECOND for epoch, when in zombies
            )
            assert one["epoch"] == newest or excused, f"{name}: {one} happened after attempt {newest} had begun"

    def expect_resumed_from_the_newest(self, name, view):
        """Each attempt went on from the newest checkpoint that was whole when it began."""
        every = next((one["every"] for one in self.records(name, "begin")), 0)
        for attempt in view["attempts"]:
            for begin in self.records(name, "begin", epoch=attempt["epoch"], rank=0):
                whole = [
                    one["step"] for one in self.records(name, "checkpoint", rank=0)
                    if one["epoch"] < attempt["epoch"] and one["at"] < begin["at"]
                ]  # fmt: skip
                newest = max(whole, default=0)
                # It may have been killed between the checkpoint and its record.
                allowed = {newest, newest + every}
                assert begin["step"] in allowed, f"{name}: {begin}, but the newest checkpoint was of step {newest}"
                assert begin["step"] == (attempt["resumed_step"] or 0), (begin, attempt)

    def expect_logs(self, name, job, view):
        """Every line that was printed is in the log of its attempt and rank, but for at most the last second of a rank
        that was killed; and none is there twice."""
        for attempt in view["attempts"]:
            for rank in range(view["num_nodes"]):
                records = self.records(name, "step", epoch=attempt["epoch"], rank=rank)
                if not records:
                    continue
                text = self.server.ok("logs", job, "--attempt", attempt["epoch"], "--rank", rank, "--no-follow")
                steps = [int(line.rsplit(" ", 1)[1]) for line in text.splitlines() if f"rank {rank} step " in line]
                assert steps == sorted(set(steps)), f"{name}: lines are doubled or out of order:\n{text}"
                ended_well = attempt["verdict"] == "success"
                sure = records[-1]["at"] - (0 if ended_well else A_SECOND)
                missing = {one["step"] for one in records if one["at"] <= sure} - set(steps)
                assert not missing, f"{name}: attempt {attempt['epoch']} rank {rank} printed {missing}, not in:\n{text}"


def expect_sound_store(server):
    out = server.ok("admin", "check")
    assert "The store is sound" in out, out


def now():
    """The clock of the records."""
    return time.monotonic_ns()
