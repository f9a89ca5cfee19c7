"""The inpainting game: blending against a dense system, the game against loops over pixels, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.metrics import Case, blended, bootstrap, create
from faithmap.metrics.inpainting import REGIONS, false_alarms, regions_of
from faithmap.models.base import Model
from faithmap.targets import Dissimilarity, Similarity, Target

SIDE = 32
NAME = "inpainting-game"
Explain = Callable[[Tensor, Target, Model | None], Tensor]


class Window(nn.Module):
    """A network that sees one region of a face, as it is."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.seen].flatten(1)


NOSE = regions_of(SIDE, SIDE)[list(REGIONS).index("nose")]


def sees_the_nose() -> fm.FaceEmbedder:
    return fm.FaceEmbedder(Window(NOSE), size=SIDE, channel_order="bgr")


def sees_everything() -> fm.FaceEmbedder:
    return fm.FaceEmbedder(nn.Flatten(), size=SIDE)


def always(map: Tensor) -> Explain:
    """A map ``(H, W)`` that does not look at the picture."""
    return lambda x, target, model=None: map.expand(len(x), -1, -1)


def given(maps: Tensor) -> Explain:
    return lambda x, target, model=None: maps


def noise(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
    """Maps without ties that depend on each picture alone."""
    return (1e3 * x.double()).sum(dim=1).sin()


def game_of(face: fm.FaceEmbedder, explain: Explain, n: int = 6, impostors: int = 0, batch_size: int = 64) -> Case:
    """People are random cells of 2 x 2 pixels, and a genuine pair's pictures differ by noise."""
    people = F.interpolate(torch.rand(n, 3, SIDE // 2, SIDE // 2), scale_factor=2)
    galleries = face.from_pixels(people)
    probes = face.from_pixels((people + 0.05 * torch.randn_like(people)).clamp(0, 1))
    genuine = torch.arange(n) >= impostors
    probes[:impostors] = probes[:impostors].flip(-1)
    target = Similarity(face.embed(galleries))
    return Case(
        face,
        probes,
        torch.rand(n, SIDE, SIDE),
        target,
        explain=explain,
        genuine=genuine,
        partners=galleries,
        threshold=0.5,
        batch_size=batch_size,
    )


# -- blending ---------------------------------------------------------------------------------------------------------


def dense(picture: Tensor, donor: Tensor, region: Tensor) -> Tensor:
    """Poisson's equation of one channel ``(H, W)`` as one dense system, straight from the formula."""
    H, W = picture.shape
    inside = [(int(y), int(x)) for y, x in region.nonzero()]
    index = {place: k for k, place in enumerate(inside)}
    A, b = torch.zeros(len(inside), len(inside)).double(), torch.zeros(len(inside)).double()
    for (y, x), k in index.items():
        for dy, dx in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]:
            q = (y + dy, x + dx)
            if not (0 <= q[0] < H and 0 <= q[1] < W):
                continue
            w = 1 / 12 if dy and dx else 1 / 6
            A[k, k] += w
            b[k] += w * (donor[y, x] - donor[q])
            if q in index:
                A[k, index[q]] -= w
            else:
                b[k] += w * picture[q]
    found = picture.clone()
    found[region] = torch.linalg.solve(A, b).clamp(0, 1)
    return found


def some_regions() -> Tensor:
    """A box, a ragged blob, one at the picture's corner, two apart."""
    region = torch.zeros(4, 14, 11, dtype=torch.bool)
    region[0, 3:9, 2:9] = True
    region[1] = F.avg_pool2d(torch.rand(1, 14, 11), 3, stride=1, padding=1)[0] > 0.45
    region[2, :5, :6] = True
    region[3, 1:4, 1:4] = region[3, 8:12, 5:9] = True
    return region


def test_blending_solves_poissons_equation() -> None:
    pictures, donors = torch.rand(2, 4, 3, 14, 11).double()
    region = some_regions()
    found = blended(pictures, donors, region)
    for i in range(4):
        for c in range(3):
            expected = dense(pictures[i, c], donors[i, c], region[i])
            torch.testing.assert_close(found[i, c], expected, rtol=0, atol=1e-4)
    assert bool((found[~region[:, None].expand_as(found)] == pictures[~region[:, None].expand_as(found)]).all())
    inside = found[region[:, None].expand_as(found)]
    assert bool(((inside == 0) | (inside == 1)).any()), "the example must leave [0, 1]"
    assert bool(((inside >= 0) & (inside <= 1)).all())


def test_blending_a_batch_is_blending_one_by_one() -> None:
    pictures, donors = torch.rand(2, 4, 3, 14, 11)
    region = some_regions()
    one_by_one = [blended(*(values[i : i + 1] for values in (pictures, donors, region))) for i in range(4)]
    torch.testing.assert_close(blended(pictures, donors, region), torch.cat(one_by_one), rtol=0, atol=1e-5)


def test_colours_are_ones_own_and_what_is_inside_is_the_others() -> None:
    """A face that is only brighter changes nothing; where the border agrees the other is taken over as it is."""
    region = some_regions()
    pictures = 0.1 + 0.3 * torch.rand(4, 3, 14, 11)
    torch.testing.assert_close(blended(pictures, pictures + 0.4, region), pictures, rtol=0, atol=1e-5)
    donors = torch.where(region[:, None], torch.rand(4, 3, 14, 11), pictures)
    torch.testing.assert_close(blended(pictures, donors, region), donors, rtol=0, atol=1e-5)
    assert bool((blended(pictures, donors, region & False) == pictures).all())


# -- the regions ------------------------------------------------------------------------------------------------------


def test_regions_hold_the_points_that_crops_are_aligned_by() -> None:
    points = {
        "left eye": [(38.2946, 51.6963)],
        "right eye": [(73.5318, 51.5014)],
        "nose": [(56.0252, 71.7366)],
        "mouth": [(41.5493, 92.3655), (70.7299, 92.2041)],
    }
    for size in (112, 160):
        regions = dict(zip(REGIONS, regions_of(size, size), strict=True))
        for name, held in points.items():
            for x, y in held:
                for dx, dy in ((-3, -3), (3, 3)):
                    assert bool(regions[name][int((y + dy) * size / 112), int((x + dx) * size / 112)]), name
        assert not bool(regions["brows"][int(48 * size / 112) :].any())
    for region, (left, top, right, bottom) in zip(regions_of(112, 112), REGIONS.values(), strict=True):
        assert int(region.sum()) == (right - left) * (bottom - top) == int(region[top:bottom, left:right].sum())
    with pytest.raises(ValueError, match="a crop of 3 x 3 pixels has none for the brows"):
        create(NAME).check(fm.FaceEmbedder(nn.Flatten(), size=3))


# -- the game ---------------------------------------------------------------------------------------------------------


def test_false_alarms_are_those_of_the_loop() -> None:
    places = torch.stack([torch.randperm(30).view(5, 6) for _ in range(3)])
    inside = torch.rand(3, 5, 6) < 0.4
    found = false_alarms(places, inside)
    for i in range(3):
        for here, count in zip(places[i].flatten(), found[i].flatten(), strict=True):
            assert int(count) == int(((places[i] < here) & ~inside[i]).sum())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(2))
def test_the_game_is_that_of_the_loop_over_pixels(seed: int) -> None:
    """Pixel by pixel in the order of e-: what is flagged becomes the probe's again, and who is nearer is asked."""
    torch.manual_seed(seed)
    face, asked = sees_the_nose(), list[Tensor]()

    def explain(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        assert isinstance(target, Dissimilarity)
        asked.append(x)
        return noise(x, target)

    case = game_of(face, explain)
    found = create(NAME, effect=0.01).measure(case)
    steps, middle = 20, set[float]()
    assert bool((found.values[f"{NAME} earned"] == 1).all())
    for i, twin in enumerate(asked[0][6:]):
        probe = case.x[i]
        inside = region_of(probe, twin)
        order = noise(twin[None], Similarity(face.embed(twin[None])))[0].flatten().argsort(descending=True).tolist()
        f, g = (F.normalize(face.embed(one[None]), dim=1)[0] for one in (probe, twin))
        curve = []
        for step in range(steps):
            picture, alarms = twin.clone(), 0
            for p in order:
                y, x = divmod(p, SIDE)
                if inside[y, x]:
                    picture[:, y, x] = probe[:, y, x]
                elif (alarms + 1) * steps > step * int((~inside).sum()):
                    break
                else:
                    alarms += 1
            y = F.normalize(face.embed(picture[None]), dim=1)[0]
            curve.append(float(y @ f > y @ g))
        assert found.curves[NAME][i].tolist() == [*curve, 1.0]
        middle.add(sum(curve))
        assert float(found.values[NAME][i]) == pytest.approx((sum(curve) - curve[0] / 2 + 0.5) / steps)
        assert float(found.values[f"{NAME} ranking"][i]) == pytest.approx(ranked(twin, inside))
        assert float(found.values[f"{NAME} gain"][i]) == pytest.approx(ranked(twin, inside) - ranked(probe, inside))
    assert len(middle) > 1
    assert 0 < max(middle) < steps, "the example must hold identities that come back on the way"


def region_of(probe: Tensor, twin: Tensor) -> Tensor:
    """The one region that holds all by which they differ, ``(H, W)`` bool."""
    (found,) = (region for region in regions_of(SIDE, SIDE) if not bool((probe != twin)[:, ~region].any()))
    return found


def ranked(x: Tensor, inside: Tensor) -> float:
    map = noise(x[None], Similarity(torch.ones(1, 1)))[0]
    a, b = map[inside][:, None], map[~inside]
    return float(((a > b).double() + (a == b).double() / 2).mean())


def test_the_region_itself_is_the_best_map_and_its_opposite_the_worst() -> None:
    face = sees_the_nose()
    asked = list[Tensor]()

    def first(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        asked.append(x)
        return torch.rand(len(x), SIDE, SIDE)

    case = game_of(face, first)
    create(NAME).measure(case)
    probes, twins = asked[0].chunk(2)
    inside = torch.stack([region_of(probe, twin) for probe, twin in zip(probes, twins, strict=True)])
    nothing = torch.zeros_like(inside).float()
    for sign, value, ranking in ((1.0, 1.0, 1.0), (-1.0, 1 / 40, 0.0)):
        found = create(NAME).measure(replace(case, explain=given(torch.cat([nothing, sign * inside]))))
        assert found.values[NAME].tolist() == pytest.approx([value] * 6)
        assert found.curves[NAME][:, 0].tolist() == [float(sign > 0)] * 6, "0 false alarms at the flip, or all"
        assert found.values[f"{NAME} ranking"].tolist() == [ranking] * 6
        assert found.values[f"{NAME} gain"].tolist() == [ranking - 0.5] * 6


def test_maps_that_do_not_look_gain_nothing_and_rank_by_chance() -> None:
    row = torch.arange(SIDE) - (SIDE - 1) / 2
    blob = torch.exp(-(row[:, None] ** 2 + row**2) / 30)
    values = create(NAME).measure(game_of(sees_the_nose(), always(blob))).values
    assert values[f"{NAME} gain"].tolist() == [0.0] * 6
    assert float(values[f"{NAME} ranking"].mean()) > 0.6, "it lies in the middle"
    values = create(NAME).measure(game_of(sees_the_nose(), always(torch.ones(SIDE, SIDE)))).values
    assert values[f"{NAME} ranking"].tolist() == [0.5] * 6
    random = create(NAME).measure(game_of(sees_the_nose(), noise, n=24)).values
    assert float(random[f"{NAME} ranking"].mean()) == pytest.approx(0.5, abs=0.04)
    assert float(random[NAME].mean()) == pytest.approx(0.5, abs=0.1)
    assert float(random[f"{NAME} gain"].mean()) == pytest.approx(0, abs=0.04)


def test_the_way_into_batches_does_not_matter() -> None:
    torch.manual_seed(3)
    whole = create(NAME).measure(game_of(sees_the_nose(), noise, n=3))
    torch.manual_seed(3)
    single = create(NAME).measure(game_of(sees_the_nose(), noise, n=3, batch_size=7))
    for part, values in whole.values.items():
        torch.testing.assert_close(values, single.values[part], rtol=0, atol=1e-4)


# -- whose truth is known ---------------------------------------------------------------------------------------------


def test_truth_is_earned_where_one_region_counts_and_no_other_place() -> None:
    """A network that sees the nose alone tells its twins apart; to one that sees everything any place is as good."""
    seen = create(NAME, effect=1e-3).measure(game_of(sees_the_nose(), noise)).values
    assert seen[f"{NAME} earned"].tolist() == [1.0] * 6
    assert bool((seen[f"{NAME} effect"] >= 1e-3).all())
    blind = create(NAME, effect=1e-3).measure(game_of(sees_everything(), noise)).values
    assert blind[f"{NAME} earned"].tolist() == [0.0] * 6
    assert all(bool(values.isnan().all()) for part, values in blind.items() if part != f"{NAME} earned")


def test_twins_are_the_probe_but_for_the_region_and_lose_what_they_say() -> None:
    face, asked = sees_the_nose(), list[tuple[Tensor, Target]]()

    def explain(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        asked.append((x, target))
        return torch.rand(len(x), SIDE, SIDE)

    case = game_of(face, explain, n=8, impostors=2)
    values = create(NAME, effect=0.02).measure(case).values
    ((x, target),) = asked
    assert isinstance(target, Dissimilarity)
    assert bool((x[:6] == case.x[2:]).all())
    assert case.partners is not None
    for part, found in values.items():
        assert bool(found[:2].isnan().all()), f"{part} of an impostor pair"
        assert bool(found[2:].isfinite().all())
    for i, twin in enumerate(x[6:], start=2):
        assert bool(region_of(case.x[i], twin).any())
        f = face.embed(torch.stack([case.x[i], twin, case.partners[i]]))
        fall = F.cosine_similarity(f[:1], f[2:]) - F.cosine_similarity(f[1:2], f[2:])
        assert float(values[f"{NAME} effect"][i]) == pytest.approx(float(fall), abs=1e-5)
        torch.testing.assert_close(target.reference[i - 2], f[2])
    assert case.forwards == 8 + 6 * (5 * 5 + 2 + 20)


def test_nothing_is_known_without_effect_or_another_person() -> None:
    case = game_of(sees_the_nose(), noise)
    high = create(NAME, effect=1.9).measure(case).values
    alone = create(NAME).measure(game_of(sees_the_nose(), noise, n=1)).values
    one_person = create(NAME).measure(replace(case, threshold=-1.0)).values
    for values in (high, alone, one_person):
        assert bool((values.pop(f"{NAME} earned") == 0).all())
        assert all(bool(found.isnan().all()) for found in values.values())


def test_a_method_without_e_minus_has_no_value_and_a_broken_map_disturbs_no_other() -> None:
    def refuses(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        raise ValueError("no e-")

    def breaks(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        maps = noise(x, target)
        maps[len(x) // 2, 0, 0] = torch.inf  # of the first twin
        return maps

    case = game_of(sees_the_nose(), noise)
    whole, broken, none = (
        create(NAME).measure(replace(case, explain=explain)).values for explain in (noise, breaks, refuses)
    )
    for part in (NAME, f"{NAME} ranking", f"{NAME} gain"):
        assert bool(none[part].isnan().all())
        assert bool(broken[part][0].isnan())
        torch.testing.assert_close(broken[part][1:], whole[part][1:])
    assert bool((none[f"{NAME} earned"] == 1).all())


def test_what_it_takes_is_named() -> None:
    case = game_of(sees_the_nose(), noise, n=2)
    for parameters in ({"effect": 0.0}, {"effect": -0.1}, {"steps": 1}):
        with pytest.raises(ValueError, match="an effect above 0 and 2 steps or more: got"):
            create(NAME, **parameters)
    for lacking in ("explain", "partners"):
        with pytest.raises(ValueError, match=r"Case\(explain=..., partners=...\)"):
            create(NAME).measure(replace(case, **{lacking: None}))


# -- real faces -------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_a_map_that_looks_finds_what_parts_twins(data: Path) -> None:
    """Six genuine LFW pairs: most twins are told apart, and the map turns to what is new in them."""
    from tests.test_verification import lfw

    face = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth")
    assert isinstance(face, fm.FaceEmbedder)
    pairs = [pair for pair in lfw(data) if pair.genuine][:6]
    x, galleries = (face.prepare([getattr(pair, side) for pair in pairs]) for side in ("probe", "gallery"))
    method, genuine = fm.methods.create("hires-cam"), torch.ones(6, dtype=torch.bool)

    def explain(x: Tensor, target: Target, model: Model | None = None) -> Tensor:
        return method(face, x, target)

    target, maps = Similarity(face.embed(galleries)), torch.zeros(6, 112, 112)
    case = Case(face, x, maps, target, explain=explain, genuine=genuine, partners=galleries, threshold=0.2)
    values = create(NAME, steps=5).measure(case).values
    assert float(values[f"{NAME} earned"].mean()) >= 0.75
    gain = values[f"{NAME} gain"]
    assert bootstrap(gain[gain.isfinite()]).low > 0.05
