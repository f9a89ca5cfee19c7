"""Many methods on the same pictures: each map is the method's own, refusals are told, agreement is Spearman's."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats  # type: ignore[import-untyped]

import faithmap as fm
from faithmap import api, comparison, draw
from faithmap.methods import CAM, FAME, CentreGaussian, GradCAM, Method, Result
from faithmap.methods.base import Query
from faithmap.metrics import rank_correlation
from tests import nets
from tests.test_api import array

TWO = [FAME(iterations=2), FAME(iterations=4)]


def model(module: torch.nn.Module | None = None, **settings: Any) -> fm.Classifier:
    return fm.Classifier((module or nets.Residual()).eval(), size=32, labels=list("abcde"), name="tiny", **settings)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[list[draw.Panel]]:
    """The rows of panels that pages were made of."""
    seen: list[list[draw.Panel]] = []
    grid = draw.grid

    def keeping(rows: Any, **options: Any) -> Image.Image:
        seen.extend(rows)
        return grid(rows, **options)

    monkeypatch.setattr(draw, "grid", keeping)
    return seen


# --- what is found


def test_every_map_is_that_of_explain_and_goes_by_the_methods_name() -> None:
    net, pictures = model(), [array(0), array(1, (40, 50))]
    found = fm.compare(net, pictures, ["lift-cam", "random", *TWO, "random"], ["a", 3], seed=4)
    assert list(found) == ["lift-cam", "random", "fame iterations=2", "fame iterations=4"]
    for label, method in zip(found, ["lift-cam", "random", *TWO], strict=True):
        alone = fm.explain(net, pictures, method, ["a", 3], seed=4)
        assert torch.equal(found[label].maps, alone.maps)
        assert found[label].samples == alone.samples
        assert found[label].provenance["evaluations"] == alone.provenance["evaluations"]
    assert (len(found), "fame" in found, found.refused) == (4, False, {})


def test_parameters_that_round_alike_are_still_told_apart() -> None:
    close = [FAME(iterations=1, step=0.1), FAME(iterations=1, step=0.1 + 1e-9)]
    found = fm.compare(model(), array(), close)
    assert list(found) == ["fame step=0.1", f"fame step={0.1 + 1e-9}"]


def test_all_methods_explain_the_same_class_and_the_default_list_exists() -> None:
    net, x = model(), torch.randn(3, 3, 32, 32)
    found = fm.compare(net, x, ["grad-cam", "random", TWO[0]])
    predicted = net.network(x).argmax(dim=1).tolist()
    assert all([s.target["k"] for s in att.samples] == predicted for att in found.values())
    assert set(api.COMPARED) | set(api.COMPARED_PAIRS) <= set(fm.methods.available())


def test_all_is_every_method_that_does_not_refuse_the_model() -> None:
    net = model()
    able = api.able(net, [fm.methods.create(name) for name in fm.methods.available()], None)
    assert {method.name for method in able} == {n for n in fm.methods.available() if not fm.methods.get(n).faces}
    place = fm.targets.FeatureLocation(0, 0)
    assert all(method.at_layer for method in api.able(net, able, place))


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        (["fame", "lift"], "lift-cam"),
        ("fame", r"give \['fame'\]"),
        ([], "the list is empty"),
        ([3], "a method is a name"),
        ([TWO[0], GradCAM(layer="layer9")], "no layer 'layer9'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(methods: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*_: Any, **__: Any) -> None:
        raise AssertionError("a method ran")

    monkeypatch.setattr(Method, "run", worked)
    with pytest.raises(ValueError, match=says):
        fm.compare(model(), array(), methods)
    with pytest.raises(ValueError, match="no class 'f'"):
        fm.compare(model(), array(), ["fame"], "f")
    with pytest.raises(ValueError, match=r"use compare_pair\(face"):
        fm.compare(fm.FaceEmbedder(nets.Faces().eval(), size=32), array())
    with pytest.raises(ValueError, match="needs a FaceEmbedder"):
        fm.compare_pair(model(), array(), array())  # type: ignore[arg-type]


def test_a_method_that_refuses_while_it_runs_costs_the_others_nothing(words: list[list[draw.Panel]]) -> None:
    """CAM behind several layers; alone it raises."""
    net = model(nets.VGGLike())
    found = fm.compare(net, array(), ["grad-cam", "cam", "lift-cam"])
    assert (list(found), list(found.refused)) == (["grad-cam", "lift-cam"], ["cam"])
    with pytest.raises(KeyError, match="cam refused: cam needs a head"):
        found["cam"]
    found.figure()
    assert [panel.title for row in words for panel in row] == ["array", "grad-cam", "lift-cam", "cam"]
    with pytest.raises(ValueError, match="cam needs a head"):
        fm.compare(net, array(), [CAM()])


@pytest.mark.parametrize(
    ("error", "kept"),
    [(ValueError("no"), True), (RuntimeError("CUDA out of memory"), True), (RuntimeError("shape"), False)],
)
def test_what_is_no_refusal_stays_an_error(error: Exception, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Method, query: Query) -> Result:
        raise error

    monkeypatch.setattr(CentreGaussian, "attribute", broken)
    monkeypatch.setattr(CentreGaussian, "__module__", __name__)  # a user's own method
    if kept:
        assert fm.compare(model(), array(), ["random", "centre-gaussian"]).refused == {"centre-gaussian": str(error)}
    else:
        with pytest.raises(RuntimeError, match="shape"):
            fm.compare(model(), array(), ["random", "centre-gaussian"])


def test_progress_counts_the_steps_of_all_methods_and_ends_at_all() -> None:
    calls: list[tuple[int, int]] = []
    report = lambda done, total: calls.append((done, total))  # noqa: E731
    fm.compare(model(), [array(0), array(1)], ["random", FAME(iterations=3)], progress=report)
    assert calls == sorted(calls)
    assert (calls[0], calls[-1]) == ((1, 4), (4, 4))


# --- agreement


def test_agreement_is_spearmans_with_ties() -> None:
    maps = torch.randint(0, 9, (2, 3, 7, 5)).float()
    found = rank_correlation(maps)
    for b in range(2):
        expected = stats.spearmanr(maps[b].flatten(1).numpy(), axis=1).statistic
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-12)


def test_maps_without_an_order_agree_with_none_and_spare_the_others() -> None:
    maps = torch.rand(1, 4, 6, 6)
    maps[0, 1] = 2.0
    maps[0, 2, 0, 0] = torch.nan
    table = rank_correlation(maps)[0]
    assert bool(table[1:3].isnan().all())
    assert float(table[0, 0]) == pytest.approx(1)
    assert bool(table[0, 3].isfinite())


def test_the_table_is_the_mean_over_pictures() -> None:
    found = fm.compare(model(), [array(0), array(1)], ["grad-cam", "random"], 0)
    each = [stats.spearmanr(*(att.maps[i].flatten().numpy() for att in found.values())).statistic for i in range(2)]
    assert found.agreement()["grad-cam"]["random"] == pytest.approx(np.mean(each))
    assert found.agreement()["random"]["random"] == pytest.approx(1)


# --- pages and files


@pytest.mark.parametrize(("methods", "rows"), [(1, [2]), (4, [5]), (12, [5, 5, 3]), (45, [6] * 7 + [4])])
def test_pages_wrap_their_rows_and_stay_readable(methods: int, rows: list[int], words: list[list[draw.Panel]]) -> None:
    chosen = [CentreGaussian(sigma=0.1 + i / 100) for i in range(methods)]
    page = fm.compare(model(), array(), chosen, 0).figure()
    assert [len(row) for row in words] == rows
    assert page.width < 2000


def test_each_picture_begins_a_row(words: list[list[draw.Panel]]) -> None:
    fm.compare(model(), [array(0), Image.fromarray(array(1))], ["grad-cam", "random"], 0).figure()
    assert [[panel.title for panel in row] for row in words] == [
        ["array", "grad-cam", "random"],
        ["image", "grad-cam", "random"],
    ]


def test_words_below_a_map_tell_its_cost_and_why_it_is_empty(words: list[list[draw.Panel]]) -> None:
    net = nets.gap_linear()
    with torch.no_grad():
        net[-1].weight.fill_(-1.0)  # type: ignore[index, union-attr, operator]
    found = fm.compare(model(net), torch.rand(1, 3, 32, 32), ["lift-cam", *TWO], 0)
    found.figure()
    found.figure(signed=True)
    lift, fame = (words[row][1].subtitle.split("\n") for row in (0, 1))
    assert lift[0] == "speaks against only"
    assert lift[1] == fame[0] == "1 forward, 1 tail"
    assert "error" in lift[2]
    assert words[0][2].subtitle.startswith("iterations=2\n2 forward, 2 backward\n")
    assert words[0][1].image == words[0][0].image  # nothing over it, as said
    assert words[1][1].image != words[1][0].image


def test_overlays_lie_on_the_photo_and_leave_the_callers_picture_alone() -> None:
    photo = Image.fromarray(array(0, (700, 1100)))
    found = fm.compare(model(), photo, ["grad-cam"], 0)
    found.figure()
    assert photo.size == (1100, 700)
    att = found["grad-cam"]
    small = photo.resize((110, 70))
    assert att.photo_overlay(small).size == (110, 70)
    assert att.photo_overlay(small, signed=True) != att.photo_overlay(small)
    with pytest.raises(ValueError, match="another shape"):
        att.photo_overlay(photo.resize((70, 110)))


def test_too_many_panels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fm.compare(model(), [array(0), array(1)], ["random", "centre-gaussian"], 0)
    monkeypatch.setattr(comparison, "MOST_PANELS", 5)
    with pytest.raises(ValueError, match="6 panels, more than the 5 of a page"):
        found.figure()


def test_a_saved_comparison_is_a_page_and_the_maps(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        found = fm.compare(model(), array(), [GradCAM(layer="layer1"), GradCAM(layer="layer2.conv1")], 0)
        folder = found.save(tmp_path / "new")
    finally:
        os.umask(before)
    names = {"compare.png", "grad-cam_layer=layer1.safetensors", "grad-cam_layer=layer2.conv1.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}
    back = fm.Attribution.load(folder / "grad-cam_layer=layer1.safetensors")
    assert torch.equal(back.maps, found["grad-cam layer=layer1"].maps)


# --- pairs


def test_a_pair_is_compared_by_rows_of_four(words: list[list[draw.Panel]], tmp_path: Path) -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=0.2)
    found = fm.compare_pair(face, array(0), array(1), [TWO[0], "grad-cam", "random"])
    alone = fm.explain_pair(face, array(0), array(1), TWO[0])
    for name, att in alone.attributions.items():
        assert torch.equal(att.maps, found["fame"].attributions[name].maps)
    e_plus = [torch.cat([p.probe.similar.maps, p.gallery.similar.maps]) for p in found.values()]
    expected = rank_correlation(torch.stack(e_plus, dim=1)).mean(dim=0)
    assert found.agreement()["fame"]["grad-cam"] == pytest.approx(float(expected[0, 1]))
    folder = found.save(tmp_path / "pair")
    assert len(list(folder.iterdir())) == 4
    assert [len(row) for row in words] == [2, 4, 4, 3]
    assert words[1][0].subtitle.startswith("10 forward, 8 backward")  # 4 maps of 2 steps, 2 embeddings
    with pytest.raises(ValueError, match="takes one pair: got 2"):
        fm.compare_pair(face, [array(0), array(1)], [array(2), array(3)])
