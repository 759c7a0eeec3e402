"""The attribution index: one direction per contribution, read by `backend.services.attribute`.

Method hidden-cosine-1: a row's state is the mean of the final hidden states that its answer's tokens were
predicted from, under the adapter, as the engine's probe reports them for an answer.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

from workers.training.evaluate import batches_by_length
from workers.training.fit import collate
from workers.training.rows import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from workers.training.rows import Example

INDEX_FILE = "attribution.safetensors"
METADATA = {"method": "hidden-cosine-1", "version": "1"}


def write_index(model: Any, examples: Sequence[Example], pad_token_id: int, folder: Path) -> None:
    """`positions` int64 [n], `vectors` float32 [n, hidden] of unit norm, `centre` float32 [hidden]."""
    save_file(build_index(answer_states(model, examples, pad_token_id)), folder / INDEX_FILE, METADATA)


def build_index(states: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From the states [rows, hidden] of each contribution, keyed by position."""
    positions = sorted(states)
    centre = torch.cat([states[position] for position in positions]).mean(0)
    vectors = []
    for position in positions:
        directions = functional.normalize(states[position] - centre, dim=-1)
        vectors.append(functional.normalize(directions.mean(0), dim=-1))
    return {"positions": torch.tensor(positions), "vectors": torch.stack(vectors), "centre": centre}


@torch.inference_mode()
def answer_states(model: Any, examples: Sequence[Example], pad_token_id: int) -> dict[int, torch.Tensor]:
    """Row states [rows, hidden] in fp32 by contribution, in the order of the examples."""
    model.eval()
    decoder = model.get_base_model().model
    state_of: dict[int, torch.Tensor] = {}
    for rows in batches_by_length(examples):
        batch = collate(rows, pad_token_id)
        predicts = batch.pop("labels")[:, 1:] != IGNORED  # the state at i predicts token i + 1
        hidden = decoder(**batch).last_hidden_state[:, :-1].float()
        weights = predicts / predicts.sum(1, keepdim=True)
        means = torch.einsum("rt,rth->rh", weights, hidden)
        state_of |= {id(row): mean for row, mean in zip(rows, means, strict=True)}
    by_contribution: dict[int, list[torch.Tensor]] = defaultdict(list)
    for example in examples:
        by_contribution[example.contribution].append(state_of[id(example)])
    return {contribution: torch.stack(states) for contribution, states in by_contribution.items()}
