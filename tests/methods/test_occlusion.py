"""Occlusion and X-Face against their formulas, patch by patch, and what they must find."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faithmap as fm
from faithmap.methods import Occlusion, XFace
from faithmap.methods.base import Method
from faithmap.targets import Dissimilarity, Similarity
from tests import nets


def starts(length: int, side: int, stride: int) -> list[int]:
    found = list(range(0, length - side + 1, stride))
    return found if found[-1] == length - side else [*found, length - side]


def literal(score: Callable[[Tensor], Tensor], x: Tensor, side: int, stride: int, hidden: float) -> tuple[Tensor, int]:
    """The mean drop over the patches that cover a pixel of a picture ``(3, H, W)``, and how many patches there are."""
    H, W = x.shape[1:]
    sums, counts, patches = torch.zeros(H, W).to(x), torch.zeros(H, W).to(x), 0
    for top in starts(H, side, stride):
        for left in starts(W, side, stride):
            occluded = x.clone()
            occluded[:, top : top + side, left : left + side] = hidden
            sums[top : top + side, left : left + side] += (score(x[None]) - score(occluded[None])).item()
            counts[top : top + side, left : left + side] += 1
            patches += 1
    assert bool((counts > 0).all())
    return sums / counts, patches


@pytest.mark.parametrize("batch_size", [1, 2, 50])
@pytest.mark.parametrize(("fill", "hidden"), [("mean", 0.0), ("black", -1.5)])
def test_occlusion_is_the_mean_drop_over_the_patches_that_cover_a_pixel(
    fill: str, hidden: float, batch_size: int
) -> None:
    module, x = nets.Residual().double().eval(), torch.randn(3, 3, 22, 32, dtype=torch.float64)
    model = fm.Classifier(module, size=(22, 32), mean=(0.6,) * 3, std=(0.4,) * 3)
    method, classes = Occlusion(patch=8 / 22, stride=5 / 22, fill=fill), [2, 0, 4]  # type: ignore[arg-type]
    found = method.run(model, x, classes, batch_size=batch_size)
    for b in range(3):
        expected, patches = literal(lambda p, b=b: module(p)[0, classes[b]], x[b], 8, 5, hidden)  # type: ignore[misc]
        torch.testing.assert_close(found.maps[b], expected)
    assert found.cost.forward == 3 * (patches + 1)


def test_on_a_linear_network_occlusion_is_w_times_x_through_a_box_filter() -> None:
    """With one place of the patch per pixel each drop is the sum of w x inside, and the map the mean of those."""
    head = nn.Linear(3 * 32 * 32, 1, bias=False).double()
    model, x = fm.Classifier(nn.Sequential(nn.Flatten(), head), size=32), torch.randn(2, 3, 32, 32).double()
    products = (head.weight.view(1, 3, 32, 32) * x).sum(dim=1, keepdim=True).detach()
    for side in (1, 5):
        sums = F.avg_pool2d(products, side, stride=1) * side**2  # of w x in each patch
        ones = torch.ones(1, 1, side, side, dtype=torch.float64)
        covering = F.conv_transpose2d(torch.ones_like(sums), ones)
        expected = F.conv_transpose2d(sums, ones) / covering
        torch.testing.assert_close(Occlusion(patch=side / 32, stride=1 / 32)(model, x, 0)[:, None], expected)


def test_occlusion_follows_the_patch_that_makes_the_class() -> None:
    """Class 0 is the strongest 4 x 4 cell of red: nothing else moves it, and moving the cell moves the map."""
    module = nn.Sequential(nn.AvgPool2d(4), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    model, x = fm.Classifier(module, size=32), torch.zeros(2, 3, 32, 32)
    x[0, 0, 8:12, 12:16] = x[1, 0, 20:24, 16:20] = 1
    assert torch.equal(Occlusion(patch=1 / 8, stride=1 / 8)(model, x, 0), x[:, 0])
    coarse = Occlusion(patch=1 / 4, stride=1 / 8)(model, x, 0)  # each pixel is covered by 2 x 2 patches
    assert torch.equal(coarse[0].roll((12, 4), dims=(0, 1)), coarse[1])
    assert coarse[0, 8:12, 10:18].mean(dim=0).tolist() == [0.5, 0.5, 1, 1, 1, 1, 0.5, 0.5]


def test_a_picture_hidden_whole_has_one_value() -> None:
    model, x = fm.Classifier(nets.gap_linear().double().eval(), size=32), torch.randn(1, 3, 32, 32).double()
    maps = Occlusion(patch=1.0, stride=1.0)(model, x, 1)
    drop = model.module(x)[0, 1] - model.module(torch.zeros_like(x))[0, 1]
    torch.testing.assert_close(maps, drop.detach().expand(1, 32, 32))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_xface_is_the_mean_over_sizes_of_distance_change_per_area(batch_size: int) -> None:
    module, x = nets.Faces().double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model, references = fm.FaceEmbedder(module, size=32), torch.randn(2, 6, dtype=torch.float64)
    found = XFace(smallest=5 / 32, sizes=2, stride=4 / 32).run(model, x, Similarity(references), batch_size=batch_size)
    for b in range(2):

        def similarity(p: Tensor, b: int = b) -> Tensor:
            return F.cosine_similarity(module(p), references[b : b + 1])

        (small, m), (large, n) = (literal(similarity, x[b], side, 4, -1.0) for side in (5, 10))
        torch.testing.assert_close(found.maps[b], (small / 25 + large / 100) / 2)
    assert found.cost.forward == 2 * (m + n + 1)
    minus = XFace(smallest=5 / 32, sizes=2, stride=4 / 32)(model, x, Dissimilarity(references))
    torch.testing.assert_close(minus, -found.maps)


def test_xface_takes_the_papers_patches_on_a_face_of_112_pixels() -> None:
    module = nn.Sequential(nn.AvgPool2d(28), nn.Flatten())
    found = XFace().run(fm.FaceEmbedder(module, size=112), torch.rand(1, 3, 112, 112), Similarity(torch.ones(48)))
    assert found.cost.forward == 1 + sum(len(starts(112, side, 5)) ** 2 for side in (7, 14, 28))


def test_progress_counts_all_sizes_as_one_way() -> None:
    model, x = fm.FaceEmbedder(nets.Faces().eval(), size=32), torch.randn(3, 3, 32, 32)
    done: list[int] = []
    method = XFace(smallest=1 / 8, sizes=2, stride=1 / 8)
    method.run(model, x, Similarity(torch.ones(6)), batch_size=2, progress=lambda d, _: done.append(d))
    assert done == sorted(done)
    assert done[-1] == 3 * method.steps
    assert len(set(done)) > 100


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Occlusion(patch=0.0), "got patch=0.0"),
        (lambda: Occlusion(patch=0.1, stride=0.2), "leaves pixels uncovered: got patch=0.1, stride=0.2"),
        (lambda: Occlusion(patch=1.1), "got patch=1.1"),
        (lambda: XFace(sizes=0), "xface takes sizes >= 1"),
        (lambda: XFace(sizes=6), r"at most 1: got smallest=0.0625, sizes=6"),
        (lambda: XFace(stride=0.1), "stride <= smallest"),
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], Method], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_xface_explains_faces_alone() -> None:
    with pytest.raises(ValueError, match="xface explains pairs of faces"):
        XFace()(fm.Classifier(nets.gap_linear().eval(), size=32), torch.randn(1, 3, 32, 32), 0)
