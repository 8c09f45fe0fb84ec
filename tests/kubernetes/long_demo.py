"""The demo on a real Kubernetes does what it says, and leaves nothing, also when it is interrupted."""

import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import kubetest
import quadtest

TIMEOUT_SECONDS = 500
DEMO = Path(__file__).resolve().parents[2] / "examples" / "kubernetes" / "demo.py"


class Demo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if reason := kubetest.why_not_here():
            raise unittest.SkipTest(reason)

    def begin(self):
        # What runs in the background is started with interrupts ignored, and would hand that down.
        demo = subprocess.Popen(["env", "--default-signal=INT", sys.executable, DEMO], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip
        self.addCleanup(demo.stdout.close)
        self.addCleanup(demo.wait)
        self.addCleanup(demo.kill)
        return demo

    def expect_nothing_left(self):
        left = list(Path(os.environ["TMPDIR"]).glob("quad-demo-*"))
        self.assertEqual(left, [])

    def test_it_holds(self):
        demo = self.begin()
        out, _ = demo.communicate(timeout=400)
        print(out)
        self.assertEqual(demo.returncode, 0, out)
        self.expect_nothing_left()

    def test_it_clears_up_when_it_is_interrupted(self):
        demo = self.begin()
        for line in demo.stdout:
            if "Job 1" in line:
                break
        began = time.monotonic()
        demo.send_signal(signal.SIGINT)
        quadtest.wait_until(lambda: demo.poll() is not None, 90, "it has ended")
        print(f"cleared up in {time.monotonic() - began:.1f} s")
        self.assertEqual(demo.returncode, 130, demo.stdout.read())
        self.expect_nothing_left()


if __name__ == "__main__":
    unittest.main()
