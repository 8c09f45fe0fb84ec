"""What end-to-end tests share: a real server in a temporary folder, bounded waiting, and a look at processes.

    class Recovery(quadtest.TestCase):
        @quadtest.quick
        def test_a_job_runs(self):
            server = self.server(nodes=2)
            job = server.launch({"run": "echo hello"})
            server.wait_for_status(job, "SUCCEEDED")

Started as a program by tests/run.py, it runs one file of tests and writes what came of each as a line of JSON.
"""

import argparse
import contextlib
import faulthandler
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


def quad_bin():
    default = Path(__file__).resolve().parents[2] / "build" / "release" / "bin" / "quad"
    return os.environ.get("QUAD_BIN", str(default))


@functools.cache
def is_sanitized(program=None):
    """Whether a program (else quad) is built with a sanitizer: it keeps freed memory for a while, and must be loaded
    first."""
    program = Path(program or quad_bin()).read_bytes()
    return b"__asan_init" in program or b"__tsan_init" in program


def cache_folder():
    """Where ./dev keeps what it got from elsewhere."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quad"


def quick(test):
    """Marks a test, or a class of them, for `./dev test --quick`: a few seconds, and worth it at every change."""
    test.quick = True
    return test


def wait_until(predicate, timeout, what, every=0.05):
    """Returns the first true value of `predicate()`; fails with `what` in its text after `timeout` seconds.

    A predicate may raise AssertionError to say why it is not yet true; the last reason is told."""
    deadline = time.monotonic() + timeout
    reason = ""
    while True:
        try:
            value = predicate()
            if value:
                return value
        except AssertionError as error:
            reason = f" ({error})"
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout} s in vain until {what}{reason}")
        time.sleep(every)


# Processes, by the kernel's word.


def _stat(pid):
    """The fields of /proc/PID/stat after the command's name, or None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_alive(pid):
    """Whether the process exists and is not a zombie."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def start_time(pid):
    """With the id, what tells a process from a later one that got the same id; None if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def resident_kib(pid):
    """Its resident memory."""
    return int(next(line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line))


def children_of(pid):
    return [p for p in pids() if (fields := _stat(p)) and int(fields[1]) == pid]


def descendants_of(pid):
    found, open_ = [], [pid]
    while open_:
        below = children_of(open_.pop())
        found += below
        open_ += below
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def processes_of(text, command=""):
    """Live processes with `text` in their environment, arguments or working folder, and `command` in their arguments."""
    needle, found = text.encode(), []
    for pid in pids():
        if pid == os.getpid() or not is_alive(pid):
            continue
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            if command.encode() not in arguments:
                continue
        except OSError:
            continue
        told = arguments
        with contextlib.suppress(OSError):  # of a server and a runner these are root's
            told += Path(f"/proc/{pid}/environ").read_bytes() + os.readlink(f"/proc/{pid}/cwd").encode()
        if needle in told:
            found.append(pid)
    return found


def kill_all_of(folder):
    """Kills every process that has to do with the folder, until none is left."""
    for _ in range(100):
        left = processes_of(folder)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


