"""How far rounding carries FAME's maps: the same photos one by one and in a batch of eight, in float32.

    python -m benchmarks.drift [--iterations 6,50,500]

Single steps agree to 1e-5; iterated, each step's rounding decides at kinks of the network which way the next one goes.
Reported, never asserted: the largest difference as a share of the map's maximum, and 1 - Pearson.
"""

from __future__ import annotations

import argparse

import torch
from benchmarks.common import DATA, face_pairs, imagenet_squashed

import faithmap as fm
from faithmap.methods import FAME
from faithmap.targets import Logit, Similarity
from faithmap.words import table

PHOTOS = 8


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", default="6,50,500")
    counts = [int(n) for n in parser.parse_args().iterations.split(",")]
    classifier = fm.load(f"mobilenet_v2@{DATA}/weights/mobilenet_v2.pth", resize="squash")
    face = fm.load(f"mobilefacenet@{DATA}/weights/mobilefacenet_112.pth")
    assert isinstance(face, fm.FaceEmbedder)
    paths, labels, _ = imagenet_squashed(DATA, 224)
    pairs = face_pairs(DATA, genuine=True)[:PHOTOS]
    tasks = {
        "MobileNetV2 (ReLU6)": (classifier, paths[:PHOTOS], Logit(labels[:PHOTOS])),
        "MobileFaceNet (PReLU)": (face, [p for p, _ in pairs], Similarity(face.embed([g for _, g in pairs]))),
    }
    lines = []
    for name, (model, pictures, target) in tasks.items():
        x = model.prepare(pictures)
        for count in counts:
            method = FAME(iterations=count)
            alone = method.run(model, x, target, batch_size=1).maps
            together = method.run(model, x, target, batch_size=PHOTOS).maps
            worst = ((alone - together).abs().amax(dim=(1, 2)) / alone.amax(dim=(1, 2))).max()
            both = torch.stack([alone, together], dim=1).flatten(2)  # (8, 2, HW)
            pearson = torch.stack([torch.corrcoef(pair)[0, 1] for pair in both])
            lines.append([name, str(count), f"{worst:.1e}", f"{1 - pearson.min():.1e}", f"{1 - pearson.median():.1e}"])
            print(lines[-1], flush=True)
    print(table(["network", "steps", "largest difference / maximum", "1 - Pearson, worst", "median"], lines))


if __name__ == "__main__":
    main()
