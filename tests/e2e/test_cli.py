"""The command line as people and scripts use it: terminals and pipes, verbs and flags, exit codes, completion, and the
server that starts by itself."""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

import quadtest
from quadtest import quick, wait_until
from terminal import Terminal

TIMEOUT_SECONDS = 170
ROOT = Path(__file__).resolve().parents[2]

# A job that reports progress and goes on until the file `stop` is there.
PROGRESSING = """
i=0
while [ ! -e {stop} ]; do
  i=$((i+1))
  echo "{{\\"step\\": $i, \\"total\\": 100000, \\"loss\\": 1.5}}" >> $QUAD_PROGRESS
  sleep 0.05
done
echo the end
"""
LIVE = r"^Job \d+ RUNNING: step \d+/100000, .*/s, .* left, ends (at \d\d:\d\d|on )"


class WithServer(quadtest.TestCase):
    """Tests that share a server of four pretend nodes."""

    @classmethod
    def setUpClass(cls):
        cls.quad_server = quadtest.Server(nodes=4, options=("--cpus", "16", "--memory", "64"))
        cls.addClassCleanup(cls.quad_server.close)
        cls.quad_server.start()
        cls.folder = cls.quad_server.folder

    def setUp(self):
        self.stop_file = self.folder / f"stop-{self.id().rpartition('.')[2]}"
        self.stop_file.unlink(missing_ok=True)
        self.addCleanup(self.quad_server.quad, "cancel", "--all")

    def quad(self, *args, **more):
        return self.quad_server.quad(*args, **more)

    def refused(self, *args, code=2, **more):
        """What `quad` says on standard error when it refuses."""
        got, out, err = self.quad(*args, **more)
        self.assertEqual(got, code, f"{args}: {out}{err}")
        return err

    def terminal(self, *args, columns=100, env=None, **more):
        environment = self.quad_server.environment(**{"TERM": "xterm-256color"} | (env or {}))
        terminal = Terminal([quadtest.quad_bin(), *args], environment, columns=columns, cwd=self.folder, **more)
        self.addCleanup(terminal.close)
        return terminal

    def newest(self):
        return self.quad_server.json("status")["jobs"][0]["id"]


