"""ROAD: the imputation against a sparse solve written out neighbour by neighbour, and the metric against a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import Case, create, road_imputed
from faithmap.metrics.imputation import imputed
from faithmap.metrics.road import _noise
from faithmap.pixels import blur
from faithmap.targets import Logit, Similarity
from tests import nets

scipy_sparse = pytest.importorskip("scipy.sparse")
scipy_solve = pytest.importorskip("scipy.sparse.linalg").spsolve


def literal(x: Tensor, gone: Tensor) -> Tensor:
    """One picture ``(C, H, W)``: an equation per removed pixel, a term per neighbour, solved by elimination."""
    C, H, W = x.shape
    removed, picture = gone.tolist(), x.double().permute(1, 2, 0).tolist()
    places = [(r, c) for r in range(H) for c in range(W) if removed[r][c]]
    number = {place: i for i, place in enumerate(places)}
    rows, columns, values = list(range(len(places))), list(range(len(places))), [1.0] * len(places)
    right = [[0.0] * C for _ in places]
    for i, (r, c) in enumerate(places):
        near = [(r + a, c + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
        near = [(a, b) for a, b in near if 0 <= a < H and 0 <= b < W]
        weights = [1 / 6 if a == r or b == c else 1 / 12 for a, b in near]
        total = sum(weights)
        for (a, b), weight in zip(near, weights, strict=True):
            if removed[a][b]:
                rows.append(i)
                columns.append(number[a, b])
                values.append(-weight / total)
            else:
                right[i] = [so + weight / total * value for so, value in zip(right[i], picture[a][b], strict=True)]
    matrix = scipy_sparse.csc_matrix((values, (rows, columns)), shape=(len(places), len(places)))
    solution = torch.as_tensor(scipy_solve(matrix, np.array(right))).view(len(places), C)
    found = x.double().clone()
    found[:, gone] = solution.T
    return found


def masks(count: int, size: tuple[int, int], share: float, sigma: float) -> Tensor:
    """Removed shares of all shapes: single pixels for sigma 0, large regions for large sigmas."""
    order = blur(torch.randn(count, *size), sigma, 2 * round(3 * sigma) + 1).flatten(1).argsort(dim=1).argsort(dim=1)
    return (order < round(share * size[0] * size[1])).view(count, *size)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (1, 9), (7, 4), (16, 16), (21, 34)])
@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_the_imputation_is_the_sparse_solution(size: tuple[int, int], sigma: float) -> None:
    for share in (0.1, 0.5, 0.75, 0.9):
        x, gone = torch.randn(3, 2, *size).double(), masks(3, size, share, sigma)
        gone[gone.flatten(1).all(dim=1), 0, 0] = False
        expected = torch.stack([literal(one, mask) for one, mask in zip(x, gone, strict=True)])
        torch.testing.assert_close(imputed(x, gone, tolerance=1e-8), expected, rtol=0, atol=1e-6)
        scale = float(x.max() - x.min())
        torch.testing.assert_close(imputed(x.float(), gone).double(), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sigma", [0.0, 20.0])
def test_so_it_is_at_the_size_of_real_inputs(share: float, sigma: float) -> None:
    x, gone = blur(torch.randn(1, 1, 224, 224), 3, 19), masks(1, (224, 224), share, sigma)
    error = (imputed(x, gone)[0] - literal(x[0], gone[0])).abs().max()
    assert float(error) < 2e-5 * float(x.max() - x.min())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_known_pixels_tell_all_the_others(dtype: torch.dtype) -> None:
    """The worst condition that there is: two known pixels among 50,174 removed ones, and a single one."""
    x, gone = torch.zeros(1, 1, 224, 224, dtype=dtype), torch.ones(1, 224, 224, dtype=torch.bool)
    x[..., 100, 30], x[..., 100, 31] = 1.0, -1.0
    gone[:, 100, 30:32] = False
    found = imputed(x, gone)
    neighbours = nn.functional.conv2d(
        nn.functional.pad(found, (1, 1, 1, 1)), torch.tensor([[[[1, 2, 1], [2, 0, 2], [1, 2, 1]]]], dtype=dtype) / 12
    )
    inside = gone[:, None, 1:-1, 1:-1]
    assert float((found - neighbours)[..., 1:-1, 1:-1][inside].abs().max()) < 2e-5
    gone[:, 100, 31] = True
    torch.testing.assert_close(imputed(x, gone), torch.ones_like(x), rtol=0, atol=1e-5)


def test_planes_are_imputed_exactly_away_from_the_border() -> None:
    rows, cols = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    plane, gone = (2 * rows - 3 * cols)[None, None], torch.zeros(1, 40, 40, dtype=torch.bool)
    gone[:, 1:-1, 1:-1] = masks(1, (38, 38), 0.8, 3.0)
    torch.testing.assert_close(imputed(plane * ~gone[:, None], gone), plane, rtol=0, atol=1e-5 * 195)


def test_a_constant_stays_as_it_is_and_nothing_leaves_the_range() -> None:
    gone = masks(2, (30, 30), 0.7, 1.0)
    assert torch.equal(imputed(torch.full((2, 3, 30, 30), 0.1), gone), torch.full((2, 3, 30, 30), 0.1))
    x = torch.randn(2, 3, 30, 30)
    found, low, high = imputed(x, gone), x.masked_fill(gone[:, None], 9), x.masked_fill(gone[:, None], -9)
    assert bool((found >= low.amin(dim=(2, 3), keepdim=True)).all())
    assert bool((found <= high.amax(dim=(2, 3), keepdim=True)).all())
    assert torch.equal(found[~gone[:, None].expand_as(x)], x[~gone[:, None].expand_as(x)])


def test_what_is_removed_does_not_matter_and_companions_do_not() -> None:
    x, gone = torch.randn(4, 3, 40, 28), torch.cat([masks(1, (40, 28), share, 2.0) for share in (0.0, 0.2, 0.6, 0.95)])
    together = imputed(x, gone)
    torch.testing.assert_close(together, imputed(x.masked_fill(gone[:, None], 77.0), gone), rtol=0, atol=0)
    alone = torch.cat([imputed(x[i : i + 1], gone[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    scaled = imputed(x * torch.tensor([1, 1e6, 1e-6])[:, None, None] + 5, gone)  # each channel has its own range
    torch.testing.assert_close((scaled[:, 1] - 5) / 1e6, together[:, 1], rtol=0, atol=1e-4)
    assert torch.equal(together[0], x[0])  # nothing is gone


def test_noise_is_the_samples_own_and_only_where_pixels_are_gone() -> None:
    x, gone = torch.randn(2, 3, 64, 64), masks(2, (64, 64), 0.5, 1.0)
    added = road_imputed(x, gone) - imputed(x, gone)
    assert not added[~gone[:, None].expand_as(x)].any()
    noise = added[gone[:, None].expand_as(x)]
    assert float(noise.std()) == pytest.approx(0.01, rel=0.03)
    assert abs(float(noise.mean())) < 0.0005
    more = gone | masks(2, (64, 64), 0.3, 1.0)
    both = gone[:, None].expand_as(x)
    torch.testing.assert_close((road_imputed(x, more) - imputed(x, more))[both], added[both], rtol=0, atol=1e-6)
    swapped = road_imputed(x.flip(0), gone.flip(0)).flip(0)
    torch.testing.assert_close(swapped, road_imputed(x, gone), rtol=0, atol=1e-6)
    assert not torch.equal(road_imputed(x, gone, seed=1), road_imputed(x, gone))
    assert torch.equal(road_imputed(x, gone, noise=0), imputed(x, gone))


@pytest.mark.parametrize(
    ("x", "gone", "says"),
    [
        (torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 4) > torch.arange(2)[:, None, None], "impute from in picture 0"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4), r"\(2, 4, 4\) bool: got \(2, 4, 4\) torch.float32"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), r"got \(1, 4, 4\)"),
        (torch.zeros(3, 4, 4), torch.zeros(3, 4, dtype=torch.bool), r"\(B, C, H, W\).*got \(3, 4, 4\)"),
        (torch.full((1, 1, 4, 4), torch.nan), torch.zeros(1, 4, 4, dtype=torch.bool), "finite"),
        (torch.zeros(1, 1, 4, 4).half(), torch.zeros(1, 4, 4, dtype=torch.bool), "float16"),
    ],
)
def test_what_cannot_be_imputed_is_named(x: Tensor, gone: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        road_imputed(x, gone)


def small() -> tuple[fm.Model, Tensor, Tensor]:
    """A linear network of 12 x 12 pixels, in float64, with three pictures and their maps."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 4)).double().eval()
    return (
        fm.Classifier(net, size=12, target_layer="0"),
        torch.randn(3, 3, 12, 12).double(),
        torch.rand(3, 12, 12).double(),
    )


