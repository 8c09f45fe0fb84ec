"""Quad's container image: a valid OCI image layout, the same bytes each time, and programs that run from nothing else.

That a real containerd takes it and runs it is tests/kubernetes/test_image.py's matter.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

import quadtest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "image"
CHROOT = "/usr/sbin/chroot"
TIMEOUT_SECONDS = 120


class Image(quadtest.TestCase):
    def setUp(self):
        if quadtest.is_sanitized():
            self.skipTest("images are made of programs without sanitizers")
        self.folder = Path(tempfile.mkdtemp())

    def make(self, *words, code=0):
        command = [TOOL, "--bin", Path(quadtest.quad_bin()).parent, *words]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def archive(self, variant, name, *words):
        path = self.folder / f"{name}.tar"
        told = self.make(variant, "--output", path, *words)
        return path, told.split()

    def read_layout(self, path):
        """(index entry, manifest, config, the layer's files by path), with every digest and size checked."""
        with tarfile.open(path) as archive:
            self.assertTrue(all(entry.mtime == 0 and entry.uid == 0 for entry in archive))
            files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
        self.assertEqual(json.loads(files.pop("oci-layout")), {"imageLayoutVersion": "1.0.0"})
        index = json.loads(files.pop("index.json"))
        self.assertEqual(index["mediaType"], "application/vnd.oci.image.index.v1+json")
        [entry] = index["manifests"]

        def blob(described, kind):
            self.assertEqual(described["mediaType"], f"application/vnd.oci.image.{kind}")
            data = files.pop("blobs/" + described["digest"].replace(":", "/"))
            self.assertEqual(len(data), described["size"])
            self.assertEqual("sha256:" + hashlib.sha256(data).hexdigest(), described["digest"])
            return data

        manifest = json.loads(blob(entry, "manifest.v1+json"))
        config = json.loads(blob(manifest["config"], "config.v1+json"))
        [layer] = manifest["layers"]
        packed = blob(layer, "layer.v1.tar+gzip")
        self.assertEqual(files, {}, "nothing is there that nobody refers to")
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            entries = {entry.name: entry for entry in archive}
        self.assertEqual(config["rootfs"]["diff_ids"], ["sha256:" + hashlib.sha256(gzip.decompress(packed)).hexdigest()])
        self.assertEqual(list(entries), sorted(entries))
        for name, found in entries.items():
            self.assertEqual(found.mtime, 0, name)
            self.assertIn(os.path.dirname(name), {"", *entries})  # and before what is in it, as they are sorted
        return entry, manifest, config, packed

    def run_in(self, packed, *command):
        """Runs a program of the image with nothing else of this machine, as a user that it may not know."""
        root = Path(tempfile.mkdtemp(dir=self.folder))
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            archive.extractall(root)
        root.chmod(0o755)
        chroot = [CHROOT, "--userspec=12345:12345", str(root), *map(str, command)]
        return subprocess.run(chroot, capture_output=True, text=True, timeout=60, env={})

    @quadtest.quick
    def test_the_runners_image_is_the_runner_and_nothing_else(self):
        path, told = self.archive("runner", "one", "--tag", "reg.example.edu/ana/runner:7")
        entry, manifest, config, packed = self.read_layout(path)
        self.assertEqual(told, [str(path), "reg.example.edu/ana/runner:7@" + entry["digest"]])
        self.assertEqual(entry["annotations"]["io.containerd.image.name"], "reg.example.edu/ana/runner:7")
        self.assertEqual(entry["annotations"]["org.opencontainers.image.ref.name"], "7")
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/bin/quad-runner"])
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            self.assertEqual(archive.getnames(), ["usr", "usr/bin", "usr/bin/quad-runner"])
        self.assertLess(path.stat().st_size, 8 << 20)
        if os.geteuid() == 0:
            done = self.run_in(packed, "/usr/bin/quad-runner", "--version")
            self.assertEqual((done.returncode, done.stdout.split()[0]), (0, "quad-runner"), done.stderr)

    def test_the_servers_image_has_all_that_quad_needs_and_the_same_bytes_each_time(self):
        path, _ = self.archive("server", "one")
        layout = self.folder / "layout"
        self.make("runner", "--output", layout)
        self.make("server", "--output", layout)  # in the place of the first
        with tarfile.open(path) as archive:
            files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
        unpacked = {str(file.relative_to(layout)): file.read_bytes() for file in layout.rglob("*") if file.is_file()}
        self.assertEqual(files.keys(), unpacked.keys())
        self.assertTrue(files == unpacked, "the same file has other bytes")  # not to be printed
        entry, manifest, config, packed = self.read_layout(path)
        version = config["config"]["Labels"]["org.opencontainers.image.version"]
        self.assertEqual(entry["annotations"]["io.containerd.image.name"], f"localhost/quad:{version}")
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/bin/quad"])
        self.assertEqual(config["config"]["User"], "65532:65532")
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            home = archive.getmember("var/lib/quad")
            self.assertEqual((home.uid, home.gid, home.mode), (65532, 65532, 0o700))
            self.assertIn(b"BEGIN CERTIFICATE", archive.extractfile("etc/ssl/certs/ca-certificates.crt").read())
            self.assertIn("usr/share/zoneinfo/Europe/Berlin", archive.getnames())
            self.assertNotIn("usr/share/zoneinfo/localtime", archive.getnames())
            status = archive.extractfile("var/lib/dpkg/status.d/libc6").read().decode()
            self.assertRegex(status, r"(?m)^Version: 2\.")
        if os.geteuid() == 0:
            for name in ("quad", "quad-runner"):
                done = self.run_in(packed, f"/usr/bin/{name}", "--version")
                self.assertEqual((done.returncode, done.stdout), (0, f"{name} {version}\n"), done.stderr)

    def test_what_cannot_be_is_said_in_a_sentence(self):
        self.assertIn("`./dev build` makes it", self.make("--bin", self.folder, code=1))
        self.assertIn("is no name of an image", self.make("runner", "--tag", "Not A Name", code=1))
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "thesis.tex").write_text("x")
        self.assertIn("something else in it", self.make("runner", "--output", self.folder / "mine", code=1))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["mine"])


if __name__ == "__main__":
    unittest.main()
