"""Attributions: maps with their provenance, in memory and in files that hold no pixels, no paths and no code."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

import faithmap as fm
from faithmap import attribution as rooms
from faithmap.attribution import Attribution, PairAttribution, Provenance, Sample
from tests import nets

ABOUT = Provenance("fame", {}, False, "net", "", None, 0, "float32", "cpu", {}, 0.0, 1, {})


def of(maps: Any) -> Attribution:
    maps = torch.as_tensor(maps, dtype=torch.float32)
    return Attribution(maps, [Sample(f"p{i}", "", {}, 0.0) for i in range(len(maps))], ABOUT)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two photos of other sizes than the network's input."""
    random = np.random.default_rng(0)
    paths = [tmp_path / "private folder" / "one.png", tmp_path / "private folder" / "two.png"]
    paths[0].parent.mkdir()
    for path, size in zip(paths, [(40, 48), (64, 36)], strict=True):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def att(photos: list[Path]) -> Attribution:
    model = fm.Classifier(nets.VGGLike().eval(), size=32, labels=list("abcde"), name="tiny")
    return fm.explain(model, photos, "lift-cam", ["c", 4], seed=3)


@pytest.fixture
def pair() -> PairAttribution:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=0.3)
    x = torch.rand(2, 3, 32, 32)
    found: PairAttribution = fm.explain_pair(face, x[:1], x[1:], fm.methods.FAME(iterations=2))
    return found


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


# --- files


def test_an_attribution_comes_back_as_it_was(att: Attribution, tmp_path: Path) -> None:
    path = att.save(tmp_path / "maps.safetensors")
    back = Attribution.load(path)
    assert torch.equal(back.maps, att.maps)
    assert back.samples == att.samples
    assert back.provenance == att.provenance
    assert back.completeness_error is not None
    assert torch.equal(back.completeness_error, att.completeness_error)  # type: ignore[arg-type]
    assert (back.method, back.signed, back.degenerate) == ("lift-cam", True, (None, None))
    for ours, theirs in zip(back.on_photo(), att.on_photo(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0, equal_nan=True)
    again = back.save(tmp_path / "again.safetensors")
    assert header(again) == header(path)


@pytest.mark.parametrize("method", ["fame", "random", "grad-cam"])
def test_a_pair_comes_back_as_it_was(method: str, tmp_path: Path) -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=0.3)
    x = torch.rand(2, 3, 32, 32)
    chosen = fm.methods.FAME(iterations=2) if method == "fame" else method
    pair = fm.explain_pair(face, x[:1], x[1:], chosen)
    back = PairAttribution.load(pair.save(tmp_path / "pair.safetensors"))
    assert (back.score, back.threshold, back.match, back.method) == (pair.score, 0.3, pair.match, method)
    assert back.provenance == pair.provenance
    for ours, theirs in ((back.probe, pair.probe), (back.gallery, pair.gallery)):
        assert torch.equal(ours.similar.maps, theirs.similar.maps)
        if method == "random":
            assert ours.dissimilar is None
        else:
            assert ours.dissimilar is not None
            assert torch.equal(ours.dissimilar.maps, theirs.dissimilar.maps)


def test_one_of_many_and_numpys_numbers_can_be_saved(att: Attribution, tmp_path: Path) -> None:
    part = att[1]
    assert torch.equal(Attribution.load(part.save(tmp_path / "one.safetensors")).maps[0], att.maps[1])
    about = Provenance(
        "fame", {"step": np.float32(0.5)}, False, "net", "", None, np.int64(3), "", "cpu", {}, 0.0, 1, {}
    )
    mixed = Attribution(torch.rand(1, 2, 2), [Sample("", "", {"k": np.int64(7)}, 0.0)], about)
    back = Attribution.load(mixed.save(tmp_path / "numpy.safetensors"))
    assert back.provenance["seed"] == 3
    assert back.samples[0].target == {"k": 7}


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
    sample = Sample("", "", {}, float("nan"), completeness_error=float("inf"), degenerate="it says nothing")
    back = Attribution.load(
        Attribution(torch.full((1, 2, 2), torch.nan), [sample], ABOUT).save(tmp_path / "a.safetensors")
    )
    assert bool(back.maps.isnan().all())
    assert bool(back.scores.isnan().all())
    assert back.samples[0].completeness_error == float("inf")