@pytest.mark.parametrize("score", ["probability", "logit", "accuracy"])
def test_the_metric_is_the_literal_loop(score: Any) -> None:
    model, x, maps = small()
    k = torch.tensor([2, 0, 1])
    case = Case(model, x, maps, Logit(k), batch_size=5, seed=4)
    found = create("road", noise=0.3, score=score).measure(case)
    noise, expected = 0.3 * _noise(x, 4), torch.zeros(3, 2, 9).double()
    for i in range(3):
        for which, sign in enumerate((-1, 1)):
            ranked = sorted(range(144), key=lambda p: sign * float(maps[i].flatten()[p]))
            for level in range(1, 10):
                gone = torch.zeros(144, dtype=torch.bool)
                gone[ranked[: round(level * 14.4)]] = True
                gone = gone.view(12, 12)
                z = model.module((literal(x[i], gone) + noise[i] * gone)[None])[0].detach()
                value = {"logit": z[k[i]], "probability": z.softmax(0)[k[i]], "accuracy": z.argmax() == k[i]}[score]
                expected[i, which, level - 1] = float(value)
    for part, curve in {"road-morf": expected[:, 0], "road-lerf": expected[:, 1]}.items():
        torch.testing.assert_close(found.curves[part], curve, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.values[part], curve.mean(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.values["road"], found.values["road-lerf"] - found.values["road-morf"])
    assert case.forwards == 3 * 18


def test_an_order_that_is_turned_round_turns_the_sign() -> None:
    model, x, maps = small()
    there, back = (create("road").measure(Case(model, x, m, Logit(1))).values for m in (maps, -maps))
    torch.testing.assert_close(there["road"], -back["road"], rtol=0, atol=1e-12)
    torch.testing.assert_close(there["road-morf"], back["road-lerf"], rtol=0, atol=1e-12)


def noted(forward: Callable[..., Tensor], sizes: list[int]) -> Callable[..., Tensor]:
    """A network's forward that notes its batches."""

    def run(self: nn.Module, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return forward(self, x)

    return run


def test_batches_are_full_and_a_broken_map_costs_no_other_sample_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(nets.VGGLike, "forward", noted(nets.VGGLike.forward, seen))
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    x, maps = torch.randn(4, 3, 32, 32), torch.rand(4, 32, 32)
    whole = create("road").measure(Case(model, x, maps, Logit([0, 1, 2, 3]), batch_size=8))
    assert seen == [8] * 9
    maps = maps.clone()
    maps[1, 5, 5] = torch.nan
    broken = create("road").measure(Case(model, x, maps, Logit([0, 1, 2, 3]), batch_size=8))
    for part, values in whole.values.items():
        assert bool(broken.values[part][1].isnan())
        assert bool(broken.curves[part][1].isnan().all())
        torch.testing.assert_close(broken.values[part][[0, 2, 3]], values[[0, 2, 3]])


@pytest.mark.parametrize("score", ["probability", "accuracy"])
def test_pairs_are_followed_by_their_similarity(score: str) -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    x, maps, r = torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32), torch.randn(2, 6)
    found = create("road", score=score, noise=0).measure(Case(face, x, maps, Similarity(r)))
    half = (maps.flatten(1).argsort(dim=1).argsort(dim=1) >= 512).view_as(maps)
    expected = Similarity(r)(face.module(imputed(x, half))).detach().double()
    torch.testing.assert_close(found.curves["road-morf"][:, 4], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("given", "says"), [({"noise": -1.0}, "got -1"), ({"score": "loss"}, "'accuracy'")])
def test_parameters_are_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create("road", **given)


def test_arcc_is_the_harmonic_mean_of_its_terms() -> None:
    """Coherency and complexity as in ADCC, and ROAD over 20, 40, 60, 80 %, its negative values cut off."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 3)).double()
    model = fm.Classifier(module, size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    x, maps = torch.rand(4, 3, 8, 8, dtype=torch.float64), torch.rand(4, 8, 8, dtype=torch.float64)
    weights = module[1].weight.detach().view(3, 3, 8, 8)
    maps[:2] = ((x[:2] - 0.5) * weights[:2]).sum(dim=1)  # orders that ROAD likes
    maps[3] = 1.0
    case = Case(model, x, maps, Logit([0, 1, 2, 0]), explain=lambda x, target, model=None: x.square().mean(dim=1))
    found = fm.metrics.create("arcc").measure(case).values
    adcc = fm.metrics.create("adcc").measure(case).values
    curves = fm.metrics.create("road").measure(case).curves["road"]
    for i in range(3):
        road = sum(float(curves[i, level]) for level in (1, 3, 5, 7)) / 4
        terms = [float(adcc["coherency"][i]), 1 - float(adcc["complexity"][i]), max(0.0, road)]
        expected = 0.0 if min(terms) == 0 else 3 / sum(1 / term for term in terms)
        assert float(found["arcc"][i]) == pytest.approx(expected, abs=1e-12)
        assert float(found["arcc-road"][i]) == pytest.approx(road, abs=1e-12)
        same = [float(found[f"arcc-{term}"][i]) for term in ("coherency", "complexity")]
        assert same == pytest.approx([terms[0], 1 - terms[1]], abs=1e-12)
    assert found["arcc"][3] == 0  # the whole picture
    assert float(found["arcc"][:2].min()) > 0.01


def arcc_case(maps: Tensor) -> Case:
    """Nine pixels; the network adds up those of the first row."""
    weights = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    weights[0, :, 0] = 1
    module = nn.Sequential(nn.Flatten(), nn.Linear(27, 2, bias=False)).double()
    module[1].weight.data = weights.flatten(1)
    model = fm.Classifier(module, size=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    x = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    x[:, :, 0] = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)

    def explain(x: Tensor, target: Any, model: Any = None) -> Tensor:
        return x.mean(dim=1)

    return Case(model, x, maps, Logit(0), explain=explain)


def test_arcc_takes_an_order_that_is_turned_round_for_nothing() -> None:
    """What ROAD says of the opposite map is below 0 by as much; the harmonic mean with 0 is 0."""
    maps = arcc_case(torch.zeros(1, 3, 3, dtype=torch.float64)).x.mean(dim=1)
    right, wrong = (create("arcc", noise=0.0).measure(arcc_case(sign * maps)).values for sign in (1, -1))
    assert float(right["arcc-road"]) > 0.1
    assert float(right["arcc-coherency"]) > 0.9
    assert float(right["arcc"]) > 0.1
    assert float(wrong["arcc-road"]) < -0.1
    assert wrong["arcc"].tolist() == [0]


def test_arcc_shares_its_evaluations_with_road_and_adcc() -> None:
    case = arcc_case(torch.rand(1, 3, 3, dtype=torch.float64))
    create("arcc").measure(case)
    assert case.forwards == 18
    create("road").measure(case)
    assert case.forwards == 18
    create("adcc").measure(case)
    assert case.forwards == 20  # Y and O


def test_arcc_needs_the_method_and_a_map_of_nan_has_none() -> None:
    case = arcc_case(torch.rand(1, 3, 3, dtype=torch.float64))
    case.explain = None
    with pytest.raises(ValueError, match="arcc needs explain: this case has none"):
        create("arcc").measure(case)
    broken = arcc_case(torch.full((1, 3, 3), torch.nan, dtype=torch.float64))
    assert all(bool(values.isnan().all()) for values in create("arcc").measure(broken).values.values())
