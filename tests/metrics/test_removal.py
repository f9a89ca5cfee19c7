"""Removal curves against a literal loop over pictures, steps and pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import Case, area, create, removal_curve
from faithmap.metrics.order import order
from faithmap.pixels import filling, patches, superpixels
from faithmap.targets import Logit, Probability, Similarity
from tests import nets


def literal(
    model: fm.Model, x: Tensor, map: Tensor, k: int, insert: bool, fill: Tensor, steps: int, pieces: Tensor
) -> list[float]:
    """One picture, piece by piece and pixel by pixel, for pieces without ties."""
    H, W = map.shape
    members: dict[int, list[tuple[int, int]]] = {}
    for r in range(H):
        for c in range(W):
            members.setdefault(int(pieces[r, c]), []).append((r, c))
    mean = {p: sum(float(map[place]) for place in places) / len(places) for p, places in members.items()}
    curve = []
    for step in range(steps + 1):
        shown, before = fill.clone() if insert else x.clone(), 0
        for p in sorted(members, key=lambda p: -mean[p]):
            if before + len(members[p]) / 2 < H * W * step / steps:  # more than half of the piece is due
                for r, c in members[p]:
                    shown[0, :, r, c] = (x if insert else fill)[0, :, r, c]
            before += len(members[p])
        curve.append(model.module(shown).softmax(1)[0, k].item())
    return curve


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("granularity", ["pixels", "patches", "superpixels"])
def test_curves_are_those_of_the_literal_loop(insert: bool, steps: int, granularity: Any) -> None:
    model, x = fm.Classifier(nets.MobileLike().double().eval(), size=32), torch.randn(2, 3, 32, 32).double()
    maps = torch.randn(2, 32, 32)
    mean, std = torch.tensor(model.mean).view(1, 3, 1, 1), torch.tensor(model.std).view(1, 3, 1, 1)
    fill = (-mean.double() / std.double()).expand(1, 3, 32, 32)
    pieces = {
        "pixels": torch.arange(1024).view(1, 32, 32).expand(2, -1, -1),
        "patches": patches(32, 32, 5).expand(2, -1, -1),  # 5 does not divide 32
        "superpixels": superpixels(x * std + mean),
    }[granularity]
    given: dict[str, Any] = {"insert": insert, "fill": "black", "steps": steps, "granularity": granularity}
    found = removal_curve(model, x, maps, Probability([3, 1]), side=5 / 32, batch_size=3, **given)
    expected = [literal(model, x[i : i + 1], maps[i], k, insert, fill, steps, pieces[i]) for i, k in enumerate((3, 1))]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_curve_begins_and_ends_at_the_picture_and_at_the_fill() -> None:
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32)
    whole = Logit(2)(model.module(x)).detach().double()
    for fill in ("blur", "black", "mean"):
        given: dict[str, Any] = {"fill": fill, "steps": 16}
        out = removal_curve(model, x, maps, Logit(2), **given)
        back = removal_curve(model, x, maps, Logit(2), insert=True, **given)
        empty = Logit(2)(model.module(filling(x, fill, *model.scale(x)))).detach().double()  # type: ignore[arg-type]
        for curve in (out, back.flip(1)):
            torch.testing.assert_close(curve[:, 0], whole, rtol=0, atol=1e-5)
            torch.testing.assert_close(curve[:, -1], empty, rtol=0, atol=1e-5)


@pytest.mark.parametrize("granularity", ["pixels", "patches", "superpixels"])
def test_inserting_in_one_order_shows_the_pictures_of_removing_in_the_opposite_one(
    granularity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit; so the insertion is the curve of the least relevant first, read backwards."""
    shown: list[Tensor] = []
    monkeypatch.setattr(nets.VGGLike, "forward", noted(nets.VGGLike.forward, shown.append))
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(2, 3, 32, 32), torch.randn(2, 32, 32)
    given: dict[str, Any] = {"granularity": granularity, "side": 1 / 6, "steps": 10, "batch_size": 1}
    removal_curve(model, x, -maps, Logit(2), **given)
    removal_curve(model, x, maps, Logit(2), insert=True, **given)
    assert len(shown) == 44
    removed, inserted = (torch.cat(some).unflatten(0, (2, 11)) for some in (shown[:22], shown[22:]))
    assert torch.equal(removed, inserted.flip(1))