class OnATerminal(WithServer):
    @quick
    def test_a_live_line_tells_state_step_rate_and_end_and_leaves_nothing_behind(self):
        terminal = self.terminal("launch", PROGRESSING.format(stop=self.stop_file), env={"NO_COLOR": ""})
        terminal.wait_for(LIVE)
        self.assertRegex(terminal.last_line(), "^Job ")
        self.stop_file.touch()
        self.assertEqual(terminal.wait(), 0)
        job = self.newest()
        self.assertEqual(terminal.lines(), [f"Job {job} submitted.", "the end", f"Job {job} SUCCEEDED."])
        self.assertIn("\x1b[32mRUNNING\x1b[0m", terminal.raw)

    def test_no_color_leaves_the_live_line_without_colours(self):
        terminal = self.terminal("launch", PROGRESSING.format(stop=self.stop_file), env={"NO_COLOR": "1"})
        terminal.wait_for(LIVE)
        self.stop_file.touch()
        self.assertEqual(terminal.wait(), 0)
        self.assertNotRegex(terminal.raw, r"\x1b\[\d*m")

    @quick
    def test_a_pipe_gets_plain_text(self):
        # The output of a job is whatever it is; all else is the command line's.
        for args in (("launch", "echo hi"), ("status",), ("queue",), ("node", "list"), ("launch", "-d", "true")):
            code, out, err = self.quad(*args, env={"NO_COLOR": "", "TERM": "xterm-256color"})
            self.assertEqual(code, 0, err)
            self.assertNotIn("\x1b", out + err)
            self.assertNotIn("\r", out + err)

    def test_a_dumb_terminal_gets_no_live_line(self):
        terminal = self.terminal("launch", "sleep 1.5; echo hi", env={"TERM": "dumb", "NO_COLOR": ""})
        self.assertEqual(terminal.wait(), 0)
        self.assertNotIn("\x1b", terminal.raw)
        self.assertEqual(terminal.lines()[1:-1], ["hi"])

    def test_the_live_line_survives_a_window_made_narrower(self):
        script = PROGRESSING.format(stop=self.stop_file).rstrip() + "; echo above; sleep 0.1; printf 'no end'; sleep 1.5; echo .\n"
        terminal = self.terminal("launch", script, columns=100)
        terminal.wait_for(LIVE)
        # Right after one drawing, a second before the next, so that none is under way.
        drawn = len(terminal.raw)
        wait_until(lambda: len(terminal.raw) > drawn, 30, "the live line is drawn again")
        terminal.resize(33)
        wait_until(lambda: re.search(r"^Job \d+ RUNNING: step.*…$", terminal.last_line()), 30, "it is cut to the new width")
        self.assertTrue(all(len(line) <= 33 for line in terminal.lines()))
        self.assertEqual(len(terminal.lines()), 2, terminal.lines())
        self.stop_file.touch()
        self.assertEqual(terminal.wait(), 0)
        job = self.newest()
        self.assertEqual(
            terminal.lines(), [f"Job {job} submitted.", "the end", "above", "no end.", f"Job {job} SUCCEEDED."]
        )

    def test_output_without_a_newline_is_not_touched(self):
        # A progress bar draws its line again and again; the live line keeps away until it is done.
        script = f"for i in 1 2 3 4 5 6; do printf '\\r%d of 6' $i; sleep 0.4; done; echo; {PROGRESSING.format(stop=self.stop_file)}"
        terminal = self.terminal("launch", script)
        terminal.wait_for("^3 of 6")
        self.assertRegex(terminal.last_line(), r"^\d of 6$")
        terminal.wait_for(LIVE)
        self.assertRegex(terminal.lines()[-2], "^6 of 6$")
        self.stop_file.touch()
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(terminal.lines()[1:-1], ["6 of 6", "the end"])
        terminal = self.terminal("launch", "printf 'without an end'")
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(terminal.lines()[1:], ["without an end", f"Job {self.newest()} SUCCEEDED."])

    def test_a_job_that_waits_says_for_what(self):
        blocker = self.quad_server.launch({"num_nodes": 4, "run": "sleep 600", "resources": {"cpus": 16}})
        self.quad_server.wait_for_status(blocker, "RUNNING")
        terminal = self.terminal("launch", "--cpus", "16", "echo at last", columns=200)
        line = terminal.wait_for(r"^Job \d+ PENDING, number 1 in the queue: ")
        self.assertIn("16 CPUs", line)
        self.quad("cancel", blocker)
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(terminal.lines()[1:-1], ["at last"])

    @quick
    def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(self):
        terminal = self.terminal("launch", PROGRESSING.format(stop=self.stop_file))
        terminal.wait_for(LIVE)
        terminal.send("\x03")
        self.assertEqual(terminal.wait(), 130)
        job = self.newest()
        lines = [line for line in terminal.lines() if line and line != "^C"]
        self.assertEqual(lines[0], f"Job {job} submitted.")
        self.assertEqual(lines[-1].replace("^C", ""), f"Job {job} goes on. Follow it: quad logs -f {job}   Cancel it: quad cancel {job}")
        self.assertEqual(len(lines), 2, lines)
        self.assertEqual(self.quad_server.job(job)["status"], "RUNNING")

    def test_sigterm_ends_a_follower_in_a_pipe_too(self):
        job = self.quad_server.launch({"run": "echo started; sleep 600"})
        follower = subprocess.Popen(
            [quadtest.quad_bin(), "logs", "-f", str(job)], env=self.quad_server.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.assertEqual(follower.stdout.readline(), "started\n")
        follower.terminate()
        _, err = follower.communicate(timeout=30)
        self.assertEqual(follower.returncode, 128 + signal.SIGTERM)
        self.assertIn(f"quad logs -f {job}", err)
        self.assertEqual(self.quad_server.job(job)["status"], "RUNNING")

    def test_tables_fit_the_window(self):
        self.quad_server.launch({"name": "a-name-that-is-far-too-long-for-any-narrow-window-to-show", "run": "true"})
        terminal = self.terminal("status", columns=80)
        self.assertEqual(terminal.wait(), 0)
        self.assertIn("…", "\n".join(terminal.lines()))
        self.assertFalse(any(terminal.screen.joined), terminal.lines())
        wide = self.quad_server.ok("status")
        self.assertIn("a-name-that-is-far-too-long-for-any-narrow-window-to-show", wide)

    def test_what_a_job_is_called_cannot_move_the_cursor(self):
        code, _, err = self.quad("launch", "-d", "--name", "x\x1b[2J", "true")
        self.assertEqual((code, "\x1b" in err), (2, False), err)


class Following(quadtest.TestCase):
    """A server that goes away while it is followed; each test has its own."""

    def follow(self, server, *args):
        with open(server.folder / "out", "wb") as out, open(server.folder / "err", "wb") as err:
            follower = subprocess.Popen(
                [quadtest.quad_bin(), *map(str, args)], stdout=out, stderr=err, env=server.environment(), cwd=server.folder
            )
        self.addCleanup(lambda: follower.poll() is None and (follower.kill(), follower.wait()))
        return follower

    def lines_of(self, server):
        return (server.folder / "out").read_text().splitlines()

    def wait_for_more(self, server, count=40):
        seen = len(self.lines_of(server))
        wait_until(lambda: len(self.lines_of(server)) > seen + count, 60, "the follower shows more")

    def test_no_line_is_lost_or_doubled_when_the_server_is_restarted(self):
        server = self.server(nodes=2)
        stop = server.folder / "stop"
        run = f'i=0; while [ ! -e {stop} ]; do i=$((i+1)); echo "rank $SKYPILOT_NODE_RANK line $i"; sleep 0.01; done'
        job = server.launch({"num_nodes": 2, "run": run})
        follower = self.follow(server, "logs", "-f", job)
        self.wait_for_more(server)
        server.kill()
        server.start()
        self.wait_for_more(server)
        server.restart()
        self.wait_for_more(server)
        stop.touch()
        self.assertEqual(follower.wait(60), 0, (server.folder / "err").read_text())
        shown = self.lines_of(server)
        for rank, prefix in ((0, r"\(head, rank=0, pid=\d+\) "), (1, r"\(worker1, rank=1, pid=\d+, ip=127\.[\d.]+\) ")):
            numbers = [int(found[1]) for line in shown if (found := re.fullmatch(rf"{prefix}rank {rank} line (\d+)", line))]
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
            self.assertGreater(len(numbers), 50)
        whole = server.ok("logs", job).splitlines()
        self.assertEqual(sorted(shown), sorted(whole))
        err = (server.folder / "err").read_text()
        self.assertEqual(err.count("The server is away"), 2, err)
        self.assertIn(f"Job {job} SUCCEEDED.", err)

    def test_launch_in_the_foreground_gives_the_jobs_exit_code_after_a_restart(self):
        server = self.server(nodes=1)
        stop = server.folder / "stop"
        # Bytes that are no text, and a last line without an end.
        run = f"printf 'a\\377\\nb'; while [ ! -e {stop} ]; do sleep 0.05; done; printf 'c\\nd'; exit 7"
        follower = self.follow(server, "launch", run)
        wait_until(lambda: (server.folder / "out").read_bytes() == b"a\xff\nb", 60, "the first output is shown")
        server.kill()
        stop.touch()
        server.start()
        self.assertEqual(follower.wait(60), 7, (server.folder / "err").read_text())
        self.assertEqual((server.folder / "out").read_bytes(), b"a\xff\nbc\nd")

    def test_recovery_and_search_go_on_over_a_restart(self):
        server = self.server(nodes=2)
        stop = server.folder / "stop"
        # The first attempt's node is powered off; all of it is followed as JSON, and searched.
        run = f"echo start $QUAD_EPOCH; while [ ! -e {stop} ]; do sleep 0.05; done; echo other; echo stop $QUAD_EPOCH"
        job = server.launch({"run": run})
        node = server.wait_for_status(job, "RUNNING")["nodes"][0]
        follower = self.follow(server, "logs", "-f", job, "--grep", "st", "-o", "json")
        wait_until(lambda: len(self.lines_of(server)) == 1, 60, "the first line is shown")
        server.ok("node", "fail", node)
        wait_until(lambda: len(self.lines_of(server)) == 2, 60, "the second attempt's first line is shown")
        server.kill()
        server.start()
        stop.touch()
        self.assertEqual(follower.wait(60), 0, (server.folder / "err").read_text())
        self.assertEqual(
            [json.loads(line) for line in self.lines_of(server)],
            [
                {"attempt": 1, "rank": 0, "line": "start 1"},
                {"attempt": 2, "rank": 0, "line": "start 2"},
                {"attempt": 2, "rank": 0, "line": "stop 2"},
            ],
        )

    def test_events_go_on_after_a_restart(self):
        server = self.server(nodes=1)
        follower = self.follow(server, "events", "-f", "-o", "json", "--kind", "job.")
        server.launch({"run": "true"})
        wait_until(lambda: len(self.lines_of(server)) == 2, 60, "two events are shown")
        server.kill()
        server.start()
        server.launch({"run": "true"})
        wait_until(lambda: len(self.lines_of(server)) == 4, 60, "four events are shown")
        follower.kill()
        events = [json.loads(line) for line in self.lines_of(server)]
        self.assertEqual([(e["job"], e["kind"]) for e in events],
                         [(1, "job.submitted"), (1, "job.succeeded"), (2, "job.submitted"), (2, "job.succeeded")])  # fmt: skip


@quick
class Usage(WithServer):
    def test_what_is_misspelt_is_told_with_the_nearest_right_word(self):
        for args, wrong, right in (
            (["lanuch", "x"], "verb 'lanuch'", "'launch'"),
            (["node", "lst"], "verb 'lst'", "'list'"),
            (["jobs", "cancle", "1"], "verb 'cancle'", "'cancel'"),
            (["launch", "--num-node", "3", "x"], "flag '--num-node'", "'--num-nodes'"),
            (["logs", "1", "--folow"], "flag '--folow'", "'--follow'"),
            (["status", "--output=json", "--statu", "x"], "flag '--statu'", "'--status'"),
        ):
            said = self.refused(*args)
            self.assertIn(wrong, said)
            self.assertIn(f"did you mean {right}?", said)
            self.assertRegex(said, r"See 'quad [a-z ]*--help'\.\n$")
        self.assertIn("come after --", self.refused("launch", "python", "x.py", "--learning-rate", "1"))
        self.assertIn("needs a verb: list, fail", self.refused("node"))
        self.assertIn("needs a verb", self.refused())
        self.assertIn("'x' is not a job's number", self.refused("why", "x", code=4))
        self.assertIn("file is required", self.refused("admin", "backup"))
        self.assertIn("json", self.refused("status", "-o", "xml"))

    def test_exit_codes(self):
        self.assertEqual(self.quad("launch", "exit 0")[0], 0)
        self.assertEqual(self.quad("launch", "exit 42")[0], 42)
        self.assertEqual(self.quad("launch", "kill -SEGV $$")[0], 139)
        job = self.newest()
        self.assertEqual(self.quad("logs", "-f", job)[0], 139)
        self.assertEqual(self.quad("logs", job)[0], 0)
        for args in (["status", "999999"], ["logs", "999999"], ["cancel", "999999"], ["why", "999999"],
                     ["story", "999999"], ["checkpoints", "999999"], ["node", "drain", "nowhere"],
                     ["token", "revoke", "nobody"], ["logs", "-n", "no-such-name"], ["logs", str(job), "--rank", "5"]):  # fmt: skip
            self.refused(*args, code=4)
        nowhere = {"QUAD_DATA_DIR": str(self.folder / "nowhere")}
        self.refused("status", "--server", "http://127.0.0.1:9", code=3)
        self.assertEqual(self.quad("api", "status", env=nowhere)[0], 3)
        self.assertFalse((self.folder / "nowhere").exists(), "api status must start nothing")
        self.refused("launch", "missing.yaml")
        self.refused("launch")
        self.refused("cancel")
        self.refused("launch", "--cpus", "1000", "true")
        self.assertIn("did you mean", self.refused("launch", "--gpus", "H10:1", "true"))
        self.refused("serve", "--data-dir", self.quad_server.data, "--port", "0", code=5)

    def test_what_a_job_prints_does_not_act_on_a_terminal(self):
        job = self.quad_server.launch({"run": r"printf '\033]0;title\007red: \033[31mx\033[0m\033[2J\n[quad: forged]\n['"})
        self.quad_server.wait_for_status(job, "SUCCEEDED")
        shown = self.terminal("logs", "--no-follow", job)
        self.assertEqual(shown.wait(), 0)
        self.assertIn("red: \x1b[31mx\x1b[0m\r\n\\[quad: forged]\r\n[", shown.raw)
        for acts in ("title", "\x1b[2J"):
            self.assertNotIn(acts, shown.raw)
        raw = self.terminal("logs", "--no-follow", "--raw", job)
        self.assertEqual(raw.wait(), 0)
        for acts in ("title", "\x1b[2J", "\n[quad: forged]"):
            self.assertIn(acts, raw.raw)

    def test_a_reader_that_leaves_ends_the_command_quietly(self):
        job = self.quad_server.launch({"run": "seq 100000"})
        self.quad_server.wait_for_status(job, "SUCCEEDED")
        done = subprocess.run(f"{quadtest.quad_bin()} logs {job} | head -1", shell=True, capture_output=True, text=True,
                              env=self.quad_server.environment(), timeout=60)  # fmt: skip
        self.assertEqual((done.stdout, done.stderr), ("1\n", ""))
        with open("/dev/full", "wb") as full:
            done = subprocess.run([quadtest.quad_bin(), "status"], stdout=full, stderr=subprocess.PIPE, text=True,
                                  env=self.quad_server.environment(), timeout=60)  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (1, "error: the output could not be written\n"))

    def test_every_verb_prints_the_json_that_the_documentation_says(self):
        documented = {}
        for line in (ROOT / "docs" / "cli.md").read_text().splitlines():
            if found := re.match(r"\| `(quad [^`]+)` \| `(\{[^`]*\})`", line):
                documented[found[1]] = found[2]
        job = self.quad_server.launch({"name": "documented", "run": "echo hi"})
        self.quad_server.wait_for_status(job, "SUCCEEDED")
        task = self.folder / "documented.yaml"
        task.write_text("name: x\nrun: echo hi\n")
        token = self.quad_server.json("token", "create", "someone")
        self.quad_server.ok("launch", "-c", "documented", "true")
        words = {"CLUSTER": "documented", "JOB": str(job), "FILE": str(task), "NODE": "local-1", "COMMAND": "echo hi", "USER": "ana", "ID": token["id"],
                 "COPY": str(self.folder / "copy.db")}  # fmt: skip
        self.assertGreater(len(documented), 25)
        server = self.quad_server
        for verb, members in documented.items():
            with self.subTest(verb=verb):
                if "WAITING" in verb:
                    words["WAITING"] = str(self.waiting_job())
                args = [words.get(word, word) for word in verb.split()[1:]]
                if args[:2] == ["api", "stop"]:
                    server = quadtest.Server(folder=tempfile.mkdtemp(prefix="quad-stop-"))
                    self.addCleanup(server.close)
                    server.ok("status")
                out = server.ok(*args, "-o", "json")
                server = self.quad_server
                wanted = set(re.findall(r"\b([a-z_]+)\b", re.sub(r"\[[^\]]*\]", "", members)))
                lines = out.splitlines()
                answers = [json.loads(line) for line in lines] if lines[0] != "{" else [json.loads(out)]
                for answer in answers:
                    self.assertEqual(set(answer), wanted)
                self.quad("cancel", "--all")

    def waiting_job(self):
        task = {"num_nodes": 4, "run": "sleep 600", "resources": {"cpus": 15}}
        self.quad_server.wait_for_status(self.quad_server.launch(task), "RUNNING")
        behind = self.quad_server.launch(task)
        wait_until(lambda: "position" in self.quad_server.json("why", behind), 30, "the planner has looked")
        return behind

    def test_help_tells_every_verb_and_flag(self):
        out = self.quad_server.ok("--help")
        for verb in ("launch queue status logs cancel jobs gpus validate why story events checkpoints node serve api "
                     "config check token admin completion").split():  # fmt: skip
            self.assertRegex(out, rf"\n  {verb}\s")
            self.assertIn("--help", self.quad_server.ok(verb, "--help"))
        out = self.quad_server.ok("launch", "--help")
        for flag in ("-n -d -y -t --name --env --secret --env-file --gpus --cpus --memory --num-nodes --workdir --dryrun "
                     "--yes --config --ports --use-spot --no-use-spot --git-url --git-ref --infra --cloud --region "
                     "--zone --image-id --disk-size --disk-tier --network-tier --instance-type --local-disk --priority "
                     "--async --secret-file").split():  # fmt: skip
            self.assertRegex(out, rf"(?<![\w-]){flag}(?![\w-])")
        self.assertRegex(self.quad_server.ok("--version"), r"^quad \d+\.\d+")


