"""Documentation is true: every example runs, every public name has one, and pages say what is registered."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pickle
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from PIL import Image
from torch import Tensor

import faithmap as fm
from faithmap.datasets.registry import DATASETS
from faithmap.metrics import Case, unit_scaled
from faithmap.metrics.registry import METRICS
from faithmap.registry import parsed
from faithmap.targets import Dissimilarity, Logit, Probability, Similarity, Target
from tests import nets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULES = ["faithmap", *(found.name for found in pkgutil.walk_packages(fm.__path__, "faithmap."))]


def public() -> dict[str, Any]:
    """What users call: the package's own names, the methods, metrics and data sets, the targets."""
    names = {name: getattr(fm, name) for name in fm.__all__}
    for room in ("methods", "metrics", "datasets"):
        registry = getattr(fm, room)
        names |= {f"{room}.{name}": registry.get(name) for name in registry.available()}
    kinds = [kind for kind in vars(fm.targets).values() if isinstance(kind, type) and issubclass(kind, Target)]
    return names | {f"targets.{kind.__name__}": kind for kind in kinds if kind is not Target}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_and_print_what_they_say(
    name: str, monkeypatch: pytest.MonkeyPatch, model: Callable[..., fm.Model]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(fm, "load", model)
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(module, globs={**vars(module), "fm": fm, "torch": torch}):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", sorted(public()))
def test_public_names_are_documented_with_an_example(name: str) -> None:
    thing = public()[name]
    text = inspect.getdoc(thing) or ""
    assert text
    if inspect.ismodule(thing) or (isinstance(thing, type) and issubclass(thing, Warning)):
        return
    assert "Examples:\n" in text, f"{name} has no example"
    assert ">>>" in text.partition("Examples:\n")[2], f"{name} has no example that runs"


@pytest.mark.parametrize("name", fm.methods.available())
def test_methods_name_their_source(name: str) -> None:
    method = fm.methods.get(name)
    assert method.control or "\nSource: " in (inspect.getdoc(method) or ""), f"{name} does not say where it comes from"


@pytest.mark.parametrize("name", [f"metrics.{name}" for name in METRICS.available()])
def test_metrics_name_their_source(name: str) -> None:
    assert "\nSource: " in (inspect.getdoc(public()[name]) or ""), f"{name} does not say where it comes from"


@pytest.mark.parametrize("name", sorted({*DATASETS.available()} - {"folder", "csv", "pairs"}))
def test_data_sets_that_are_not_ones_own_name_their_source(name: str) -> None:
    assert "\nSource: " in (inspect.getdoc(DATASETS.get(name)) or ""), f"{name} does not say where it comes from"


@pytest.mark.parametrize("name", sorted(public()))
def test_arguments_are_documented(name: str) -> None:
    thing = public()[name]
    if inspect.ismodule(thing) or (isinstance(thing, type) and issubclass(thing, Warning)):
        return
    text = inspect.getdoc(thing) or ""
    for parameter in inspect.signature(thing).parameters.values():
        if "Args:" in text:
            assert parameter.name in text, f"{name} does not describe {parameter.name}"


def test_the_page_of_methods_has_each_of_them_as_it_is() -> None:
    """Its name, where its e- comes from, and whether it is signed and additive."""
    listed = {row[0]: row[1:] for row in rows("methods.md") if row[0] in fm.methods.available()}
    assert sorted(listed) == fm.methods.available()
    e_minus = {"asked": "asked", "negated": "negative", "found": "found", "none": "none"}
    for name, row in listed.items():
        method = fm.methods.get(name)
        assert ("additive" in row[0]) == method.additive, name
        if not method.control:
            assert ("signed" in row[0]) == method.signed, name
            assert row[-1] == e_minus[method.opposite], name


@pytest.fixture(scope="module")
def model() -> Callable[..., fm.Model]:
    """`load`, whose default is read once: most examples ask for it."""
    load, default = fm.load, fm.load()
    return lambda *args, **settings: load(*args, **settings) if args or settings else default


# -- the pages of metrics and data sets -------------------------------------------------------------------------------


def test_the_page_of_metrics_has_each_of_them_as_it_is() -> None:
    """Its parts and which way is better, what it needs and its parameters."""
    listed = {row[0]: row[2:] for row in rows("metrics.md") if row[0] in METRICS.available()}
    assert sorted(listed) == METRICS.available()
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}
    for name, (tells, needs, _, parameters) in listed.items():
        metric = METRICS.get(name)
        assert tells == ", ".join(f"`{part}`{arrows[better]}" for part, better in metric.parts.items()), name
        task = {metric.task} - {"any"}
        assert sorted(filter(None, needs.split(", "))) == sorted({*metric.needs} | task), name
        assert said(parameters, metric) == defaults(metric), name


