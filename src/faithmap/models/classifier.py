"""Image classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faithmap.models.base import Model, Pictures
from faithmap.targets import Logit, Target, first_tensor
from faithmap.words import did_you_mean


@dataclass(frozen=True)
class Prediction:
    """A class with its softmax probability."""

    label: str
    index: int
    probability: float


class Classifier(Model):
    """An image classifier: a network that returns one score per class, ``(B, K)``.

    Args:
        module: any nn.Module.
        labels: the K class names, if known.
        **settings: size, mean, std, target_layer and more: see `Model`.

    Raises:
        ValueError: see `Model`.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> model = Classifier(net, size=32, labels=["cat", "dog"])
        >>> model.target_layer, model.index_of("dog")
        ('1', 1)
    """

    question: str | None = None
    """What a network that answers questions is asked: see `VQAModel.asking`."""

    def __init__(self, module: nn.Module, *, labels: Sequence[str] | None = None, **settings: Any) -> None:
        super().__init__(module, **settings)
        self.labels = None if labels is None else tuple(labels)

    def label(self, index: int) -> str:
        """The class's name."""
        return self.labels[index] if self.labels is not None and index < len(self.labels) else f"class {index}"

    def index_of(self, label: str) -> int:
        """The index of a class name: exact, or one that this is a part of without doubt."""
        if self.labels is None:
            raise ValueError(
                f"the model knows no class names: give the index of {label!r}, or labels=[...] to the model"
            )
        if self.labels is not None and label in self.labels:
            return self.labels.index(label)  # as it is written: cardigan is not Cardigan
        wanted = label.strip().lower()
        lowered = [name.lower() for name in self.labels or ()]
        if wanted in lowered:
            return lowered.index(wanted)
        if wanted.isdigit():
            return self._checked(int(wanted))
        raise ValueError(f"there is no class {label!r}: {did_you_mean(label, self.labels or ())}")

    def target(self, given: Any, batch: int) -> Target | None:
        """As `Model.target`; classes beyond the labels are named before any work."""
        target = super().target(given, batch)
        if target is not None and target.largest >= 0 and not target.at_layer:
            self._checked(target.largest)
        return target

    def class_target(self, given: Any) -> Target:
        """A class index, a label, or a tensor of indices as `Logit`."""
        if isinstance(given, str):
            return Logit(self.index_of(given))
        if isinstance(given, (int, np.integer)):
            return Logit(self._checked(int(given)))
        if isinstance(given, (Tensor, np.ndarray)):
            target = Logit(torch.as_tensor(given))
            self._checked(int(torch.as_tensor(target.k).max()))
            return target
        raise ValueError(f"a target is a class index, a label, a Target or a callable: got {type(given).__name__}")

    def default_target(self, outputs: Any) -> Target:
        """The predicted class of each sample."""
        return Logit(self._scores(outputs).argmax(dim=1))

    def predict(self, pictures: Pictures, top: int = 5) -> Any:
        """The most likely classes of a picture, best first, or one such list per picture of a list.

        Args:
            pictures: as `prepare` takes them.
            top: how many classes.
        """
        x = self.prepare(pictures)
        with torch.inference_mode(False), torch.no_grad():
            scores = self._scores(self.network(x.clone())).float().softmax(dim=1)
        values, indices = scores.topk(min(top, scores.shape[1]), dim=1)
        found = [
            [Prediction(self.label(k), k, p) for k, p in zip(ks, ps, strict=True)]
            for ks, ps in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        return found if isinstance(pictures, (list, tuple, Tensor)) else found[0]

    def _scores(self, outputs: Any) -> Tensor:
        """The network's scores ``(B, K)``, K as many as there are labels."""
        scores = first_tensor(outputs)
        if scores.ndim != 2:
            raise ValueError(f"a classifier returns scores (B, K): {self.name} returns {tuple(scores.shape)}")
        if self.labels is not None and len(self.labels) != scores.shape[1]:
            raise ValueError(f"{self.name} returns {scores.shape[1]} scores: it was given {len(self.labels)} labels")
        return scores

    def _checked(self, index: int) -> int:
        if index < 0 or (self.labels is not None and index >= len(self.labels)):
            known = "" if self.labels is None else f": this model has {len(self.labels)}, 0 to {len(self.labels) - 1}"
            raise ValueError(f"there is no class {index}{known}")
        return index
