"""Maps of pairs of faces: decisions against loops over pixels, and squares whose place is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import Case, bootstrap, create, eer_threshold, ranking_auc
from faithmap.metrics.faces import squares
from faithmap.models.base import Model
from faithmap.targets import Dissimilarity, Logit, Similarity, Target
from tests import nets

SIDE = 16
CURVES = ("verification-deletion", "verification-insertion")


def patterns() -> fm.FaceEmbedder:
    """A recogniser that sees 4 x 4 cells of a face: its similarity is a sum over places, whose parts are known."""
    return fm.FaceEmbedder(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), size=SIDE)


def parts(face: fm.FaceEmbedder, x: Tensor, reference: Tensor) -> Tensor:
    """What each cell adds to the similarity, ``(n, H, W)``: f_p r_p / (|f| |r|), summed over colours."""
    f, r = (F.normalize(values, dim=1).view(-1, 3, SIDE // 4, SIDE // 4) for values in (face.embed(x), reference))
    return F.interpolate((f * r).sum(dim=1, keepdim=True), scale_factor=4)[:, 0]


def pairs_of_patterns(n: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Probes, galleries and kinds: people are random cells, and a genuine pair's pictures differ by noise."""
    people = F.interpolate(torch.randn(2 * n, 3, 4, 4), scale_factor=4)
    galleries = people[:n]
    genuine = torch.arange(n) % 2 == 0
    probes = torch.where(genuine[:, None, None, None], galleries, people[n:])
    return probes + 0.1 * torch.randn_like(probes), galleries, genuine