@quick
class Launching(WithServer):
    def plan(self, *args, **more):
        return self.quad_server.json("launch", "--dryrun", *args, **more)

    def warned(self, *args):
        return {warning["key"] for warning in self.plan(*args)["warnings"]}

    def output_of(self, *args, **more):
        return self.quad_server.ok("launch", *args, **more)

    def test_flags_say_what_the_file_would(self):
        self.assertEqual(self.plan("-n", "mine", "true")["requests"][0]["name"], "mine")
        request = self.plan("--gpus", "h100:2", "--cpus", "3", "--memory", "5", "--num-nodes", "2", "--priority", "-7", "true")
        request = request["requests"][0]
        self.assertEqual((request["ranks"], request["priority"]), (2, -7))
        self.assertEqual(request["shapes"], [{"cpu": 3000, "memory": 5_000_000_000, "gpus": 2, "gpu_model": "H100"}])
        self.assertIn("resources.ports", self.warned("--ports", "8080", "--ports", "9000-9010", "true"))
        self.assertIn("resources.use_spot", self.warned("--use-spot", "true"))
        self.assertEqual(self.warned("--no-use-spot", "true"), set())
        self.assertIn("resources.infra", self.warned("--infra", "k8s/here", "true"))
        self.assertIn("resources.infra", self.warned("--cloud", "kubernetes", "--region", "here", "true"))
        self.assertIn("has no 'aws/us-east-1/us-east-1a'", self.refused("launch", "--infra", "aws/us-east-1/us-east-1a", "true"))
        self.assertIn("resources.image_id", self.warned("--image-id", "docker:ubuntu:22.04", "true"))
        self.assertIn("resources.instance_type", self.warned("-t", "m5.large", "true"))
        for flag, key, value in (("--disk-size", "disk_size", "100"), ("--disk-tier", "disk_tier", "best"),
                                 ("--network-tier", "network_tier", "best"), ("--local-disk", "local_disk", "nvme:100")):  # fmt: skip
            self.assertIn(f"resources.{key}", self.warned(flag, value, "true"))
        self.assertIn("config.docker", self.warned("--config", "docker.run_options=-v", "true"))
        settings = self.folder / "settings.yaml"
        settings.write_text("kubernetes: {provision_timeout: 5}\n")
        self.assertIn("config.kubernetes", self.warned("--config", settings, "true"))
        self.assertIn("must be", self.refused("launch", "--config", "kubernetes.provision_timeout=soon", "true"))
        self.assertIn("either --workdir", self.refused("launch", "--workdir", ".", "--git-url", "https://example.org/r", "true"))
        self.assertIn("--git-ref needs", self.refused("launch", "--git-ref", "v1", "true"))
        self.assertIn("either --infra", self.refused("launch", "--infra", "k8s", "--cloud", "aws", "true"))
        self.assertIn("1 to 100000", self.refused("launch", "--num-nodes", "0", "true"))

    def test_a_command_is_one_word_for_a_shell_or_many_for_none(self):
        self.assertEqual(self.output_of("echo $((1 + 1)) 'a  b'"), "2 a  b\n")
        self.assertEqual(self.output_of("--", "echo", "$HOME", "a  b", "-n", "--name"), "$HOME a  b -n --name\n")
        self.assertEqual(self.output_of("echo", "hello", "world"), "hello world\n")
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        (work / "x.py").write_text("#!/usr/bin/env python3\nimport sys; print(sys.argv[1:])\n")
        self.assertEqual(self.output_of("--workdir", work, "--", "python3", "x.py", "--lr", "1"), "['--lr', '1']\n")
        # A script of the folder is a command, not a task file.
        (work / "x.py").chmod(0o755)
        self.assertEqual(self.output_of("--workdir", ".", "./x.py", cwd=work), "[]\n")
        self.assertEqual(self.output_of("-", input="run: echo from standard input\n"), "from standard input\n")

    def test_variables_and_secrets_come_from_flags_files_and_the_shell(self):
        file = self.folder / "vars.env"
        file.write_text("# a file\nexport A=from-file\nB=\"two words\"\nC=${A}-too\n")
        more = {"env": {"MINE": "of the shell"}}
        shown = self.output_of("--env-file", file, "--env", "A=from-flag", "--env", "MINE", "--secret", "S=hush",
                               'echo "$A|$B|$C|$MINE|$S"', **more)  # fmt: skip
        self.assertEqual(shown, "from-flag|two words|from-file-too|of the shell|hush\n")
        task = self.folder / "vars.yaml"
        task.write_text("envs: {A: 1}\nsecrets: {S: null}\nrun: echo $A $S\n")
        self.assertIn("Secret 'S' has no value; give one with --secret S=VALUE.", self.refused("launch", task))
        self.assertEqual(self.output_of(task, "--env", "A=2", "--secret", "S=3"), "2 3\n")
        self.assertIn("no variable NOT_SET", self.refused("launch", "--env", "NOT_SET", "true"))
        self.assertIn("has no name", self.refused("launch", "--env", "=x", "true"))
        self.assertIn("line 1", self.refused("launch", "--env-file", task, "true"))

    def test_files_that_cannot_be_brought_are_named_before_anything_is_sent(self):
        self.assertIn("workdir: nowhere is not there", self.refused("launch", "--workdir", "nowhere", "true"))
        task = self.folder / "mounts.yaml"
        task.write_text("file_mounts: {/data: ./absent}\nrun: ls\n")
        said = self.refused("launch", task)
        self.assertIn("mounts.yaml:1:22: error: file_mounts./data: ", said)
        self.assertIn("absent is not there", said)
        # What only the server finds stands at its place too, but for what the command line says over the file.
        task.write_text("run: ls\nresources:\n  cpus: 1000\n")
        self.assertRegex(self.refused("launch", task), r"mounts\.yaml:3:9: error: resources\.cpus: No node has 1000 CPUs")
        self.assertRegex(self.refused("launch", "--cpus", "999", task), r"mounts\.yaml: error: resources\.cpus: No node has 999 ")
        task.write_text("resources: {cpus: many}\nrun: ls\n")
        self.assertRegex(self.refused("launch", task), r"mounts\.yaml:1:19: error: resources\.cpus: ")

    def test_the_same_client_key_is_the_same_job(self):
        first = self.quad_server.launch("run: 'true'\n", "--client-key", "key-1")
        self.assertEqual(self.quad_server.launch("run: 'true'\n", "--client-key", "key-1"), first)

    def test_a_dry_run_says_what_would_happen(self):
        before = self.quad_server.json("status")["jobs"][:1]
        task = self.folder / "train.yaml"
        task.write_text(
            "name: train\nnum_nodes: 2\nresources:\n  ports: 8080\n  any_of:\n  - accelerators: B200:8\n"
            "  - accelerators: H100:8\nrun: echo hi\n"
        )
        code, out, err = self.quad("launch", "--dryrun", task)
        self.assertEqual(code, 0, err)
        self.assertIn(f"Read as a task file: {task}\n", out)
        self.assertIn("Job 'train' on 2 nodes, all at once:\n  8 H100, ", out)
        self.assertIn("It would start at once on local-1 and local-2.\n", out)
        self.assertTrue(out.endswith("Nothing was submitted.\n"), out)
        self.assertIn("warning: resources.ports: ", err)
        self.assertRegex(err, r"train\.yaml:6:19: warning: resources\.accelerators: No node has 'B200' GPUs.* left out")
        blocker = self.quad_server.launch({"num_nodes": 3, "run": "sleep 600", "resources": {"accelerators": "H100:8"}})
        self.quad_server.wait_for_status(blocker, "RUNNING")
        out = self.quad_server.ok("launch", "--dryrun", task)
        self.assertIn("It would wait. ", out)
        self.assertRegex(out, r"\n +4  with H100\n")
        answer = self.plan(task)
        self.assertEqual((answer["plans"][0]["starts"], answer["plans"][0]["nodes"]), (False, []))
        self.assertEqual(answer["plans"][0]["why"]["code"], "waiting_for_resources")
        self.quad("cancel", blocker)
        self.assertIn("Read as a command: python x.py", self.quad_server.ok("launch", "--dryrun", "python x.py"))
        self.assertEqual([job["id"] for job in self.quad_server.json("status")["jobs"] if job["name"] == "train"], [])
        self.assertEqual(self.quad_server.json("status")["jobs"][1:2], before)

    def test_json_of_a_job_in_the_foreground_is_one_object_with_its_end(self):
        code, out, _ = self.quad("launch", "-o", "json", "echo not shown; exit 3")
        self.assertEqual(code, 3)
        answer = json.loads(out)
        self.assertEqual(answer["jobs"][0]["status"], "FAILED")
        self.assertEqual((answer["job"], answer["jobs"][0]["exit_code"]), (answer["jobs"][0]["id"], 3))


