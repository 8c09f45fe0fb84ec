"""A rank that testifies (see witness.py): counts steps, and writes down everything that it does.

Its variables: WITNESS and NAME say where to. STEPS (20) steps of PAUSE (0.1) seconds, or until the test says `end`; a
checkpoint with every EVERY (5).
FORMAT of checkpoints: safetensors or torch. HOLD stops the first attempt for good at a moment, which is recorded:

    setup    rank 0 in its setup
    barrier  rank 1 in its setup, so that rank 0 waits at the barrier
    run      every rank with step HOLD_STEP (12)
    half     rank 0 with its checkpoint of step HOLD_STEP half written, under its final name
    term     every rank once it is told to end

Whatever is held goes on when the test says `go`. LOCK=0 takes no lock: for jobs whose old ranks stand still.
"""

import fcntl
import json
import os
import pickle
import signal
import sys
import time
import zipfile
from pathlib import Path

FOLDER, NAME = Path(os.environ["WITNESS"]), os.environ["NAME"]
EPOCH, RANK = int(os.environ["QUAD_EPOCH"]), int(os.environ["QUAD_RANK"])
STEPS, EVERY = int(os.environ.get("STEPS", 20)), int(os.environ.get("EVERY", 5))
HOLD = os.environ.get("HOLD") if EPOCH == 1 else None
HOLD_STEP = int(os.environ.get("HOLD_STEP", 12))
ENDING = {"safetensors": ".safetensors", "torch": ".pt"}[os.environ.get("FORMAT", "safetensors")]
RECORDS = os.open(FOLDER / f"{NAME}.records", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def record(what, **more):
    line = {"what": what, "epoch": EPOCH, "rank": RANK, "at": time.monotonic_ns(), **more}
    os.write(RECORDS, (json.dumps(line) + "\n").encode())


def hold(what, **more):
    record(what, **more)
    while not (FOLDER / f"{NAME}.go").exists():
        time.sleep(0.02)


def on_term(_signal, _frame):
    hold("term")
    sys.exit(143)


def contents(step, path):
    """A whole checkpoint."""
    if ENDING == ".pt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"step": step}, protocol=2))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/data/0", bytes(5000))
        return path.read_bytes()
    header = json.dumps({"weights": {"dtype": "U8", "shape": [5000], "data_offsets": [0, 5000]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(5000)


def save(step):
    path = Path(os.environ["QUAD_CHECKPOINT_DIR"]) / f"step-{step:06d}{ENDING}"
    temporary = path.with_name(path.name + ".tmp")
    data = contents(step, temporary)
    if HOLD == "half" and step == HOLD_STEP:
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            hold("half", step=step)
            file.write(data[len(data) // 2 :])
        record("late_checkpoint", step=step)
        return
    temporary.write_bytes(data)
    os.replace(temporary, path)
    record("checkpoint", step=step)


def setup():
    record("setup")
    if HOLD == "setup" and RANK == 0 or HOLD == "barrier" and RANK == 1:
        hold("held")
    record("set_up")


def run():
    if HOLD == "term":
        signal.signal(signal.SIGTERM, on_term)
    resumed = os.environ.get("QUAD_RESUME_FROM", "")
    step = int(Path(resumed).stem.rsplit("-", 1)[1]) if resumed else 0
    record("begin", step=step, every=EVERY)
    if os.environ.get("LOCK", "1") == "1":
        lock = open(FOLDER / f"{NAME}.{RANK}.lock", "w")  # held until the process is gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record("locked_out")
    while step < STEPS and not (FOLDER / f"{NAME}.end").exists():
        time.sleep(float(os.environ.get("PAUSE", 0.1)))
        step += 1
        print(f"epoch {EPOCH} rank {RANK} step {step}", flush=True)
        record("step", step=step)
        if HOLD == "run" and step == HOLD_STEP:
            hold("held", step=step)
        if RANK == 0 and step % EVERY == 0:
            save(step)
    record("end", step=step)


{"setup": setup, "run": run}[sys.argv[1]]()