def case_of(
    face: fm.FaceEmbedder, x: Tensor, galleries: Tensor, genuine: Tensor, maps: Tensor | None = None, **more: Any
) -> Case:
    reference = face.embed(galleries)

    def explain(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        assert isinstance(target, (Similarity, Dissimilarity))
        sign = 1 if isinstance(target, Similarity) else -1
        return sign * parts(face, x, target.reference)

    given = {"explain": explain, "genuine": genuine, "partners": galleries, "threshold": 0.5, **more}
    maps = parts(face, x, reference) if maps is None else maps
    return Case(face, x, maps, Similarity(reference), **given)


# -- deletion and insertion -------------------------------------------------------------------------------------------


def literal(case: Case, i: int, insert: bool, fill: Tensor) -> tuple[list[float], list[bool]]:
    """Similarity and decision of one pair at 0, 10, ..., 100 %, pixel by pixel, for a map without ties."""
    assert case.partners is not None
    assert case.genuine is not None
    assert case.threshold is not None
    x, map, W = case.x[i], case.maps[i], case.x.shape[-1]
    order = sorted(range(map.numel()), key=lambda p: -float(map.flatten()[p]))
    similarities, right = [], []
    for tenths in range(11):
        shown = fill.clone() if insert else x.clone()
        for p in order[: round(tenths * len(order) / 10)]:
            shown[:, p // W, p % W] = (x if insert else fill)[:, p // W, p % W]
        f, r = (case.model.module(one[None])[0] for one in (shown, case.partners[i]))
        s = float(f @ r / (f.norm() * r.norm()))
        similarities.append(s)
        right.append(s >= case.threshold if case.genuine[i] else s < case.threshold)
    return similarities, right


def trapezoid(values: list[Any]) -> float:
    return sum(float(a + b) / 2 for a, b in pairwise(values)) / (len(values) - 1)


@torch.no_grad()
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("fill", ["black", "mean"])
def test_decisions_are_those_of_the_loop_over_pixels(name: str, fill: str) -> None:
    face = fm.FaceEmbedder(nets.Faces().double().eval(), size=32)
    x, galleries = torch.randn(2, 5, 3, 32, 32).double()
    galleries[:2] = x[:2] + 0.3 * torch.randn(2, 3, 32, 32)
    genuine = torch.tensor([True, True, False, True, False])
    case = case_of(face, x, galleries, genuine, torch.randn(5, 32, 32), threshold=0.35, batch_size=7)
    found = create(name, fill=fill).measure(case)
    colour = torch.tensor(-1.0 if fill == "black" else 0.0).double().expand(3, 32, 32)
    decided = set()
    for i in range(5):
        similarities, right = literal(case, i, name == "verification-insertion", colour)
        decided.update(zip(right, [bool(genuine[i])] * 11, strict=True))
        assert found.curves[name][i].tolist() == [float(one) for one in right]
        assert found.curves[f"{name} similarity"][i].tolist() == pytest.approx(similarities, abs=1e-6)
        assert float(found.values[name][i]) == pytest.approx(trapezoid(right))
        assert float(found.values[f"{name}@.2"][i]) == pytest.approx(trapezoid(right[:3]))
        assert float(found.values[f"{name} similarity"][i]) == pytest.approx(trapezoid(similarities), abs=1e-6)
    assert len(decided) == 4, "the example must hold right and wrong decisions of both kinds"
    assert set(found.values) == set(create(name).parts)
    for kind, chosen in (("genuine", genuine), ("impostor", ~genuine)):
        torch.testing.assert_close(found.values[f"{name} {kind}"][chosen], found.values[name][chosen])
        assert bool(found.values[f"{name} {kind}"][~chosen].isnan().all())
    assert case.forwards == 5 * 11


def test_curves_are_those_of_removal_and_are_shared() -> None:
    """What one metric has asked of a case, another does not ask again: both ends, and each order once."""
    case = case_of(patterns(), *pairs_of_patterns(4))
    found = [create(name).measure(case) for name in CURVES]
    assert case.forwards == 4 * (2 + 9 + 9)
    removal = create("removal", fill="black").measure(case)
    game = create("hiding-game", fill="black", steps=10).measure(case)
    assert case.forwards == 4 * (2 + 9 + 9)
    torch.testing.assert_close(found[0].curves["verification-deletion similarity"], removal.curves["morf"])
    torch.testing.assert_close(found[1].curves["verification-insertion similarity"], removal.curves["lerf"].flip(1))
    torch.testing.assert_close(game.curves["hiding-game"], removal.curves["lerf"].flip(1))


def test_the_truth_of_genuine_pairs_is_removed_and_inserted_faster_than_any_order() -> None:
    """Where the similarity is a sum over cells, the cells' parts as a map beat random maps and their own reverse."""
    face = patterns()
    x, galleries, genuine = pairs_of_patterns(12)
    x = x + 1.5 * torch.randn_like(F.avg_pool2d(x, 4)).repeat_interleave(4, 2).repeat_interleave(4, 3)

    def areas(maps: Tensor | None) -> tuple[float, float]:
        case = case_of(face, x, galleries, genuine, maps)
        both = (create(name, fill="mean").measure(case).values[f"{name} similarity"][genuine] for name in CURVES)
        deletion, insertion = (float(values.mean()) for values in both)
        return deletion, insertion

    deletion, insertion = areas(None)
    truth = parts(face, x, face.embed(galleries))
    for other in (torch.rand(12, SIDE, SIDE), -truth):
        found = areas(other)
        assert deletion < found[0] - 0.05
        assert insertion > found[1] + 0.02


def test_maps_that_are_not_finite_have_no_value_and_disturb_no_other() -> None:
    face = patterns()
    x, galleries, genuine = pairs_of_patterns(4)
    whole, broken = torch.rand(4, SIDE, SIDE), torch.rand(4, SIDE, SIDE)
    broken[:] = whole
    broken[1, 0, 0], broken[2, 3, 3] = torch.nan, torch.inf
    for name in (*CURVES, "hiding-game"):
        a, b = (create(name).measure(case_of(face, x, galleries, genuine, maps)) for maps in (whole, broken))
        for part, values in a.values.items():
            torch.testing.assert_close(b.values[part][[0, 3]], values[[0, 3]], equal_nan=True)
            assert bool(b.values[part][[1, 2]].isnan().all())
    assert bool(
        create(CURVES[0])
        .measure(case_of(face, x, galleries, genuine, whole * torch.nan))
        .values[CURVES[0]]
        .isnan()
        .all()
    )


def test_a_balanced_set_stands_at_its_floor_where_nothing_survives_removal() -> None:
    """Genuine pairs that fail from 10 % on and impostors that are never let in: 52.5 %."""
    galleries = pairs_of_patterns(4)[1]
    x = galleries * torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1)
    genuine = torch.tensor([True, True, False, False])
    case = case_of(patterns(), x, galleries, genuine, torch.rand(4, SIDE, SIDE), threshold=0.9999)
    values = create("verification-deletion", fill="mean").measure(case).values["verification-deletion"]
    assert values.tolist() == pytest.approx([0.05, 0.05, 1, 1])
    assert float(values.mean()) == pytest.approx(0.525)


# -- the hiding game --------------------------------------------------------------------------------------------------


def test_the_hiding_game_tells_the_least_share_that_brings_the_match_back() -> None:
    """One cell of sixteen holds all of the face: shown first, 1/16 of the pixels will do; shown last, it takes all."""
    face = fm.FaceEmbedder(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), size=SIDE)
    x = torch.zeros(4, 3, SIDE, SIDE)
    x[:, :, 4:8, 8:12] = torch.randn(3)[:, None, None]
    x[3] = -x[3]
    galleries = x.clone()
    galleries[3] *= -1
    maps = torch.rand(4, SIDE, SIDE)
    maps[0, 4:8, 8:12], maps[1, 4:8, 8:12] = 2, -1
    genuine = torch.tensor([True, True, False, True])
    found = create("hiding-game", fill="mean", steps=16).measure(case_of(face, x, galleries, genuine, maps))
    assert found.values["hiding-game"][:2].tolist() == [1 / 16, 1.0]
    assert bool(found.values["hiding-game"][2:].isnan().all()), "an impostor, and a genuine pair that never matched"
    torch.testing.assert_close(found.curves["hiding-game"][1], torch.tensor([0.0] * 16 + [1.0], dtype=torch.float64))


