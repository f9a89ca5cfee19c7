"""Pairs of faces: gradients of a similarity's arguments, and its exact split by place, from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.batching import chunked
from faithmap.methods.base import Method, Query, Result, first_cause
from faithmap.methods.cam import ActivationMap
from faithmap.methods.registry import register
from faithmap.models.base import Model
from faithmap.models.face import FaceEmbedder
from faithmap.pixels import blur
from faithmap.targets import Dissimilarity, DotProduct, Similarity, Target, first_tensor, singles


@dataclass(frozen=True)
class _OfArguments(Method):
    """A method that tells a similarity's arguments ``v_k = f_k r_k`` apart by their share of the threshold, theta / D.

    f is the L2-normalised embedding of x, ``(B, D)``, and r the partner's. A pair is at its threshold where every
    argument is at its share.
    """

    faces = True
    opposite = "found"

    def check(self, model: Model, target: Target | None) -> None:
        """Faces, a threshold, and a similarity."""
        super().check(model, target)
        _check_targets(self, model, target, (Similarity,))
        assert isinstance(model, FaceEmbedder)
        if model.threshold is None:
            raise ValueError(
                f"{self.name} asks which parts of the similarity reach the decision threshold, and {model.name} has "
                "none: give FaceEmbedder(threshold=...) or load(..., threshold=...)"
            )

    def arguments(self, query: Query) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs, their unit embeddings f with a graph between them, the partners' r, and ``f r - theta / D``.

        One forward. The network is not compiled: a compiled one may not go back twice.
        """
        x = query.x.clone().requires_grad_()
        with torch.enable_grad():
            embeddings = first_tensor(query.model.configured(query.model.precision).network(x))
            f = embeddings.to(x.dtype)
            squares = (f * f).sum(dim=1, keepdim=True).clamp_min(torch.finfo(f.dtype).tiny ** 0.5)
            f = f * squares.rsqrt()  # an embedding of zeros stays one, as in Similarity
        query.cost.forward += len(query)
        query.__dict__.setdefault("outputs", embeddings.detach())
        r = F.normalize(_references(query), dim=1)
        theta: float = query.model.threshold  # type: ignore[attr-defined]
        return x, f, r, f.detach() * r - theta / f.shape[1]


