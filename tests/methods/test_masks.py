"""RISE, S-RISE and CorrRISE against their formulas, mask by mask, and their errors against what longer runs find."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks.common import face_pairs
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import RISE, SRISE, CorrRISE, Method, Occlusion, XFace
from faithmap.methods.base import Query
from faithmap.methods.masks import BLOCK, Masks, average_ranks, standardised
from faithmap.sampling import generators
from faithmap.targets import Custom, Dissimilarity, Probability, Similarity
from tests import nets


def masks_of(method: Masks, x: Tensor, seed: int = 0) -> Tensor:
    """All masks that a method lays over inputs like x, ``(N, H, W)``."""
    model = fm.Classifier(nn.Flatten(), size=(x.shape[-2], x.shape[-1]))
    return torch.cat(list(method.stream(Query(model, x, None, None, seed, 8))))


def faces() -> tuple[fm.FaceEmbedder, Tensor, Tensor]:
    """A face net, three faces and the embeddings of their partners, in double precision."""
    model = fm.FaceEmbedder(nets.Faces().double().eval(), size=32)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    return model, x, model.embed(torch.randn(3, 3, 32, 32, dtype=torch.float64))


def literal_scores(module: nn.Module, x: Tensor, masks: Tensor, hidden: float, score: Any) -> Tensor:
    """The score of every masked picture, one at a time: ``(N, B)``."""
    table = torch.zeros(len(masks), len(x), dtype=torch.float64)
    for i, mask in enumerate(masks):
        for b in range(len(x)):
            table[i, b] = score(b, module((x[b] * mask + hidden * (1 - mask))[None])).item()
    return table


# --- masks


@pytest.mark.parametrize(("size", "cells", "keep"), [((20, 33), 4, 0.5), ((32, 32), 7, 0.3), ((5, 6), 8, 0.9)])
def test_rises_masks_are_enlarged_grids_cropped_at_random(size: tuple[int, int], cells: int, keep: float) -> None:
    x = torch.zeros(1, 3, *size, dtype=torch.float64)
    found = masks_of(RISE(masks=BLOCK, cells=cells, keep=keep), x, seed=3)
    generator = generators(3, "rise", ["masks"])[0]
    grids = (torch.rand(BLOCK, cells, cells, generator=generator) < keep).double()
    side = [-(-length // cells) for length in size]
    starts = [torch.randint(s, (BLOCK, 1), generator=generator)[:, 0] for s in side]
    for i in range(BLOCK):
        large = F.interpolate(grids[i, None, None], [(cells + 1) * s for s in side], mode="bilinear")[0, 0]
        top, left = int(starts[0][i]), int(starts[1][i])
        torch.testing.assert_close(found[i], large[top : top + size[0], left : left + size[1]])
    assert {int(s) for s in starts[1]} == set(range(side[1]))


def test_corrises_masks_hide_patches_of_the_papers_size() -> None:
    x = torch.zeros(1, 3, 112, 112)
    one = masks_of(CorrRISE(masks=200, patches=1), x)
    assert set(one.unique().tolist()) == {0, 1}
    assert (one == 0).sum(dim=(1, 2)).unique().tolist() == [30 * 30]
    assert len({int(m.argmin()) for m in one}) > 190  # of 83 * 83 places
    hidden = (masks_of(CorrRISE(masks=200), x) == 0).sum(dim=(1, 2))
    assert int(hidden.max()) == 3 * 30 * 30
    assert int(hidden.min()) >= 30 * 30


@pytest.mark.parametrize("kind", [RISE, CorrRISE])
def test_a_run_uses_the_first_masks_of_a_longer_one(kind: Callable[..., Masks]) -> None:
    x = torch.zeros(1, 3, 32, 32)
    short, long = masks_of(kind(masks=BLOCK + 9), x), masks_of(kind(masks=4 * (BLOCK + 9)), x)
    assert torch.equal(short, long[: len(short)])
    assert len(long.flatten(1).unique(dim=0)) > 200
    assert not torch.equal(short, masks_of(kind(masks=BLOCK + 9), x, seed=1))


@pytest.mark.parametrize("method", [RISE(masks=70), CorrRISE(masks=70)])
def test_all_pictures_see_the_same_masks(method: Masks) -> None:
    model, x = fm.Classifier(nets.Residual().double().eval(), size=32), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    seen: list[Tensor] = []

    def watch(outputs: Tensor) -> Tensor:
        seen.append(outputs)
        return outputs[:, 0]

    # A picture of ones through no network is the mask itself, times what the fill makes of it.
    plain = fm.Classifier(nn.Flatten(), size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    method.run(plain, torch.ones(2, 3, 32, 32), Custom(watch), batch_size=3)
    assert max(len(outputs) for outputs in seen) <= 3
    asked = torch.cat(seen)[:-2].view(70, 2, 3, 32, 32)  # the last two are the scores of the pictures themselves
    torch.testing.assert_close(asked, masks_of(method, x.float())[:, None, None].expand_as(asked))
    x[2] = x[0]
    maps = method(model, x, 1)
    torch.testing.assert_close(maps[2], maps[0])


def test_hidden_places_show_what_the_fill_says() -> None:
    plain = fm.Classifier(nn.Flatten(), size=32, mean=(0.2, 0.5, 0.7), std=(0.5, 0.2, 0.1))
    x, seen = torch.randn(1, 3, 32, 32), {}
    for fill in ("mean", "black", "blur"):
        parts: list[Tensor] = []
        method = CorrRISE(masks=5, fill=fill)

        def watch(outputs: Tensor, parts: list[Tensor] = parts) -> Tensor:
            parts.append(outputs)
            return outputs[:, 0]

        method(plain, x, Custom(watch))
        seen[fill] = torch.cat(parts)[:5].view(5, 3, 32, 32)
        shown = masks_of(method, x)[:, None].expand(-1, 3, -1, -1) == 1
        assert torch.equal(seen[fill][shown], x.expand(5, -1, -1, -1)[shown])
    where = ~shown
    assert bool((seen["mean"][where] == 0).all())
    colours = torch.tensor([-0.4, -2.5, -7.0]).view(3, 1, 1).expand(5, 3, 32, 32)
    torch.testing.assert_close(seen["black"][where], colours[where])
    hidden = seen["blur"][where]
    assert 0.01 < float(hidden.std()) < 0.3 * float(x.std())


def test_memory_does_not_grow_with_the_masks() -> None:
    """2048 masks of 112 x 112 would be 100 MB more than 64 of them."""
    code = """
