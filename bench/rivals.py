"""What a university would otherwise run, on the same machine in the same run: SkyPilot, Slurm and HyperQueue.

Each is measured where it is installed; `./dev setup rivals` does that. All of them work in a folder of their own that is
removed afterwards. Slurm runs as root, with a munge of its own; its settings are those that are kindest to short jobs.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import quadtest

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quad" / "rivals"
SLOTS = 8  # jobs at once, as bench/throughput.py
CLIENTS = 4
TASKS = 10_000
SLURM_SUBMISSIONS = 1000
SLURM_JOBS = 100  # through to their end, which takes it a while

SLURM_CONF = """
ClusterName=rival
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=3,sched_min_interval=0,max_rpc_cnt=0,default_queue_depth=1000
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmUser=root
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ReturnToService=2
MaxJobCount=50000
MinJobAge=300
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

# In a process of its own, because its cluster prints what it likes.
HYPERQUEUE = """
import sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=int(sys.argv[2])))
    client = cluster.client()
    job = Job()
    for _ in range(int(sys.argv[1])):
        job.program(["true"], stdout=None, stderr=None)
    began = time.perf_counter()
    client.wait_for_jobs([client.submit(job)])
    print("seconds", time.perf_counter() - began)
"""


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="quad-rival-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def call(command, environment, **more):
    """Its standard output; an exception if it fails or takes more than five minutes."""
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, timeout=300, **more
    ).stdout


def seconds(function, *args):
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


def hyperqueue():
    with folder() as home:
        command = [HOME / "bin" / "python", "-c", HYPERQUEUE, str(TASKS), str(SLOTS)]
        said = call(command, os.environ | {"HOME": str(home)}, cwd=home, stderr=subprocess.DEVNULL)
    harness.report(f"HyperQueue: {TASKS:,} x true, nothing durable", TASKS / float(said.split()[-1]), "jobs/s")


def skypilot():
    with folder() as home:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SKYPILOT", "PYTHON"))}
        environment |= {"HOME": str(home), "PATH": f"{HOME / 'bin'}:{environment['PATH']}", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
        sky = HOME / "bin" / "sky"
        quiet = {"stderr": subprocess.DEVNULL, "cwd": home}
        try:
            harness.report("SkyPilot: start of its API server", seconds(lambda: call([sky, "api", "start"], environment, **quiet)), "s")
            call([sky, "status"], environment, **quiet)  # the first takes twice as long
            for verb in (["status"], ["jobs", "queue"]):
                took = [seconds(lambda: call([sky, *verb], environment, **quiet)) for _ in range(5)]
                harness.report(f"SkyPilot: sky {' '.join(verb)}, whole process, p50", harness.median(took) * 1000, "ms")
            server = sum(map(harness.rss_mb, quadtest.processes_of(str(home))))
            harness.report("SkyPilot: RSS of its server and workers, idle", server, "MB")
        finally:
            subprocess.run([sky, "api", "stop"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
            for pid in quadtest.processes_of(str(home)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Slurm:
    """slurmctld, one slurmd and a munge in a folder; a context manager."""

    def __init__(self, home):
        self.home = home
        self.environment = os.environ | {"SLURM_CONF": str(home / "slurm.conf")}
        self.processes = []

    def __enter__(self):
        host = os.uname().nodename.split(".")[0]
        (self.home / "slurm.conf").write_text(SLURM_CONF.format(host=host, folder=self.home, slots=SLOTS))
        for name in ("state", "spool"):
            (self.home / name).mkdir()
        key = self.home / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.home.chmod(0o711)
        socket = self.home / "munge.socket"
        files = [f"--socket={socket}", f"--key-file={key}", f"--pid-file={self.home}/munge.pid", f"--seed-file={self.home}/munge.seed"]
        self.start("munged", "--foreground", "--force", f"--log-file={self.home}/munge.log", *files)
        quadtest.wait_until(socket.exists, 30, "munged listens")
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D", "-N", host)
        quadtest.wait_until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%t"), 60, "its node is idle")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def start(self, *command):
        with open(self.home / "output", "ab") as output:
            process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.processes.append(process)

    def call(self, *command):
        done = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        return done.stdout

    def sbatch(self, *more):
        call(["sbatch", "--parsable", "-o", "/dev/null", *more, "--wrap", "true"], self.environment, cwd=self.home)


def slurm():
    with folder() as home, Slurm(home) as cluster:
        with ThreadPoolExecutor(CLIENTS) as clients:
            took = seconds(lambda: list(clients.map(lambda _: cluster.sbatch("--hold"), range(SLURM_SUBMISSIONS))))
        harness.report(f"Slurm: sbatch, {CLIENTS} clients", SLURM_SUBMISSIONS / took, "1/s")
        took = harness.median([seconds(cluster.call, "squeue") for _ in range(20)])
        harness.report(f"Slurm: squeue, whole process, {SLURM_SUBMISSIONS:,} jobs, p50", took * 1000, "ms")
        cluster.call("scancel", "--state=PENDING")
        quadtest.wait_until(lambda: not cluster.call("squeue", "-h"), 60, "its queue is empty")
        began = time.perf_counter()
        for _ in range(SLURM_JOBS):
            cluster.sbatch()
        quadtest.wait_until(lambda: not cluster.call("squeue", "-h"), 120, "its jobs have ended")
        harness.report("Slurm: one-line jobs through to their end", SLURM_JOBS / (time.perf_counter() - began), "jobs/s")


def main():
    here = [
        ("HyperQueue", hyperqueue, any(HOME.glob("lib/python3*/site-packages/hyperqueue"))),
        ("SkyPilot", skypilot, (HOME / "bin" / "sky").exists()),
        ("Slurm", slurm, os.geteuid() == 0 and all(map(shutil.which, ("slurmctld", "slurmd", "munged")))),
    ]
    for name, measure, installed in here:
        if not installed:
            harness.skip(f"{name} is not installed (./dev setup rivals, as root)")
            continue
        try:
            measure()
        except (subprocess.SubprocessError, AssertionError, OSError, ValueError) as error:
            harness.skip(f"{name} does not run here: {error}")


if __name__ == "__main__":
    sys.exit(main())
