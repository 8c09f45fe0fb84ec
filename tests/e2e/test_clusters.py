"""Clusters: allocations that are kept, for further tasks to run on."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import quadapi
import quadtest

NUMBER = "3167"  # by which it is told apart from everything else
SLEEP = f"sleep {NUMBER}"


def task(run, setup=None, **more):
    return {"run": run} | ({"setup": setup} if setup else {}) | more


class Clusters(quadtest.TestCase):
    def cluster(self, server, name):
        return server.json("status", name)["clusters"][0]

    def wait_for_cluster(self, server, name, status, timeout=60):
        def reached():
            now = self.cluster(server, name)
            assert now["status"] == status, f"it is {now['status']}: {now['message']}"
            return now

        return quadtest.wait_until(reached, timeout, f"cluster {name} is {status}")

    def wait_for_logs(self, server, job, text):
        quadtest.wait_until(lambda: text in server.ok("logs", job), 60, f"job {job} prints {text!r}")

    def exec(self, server, cluster, command, *args):
        """Submits a command for the cluster without waiting for it; returns the job's id."""
        return server.json("exec", cluster, "-d", *args, command)["job"]

    def refused(self, server, code, *args):
        got, out, err = server.quad(*args)
        self.assertEqual(got, code, f"{args}: {out}{err}")
        self.assertEqual(err.count("\n"), 1, err)
        return err

    def test_the_life_of_a_cluster(self):
        server = self.server(nodes=2, gpus="H100:8")
        workdir = server.folder / "work"
        workdir.mkdir()
        (workdir / "hello.txt").write_text("first\n")

        # launch -c makes it, and runs the task on it: workdir, setup, run.
        first = task("cat hello.txt ~/made; echo home=$HOME; echo $SKYPILOT_CLUSTER_INFO $SKYPILOT_TASK_ID; exit 3",
                     setup="echo by-setup > ~/made", workdir=str(workdir), resources={"accelerators": "H100:4"})  # fmt: skip
        job = server.launch(first, "-c", "dev")
        server.wait_for_status(job, "FAILED")
        up = self.wait_for_cluster(server, "dev", "UP")
        self.assertEqual((up["resources"], up["num_nodes"], up["nodes"]), ("1x[H100:4]", 1, ["local-1"]))
        shown = server.json("status", job)["jobs"][0]
        self.assertEqual((shown["cluster"], shown["exit_code"]), ("dev", 3))
        logs = server.ok("logs", job)
        for text in ("first", "by-setup", '"cluster_name": "dev"', f"_dev_{job}"):
            self.assertIn(text, logs)

        # exec shares HOME, brings the workdir again, and runs no setup; its exit code is the job's.
        (workdir / "hello.txt").write_text("second\n")
        again = server.folder / "again.yaml"
        again.write_text(f"workdir: {workdir}\nsetup: echo by-exec > ~/made\nrun: cat hello.txt ~/made; exit 7\n")
        code, out, err = server.quad("exec", "dev", again)
        self.assertEqual((code, "second" in out, "by-setup" in out), (7, True, True), out + err)

        # Of its 4 GPUs, two tasks have two each, other ones of the machine's; a third waits for them.
        told = 'echo gpus=$CUDA_VISIBLE_DEVICES; while [ ! -e ~/go ]; do sleep 0.05; done'
        two = [self.exec(server, "dev", told, "--gpus", "H100:2") for _ in range(2)]
        for one in two:
            self.wait_for_logs(server, one, "gpus=")
        self.assertEqual(len({server.ok("logs", one) for one in two}), 2, "they share GPUs")
        self.assertIn("gpus=none", server.ok("exec", "dev", "echo gpus=${CUDA_VISIBLE_DEVICES:-none}"))
        third = self.exec(server, "dev", told, "--gpus", "H100:2")
        quadtest.wait_until(lambda: "No node has that free now" in server.ok("why", third), 30, "the third waits")
        listed = {row["id"] for row in server.json("queue", "dev")["jobs"]}
        self.assertEqual(listed, {*two, third})
        # What is not for the cluster does not use it.
        outside = server.launch(task("true", resources={"accelerators": "H100:8"}))
        self.assertEqual(server.wait_for_status(outside, "SUCCEEDED")["nodes"], ["local-2"])
        (Path(re.search("home=(.*)", logs)[1]) / "go").touch()
        for one in (*two, third):
            server.wait_for_status(one, "SUCCEEDED")

        # What it cannot hold, whose it is, and what is not there.
        for args, text in (
            (("--gpus", "H100:5"), "Cluster dev has H100:4 on each node; the task asks for H100:5."),
            (("--gpus", "A100:1"), "Cluster dev has H100:4 on each node; the task asks for A100:1."),
            (("--num-nodes", "2"), "Cluster dev has 1 node; the task asks for 2."),
        ):
            self.assertIn(text, self.refused(server, 2, "exec", "dev", *args, "true"))
            self.assertIn(text, self.refused(server, 2, "launch", "-c", "dev", *args, "true"))
        self.assertIn("There is no cluster 'nope'", self.refused(server, 4, "exec", "nope", "true"))
        self.assertIn("There is no cluster 'nope'", self.refused(server, 4, "down", "nope"))
        self.assertIn("is no name for a cluster", self.refused(server, 2, "launch", "-c", "1st", "true"))
        self.assertIn("is not on cluster dev", self.refused(server, 2, "logs", "dev", outside))
        self.assertIn("quad down dev", self.refused(server, 2, "cancel", up["job"]))
        self.check_rights(server)

        # cancel, by the cluster's name; stop, start and down.
        one = self.exec(server, "dev", SLEEP)
        self.wait_for_rank(server, one)
        self.assertIn(f"Job {one} ", server.ok("cancel", "dev"))
        server.wait_for_status(one, "CANCELLED")
        one = self.exec(server, "dev", SLEEP)
        self.wait_for_rank(server, one)
        server.ok("stop", "dev")
        self.wait_for_cluster(server, "dev", "STOPPED")
        self.assertEqual(server.job(one)["status"], "CANCELLED")
        self.assertIn("quad start dev", self.refused(server, 2, "exec", "dev", "true"))
        self.assertEqual(server.json("gpus", "list")["gpus"][0]["free"], 16)
        server.ok("start", "dev")
        server.ok("exec", "dev", "test ! -e ~/made")  # on a new HOME
        with self.subTest("its name stands for the job that holds it"):
            note = server.folder / "note"
            note.write_text("carried")
            server.ok("cp", str(note), "dev:there")
            server.ok("cp", "dev/0:there", str(server.folder / "back"))
            self.assertEqual((server.folder / "back").read_text(), "carried")
            held = server.json("story", "dev")["id"]
            self.assertGreater(held, up["job"], "the one that holds it now")
            self.assertIn(f"Job {held} (dev)", server.ok("story", "dev"))
            self.assertIn("there is no cluster of that name", self.refused(server, 4, "cp", "nobody:x", "."))
        one = self.exec(server, "dev", SLEEP)
        self.wait_for_rank(server, one)
        server.ok("down", "dev")
        self.assertEqual(server.wait_for_status(one, "CANCELLED")["cluster"], "dev")
        quadtest.wait_until(lambda: server.quad("status", "dev")[0] == 4, 60, "the cluster is gone")
        self.assertEqual(server.json("status")["clusters"], [])
        self.assertFalse(quadtest.processes_of(str(server.data), NUMBER))
        quadtest.wait_until(lambda: not quadtest.processes_of(str(server.data), "quad-runner"), 30, "no runner is left")
        self.assertEqual(server.json("gpus", "list")["gpus"][0]["free"], 16)
        story = server.ok("story", up["job"])
        for text in ("Cluster dev was launched by", "Cluster dev is being stopped by", "What lies on the hot tier"):
            self.assertIn(text, story)

    def wait_for_rank(self, server, job):
        server.wait_for_status(job, "RUNNING")
        quadtest.wait_until(lambda: quadtest.processes_of(str(server.data), NUMBER), 30, "its process is there")

    def check_rights(self, server):
        other = server.json("token", "create", "ben", "--role", "user")
        mine = {"QUAD_SERVER": server.url, "QUAD_TOKEN": other["token"]}
        for args in (("exec", "dev", "true"), ("launch", "-c", "dev", "true"), ("stop", "dev"), ("down", "dev"),
                     ("autostop", "dev", "-i", "5")):  # fmt: skip
            code, out, err = server.quad(*args, env=mine)
            self.assertNotEqual(code, 0, out)
            self.assertIn("Cluster dev belongs to", err)

    def git(self, folder, *args):
        environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        subprocess.run(["git", "-c", "user.name=Ana", "-c", "user.email=ana@example.org", "-C", folder, *args],
                       check=True, capture_output=True, env=environment)  # fmt: skip

    def test_a_workdir_is_brought_again_and_again(self):
        server = self.server(nodes=1, gpus="")
        work = server.folder / "work"
        (work / "conf").mkdir(parents=True)
        (work / "conf" / "a").write_text("a")
        (work / "old_module.py").write_text("x = 1\n")
        (work / "artifacts").symlink_to("nowhere")
        mount = server.folder / "mount"
        mount.mkdir()
        (mount / "inside").write_text("m")
        file = server.folder / "task.yaml"
        listing = "find . ~/mnt -mindepth 1 -not -type d -printf '%P %y\\n' | sort"

        def write(run):
            file.write_text(f"workdir: {work}\nfile_mounts: {{~/mnt: {mount}}}\nrun: |\n  {run}\n")

        write(f"{listing}; echo mine > out.ckpt; echo mine > ~/mnt/mine; rm artifacts; mkdir artifacts")
        self.assertEqual(server.ok("launch", "-c", "dev", file).split("\n")[:4],
                         ["artifacts l", "conf/a f", "inside f", "old_module.py f"])  # fmt: skip

        # A deleted file, a folder that becomes a file, a link that the task's folder had taken the place of.
        (work / "old_module.py").unlink()
        shutil.rmtree(work / "conf")
        (work / "conf").write_text("now a file")
        write(listing)
        for verb in (("exec", "dev"), ("launch", "-c", "dev")):
            out = server.ok(*verb, file)
            for line in ("artifacts l", "conf f", "out.ckpt f", "mine f"):
                self.assertIn(f"\n{line}\n", "\n" + out)
            self.assertNotIn("old_module.py", out)

        # A mount that becomes a file, and one that tasks have written into, for which there is a way out.
        shutil.rmtree(mount)
        mount.write_text("a file")
        code, out, err = server.quad("launch", "-c", "dev", file)
        self.assertNotEqual(code, 0)
        self.assertIn("~/mnt is to become a file or a link, but is a folder there in which tasks have written ~/mnt/mine", out + err)
        self.assertNotIn(str(server.data), out + err)
        server.ok("exec", "dev", "rm ~/mnt/mine")
        self.assertIn("a file", server.ok("launch", "-c", "dev", "--workdir", work, file) + server.ok("exec", "dev", "cat ~/mnt"))

        # What a task changed is brought anew, and told.
        server.ok("exec", "dev", "echo changed > ~/sky_workdir/conf")
        job = server.json("exec", "dev", "-d", file)["job"]
        server.wait_for_status(job, "SUCCEEDED")
        self.assertIn("~/sky_workdir/conf", server.ok("story", job))

    def test_tasks_side_by_side_keep_what_they_brought(self):
        server = self.server(nodes=1, gpus="")
        folders = [server.folder / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
            (folder / f"{folder.name}.py").write_text("x = 1\n")
        launch = {"workdir": str(folders[0]), "run": "while [ ! -e ~/go ]; do sleep 0.05; done; cat one.py"}
        one = server.launch(launch, "-c", "dev")
        server.wait_for_status(one, "RUNNING")
        again = server.folder / "two.yaml"
        again.write_text(f"workdir: {folders[1]}\nrun: ls\n")
        self.assertIn("one.py\ntwo.py\n", server.ok("exec", "dev", again))
        server.ok("exec", "dev", "touch ~/go")
        server.wait_for_status(one, "SUCCEEDED")
        self.assertNotIn("one.py", server.ok("exec", "dev", again))

    def test_a_git_workdir_is_brought_again_and_again(self):
        server = self.server(nodes=1, gpus="")
        source = server.folder / "repo"
        source.mkdir()
        self.git(source, "init", "--quiet", "--initial-branch=main")
        for text, *more in (("first", "tag", "v1.0"), ("second", "branch", "feature/x")):
            (source / "file.txt").write_text(text + "\n")
            self.git(source, "add", ".")
            self.git(source, "commit", "--quiet", "-m", text)
            self.git(source, *more)
        self.git(source, "checkout", "--quiet", "feature/x")
        (source / "file.txt").write_text("on a branch\n")
        self.git(source, "commit", "--quiet", "-am", "x")
        self.git(source, "checkout", "--quiet", "main")
        file = server.folder / "task.yaml"
        file.write_text(f"workdir: {{url: 'file://{source}', ref: main}}\nrun: cat file.txt; echo mine >> out.ckpt; wc -l < out.ckpt\n")
        self.assertIn("second\n1\n", server.ok("launch", "-c", "dev", file))
        self.assertIn("second\n2\n", server.ok("exec", "dev", file))
        self.assertIn("on a branch\n3\n", server.ok("exec", "dev", "--git-ref", "feature/x", file))
        self.assertIn("first\n4\n", server.ok("launch", "-c", "dev", "--git-ref", "v1.0", file))
        (source / "file.txt").write_text("third\n")
        self.git(source, "commit", "--quiet", "-am", "third")
        self.assertIn("third\n5\n", server.ok("exec", "dev", file))

        # What a task has git run is run below the next one's first process, and dies with it.
        smudge = f"touch {server.folder}/filtered; env -i setsid sleep 4231 >/dev/null 2>&1 & cat"
        server.ok("exec", "dev", f"cd ~/sky_workdir && mkdir -p .git/info && git config filter.x.smudge '{smudge}' && echo '* filter=x' > .git/info/attributes")
        (source / "file.txt").write_text("fourth\n")
        self.git(source, "commit", "--quiet", "-am", "fourth")
        self.assertIn("fourth\n6\n", server.ok("exec", "dev", file))
        self.assertTrue((server.folder / "filtered").exists())
        self.assertEqual(quadtest.processes_of("4231", "sleep"), [])

    def test_a_cluster_comes_back_with_its_tasks(self):
        server = self.server(nodes=3, gpus="H100:8")
        steps = 'echo attempt $QUAD_EPOCH rank $QUAD_RANK of $QUAD_NUM_RANKS; ' + SLEEP
        gang = server.launch(task(steps, num_nodes=2, resources={"accelerators": "H100:8"}), "-c", "two")
        for rank in (0, 1):
            self.wait_for_logs(server, gang, f"attempt 1 rank {rank} of 2")

        # The server is killed: cluster and task are adopted, and live on as they are.
        ranks = server.rank_pids(NUMBER)
        self.assertEqual(len(ranks), 2)
        server.kill()
        server.start()
        self.wait_for_cluster(server, "two", "UP")
        server.ok("exec", "two", "echo here")  # a task can be started on it, so it is in touch
        self.assertEqual(server.rank_pids(NUMBER), ranks)
        self.assertEqual(server.job(gang)["epoch"], 1)

        # The runner of one of its tasks is killed: that task comes back, the cluster stays.
        victim = next(pid for pid in quadtest.processes_of(str(server.data), "quad-runner")
                      if any(f"/tasks/{gang}-1-1" in word for word in quadtest.command_of(pid)))  # fmt: skip
        os.kill(victim, 9)
        self.wait_for_logs(server, gang, "attempt 2 rank 0 of 2")
        self.assertEqual(self.cluster(server, "two")["recoveries"], 0)

        # A node of it is lost: the cluster has another, and the task comes back onto it.
        server.ok("node", "fail", "local-2")
        for rank in (0, 1):
            self.wait_for_logs(server, gang, f"attempt 3 rank {rank} of 2")
        now = self.wait_for_cluster(server, "two", "UP")
        self.assertEqual((now["recoveries"], now["nodes"]), (1, ["local-1", "local-3"]))
        story = server.ok("story", gang)
        self.assertIn("local-2 was lost: powered off", story)
        self.assertEqual(len(server.rank_pids(NUMBER)), 2)
        server.ok("down", "two")
        server.wait_for_status(gang, "CANCELLED")
        quadtest.wait_until(lambda: not quadtest.processes_of(str(server.data), "quad-runner"), 30, "no runner is left")

    def test_a_cluster_ends_by_itself(self):
        server = self.server(nodes=1, gpus="H100:2")
        api = quadapi.Local(server)
        # Idle for no time at all: as soon as the task has ended, also one that waits for another.
        job = server.launch(task("while [ ! -e ~/go ]; do sleep 0.05; done"), "-c", "brief", "-i", "0", "--down")
        server.wait_for_status(job, "RUNNING")
        self.assertEqual(self.cluster(server, "brief")["autostop"],
                         {"idle_minutes": 0, "down": True, "wait_for": "jobs_and_ssh"})  # fmt: skip
        server.restart()
        server.wait_for_status(job, "RUNNING")
        server.ok("exec", "brief", "touch ~/go")
        self.assertEqual(server.wait_for_status(job, "SUCCEEDED")["status"], "SUCCEEDED")
        quadtest.wait_until(lambda: server.quad("status", "brief")[0] == 4, 60, "the cluster is gone")

        # The task file's own autostop, changed afterwards; a stop, which launch -c undoes.
        job = server.launch(task("echo there", resources={"autostop": {"idle_minutes": 60, "wait_for": "jobs"}}),
                            "-c", "long")  # fmt: skip
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(self.cluster(server, "long")["autostop"],
                         {"idle_minutes": 60, "down": False, "wait_for": "jobs"})  # fmt: skip
        server.ok("autostop", "long", "--cancel")
        self.assertIsNone(self.cluster(server, "long")["autostop"])
        server.ok("autostop", "long", "-i", "2h", "--wait-for", "none")
        self.assertEqual(self.cluster(server, "long")["autostop"]["idle_minutes"], 120)
        server.ok("autostop", "long", "-i", "0")
        stopped = self.wait_for_cluster(server, "long", "STOPPED")
        self.assertIn("stopped by autostop", stopped["message"])
        self.assertIn("nobody has used it", server.ok("story", stopped["job"]))
        server.ok("autostop", "long", "--cancel")
        self.assertEqual(server.quad("launch", "-c", "long", "exit 5")[0], 5)
        self.assertEqual(self.cluster(server, "long")["status"], "UP")

        # Said again with the same key it is the same job, and makes no second cluster.
        body = {"command": "true", "cluster": "once", "client_key": "k1"}
        ids = {api.post("/v1/jobs", body).json["jobs"][0]["id"] for _ in range(2)}
        self.assertEqual(len(ids), 1)
        self.assertEqual({c["name"] for c in api.get("/v1/clusters").json["clusters"]}, {"long", "once"})
        events = api.get("/v1/events?kind=cluster.").json["events"]
        self.assertTrue({"cluster.launched", "cluster.stopping", "cluster.stopped", "cluster.down"} <=
                        {event["kind"] for event in events})  # fmt: skip
