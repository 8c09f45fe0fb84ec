"""Walls between users on a real Kubernetes: what a pod of bob's sees and reaches of alice's, and of the server's."""

import json
import re
import shutil
import unittest

import kubetest
import quadtest

TIMEOUT_SECONDS = 600

ALICE, BOB = 5001, 5002
USERS = {"alice": {"uid": ALICE, "gid": 5000, "groups": [6000]}, "bob": {"uid": BOB, "gid": 5000}}

SAVE = """
echo "runs as $(id -u), from step ${QUAD_RESUME_STEP:-0}"
echo 'what alice keeps' > /home/alice/note
printf '\\x02\\0\\0\\0\\0\\0\\0\\0{}' > $QUAD_CHECKPOINT_DIR/tmp
mv $QUAD_CHECKPOINT_DIR/tmp $QUAD_CHECKPOINT_DIR/step-7.safetensors
echo "saved in $QUAD_CHECKPOINT_DIR"
sleep 3600
"""

# Whoever reads this tries what root of a container may. What it gets at is said by a line that begins with REACHED.
STEAL = """
reached() { echo "REACHED $*"; }
echo "runs as $(id -u), sees $(ls -A /home | tr '\\n' ' ')and $(ls -A /home/.quad/* | tr '\\n' ' ')"
hot=$(dirname $(dirname $QUAD_CHECKPOINT_DIR))
ls /home/alice && reached the home
cat /home/alice/note && reached the note
ls -d $hot/$VICTIM && reached the folder
cat $hot/$VICTIM/fence && reached the fence
echo 9 > $hot/$VICTIM/fence && reached the fence to write
cat /home/../home/alice/note /proc/self/root/home/alice/note && reached the note by another path
ln -s ../alice /home/bob/link; cat /home/bob/link/note && reached the note by a link
ln -s ../../../alice $QUAD_CHECKPOINT_DIR/link; cat $QUAD_CHECKPOINT_DIR/link/note && reached it by a link of the job
ls /quad-hot /quad-start && reached what the installer has mounted
for process in /proc/[0-9]*; do ls $process/root/quad-hot && reached the installer by $process; done
mkdir /tmp/all; mount --bind /home /tmp/all && reached a mount
grep ' /home' /proc/self/mountinfo | while read -r id parent device root place rest; do
  case $root in
    */bob | */$QUAD_JOB_ID) ;;
    *) reached $root at $place ;;
  esac
done
find / -xdev -name 'step-7.safetensors' -o -xdev -name note -o -xdev -name quad.sock -o -xdev -name admin.token \
  -o -xdev -name secret.key -o -xdev -name quad.db | grep . && reached files
ls /var/run/secrets/kubernetes.io && reached a token of the cluster
env | grep -i token && reached a token
echo done
"""

def with_pod(**spec):
    return {"config": {"kubernetes": {"pod_config": {"spec": spec}}}}


def with_volume(**volume):
    return with_pod(volumes=[{"name": "x", **volume}])


