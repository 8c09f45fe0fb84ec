"""Runs Quad's tests: the unit tests with ctest, then the end-to-end tests in tests/e2e through the real programs, and beside
them those in tests/kubernetes, on a real Kubernetes that they bring up on this machine.

The last line is always `N passed, N failed, N skipped`, over both; the exit code is 0 only if none failed and some
passed. Each end-to-end file runs in a process and a temporary folder of its own, with a time limit; whatever it left
running is killed and counts as nothing. A file may say `TIMEOUT_SECONDS = 300` for itself at its top level. Random tests
print their seed; with QUAD_SEED=N in the environment they take that one.

Files that took longest in the last run of the same build begin first, so that none is left over at the end.

The tests on Kubernetes need root, and programs that are built once from Go modules; they are skipped, with one line, where
there is no root or no way to the modules. Files that can share one cluster do (kubetest.py), one after the other. Those that
take minutes are in long_*.py, and run only with --long.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
E2E = ROOT / "tests" / "e2e"
KUBERNETES = ROOT / "tests" / "kubernetes"
sys.path[:0] = [str(E2E), str(KUBERNETES)]

import kubetest  # noqa: E402
import quadtest  # noqa: E402

DEFAULT_TIMEOUT_SECONDS = 180
FILES_AT_ONCE = 2
KEPT = ("QUAD_SEED", "QUAD_CORPUS")  # of the environment, what tests may be told
SANITIZED_TIMES = 4  # as long may a file take over a build with sanitizers


@dataclass
class Outcome:
    """What came of some tests: how many of each, and what to tell a person."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def run_unit_tests(build, pattern):
    """Runs ctest, which prints the output of what fails, and counts from the report that it writes."""
    report = build / "unit-tests.xml"
    report.unlink(missing_ok=True)
    command = ["ctest", "--test-dir", str(build), "-j2", "--quiet", "--output-junit", str(report)]
    command += ["-R", pattern] if pattern else ["--no-tests=error"]
    began = time.monotonic()
    code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    outcome = Outcome()
    if report.exists():
        for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
            name, status = case.get("name"), case.get("status")
            if status == "run":
                outcome.passed += 1
            elif status in ("notrun", "disabled") or case.find("skipped") is not None:
                # What GTEST_SKIP() was given stands in the line after "FILE:LINE: Skipped".
                said = re.search(r": Skipped\n(.+)", case.findtext("system-out", default=""))
                outcome.skipped.append(f"{name}: {said[1] if said else status}")
            else:
                outcome.failed.append(name)
                print(f"--- {name}\n{case.findtext('system-out', default='').strip()}", flush=True)
    if code != 0 and not outcome.failed:
        outcome.failed.append(f"ctest (ended with {code})")
    print(f"unit tests: {outcome} in {time.monotonic() - began:.0f} s", flush=True)
    return outcome


def is_wanted(path, patterns):
    """Whether a test of the file may have a name that holds one of the patterns."""
    text = (path.stem + path.read_text(encoding="utf-8")).lower()
    return not patterns or any(all(part in text for part in pattern.lower().split(".")) for pattern in patterns)


