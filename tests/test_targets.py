"""Targets: each is its row of the catalogue, fits its batch or says why not, and never tells an embedding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import faithmap as fm
from faithmap.targets import (
    Custom,
    Dissimilarity,
    DotProduct,
    Each,
    FeatureLocation,
    Logit,
    LogitMargin,
    Probability,
    Similarity,
    Target,
    first_tensor,
    rows_of,
    stack,
)
from tests import nets

Z, A = torch.randn(4, 6), torch.randn(4, 3, 5, 7)
R = torch.randn(4, 6)

# What each target is, by the catalogue, for sample i.
ROWS: list[tuple[Target, Callable[[int], Tensor]]] = [
    (Logit(2), lambda i: Z[i, 2]),
    (Logit([0, 1, 2, 5]), lambda i: Z[i, [0, 1, 2, 5][i]]),
    (Probability([3, 3, 0, 1]), lambda i: Z[i].exp()[[3, 3, 0, 1][i]] / Z[i].exp().sum()),
    (LogitMargin(1, 4), lambda i: Z[i, 1] - Z[i, 4]),
    (LogitMargin([1, 2, 3, 4], 0), lambda i: Z[i, i + 1] - Z[i, 0]),
    (LogitMargin(0, [1, 2, 3, 4]), lambda i: Z[i, 0] - Z[i, i + 1]),
    (Similarity(R), lambda i: Z[i] @ R[i] / (Z[i] @ Z[i]).sqrt() / (R[i] @ R[i]).sqrt()),
    (Similarity(R[0] * 9), lambda i: Z[i] @ R[0] / (Z[i] @ Z[i]).sqrt() / (R[0] @ R[0]).sqrt()),
    (Dissimilarity(R), lambda i: 1 - Z[i] @ R[i] / (Z[i] @ Z[i]).sqrt() / (R[i] @ R[i]).sqrt()),
    (DotProduct(R), lambda i: Z[i] @ R[i]),
    (DotProduct(R[:1]), lambda i: Z[i] @ R[0]),
    (Custom(lambda z: z.amax(dim=1)), lambda i: Z[i].max()),
    (Each([Logit(1), Similarity(R[1]), Logit(3), LogitMargin(0, 1)]),
     lambda i: [Z[0, 1], F.cosine_similarity(Z[1], R[1], dim=0), Z[2, 3], Z[3, 0] - Z[3, 1]][i]),
    (Each([Logit(1), DotProduct(R[1]), DotProduct(R[2]), Logit(3)]),
     lambda i: [Z[0, 1], Z[1] @ R[1], Z[2] @ R[2], Z[3, 3]][i]),
    (Each([Probability(2)]), lambda i: Z[i].softmax(dim=0)[2]),
]  # fmt: skip


@pytest.mark.parametrize(("target", "literal"), ROWS, ids=lambda v: type(v).__name__ if isinstance(v, Target) else "")
def test_scores_are_the_catalogues(target: Target, literal: Callable[[int], Tensor]) -> None:
    expected = torch.stack([literal(i) for i in range(4)])
    torch.testing.assert_close(target(Z), expected, atol=1e-6, rtol=1e-5)
    for rows in (torch.tensor([3, 0]), torch.tensor([2]), torch.tensor([1, 1, 0])):
        torch.testing.assert_close(target.select(rows)(Z[rows]), expected[rows], atol=1e-6, rtol=1e-5)


def test_locations_are_sums_of_magnitudes_over_channels() -> None:
    torch.testing.assert_close(FeatureLocation(2, 6)(A), A[:, :, 2, 6].abs().sum(dim=1), atol=1e-6, rtol=0)
    each = FeatureLocation([0, 1, 2, 4], 3)
    expected = torch.stack([A[i, :, [0, 1, 2, 4][i], 3].abs().sum() for i in range(4)])
    torch.testing.assert_close(each(A), expected, atol=1e-6, rtol=0)
    mixed = Each([FeatureLocation(i, 3) for i in (0, 1, 2, 4)])
    assert mixed.at_layer
    torch.testing.assert_close(mixed(A), expected, atol=1e-6, rtol=0)


def test_the_gradient_of_similarity_flows_through_the_norm() -> None:
    """It is orthogonal to the embedding: longer embeddings do not match better."""
    f = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(Similarity(R[:3].double())(f).sum(), f)
    expected = F.normalize(R[:3].double(), dim=1)
    unit = F.normalize(f.detach(), dim=1)
    expected = (expected - (expected * unit).sum(dim=1, keepdim=True) * unit) / f.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(g, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_similarity_knows_no_length(length: float) -> None:
    torch.testing.assert_close(Similarity(R * length)(Z), Similarity(R)(Z), atol=1e-6, rtol=0)
    torch.testing.assert_close(Similarity(R)(Z * length), Similarity(R)(Z), atol=1e-6, rtol=0)


def test_a_zero_embedding_has_cosine_zero_and_a_finite_gradient() -> None:
    f = torch.zeros(1, 6, requires_grad=True)
    score = Similarity(R[0])(f)
    assert score.item() == 0
    assert bool(torch.autograd.grad(score.sum(), f)[0].isfinite().all())


def test_scores_of_half_precision_outputs_are_float32() -> None:
    for target, _ in ROWS[:11]:
        assert target(Z.bfloat16()).dtype == torch.float32
        assert target(Z.double()).dtype == torch.float64
    big = torch.full((1, 512, 1, 2), 3.01)
    torch.testing.assert_close(
        FeatureLocation(0, 1)(big.bfloat16()), big.bfloat16().float()[:, :, 0, 1].sum(dim=1), atol=1e-3, rtol=0
    )


def test_closed_forms_know_which_targets_are_affine() -> None:
    assert [t.affine for t, _ in ROWS] == [
        True, True, False, True, True, True, False, False, False, True, True, False, False, True, False
    ]  # fmt: skip
    assert Each([Logit(0), LogitMargin(0, 1), DotProduct(R[0])]).affine


# --- what does not fit


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Logit(-1), "k counts from 0: got -1"),
        (lambda: Logit([1, -2]), "got -2"),
        (lambda: Logit(1.0), "k must be one integer or several: got 1.0"),  # type: ignore[arg-type]
        (lambda: Logit(True), "got True"),
        (lambda: Logit(torch.tensor([0.5])), "integer"),
        (lambda: Logit([]), "integer"),
        (lambda: Logit("cat"), "got 'cat'"),  # type: ignore[arg-type]
        (lambda: Logit(None), "got None"),  # type: ignore[arg-type]
        (lambda: LogitMargin([0, 1, 2], [0, 1]), "3 entries of k and 2 entries of rival"),
        (lambda: FeatureLocation([0, 1], [0, 1, 2]), "2 entries of row and 3 entries of col"),
        (lambda: FeatureLocation(0, -1), "col counts from 0: got -1"),
        (lambda: Similarity(torch.zeros(6)), "only zeros"),
        (lambda: Similarity(torch.stack([R[0], R[0] * 0])), "only zeros"),
        (lambda: Dissimilarity(torch.full((6,), torch.nan)), "NaN"),
        (lambda: DotProduct(torch.tensor([1, 2])), r"got \(1, 2\) torch.int64"),
        (lambda: Similarity(torch.ones(1, 1, 6)), r"embedding \(D,\) or one per sample \(B, D\): got \(1, 1, 6\)"),
        (lambda: Similarity("a.png"), "reference of Similarity.*got 'a.png'"),  # type: ignore[arg-type]
        (lambda: Each([]), "it is empty"),
        (lambda: Each([Logit(0), 3]), "got 3"),  # type: ignore[list-item]
        (lambda: Each([Logit([0, 1])]), "Logit holds 2"),
        (lambda: Each([Logit(0), FeatureLocation(0, 0)]), "cannot share a batch"),
    ],
)
def test_what_is_no_target_is_named(make: Callable[[], Target], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("target", "outputs", "says"),
    [
        (Logit(6), Z, "class 6 does not exist: the network has 6 outputs, 0 to 5"),
        (Probability([0, 0, 0, 9]), Z, "class 9"),
        (LogitMargin(0, 6), Z, "class 6"),
        (Logit([0, 1]), Z, "Logit holds 2 entries for a batch of 4"),
        (Similarity(R[:3]), Z, "Similarity holds 3 entries for a batch of 4"),
        (Each([Logit(0)] * 3), Z, "Each holds 3 entries for a batch of 4"),
        (Similarity(torch.ones(5)), Z, "reference of 5 numbers, the network's outputs have 6"),
        (Logit(0), A, r"needs outputs \(B, K\), this network returns \(4, 3, 5, 7\)"),
        (FeatureLocation(5, 0), A, r"place \(5, 0\) lies outside the 5 x 7 feature map"),
        (FeatureLocation(0, 7), A, "outside"),
        (FeatureLocation([0, 1], 0), A, "2 entries for a batch of 4"),
        (FeatureLocation(0, 0), Z, "feature map"),
        (Custom(lambda z: z), Z, r"\(4,\): it returned \(4, 6\)"),
        (Custom(lambda z: z.sum()), Z, r"returned \(\)"),
        (Custom(lambda z: 3), Z, "returned int"),  # type: ignore[arg-type, return-value]
        (Logit(0), "text", "returned str: pass a callable"),
    ],
)
def test_what_does_not_fit_the_network_is_named(target: Target, outputs: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        target(outputs)


def test_check_accepts_one_entry_or_one_per_sample() -> None:
    for target in (Logit(0), Logit([0, 1, 2]), Similarity(R[:3]), Each([Logit(0)] * 3), Each([Logit(0)])):
        target.check(3)
        if len(target) > 1:
            with pytest.raises(ValueError, match="3 entries for a batch of 2"):
                target.check(2)


# --- lists, stacks and provenance


def test_a_list_of_one_target_serves_a_batch() -> None:
    torch.testing.assert_close(Each([Logit(3)])(Z), Z[:, 3], atol=0, rtol=0)
    assert Each([Logit(3)]).select(torch.tensor([2, 1])).describe(7) == {"target": "Logit", "k": 3}


@dataclass(frozen=True, eq=False)
class Power(Target):
    """A target of a user's own with a plain number."""

    p: float

    def __call__(self, outputs: Any) -> Tensor:
        scores: Tensor = (outputs**self.p).sum(dim=1)
        return scores


