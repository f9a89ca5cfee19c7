"""Explained photos as words and pictures, and the demo's page that shows how to read them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from faithmap.files import save_picture, write_whole
from faithmap.words import incomplete, percent, said, seconds, spent

if TYPE_CHECKING:  # torch takes seconds to import, and the command line's --help reads this file
    from PIL.Image import Image

    from faithmap.attribution import Attribution, PairAttribution
    from faithmap.models import Prediction


@dataclass(frozen=True)
class Explained:
    """A photo with its maps, one attribution per method, and what is told about them."""

    photo: Path
    maps: Sequence[Attribution]
    predictions: Sequence[Prediction]
    """All classes, best first."""

    @property
    def question(self) -> str | None:
        """What was asked about it, of a model that answers questions."""
        return self.maps[0].samples[0].question

    def facts(self) -> dict[str, Any]:
        """What the tables, the page and the JSON document tell."""
        explained = self.maps[0].samples[0].target["k"]
        return {
            "image": str(self.photo),
            **({} if self.question is None else {"question": self.question}),
            "prediction": asdict(self.predictions[0]),
            "explained": asdict(next(p for p in self.predictions if p.index == explained)),
            "top": [asdict(p) for p in self.predictions[:5]],
            "methods": [_facts(att) for att in self.maps],
        }

    def picture(self, att: Attribution | None = None) -> Image:
        """The photo, with a map over it; large ones made smaller, since they are shown small."""
        from faithmap.images import open_image

        photo = open_image(self.photo)
        photo.thumbnail((1000, 1000))
        return photo if att is None else att.photo_overlay(photo)

    def panels(self) -> list[tuple[str, Image, str]]:
        """The photo and its maps, each with a title and a line below."""
        facts = self.facts()
        rows = [("photo", self.picture(), f"predicted: {said(facts['prediction'])}")]
        for att, about in zip(self.maps, facts["methods"], strict=True):
            error = about["completeness_error"]
            below = f"{spent(about['evaluations'])} · {seconds(about['seconds'])}\u00a0s"
            below += "" if error is None else f" · error\u00a0{incomplete(error, about['score'])}"
            rows.append((att.method, self.picture(att), att.nothing_shown[0] or below))
        return rows


def sheet(explained: Explained) -> Image:
    """A page with the photo and every map over it."""
    from faithmap import draw

    panels, target = explained.panels(), said(explained.facts()["explained"])
    rows = [panels[i : i + 4] for i in range(0, len(panels), 4)]
    title = f"Which pixels say {target}, in {explained.photo.name}"
    title = title if explained.question is None else f"{explained.question} {title}"
    return draw.grid(rows, title=title, bar="unsigned")


@dataclass(frozen=True)
class Twins:
    """Two drawn faces that differ in one part, and why a network tells them apart."""

    part: str
    """The one in which they differ."""
    probe: Path
    gallery: Path
    pair: PairAttribution
    found: float
    """The share of the leading pixels of e-, as many as the part has, that lie on it."""


def explained_twins(folder: Path, place: int = 36) -> Twins:
    """Draw two faces that differ in one part, and explain what parts them by FAME.

    Args:
        folder: where both pictures are written; it exists.
        place: of the pair among the twins of ``worlds.faces``.
    """
    from faithmap import explain_pair, load
    from faithmap.datasets.worlds import Faces
    from faithmap.images import open_image
    from faithmap.metrics import found_among

    twins = Faces(kinds="twins", size=place + 1)[place]
    probe = save_picture(open_image(twins.probe), folder / "face-probe.png")
    gallery = save_picture(open_image(twins.gallery), folder / "face-gallery.png")
    pair = explain_pair(load("faces"), probe, gallery, "fame")  # type: ignore[arg-type]
    assert twins.truth is not None
    assert twins.truth.mask is not None
    found = found_among(pair.probe.dissimilar.maps, twins.truth.mask()[None], 1)
    return Twins(twins.group.removeprefix("twin: "), probe, gallery, pair, float(found))


def write_demo(found: Sequence[Explained], twins: Twins, folder: Path) -> Path:
    """Write photos, overlays, a sheet and the page ``index.html``.

    Args:
        found: explained photos, by the same methods.
        twins: an explained pair of faces.
        folder: where to; it exists.

    Returns:
        The page.
    """
    from faithmap import draw

    sections = []
    for one in found:
        figures = []
        for name, picture, below in one.panels():
            path = save_picture(picture, folder / f"{one.photo.stem}-{name}.png")
            figures.append(_figure(path.name, picture.size, name, below, one))
        facts = one.facts()
        others = "; ".join(said(p) for p in facts["top"][1:3])
        sections.append(
            _SECTION.substitute(
                label=escape(facts["explained"]["label"]),
                probability=percent(facts["explained"]["probability"]),
                others=escape(others),
                figures="\n".join(figures),
            )
        )
    save_picture(
        draw.grid([one.panels() for one in found], title="faithmap demo", bar="unsigned"), folder / "sheet.png"
    )
    faces = save_picture(twins.pair.figure(), folder / "faces.png")
    photo = shlex.quote(str(folder / f"{found[0].photo.stem}-photo.png"))
    both = f"{shlex.quote(str(twins.probe))} {shlex.quote(str(twins.gallery))}"
    page = _PAGE.substitute(
        version=version("faithmap"),
        ramp=_ramp(),
        sections="\n".join(sections),
        faces=_FACES.substitute(
            part=escape(twins.part),
            file=faces.name,
            score=f"{twins.pair.score:.2f}",
            threshold=f"{twins.pair.threshold or 0:.2f}",
            decision="the same person" if twins.pair.match else "two people",
            found=percent(twins.found),
        ),
        methods="\n".join(
            f'<div><h3>{title}</h3><p>{about}</p><p class="faint">{source}</p></div>'
            for title, source, about in _METHODS.values()
        ),
        commands="\n".join(
            f"<dt>{about}</dt><dd><code>{escape(command.format(photo=photo, faces=both))}</code></dd>"
            for about, command in _NEXT
        ),
    )
    return write_whole(folder / "index.html", lambda partial: partial.write_text(page, encoding="utf-8"))


def _facts(att: Attribution) -> dict[str, Any]:
    sample, how = att.samples[0], att.provenance
    return {
        "method": att.method,
        "parameters": how["parameters"],
        "layer": how["layer"],
        "score": sample.score,
        "seconds": how["seconds"] / how["images"],
        "evaluations": how["evaluations"],
        "completeness_error": sample.completeness_error,
        "condition": sample.condition,
        "degenerate": sample.degenerate,
    }


def _figure(file: str, size: tuple[int, int], name: str, below: str, one: Explained) -> str:
    label = one.facts()["explained"]["label"]
    title = _METHODS[name][0] if name in _METHODS else "Photo"
    alt = f"The photo {one.photo.stem}" if name == "photo" else f"{title}: what speaks for {label}, over the photo"
    return _FIGURE.substitute(
        file=escape(file, quote=True),
        width=size[0],
        height=size[1],
        alt=escape(alt, quote=True),
        title=title,
        below=escape(below),
    )


def _ramp() -> str:
    """The colours of the maps, from nothing to the strongest, as CSS has them."""
    import numpy as np

    from faithmap.draw import colour

    (colours,) = colour(np.linspace(0, 1, 12)[None])
    return ", ".join("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in colours)


_METHODS = {
    "fame": (
        "FAME",
        "Zhang and Günther 2026",
        "Changes the photo step by step so that the score of the class falls, and shows which pixels had to change. It "
        "asks the whole network in 75 steps forwards and backwards, and its maps show fine detail.",
    ),
    "lift-cam": (
        "LIFT-CAM",
        "Jung and Oh 2021",
        "Asks how much each feature map of the last layer adds to the score (its SHAP value, by DeepLIFT) and lays the "
        "feature maps over each other with these weights. The parts have to add up to the score: the error says how "
        "far off they are.",
    ),
    "grad-cam": (
        "Grad-CAM",
        "Selvaraju et al. 2017",
        "Weighs the same feature maps by their mean gradient. Quick, widely used, and the one to compare with.",
    ),
}

_NEXT = (
    ("Your own photo", "faithmap explain YOUR_PHOTO.jpg"),
    ("Another class: why might this be a lynx?", "faithmap explain {photo} --target lynx"),
    (
        "Does a map beat one that knows nothing of the network?",
        "faithmap compare {photo} --methods lift-cam,fame,random",
    ),
    ("Why two faces match, or do not", "faithmap verify {faces} --methods fame,lift-cam"),
    ("FAME with the 500 steps of its paper", "faithmap explain {photo} --methods fame --set fame.iterations=500"),
    ("What does each place of the last feature map see?", "faithmap locations {photo}"),
    ("Which methods and models are there?", "faithmap list methods"),
    ("From Python", "import faithmap as fm; fm.explain(fm.load(), 'YOUR_PHOTO.jpg').overlay().save('map.png')"),
)

_FIGURE = Template("""<figure>
<a href="$file"><img src="$file" width="$width" height="$height" alt="$alt"></a>
<figcaption><b>$title</b> $below</figcaption>
</figure>""")

_SECTION = Template("""<section>
<h2>$label <small>$probability</small></h2>
<p class="faint">Next guesses: $others.</p>
<div class="maps">
$figures
</div>
</section>""")

_FACES = Template("""<section>
<h2>Two drawn faces <small>two people who differ in one part: the $part</small></h2>
<p>They are drawn, so it is known what differs: light, expression and clothes change from picture to picture of
everybody, but these two people are alike in all but their $part. A network that was trained on drawn faces compares
them: similarity $score, where $threshold and more is one person. It says: $decision.</p>
<p>FAME shows on both faces what is alike (e+) and what differs (e-). Of its strongest pixels of e-, as many as the
$part have, $found lie there: here it is right about the reason. How often a method is right is measured on a hundred
such pairs.</p>
<figure><a href="$file"><img src="$file" alt="Two drawn faces, with what is alike and what differs"></a></figure>
</section>""")

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>faithmap: which pixels made it say that?</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #1c1c1e; --faint: #63656c; --rule: #e2e0da;
  --accent: #a3330b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #141416; --card: #1d1d20; --ink: #ececee; --faint: #a2a4ab; --rule: #313136; --accent: #ff9d6b; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: clamp(1.5rem, 5vw, 4rem) clamp(1rem, 4vw, 3rem); }
h1 { font-size: clamp(2rem, 5vw, 3.25rem); line-height: 1.1; letter-spacing: -.025em; max-width: 20ch;
  margin: .5rem 0 1rem; text-wrap: balance; }
h2 { font-size: 1.6rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .5rem; }
h2 small { font-size: 1.1rem; font-weight: 400; letter-spacing: 0; color: var(--faint); margin-left: .4em; }
h2::first-letter { text-transform: uppercase; }
h3 { margin: 0 0 .25rem; font-size: 1.0625rem; }
p { margin: 0 0 1rem; max-width: 68ch; }
a { color: var(--accent); }
.name { color: var(--accent); font-weight: 650; }
.faint, figcaption, footer { color: var(--faint); }
section { margin-top: clamp(2.5rem, 6vw, 4.5rem); }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; overflow: hidden; }
figure a { display: block; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: .7rem .9rem .8rem; font-size: .875rem; line-height: 1.4; }
figcaption b { display: block; color: var(--ink); font-size: 1rem; }
.ramp { max-width: 30rem; margin: 1.5rem 0; }
.ramp i { display: block; height: .9rem; border-radius: .45rem; background: linear-gradient(to right, $ramp); }
.ramp span { display: flex; justify-content: space-between; font-size: .875rem; color: var(--faint);
  margin-top: .3rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1.5rem 2rem;
  margin-top: 1rem; }
.cards p { margin: 0 0 .25rem; }
.cards .faint { font-size: .875rem; }
dl { margin: 1rem 0 0; }
dt { margin-top: 1rem; }
dd { margin: .3rem 0 0; }
code { display: block; font: .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .55rem .8rem;
  overflow-wrap: anywhere; }
footer { margin-top: 4rem; padding-top: 1.25rem; border-top: 1px solid var(--rule); font-size: .875rem; }
</style>
</head>
<body>
<main>
<header>
<div class="name">faithmap $version</div>
<h1>Which pixels made the network say that?</h1>
<p>EfficientNet-Lite0, a network that knows 1000 kinds of things, looked at three photos. It was not told what is on
them. The maps below show what made it decide as it did, found in three ways, on this computer.</p>
</header>

<section>
<h2>How to read a map</h2>
<div class="ramp"><i></i><span><span>does not count</span><span>counts most</span></span></div>
<p>Where a photo looks untouched, its pixels did not count. The brighter the colour, the more they spoke for the class
in the heading. Each map has its own scale, so compare where maps are bright and not how bright. The sides that are
dimmed were cut off before the network saw the photo.</p>
<p>A percentage is the probability that the network gave a class. Below each map stands its price: how often it ran the
network (forward), its derivative (backward) or the part behind the last feature map (tail), and the seconds that took
here.</p>
</section>

$sections

$faces

<section>
<h2>What each method does</h2>
<div class="cards">
$methods
</div>
</section>

<section>
<h2>Which one to believe</h2>
<p>The map that looks best need not be right. Where methods agree, the pixels probably mattered; where they differ,
doubt them. A map that is no better than one drawn without the network has shown nothing: the third command below draws
such a map beside the others.</p>
</section>

<section>
<h2>What to try next</h2>
<dl>
$commands
</dl>
</section>

<footer>Photos from scikit-image: cat (chelsea) by Stéfan van der Walt, CC0; coffee by Rachel Michetti, CC0; rocket by
SpaceX, public domain. All maps on one sheet: <a href="sheet.png">sheet.png</a>. This page needs no network.</footer>
</main>
</body>
</html>
""")
