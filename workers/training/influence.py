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

from workers.training.sketch import PART_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def directions(gradients: Tensor, contributions: Sequence[int], ridge: float) -> tuple[list[int], Tensor]:
    """(contributions in ascending order, their directions [contributions, size] fp32).

    `gradients` [rows, size]; `contributions` has the contribution of each row; `ridge` is lambda. Solved in
    fp64 with the smaller Gram matrix: G^T (G G^T + a I)^-1 = (G^T G + a I)^-1 G^T. All directions are zero if
    all gradients are.
    """
    rows = gradients.double()
    ordered = sorted(set(contributions))
    columns = {contribution: column for column, contribution in enumerate(ordered)}
    indicators = torch.zeros(len(rows), len(ordered), dtype=torch.float64)
    indicators[torch.arange(len(rows)), torch.tensor([columns[each] for each in contributions])] = 1
    damping = ridge * float(rows.square().sum()) / len(rows)
    if damping == 0:
        return ordered, torch.zeros(len(ordered), rows.shape[1])
    if len(rows) <= rows.shape[1]:
        solved = rows.T @ _solve(rows @ rows.T, indicators, damping)
    else:
        solved = _solve(rows.T @ rows, rows.T @ indicators, damping)
    return ordered, solved.T.float().contiguous()


def _solve(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    gram.diagonal().add_(damping)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
