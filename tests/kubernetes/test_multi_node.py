"""Gangs over several nodes of a real Kubernetes, with what researchers run there: PyTorch DDP."""

import re
import unittest
from pathlib import Path

import kubetest
import yaml

TIMEOUT_SECONDS = 180
CHARLM = Path(__file__).resolve().parents[2] / "examples" / "charlm"

# Sums over all ranks: right only if each has heard of all others.
ALL_REDUCE = """
exec /usr/bin/python3 - <<'END'
import os, socket
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo", rank=int(os.environ["SKYPILOT_NODE_RANK"]), world_size=int(os.environ["SKYPILOT_NUM_NODES"]))
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(4, 1))  # takes rank 0's weights
model(torch.full((2, 4), float(dist.get_rank()))).sum().backward()  # ends with the mean gradient everywhere
print(f"rank {dist.get_rank()} on {socket.gethostname()}: sum {total.item():.0f}, "
      f"weight {model.module.weight.sum().item():.6f}, gradient {model.module.weight.grad[0, 0].item():.1f}", flush=True)
END
"""


class MultiNode(kubetest.TestCase):
    nodes = 2
    engine = {"pod_config": kubetest.PYTHON_OF_NODES}

    def test_ddp_over_gloo_across_two_nodes(self):
        server = self.server()
        log = server.ok("launch", "-y", "--num-nodes", "2", "--gpus", "H100:1", "--image-id", f"docker:{kubetest.PYTHON}",
                        ALL_REDUCE, timeout=120)  # fmt: skip
        found = re.findall(r"rank (\d) on (\S+): sum (\d+), weight (\S+), gradient (\S+)", log)
        self.assertEqual(sorted(one[0] for one in found), ["0", "1"], log)
        self.assertEqual({one[2] for one in found}, {"3"}, log)
        self.assertEqual(len({one[1] for one in found}), 2, log)
        self.assertEqual(len({one[3] for one in found}), 1, "the ranks begin with the same weights: " + log)
        self.assertEqual({one[4] for one in found}, {"1.0"}, "mean of 2 * 0 and 2 * 1: " + log)
        nodes = server.job(1)["attempts"][0]["nodes"]
        self.assertEqual(len(set(nodes)), 2, "on two nodes")

    def test_the_example_trains_from_its_own_file(self):
        server = self.server()
        task = yaml.safe_load((CHARLM / "task.yaml").read_text())
        task["resources"]["image_id"] = f"docker:{kubetest.PYTHON}"
        task["envs"] |= {"STEPS": "40", "SECONDS_PER_STEP": "0"}
        task["workdir"] = str(CHARLM)
        job = server.launch(task)
        view = server.wait_for_status(job, "SUCCEEDED", timeout=120)
        self.assertEqual(len(view["attempts"]), 1)
        self.assertIn("step 40/40", server.ok("logs", job, "--no-follow"))


if __name__ == "__main__":
    unittest.main()