def test_the_truth_of_a_linear_model_has_the_largest_insertion_area() -> None:
    """With f = sum w x, ordered by w (x - fill), the curve lies above that of every other order."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    model, x = fm.Classifier(net, size=8, target_layer="0"), torch.randn(4, 3, 8, 8)
    black = (-torch.tensor(model.mean) / torch.tensor(model.std)).view(1, 3, 1, 1)
    truth = (net[1].weight[0].view(3, 8, 8) * (x - black)).sum(1).detach()  # type: ignore[operator]

    def inserted(maps: Tensor) -> Tensor:
        return removal_curve(model, x, maps, Logit(0), fill="black", insert=True, steps=64)

    best = inserted(truth)
    for seed in range(5):
        other = inserted(torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(seed)))
        assert bool((best >= other - 1e-4).all())
        assert bool((area(best) > area(other)).all())


def linear() -> tuple[fm.Model, Tensor, Tensor]:
    """Two pictures whose score is the sum of contributions (2, 8, 8), which the mean fill takes away."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2, bias=False)).double()
    model, x = fm.Classifier(net, size=8, target_layer="0"), torch.randn(2, 3, 8, 8).double()
    return model, x, (net[1].weight[0].view(3, 8, 8) * x).sum(1).detach()  # type: ignore[operator]


def test_all_values_of_a_linear_model_by_hand() -> None:
    """The r-th of N pixels, from 0, is there for the first (r + 1/2) / N of a deletion, the rest of an insertion."""
    model, x, c = linear()
    case, given = Case(model, x, c, Logit(0)), {"fill": "mean", "score": "logit", "steps": 64}
    sorted_c = c.flatten(1).sort(dim=1, descending=True).values
    until = (torch.arange(64).double() + 0.5) / 64
    morf, lerf = (sorted_c * until).sum(1), (sorted_c * until.flip(0)).sum(1)
    values = {**create("removal", **given).measure(case).values, **create("deletion", **given).measure(case).values}
    values |= create("insertion", **given).measure(case).values
    expected = {"morf": morf, "lerf": lerf, "lerf - morf": lerf - morf, "deletion": morf, "insertion": lerf}
    assert values.keys() == expected.keys()
    for part, value in expected.items():
        torch.testing.assert_close(values[part], value, rtol=0, atol=1e-6)


def test_the_logit_drop_of_a_linear_model_by_hand() -> None:
    model, x, _ = linear()
    black = (-torch.tensor(model.mean) / torch.tensor(model.std)).double().view(1, 3, 1, 1)
    w = model.module[1].weight[1].view(3, 8, 8)  # type: ignore[index]
    c = (w * (x - black)).sum(1).detach()
    found = create("logit-drop").measure(Case(model, x, c, Logit(1)))
    best = c.flatten(1).sort(dim=1, descending=True).values.cumsum(1)
    counts = [round(6.4 * t) for t in range(11)]
    drops = torch.stack([best[:, n - 1] if n else torch.zeros(2).double() for n in counts], dim=1)
    torch.testing.assert_close(found.curves["logit-drop"], drops, rtol=0, atol=1e-5)
    by_hand = (drops[:, 1:] + drops[:, :-1]).sum(1) / 20
    torch.testing.assert_close(found.values["logit-drop"], by_hand, rtol=0, atol=1e-5)


def test_the_metrics_sum_up_removal_curves() -> None:
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(2, 3, 32, 32), torch.randn(2, 32, 32)
    case, k = Case(model, x, maps, Logit([1, 4])), Probability([1, 4])
    curves = {**create("removal").measure(case).curves, **create("deletion").measure(case).curves}
    curves |= create("insertion").measure(case).curves
    morf, lerf = (removal_curve(model, x, m, k, steps=10) for m in (maps, -maps))
    entering = removal_curve(model, x, maps, k, steps=10, insert=True)
    expected = {"morf": morf, "lerf": lerf, "lerf - morf": lerf - morf, "deletion": morf, "insertion": entering}
    assert curves.keys() == expected.keys()
    for part, curve in expected.items():
        torch.testing.assert_close(curves[part], curve, rtol=0, atol=1e-6)


