"""Removed pixels from those that are left: each the weighted mean of its neighbours, whole batches at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from faithmap.batching import chunked, default_batch


@torch.no_grad()
def imputed(x: Tensor, gone: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Pictures whose removed pixels are the weighted means of their eight neighbours, all equations solved together.

    ``sum_q w_pq (v_p - v_q) = 0`` for every removed p, over the neighbours q that exist, with w = 1/6 for the direct
    and 1/12 for the diagonal ones; v is the picture where it is left. That is one symmetric positive definite system
    per picture and channel, as long as one pixel is left. Conjugate gradients solve all of them in the dtype of x,
    preconditioned by a multigrid cycle with the coarse systems ``P^T A P``, P bilinear among removed pixels: four to
    eight iterations, whatever the size and shape of what is removed. A system stops when the cycle's correction, which
    estimates its error, is below the tolerance; its companions in the batch do not matter to it.

    Args:
        x: pictures ``(B, C, H, W)``; float32, or float64 for tolerances below 1e-5.
        gone: which pixels are removed, ``(B, H, W)`` bool; all channels of a pixel go together.
        tolerance: of the error, as a share of the range of the pixels that are left.

    Returns:
        ``(B, C, H, W)``: x where it is left, and within its range elsewhere.

    Raises:
        ValueError: the shapes do not fit, x is not finite, or a picture has no pixel left: nothing defines the others.

    Examples:
        >>> ramp = torch.arange(5.0).expand(1, 1, 3, 5)
        >>> gone = torch.zeros(1, 3, 5, dtype=torch.bool)
        >>> gone[..., 1:4] = True
        >>> imputed(ramp * ~gone[:, None], gone)[0, 0, 1].round(decimals=3)
        tensor([0., 1., 2., 3., 4.])
    """
    _check(x, gone)

    def solve(rows: Tensor) -> Tensor:
        here = rows.to(x.device)
        return _imputed(x[here], gone[here], tolerance)

    # On a CPU a few pictures at a time stay in the cache; a GPU wants all of them.
    size = max(1, default_batch(x) // 4) if x.device.type == "cpu" else len(x)
    return torch.cat(list(chunked(solve, len(x), size)))


def _imputed(x: Tensor, gone: Tensor, tolerance: float) -> Tensor:
    hidden = gone[:, None]
    low, high = (x.masked_fill(hidden, sign * torch.inf) for sign in (1, -1))
    low, high = low.amin(dim=(2, 3), keepdim=True), high.amax(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    # Around the middle of the range a constant picture has the solution 0, and others the smallest rounding errors.
    middle = (low + high) / 2
    found = _solved((x - middle).masked_fill(hidden, 0), gone, tolerance * (high - low))
    return torch.where(hidden, (found + middle).clamp(low, high), x)


def _solved(known: Tensor, gone: Tensor, allowed: Tensor) -> Tensor:
    """The removed pixels ``(B, C, H, W)``, 0 elsewhere, by preconditioned conjugate gradients.

    Args:
        known: the pixels that are left, 0 elsewhere.
        gone: the removed ones, ``(B, H, W)``.
        allowed: the error where a system stops, ``(B, C, 1, 1)``.
    """
    levels = _levels(gone, known.dtype)
    system = levels[0]
    residual = _neighbours(known) * gone[:, None]
    v, direction, before = torch.zeros_like(residual), torch.zeros_like(residual), torch.ones_like(allowed)
    active = torch.ones_like(allowed, dtype=torch.bool)
    for _ in range(100):
        z = _cycle(levels, residual)
        near = z.abs().amax(dim=(2, 3), keepdim=True) <= allowed
        if bool((ready := active & near).any()):
            v.addcmul_(z, ready.to(z))  # the last correction is known: it is used
            active = active & ~near
            if not bool(active.any()):
                return v
        agreement = _dot(residual, z)
        direction.mul_(torch.where(active, agreement / before, 0)).add_(z)
        image = system.times(direction)
        step = torch.where(active, agreement / _dot(direction, image), 0)
        v.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        before = agreement
    raise RuntimeError(f"the imputation of {int(active.any(dim=1).sum())} pictures did not converge")


class _Level(ABC):
    """The system of one grid. Coarse points are every second fine one; beyond an even side there is one more."""

    size: tuple[int, int]
    damping: Tensor
    """What a Jacobi sweep multiplies residuals by, ``(B, 1, H, W)``; 0 where there is nothing to solve."""

    @abstractmethod
    def times(self, v: Tensor) -> Tensor:
        """``A v`` of ``(B, C, H, W)``."""

    def lift(self, coarse: Tensor) -> Tensor:
        """P: the values of the next grid between its points, bilinearly."""
        h, w = coarse.shape[-2:]
        fine = coarse.new_empty(*coarse.shape[:-2], 2 * h - 1, 2 * w - 1)
        fine[..., ::2, ::2] = coarse
        fine[..., ::2, 1::2] = (coarse[..., 1:] + coarse[..., :-1]) / 2
        fine[..., 1::2, :] = (fine[..., 2::2, :] + fine[..., :-2:2, :]) / 2
        return fine[..., : self.size[0], : self.size[1]]

    def lower(self, fine: Tensor) -> Tensor:
        """The transpose of P."""
        (H, W), (h, w) = self.size, _halved(self.size)
        fine = F.pad(fine, (1, 2 * w - W, 1, 2 * h - H))  # (..., 2 h + 1, 2 w + 1)
        fine = fine[..., 1:-1:2] + (fine[..., :-2:2] + fine[..., 2::2]) / 2
        return fine[..., 1:-1:2, :] + (fine[..., :-2:2, :] + fine[..., 2::2, :]) / 2

    def _damp(self, diagonal: Tensor, size: Tensor) -> None:
        """Set `damping` from the diagonal and the rows' sums of absolute values.

        Gershgorin's bound keeps the sweep's spectrum below 2 whatever the mask, so that the cycle stays definite.
        """
        self.damping = torch.where(diagonal > 0, 0.9 / torch.maximum(diagonal, size / 2), 0)


class _Pixels(_Level):
    """The picture's own system, times 12: its weights are whole numbers, which a constant solves without rounding."""

    def __init__(self, gone: Tensor, dtype: torch.dtype) -> None:
        self.size = (gone.shape[1], gone.shape[2])
        self.gone = gone[:, None].to(dtype)  # (B, 1, H, W)
        self.sums = _neighbours(torch.ones_like(self.gone[:1]))  # 12, less at the border
        self._centre = self.sums + 4
        diagonal = self.sums * self.gone
        self._damp(diagonal, diagonal + _neighbours(self.gone))
        self.damping = self.damping * self.gone

    def times(self, v: Tensor) -> Tensor:
        return (self._centre * v).sub_(_spread(v)).mul_(self.gone)

    def lift(self, coarse: Tensor) -> Tensor:
        return super().lift(coarse) * self.gone


class _Coarse(_Level):
    """``P^T A P`` of the next finer system: nine weights per point."""

    def __init__(self, fine: _Level) -> None:
        self.size = h, w = _halved(fine.size)
        B, like = len(fine.damping), fine.damping
        row, col = (torch.arange(length, device=like.device) % 3 for length in (h, w))
        # Points of equal row and column modulo 3 share no neighbour: nine products tell all weights.
        comb = torch.stack([(row == a)[:, None] & (col == b) for a in range(3) for b in range(3)]).to(like)
        answers = fine.lower(fine.times(fine.lift(comb.expand(B, 9, h, w))))
        whose = [((row + dy) % 3)[:, None] * 3 + (col + dx) % 3 for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        self.weights = answers.gather(1, torch.stack(whose).expand(B, 9, h, w))  # (B, 9, h, w), by neighbour
        self._damp(self.weights[:, 4:5], self.weights.abs().sum(dim=1, keepdim=True))

    def times(self, v: Tensor) -> Tensor:
        h, w = self.size
        around = F.pad(v, (1, 1, 1, 1))
        found = self.weights[:, 4:5] * v
        for k in (0, 1, 2, 3, 5, 6, 7, 8):
            down, right = divmod(k, 3)
            found.addcmul_(self.weights[:, k : k + 1], around[..., down : down + h, right : right + w])
        return found


class _Coarsest(_Coarse):
    """At most 3 x 3 points: solved outright."""

    def __init__(self, fine: _Level) -> None:
        super().__init__(fine)
        h, w = self.size
        units = torch.eye(h * w).view(1, h * w, h, w).to(fine.damping)
        matrix = self.times(units.expand(len(fine.damping), -1, -1, -1)).flatten(2)
        # Points without removed pixels, or with the same few, leave it singular.
        self.inverse = torch.linalg.pinv(matrix.cpu().double(), hermitian=True).to(matrix)


def _levels(gone: Tensor, dtype: torch.dtype) -> list[_Level]:
    """The picture's system and ever coarser ones."""
    levels: list[_Level] = [_Pixels(gone, dtype)]
    while max(_halved(levels[-1].size)) > 3:
        levels.append(_Coarse(levels[-1]))
    return [*levels, _Coarsest(levels[-1])]


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """About ``A^-1 residual``: a sweep, the coarser grids' correction, a sweep."""
    level, *coarser = levels
    if isinstance(level, _Coarsest):
        return torch.matmul(residual.flatten(2), level.inverse).view_as(residual)
    z = level.damping * residual
    z += level.lift(_cycle(coarser, level.lower(_left(level, z, residual))))
    return z.addcmul_(level.damping, _left(level, z, residual))


def _left(level: _Level, z: Tensor, residual: Tensor) -> Tensor:
    image = level.times(z)
    return torch.sub(residual, image, out=image)


def _spread(v: Tensor) -> Tensor:
    """The sum of [1 2 1] x [1 2 1] around each pixel, with 0 beyond the border."""
    v = F.pad(v, (1, 1, 1, 1))
    v = v[..., 1:, :] + v[..., :-1, :]
    v = v[..., 1:, :] + v[..., :-1, :]
    v = v[..., 1:] + v[..., :-1]
    return v[..., 1:] + v[..., :-1]


def _neighbours(v: Tensor) -> Tensor:
    """The sum of the direct neighbours, twice, and of the diagonal ones: 12 times what the weights give."""
    return _spread(v) - 4 * v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 2 + 1, size[1] // 2 + 1


def _check(x: Tensor, gone: Tensor) -> None:
    if x.ndim != 4 or x.dtype not in (torch.float32, torch.float64) or not bool(x.isfinite().all()):
        raise ValueError(f"pictures are finite, (B, C, H, W) float32 or float64: got {tuple(x.shape)} {x.dtype}")
    if gone.dtype != torch.bool or gone.shape != (len(x), *x.shape[-2:]):
        raise ValueError(
            f"gone says which pixels are removed, {(len(x), *x.shape[-2:])} bool: got {tuple(gone.shape)} {gone.dtype}"
        )
    if bool((empty := gone.flatten(1).all(dim=1)).any()):
        raise ValueError(f"nothing is left to impute from in picture {int(empty.nonzero()[0])}: leave one pixel")
