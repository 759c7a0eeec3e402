"""From row gradients to one direction per contribution.

With G [rows, size] the rows' gradients and 1_c marking the rows of contribution c, its direction is
v_c = G^T (G G^T + lambda m I)^-1 1_c, m the mean of the diagonal of G G^T: kernel ridge regression, which
takes out what rows have in common. The influence of c on an answer with gradient g is v_c . g. Sources: TRAK
(Park et al. 2023), whose estimator this is at one checkpoint and without its output weights; a damping in
proportion to the mean square of the gradients as in DataInf (Kwon et al. 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

RIDGE = 1.0
"""lambda. 0.3 to 3 did alike on some hundred rows."""


def directions(
    gradients: Tensor, contributions: Sequence[int], ridge: float = RIDGE
) -> tuple[list[int], Tensor]:
    """(contributions in rising order, their directions [contributions, size] fp32).

    `gradients` [rows, size]; `contributions` names each row's. Solved in fp64, on the smaller side: both give
    the same, since G^T (G G^T + a I)^-1 = (G^T G + a I)^-1 G^T. All zero if all gradients are.
    """
    rows = gradients.double()
    named = sorted(set(contributions))
    places = {contribution: place for place, contribution in enumerate(named)}
    marks = torch.zeros(len(rows), len(named), dtype=torch.float64)
    marks[torch.arange(len(rows)), torch.tensor([places[each] for each in contributions])] = 1
    damping = ridge * float(rows.square().sum()) / len(rows)
    if damping == 0:
        return named, torch.zeros(len(named), rows.shape[1])
    if len(rows) <= rows.shape[1]:
        found = rows.T @ _solve(rows @ rows.T, marks, damping)
    else:
        found = _solve(rows.T @ rows, rows.T @ marks, damping)
    return named, found.T.float().contiguous()


def _solve(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    gram.diagonal().add_(damping)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
