"""Runs every benchmark and prints one table: what was measured, the figure, its goal.

Two kinds are found by themselves. A script bench/*.py, but for the harness that they share, prints JSON lines {"name", "value", "unit", "goal", "command"},
where goal is text such as "<= 5 s" (or absent) and command is how to get the figure again. A program *_bench is of
Google Benchmark; SetLabel() names its goal. The last line counts goals; the exit code is 1 if one was missed or a
benchmark failed.
"""

import argparse
import json
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_BENCHMARKS = ("run.py", "harness.py", "kubebench.py")
# What programs count beside the time.
COUNTERS = {"allocations": "allocations", "max_ms": "slowest in ms", "jobs": "jobs/s"}
COMPARE = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}


def run(command, build, small=False):
    """Its JSON output, or an exception that says what went wrong."""
    environment = os.environ | {
        "QUAD_BIN": str(build / "bin" / "quad"),
        "QUAD_RUNNER": str(build / "bin" / "quad-runner"),
        "PYTHONPATH": str(ROOT / "tests" / "e2e"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "QUAD_BENCH_SMALL": "1" if small else "",
    }
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"it ended with {done.returncode}")
    return done.stdout


def rows_of_script(path, build, small):
    for line in run([sys.executable, str(path)], build, small).splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def rows_of_program(path, build, small):
    options = ["--benchmark_min_time=0"] if small else []
    report = json.loads(run([str(path), "--benchmark_format=json", *options], build))
    for one in report["benchmarks"]:
        name = f"{path.name.removesuffix('_bench')}: {one['name'].removesuffix('/manual_time')}"
        command = f"{path.relative_to(ROOT)} --benchmark_filter='{one['name']}'"
        if "error_message" in one:
            raise RuntimeError(f"{one['name']}: {one['error_message']}")
        yield {
            "name": name,
            "value": one["real_time"],
            "unit": one["time_unit"],
            "goal": one.get("label", ""),
            "command": command,
        }
        for counter in one.keys() & COUNTERS.keys():
            yield {"name": f"{name}, {COUNTERS[counter]}", "value": one[counter], "unit": "", "command": command}


def is_met(row):
    """Whether the figure meets its goal; None if it has none that can be compared."""
    found = re.fullmatch(r"(<=|<|>=|>)\s*([\d_.]+)\s*(\S*)", row.get("goal") or "")
    if not found or found[3] not in ("", row["unit"]):
        return None
    return COMPARE[found[1]](row["value"], float(found[2].replace("_", "")))


def figure(value):
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", help="only files whose name holds one of these")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON lines")
    parser.add_argument("--small", action="store_true", help="one small round of each: tells that it works, not how fast")
    args = parser.parse_args()
    build = args.build.resolve()

    scripts = [p for p in sorted((ROOT / "bench").glob("*.py")) if p.name not in NO_BENCHMARKS]
    programs = sorted((build / "bin").glob("*_bench"))
    rows, failures = [], []
    for path in scripts + programs:
        if args.patterns and not any(pattern in path.name for pattern in args.patterns):
            continue
        print(f"running {path.name}", file=sys.stderr, flush=True)
        try:
            rows += (rows_of_script if path.suffix == ".py" else rows_of_program)(path, build, args.small)
        except (RuntimeError, ValueError, KeyError) as error:
            failures.append(f"{path.name}: {error}")

    if args.json:
        for row in rows:
            print(json.dumps(row))
    else:
        table = [("what", "figure", "goal")]
        for row in rows:
            mark = "" if args.small else {True: "  met", False: "  MISSED", None: ""}[is_met(row)]
            table.append((row["name"], f"{figure(row['value'])} {row['unit']}".rstrip(), f"{row.get('goal') or '-'}{mark}"))
        widths = [max(len(line[i]) for line in table) for i in range(3)]
        for line in table:
            print(f"{line[0]:<{widths[0]}} | {line[1]:>{widths[1]}} | {line[2]}".rstrip())
            if line is table[0]:
                print("-+-".join("-" * width for width in widths))
    for failure in failures:
        print(f"failed: {failure}")
    missed = 0 if args.small else sum(is_met(row) is False for row in rows)
    print(f"{len(rows)} figures, {missed} goals missed, {len(failures)} benchmarks failed", file=sys.stderr)
    return 1 if missed or failures else 0


if __name__ == "__main__":
    sys.exit(main())
