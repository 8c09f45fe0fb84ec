"""A machine that misbehaves: full disks, clocks that jump, files that are gone, garbage on every door."""

import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import quadapi
import quadtest

TIMEOUT_SECONDS = 300

# Loaded before the C library: the time of day is shifted by the seconds that a file holds. The monotonic clock is left.
CLOCK = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift() {
  char text[32] = {};
  const char* path = getenv("CLOCK_SHIFT_FILE");
  const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return 0;
  if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
  close(fd);
  return atol(text);
}
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int code = static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += shift();
  return code;
}
extern "C" int gettimeofday(timeval* time, void*) noexcept {
  timespec now;
  const int code = clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return code;
}
extern "C" time_t time(time_t* out) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"""


class Machine(quadtest.TestCase):
    def small_disk(self, megabytes):
        """A folder on a disk of its own."""
        folder = Path(tempfile.mkdtemp(prefix="quad-disk-"))
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "quad-test", folder],
                                 capture_output=True, text=True)  # fmt: skip
        if mounted.returncode != 0:
            self.skipTest(f"a disk cannot be mounted here: {mounted.stderr.splitlines()[0]}")
        # Cleanups run backwards: the servers on it end before.
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def expect_another_runs(self, server):
        code, out, err = server.quad("launch", "echo still $((40 + 2))")
        self.assertEqual((code, out), (0, "still 42\n"), err + server.log_tail())

    def waiting_job(self, server, run="", **task):
        """A job that runs until release() is called."""
        job = server.launch({**task, "run": run + "\necho up; until [ -e ~/go ]; do sleep 0.05; done; echo released"})
        quadtest.wait_until(lambda: "up\n" in server.ok("logs", job, "--no-follow"), 30, f"job {job} is up")
        return job

    def release(self, server, job, epoch=1):
        (next(server.data.glob(f"nodes/*/{job}-{epoch}-0/home")) / "go").touch()

    def bytes_read(self, server):
        return int(Path(f"/proc/{server.process.pid}/io").read_text().split()[1])

    def test_the_last_of_the_disk_stays_free_whatever_is_uploaded(self):
        kept = 256 << 20
        server = self.server(nodes=1, gpus="", folder=self.small_disk(320))
        token = server.token
        free_then = []

        def upload(length, content):
            """Sends up to `length` bytes, in chunks that do not say how many there will be, or as promised."""
            with quadapi.Raw(server, timeout=120) as raw:
                how = "Transfer-Encoding: chunked" if content is None else f"Content-Length: {length}"
                raw.send(f"PUT /v1/blobs/{'a' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{how}\r\n\r\n".encode())
                try:
                    for _ in range(length >> 20):
                        raw.send(bytes(1 << 20) if content else b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                        free_then.append(os.statvfs(server.data).f_bavail * os.statvfs(server.data).f_frsize)
                except OSError:
                    pass
                return raw.read_answer().text

        answer = upload(100 << 20, None)
        self.assertIn("disk has no room", answer)
        several = [threading.Thread(target=upload, args=(24 << 20, how)) for how in (None, True) * 4]
        for one in several:
            one.start()
        for one in several:
            one.join()
        self.assertGreaterEqual(min(free_then), kept)
        self.assertGreater(len(free_then), 60, "much of it was taken")
        self.assertEqual(list((server.data / "blobs").iterdir()), [], "what was refused is gone")
        self.expect_another_runs(server)

    def test_uploads_that_were_cut_off_by_a_kill_are_swept(self):
        server = self.server(nodes=1, gpus="")
        whole = b"whole" * 1000
        name = hashlib.sha256(whole).hexdigest()
        self.assertEqual(quadapi.Api(server).request("PUT", f"/v1/blobs/{name}", whole).status, 201)
        begun = []
        for number in range(3):
            raw = quadapi.Raw(server)
            self.addCleanup(raw.socket.close)
            raw.send(f"PUT /v1/blobs/{str(number) * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
                     "Content-Length: 50000000\r\n\r\n".encode() + bytes(3 << 20))  # fmt: skip
            begun.append(raw)
        blobs = server.data / "blobs"
        quadtest.wait_until(lambda: len(list(blobs.iterdir())) == 4, 30, "the uploads are under way")
        server.kill()
        self.assertEqual(len(list(blobs.iterdir())), 4)
        server.start()
        self.assertEqual([file.name for file in blobs.iterdir()], [name])

    def test_a_full_disk(self):
        server = self.server(nodes=2, gpus="", folder=self.small_disk(48))
        job = self.waiting_job(server, "(while [ ! -e ~/go ]; do echo filling in; sleep 0.1; done) &")
        for node in ("local-1", "local-2"):
            server.ok("node", "drain", node)
        waiting = server.launch("run: echo waited\n")
        ballast = server.folder / "ballast"
        with open(ballast, "wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError:
                pass
        # What is left is too little for anything: sooner or later something is refused, and says why.
        def refused():
            code, _, err = server.quad("launch", "-d", "echo new")
            return code != 0 and err

        err = quadtest.wait_until(refused, 60, "something new is refused")
        self.assertRegex(err, r"(?i)disk .*(is full|has no room)")
        for node in ("local-1", "local-2"):
            server.ok("node", "resume", node)  # what little there is to record still finds room
        quadtest.wait_until(lambda: "disk of the data directory is full" in server.ok("why", waiting), 20, "it says what it waits for")
        self.assertEqual(server.job(waiting)["status"], "PENDING")
        self.assertEqual(server.job(job)["status"], "RUNNING", "reading goes on")
        self.assertTrue(server.rank_pids("sleep") or server.rank_pids("bash"), "the running job goes on")
        ballast.unlink()
        quadtest.wait_until(lambda: server.quad("launch", "-d", "echo new")[0] == 0, 30, "there is room again")
        self.expect_another_runs(server)
        self.release(server, job)
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.job(job)["epoch"], 1)
        self.assertTrue(server.ok("logs", job, "--no-follow").endswith("released\n"))
        self.assertIn("The store is sound", server.ok("admin", "check"))
        for one in server.json("status")["jobs"]:
            server.wait_for_status(one["id"], "SUCCEEDED")

    def test_a_job_that_fills_the_disk_ends_and_leaves_room(self):
        server = self.server(nodes=2, gpus="", folder=self.small_disk(48))
        other = self.waiting_job(server)
        job = server.launch("run: |\n  until ! dd if=/dev/zero bs=4096 >> ~/all status=none; do :; done; echo full; exit 28\n")
        server.wait_for_status(job, "FAILED")
        self.assertEqual((server.job(job)["cause"], server.job(job)["exit_code"]), ("user", 28))
        quadtest.wait_until(lambda: not list(server.data.glob(f"nodes/*/{job}-1-0")), 20, "its files are gone")
        quadtest.wait_until(lambda: server.quad("launch", "-d", "echo new")[0] == 0, 20, "its room is there again")
        self.expect_another_runs(server)
        self.release(server, other)
        server.wait_for_status(other, "SUCCEEDED")
        self.assertIn("The store is sound", server.ok("admin", "check"))

    def test_a_server_that_is_killed_on_a_full_disk_starts_there_again(self):
        server = self.server(nodes=2, gpus="", folder=self.small_disk(48))
        job = self.waiting_job(server)
        ballast = server.folder / "ballast"
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=64k", "status=none"], stderr=subprocess.DEVNULL)
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}.2", "bs=512", "status=none"], stderr=subprocess.DEVNULL)
        server.kill()
        server.log_path = Path(tempfile.mkdtemp()) / "server.log"
        # It serves, or says in a sentence that it cannot.
        try:
            server.start()
        except RuntimeError as error:
            server.process = None
            self.assertRegex(str(error), r"(?i)error: .*disk.* full|No space left")
        for path in (ballast, Path(f"{ballast}.2")):
            path.unlink(missing_ok=True)
        if server.process is None:
            server.start()
        self.release(server, job)
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.job(job)["epoch"], 1)
        self.expect_another_runs(server)

    def test_a_data_folder_that_cannot_be_written_to(self):
        folder = Path(tempfile.mkdtemp())
        data = folder / "data"
        server = self.server(nodes=1, gpus="", folder=folder)
        server.ok("launch", "echo once")
        server.stop()
        if os.geteuid() == 0:
            subprocess.run(["mount", "--bind", data, data], check=True)
            self.addCleanup(subprocess.run, ["umount", "-l", data], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", data], check=True)
        else:
            paths = [data, *data.rglob("*")]
            for path in reversed(paths):
                path.chmod(path.stat().st_mode & ~0o222)
            self.addCleanup(lambda: [path.chmod(path.stat().st_mode | 0o200) for path in paths if path.exists()])
        done = subprocess.run([quadtest.quad_bin(), "serve", "--data-dir", data, "--nodes", "1"], capture_output=True, text=True,
                              timeout=20)  # fmt: skip
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertRegex(done.stderr, rf"error: .*{data}.*([Rr]ead-only|[Pp]ermission denied)")
        code, _, err = server.quad("launch", "-d", "echo hello")
        self.assertEqual(code, 3, err)
        self.assertRegex(err, r"([Rr]ead-only|[Pp]ermission denied)")

    def test_a_data_folder_that_turns_read_only_under_a_running_server(self):
        server = self.server(nodes=2, gpus="")
        runs = self.waiting_job(server, "(while [ ! -e ~/go ]; do echo tick; sleep 0.1; done) &")
        breaks = self.waiting_job(server)
        if os.geteuid() != 0 or subprocess.run(["mount", "--bind", server.data, server.data]).returncode != 0:
            self.skipTest("a folder can be made read-only under a running server by root only")
        self.addCleanup(subprocess.run, ["umount", "-l", server.data], stderr=subprocess.DEVNULL)
        remount = ["mount", "-o", "remount,ro,bind", server.data]
        quadtest.wait_until(lambda: subprocess.run(remount).returncode == 0, 20, "no file is being written", every=0.01)
        trouble = f"{server.data} has become read-only"
        code, _, err = server.quad("launch", "-d", "echo new")
        self.assertEqual(code, 1, err)
        self.assertIn(trouble, err)
        code, _, err = server.quad("launch", "-d", "--workdir", Path(__file__).parent, "ls")
        self.assertEqual(code, 1, err)
        self.assertRegex(err, r"workdir: .*Read-only file system")
        self.assertIn(trouble, quadapi.Api(server).get("/healthz").json["trouble"])
        # What runs goes on and is seen; what loses its place waits, and is not tried to death.
        ticks = server.ok("logs", runs, "--no-follow").count("tick")
        (node,) = server.job(breaks)["nodes"]
        (runner,) = quadtest.processes_of(f"{server.data}/nodes/{node}/{breaks}-1-0", "quad-runner")[:1]
        os.kill(runner, signal.SIGKILL)
        quadtest.wait_until(lambda: trouble in server.ok("why", breaks), 30, "it says what it waits for")
        self.assertEqual(server.job(breaks)["status"], "RECOVERING")
        quadtest.wait_until(lambda: server.ok("logs", runs, "--no-follow").count("tick") > ticks, 30, "its output goes on")
        subprocess.run(["umount", "-l", server.data], check=True)
        server.wait_for_status(breaks, "RUNNING")
        self.assertNotIn("trouble", quadapi.Api(server).get("/healthz").json)
        self.expect_another_runs(server)
        self.release(server, runs)
        self.release(server, breaks, 2)
        for job, epochs in ((runs, 1), (breaks, 2)):
            server.wait_for_status(job, "SUCCEEDED")
            self.assertEqual(server.job(job)["epoch"], epochs)
        self.assertIn("The store is sound", server.ok("admin", "check"))

    def test_a_second_server_on_the_same_data_folder(self):
        server = self.server(nodes=1, gpus="")
        before = (server.data / "server.json").read_text()
        done = subprocess.run([quadtest.quad_bin(), "serve", "--data-dir", server.data, "--nodes", "1"], capture_output=True,
                              text=True, timeout=20)  # fmt: skip
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertIn(f"Another Quad server (process {server.process.pid} on ", done.stderr)
        self.assertIn(f"already works on {server.data}; stop it, or give this one another --data-dir", done.stderr)
        self.assertEqual((server.data / "server.json").read_text(), before)
        self.expect_another_runs(server)

    def test_a_clock_that_jumps(self):
        if quadtest.is_sanitized():
            self.skipTest("a sanitizer's library must be loaded before the one that shifts the clock")
        folder = Path(tempfile.mkdtemp())
        (folder / "clock.cc").write_text(CLOCK)
        subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.cc"], check=True)
        shift = folder / "shift"
        shift.write_text("0")
        for name, value in {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK_SHIFT_FILE": str(shift)}.items():
            os.environ[name] = value
            self.addCleanup(os.environ.pop, name)
        server = self.server(nodes=2, gpus="", options=("--node-lost-after", "3"), start=False)
        server.data.mkdir()
        (server.data / "config.yaml").write_text("engines: {local: {environment: [LD_PRELOAD, CLOCK_SHIFT_FILE]}}\n")
        server.start()
        job = self.waiting_job(server, quad={"max_duration": "1h"},
                               run='(while [ ! -e ~/go ]; do echo "{\\"step\\": $((++i))}" >> $QUAD_PROGRESS; sleep 0.1; done) &')  # fmt: skip
        quadtest.wait_until(lambda: server.job(job)["progress"], 20, "it tells its progress")
        first = server.job(job)
        for days in (10, -20, 3650, 0):
            new = folder / "new"
            new.write_text(str(days * 86400))
            new.replace(shift)
            events = len(server.ok("events").splitlines())
            step = server.job(job)["progress"]["step"]
            # Long enough for whatever goes by heartbeats to judge wrongly.
            until = time.monotonic() + 1.5
            quadtest.wait_until(lambda: time.monotonic() > until and server.job(job)["progress"]["step"] > step, 30, "it goes on")
            self.assertEqual({node["health"] for node in server.json("node", "list")["nodes"]}, {"ready"}, f"{days} days")
            self.assertEqual(server.job(job)["status"], "RUNNING", f"{days} days: {server.ok('story', job)}")
            self.expect_another_runs(server)
            self.assertGreater(len(server.ok("events").splitlines()), events)
        server.restart()
        self.release(server, job)
        server.wait_for_status(job, "SUCCEEDED")
        last = server.job(job)
        self.assertEqual((last["epoch"], last["submitted_at"]), (1, first["submitted_at"]))
        self.assertTrue(server.ok("logs", job, "--no-follow").endswith("released\n"))
        self.assertIn("The store is sound", server.ok("admin", "check"))

    @quadtest.quick
    def test_garbage_on_every_door(self):
        server = self.server(nodes=1, gpus="")
        info = server.info()
        host, port = info["url"].removeprefix("http://").split(":")
        pieces = [
            os.urandom(4096), b"\0" * 100_000, b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/9.9\r\n\r\n",
            b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n" + b"[" * 10,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(508),
            b"GET /v1/runner?job=1&epoch=1&rank=0&nonce=x HTTP/1.1\r\nHost: x\r\nUpgrade: quad-runner/1\r\nConnection: Upgrade\r\n"
            b"Authorization: Bearer 1.1.nonsense\r\n\r\n" + os.urandom(1000),
            b"GET /" + b"%ff%00../" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        ]  # fmt: skip
        held = []
        for piece in pieces:
            for door in ("unix", "tcp"):
                if door == "unix":
                    connection = socket.socket(socket.AF_UNIX)
                    connection.connect(info["socket"])
                else:
                    connection = socket.create_connection((host, int(port)))
                connection.settimeout(5)
                held.append(connection)
                try:
                    connection.sendall(piece)
                except OSError:
                    pass  # refused in mid-sentence
        self.expect_another_runs(server)
        for connection in held:
            try:
                answer = connection.recv(4096)
                self.assertTrue(not answer or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 505"), answer[:200])
            except (TimeoutError, ConnectionError):
                pass  # it waits for the rest
            connection.close()
        self.assertIsNone(server.process.poll(), server.log_tail())
        self.expect_another_runs(server)

    def test_a_damaged_upload_is_brought_anew(self):
        server = self.server(nodes=1, gpus="")
        folder = Path(tempfile.mkdtemp())
        (folder / "data.bin").write_bytes(os.urandom(300_000))
        (folder / "task.yaml").write_text("workdir: .\nrun: sha256sum data.bin\n")
        good = server.launch("task.yaml", cwd=folder)
        server.wait_for_status(good, "SUCCEEDED")
        blobs = list((server.data / "blobs").iterdir())
        self.assertEqual(len(blobs), 1)

        def damage(content):
            blobs[0].write_bytes(content)

        whole = blobs[0].read_bytes()
        middle = len(whole) // 2
        for content in (whole[:middle], whole[:middle] + bytes(64) + whole[middle + 64 :], b"", b"not an archive"):
            # A job that waits already has only this copy: it is told what is wrong with it.
            server.ok("node", "drain", "local-1")
            waits = server.launch("task.yaml", cwd=folder)
            damage(content)
            server.ok("node", "resume", "local-1")
            server.wait_for_status(waits, "FAILED")
            view = server.job(waits)
            self.assertRegex(view["message"], r"sky_workdir cannot be brought: .*damaged.*[Ll]aunch it again", view)
            self.assertEqual((view["cause"], view["epoch"]), ("setup", 1), view)
            # And to launch it again is all that it takes.
            again = server.launch("task.yaml", cwd=folder)
            server.wait_for_status(again, "SUCCEEDED")
            self.assertEqual(server.ok("logs", again, "--no-follow"), server.ok("logs", good, "--no-follow"))
        self.expect_another_runs(server)

    def test_an_upload_in_place_of_a_damaged_one_stays_while_that_is_still_looked_at(self):
        server = self.server(nodes=1, gpus="")
        api = quadapi.Api(server)
        content = os.urandom(1 << 20)
        target = "/v1/blobs/" + hashlib.sha256(content).hexdigest()
        blob = server.data / "blobs" / target.rpartition("/")[2]
        with open(blob, "wb") as file:
            file.truncate(1 << 30)  # which takes a while to read

        def is_read():
            return any(os.path.realpath(path) == str(blob) for path in Path(f"/proc/{server.process.pid}/fd").iterdir())

        asked = threading.Thread(target=api.request, args=("HEAD", target))
        asked.start()
        quadtest.wait_until(lambda: is_read() or not asked.is_alive(), 30, "the damaged one is looked at", every=0.002)
        self.assertEqual(api.request("PUT", target, content).status, 201)
        asked.join()
        self.assertEqual(api.get(target).body, content)
        # What the server took in itself it need not read again to know it.
        before = self.bytes_read(server)
        self.assertEqual(api.request("HEAD", target).status, 200)
        self.assertLess(self.bytes_read(server) - before, len(content) // 2)

    def test_a_hot_folder_that_is_deleted(self):
        server = self.server(nodes=2, gpus="")
        hot = server.data / "hot"
        job = self.waiting_job(server, 'echo here > $QUAD_CHECKPOINT_DIR/some.txt; echo "attempt $QUAD_EPOCH from ${QUAD_RESUME_FROM:-nothing}"')
        quadtest.wait_until(lambda: (hot / str(job) / "fence").exists(), 20, "the fence is raised")
        subprocess.run(["rm", "-rf", hot], check=True)
        self.expect_another_runs(server)
        self.assertEqual(server.job(job)["status"], "RUNNING", "no evidence against the attempt")
        server.ok("node", "fail", server.job(job)["attempts"][0]["nodes"][0])
        quadtest.wait_until(lambda: "attempt 2 from nothing\nup" in server.ok("logs", job, "--no-follow"), 30, "it begins again")
        self.release(server, job, 2)
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.job(job)["epoch"], 2)
        # A file in its place is told to whoever it concerns, and to nobody else.
        subprocess.run(["rm", "-rf", hot], check=True)
        hot.write_text("in the way")
        code, out, err = server.quad("launch", "echo runs all the same")
        if code == 0:
            self.assertIn("runs all the same", out)
        self.assertRegex(server.ok("story", job + 2) + err, r"(?i)hot.*(not a directory|file exists)")
        hot.unlink()
        self.expect_another_runs(server)
