"""Builds the testbed's programs once, from Go modules, into the user's cache.

What is built is pinned twice: programs/go.mod and programs/kwok/go.mod say which versions, and go.sum beside each holds
the hash of every module, which Go checks as it downloads. The Go toolchain comes as a module too, with its hash below,
so that any `go` that can download a module will do to begin with, Debian 12's among them. Go's own checksum database is
asked as well, as long as the user's GOSUMDB does not say otherwise.

The folder is named by the hash of everything that decides what is in it. Programs appear there by a rename, so one that
is there is whole; a build that was killed goes on where it was, thanks to Go's build cache. A lock lets one build at a
time run, with two compilers at the lowest priority but one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import images
from host import TestbedError, say

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "programs"

GO_VERSION = "1.24.13"
GO_MODULE = f"golang.org/toolchain@v0.0.1-go{GO_VERSION}.linux-amd64"
GO_HASH = "h1:5sgfUhn9QCgVl4UYj32GrIYFHI3bi2UX55tNfupXwxc="

COMPILERS = 2
NO_MODULES = 69  # the exit code when what is to be built cannot be downloaded
# Each program, with the module below programs/ and the package that it is made of.
PROGRAMS = {
    "pause": (".", "./pause"),
    "etcd": (".", "./etcd"),
    "kube": (".", "./kube"),
    "fake-gpu-plugin": (".", "./fake-gpu-plugin"),
    "kwok": ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "helm": (".", "helm.sh/helm/v3/cmd/helm"),
    "coredns": (".", "./coredns"),
}
# What `kube` is called by; each is a link to it.
KUBE_NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
# kwok's own description of how its nodes behave.
KWOK_STAGES = ("node/fast/node-initialize.yaml", "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml")


def cache_folder():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "quad" / "testbed"


def versions_hash():
    """Of all that decides what the build makes."""
    recipe = (GO_HASH, PROGRAMS, KUBE_NAMES, KWOK_STAGES, linker_flags())
    digest = hashlib.sha256(repr(recipe).encode())
    for path in [*sorted(path for path in SOURCES.rglob("*") if path.is_file()), HERE / "images.py"]:
        digest.update(f"{path.relative_to(HERE)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def built_folder():
    return cache_folder() / versions_hash()


def is_built():
    return (built_folder() / "complete").exists()


def require_built():
    if not is_built():
        raise TestbedError("the testbed's programs are not built; `testbed build` does it, in about 10 minutes")
    return built_folder()


def module_versions():
    """{module: version} of what programs/go.mod requires directly."""
    versions = {}
    for line in (SOURCES / "go.mod").read_text().splitlines():
        words = line.split()
        if len(words) == 2 and "/" in words[0] and words[1].startswith("v"):
            versions[words[0]] = words[1]
    return versions


class NoModules(TestbedError):
    """What is to be built cannot be downloaded."""

    code = NO_MODULES


@contextlib.contextmanager
def only_one(path):
    """Lets one process at a time into the block; says so when it has to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build runs; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