def test_the_opposite_order_has_the_opposite_value() -> None:
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(3, 3, 32, 32), torch.randn(3, 32, 32)
    for given in ({}, {"granularity": "patches", "side": 0.2}, {"granularity": "superpixels", "fill": "black"}):
        there, back = (create("removal", **given).measure(Case(model, x, m, Logit(1))).values for m in (maps, -maps))
        torch.testing.assert_close(there["lerf - morf"], -back["lerf - morf"], rtol=0, atol=1e-6)
        torch.testing.assert_close(there["morf"], back["lerf"], rtol=0, atol=1e-6)


def noted(forward: Callable[..., Tensor], note: Callable[[Tensor], None]) -> Callable[..., Tensor]:
    """A network's forward that notes its inputs."""

    def run(self: nn.Module, x: Tensor) -> Tensor:
        note(x)
        return forward(self, x)

    return run


def test_eleven_steps_of_two_metrics_cost_less_than_22_forwards_a_picture_in_full_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(nets.VGGLike, "forward", noted(nets.VGGLike.forward, lambda x: sizes.append(len(x))))
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(8, 3, 32, 32), torch.rand(8, 32, 32)

    def spent(case: Case, *names: str, **given: Any) -> int:
        sizes.clear()
        before = case.forwards
        for name in names:
            create(name, **given).measure(case)
        assert set(sizes) <= {8}
        assert sum(sizes) == case.forwards - before
        return sum(sizes)

    def fresh() -> Case:
        return Case(model, x, maps, Logit(torch.arange(8) % 5), batch_size=8)

    case = fresh()
    assert spent(case, "deletion") == 11 * 8
    assert spent(case, "insertion") == 9 * 8  # both ends are known
    assert spent(case, "removal") == 0
    assert spent(case, "removal", fill="black") == (1 + 18) * 8  # the pictures are known, the black ones are not
    assert spent(fresh(), "removal") == 20 * 8
    assert spent(fresh(), "removal", score="logit") == 20 * 8
    case = fresh()
    assert spent(case, "logit-drop") == 11 * 8
    assert spent(case, "deletion", fill="black", score="logit") == 0
    assert spent(case, "deletion", fill="black", score="logit", granularity="patches", side=0.2) == 9 * 8


def test_parameters_that_differ_are_not_taken_for_known() -> None:
    """One case, many metrics: as if each had a case of its own."""
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32)
    shared = Case(model, x, maps, Logit([1, 4]))
    changes: list[dict[str, Any]] = [{}, {"fill": "black"}, {"score": "logit"}, {"steps": 7}]
    changes += [{"granularity": "patches", "side": side} for side in (0.1, 0.2)] + [{"granularity": "superpixels"}]
    seen = []
    for given in changes:
        here = create("removal", **given).measure(shared).values
        own = create("removal", **given).measure(Case(model, x, maps, Logit([1, 4]))).values
        for part, values in own.items():
            torch.testing.assert_close(here[part], values, rtol=0, atol=1e-6)
        seen.append(tuple(own["morf"].tolist()))
    assert len(set(seen)) == len(changes)


def test_a_batch_is_its_samples_in_any_order_of_theirs() -> None:
    model, x = fm.Classifier(nets.MobileLike().double().eval(), size=32), torch.randn(3, 3, 32, 32).double()
    maps, k = torch.randn(3, 32, 32), torch.tensor([1, 2, 3])
    maps[0] = 0  # all ties
    rows = torch.tensor([2, 0, 1])
    for name in ("removal", "logit-drop"):
        for given in ({}, {"granularity": "superpixels"}) if name == "removal" else ({},):
            metric = create(name, **given)
            whole = metric.measure(Case(model, x, maps, Logit(k), batch_size=4))
            turned = metric.measure(Case(model, x[rows], maps[rows], Logit(k[rows])))
            single = [metric.measure(Case(model, x[i, None], maps[i, None], Logit(k[i, None]))) for i in range(3)]
            for part, values in whole.values.items():
                torch.testing.assert_close(turned.values[part], values[rows], rtol=0, atol=1e-6)
                torch.testing.assert_close(torch.cat([s.values[part] for s in single]), values, rtol=0, atol=1e-6)
                torch.testing.assert_close(torch.cat([s.curves[part] for s in single]), whole.curves[part])


