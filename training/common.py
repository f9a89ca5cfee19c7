"""What the trainings share: pictures drawn once into a cache, the loop, the log, and the files that ship.

Each network is made by one command, ``python -m training.NAME``, from fixed seeds. Its log is kept in training/logs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from faithmap.files import write_whole
from faithmap.models.shipped import DIGESTS, FOLDER

CACHE = Path(os.environ.get("FAITHMAP_CACHE", Path.home() / ".cache" / "faithmap-training"))
LOGS = Path(__file__).parent / "logs"


class Log:
    """Lines on the screen and in training/logs, which is committed with the weights.

    Args:
        name: of the network.
        keep: whether to write the file; a trial need not.
    """

    def __init__(self, name: str, keep: bool = True) -> None:
        self._begin, self._path, self._keep = time.monotonic(), LOGS / f"{name}.log", keep
        self._lines: list[str] = []

    def __call__(self, line: str) -> None:
        """One line, with the seconds since the beginning."""
        self._lines.append(f"{time.monotonic() - self._begin:6.0f} s  {line}")
        print(self._lines[-1], flush=True)
        if self._keep:
            LOGS.mkdir(exist_ok=True)
            self._path.write_text("\n".join(self._lines) + "\n")


def drawn(
    name: str, count: int, shape: tuple[int, ...], draw: Callable[[int], NDArray[np.uint8]], log: Log
) -> NDArray[np.uint8]:
    """Pictures ``(count, *shape)`` that are drawn once and then read from the cache, mapped into memory.

    Args:
        name: of the file; it says all that the pictures depend on: their world, variant and seed.
        count: how many.
        shape: of each.
        draw: draws the one at a place.
        log: told the rate.
    """
    path = CACHE / f"{name}-{count}.npy"
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()

        def fill(partial: Path) -> None:
            whole = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, *shape))
            for i in range(count):
                whole[i] = draw(i)
            whole.flush()

        write_whole(path, fill)
        log(f"drew {count} pictures of {name}, {count / (time.monotonic() - begin):.0f} a second")
    found: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return found


def fit(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    log: Log,
    *,
    rate: float = 3e-3,
    decay: float = 0.05,
    every: int = 200,
) -> None:
    """AdamW with a rate that rises over a twentieth of the steps and falls to 0 along a cosine; in bfloat16.

    Args:
        module: what is trained.
        loss: of the batch of a step.
        steps: how many.
        log: told the mean loss now and then.
        rate: the highest.
        decay: of weights that are matrices; biases, normalisations and slopes have none.
        every: how many steps between lines.
    """
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    module.train()
    total = 0.0
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        total += float(value.detach())
        if (step + 1) % every == 0:
            log(f"step {step + 1} of {steps}: loss {total / every:.4f}")
            total = 0.0
    module.eval()


def shuffled(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Places of samples, a batch at a time, every one once before any comes again; without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator)[: count // batch * batch].view(-1, batch)


def export(name: str, module: nn.Module, about: dict[str, Any], log: Log) -> Path:
    """Write the weights in half precision, with what has to be known of them, and their SHA-256.

    Args:
        name: of the file in the package.
        module: whose state is written.
        about: labels, threshold and the like; text as JSON.
        log: told what was written.
    """
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.safetensors"
    write_whole(path, lambda partial: save_file(state, partial, {"about": json.dumps(about)}))
    digests = dict(line.split()[::-1] for line in DIGESTS.read_text().splitlines()) if DIGESTS.is_file() else {}
    digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    DIGESTS.write_text("".join(f"{digest}  {file}\n" for file, digest in sorted(digests.items())))
    log(f"wrote {path.name}, {path.stat().st_size / 2**20:.2f} MiB, {sum(v.numel() for v in state.values())} numbers")
    return path
