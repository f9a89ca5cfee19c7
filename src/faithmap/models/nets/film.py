"""A small network that answers questions about pictures: a convolutional trunk that the question modulates."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FiLM(nn.Module):
    """Feature-wise linear modulation (Perez et al. 2018) and attention over places, for pictures of 96 x 96 pixels.

    The trunk sees the picture at 12 x 12 places, 8 pixels apart. The question scales and shifts its channels,
    ``relu((1 + g) * a + b)``, and the head reads the places that the question attends to.

    Args:
        answers: how many there are.
        words: how many it knows; number 0 fills questions up.
        width: channels of the feature maps.
        context: numbers that stand for the question.
    """

    def __init__(self, answers: int, words: int, width: int = 96, context: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(words + 1, context, padding_idx=0)
        self.read = nn.Sequential(nn.Linear(context, context), nn.ReLU(), nn.Linear(context, context), nn.ReLU())
        half = width // 2
        self.trunk = nn.Sequential(
            *_layer(3, half, 4, 4), *_layer(half, half), *_layer(half, width, 3, 2),
            *_layer(width, width), *_layer(width, width),
        )  # fmt: skip
        self.film, self.act = nn.Linear(context, 2 * width), nn.ReLU()
        self.want = nn.Linear(context, width)
        self.see, self.ask = nn.Linear(width, 128), nn.Linear(context, 128)
        self.out = nn.Linear(128, answers)

    def forward(self, x: Tensor, question: Tensor) -> Tensor:
        """Scores ``(B, answers)`` of pictures ``(B, 3, 96, 96)`` and a question ``(1, L)``, or one for each."""
        a: Tensor = self.trunk(x)
        return self.answer(a, question)

    def answer(self, a: Tensor, question: Tensor) -> Tensor:
        """Likewise, of what the trunk says of the pictures, ``(B, width, 12, 12)``."""
        context = self.read(self.embed(question).sum(dim=1))
        scale, shift = self.film(context)[:, :, None, None].chunk(2, dim=1)
        places = self.act((1 + scale) * a + shift).flatten(2)  # (B, width, 144)
        fit = self.want(context)[:, None] @ places  # (B, 1, 144)
        seen = places @ fit.softmax(dim=2).transpose(1, 2)  # (B, width, 1)
        scores: Tensor = self.out(torch.relu(self.see(seen[:, :, 0]) + self.ask(context)))
        return scores


def _layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel % 2, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()
