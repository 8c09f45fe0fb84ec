"""Quad in two minutes, on this machine alone: `./dev demo`.

A throw-away server with four pretend nodes runs a real PyTorch training on two of them. In mid-training one node is
made to fail, and the job goes on elsewhere from its newest checkpoint; then the server itself is killed, and the ranks
do not notice. Every claim is checked: the demo ends with an error and exit code 1 if one does not hold.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUAD = os.environ.get("QUAD_BIN", str(HERE.parents[1] / "build" / "release" / "bin" / "quad"))
BOLD, DIM, GREEN, RED, PLAIN = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 5
)
BEGAN = time.monotonic()


class DemoFailed(Exception):
    """Its text is one clear sentence."""


def say(text):
    print(f"{DIM}{time.monotonic() - BEGAN:5.1f} s{PLAIN}  {text}", flush=True)


def check(holds, text):
    if not holds:
        raise DemoFailed(text)


def wait_for(what, seconds, probe):
    """The first true value of probe()."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        check(time.monotonic() < deadline, f"After {seconds} s there was still no sign of this: {what}.")
        time.sleep(0.1)
    return value


class Cluster:
    """A server with pretend nodes, in a folder that vanishes with it."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="quad-demo-"))
        self.data = self.folder / "data"
        self.server = None

    def start_server(self):
        command = [QUAD, "serve", "--data-dir", self.data, "--port", "0", "--nodes", "4", "--gpus", "H100:8"]
        with open(self.folder / "server.log", "ab") as log:
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                                           start_new_session=True)  # fmt: skip
        wait_for("the server is ready", 20, self._is_ready)

    def _is_ready(self):
        check(self.server.poll() is None, f"The server ended at once, and said: {self.server_log()}")
        try:
            return json.loads((self.data / "server.json").read_text())["pid"] == self.server.pid
        except (FileNotFoundError, ValueError):
            return False

    def server_log(self):
        return (self.folder / "server.log").read_text(errors="replace")[-2000:]

    def kill_server(self):
        self.server.kill()
        self.server.wait()

    def quad(self, *args):
        """Runs `quad ARGS` beside the task file and returns its output."""
        done = subprocess.run([QUAD, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=HERE,
                              env=os.environ | {"QUAD_DATA_DIR": str(self.data)})  # fmt: skip
        check(done.returncode == 0, f"`quad {' '.join(map(str, args))}` failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def processes(self, word=""):
        """{pid: start time} of the live processes that belong here and have `word` in their command."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                told = Path(f"/proc/{pid}/environ").read_bytes() + command
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            mine = str(self.folder).encode() in told and word.encode() in command
            if mine and stat[0] not in "ZX" and int(pid) != os.getpid():
                found[int(pid)] = int(stat[19])
        return found

    def close(self):
        if self.server:
            self.kill_server()
        while left := self.processes():
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)


class JobView:
    """One look at the job: `quad status JOB -o json`. All that the demo knows of its shape is here."""

    def __init__(self, cluster, job):
        raw = json.loads(cluster.quad("status", job, "-o", "json"))["jobs"][0]
        attempt = raw["attempts"][-1] if raw["attempts"] else {}
        self.status = raw["status"]
        self.epoch = raw["epoch"]
        self.nodes = raw["nodes"]
        self.step = (raw.get("progress") or {}).get("step", -1)
        self.checkpoint = attempt.get("checkpoint_step") or 0
        self.resumed_at = attempt.get("resumed_step") or 0

    @property
    def is_over(self):
        return self.status in ("SUCCEEDED", "FAILED", "CANCELLED")


def follow(cluster, job, what, seconds, reached):
    """Waits until reached(view); fails early if the job ends before that."""

    def probe():
        view = JobView(cluster, job)
        if reached(view):
            return view
        check(not view.is_over, f"The job ended as {view.status} before this: {what}.")
        return None

    return wait_for(what, seconds, probe)


def losses_of(cluster, job):
    """What the training printed: for each attempt, [(step, loss)]. A new attempt begins where the steps go back."""
    attempts = [[]]
    for line in cluster.quad("logs", job, "--no-follow").splitlines():
        if found := re.search(r"\bstep (\d+)/\d+ loss ([\d.]+)", line):
            step, loss = int(found[1]), float(found[2])
            if attempts[-1] and step <= attempts[-1][-1][0]:
                attempts.append([])
            attempts[-1].append((step, loss))
    return attempts


