"""A small round of every benchmark on this machine: a figure that cannot be had again is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import quadtest

TIMEOUT_SECONDS = 480
ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
SHARED = ("run", "harness", "kubebench")  # no benchmarks
ELSEWHERE = ("rivals",)  # needs what it measures beside Quad (./dev setup rivals)


class Benches(quadtest.TestCase):
    def rows(self, name):
        build = Path(quadtest.quad_bin()).parents[1]
        command = [sys.executable, str(BENCH / "run.py"), "--small", "--json", "--build", str(build), name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def expect_figures(self, name):
        rows = self.rows(name)
        self.assertTrue(rows, f"{name} gave no figure")
        for row in rows:
            self.assertIsInstance(row["value"], (int, float), row)
            self.assertTrue(row["name"] and row["command"], row)

    def test_each_script_gives_its_figures(self):
        if not (Path(quadtest.quad_bin()).with_name("http_load")).exists():
            self.skipTest("this build has no benchmarks")
        for script in sorted(BENCH.glob("*.py")):
            if script.stem not in SHARED + ELSEWHERE and not script.stem.startswith("kubernetes_"):
                with self.subTest(script.name):
                    self.expect_figures(script.name)

    def test_each_program_gives_its_figures(self):
        programs = sorted(Path(quadtest.quad_bin()).parent.glob("*_bench"))
        if not programs:
            self.skipTest("this build has no benchmarks")
        for program in programs:
            with self.subTest(program.name):
                self.expect_figures(program.name)