import resource, torch, faithmap as fm
from faithmap.methods import RISE, CorrRISE
model = fm.Classifier(torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten()), size=112)
peaks = []
for masks in (64, 2048):
    for kind in (RISE, CorrRISE):
        kind(masks=masks)(model, torch.rand(1, 3, 112, 112), 0)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""
    pytest.importorskip("resource")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(said) < 25 * (1024 if sys.platform == "darwin" else 1)


# --- RISE


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_rise_is_the_mean_of_masks_weighted_by_their_scores(batch_size: int) -> None:
    module, x = nets.VGGLike().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    model, method, classes = fm.Classifier(module, size=32), RISE(masks=70, cells=4, keep=0.3, centred=False), [4, 0, 2]
    found = method.run(model, x, Probability(classes), seed=2, batch_size=batch_size)
    masks = masks_of(method, x, seed=2)
    scores = literal_scores(module, x, masks, 0.0, lambda b, z: z.softmax(dim=1)[0, classes[b]])
    for b in range(3):
        draws = torch.stack([scores[i, b] * masks[i] / 0.3 for i in range(70)])
        torch.testing.assert_close(found.maps[b], draws.mean(dim=0))
        assert found.standard_error is not None
        torch.testing.assert_close(found.standard_error[b], draws.std(dim=0) / 70**0.5)
    assert found.cost.forward == 3 * 71
    centred = dataclasses.replace(method, centred=True).run(model, x, Probability(classes), seed=2)
    for b in range(3):
        mean = scores[:, b].mean()
        draws = torch.stack([(scores[i, b] - mean) * masks[i] / 0.3 for i in range(70)])
        torch.testing.assert_close(centred.maps[b], mean + draws.mean(dim=0))
        assert centred.standard_error is not None
        torch.testing.assert_close(centred.standard_error[b], draws.std(dim=0) / 70**0.5)