# -- squares whose place is known -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_ranking_is_that_of_the_loop_over_pairs_of_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-3, 4, (3, 5, 6), generator=generator).float()
    inside = torch.rand(3, 5, 6, generator=generator) < 0.3
    for map, region, found in zip(maps, inside, ranking_auc(maps, inside), strict=True):
        wins = [(a > b) + (a == b) / 2 for a in map[region].tolist() for b in map[~region].tolist()]
        assert float(found) == pytest.approx(sum(wins) / len(wins))


def test_ranking_by_chance_is_a_half_and_without_an_answer_nan() -> None:
    inside = torch.zeros(1, 8, 8, dtype=torch.bool)
    inside[0, 2:5, 3:6] = True
    many = ranking_auc(torch.rand(2000, 8, 8), inside.expand(2000, 8, 8))
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)
    for map, expected in ((inside.float(), 1.0), (-inside.float(), 0.0), (torch.ones(1, 8, 8), 0.5)):
        assert ranking_auc(map, inside).tolist() == [expected]
    for map, region in ((torch.full((1, 8, 8), torch.nan), inside), (torch.rand(1, 8, 8), inside & False)):
        assert bool(ranking_auc(map, region).isnan())


@pytest.mark.parametrize(("size", "side"), [((16, 16), 0.25), ((33, 20), 0.3), ((40, 64), 0.5), ((7, 7), 0.2)])
def test_squares_lie_in_the_middle_by_their_centre_and_belong_to_their_picture(
    size: tuple[int, int], side: float
) -> None:
    x = torch.randn(200, 3, *size)
    found = squares(x, side, seed=0)
    length = int(side * min(size))
    places = set()
    for square in found:
        rows, cols = square.any(dim=1).nonzero().flatten(), square.any(dim=0).nonzero().flatten()
        assert int(square.sum()) == length**2 == len(rows) * len(cols)
        for line, whole in ((rows, size[0]), (cols, size[1])):
            centre = float(line.double().mean()) + 0.5
            assert whole / 4 <= centre <= 3 * whole / 4 + 0.5
        places.add((int(rows[0]), int(cols[0])))
    assert len(places) > 10 or min(size) < 10
    assert bool((squares(x.flip(0), side, seed=0) == found.flip(0)).all())
    assert bool((squares(x, side, seed=1) != found).any())


