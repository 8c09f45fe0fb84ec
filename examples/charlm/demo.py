"""Quad in two minutes, on this machine alone: `./dev demo`.

A throw-away server with four pretend nodes runs a real PyTorch training on two of them. In mid-training one node is
made to fail, and the job goes on elsewhere from its newest checkpoint; then the server itself is killed, and the ranks
do not notice. Every claim is checked: the demo ends with an error and exit code 1 if one does not hold.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parents[1]))

import demonstration  # noqa: E402
from demonstration import BOLD, GREEN, PLAIN, QUAD, JobView, check, follow, quad, say, wait_for  # noqa: E402


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

    def last_words(self):
        return self.server_log() if self.server and self.server.poll() is not None else ""

    def kill_server(self):
        self.server.kill()
        self.server.wait()

    def quad(self, *args):
        return quad(*args, QUAD_DATA_DIR=str(self.data))

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


def demo(cluster):
    say(f"{BOLD}A server with 4 pretend nodes of 8 H100 each.{PLAIN}")
    cluster.start_server()

    job = demonstration.launch(cluster)
    say(f"{BOLD}Job {job}: a PyTorch training of 600 steps on 2 nodes.{PLAIN}  (quad launch task.yaml)")
    saved = demonstration.trains_with_checkpoint(cluster, job)

    failed = saved.nodes[-1]
    say(f"{BOLD}The node {failed} fails.{PLAIN}  (quad node fail {failed})")
    cluster.quad("node", "fail", failed)
    second = demonstration.trains_again(cluster, job, saved, failed)

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

    demonstration.succeeds(cluster, job, second)


if __name__ == "__main__":
    demonstration.main(Cluster(), demo)
