"""The examples do what they say."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import quadtest

TIMEOUT_SECONDS = 400
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Charlm(quadtest.TestCase):
    def train(self, folder, steps, **environment):
        """train.py on two ranks, without Quad; returns the last rank-0 line."""
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(EXAMPLES / "charlm" / "train.py"), "--steps", str(steps)]
        ranks = [
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=os.environ | common
                             | {"RANK": str(rank), "QUAD_CHECKPOINT_DIR": str(folder / "checkpoints"), **environment})  # fmt: skip
            for rank in range(2)
        ]
        for rank in ranks:
            self.addCleanup(rank.kill)
        outputs = [rank.communicate(timeout=90)[0] for rank in ranks]
        self.assertEqual([rank.returncode for rank in ranks], [0, 0])
        return outputs[0].splitlines()[-1]

    def test_a_resumed_training_ends_as_an_unbroken_one(self):
        folder = Path(tempfile.mkdtemp())
        unbroken = self.train(folder, 40)
        self.train(folder, 25)
        resumed = self.train(folder, 40, QUAD_RESUME_FROM=str(folder / "checkpoints" / "step-000025.pt"))
        self.assertEqual(resumed, unbroken)


class OnQuad(quadtest.TestCase):
    @quadtest.quick
    def test_hello(self):
        server = self.server(nodes=1)
        job = server.launch(EXAMPLES / "hello.yaml")
        server.wait_for_status(job, "SUCCEEDED")
        self.assertIn("Hello from rank 0 of 1", server.ok("logs", job, "--no-follow"))

    def test_mpi_ranks_of_three_nodes_talk_to_each_other(self):
        server = self.server(nodes=3)
        job = server.launch("task.yaml", cwd=EXAMPLES / "mpi")
        server.wait_for_status(job, "SUCCEEDED")
        log = server.ok("logs", job, "--no-follow")
        for rank in range(3):
            self.assertIn(f"MPI rank {rank} of 3, on the job's node {rank}: the ranks add up to 3", log)

    def test_the_demo_holds(self):
        demo = subprocess.run([sys.executable, str(EXAMPLES / "charlm" / "demo.py")], capture_output=True, text=True,
                              timeout=300, stdin=subprocess.DEVNULL)  # fmt: skip
        print(demo.stdout)
        self.assertEqual(demo.returncode, 0, demo.stdout + demo.stderr)