# What bob asks for, and the words that he is refused with.
REFUSED = [
    ({"volumes": {"/steal": "quad-home"}}, "'quad-home' is Quad's own"),
    (with_volume(persistentVolumeClaim={"claimName": "quad-home"}), "'quad-home' is Quad's own"),
    (with_volume(hostPath={"path": "/home"}), "not open to jobs"),
    (with_volume(nfs={"server": "10.0.0.2", "path": "/"}), "spec.volumes.nfs to allow_pod_config"),
    (with_volume(secret={"secretName": "registry"}), "may be another's"),
    (with_volume(ephemeral={"volumeClaimTemplate": {"spec": {"dataSource": {"name": "quad-data"}}}}), "copies another claim"),
    (with_pod(containers=[{"volumeMounts": [{"name": "quad-hot", "mountPath": "/all"}]}]), "Quad's own"),
    (with_pod(containers=[{"volumeMounts": [{"name": "x", "mountPath": "/x/../quad"}]}]), "without '..'"),
    (with_pod(shareProcessNamespace=True), "not open to jobs"),
    (with_pod(hostNetwork=True), "not open to jobs"),
    (with_pod(priorityClassName="system-node-critical"), "priority_classes.allowed"),
    ({"resources": {"labels": {"app.kubernetes.io/instance": "quad"}}}, "know pods by it"),
    ({"config": {"kubernetes": {"custom_metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "a/b"}}}}}, "act upon it"),
]


class Walls(kubetest.TestCase):
    def setUp(self):
        for name in USERS:  # of tests before
            shutil.rmtree(self.testbed.folder / "shared" / "home" / name, ignore_errors=True)

    def people(self, server):
        return [server.ok("token", "create", name, "--role", "user").strip().split()[-1] for name in ("alice", "bob")]

    def launch(self, server, token, run, **more):
        task = {"resources": {"cpus": 0.3, "memory": 0.3}, "run": run, **more}
        code, out, err = server.quad_as(token, "launch", "-d", "-y", "-o", "json", self.file(server, task))
        self.assertEqual(code, 0, err + out)
        return json.loads(out)["job"]

    def file(self, server, task):
        path = server.folder / f"task-{len(list(server.folder.glob('task-*')))}.yaml"
        path.write_text(json.dumps(task))  # which is YAML too
        return path

    def wait_for_log(self, server, job, text):
        def written():
            log = server.ok("logs", job, "--no-follow")
            assert text in log, f"{log}\n{server.describe(job)}"
            return log

        return quadtest.wait_until(written, 120, f"job {job} has written {text!r}")

    def expect_walls(self, server, uids=None):
        """Between alice's job, which runs, and bob's, which tries. `uids` are their ranks'; root's without."""
        alice, bob = self.people(server)
        victim = self.launch(server, alice, SAVE)
        saved = self.wait_for_log(server, victim, "saved in")
        thief = self.launch(server, bob, STEAL, envs={"VICTIM": str(victim)})
        told = self.wait_for_log(server, thief, "done")
        self.assertNotIn("REACHED", told)
        self.assertIn(f"runs as {uids[0] if uids else 0},", saved)
        self.assertIn(f"runs as {uids[1] if uids else 0}, sees .quad bob and {thief} ", told)
        with self.subTest("the next attempt finds its folder, its fence and its home"):
            self.testbed.call("kubectl", "delete", "pod", "-l", f"quad.io/job={victim}", "--wait=false")
            self.wait_for_log(server, victim, "from step 7")
            self.assertEqual(server.job(victim)["epoch"], 2)
        server.ok("cancel", victim, "-y")
        server.wait_for_status(victim, "CANCELLED")
        self.expect_nothing_left(server)
        return re.search(r"saved in (\S+)", saved)[1]

    def test_of_a_folder_of_the_nodes_a_pod_sees_its_own_alone(self):
        self.expect_walls(self.server())

    def test_of_a_claim_a_pod_sees_its_own_alone(self):
        claim = {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "quad-home"},
            "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "shared", "resources": {"requests": {"storage": "1Gi"}}},
        }  # fmt: skip
        self.testbed.api().create("/api/v1/namespaces/default/persistentvolumeclaims", claim)
        self.addCleanup(self.testbed.call, "kubectl", "delete", "pvc", "quad-home", "--wait=false")
        self.expect_walls(self.server(hot_tier={"pvc": "quad-home", "mount": "/home"}))

    def test_users_with_ids_of_their_own_are_apart_on_the_storage_too(self):
        saved = self.expect_walls(self.server(users=USERS), (ALICE, BOB))
        home = self.testbed.folder / "shared" / "home"
        job = (home / saved.removeprefix("/home/")).parent
        for folder in (job, home / "alice"):
            facts = folder.stat()
            self.assertEqual((facts.st_uid, facts.st_mode & 0o777), (ALICE, 0o700), folder)
        self.assertEqual((home / "bob").stat().st_uid, BOB)

    def test_a_job_goes_on_when_its_owner_gets_an_id(self):
        server = self.server()
        alice, _ = self.people(server)
        job = self.launch(server, alice, SAVE.replace("/home/alice/note", "$QUAD_CHECKPOINT_DIR/note"))
        self.wait_for_log(server, job, "saved in")
        server.stop()
        config = server.folder / "config.yaml"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"users": USERS}))
        server.start()
        self.assertEqual(server.job(job)["epoch"], 1)
        self.testbed.call("kubectl", "delete", "pod", "-l", f"quad.io/job={job}", "--wait=false")
        self.wait_for_log(server, job, f"runs as {ALICE}, from step 7")
        server.ok("cancel", job, "-y")
        server.wait_for_status(job, "CANCELLED")

    def test_on_a_clusters_nodes_a_job_finds_its_own_folder_alone(self):
        server = self.server()
        alice, bob = self.people(server)
        victim = self.launch(server, alice, SAVE)
        self.wait_for_log(server, victim, "saved in")
        task = self.file(server, {"resources": {"cpus": 1, "memory": 0.3}, "run": STEAL, "envs": {"VICTIM": str(victim)}})
        code, out, err = server.quad_as(bob, "launch", "-d", "-y", "-c", "dev", "-o", "json", task)
        self.assertEqual(code, 0, err + out)
        told = self.wait_for_log(server, json.loads(out)["job"], "done")
        holder = server.json("status", "dev")["clusters"][0]["job"]
        reached = [line for line in told.splitlines() if "REACHED" in line and not re.search(rf"/{holder} at /home/\.quad/", line)]
        self.assertEqual(reached, [], told)
        server.ok("down", "dev")
        server.ok("cancel", victim, "-y")
        quadtest.wait_until(lambda: server.quad("status", "dev")[0] == 4, 120, "the cluster is gone")
        self.expect_nothing_left(server)

    def test_what_would_reach_others_is_refused_when_it_is_submitted(self):
        server = self.server(hot_tier={"pvc": "quad-home", "mount": "/home"})
        _, bob = self.people(server)
        for more, words in REFUSED:
            with self.subTest(words, asked=more):
                task = self.file(server, {"run": "true"} | more)
                code, out, err = server.quad_as(bob, "launch", "-d", "-y", task)
                self.assertNotEqual(code, 0, out)
                self.assertIn(words, err)


if __name__ == "__main__":
    unittest.main()