def linear(side: int) -> tuple[fm.Classifier, Tensor]:
    """A network y = <w, x> for a picture of side x side, and w ``(3, side, side)``."""
    head = nn.Linear(3 * side * side, 1, bias=False).double()
    return fm.Classifier(nn.Sequential(nn.Flatten(), head), size=side), head.weight.detach().view(3, side, side)


@pytest.mark.parametrize("centred", [False, True])
def test_on_a_linear_network_rise_tends_to_smoothed_products_not_to_the_weights(centred: bool) -> None:
    """It is keep y + 1/keep sum_j cov(m_i, m_j) w_j x_j, the covariance being that of independent cells."""
    side, cells, keep = 12, 3, 0.4
    model, w = linear(side)
    x = torch.randn(40, 3, side, side, dtype=torch.float64)
    each = F.interpolate(torch.eye(cells**2).double().view(-1, 1, cells, cells), (16, 16), mode="bilinear")[:, 0]
    covariance = torch.zeros(side**2, side**2, dtype=torch.float64)
    for top in range(4):
        for left in range(4):
            shares = each[:, top : top + side, left : left + side].flatten(1)  # (cells^2, pixels)
            covariance += keep * (1 - keep) * shares.T @ shares / 16
    products = (w * x).sum(dim=1).flatten(1)  # (B, pixels)
    expected = keep * products.sum(dim=1, keepdim=True) + products @ covariance / keep
    squares, far = [], []
    for seed in range(12):  # all pictures and pixels share one seed's masks
        found = RISE(masks=500, cells=cells, keep=keep, centred=centred).run(model, x, 0, seed=seed)
        assert found.standard_error is not None
        for truth, into in ((expected, squares), (w.sum(dim=0).flatten(), far)):
            into.append(((found.maps.flatten(1) - truth) / found.standard_error.flatten(1)).square().mean())
    assert 0.8 < float(torch.stack(squares).mean().sqrt()) < 1.2
    assert float(torch.stack(far).mean().sqrt()) > 3


@pytest.mark.parametrize(
    "method",
    [
        RISE(masks=300, cells=4, centred=False), RISE(masks=300, cells=4),
        CorrRISE(masks=300), CorrRISE(masks=300, correlation="pearson"),
    ],
)  # fmt: skip
def test_standard_errors_say_how_far_a_run_of_four_times_the_masks_lies(method: Masks) -> None:
    """The longer run contains the shorter one: their difference has 3/4 of the shorter's variance."""
    model, x, references = faces()
    longer = dataclasses.replace(method, masks=4 * method.masks)
    squares = []
    for seed in range(6):
        short, long = (m.run(model, x, Similarity(references), seed=seed) for m in (method, longer))
        assert short.standard_error is not None
        squares.append(((short.maps - long.maps) / short.standard_error / 0.75**0.5).square().mean())
    assert 0.8 < float(torch.stack(squares).mean().sqrt()) < 1.2


def test_a_score_that_no_mask_changes_leaves_a_flat_map_at_that_score() -> None:
    model, x = fm.Classifier(nets.gap_linear().eval(), size=32), torch.randn(2, 3, 32, 32)
    found = RISE(masks=20).run(model, x, lambda z: z[:, 0] * 0 + torch.tensor([3.0]))
    assert torch.equal(found.maps, torch.full_like(found.maps, 3.0))
    assert found.standard_error is not None
    assert not found.standard_error.any()
    assert found.reasons == ["the score is the same under every mask"] * 2


# --- S-RISE


def test_a_large_mean_score_leaves_its_mark_on_plain_maps_and_none_on_centred_ones() -> None:
    model, x, references = faces()
    for centred in (True, False):
        maps = [
            RISE(masks=100, centred=centred)(model, x, lambda f, c=c: F.cosine_similarity(f, references[:1]) + c)
            for c in (0.0, 100.0)
        ]
        assert torch.allclose(maps[0], maps[1] - 100) == centred


