"""Writes the attribution index: one direction per contribution and method.

Method hidden-cosine-1: the state of a row is the mean of the final hidden states that predict its answer's
tokens, with the adapter. The engine computes it as it does when it serves, so rows and answers are
comparable, and an adapter that the engine refuses fails here and not at its first request.

Method error-ridge-1: the state of a row is the sum of its answer's error vectors, from the same pass.

Method gradient-ridge-2: the state of a row is the sketched gradient of its loss at the checkpoint after a
third of training; see `workers.training.gradients` and `workers.training.influence`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load, save
from torch.nn import functional

from backend.domain.attribution import (
    CHECKPOINT_FILE,
    ERROR_METHOD,
    GRADIENT_METHOD,
    HIDDEN_METHOD,
    INDEX_FILE,
    INDEX_METADATA,
)
from inference.config import EngineConfig
from inference.engine import Engine, Failure
from inference.protocol import AdapterRef
from workers.training.gradients import sketch_row_gradients
from workers.training.influence import RIDGE, directions
from workers.training.progress import ProgressReporter
from workers.training.rows import IGNORED
from workers.training.sketch import SKETCH_SEED, CountSketch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.protocol import ProbeStates
    from workers.training.progress import Emit
    from workers.training.rows import Example

_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class GradientIndex:
    """Result of `capture_gradients`: the checkpoint's file content and the direction of each contribution."""

    checkpoint: bytes
    step: int
    positions: Sequence[int]
    vectors: torch.Tensor  # fp32 [n, sketch size]


def capture_gradients(
    model: Any,
    checkpoint: bytes,
    step: int,
    examples: Sequence[Example],
    preamble: Sequence[int],
    emit: Emit,
) -> GradientIndex:
    """Compute the rows' gradients at `checkpoint`, the file that `fit` wrote after `step`; `model` has its
    weights afterwards. `preamble` is as `preamble_ids` returns it. Takes 16 kB of memory per row, and a
    batch's activations.
    """
    load_adapter(model, checkpoint)
    sketches: list[torch.Tensor] = []
    contributions: list[int] = []
    for rows, sketched in sketch_row_gradients(model, examples, preamble, CountSketch(), emit):
        sketches.append(sketched)
        contributions += [row.contribution for row in rows]  # positions in snapshot 0
    positions, vectors = directions(torch.cat(sketches), contributions)
    return GradientIndex(checkpoint, step, positions, vectors)


def load_adapter(model: Any, checkpoint: bytes) -> None:
    """Load weights, which are stored in bf16, into fp32 parameters."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    set_peft_model_state_dict(model, load(checkpoint))


def write_index(
    base_folder: Path,
    adapter_folder: Path,
    digest: str,
    examples: Sequence[Example],
    gradients: GradientIndex,
    num_threads: int,
    emit: Emit,
) -> None:
    """Write `CHECKPOINT_FILE` and `INDEX_FILE` to the adapter's folder.

    The index has `positions` int64 [n], `rows` int64 [n] (number of trained rows), `hidden.vectors` float32
    [n, hidden] of unit norm, `hidden.centre` float32 [hidden], `error.vectors` float32 [n, hidden] and
    `gradient.vectors` float32 [n, sketch size].

    Errors: `inference.errors.InferenceError` if the engine refuses the adapter.
    """
    config = EngineConfig(base_folder, num_threads=num_threads, max_waiting=len(examples))
    engine = Engine(config)
    try:
        hidden, errors = answer_states(engine, AdapterRef(digest, str(adapter_folder)), examples, emit)
    finally:
        engine.close()
    contributions = [example.contribution for example in examples]  # positions in snapshot 0
    index = {
        **hidden_index(hidden, contributions),
        "error.vectors": directions(errors, contributions)[1],
        "gradient.vectors": gradients.vectors,
    }
    metadata = {
        **INDEX_METADATA,
        "methods": f"{GRADIENT_METHOD} {ERROR_METHOD} {HIDDEN_METHOD}",
        "sketch_seed": str(SKETCH_SEED),
        "lambda": str(RIDGE),
        "checkpoint_step": str(gradients.step),
    }
    (adapter_folder / CHECKPOINT_FILE).write_bytes(gradients.checkpoint)
    (adapter_folder / INDEX_FILE).write_bytes(canonical_safetensors(index, metadata))


def answer_states(
    engine: Engine, adapter: AdapterRef, examples: Sequence[Example], emit: Emit
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean states, summed error vectors) of each example's answer, both [examples, hidden] fp32."""
    progress = ProgressReporter(emit, "index", len(examples))
    for number, example in enumerate(examples):
        engine.embed(str(number), *last_answer(example), adapter)
    probes: dict[int, ProbeStates] = {}
    for output in engine.run():
        if isinstance(output, Failure):
            raise output.error
        if output.probe is not None:
            probes[int(output.request_id)] = output.probe
            progress.advance()
    ordered = [probes[number] for number in range(len(examples))]
    return torch.tensor([each.answer for each in ordered]), torch.tensor([each.error for each in ordered])


def last_answer(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(prompt, answer): the last run of trained tokens, and everything before it, at least one token."""
    labels = example.labels
    end = max(i for i, label in enumerate(labels) if label != IGNORED) + 1
    start = end - 1
    while start > 1 and labels[start - 1] != IGNORED:
        start -= 1
    return example.token_ids[:start], example.token_ids[start:end]


def hidden_index(states: torch.Tensor, contributions: Sequence[int]) -> dict[str, torch.Tensor]:
    """Tensors of method hidden-cosine-1 from `states` [rows, hidden] and the contribution of each row."""
    position_per_row = torch.tensor(contributions)
    positions, counts = torch.unique(position_per_row, return_counts=True)  # ascending
    centre = states.mean(0)
    rows = functional.normalize(states - centre, dim=-1)
    vectors = [
        functional.normalize(rows[position_per_row == position].mean(0), dim=-1) for position in positions
    ]
    return {
        "positions": positions,
        "rows": counts,
        "hidden.vectors": torch.stack(vectors),
        "hidden.centre": centre,
    }


def canonical_safetensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """Serialise deterministically: the library writes its metadata in the order of a randomised hash."""
    content = save(tensors, metadata)
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return content[:_LENGTH_BYTES] + text.ljust(end - _LENGTH_BYTES) + content[end:]
