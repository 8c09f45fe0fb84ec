#!/usr/bin/env python3
"""Compares `quad validate` with SkyPilot's own answers on its examples and on mutants of them.

QUAD_BIN names the quad program, QUAD_CORPUS the corpus (default: shared/corpus/skypilot beside the project). Without
either, the test says that it was skipped. Needs nothing but Python's standard library.
"""

import json
import os
import pathlib
import shutil
import subprocess
import unittest

PROJECT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = pathlib.Path(os.environ.get("QUAD_CORPUS", PROJECT.parent / "shared/corpus/skypilot"))
QUAD = os.environ.get("QUAD_BIN") or shutil.which("quad")

# Where Quad means to differ; docs/task-yaml.md says why.
INTENDED_VERDICTS = {"mutants/0471.yaml": True}
LEAST_EQUAL_TASKS = 0.98




def has_node(path):
    """Whether the file has anything but comments and white space in it."""
    text = path.read_bytes().decode(errors="replace")
    return any(line.strip() not in ("", "---", "...") and not line.strip().startswith("#") for line in text.splitlines())


def comparable(value, key=None):
    """Drops null, {} and []; sorts any_of, which SkyPilot prints in the order of memory addresses."""
    if isinstance(value, dict):
        members = ((k, comparable(v, k)) for k, v in value.items())
        return {k: v for k, v in members if v is not None and v != {} and v != []}
    if isinstance(value, list):
        items = [comparable(item) for item in value]
        return sorted(items, key=lambda v: json.dumps(v, sort_keys=True)) if key == "any_of" else items
    return value


def validate(paths, envs=(), secrets=()):
    """The JSON objects that quad prints for these files, in their order."""
    command = [QUAD, "validate", *paths, "-o", "json"]
    for flag, names in (("--env", envs), ("--secret", secrets)):
        for name in names:
            command += [flag, f"{name}=value-{name.lower()}"]
    run = subprocess.run(command, cwd=CORPUS, capture_output=True, text=True, timeout=120)
    if run.returncode not in (0, 1, 2):
        raise AssertionError(f"quad ended with {run.returncode}: {run.stderr[-500:]}")
    return [json.loads(line) for line in run.stdout.split("\n") if line]


@unittest.skipUnless(QUAD, "skipped: no quad program (set QUAD_BIN)")
@unittest.skipUnless((CORPUS / "expected.jsonl").exists(), f"skipped: no corpus at {CORPUS}")
class SkyPilotCorpus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(CORPUS / "expected.jsonl", encoding="utf-8") as file:
            entries = [json.loads(line) for line in file]
        cls.entries = [entry for entry in entries if entry["oracle"] != "unavailable"]
        answers = validate([entry["path"] for entry in cls.entries])
        cls.pairs = [(e["path"], "plain", e["plain"], a) for e, a in zip(cls.entries, answers)]
        for entry in cls.entries:
            if entry["filled"] is not None:
                (answer,) = validate([entry["path"]], entry["null_envs"], entry["null_secrets"])
                cls.pairs.append((entry["path"], "filled", entry["filled"], answer))

    def test_answers_every_file_in_order(self):
        plain = [pair for pair in self.pairs if pair[1] == "plain"]
        self.assertEqual(len(plain), len(self.entries))
        for path, _, _, answer in self.pairs:
            self.assertEqual(answer["path"], path)

    def test_accepts_and_rejects_what_skypilot_does(self):
        for path, form, expected, answer in self.pairs:
            with self.subTest(path=path, form=form, skypilot=expected.get("message", "accepts")):
                wanted = INTENDED_VERDICTS.get(path, expected["ok"])
                self.assertEqual(answer["ok"], wanted, answer["errors"])

    def test_every_rejection_names_the_key_and_the_line(self):
        for path, form, _, answer in self.pairs:
            self.assertEqual(answer["ok"], not answer["errors"])
            lines = (CORPUS / path).read_bytes().count(b"\n") + 1
            for error in answer["errors"]:
                with self.subTest(path=path, form=form, error=error):
                    self.assertTrue(error["message"])
                    if not has_node(CORPUS / path):
                        continue  # nothing to point at
                    self.assertTrue(error["key"])
                    self.assertGreater(error["line"], 0)
                    self.assertLessEqual(error["line"], lines)
                    self.assertGreater(error["column"], 0)

    def test_prints_the_same_tasks(self):
        accepted = [p for p in self.pairs if p[2]["ok"]]
        different = []
        for path, form, expected, answer in accepted:
            same = comparable(expected["tasks"]) == comparable(answer["tasks"])
            if not same or expected["dag_name"] != answer["dag_name"]:
                different.append(f"{path} ({form})")
        equal = 1 - len(different) / len(accepted)
        self.assertGreaterEqual(equal, LEAST_EQUAL_TASKS, different)


if __name__ == "__main__":
    unittest.main()
