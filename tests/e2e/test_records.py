"""Records never go back in silence: a database that was restored, emptied, cut, damaged or is another server's, and
keys and folders that do not belong to it, are seen at the start; and once that is accepted, nothing of another's job
is shown, resumed or numbered again."""

import contextlib
import os
import re
import shutil
import sqlite3

import quadapi
import quadtest

MORE = 120  # jobs that only fill pages


def save(step):
    """A command that saves a whole checkpoint."""
    return (
        "python3 -c 'import json, os; h = json.dumps({\"w\": {\"dtype\": \"U8\", \"shape\": [9], "
        '"data_offsets": [0, 9]}}).encode(); '
        f'open(os.environ["QUAD_CHECKPOINT_DIR"] + "/step-{step:06d}.safetensors", "wb")'
        ".write(len(h).to_bytes(8, \"little\") + h + bytes(9))'"
    )


def copy_of(data, to):
    """The folder as it stands, but for what means nothing by itself."""
    shutil.copytree(data, to, symlinks=True, ignore=shutil.ignore_patterns("reserve", "quad.sock", "trash", "lock"))


def change(database, *statements):
    with contextlib.closing(sqlite3.connect(database)) as opened:
        opened.execute("PRAGMA journal_mode=WAL")
        for statement in statements:
            opened.execute(statement)
        opened.commit()


def zero_page(database, name, leaf=False):
    """Zeroes the root of a table or index, or a page below it; the database is folded and nobody has it open."""
    with contextlib.closing(sqlite3.connect(database)) as opened:
        root = opened.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
        size = opened.execute("PRAGMA page_size").fetchone()[0]
    with open(database, "r+b") as file:
        page = root
        if leaf:
            file.seek((root - 1) * size)
            head = file.read(size)
            assert head[0] in (2, 5), f"the root of {name} has no page below it"
            cell = int.from_bytes(head[12:14], "big")
            page = int.from_bytes(head[cell : cell + 4], "big")
        file.seek((page - 1) * size)
        file.write(bytes(size))


def cut(file, share):
    os.truncate(file, int(file.stat().st_size * share))


def mark_of(data):
    words = (data / "records.mark").read_text().split()
    return {"life": words[3], "job": int(words[7]), "revision": int(words[9])}


def write_mark(data, life, job, revision):
    """A mark that is whole, as another server would have left it."""
    text = f"quad-records 1 life {life} generation {0:010} job {job:019} revision {revision:019} inode {1:020} "
    total = 0xCBF29CE484222325
    for byte in text.encode():
        total = (total ^ byte) * 0x100000001B3 % 2**64
    (data / "records.mark").write_text(f"{text}{total:016x}".ljust(191) + "\n")


def make_anonymous(data):
    """As a version of Quad left it whose records had no life: the same but for what tells of one."""
    change(data / "quad.db", "DELETE FROM settings WHERE key LIKE 'records/%'")
    (data / "records.mark").unlink()
    for place in ("logs", "hot"):
        (data / place / ".quad-records").unlink()


