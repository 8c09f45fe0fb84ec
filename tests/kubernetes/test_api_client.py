"""The Kubernetes client against a real kube-apiserver and etcd, restarted and compacted under it: no nodes are needed.

The tests themselves are real_api_test.cc; this brings up what they talk to.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTBED = HERE / "testbed" / "testbed"
TIMEOUT_SECONDS = 240


def test_program():
    default = HERE.parents[1] / "build" / "release" / "bin" / "quad"
    return Path(os.environ.get("QUAD_BIN", str(default))).with_name("kubernetes_real_api_test")


class ApiClient(unittest.TestCase):
    def on_testbed(self, *words):
        return [str(TESTBED), "--dir", str(self.folder), *words]

    @unittest.skipUnless(os.geteuid() == 0, "a testbed of Kubernetes needs root")
    def test_it_holds_against_a_real_api_server(self):
        self.folder = Path(tempfile.mkdtemp(prefix="quad-api-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.addCleanup(subprocess.run, self.on_testbed("down"), check=True)
        up = subprocess.run(self.on_testbed("up", "--nodes", "0"), check=True, stdout=subprocess.PIPE, text=True)
        restart = f"{shlex.join(self.on_testbed('apiserver', 'stop'))} && {shlex.join(self.on_testbed('apiserver', 'start'))}"
        done = subprocess.run(
            [test_program()],
            env=os.environ
            | {
                "QUAD_TEST_KUBECONFIG": up.stdout.split()[-1],
                "QUAD_TEST_RESTART": restart,
                "QUAD_TEST_COMPACT": shlex.join(self.on_testbed("etcd", "compact")),
            },
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("SKIPPED", done.stdout)


if __name__ == "__main__":
    unittest.main()
