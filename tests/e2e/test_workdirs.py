"""What of a folder a launch sends: git's own answer, without Quad's data, and told before it goes."""

import http.server
import json
import os
import tempfile
import threading
from pathlib import Path

import quadtest
from terminal import Terminal
from test_mounts import git

TIMEOUT_SECONDS = 240


class Workdirs(quadtest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.shared = quadtest.Server(nodes=1, gpus="")
        cls.addClassCleanup(cls.shared.close)
        cls.shared.start()

    def folder(self, **files):
        folder = Path(tempfile.mkdtemp())
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    def launch(self, *args, **more):
        code, out, err = self.shared.quad("launch", *args, **more)
        self.assertEqual(code, 0, err)
        return out, err

    def refused(self, *args, **more):
        code, _, err = self.shared.quad(*args, **more)
        self.assertEqual(code, 2, err)
        return err

    def repository(self):
        """Things that git ignores for reasons of every kind, and tracked ones among them."""
        folder = self.folder(data__vocab="words\n", data__big="x" * 4000, out__log="x", proj__main="main\n", proj__scratch__x="x")
        for name in ("weights.bin", "left.bin", "proj/old.ckpt"):
            (folder / name).write_text(name + "\n")
        (folder / ".gitignore").write_text("\ufeff*.bin\ndata/\n*.ckpt\n[[:lower:]]ut/\n")
        git(folder, "init", "--quiet")
        git(folder, "add", "--force", "data/vocab", "weights.bin")
        (folder / ".git" / "info" / "exclude").write_text("scratch/\n")
        return folder

    def test_a_workdir_leaves_out_what_git_ignores_and_says_so(self):
        folder = self.repository()
        run = "find . -type f -not -path './.git/*' | sort; cat data/vocab"
        out, err = self.launch("--workdir", ".", run, cwd=folder)
        self.assertEqual(out.split(), ["./.gitignore", "./data/vocab", "./proj/main", "./weights.bin", "words"])
        self.assertRegex(err, r"(?m)^Workdir: \d+ files, [\d.]+ kB; left behind as git ignores them: 5 files \(4 kB\): data/big, ")
        out, _ = self.launch("--workdir", ".", "find . -type f", cwd=folder / "proj")
        self.assertEqual(out.split(), ["./main"])
        out, _ = self.launch("--workdir", "proj", "--dryrun", run, cwd=folder)
        self.assertRegex(out, r"(?m)^Workdir: 1 file, 5 bytes; left behind as git ignores them: 2 files \(\d+ bytes\): old.ckpt, scratch/$")
        for more in (["--dryrun"], ["-d"]):
            answer = self.shared.json("launch", *more, "--workdir", "proj", run, cwd=folder)
            self.assertEqual(answer["uploads"], [{"key": "workdir", "source": "proj", "files": 1, "bytes": 5, "left_behind": {
                "rules": "git", "files": 2, "bytes": 15, "counted": True,
                "largest": [{"name": "old.ckpt", "bytes": 14}, {"name": "scratch/", "bytes": 1}]}}])  # fmt: skip

    def test_a_mount_leaves_out_what_git_ignores_unless_it_is_itself_ignored(self):
        folder = self.repository()
        (folder / "task.yaml").write_text(json.dumps({"file_mounts": {"~/p": "./proj", "~/d": "./data", "~/w": "left.bin"},
                                                      "run": "cd ~; find p d w -type f | sort"}))  # fmt: skip
        out, err = self.launch("task.yaml", cwd=folder)
        self.assertEqual(out.split(), ["d/big", "d/vocab", "p/main", "w"])
        self.assertIn("Mount ~/d: 2 files, 4 kB\n", err)

    def test_a_skyignore_counts_alone_and_is_read_as_git_reads_its_own(self):
        folder = self.repository()
        (folder / ".skyignore").write_text("/data/*\n!data/vocab\n.git\nproj/\n")
        out, err = self.launch("--workdir", ".", "find . -type f | sort", cwd=folder)
        self.assertEqual(out.split(), ["./.gitignore", "./.skyignore", "./data/vocab", "./left.bin", "./out/log", "./weights.bin"])
        self.assertIn("; left behind by .skyignore: ", err)

    def test_names_with_blanks_and_other_letters_arrive(self):
        folder = self.folder()
        (folder / "my wörk dir").mkdir()
        (folder / "my wörk dir" / "it's ü.txt").write_text("here\n")
        (folder / "a task.yaml").write_text(json.dumps({"workdir": "my wörk dir", "file_mounts": {"~/a b/ü": "./my wörk dir"},
                                                        "run": "cat it*; cat ~/'a b'/ü/it*"}))  # fmt: skip
        self.assertEqual(self.launch("a task.yaml", cwd=folder)[0], "here\nhere\n")

    def test_a_servers_data_goes_nowhere(self):
        home = self.shared.folder  # which holds the data directory
        (home / "train.py").write_text("print('trains')\n")
        run = "find . -name 'quad.db*' -o -name '*.key' -o -name '*.token' -o -name blobs; python3 train.py"
        sizes = []
        for _ in range(2):
            out, err = self.launch("--workdir", ".", run, cwd=home, env={"HOME": str(home)})
            self.assertEqual(out, "trains\n")
            self.assertRegex(err, r"warning: workdir: data: left out, as a Quad server keeps its keys and records there")
            self.assertRegex(err, r"warning: workdir: \. is your home folder")
            sizes.append(sum(file.stat().st_size for file in (self.shared.data / "blobs").rglob("*") if file.is_file()))
        self.assertLess(sizes[1], sizes[0] + 100_000, "an upload does not hold the uploads before it")
        data = self.shared.data
        for place in (data, data / "logs", data / "blobs"):
            self.assertIn("Quad server's data directory", self.refused("launch", "--workdir", place, "true"))
        task = self.folder() / "task.yaml"
        for source in (data, data / "secret.key"):
            task.write_text(json.dumps({"file_mounts": {"~/x": str(source)}, "run": "true"}))
            self.assertRegex(self.refused("launch", task), r"task\.yaml:1:\d+: error: file_mounts\.~/x: .*Quad server's data directory")
        self.assertIn("whole machine", self.refused("launch", "--workdir", "/", "true"))

    def test_a_copy_takes_no_servers_data_along(self):
        job = self.shared.launch({"run": "sleep 600"})
        self.addCleanup(self.shared.quad, "cancel", job)
        self.shared.wait_for_status(job, "RUNNING")
        self.assertIn("Quad server's data directory", self.refused("cp", self.shared.data / "admin.token", f"{job}:"))
        folder = self.folder(here="x", server__lock="")
        (folder / "server" / "attempt.key").write_text("k")
        (folder / "server" / "quad.db").write_text("k")
        code, _, err = self.shared.quad("cp", folder, f"{job}:copied")
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"warning: .*/server: left out, as a Quad server keeps its keys and records there")
        self.assertEqual(self.shared.ok("exec", job, "--", "find", "copied", "-type", "f"), "copied/here\n")

    def test_links_to_inside_lead_to_the_copy_and_others_are_told(self):
        folder = self.folder(data__f="mine\n")
        (folder / "latest").symlink_to(folder / "data")
        (folder / "shared").symlink_to("/etc")
        (folder / "gone").symlink_to("nowhere")
        out, err = self.launch("--workdir", ".", "readlink latest; echo of the job > latest/f", cwd=folder)
        self.assertEqual((out, (folder / "data" / "f").read_text()), ("data\n", "mine\n"))
        self.assertRegex(err, r"warning: workdir: shared -> /etc: lead.* out of the folder")
        self.assertRegex(err, r"warning: workdir: gone -> nowhere: lead.* nothing here")

    def test_a_script_that_windows_saved_and_one_that_stays_here_are_told(self):
        folder = self.folder()
        (folder / "train.sh").write_bytes(b"#!/bin/bash\r\necho hi\r\n")
        (folder / "train.sh").chmod(0o755)
        _, err = self.launch("--dryrun", "--workdir", ".", "./train.sh", cwd=folder)
        self.assertRegex(err, r"warning: workdir: train\.sh: .*Windows")
        code, _, err = self.shared.quad("launch", "--dryrun", "./train.sh", cwd=folder)
        self.assertEqual(code, 2, err)
        self.assertIn("bring its folder with --workdir", err)

    def test_a_large_workdir_is_warned_of_before_it_is_read(self):
        folder = self.folder()
        with open(folder / "zeros", "wb") as file:
            file.truncate(300_000_000_000)  # more than could be read in the time of a test
        out, err = self.launch("--dryrun", "--workdir", ".", "true", cwd=folder)
        self.assertIn("Workdir: 1 file, 300.0 GB\n", out)
        self.assertIn("warning: workdir: 300.0 GB is much to send", err)

    def test_what_takes_long_shows_how_far_it_is_on_a_terminal_only(self):
        seen, folder = threading.Event(), self.folder()
        (folder / "noise").write_bytes(os.urandom(30_000_000))

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body=b""):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_HEAD(self):
                self.answer(404)

            def do_GET(self):
                self.answer(200, b"{}")

            def do_PUT(self):
                self.rfile.read(1_000_000)
                seen.wait(60)
                self.rfile.read(int(self.headers["Content-Length"]) - 1_000_000)
                self.answer(200, b"{}")

            def do_POST(self):
                self.answer(400, json.dumps({"error": {"code": "invalid", "message": "Not today."}}).encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.addCleanup(seen.set)
        environment = self.shared.environment(QUAD_SERVER=f"http://127.0.0.1:{server.server_address[1]}", QUAD_TOKEN="x", TERM="xterm")
        terminal = Terminal([quadtest.quad_bin(), "launch", "--workdir", ".", "true"], environment, cwd=folder)
        self.addCleanup(terminal.close)
        terminal.wait_for(r"Sending the workdir: [\d.]+ MB of 30\.0 MB")
        seen.set()
        self.assertEqual(terminal.wait(), 2)
        self.assertEqual(terminal.lines()[0], "Workdir: 1 file, 30.0 MB")
        self.assertNotIn("Sending", "\n".join(terminal.lines()))
        done = self.shared.quad("launch", "--workdir", ".", "true", cwd=folder, env={"QUAD_SERVER": environment["QUAD_SERVER"], "QUAD_TOKEN": "x"})
        self.assertNotIn("Sending", done[2])
