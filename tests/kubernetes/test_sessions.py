"""Reaching into pods through the runner: exec, cp and a shell in an image that has busybox and nothing else."""

import os
import unittest

import kubetest
import quadtest
from terminal import Terminal

TIMEOUT_SECONDS = 300


class Sessions(kubetest.TestCase):
    nodes = 2
    engine = {"hot_tier": None}
    pod_security = "baseline"

    def test_exec_cp_shell_and_the_launch_agent_in_pods(self):
        server = self.server()
        job = server.launch({"num_nodes": 2, "resources": {"cpus": 0.5, "memory": 0.5}, "run": "touch here; sleep 600"})
        for rank in (0, 1):
            quadtest.wait_until(
                lambda: server.quad("exec", job, "--rank", rank, "--", "test", "-e", "here")[0] == 0, 90, "both ranks run"
            )
        with self.subTest("exec"):
            code, out, err = server.quad("exec", job, "--rank", 1, "--", "sh", "-c", "cat; hostname; echo e >&2; exit 4", input="in\n")
            self.assertEqual((code, err), (4, "e\n"))
            self.assertRegex(out, r"^in\n\S+-r1\n$")
        with self.subTest("cp"):
            tree = server.folder / "tree"
            (tree / "sub").mkdir(parents=True)
            (tree / "sub" / "data").write_bytes(os.urandom(3_000_000))
            server.ok("cp", tree, f"{job}/1:")
            server.ok("cp", f"{job}/1:tree", server.folder / "back")
            self.assertEqual((server.folder / "back/sub/data").read_bytes(), (tree / "sub/data").read_bytes())
        with self.subTest("shell"):
            shell = Terminal([quadtest.quad_bin(), "shell", str(job)], server.environment(TERM="xterm"), columns=99, rows=31)
            self.addCleanup(shell.close)
            shell.send("stty size; exit 6\n")
            shell.wait_for("^31 99$")
            self.assertEqual(shell.wait(), 6)
        with self.subTest("the launch agent, by the pod's name"):
            agent = '$OMPI_MCA_plm_rsh_agent "$(hostname | sed s/-r0/-r1/)" echo rank '"'$SKYPILOT_NODE_RANK'"
            self.assertEqual(server.ok("exec", job, "--", "sh", "-c", agent), "rank 1\n")
        server.ok("cancel", job)
        server.wait_for_status(job, "CANCELLED")
        self.expect_nothing_left(server)


if __name__ == "__main__":
    unittest.main()
