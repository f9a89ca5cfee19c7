"""Face recognisers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faithmap.models.base import Model, Pictures
from faithmap.targets import Target, first_tensor


class FaceEmbedder(Model):
    """A face recogniser: a network that returns one embedding per aligned face crop, ``(B, D)``.

    Args:
        module: any nn.Module; of several outputs the first is the embedding.
        threshold: the cosine from which two faces match; without it there is a score but no decision.
        size: side of the square crop, in pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel, likewise.
        **settings: target_layer, channel_order and more: see `Model`.

    Raises:
        ValueError: the threshold is not a cosine; see `Model`.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> face = FaceEmbedder(net, size=32, threshold=0.3)
        >>> face.embed(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        threshold: float | None = None,
        size: int | tuple[int, int] = 112,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        **settings: Any,
    ) -> None:
        super().__init__(module, size=size, mean=mean, std=std, **settings)
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(f"the threshold is a cosine, -1 to 1: got {threshold}")
        self.threshold = threshold

    def embed(self, pictures: Pictures) -> Tensor:
        """Embeddings ``(B, D)`` as the network returns them, of any length."""
        x = self.prepare(pictures)
        with torch.inference_mode(False), torch.no_grad():
            f = first_tensor(self.network(x.clone()))
        if f.ndim != 2:
            raise ValueError(f"a face embedder returns embeddings (B, D): this network returns {tuple(f.shape)}")
        return f if f.dtype == torch.float64 else f.float()

    def similarity(self, a: Pictures, b: Pictures) -> float:
        """The cosine of two faces' embeddings."""
        f = torch.cat([self.embed(a), self.embed(b)])
        if len(f) != 2:
            raise ValueError(f"similarity compares two faces: got {len(f)}")
        return float(F.cosine_similarity(f[:1], f[1:]))

    def class_target(self, given: Any) -> Target:
        """A face recogniser has no classes."""
        raise ValueError(f"a face recogniser has no classes, so {given!r} is no target: {_HINT}")

    def default_target(self, outputs: Any) -> Target:
        """A single face has no question of its own."""
        raise ValueError(f"a face is explained against another: {_HINT}")


_HINT = "use explain_pair(face, probe, gallery), or target=Similarity(face.embed(gallery))"
