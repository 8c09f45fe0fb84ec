"""What people type arrives as it is: the words of commands, times, variables; and what can only be a slip is refused before
anything is sent."""

import concurrent.futures
import json
import os
import re

import quadtest
from quadtest import quick

TIMEOUT_SECONDS = 170

# What a parser of options, a shell or a template might take for its own.
WORDS = ["--betas", "[0.9,0.95]", "", "[]", "a b", "it's", "$HOME", "*", "-x", "--help", "--", "x=[a,b]", "a\nb", "ü", "{}",
         "%%", "++", "=", "--name=", "[a", "b]", "\"q\"", "\\n", "!!", "`id`", ";", "-", "\x01[x]"]  # fmt: skip
SHOW = ["python3", "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]


def folders_of(folder):
    """A folder as people have it: a task, a script, a program to be run, and a folder."""
    folder.mkdir()
    (folder / "task.yaml").write_text("run: echo\n")
    (folder / "train.py").write_text("print()\n")
    (folder / "train.sh").write_text("#!/bin/sh\necho trained\n")
    (folder / "train.sh").chmod(0o755)
    (folder / "adir").mkdir()
    return folder


@quick
class Words(quadtest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.quad_server = quadtest.Server(nodes=2)
        cls.addClassCleanup(cls.quad_server.close)
        cls.quad_server.start()

    def refused(self, *args, code=2, **more):
        got, out, err = self.quad_server.quad(*args, **more)
        self.assertEqual((got, out), (code, ""), f"{args}: {out}{err}")
        return err

    def test_words_behind_the_dashes_reach_the_program_in_every_verb_that_takes_a_command(self):
        server = self.quad_server
        server.ok("launch", "-c", "dev", "true")
        job = server.launch({"run": "sleep 600"})
        server.wait_for_status(job, "RUNNING")
        for verb in (["launch"], ["launch", "-d"], ["launch", "-c", "dev"], ["launch", "-n", "x", "--env", "A=[1,2]"],
                     ["jobs", "launch"], ["exec", "dev"], ["exec", str(job)], ["exec", str(job), "--rank", "0", "-n"],
                     ["exec", "dev", "-d"]):  # fmt: skip
            with self.subTest(verb=verb):
                out = server.ok(*verb, "--", *SHOW, *WORDS)
                if "-d" in verb:
                    out = server.ok("logs", "-f", re.search(r"logs -f (\d+)", out)[1])
                self.assertEqual(json.loads(out.splitlines()[-1]), WORDS)
        server.ok("cancel", job)

    def test_words_before_the_dashes_are_left_alone_too(self):
        server = self.quad_server
        out = server.ok("launch", *SHOW[:1], "--", *SHOW[1:], "[a,b]")
        self.assertEqual(json.loads(out), ["[a,b]"])
        self.assertEqual(server.ok("launch", "echo", "[1,2]", "", "[]", "x++", "{}", "%%", "++"), "[1,2]  [] x++ {} %% ++\n")
        (plan,) = server.json("launch", "--dryrun", "--name=", "true")["requests"]
        self.assertEqual(plan["name"], "job")
        out = server.ok("launch", "--env", "L=[1,2]", "--env", "E=", "--env=F={}", "--env", "M=a\nb", "--", "sh", "-c",
                        'printf "%s|" "$L" "$E" "$F" "$M"')  # fmt: skip
        self.assertEqual(out, "[1,2]||{}|a\nb|")

    def test_every_positional_takes_brackets_as_text(self):
        for verb in (["status"], ["queue"], ["logs"], ["cancel"], ["why"], ["story"], ["checkpoints"], ["stop"], ["start"],
                     ["down"], ["autostop", "-i", "5"], ["jobs", "queue"], ["jobs", "logs"], ["jobs", "cancel"],
                     ["node", "drain"], ["token", "revoke"]):  # fmt: skip
            for word in ("[17]", "[a,b]", "[]"):
                with self.subTest(verb=verb, word=word):
                    self.assertIn(word, self.refused(*verb, word, code=4))
        for verb in (["exec", "[a]", "--", "true"], ["exec", "[a]", "true"], ["shell", "[a]"], ["port-forward", "[a]", "80"],
                     ["cp", "x", "[a]:y"]):  # fmt: skip
            code, _, err = self.quad_server.quad(*verb)
            self.assertIn(code, (2, 4), (verb, err))
        self.assertIn("'[80,90]' is no port", self.refused("port-forward", "1", "[80,90]"))
        code, out, err = self.quad_server.quad("validate", "[a]", "[]", "-o", "json")
        self.assertEqual([json.loads(line)["path"] for line in out.splitlines()], ["[a]", "[]"], err)

    def test_lost_races_for_a_cluster_are_not_handed_to_the_user(self):
        server = self.quad_server
        for number in range(3):
            name = f"race{number}"
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                done = list(pool.map(lambda word: server.quad("launch", "-c", name, f"echo {word}"), "abcd"))
            self.assertEqual([(code, out) for code, out, _ in done], [(0, f"{word}\n") for word in "abcd"], done)
            # And of those that start a stopped one.
            server.ok("stop", name)
            quadtest.wait_until(lambda: server.json("status", name)["clusters"][0]["status"] == "STOPPED", 60, "it is stopped")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                done = list(pool.map(lambda word: server.quad(*word), [("start", name), ("launch", "-c", name, "echo a"),
                                                                       ("start", name), ("launch", "-c", name, "echo b")]))  # fmt: skip
            self.assertEqual([code for code, _, _ in done], [0] * 4, done)
            server.ok("down", name)

    def test_a_state_that_does_not_allow_it_is_exit_code_1_and_not_that_of_no_server(self):
        server = self.quad_server
        server.ok("launch", "-c", "slow", "true")
        stays = json.loads(server.ok("exec", "slow", "-d", "-o", "json", "--", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"))["job"]
        quadtest.wait_until(lambda: "up" in server.ok("logs", stays), 60, "it runs")
        server.ok("stop", "slow")
        for args in (["launch", "-c", "slow", "true"], ["exec", "slow", "true"], ["start", "slow"]):
            self.assertIn("being stopped; try again when it is", self.refused(*args, code=1))

    def test_what_is_refused_never_repeats_a_secret(self):
        server = self.quad_server
        file = server.folder / "secret.yaml"
        shapes = ["secrets: hunter2x", "secrets: [hunter2x]", "secrets: [TOKEN=hunter2x]", "secrets: [{TOKEN: hunter2x}]",
                  "secrets: {TOKEN=hunter2x: null}", "secrets: {'TOKEN hunter2x': null}", 
                  "secrets: {'secrets:TOKEN': hunter2x}", "secrets:\n  TOKEN= hunter2x",
                  "secrets:\n  - TOKEN: hunter2x\n  - hunter2x", "secrets: {TOKEN: hunter2x\n", "secrets: \"TOKEN=hunter2x",
                  "secret: {TOKEN: hunter2x}", "secret: hunter2x", "managed_secrets: hunter2x",
                  "managed_secrets: [TOKEN=hunter2x]", "managed_secrets: [{TOKEN: hunter2x}]",
                  "managed_secrets: [{TOKEN: {mount_path: [hunter2x]}}]", "secrets: {TOKEN: \"hunter2x\"\n  B: x}",
                  "secrets: {1A=hunter2x: x}", "secrets: !!binary hunter2x", 
                  "secrets: &hunter2x {A: b}\nx: *hunter", "secrets: {TOKEN: @hunter2x}", "secrets:\n\tTOKEN: hunter2x",
                  "secrets: {TOKEN: " + "x" * 200_000 + "hunter2x}"]  # fmt: skip
        asked = [([], shape) for shape in shapes]
        asked += [(flags, "true") for flags in (
            ["--secret", "hunter2x"], ["--secret", "=hunter2x"], ["--secret", "TOK EN=hunter2x"], ["--secret", "1A=hunter2x"],
            ["--secret", "-hunter2x=y"], ["--secret-file", "TOKEN=hunter2x"], ["--secret", "A=1", "--secret", "TOKEN:hunter2x"])]  # fmt: skip
        for content in ("hunter2x\n", "TOKEN hunter2x\n", "TOKEN: hunter2x\n", "TOKEN='hunter2x\n", "=hunter2x\n",
                        "TOKEN='a' hunter2x\n", "export hunter2x\n", "'hunter2x\n", "TOKEN=a\n1 hunter2x=b\n"):  # fmt: skip
            path = server.folder / f"secret-{len(asked)}.env"
            path.write_text(content)
            asked.append((["--secret-file", path], "true"))
        for flags, text in asked:
            with self.subTest(flags=flags, text=text[:60]):
                entry = "true"
                if text != "true":
                    file.write_text(f"run: echo\n{text}")
                    entry = file
                code, out, err = server.quad("launch", "--dryrun", *flags, entry)
                self.assertNotEqual(err, "", "a sentence says what is wrong with it")
                self.assertNotIn("hunter2x", out + err)
                if entry == file:
                    code, out, err = server.quad("validate", file)
                    self.assertFalse(code and "hunter2x" in out + err, out + err)

    def test_what_hides_or_turns_text_round_does_not_reach_the_terminal(self):
        server = self.quad_server
        hidden = "".join(map(chr, [0x61C, 0x200B, 0x200D, 0x200E, 0x200F, 0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2060, 0x2066,
                                   0x2067, 0x2068, 0x2069, 0xFEFF, 0xAD, 0xE0041, 0x2028, 0x85, 0x7F]))  # fmt: skip
        for character in hidden:
            path = server.folder / f"a{character}b.yaml"
            path.write_text("run: [1]\n")
            for args in (["validate", path], ["validate", path, "-o", "json"], ["launch", path], ["cancel", "1", character],
                         ["events", "--kind", character, "-o", "json"], ["logs", f"1{character}"]):  # fmt: skip
                _, out, err = server.quad(*args)
                self.assertNotIn(character, out + err, args)
        _, out, _ = server.quad("validate", server.folder / "a\U000e0041b.yaml", "-o", "json")
        self.assertIn("a\U000e0041b.yaml", json.loads(out)["path"])

    def test_words_that_mean_something_are_no_user_names(self):
        for name in ("me", "server", "runner", "engine", "control", "all", "Me", "SERVER"):
            self.assertIn(f"another word than '{name}'", self.refused("token", "create", name))
        self.quad_server.ok("token", "create", "mel")

    def test_since_takes_the_times_that_are_shown(self):
        server = self.quad_server
        job = server.launch({"run": "echo one; sleep 1.2; echo two"})
        server.wait_for_status(job, "SUCCEEDED")
        for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
            env = {"TZ": zone}
            story = server.ok("story", job, env=env)
            day = re.search(r"^(\d{4}-\d\d-\d\d)$", story, re.M)[1]
            ended = re.findall(r"^  (\d\d:\d\d:\d\d\.\d{3})  Succeeded\.$", story, re.M)[0]
            began = re.findall(r"^  (\d\d:\d\d:\d\d\.\d{3})  Submitted", story, re.M)[0]
            for since in (began, f"{day} {began}", f"{day}T{began}", f"{day} {began[:8]}", day):
                self.assertEqual(server.ok("logs", job, "--since", since, env=env), "one\ntwo\n", (zone, since))
            for since in (ended, f"{day} {ended}"):  # exact to 200 ms
                self.assertNotIn("one", server.ok("logs", job, "--since", since, env=env), (zone, since))
            said = self.refused("logs", job, "--since", f"{day} 25:00", env=env)
            self.assertIn("14:05:09 or 2026-11-23 14:05:09 as quad story shows it", said)


@quick
class Slips(quadtest.TestCase):
    """No server runs here, and none may be started: what is wrong is told before anything is sent."""

    def setUp(self):
        self.quad_server = self.server(start=False)
        self.here = folders_of(self.quad_server.folder / "here")

    def refused(self, *args):
        code, out, err = self.quad_server.quad(*args, cwd=self.here)
        self.assertEqual((code, out), (2, ""), f"{args}: {out}{err}")
        self.assertRegex(err, r"^(error: |quad: error: |\S+\.yaml)")
        self.assertFalse(self.quad_server.data.exists(), f"{args} has started a server")
        return err

    def test_a_word_too_many_beside_a_task_file(self):
        for verb in (["launch"], ["jobs", "launch"], ["exec", "dev"], ["launch", "-c", "dev"]):
            with self.subTest(verb=verb):
                self.assertIn("did you mean --env B=2?", self.refused(*verb, "--env", "A=1", "B=2", "task.yaml"))
                self.assertIn("did you mean --env lr=3?", self.refused(*verb, "task.yaml", "lr=3"))
                self.assertIn("did you mean --env lr=3?", self.refused(*verb, "lr=3", "task.yaml", "--dryrun"))
                self.assertIn("'x' is a word too many", self.refused(*verb, "task.yaml", "x"))
                self.assertIn("did you mean train.py?", self.refused(*verb, "trian.py"))
                self.assertIn("did you mean task.yaml?", self.refused(*verb, "tsk.yaml"))
                self.assertIn("adir is a folder", self.refused(*verb, "adir"))
                self.assertIn("--env lr=3", self.refused(*verb, "lr=3"))
        self.assertIn("is not brought to the job", self.refused("launch", "./train.sh"))
        self.assertIn("only as ./train.sh", self.refused("launch", "--workdir", ".", "train.sh"))
        self.assertIn("did you mean adir/../train.sh?", self.refused("launch", "--workdir", ".", "adir/../trian.sh"))

    def test_a_word_too_many_of_every_verb(self):
        for args in (["cancel", "1", "abx"], ["logs", "3", "extra"], ["logs", "3", "4"], ["status", "3", "extra"],
                     ["queue", "3", "extra"], ["jobs", "cancel", "1", "abx"], ["jobs", "logs", "3", "x"], ["why", "3", "x"],
                     ["story", "3", "x"], ["checkpoints", "3", "x"], ["node", "list", "x"], ["node", "drain", "a", "b"],
                     ["gpus", "list", "H100", "x"], ["gpus", "list", "H100:x"], ["token", "create", "ana", "x"],
                     ["token", "list", "x"], ["token", "revoke", "a", "b"], ["admin", "check", "x"],
                     ["admin", "backup", "a", "b"], ["api", "info", "x"], ["api", "start", "x"], ["api", "status", "x"],
                     ["api", "stop", "x"], ["events", "x"], ["check", "x"], ["config", "check", "a", "b"],
                     ["config", "show", "x"], ["config", "schema", "x"], ["cp", "a", "1:b", "c"], ["shell", "1", "x"],
                     ["exec", "1", "x", "--", "y"], ["exec", "1", "x"], ["port-forward", "1", "80", "x"], ["serve", "x"],
                     ["completion", "bash", "x"], ["autostop", "dev"]):  # fmt: skip
            with self.subTest(args=args):
                self.refused(*args)

    def test_values_that_no_program_can_be_started_with_are_told_at_their_place(self):
        task = self.here / "big.yaml"
        most = 128 * 1024 - len("A=") - 1
        task.write_text(f"envs:\n  B: 1\n  A: {'x' * (most + 1)}\nrun: echo\n")
        self.assertRegex(self.refused("launch", task), r"big\.yaml:3:6: error: envs\.A: .* has 131073 bytes .* 131072")
        code, out, _ = self.quad_server.quad("validate", task)
        self.assertEqual(code, 1)
        self.assertRegex(out, r"big\.yaml:3:6: error: envs\.A: ")
        self.assertIn("131074 bytes", self.refused("launch", "--env-file", self.env_file("AB", most + 1), "true"))
        self.assertIn("secrets.AB: ", self.refused("launch", "--secret-file", self.env_file("AB", most + 1), "true"))
        task.write_text("envs:\n" + "".join(f"  A{i}: {'x' * 100_000}\n" for i in range(20)) + "run: echo\n")
        self.assertRegex(self.refused("launch", task), r"envs: the variables have 20\d{5} bytes together")

    def env_file(self, name, size):
        path = self.here / "vars.env"
        path.write_text(f"{name}={'y' * size}\n")
        return path


class Values(quadtest.TestCase):
    def test_the_largest_variable_that_is_taken_reaches_a_program(self):
        server = self.server(nodes=1)
        task = server.folder / "big.yaml"
        most = 128 * 1024 - len("A=") - 1
        task.write_text(f"envs:\n  A: {'x' * most}\n" + "".join(f"  B{i}: {'x' * 100_000}\n" for i in range(16)) +
                        "run: /usr/bin/env | wc -c\n")  # fmt: skip
        self.assertGreater(int(server.ok("launch", task)), 1_700_000)

    def test_a_reference_that_stays_as_it_is_is_warned_of(self):
        server = self.server(nodes=1)
        task = server.folder / "path.yaml"
        task.write_text("envs:\n  BASE: /x\n  WHERE: /opt:$PATH\n  B: ${HOME}/x\n  C: $base\n  D: costs $5\n  E: $BASE\n"
                        "  LD_LIBRARY_PATH: $here\nsecrets: {S: a$PATH}\nrun: echo $WHERE $E\n")  # fmt: skip
        _, out, err = server.quad("launch", task)
        self.assertEqual(out, "/opt:$PATH $BASE\n")
        found = re.findall(r"path\.yaml:(\d+):\d+: warning: (\S+): (\S+) in it stays as it is", err)
        self.assertEqual(found, [("3", "envs.WHERE", "$PATH"), ("4", "envs.B", "${HOME}"), ("7", "envs.E", "$BASE"),
                                 ("8", "envs.LD_LIBRARY_PATH", "$here")])  # fmt: skip
        self.assertIn("write it in run: export WHERE=…$PATH…", server.quad("validate", task)[1])
        self.assertIn("envs.P: $HOME in it", server.quad("launch", "--dryrun", "--env", "P=$HOME", "true")[2])

    def test_the_id_of_a_task_is_made_once(self):
        server = self.server(nodes=4, start=False)
        server.prefix = ["env", "TZ=Asia/Tokyo"]
        server.start()
        run = "echo id $SKYPILOT_TASK_ID; sleep 600"
        jobs = [server.launch({"run": run})]
        server.ok("launch", "-c", "dev", "true")
        jobs.append(server.json("exec", "dev", "-d", run)["job"])

        def ids(job, count):
            def come():
                found = re.findall(r"^id (\S+)$", server.ok("logs", job), re.M)
                assert len(found) == count, found
                return found

            return quadtest.wait_until(come, 60, f"job {job} has run {count} times")

        first = [ids(job, 1)[0] for job in jobs]
        self.assertRegex(first[0], rf"^sky-managed-\d{{4}}(-\d\d){{5}}-\d{{6}}_job_{jobs[0]}-0$")
        server.stop()
        server.prefix = ["env", "TZ=America/New_York"]
        server.start()
        nodes = {rank["node"] for job in jobs for attempt in server.job(job)["attempts"] for rank in attempt["ranks"]}
        nodes |= set(server.json("status", "dev")["clusters"][0]["nodes"])
        for name in nodes:  # where they were, not where they have gone since
            if name.startswith("local"):
                server.ok("node", "fail", name)
        for job, made in zip(jobs, first, strict=True):
            self.assertEqual(ids(job, 2), [made, made])