def test_files_hold_no_pixels_no_paths_no_embeddings_and_no_pickle(
    att: Attribution, pair: PairAttribution, photos: list[Path], tmp_path: Path
) -> None:
    for kind, path in (
        ("attribution", att.save(tmp_path / "a.safetensors")),
        ("pair", pair.save(tmp_path / "p.safetensors")),
    ):
        about = header(path)
        assert (about["format"], about["kind"]) == ("faithmap/1", kind)
        text = about["provenance"]
        for private in (str(tmp_path), "private folder", str(Path.home()), os.getcwd()):
            assert private not in text
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert all(t.is_floating_point() and t.shape[1:] == (32, 32) for t in tensors.values())
        assert len(tensors) == (1 if kind == "attribution" else 4)
        longest = max((len(v) for v in _lists(json.loads(text))), default=0)
        assert longest <= 8  # settings and sizes: an embedding or a picture is longer
        with pytest.raises(ValueError, match="opcode"):
            list(pickletools.genops(path.read_bytes()))
    assert [s["name"] for s in json.loads(header(tmp_path / "a.safetensors")["provenance"])["samples"]] == [
        "one.png",
        "two.png",
    ]


def _lists(tree: Any) -> list[list[Any]]:
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree] if isinstance(tree, list) and tree and isinstance(tree[0], (int, float)) else []
    return own + [found for child in children for found in _lists(child)]


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(
    att: Attribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = att[0].save(folder / "maps.safetensors")
    before = path.read_bytes()

    def broken(contents: Any, name: Any, about: Any) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(rooms, "save_file", broken)
    with pytest.raises(KeyboardInterrupt):
        att.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in folder.iterdir()] == ["maps.safetensors"]


def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one(att: Attribution, tmp_path: Path) -> None:
    path = att.save(tmp_path / "maps.safetensors")
    before = path.read_bytes()
    with path.open("rb") as reader:
        att[0].save(path)
        assert reader.read() == before
    assert len(Attribution.load(path)) == 1


def test_a_kill_while_writing_leaves_the_old_file(att: Attribution, tmp_path: Path) -> None:
    path = att.save(tmp_path / "maps.safetensors")
    before = path.read_bytes()
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from faithmap import attribution\n"
        "def half(contents, name, about):\n"
        "    Path(name).write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "attribution.save_file = half\n"
        "attribution.Attribution.load(sys.argv[1]).save(sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -9
    assert path.read_bytes() == before