def test_targets_of_a_kind_with_other_settings_stay_apart() -> None:
    torch.testing.assert_close(
        Each([Power(2.0), Power(3.0), Power(2.0), Logit(0)])(Z),
        torch.stack([(Z[0] ** 2).sum(), (Z[1] ** 3).sum(), (Z[2] ** 2).sum(), Z[3, 0]]),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_targets_of_a_kind_are_evaluated_together() -> None:
    calls: list[int] = []

    def function(z: Tensor) -> Tensor:
        calls.append(len(z))
        return z[:, 0]

    Each([Custom(function), Logit(1), Custom(function), Custom(function)])(Z)
    assert calls == [3]


def test_references_of_other_lengths_can_share_a_list_until_they_meet_the_network() -> None:
    with pytest.raises(ValueError, match="reference of 5 numbers"):
        Each([Similarity(torch.ones(6)), Similarity(torch.ones(5)), Logit(0), Logit(0)])(Z)


def test_stacked_batches_keep_their_targets() -> None:
    target = stack([Logit([0, 1]), Similarity(R[0]), Custom(lambda z: z[:, 4])], [2, 1, 1])
    expected = torch.stack([Z[0, 0], Z[1, 1], F.cosine_similarity(Z[2], R[0], dim=0), Z[3, 4]])
    torch.testing.assert_close(target(Z), expected, atol=1e-6, rtol=1e-5)


def test_descriptions_are_small_numbers_and_never_embeddings() -> None:
    assert Logit([4, 2]).describe(1) == {"target": "Logit", "k": 2}
    assert LogitMargin([4, 2], 1).describe(0) == {"target": "LogitMargin", "k": 4, "rival": 1}
    assert FeatureLocation(3, 2).describe(5) == {"target": "FeatureLocation", "row": 3, "col": 2}
    for kind in (Similarity, Dissimilarity, DotProduct):
        targets: list[Target] = [kind(R[0]), kind(R), Each([kind(R[0]), kind(R[1])])]
        for target in targets:
            assert target.describe(0) == {"target": kind.__name__}
    assert Custom(F.softmax).describe(0) == {"target": "softmax"}
    for target, _ in ROWS:
        assert len(json.dumps(target.describe(0))) < 100


def test_the_rows_of_structured_outputs_are_those_of_each_tensor_per_sample() -> None:
    outputs = {"logits": Z, "loss": torch.tensor(1.0), "anchors": torch.zeros(9, 2), "deep": [A, "text"]}
    rows = rows_of(outputs, torch.tensor([2, 0]))
    assert torch.equal(rows["logits"], Z[[2, 0]])
    assert torch.equal(rows["deep"][0], A[[2, 0]])
    assert (rows["loss"].item(), rows["anchors"].shape, rows["deep"][1]) == (1, (9, 2), "text")
    assert torch.equal(first_tensor(outputs), Z)
    torch.testing.assert_close(
        Each([Logit(0), Logit(1), Probability(2), Logit(3)])(outputs)[1], Z[1, 1], atol=0, rtol=0
    )


def test_targets_made_under_inference_mode_pass_gradients() -> None:
    with torch.inference_mode():
        made: list[tuple[Target, Tensor]] = [
            (Logit([0, 1, 2, 3]), Z), (Logit(torch.tensor([1], dtype=torch.int32)), Z),
            (LogitMargin(0, [1, 2, 3, 4]), Z), (Similarity(R.clone()), Z), (DotProduct(R.clone()), Z),
            (DotProduct(R[0].clone()), Z),
            (FeatureLocation([0, 1, 2, 3], 2), A), (Each([Logit(0), DotProduct(R[0].clone()), Logit(1), Logit(2)]), Z),
        ]  # fmt: skip
    for target, outputs in made:
        leaf = outputs.clone().requires_grad_()
        assert bool(torch.autograd.grad(target(leaf).sum(), leaf)[0].any())


# --- through the model


def test_labels_indices_and_lists_become_logits() -> None:
    model = fm.Classifier(nets.gap_linear().eval(), size=32, labels=["cat", "dog", "tabby cat", "fox", "owl"])
    x = torch.randn(3, 3, 32, 32)
    z = model.network(x)
    for given, classes in [
        ("Dog", [1, 1, 1]), (2, [2, 2, 2]), (np.int64(4), [4, 4, 4]), (torch.tensor([0, 3, 4]), [0, 3, 4]),
        (np.array([1, 0, 2]), [1, 0, 2]), (["fox", 0, Logit(4)], [3, 0, 4]), (("owl",), [4, 4, 4]),
    ]:  # fmt: skip
        target = model.target(given, 3)
        assert target is not None
        torch.testing.assert_close(target(z), z[torch.arange(3), classes], atol=0, rtol=0)
        assert [target.describe(i)["k"] for i in range(3)] == classes
    with pytest.raises(ValueError, match=r"no class 'dgo': did you mean dog"):
        model.target("dgo", 3)
    with pytest.raises(ValueError, match="no class 5: this model has 5, 0 to 4"):
        model.target(5, 3)
    with pytest.raises(ValueError, match="2 entries for a batch of 3"):
        model.target(["cat", "dog"], 3)
