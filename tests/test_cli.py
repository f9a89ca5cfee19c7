"""The command line: what it writes and prints, what it refuses before any work, and its exit codes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import faithmap as fm
from faithmap import cli
from faithmap.cli import main
from faithmap.files import save_picture
from faithmap.terminal import Screen, plain
from tests import nets

Run = Callable[..., tuple[int, str, str]]


def classifier(module: torch.nn.Module, **settings: Any) -> fm.Classifier:
    return fm.Classifier(module, size=32, labels=["ant", "bee", "cat", "dog", "eel"], **settings)


# All methods, the slow ones at work that is small enough for a test.
SETTINGS = """
corrise.masks=20 extremal-perturbation.iterations=2 fame.iterations=2 kernel-shap.segments=5 kernel-shap.samples=20
lime.segments=5 lime.samples=20 rise.masks=20 s-rise.masks=20 smooth-grad.samples=2
"""
SMALL = [word for setting in SETTINGS.split() for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def _tiny_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three small networks as models that the command line can name."""
    if request.node.get_closest_marker("real"):
        return
    room = importlib.import_module("faithmap.models.load")  # the package's attribute of that name is the function

    def seeded(make: Callable[[], fm.models.Model]) -> Callable[..., fm.models.Model]:
        def build(**_: Any) -> fm.models.Model:
            torch.manual_seed(0)
            return make()

        return build

    sources = (
        room.Source("tiny", "a classifier", seeded(lambda: classifier(nets.gap_linear().eval()))),
        room.Source("deep", "a classifier", seeded(lambda: classifier(nets.VGGLike().eval()))),
        room.Source("eyes", "a face", seeded(lambda: fm.FaceEmbedder(nets.Faces().eval(), size=32)), fm.FaceEmbedder),
    )
    monkeypatch.setattr(room, "SOURCES", sources)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "a cat ü.png")


def picture(path: Path, size: tuple[int, int] = (48, 40)) -> Path:
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(len(path.name)))
    Image.fromarray(noise.byte().numpy()).save(path)
    return path


def test_explain_writes_the_maps_that_python_gives(run: Run, photo: Path, tmp_path: Path) -> None:
    """The saved map is bit for bit that of fm.explain, with the values of --set; the sheet is a picture."""
    out = tmp_path / "new" / "out"
    code, printed, said = run(
        "explain", photo, "-m", "tiny", "--methods", "lift-cam, fame", "--set", "fame.iterations=3",
        "--set", "fame.step=1/100", "--set", "fame.clamp=true", "--set", "fame.stop_below=none", "-o", out,
    )  # fmt: skip
    assert (code, said) == (0, "")
    assert "lift-cam" in printed
    saved = fm.Attribution.load(out / "a cat ü.fame.safetensors")
    method = fm.methods.FAME(iterations=3, step=0.01, clamp=True)
    torch.testing.assert_close(saved.maps, fm.explain(fm.load("tiny"), photo, method).maps, rtol=0, atol=0)
    assert saved.provenance["parameters"] == method.parameters
    assert Image.open(out / "a cat ü.maps.png").mode == "RGB"
    assert sorted(path.suffix for path in out.iterdir()) == [".png", ".safetensors", ".safetensors"]


def test_json_is_one_document_and_the_only_thing_on_stdout(run: Run, photo: Path, tmp_path: Path) -> None:
    """It holds the prediction, the explained class, and each method's cost and file."""
    code, printed, _ = run(
        "explain", photo, "-m", "tiny", "-t", "bee", "--methods", "cam,grad-cam", "--json", "-o", tmp_path
    )
    document = json.loads(printed)
    (image,) = document["images"]
    net = fm.load("tiny")
    assert isinstance(net, fm.Classifier)
    best = net.predict(photo)[0]
    assert code == 0
    assert image["prediction"] == {
        "label": best.label,
        "index": best.index,
        "probability": pytest.approx(best.probability),
    }
    assert (image["explained"]["label"], image["explained"]["index"]) == ("bee", 1)
    assert [method["method"] for method in image["methods"]] == ["cam", "grad-cam"]
    assert all(Path(method["file"]).is_file() for method in image["methods"])
    assert Path(image["sheet"]).is_file()


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    """NaN and infinity, wherever they are."""
    assert json.loads(json.dumps(plain({"a": [float("nan"), 1.0], "b": (float("inf"),)}))) == {
        "a": [None, 1.0],
        "b": [None],
    }


