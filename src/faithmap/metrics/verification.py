"""Verification: how well similarities tell genuine from impostor pairs. A pair matches where s >= threshold."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Roc(NamedTuple):
    """Error rates at every threshold that makes a difference, from the strictest on; see `roc`."""

    thresholds: Tensor
    """``(k + 1,)``: infinity, at which nothing matches, then the k different scores, falling."""
    fmr: Tensor
    """False match rate, the share of impostors that match: from 0 to 1."""
    tar: Tensor
    """True accept rate, the share of genuine pairs that match, 1 - FNMR: from 0 to 1."""


class TrueAccepts(NamedTuple):
    """The true accept rate at a false match rate, or why it is not told; see `tar_at_fmr`."""

    fmr: float
    """The one asked for."""
    tar: float | None
    """None where there are too few impostors."""
    threshold: float | None
    """From which pairs match; infinity where nothing may."""
    reason: str
    """Why there is no value, else empty."""


class Folds(NamedTuple):
    """Accuracy fold by fold; see `k_fold_accuracy`."""

    mean: float
    standard_error: float
    """Of the mean over folds."""
    accuracies: Tensor
    """``(k,)``, in the order in which the folds come."""
    thresholds: Tensor
    """``(k,)``, each from the other folds."""


def roc(scores: Tensor, genuine: Tensor) -> Roc:
    """The receiver operating characteristic: ``FMR(t) = share of impostors >= t``, ``TAR(t) = share of genuine >= t``.

    Args:
        scores: similarities ``(n,)``.
        genuine: whether both are one person, ``(n,)`` bool.

    Raises:
        ValueError: the scores are not finite, not as many as pairs, or of one kind only.

    Source: ISO/IEC 19795-1, false match and false non-match rate.

    Examples:
        >>> roc(torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([True, True, False, False])).fmr.tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    scores, genuine = _both_kinds(scores, genuine)
    values, place = torch.unique(scores, return_inverse=True)  # rising
    matches = [
        torch.bincount(place[kind], minlength=len(values)).flip(0).cumsum(0).double() / kind.sum()
        for kind in (~genuine, genuine)
    ]
    none = scores.new_zeros(1)
    return Roc(torch.cat([none + math.inf, values.flip(0)]), *(torch.cat([none, rates]) for rates in matches))


def equal_error_rate(scores: Tensor, genuine: Tensor) -> float:
    """EER: the error rate where false matches and false non-matches are equally frequent.

    Rates are steps, which seldom meet: it is read where the straight line between the two neighbouring points of the
    ROC crosses FMR = FNMR.

    Args:
        scores: similarities ``(n,)``.
        genuine: whether both are one person, ``(n,)`` bool.

    Raises:
        ValueError: as in `roc`.

    Source: ISO/IEC 19795-1; the interpolation is stated here because there are several.

    Examples:
        >>> equal_error_rate(torch.tensor([0.9, 0.2, 0.5, 0.1]), torch.tensor([True, True, False, False]))
        0.5
    """
    _, fmr, tar = roc(scores, genuine)
    gap = fmr - (1 - tar)  # rises strictly, from -1 to 1
    k = int((gap >= 0).nonzero()[0])
    part = -gap[k - 1] / (gap[k] - gap[k - 1])
    return float(fmr[k - 1] + part * (fmr[k] - fmr[k - 1]))


def eer_threshold(scores: Tensor, genuine: Tensor) -> float:
    """The threshold at which FMR and FNMR differ least; of several the largest.

    It is one of the scores: rates do not change between one score and the next, and the next is the largest threshold
    that has them.

    Args:
        scores: similarities ``(n,)``.
        genuine: whether both are one person, ``(n,)`` bool.

    Raises:
        ValueError: as in `roc`.

    Examples:
        >>> scores = torch.tensor([0.75, 0.5, 0.25, 0.125])
        >>> eer_threshold(scores, torch.tensor([True, True, False, False]))
        0.5
    """
    thresholds, fmr, tar = (points[1:] for points in roc(scores, genuine))
    gap = (fmr - (1 - tar)).abs()
    # Equal gaps of sums over different counts differ by rounding.
    return float(thresholds[int((gap <= gap.min() + 1e-12).nonzero()[0])])


def decided_right(scores: Tensor, genuine: Tensor, threshold: float | Tensor) -> Tensor:
    """Whether each pair is decided right: genuine ones match, ``s >= threshold``, and impostors do not.

    Args:
        scores: similarities, of any shape.
        genuine: bool, of that shape or one that broadcasts to it.
        threshold: from which pairs match.

    Examples:
        >>> decided_right(torch.tensor([0.3, 0.3]), torch.tensor([True, False]), 0.3)
        tensor([ True, False])
    """
    return (scores >= threshold) == genuine