def test_the_parts_of_the_similarity_find_the_square() -> None:
    """In genuine pairs what parts them is a stranger's square; in impostor pairs what joins them is the gallery's."""
    face = patterns()
    x, galleries, genuine = pairs_of_patterns(40)
    found = create("patch-swap", side=0.5).measure(case_of(face, x, galleries, genuine, threshold=0.6)).values
    for kind, chosen in (("genuine", genuine), ("impostor", ~genuine)):
        values = found[f"patch-swap {kind}"]
        assert int(values.isfinite().sum()) >= 15
        assert float(values.nanmean()) > 0.65
        assert bool(values[~chosen].isnan().all())
        assert float(found["patch-swap gain"][chosen].nanmean()) > 0.15
    assert set(found) == set(create("patch-swap").parts)


def test_maps_that_do_not_look_gain_nothing() -> None:
    """A centre blob ranks squares in the middle first, yet gains exactly nothing from the swap."""
    face = patterns()
    x, galleries, genuine = pairs_of_patterns(16)
    row = torch.arange(SIDE) - (SIDE - 1) / 2
    blob = torch.exp(-(row[:, None] ** 2 + row**2) / 30)

    def explain(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        return blob.expand(len(x), -1, -1)

    case = case_of(face, x, galleries, genuine, blob.expand(16, -1, -1), explain=explain, threshold=0.6)
    found = create("patch-swap").measure(case).values
    known = found["patch-swap"].isfinite()
    assert float(found["patch-swap"].nanmean()) > 0.6
    assert found["patch-swap gain"][known].tolist() == [0.0] * int(known.sum())


def recorded(asked: list[tuple[Tensor, Target]], face: fm.FaceEmbedder) -> Callable[..., Tensor]:
    def explain(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        asked.append((x.clone(), target))
        return torch.rand(len(x), *x.shape[-2:])

    return explain


def test_changed_probes_hold_the_squares_they_say() -> None:
    """Outside the probe; inside, of an impostor pair its gallery, of a genuine pair a gallery of somebody else."""
    face, asked = patterns(), list[tuple[Tensor, Target]]()
    x, galleries, genuine = pairs_of_patterns(6)
    case = case_of(face, x, galleries, genuine, explain=recorded(asked, face), threshold=0.6)
    found = create("patch-swap", effect=0.0).measure(case).values
    inside = squares(x, 0.25, seed=0)
    assert [type(target).__name__ for _, target in asked] == ["Dissimilarity", "Similarity"]
    for kind, (changed, target) in zip((genuine, ~genuine), asked, strict=True):
        rows = (kind & (found["patch-swap effect"] >= 0)).nonzero().flatten()
        assert isinstance(target, (Similarity, Dissimilarity))
        torch.testing.assert_close(target.reference[-len(rows) :], face.embed(galleries[rows]))
        for i, picture in zip(rows.tolist(), changed[-len(rows) :], strict=True):
            assert bool((picture[:, ~inside[i]] == x[i][:, ~inside[i]]).all())
            givers = [j for j in range(6) if bool((picture[:, inside[i]] == galleries[j][:, inside[i]]).all())]
            assert len(givers) == 1
            assert (givers[0] == i) != bool(genuine[i])
            f = F.cosine_similarity(face.embed(picture[None]), face.embed(galleries[i : i + 1]))
            moved = float(f - case.clean[i]) * (-1 if genuine[i] else 1)
            assert float(found["patch-swap effect"][i]) == pytest.approx(moved, abs=1e-5)


def test_nothing_is_known_where_the_swap_moves_little_or_nobody_else_is_there() -> None:
    face = patterns()
    x, galleries, genuine = pairs_of_patterns(8)
    high = create("patch-swap", effect=1.5).measure(case_of(face, x, galleries, genuine)).values
    assert bool(high["patch-swap"].isnan().all())
    assert bool(high["patch-swap effect"].isfinite().all())
    alone = create("patch-swap").measure(case_of(face, x[:1], galleries[:1], genuine[:1])).values
    assert bool(alone["patch-swap effect"].isnan()), "one genuine pair by itself has no stranger"
    same = create("patch-swap").measure(case_of(face, x[[0, 0]], galleries[[0, 0]], genuine[[0, 0]])).values
    assert bool(same["patch-swap effect"].isnan().all()), "the same person again is no stranger"


def test_a_method_without_e_minus_has_no_value_for_genuine_pairs() -> None:
    face = patterns()
    x, galleries, genuine = pairs_of_patterns(8)

    def refuses(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        if isinstance(target, Dissimilarity):
            raise ValueError("no e-")
        return torch.rand(len(x), SIDE, SIDE)

    found = create("patch-swap", effect=0.01).measure(
        case_of(face, x, galleries, genuine, explain=refuses, threshold=0.6)
    )
    assert bool(found.values["patch-swap genuine"].isnan().all())
    assert bool(found.values["patch-swap impostor"].isfinite().any())


# -- what they take ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CURVES, "hiding-game", "patch-swap", "inpainting-game"])
def test_what_a_pair_lacks_is_named(name: str) -> None:
    face = patterns()
    case = case_of(face, *pairs_of_patterns(2))
    with pytest.raises(ValueError, match=f"{name} needs which pairs are genuine"):
        create(name).measure(replace(case, genuine=None))
    with pytest.raises(ValueError, match=f"{name} needs a threshold"):
        create(name).measure(replace(case, threshold=None))
    with pytest.raises(ValueError, match="is a Classifier"):
        create(name).check(fm.Classifier(nets.gap_linear(), size=32))
    create(name).check(face)
    assert create(name).task == "verification"


def test_wrong_parameters_and_cases_are_named() -> None:
    case = case_of(patterns(), *pairs_of_patterns(2))
    for parameters in ({"side": 0.0}, {"side": 0.6}, {"effect": -0.1}):
        with pytest.raises(ValueError, match="a side above 0 and at most"):
            create("patch-swap", **parameters)
    with pytest.raises(ValueError, match="2 or more, or all maps have one value: got 1"):
        create("hiding-game", steps=1)
    for lacking in ("explain", "partners"):
        with pytest.raises(ValueError, match=r"Case\(explain=..., partners=...\)"):
            create("patch-swap").measure(replace(case, **{lacking: None}))
    with pytest.raises(ValueError, match="by their Similarity: got Logit"):
        create("patch-swap").measure(replace(case, target=Logit(0)))


# -- real faces -------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_a_blob_in_the_middle_of_a_face_brings_the_match_back_before_random_pixels(data: Path) -> None:
    """Eight genuine and eight impostor LFW pairs: the whole interval of the paired difference lies above 0.05."""
    from tests.test_verification import lfw

    face = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth")
    assert isinstance(face, fm.FaceEmbedder)
    pairs = [pair for kind in (True, False) for pair in [p for p in lfw(data) if p.genuine == kind][:8]]
    x, galleries = (face.prepare([getattr(pair, side) for pair in pairs]) for side in ("probe", "gallery"))
    genuine = torch.tensor([pair.genuine for pair in pairs])
    reference = face.embed(galleries)
    clean = F.cosine_similarity(face.embed(x), reference)
    values = []
    for name in ("centre-gaussian", "random"):
        maps = fm.methods.create(name)(face, x, Similarity(reference))
        case = Case(face, x, maps, Similarity(reference), genuine=genuine, threshold=eer_threshold(clean, genuine))
        values.append(create("verification-insertion").measure(case).values)
    for part in ("verification-insertion", "verification-insertion genuine", "verification-insertion similarity"):
        better = bootstrap(values[0][part] - values[1][part], subjects=[pair.subjects for pair in pairs])
        assert better.low > 0.05, part