@pytest.mark.parametrize("name", METRICS.available())
def test_the_page_of_metrics_says_what_they_cost(name: str) -> None:
    """Forward passes, and maps of the method, of one sample alone."""
    (cost,) = (row[4] for row in rows("metrics.md") if row[0] == name)
    metric, asked = METRICS.create(name), list[Tensor]()
    case = one_face() if metric.task == "verification" else one_picture()

    def explain(x: Tensor, target: Target, model: Any = None) -> Tensor:
        asked.extend(x)
        return (-1 if isinstance(target, Dissimilarity) else 1) * x.sum(dim=1).sigmoid()

    case.explain = explain
    found = metric.measure(case)
    assert all(len(value) == 1 for value in found.values.values())
    maps = f" + {len(asked)} map{'s' if len(asked) > 1 else ''}" if asked else ""
    assert re.match(r"\d+( \+ \d+ maps?)?", cost)[0] == f"{case.forwards}{maps}"


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("example", ["metrics.md"], indirect=True)
def test_the_metric_on_the_page_runs() -> None:
    """It is registered, judges maps as its sentence says, and is taken by `evaluate`."""
    dropped = []
    for k in range(5):
        case = one_picture(k)
        dropped += METRICS.create("hard-drop", threshold=0.3).measure(case).values["hard-drop"].tolist()
        assert case.forwards == 2
        pixels = case.model.to_pixels(case.x) * (unit_scaled(case.maps) >= 0.3)[:, None]
        before, after = (float(Probability(k)(case.model.network(x))) for x in (case.x, case.model.from_pixels(pixels)))
        assert dropped[k] == pytest.approx(max(0.0, before - after) / before, abs=1e-9)
    assert sum(dropped) > 0
    case.maps[0, 3, 3] = torch.nan
    assert METRICS.create("hard-drop").measure(replace(case)).values["hard-drop"].isnan().all()
    found = fm.evaluate(fm.load(), fm.datasets.load("photos"), [], ["hard-drop"], limit=1, batch_size=1)
    assert {one.method: one.value for one in found.records}["constant"] == 0


def test_the_page_of_data_sets_has_each_of_them_as_it_is() -> None:
    """Its task and parameters; and a section."""
    listed = {row[0]: row[3:] for row in rows("datasets.md") if row[0] in DATASETS.available()}
    assert sorted(listed) == DATASETS.available()
    for name, (task, parameters) in listed.items():
        data = DATASETS.get(name)
        assert task == data.task, name
        assert said(parameters, data) == defaults(data), name
    sections = re.findall(r"^### `(.+)`$", (DOCS / "datasets.md").read_text(), flags=re.M)
    assert sorted(sections) == DATASETS.available()


@pytest.mark.parametrize("name", DATASETS.available())
def test_layouts_on_the_page_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of its section, with the tables that stand there, are what its call reads."""
    section = (DOCS / "datasets.md").read_text().partition(f"### `{name}`\n")[2].partition("\n##")[0]
    call, *blocks = re.findall(r"```(?:python)?\n(.*?)```", section, flags=re.S)
    tree, *tables = blocks or [""]
    monkeypatch.chdir(tmp_path)
    for file in laid_out(tree):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tables[0].encode() if file.suffix == ".csv" else content(name, file))
    data = eval(call)
    assert len(data) > 0
    if name == "voc" or name == "imagenet":
        assert data[0].truth is not None
    if data.task == "verification" and name != "insightface-bin":
        assert all(data[0].subjects)


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("example", ["datasets.md"], indirect=True)
def test_the_data_set_on_the_page_runs(tmp_path: Path) -> None:
    """Its masks reach the network's input, and one that is absent is an error."""
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 6), 1).save(tmp_path / folder / f"a.{suffix}")
    (one,) = DATASETS.create("masked", folder=str(tmp_path))
    (geometry,) = fm.Classifier(nets.gap_linear(), size=32).read([one.image]).geometries
    assert one.truth.on(geometry).all()
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 files that are absent"):
        DATASETS.create("masked", folder=str(tmp_path))


# -- the house --------------------------------------------------------------------------------------------------------


def test_files_import_only_from_the_lines_below_their_own() -> None:
    """The order of the rooms in CONTRIBUTING; what stands on one line does not import one another either."""
    page = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]
    lines = [re.findall(r"`([\w]+)(?:\.py|/)`", line.split("|")[1]) for line in page.splitlines() if "| `" in line[:3]]
    floor = {room: number for number, line in enumerate(lines) for room in line}
    assert len(floor) == sum(map(len, lines))  # each stands there once
    package = ROOT / "src" / "faithmap"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {*floor} == rooms - {"__init__", "__main__"}  # which import on demand what users name, and the command line
    side_by_side = {"methods", "metrics", "datasets"}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for other in imported(path) - {room} if room in floor else ():
            assert floor[room] < floor[other], f"{path.relative_to(package)} imports {other}, which is not below {room}"
            assert not {room, other} <= side_by_side, f"{path.relative_to(package)} imports {other}"