def accuracy(scores: Tensor, genuine: Tensor, threshold: float) -> float:
    """The share of pairs that are decided right at a threshold.

    Args:
        scores: similarities ``(n,)``.
        genuine: whether both are one person, ``(n,)`` bool; one kind alone will do.
        threshold: from which pairs match.

    Raises:
        ValueError: the scores are not finite or not as many as pairs.

    Examples:
        >>> accuracy(torch.tensor([0.9, 0.4, 0.1]), torch.tensor([True, False, False]), 0.4)
        0.6666666666666666
    """
    scores, genuine = _checked(scores, genuine)
    return float(decided_right(scores, genuine, threshold).double().mean())


def tar_at_fmr(scores: Tensor, genuine: Tensor, fmr: float) -> TrueAccepts:
    """The largest true accept rate of all thresholds whose false match rate is at most ``fmr``.

    It is told only with at least 30 / fmr impostors: with 30 false matches or more, the true rate is within 30 % of the
    observed one with 90 % confidence, if pairs are independent.

    Args:
        scores: similarities ``(n,)``.
        genuine: whether both are one person, ``(n,)`` bool.
        fmr: the false match rate, above 0 and below 1.

    Raises:
        ValueError: fmr is no such rate; or as in `roc`.

    Source: Doddington et al. 2000 (the rule of 30).

    Examples:
        >>> scores, genuine = torch.arange(400.0), torch.arange(400) >= 250
        >>> tar_at_fmr(scores, genuine, 0.2).tar
        1.0
        >>> tar_at_fmr(scores, genuine, 0.1).reason
        'needs 300 impostor pairs, there are 250'
    """
    if not 0 < fmr < 1:
        raise ValueError(f"a false match rate lies above 0 and below 1: got {fmr}")
    curve = roc(scores, genuine)
    needed, impostors = math.ceil(30 / fmr - 1e-6), int((~genuine).sum())
    if impostors < needed:
        return TrueAccepts(fmr, None, None, f"needs {needed} impostor pairs, there are {impostors}")
    last = int((curve.fmr <= fmr + 1e-12).nonzero()[-1])
    return TrueAccepts(fmr, float(curve.tar[last]), float(curve.thresholds[last]), "")


def k_fold_accuracy(scores: Tensor, genuine: Tensor, folds: Sequence[Hashable]) -> Folds:
    """Accuracy of each fold at the threshold that is best for all others together; of several the largest.

    Args:
        scores: similarities ``(n,)``.
        genuine: whether both are one person, ``(n,)`` bool.
        folds: the fold of each pair, n of them: LFW has ten.

    Raises:
        ValueError: there is one fold only, the others of one hold a single kind; or as in `roc`.

    Source: Huang et al. 2007, Labeled Faces in the Wild, View 2.

    Examples:
        >>> scores, genuine = torch.tensor([0.9, 0.1, 0.8, 0.2]), torch.tensor([True, False, True, False])
        >>> k_fold_accuracy(scores, genuine, ["a", "a", "b", "b"]).accuracies
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    scores, genuine = _both_kinds(scores, genuine)
    names = list(dict.fromkeys(folds))
    if len(folds) != len(scores) or len(names) < 2:
        raise ValueError(f"each of {len(scores)} pairs has one of several folds: got {len(folds)}, of {len(names)}")
    accuracies, thresholds = [], []
    for name in names:
        own = torch.tensor([fold == name for fold in folds], device=scores.device)
        curve = roc(scores[~own], genuine[~own])
        share = genuine[~own].double().mean()
        right = share * curve.tar + (1 - share) * (1 - curve.fmr)
        threshold = float(curve.thresholds[int((right >= right.max() - 1e-12).nonzero()[0])])
        thresholds.append(threshold)
        accuracies.append(accuracy(scores[own], genuine[own], threshold))
    found = torch.tensor(accuracies, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(len(found))
    return Folds(float(found.mean()), error, found, torch.tensor(thresholds, dtype=torch.float64))


def _checked(scores: Tensor, genuine: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, scores in float64."""
    if scores.ndim != 1 or scores.shape != genuine.shape or genuine.dtype != torch.bool:
        raise ValueError(
            "each of n pairs has a score (n,) and is genuine or not (n,) bool: "
            f"got {tuple(scores.shape)} and {tuple(genuine.shape)} {genuine.dtype}"
        )
    if len(scores) == 0:
        raise ValueError("there is no pair")
    if unusable := int((~scores.isfinite()).sum()):
        raise ValueError(f"{unusable} of {len(scores)} scores are NaN or infinite: leave those pairs out")
    return scores.detach().cpu().double(), genuine.detach().cpu()


def _both_kinds(scores: Tensor, genuine: Tensor) -> tuple[Tensor, Tensor]:
    scores, genuine = _checked(scores, genuine)
    kinds = int(genuine.sum()), int((~genuine).sum())
    if 0 in kinds:
        raise ValueError(f"error rates need both kinds of pairs: got {kinds[0]} genuine and {kinds[1]} impostor")
    return scores, genuine