def test_one_bad_picture_of_several_does_not_stop_the_others(run: Run, photo: Path, tmp_path: Path) -> None:
    """Exit code 1, one line on stderr for it, and the others' files are there."""
    (tmp_path / "text.jpg").write_text("no picture")
    images = (photo, tmp_path / "text.jpg", tmp_path / "absent.png", picture(tmp_path / "b.png"))
    code, printed, said = run("explain", *images, "-m", "tiny", "--methods", "cam", "-o", tmp_path / "out", "--json")
    document = json.loads(printed)
    assert code == 1
    assert len(said.splitlines()) == 2
    assert [one["image"] for one in document["failed"]] == [str(images[1]), str(images[2])]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a cat ü.maps.png", "b.maps.png"}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batch_size_changes_no_file(run: Run, tmp_path: Path, size: int) -> None:
    """Each picture's map is its own, whatever was computed beside it."""
    images = [picture(tmp_path / f"{name}.png") for name in ("x", "yy", "zzz")]
    run("explain", *images, "-m", "tiny", "--methods", "lift-cam", "-o", tmp_path, "--batch-size", size)
    for image in images:
        saved = fm.Attribution.load(image.with_suffix(".lift-cam.safetensors"))
        torch.testing.assert_close(saved.maps, fm.explain(fm.load("tiny"), image).maps, rtol=1e-4, atol=1e-6)


