"""Output: whole and in order, from wherever it is asked for, over recoveries and servers; and no reader holds it up."""

import datetime
import http.client
import json
import re
import subprocess
import time
from pathlib import Path

import quadapi
import quadtest

TIMEOUT_SECONDS = 240

# Prints numbered lines, each attempt its own, until the file that it waits for is there.
TALKER = """
import os, sys, time
epoch, rank = os.environ["QUAD_EPOCH"], os.environ["SKYPILOT_NODE_RANK"]
for number in range(1, 201):
    print(f"epoch {epoch} rank {rank} line {number}", flush=True)
while not os.path.exists(f"{os.environ['GATE']}-{epoch}"):
    time.sleep(0.02)
print(f"epoch {epoch} rank {rank} ends", flush=True)
"""


def lines_of(epoch, rank, end=True):
    lines = [f"epoch {epoch} rank {rank} line {number}" for number in range(1, 201)]
    return lines + ([f"epoch {epoch} rank {rank} ends"] if end else [])


class Frames:
    """The output in a framed body of one rank, piece by piece; `cursor` is of the last whole frame."""

    def __init__(self):
        self.held, self.whole, self.cursor = b"", b"", "start"

    def feed(self, piece):
        self.held += piece
        while b"\n" in self.held:
            line, rest = self.held.split(b"\n", 1)
            head = json.loads(line)
            length = head.get("bytes", 0)
            if len(rest) < length:
                return
            self.whole += rest[:length]
            self.held = rest[length:]
            if head["type"] == "output":
                self.cursor = f"{head['attempt']}:{head['rank']}={head['next']}"


