"""Faults on a real Kubernetes: jobs that testify, ways to cut a server off, and what may never happen (docs/design.md §6).

Each rank writes down in the hot tier when it did what, and numbers the lines that it prints; each checkpoint tells who wrote
it. So at a test's end the files, the logs and the API server's lists say together whether two attempts ran at once, whether a
log has gaps or repeats, and whether anything was left behind.
"""

import collections
import contextlib
import http.client
import itertools
import json
import os
import re
import threading

import kubetest
import quadtest

LONG = "FULL_LENGTH"  # set in the environment, partitions last ten minutes instead of one

# TICK seconds a step; rank 0 writes a checkpoint with every fourth, in two halves. With HOLD_HALF the first attempt's rank 0
# stands still with half of the checkpoint of that step written, under its final name. It ends well when the test says so.
WITNESS = r"""
folder=$WITNESS/$QUAD_JOB_ID
mkdir -p $folder
echo ${QUAD_CHECKPOINT_DIR%/*} > $folder/hot
mine=$folder/e$QUAD_EPOCH-r$QUAD_RANK
step=${QUAD_RESUME_STEP:-0}
n=0
echo "begins $QUAD_EPOCH $QUAD_RANK at $step"
while [ ! -e $folder/end ]; do
  n=$((n + 1))
  step=$((step + 1))
  echo "$EPOCHREALTIME $n" >> $mine
  echo "line $QUAD_EPOCH $QUAD_RANK $n"
  if [ $QUAD_RANK = 0 ] && [ $((step % 4)) = 0 ]; then
    head=$(printf '{"__metadata__":{"epoch":"%03d","step":"%06d"}}' $QUAD_EPOCH $step)
    file=$QUAD_CHECKPOINT_DIR/step-$step.safetensors
    printf "\\x$(printf %02x ${#head})\\0\\0\\0\\0\\0\\0\\0" > $file
    if [ $QUAD_EPOCH = 1 ] && [ "$step" = "$HOLD_HALF" ]; then
      echo held > $folder/held
      while :; do sleep 1; done
    fi
    printf %s "$head" >> $file
  fi
  sleep $TICK
done
echo "last $QUAD_EPOCH $QUAD_RANK $n"
"""


def is_long():
    return bool(os.environ.get(LONG))


def seconds(usual, long):
    """How long a fault lasts."""
    return long if is_long() else usual


def task(name, ranks=1, tick=0.5, **more):
    return {
        "name": name, "num_nodes": ranks, "envs": {"TICK": str(tick), **more.pop("envs", {})},
        "resources": {"accelerators": "H100:1", "cpus": 0.3, "memory": 0.3}, "run": WITNESS, **more,
    }  # fmt: skip


class Server(kubetest.Server):
    """A server that reaches the API server by the address that only the nodes use beside it, so it alone can be cut off."""

    def __init__(self, testbed, engine):
        super().__init__(testbed, engine)
        self.api_port = testbed.port
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(self.account.kubeconfig.read_text().replace("127.0.0.1", kubetest.ADDRESS))
        config = self.folder / "config.yaml"
        config.write_text(config.read_text().replace(str(self.account.kubeconfig), str(kubeconfig)))

    def cut_off_api_server(self):
        """Packets between it and the API server are lost, until the with-block ends."""
        return self._lost("output", f"oifname lo ip daddr {kubetest.ADDRESS} tcp dport {self.api_port}")

    def cut_off_pods(self):
        """Likewise between it and every pod."""
        return self._lost("input", f"ip saddr 10.98.0.0/16 tcp dport {kubetest.PORT}")

    @contextlib.contextmanager
    def _lost(self, hook, what):
        table = f"quad-{hook}"
        rules = f"table inet {table} {{ chain lost {{ type filter hook {hook} priority 0; {what} drop; }}; }}"
        self.testbed.call("exec", "nft", rules)
        try:
            yield
        finally:
            self.testbed.call("exec", "nft", "delete", "table", "inet", table)


class PodsSeen:
    """Every pod of a server's that was made while the with-block ran, by its uid: a watch of its own."""

    def __init__(self, testbed):
        self._api = testbed.api(timeout=300)
        self._changed = threading.Condition()
        self.uids = collections.defaultdict(set)  # of each name

    def __enter__(self):
        connection = self._api._connection
        path = "/api/v1/pods?labelSelector=quad.io/server"
        there = self._api.get(path)
        self._before = {one["metadata"]["name"] for one in there["items"]}
        version = there["metadata"]["resourceVersion"]
        connection.request("GET", f"{path}&watch=true&resourceVersion={version}")
        self._answer = connection.getresponse()
        self._socket = connection.sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._socket.shutdown(2)
        self._thread.join(10)

    def _read(self):
        with contextlib.suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            for line in self._answer:
                about = json.loads(line)["object"]["metadata"]
                if about["name"] in self._before:
                    continue
                with self._changed:
                    self.uids[about["name"]].add(about["uid"])
                    self._changed.notify_all()

    def wait_for(self, count, timeout=60):
        with self._changed:
            there = self._changed.wait_for(lambda: len(self.uids) >= count, timeout)
            assert there, f"{len(self.uids)} of {count} pods were made in {timeout} s"


