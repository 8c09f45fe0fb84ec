"""Reaching into running ranks: exec, shell, cp, port-forward, and mpirun without ssh. All through the runner."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import quadtest
from quadtest import wait_until
from terminal import Terminal

TIMEOUT_SECONDS = 180

# Half of it closes its half of each connection first; it answers with what came, backwards.
SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0), backlog=128)
print("port", server.getsockname()[1], flush=True)
def serve(one):
    got = b""
    while piece := one.recv(65536):
        got += piece
    one.sendall(got[::-1])
    one.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


class Sessions(quadtest.TestCase):
    """One server and one running gang for all tests that harm neither."""

    @classmethod
    def setUpClass(cls):
        cls.quad_server = quadtest.Server(nodes=2)
        cls.addClassCleanup(cls.quad_server.close)
        cls.quad_server.start()
        cls.folder = cls.quad_server.folder
        run = "touch ~/sky_workdir/here; echo $SKYPILOT_NODE_RANK > rank; sleep 600"
        task = {"num_nodes": 2, "envs": {"PLAIN": "it's"}, "secrets": {"HIDDEN": "s3cr3t"}, "run": run,
                "resources": {"accelerators": "H100:1", "cpus": 1, "memory": 1}}  # fmt: skip
        cls.job = cls.quad_server.launch(task)
        cls.quad_server.wait_for_status(cls.job, "RUNNING")
        wait_until(lambda: cls.quad_server.quad("exec", cls.job, "--rank", 1, "--", "cat", "rank")[0] == 0, 30, "both ranks run")
        wait_until(lambda: cls.quad_server.quad("exec", cls.job, "--", "cat", "rank")[0] == 0, 30, "both ranks run")

    def command(self, *words):
        return [quadtest.quad_bin(), *map(str, words)]

    def quad(self, *words, **more):
        return self.quad_server.quad(*words, **more)

    def start(self, *words, **more):
        process = subprocess.Popen(self.command(*words), env=self.quad_server.environment(), cwd=self.folder, **more)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait()))
        return process

    def terminal(self, *words, **more):
        terminal = Terminal(self.command(*words), self.quad_server.environment(TERM="xterm", PS1="> "), **more)
        self.addCleanup(terminal.close)
        return terminal

    # exec

    @quadtest.quick
    def test_exec_has_the_programs_streams_and_exit_code(self):
        code, out, err = self.quad("exec", self.job, "--", "sh", "-c", "cat; echo out; echo err >&2; exit 7", input="in\n")
        self.assertEqual((code, out, err), (7, "in\nout\n", "err\n"))
        self.assertEqual(self.quad("exec", self.job, "--", "sh", "-c", "kill -9 $$")[0], 128 + 9)
        code, _, err = self.quad("exec", self.job, "--", "no-such-program")
        self.assertEqual((code, err), (127, "error: there is no program 'no-such-program' in the rank's PATH\n"))
        self.assertEqual(self.quad("exec", self.job, "--", "/etc/passwd")[0], 126)
        # Words stay words: no shell has a say.
        odd = ["a  b", "$HOME", "*", "'\"", "\\", "", "[a,b]", "caf\udce9"]
        done = subprocess.run(self.command("exec", self.job, "--", "printf", "%s\\n", *odd),
                              env=self.quad_server.environment(), stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip
        self.assertEqual(done.stdout.decode(errors="surrogateescape").split("\n")[:-1], odd, done.stderr)

    def test_exec_runs_as_the_ranks_own_processes_do(self):
        show = 'pwd; echo "$HOME"; echo "$PLAIN $HIDDEN $SKYPILOT_NODE_RANK/$SKYPILOT_NUM_NODES $CUDA_VISIBLE_DEVICES"; cat rank; ls /proc'
        for rank in (0, 1):
            out = self.quad_server.ok("exec", self.job, "--rank", rank, "--", "sh", "-c", show).splitlines()
            self.assertEqual(out[0], out[1] + "/sky_workdir")
            self.assertRegex(out[2], rf"^it's s3cr3t {rank}/2 \d$")
            self.assertEqual(out[3], str(rank))
            if os.geteuid() == 0:  # a PID namespace: the machine's processes are not seen
                self.assertLess(sum(name.isdigit() for name in out[4:]), 20)
        rest = [out for out in self.quad_server.ok("story", self.job).splitlines() if "session" in out]
        self.assertEqual(rest, [], "a story tells of the job")

    def test_exec_carries_fifty_megabytes_both_ways_while_both_ends_are_slow(self):
        data = random.Random(7).randbytes(50_000_000)
        process = self.start("exec", self.job, "--", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        server = self.quad_server.process.pid
        before = quadtest.resident_kib(server)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            pool.submit(lambda: (process.stdin.write(data), process.stdin.close()))
            # Nothing is read until nothing moves any more: the windows are full, and nobody's memory grows.
            seen = []

            def stands():
                seen.append(sum(int(line.split()[1]) for line in Path(f"/proc/{process.pid}/io").read_text().splitlines()[:2]))
                return seen[-1] > 2_000_000 and len(seen) > 10 and len(set(seen[-10:])) == 1

            wait_until(stands, 60, "the windows are full")
            if not quadtest.is_sanitized():
                self.assertLess(quadtest.resident_kib(server) - before, 16 * 1024)
                for pid in [process.pid, *quadtest.processes_of(str(self.quad_server.data), "quad-runner")]:
                    self.assertLess(quadtest.resident_kib(pid), 48 * 1024, quadtest.command_of(pid))
            got = process.stdout.read()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(data).digest())

    def test_a_reader_that_leaves_ends_the_writer(self):
        process = self.start("exec", self.job, "--", "yes", stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.read(2), b"y\n")
        process.stdout.close()
        self.assertEqual(process.wait(30), 128 + signal.SIGPIPE)

    def test_a_signal_reaches_the_program(self):
        run = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
        process = self.start("exec", self.job, "--", "bash", "-c", run, stdout=subprocess.PIPE,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.stdout.read(), b"caught\n")
        self.assertEqual(process.wait(30), 9)

    def test_a_client_that_is_killed_takes_its_program_with_it_but_no_daemon(self):
        mark = f"86{random.randrange(10**6):06}"
        run = f"setsid -f sleep {mark}1; sleep {mark}2 & echo ready; sleep {mark}3"
        process = self.start("exec", self.job, "--", "sh", "-c", run, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")

        def alive():
            found = {n for n in "123" for pid in quadtest.pids()
                     if f"{mark}{n}" in quadtest.command_of(pid) and "sh" not in quadtest.command_of(pid)}  # fmt: skip
            return "".join(sorted(found))

        wait_until(lambda: alive() == "123", 30, "all run")
        process.kill()
        wait_until(lambda: alive() == "1", 30, "what was in the foreground is gone")
        for pid in quadtest.pids():
            if f"{mark}1" in quadtest.command_of(pid):
                os.kill(pid, signal.SIGKILL)

    # shell

    def test_shell_is_a_terminal_with_its_size_and_control_c(self):
        shell = self.terminal("shell", self.job, columns=91, rows=33)
        shell.send("stty size; echo term $TERM; tty; pwd\n")
        shell.wait_for(r"^33 91$")
        shell.wait_for(r"^term xterm$")
        shell.wait_for(r"^/dev/pts/\d+$")
        shell.wait_for(r"/sky_workdir$")
        shell.resize(70)
        wait_until(lambda: (shell.send("stty size\n"), time.sleep(0.1), any(line == "33 70" for line in shell.lines()))[2], 30,
                   "the new size is known")  # fmt: skip
        shell.send("sleep 987; echo unreached\n")
        wait_until(lambda: any("987" in quadtest.command_of(pid) for pid in quadtest.pids()), 30, "it sleeps")
        shell.send("\x03")
        shell.send("echo back $?\n")
        shell.wait_for(r"^back 130$")
        self.assertNotIn("unreached", shell.lines())
        shell.send("exit 5\n")
        self.assertEqual(shell.wait(), 5)

    def test_a_terminal_is_as_before_whatever_ends_the_shell(self):
        fresh = os.openpty()
        before = termios.tcgetattr(fresh[0])
        for fd in fresh:
            os.close(fd)
        for ending in ("exit", "kill"):
            with self.subTest(ending):
                shell = self.terminal("shell", self.job)
                shell.send("echo $((40 + 2))\n")
                shell.wait_for("^42$")
                self.assertNotEqual(termios.tcgetattr(shell.master), before, "it is raw meanwhile")
                if ending == "exit":
                    shell.send("exit\n")
                else:
                    shell.process.terminate()
                shell.wait()
                self.assertEqual(termios.tcgetattr(shell.master), before)

    def test_a_shell_needs_a_terminal(self):
        code, _, err = self.quad("shell", self.job)
        self.assertEqual(code, 2)
        self.assertIn("terminal", err)
        self.assertEqual(self.quad("exec", "-t", self.job, "--", "true")[0], 2)

    # cp

    def test_cp_brings_a_tree_there_and_back(self):
        tree = self.folder / "tree"
        (tree / "sub" / "empty").mkdir(parents=True)
        (tree / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
        (tree / "sub" / "run.sh").chmod(0o751)
        (tree / "sub").chmod(0o710)
        (tree / "link").symlink_to("sub/run.sh")
        (tree / "big").write_bytes(random.Random(1).randbytes(5_000_000))
        os.utime(tree / "big", (1_600_000_000, 1_600_000_000))
        self.quad_server.ok("cp", tree, f"{self.job}/1:there")
        self.assertEqual(self.quad_server.ok("exec", self.job, "--rank", 1, "--", "there/sub/run.sh"), "ran\n")
        self.quad_server.ok("cp", f"{self.job}/1:there", self.folder / "back")
        for path in ("sub", "sub/empty", "sub/run.sh", "big"):
            self.assertEqual(mode(self.folder / "back" / path), mode(tree / path), path)
        self.assertEqual((self.folder / "back/big").read_bytes(), (tree / "big").read_bytes())
        self.assertEqual((self.folder / "back/big").stat().st_mtime, 1_600_000_000)
        self.assertEqual(os.readlink(self.folder / "back/link"), "sub/run.sh")
        # Into a folder that is there, as cp does; and files.
        self.quad_server.ok("cp", f"{self.job}/1:there/sub", self.folder / "back")
        self.assertTrue((self.folder / "back/sub/run.sh").exists())
        self.quad_server.ok("cp", tree / "big", f"{self.job}:")
        self.quad_server.ok("cp", f"{self.job}:~/sky_workdir/big", "renamed")
        self.assertEqual((self.folder / "renamed").read_bytes(), (tree / "big").read_bytes())

    def test_cp_says_what_is_wrong(self):
        (self.folder / "x").write_text("x")
        for words, code, said in (
            (("x", "y"), 2, "on a rank"),
            ((f"{self.job}:x", f"{self.job}:y"), 2, "on a rank"),
            (("absent", f"{self.job}:"), 2, "absent"),
            ((f"{self.job}:absent", "."), 1, "absent"),
            (("x", f"{self.job}:absent/y"), 1, "absent"),
            (("x", f"{self.job}:absent/"), 1, "absent"),
            (("x", f"{self.job}/7:"), 4, "ranks 0 to 1"),
            (("x", "999:"), 4, "999"),
        ):
            with self.subTest(words):
                found, out, err = self.quad("cp", *words)
                self.assertEqual((found, out), (code, ""), err)
                self.assertIn(said, err)
        self.assertEqual((self.folder / "x").read_text(), "x")

    def test_cp_that_breaks_off_leaves_the_old_file_and_fails(self):
        (self.folder / "target").write_text("old")
        self.quad_server.ok("exec", self.job, "--", "sh", "-c", "mkdir -p slow; truncate -s 3G slow/file")
        copy = self.start("cp", f"{self.job}:slow/file", "target", stderr=subprocess.PIPE, text=True)
        wait_until(lambda: [one for one in self.folder.glob(".quad-*") if one.stat().st_size > 1_000_000], 30, "it has begun")
        for pid in quadtest.processes_of(str(self.quad_server.data), "quad-runner"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # some end just now
                if Path(f"/proc/{pid}/comm").read_text() == "quad-session\n":
                    os.kill(pid, signal.SIGKILL)
        self.assertEqual(copy.wait(30), 1)
        self.assertIn("broke off", copy.stderr.read())
        self.assertEqual((self.folder / "target").read_text(), "old")
        self.assertEqual(list(self.folder.glob(".quad-*")), [])

    def test_cp_never_follows_a_link_out_of_its_target(self):
        outside = self.folder / "outside"
        outside.mkdir()
        target = self.folder / "inside"
        target.mkdir()
        (target / "evil").symlink_to(outside)
        self.quad_server.ok("exec", self.job, "--", "sh", "-c", "mkdir -p box/evil; echo x > box/evil/file")
        code, _, err = self.quad("cp", f"{self.job}:box/.", target)
        self.assertEqual(code, 1)
        self.assertIn("evil", err)
        self.assertEqual(list(outside.iterdir()), [])

    # port-forward

    def forward(self, *words):
        process = self.start("port-forward", self.job, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found = re.match(r"127\.0\.0\.1:(\d+) leads to port", process.stdout.readline())
        self.assertTrue(found)
        return process, int(found[1])

    def test_port_forward_carries_fifty_connections_at_once(self):
        server = self.start("exec", self.job, "--", sys.executable, "-c", SERVER, stdout=subprocess.PIPE, text=True)
        remote = int(server.stdout.readline().split()[1])
        forward, local = self.forward(f"0:{remote}")
        barrier = threading.Barrier(50)

        def talk(number):
            data = random.Random(number).randbytes(300_000)
            with socket.create_connection(("127.0.0.1", local), timeout=60) as one:
                barrier.wait(60)  # all are open before any has said anything
                one.sendall(data)
                one.shutdown(socket.SHUT_WR)
                got = b""
                while piece := one.recv(65536):
                    got += piece
            return got == data[::-1]

        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            self.assertEqual(list(pool.map(talk, range(50))), [True] * 50)
        # A connection that is reset here is gone there, and the rest goes on.
        one = socket.create_connection(("127.0.0.1", local))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        barrier = threading.Barrier(1)
        self.assertTrue(talk(1))
        forward.send_signal(signal.SIGTERM)
        self.assertEqual(forward.wait(30), 128 + signal.SIGTERM)

    def test_port_forward_says_that_nobody_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            free = taken.getsockname()[1]
            code, _, err = self.quad("port-forward", self.job, f"{free}:80")
            self.assertEqual(code, 1, err)
        forward, local = self.forward(f"0:{free}")
        with socket.create_connection(("127.0.0.1", local), timeout=30) as one:
            try:
                self.assertEqual(one.recv(1), b"")
            except ConnectionResetError:
                pass
        self.assertIn(str(free), forward.stderr.readline())
        self.assertEqual(self.quad("port-forward", self.job, "x:80")[0], 2)

    # rights, and the audit trail

    def test_only_the_owner_and_administrators_may(self):
        tokens = {}
        for user, role in (("eve", "user"), ("vera", "viewer")):
            tokens[user] = self.quad_server.json("token", "create", user, "--role", role)["token"]
        for user, token in tokens.items():
            env = {"QUAD_SERVER": self.quad_server.url, "QUAD_TOKEN": token}
            code, out, err = self.quad("exec", self.job, "--", "id", env=env)
            self.assertEqual((code, out), (1, ""), err)
            self.assertIn("belongs to", err)
            self.assertEqual(self.quad("cp", f"{self.job}:rank", "stolen", env=env)[0], 1)
        own = self.quad_server.json("launch", "-d", "sleep 600", env={"QUAD_SERVER": self.quad_server.url, "QUAD_TOKEN": tokens["eve"]})
        env = {"QUAD_SERVER": self.quad_server.url, "QUAD_TOKEN": tokens["eve"]}
        self.quad_server.wait_for_status(own["job"], "RUNNING")
        self.assertEqual(self.quad_server.ok("exec", own["job"], "--", "echo", "mine", env=env), "mine\n")
        # A token that is revoked ends what it opened.
        shell = subprocess.Popen(self.command("exec", own["job"], "--", "sh", "-c", "echo on; sleep 600"), env=self.quad_server.environment(**env),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        self.assertEqual(shell.stdout.readline(), "on\n")
        listed = self.quad_server.json("token", "list")["tokens"]
        self.quad_server.ok("token", "revoke", next(one["id"] for one in listed if one["user"] == "eve"))
        self.assertNotEqual(shell.wait(30), 0)
        shell.stdout.close()
        shell.stderr.close()
        self.quad_server.ok("cancel", own["job"])
        events = [one for one in map(json.loads, self.quad_server.ok("events", "-o", "json", "--job", own["job"]).splitlines())
                  if one["kind"].startswith("session.")]  # fmt: skip
        self.assertEqual([one["kind"] for one in events[:2]], ["session.began", "session.ended"])
        self.assertEqual({one["actor"] for one in events}, {"eve"})
        self.assertNotIn("mine", str(events), "what was run is not on record")

    def test_a_rank_reaches_only_its_own_attempt(self):
        runner = os.environ.get("QUAD_RUNNER", str(Path(quadtest.quad_bin()).with_name("quad-runner")))
        agent = ["exec", self.job, "--", runner, "rsh"]
        ips = self.quad_server.ok("exec", self.job, "--", "sh", "-c", "echo $SKYPILOT_NODE_IPS").split()
        code, out, err = self.quad(*agent, ips[1], "echo", "$SKYPILOT_NODE_RANK", "'a  b'")
        self.assertEqual((code, out), (0, "1 a  b\n"), err)
        self.assertEqual(self.quad(*agent, "rank-1", "exit 3")[0], 3)
        code, _, err = self.quad(*agent, "127.64.0.99", "true")
        self.assertEqual(code, 255)
        self.assertIn("127.64.0.99", err)
        # Another attempt's token is no token.
        other = self.quad_server.launch("sleep 600")
        self.quad_server.wait_for_status(other, "RUNNING")
        self.addCleanup(self.quad_server.quad, "cancel", other)
        start = next(self.quad_server.data.glob(f"**/{other}-1-0/start.json"))
        token = json.loads(start.read_text())["token"]
        host = self.quad_server.url.partition("//")[2]
        for path in (f"/v1/runner/reach?job={self.job}&epoch=1&rank=0&host={ips[0]}", f"/v1/jobs/{self.job}/session"):
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}", "Connection": "Upgrade", "Upgrade": "quad-session/1"})
            self.assertEqual(connection.getresponse().status, 401, path)
            connection.close()

    def test_a_job_that_does_not_run_says_so(self):
        ended = self.quad_server.launch("true")
        self.quad_server.wait_for_status(ended, "SUCCEEDED")
        waiting = self.quad_server.launch({"resources": {"accelerators": "H100:8"}, "num_nodes": 2, "run": "true"})
        self.addCleanup(self.quad_server.quad, "cancel", waiting)
        for job, said in ((ended, "has ended (SUCCEEDED)"), (waiting, "is PENDING")):
            for words in (("exec", job, "--", "true"), ("cp", f"{job}:x", "."), ("port-forward", job, "0:80")):
                code, _, err = self.quad(*words)
                self.assertEqual(code, 1, words)
                self.assertIn(f"Job {job} {said}", err)

    # mpirun

    def test_mpirun_runs_on_both_ranks_without_ssh(self):
        if not shutil.which("mpirun"):
            self.skipTest("mpirun is not installed (openmpi-bin)")
        # Neither ssh nor rsh is in this PATH.
        path = self.folder / "bin"
        path.mkdir()
        for name in os.listdir("/usr/bin"):
            if name not in ("ssh", "rsh"):
                (path / name).symlink_to(f"/usr/bin/{name}")
        run = f"""