class Logs(quadtest.TestCase):
    def talker(self, server, ranks=1):
        (server.folder / "talk.py").write_text(TALKER)
        gate = server.folder / "gate"
        job = server.launch(
            {"num_nodes": ranks, "run": f"exec python3 {server.folder}/talk.py", "envs": {"GATE": str(gate)}}
        )
        return job, gate

    def log(self, server, job, *args):
        return server.ok("logs", job, "--no-follow", *args).splitlines()

    def wait_for_line(self, server, job, line, *args):
        quadtest.wait_until(lambda: line in self.log(server, job, *args), 30, f"the log has '{line}'", every=0.1)

    def follow(self, server, *args):
        follower = subprocess.Popen(
            [quadtest.quad_bin(), "logs", "--follow", *map(str, args)], env=server.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(follower.kill)
        return follower

    @quadtest.quick
    def test_every_way_to_choose_lines_of_two_attempts_of_two_ranks(self):
        server = self.server(nodes=2)
        job, gate = self.talker(server, ranks=2)
        follower = self.follow(server, job)
        one_rank = self.follow(server, job, "--rank", "1")
        for rank in "01":
            self.wait_for_line(server, job, lines_of(1, rank)[-2], "--rank", rank)
        # Seeking by time is exact to 200 ms: some more lie between the last line of the one and the first of the other.
        seen = time.monotonic()
        quadtest.wait_until(lambda: time.monotonic() > seen + 0.5, 5, "half a second has passed")
        between = datetime.datetime.now(datetime.timezone.utc)
        server.kill_runners()
        quadtest.wait_until(lambda: server.job(job)["epoch"] == 2, 30, "attempt 2 is placed")
        for rank in "01":
            self.wait_for_line(server, job, lines_of(2, rank)[-2], "--rank", rank, "--attempt", "2")
        Path(f"{gate}-2").touch()
        server.wait_for_status(job, "SUCCEEDED")

        break_ = r"\[quad: attempt 1 ended: .*; attempt 2 follows\]"
        both = lines_of(1, 1, end=False) + [None] + lines_of(2, 1)
        for got in (self.log(server, job, "--rank", "1"), one_rank.communicate(timeout=60)[0].splitlines()):
            self.assertRegex(got[200], break_)
            self.assertEqual(got[:200] + [None] + got[201:], both)
        marked = [r"\(head, rank=0, pid=\d+\) ", r"\(worker1, rank=1, pid=\d+, ip=127\.\d+\.\d+\.\d+\) "]
        for got in (self.log(server, job), follower.communicate(timeout=60)[0].splitlines()):
            for rank in (0, 1):
                of_rank = [re.sub(marked[rank], "", line) for line in got if re.match(marked[rank], line)]
                self.assertEqual(of_rank, lines_of(1, rank, end=False) + lines_of(2, rank))
            self.assertEqual(len(got), 2 * 401 + 1)
        self.assertEqual(self.log(server, job, "--rank", "0", "--attempt", "1"), lines_of(1, 0, end=False))
        self.assertEqual(self.log(server, job, "--rank", "0", "--tail", "3"), lines_of(2, 0)[-3:])
        self.assertEqual(self.log(server, job, "--rank", "0", "--tail", "0"), [])
        self.assertEqual(self.log(server, job, "--rank", "0", "--tail", str(2**63 - 1)), lines_of(2, 0))
        self.assertEqual(self.log(server, job, "--rank", "0", "--attempt", "1", "--tail", "1"), lines_of(1, 0)[199:200])
        self.assertEqual(len(self.log(server, job, "--tail", "2")), 2)
        for line in (1, 2, 100, 201):
            self.assertEqual(self.log(server, job, "--rank", "1", "--line", line), lines_of(2, 1)[line - 1 :])
        self.assertEqual(self.log(server, job, "--rank", "1", "--line", "202"), [])
        found = self.log(server, job, "--rank", "1", "--grep", "line 77")
        self.assertEqual((found[0], found[-1], len(found)), ("epoch 1 rank 1 line 77", "epoch 2 rank 1 line 77", 3))
        since = between.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        got = self.log(server, job, "--rank", "0", "--since", since)
        self.assertEqual([line for line in got if "quad:" not in line], lines_of(2, 0))
        self.assertEqual([line for line in self.log(server, job, "--rank", "0", "--since", "1h") if "quad:" not in line],
                         lines_of(1, 0, end=False) + lines_of(2, 0))  # fmt: skip
        for args, status in ((("--rank", "2"), 4), (("--attempt", "3"), 4), (("--since", "yesterday"), 2)):
            code, _, err = server.quad("logs", job, *args)
            self.assertEqual(code, status, err)

    def test_followers_go_on_over_killed_servers(self):
        server = self.server(nodes=2)
        job, gate = self.talker(server, ranks=2)
        follower = self.follow(server, job)
        launched = subprocess.Popen(
            [quadtest.quad_bin(), "launch", "-y", "--env", f"GATE={gate}", f"python3 {server.folder}/talk.py; exit 5"],
            env=server.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(launched.kill)
        quadtest.wait_until(lambda: len(server.json("queue")["jobs"]) == 2, 30, "both jobs are there")
        frames = Frames()

        def read_frames(mark):
            """Comes back with the cursor, as often as it takes."""
            while mark not in frames.whole:
                try:
                    with quadapi.Api(server).open(f"/v1/jobs/{job}/logs?follow=1&rank=0&cursor={frames.cursor}") as stream:
                        while mark not in frames.whole:
                            piece = stream.read(100)  # frames come in pieces
                            if not piece:
                                return
                            frames.feed(piece)
                except (OSError, ValueError, http.client.HTTPException):
                    frames.held = b""
                    time.sleep(0.01)

        read_frames(b"line 20\n")
        for rank in "01":
            self.wait_for_line(server, job, lines_of(1, rank)[-2], "--rank", rank)
        server.kill()
        server.start()
        read_frames(b"line 200\n")
        server.kill()
        Path(f"{gate}-1").touch()  # the end comes while no server is there
        server.start()
        read_frames(b"ends\n")
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(frames.whole.decode().splitlines(), lines_of(1, 0))
        got, err = follower.communicate(timeout=60)
        self.assertEqual(follower.returncode, 0, err)
        for rank, mark in ((0, r"\(head, rank=0, pid=\d+\) "), (1, r"\(worker1, rank=1, pid=\d+, ip=[\d.]+\) ")):
            of_rank = [re.sub(mark, "", line) for line in got.splitlines() if re.match(mark, line)]
            self.assertEqual(of_rank, lines_of(1, rank))
        got, err = launched.communicate(timeout=60)
        self.assertEqual((launched.returncode, got.splitlines()), (5, lines_of(1, 0)), err)
        answer = quadapi.Api(server).get(f"/v1/jobs/{job}/logs?rank=0&cursor=1:5,5")
        self.assertEqual((answer.status, answer.json["error"]["where"]), (400, "cursor"))

    def test_lines_of_several_ranks_come_by_time_afterwards_too(self):
        server = self.server(nodes=2)
        shared = server.folder / "turn"
        # Each prints when the other has, 300 ms later: more than the precision of the log's index.
        job = server.launch({"num_nodes": 2, "envs": {"TURN": str(shared)}, "run": (
            "for n in 0 1 2 3 4 5 6 7; do if [ $((n % 2)) = $SKYPILOT_NODE_RANK ]; then "
            "while [ ! -e $TURN-$n ]; do sleep 0.02; done; sleep 0.3; echo t$n; touch $TURN-$((n + 1)); fi; done"
        )})  # fmt: skip
        (server.folder / "turn-0").touch()
        server.wait_for_status(job, "SUCCEEDED")
        for _ in range(2):
            told = [line.split()[-1] for line in self.log(server, job)]
            self.assertEqual(told, [f"t{n}" for n in range(8)])
            self.assertEqual([line.split()[-1] for line in self.log(server, job, "--tail", "3")], ["t5", "t6", "t7"])
            server.restart()

    def test_progress_bars_and_prompts_of_several_ranks_are_shown_while_they_move(self):
        server = self.server(nodes=2)
        gate = server.folder / "gate"
        job = server.launch({"num_nodes": 2, "envs": {"GATE": str(gate)}, "run": (
            "printf '\\r 1/3'; printf '\\r 2/3'; while [ ! -e $GATE ]; do sleep 0.02; done; printf '\\r 3/3\\n'"
        )})  # fmt: skip
        with quadapi.Api(server).open(f"/v1/jobs/{job}/logs?follow=1") as log:
            seen = b""
            while not (b"(head, rank=0" in seen and b"(worker1, rank=1" in seen and seen.count(b"2/3") == 2):
                piece = log.read()
                self.assertTrue(piece, seen)
                seen += piece
            self.assertNotIn(b"3/3", seen)
            gate.touch()
            seen += log.read_all()
        self.assertEqual(seen.count(b"3/3\n"), 2)
        for bar in re.findall(rb"[^\r\n]*\d/3", seen):
            self.assertRegex(bar, rb"^\((head|worker1), rank=[01], pid=\d+(, ip=[\d.]+)?\)  \d/3$")

    def test_binary_output_comes_as_it_was_written(self):
        server = self.server(nodes=1)
        blob = bytes(range(256)) * 4096 + b"no newline at the end \xff\x00"
        (server.folder / "blob").write_bytes(blob)
        job = server.launch(f"run: cat {server.folder}/blob")
        server.wait_for_status(job, "SUCCEEDED")
        api = quadapi.Api(server)
        self.assertEqual(api.get(f"/v1/jobs/{job}/logs").body, blob)
        frames = Frames()
        frames.feed(api.get(f"/v1/jobs/{job}/logs?cursor=start").body)
        self.assertEqual((frames.whole, frames.held), (blob, b""))
        shown = subprocess.run([quadtest.quad_bin(), "logs", str(job)], env=server.environment(), capture_output=True)
        self.assertEqual(shown.stdout, blob)
        found = api.get(f"/v1/jobs/{job}/logs?grep=no+newline").body
        self.assertEqual(found, blob[blob.rindex(b"\n") + 1 :] + b"\n")

    def test_a_follower_that_does_not_read_holds_up_nothing(self):
        server = self.server(nodes=1)
        size = 150 << 20
        gate = server.folder / "gate"
        job = server.launch(f"run: |\n  until test -e {gate}; do sleep 0.02; done\n  yes 0123456789abcde | head -c {size}")
        server.wait_for_status(job, "RUNNING")
        api = quadapi.Api(server)
        with api.open(f"/v1/jobs/{job}/logs?follow=1", receive_buffer=65536) as stuck:
            with api.open(f"/v1/jobs/{job}/logs?follow=1&grep=nowhere+to+be+found"):
                before = quadtest.resident_kib(server.process.pid)
                gate.touch()
                server.wait_for_status(job, "SUCCEEDED", timeout=120)
                self.assertEqual(api.get("/healthz").status, 200)
                if not quadtest.is_sanitized():
                    self.assertLess(quadtest.resident_kib(server.process.pid) - before, 48 << 10)
                self.assertIn("quad_log_streams", api.get("/metrics").text)
            # It reads on where it was, as long as it was not away for too long.
            got = 0
            try:
                while piece := stuck.read(1 << 20):
                    got += len(piece)
                self.assertEqual(got, size)
            except ConnectionError:
                self.assertGreater(got, 0)
        answer = api.get(f"/v1/jobs/{job}/logs?line={size // 16}")
        self.assertEqual(answer.body, b"0123456789abcde\n")
