"""Breaking sessions: bytes that are no frames, from either end; full disks; networks that stand still; kills of everybody who
has a part. Whoever is left says a sentence and ends, and nothing lingers."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
import urllib.parse
from pathlib import Path
from unittest import mock

import quadtest
import sessionwire
import witness
from quadtest import wait_until
from sessionwire import Client, data, frame, message, window
from terminal import Terminal

TIMEOUT_SECONDS = 180
A_PIECE = 64 << 10


def session_processes(server):
    """The processes on the ranks that sessions run in."""
    found = []
    for pid in quadtest.processes_of(str(server.data), "quad-runner"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # some end just now
            if Path(f"/proc/{pid}/comm").read_text() == "quad-session\n":
                found.append(pid)
    return found


class Breaks(quadtest.TestCase):
    def start(self, server, *words, **more):
        """`quad WORDS` as a process that ends with the test."""
        more = {"env": server.environment(), "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
        process = subprocess.Popen([quadtest.quad_bin(), *map(str, words)], cwd=server.folder, **more)
        for stream in (process.stdout, process.stderr):
            if stream:
                self.addCleanup(stream.close)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait()))
        return process

    def running(self, server, run="sleep 600", *args):
        job = server.launch(run, *args)
        server.wait_for_status(job, "RUNNING")
        wait_until(lambda: server.quad("exec", job, "--", "true")[0] == 0, 30, "its rank can be reached into")
        return job

    def expect_sentence(self, process, code, said, timeout=40):
        """It ends with this code, after one line on its standard error that holds one of the texts."""
        got = process.wait(timeout)
        err = process.stderr.read()
        self.assertEqual((got, err.count("\n")), (code, 1), err)
        self.assertRegex(err, f"^error: .*({said})")
        return err


class Garbage(Breaks):
    @classmethod
    def setUpClass(cls):
        cls.quad = quadtest.Server(nodes=1)
        cls.addClassCleanup(cls.quad.close)
        cls.quad.start()
        cls.job = cls.quad.launch("sleep 600")
        cls.quad.wait_for_status(cls.job, "RUNNING")
        wait_until(lambda: cls.quad.quad("exec", cls.job, "--", "true")[0] == 0, 30, "its rank can be reached into")
        cls.silent = Client(cls.quad, cls.job)  # it says half a frame's head, and then nothing
        cls.addClassCleanup(cls.silent.close)
        cls.silent.send(b"\x05\0")

    def open(self, *pieces, kind="exec", **more):
        client = Client(self.quad, self.job, kind, **more)
        self.addCleanup(client.close)
        client.send(*pieces)
        return client

    def expect_all_gone(self):
        wait_until(lambda: len(session_processes(self.quad)) <= 1, 30, "no session is left, but for the silent one")
        self.assertEqual(self.quad.job(self.job)["status"], "RUNNING")

    def test_what_is_no_frame_ends_its_session_with_one_sentence(self):
        cat = message(type="begin", kind="exec", arguments=["cat"])
        deep = b'{"type":' + b"[" * 100_000
        for name, begun, piece, said in (
            ("text", False, b"hello, is anybody there?\n", "unknown type"),
            ("a request", False, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown type"),
            ("nothing but zeros", False, bytes(1000), "unknown type 0"),
            ("a length of 4 GiB", False, struct.pack("<IB", 0xFFFFFFFF, ord("J")), "4294967295 bytes"),
            ("no JSON", False, frame("J", b"{nonsense"), "JSON"),
            ("JSON that is no object", False, frame("J", b"[1]"), "object"),
            ("an endless depth", False, frame("J", deep), "JSON"),
            ("a message of no type", False, message(kind="exec"), '"type"'),
            ("a number that is cut short", True, frame("D", b"\0\0"), "shorter"),
            ("more than the window", True, b"".join(data(0, bytes(A_PIECE)) for _ in range(64)), "beyond its window"),
            ("a window of nothing", True, frame("W", bytes(4)), "window"),
            ("a window that is too large", True, window(1, 1 << 31), "more than its window"),
            ("a frame of the runner's own", True, frame("A", bytes(8)), "unknown type"),
        ):  # fmt: skip
            with self.subTest(name):
                client = self.open(cat if begun else b"", piece)
                found = list(client.frames.messages())
                self.assertEqual([one["type"] for one in found], (["begun"] if begun else []) + ["failed"], found)
                self.assertIn(said, found[-1]["message"])
        for begin, said in (({"kind": "dance"}, "'dance'"), ({"kind": "exec"}, "no program"), ({"kind": "exec", "command": [1]}, "no program")):
            with self.subTest(begin):
                client = self.open(message(type="begin", **begin))
                told = next(client.frames.messages())
                self.assertEqual((told["type"], said in told["message"]), ("failed", True), told)
                client.close()
        with self.subTest("half a frame"):
            client = self.open(cat, data(0, b"whole\n"), data(0, b"x" * 100)[:50])
            self.assertEqual([client.frames.next()[0] for _ in range(2)], ["J", "D"], "what was whole has arrived")
            (found,) = (pid for pid in quadtest.processes_of(str(self.quad.data)) if quadtest.command_of(pid) == ["cat"])
            client.close()
            wait_until(lambda: not quadtest.is_alive(found), 30, "the program is gone with its client")
        with self.subTest("silence"):  # which has its time
            self.assertEqual([one["type"] for one in self.silent.frames.messages()], ["failed"])
        self.expect_all_gone()

    def test_frames_of_nothing_change_nothing(self):
        client = self.open(
            message(type="begin", kind="exec", arguments=["sh", "-c", "cat; exit 7"]),
            message(type="begin", kind="shell"),
            message(type="connect", stream=5, port=22),
            message(type="signal", number=9), message(type="signal", number="kill"), message(type="signal"),
            message(type="resize", rows=-1, columns=1 << 40), message(type="nonsense", deep=[[[{}]]]),
            *(frame(kind, struct.pack("<I", 77) + bytes(4)) for kind in "DEWX"),
            data(1, b"into an output"), frame("E", struct.pack("<I", 1)), data(0, b""), data(0, b"in"),
            frame("E", struct.pack("<I", 0)), frame("E", struct.pack("<I", 0)), data(0, b"after the end"),
        )  # fmt: skip
        out, exit_code = b"", None
        while found := client.frames.next():
            if found[0] == "D":
                out += found[1][4:]
            elif found[0] == "J" and json.loads(found[1])["type"] == "exit":
                exit_code = json.loads(found[1])["code"]
                client.close()
                break
        self.assertEqual((out, exit_code), (b"in", 7))
        self.expect_all_gone()

    def test_a_flood_takes_no_memory(self):
        server = self.quad.process.pid
        before = quadtest.resident_kib(server)
        begin = message(type="begin", kind="exec", arguments=["sleep", "600"])
        forward = message(type="begin", kind="forward")
        for name, kind, first, piece in (
            ("of a stream that is not there", "exec", begin, data(99, bytes(A_PIECE))),
            ("before anything was begun", "exec", b"", data(0, bytes(A_PIECE))),
            ("of questions whose answers nobody reads", "forward", forward, message(type="connect", stream=1, port=0) * 1000),
            ("of pings whose answers nobody reads", "exec", begin, message(type="ping") * 3000),
        ):
            with self.subTest(name):
                client = self.open(first, kind=kind, timeout=2)
                worst, flood = 0, piece * (1 + (1 << 20) // len(piece))
                for _ in range(24):  # MiB
                    if not client.send(flood):
                        break
                    worst = max([worst, *map(quadtest.resident_kib, session_processes(self.quad))])
                client.close()
                if not quadtest.is_sanitized():
                    self.assertLess(worst, 32 * 1024)
        with self.subTest("before the answer"):  # the server asks the rank first
            client = self.open(kind="exec", behind=begin + data(99, bytes(A_PIECE)) * 100)
            self.assertEqual(client.frames.next()[0], "J")
            client.close()
        if not quadtest.is_sanitized():
            self.assertLess(quadtest.resident_kib(server) - before, 24 * 1024)
        self.expect_all_gone()


class FalseRunner(Breaks):
    """Something that has the attempt's token says that it is the runner, and is none: any program of the job could be that."""

    def test_a_client_believes_nothing_that_comes_from_a_rank(self):
        server = self.server(nodes=1, gpus="", start=False)
        programs = server.folder / "bin"
        programs.mkdir()
        shutil.copy(quadtest.quad_bin(), programs / "quad")
        program = programs / "quad-runner"
        program.write_text(f"#!{sys.executable}\n" + Path(sessionwire.__file__).read_text())
        program.chmod(0o755)
        with mock.patch.dict(os.environ, QUAD_BIN=str(programs / "quad")):
            server.start()
        job = server.launch("true")
        server.wait_for_status(job, "RUNNING")
        (server.folder / "file").write_text("x")

        def says(text, then_closes=False):
            (programs / "says").write_bytes((b"!" if then_closes else b" ") + text)

        every = {
            "exec": ("exec", job, "--", "true"),
            "cp to it": ("cp", "file", f"{job}:x"),
            "cp from it": ("cp", f"{job}:x", "got"),
            "port-forward": ("port-forward", job, "0:80"),
        }
        for name, piece, said in (
            ("text", b"hello, is anybody there?\n", "unknown type"),
            ("a length of 4 GiB", struct.pack("<IB", 0xFFFFFFFF, ord("J")), "4294967295 bytes"),
            ("no JSON", frame("J", b"{nonsense"), "JSON"),
            ("a message of no type", message(kind="exec"), '"type"'),
            ("a number that is cut short", frame("D", b"\0"), "shorter"),
        ):
            for verb, words in every.items():
                with self.subTest(f"{name}, {verb}"):
                    says(piece)
                    self.expect_sentence(self.start(server, *words), 1, said)
        with self.subTest("more than the window"):
            says(b"".join(data(1, bytes(A_PIECE)) for _ in range(40)))  # of a file that it has not said to be there
            self.expect_sentence(self.start(server, *every["cp from it"]), 1, "beyond its window")
        for verb, words in every.items():
            with self.subTest(f"half a frame and the end, {verb}"):
                says(message(type="begun", is_file=True) + data(1, b"abc" * 1000)[:500], then_closes=True)
                process = self.start(server, *words)
                self.expect_sentence(process, 1, "broke off")
        with self.subTest("a failure that writes to the terminal"):
            says(message(type="failed", message="no\x1b]0;owned\x07 way", code=1))
            for words in every.values():
                self.assertNotRegex(self.expect_sentence(self.start(server, *words), 1, "no.*way"), r"[\x1b\x07]")
        with self.subTest("an exit code that is none"):
            for code in (256, -1, 1 << 40, "0"):
                says(message(type="exit", code=code))
                self.assertNotEqual(self.start(server, *every["exec"]).wait(30), 0)
        with self.subTest("a file that is not what was asked for"):
            for text in (bytes(10_000), b"\xff" * 10_000, b"x" * 1024):
                says(message(type="begun", is_file=True) + data(1, text) + frame("E", struct.pack("<I", 1)) + message(type="exit", code=0))
                self.expect_sentence(self.start(server, *every["cp from it"]), 1, "archive")
        self.assertEqual(sorted(path.name for path in server.folder.iterdir() if "got" in path.name or ".quad" in path.name), [])
        self.assertEqual(server.job(job)["status"], "RUNNING")


