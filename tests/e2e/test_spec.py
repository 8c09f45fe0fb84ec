"""`quad validate`: what it prints, its exit codes, and absurd input, which gets an error within a second."""

import json
import os
import resource
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import quadtest
from quadtest import quick

TIMEOUT_SECONDS = 120
MOST_SECONDS = 1.0  # of the processor, which does not depend on who else uses the machine


class Validate(quadtest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="quad-spec-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, content, name="task.yaml"):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def validate(self, *args, timeout=60, **more):
        """Its exit code, output, errors and the processor's seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [quadtest.quad_bin(), "validate", *map(str, args)], capture_output=True, timeout=timeout, cwd=self.folder,
            **({"stdin": subprocess.DEVNULL} | more),
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), seconds

    def answer(self, *args, **more):
        code, out, err, _ = self.validate(*args, "-o", "json", **more)
        self.assertEqual(err, "")
        answers = [json.loads(line) for line in out.split("\n") if line]
        self.assertEqual(code, 0 if all(one["ok"] for one in answers) else 1)
        return answers

    def assert_refused_at_once(self, path, *words, key=None, **more):
        """One error in one answer, with these words, soon; the same without JSON."""
        began = time.monotonic()
        code, out, err, seconds = self.validate(path, "-o", "json", timeout=30, **more)
        self.assertEqual((code, err), (1, ""), f"{time.monotonic() - began:.1f} s")
        answer = json.loads(out)
        self.assertEqual((answer["ok"], len(answer["errors"]), answer["tasks"]), (False, 1, []), answer)
        error = answer["errors"][0]
        for word in words:
            self.assertIn(word, error["message"] + " " + error["hint"])
        self.assertLess(len(error["message"]), 500)
        self.assertLess(seconds, MOST_SECONDS)
        if key is not None:
            self.assertEqual(error["key"], key)
        return error


@quick
class Answers(Validate):
    def test_one_object_for_each_file_in_order(self):
        good = self.file("name: a\nnum_nodes: 2\nrun: echo hi\n", "good.yaml")
        bad = self.file("resources: {cpus: many}\nrun: echo hi\n", "bad.yaml")
        answers = self.answer("good.yaml", "bad.yaml", "absent.yaml", "good.yaml")
        self.assertEqual([one["path"] for one in answers], ["good.yaml", "bad.yaml", "absent.yaml", "good.yaml"])
        for one in answers:
            self.assertEqual(set(one), {"path", "ok", "errors", "warnings", "dag_name", "tasks"})
            for problem in one["errors"] + one["warnings"]:
                self.assertEqual(set(problem), {"message", "key", "line", "column", "hint"})
        self.assertEqual([one["ok"] for one in answers], [True, False, False, True])
        self.assertEqual((answers[0]["dag_name"], answers[0]["tasks"][0]["num_nodes"]), ("a", 2))
        error = answers[1]["errors"][0]
        self.assertEqual((error["key"], error["line"], error["column"]), ("resources.cpus", 1, 19))
        self.assertIn("There is no file absent.yaml", answers[2]["errors"][0]["message"])
        self.assertEqual(self.validate(good)[0], 0)
        code, out, _, _ = self.validate("bad.yaml")
        self.assertEqual(code, 1)
        self.assertRegex(out, r"^bad\.yaml:1:19: error: resources\.cpus: .*many")
        del bad

    def test_variables_come_from_flags_files_and_the_shell(self):
        self.file("envs: {A: null, B: null, C: null}\nsecrets: {S: null}\nrun: echo\n")
        self.file("A=from-file\nB=two\n", "vars.env")
        (answer,) = self.answer("task.yaml", "--env-file", "vars.env", "--env", "A=flag", "--env", "C", "--secret", "S=x=y",
                                env=os.environ | {"C": "shell"})  # fmt: skip
        self.assertEqual(answer["tasks"][0]["envs"], {"A": "flag", "B": "two", "C": "shell"})
        self.assertEqual(answer["tasks"][0]["secrets"], {"S": "x=y"})
        (answer,) = self.answer("task.yaml")
        self.assertEqual(answer["errors"][0]["key"], "envs.A")
        self.assertGreater(answer["errors"][0]["line"], 0)
        # For people secrets are not shown.
        out = self.validate("task.yaml", "--env", "A=1", "--env", "B=1", "--env", "C=1", "--secret", "S=hunter2")[1]
        self.assertIn("good", out)
        self.assertNotIn("hunter2", out)

    def test_what_is_wrong_with_the_command_line_is_exit_code_2(self):
        self.file("run: echo\n")
        for args in ([], ["task.yaml", "--env", "=x"], ["task.yaml", "--env", "NO_SUCH_VARIABLE"], ["task.yaml", "--flag"],
                     ["task.yaml", "--env-file", "absent.env"], ["task.yaml", "-o", "xml"]):  # fmt: skip
            code, out, err, _ = self.validate(*args)
            self.assertEqual((code, out), (2, ""), args)
            self.assertRegex(err, r"^error: .")
        self.file("A=1\nno binding\n", "bad.env")
        self.assertIn("line 2", self.validate("task.yaml", "--env-file", "bad.env")[2])

    def test_standard_input_is_a_file_too(self):
        with open(self.file("name: piped\nrun: echo\n"), "rb") as file:
            (answer,) = self.answer("-", stdin=file)
        self.assertEqual((answer["path"], answer["dag_name"]), ("-", "piped"))

    def test_every_warning_of_a_wrong_but_accepted_thing_names_its_key(self):
        self.file("experimental: {config_overrides: {docker: {run_options: x}}}\nrun: echo\n")
        (answer,) = self.answer("task.yaml")
        self.assertTrue(answer["ok"])
        self.assertIn("experimental", answer["warnings"][0]["key"])


class AbsurdInput(Validate):
    def test_a_hundred_megabytes(self):
        path = self.folder / "big.yaml"
        with open(path, "wb") as file:
            line = b"# " + b"x" * 1021 + b"\n"
            for _ in range(100):
                file.write(line * 1024)
        self.assert_refused_at_once(path, "104.9 MB", "4 MiB")
        with open(path, "rb") as file:
            self.assert_refused_at_once("-", "larger than", "4 MiB", stdin=file)
        with open(path, "r+b") as file:  # as much as is read at all, in one value, in one key, in many small ones
            file.truncate(4 << 20)
        for content in (b"x" * (4 << 20), b"a: 1\n" * (1 << 19), b"- " * (1 << 20),
                        b"[" * (1 << 20), b"{a: " * (1 << 20), b"&a " * (1 << 20), b"? " * (1 << 20)):  # fmt: skip
            code, out, err, seconds = self.validate(self.file(content[: 4 << 20]), "-o", "json", timeout=60)
            self.assertEqual((code, json.loads(out)["ok"]), (1, False), content[:20])
            self.assertLess(seconds, MOST_SECONDS, content[:20])

    def test_ten_thousand_levels(self):
        for opening, closing in ((b"[", b"]"), (b"{a: ", b"}")):
            deep = b"envs: " + opening * 10_000 + b"1" + closing * 10_000
            error = self.assert_refused_at_once(self.file(deep), "100")
            self.assertGreater(error["line"], 0)
        blocks = "".join("  " * i + "a:\n" for i in range(10_000))[: 4 << 20]
        self.assert_refused_at_once(self.file(blocks), "100")
        self.assert_refused_at_once(self.file("- " * 10_000 + "a"), "100")

    def test_billion_laughs(self):
        lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
        self.assert_refused_at_once(self.file("\n".join(lines)), "values once its aliases are written out")
        long = "x" * 100_000
        self.assert_refused_at_once(self.file(f"envs:\n  A: &a {long}\n" + "".join(f"  A{i}: *a\n" for i in range(1000))), "MiB")
        self.assert_refused_at_once(self.file("a: &a [*a]\n"))
        merged = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))
        code, out, _, seconds = self.validate(self.file(merged), "-o", "json")
        self.assertEqual((code, json.loads(out)["ok"]), (1, False))
        self.assertLess(seconds, MOST_SECONDS)
        # Variables that grow each other.
        grown = "envs: {A: " + "x" * 1000 + "}\nfile_mounts:\n" + "".join(f"  /m{i}: {'$A' * 1000}\n" for i in range(100))
        self.assert_refused_at_once(self.file(grown + "run: a\n"))

    def test_what_is_no_text(self):
        error = self.assert_refused_at_once(self.file(b"name: a\0b\nrun: echo\n"))
        self.assertEqual(error["line"], 1)
        error = self.assert_refused_at_once(self.file(b"name: a\nrun: \xff\xfe\n"))
        self.assertEqual(error["line"], 2)
        self.assert_refused_at_once(self.file(b"\xed\xa0\x80: a\n"))
        self.assert_refused_at_once(self.file(os.urandom(100_000)))
        self.assert_refused_at_once(self.file(b"\0" * 1_000_000))
        self.assert_refused_at_once(self.file(b""))
        self.assert_refused_at_once(quadtest.quad_bin(), "MB")
        name = os.fsencode(self.folder) + b"/\xff\xfe.yaml"
        Path(os.fsdecode(name)).write_bytes(b"run: echo\n")
        self.assertTrue(self.answer(os.fsdecode(name))[0]["ok"])

    def test_what_is_no_file(self):
        self.assert_refused_at_once(self.folder, "is a folder")
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        self.assert_refused_at_once(fifo, "named pipe")
        for device in ("/dev/zero", "/dev/null", "/dev/tty"):
            if os.access(device, os.R_OK) or os.path.exists(device):
                self.assert_refused_at_once(device, device)
        self.assert_refused_at_once("absent.yaml", "There is no file absent.yaml")
        self.assert_refused_at_once("task.yaml/below", "task.yaml/below")
        self.assert_refused_at_once("x" * 5000, "too long")
        (self.folder / "loop").symlink_to("loop")
        self.assert_refused_at_once("loop", "loop cannot be read")
        reading, writing = os.pipe()  # a pipe whose writer stays silent
        try:
            self.assert_refused_at_once(f"/dev/fd/{reading}", "named pipe", pass_fds=(reading,))
        finally:
            os.close(reading)
            os.close(writing)

    def test_no_permission(self):
        path = self.file("run: echo\n")
        path.chmod(0)
        if os.geteuid() != 0:
            self.assert_refused_at_once(path, "Permission denied")
            return
        self.folder.chmod(0o755)
        copy = self.folder / "quad"
        copy.write_bytes(Path(quadtest.quad_bin()).read_bytes())
        copy.chmod(0o755)
        done = subprocess.run(["./quad", "validate", "task.yaml", "-o", "json"], cwd=self.folder, capture_output=True, timeout=60,
                              user=65534, group=65534, extra_groups=[])  # fmt: skip
        self.assertEqual(done.returncode, 1)
        self.assertIn("Permission denied", json.loads(done.stdout)["errors"][0]["message"])

    def test_absurd_env_files(self):
        self.file("run: echo\n")
        for content in (b"A=" + b"x" * (2 << 20), b"A=1\0\n\xff", b"A=x\n" + b"A=${A}${A}\n" * 64, b"'" * 100_000):
            code, out, err, seconds = self.validate("task.yaml", "--env-file", self.file(content, "x.env"))
            self.assertIn(code, (0, 2))
            self.assertLess(seconds, MOST_SECONDS)
        self.assertEqual(self.validate("task.yaml", "--env-file", "/dev/zero")[0], 2)
        self.assertEqual(self.validate("task.yaml", "--env-file", self.folder)[0], 2)


if __name__ == "__main__":
    unittest.main()
