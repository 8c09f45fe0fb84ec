"""`quad check` on a real cluster: what is taken away is missing in it, and what its fix says mends it."""

import json
import unittest
from pathlib import Path

import kubetest
import quadtest
import yaml

TIMEOUT_SECONDS = 240
CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "quad"
SPACE = "checked"


def claim(mode, storage_class):
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "quad-home", "namespace": SPACE},
        "spec": {"accessModes": [mode], "storageClassName": storage_class, "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip


class Check(kubetest.TestCase):
    engine = {"namespace": SPACE, "hot_tier": {"pvc": "quad-home"}, "image_pull_secrets": ["registry"]}
    asks_in_vain = {"storageclasses"}

    def kubectl(self, *words):
        return self.testbed.call("kubectl", *words)

    def apply(self, name, *objects):
        file = self.testbed.folder / f"{name}.json"
        file.write_text("\n---\n".join(map(json.dumps, objects)))
        self.kubectl("apply", "-f", str(file))

    def check(self, server, *flags):
        """(whether all is well, [line])"""
        code, out, err = server.quad("check", "-o", "json", *flags)
        self.assertIn(code, (0, 1), err)
        told = json.loads(out)
        self.assertEqual(code, 0 if told["ok"] else 1)
        (report,) = told["engines"]
        return told["ok"], report["lines"]

    def expect(self, server, topic, level, *words, flags=()):
        """A line of the topic that says so, soon: the cluster may take a moment. Returns it."""

        def told():
            _, lines = self.check(server, *flags)
            for line in lines:
                if line["topic"] == topic and line["level"] == level and all(word in line["text"] for word in words):
                    return line
            raise AssertionError("\n".join(map(str, lines)))

        return quadtest.wait_until(told, 30, f"{topic} is {level}: {words}", every=0.5)

    def asking_with(self, kubeconfig, namespace):
        """The flags to ask with these rights, before there is a server."""
        config = self.testbed.folder / f"{namespace}.yaml"
        config.write_text(json.dumps({
            "engines": {"there": {"kubeconfig": str(kubeconfig), "namespace": namespace, "image": "quad.test/runner:1",
                                  "server_url": "https://10.99.0.1:8443"}},
            "jobs": {"defaults": {"image": "quad.test/bash:1"}},
        }))  # fmt: skip
        return "--config", str(config)

    def test_what_is_taken_away_is_missing(self):
        self.addCleanup(self.kubectl, "delete", "namespace", SPACE, "--ignore-not-found", "--wait=false")
        with self.subTest("the namespace, as an administrator asks"):
            asks = quadtest.Server()
            flags = self.asking_with(self.testbed.kubeconfig, SPACE)
            line = self.expect(asks, "pods", "missing", SPACE, "not found", flags=flags)
            self.assertIn(f"kubectl create namespace {SPACE}", line["fix"])
            self.kubectl("create", "namespace", SPACE)
            self.expect(asks, "pods", "ok", flags=flags)
        server = self.server()
        with self.subTest("the rights of the chart are all that is needed"):
            self.expect(server, "permissions", "ok")
            self.expect(server, "pods", "ok")
        with self.subTest("the claim of the hot tier"):
            self.expect(server, "hot tier", "missing", "no claim 'quad-home'")
            self.apply("narrow", claim("ReadWriteOnce", "local"))
            self.expect(server, "hot tier", "missing", "not ReadWriteMany")
            self.kubectl("-n", SPACE, "delete", "pvc", "quad-home")
            self.apply("wide", claim("ReadWriteMany", "shared"))
            self.expect(server, "hot tier", "ok", "bound, ReadWriteMany")
        with self.subTest("the login to a registry"):
            self.expect(server, "images", "missing", "no Secret 'registry'")
            self.kubectl("-n", SPACE, "create", "secret", "docker-registry", "registry", "--docker-server=quad.test",
                         "--docker-username=u", "--docker-password=p")  # fmt: skip
            self.expect(server, "images", "ok", "Secret 'registry'")
        with self.subTest("all is there"):
            ok, lines = self.check(server)
            self.assertTrue(ok, lines)
            said = {(line["topic"], line["level"]) for line in lines}
            for topic in ("API server", "permissions", "server", "nodes", "GPUs", "pods", "GPU pods", "images"):
                self.assertIn((topic, "ok"), said, lines)
            self.assertIn(("storage", "unknown"), said, lines)
            self.expect(asks, "storage", "ok", flags=flags)
            print(server.ok("check"))
        with self.subTest("PodSecurity"):
            label = ("label", "--overwrite", "namespace", SPACE)
            self.kubectl(*label, "pod-security.kubernetes.io/enforce=restricted")
            line = self.expect(server, "pods", "missing", "PodSecurity", "restricted")
            self.assertIn("pod-security.kubernetes.io/enforce=baseline", line["fix"])
            self.kubectl(*label, "pod-security.kubernetes.io/enforce=baseline")
            self.expect(server, "pods", "ok")
        with self.subTest("quota"):
            self.kubectl("-n", SPACE, "create", "quota", "none", "--hard=pods=0")
            self.assertIn("ResourceQuota", self.expect(server, "pods", "missing", "quota")["fix"])
            self.kubectl("-n", SPACE, "delete", "quota", "none")
            self.expect(server, "pods", "ok")
        with self.subTest("nodes"):
            self.kubectl("cordon", "-l", "quad.test/kind=real")
            self.addCleanup(self.kubectl, "uncordon", "-l", "quad.test/kind=real")
            self.expect(server, "nodes", "missing", "none of 3 nodes")
            self.kubectl("uncordon", "-l", "quad.test/kind=real")
            self.expect(server, "nodes", "ok", "3 of 3 nodes")
        with self.subTest("the API server"):
            self.testbed.call("apiserver", "stop")
            try:
                ok, lines = self.check(server)
            finally:
                self.testbed.call("apiserver", "start")
            self.assertFalse(ok)
            self.assertEqual([(line["topic"], line["level"]) for line in lines], [("API server", "missing")])

    def test_it_tells_which_rights_lack_and_needs_no_others(self):
        """Before there is a server: with the rights of the service account that it would have."""
        server = quadtest.Server(nodes=1)
        self.addCleanup(server.close)
        self.addCleanup(self.kubectl, "delete", "namespace", "quad", "rights", "--ignore-not-found", "--wait=false")
        for name in ("quad", "rights"):
            self.kubectl("create", "namespace", name)
        self.kubectl("-n", "quad", "create", "serviceaccount", "quad")
        kubeconfig = yaml.safe_load(Path(self.testbed.kubeconfig).read_text())
        kubeconfig["users"][0]["user"] = {"token": self.kubectl("-n", "quad", "create", "token", "quad").strip()}
        file = server.folder / "kubeconfig"
        file.write_text(yaml.safe_dump(kubeconfig))
        flags = self.asking_with(file, "rights")

        ok, lines = self.check(server, *flags)
        self.assertFalse(ok)
        lacking = [line["text"] for line in lines if line["topic"] == "permissions" and line["level"] == "missing"]
        for words in ("create, get or delete pods in namespace 'rights'", "list or watch nodes of the whole cluster"):
            self.assertTrue(any(words in text for text in lacking), lacking)

        roles = self.testbed.call(
            "helm", "template", "quad", str(CHART), "--namespace", "quad", "--set", "image.repository=quad.test/quad",
            "--set", "jobs.namespace=rights", "--set", "serviceAccount.create=false", "--set", "serviceAccount.name=quad",
            "--show-only", "templates/rbac.yaml", "--kube-version", "1.34.4",
        )  # fmt: skip
        (self.testbed.folder / "roles.yaml").write_text(roles)
        self.kubectl("apply", "-f", str(self.testbed.folder / "roles.yaml"))
        self.addCleanup(self.kubectl, "delete", "--ignore-not-found", "-f", str(self.testbed.folder / "roles.yaml"))
        self.expect(server, "permissions", "ok", flags=flags)
        ok, lines = self.check(server, *flags)
        self.assertTrue(ok, lines)
        self.assertEqual([line["level"] for line in lines if line["topic"] == "storage"], ["unknown"], lines)

        documents = list(yaml.safe_load_all(roles))
        (role,) = [one for one in documents if one and one["kind"] == "ClusterRole"]
        self.kubectl("patch", "clusterrole", role["metadata"]["name"], "--type=json",
                     '--patch=[{"op": "replace", "path": "/rules/0/verbs", "value": ["list"]}]')  # fmt: skip
        self.expect(server, "permissions", "missing", "may not watch nodes", flags=flags)


if __name__ == "__main__":
    unittest.main()