class TestCase(kubetest.TestCase):
    server_class = Server

    def server(self, **engine):
        one = super().server(**engine)
        self.witness = one.folder.name
        self.newest_server = one
        return one

    def kubectl(self, *words):
        return self.testbed.call("kubectl", *words)

    def refusal(self, *words):
        """What kubectl says when it is refused; nothing when it is not."""
        try:
            self.kubectl(*words)
        except AssertionError as error:
            return str(error)
        return ""

    # What jobs do.

    def folder(self, job):
        """Where its ranks write down what they do."""
        return self.testbed.folder / "shared" / "home" / kubetest.OWNER / self.witness / str(job)

    def launch(self, server, *args, envs=None, **more):
        return server.launch(task(*args, envs={"WITNESS": f"/home/{kubetest.OWNER}/{server.folder.name}", **(envs or {})}, **more))

    def wait_for_attempt(self, server, job, epoch, timeout=120):
        def reached():
            view = server.job(job)
            assert (view["epoch"], view["status"]) == (epoch, "RUNNING"), f"{view['status']}: {view['message']}"
            return view

        try:
            return quadtest.wait_until(reached, timeout, f"attempt {epoch} of job {job} runs", every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{server.describe(job)}") from None

    def ticks(self, job, epoch, rank):
        """[(time of day, number)] of each step that the rank did."""
        file = self.folder(job) / f"e{epoch}-r{rank}"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(float(at), int(number)) for at, number in (line.split() for line in lines)]

    def wait_for_ticks(self, job, epoch, count=1, ranks=(0,), timeout=120):
        """Until the ranks did so many steps from now on."""
        before = {rank: len(self.ticks(job, epoch, rank)) for rank in ranks}
        try:
            for rank in ranks:
                quadtest.wait_until(
                    lambda rank=rank: len(self.ticks(job, epoch, rank)) >= before[rank] + count, timeout,
                    f"rank {rank} of attempt {epoch} of job {job} did {count} more steps",
                )  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.newest_server.describe(job)}") from None

    def wait_for_checkpoint(self, server, job, epoch=1, timeout=60):
        """Until the server knows of a checkpoint of the attempt; returns its step."""

        def seen():
            return next(one["checkpoint_step"] for one in server.job(job)["attempts"] if one["epoch"] == epoch)

        return quadtest.wait_until(seen, timeout, f"a checkpoint of job {job} is known", every=0.2)

    def let_end(self, *jobs):
        """Also those of which no rank has made the folder yet."""
        for job in jobs:
            self.folder(job).mkdir(parents=True, exist_ok=True)
            (self.folder(job) / "end").touch()

    def end(self, server, *jobs, timeout=120):
        """Lets the jobs end well."""
        self.let_end(*jobs)
        for job in jobs:
            server.wait_for_status(job, "SUCCEEDED", timeout=timeout)

    def expect_attempts(self, server, job, count):
        view = server.job(job)
        self.assertEqual(len(view["attempts"]), count, server.describe(job))
        return view

    def kill_amid_a_gang(self, pods):
        """kill -9 of the server as soon as a gang of 16 has its Secret and so many pods."""
        server = self.server(write_rate=4, write_burst=1)  # slow enough to be met in its midst
        with PodsSeen(self.testbed) as seen:
            job = self.launch(server, "gang", ranks=16, tick=1, resources={"cpus": 0.1, "memory": 0.1})
            get = self.testbed.api().get
            secrets = "/api/v1/secrets?labelSelector=quad.io/server"
            quadtest.wait_until(lambda: get(secrets)["items"], 60, "the attempt's Secret is there", every=0)
            seen.wait_for(pods)
            server.kill()
            made = len(get("/api/v1/pods?labelSelector=quad.io/server")["items"])
            self.assertLess(made, 16, "the server was killed too late")
            print(f"killed with {made} pods made")
            server.start()
            self.wait_for_attempt(server, job, 1, timeout=180)
            self.wait_for_ticks(job, 1, ranks=range(16))
            self.end(server, job)
            self.expect_attempts(server, job, 1)
        self.assertEqual(len(seen.uids), 16, seen.uids)
        self.assertEqual({len(uids) for uids in seen.uids.values()}, {1}, "a pod was made twice")
        self.expect_invariants(server, job)

    # Nodes.

    def health(self, server):
        return {one["name"]: one["health"] for one in server.json("node", "list")["nodes"]}

    def wait_for_health(self, server, timeout, **wanted):
        """Of the nodes named; of all when none is."""

        def reached():
            health = self.health(server)
            expected = wanted or dict.fromkeys(health, "ready")
            now = {name: health[name] for name in expected}
            assert now == expected, f"{now}"
            return True

        try:
            quadtest.wait_until(reached, timeout, f"nodes are {wanted or 'ready'}", every=0.2)
        except AssertionError as error:
            kubelets = "".join(
                f"{node}'s kubelet:\n" + "".join((self.testbed.folder / "nodes" / node / "kubelet.log").open(errors="replace").readlines()[-20:])
                for node, health in self.health(server).items() if health != "ready"
            )  # fmt: skip
            events = "\n".join(server.ok("events").splitlines()[-20:])
            raise AssertionError(f"{error}\n{events}\n{self.testbed.call('status', check=False)}{kubelets}") from None

    # What must hold.

    def expect_invariants(self, server, *jobs, zombies_end_by=None, timeout=120):
        """Of jobs that have ended. A rank of an earlier attempt may have run beside a later one's only where a test froze it
        or cut it off, and until `zombies_end_by` (time of day)."""
        for job in jobs:
            self.expect_one_attempt_at_a_time(server, job, zombies_end_by)
            self.expect_own_checkpoints(server, job)
            self.expect_whole_logs(server, job)
        self.expect_nothing_left(server, timeout)

    def expect_nothing_left(self, server, timeout=120):
        kinds = "pods,secrets,services,persistentvolumeclaims"

        def nothing():
            left = [f"{one['kind']} {one['metadata']['name']}"
                    for one in self.testbed.get(kinds, namespace=None, labels="quad.io/server")]  # fmt: skip
            assert not left, ", ".join(left)
            return True

        quadtest.wait_until(nothing, timeout, "nothing is left in the cluster", every=0.5)

    def expect_one_attempt_at_a_time(self, server, job, zombies_end_by):
        spans = []
        for attempt in server.job(job)["attempts"]:
            epoch = attempt["epoch"]
            times = [at for rank in range(len(attempt["nodes"])) for at, _ in self.ticks(job, epoch, rank)]
            if times:
                spans.append((epoch, min(times), max(times)))
        for (epoch, _, last), (later, first, _) in itertools.pairwise(spans):
            if last >= first:
                self.assertIsNotNone(
                    zombies_end_by, f"job {job}: attempt {epoch} ran {last - first:.1f} s beside {later}\n{server.describe(job)}"
                )
                self.assertLessEqual(last, zombies_end_by, f"job {job}: a rank of attempt {epoch} runs on beside {later}")

    def expect_own_checkpoints(self, server, job):
        """What lies in an attempt's folder was written by it, or brought there from an earlier one, as it was resumed."""
        resumed = {one["epoch"]: one["resumed_step"] or -1 for one in server.job(job)["attempts"]}
        hot = self.testbed.folder / "shared" / (self.folder(job) / "hot").read_text().strip().lstrip("/")
        for file in hot.glob("e*/*.safetensors"):
            epoch = int(file.parent.name[1:])
            found = re.search(rb'"epoch":"(\d+)","step":"(\d+)"', file.read_bytes())
            if not found:
                continue  # half written
            writer, step = int(found[1]), int(found[2])
            self.assertEqual(f"step-{step}.safetensors", file.name)
            self.assertTrue(
                writer == epoch or (writer < epoch and step <= resumed[epoch]), f"attempt {writer} wrote {file} ({resumed})"
            )

    def expect_whole_logs(self, server, job):
        """Each rank's lines without gaps or repeats, and all that it printed where the attempt ended well."""
        text = server.ok("logs", job, "--no-follow")
        lines, last = collections.defaultdict(list), {}
        for kind, epoch, rank, number in re.findall(r"(line|last) (\d+) (\d+) (\d+)$", text, re.MULTILINE):
            if kind == "line":
                lines[int(epoch), int(rank)].append(int(number))
            else:
                last[int(epoch), int(rank)] = int(number)
        view = server.job(job)
        for attempt in view["attempts"]:
            for rank in range(len(attempt["nodes"])):
                key = (attempt["epoch"], rank)
                numbers = lines[key]
                self.assertEqual(numbers, list(range(1, len(numbers) + 1)), f"job {job}, attempt {key[0]}, rank {rank}")
                if attempt is view["attempts"][-1] and view["status"] == "SUCCEEDED":
                    self.assertEqual(last.get(key), len(numbers), f"job {job}, attempt {key[0]}, rank {rank}")
