"""Trains a small character model on the text of the GNU GPL, with PyTorch DistributedDataParallel.

Runs anywhere: `python3 train.py` on one machine, or one process per rank with MASTER_ADDR and MASTER_PORT set, as Quad
and SkyPilot do. Under Quad it also says how far it is ($QUAD_PROGRESS), writes its checkpoints where Quad looks for
them ($QUAD_CHECKPOINT_DIR), and goes on from the one that Quad chose ($QUAD_RESUME_FROM).
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BATCH, CONTEXT, KEEP = 16, 32, 3


class CharModel(nn.Module):
    def __init__(self, characters, width=96):
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, x):
        return self.head(self.gru(self.embed(x))[0])


def batch_of(step, rank, text):
    """The batch depends on nothing but the step and the rank: a resumed run reads what an unbroken one would."""
    order = torch.Generator().manual_seed(step * 1_000_003 + rank)
    starts = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=order)
    rows = torch.stack([text[s : s + CONTEXT + 1] for s in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]


def save(folder, step, state):
    """Complete under its final name or not there at all, even if the power fails in between."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:06d}.pt"
    temporary = folder / f".{final.name}.tmp"
    with open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, final)
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink()


def report(step, total, loss):
    print(f"step {step}/{total} loss {loss:.3f}", flush=True)
    if "QUAD_PROGRESS" in os.environ:
        with open(os.environ["QUAD_PROGRESS"], "a") as f:
            f.write(json.dumps({"step": step, "total": total, "loss": round(loss, 4)}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--checkpoint-every-seconds", type=float, default=5)
    parser.add_argument("--report-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--seconds-per-step", type=float, default=0, help="go no faster than this")
    args = parser.parse_args()

    rank = int(os.environ.get("SKYPILOT_NODE_RANK", os.environ.get("RANK", 0)))
    world = int(os.environ.get("SKYPILOT_NUM_NODES", os.environ.get("WORLD_SIZE", 1)))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    torch.manual_seed(1)
    if world > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world)

    raw = Path(args.text).read_text(encoding="utf-8")
    alphabet = {c: i for i, c in enumerate(sorted(set(raw)))}
    text = torch.tensor([alphabet[c] for c in raw])
    model = CharModel(len(alphabet))
    trained = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    done, losses = 0, []
    if os.environ.get("QUAD_RESUME_FROM"):
        state = torch.load(os.environ["QUAD_RESUME_FROM"], map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, losses = state["step"], state["losses"]
        print(f"rank {rank} resumes after step {done}, loss {losses[-1]:.3f}", flush=True)

    folder = Path(os.environ.get("QUAD_CHECKPOINT_DIR", "checkpoints"))
    saved_at = time.monotonic()
    while done < args.steps:
        began = time.monotonic()
        x, y = batch_of(done, rank, text)
        loss = nn.functional.cross_entropy(trained(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        losses = [*losses[-99:], loss.item()]
        if rank == 0 and (done % args.report_every == 0 or done == args.steps):
            report(done, args.steps, sum(losses[-10:]) / len(losses[-10:]))
        due = time.monotonic() - saved_at >= args.checkpoint_every_seconds
        if rank == 0 and (due or done == args.steps):
            save(folder, done, {"step": done, "losses": losses, "model": model.state_dict(),
                                "optimizer": optimizer.state_dict()})
            saved_at = time.monotonic()
        time.sleep(max(0.0, began + args.seconds_per_step - time.monotonic()))


if __name__ == "__main__":
    main()
