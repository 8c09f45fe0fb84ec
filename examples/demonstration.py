"""What the demos have in common: they say what they do and when, check each claim, and look at a job as a user would."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
QUAD = os.environ.get("QUAD_BIN", str(EXAMPLES.parent / "build" / "release" / "bin" / "quad"))
CHARLM = EXAMPLES / "charlm"
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


def quad(*args, folder=CHARLM, **environment):
    """Runs `quad ARGS` in a folder, with these variables too, and returns its output."""
    done = subprocess.run([QUAD, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder,
                          env=os.environ | environment)  # fmt: skip
    check(done.returncode == 0, f"`quad {' '.join(map(str, args))}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


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
        if view.is_over:
            last = "\n".join(cluster.quad("logs", job, "--no-follow").splitlines()[-10:])
            raise DemoFailed(f"The job ended as {view.status} before this: {what}. Its last output:\n{last}")
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


def launch(cluster):
    """The training; its id."""
    return json.loads(cluster.quad("launch", "-d", "-y", "task.yaml", "-o", "json"))["job"]


def trains_with_checkpoint(cluster, job, seconds=60):
    """Waits until it is past its first checkpoint."""
    first = follow(cluster, job, "the job trains", seconds, lambda v: v.status == "RUNNING" and v.step > 0)
    say(f"It trains on {' and '.join(first.nodes)}.")
    saved = follow(cluster, job, "it has written a checkpoint", 60, lambda v: v.checkpoint > 0 and v.step > v.checkpoint)
    say(f"It has a checkpoint at step {saved.checkpoint}, and is at step {saved.step}.")
    return saved


def trains_again(cluster, job, saved, failed, seconds=60):
    """Waits for the attempt after the failure of the node `failed`; `saved` is how the job was before."""
    failed_at = time.monotonic()
    second = follow(cluster, job, "it trains again after the failure", seconds,
                    lambda v: v.epoch > saved.epoch and v.status == "RUNNING" and v.step > v.resumed_at > 0)  # fmt: skip
    check(failed not in second.nodes, f"The job was placed on the failed node {failed} again.")
    check(second.resumed_at >= saved.checkpoint,
          f"It resumed at step {second.resumed_at}, though there was a checkpoint of step {saved.checkpoint}.")  # fmt: skip
    say(f"{GREEN}It goes on from step {second.resumed_at} on {' and '.join(second.nodes)}, "
        f"{time.monotonic() - failed_at:.1f} s after the failure.{PLAIN}")  # fmt: skip
    return second


def succeeds(cluster, job, second):
    """Waits for the end, compares what both attempts printed, and tells the job's story."""
    follow(cluster, job, "the training succeeds", 120, lambda v: v.status == "SUCCEEDED")
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


def main(cluster, demo):
    """Runs demo(cluster), closes the cluster whatever happens, and ends the program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = 0
    try:
        demo(cluster)
    except DemoFailed as failure:
        print(f"\n{RED}{failure}{PLAIN}", file=sys.stderr)
        if last := cluster.last_words():
            print(f"The server said last:\n{last}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        code = 130
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)  # nothing is left behind, however impatient somebody is
        try:
            cluster.close()
        except DemoFailed as failure:
            print(f"{RED}{failure}{PLAIN}", file=sys.stderr)
            code = code or 1
    if code == 0:
        print(f"\n{GREEN}All of it held, in {time.monotonic() - BEGAN:.0f} s.{PLAIN}")
    sys.exit(code)