class Records(quadtest.TestCase):
    """One history, and another server's; each damage is done to a copy of the first, in the same place."""

    @classmethod
    def setUpClass(cls):
        cls.main = quadtest.Server(nodes=1, gpus="")
        cls.addClassCleanup(cls.main.close)
        cls.kept = cls.main.folder / "kept"
        cls.early, cls.cut_off, cls.whole, cls.other = (cls.kept / name for name in ("early", "cut", "whole", "other"))
        cls.backup = cls.kept / "backup.db"
        cls.kept.mkdir()
        server = cls.main.start()
        cls.run_job(server, f"echo alice-1; {save(100)}")
        cls.wait_until_tidy(server)
        server.kill()
        copy_of(server.data, cls.early)
        server.start()
        server.ok("admin", "backup", cls.backup)
        for number in (2, 3):
            cls.run_job(server, f"echo alice-{number}; {save(700)}")
        api = quadapi.Api(server)
        server.ok("node", "drain", server.json("node", "list")["nodes"][0]["name"])
        made = api.post("/v1/jobs:bulk", {"jobs": [{"command": f"echo {'x' * 500}"}] * MORE})
        assert made.status == 201, made
        cls.jobs = 3 + MORE
        for job in range(4, cls.jobs + 1):
            assert api.post(f"/v1/jobs/{job}/cancel").status == 200
        server.ok("node", "resume", server.json("node", "list")["nodes"][0]["name"])
        cls.wait_until_tidy(server)
        server.kill()
        copy_of(server.data, cls.cut_off)  # with its log, in which nearly everything is
        server.start().ok("node", "list")
        assert server.stop() == 0
        copy_of(server.data, cls.whole)

        other = quadtest.Server(nodes=1, gpus="")
        cls.addClassCleanup(other.close)
        other.start()
        for number in (1, 2):
            cls.run_job(other, f"echo bob-{number}; {save(300)}")
        cls.wait_until_tidy(other)
        other.kill()
        copy_of(other.data, cls.other)

    @staticmethod
    def run_job(server, command):
        job = server.launch({"run": command})
        server.wait_for_status(job, "SUCCEEDED")
        return job

    @staticmethod
    def wait_until_tidy(server):
        left = lambda: not list(server.data.glob("nodes/*/*-*-*"))
        quadtest.wait_until(left, 30, "the folders of ended ranks are gone")

    def put(self, state):
        """The data directory in this state, in the same place as ever."""
        self.end()
        shutil.rmtree(self.main.data, ignore_errors=True)
        copy_of(state, self.main.data)
        return self.main.data

    def serve(self, *more):
        """Starts the server; returns None, or with what words it was refused."""
        server = self.main
        server.options = ["--nodes", "1", *more]
        server.log_path.unlink(missing_ok=True)
        (server.data / "server.json").unlink(missing_ok=True)
        server.start_unready()
        ready = lambda: server.process.poll() is not None or server._is_ready()
        with contextlib.suppress(RuntimeError):
            quadtest.wait_until(ready, 60, "it serves or has ended", every=0.01)
        code = server.process.poll()
        if code is None:
            return None
        server.process = None
        self.assertEqual(code, 3, server.log_tail())
        return server.log_path.read_text().strip().splitlines()[-1]

    def end(self):
        if self.main.process and self.main.process.poll() is None:
            self.main.kill()
        self.main.process = None
        quadtest.kill_all_of(str(self.main.data))

    def trouble(self):
        return quadapi.Api(self.main, token=None).get("/healthz").json.get("trouble", "")

    def new_job(self):
        """A job that fails once and is started again tells what it finds; returns its number."""
        look = "ls $QUAD_CHECKPOINT_DIR; echo own [$QUAD_RESUME_FROM]; exit 7"
        job = self.main.launch({"run": look, "resources": {"job_recovery": {"max_restarts_on_errors": 1}}})
        self.main.wait_for_status(job, "FAILED")
        log = self.main.ok("logs", job, "--no-follow")
        self.assertEqual(log.count("own []"), 2, log)
        self.assertNotRegex(log, "alice|bob|safetensors")
        return job

    def check_accepted(self, last, owner, sound):
        """The server that goes on with what is there."""
        server = self.main
        server.quad("node", "resume", "local-1")  # it was drained for a while
        for job in (1, 2, 3):
            self.assertNotIn("alice" if owner == "bob" else "bob", server.quad("logs", job, "--no-follow")[1])
        self.assertGreater(self.new_job(), last)
        if sound:
            self.assertIn("sound", server.ok("admin", "check"))
        self.assertIn("Records were taken back", server.ok("events", "--kind", "records.taken_back"))

    # Every damage: what is done to which state, and what is said of it.

    def damages(self):
        whole, cut_off, other, backup = self.whole, self.cut_off, self.other, self.backup
        remove = lambda *names: lambda d: [(d / n).unlink() for n in names]
        take = lambda frm, name: lambda d: shutil.copy(frm / name, d / name)
        log = "quad.db-wal"

        def also(*changes):
            return lambda d: [one(d) for one in changes]

        def restore(d):
            shutil.copy(backup, d / "quad.db")

        def replace_place(name, state):
            return lambda d: (shutil.rmtree(d / name), shutil.copytree(state / name, d / name))

        def empty_database(d):
            (d / "quad.db").unlink()
            with contextlib.closing(sqlite3.connect(d / "quad.db")) as opened:
                opened.execute("PRAGMA journal_mode=WAL")
                opened.execute("CREATE TABLE t (x)")
                opened.execute("DROP TABLE t")
                opened.commit()

        def empty_tables(d):
            tables = ("jobs", "bodies", "events", "settings", "client_keys")
            change(d / "quad.db", *(f"DELETE FROM {table}" for table in tables))

        def new_folder(d):
            for one in list(d.iterdir()):
                if one.name not in ("hot", "logs", "secret.key", "attempt.key"):
                    shutil.rmtree(one) if one.is_dir() else one.unlink()
            restore(d)

        def bare_folder(d):
            new_folder(d)
            shutil.rmtree(d / "hot")
            shutil.rmtree(d / "logs")

        behind = "quad.db ends with job"
        yield "an older backup", whole, restore, behind
        yield "an older backup in a new folder", whole, new_folder, "records.mark.* is missing"
        yield "an older backup and nothing else", whole, bare_folder, "records.mark.* is missing"
        yield "an emptied file", whole, lambda d: os.truncate(d / "quad.db", 0), "quad.db is missing"
        yield "an emptied file with its log", cut_off, lambda d: os.truncate(d / "quad.db", 0), "quad.db is missing"
        yield "a deleted file", whole, remove("quad.db"), "quad.db is missing"
        yield "a deleted file with its log", cut_off, remove("quad.db"), "missing, without which its log is nothing"
        yield "a deleted file and log", cut_off, remove("quad.db", log, "quad.db-shm"), "quad.db is missing"
        yield "a deleted file and mark", whole, remove("quad.db", "records.mark"), "quad.db is missing"
        yield "a fresh database", whole, empty_database, "quad.db is empty"
        yield "emptied tables", whole, empty_tables, "quad.db is empty"
        yield "settings removed", whole, lambda d: change(d / "quad.db", "DELETE FROM settings"), "older version"
        yield "the last jobs removed", whole, lambda d: change(d / "quad.db", "DELETE FROM jobs WHERE id > 99"), behind
        events_gone = "DELETE FROM events WHERE revision > (SELECT max(revision) - 3 FROM events)"
        yield "the last events removed", whole, lambda d: change(d / "quad.db", events_gone), behind
        yield "an older backup under the log of later records", cut_off, restore, "."
        yield "a lost log", cut_off, remove(log, "quad.db-shm"), behind
        yield "a halved log", cut_off, lambda d: cut(d / log, 0.5), behind
        yield "a log without its last commit", cut_off, lambda d: cut(d / log, 0.995), behind
        yield "a log cut to its head", cut_off, lambda d: os.truncate(d / log, 32), behind
        yield "an emptied log", cut_off, lambda d: os.truncate(d / log, 0), behind
        yield "a zeroed log", cut_off, lambda d: (d / log).write_bytes(bytes((d / log).stat().st_size)), behind
        yield "another server's log", cut_off, also(remove("quad.db-shm"), take(other, log)), "."
        yield "another server's log over folded records", whole, take(other, log), "."
        yield "another server's database", whole, also(take(other, "quad.db"), take(other, log)), "other records"
        yield "another server's database and mark", whole, also(
            take(other, "quad.db"), take(other, log), take(other, "records.mark")), "logs .* is of other records"  # fmt: skip
        yield "another server's database and keys", whole, also(
            take(other, "quad.db"), take(other, log), take(other, "attempt.key"), take(other, "secret.key")), "other rec"  # fmt: skip
        yield "records of an older version over these", whole, also(
            restore, lambda d: change(d / "quad.db", "DELETE FROM settings WHERE key LIKE 'records/%'")), "older version"  # fmt: skip
        yield "a lost log of an older version", whole, also(restore, make_anonymous), "(logs|hot) has job"
        for key in ("attempt.key", "secret.key"):
            yield f"{key} missing", whole, remove(key), f"{key} is missing"
            yield f"{key} of another server", whole, take(other, key), f"{key} is not the key of these records"
            yield f"{key} empty", whole, lambda d, key=key: os.truncate(d / key, 0), f"{key} is damaged"
            yield f"{key} short", whole, lambda d, key=key: cut(d / key, 0.5), f"{key} is damaged"
        yield "both keys missing", whole, remove("attempt.key", "secret.key"), "secret.key is missing; attempt.key is"
        yield "the mark missing", whole, remove("records.mark"), "records.mark.* is missing"
        yield "the mark damaged", whole, lambda d: (d / "records.mark").write_text("x" * 192), "records.mark.* damaged"
        yield "the mark emptied", whole, lambda d: os.truncate(d / "records.mark", 0), "records.mark.* is damaged"
        yield "another server's mark", whole, take(other, "records.mark"), "other records"
        yield "a later mark", whole, lambda d: write_mark(d, mark_of(d)["life"], 5000, 90_000), behind
        yield "logs missing", whole, lambda d: shutil.rmtree(d / "logs"), "logs .* as when its disk is not mounted"
        yield "hot missing", whole, lambda d: shutil.rmtree(d / "hot"), "hot .* as when its disk is not mounted"
        yield "hot empty", whole, lambda d: (shutil.rmtree(d / "hot"), (d / "hot").mkdir()), "hot .* as when its disk is not mounted"
        yield "another server's logs", whole, replace_place("logs", other), "logs .* is of other records"
        yield "another server's hot", whole, replace_place("hot", other), "hot .* is of other records"
        yield "logs of a later job", whole, lambda d: (d / "logs/4000/1").mkdir(parents=True), "logs has job 4000"
        yield "checkpoints of a later job", whole, lambda d: (d / "hot/4000/e1").mkdir(parents=True), "hot has job 4000"
        yield "all but the hot tier from before", self.early, replace_place("hot", whole), "hot has job 3"

    #: The greatest number of a job of which anything was left to know.
    LAST = {
        "an older backup in a new folder": 3, "an older backup and nothing else": 1, "a deleted file and mark": 3,
        "another server's database and mark": 3, "a lost log of an older version": 3, "a later mark": 5000,
        "logs of a later job": 4000, "checkpoints of a later job": 4000,
    }  # fmt: skip

    @staticmethod
    def records_of(data):
        files = [data / "quad.db", data / "quad.db-wal"]
        return [one.read_bytes() if one.exists() else b"" for one in files]

    def test_no_loss_of_records_is_taken_in_silence_and_no_number_given_out_again(self):
        count = 0
        for name, state, damage, said in self.damages():
            with self.subTest(name), contextlib.ExitStack() as stack:
                stack.callback(self.end)
                count += 1
                data = self.put(state)
                damage(data)
                before = self.records_of(data)
                refused = self.serve()
                if refused is None and " log" in name:
                    # Either the log has all that the database lacks, or its pages are of two databases.
                    if self.main.quad("admin", "check")[0] == 0:
                        self.assertGreater(self.new_job(), self.jobs)
                    else:
                        self.assertRegex(quadtest.wait_until(self.trouble, 60, "it is told"), "is damaged")
                    continue
                self.assertIsNotNone(refused, "it was taken in silence")
                self.assertRegex(refused, said)
                self.assertRegex(refused, "accept-lost-records|restore the last backup")
                self.assertEqual(before, self.records_of(data), "a start that is refused changes nothing")
                if "restore the last backup" in refused:
                    continue  # frames of two databases make none
                if "is damaged: it must" in refused:  # a key, which is first moved away
                    for key in ("attempt.key", "secret.key"):
                        if (data / key).stat().st_size < 64:
                            (data / key).unlink()
                self.assertIsNone(self.serve("--accept-lost-records"))
                last = self.LAST.get(name, 3 if state == self.early else self.jobs)
                owner = "bob" if re.search("server's (database|log)", name) else "alice"
                self.check_accepted(last, owner, sound="removed" not in name)
                self.end()
                self.assertIsNone(self.serve(), "once accepted it starts as ever")
                self.end()
        self.assertGreaterEqual(count, 40)

    def test_pages_that_are_damaged_are_never_served_in_silence(self):
        def zero(name, leaf=False):
            return lambda d: zero_page(d / "quad.db", name, leaf)

        damages = {
            "the head of the file": lambda d: (d / "quad.db").write_bytes(b"\0" * 4096 + (d / "quad.db").read_bytes()[4096:]),
            "no database": lambda d: (d / "quad.db").write_bytes(b"this is no database" * 500),
            "half the file": lambda d: cut(d / "quad.db", 0.5),
            "all but the last page": lambda d: os.truncate(d / "quad.db", (d / "quad.db").stat().st_size - 4096),
            "jobs": zero("jobs"), "below jobs": zero("jobs", True), "events": zero("events"),
            "below events": zero("events", True), "an index": zero("events_by_job"), "bodies": zero("bodies"),
            "below bodies": zero("bodies", True), "settings": zero("settings"),
        }  # fmt: skip
        for name, damage in damages.items():
            with self.subTest(name):
                data = self.put(self.whole)
                damage(data)
                refused = self.serve()
                if refused is not None:
                    self.assertRegex(refused, "damaged|older version|accept-lost-records")
                    continue
                told = quadtest.wait_until(self.trouble, 60, "the damage is told")
                self.assertRegex(told, "quad.db is damaged .*nothing new begins.*restore the last backup")
                code, _, err = self.main.quad("launch", "-d", "-y", "echo hello")
                self.assertNotEqual(code, 0)
                self.assertIn("is damaged", err)
                in_log = lambda: "is damaged" in self.main.log_path.read_text()
                quadtest.wait_until(in_log, 30, "the log tells of it")
                self.assertEqual(self.main.quad("admin", "check")[0], 1)
                self.end()

    def test_a_database_that_is_none_of_quads_is_left_as_it_is(self):
        data = self.put(self.whole)
        (data / "quad.db").unlink()
        with contextlib.closing(sqlite3.connect(data / "quad.db")) as opened:
            opened.execute("CREATE TABLE mine (x)")
        before = (data / "quad.db").read_bytes()
        for flags in ((), ("--accept-lost-records",)):
            self.assertIn("none of Quad's", self.serve(*flags))
        self.assertEqual((data / "quad.db").read_bytes(), before)

    def test_a_mark_that_a_power_cut_left_behind_stops_nobody(self):
        data = self.put(self.whole)
        mark = mark_of(data)
        write_mark(data, mark["life"], mark["job"] - 1, mark["revision"] - 2)
        self.assertIsNone(self.serve())
        self.assertIn("records.mark is 2 events behind", self.main.log_path.read_text())
        self.end()

    def test_a_copy_of_a_folder_is_told_that_it_is_one(self):
        data = self.put(self.whole)
        self.assertIsNone(self.serve())
        self.assertRegex(self.main.log_path.read_text(), "is a copy, or was moved")
        self.main.stop()
        self.assertIsNone(self.serve())
        self.assertNotIn("is a copy", self.main.log_path.read_text())
        self.assertEqual(mark_of(data)["job"], self.jobs)
        self.end()

    def test_records_of_an_older_version_get_their_life_once(self):
        data = self.put(self.cut_off)
        make_anonymous(data)
        self.assertIsNone(self.serve())
        self.assertNotRegex(self.main.log_path.read_text(), "warning (?!.*GPU)")
        life = mark_of(data)["life"]
        self.assertEqual((data / "logs/.quad-records").read_text().split(), [life, "0"])
        self.assertIn("alice-2", self.main.ok("logs", 2, "--no-follow"))
        self.assertEqual(self.new_job(), self.jobs + 1)
        self.main.kill()
        self.assertIsNone(self.serve())
        self.assertEqual(mark_of(data)["life"], life)
        self.end()

    def test_a_folder_may_be_moved_and_started_elsewhere(self):
        data = self.put(self.whole)
        self.assertIsNone(self.serve())
        self.main.stop()
        moved = self.main.folder / "moved"
        os.rename(data, moved)
        self.addCleanup(shutil.rmtree, moved, True)
        elsewhere = quadtest.Server(nodes=1, gpus="")
        elsewhere.data = moved
        self.addCleanup(elsewhere.close)
        elsewhere.start()
        self.assertNotIn("is a copy", elsewhere.log_path.read_text())
        self.assertIn("alice-1", elsewhere.ok("logs", 1, "--no-follow"))


