"""Who may do what: every operation of the contract, by every kind of caller, as its x-quad-needs says."""

import hashlib
import json
from pathlib import Path

import quadapi
import quadtest
import yaml

TIMEOUT_SECONDS = 180
CONTRACT = yaml.safe_load((Path(__file__).resolve().parents[2] / "api" / "openapi.yaml").read_text())
METHODS = ("get", "head", "post", "put", "delete", "patch")
# Who may do what an operation needs; "owner" owns the job and the cluster that are asked for.
MAY = {
    "nobody": {"nobody", "revoked", "attempt", "viewer", "user", "owner", "admin", "socket"},
    "viewer": {"viewer", "user", "owner", "admin", "socket"},
    "user": {"user", "owner", "admin", "socket"},
    "owner": {"owner", "admin", "socket"},
    "admin": {"admin", "socket"},
}
CALLERS = sorted(MAY["nobody"])
UPLOAD = b"an upload of nobody's job"
BODIES = {
    "/v1/jobs": {"command": "true"},
    "/v1/jobs:bulk": {"jobs": [{"command": "true"}]},
    "/v1/validate": {"command": "true"},
    "/v1/tokens": {"user": "somebody", "role": "viewer"},
    "/v1/clusters/{name}/autostop": {"idle_minutes": 60},
}


class Rights(quadtest.TestCase):
    def setUp(self):
        self.quad_server = self.server(nodes=3, gpus="")
        made = {role: self.quad_server.json("token", "create", name, "--role", role)
                for role, name in (("viewer", "vera"), ("user", "uwe"), ("admin", "ada"))}  # fmt: skip
        owner = self.quad_server.json("token", "create", "olga")
        revoked = self.quad_server.json("token", "create", "rita", "--role", "admin")
        self.quad_server.ok("token", "revoke", revoked["id"])
        hers = {"QUAD_SERVER": self.quad_server.url, "QUAD_TOKEN": owner["token"]}
        self.job = self.quad_server.json("launch", "-d", "--cpus", "0.1", "--memory", "0.2", "sleep 1000", env=hers)["job"]
        self.quad_server.ok("launch", "-y", "-c", "hers", "--cpus", "0.5", "--memory", "0.2", "true", env=hers)
        self.quad_server.wait_for_status(self.job, "RUNNING")
        start = next(self.quad_server.data.glob(f"nodes/*/{self.job}-1-0/start.json"))
        self.callers = {name: quadapi.Api(self.quad_server, token) for name, token in {
            "nobody": None, "revoked": revoked["token"], "attempt": json.loads(start.read_text())["token"], "owner": owner["token"],
            **{role: one["token"] for role, one in made.items()},
        }.items()}  # fmt: skip
        self.callers["socket"] = quadapi.Local(self.quad_server)

    def ask(self, caller, method, path):
        body = BODIES.get(path)
        if path == "/v1/jobs:cancel":
            body = {"ids": [self.job + 1000]}
        elif path == "/v1/admin/backup":
            body = {"file": str(self.quad_server.folder / f"{caller}.db")}
        elif path == "/v1/blobs/{hash}":
            body = UPLOAD if method == "put" else None
        where = path.replace("{id}", "none" if path.startswith("/v1/tokens") else str(self.job)).replace("{verb}", "resume")
        where = where.replace("{name}", "local-1" if path.startswith("/v1/nodes") else "hers")
        where = where.replace("{hash}", hashlib.sha256(UPLOAD).hexdigest())
        return self.callers[caller].request(method.upper(), where, body)

    def test_each_operation_by_each_caller(self):
        operations = [(path, method, what) for path, methods in CONTRACT["paths"].items() for method, what in methods.items()
                      if method in METHODS]  # fmt: skip
        self.assertGreater(len(operations), 30)
        tried = 0
        # Those who may come last, as what they do may take away what is asked for.
        for allowed in (False, True):
            for path, method, what in operations:
                for caller in CALLERS:
                    if (caller in MAY[what["x-quad-needs"]]) != allowed:
                        continue
                    tried += 1
                    answer = self.ask(caller, method, path)
                    known = caller not in ("nobody", "revoked", "attempt")
                    with self.subTest(operation=f"{method} {path}", caller=caller, answer=answer):
                        if allowed:
                            self.assertNotIn(answer.status, (401, 403))
                            self.assertLess(answer.status, 500)
                        else:
                            self.assertEqual(answer.status, 403 if known else 401)
            if not allowed:
                self.assertEqual(self.quad_server.job(self.job)["status"], "RUNNING", "nobody who may not has changed anything")
                self.assertEqual(self.quad_server.json("status")["clusters"][0]["status"], "UP")
        self.assertEqual(tried, len(operations) * len(CALLERS))

    def test_cancelling_several_cancels_none_of_others(self):
        for body in ({"ids": [self.job]}, {"name": self.quad_server.job(self.job)["name"]}, {"mine": True}):
            self.callers["user"].request("POST", "/v1/jobs:cancel", body)
        self.assertEqual(self.callers["user"].request("POST", "/v1/jobs:cancel", {"all": True}).status, 403)
        self.assertEqual(self.quad_server.job(self.job)["status"], "RUNNING")
