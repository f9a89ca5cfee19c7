"""What metrics of pairs of faces share: whom they judge, who else is in the batch, and the question for e-."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.metrics.base import Case, Metric
from faithmap.models.base import Model
from faithmap.models.face import FaceEmbedder
from faithmap.sampling import generators, sample_ids
from faithmap.targets import Dissimilarity, Similarity, singles


@dataclass(frozen=True)
class OfPairs(Metric):
    """A metric of pairs of faces, whose target is the similarity to the gallery."""

    task: ClassVar[Literal["verification"]] = "verification"

    def is_share(self, part: str) -> bool:
        """All but similarities and their changes."""
        return not part.endswith(("similarity", "effect"))

    def check(self, model: Model) -> None:
        """Only a face recogniser decides pairs."""
        if not isinstance(model, FaceEmbedder):
            raise ValueError(f"{self.name} judges maps of pairs of faces: {model.name} is a {type(model).__name__}")

    def decision(self, case: Case) -> tuple[Tensor, float]:
        """Which pairs are genuine, and the threshold, or an error that says which of them lacks."""
        if case.genuine is None or case.threshold is None:
            lacking = "which pairs are genuine" if case.genuine is None else "a threshold"
            raise ValueError(f"{self.name} needs {lacking}: give Case(genuine=..., threshold=...)")
        return case.genuine.to(case.x.device), case.threshold


def references_of(case: Case) -> Tensor:
    """The galleries' embeddings, ``(B, D)``."""
    targets = singles(case.target, len(case))
    if not all(isinstance(target, Similarity) for target in targets):
        raise ValueError(f"pairs of faces are explained by their Similarity: got {type(case.target).__name__}")
    return torch.cat([target.reference for target in targets if isinstance(target, Similarity)]).to(case.x.device)


def strangers(case: Case, references: Tensor, threshold: float, purpose: str) -> Tensor:
    """A pair of the batch whose gallery does not match the pair's own: its index, ``(B,)``, -1 where there is none.

    Args:
        case: the pairs.
        references: the galleries' embeddings, ``(B, D)``.
        threshold: the similarity from which two of them match.
        purpose: what the stranger is drawn for, beside the seed and the probe.
    """
    f = F.normalize(references, dim=1)
    strange = (f @ f.T < threshold).cpu()  # (B, B)
    found = []
    for row, generator in zip(strange, generators(case.seed, purpose, sample_ids(case.x)), strict=True):
        order = torch.randperm(len(case), generator=generator)
        found += [*order[row[order]][:1].tolist(), -1][:1]
    return torch.tensor(found, device=case.x.device)


def opposites(case: Case, x: Tensor, references: Tensor) -> Tensor:
    """e- of probes, ``(n, H, W)``; NaN where the method has none."""
    assert case.explain is not None
    try:
        return case.explain(x, Dissimilarity(references))
    except ValueError:
        return torch.full((len(x), *x.shape[-2:]), torch.nan, device=x.device)
