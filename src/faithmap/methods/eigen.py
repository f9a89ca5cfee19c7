"""Eigen-CAM: the direction in which a layer's places differ most from nothing, as a map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faithmap.methods.base import Query
from faithmap.methods.cam import ActivationMap
from faithmap.methods.registry import register


@register("eigen-cam")
@dataclass(frozen=True)
class EigenCAM(ActivationMap):
    """The projection of the activations on their first principal component: ``sum_k v_k A_k``.

    v is the first right singular vector of the matrix (places x channels) of one picture's activations, not centred, as
    in the paper. It is found as an eigenvector of the smaller of the two Gram matrices, without a decomposition of the
    whole. Its sign, which the formula leaves open, is such that the map has a positive inner product with the mean
    activation: activations that are not negative have a map that is not negative.

    The target plays no part: this is what the layer is busy with, whatever the network says.

    Args:
        layer: target layer; the model's by default.

    Source: Muhammad and Yeasin 2020, arXiv 2008.00299, section III.

    Examples:
        >>> import faithmap as fm
        >>> model, x = fm.load(), torch.rand(1, 3, 224, 224)
        >>> torch.equal(EigenCAM()(model, x, 1), EigenCAM()(model, x, 2))
        True
    """

    signed = False
    opposite = "none"

    def weights(self, query: Query) -> Tensor:
        """One eigenvector per picture."""
        return first_component(query.split.A)


@register("eigen-grad-cam")
@dataclass(frozen=True)
class EigenGradCAM(ActivationMap):
    """The first principal component of what each place of each channel adds: ``sum_k v_k (dy/dA_k * A_k)``.

    v is the first right singular vector of the matrix (places x channels) of ``dy/dA * A``, not centred, with the sign
    that gives the map a positive inner product with the channels' mean, which is HiRes-CAM: negative values speak
    against the target.

    Args:
        layer: target layer; the model's by default.

    Source: pytorch-grad-cam (Gildenblat and others, 2021), where it comes from; there is no paper.

    Examples:
        >>> import faithmap as fm
        >>> EigenGradCAM()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    def weights(self, query: Query) -> Tensor:
        """One backward pass through the tail, and one eigenvector per picture."""
        g = query.tail_gradient()
        return g * first_component(g * query.split.A)[:, :, None, None]


def first_component(A: Tensor) -> Tensor:
    """The first right singular vectors ``(B, C)`` of maps ``(B, C, h, w)`` as (places x channels); 0 where A is.

    Float64: a Gram matrix squares the condition.

    Examples:
        >>> A = torch.tensor([[3.0, 6.0], [4.0, 8.0]]).reshape(1, 2, 1, 2)
        >>> first_component(A)
        tensor([[0.6000, 0.8000]], dtype=torch.float64)
    """
    M = A.double().flatten(2).transpose(1, 2)  # (B, places, C)
    usable = M.isfinite().flatten(1).all(dim=1)[:, None, None]
    finite = torch.where(usable, M, 0)  # one broken sample must not stop the others
    if M.shape[1] < M.shape[2]:
        u = torch.linalg.eigh(finite @ finite.mT).eigenvectors[:, :, -1:]  # (B, places, 1)
        v = finite.mT @ u  # (B, C, 1), of length sigma
        length = v.norm(dim=1, keepdim=True)
        v = torch.where(length == 0, 0, v / length)
    else:
        v = torch.linalg.eigh(finite.mT @ finite).eigenvectors[:, :, -1:]
        v = torch.where((finite == 0).flatten(1).all(dim=1)[:, None, None], 0, v)
    towards = ((finite @ v) * finite.mean(dim=2, keepdim=True)).sum(dim=1, keepdim=True)
    v = torch.where(towards < 0, -v, v)
    return torch.where(usable, v, torch.nan)[:, :, 0]
