"""Reduces row gradients to one direction per contribution.

With G [rows, size] the rows' gradients and 1_c the indicator of the rows of contribution c, its direction is
v_c = G^T (G G^T + lambda m I)^-1 1_c, m being the mean of the diagonal of G G^T. This kernel ridge regression
shrinks what many rows have in common. The influence of c on an answer with gradient g is v_c . g. Sources:
TRAK (Park et al. 2023), whose estimator has this form; here it is at one checkpoint, with gradients of the
loss itself, without output weights and with more damping, in proportion to the mean square of the gradients
as in DataInf (Kwon et al. 2024). Gradients have a direction for each part of the modules, as K-FAC (Martens,
Grosse 2015) has a preconditioner for each layer, and the parts' scores are added. With one
preconditioner for all modules, those with the largest gradients decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from workers.training.sketch import NUM_PARTS, PART_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

GRADIENT_RIDGE = 3.0
"""lambda of gradients (docs/adr/0040-answers-are-attributed-by-distilled-maps.md)."""
ERROR_RIDGE = 1.0
"""lambda of error vectors. Values from 0.3 to 3 gave similar results on a few hundred rows."""


def gradient_directions(sketches: Tensor, contributions: Sequence[int]) -> Tensor:
    """Directions [contributions, parts * part size] fp32 of `gradient-ridge-4`, by rising contribution.

    `sketches` [rows, parts * part size] are of `PartSketch`. The product with an answer's sketch is the sum
    of the parts' scores.
    """
    parts = torch.split(sketches, PART_SIZE, dim=1)
    return torch.cat([directions(part, contributions, GRADIENT_RIDGE)[1] for part in parts], dim=1)


def stream_gradient_directions(batches: Iterable[tuple[Tensor, Tensor]], num_contributions: int) -> Tensor:
    """`gradient_directions` of rows that arrive in batches: their sketches, and the place of each row's
    contribution among all. Equal to it within the rounding of fp64.
    """
    parts = [DirectionSums(PART_SIZE, num_contributions) for _ in range(NUM_PARTS)]
    for sketches, places in batches:
        for part, columns in zip(parts, torch.split(sketches, PART_SIZE, dim=1), strict=True):
            part.add(columns, places)
    return torch.cat([part.directions(GRADIENT_RIDGE) for part in parts], dim=1)


def directions(gradients: Tensor, contributions: Sequence[int], ridge: float) -> tuple[list[int], Tensor]:
    """(contributions in ascending order, their directions [contributions, size] fp32).

    `gradients` [rows, size]; `contributions` has the contribution of each row; `ridge` is lambda. Solved in
    fp64 with the smaller Gram matrix: G^T (G G^T + a I)^-1 = (G^T G + a I)^-1 G^T. All directions are zero if
    all gradients are.
    """
    num_rows, size = gradients.shape
    ordered, places = torch.unique(torch.tensor(contributions), return_inverse=True)
    if num_rows > size:
        sums = DirectionSums(size, len(ordered))
        for batch in zip(torch.split(gradients, size), torch.split(places, size), strict=True):
            sums.add(*batch)
        return ordered.tolist(), sums.directions(ridge)
    rows = gradients.double()
    damping = ridge * float(rows.square().sum()) / num_rows
    if damping == 0:
        return ordered.tolist(), torch.zeros(len(ordered), size)
    indicators = functional.one_hot(places, len(ordered)).double()
    solved = rows.T @ _solve(rows @ rows.T, indicators, damping)
    return ordered.tolist(), solved.T.float().contiguous()


class DirectionSums:
    """G^T G and G^T 1_c of rows that arrive in batches: the memory does not grow with their number."""

    def __init__(self, size: int, num_contributions: int) -> None:
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._sums = torch.zeros(num_contributions, size, dtype=torch.float64)
        self._num_rows = 0

    def add(self, gradients: Tensor, places: Tensor) -> None:
        """`gradients` [rows, size]; `places` int64 [rows]: the number of each row's contribution."""
        rows = gradients.double()
        self._gram.addmm_(rows.T, rows)
        self._sums.index_add_(0, places, rows)
        self._num_rows += len(rows)

    def directions(self, ridge: float) -> Tensor:
        """[contributions, size] fp32, as by `directions`. To be called once."""
        damping = ridge * float(self._gram.trace()) / self._num_rows
        if damping == 0:
            return torch.zeros(self._sums.shape)
        return _solve(self._gram, self._sums.T, damping).T.float().contiguous()


def _solve(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    gram.diagonal().add_(damping)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
