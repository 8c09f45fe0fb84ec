"""What a job finds when it begins: the workdir and its file mounts, from a folder, the network, or git."""

import base64
import functools
import http.server
import json
import os
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import quadtest

TIMEOUT_SECONDS = 240

# What is there, as JSON: kind, mode, target or hash of every path below a folder.
LIST = """
import hashlib, json, os, stat, sys
def facts(path):
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode): return ["link", os.readlink(path)]
    if stat.S_ISDIR(info.st_mode): return ["folder", oct(info.st_mode & 0o777)]
    if not stat.S_ISREG(info.st_mode): return ["other"]
    return ["file", oct(info.st_mode & 0o777), hashlib.sha256(open(path, "rb").read()).hexdigest()]
found = {}
for folder, folders, files in os.walk(os.fsencode(sys.argv[1])):
    for name in folders + files:
        path = os.path.join(folder, name)
        found[os.path.relpath(path, os.fsencode(sys.argv[1])).decode("latin-1")] = facts(path)
print("FOUND", json.dumps({name: [str(x) if not isinstance(x, bytes) else x.decode("latin-1") for x in found[name]] for name in found}))
"""


def git(folder, *args):
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    names = ["-c", "user.name=Ana", "-c", "user.email=ana@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *names, "-C", folder, *args], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository():
    """Two commits on main (the first is tagged v1), one on a branch, and one that no branch has."""
    folder = Path(tempfile.mkdtemp())
    git(folder, "init", "--quiet")
    commits = {}
    for name, text in (("v1", "first"), ("main", "second")):
        (folder / "file.txt").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", name)
        commits[name] = git(folder, "rev-parse", "HEAD")
        if name == "v1":
            git(folder, "tag", "v1")
    git(folder, "checkout", "--quiet", "-b", "feature/x")
    (folder / "file.txt").write_text("on a branch")
    git(folder, "commit", "--quiet", "-am", "x")
    git(folder, "checkout", "--quiet", "--detach")
    (folder / "file.txt").write_text("of a pull request")
    git(folder, "commit", "--quiet", "-am", "y")
    git(folder, "update-ref", "refs/pull/7/head", "HEAD")
    commits["pull"] = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "--quiet", "main")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    return folder, commits


class Web:
    """A server on this machine whose answers a test chooses. `asked` holds the paths, in order."""

    def __init__(self, test, answer, tls=None):
        self.asked = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                web.asked.append(self.path)
                try:
                    answer(self, web.asked.count(self.path))
                except ConnectionError:
                    pass
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        test.addCleanup(self.server.server_close)
        test.addCleanup(self.server.shutdown)


