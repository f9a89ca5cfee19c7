"""Does memory grow with the number of masks, and how many masks are enough? RISE, S-RISE and CorrRISE on real networks.

    python -m benchmarks.masks [--masks 250 1000 4000]

Prints a row for each method and number of masks, each measured in a process of its own: the process's peak memory, its
growth since the network had run once, seconds, and the median over pixels of the standard error, as a share of the
map's own standard deviation. Beside them, what the masks alone would take if they were all kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, face_pairs, imagenet_squashed

import faithmap as fm
from faithmap.methods import create
from faithmap.words import table

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "rise, not centred": ("rise", {"centred": False}),
    "rise": ("rise", {}),
    "s-rise, not centred": ("s-rise", {"centred": False}),
    "s-rise": ("s-rise", {}),
    "corrise": ("corrise", {}),
}


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def measure(row: str, masks: int, data: Path) -> dict[str, float]:
    """One picture's map in this process: the first photo on MobileNetV2, the first genuine pair on MobileFaceNet."""
    name, parameters = METHODS[row]
    if name == "rise":
        model: fm.Model = fm.load(f"mobilenet_v2@{data}/weights/mobilenet_v2.pth", resize="squash")
        x, target = imagenet_squashed(data, model.size[0])[0][0], None
    else:
        model = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth")
        x, gallery = face_pairs(data, genuine=True)[0]
        target = fm.targets.Similarity(model.embed(gallery))
    prepared = model.prepare(x)
    create(name, masks=64, **parameters).run(model, prepared, target)
    before, begin = peak(), time.perf_counter()
    found = create(name, masks=masks, **parameters).run(model, prepared, target)
    seconds = time.perf_counter() - begin
    return {
        "peak": peak(),
        "growth": peak() - before,
        "seconds": seconds,
        "error": float(found.standard_error.median() / found.maps.std()),
        "kept": masks * prepared[0, 0].numel() * 4 / 2**20,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.masks[0], given.data)))
        return
    rows = []
    for name in METHODS:
        for masks in given.masks:
            call = [sys.executable, "-m", "benchmarks.masks", "--one", name, "--masks", str(masks)]
            said = subprocess.run([*call, "--data", str(given.data)], capture_output=True, text=True, check=True)
            found = json.loads(said.stdout)
            figures = [f"{found[key]:.0f}" for key in ("peak", "growth", "kept")]
            rows.append([name, str(masks), *figures, f"{found['seconds']:.1f}", f"{found['error']:.2f}"])
    header = ["method", "masks", "peak MiB", "growth MiB", "masks alone, kept", "seconds", "error / map's spread"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
