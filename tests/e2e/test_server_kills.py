"""kill -9 of the server, two hundred times at random moments, while jobs are in all states: nothing is lost, nothing
runs twice, and what ran goes on."""

import collections
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import quadtest
import witness as evidence

TIMEOUT_SECONDS = 400
ROUNDS = 200
OUTSTANDING = 14  # jobs at a time: some always wait

# As witness_rank.py, in the shell, of which a hundred are cheap to start. The lock is held by everything below it too.
COUNT = r"""
# No subshell: a signal to all of the rank would end it in the middle of a record.
record() {
  read -r up _ < /proc/uptime
  echo "{\"what\": \"$1\", \"epoch\": $QUAD_EPOCH, \"rank\": $QUAD_RANK, \"at\": ${up/./}0000000$2}" >> "$WITNESS/$NAME.records"
}
exec 9> "$WITNESS/$NAME.$QUAD_RANK.lock"
flock -n 9 || record locked_out
if [ "$1" = setup ]; then record setup; sleep "$SETUP"; exit; fi
step=${QUAD_RESUME_STEP:-0}
record begin ", \"step\": $step, \"every\": 4"
[ "$KIND" = stubborn ] && trap 'sleep 0.4; exit 9' TERM
while [ $step -lt $STEPS ]; do
  sleep 0.1
  step=$((step + 1))
  echo "rank $QUAD_RANK step $step"
  record step ", \"step\": $step"
  if [ "$QUAD_RANK" = 0 ] && [ $((step % 4)) = 0 ]; then
    file="$QUAD_CHECKPOINT_DIR/step-$step.safetensors"
    printf '\x02\0\0\0\0\0\0\0{' > "$file.tmp"
    sleep 0.03
    printf '}' >> "$file.tmp"
    mv "$file.tmp" "$file"
    record checkpoint ", \"step\": $step"
  fi
done
record end
exit "${CODE:-0}"
"""

# What each kind of job is, and how often.
KINDS = {
    "short": {"weight": 4, "steps": 0},
    "fails": {"weight": 1, "steps": 2, "code": 3},
    "setup": {"weight": 2, "steps": 3, "setup": 0.4},
    "gang": {"weight": 3, "steps": 10, "ranks": 2, "setup": 0.2},  # ranks wait for each other at the barrier
    "train": {"weight": 4, "steps": 25},
    "victim": {"weight": 3, "steps": 30, "setup": 0.2},  # one of its processes is killed on its way
    "stubborn": {"weight": 3, "steps": 9999},  # runs until it is cancelled, and takes its time to end
    "waiting": {"weight": 1, "steps": 1, "gpus": 2, "ranks": 4},  # needs everything, and is cancelled in the queue
}


class Gone(Exception):
    """The server did not answer."""