class Running(quadtest.TestCase):
    """What runs while records are taken back."""

    def test_a_job_goes_on_from_its_newest_checkpoint_and_one_that_is_lost_is_ended(self):
        server = self.server(nodes=2, gpus="")
        gate = server.folder / "gate"
        wait = f"until [ -e {gate} ]; do sleep 0.05; done"
        kept = server.launch(
            {"run": f"echo from [${{QUAD_RESUME_FROM##*/}}]; [ -n \"$QUAD_RESUME_FROM\" ] || {save(5)}; {wait}"}
        )
        saved = lambda: "Checkpoint of step 5 is complete" in server.ok("story", kept)
        quadtest.wait_until(saved, 60, "its checkpoint is on record")
        backup = server.folder / "copy.db"
        server.ok("admin", "backup", backup)
        # Since then it was brought back once, and another job began.
        server.kill_runners()
        quadtest.wait_until(lambda: "from [step-000005" in server.ok("logs", kept, "--no-follow"), 60, "it resumed")
        server.wait_for_status(kept, "RUNNING")
        lost = server.launch({"run": f"echo secret; exec -a quad-lost sleep 1000"})
        server.wait_for_status(lost, "RUNNING")
        quadtest.wait_until(lambda: quadtest.processes_of(str(server.data), "quad-lost"), 30, "it runs")
        server.kill()
        shutil.copy(backup, server.data / "quad.db")
        for one in ("quad.db-wal", "quad.db-shm"):
            (server.data / one).unlink(missing_ok=True)
        with self.assertRaises(RuntimeError):
            server.start()
        server.process = None
        server.options.append("--accept-lost-records")
        server.start()
        self.assertIn(f"runner {lost}-1-0 belongs to no job", server.log_path.read_text())
        quadtest.wait_until(lambda: not quadtest.processes_of(str(server.data), "quad-lost"), 30, "it was ended")
        quadtest.wait_until(lambda: server.job(kept)["status"] == "RUNNING" and server.job(kept)["epoch"] == 3, 60, "attempt 3 runs")
        new = server.launch({"run": "echo new"})
        self.assertGreater(new, lost)
        server.wait_for_status(new, "SUCCEEDED")
        gate.touch()
        server.wait_for_status(kept, "SUCCEEDED")
        story = server.ok("story", kept)
        self.assertIn("Attempt 2 is not in the records any more, which were taken back.", story)
        self.assertIn("from [step-000005", server.ok("logs", kept, "--no-follow"))
        self.assertNotIn("secret", server.ok("logs", new, "--no-follow"))

    def test_what_another_servers_job_of_the_same_number_runs_is_not_taken_for_this_ones(self):
        server, other = self.server(nodes=1, gpus=""), self.server(nodes=1, gpus="")
        gates = [one.folder / "gate" for one in (server, other)]
        for one, gate, who in ((server, gates[0], "alice"), (other, gates[1], "bob")):
            job = one.launch({"run": f"echo {who}; until [ -e {gate} ]; do sleep 0.05; done; echo {who} ends"})
            one.wait_for_status(job, "RUNNING")
            one.kill()
        for name in ("quad.db", "quad.db-wal"):
            shutil.copy(other.data / name, server.data / name)
        (server.data / "quad.db-shm").unlink(missing_ok=True)
        server.options.append("--accept-lost-records")
        server.start()
        gates[0].touch()  # alice's would end well now
        quadtest.wait_until(lambda: server.job(1)["epoch"] >= 2 and server.job(1)["status"] == "RUNNING", 60, "bob's runs anew")
        gates[1].touch()
        server.wait_for_status(1, "SUCCEEDED")
        self.assertNotIn("alice", server.ok("logs", 1, "--no-follow"))
        self.assertIn("bob ends", server.ok("logs", 1, "--no-follow"))