def run_file(path, args, print_lock, **more):
    """Runs one end-to-end file in a process of its own, with these variables too, and clears up after it."""
    found = re.search(r"^TIMEOUT_SECONDS = (\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    timeout = int(found[1]) if found else DEFAULT_TIMEOUT_SECONDS
    timeout *= SANITIZED_TIMES if args.sanitized else 1
    folder = Path(tempfile.mkdtemp(prefix="quad-e2e-"))
    results = folder / "results.jsonl"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("QUAD_") or key in KEPT}
    environment = kept | {
        "QUAD_BIN": str(args.build / "bin" / "quad"),
        "QUAD_RUNNER": str(args.build / "bin" / "quad-runner"),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }
    if args.sanitized:  # what they find goes to files, as many a program's own output is nobody's
        options = f"log_path={folder}/sanitizer"
        environment |= {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options, "TSAN_OPTIONS": options}
    command = [sys.executable, str(E2E / "quadtest.py"), str(path), str(results), str(timeout)]
    command += ["--quick"] if args.quick else []
    command += [argument for pattern in args.patterns for argument in ("-k", pattern)]
    began = time.monotonic()
    with open(folder / "output", "w+b") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            # The process ends itself at its limit, and tells where it was; this is for when it cannot.
            ending = process.wait(timeout + 15)
        except subprocess.TimeoutExpired:
            ending = "timeout"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")

    outcome, running, started, took = Outcome(), None, {}, {}
    for line in results.read_text().splitlines() if results.exists() else []:
        event = json.loads(line)
        name = event["test"]
        running = name if event["what"] == "start" else None
        if event["what"] == "start":
            started[name] = event["at"]
        else:
            took[name] = event["at"] - started.get(name, event["at"])
        if event["what"] == "pass":
            outcome.passed += 1
        elif event["what"] == "fail":
            outcome.failed.append(name)
        elif event["what"] == "skip":
            outcome.skipped.append(f"{name}: {event['reason']}")
    if running:
        outcome.failed.append(f"{running} (did not end within the file's {timeout} s)")
    elif ending != 0 and not outcome.failed:
        outcome.failed.append(f"{path.name} (its process ended with {ending})")

    quadtest.kill_all_of(str(folder))
    for report in sorted(folder.glob("sanitizer.*")):
        outcome.failed.append(f"{path.name} ({report.name})")
        text += "\n" + report.read_text(errors="replace")[:20_000]
    shutil.rmtree(folder, ignore_errors=True)
    with print_lock:
        if outcome.failed or args.verbose:
            print(f"--- {path.name}\n{text.rstrip()}")
        args.took[str(path.relative_to(ROOT))] = time.monotonic() - began
        if outcome.passed or outcome.failed or outcome.skipped:
            print(f"{path.name}: {outcome} in {time.monotonic() - began:.0f} s", flush=True)
        if args.times:
            tests = "".join(f"\n    {seconds:6.1f} s  {name}" for name, seconds in sorted(took.items(), key=lambda one: -one[1]))
            print(f"  {path.name} ran from {began - args.began:.0f} to {time.monotonic() - args.began:.0f} s{tests}", flush=True)
    return outcome


def times_of(args):
    """Where it stands how many seconds each file took in the last run that was of everything in it."""
    return args.build / "test-times.json"


def longest_first(files, args):
    """As the last run tells; those that it does not know are first."""
    try:
        took = json.loads(times_of(args).read_text())
    except (OSError, ValueError):
        took = {}
    return sorted(files, key=lambda path: (-took.get(str(path.relative_to(ROOT)), float("inf")), path))


def keep_times(args):
    if args.patterns or args.quick:
        return  # a part of a file says nothing of the whole
    kept = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(times_of(args).read_text())
    times_of(args).write_text(json.dumps(kept | args.took))


def run_end_to_end(args, print_lock):
    files = longest_first([path for path in E2E.glob("test_*.py") if is_wanted(path, args.patterns)], args)
    total = Outcome()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for outcome in pool.map(lambda path: run_file(path, args, print_lock), files):
            total.add(outcome)
    return total


def build_testbed(print_lock):
    """Makes sure of the testbed's programs; returns why that cannot be, or nothing. Raises if it should have been."""
    if os.geteuid() == 0 and not kubetest.builder.is_built():
        with print_lock:
            print("tests/kubernetes: building the programs of a Kubernetes; once, for about 10 minutes", flush=True)
        done = subprocess.run([kubetest.PROGRAM, "build"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        if done.returncode == kubetest.builder.NO_MODULES:
            return f"the testbed's programs cannot be built: {said.removeprefix('testbed: ')}"
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-5000:])
    return kubetest.why_not_here()