@pytest.mark.parametrize("centred", [False, True])
def test_s_rise_finds_both_sides_in_one_run(centred: bool) -> None:
    model, x, references = faces()
    method = SRISE(masks=100, centred=centred)
    found, other = (method.run(model, x, t(references)) for t in (Similarity, Dissimilarity))
    assert found.against is not None
    assert found.against_error is not None
    assert other.standard_error is not None
    torch.testing.assert_close(found.against, other.maps)
    torch.testing.assert_close(found.against_error, other.standard_error)
    mean = masks_of(method, x).mean(dim=0)
    both = torch.ones_like(mean) if centred else mean / 0.5
    torch.testing.assert_close(found.maps + found.against, both.expand(3, -1, -1))
    assert torch.allclose(found.against_error, found.standard_error) == centred  # type: ignore[arg-type]


def test_pairs_get_each_sides_own_error_and_pay_once() -> None:
    model, x, _ = faces()
    method = SRISE(masks=30, centred=False)
    pair = fm.explain_pair(model, x[:1], x[1:2], method)
    assert pair.probe.dissimilar is not None
    errors = [side.standard_error for side in (pair.probe.similar, pair.probe.dissimilar)]
    direct = method.run(model, x[:1], Similarity(model.embed(x[1:2])))
    torch.testing.assert_close(errors[0], direct.standard_error, check_dtype=False)
    torch.testing.assert_close(errors[1], direct.against_error, check_dtype=False)
    assert direct.cost.forward == 31


# --- CorrRISE


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
def test_corrise_correlates_seeing_a_pixel_with_the_score(correlation: str, ties: bool) -> None:
    """With ties, scores are rounded so that some are equal."""
    module, x = nets.Faces().double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    references = torch.randn(2, 6, dtype=torch.float64)
    model, method = fm.FaceEmbedder(module, size=32), CorrRISE(masks=90, patch=0.4, correlation=correlation)  # type: ignore[arg-type]

    def rounded(s: Tensor) -> Tensor:
        return (s * 20).round() if ties else s

    # Both faces are held against the first reference where the target is a callable: it knows no rows.
    target = Custom(lambda f: rounded(F.cosine_similarity(f, references[:1])))
    found = method.run(model, x, target, seed=4, batch_size=2)
    masks = masks_of(method, x, seed=4)
    scores = literal_scores(module, x, masks, -1.0, lambda _, f: rounded(F.cosine_similarity(f, references[:1])))
    assert (len(scores[:, 0].unique()) < 40) == ties
    for b in range(2):
        expected = torch.zeros(32, 32, dtype=torch.float64)
        for row in range(0, 32, 5):
            for col in range(0, 32, 3):
                m, s = masks[:, row, col].numpy(), scores[:, b].numpy()
                if m.std() > 0:
                    r = stats.spearmanr(m, s)[0] if correlation == "spearman" else np.corrcoef(m, s)[0, 1]
                    expected[row, col] = float(r)
        torch.testing.assert_close(found.maps[b, ::5, ::3], expected[::5, ::3])
    assert found.cost.forward == 2 * 91


def test_ranks_share_their_average_and_pass_on_what_is_not_finite() -> None:
    given = torch.tensor([[2.0, 1.0, 0.0], [1.0, torch.nan, 0.0], [2.0, 5.0, 0.0], [9.0, 7.0, 0.0]]).double()
    ranks = average_ranks(given)
    assert ranks[:, 0].tolist() == [2.5, 1.0, 2.5, 4.0]
    assert bool(ranks[1, 1].isnan())
    assert ranks[:, 2].tolist() == [2.5] * 4
    z = standardised(ranks)
    assert bool(z[:, 1].isnan().all())
    assert z[:, 2].tolist() == [0.0] * 4