class Client:
    """What a program does that talks to a server which dies under it."""

    def __init__(self, server):
        self.path = str(server.data / "quad.sock")

    def call(self, method, path, body=None):
        try:
            with socket.socket(socket.AF_UNIX) as connected:
                connected.settimeout(20)
                connected.connect(self.path)
                connection = http.client.HTTPConnection("localhost")
                connection.sock = connected
                connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                status, answer = response.status, json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Gone(str(error)) from None
        if status >= 500:
            raise Gone(f"{status} {answer}")
        return status, answer

    def until_it_answers(self, *args):
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.call(*args)
            except Gone:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class Users(threading.Thread):
    """Submits and cancels all the time, whatever becomes of the server."""

    def __init__(self, server, witness, seed):
        super().__init__(daemon=True)
        self.client, self.witness = Client(server), witness
        self.random = random.Random(seed)
        self.script = server.folder / "count.sh"
        self.script.write_text(COUNT)
        self.jobs = {}  # name -> {"id", "kind", "cancelled": acknowledged, "killed": how often}
        self.order = []
        self.sending = threading.Event()  # a submission is on its way
        self.over = threading.Event()
        self.fault = None

    def run(self):
        try:
            while not self.over.is_set():
                self.one_action()
        except BaseException as error:  # told by the test's own thread
            self.fault = error

    def one_action(self):
        live = {one["name"]: one for one in self.listed() if one["status"] not in quadtest.TERMINAL}
        if len(live) < OUTSTANDING:
            self.submit()
        for name, job in self.jobs.items():
            if name in live and not job["cancelled"] and job["kind"] in ("stubborn", "waiting"):
                if self.random.random() < (0.03 if job["kind"] == "stubborn" else 0.15):
                    self.cancel(job)
        if self.order and self.random.random() < 0.1:
            self.submit_again(self.random.choice(self.order))
        time.sleep(self.random.uniform(0, 0.1))

    def listed(self):
        status, answer = self.client.until_it_answers("GET", "/v1/jobs?limit=10000")
        assert status == 200, answer
        return answer["jobs"]

    def submission(self, name, kind):
        what = KINDS[kind]
        envs = {"WITNESS": self.witness.folder, "NAME": name, "KIND": kind, "STEPS": what["steps"],
                "SETUP": what.get("setup", 0), "CODE": what.get("code", 0)}  # fmt: skip
        task = {
            "name": name, "num_nodes": what.get("ranks", 1), "envs": {key: str(value) for key, value in envs.items()},
            "resources": {"accelerators": f"H100:{what.get('gpus', 1)}", "cpus": 1, "memory": 1},
            "run": f"exec bash {self.script} run", "quad": {"stop_grace": "5s"},
        }  # fmt: skip
        if "setup" in what:
            task["setup"] = f"bash {self.script} setup"
        return {"yaml": json.dumps(task), "client_key": name}

    def submit(self):
        kind = self.random.choices(list(KINDS), [what["weight"] for what in KINDS.values()])[0]
        name = f"{kind}-{len(self.order)}"
        self.order.append(name)
        self.sending.set()
        status, answer = self.client.until_it_answers("POST", "/v1/jobs", self.submission(name, kind))
        assert status == 201, answer
        self.jobs[name] = {"id": answer["jobs"][0]["id"], "kind": kind, "cancelled": False, "killed": 0}

    def submit_again(self, name):
        """As a client does that never saw the answer."""
        job = self.jobs[name]
        status, answer = self.client.until_it_answers("POST", "/v1/jobs", self.submission(name, job["kind"]))
        assert status == 201 and answer["jobs"][0]["id"] == job["id"], (name, job, answer)

    def cancel(self, job):
        status, answer = self.client.until_it_answers("POST", f"/v1/jobs/{job['id']}/cancel", {})
        assert status in (200, 202, 204), answer
        job["cancelled"] = True


