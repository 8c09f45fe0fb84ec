"""Disks that are full: a pod's own share, its node's, and the hot tier. What was printed and how it ended is not lost, and a
checkpoint that did not fit is never taken for one."""

import re
import subprocess
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

# A checkpoint of 1 MB at each step, under its final name, as most programs write them, until one does not fit. The first comes
# as late as that of a training: the job's fence, which is overwritten in place ever after, is there by then.
SAVER = r"""
mkdir -p $WITNESS
step=${QUAD_RESUME_STEP:-0}
echo "begins at $step"
while [ ! -s ${QUAD_CHECKPOINT_DIR%/*}/fence ]; do sleep 0.1; done
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
        return self.testbed.folder / "shared" / "home" / kubetest.OWNER / server.folder.name

    def fill(self, server, name, file, size, pod_config):
        witness = f"/home/{kubetest.OWNER}/{server.folder.name}/{name}"
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

    def test_a_rank_on_a_node_whose_disk_is_full(self):
        """The rank meets it, and so do the runner's spool, its result and its last words. All that it printed comes to Quad, also
        what it printed while it could not reach Quad, and how it ended."""
        server = self.server()
        for node in ("n1", "n2"):
            self.testbed.call("in", node, "mount", "-t", "tmpfs", "-o", "size=24m", "pods", PODS)
            self.addCleanup(self.testbed.call, "in", node, "umount", "--lazy", PODS, check=False)
        job = self.fill(server, "fills", "/scratch/filler", 100_000_000, scratch())
        home = self.home(server) / "fills"
        quadtest.wait_until((home / "there").exists, 120, "the disk is full, and it has gone on printing")
        self.assertTrue((home / "full").exists())
        with server.cut_off_pods():
            before = int((home / "rows").read_text())
            quadtest.wait_until(lambda: int((home / "rows").read_text() or 0) > before + 20, 60, "it prints unheard")
            (home / "code").write_text("7")
            quadtest.wait_until(lambda: "fills" in server.ok("status"), 5, "the server answers")
        view = server.wait_for_status(job, "FAILED", timeout=120)
        self.assertEqual((view["exit_code"], view["recoveries"]), (7, 0), server.describe(job))
        self.expect_all_rows(server, job, "fills")
        self.expect_nothing_left(server)


class HotTier(faulttest.TestCase):
    """What is mounted over the nodes' hot tier has room for a few checkpoints."""

    nodes = 2
    options = {"gpus": 2}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        home = cls.testbed.folder / "shared" / "home"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "quad-test", home], check=True)
        cls.addClassCleanup(subprocess.run, ["umount", "--lazy", home], check=True)
        for node in ("n1", "n2"):  # which see it from their next start on
            cls.testbed.call("node", "off", node)
            cls.testbed.call("node", "on", node)
        cls.testbed.mend()

    def test_a_checkpoint_that_does_not_fit_is_none(self):
        server = self.server()
        home = self.testbed.folder / "shared" / "home"
        witness = home / kubetest.OWNER / "saves"
        job = server.launch({
            "name": "saves", "envs": {"WITNESS": f"/home/{kubetest.OWNER}/saves"}, "run": SAVER,
            "resources": {"accelerators": "H100:1", "cpus": 0.2, "memory": 0.2},
        })  # fmt: skip
        quadtest.wait_until((witness / "no-room.1").exists, 120, "a checkpoint does not fit")
        (partial,) = [one for one in home.rglob("*.safetensors") if one.stat().st_size < 1_000_000]
        step = int(re.search(r"(\d+)", partial.stem)[1])
        self.assertGreater(step, 2)

        def known():
            found = server.job(job)["attempts"][0]["checkpoint_step"]
            assert found == step - 1, f"it is {found}, and step {step} did not fit"
            return True

        quadtest.wait_until(known, 60, "the last that is whole is known")
        for epoch in (2, 3):  # while there is still no room, and when there is
            self.testbed.call("kubectl", "delete", "pod", "-l", f"quad.io/job={job}", "--wait=false")
            view = self.wait_for_attempt(server, job, epoch)
            self.assertEqual(view["attempts"][-1]["resumed_step"], step - 1, server.ok("story", job))
            self.assertIn(f"begins at {step - 1}\n", server.ok("logs", job, "--no-follow"))
            if epoch == 2:
                self.assertIn(partial.name, server.ok("story", job))
                quadtest.wait_until((witness / "no-room.2").exists, 60, "it does not fit the second time either")
                for old in range(1, 4):
                    (partial.parent / f"step-{old}.safetensors").unlink()

        def written():
            return (server.job(job)["attempts"][2]["checkpoint_step"] or 0) >= step

        quadtest.wait_until(written, 60, "there is room again, and the checkpoint that did not fit is written")
        print(server.ok("story", job))
        (witness / "end").touch()
        server.wait_for_status(job, "SUCCEEDED")
        self.expect_nothing_left(server)


if __name__ == "__main__":
    unittest.main()
