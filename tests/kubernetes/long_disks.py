"""Disks that are full: a pod's own share, its node's, and the hot tier. What was printed and how it ended is not lost, and a
checkpoint that did not fit is never taken for one."""

import contextlib
import json
import re
import subprocess
import time
import unittest

import faulttest
import quadtest

TIMEOUT_SECONDS = 1200
PODS = "/var/lib/kubelet/pods"  # where a node has its pods' volumes and their containers' last words

# Fills $FILE, and then goes on printing; what it has printed it also counts in the hot tier. It ends as the test says.
FILLER = r"""
mkdir -p $WITNESS
n=0
row() { n=$((n + 1)); echo "row $n"; echo $n > $WITNESS/rows; }
while [ $n -lt 1000 ]; do row; done
head -c $BYTES /dev/zero >> $FILE || echo full > $WITNESS/full
while [ $n -lt 3000 ]; do row; done
echo there > $WITNESS/there
while [ ! -e $WITNESS/code ]; do row; sleep 0.1; done
exit $(cat $WITNESS/code)
"""

# A checkpoint of 1 MB at each step, under its final name, as most programs write them, until one does not fit.
SAVER = r"""
mkdir -p $WITNESS
step=${QUAD_RESUME_STEP:-0}
echo "begins at $step"
head='{"w":{"dtype":"U8","shape":[1000000],"data_offsets":[0,1000000]}}'
while [ ! -e $WITNESS/end ]; do
  step=$((step + 1))
  file=$QUAD_CHECKPOINT_DIR/step-$step.safetensors
  { printf "\\x$(printf %02x ${#head})\\0\\0\\0\\0\\0\\0\\0$head"; head -c 1000000 /dev/zero; } > $file && continue
  echo $step > $WITNESS/no-room.$QUAD_EPOCH
  echo "step $step does not fit"
  while [ ! -e $WITNESS/end ]; do sleep 0.2; done
done
"""


def scratch(**volume):
    """Of a pod_config: /scratch, an emptyDir."""
    return {"spec": {"volumes": [{"name": "scratch", "emptyDir": volume}],
                     "containers": [{"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]}}  # fmt: skip


class Disks(faulttest.TestCase):
    nodes = 2
    options = {"gpus": 2}

    def home(self, server):
        """What ranks know as $WITNESS."""
        return self.testbed.folder / "shared" / "home" / server.folder.name

    def fill(self, server, name, file, size, pod_config):
        witness = f"/home/{server.folder.name}/{name}"
        return server.launch({
            "name": name, "envs": {"WITNESS": witness, "FILE": file, "BYTES": str(size)},
            "resources": {"accelerators": "H100:1", "cpus": 0.2, "memory": 0.2},
            "config": {"kubernetes": {"pod_config": pod_config}}, "run": FILLER,
        })  # fmt: skip

    def expect_all_rows(self, server, job, name):
        counted = int((self.home(server) / name / "rows").read_text())
        rows = [int(one) for one in re.findall(r"row (\d+)$", server.ok("logs", job, "--no-follow"), re.MULTILINE)]
        self.assertEqual(rows, list(range(1, len(rows) + 1)))
        self.assertGreaterEqual(len(rows), counted)

    def test_a_rank_that_takes_more_disk_than_its_pod_may_have(self):
        server = self.server()
        limited = {"spec": {"containers": [{"resources": {"limits": {"ephemeral-storage": "20Mi"}}}]}}
        jobs = {
            "limit": self.fill(server, "limit", "/tmp/filler", 40_000_000, limited),
            "volume": self.fill(server, "volume", "/scratch/filler", 40_000_000, scratch(sizeLimit="20Mi")),
        }
        for name, job in jobs.items():
            with self.subTest(name):
                view = server.wait_for_status(job, "FAILED", timeout=240)  # a kubelet looks once in a minute
                print(view["message"])
                self.assertIn("used more disk than it may", view["message"])
                self.assertEqual((view["cause"], view["recoveries"]), ("limit", 0), view)
                self.assertIn("used more disk than it may", server.ok("story", job))
                self.expect_all_rows(server, job, name)
        self.expect_nothing_left(server)


if __name__ == "__main__":
    unittest.main()