def test_threads_may_write_the_same_file(att: Attribution, tmp_path: Path) -> None:
    path, errors = tmp_path / "maps.safetensors", []

    def work() -> None:
        try:
            for _ in range(10):
                att.save(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert torch.equal(Attribution.load(path).maps, att.maps)
    assert len(list(tmp_path.glob("*maps*"))) == 1


def test_files_are_named_and_placed_where_they_can_be(att: Attribution, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.safetensors files: got 'maps\.pt'"):
        att.save(tmp_path / "maps.pt")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        att.save(tmp_path / "nowhere" / "maps.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no attribution .*nothing\.safetensors"):
        Attribution.load(tmp_path / "nothing.safetensors")


def _foreign(path: Path, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file({"maps": torch.zeros(1, 2, 2)}, path, metadata)


def test_foreign_and_damaged_files_are_named(att: Attribution, pair: PairAttribution, tmp_path: Path) -> None:
    whole = att.save(tmp_path / "maps.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for damaged in (b"", b"PK\x03\x04 not safetensors", whole[:20], whole[: len(whole) // 2], b"\xff" * 8 + whole[8:]):
        bad.write_bytes(damaged)
        for kind in (Attribution, PairAttribution):
            with pytest.raises(ValueError, match=r"bad\.safetensors is not a safetensors file, or is cut off"):
                kind.load(bad)
    ours = {"format": "faithmap/1", "kind": "attribution"}
    for metadata, says in [
        (None, "holds other tensors, not an attribution"),
        ({"format": "pt"}, "holds other tensors, not an attribution"),
        ({"format": "faithmap/1"}, "holds an unknown kind, not an attribution"),
        ({"format": "faithmap/1", "kind": "pair"}, "holds a pair of faces, not an attribution"),
        ({"format": "faithmap/1", "kind": "locations"}, "holds maps of locations, not an attribution"),
        (ours, "header .* is damaged, or of another version"),
        ({**ours, "provenance": "{"}, "header .* is damaged"),
        ({**ours, "provenance": "[]"}, "header .* is damaged"),
        ({**ours, "provenance": '{"samples": []}'}, "header .* is damaged"),
        ({**ours, "provenance": '{"samples": [{"name": 1, "fame": 2}]}'}, "header .* is damaged"),
    ]:
        _foreign(bad, metadata)
        with pytest.raises(ValueError, match=says):
            Attribution.load(bad)
    with pytest.raises(ValueError, match="holds an attribution, not a pair of faces"):
        PairAttribution.load(tmp_path / "maps.safetensors")
    with pytest.raises(ValueError, match="holds a pair of faces, not an attribution"):
        Attribution.load(pair.save(tmp_path / "pair.safetensors"))


def test_samples_and_maps_belong_together(tmp_path: Path) -> None:
    for maps in (torch.zeros(2, 4, 4), torch.zeros(4, 4)):
        with pytest.raises(ValueError, match="with a sample each"):
            Attribution(maps, [Sample("", "", {}, 0.0)], ABOUT)


# --- display


def test_normalized_maps_fill_0_to_1_each_by_itself() -> None:
    maps = of(
        [[[1.0, 2.0], [3.0, 5.0]], [[-4.0, 0.0], [0.5, 2.0]], [[7.0, 7.0], [7.0, 7.0]], [[-1.0, -2.0], [-3.0, 0.0]]]
    )
    assert maps.normalized().tolist() == [
        [[0, 0.25], [0.5, 1]], [[0, 0], [0.25, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]],
    ]  # fmt: skip
    assert maps.normalized("max")[0].tolist() == [[np.float32(0.2), np.float32(0.4)], [np.float32(0.6), 1]]
    assert maps.normalized("max")[2].tolist() == [[1, 1], [1, 1]]
    assert maps.maps[1, 0, 0] == -4  # raw maps stay raw
    broken = of([[[float("nan"), 1.0], [float("inf"), 3.0]]]).normalized()
    assert bool(((broken >= 0) & (broken <= 1)).all())
    with pytest.raises(ValueError, match="'min-max' or 'max': got 'sum'"):
        maps.normalized("sum")  # type: ignore[arg-type]


def test_maps_lie_on_the_photo_where_the_crop_was(att: Attribution) -> None:
    """The first photo, 48 x 40, loses columns at both sides; the second, 36 x 64, rows."""
    first, second = att.on_photo()
    assert (tuple(first.shape), tuple(second.shape)) == ((40, 48), (64, 36))
    assert bool(first[:, [0, 3, -4, -1]].isnan().all())
    assert bool(first[:, 4:-4].isfinite().all())
    assert bool(second[[0, 13, -14, -1]].isnan().all())
    assert bool(second[14:-14].isfinite().all())
    middle = first[16:24, 20:28].mean()
    torch.testing.assert_close(middle, att.maps[0, 13:19, 13:19].mean(), atol=0.2 * float(att.maps[0].std()), rtol=0.3)


def test_maps_of_tensors_lie_on_themselves() -> None:
    model = fm.Classifier(nets.gap_linear().eval(), size=32)
    att = fm.explain(model, torch.rand(1, 3, 32, 32), "grad-cam", 0)
    assert torch.equal(att.on_photo()[0], att.maps[0])
    with pytest.raises(ValueError, match="photo of 'tensor' is not at hand"):
        att.photo_overlay()


def test_overlays_show_what_the_network_saw(att: Attribution, photos: list[Path]) -> None:
    seen, drawn = att.seen(), att.overlay(alpha=0)
    for shown, overlay, photo, sample in zip(seen, drawn, photos, att.samples, strict=True):
        assert sample.geometry is not None
        expected = np.asarray(sample.geometry.apply(Image.open(photo)), dtype=int)
        assert np.abs(np.asarray(shown, dtype=int) - expected).max() <= 1
        assert overlay == shown
    assert att[0].overlay() != att[0].seen()
    assert att[0].overlay(signed=True) != att[0].overlay()
    assert [p.size for p in att.photo_overlay()] == [(48, 40), (36, 64)]


def test_a_loaded_attribution_needs_a_picture_and_says_so(
    att: Attribution, pair: PairAttribution, photos: list[Path], tmp_path: Path
) -> None:
    back = Attribution.load(att[0].save(tmp_path / "a.safetensors"))
    for show in (back.overlay, back.seen):
        with pytest.raises(ValueError, match=r"holds no pixels: give the picture .*overlay\(picture\)"):
            show()
    with pytest.raises(ValueError, match=r"photo of 'one.png' is not at hand: give it, photo_overlay\(photo\)"):
        back.photo_overlay()
    assert back.overlay(att[0].seen()) == att[0].overlay()
    assert back.photo_overlay(photos[0]) == att[0].photo_overlay()
    again = PairAttribution.load(pair.save(tmp_path / "p.safetensors"))
    with pytest.raises(ValueError, match=r"figure\(probe=\.\.\., gallery=\.\.\.\)"):
        again.figure()
    seen = pair.probe.similar.seen(), pair.gallery.similar.seen()
    assert again.figure(probe=seen[0], gallery=seen[1]) == pair.figure()


# --- one for each picture


def test_an_attribution_iterates_and_indexes_by_picture(att: Attribution) -> None:
    assert len(att) == 2
    assert [part.samples[0].name for part in att] == ["one.png", "two.png"]
    for i, part in enumerate(att):
        assert len(part) == 1
        assert torch.equal(part.maps[0], att.maps[i])
        assert part.seen() == att.seen()[i]
        assert part.provenance["samples"] == [att.provenance["samples"][i]]
    assert att[-1].samples == att.samples[1:]
    assert att[1:].samples == att[-1].samples
    assert att[::-1].samples == att.samples[::-1]
    assert torch.equal(att[np.int64(1)].maps, att.maps[1:])  # type: ignore[call-overload, unused-ignore]
    with pytest.raises(IndexError):
        att[2]


def test_what_is_known_is_plain_data(att: Attribution) -> None:
    about = json.loads(json.dumps(att.provenance))
    assert about["method"] == "lift-cam"
    assert about["model"] == "tiny"
    assert about["seed"] == 3
    assert [s["label"] for s in about["samples"]] == ["c", "e"]
    assert [s["target"] for s in about["samples"]] == [{"target": "Logit", "k": 2}, {"target": "Logit", "k": 4}]
    assert all(len(s["sha256"]) == 16 for s in about["samples"])
    assert set(about["versions"]) == {"faithmap", "torch", "numpy", "pillow", "python"}
    assert repr(att) == "Attribution(lift-cam on tiny: 2 x 32 x 32, c, e)"
    torch.testing.assert_close(att.scores, torch.tensor([s["score"] for s in about["samples"]]), atol=0, rtol=0)


@pytest.mark.parametrize("signed", [False, True])
def test_a_few_extreme_pixels_do_not_hide_the_rest_of_a_map(signed: bool) -> None:
    map = torch.rand(1, 32, 32) - 0.5 * signed
    wild = map.clone()
    wild[0, 3, 4], wild[0, 9, 9] = 1000.0, -1000.0
    shown, of_wild = (attribution(maps).displayed(signed=signed) for maps in (map, wild))
    assert float((shown - of_wild).abs().flatten().sort().values[:-5].max()) < 0.02
    assert float(of_wild[0, 3, 4]) == 1
    assert float(of_wild.min()) == (-1 if signed else 0)
    assert not attribution(torch.zeros(1, 4, 4)).displayed(signed=signed).any()
    one = torch.zeros(1, 32, 32)
    one[0, 5, 5] = 7.0
    assert attribution(one).displayed(signed=signed).sum() == 1


def attribution(maps: torch.Tensor) -> Attribution:
    return Attribution(maps, [Sample("a", "", {}, 0.0)] * len(maps), ABOUT)