@quick
class Telling(WithServer):
    """Sentences that somebody who has never seen Quad understands."""

    def test_why_a_job_waits(self):
        # 16 of each node's 16 CPUs are taken, so both wait.
        blocker = self.quad_server.launch({"num_nodes": 4, "run": "sleep 600", "resources": {"cpus": 16}})
        self.quad_server.wait_for_status(blocker, "RUNNING")
        first = self.quad_server.launch({"run": "true", "num_nodes": 2, "resources": {"accelerators": "H100:8", "cpus": 8}})
        second = self.quad_server.launch({"run": "true"})
        wait_until(lambda: "position" in self.quad_server.json("why", second), 30, "the planner has looked")
        out = self.quad_server.ok("why", first)
        self.assertIn(f"Job {first} is PENDING and waits for a place. It needs 8 H100 on each of 2 nodes. ", out)
        self.assertIn("It is the first in the queue.\n", out)
        self.assertRegex(out, r"Of all nodes, so many are left after each condition:\n +4  nodes\n +4  with H100\n")
        out = self.quad_server.ok("why", second)
        self.assertIn("It is number 2 in the queue; 1 job is ahead of it.", out)
        self.assertIn("Waits", self.quad_server.ok("status", second))
        self.assertEqual(self.quad_server.ok("why", blocker).split(".")[0], f"Job {blocker} does not wait")

    def test_a_story_reads_like_one(self):
        task = {"name": "tale", "num_nodes": 2, "run": "[ $SKYPILOT_NODE_RANK = 0 ] && sleep 600; exit 3"}
        job = self.quad_server.launch(task)
        self.quad_server.wait_for_status(job, "FAILED")
        out = self.quad_server.ok("story", job)
        lines = [re.sub(r"^  \d\d:\d\d:\d\d\.\d{3}  ", "", line) for line in out.splitlines()]
        self.assertEqual(lines[0], f"Job {job} (tale) is FAILED: rank 1 on local-2 exited with code 3.")
        self.assertRegex(lines[1], r"^\d{4}-\d\d-\d\d$")
        user = pwd.getpwuid(os.geteuid()).pw_name
        # Said where control groups are not permitted.
        told = [line for line in lines[2:] if not line.startswith("A memory limit cannot be set here")]
        self.assertEqual(
            told,
            [
                f"Submitted by {user}.",
                "Attempt 1 was placed on local-1 and local-2.",
                "Running on local-1 and local-2.",
                "Rank 1 on local-2 exited with code 3.",
                "Rank 0 on local-1 was stopped.",
                "Failed: rank 1 on local-2 exited with code 3.",
            ],
        )

    def test_status_of_one_job_tells_all_that_matters(self):
        stop = self.stop_file
        run = f'echo \'{{"step": 7, "total": 100, "loss": 0.25}}\' >> $QUAD_PROGRESS; while [ ! -e {stop} ]; do sleep 0.1; done'
        job = self.quad_server.launch({"name": "whole", "run": run, "resources": {"priority": 5, "accelerators": "H100:2"}})
        wait_until(lambda: self.quad_server.job(job)["progress"], 30, "there is progress")
        out = self.quad_server.ok("status", job)
        for wanted in (rf"^Job {job} \(whole\) RUNNING: ", r"\n  User +\w", r"\n  Resources +1x\[H100:2\] on 1 node\n",
                       r"\n  Priority +5\n", r"\n  Submitted +\d+ s ago \(\d{4}-", r"\n  Started +\d+ s ago",
                       r"\n  Duration +\d", r"\n  Progress +step 7/100", r"\n  Metrics +loss 0.25\n",
                       r"\n    1  on local-\d, running for ", r"\n +0 +local-\d +running +0,1 ",
                       rf"\n  Output: quad logs {job}    What happened: quad story {job}\n$"):  # fmt: skip
            self.assertRegex(out, wanted)
        stop.touch()
        self.quad_server.wait_for_status(job, "SUCCEEDED")
        two = self.quad_server.json("status", job, job)["jobs"]
        self.assertEqual([one["id"] for one in two], [job, job])

    def test_lists_are_narrowed_and_jobs_cancelled_by_name_or_all_at_once(self):
        def launch(name):
            return self.quad_server.launch({"name": name, "run": "sleep 600"})

        a, b, c = launch("one"), launch("two"), launch("two")
        self.assertEqual([job["id"] for job in self.quad_server.json("queue")["jobs"]], [c, b, a])
        self.assertEqual([job["id"] for job in self.quad_server.json("queue", "-n", "two", "--mine")["jobs"]], [c, b])
        self.assertEqual(len(self.quad_server.json("status", "-l", "1")["jobs"]), 1)
        self.assertIn("There are more", self.quad_server.ok("status", "-l", "1"))
        self.assertIn("no job named", self.refused("logs", "-n", "three", code=4))
        self.assertEqual(self.quad_server.json("jobs", "queue", "--skip-finished")["jobs"][0]["id"], c)
        out = self.quad_server.ok("cancel", "-n", "two", "-y")
        self.assertEqual(sorted(re.findall(r"Job (\d+)", out)), sorted(map(str, (b, c))))
        self.quad_server.ok("jobs", "cancel", "-a", "-y")
        for job in (a, b, c):
            self.quad_server.wait_for_status(job, "CANCELLED")
        self.assertEqual(self.quad_server.ok("cancel", "--all"), "No job waits or runs.\n")
        self.assertEqual(self.quad_server.ok("queue"), "No jobs wait or run. Run one: quad launch 'echo hello'\n")

    def test_nodes_and_gpus(self):
        out = self.quad_server.ok("node", "drain", "local-4")
        self.addCleanup(self.quad, "node", "resume", "local-4")
        self.assertEqual(out, "Node local-4 starts nothing new; what runs there goes on.\n")
        self.assertRegex(self.quad_server.ok("node", "list"), r"local-4 +ready, drained +8 of 8 H100")
        self.assertEqual(self.quad_server.ok("node", "resume", "local-4"), "Node local-4 takes work again.\n")
        self.assertEqual(self.quad_server.json("gpus", "list", "h100:8")["gpus"][0]["total"], 32)
        self.assertEqual(self.quad_server.ok("gpus", "list", "h100:9"), "No node has h100:9.\n")


