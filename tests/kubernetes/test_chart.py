"""The Helm chart against a real API server: what it makes is accepted, what it refuses is said in plain words, and its service
account may do what docs/kubernetes.md tells and nothing else. No nodes are needed, so its server's pod stays pending.

The definitions of cert-manager and the Prometheus operator are not on the testbed: those two objects are only looked at.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import kubetest
import yaml
from kubetest import builder, quadtest

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "quad"
sys.path.append(str(ROOT / "tools"))

import chart_schema  # noqa: E402

TIMEOUT_SECONDS = 480
QUAD = quadtest.quad_bin()

IMAGE = {"image": {"repository": "quad.test/quad"}}
# Each is laid over IMAGE.
VALUE_SETS = {
    "the least": {},
    "all of the configuration commented out": {"config": None},
    "a namespace for the jobs": {"jobs": {"namespace": "jobs", "createNamespace": True, "engine": "h100"}},
    "a group's cluster": {
        "imagePullSecrets": [{"name": "registry"}],
        "config": {
            "node_lost_after": "30s",
            "hot_tier": {"pvc": "quad-home", "mount": "/home"},
            "jobs": {"defaults": {"image": "debian:12", "max_duration": "2d"}, "limits": {"active_per_user": 1_000_000}},
            "kubernetes": {
                "storage_classes": {"default": "longhorn", "allowed": ["longhorn", "local-path"]},
                "node_selector": {"quad.io/pool": "a100"},
                "rdma": {"resources": {"openshift.io/rail0": 1}, "networks": "train/rail0", "env": {"NCCL_CROSS_NIC": "0"}},
                "out_of_service_taint": True,
            },
            "engines": {"cluster": {"write_rate": 20}, "old": {"kubeconfig": "/etc/quad/old", "image": "quad.test/quad:1"}},
        },
        "extraVolumes": [{"name": "old", "secret": {"secretName": "old"}}],
        "extraVolumeMounts": [{"name": "old", "mountPath": "/etc/quad/old", "subPath": "kubeconfig"}],
    },
    "reached from outside": {
        "service": {"type": "LoadBalancer", "port": 443, "nodePort": 30443, "loadBalancerSourceRanges": ["10.0.0.0/8"]},
        "ingress": {"enabled": True, "className": "nginx", "host": "quad.example.edu", "tlsSecretName": "quad-web"},
        "networkPolicy": {
            "from": [{"namespaceSelector": {}}],
            "apiServer": {"ports": [6443], "cidrs": ["10.0.0.1/32"]},
            "extraEgress": [{"ports": [{"port": 8080}]}],
        },
        "tls": {"extraNames": ["gpu.example.edu", "10.1.2.3"]},
    },
    "jobs beside the server": {"jobs": {"namespace": "quad"}, "extraVolumes": [{"name": "x", "configMap": {"name": "x"}}]},
    "all of the user's own": {
        "tls": {"secretName": "mine", "secretHasCa": False},
        "persistence": {"existingClaim": "mine"},
        "serviceAccount": {"create": False, "name": "mine"},
        "rbac": {"create": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": True},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"a": "b"},
        "affinity": {"podAntiAffinity": {}},
        "podLabels": {"a": "b"},
        "podAnnotations": {"a": "b"},
        "runAsUser": 1_000_680_000,
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "fullnameOverride": "other",
    },
}
# What is given, and what must be in the words of the refusal.
REFUSED = [
    ({"image": {"repository": ""}}, "image.repository is needed"),
    ({"image": {"name": "x"}}, "at '/image': additional properties 'name' not allowed"),
    ({"replicas": 2}, "additional properties 'replicas' not allowed"),
    ({"config": {"node_lost": "3s"}}, "at '/config': additional properties 'node_lost' not allowed"),
    ({"config": {"kubernetes": {"rdma": {"x": 1}}}}, "at '/config/kubernetes/rdma': additional properties 'x' not allowed"),
    ({"config": {"tls": {"key": "x"}}}, "at '/config': additional properties 'tls' not allowed"),
    ({"config": {"kubernetes": {"namespace": "x"}}}, "use jobs.namespace"),
    ({"config": {"kubernetes": {"image": "x"}}}, "use image.repository and image.tag"),
    ({"config": {"engines": {"cluster": {"image": "x"}}}}, "config.engines.cluster.image is the chart's to say"),
    ({"config": {"engines": {"other": {"in_cluster": True}}}}, "jobs.engine names it"),
    ({"jobs": {"engine": "local"}}, "/jobs/engine"),
    ({"jobs": {"namespace": "default", "createNamespace": True}}, "name another in jobs.namespace"),
    ({"service": {"type": "LoadBalancer"}}, "networkPolicy.from is empty"),
    ({"ingress": {"enabled": True}, "networkPolicy": {"enabled": False}}, "ingress.host is needed"),
    ({"serviceMonitor": {"enabled": True}, "networkPolicy": {"enabled": False}}, "serviceMonitor.tokenSecret.name is needed"),
    ({"tls": {"certManager": {"enabled": True}}}, "tls.certManager.issuerRef.name is needed"),
    ({"tls": {"secretName": "x", "certManager": {"enabled": True}}}, "exclude each other"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name is needed"),
    ({"runAsUser": 0}, "/runAsUser"),
    ({"persistence": {"size": 5}}, "/persistence/size"),
    ({"persistence": {"accessModes": ["ReadWriteMany"]}}, "must be one of 'ReadWriteOnce', 'ReadWriteOncePod'"),
    ({"tls": None}, "missing property 'tls'"),
]


def documented_permissions():
    """[(where, condition, resource, verbs)] of the table in docs/kubernetes.md."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    table = text.partition("### What the server may do\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    found = []
    for where, resources, verbs, why in rows[2:]:
        assert why, f"no reason for {resources}"
        place, _, condition = where.partition(", with ")
        for resource in re.findall(r"`([^`]+)`", resources):
            found.append((place.strip("`"), condition.strip("`"), resource, {verb.strip() for verb in verbs.split(",")}))
    return found


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        reason = kubetest.why_not_here()
        if reason:
            raise unittest.SkipTest(reason)
        cls.folder = Path(tempfile.mkdtemp(prefix="quad-chart-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(subprocess.run, cls.on_testbed("down"), check=True)
        up = subprocess.run(cls.on_testbed("up", "--nodes", "0"), check=True, stdout=subprocess.PIPE, text=True)
        cls.environment = os.environ | {"KUBECONFIG": up.stdout.split()[-1]}
        cls.kubectl("create", "namespace", "quad-jobs")
        for name in ("quad", "plain"):
            cls.kubectl("create", "namespace", name)
            cls.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        cls.install("quad", VALUE_SETS["a group's cluster"] | {"jobs": {"namespace": "jobs", "createNamespace": True}})
        cls.install("plain", {})

    @classmethod
    def on_testbed(cls, *words):
        return [str(kubetest.PROGRAM), "--dir", str(cls.folder / "testbed"), *words]

    @classmethod
    def run_tool(cls, *words, fails=False, **more):
        command = [str(builder.require_built() / "bin" / words[0]), *words[1:]]
        done = subprocess.run(command, env=cls.environment, capture_output=True, text=True, **more)
        if (done.returncode != 0) != fails:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr if fails else done.stdout

    @classmethod
    def kubectl(cls, *words, **more):
        return cls.run_tool("kubectl", *words, **more)

    @classmethod
    def get(cls, namespace, *what):
        return json.loads(cls.kubectl("-n", namespace, "get", *what, "-o", "json"))

    @classmethod
    def helm(cls, *words, values=None, **more):
        """With `values` over IMAGE, if there are any."""
        given = []
        if values is not None:
            file = cls.folder / "values.yaml"
            file.write_text(yaml.safe_dump(IMAGE | values))
            given = ["--values", str(file)]
        return cls.run_tool("helm", *words, *given, **more)

    @classmethod
    def install(cls, release, values, verb="install", *more):
        return cls.helm(verb, release, str(CHART), "--namespace", release, *more, values=values)

    def rendered(self, values):
        text = self.helm("template", "quad", str(CHART), "--namespace", "quad", "--kube-version", "1.34", values=values)
        return [one for one in yaml.safe_load_all(text) if one]

    def template(self, values):
        """{(kind, name): object}"""
        return {(one["kind"], one["metadata"]["name"]): one for one in self.rendered(values)}

    def test_it_lints(self):
        for name, values in VALUE_SETS.items():
            with self.subTest(name):
                self.helm("lint", "--strict", str(CHART), values=values)

    def test_every_value_is_told_and_checked(self):
        text = (CHART / "values.yaml").read_text()
        values, schema = yaml.safe_load(text), json.loads(chart_schema.FILE.read_text())
        self.assertEqual(
            chart_schema.FILE.read_text(), chart_schema.text(QUAD), "values.schema.json is old: run tools/chart_schema.py"
        )

        def compare(values, schema, path):
            self.assertEqual(set(values), set(schema["properties"]) - {"global"}, path)
            for key, value in values.items():
                below = schema["properties"][key]
                if below.get("additionalProperties") is False and key not in ("config", "resources", "issuerRef"):
                    compare(value, below, f"{path}.{key}")

        compare(values, schema, "values")

    def test_versions_agree(self):
        version = re.search(r"^project\(quad VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)[1]
        self.assertEqual(yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"], version)

    def test_the_server_takes_the_configuration(self):
        for name, values in VALUE_SETS.items():
            with self.subTest(name):
                objects = self.template(values)
                config = next(one for (kind, _), one in objects.items() if kind == "ConfigMap")["data"]["config.yaml"]
                file = self.folder / "config.yaml"
                file.write_text(config)
                done = subprocess.run([QUAD, "config", "check", file], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr + config)
                read = yaml.safe_load(config)
                engine = read["engines"][values.get("jobs", {}).get("engine", "cluster")]
                self.assertTrue(engine["in_cluster"])
                self.assertEqual(engine["image"], "quad.test/quad:0.1.0")
                for key in ("kubernetes", "hot_tier", "jobs"):
                    self.assertEqual(read.get(key), (values.get("config") or {}).get(key))

    def test_an_api_server_accepts_it(self):
        for name, values in VALUE_SETS.items():
            with self.subTest(name):
                objects = self.template({"fullnameOverride": "tried"} | values)
                manifest = {"apiVersion": "v1", "kind": "List", "items": list(objects.values())}
                # Not by Helm, which sends nothing to the server in a dry run.
                command = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
                out = self.kubectl(*command, input=json.dumps(manifest))
                self.assertEqual(len(out.splitlines()), len(objects))

    def test_it_refuses_in_plain_words(self):
        for values, words in REFUSED:
            with self.subTest(words):
                out = self.helm("template", "quad", str(CHART), "--kube-version", "1.34", values=values, fails=True)
                self.assertIn(words, out)

    def test_what_others_define(self):
        objects = self.template(
            {
                "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}},
                "serviceMonitor": {"enabled": True, "labels": {"release": "p"}, "tokenSecret": {"name": "token"}},
                "networkPolicy": {"from": [{"namespaceSelector": {}}]},
            }
        )
        self.assertNotIn(("Secret", "quad-tls"), objects)
        certificate = objects["Certificate", "quad-tls"]["spec"]
        self.assertEqual(certificate["secretName"], "quad-tls")
        self.assertIn("quad.quad.svc", certificate["dnsNames"])
        endpoint = objects["ServiceMonitor", "quad"]["spec"]["endpoints"][0]
        self.assertEqual(endpoint["authorization"]["credentials"], {"name": "token", "key": "token"})
        self.assertEqual(endpoint["tlsConfig"]["serverName"], "quad.quad.svc")

    def engine_of(self, objects):
        (config,) = [one["data"]["config.yaml"] for (kind, _), one in objects.items() if kind == "ConfigMap"]
        return yaml.safe_load(config)["engines"]["cluster"]

    def test_jobs_have_a_namespace_of_their_own(self):
        objects = self.template({})
        self.assertEqual(self.engine_of(objects)["namespace"], "quad-jobs")
        self.assertIn(("Namespace", "quad-jobs"), objects)
        roles = {one["metadata"]["namespace"] for one in self.rendered({}) if one["kind"] in ("Role", "RoleBinding")}
        self.assertEqual(roles, {"quad-jobs", "kube-node-lease"})
        (peer,) = objects["NetworkPolicy", "quad"]["spec"]["ingress"][0]["from"]
        self.assertEqual(peer["namespaceSelector"]["matchLabels"], {"kubernetes.io/metadata.name": "quad-jobs"})
        self.assertNotIn("reserved_names", self.engine_of(objects))

    def test_beside_the_server_jobs_may_not_name_what_is_its_own(self):
        values = {
            "jobs": {"namespace": "quad"},
            "persistence": {"existingClaim": "records"},
            "tls": {"secretName": "certificate"},
            "extraVolumes": [{"name": "old", "secret": {"secretName": "old-cluster"}}],
            "config": {"kubernetes": {"reserved_names": ["more"]}},
        }
        reserved = self.engine_of(self.template(values))["reserved_names"]
        self.assertLessEqual({"records", "certificate", "old-cluster", "more", "quad"}, set(reserved))

    def test_no_label_of_a_job_makes_its_pod_the_server(self):
        objects = self.template({"podDisruptionBudget": {"enabled": True}})
        service = objects["Service", "quad"]["spec"]["selector"]
        policy = objects["NetworkPolicy", "quad"]["spec"]["podSelector"]["matchLabels"]
        budget = objects["PodDisruptionBudget", "quad"]["spec"]["selector"]["matchLabels"]
        for selector in (service, policy, budget):
            self.assertEqual(selector["quad.io/role"], "server")
        deployment = objects["Deployment", "quad"]["spec"]
        self.assertLessEqual(service.items(), deployment["template"]["metadata"]["labels"].items())
        self.assertNotIn("quad.io/role", deployment["selector"]["matchLabels"], "which cannot change over an upgrade")

    def test_an_upgrade_does_not_move_jobs_without_being_told_where(self):
        beside = {"jobs": {"namespace": "old"}}
        self.install("old", beside, "install", "--create-namespace")
        before = self.get("old", "configmap", "old-quad")["metadata"]["resourceVersion"]
        told = self.helm("upgrade", "old", str(CHART), "--namespace", "old", values={}, fails=True)
        self.assertIn("run in namespace old, beside the server", told)
        self.assertIn("jobs.namespace=old keeps them there", told)
        self.assertEqual(self.get("old", "configmap", "old-quad")["metadata"]["resourceVersion"], before)
        self.assertIn("jobs run beside the server", self.install("old", beside, "upgrade"))
        self.install("old", {"jobs": {"namespace": "old-jobs", "createNamespace": True}}, "upgrade")
        self.install("old", {}, "upgrade")  # it is the default's now

    def test_the_restricted_namespace_admits_the_server(self):
        refused = self.kubectl("-n", "quad", "run", "other", "--image=quad.test/busybox:1", fails=True)
        self.assertIn('violates PodSecurity "restricted', refused)

        def admitted():
            pods = self.get("quad", "pods", "-l", "app.kubernetes.io/name=quad")["items"]
            assert pods, self.kubectl("-n", "quad", "describe", "replicasets")
            return pods

        pod = quadtest.wait_until(admitted, 60, "the server's pod is made", every=0.5)[0]
        self.assertTrue(pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"])

    def allowed(self, user, namespace):
        """{resource or URL: verbs}, as the API server tells. `user` is kubectl's flag that says who asks."""
        out = self.kubectl("auth", "can-i", "--list", user, "-n", namespace)
        found = {}
        for line in out.splitlines()[1:]:
            resource, urls, names, verbs = re.fullmatch(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]", line).groups()
            found.setdefault(resource or urls, set()).update(f"{verb} {names}".strip() for verb in verbs.split())
        return found

    def test_the_service_account_may_do_what_is_documented(self):
        places = {"the jobs' namespace", "kube-node-lease", "the whole cluster"}
        self.assertEqual({where for where, *_ in documented_permissions()}, places)
        self.expect_documented("--as=system:serviceaccount:quad:quad", "jobs", "quad", taints=True)
        self.expect_documented("--as=system:serviceaccount:plain:plain-quad", "plain-jobs", "plain")

    def test_so_may_those_of_all_other_tests(self):
        testbed = kubetest.Testbed.shared(self.folder / "testbed")
        for taints in (False, True):
            account = testbed.account("default", taints)
            self.expect_documented(f"--kubeconfig={account.kubeconfig}", "default", kubetest.SERVERS, taints)

    def expect_documented(self, user, jobs, servers, taints=False):
        """That the account has the rights of docs/kubernetes.md, in the jobs' namespace, the server's own and others."""
        conditions = {"", "out_of_service_taint"} if taints else {""}
        for namespace in (jobs, servers, "kube-node-lease", "kube-system", "kube-public"):
            with self.subTest(user=user, namespace=namespace):
                here = {"the jobs' namespace": jobs, "kube-node-lease": "kube-node-lease", "the whole cluster": namespace}
                # What any service account may: ask about itself, and discover the API.
                expected = self.allowed("--as=system:serviceaccount:default:nobody", namespace)
                for where, condition, resource, verbs in documented_permissions():
                    if here[where] == namespace and condition in conditions:
                        expected.setdefault(resource, set()).update(verbs)
                self.assertEqual(self.allowed(user, namespace), expected)

    def test_of_a_node_it_may_change_the_one_taint_alone(self):
        manifest = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]},
        }
        self.kubectl("create", "-f", "-", input=json.dumps(manifest))
        own = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}

        def patch(change, release="quad:quad", fails=False):
            user = f"--as=system:serviceaccount:{release}"
            return self.kubectl(user, "patch", "node", "a", "--type=merge", "-p", json.dumps(change), fails=fails)

        def taints():
            return self.get("default", "node", "a")["spec"]["taints"]

        def change_taints(edit):
            """As whoever shares the list with others must: what they write meanwhile (not-ready, as no kubelet runs) stays."""

            def changed():
                node = self.get("default", "node", "a")
                metadata = {"resourceVersion": node["metadata"]["resourceVersion"]}
                return patch({"metadata": metadata, "spec": {"taints": edit(node["spec"]["taints"])}})

            quadtest.wait_until(changed, 30, "the node's taints are changed")

        change_taints(lambda there: [*there, own])
        self.assertLessEqual({"other", own["key"]}, {one["key"] for one in taints()})
        change_taints(lambda there: [one for one in there if one["key"] != own["key"]])
        self.assertIn("other", [one["key"] for one in taints()])
        self.assertNotIn(own["key"], [one["key"] for one in taints()])
        for change, words in (
            ({"spec": {"taints": [own]}}, "no taint of a node but"),
            ({"spec": {"taints": [*taints(), {"key": "x", "effect": "NoSchedule"}]}}, "no taint of a node but"),
            ({"metadata": {"labels": {"x": "2"}}}, "no labels"),
            ({"metadata": {"annotations": {"x": "2"}}}, "no labels"),
            ({"metadata": {"finalizers": ["quad.io/x"]}}, "no labels"),
            ({"spec": {"unschedulable": True}}, "may not cordon"),
            ({"spec": {"providerID": "x"}}, "may not cordon"),
            ({"spec": {"podCIDRs": ["10.1.0.0/24"], "podCIDR": "10.1.0.0/24"}}, "may not cordon"),
        ):
            with self.subTest(change):
                self.assertIn(words, patch(change, fails=True))
        self.assertIn("forbidden", patch({"spec": {"taints": [*taints(), own]}}, "plain:plain-quad", fails=True))

    def certificate(self):
        """What the release "kept" made: the Secret's data, and its files."""
        data = self.get("kept", "secret", "kept-quad-tls")["data"]
        files = {name: self.folder / name for name in ("tls.crt", "ca.crt")}
        for name, file in files.items():
            file.write_bytes(base64.b64decode(data[name]))
        return data, files

    def is_certified(self, files, host):
        command = ["openssl", "verify", "-CAfile", files["ca.crt"], "-verify_hostname", host, files["tls.crt"]]
        return subprocess.run(command, capture_output=True).returncode == 0

    def test_the_certificate_and_the_data_outlive_upgrades_and_removal(self):
        self.install("kept", {}, "install", "--create-namespace")
        first, files = self.certificate()
        for host in ("kept-quad", "kept-quad.kept.svc", "kept-quad.kept.svc.cluster.local", "localhost"):
            self.assertTrue(self.is_certified(files, host), host)
        self.assertFalse(self.is_certified(files, "gpu.example.edu"))

        self.install("kept", {"podAnnotations": {"a": "b"}}, "upgrade")
        self.assertEqual(self.certificate()[0], first)

        # New names need a new certificate, but running jobs trust the authority.
        named = {"tls": {"extraNames": ["gpu.example.edu"]}}
        self.install("kept", named, "upgrade")
        second, files = self.certificate()
        self.assertEqual(second["ca.crt"], first["ca.crt"])
        self.assertTrue(self.is_certified(files, "gpu.example.edu"))

        claim = self.get("kept", "persistentvolumeclaim", "kept-quad-data")["metadata"]["uid"]
        self.helm("uninstall", "kept", "--namespace", "kept")
        gone = self.get("kept", "deployments,services,configmaps,roles", "-l", "app.kubernetes.io/instance=kept")
        self.assertEqual(gone["items"], [])
        self.install("kept", named)
        self.assertEqual(self.certificate()[0], second)
        self.assertEqual(self.get("kept", "persistentvolumeclaim", "kept-quad-data")["metadata"]["uid"], claim)


if __name__ == "__main__":
    unittest.main()
