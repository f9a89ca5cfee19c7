"""The library's calls: anything that is a picture in, one map per picture out, and errors that say what would work."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

import faithmap as fm
from faithmap.methods import FAME, GradCAM
from faithmap.metrics import cam_locality
from faithmap.targets import Dissimilarity, FeatureLocation, Logit, Similarity
from tests import nets


@pytest.fixture
def model() -> fm.Classifier:
    return fm.Classifier(nets.Residual().eval(), size=32, labels=["cat", "dog", "fox", "owl", "elk"], name="tiny")


@pytest.fixture
def face() -> fm.FaceEmbedder:
    return fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=0.2, name="tiny face")


def array(seed: int = 0, size: tuple[int, int] = (32, 32)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


# --- explain


def test_a_picture_is_a_path_an_image_or_an_array(model: fm.Classifier, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.fromarray(array()).save(path)
    kinds: list[Any] = [str(path), path, Image.open(path), Image.fromarray(array()), array(), model.prepare(path)]
    found = [fm.explain(model, kind, "grad-cam", "dog") for kind in kinds]
    assert [att.samples[0].name for att in found] == ["cat.png", "cat.png", "cat.png", "image", "array", "tensor"]
    for att in found:
        assert len(att) == 1
        torch.testing.assert_close(att.maps, found[0].maps, atol=0, rtol=0)
        assert (att.samples[0].label, att.samples[0].sha256) == ("dog", found[0].samples[0].sha256)
    mixed = fm.explain(model, [path, array(1), Image.fromarray(array(2))], "grad-cam", ["cat", 1, Logit(2)])
    assert [s.label for s in mixed.samples] == ["cat", "dog", "fox"]
    for i in range(3):
        alone = fm.explain(model, model.prepare(array(i)), "grad-cam", i)
        torch.testing.assert_close(mixed.maps[i : i + 1], alone.maps, atol=1e-6, rtol=1e-4)


def test_an_explanation_knows_how_it_was_made(model: fm.Classifier) -> None:
    x = torch.randn(3, 3, 32, 32)
    att = fm.explain(model, x, GradCAM(layer="layer1"), seed=5)
    about = att.provenance
    predicted = model.network(x).argmax(dim=1).tolist()
    assert [s.target["k"] for s in att.samples] == predicted
    assert [s.label for s in att.samples] == [model.label(k) for k in predicted]
    torch.testing.assert_close(att.scores, model.network(x).amax(dim=1), atol=1e-5, rtol=1e-4)
    assert (about["layer"], about["seed"], about["parameters"]) == ("layer1", 5, {"layer": "layer1"})
    assert (about["precision"], about["device"], about["images"]) == ("float32", "cpu", 3)
    assert about["evaluations"] == {"forward": 1, "tail_backward": 1}
    assert about["notes"]["cut"] in ("graph", "replay")
    assert fm.explain(model, x, FAME(iterations=4), 0).provenance["evaluations"] == {"forward": 4, "backward": 4}
    assert att.completeness_error is None
    assert fm.explain(model, x, "lift-cam", 0).completeness_error is not None


def test_a_method_is_a_name_or_a_method(model: fm.Classifier) -> None:
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(fm.explain(model, x, "grad-cam", 0).maps, fm.explain(model, x, GradCAM(), 0).maps)
    for wrong in (FAME, None, 3):
        with pytest.raises(ValueError, match=r"'fame' or FAME\(iterations=50\)"):
            fm.explain(model, x, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean grad-cam"):
        fm.explain(model, x, "gradcam")


@pytest.mark.parametrize("call", [fm.explain, fm.explain_locations, fm.locality_by_layer])
def test_a_bare_module_is_told_how_to_be_wrapped(call: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"bare Residual .*wrap it, fm\.Classifier\(module, size=224"):
        call(nets.Residual(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"fm\.load\('resnet50'\)"):
        call("resnet50", torch.zeros(1, 3, 32, 32))


def test_wrong_pictures_and_targets_are_named(model: fm.Classifier, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.png does not exist"):
        fm.explain(model, tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fm.explain(model, [array(), str(tmp_path / "missing.png")])
    for wrong, says in [
        ([], "list is empty"),
        ([torch.zeros(3, 32, 32)], "stack tensors"),
        (torch.zeros(3, 32, 32), "prepared input"),
        (np.zeros((32, 32, 3), dtype=np.float32), "float32"),
        (None, "no picture"),
    ]:
        with pytest.raises(ValueError, match=says):
            fm.explain(model, wrong)  # type: ignore[arg-type]
    pictures = [array(0), array(1)]
    for target, says in [
        (["cat", "dog", "fox"], "3 entries for a batch of 2"),
        ("bat", "did you mean cat"),
        (7, "no class 7: this model has 5, 0 to 4"),
        (Similarity(torch.ones(4)), "reference of 4 numbers, the network's outputs have 5"),
        (lambda z: z, r"one score per sample, \(2,\): it returned \(2, 5\)"),
    ]:
        with pytest.raises(ValueError, match=says):
            fm.explain(model, pictures, "grad-cam", target)
    with pytest.raises(ValueError, match="'float32' or 'bf16': got 'fp16'"):
        fm.explain(model, pictures, precision="fp16")  # type: ignore[arg-type]


def test_degenerate_maps_warn_where_the_caller_stands(model: fm.Classifier) -> None:
    with pytest.warns(fm.DegenerateMapWarning, match="fame on tensor: the map is constant") as caught:
        att = fm.explain(model, torch.randn(1, 3, 32, 32), FAME(iterations=1, stop_below=1e9), 0)
    assert caught[0].filename == __file__
    assert att.degenerate[0] is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fm.explain(model, torch.randn(1, 3, 32, 32), FAME(iterations=1), 0).degenerate == (None,)


def test_precision_and_compilation_are_the_calls_own(model: fm.Classifier) -> None:
    x = torch.randn(4, 3, 32, 32)
    full, half = (fm.explain(model, x, FAME(iterations=3), 0, precision=p) for p in ("float32", "bf16"))
    assert (full.provenance["precision"], half.provenance["precision"]) == ("float32", "bf16")
    assert not torch.equal(full.maps, half.maps)
    assert (model.precision, model.compile) == ("float32", False)


def test_progress_is_a_bar_a_function_or_nothing(model: fm.Classifier, capfd: pytest.CaptureFixture[str]) -> None:
    x, calls = torch.randn(2, 3, 32, 32), []
    fm.explain(model, x, FAME(iterations=3), 0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 6), (4, 6), (6, 6)]
    fm.explain(model, x, "grad-cam", 0, progress=True)
    assert capfd.readouterr().out == ""

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fm.explain(model, x, FAME(iterations=3), 0, progress=cancel)


# --- explain_pair


@pytest.mark.parametrize("method", [FAME(iterations=4), GradCAM(), "lift-cam"])
def test_the_four_maps_of_a_pair_are_four_single_calls(method: Any) -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32, threshold=0.2)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    f = face.module(x).detach()
    pair = fm.explain_pair(face, x[:1], x[1:], method)
    single = fm.methods.create(method) if isinstance(method, str) else method
    for maps, mine, other, kind in [
        (pair.probe.similar, 0, 1, Similarity),
        (pair.probe.dissimilar, 0, 1, Dissimilarity),
        (pair.gallery.similar, 1, 0, Similarity),
        (pair.gallery.dissimilar, 1, 0, Dissimilarity),
    ]:
        expected = single(face, x[mine : mine + 1], kind(f[other]))
        torch.testing.assert_close(maps.maps, expected, atol=1e-6 * float(expected.abs().max()), rtol=0)
        assert maps.samples[0].target == {"target": kind.__name__}
    cosine = float(F.cosine_similarity(f[:1], f[1:]))
    assert pair.score == pytest.approx(cosine, abs=1e-6) == face.similarity(x[:1], x[1:])
    assert (pair.threshold, pair.match) == (0.2, cosine >= 0.2)
    assert float(pair.probe.dissimilar.scores) == pytest.approx(1 - cosine, abs=1e-6)


def test_many_pairs_are_as_many_single_pairs() -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32)
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    pairs = fm.explain_pair(face, x[:3], x[3:], FAME(iterations=3), batch_size=4)
    assert len(pairs) == 3
    for i, pair in enumerate(pairs):
        alone = fm.explain_pair(face, x[i : i + 1], x[3 + i : 4 + i], FAME(iterations=3))
        assert pair.match is None
        assert pair.score == pytest.approx(alone.score, abs=1e-9)
        for side in ("probe", "gallery"):
            for kind in ("similar", "dissimilar"):
                ours, theirs = (getattr(getattr(p, side), kind).maps for p in (pair, alone))
                torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_a_pair_is_given_as_pictures_or_as_lists_of_them(face: fm.FaceEmbedder, tmp_path: Path) -> None:
    paths = [tmp_path / "probe.png", tmp_path / "gallery.png"]
    for i, path in enumerate(paths):
        Image.fromarray(array(i)).save(path)
    single = fm.explain_pair(face, paths[0], Image.open(paths[1]), "grad-cam")
    (listed,) = fm.explain_pair(face, [str(paths[0])], [array(1)], "grad-cam")
    assert (single.probe.similar.samples[0].name, single.gallery.similar.samples[0].name) == (
        "probe.png",
        "gallery.png",
    )
    assert torch.equal(single.gallery.dissimilar.maps, listed.gallery.dissimilar.maps)
    assert single.probe.similar.seen() == Image.fromarray(array(0))
    assert single.gallery.dissimilar.seen() == Image.fromarray(array(1))
    assert single.figure().mode == "RGB"


@pytest.mark.parametrize("method", [n for n in fm.methods.available() if fm.methods.get(n).control])
def test_controls_have_no_dissimilar_side(face: fm.FaceEmbedder, method: str) -> None:
    pair = fm.explain_pair(face, array(0), array(1), method)
    assert pair.probe.dissimilar is None
    assert pair.gallery.dissimilar is None
    assert pair.score == pytest.approx(face.similarity(array(0), array(1)), abs=1e-6)
    assert pair.figure().mode == "RGB"


def test_what_is_no_pair_is_named(face: fm.FaceEmbedder, model: fm.Classifier) -> None:
    with pytest.raises(ValueError, match="2 probes came with 1 galleries"):
        fm.explain_pair(face, [array(0), array(1)], array(2))
    with pytest.raises(ValueError, match="needs a FaceEmbedder: tiny is a Classifier"):
        fm.explain_pair(model, array(0), array(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wrap it"):
        fm.explain_pair(nets.Faces(), array(0), array(1))  # type: ignore[arg-type]


# --- explain_locations, locality_by_layer


def test_every_place_has_the_map_of_its_single_call() -> None:
    model = fm.Classifier(nets.Residual().double().eval(), size=32, target_layer="layer1")
    x, method = torch.randn(1, 3, 32, 32, dtype=torch.float64), FAME(iterations=3, sigma=2.0)
    grid = fm.explain_locations(model, x, method=method, batch_size=50)
    assert (tuple(grid.maps.shape), grid.layer) == ((16, 16, 32, 32), "layer1")
    for row, col in [(0, 0), (7, 12), (15, 3)]:
        expected = method(model, x, FeatureLocation(row, col))
        torch.testing.assert_close(grid.maps[row, col], expected[0], atol=1e-9, rtol=0)
        share = cam_locality(expected, torch.tensor([row]), torch.tensor([col]), (16, 16))
        torch.testing.assert_close(grid.shares[row, col], share[0], atol=1e-9, rtol=0)


def test_places_see_their_own_neighbourhood_and_no_more_than_the_receptive_field(model: fm.Classifier) -> None:
    grid = fm.explain_locations(model, array(), "stem", method=FAME(iterations=2, sigma=0))
    seen = (grid.maps > 0).nonzero()  # (n, 4): row, col, y, x
    assert int((seen[:, 2] - 2 * seen[:, 0]).abs().max()) <= 1  # a 3 x 3 kernel at stride 2
    assert int((seen[:, 3] - 2 * seen[:, 1]).abs().max()) <= 1
    assert grid.figure().mode == "RGB"
    assert grid.seen.size == (32, 32)


def test_locations_are_of_one_picture_and_of_a_layer_with_places(model: fm.Classifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes one picture: got 2"):
        fm.explain_locations(model, [array(0), array(1)])
    with pytest.raises(ValueError, match="no layer 'layer9'"):
        fm.explain_locations(model, array(), "layer9")
    with pytest.raises(ValueError, match="not a map of places"):
        fm.explain_locations(model, array(), "fc")
    with pytest.raises(ValueError, match="for FeatureLocation use fame"):
        fm.explain_locations(model, array(), "layer2", method=GradCAM())
    path = fm.explain_locations(model, array(), "stem", method=FAME(iterations=1)).save(tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match="holds maps of locations, not an attribution"):
        fm.Attribution.load(path)


def test_locality_falls_with_depth_between_chance_and_ceiling(model: fm.Classifier) -> None:
    rows = fm.locality_by_layer(model, [array(0), array(1)], ["stem", "layer1", "layer2"], places=9)
    assert [row.layer for row in rows] == ["stem", "layer1", "layer2"]
    shares = [row.share.mean for row in rows]
    assert shares == sorted(shares, reverse=True)
    for row in rows:
        assert row.grid == (16, 16)
        assert row.share.samples == 18
        assert row.chance == 1 / 256
        assert row.chance < row.share.low <= row.share.mean <= row.share.high <= row.ceiling + 1e-6
        assert row.ceiling == pytest.approx(1)
    blurred = fm.locality_by_layer(model, array(0), ["stem"], places=4, method=FAME(iterations=2, sigma=2, kernel=13))
    assert blurred[0].ceiling < 0.5
    with pytest.raises(ValueError, match="places is at least 1: got 0"):
        fm.locality_by_layer(model, array(), places=0)
    with pytest.raises(ValueError, match="no layer 'x'"):
        fm.locality_by_layer(model, array(), ["x"])


def test_without_layers_the_suggested_ones_are_asked_from_fine_to_coarse() -> None:
    model = fm.Classifier(nets.gap_linear().eval(), size=32)
    calls: list[tuple[int, int]] = []
    rows = fm.locality_by_layer(model, array(), places=1, progress=lambda done, total: calls.append((done, total)))
    sizes = [row.grid[0] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert len(rows) == len(model.suggest_layers())
    assert calls[-1] == (len(rows), len(rows))


def test_labels_that_do_not_fit_the_network_are_named() -> None:
    """Five scores and two labels: an error that says so, not a wrong name or an IndexError."""
    model = fm.Classifier(nets.gap_linear(5), size=32, labels=["a", "b"])
    with pytest.raises(ValueError, match="returns 5 scores: it was given 2 labels"):
        fm.explain(model, torch.rand(1, 3, 32, 32))


def test_a_class_name_is_taken_as_it_is_written() -> None:
    """ImageNet has Cardigan, the dog, and cardigan, the garment."""
    model = fm.Classifier(nets.gap_linear(2), size=32, labels=["Cardigan", "cardigan"])
    assert (model.index_of("cardigan"), model.index_of("Cardigan"), model.index_of("CARDIGAN")) == (1, 0, 0)


@pytest.mark.parametrize("method", ["lift-cam", "grad-cam"])
def test_networks_whose_flow_depends_on_values_are_explained(method: str) -> None:
    """They are replayed, and their coefficients come from a plain gradient."""

    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets.gap_linear(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x * 0 if x.abs().max() > 1e9 else x)

    model = fm.Classifier(Branching(), size=32, target_layer="net.4")
    att = fm.explain(model, torch.rand(2, 3, 32, 32), method=method)
    assert att.degenerate == (None, None)
    assert att.provenance["notes"]["cut"] == "replay"


def test_a_broken_score_is_flagged() -> None:
    """Weights that go bad after the model was made."""
    net = nets.gap_linear(5)
    model = fm.Classifier(net, size=32)
    with torch.no_grad():
        net[-1].bias.fill_(float("nan"))  # type: ignore[index, union-attr, operator]
    with pytest.warns(fm.DegenerateMapWarning, match="the score is nan"):
        assert fm.explain(model, torch.rand(1, 3, 32, 32)).degenerate[0] is not None


def test_places_are_explained_by_methods_of_any_name_that_can() -> None:
    """As explain takes them; a list of layers is no text."""
    model = fm.Classifier(nets.gap_linear(5), size=32, target_layer="4")
    x = torch.rand(1, 3, 32, 32)
    assert fm.explain_locations(model, x, method="random").maps.shape == (8, 8, 32, 32)
    with pytest.raises(ValueError, match="a list of names"):
        fm.locality_by_layer(model, x, "4")  # type: ignore[arg-type]