def test_a_mirrored_picture_with_its_mirrored_map_has_the_same_curve() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    model, x, maps = fm.Classifier(net.eval(), size=32), torch.randn(2, 3, 32, 32).double(), torch.randn(2, 32, 32)
    for granularity in ("pixels", "patches"):
        given: dict[str, Any] = {"granularity": granularity, "side": 1 / 8}
        there = removal_curve(model, x, maps, Probability(1), **given)
        torch.testing.assert_close(removal_curve(model, x.flip(3), maps.flip(2), Probability(1), **given), there)


def test_ties_are_broken_at_random_by_the_seed_and_never_in_raster_order() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1, bias=False))
    net[1].weight.data = (torch.arange(64) < 32).float().repeat(3)[None]  # the upper half counts
    model, x = fm.Classifier(net, size=8, target_layer="0"), torch.ones(1, 3, 8, 8)
    black = Logit(0)(net(-(torch.tensor(model.mean) / torch.tensor(model.std)).view(1, 3, 1, 1).expand_as(x))).item()
    whole = Logit(0)(net(x)).item()
    for granularity, value in (("pixels", 0.0), ("patches", 0.1)):
        given: dict[str, Any] = {"fill": "black", "granularity": granularity, "side": 1 / 8, "steps": 20}
        maps = torch.full((1, 8, 8), value)
        halves = [removal_curve(model, x, maps, Logit(0), seed=s, **given)[0, 10] for s in range(20)]
        shares = [(float(h) - black) / (whole - black) for h in halves]
        assert abs(sum(shares) / 20 - 0.5) < 0.05
        assert len(set(shares)) > 1
        again = removal_curve(model, x, maps, Logit(0), seed=0, **given)[0, 10]
        assert float(again) == float(halves[0])


def test_equal_means_of_pieces_of_all_sizes_are_ties() -> None:
    """Sums of a constant differ in their last digit by how many there are: the seed decides, not the rounding."""
    model, x = fm.Classifier(nets.VGGLike().double().eval(), size=32), torch.rand(1, 3, 32, 32).double()
    maps = torch.full((1, 32, 32), 0.1, dtype=torch.float64)
    small = patches(32, 32, 5)[-1, -1]  # 2 x 2 pixels, in the lower right corner
    first = []
    for seed in range(40):
        places = order(Case(model, x, maps, Logit(0), seed=seed), "patches", 5 / 32)[0]
        first.append(bool(places[-1, -1] < 1024))
    assert int(small) == 48
    assert 8 < sum(first) < 32


def test_what_is_gone_is_as_near_to_the_share_as_pieces_allow() -> None:
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.rand(2, 3, 32, 32), torch.randn(2, 32, 32)
    for granularity, side in (("pixels", 1.0), ("patches", 0.2), ("superpixels", 1.0), ("patches", 1.0)):
        places = order(Case(model, x, maps, Logit(0)), granularity, side)  # type: ignore[arg-type]
        for sample in places:
            sizes = sample.flatten().unique(return_counts=True)[1]
            for t in range(11):
                gone = int((10 * sample < 2 * 1024 * t).sum())
                assert abs(gone - 102.4 * t) <= int(sizes.max()) / 2
            # The middles are those of pieces laid one after the other.
            torch.testing.assert_close(sample.unique(), 2 * sizes.cumsum(0) - sizes)


def test_pieces_are_ordered_by_their_mean_and_not_by_their_sum() -> None:
    """Of 3 x 3 pixels in squares of 2 the corner has one pixel: with the largest value it is first."""
    model = fm.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(27, 2)), size=3, target_layer="0")
    maps = torch.ones(1, 3, 3)
    maps[0, 2, 2], maps[0, 2, :2] = 1.5, 1.2
    places = order(Case(model, torch.rand(1, 3, 3, 3), maps, Logit(0)), "patches", 2 / 3)[0]
    assert places[2].tolist() == [4, 4, 1]