def test_pixels_that_are_always_seen_or_never_have_no_correlation() -> None:
    model, x, references = faces()
    found = CorrRISE(masks=5, patches=1).run(model, x, Similarity(references))
    never_hidden = masks_of(CorrRISE(masks=5, patches=1), x).all(dim=0)
    assert 0 < int(never_hidden.sum()) < 32 * 32
    assert found.standard_error is not None
    assert not found.maps[:, never_hidden].any()
    assert bool((found.standard_error[:, never_hidden] == 1).all())
    assert bool((found.standard_error[:, ~never_hidden] < 1).all())
    everything = CorrRISE(masks=5, patch=1.0).run(model, x, Similarity(references))
    assert not everything.maps.any()
    assert everything.reasons == ["the score is the same under every mask"] * 3


def test_corrise_points_at_the_place_that_carries_the_similarity_and_at_that_which_spoils_it() -> None:
    """The embedding is the sum of two places' colours; the second one's is opposite to the partner."""
    module = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 3, 4, bias=False), nn.Flatten()).double()
    weight = torch.zeros(3, 3, 4, 4, dtype=torch.float64)
    weight[:, :, 1, 1] = weight[:, :, 2, 3] = torch.eye(3, dtype=torch.float64)
    module[1].weight.data = weight  # type: ignore[union-attr]
    model, x = fm.FaceEmbedder(module, size=32), torch.rand(1, 3, 32, 32, dtype=torch.float64) * 0.1
    reference = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    x[:, :, 8:16, 8:16] += reference.view(3, 1, 1)
    x[:, :, 16:24, 24:32] += torch.tensor([2.0, -1.0, 1.0], dtype=torch.float64).view(3, 1, 1)
    found = CorrRISE(fill="mean", patch=0.25, masks=1000).run(model, x, Similarity(reference))
    assert found.standard_error is not None
    z = (found.maps / found.standard_error)[0]
    like, unlike = z[8:16, 8:16], z[16:24, 24:30]
    assert float(like.min()) > 3 > -3 > float(unlike.max())
    assert int(z.argmax()) // 32 in range(8, 16)
    assert int(z.argmin()) // 32 in range(16, 24)


# --- wrong parameters


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RISE(masks=1), "rise takes at least 2 masks: got masks=1"),
        (lambda: RISE(cells=0), "rise takes cells >= 1: got cells=0"),
        (lambda: RISE(keep=1.0), "rise's keep is a probability between 0 and 1: got keep=1.0"),
        (lambda: SRISE(keep=0.0), "s-rise's keep is a probability"),
        (lambda: RISE(fill="white"), "rise's fill is 'black' or 'mean' or 'blur': got 'white'"),  # type: ignore[arg-type]
        (lambda: CorrRISE(masks=2), "corrise takes at least 3 masks: got masks=2"),
        (lambda: CorrRISE(patches=0), "corrise takes patches >= 1 .* got patches=0"),
        (lambda: CorrRISE(patch=1.5), "share of the shorter side: got patches=3, patch=1.5"),
        (lambda: CorrRISE(correlation="kendall"), "'spearman' or 'pearson': got 'kendall'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], Masks], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


# --- faces


@pytest.mark.real
@pytest.mark.parametrize(
    "method",
    [
        CorrRISE(masks=120), SRISE(masks=120), Occlusion(patch=1 / 4, stride=1 / 8),
        XFace(smallest=1 / 8, sizes=2, stride=1 / 8),
    ],
    ids=lambda method: method.name,
)  # fmt: skip
def test_what_is_another_persons_sets_a_face_apart_from_itself(method: Method, data: Path) -> None:
    """A face with someone else's eyes, and one with someone else's mouth, each against the untouched face."""
    model = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth")
    faces = torch.cat([model.prepare(probe) for probe, _ in face_pairs(data, genuine=True)[:2]])
    where = torch.zeros(2, 112, 112, dtype=torch.bool)
    where[0, 36:62, 20:92] = where[1, 78:104, 30:82] = True
    swapped = torch.where(where[:, None], faces.flip(0), faces)
    maps = method(model, swapped, Similarity(model.embed(faces)))  # type: ignore[attr-defined]
    for found, box in zip(maps, where, strict=True):
        inside, elsewhere = found[box].mean(), found[20:100, 20:92][~box[20:100, 20:92]].mean()
        assert float(inside) < float(elsewhere)
        assert not method.signed or float(inside) < 0 < float(elsewhere)