class Proxy:
    """Stands between a client and the server, until it stands still: it holds all connections and passes nothing on."""

    def __init__(self, server):
        url = urllib.parse.urlsplit(server.url)
        self.target, self.held, self.still = (url.hostname, url.port), [], False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                one = self.listener.accept()[0]
                self.held.append(one)
                if self.still:
                    continue
                other = socket.create_connection(self.target)
                self.held.append(other)
                for ends in ((one, other), (other, one)):
                    threading.Thread(target=self.carry, args=ends, daemon=True).start()

    def carry(self, source, target):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if self.still:
                    return
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    def close(self):
        for one in (self.listener, *self.held):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # a thread may wait on it
            one.close()


class Endings(Breaks):
    def everybody(self, server, job, **env):
        """One session of each kind, all at work: {kind: (process, the program on the rank that must not linger)}."""
        mark = f"77{random.randrange(10**6):06}"
        environment = server.environment(**env)
        server.ok("exec", job, "--", "truncate", "-s", "1T", "endless")
        started = {
            "exec": self.start(server, "exec", job, "--", "sh", "-c", f"echo in; sleep {mark}1", env=environment),
            "cp": self.start(server, "cp", f"{job}:endless", "copied", env=environment),
            "port-forward": self.start(server, "port-forward", job, "0:1", env=environment),
        }
        shell = Terminal([quadtest.quad_bin(), "shell", str(job)], environment | {"TERM": "xterm", "PS1": "> "}, cwd=server.folder)
        self.addCleanup(shell.close)
        shell.send(f"sleep {mark}2\n")
        self.assertEqual(started["exec"].stdout.readline(), "in\n")
        self.assertRegex(started["port-forward"].stdout.readline(), "leads to port 1 ")
        wait_until(lambda: [one for one in server.folder.glob(".quad-*") if one.stat().st_size > 1_000_000], 30, "the copy has begun")
        wait_until(lambda: self.lingering(mark) == ["1", "2"], 30, "both programs run")
        return started, shell, mark

    def lingering(self, mark):
        commands = map(quadtest.command_of, quadtest.pids())
        return sorted(words[1].removeprefix(mark) for words in commands if len(words) == 2 and words[0] == "sleep" and words[1].startswith(mark))

    def expect_all_end(self, server, everybody, code, said, timeout=40):
        started, shell, mark = everybody
        for name, process in started.items():
            with self.subTest(name):
                self.expect_sentence(process, code, said, timeout)
        with self.subTest("shell"):
            self.assertEqual(shell.wait(timeout), code)
            self.assertRegex("\n".join(shell.lines()), said)
        wait_until(lambda: not self.lingering(mark), 30, "what ran there is gone")
        self.assertEqual([one.name for one in server.folder.iterdir() if one.name.startswith((".quad-", "copied"))], [])

    def test_kills(self):
        server = self.server(nodes=1, gpus="")
        job = self.running(server)
        with self.subTest("of the server"):
            all_of_them = self.everybody(server, job)
            server.kill()
            self.expect_all_end(server, all_of_them, 3, "The session broke off, and the server cannot be asked why")
            wait_until(lambda: not session_processes(server), 30, "no session is left")
            server.start()
            self.assertEqual(server.job(job)["epoch"], 1)
            wait_until(lambda: server.quad("exec", job, "--", "true")[0] == 0, 30, "the runner is back")
        with self.subTest("of the runner"):
            all_of_them = self.everybody(server, job)
            os.kill(witness.runner_of(server, job, 1, 0), signal.SIGKILL)
            self.expect_all_end(server, all_of_them, 1, f"The session ended with its rank: job {job} is|Job {job} is RUNNING")
            wait_until(lambda: server.job(job)["epoch"] == 2 and server.job(job)["status"] == "RUNNING", 60, "the job runs again")
            wait_until(lambda: server.quad("exec", job, "--", "true")[0] == 0, 30, "the second attempt's rank can be reached into")
            server.ok("cancel", job)
        with self.subTest("of the runner of a cluster's holder"):
            server.launch("true", "-c", "dev")
            holder = server.json("status", "dev")["clusters"][0]["job"]
            task = server.json("exec", "dev", "-d", "sleep 600")["job"]
            server.wait_for_status(task, "RUNNING")
            wait_until(lambda: server.quad("exec", task, "--", "true")[0] == 0, 30, "its rank can be reached into")
            all_of_them = self.everybody(server, task)
            os.kill(witness.runner_of(server, holder, 1, 0), signal.SIGKILL)
            self.expect_all_end(server, all_of_them, 1, f"The session ended with its rank: job {task} is|Job {task} is RUNNING")
            # The cluster has another attempt of its own, and the task one on that.
            wait_until(lambda: server.job(task)["epoch"] == 2 and server.job(task)["status"] == "RUNNING", 60, "the task runs again")
            cluster = server.json("status", "dev")["clusters"][0]
            self.assertEqual((cluster["status"], server.job(holder)["epoch"]), ("UP", 2), cluster)
            self.assertEqual(server.quad("exec", "dev", "exit 7")[0], 7)

    @unittest.skipIf(os.geteuid() != 0, "mounting a small disk needs root")
    def test_full_disks(self):
        server = self.server(nodes=1, gpus="")
        for name in ("here", "there"):
            (server.folder / name).mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "quad-test", server.folder / name], check=True)
            self.addCleanup(subprocess.run, ["umount", "-l", server.folder / name], check=True)
            (server.folder / name / "file").write_text("old")
        tree = server.folder / "tree"
        tree.mkdir()
        for number in range(12):
            (tree / f"{number:02}").write_bytes(b"x" * 200_000)
        (server.folder / "big").write_bytes(b"x" * 3_000_000)
        job = self.running(server)
        here, there = server.folder / "here", server.folder / "there"
        for source, target, place, on_rank in (
            ("big", f"{job}:{there}/file", there, True),
            ("tree", f"{job}:{there}/tree", there, True),
            (f"{job}:{server.folder}/big", here / "file", here, False),
            (f"{job}:{tree}", here / "tree", here, False),
        ):
            with self.subTest(f"{source} to {target}"):
                err = self.expect_sentence(self.start(server, "cp", source, target), 1, "No space left on device")
                self.assertEqual("On the rank: " in err, on_rank, err)
                self.assertIn(str(place), err)
                self.assertEqual((place / "file").read_text(), "old")
                self.assertEqual([str(one) for one in place.rglob(".quad-*")], [], "a half file")
                for one in place.glob("tree/*"):
                    self.assertEqual(one.stat().st_size, 200_000, f"{one} is half a file")
                shutil.rmtree(place / "tree", ignore_errors=True)

    def test_whoever_stands_still(self):
        """A client may, as long as it likes; a network or a rank's end may not."""
        server = self.server(nodes=1, gpus="")
        job = self.running(server)
        # Clients that stop, as those in a pipe with a pager do, while more waits for them than fits anywhere, and at the end.
        long = self.start(server, "exec", job, "--", "seq", "5000000")
        short = self.start(server, "exec", job, "--", "sh", "-c", "read line; seq 100000; touch printed; exit 7", stdin=subprocess.PIPE)
        unread = self.start(server, "exec", job, "--", "seq", "5000001")
        self.assertEqual([long.stdout.readline(), unread.stdout.readline()], ["1\n", "1\n"])
        os.kill(long.pid, signal.SIGSTOP)
        wait_until(lambda: len(session_processes(server)) == 3, 30, "the sessions are there")
        short.stdin.write("go\n")
        short.stdin.close()
        os.kill(short.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        # A rank's end that stops.
        before = set(session_processes(server))
        frozen = self.start(server, "exec", job, "--", "sh", "-c", "echo in; sleep 6543210")
        self.assertEqual(frozen.stdout.readline(), "in\n")
        (its_end,) = set(session_processes(server)) - before
        os.kill(its_end, signal.SIGSTOP)
        # A network that stops: nothing is closed, and nothing comes.
        proxy = Proxy(server)
        self.addCleanup(proxy.close)
        cut = self.everybody(server, job, QUAD_SERVER=proxy.url, QUAD_TOKEN=server.token)
        proxy.still = True
        resident = quadtest.resident_kib(server.process.pid)
        self.expect_sentence(frozen, 1, "The other end has not answered for 30 s", 90)
        for name, process in cut[0].items():
            with self.subTest(name):
                self.expect_sentence(process, 3, "The session broke off, and the server cannot be asked why", 90)
        self.assertEqual(cut[1].wait(90), 3)
        proxy.close()  # the network knows at last that they are gone
        wait_until(lambda: not self.lingering(cut[2]), 30, "what ran there is gone")
        os.kill(its_end, signal.SIGCONT)
        wait_until(lambda: not quadtest.is_alive(its_end), 30, "it sees that its client has gone")
        self.assertNotIn(["sleep", "6543210"], map(quadtest.command_of, quadtest.pids()))
        self.assertGreater(time.monotonic() - stopped_at, 40)
        self.assertLess(quadtest.resident_kib(server.process.pid) - resident, 16 * 1024)
        for process, code, least in ((long, 0, 5000000), (unread, 0, 5000001), (short, 7, 100000)):
            os.kill(process.pid, signal.SIGCONT)
            lines = process.stdout.read().splitlines()
            self.assertEqual((process.wait(60), lines[-1]), (code, str(least)), process.stderr.read())


if __name__ == "__main__":
    unittest.main()