class Go:
    """The pinned toolchain, with everything set that decides what it builds."""

    def __init__(self, folder, lock):
        self.program = folder / "bin" / "go"
        self.lock = lock  # held by each compiler too, which may outlive a build that is killed
        unset = ("GOROOT", "GOOS", "GOARCH", "GOEXPERIMENT", "GOTOOLDIR")
        self.environment = {key: value for key, value in os.environ.items() if key not in unset} | {
            "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "GOAMD64": "v1",
            "CGO_ENABLED": "0",
            "GOMAXPROCS": str(COMPILERS),
        }

    def download(self, module, package, tries=3):
        """All that a package is built from; what is missing comes over the network, which may fail for a moment."""
        try:
            self.run(module, "list", "-deps", package, tries=tries)
        except TestbedError as failure:
            # What is in go.sum is what there must be: anything else is a fault, and no lack of a network.
            if "checksum mismatch" in self.said or "missing go.sum entry" in self.said:
                raise
            raise NoModules(f"the modules of {package} cannot be downloaded from {proxy()}: {one_line(self.said)}") from failure

    def run(self, module, *arguments, tries=1):
        command = [str(self.program), *arguments]
        for left in reversed(range(tries)):
            done = subprocess.run(
                command, cwd=SOURCES / module, env=self.environment, pass_fds=[self.lock.fileno()],
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout
            said = [line for line in done.stderr.splitlines() if not line.startswith("go: downloading ")]
            self.said = "\n".join(said[-20:])
            print(self.said, file=sys.stderr)
            if left:
                say(f"go {arguments[0]} failed; trying again")
                time.sleep(3)
        raise TestbedError(f"`{' '.join(command)}` failed with {done.returncode}; the last that it said is above")


def proxy():
    """Where modules come from, for messages."""
    told = os.environ.get("GOPROXY") or "https://proxy.golang.org"
    return f"the Go module proxy ({told.partition(',')[0].rpartition('@')[2]})"


def one_line(text):
    return " ".join(text.split())[-300:]


def fetch_toolchain(lock):
    """Returns the pinned Go, downloaded as a module by whichever Go is installed."""
    folder = cache_folder() / f"go{GO_VERSION}"
    if folder.exists():
        return Go(folder, lock)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise TestbedError(f"the testbed is for Linux on x86_64, not for {platform.system()} on {platform.machine()}")
    if not shutil.which("go"):
        raise TestbedError("there is no `go` to begin with; `./dev setup kubernetes` installs Debian's")
    say(f"downloading Go {GO_VERSION}")
    # The toolchain is a module only by its form: it is taken as it is, whatever is set for the modules of a project.
    environment = os.environ | {"GOFLAGS": "-mod=mod", "GOWORK": "off"}
    for left in reversed(range(3)):
        done = subprocess.run(
            ["go", "mod", "download", "-json", GO_MODULE],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        try:
            told = json.loads(done.stdout)
        except ValueError:
            told = {"Error": done.stderr.decode(errors="replace").strip() or f"go ended with {done.returncode}"}
        if "Error" not in told:
            break
        if not left:
            raise NoModules(f"Go {GO_VERSION} cannot be downloaded from {proxy()}: {one_line(told['Error'])}")
        time.sleep(3)
    if told["Sum"] != GO_HASH:
        raise TestbedError(f"{GO_MODULE} has the hash {told['Sum']}, but {GO_HASH} is expected; something altered it")
    # Go keeps modules without the right to execute them; it makes a copy of a toolchain executable, as is done here.
    unfinished = Path(f"{folder}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(told["Dir"], unfinished, copy_function=shutil.copyfile)
    for path in [unfinished, *unfinished.rglob("*")]:
        executable = path.is_dir() or path.parent.name == "bin" or "tool" in path.relative_to(unfinished).parts[:2]
        path.chmod(0o755 if executable else 0o644)
    unfinished.rename(folder)
    return Go(folder, lock)


def linker_flags():
    """Leaves out what only a debugger needs, and tells the programs their versions, as their own builds do."""
    versions = module_versions()
    kubernetes = versions["k8s.io/kubernetes"]
    major, minor, _ = kubernetes.removeprefix("v").split(".")
    told = {
        "k8s.io/component-base/version.gitVersion": kubernetes,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
        "helm.sh/helm/v3/internal/version.version": versions["helm.sh/helm/v3"],
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in told.items())])


def build_program(go, name, folder):
    began = time.monotonic()
    say(f"building {name}")
    module, package = PROGRAMS[name]
    go.download(module, package)
    unfinished = folder / f".{name}.new"
    go.run(module, "build", "-p", str(COMPILERS), "-ldflags", linker_flags(), "-o", str(unfinished), package)
    if name == "kwok":
        stages = Path(go.run(module, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok").strip()) / "kustomize" / "stage"
        text = "\n---\n".join((stages / stage).read_text() for stage in KWOK_STAGES)
        (folder / "kwok-stages.yaml").write_text(text)
    unfinished.rename(folder / name)
    say(f"built {name} in {time.monotonic() - began:.0f} s")


def build(only=()):
    """Builds what is missing, or of that only the programs that are named. Costs nothing when all is there."""
    for name in only:
        if name not in PROGRAMS:
            raise TestbedError(f"there is no program '{name}' to build; those are: {', '.join(PROGRAMS)}")
    folder = built_folder()
    if is_built():
        return folder
    os.nice(max(0, 18 - os.nice(0)))
    with only_one(cache_folder() / "build.lock") as lock:
        if is_built():
            return folder
        programs = folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        go = fetch_toolchain(lock)
        for name in only or PROGRAMS:
            if not (programs / name).exists():
                build_program(go, name, programs)
        if all((programs / name).exists() for name in PROGRAMS):
            for name in KUBE_NAMES:
                (programs / name).unlink(missing_ok=True)
                (programs / name).symlink_to("kube")
            images.make_base_images(programs / "pause", folder / "images")
            (folder / "complete").touch()
            say(f"everything is built in {folder}")
    return folder


if __name__ == "__main__":
    build(sys.argv[1:])