class Completion(WithServer):
    """Through the shells themselves."""

    CASES = (  # what is typed, and what must be there after the tabulator
        ("lau", "launch"),
        ("node dra", "node drain"),
        ("launch --num", "launch --num-nodes"),
        ("node drain local-", "node drain local-"),
        ("api sta", "api sta"),
        ("launch some", "launch some-task.yaml"),
        ("status --output js", "status --output json"),
    )

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.folder / "some-task.yaml").write_text("run: 'true'\n")
        cls.bin = str(Path(quadtest.quad_bin()).resolve().parent)

    def environment(self):
        path = self.bin + os.pathsep + os.environ["PATH"]
        return self.quad_server.environment(PATH=path, TERM="xterm", HOME=str(self.folder), PS1="$ ", HISTFILE="")

    def test_candidates_depend_on_what_stands_before(self):
        def candidates(*words):
            out = self.quad_server.ok("__complete", *words)
            return [line.split("\t")[0] for line in out.splitlines()]

        job = self.quad_server.launch({"name": "running", "run": "sleep 600"})
        self.assertIn("launch", candidates(""))
        self.assertNotIn("__complete", candidates(""))
        self.assertEqual(candidates("node", "fr"), ["freeze"])
        self.assertEqual(candidates("node", "freeze", ""), ["local-1", "local-2", "local-3", "local-4"])
        self.assertIn(str(job), candidates("cancel", ""))
        self.assertIn(str(job), candidates("logs", "--tail", "3", ""))
        self.assertIn(str(job), candidates("events", "--job", ""))
        self.assertEqual(candidates("status", "-o", ""), ["json", "table"])
        self.assertEqual(candidates("status", "--output=j"), ["--output=json"])
        self.assertEqual(candidates("status", "--output", "=", "j"), ["json"])
        self.assertEqual(candidates("validate", ""), [":files"])
        self.assertEqual(candidates("launch", "--dryr"), ["--dryrun"])
        self.assertEqual(candidates("launch", "--", "--dryr"), [":files"])
        self.assertEqual(candidates("completion", ""), ["bash", "zsh", "fish"])
        nowhere = str(self.folder / "no-server-here")
        self.assertEqual(candidates("--data-dir", nowhere, "cancel", ""), [])
        self.assertFalse(os.path.exists(nowhere), "completion must start nothing")

    def complete_on_a_terminal(self, command, setup, tabulators):
        terminal = Terminal(command, self.environment(), cwd=self.folder, columns=120)
        self.addCleanup(terminal.close)
        terminal.send(setup + "; echo set''up done\n")
        terminal.wait_for("^setup done")
        for typed, wanted in self.CASES:
            with self.subTest(shell=command[0], typed=typed):
                terminal.send(f"quad {typed}\t")
                terminal.wait_for(re.escape(f"quad {wanted}"))
                terminal.send("\x15")  # away with the line
                terminal.send("echo next''\n")
        terminal.send("quad node drain \t" + tabulators)
        terminal.wait_for("local-. .*local-.")

    @unittest.skipUnless(shutil.which("bash"), "no bash here")
    def test_bash(self):
        self.complete_on_a_terminal(["bash", "--norc", "--noprofile", "-i"], 'eval "$(quad completion bash)"', "\t\t")

    @unittest.skipUnless(shutil.which("zsh"), "no zsh here")
    def test_zsh(self):
        self.complete_on_a_terminal(["zsh", "-f", "-i"], 'PROMPT="$ "; eval "$(quad completion zsh)"', "\t")

    @unittest.skipUnless(shutil.which("fish"), "no fish here")
    def test_fish(self):
        for typed, wanted in self.CASES:
            done = subprocess.run(
                ["fish", "--no-config", "-c", 'quad completion fish | source; complete -C "$argv"', f"quad {typed}"],
                env=self.environment(), cwd=self.folder, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            found = [line.split("\t")[0] for line in done.stdout.splitlines()]
            self.assertTrue(any(one.startswith(wanted.split()[-1]) for one in found), (typed, done.stdout, done.stderr))


class FirstCall(quadtest.TestCase):
    """The server that the first call starts."""

    def setUp(self):
        self.server_ = quadtest.Server(folder=tempfile.mkdtemp(prefix="quad-first-"))
        self.addCleanup(self.server_.close)

    def servers(self):
        return quadtest.processes_of(str(self.server_.data), "serve")

    def test_calls_at_the_same_moment_start_one_server_between_them(self):
        calls = [
            subprocess.Popen([quadtest.quad_bin(), "launch", "echo", f"call {i}"], env=self.server_.environment(),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for i in range(5)
        ]  # fmt: skip
        for i, call in enumerate(calls):
            out, err = call.communicate(timeout=90)
            self.assertEqual((call.returncode, out), (0, f"call {i}\n"), err)
        self.assertEqual(len(self.servers()), 1)
        self.assertEqual(len(self.server_.json("status")["jobs"]), 5)

    @quick
    def test_a_stopped_server_leaves_its_jobs_to_the_next(self):
        stop = self.server_.folder / "stop"
        job = self.server_.launch({"run": f"while [ ! -e {stop} ]; do sleep 0.05; done; echo done"})
        self.server_.wait_for_status(job, "RUNNING")
        first = self.server_.info()["pid"]
        self.assertEqual(self.server_.json("api", "status")["running"], True)
        self.assertIn("Jobs run on", self.server_.ok("api", "stop"))
        self.assertFalse(quadtest.is_alive(first))
        self.assertEqual(self.server_.quad("api", "status")[0], 3)
        self.assertEqual(self.servers(), [], "asking for its status must not start it")
        self.assertIn("No server runs", self.server_.ok("api", "stop"))
        self.assertEqual(self.server_.job(job)["status"], "RUNNING")
        self.assertNotEqual(self.server_.info()["pid"], first)
        self.assertEqual(self.server_.json("api", "start"), {"running": True, "started": False})
        stop.touch()
        self.assertEqual(self.server_.wait_for_status(job, "SUCCEEDED")["epoch"], 1)

    def test_a_server_that_died_is_replaced_whatever_it_left_behind(self):
        self.server_.ok("status")
        os.kill(self.server_.info()["pid"], signal.SIGKILL)
        self.assertEqual(self.server_.json("status")["jobs"], [])
        self.server_.ok("api", "stop")
        # A server.json of a process that has another's number by now, and one that is no JSON at all.
        for left in (json.dumps({"url": "http://127.0.0.1:1", "socket": str(self.server_.data / "gone"), "pid": os.getpid()}),
                     "{", ""):  # fmt: skip
            (self.server_.data / "server.json").write_text(left)
            self.assertEqual(self.server_.json("status")["jobs"], [])
            self.server_.ok("api", "stop")

    def test_a_server_that_cannot_start_says_why(self):
        self.server_.data.parent.mkdir(exist_ok=True)
        self.server_.data.write_text("a file\n")
        code, _, err = self.server_.quad("status")
        self.assertEqual(code, 3)
        self.assertIn(str(self.server_.data), err)

    @unittest.skipUnless(os.geteuid() == 0, "only root can make another user's folder")
    def test_the_data_directory_of_another_user_is_left_alone(self):
        self.server_.data.mkdir()
        os.chown(self.server_.data, 65534, 65534)
        code, _, err = self.server_.quad("status")
        self.assertEqual(code, 3)
        self.assertRegex(err, rf"^error: No server can be started\. The data directory {self.server_.data} belongs to \w+; name their server with --server ")
        self.assertEqual(list(self.server_.data.iterdir()), [])
        # The other way round: somebody who may not even look.
        os.chown(self.server_.data, 0, 0)
        self.server_.data.chmod(0o700)
        self.server_.folder.chmod(0o755)
        shutil.copy(quadtest.quad_bin(), self.server_.folder / "quad")
        done = subprocess.run(["./quad", "status"], user=65534, group=65534, extra_groups=[], cwd=self.server_.folder,
                              text=True, env=self.server_.environment(), capture_output=True, timeout=60)  # fmt: skip
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertRegex(done.stderr, r"^error: .*(belongs to root|Permission denied)")