def run_kubernetes(args, print_lock):
    """Runs the files of tests/kubernetes: those that share a cluster one after the other, and so the others beside them."""
    patterns = ("test_*.py", "long_*.py") if args.long else ("test_*.py",)
    files = longest_first([path for pattern in patterns for path in KUBERNETES.glob(pattern) if is_wanted(path, args.patterns)], args)
    total = Outcome()
    if not files:
        return total
    try:
        reason = build_testbed(print_lock)
    except RuntimeError as failure:
        with print_lock:
            print(f"--- the testbed's build\n{failure}", flush=True)
        total.failed.append("tests/kubernetes (the testbed's programs cannot be built)")
        return total
    if reason:
        total.skipped.append(f"tests/kubernetes: {reason}")
        return total
    sharing = [path for path in files if shares_cluster(path)]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        shared = pool.submit(run_on_shared_cluster, sharing, args, print_lock)
        others = [path for path in files if path not in sharing]
        for outcome in pool.map(lambda path: run_file(path, args, print_lock), others):
            total.add(outcome)
        total.add(shared.result())
    return total


def shares_cluster(path):
    text = path.read_text(encoding="utf-8")
    return "(kubetest.TestCase)" in text and "alone = True" not in text


def run_on_shared_cluster(files, args, print_lock):
    total = Outcome()
    if not files:
        return total
    folder = Path(tempfile.mkdtemp(prefix="quad-testbed-"))
    try:
        with open(folder / "up.log", "w+b") as log:  # not a pipe: the cluster's programs have it too
            up = subprocess.run(
                [sys.executable, kubetest.__file__, folder / "shared"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"QUAD_BIN": str(args.build / "bin" / "quad"), "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        if up.returncode != 0:
            with print_lock:
                print(f"--- the testbed\n{(folder / 'up.log').read_text(errors='replace')}", flush=True)
            total.failed.append("tests/kubernetes (the testbed did not come up)")
            return total
        for path in files:
            total.add(run_file(path, args, print_lock, QUAD_TESTBED=str(folder / "shared")))
    finally:
        subprocess.run([kubetest.PROGRAM, "--dir", folder / "shared", "down"], stdin=subprocess.DEVNULL, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    return total


def stop_builder():
    """The build of the testbed's programs that ./dev began beside Quad's own, if it still runs."""
    if builder := os.environ.pop("QUAD_TESTBED_BUILDER", ""):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(builder), signal.SIGTERM)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", help="only tests whose name holds one of these")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--quick", action="store_true", help="of the end-to-end tests, only those marked quick")
    parser.add_argument("--unit", action="store_true", help="only the unit tests, or those and what else is named so")
    parser.add_argument("--e2e", action="store_true", help="only the end-to-end tests on pretend nodes")
    parser.add_argument("--kubernetes", action="store_true", help="only the tests on a real Kubernetes")
    parser.add_argument("--long", action="store_true", help="also tests on Kubernetes that take minutes each")
    parser.add_argument("-v", "--verbose", action="store_true", help="also print the output of what passes")
    parser.add_argument("--times", action="store_true", help="also print how long each test took, and when each file ran")
    args = parser.parse_args()
    args.began, args.took = time.monotonic(), {}
    args.build = args.build.resolve()
    args.sanitized = quadtest.is_sanitized(args.build / "bin" / "quad")
    everything = not (args.unit or args.e2e or args.kubernetes)
    print_lock = threading.Lock()

    total = Outcome()
    # What is about Kubernetes waits more than it works, so it runs beside all else. A build with sanitizers is too slow for it.
    with ThreadPoolExecutor(1) as beside:
        on_kubernetes = None
        if args.kubernetes or (everything and not args.quick and not args.sanitized):
            on_kubernetes = beside.submit(run_kubernetes, args, print_lock)
        if everything or args.unit:
            total.add(run_unit_tests(args.build, "|".join(map(re.escape, args.patterns))))
        if everything or args.e2e:
            total.add(run_end_to_end(args, print_lock))
        if on_kubernetes:
            total.add(on_kubernetes.result())
    keep_times(args)
    if total.skipped:
        print("skipped:", *total.skipped, sep="\n  ")
    if total.failed:
        print("failed:", *total.failed, sep="\n  ")
    print(total, flush=True)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    try:
        code = main()
    finally:
        stop_builder()
    sys.exit(code)