def send(handler, body, status=200, length=None, headers=()):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class Mounts(quadtest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.shared = quadtest.Server(nodes=2, gpus="")
        cls.addClassCleanup(cls.shared.close)
        cls.shared.start()

    def folder(self, task, **files):
        folder = Path(tempfile.mkdtemp())
        (folder / "task.yaml").write_text(json.dumps(task))
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder

    def run_job(self, task, *args, status="SUCCEEDED", cwd=None):
        job = self.shared.launch("task.yaml", *args, cwd=cwd or self.folder(task))
        self.shared.wait_for_status(job, status)
        return job, self.shared.ok("logs", job, "--no-follow")

    def expect_failed(self, task, message):
        """The job fails for good before user code, says why, and the next one runs."""
        job, log = self.run_job(task, status="FAILED")
        view = self.shared.job(job)
        self.assertRegex(view["message"], message)
        self.assertEqual((view["cause"], view["skypilot_status"], view["epoch"]), ("setup", "FAILED_SETUP", 1), view)
        self.assertNotIn("never", log)
        self.assertEqual(self.shared.quad("launch", "echo fine")[:2], (0, "fine\n"))

    def test_local_files_and_folders_go_to_every_kind_of_place(self):
        absolute = Path(tempfile.mkdtemp()) / "deep" / "data"
        folder = self.folder({
            "num_nodes": 2, "workdir": "work",
            "file_mounts": {"relative/data": "./tree", "~/at/home.txt": "one.txt", str(absolute): "./tree",
                            "sub/one.txt": "./one.txt", "~/.hidden": "tree/inner/two.txt", "$WHERE/x": "./one.txt"},
            "envs": {"WHERE": "~/filled"},
            "setup": f"cat main.txt relative/data/inner/two.txt ~/at/home.txt {absolute}/inner/two.txt sub/one.txt ~/.hidden ~/filled/x",
            "run": f"[ -x {absolute}/run.sh ] && relative/data/run.sh",
        }, **{"one.txt": "one\n"})  # fmt: skip
        (folder / "work").mkdir()
        (folder / "work" / "main.txt").write_text("main\n")
        (folder / "tree" / "inner").mkdir(parents=True)
        (folder / "tree" / "inner" / "two.txt").write_text("two\n")
        (folder / "tree" / "run.sh").write_text("#!/bin/sh\necho runs\n")
        (folder / "tree" / "run.sh").chmod(0o755)
        job, _ = self.run_job(None, cwd=folder)
        for rank in range(2):
            self.assertEqual(self.shared.ok("logs", job, "--rank", rank, "--no-follow"),
                             "main\ntwo\none\ntwo\none\ntwo\none\nruns\n")  # fmt: skip

    def test_outer_mounts_come_before_inner_ones(self):
        # The inner ones are files, so that it matters which comes last.
        for places in (("~/a", "~/a/x", "~/sky_workdir/y"), ("~/sky_workdir/y", "~/a/x", "~/a")):
            folder = self.folder(
                {"workdir": "work", "file_mounts": {place: "./dir" if place == "~/a" else "./file" for place in places},
                 "run": "cat ~/a/x ~/a/other y"}, file="of the file\n")  # fmt: skip
            for name, text in (("dir/x", "of the folder\n"), ("dir/other", "other\n"), ("work/y", "of the workdir\n")):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text)
            _, log = self.run_job(None, cwd=folder)
            self.assertEqual(log, "of the file\nother\nof the file\n")

    def test_what_goes_wrong_names_no_path_of_the_servers(self):
        folder = self.folder({"file_mounts": {"~/x": "./file", "~/x/y": "./file"}, "run": "echo never"}, file="x")
        job, _ = self.run_job(None, status="FAILED", cwd=folder)
        message = self.shared.job(job)["message"]
        self.assertIn("The mount ~/x/y cannot be brought: ~/x ", message)
        self.assertNotIn(str(self.shared.data), message)

    def test_an_odd_workdir_arrives_as_it_is(self):
        folder = self.folder({"workdir": ".", "run": "python3 list.py ."}, **{"list.py": LIST})
        (folder / "empty").mkdir()
        (folder / "closed").mkdir(mode=0o700)
        (folder / "empty.txt").touch()
        (folder / "read-only.txt").write_text("x")
        (folder / "read-only.txt").chmod(0o444)
        (folder / "nothing-for-others").write_text("x")
        (folder / "nothing-for-others").chmod(0o600)
        for name in ("two\nlines", "-rf", " blank ", "Grüße", "*", "'\"$(x)", "a" * 255, ".dot", "~"):
            (folder / name).write_text(name)
        (Path(os.fsdecode(os.fsencode(folder) + b"/not-utf8-\xff\xfe"))).write_text("x")
        for name, target in {"dangling": "nowhere", "loop": "loop", "up": "../..", "absolute": "/etc/hostname", "to-folder": "empty"}.items():
            (folder / name).symlink_to(target)
        os.link(folder / "list.py", folder / "hard-link")
        deep = folder / "/".join(["d" * 100] * 20)
        deep.mkdir(parents=True)
        (deep / "bottom").write_text("deep")
        with open(folder / "sparse", "wb") as file:
            file.seek(50_000_000)
            file.write(b"end")
        (folder / ".gitignore").write_text("*.log\nbuild/\n")
        (folder / "left.log").write_text("x")
        (folder / "build").mkdir()
        (folder / "build" / "left").touch()
        many = folder / "many"
        many.mkdir()
        for number in range(10_000):
            (many / f"{number:05}").touch()
        wanted = json.loads(subprocess.run(["python3", folder / "list.py", folder], capture_output=True, check=True, text=True)
                            .stdout.split(" ", 1)[1])  # fmt: skip
        for name in ("left.log", "build", "build/left"):
            del wanted[name]
        # What no archive can hold is left out, and said.
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        here = os.getcwd()
        os.chdir(folder)  # a socket's path may only be short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        os.mkfifo(folder / "pipe")
        code, out, err = self.shared.quad("launch", "task.yaml", cwd=folder)
        self.assertEqual(code, 0, err)
        found = json.loads(next(line for line in out.splitlines() if line.startswith("FOUND")).split(" ", 1)[1])
        self.assertEqual(len(found), len(wanted))
        self.assertEqual({name: (found.get(name), wanted[name]) for name in wanted if found.get(name) != wanted[name]}, {})
        self.assertRegex(err, r"warning: workdir: .*(pipe|socket).*left out")
        # Nothing of it may hinder its removal.
        quadtest.wait_until(lambda: not list(self.shared.data.glob("nodes/*/*/home")) and not list((self.shared.data / "trash").iterdir()),
                            30, "the ranks' folders are gone")  # fmt: skip

    def test_what_is_not_there_is_said_before_anything_is_submitted(self):
        before = len(self.shared.json("status")["jobs"])
        for task, message in (
            ({"workdir": "./nowhere", "run": "true"}, r"workdir: .*nowhere"),
            ({"file_mounts": {"/x": "./nowhere"}, "run": "true"}, r"file_mounts\./x: .*nowhere"),
            ({"file_mounts": {"/x/": "./task.yaml"}, "run": "true"}, r"file_mounts.*/x/"),
            ({"file_mounts": {"../x": "./task.yaml"}, "run": "true"}, r"file_mounts.*\.\./x.*\.\."),
        ):
            code, _, err = self.shared.quad("launch", "-d", "task.yaml", cwd=self.folder(task))
            self.assertNotEqual(code, 0, task)
            self.assertRegex(err, message)
        self.assertEqual(len(self.shared.json("status")["jobs"]), before)

    def test_a_file_that_cannot_be_read_is_named(self):
        folder = self.folder({"workdir": ".", "run": "true"})
        (folder / "secret").write_text("x")
        (folder / "secret").chmod(0)
        command = [quadtest.quad_bin(), "launch", "-d", "task.yaml"]
        if os.geteuid() == 0:  # who may read everything
            for path in (folder, folder / "task.yaml"):
                os.chown(path, 65534, 65534)
            command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all", *command]
            if not os.access(quadtest.quad_bin(), os.X_OK) or subprocess.run([*command[:8], "test", "-r", quadtest.quad_bin()]).returncode:
                self.skipTest("an ordinary user cannot reach the program here")
        environment = self.shared.environment(QUAD_SERVER=self.shared.url, QUAD_TOKEN=self.shared.token)
        environment["TMPDIR"] = "/tmp"
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"workdir: Cannot read .*secret: Permission denied.*\.skyignore")

    def test_files_from_the_web(self):
        content = os.urandom(3_000_000)

        def answer(request, times):
            name = request.path.partition("?")[0]
            if name == "/moved":
                send(request, b"", 302, headers=[("Location", "/file?a=b%20c")])
            elif name == "/slow":
                request.send_response(200)
                request.end_headers()
                for at in range(0, len(content), 300_000):
                    request.wfile.write(content[at : at + 300_000])
                    request.wfile.flush()
                    threading.Event().wait(0.1)
            elif name == "/chunked":
                request.protocol_version = "HTTP/1.1"
                request.send_response(200)
                request.send_header("Transfer-Encoding", "chunked")
                request.end_headers()
                for at in range(0, len(content), 70_000):
                    piece = content[at : at + 70_000]
                    request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                request.wfile.write(b"0\r\n\r\n")
            elif name == "/cut" and times < 3:
                send(request, content[:1_000_000], length=len(content))
            elif name == "/busy" and times < 3:
                send(request, b"come back later", 503)
            elif name == "/reset" and times < 2:
                request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                request.connection.close()
            else:
                send(request, content)

        web = Web(self, answer)
        names = ("file", "moved", "slow", "chunked", "cut", "busy", "reset")
        _, log = self.run_job({
            "file_mounts": {f"~/got/{name}": f"http://127.0.0.1:{web.port}/{name}" for name in names},
            "run": "cd ~/got; sha256sum * | cut -d' ' -f1 | sort -u | wc -l; ls; stat -c %s file",
        })  # fmt: skip
        self.assertEqual(log.split(), ["1", *sorted(names), str(len(content))])
        self.assertIn("/file?a=b%20c", web.asked)
        self.assertEqual((web.asked.count("/cut"), web.asked.count("/busy"), web.asked.count("/reset")), (3, 3, 2))

    def test_files_that_the_web_does_not_give(self):
        def answer(request, _):
            if request.path == "/endless":
                send(request, b"", 302, headers=[("Location", "/endless")])
            elif request.path == "/cut":
                send(request, b"x" * 1000, length=2000)
            elif request.path == "/private":
                send(request, b"Who are you?", 401)
            else:
                send(request, b"<html><head><title>404</title></head>\n<body>Not here</body></html>", 404)

        web = Web(self, answer)
        url = f"http://127.0.0.1:{web.port}"
        for path, message in (
            ("/nothing", rf"The mount ~/x cannot be brought: {url}/nothing: the answer was 404"),
            ("/private", rf"The mount ~/x cannot be brought: {url}/private: the answer was 401.*Who are you\?"),
            ("/endless", rf"The mount ~/x cannot be brought: {url}/endless: .*redirect"),
            ("/cut", rf"The mount ~/x cannot be brought: {url}/cut: the connection was closed before everything was there"),
        ):
            self.expect_failed({"file_mounts": {"~/x": url + path}, "run": "echo never"}, message)
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        self.expect_failed({"file_mounts": {"~/x": f"http://127.0.0.1:{port}/y"}, "run": "echo never"},
                           rf"~/x cannot be brought: http://127.0.0.1:{port}/y: .*refused")  # fmt: skip

    def test_a_job_that_waits_for_the_web_can_be_cancelled(self):
        stuck = threading.Event()
        self.addCleanup(stuck.set)
        web = Web(self, lambda request, _: stuck.wait(60))
        job = self.shared.launch("task.yaml", cwd=self.folder(
            {"file_mounts": {"~/x": f"http://127.0.0.1:{web.port}/never"}, "run": "echo never"}))  # fmt: skip
        quadtest.wait_until(lambda: web.asked, 20, "it asks")
        self.shared.ok("cancel", job)
        self.shared.wait_for_status(job, "CANCELLED", timeout=20)

    def test_repositories(self):
        folder, commits = repository()
        url = f"file://{folder}"
        for ref, text in ((None, "second"), ("v1", "first"), ("feature/x", "on a branch"), (commits["v1"], "first"),
                          ("refs/pull/7/head", "of a pull request"), (commits["pull"], "of a pull request")):  # fmt: skip
            workdir = {"url": url} | ({"ref": ref} if ref else {})
            _, log = self.run_job({"workdir": workdir, "run": "cat file.txt; echo; git -C . rev-parse HEAD"})
            self.assertEqual(log.splitlines()[0], text, ref)
        for ref in ("no-such-branch", "--upload-pack=touch /tmp/x", "0" * 40):
            self.expect_failed({"workdir": {"url": url, "ref": ref}, "run": "echo never"}, r"sky_workdir cannot be brought: .*(git|ref)")
        self.expect_failed({"workdir": {"url": url + "-not"}, "run": "echo never"}, r"cannot be brought: git says: .*(not|exist)")

    def test_git_speaks_with_no_program_that_an_address_names(self):
        before = len(self.shared.json("status")["jobs"])
        for url in ("fd::17", "ext::sh -c touch% /tmp/x", "foo://h/x"):
            code, _, err = self.shared.quad("launch", "-d", "task.yaml",
                                            cwd=self.folder({"workdir": {"url": url}, "run": "echo never"}))  # fmt: skip
            self.assertEqual(code, 2, err)
            self.assertRegex(err, r"workdir\.url: git fetches from https, http, ssh, git and file addresses")
        self.assertEqual(len(self.shared.json("status")["jobs"]), before)

    def test_git_has_none_of_the_jobs_configuration(self):
        source, _ = repository()
        (source / ".gitattributes").write_text("* filter=x\n")
        git(source, "add", ".")
        git(source, "commit", "--quiet", "-m", "filtered")
        witness = Path(tempfile.mkdtemp()) / "witness"
        folder = self.folder({"workdir": {"url": f"file://{source}"}, "file_mounts": {"~": "./home"}, "run": "cat ~/.gitconfig file.txt"})
        (folder / "home").mkdir()
        (folder / "home" / ".gitconfig").write_text(f'[filter "x"]\n\tsmudge = "touch {witness}; cat"\n')
        _, log = self.run_job(None, cwd=folder)
        self.assertIn("smudge", log)
        self.assertIn("second", log)
        self.assertFalse(witness.exists())

    def test_a_private_repository(self):
        folder, _ = repository()
        bare = Path(tempfile.mkdtemp())
        git(folder, "clone", "--quiet", "--bare", ".", bare / "repo.git")
        git(bare / "repo.git", "update-server-info")
        token = "hunter2-hunter2"
        wanted = "Basic " + base64.b64encode(f"x-access-token:{token}".encode()).decode()
        seen = set()

        def answer(request, _):
            given = request.headers.get("Authorization")
            seen.add(given)
            path = bare / request.path.partition("?")[0].lstrip("/")
            if given != wanted:
                send(request, b"", 401, headers=[("WWW-Authenticate", "Basic")])
            elif path.is_file():
                send(request, path.read_bytes())
            else:
                send(request, b"", 404)

        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj",
             "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", bare / "key.pem", "-out", bare / "cert.pem"],
            capture_output=True, text=True)  # fmt: skip
        self.assertEqual(made.returncode, 0, made.stderr)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(bare / "cert.pem", bare / "key.pem")
        web = Web(self, answer, tls)
        server = self.server(nodes=1, gpus="")
        bare.chmod(0o755)
        task = {"workdir": {"url": f"https://127.0.0.1:{web.port}/repo.git", "ref": "v1"},
                "envs": {"GIT_SSL_CAINFO": str(bare / "cert.pem")},
                "run": "cat file.txt; ! grep -r hunter2 .git"}  # fmt: skip
        folder = self.folder(task)
        job = server.launch("task.yaml", "--secret", f"GIT_TOKEN={token}", cwd=folder)
        server.wait_for_status(job, "SUCCEEDED")
        self.assertEqual(server.ok("logs", job, "--no-follow"), "first")
        for arguments in ((), ("--secret", "GIT_TOKEN=wrong")):
            job = server.launch("task.yaml", *arguments, cwd=folder)
            server.wait_for_status(job, "FAILED")
            message = server.job(job)["message"]
            self.assertRegex(message, r"sky_workdir cannot be brought: git says: .*(Authentication|could not read Username)")
            self.assertIn("GIT_TOKEN", message)
        self.assertIn(None, seen)

    def test_buckets_are_refused_before_anything_starts(self):
        before = len(self.shared.json("status")["jobs"])
        for mount in ("s3://bucket/data", "gs://bucket", {"name": "my-bucket", "source": "s3://bucket", "mode": "MOUNT"},
                      {"name": "outputs", "mode": "MOUNT_CACHED"}):  # fmt: skip
            code, _, err = self.shared.quad("launch", "-d", "task.yaml",
                                            cwd=self.folder({"file_mounts": {"/data": mount}, "run": "true"}))  # fmt: skip
            self.assertEqual(code, 2, err)
            self.assertRegex(err, r"file_mounts\./data: Buckets are not brought to jobs yet.*; copy the data to a local or http\(s\) source")
        self.assertEqual(len(self.shared.json("status")["jobs"]), before)
