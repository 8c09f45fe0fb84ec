"""`quad check` where there is no cluster, and that what it asks a cluster for is what the documentation lists."""

import json
import re
import unittest
from pathlib import Path

import quadtest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"


def documented():
    """[(where, condition, resource, verbs)] of the table in docs/kubernetes.md."""
    table = DOCS.read_text().partition("### What the server may do\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    found = []
    for where, resources, verbs, _ in rows[2:]:
        place, _, condition = where.partition(", with ")
        for resource in re.findall(r"`([^`]+)`", resources):
            found.append((place.strip("`"), condition.strip("`"), resource, frozenset(verbs.split(", "))))
    return found


class Check(quadtest.TestCase):
    @quadtest.quick
    def test_it_looks_at_this_machine(self):
        server = self.server(nodes=2)
        report = server.json("check")
        self.assertTrue(report["ok"], report)
        (engine,) = report["engines"]
        self.assertEqual((engine["engine"], engine["ok"]), ("local", True))
        self.assertEqual({line["topic"] for line in engine["lines"]} & {"nodes", "hot tier", "limits"}, {"nodes", "hot tier", "limits"})
        told = server.ok("check")
        self.assertIn("local (this machine, divided into pretend nodes)", told)
        self.assertIn("2 pretend nodes", told)

    def test_a_cluster_that_is_not_there_is_missing(self):
        server = self.server(nodes=1)
        kubeconfig = server.folder / "kubeconfig"
        kubeconfig.write_text(json.dumps({
            "current-context": "away", "contexts": [{"name": "away", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}], "users": [{"name": "u", "user": {}}],
        }))  # fmt: skip
        code, out, _ = server.quad("check", "--context", "away", env={"KUBECONFIG": str(kubeconfig)})
        self.assertEqual(code, 1, out)
        self.assertRegex(out, r"missing +API server .*127.0.0.1:9")
        self.assertIn("can be reached", out)
        code, out, _ = server.quad("check", "--context", "nowhere", env={"KUBECONFIG": str(kubeconfig)})
        self.assertEqual(code, 1, out)
        self.assertRegex(out, r"missing +configuration .*nowhere")

    @quadtest.quick
    def test_it_asks_for_the_rights_that_are_documented(self):
        server = self.server(nodes=1)
        told = server.json("check", "--permissions")["permissions"]
        asked = [(one["where"], one["only_with"], one["resource"], frozenset(one["verbs"])) for one in told]
        self.assertEqual(sorted(asked, key=str), sorted(documented(), key=str))

    def test_only_an_administrator_may(self):
        server = self.server(nodes=1)
        token = server.json("token", "create", "ana", "--role", "user")["token"]
        code, _, err = server.quad("check", env={"QUAD_TOKEN": token, "QUAD_SERVER": server.url})
        self.assertEqual(code, 1, err)
        self.assertIn("admin", err)


if __name__ == "__main__":
    unittest.main()
