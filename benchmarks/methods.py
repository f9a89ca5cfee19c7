"""Every method beside every other: is its order of pixels better than a random one, and what does it cost?

    python -m benchmarks.methods [--photos N] [--pairs N] [--methods A,B] [--out FILE]

Classification: MobileNetV2 on squashed ImageNet photos, the predicted class. Pixels enter a blurred picture (a Gaussian
of a tenth of its side) in the order of the map; the probability of the class is averaged over 0, 5, ..., 100 % of them.
Faces: MobileFaceNet on genuine LFW pairs; pixels of the probe enter by e+, and its similarity to the gallery is
averaged. Differences to a random order are paired by picture. Evaluations are per picture; the ratio is to one forward
pass of one picture, in the same process. Each method's values are appended to FILE at once, and not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import DATA, face_pairs, imagenet_squashed, percent
from torch import Tensor

import faithmap as fm
from faithmap.batching import tune_allocator
from faithmap.metrics import area, bootstrap, removal_curve
from faithmap.targets import Probability, Similarity, Target
from faithmap.words import table

SHORT = {"forward": "F", "backward": "B", "tail_forward": "f", "tail_backward": "b"}
"""How the table writes evaluations: of the network in capitals, of the tail alone in small letters."""


def classification(photos: int) -> tuple[fm.Model, Tensor, Target, Target]:
    """The model, prepared photos, what maps explain, and the score that insertion follows."""
    model = fm.load(f"mobilenet_v2@{DATA}/weights/mobilenet_v2.pth", resize="squash")
    paths, _, _ = imagenet_squashed(DATA, 224)
    every = max(1, len(paths) // photos)
    x = model.prepare(paths[::every][:photos])
    with torch.no_grad():
        classes = model.network(x).argmax(dim=1)
    return model, x, fm.targets.Logit(classes), Probability(classes)


def verification(pairs: int) -> tuple[fm.Model, Tensor, Target, Target]:
    """Likewise for genuine pairs: the probes, and their similarity to the galleries."""
    face = fm.load(f"mobilefacenet@{DATA}/weights/mobilefacenet_112.pth", threshold=0.4)
    assert isinstance(face, fm.FaceEmbedder)
    chosen = face_pairs(DATA, genuine=True)[:pairs]
    similarity = Similarity(face.embed([gallery for _, gallery in chosen]))
    return face, face.prepare([probe for probe, _ in chosen]), similarity, similarity


def one_forward(model: fm.Model, x: Tensor) -> float:
    """Seconds of one forward pass per picture, the median of seven batches like those of methods."""
    seconds = []
    with torch.no_grad():
        for _ in range(8):
            begin = time.perf_counter()
            model.network(x)
            seconds.append((time.perf_counter() - begin) / len(x))
    return sorted(seconds[1:])[3]


def inserted(model: fm.Model, x: Tensor, maps: Tensor, score: Target, steps: int = 20) -> Tensor:
    """The area under each picture's insertion curve, ``(B,)``."""
    return area(removal_curve(model, x, maps.nan_to_num(0), score, insert=True, steps=steps))


def measure(model: fm.Model, x: Tensor, target: Target, score: Target, name: str) -> dict[str, Any]:
    """One method's values on all pictures."""
    method = fm.methods.create(name)
    few = x if method.steps <= 100 else x[:1]
    method.run(model, few, target.select(torch.arange(len(few))))  # what is made once per network is not timed
    begin = time.perf_counter()
    found = method.run(model, x, target)
    seconds = (time.perf_counter() - begin) / len(x)
    return {
        "method": name,
        "insertion": inserted(model, x, found.maps, score).tolist(),
        "evaluations": found.cost.per_image(len(x)),
        "ratio": seconds / one_forward(model, x[:8]),
    }


def report(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print one table, the best first."""
    chance = torch.tensor(rows["random"]["insertion"])
    lines = []
    for name, row in sorted(rows.items(), key=lambda item: -sum(item[1]["insertion"])):
        values = torch.tensor(row["insertion"])
        cost = " + ".join(f"{count:g} {SHORT[kind]}" for kind, count in row["evaluations"].items())
        gain = percent(bootstrap(values - chance))
        lines.append([name, percent(bootstrap(values)), gain, cost, f"{row['ratio']:.1f}"])
    print(f"\n{title}, {len(chance)} pictures\n")
    print(table(["method", "insertion x 100", "more than random", "evaluations", "time / one forward"], lines))


def main() -> None:
    """Measure what is missing in the file, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--methods", default=",".join(fm.methods.available()))
    parser.add_argument("--out", type=Path, default=Path("methods.jsonl"))
    given = parser.parse_args()
    tune_allocator()
    worlds: dict[str, Callable[[], tuple[fm.Model, Tensor, Target, Target]]] = {
        "MobileNetV2, ImageNet photos": lambda: classification(given.photos),
        "MobileFaceNet, genuine LFW pairs": lambda: verification(given.pairs),
    }
    for title, make in worlds.items():
        key = [title, given.photos if "ImageNet" in title else given.pairs]
        known = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
        rows = {row["method"]: row for row in known if row["key"] == key}
        model, x, target, score = make()
        for name in dict.fromkeys(["random", *given.methods.split(",")]):
            if name in rows or (fm.methods.get(name).faces and not isinstance(model, fm.FaceEmbedder)):
                continue
            try:
                rows[name] = {"key": key, **measure(model, x, target, score, name)}
            except ValueError as refusal:
                print(f"{name}: {refusal}", flush=True)
                continue
            with given.out.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
            print(f"{name}: {rows[name]['ratio']:.1f} forwards' time", flush=True)
        report(title, rows)


if __name__ == "__main__":
    main()
