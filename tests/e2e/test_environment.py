"""What setup and run see: SkyPilot's variables, bit for bit, and SkyPilot's way of running a script."""

import datetime
import json
import os
import pwd
import re
import tempfile
import unittest.mock
from pathlib import Path

import quadtest

TIMEOUT_SECONDS = 240

# Prints the process's environment as one line of JSON; no value can break it.
SHOW = """import json, os, sys
print(sys.argv[1], json.dumps(dict(os.environ)), flush=True)
"""

# Every value is a trap for one of: the shell's quoting, YAML's, JSON's, the order's way through a file.
NASTY = {
    "TWO_LINES": "first\nsecond",
    "ENDS_WITH_NEWLINES": "a\n\n",
    "QUOTES": """it's "quoted" 'twice' \"""",
    "DOLLARS": "$HOME ${PATH} $(echo no) `echo no` $$",
    "BACKSLASHES": "\\n \\\\ \\",
    "UNICODE": "Grüße 你好 🎉 \u200b",
    "SHELL": "a; exit 9 & | > < * ? [x] {a,b} ~ ! # %",
    "BLANKS": "  \t leading and trailing \t ",
    "EMPTY": "",
    "DASHES": "-n --",
    "CONTROL": "\x01\x1b[31m\x7f",
    "LONG": "x" * 60_000,
}


def task_folder(yaml, **files):
    folder = Path(tempfile.mkdtemp())
    if not isinstance(yaml, str):
        # JSON is YAML, but for surrogate pairs and for a DEL that is not escaped.
        yaml = json.dumps(yaml, ensure_ascii=False).replace("\x7f", "\\u007f")
    (folder / "task.yaml").write_text(yaml)
    (folder / "show.py").write_text(SHOW)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