# -- helpers ----------------------------------------------------------------------------------------------------------


def rows(page: str) -> Iterator[list[str]]:
    """The rows of a page's tables, cell by cell; the name in the first without its quotes."""
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith("| `"):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            yield [first.strip("`"), *cells]


def said(parameters: str, kind: type[Any]) -> dict[str, Any]:
    """What a cell says of parameters: ``name=default``, or a name that is needed."""
    hints = get_type_hints(kind)
    pairs = (one.partition("=") for one in filter(None, parameters.split(", ")))
    return {name: parsed(text, hints[name]) if equals else MISSING for name, equals, text in pairs}


def defaults(kind: type[Any]) -> dict[str, Any]:
    return {f.name: f.default for f in fields(kind)}


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The new one of a page in a module of its own; afterwards it is no longer registered."""
    page, known = (DOCS / request.param).read_text(), [(r, dict(r._classes)) for r in (METRICS, DATASETS)]
    (code,) = re.findall(r"```python\n(.*?)```", page.partition("## Adding one")[2], flags=re.S)
    (tmp_path / "a_new_one.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("a_new_one")
    yield
    del sys.modules["a_new_one"]
    for registry, classes in known:
        registry._classes = classes


def one_picture(k: int = 1) -> Case:
    """A picture, a map, a box and coefficients; nothing of it is alike."""
    model = fm.Classifier(nets.VGGLike().double().eval(), size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    x = model.from_pixels(torch.rand(1, 3, 32, 32, dtype=torch.float64))
    truth = torch.zeros(1, 32, 32, dtype=torch.bool)
    truth[:, 4:9, 4:9] = True
    shapley = torch.randn(1, 8), torch.rand(1, 8)
    maps, alpha = torch.randn(1, 32, 32), torch.randn(1, 8)
    known = {"truth": truth, "first": truth, "donors": x.flip(3)}
    return Case(model, x, maps, Logit([k]), coefficients=alpha, shapley=shapley, **known)


def one_face() -> Case:
    """An impostor pair, for which no third person is needed, and a network that compares pixels.

    Most of what it sees in the faint probe is the square that comes from the gallery.
    """
    face = fm.FaceEmbedder(torch.nn.Flatten(), size=32)
    x, partners = 0.1 * torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    target, genuine = Similarity(face.embed(partners)), torch.tensor([False])
    return Case(face, x, torch.randn(1, 32, 32), target, genuine=genuine, partners=partners, threshold=0.5)


def laid_out(tree: str) -> Iterator[Path]:
    """The files of a tree, two spaces for each folder, without what follows a #."""
    folders: list[str] = []
    for line in tree.splitlines():
        name = line.partition("#")[0].rstrip()
        depth = (len(name) - len(name.lstrip())) // 2
        folders[depth:] = [name.strip()]
        if not name.endswith("/"):
            yield Path(*folders)


def content(name: str, file: Path) -> bytes:
    """What an index holds; pictures are opened when they are used."""
    kind = "n01440764" if name == "imagenet" else "cat"
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    photo = '{"id": 1, "file_name": "000000000001.jpg", "width": 9, "height": 9}'
    where = '{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 4, 4]}'
    held = {
        "val.txt": "2012_000001",
        "pairs.txt": "1 1\nFirst_Person 1 2\nFirst_Person 1 Second_Person 1",
        "Pair_list_F.txt": "1 ../Data/Images/001/frontal/01.jpg",
        "Pair_list_P.txt": "1 ../Data/Images/001/profile/01.jpg\n2 ../Data/Images/002/profile/01.jpg",
        "same.txt": "1,1",
        "diff.txt": "1,2",
        "instances_val2017.json": f'{{"categories": [{{"id": 7, "name": "cat"}}], "images": [{photo}], '
        f'"annotations": [{where}]}}',
        ".xml": f"<annotation><object><name>{kind}</name>{box}</object></annotation>",
    }
    if file.suffix == ".bin":
        return pickle.dumps(([b"gallery", b"probe"], [True]))
    return held.get(file.name, held.get(file.suffix, "")).encode()


def imported(path: Path) -> set[str]:
    """The rooms that a file imports anywhere, also for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "faithmap":
            inner = node.module.split(".")[1:]
            found |= {inner[0]} if inner else {fm._HOMES.get(alias.name, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("faithmap.")}
    return found