class ServerKills(quadtest.TestCase):
    def test_two_hundred_kills_lose_nothing_and_run_nothing_twice(self):
        random_ = evidence.seeded(self)
        server = self.server(nodes=4, gpus="H100:2", options=("--cpus", "16", "--memory", "64"))
        witness = evidence.Witness(server)
        users = Users(server, witness, random_.random())
        users.start()
        killed_in = collections.Counter()
        self.addCleanup(users.over.set)
        for round_ in range(ROUNDS):
            self.kill_at_a_random_moment(server, users, random_)
            killed_in.update(self.statuses_on_record(server))
            if random_.random() < 0.1:  # ranks go on, and end, without a server
                time.sleep(random_.uniform(0, 0.5))
            if round_ % 3 == 0:
                self.kill_a_victim(server, users, random_)
            self.assertIsNone(users.fault, f"round {round_}")
            server.start_unready()
            if round_ % 25 == 0:
                server.wait_until_ready()
                evidence.expect_sound_store(server)
        server.wait_until_ready()
        users.over.set()
        users.join(60)
        self.assertIsNone(users.fault)
        self.settle(server, users)
        self.expect_each_job_once(server, users)
        for name, job in users.jobs.items():
            with self.subTest(name):
                self.expect_well(server, witness, name, job)
        evidence.expect_sound_store(server)
        print(f"jobs in these states when the server was killed: {dict(killed_in)}", flush=True)
        every = {"PENDING", "STARTING", "RUNNING", "RECOVERING", "CANCELLING", *quadtest.TERMINAL}
        self.assertEqual(every - set(killed_in), set(), "no kill met a job in these states")

    def kill_at_a_random_moment(self, server, users, random_):
        moment = random_.random()
        if moment < 0.2:  # while it starts
            time.sleep(random_.uniform(0, 0.15))
        elif moment < 0.4:  # with a submission under way
            server.wait_until_ready()
            users.sending.clear()
            users.sending.wait(0.3)
            time.sleep(random_.uniform(0, 0.01))
        elif moment < 0.5:  # in the middle of a cancellation
            server.wait_until_ready()
            running = self.running(users, "stubborn")
            if running:
                users.cancel(users.jobs[random_.choice(running)])
            time.sleep(random_.uniform(0, 0.3))  # it takes 0.4 s to end
        elif moment < 0.6:  # in the middle of a recovery
            server.wait_until_ready()
            self.kill_a_victim(server, users, random_)
            time.sleep(random_.uniform(0, 0.3))  # its setup takes 0.2 s
        else:
            server.wait_until_ready()
            time.sleep(random_.uniform(0, 0.3))
        server.kill()

    def statuses_on_record(self, server):
        """The statuses of all jobs as a dead server left them. Read from a copy: to open a database that was not closed
        changes it, which is for the next server to do."""
        with tempfile.TemporaryDirectory() as folder:
            for file in server.data.glob("quad.db*"):
                if file.suffix != ".db-shm":  # an index of the log, which is made again
                    shutil.copy(file, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / "quad.db")) as database:
                return [status for (status,) in database.execute("SELECT status FROM jobs")]

    def running(self, users, kind):
        return [one["name"] for one in users.listed()
                if one["status"] == "RUNNING" and one["name"] in users.jobs and users.jobs[one["name"]]["kind"] == kind]  # fmt: skip

    def kill_a_victim(self, server, users, random_):
        victims = {job["id"]: job for job in list(users.jobs.values()) if job["kind"] == "victim" and job["killed"] < 2}
        running = [(key, pids) for key, pids in evidence.rank_processes(server, "count.sh").items() if key[0] in victims]
        if running:
            key, pids = random_.choice(running)
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(min(pids), signal.SIGKILL)
                victims[key[0]]["killed"] += 1

    def settle(self, server, users):
        def ended():
            left = [one for one in users.listed() if one["status"] not in quadtest.TERMINAL]
            for one in left:
                job = users.jobs[one["name"]]
                if job["kind"] in ("stubborn", "waiting") and not job["cancelled"]:
                    users.cancel(job)
            assert not left, [(one["name"], one["status"], one["message"]) for one in left]
            return True

        quadtest.wait_until(ended, 90, "every job has ended")

    def expect_each_job_once(self, server, users):
        there = sorted((one["name"], one["id"]) for one in users.listed())
        self.assertEqual(there, sorted((name, job["id"]) for name, job in users.jobs.items()))
        self.assertEqual(sorted(users.jobs), sorted(users.order), "one was never acknowledged")
        print(f"{len(there)} jobs, {sum(job['killed'] for job in users.jobs.values())} ranks killed", flush=True)

    def expect_well(self, server, witness, name, job):
        _, view = Client(server).call("GET", f"/v1/jobs/{job['id']}")
        witness.expect_never_twice(name)
        expected = {"fails": "FAILED", "stubborn": "CANCELLED"}.get(job["kind"], "SUCCEEDED")
        if job["kind"] == "waiting" and view["status"] == "CANCELLED":
            expected = "CANCELLED"  # nearly always: it is cancelled before there is room for it
        self.assertEqual(view["status"], expected, view)
        if job["kind"] == "fails":
            self.assertEqual((view["exit_code"], view["cause"]), (3, "user"))
        if not job["killed"]:
            # A server that dies is no reason to start anything again.
            self.assertLessEqual(len(view["attempts"]), 1, view)
        ends = witness.records(name, "end")
        if expected != "CANCELLED":
            self.assertEqual(len(ends), view["num_nodes"], f"it ran to its end {len(ends)} times")
        witness.expect_resumed_from_the_newest(name, view)
        witness.expect_logs(name, job["id"], view)