def test_pictures_of_one_name_get_files_of_their_own_and_photos_are_never_overwritten(run: Run, tmp_path: Path) -> None:
    """Same base name in two folders and in two formats; a photo that is called as a sheet would be."""
    (tmp_path / "sub").mkdir()
    images = [picture(tmp_path / "x.png"), picture(tmp_path / "sub" / "x.png"), picture(tmp_path / "x.maps.png")]
    before = [image.read_bytes() for image in images]
    code, printed, _ = run("explain", *images, "-m", "tiny", "--methods", "cam", "-o", tmp_path, "--json")
    told = json.loads(printed)["images"]
    assert code == 0
    assert len({one["sheet"] for one in told} | {one["methods"][0]["file"] for one in told}) == 6
    assert [image.read_bytes() for image in images] == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model", "tinny"], "did you mean tiny"),
        (["--methods", "fame,lift"], "lift-cam"),
        (["--methods", " , "], "available"),
        (["--set", "lift-cam.layers=x"], "did you mean layer"),
        (["--set", "fame.iterations=abc"], "whole number"),
        (["--set", "fame.step=1/0"], "finite number"),
        (["--set", "fame.clamp=maybe"], "True or False"),
        (["--set", "cam.layer=x"], "not among the methods"),
        (["--set", "fame"], "METHOD.NAME=VALUE"),
        (["--set", "lift-cam.layer=99"], "no layer '99'"),
        (["--target", "beee"], "did you mean bee"),
        (["--target", "5"], "0 to 4"),
        (["--device", "tpu"], "'cpu'"),
        (["--precision", "fp16"], "'bf16'"),
        (["--model", "eyes"], "faithmap verify"),
        (["--batch-size", "0"], "--batch-size"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_any_work(
    run: Run, photo: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    """Exit code 2, one line on stderr that names what would work, nothing on stdout, no folder made."""
    model = [] if "--model" in arguments else ["--model", "tiny"]
    code, printed, said = run("explain", photo, *model, *arguments, "--out", tmp_path / "out")
    assert (code, printed, len(said.splitlines())) == (2, "", 1)
    assert said.startswith("error: ")
    assert word in said
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused(run: Run, photo: Path) -> None:
    """A path under a file."""
    code, _, said = run("explain", photo, "-m", "tiny", "-o", photo / "out")
    assert (code, "is a file" in said) == (2, True)


def test_a_method_that_does_not_fit_the_network_leaves_no_file(run: Run, photo: Path, tmp_path: Path) -> None:
    """CAM behind a head of several layers: known only once the network runs, and still nothing is half done."""
    code, printed, said = run("explain", photo, "-m", "deep", "--methods", "grad-cam,cam", "-o", tmp_path / "out")
    assert (code, printed, len(said.splitlines())) == (2, "", 1)
    assert not list((tmp_path / "out").iterdir())


def test_only_unreadable_pictures_is_refused_and_makes_no_folder(run: Run, tmp_path: Path) -> None:
    """Nothing was done, so the exit code is 2."""
    code, _, said = run("explain", tmp_path / "absent.png", "-m", "tiny", "-o", tmp_path / "out")
    assert (code, len(said.splitlines()), (tmp_path / "out").exists()) == (2, 1, False)


def test_ctrl_c_is_told_in_one_line(run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130 and no traceback."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fm, "explain", interrupted)
    code, _, said = run("explain", photo, "-m", "tiny", "-o", tmp_path / "out")
    assert (code, said) == (130, "stopped: what had been written is whole\n")


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, EOFError])
def test_a_bug_shows_its_traceback(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Exit code 70; a ValueError that faithmap did not raise is no refusal."""

    def broken(*_: Any, **__: Any) -> None:
        raise error("broken")

    monkeypatch.setattr(fm, "explain", broken)
    code, _, said = run("explain", photo, "-m", "tiny", "-o", tmp_path / "out")
    assert (code, "Traceback" in said, "broken" in said) == (70, True, True)


def test_a_degenerate_map_is_told_in_a_line(run: Run, photo: Path, tmp_path: Path) -> None:
    """FAME that ends before its first step: a warning, the reason in the document, exit code 0."""
    ask = (
        "explain",
        photo,
        "-m",
        "tiny",
        "--methods",
        "fame",
        "--set",
        "fame.stop_below=1000",
        "-o",
        tmp_path,
        "--json",
    )
    code, printed, said = run(*ask)
    assert code == 0
    assert said.startswith("warning: fame on a cat ü.png: ")
    assert "stop_below" in json.loads(printed)["images"][0]["methods"][0]["degenerate"]
    assert run(*ask, "--quiet")[2] == ""


def test_quiet_prints_nothing(run: Run, photo: Path, tmp_path: Path) -> None:
    """Files are written all the same."""
    assert run("explain", photo, "-m", "tiny", "--methods", "cam", "-o", tmp_path, "-q") == (0, "", "")
    assert (tmp_path / "a cat ü.maps.png").is_file()


def test_compare_writes_one_page_and_the_maps_that_python_gives(run: Run, photo: Path, tmp_path: Path) -> None:
    """A row for each readable photo, a file for each photo and method; code 1 for the photo that is none."""
    other, out = picture(tmp_path / "b.png"), tmp_path / "out"
    ask = ("compare", photo, other, tmp_path / "absent.png", "-m", "tiny", "--methods", "lift-cam,random", "-t", "bee")
    code, printed, said = run(*ask, "-o", out, "--json")
    document = json.loads(printed)
    found = fm.compare(fm.load("tiny"), [photo, other], ["lift-cam", "random"], "bee")
    assert (code, len(said.splitlines()), len(document["failed"])) == (1, 1, 1)
    assert document["agreement"]["lift-cam"] == pytest.approx(found.agreement()["lift-cam"])
    for i, image in enumerate(document["images"]):
        for about in image["methods"]:
            assert torch.equal(fm.Attribution.load(about["file"]).maps, found[about["method"]].maps[i : i + 1])
    assert sorted(path.suffix for path in out.iterdir()) == [".png"] + 4 * [".safetensors"]
    assert Path(document["sheet"]).name == "a cat ü-and-1-more.compare.png"
    printed = run(*ask, "-o", out, "--signed")[1]
    assert "Do they agree?" in printed


@pytest.mark.parametrize(("methods", "expected"), [("grad-cam,cam", 1), ("all", 0)])
def test_compare_tells_which_methods_refuse(run: Run, photo: Path, tmp_path: Path, methods: str, expected: int) -> None:
    """CAM behind several layers, known only once it runs: an error where it was asked for, a warning in all."""
    small = SMALL if methods == "all" else ()
    code, printed, said = run("compare", photo, "-m", "deep", "--methods", methods, *small, "-o", tmp_path, "--json")
    document = json.loads(printed)
    assert (code, list(document["refused"])) == (expected, ["cam"])
    assert said.startswith(("error" if expected else "warning") + ": cam: cam needs a head")
    assert len(said.splitlines()) == 1
    assert {one["method"] for one in document["images"][0]["methods"]} >= {"grad-cam"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--methods", "fame,lift"], "lift-cam"),
        (["--set", "lift-cam.layer=99"], "no layer '99'"),
        (["--target", "beee"], "did you mean bee"),
        (["--model", "eyes"], "faithmap verify"),
    ],
)
def test_compare_refuses_before_any_work(
    run: Run, photo: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    """Exit code 2, one line on stderr, no folder made."""
    model = [] if "--model" in arguments else ["--model", "tiny"]
    code, printed, said = run("compare", photo, *model, *arguments, "--out", tmp_path / "out")
    assert (code, printed, len(said.splitlines()), word in said) == (2, "", 1, True)
    assert not (tmp_path / "out").exists()


def test_more_methods_than_a_terminal_is_wide_are_told_by_their_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with the mean, the most and the least like it; a method that agrees with none has none."""
    names = [f"m{i}" for i in range(11)]
    far = {a: {b: 1 - abs(i - j) / 10 for j, b in enumerate(names)} for i, a in enumerate(names)}
    table = {a: {b: math.nan if "m10" in (a, b) else r for b, r in row.items()} for a, row in far.items()}
    Screen(False, False).agreement(table, 1)
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["m0"] == ["0.50", "0.90", "m1", "0.10", "m9"]
    assert rows["m10"] == ["none"]


@pytest.mark.parametrize("decision", ["match", "no match", None])
def test_verify_tells_score_threshold_and_decision(run: Run, photo: Path, tmp_path: Path, decision: str | None) -> None:
    """The score is the model's own similarity; a figure and a file per method; no decision without a threshold."""
    other, face = picture(tmp_path / "b.png"), fm.load("eyes")
    assert isinstance(face, fm.FaceEmbedder)
    score = face.similarity(photo, other)
    threshold = None if decision is None else score - 0.01 if decision == "match" else score + 0.01
    given = () if threshold is None else ("--threshold", threshold)
    ask = ("verify", photo, other, "-m", "eyes", "--methods", "grad-cam,random", "-o", tmp_path / "out", *given)
    code, printed, _ = run(*ask, "--json")
    document = json.loads(printed)
    assert code == 0
    assert document["score"] == pytest.approx(score, abs=1e-5)
    assert document["match"] is (None if decision is None else decision == "match")
    saved = fm.PairAttribution.load(document["methods"][0]["file"])
    assert saved.threshold == threshold
    assert all(Path(method["figure"]).is_file() for method in [*document["methods"], {"figure": document["sheet"]}])
    assert run(*ask)[1].splitlines()[0].endswith(decision or "no decision without --threshold")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [([], "eyes"), (["-m", "tiny"], "eyes"), (["-m", "eyes", "--threshold", "nan"], "-1 to 1")],
)
def test_verify_refuses(run: Run, photo: Path, tmp_path: Path, arguments: list[str], word: str) -> None:
    """No model, a classifier, a threshold that is no cosine: one line that names what would work."""
    code, _, said = run("verify", photo, photo, *arguments, "-o", tmp_path / "out")
    assert (code, len(said.splitlines()), word in said) == (2, 1, True)
    assert not (tmp_path / "out").exists()


def test_verify_with_all_methods_leaves_out_those_that_cannot(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CAM does not know a cosine: a warning, and the others' files."""
    monkeypatch.setattr(cli, "save_picture", lambda _, path: path)  # forty figures take most of the time
    ask = ("verify", photo, picture(tmp_path / "b.png"), "-m", "eyes", "--methods", "all", *SMALL)
    code, printed, said = run(*ask, "-o", tmp_path / "out", "--json")
    document = json.loads(printed)
    assert (code, list(document["refused"])) == (0, ["cam"])
    assert said.startswith("warning: cam: cam needs a head")
    assert {one["method"] for one in document["methods"]} >= {"fame", "lift-cam", "random"}


def test_locations_of_one_layer(run: Run, photo: Path, tmp_path: Path) -> None:
    """One share per place of the layer, as fm.explain_locations gives them; null where a place is dead."""
    code, printed, _ = run(
        "locations", photo, "-m", "tiny", "--layer", "2", "--iterations", 2, "-o", tmp_path, "--json"
    )
    document = json.loads(printed)
    method = fm.methods.FAME(iterations=2, sigma=2.0)
    shares = fm.explain_locations(fm.load("tiny"), photo, "2", method=method).shares
    assert code == 0
    told = torch.tensor([[float("nan") if share is None else share for share in row] for row in document["shares"]])
    torch.testing.assert_close(told, shares, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert Path(document["sheet"]).is_file()


def test_locations_of_all_layers(run: Run, photo: Path, tmp_path: Path) -> None:
    """A row per suggested layer over the readable photos, from shallow to deep; a chart; code 1 for the bad one."""
    ask = ("locations", photo, tmp_path / "absent.png", "-m", "deep", "--all-layers", "--places", 4, "--iterations", 2)
    code, printed, said = run(*ask, "-o", tmp_path / "out", "--json")
    document = json.loads(printed)
    areas = [h * w for h, w in (row["grid"] for row in document["layers"])]
    assert (code, len(said.splitlines()), document["images"]) == (1, 1, [str(photo)])
    assert areas == sorted(areas, reverse=True)
    assert len(areas) == len(fm.load("deep").suggest_layers())
    assert all(row["low"] <= row["share"] <= row["high"] for row in document["layers"])
    assert Path(document["chart"]).is_file()


@pytest.mark.parametrize(
    "arguments", [["--layer", "0", "--all-layers"], ["--places", "3"], ["--layer", "nine"], ["again.png"]]
)
def test_locations_refuses_what_does_not_go_together(
    run: Run, photo: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """In one line, before any work."""
    code, _, said = run("locations", photo, *arguments, "-m", "tiny", "-o", tmp_path / "out")
    assert (code, len(said.splitlines()), (tmp_path / "out").exists()) == (2, 1, False)


def test_a_layer_with_too_many_places_for_a_sheet_is_refused(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before hours of work."""
    monkeypatch.setattr(cli, "MOST_PLACES", 10)
    code, _, said = run("locations", photo, "-m", "tiny", "--layer", "2")
    assert (code, "16 x 16 places" in said, "--all-layers" in said) == (2, True, True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("x", "yy", "zzz"):
        picture(folder / f"{name}.png")
    return folder


@pytest.fixture
def pairs(folder: Path, tmp_path: Path) -> Path:
    """Of the pictures: two genuine pairs and an impostor's; the CSV lies beside their folder."""
    rows = ["x.png,x.png,1,ann,ann", "x.png,yy.png,1,ann,ann", "x.png,zzz.png,0,ann,bob"]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["gallery,probe,genuine,gallery_subject,probe_subject", *rows]) + "\n")
    return path


def test_recommend_tells_what_python_finds(run: Run, folder: Path, tmp_path: Path) -> None:
    """The same scores; a chart, and a page with the words and a row for each method and control."""
    out = tmp_path / "new" / "out"
    methods = ["grad-cam", fm.methods.create("fame", iterations=2)]
    found = fm.recommend(fm.load("tiny"), folder, methods, seed=3, limit=2)
    ask = ["recommend", folder, "-m", "tiny", "--methods", "grad-cam,fame", "--set", "fame.iterations=2"]
    ask += ["--seed", 3, "--limit", 2, "-o", out]
    code, printed, said = run(*ask, "--json")
    document = json.loads(printed)
    assert (code, said) == (0, "")
    assert (document["chosen"], document["samples"]) == (None, 2)
    assert document["control"] == found.verdict.control
    told = {one["label"]: one["score"] for one in document["standings"]}
    assert told == {one.label: pytest.approx(one.score._asdict()) for one in found.verdict.standings}
    assert {path.name for path in out.iterdir()} == {"recommend.png", "recommend.md"}
    assert [document["chart"], document["sheet"]] == [str(out / "recommend.png"), str(out / "recommend.md")]
    assert Image.open(out / "recommend.png").format == "PNG"
    page = (out / "recommend.md").read_text(encoding="utf-8")
    assert page.startswith("# Which method to trust for tiny\n")
    assert str(found).splitlines()[0] in page
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    rows.remove("---")
    assert rows == ["method", *(one.label for one in found.verdict.standings)]
    code, printed, _ = run(*ask)
    assert code == 0
    assert str(found).splitlines()[0] in printed.replace("\n", " ")
    assert all(label in printed for label in told)
    assert run(*ask, "--quiet") == (0, "", "")


def test_recommend_without_methods_tries_those_within_the_budget(run: Run, folder: Path, tmp_path: Path) -> None:
    """And says which it did not, and why."""
    code, printed, _ = run(
        "recommend", folder, "-m", "tiny", "--budget", 1, "--limit", 1, "-o", tmp_path / "o", "--json"
    )
    document = json.loads(printed)
    labels = {one["label"] for one in document["standings"]}
    assert code == 0
    assert {"grad-cam", "lift-cam", "random"} <= labels
    assert "fame" not in labels
    assert "more than the budget of 1" in document["not_tried"]["fame"]


def test_recommend_of_a_face_recogniser_takes_pairs(run: Run, pairs: Path, folder: Path, tmp_path: Path) -> None:
    """The genuine ones; their pictures may lie elsewhere than the CSV."""
    ask = ("recommend", pairs, "-m", "eyes", "--methods", "grad-cam", "-o", tmp_path / "out", "--json")
    code, printed, _ = run(*ask, "--pictures", folder)
    document = json.loads(printed)
    assert (code, document["samples"]) == (0, 2)
    assert "similarity to the gallery" in document["criterion"]


@pytest.mark.parametrize(
    ("given", "arguments", "words"),
    [
        ("absent", [], "there is no folder"),
        ("empty", [], "there are no pictures in"),
        ("photos", ["--model", "tinny"], "did you mean tiny"),
        ("photos", ["--model", "eyes"], "give a CSV with gallery, probe, genuine"),
        ("photos", ["--pictures", "photos"], "--pictures says where those of a CSV of pairs are"),
        ("pairs.csv", [], "there is no folder"),
        ("pairs.csv", ["--model", "eyes"], "names 3 of 3 files that are absent"),
        ("absent.csv", ["--model", "eyes"], "expected a CSV file with the columns gallery, probe and genuine"),
        ("photos", ["--methods", "grad-cm"], "did you mean grad-cam"),
        ("photos", ["--set", "fame.iterations=2"], "--set needs --methods"),
        ("photos", ["--budget", "0"], "--budget"),
        ("photos", ["--limit", "0"], "--limit"),
        ("photos", ["--batch-size", "0"], "--batch-size"),
        ("photos", ["--device", "tpu"], "'cpu'"),
    ],
)
def test_recommend_refuses_before_any_work(
    run: Run,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    arguments: list[str],
    words: str,
) -> None:
    """Exit code 2, one line on stderr that names what would work, no folder made."""
    assert pairs.parent == tmp_path
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    model = [] if "--model" in arguments else ["--model", "tiny"]
    code, printed, said = run("recommend", given, *model, *arguments, "-o", "out")
    assert (code, printed, len(said.splitlines())) == (2, "", 1)
    assert words in said
    assert not Path("out").exists()


def test_recommend_goes_on_where_one_picture_is_broken_and_stops_where_all_are(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    (folder / "x.png").write_text("no picture")
    ask = ("recommend", folder, "-m", "tiny", "--methods", "grad-cam", "-o", tmp_path / "out", "--json")
    code, printed, said = run(*ask)
    document = json.loads(printed)
    grad_cam = next(one for one in document["standings"] if one["label"] == "grad-cam")
    assert (code, grad_cam["score"]["samples"], document["samples"], list(document["unread"])) == (1, 2, 2, ["x.png"])
    assert "x.png" in said
    for path in folder.iterdir():
        path.write_text("no picture")
    code, printed, said = run(*ask)
    assert (code, printed, "can be explained" in said) == (2, "", True)


def test_verify_reports_on_a_list_of_pairs(run: Run, pairs: Path, folder: Path, tmp_path: Path) -> None:
    """The report of fm.verification_report, as Markdown beside a histogram; the threshold is told or the EER's."""
    out = tmp_path / "new" / "out"
    ask = ("verify", "--pairs", pairs, "--pictures", folder, "-m", "eyes", "-o", out)
    face = fm.load("eyes")
    assert isinstance(face, fm.FaceEmbedder)
    data = fm.datasets.load("pairs", file=pairs, folder=folder)
    code, printed, said = run(*ask, "--json")
    document = json.loads(printed)
    assert (code, said) == (0, "")
    assert document["report"] == fm.verification_report(face, data).markdown()
    assert {path.name for path in out.iterdir()} == {"verification.png", "verification.md"}
    assert Path(document["page"]).read_text(encoding="utf-8") == document["report"]
    assert Image.open(document["chart"]).format == "PNG"
    assert "It was chosen on the pairs that it is judged by" in " ".join(document["report"].split())
    face.threshold = 0.25
    code, printed, _ = run(*ask, "--threshold", 0.25)
    assert code == 0
    assert "Threshold 0.250, the model's own." in printed
    assert (out / "verification.md").read_text(encoding="utf-8") == fm.verification_report(face, data).markdown()
    assert run(*ask, "--quiet") == (0, "", "")


def test_verify_names_no_person_and_no_file_in_a_report(run: Run, pairs: Path, folder: Path, tmp_path: Path) -> None:
    """A pair that cannot be read is told by its number; the exit code is 1."""
    with pairs.open("a") as file:
        file.write("yy.png,broken.png,0,ann,eve\n")
    (folder / "broken.png").write_text("no picture")
    code, printed, said = run("verify", "--pairs", pairs, "--pictures", folder, "-m", "eyes", "-o", tmp_path / "out")
    page = (tmp_path / "out" / "verification.md").read_text(encoding="utf-8")
    assert code == 1
    assert said.startswith("error: no. 4 (probe: ")
    assert "1 more pair could not be read" in printed
    assert not [word for word in ("ann", "bob", "eve", "broken", "yy", "zzz", str(folder)) if word in page + said]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "two faces, PROBE GALLERY, or a list of pairs, --pairs"),
        (["photos/x.png"], "two faces, PROBE GALLERY, or a list of pairs, --pairs"),
        (["photos/x.png", "photos/yy.png", "--pairs", "pairs.csv"], "two faces, PROBE GALLERY, or a list of pairs"),
        (["photos/x.png", "--pairs", "pairs.csv"], "two faces, PROBE GALLERY, or a list of pairs"),
        (["photos/x.png", "photos/yy.png", "--pictures", "photos"], "--pictures says where those of --pairs are"),
        (["--pairs", "pairs.csv"], "names 3 of 3 files that are absent"),
        (["--pairs", "pairs.csv", "--pictures", "absent"], "there is no folder"),
        (["--pairs", "absent.csv"], "there is no file"),
        (["--pairs", "photos"], "give a CSV with gallery, probe, genuine"),
        (["--pairs", "pairs.csv", "--pictures", "photos", "--model", "tiny"], "is no face recogniser"),
        (["--pairs", "pairs.csv", "--pictures", "photos", "--threshold", "2"], "-1 to 1"),
    ],
)
def test_verify_takes_two_faces_or_a_list(
    run: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    assert pairs.parent == tmp_path
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments else ["--model", "eyes"]
    code, printed, said = run("verify", *arguments, *model, "-o", "out")
    assert (code, printed, len(said.splitlines())) == (2, "", 1)
    assert words in said
    assert not Path("out").exists()


def test_verify_needs_pairs_of_both_kinds(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("gallery,probe,genuine\nx.png,yy.png,1\n")
    code, printed, said = run("verify", "--pairs", path, "--pictures", folder, "-m", "eyes", "-o", tmp_path / "out")
    assert (code, printed) == (2, "")
    assert "genuine and impostor pairs: got 1 and 0" in said


@pytest.mark.real
def test_verify_reports_on_real_faces(run: Run, data: Path, tmp_path: Path) -> None:
    """MobileFaceNet tells people apart: few pairs are decided wrong."""
    lines = (data / "lfw" / "pairs.csv").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines[1:] if line]
    some = tmp_path / "pairs.csv"
    some.write_text("\n".join([lines[0], *rows[:: max(1, len(rows) // 40)]]), encoding="utf-8")
    model = f"mobilefacenet@{data / 'weights' / 'mobilefacenet_112.pth'}"
    ask = ("verify", "--pairs", some, "--pictures", data / "lfw" / "crops", "-m", model, "-o", tmp_path / "out")
    code, printed, said = run(*ask, "--json")
    assert (code, said) == (0, "")
    report = json.loads(printed)["report"]
    (accuracy,) = re.findall(r"\| accuracy +\| +([0-9.]+) %", report)
    assert float(accuracy) > 90


@pytest.mark.parametrize("what", ["metrics", "datasets"])
def test_list_tells_of_metrics_and_data_sets_what_their_registries_hold(run: Run, what: str) -> None:
    """Each with its parameters, and what it is for; as a table and as JSON."""
    room = getattr(fm, what)
    listed = {one["name"]: one for one in json.loads(run("list", what, "--json")[1])}
    code, printed, _ = run("list", what)
    assert code == 0
    assert sorted(listed) == room.available()
    for name, one in listed.items():
        kind = room.get(name)
        assert list(one["parameters"]) == [field.name for field in dataclasses.fields(kind)]
        assert one["about"]
        assert name in printed
        if what == "metrics":
            assert one["parts"] == dict(kind.parts)
            assert one["parameters"] == room.create(name).parameters
            assert set(one.get("needs", "").split(", ")) >= set(kind.needs)
        else:
            assert one["task"] == kind.task


def test_list_tells_what_the_registries_hold(run: Run) -> None:
    """Every method with its parameters and defaults, every model, every suggested layer; as tables and as JSON."""
    listed = json.loads(run("list", "methods", "--json")[1])
    assert {one["name"]: one["parameters"] for one in listed} == {
        name: fm.methods.create(name).parameters for name in fm.methods.available()
    }
    assert all(one["about"] for one in listed)
    assert [one["name"] for one in json.loads(run("list", "models", "--json")[1])] == fm.models.available()
    layers = [layer.name for layer in fm.load("deep").suggest_layers()]
    assert [one["name"] for one in json.loads(run("list", "layers", "-m", "deep", "--json")[1])] == layers
    for what in ("methods", "models", "layers"):
        code, printed, _ = run("list", what, "-m", "deep")
        assert (code, len(printed.splitlines()) > 2) == (0, True)
    assert run("list", "metric")[0] == 2


def test_help_and_version(run: Run) -> None:
    """Every command explains itself; without arguments the program does."""
    assert run("--version")[:2] == (0, f"faithmap {fm.__version__}\n")
    commands = ("explain", "compare", "recommend", "verify", "locations", "bench", "list", "demo")
    for command in ((), *((name,) for name in commands)):
        code, printed, _ = run(*command, "--help")
        assert (code, "Usage" in printed) == (0, True)
    assert "personal data" in run("verify", "--help")[1]
    assert run()[1] == run("--help")[1]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """When the encoder fails, what was there stays and nothing is left beside it."""
    path = picture(tmp_path / "x.png")
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode"):
        save_picture(Image.new("HSV", (2, 2)), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
