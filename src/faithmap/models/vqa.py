"""Networks that answer questions about pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faithmap.models.base import Model, Pictures
from faithmap.models.classifier import Classifier
from faithmap.models.frozen import unwrap
from faithmap.targets import Target
from faithmap.words import did_you_mean

KEPT = 256
"""The questions whose networks are kept, with what has been derived from each: its frozen twin, cuts, recordings."""


class VQAModel(Model):
    """A network that answers a question about a picture by one of K answers.

    With its question at hand it is an image classifier: `asking` gives that one, and all methods explain it.

    Args:
        module: any nn.Module that is called as ``module(x (B, 3, H, W), question (1, L) long)`` and returns scores
            ``(B, K)``. The question holds the words' numbers and serves the whole batch; 0 fills it up to L.
        answers: the K answers, in the order of the scores.
        words: what the network understands, in lower case; the first has number 1.
        max_words: L, the words of the longest question.
        **settings: size, mean, std, target_layer and more: see `Model`.

    Raises:
        ValueError: there are no answers or no words, one of them comes twice, or max_words is below 1; see `Model`.

    Examples:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.see, self.read = nn.Conv2d(3, 8, 3), nn.Embedding(4, 8)
        ...     def forward(self, x, question):
        ...         return (self.see(x).relu().mean(dim=(2, 3)) * self.read(question).mean(dim=1))[:, :2]
        >>> model = VQAModel(Net(), answers=["yes", "no"], words=["is", "it", "red"], max_words=5, size=32)
        >>> model.asking("Is it red?").labels
        ('yes', 'no')
        >>> model.asking("is it rot?")
        Traceback (most recent call last):
        ...
        ValueError: Net does not know the word 'rot': available: is, it, red
    """

    def __init__(
        self, module: nn.Module, *, answers: Sequence[str], words: Sequence[str], max_words: int, **settings: Any
    ) -> None:
        super().__init__(module, **settings)
        self.answers, self.words = _distinct(answers, "answers"), _distinct(words, "words")
        if type(max_words) is not int or max_words < 1:
            raise ValueError(f"max_words is a whole number, at least 1: got {max_words!r}")
        if (unreachable := [word for word in self.words if _words(word) != [word]]) != []:
            raise ValueError(f"words are single and in lower case, as questions are read: got {unreachable[0]!r}")
        self.max_words = max_words
        self._numbers = {word: number for number, word in enumerate(self.words, start=1)}
        self._networks: dict[Any, nn.Module] = {}

    def asking(self, question: str) -> Classifier:
        """The image classifier that this is while it is asked one question: the same weights, answers for classes.

        What is derived from it is kept with this model, and used again when the question comes again.

        Args:
            question: in words that the network knows, in any case and punctuation.

        Raises:
            ValueError: the question is empty, too long, or has unknown words.
        """
        network = self._network(self.numbers(question))
        asked = Classifier.__new__(Classifier)  # with all that this one is set to, now
        vars(asked).update({**vars(self), "module": network, "labels": self.answers, "question": question})
        return asked

    def answer(self, pictures: Pictures, question: str, top: int = 5) -> Any:
        """The most likely answers to a question about a picture, best first, or one such list per picture of a list.

        Args:
            pictures: as `prepare` takes them.
            question: as for `asking`.
            top: how many answers.
        """
        return self.asking(question).predict(pictures, top)

    def numbers(self, question: str) -> Tensor:
        """A question as the network reads it, ``(1, L)`` on the model's device.

        Args:
            question: as for `asking`.

        Raises:
            ValueError: the question is empty, too long, or has unknown words.
        """
        if not isinstance(question, str):
            raise ValueError(f"a question is a text: got {question!r}")
        words = _words(question)
        if not words:
            raise ValueError(f"the question {question!r} has no words; {self.name} knows {', '.join(self.words[:24])}")
        unknown = [word for word in dict.fromkeys(words) if word not in self._numbers]
        if unknown:
            nouns = f"word{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown))}"
            raise ValueError(f"{self.name} does not know the {nouns}: {did_you_mean(unknown[0], self.words)}")
        if len(words) > self.max_words:
            raise ValueError(f"{self.name} takes questions of up to {self.max_words} words: got {len(words)}")
        numbers = [self._numbers[word] for word in words]
        return torch.tensor([numbers + [0] * (self.max_words - len(words))], device=self.device)

    def network(self, x: Tensor) -> Any:
        """Refused: without a question there are no scores."""
        raise ValueError(self.unasked)

    def target(self, given: Any, batch: int) -> Target | None:
        """Likewise: there is nothing to explain."""
        raise ValueError(self.unasked)

    @property
    def unasked(self) -> str:
        """What to do where a question is due."""
        return (
            f"{self.name} answers questions: give one, explain(model, picture, question=...); what takes no question "
            "takes model.asking(...), the classifier for one"
        )

    def _alone(self) -> nn.Module:
        """Its layers are the same whatever is asked."""
        return self._network(torch.tensor([[1] + [0] * (self.max_words - 1)], device=self.device))

    def _network(self, question: Tensor) -> nn.Module:
        """The network with its question at hand, one for each question."""
        network = unwrap(self.module)
        key = (id(network), question.device, *question[0].tolist())
        if (known := self._networks.get(key)) is not None:
            return known
        while len(self._networks) >= KEPT:
            self._networks.pop(next(iter(self._networks)), None)
        return self._networks.setdefault(key, _bound(network, question))


def _bound(network: nn.Module, question: Tensor) -> nn.Module:
    """A network that knows its question already: the very layers, weights and hooks, all under the same names."""
    kind = type(network)

    def forward(self: Any, x: Tensor) -> Any:
        return kind.forward(self, x, self._question)

    bound: nn.Module = object.__new__(type(kind.__name__, (kind,), {"forward": forward}))
    vars(bound).update(vars(network), _question=question)
    return bound


def _words(question: str) -> list[str]:
    return re.findall(r"[\w'-]+", question.lower())


def _distinct(given: Sequence[str], what: str) -> tuple[str, ...]:
    found = () if isinstance(given, str) else tuple(given)
    if not found or not all(isinstance(one, str) for one in found) or len(set(found)) != len(found):
        raise ValueError(f"{what} is a list of texts, each once: got {given!r}"[:200])
    return found