class Environment(quadtest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.shared = quadtest.Server(nodes=5)
        cls.addClassCleanup(cls.shared.close)
        cls.shared.start()

    def seen(self, job, rank, words=("setup", "run")):
        """{word: environment} of one rank, as show.py printed it."""
        found = {}
        for line in self.shared.ok("logs", job, "--rank", rank, "--no-follow").splitlines():
            word, _, text = line.partition(" ")
            if word in words:
                found[word] = json.loads(text)
        self.assertEqual(set(found), set(words), self.shared.describe(job))
        return found

    def addresses(self, job):
        known = {node["name"]: node["address"] for node in self.shared.json("node", "list")["nodes"]}
        return [known[node] for node in self.shared.job(job)["attempts"][-1]["nodes"]]

    def check_table(self, ranks, resources, gpus, cpus, memory):
        """The table of SkyPilot's variables, and that there are no others."""
        server = self.shared
        task = {
            "name": f"table-{ranks}", "num_nodes": ranks, "workdir": ".", "resources": resources,
            "setup": "python3 show.py setup",
            # The port is free on the head when run begins, and the same for all.
            "run": "python3 show.py run\n"
                   "[ $SKYPILOT_NODE_RANK != 0 ] || python3 -c 'import os, socket; "
                   "socket.create_server((os.environ[\"MASTER_ADDR\"], int(os.environ[\"MASTER_PORT\"])))'",
        }  # fmt: skip
        job = server.launch("task.yaml", cwd=task_folder(task))
        server.wait_for_status(job, "SUCCEEDED")
        view = server.job(job)
        ips = self.addresses(job)
        self.assertEqual(len(set(ips)), ranks)
        # SkyPilot's own words: the submission's time in the server's time zone, then <name>_<id>-<index of the task>.
        submitted = datetime.datetime.fromisoformat(view["submitted_at"].replace("Z", "+00:00")).astimezone()
        task_id = submitted.strftime("sky-managed-%Y-%m-%d-%H-%M-%S-%f") + f"_table-{ranks}_{job}-0"
        hot = f"{server.data}/hot/{job}/e1"
        port = None
        for rank in range(ranks):
            seen = self.seen(job, rank)
            home = seen["run"]["HOME"]
            common = {
                "SKYPILOT_NUM_NODES": str(ranks),
                "SKYPILOT_TASK_ID": task_id,
                "SKYPILOT_TASK_IDS": task_id,
                "SKYPILOT_MANAGED_JOB_ID": str(job),
                "SKYPILOT_JOB_RANK": "0",
                "SKYPILOT_NUM_JOBS": "1",
                "SKYPILOT_CLUSTER_INFO": f'{{"cluster_name": "table-{ranks}-{job}", "cloud": "Local", '
                                         '"region": "local", "zone": null}',
                "SKYPILOT_USER": pwd.getpwuid(os.geteuid()).pw_name,
                "SKYPILOT_POD_NODE_TYPE": "head" if rank == 0 else "worker",
                "SKYPILOT_POD_CPU_CORE_LIMIT": str(cpus),
                "SKYPILOT_POD_MEMORY_BYTES_LIMIT": str(memory),
                "QUAD_JOB_ID": str(job),
                "QUAD_EPOCH": "1",
                "QUAD_RANK": str(rank),
                "QUAD_NUM_RANKS": str(ranks),
                "QUAD_CHECKPOINT_DIR": hot,
                "QUAD_PROGRESS": str(Path(home).parent / "progress"),
                "QUAD_RANK_KEY": f"{job}-1-{rank}",
                "QUAD_RANK_FOLDER": str(Path(home).parent) + "/",
            }  # fmt: skip
            port = port or seen["run"].get("MASTER_PORT")
            expected = {
                "setup": common | {
                    "SKYPILOT_SETUP_NODE_RANK": str(rank),
                    "SKYPILOT_SETUP_NODE_IPS": "\n".join(ips),
                    "SKYPILOT_SETUP_NUM_GPUS_PER_NODE": str(gpus),
                },
                "run": common | {
                    "SKYPILOT_NODE_RANK": str(rank),
                    "SKYPILOT_NODE_IPS": "\n".join(ips),
                    "SKYPILOT_NUM_GPUS_PER_NODE": str(gpus),
                    "SKYPILOT_INTERNAL_JOB_ID": str(job),
                    "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))),
                    "MASTER_ADDR": ips[0],
                    "MASTER_PORT": port,
                },
            }  # fmt: skip
            if ranks > 1:
                expected["run"]["QUAD_HOSTFILE"] = str(Path(home).parent / "hostfile")
            for word, variables in expected.items():
                if gpus == 0:  # else it is the server's own, if it has one
                    self.assertEqual(seen[word]["NVIDIA_VISIBLE_DEVICES"], "none")
                ours = ("SKYPILOT_", "QUAD_", "MASTER_", "CUDA_VISIBLE")
                self.assertEqual({k: v for k, v in seen[word].items() if k.startswith(ours)}, variables, f"{word}, rank {rank}")
                self.assertEqual(seen[word]["PYTHONUNBUFFERED"], "1")
        self.assertRegex(port, r"^[1-9]\d{3,4}$")

    @quadtest.quick
    def test_one_node_without_gpus(self):
        self.check_table(1, {}, 0, 2, 2_000_000_000)

    def test_two_nodes_with_part_of_a_gpu_each_and_amounts_of_their_own(self):
        self.check_table(2, {"accelerators": "H100:0.5", "cpus": "3", "memory": "1"}, 1, 3, 1_000_000_000)

    def test_four_nodes_with_two_gpus_each(self):
        self.check_table(4, {"accelerators": "H100:2"}, 2, 8, 32_000_000_000)

    def test_ranks_that_share_a_node_get_gpus_of_their_own(self):
        server = self.shared
        task = {"workdir": ".", "resources": {"accelerators": "H100:4", "cpus": 1, "memory": 1},
                "run": "python3 show.py run\nuntil [ -e ~/go ]; do sleep 0.05; done"}  # fmt: skip
        jobs = [server.launch("task.yaml", cwd=task_folder(task)) for _ in range(10)]
        seen = {}
        for job in jobs:
            server.wait_for_status(job, "RUNNING")
            quadtest.wait_until(lambda job=job: "run " in server.ok("logs", job, "--no-follow"), 30, "it has printed")
            seen[job] = self.seen(job, 0, ("run",))["run"]
        taken = [(server.job(job)["attempts"][0]["nodes"][0], gpu) for job in jobs
                 for gpu in seen[job]["CUDA_VISIBLE_DEVICES"].split(",")]  # fmt: skip
        self.assertEqual(len(set(taken)), 40, taken)
        for job in jobs:
            Path(seen[job]["HOME"], "go").touch()
            server.wait_for_status(job, "SUCCEEDED")

    def test_values_arrive_as_they_were_written(self):
        server = self.shared
        secrets = {f"SECRET_{name}": value for name, value in NASTY.items()}
        task = {"workdir": ".", "envs": NASTY, "secrets": secrets, "setup": "python3 show.py setup",
                "run": "python3 show.py run"}  # fmt: skip
        by_flag = 'by "flag"\nof $two lines'
        job = server.launch("task.yaml", "--env", f"FLAG={by_flag}", "--secret", f"HIDDEN={by_flag}",
                            cwd=task_folder(task))  # fmt: skip
        server.wait_for_status(job, "SUCCEEDED")
        for word, seen in self.seen(job, 0).items():
            wanted = NASTY | secrets | {"FLAG": by_flag, "HIDDEN": by_flag}
            self.assertEqual({name: seen.get(name) for name in wanted}, wanted, word)

    def test_secrets_are_shown_nowhere(self):
        server = self.shared
        secret = "correct-horse-battery-staple"
        job = server.launch({"secrets": {"TOKEN": secret}, "setup": "test $TOKEN",
                             "run": 'test "$TOKEN" && until [ -e ~/go ]; do sleep 0.05; done'})  # fmt: skip
        server.wait_for_status(job, "RUNNING")
        for verb in (("status", job), ("queue",), ("story", job), ("events",), ("why", job)):
            self.assertNotIn(secret, server.ok(*verb), verb)
            self.assertNotIn(secret, server.ok(*verb, "-o", "json"), verb)
        folders = list(server.data.glob(f"nodes/*/{job}-1-0"))
        self.assertEqual(len(folders), 1)
        for path in [*server.data.glob("quad.db*"), *folders[0].glob("*.json")]:
            self.assertNotIn(secret.encode(), path.read_bytes(), path)
        self.assertEqual((folders[0] / "run.sh").stat().st_mode & 0o777, 0o600)
        self.assertEqual(server.data.stat().st_mode & 0o077, 0, "others can look into the data folder")
        for pid in quadtest.processes_of(str(folders[0])):
            self.assertNotIn(secret, " ".join(quadtest.command_of(pid)))
        (folders[0] / "home" / "go").touch()
        server.wait_for_status(job, "SUCCEEDED")

    def test_a_variable_without_a_value_is_refused_until_it_has_one(self):
        server = self.shared
        folder = task_folder("workdir: .\nenvs:\n  NEEDED:\nsecrets:\n  ALSO:\nrun: python3 show.py run\n")
        code, _, err = server.quad("launch", "-d", "task.yaml", cwd=folder)
        self.assertEqual(code, 2, err)
        self.assertRegex(err, r"task\.yaml:3:\d+: error: .*NEEDED.*--env NEEDED=")
        code, _, err = server.quad("launch", "-d", "--env", "NEEDED=1", "task.yaml", cwd=folder)
        self.assertEqual(code, 2, err)
        self.assertRegex(err, r"secrets\.ALSO.*--secret ALSO=VALUE")
        job = server.launch("task.yaml", "--env", "NEEDED=1", "--secret", "ALSO=2", cwd=folder)
        server.wait_for_status(job, "SUCCEEDED")
        seen = self.seen(job, 0, ("run",))["run"]
        self.assertEqual((seen["NEEDED"], seen["ALSO"]), ("1", "2"))


class Wrapper(quadtest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = quadtest.Server(nodes=3)
        cls.addClassCleanup(cls.shared.close)
        cls.shared.start()

    def run_job(self, task, *args, status="SUCCEEDED", **files):
        job = self.shared.launch("task.yaml", *args, cwd=task_folder(task, **files))
        self.shared.wait_for_status(job, status)
        return job, self.shared.ok("logs", job, "--no-follow")

    @quadtest.quick
    def test_scripts_run_as_skypilot_runs_them(self):
        probe = (
            'echo "$WORD home=$HOME cwd=$PWD real=$(pwd -P) unbuffered=$PYTHONUNBUFFERED flags=$- rc=$FROM_RC args=$#"\n'
            "export CARRIED=$WORD\n"
        )
        job, log = self.run_job({
            "workdir": ".",
            "file_mounts": {"~/.bashrc": "./rc"},
            "setup": "WORD=setup\n" + probe + "echo cuda=${CUDA_VISIBLE_DEVICES-unset}\n"
                     "echo 'export FROM_SETUP=1' >> ~/.bashrc; echo kept > kept; ulimit -c 0",
            "run": "WORD=run\n" + probe + 'echo "setup=$FROM_SETUP kept=$(cat kept)"\n'
                   "false\necho after false\nnosuchcommand\necho after an unknown command\n"
                   'echo "$UNSET_VARIABLE"not strict; echo to stderr >&2; cat; echo "stdin ended"\nalias; (exit 0)',
            "resources": {"accelerators": "H100:1"},
        }, rc="export FROM_RC='a b'\nexport CUDA_VISIBLE_DEVICES=from-rc\necho rc was sourced\n")  # fmt: skip
        lines = log.splitlines()
        for word in ("setup", "run"):
            line = next(line for line in lines if line.startswith(word + " home="))
            found = re.fullmatch(r"\w+ home=(\S+) cwd=(\S+) real=(\S+) unbuffered=1 flags=(\S+) rc=a b args=0", line)
            self.assertTrue(found, line)
            self.assertEqual(found[2], found[1] + "/sky_workdir")
            self.assertEqual(found[3], os.path.realpath(found[1]) + "/sky_workdir")
            self.assertNotEqual(found[1], os.environ.get("HOME"))
            self.assertIn("i", found[4], "bash is interactive, so that a .bashrc is not cut short")
            self.assertNotIn("e", found[4])
        for line in ("cuda=unset", "setup=1 kept=kept", "after false", "after an unknown command", "not strict",
                     "to stderr", "stdin ended"):  # fmt: skip
            self.assertIn(line, lines)
        # By the interactive bash and by the wrapper, for each of the two: as with SkyPilot.
        self.assertEqual(lines.count("rc was sourced"), 4)
        # Nothing of bash's own about a terminal that is not there.
        self.assertNotIn("job control", log)

    def test_the_servers_own_environment_stays_with_it(self):
        venv = Path(tempfile.mkdtemp())
        (venv / "bin").mkdir()
        program = venv / "bin" / "python3"
        program.write_text("#!/bin/sh\necho of the venv\n")
        program.chmod(0o755)
        of_the_server = {
            "ADMIN_API_KEY": "sk-of-the-admin", "AWS_SECRET_ACCESS_KEY": "secret", "WHERE": "old", "PYTHONPATH": "/gone/lib",
            "VIRTUAL_ENV": str(venv), "LD_PRELOAD": "/gone/lib.so", "DATABASE_URL": "postgres://admin:pw@db",
            "GIT_CONFIG_COUNT": "1", "TERM": "xterm", "HTTPS_PROXY": "http://admin:pw@proxy:3128",
            "PATH": f"{venv}/bin:{os.environ['PATH']}",
        }  # fmt: skip
        named = {"LD_LIBRARY_PATH": "/opt/named/lib", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}
        with unittest.mock.patch.dict(os.environ, of_the_server | named):
            server = self.server(nodes=1, gpus="", start=False)
            server.data.mkdir()
            (server.data / "config.yaml").write_text("engines: {local: {environment: [LD_LIBRARY_PATH, NOT_SET]}}\n")
            server.start()
        # Not whatever python3 there is on PATH: it may be a wrapper that sets variables of its own.
        folder = task_folder({"workdir": ".", "setup": "/usr/bin/python3 show.py setup", "envs": {"WHERE": "task"},
                              "run": "/usr/bin/python3 show.py run; until [ -e ~/go ]; do sleep 0.05; done"})  # fmt: skip
        job = server.launch("task.yaml", cwd=folder, env={"WHERE": "new", "PRIVATE": "of the client"})
        quadtest.wait_until(lambda: "run " in server.ok("logs", job, "--no-follow"), 30, "it has printed")
        seen = {}
        for line in server.ok("logs", job, "--no-follow").splitlines():
            word, _, text = line.partition(" ")
            seen[word] = json.loads(text)
        seen["exec"] = json.loads(server.ok("exec", job, "--", "/usr/bin/python3", "show.py", "exec").partition(" ")[2])
        Path(seen["run"]["HOME"], "go").touch()
        server.wait_for_status(job, "SUCCEEDED")
        account = pwd.getpwuid(os.geteuid()).pw_name
        for word, variables in seen.items():
            for name, value in of_the_server.items():
                self.assertNotEqual(variables.get(name), value, f"{word}: {name}")
            self.assertNotIn("PRIVATE", variables)
            self.assertEqual({name: variables.get(name) for name in named}, named, word)
            self.assertEqual((variables["WHERE"], variables["USER"], variables["LOGNAME"]), ("task", account, account), word)
            self.assertEqual(variables["PATH"].split(":"), list(dict.fromkeys(os.environ["PATH"].split(":"))))
            # What is not Quad's word, SkyPilot's or the shell's is on the list.
            known = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_",
                     "PYTHONUNBUFFERED", "WHERE", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", *named}  # fmt: skip
            others = {name for name in variables if name not in known and not name.startswith(
                ("SKYPILOT_", "QUAD_", "MASTER_", "LC_", "NVIDIA_"))}  # fmt: skip
            self.assertEqual(others, set(), word)
        self.assertIn("names NOT_SET", server.log_tail())
        # The same for a task of a cluster.
        server.ok("launch", "-c", "dev", "true")
        code, out, err = server.quad("exec", "dev", "env")
        self.assertEqual(code, 0, err)
        for name, value in of_the_server.items():
            self.assertNotIn(f"{name}={value}\n", out)
        self.assertIn("LD_LIBRARY_PATH=/opt/named/lib\n", out)

    def test_a_server_that_a_launch_starts_catches_nothing_of_the_users_shell(self):
        server = self.server(nodes=0, gpus="", start=False)
        self.addCleanup(lambda: server.quad("api", "stop"))
        code, out, err = server.quad("launch", "env", env={"ADMIN_API_KEY": "sk", "PYTHONPATH": "/gone/lib", "WHERE": "here"})
        self.assertEqual(code, 0, err)
        for name in ("ADMIN_API_KEY", "PYTHONPATH", "WHERE"):
            self.assertNotIn(f"{name}=", out)

    def test_the_exit_code_is_that_of_the_last_command(self):
        server = self.shared
        for script, code in (("false; true", 0), ("true; (exit 41)", 41), ("exit 3; true", 3), ("exit 255", 255),
                             ("nosuchcommand", 127), ("python3 -c 'import sys; sys.exit(2)'", 2)):  # fmt: skip
            got, _, err = server.quad("launch", script)
            self.assertEqual(got, code, f"{script}: {err}")

    def test_scripts_may_be_long(self):
        # Beyond what fits into an argument (128 KiB), with text that a shell would split.
        text = "".join(f"line {number} of 'many' $HOME\n" for number in range(12_000))
        script = f"wc -c <<'END'\n{text}END\n"
        self.assertGreater(len(script), 300_000)
        _, log = self.run_job({"setup": script + "echo setup done", "run": script + "echo run done"})
        self.assertEqual(log.splitlines(), [str(len(text)), "setup done", str(len(text)), "run done"])

    def test_the_task_id_stays_over_recoveries(self):
        server = self.shared
        job = server.launch("task.yaml", cwd=task_folder({
            "name": "phoenix", "workdir": ".",
            "run": "python3 show.py run$QUAD_EPOCH\n[ $QUAD_EPOCH -ge 3 ] || sleep 1000",
        }))  # fmt: skip
        for epoch in (1, 2):
            quadtest.wait_until(lambda e=epoch: f"run{e} " in server.ok("logs", job, "--no-follow"), 30, "it has printed")
            node = server.job(job)["attempts"][-1]["nodes"][0]
            server.ok("node", "fail", node)
            quadtest.wait_until(lambda e=epoch: server.job(job)["epoch"] > e, 30, "there is a next attempt")
            server.ok("node", "return", node)
        server.wait_for_status(job, "SUCCEEDED")
        log = server.ok("logs", job, "--no-follow")
        seen = [json.loads(text) for text in re.findall(r"^run\d (.*)$", log, re.MULTILINE)]
        self.assertEqual([one["QUAD_EPOCH"] for one in seen], ["1", "2", "3"])
        self.assertEqual(len({one["SKYPILOT_TASK_ID"] for one in seen}), 1)
        self.assertRegex(seen[0]["SKYPILOT_TASK_ID"], rf"^sky-managed(-\d+){{7}}_phoenix_{job}-0$")
        self.assertEqual(len({one["QUAD_CHECKPOINT_DIR"] for one in seen}), 3)

    @quadtest.quick
    def test_lines_of_several_ranks_say_whose_they_are(self):
        server = self.shared
        job = server.launch({
            "num_nodes": 3, "setup": "echo in setup",
            "run": "echo in run; echo 'two'; until [ -e ~/go ]; do sleep 0.05; done; printf 'no line end'",
        })  # fmt: skip
        quadtest.wait_until(lambda: server.ok("logs", job, "--no-follow").count("two") == 3, 30, "all have printed")

        def check():
            log = server.ok("logs", job, "--no-follow")
            pids = {}
            for rank, address in enumerate(("127.64.0.1", "127.64.0.2", "127.64.0.3")):
                where = r"head, rank=0, pid=(\d+)" if rank == 0 else rf"worker{rank}, rank={rank}, pid=(\d+), ip={address}"
                found = re.findall(rf"^\({where}\) in run$", log, re.MULTILINE)
                self.assertEqual(len(found), 1, log)
                pids[rank] = int(found[0])
                self.assertIn(f"pid={pids[rank]}", next(line for line in log.splitlines() if line.endswith("two")
                                                        and f"rank={rank}," in line))  # fmt: skip
            self.assertEqual(len(re.findall(r"^\((?:head|worker\d), rank=\d, pid=\d+.*\) in setup$", log, re.MULTILINE)), 3, log)
            return pids

        pids = check()
        for rank, pid in pids.items():
            folder = next(server.data.glob(f"nodes/*/{job}-1-{rank}"))
            self.assertIn(pid, quadtest.processes_of(str(folder)), "the process of the line is the rank's, on this machine")
            (folder / "home" / "go").touch()
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(check(), pids)
        server.restart()
        self.assertEqual(check(), pids)
        self.assertEqual(server.ok("logs", job, "--no-follow").count(") no line end\n"), 3)
        # One rank alone: as it was written.
        self.assertEqual(server.ok("logs", job, "--no-follow", "--rank", 1), "in setup\nin run\ntwo\nno line end")