@register("fggb")
@dataclass(frozen=True)
class FGGB(_OfArguments):
    """Feature-guided gradients: the pixels each feature looks at, weighed by what the feature adds to the decision.

    ``S = sum_k G_k (v_k - theta / D)``: v_k = f_k r_k of unit embeddings f and r, theta the decision threshold, and
    G_k the mean over colours of ``|d f_k / dx|``, scaled to unit L2 norm. The terms with positive weights make e+;
    those with negative weights, their sign turned, e-. Neither is negative anywhere, and e+ minus e- is S. Both are
    smoothed by a Gaussian.

    The D gradients are vector-Jacobian products through one forward pass.

    Args:
        sigma: of the Gaussian, in pixels; 0 leaves the maps as they are.
        kernel: side of the Gaussian's window in pixels, odd.
        at_once: gradients per backward pass, k of which take k times the memory; by default one on a CPU, where more
            bring no speed, and as many as fill a batch elsewhere.

    Raises:
        ValueError: the model has no threshold, or the target is not a similarity.

    Source: Lu et al. 2024, arXiv 2403.04549.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face = fm.FaceEmbedder(net, size=32, threshold=0.5)
        >>> pair = fm.explain_pair(face, torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), method="fggb")
        >>> bool((pair.probe.similar.maps >= 0).all()), pair.probe.dissimilar.maps.shape
        (True, torch.Size([1, 32, 32]))
    """

    sigma: float = 5.0
    kernel: int = 25
    at_once: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma < 0 or self.kernel < 1 or self.kernel % 2 == 0 or (self.at_once is not None and self.at_once < 1):
            raise ValueError(
                "fggb takes sigma >= 0, an odd kernel of pixels and at_once >= 1: "
                f"got sigma={self.sigma}, kernel={self.kernel}, at_once={self.at_once}"
            )

    @property
    def steps(self) -> int:
        """Hundredths of the features."""
        return 100

    def attribute(self, query: Query) -> Result:
        """One forward, then each feature's gradient."""
        x, f, _, weights = self.arguments(query)
        B, D = f.shape
        signed = torch.stack([weights.clamp_min(0), -weights.clamp_max(0)])  # (2, B, D): for e+ and for e-
        sums = torch.zeros(2, B, *x.shape[-2:], dtype=torch.float64, device=x.device)
        size = self.at_once or (1 if x.device.type == "cpu" else max(1, query.batch_size // B))

        def seen(k: Tensor) -> tuple[Tensor, Tensor]:
            return k.to(x.device), _feature_gradients(f, x, k)

        for k, G in chunked(seen, D, size):
            query.cost.backward += len(k) * B
            sums += torch.einsum("kbhw,sbk->sbhw", G, signed[:, :, k])
            if query.progress:
                query.progress(B * self.steps * (int(k[-1]) + 1) // D, 0)
        plus, minus = blur(sums, self.sigma, self.kernel).to(query.x.dtype)
        return Result(plus, against=minus, reasons=_reasons(sums, one_sided=(signed == 0).all(dim=2).any(dim=0)))


@register("xssab")
@dataclass(frozen=True)
class XSSAB(_OfArguments):
    """Similarity score argument backpropagation: where the arguments that reach the threshold come from.

    The similarity is a sum of arguments ``v_k = f_k r_k`` of unit embeddings. Those with ``v_k >= theta / D`` are
    similar, the others dissimilar; e+ and e- are the means over colours of ``|d (sum of each kind) / dx|``.

    Raises:
        ValueError: the model has no threshold, or the target is not a similarity.

    Source: Huber et al. 2024, arXiv 2304.13409.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face = fm.FaceEmbedder(net, size=32, threshold=0.5)
        >>> pair = fm.explain_pair(face, torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), method="xssab")
        >>> pair.probe.similar.provenance["evaluations"]
        {'forward': 2.0, 'backward': 2.0}
    """

    def attribute(self, query: Query) -> Result:
        """One forward and two backwards."""
        x, f, r, above = self.arguments(query)
        similar = above >= 0
        gradients = torch.stack([_backward(f, x, torch.where(kept, r, 0)) for kept in (similar, ~similar)])
        query.cost.backward += 2 * len(query)
        maps = gradients.abs().mean(dim=2)  # (2, B, H, W)
        one_sided = similar.all(dim=1) | ~similar.any(dim=1)
        return Result(maps[0], against=maps[1], reasons=_reasons(maps, one_sided))


@register("zhu-decomposition")
@dataclass(frozen=True)
class ZhuDecomposition(ActivationMap):
    """The exact split of a similarity over the places of a layer, for heads that are affine in its activations.

    Behind such a head the embedding is ``f(A) = f(0) + sum_p W_p A_p`` over places p, so that the dot product with the
    partner's embedding r splits into ``<f(0), r> + sum_p A_p . (W_p^T r)``. The map holds the places' parts, upsampled;
    the bias's part ``<f(0), r>`` stands in the notes. For a cosine all parts are divided by ``|f| |r|`` as it is.

    Convolutions, linear layers, batch norm, average pooling and flattening are affine; that the head is, is tried out
    on other activations for each batch.

    Args:
        layer: target layer; the model's by default.

    Raises:
        ValueError: the head is not affine, or the target is neither a similarity nor a dot product.

    Source: Zhu et al. 2021, arXiv 1909.12977.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        >>> face = fm.FaceEmbedder(net, size=32)
        >>> x = torch.rand(2, 3, 32, 32)
        >>> found = ZhuDecomposition().run(face, x[:1], fm.targets.Similarity(face.embed(x[1:])))
        >>> bool(found.completeness_error < 1e-5), found.notes["the bias's part"]
        (True, [0.0])
    """

    faces = True
    additive = True

    def check(self, model: Model, target: Target | None) -> None:
        """Faces, and a product of embeddings."""
        super().check(model, target)
        _check_targets(self, model, target, (Similarity, Dissimilarity, DotProduct))

    def attribute(self, query: Query) -> Result:
        """One run of the tail and back, and its proof."""
        A = query.split.A.clone().requires_grad_()
        with torch.enable_grad():
            embeddings = first_tensor(query.split.tail(A))
        query.__dict__.setdefault("outputs", embeddings.detach())
        f = embeddings.detach().double()
        nothing = first_tensor(query.split.tail(torch.zeros_like(A))).double()
        query.cost.tail_forward += len(query)
        self._prove_affine(query, f[0], nothing[0])
        r = self._direction(query, f)
        query.cost.tail_backward += len(query)
        g = _backward(embeddings, A, r.to(embeddings.dtype)).double()
        parts = (g * A.detach()).sum(dim=1)  # (B, h, w)
        change = ((f - nothing) * r).sum(dim=1)
        found = self.weighted(query, g, notes={"the bias's part": (nothing * r).sum(dim=1).tolist()})
        whole = r.isfinite().all(dim=1).tolist()
        reasons = [why if w else "the embedding is 0" for w, why in zip(whole, found.reasons, strict=True)]
        return replace(found, reasons=reasons).adding_up(parts, change)

    def _prove_affine(self, query: Query, f: Tensor, nothing: Tensor) -> None:
        """Raise unless the first sample's embedding changes with its activations as an affine function's does."""
        A = query.split.A[:1]
        wave = torch.cos(torch.arange(A.numel(), device=A.device, dtype=torch.float64)).view_as(A)
        other = (wave * A.abs().max().clamp_min(1)).to(A.dtype)  # of both signs
        tried = first_tensor(query.split.tail(torch.cat([other, A / 2, A - other]), torch.zeros(3, dtype=torch.long)))
        query.cost.tail_forward += 3
        at_other, half, difference = tried.double()
        slack = max(1e-4, 16 * torch.finfo(tried.dtype).eps) * float(torch.stack([f, nothing, at_other]).abs().max())
        for found, affine in ((half, (f + nothing) / 2), (difference, f - at_other + nothing)):
            if not bool(((found - affine).abs() <= slack).all()):
                raise ValueError(
                    f"zhu-decomposition needs a head that is affine in the activations of {query.layer!r} "
                    "(convolutions, linear layers, batch norm, average pooling), and this one is not: name a layer "
                    "with such a head, layer=..., or use lift-cam, which takes any"
                )

    @staticmethod
    def _direction(query: Query, f: Tensor) -> Tensor:
        """What the embeddings f ``(B, D)`` are multiplied with to give the score, up to a constant, ``(B, D)``."""
        r = _references(query).double()
        lengths = f.norm(dim=1) * r.norm(dim=1)
        kinds = [type(target) for target in singles(query.target, len(query))]
        dot, against = (
            torch.tensor([k is kind for k in kinds], device=f.device) for kind in (DotProduct, Dissimilarity)
        )
        factors = torch.where(against, -1, 1) / torch.where(dot, 1, lengths)
        return r * factors[:, None]


def _reasons(maps: Tensor, one_sided: Tensor) -> list[str]:
    """Why e+ or e- of maps ``(2, B, H, W)`` is 0, and for which samples one side has no features ``(B,)``."""
    causes = {
        "the embedding has no gradient to the input": (maps == 0).flatten(2).all(dim=2).all(dim=0),
        "all features are on the same side of their share of the threshold": one_sided,
    }
    return first_cause(causes)


def _check_targets(method: Method, model: Model, target: Target | None, kinds: tuple[type[Target], ...]) -> None:
    """Raise unless every sample's target is of one of these kinds."""
    if target is None:
        model.default_target(None)  # says what a face is explained against
        return
    for one in singles(target, len(target)):
        if not isinstance(one, kinds):
            raise ValueError(
                f"{method.name} needs {' or '.join(kind.__name__ for kind in kinds)} for a target, as explain_pair "
                f"asks it: got {type(one).__name__}. Use fame or grad-cam, which take any"
            )


def _references(query: Query) -> Tensor:
    """The embeddings that the samples are compared with, ``(B, D)``."""
    _ = query.scores  # names those of a wrong length
    return torch.cat([one.reference for one in singles(query.target, len(query))]).to(query.x)  # type: ignore[attr-defined]


def _backward(y: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """The vector-Jacobian product ``v dy/dx``; 0 where y does not depend on x. The graph is kept."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, v, retain_graph=True, materialize_grads=True)[0]


def _feature_gradients(f: Tensor, x: Tensor, k: Tensor) -> Tensor:
    """The mean over colours of ``|d f_k / dx|``, scaled to unit norm, ``(len(k), B, H, W)``."""
    v = torch.zeros(len(k), *f.shape, dtype=f.dtype, device=f.device)
    v[torch.arange(len(k)), :, k] = 1
    if len(k) == 1 or not f.requires_grad:
        g = torch.stack([_backward(f, x, one) for one in v])
    else:
        (g,) = torch.autograd.grad(f, x, v, retain_graph=True, is_grads_batched=True)
    g = g.abs().mean(dim=2)  # (len(k), B, H, W)
    norm = g.flatten(2).norm(dim=2)[:, :, None, None]
    return torch.where(norm == 0, 0, g / norm)  # a feature that no pixel moves points nowhere
