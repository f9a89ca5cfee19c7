"""ROAD's imputation: this library's batched solver against SciPy's sparse solver, picture by picture.

    python -m benchmarks.road [--pictures N] [--size S] [--threads T]

Smooth random pictures of three channels; what is removed are scattered pixels, and regions like those of maps. Both
solve the same equations in one process, ours in float32 for all pictures at once; SciPy's seconds are those of the
solution alone (SuperLU, float64, three right sides), and with the assembly of the matrix, which is vectorised here.
The error is the largest difference between the two, as a share of the pictures' range.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from faithmap.metrics.imputation import imputed
from faithmap.pixels import blur
from faithmap.words import table


def removed(pictures: int, size: int, share: float, sigma: float) -> Tensor:
    """The largest share of a random map of that smoothness, ``(pictures, size, size)`` bool."""
    maps = blur(torch.randn(pictures, size, size), sigma, 2 * round(3 * sigma) + 1).flatten(1)
    return (maps.argsort(dim=1).argsort(dim=1) < share * size * size).view(pictures, size, size)


def by_scipy(x: Tensor, gone: Tensor) -> tuple[Tensor, float, float]:
    """One picture ``(C, H, W)``, the seconds of the assembly, and those of the solution."""
    begin = time.perf_counter()
    C, H, W = x.shape
    hidden, values = gone.numpy(), x.double().numpy()
    rows, cols = np.nonzero(hidden)
    number = np.full((H, W), -1)
    number[hidden] = np.arange(len(rows))
    right, total, entries = np.zeros((len(rows), C)), np.zeros(len(rows)), []
    for down, across in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]:
        weight = 1 / 12 if down and across else 1 / 6
        r, c = rows + down, cols + across
        here = np.flatnonzero((r >= 0) & (r < H) & (c >= 0) & (c < W))
        total[here] += weight
        other = number[r[here], c[here]]
        entries.append((np.full((other >= 0).sum(), -weight), here[other >= 0], other[other >= 0]))
        known = here[other < 0]
        right[known] += weight * values[:, r[known], c[known]].T
    entries.append((total, np.arange(len(rows)), np.arange(len(rows))))
    data, i, j = (np.concatenate(column) for column in zip(*entries, strict=True))
    matrix = csc_matrix((data, (i, j)), shape=(len(rows), len(rows)))
    assembled = time.perf_counter()
    found = values.copy()
    found[:, hidden] = spsolve(matrix, right).reshape(len(rows), C).T
    return torch.from_numpy(found), assembled - begin, time.perf_counter() - assembled


def main() -> None:
    """Print seconds per picture and share removed, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = blur(torch.randn(given.pictures, 3, given.size, given.size), 3, 19)
    lines, sums = [], [0.0, 0.0, 0.0]
    for sigma, name in ((0, "pixels"), (5, "regions, sigma 5"), (given.size / 10, "regions, sigma a tenth")):
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            gone = removed(given.pictures, given.size, share, sigma)
            imputed(x[:1], gone[:1])
            begin = time.perf_counter()
            found = imputed(x, gone)
            ours = (time.perf_counter() - begin) / given.pictures
            expected, assembly, solution = by_scipy(x[0], gone[0])
            error = float((found[0] - expected).abs().max() / (x[0].max() - x[0].min()))
            sums = [sums[0] + ours, sums[1] + solution, sums[2] + assembly + solution]
            ratios = [f"{solution / ours:.1f}", f"{(assembly + solution) / ours:.1f}"]
            lines.append([name, f"{share:.0%}", f"{ours:.4f}", f"{solution:.4f}", *ratios, f"{error:.0e}"])
    lines.append(["all", "", *(f"{s / 15:.4f}" for s in sums[:2]), *(f"{s / sums[0]:.1f}" for s in sums[1:]), ""])
    header = ["removed", "share", "ours, s", "SciPy's solution, s", "ratio", "with assembly", "error"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