class Server:
    """`quad serve` on the local engine, in a folder of its own."""

    def __init__(self, nodes=2, gpus="H100:8", options=(), folder=None):
        self.folder = Path(folder or tempfile.mkdtemp(prefix="quad-"))
        self.data = self.folder / "data"
        self.options = ["--nodes", str(nodes), *(["--gpus", gpus] if gpus else []), *options]
        self.prefix = []  # of the server's command, such as prlimit
        self.port = 0  # any free one; None: the same again after a restart
        self.process = None
        self.log_path = self.folder / "server.log"

    # The server's own life.

    def start(self, timeout=20):
        self.start_unready()
        return self.wait_until_ready(timeout)

    def start_unready(self):
        assert self.process is None, "the server runs already"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, quad_bin(), "serve", "--data-dir", str(self.data), *self.options,
                 *([] if self.port is None else ["--port", str(self.port)])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
            )  # fmt: skip

    def wait_until_ready(self, timeout=20):
        try:
            wait_until(self._is_ready, timeout, "the server is ready", every=0.01)
        except AssertionError as error:
            raise AssertionError(f"{error}; its log ends with:\n{self.log_tail()}") from None
        return self

    def _is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with {self.process.returncode}; its log:\n{self.log_tail()}")
        try:
            return self.info()["pid"] == self.process.pid
        except (FileNotFoundError, ValueError):
            return False

    def info(self):
        return json.loads((self.data / "server.json").read_text())

    @property
    def url(self):
        return self.info()["url"]

    @property
    def token(self):
        return (self.data / "admin.token").read_text().strip()

    def stop(self, timeout=20):
        """Asks it to end, which leaves the ranks running; returns its exit code."""
        self.process.terminate()
        code = self.process.wait(timeout)
        self.process = None
        return code

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self):
        if self.process:
            self.stop()
        return self.start()

    def close(self):
        """Ends everything that was started here, ranks too."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        kill_all_of(str(self.folder))

    def log_tail(self, lines=40):
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(none)"

    # The command line.

    def environment(self, **more):
        return os.environ | {"QUAD_DATA_DIR": str(self.data), "NO_COLOR": "1", **more}

    def quad(self, *args, input="", timeout=60, cwd=None, env=None):
        """Runs `quad ARGS`; returns its exit code, output and errors."""
        done = subprocess.run(
            [quad_bin(), *map(str, args)], input=input, capture_output=True, text=True, timeout=timeout,
            cwd=cwd or self.folder, env=self.environment(**(env or {})),
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def ok(self, *args, **more):
        """As quad(), but it must succeed; returns its output."""
        code, out, err = self.quad(*args, **more)
        assert code == 0, f"quad {' '.join(map(str, args))} ended with {code}:\n{err}{out}"
        return out

    def json(self, *args, **more):
        out = self.ok(*args, "-o", "json", **more)
        try:
            return json.loads(out)
        except ValueError:
            raise AssertionError(f"quad {' '.join(map(str, args))} -o json printed no JSON:\n{out}") from None

    # Jobs.

    def launch(self, task, *args, **more):
        """Submits a task, given as a dict, YAML text or a path, without waiting for it; returns the job's id."""
        if isinstance(task, dict):
            task = json.dumps(task)  # which is YAML too
        if isinstance(task, str) and (":" in task or "\n" in task):
            text, number = task, len(list(self.folder.glob("task-*.yaml")))
            task = self.folder / f"task-{number}.yaml"
            task.write_text(text)
        return self.json("launch", "-d", "-y", *args, task, **more)["job"]

    def job(self, job):
        """The job as `quad status` tells it."""
        found = [one for one in self.json("status", job)["jobs"] if one["id"] == job]
        assert found, f"quad status does not know job {job}"
        return found[0]

    def wait_for_status(self, job, *statuses, timeout=60):
        """Waits until the job has one of the statuses; fails at once if it has ended with another."""

        def reached():
            now = self.job(job)
            if now["status"] not in statuses and now["status"] in TERMINAL:
                raise RuntimeError(f"job {job} ended as {now['status']}:\n{self.describe(job)}")
            assert now["status"] in statuses, f"it is {now['status']}"
            return now

        try:
            return wait_until(reached, timeout, f"job {job} is {' or '.join(statuses)}")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.describe(job)}") from None

    def describe(self, job):
        """All there is to say of a job, for the text of a failure."""
        parts = [self.quad("story", job), self.quad("logs", job, "--no-follow")]
        return "\n".join(out + err for _, out, err in parts) + f"\nserver's log:\n{self.log_tail()}"

    def rank_pids(self, command):
        """{pid: start time} of this server's live rank processes with `command` in their arguments."""
        return {pid: start_time(pid) for pid in processes_of(str(self.data), command)}


    def kill_runners(self):
        """kill -9 of every runner; their ranks die with them."""
        for pid in processes_of(str(self.data), "quad-runner"):
            with contextlib.suppress(ProcessLookupError):  # some die with others
                os.kill(pid, signal.SIGKILL)


class TestCase(unittest.TestCase):
    def server(self, *args, start=True, **more):
        """A server that ends with the test."""
        server = Server(*args, **more)
        self.addCleanup(server.close)
        return server.start() if start else server


# As a program: one file of tests, its results as JSON lines.


class _Recorder(unittest.TextTestResult):
    results = None

    def _write(self, test, what, **more):
        self.results.write(json.dumps({"test": test.id(), "what": what, "at": time.monotonic(), **more}) + "\n")
        self.results.flush()

    def startTest(self, test):
        super().startTest(test)
        self.subtest_failed = False
        self._write(test, "start")

    def addSuccess(self, test):
        super().addSuccess(test)
        self._write(test, "pass")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._write(test, "fail")

    def addError(self, test, err):
        super().addError(test, err)
        self._write(test, "fail")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err and not self.subtest_failed:
            self.subtest_failed = True
            self._write(test, "fail")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._write(test, "skip", reason=reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self._write(test, "pass")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._write(test, "fail")


def _tests_in(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _tests_in(test)
        else:
            yield test


def _is_wanted(test, args):
    if args.k and not any(pattern.lower() in test.id().lower() for pattern in args.k):
        return False
    method = getattr(test, getattr(test, "_testMethodName", ""), None)
    return not args.quick or getattr(method, "quick", False) or getattr(type(test), "quick", False)


def _main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("timeout", type=float)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-k", action="append", default=[])
    args = parser.parse_args()

    faulthandler.dump_traceback_later(args.timeout, exit=True)
    sys.modules["quadtest"] = sys.modules["__main__"]
    spec = importlib.util.spec_from_file_location(args.file.stem, args.file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(spec.origin).parent))  # for what stands beside it
    spec.loader.exec_module(module)
    tests = _tests_in(unittest.defaultTestLoader.loadTestsFromModule(module))
    suite = unittest.TestSuite(test for test in tests if _is_wanted(test, args))
    with open(args.results, "a", encoding="utf-8") as results:
        _Recorder.results = results
        result = unittest.TextTestRunner(resultclass=_Recorder, verbosity=2).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(_main())