export PATH={path} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [ "$SKYPILOT_NODE_RANK" = 0 ]; then
  mpirun --hostfile $QUAD_HOSTFILE --map-by ppr:2:node sh -c 'echo world $OMPI_COMM_WORLD_RANK on $QUAD_RANK_KEY'; code=$?
  mpirun --hostfile $QUAD_HOSTFILE --map-by ppr:1:node sh -c 'touch ~/finished'
  exit $code
fi
until [ -e ~/finished ]; do sleep 0.1; done
"""
        job = self.quad_server.launch({"num_nodes": 2, "run": run, "resources": {"accelerators": "H100:2", "cpus": 2, "memory": 1}})
        self.quad_server.wait_for_status(job, "SUCCEEDED", timeout=90)
        found = re.findall(r"world (\d) on (\S+)", self.quad_server.ok("logs", job))
        self.assertEqual(sorted(found), [(str(n), f"{job}-1-{n // 2}") for n in range(4)])


class Endings(quadtest.TestCase):
    """What ends while somebody is inside."""

    def begin(self, server, job):
        process = subprocess.Popen([quadtest.quad_bin(), "exec", str(job), "--", "sh", "-c", "echo in; sleep 600"],
                                   env=server.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait()))
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.assertEqual(process.stdout.readline(), "in\n")
        return process

    def test_the_jobs_end_and_the_servers_end(self):
        server = self.server(nodes=1)
        stop = server.folder / "stop"
        job = server.launch(f"while [ ! -e {stop} ]; do sleep 0.05; done")
        server.wait_for_status(job, "RUNNING")
        with self.subTest("the server is killed"):
            process = self.begin(server, job)
            server.kill()
            self.assertEqual(process.wait(30), 3)
            self.assertIn("The session broke off", process.stderr.read())
            server.start()
            view = server.wait_for_status(job, "RUNNING")
            self.assertEqual(len(view["attempts"]), 1, "the rank lives on")
        with self.subTest("the job ends by itself"):
            wait_until(lambda: server.quad("exec", job, "--", "true")[0] == 0, 30, "the runner is back")
            process = self.begin(server, job)
            stop.touch()
            self.assertEqual(process.wait(30), 1)
            self.assertRegex(process.stderr.read(), rf"The session ended with its rank: job {job} is|Job {job} is RUNNING")
            server.wait_for_status(job, "SUCCEEDED")
        with self.subTest("the job is cancelled; the session holds it up no longer than the program needs"):
            job = server.launch("sleep 600")
            server.wait_for_status(job, "RUNNING")
            process = self.begin(server, job)
            server.ok("cancel", job)
            # The stop reaches the program and its session at once, and either may be the first to end.
            code, err = process.wait(30), process.stderr.read()
            self.assertTrue(code == 128 + signal.SIGTERM or (code != 0 and "stopped" in err), f"{code}: {err}")
            server.wait_for_status(job, "CANCELLED", timeout=20)
        self.assertEqual(server.rank_pids("sleep"), {})


if __name__ == "__main__":
    import unittest

    unittest.main()