def plot(attempts, columns=64, rows=9):
    """The loss over the steps: `o` are those of the first attempt, `x` of the second."""
    points = [point for attempt in attempts for point in attempt]
    last = max(step for step, _ in points)
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    grid = [[" "] * columns for _ in range(rows)]
    for number, attempt in enumerate(attempts):
        for step, loss in attempt:
            row = round((high - loss) / (high - low or 1) * (rows - 1))
            grid[row][round(step / last * (columns - 1))] = "ox"[number % 2]
    for i, line in enumerate(grid):
        label = f"{high - (high - low) * i / (rows - 1):.1f}" if i % 4 == 0 else ""
        print(f"    {label:>4} |{''.join(line).rstrip()}")
    print(f"         +{'-' * columns}\n          step 0{f'step {last}':>{columns - 6}}")


def demo(cluster):
    say(f"{BOLD}A server with 4 pretend nodes of 8 H100 each.{PLAIN}")
    cluster.start_server()

    job = json.loads(cluster.quad("launch", "-d", "-y", "task.yaml", "-o", "json"))["job"]
    say(f"{BOLD}Job {job}: a PyTorch training of 600 steps on 2 nodes.{PLAIN}  (quad launch task.yaml)")
    first = follow(cluster, job, "the job trains", 60, lambda v: v.status == "RUNNING" and v.step > 0)
    say(f"It trains on {' and '.join(first.nodes)}.")
    saved = follow(cluster, job, "it has written a checkpoint", 60, lambda v: v.checkpoint > 0 and v.step > v.checkpoint)
    say(f"It has a checkpoint at step {saved.checkpoint}, and is at step {saved.step}.")

    failed = saved.nodes[-1]
    say(f"{BOLD}The node {failed} fails.{PLAIN}  (quad node fail {failed})")
    cluster.quad("node", "fail", failed)
    failed_at = time.monotonic()
    second = follow(cluster, job, "it trains again after the failure", 60,
                    lambda v: v.epoch > first.epoch and v.status == "RUNNING" and v.step > v.resumed_at > 0)  # fmt: skip
    check(failed not in second.nodes, f"The job was placed on the failed node {failed} again.")
    check(second.resumed_at >= saved.checkpoint,
          f"It resumed at step {second.resumed_at}, though there was a checkpoint of step {saved.checkpoint}.")  # fmt: skip
    say(f"{GREEN}It goes on from step {second.resumed_at} on {' and '.join(second.nodes)}, "
        f"{time.monotonic() - failed_at:.1f} s after the failure.{PLAIN}")  # fmt: skip

    ranks = cluster.processes("train.py")
    check(len(ranks) >= 2, "The ranks' processes were not to be found.")
    say(f"{BOLD}The server is killed, and started again.{PLAIN}  (kill -9)")
    before = JobView(cluster, job)
    cluster.kill_server()
    time.sleep(2)  # not a wait for anything: the ranks are to train on without a server for a while
    check(cluster.processes("train.py") == ranks, "The ranks' processes did not survive the server.")
    cluster.start_server()
    after = follow(cluster, job, "progress after the server's return", 30, lambda v: v.step > before.step)
    check(after.epoch == before.epoch, "The job was started anew when the server came back.")
    check(cluster.processes("train.py") == ranks, "The ranks' processes are other ones than before.")
    say(f"{GREEN}The same {len(ranks)} processes train on, now at step {after.step}.{PLAIN}")

    follow(cluster, job, "the training succeeds", 90, lambda v: v.status == "SUCCEEDED")
    losses = losses_of(cluster, job)
    check(len(losses) == 2, f"The log shows {len(losses)} attempts, not 2.")
    old, new = losses
    check(new[0][0] - 10 <= second.resumed_at < new[0][0],
          f"The second attempt's first line is of step {new[0][0]}, though it resumed at {second.resumed_at}.")  # fmt: skip
    check(new[-1][0] == 600, f"The log ends at step {new[-1][0]}, not 600.")
    twice = dict(old).keys() & dict(new).keys()
    check(all(dict(old)[step] == dict(new)[step] for step in twice), "Steps that were run twice gave other losses.")
    say(f"{GREEN}The training has succeeded; the loss fell from {old[0][1]:.2f} to {new[-1][1]:.2f}, and the steps "
        f"that had to be run again gave what they gave before.{PLAIN}\n")  # fmt: skip
    plot(losses)
    print(f"\n{BOLD}What happened, as Quad tells it{PLAIN}  (quad story {job})\n")
    print(cluster.quad("story", job).rstrip())


def main():
    cluster = Cluster()
    try:
        demo(cluster)
    except DemoFailed as failure:
        print(f"\n{RED}{failure}{PLAIN}", file=sys.stderr)
        if cluster.server and cluster.server.poll() is not None:
            print(f"The server had ended; it said last:\n{cluster.server_log()}", file=sys.stderr)
        return 1
    finally:
        cluster.close()
    print(f"\n{GREEN}All of it held, in {time.monotonic() - BEGAN:.0f} s.{PLAIN}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
