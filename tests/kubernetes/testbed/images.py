"""Container images without a registry: archives of one layer, as `docker save` writes them."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from host import TestbedError

PAUSE = "quad.test/pause:1"
BUSYBOX = "quad.test/busybox:1"


def _add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _plain(info):
    """The same archive whoever makes it, and whenever."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    return info


def make_image(name, root, command, archive):
    """Writes the image `name` with the files under `root` and the command that it runs to the file `archive`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        for path in sorted(root.rglob("*")):
            files.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=_plain)
    layer_hash = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_hash}"]},
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{layer_hash}.tar"]}]).encode()
    unfinished = archive.with_suffix(".new")
    with tarfile.open(unfinished, "w") as whole:
        _add(whole, config_name, config)
        _add(whole, f"{layer_hash}.tar", layer.getvalue())
        _add(whole, "manifest.json", manifest)
    unfinished.rename(archive)


def make_base_images(pause, folder):
    """The sandbox of every pod, and a small system with a shell for tests."""
    folder.mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    if not busybox:
        raise TestbedError("there is no busybox; `./dev setup kubernetes` installs it")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "pause"
        root.mkdir()
        shutil.copy(pause, root / "pause")
        make_image(PAUSE, root, ["/pause"], folder / "pause.tar")

        root = Path(scratch) / "busybox"
        for name in ("bin", "etc", "root", "tmp"):
            (root / name).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        (root / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
        shutil.copy(Path(busybox).resolve(), root / "bin" / "busybox")
        told = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout
        for applet in set(told.split()) - {"busybox"}:
            (root / "bin" / applet).symlink_to("busybox")
        make_image(BUSYBOX, root, ["sh"], folder / "busybox.tar")