def test_patches_are_the_same_part_of_pictures_of_any_size() -> None:
    for size in (112, 224):
        model = fm.Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), size=size)
        places = order(Case(model, torch.rand(1, 3, size, size), torch.rand(1, size, size), Logit(0)), "patches")
        values, counts = places.unique(return_counts=True)
        assert len(values) == 28 * 28
        assert counts.unique().tolist() == [(size // 28) ** 2]


def test_faces_are_followed_by_their_similarity() -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    x, r, maps = torch.randn(2, 3, 32, 32), torch.randn(2, 6), torch.rand(2, 32, 32)
    curve = removal_curve(face, x, maps, Similarity(r), steps=10)
    torch.testing.assert_close(curve[:, 0], Similarity(r)(face.module(x)).detach().double())
    case = Case(face, x, maps, Similarity(r))
    for score in ("probability", "logit"):
        found = create("deletion", score=score).measure(case).values["deletion"]
        torch.testing.assert_close(found, area(curve), rtol=0, atol=1e-5)
    black = removal_curve(face, x, maps, Similarity(r), steps=10, fill="black")
    drop = create("logit-drop").measure(case).values["logit-drop"]
    torch.testing.assert_close(drop, black[:, 0] - area(black), rtol=0, atol=1e-5)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("granularity", ["pixels", "superpixels"])
def test_a_map_that_is_not_finite_has_no_value_and_leaves_the_others_theirs(broken: float, granularity: str) -> None:
    model, x, maps = fm.Classifier(nets.VGGLike().eval(), size=32), torch.randn(3, 3, 32, 32), torch.rand(3, 32, 32)
    metrics = [create(name, granularity=granularity) for name in ("deletion", "insertion", "removal")]
    for metric in [*metrics, create("logit-drop")]:
        whole = metric.measure(Case(model, x, maps, Logit(1)))
        spoilt = maps.clone()
        spoilt[1, 4, 4] = broken
        found = metric.measure(Case(model, x, spoilt, Logit(1)))
        assert found.values.keys() == metric.parts.keys() == found.curves.keys()
        for part in metric.parts:
            assert bool(found.values[part][1].isnan())
            assert bool(found.curves[part][1].isnan().all())
            torch.testing.assert_close(found.values[part][::2], whole.values[part][::2])
            assert found.values[part].dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"maps": torch.zeros(1, 32, 32)}, r"maps are \(B, H, W\).*\(1, 32, 32\)"),
        ({"maps": torch.full((2, 32, 32), torch.nan)}, "finite"),
        ({"maps": torch.full((2, 32, 32), torch.inf)}, "finite"),
        ({"target": None}, "name it"),
        ({"steps": 0}, "at least one step: got 0"),
        ({"fill": "grey"}, "no fill 'grey': .*black, mean, blur"),
        ({"granularity": "patch"}, "no granularity 'patch': did you mean patches"),
        ({"granularity": "patches", "side": 1.5}, "at most 1: got 1.5"),
        ({"granularity": "patches", "side": 0.0}, "above 0 and at most 1: got 0"),
        ({"granularity": "patches", "side": 0.01}, "0.01 of the shorter side of 32 x 32 pixels is none"),
        ({"target": [1, 2, 3]}, "3 entries for a batch of 2"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], says: str) -> None:
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    given = {"x": torch.zeros(2, 3, 32, 32), "maps": torch.zeros(2, 32, 32), "target": 0, **changes}
    with pytest.raises(ValueError, match=says):
        removal_curve(model, **given)


@pytest.mark.parametrize("name", ["deletion", "insertion", "removal"])
def test_parameters_are_checked_before_any_work(name: str) -> None:
    for given, says in (
        ({"fill": "grey"}, "'black' or 'mean' or 'blur': got 'grey'"),
        ({"steps": 1}, "2 or more.*got 1"),
        ({"side": 2.0}, "at most 1: got 2"),
        ({"score": "loss"}, "'probability' or 'logit': got 'loss'"),
    ):
        with pytest.raises(ValueError, match=says):
            create(name, **given)
    with pytest.raises(ValueError, match="8 x 8 pixels is none"):
        create(name, granularity="patches").check(fm.Classifier(nets.VGGLike(), size=8, target_layer="conv1"))
