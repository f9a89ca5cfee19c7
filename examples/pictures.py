"""The pictures of the documentation, made again from the packaged photos.

    python examples/pictures.py [cat] [compare] [locations] [locality] [pair]

The pair needs scikit-image (its astronaut, a public domain portrait by NASA) and MobileFaceNet's weights in the folder
FAITHMAP_DATA, or in ../shared/data.
"""

from __future__ import annotations

import os
import sys
from importlib.resources import as_file, files
from pathlib import Path

from PIL import Image, ImageDraw

import faithmap as fm
from faithmap.charts import locality_chart

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "pictures"
PHOTOS = files("faithmap") / "assets" / "photos"
WIDTH = 1400
"""Pixels: sharp at twice the width of a page."""


def save(picture: Image.Image, name: str) -> None:
    """Write a picture of at most WIDTH pixels."""
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.save(OUT / name, quality=90, subsampling=0, optimize=True)
    print(OUT / name)


def cat() -> None:
    """One photo, three methods."""
    model = fm.load()
    with as_file(PHOTOS / "cat.jpg") as photo:
        maps = {name: fm.explain(model, photo, method=name) for name in ("lift-cam", "fame", "grad-cam")}
        first = maps["lift-cam"]
        panels = [fm.draw.Panel("photo", first.seen(), f"{first.samples[0].label}, logit {first.scores[0]:.1f}")]
        panels += [fm.draw.Panel(name, att.overlay(), _cost(att)) for name, att in maps.items()]
    save(fm.draw.grid([panels], title="EfficientNet-Lite0: which pixels made it say Egyptian cat"), "cat.jpg")


def compare() -> None:
    """One photo, a method of each kind."""
    names = ["lift-cam", "fame", "layer-cam", "full-grad", "lrp", "deep-lift", "guided-backprop", "smooth-grad"]
    with as_file(PHOTOS / "cat.jpg") as photo:
        save(fm.compare(fm.load(), photo, [*names, "edges", "centre-gaussian"]).figure(), "compare.jpg")


def locations() -> None:
    """What each place of the last feature map sees."""
    with as_file(PHOTOS / "cat.jpg") as photo:
        save(fm.explain_locations(fm.load(), photo).figure(), "locations.jpg")


def locality() -> None:
    """How local each layer is, over the three photos; prints the table of the examples' README."""
    with as_file(PHOTOS) as folder:
        photos = sorted(str(path) for path in folder.iterdir() if path.suffix == ".jpg")
        rows = fm.locality_by_layer(fm.load(), photos)
    drawn = []
    print("| layer | places | share in its cell, % | chance, % | times chance |\n| --- | --- | --- | --- | --- |")
    for i, row in enumerate(rows):
        mean, low, high, _ = row.share
        print(
            f"| `{row.layer}` | {row.grid[0]} x {row.grid[1]} | {100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}] "
            f"| {100 * row.chance:.3f} | {mean / row.chance:.1f} |"
        )
        depth = i / max(1, len(rows) - 1)
        about = {"share": mean, "low": low, "high": high, "ceiling": row.ceiling, "chance": row.chance}
        drawn.append({"layer": row.layer, "grid": row.grid, "depth": depth, **about})
    title = "EfficientNet-Lite0: how much of what a place sees lies in the cell that CAM assumes"
    save(locality_chart(drawn, title=title), "locality.jpg")


def pair() -> None:
    """One face against itself with the mouth covered: e- should find the cover."""
    from skimage.data import astronaut

    data = Path(os.environ.get("FAITHMAP_DATA") or HERE.parents[1] / "shared" / "data")
    face = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth", threshold=0.4)
    crop = Image.fromarray(astronaut()).crop((155, 38, 295, 178)).resize((112, 112), Image.Resampling.LANCZOS)
    covered = crop.copy()
    ImageDraw.Draw(covered).rectangle((16, 74, 96, 112), fill=(70, 80, 110))
    save(
        fm.explain_pair(face, covered, crop).figure("MobileFaceNet and FAME: the same face, its mouth covered"),
        "pair.jpg",
    )


def _cost(att: fm.Attribution) -> str:
    spent = att.provenance["evaluations"]
    return ", ".join(f"{count:.0f} {name.replace('_', ' ')}" for name, count in spent.items())


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or ["cat", "compare", "locations", "locality", "pair"]:
        {"cat": cat, "compare": compare, "locations": locations, "locality": locality, "pair": pair}[name]()
