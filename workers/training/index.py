"""Computes the attribution index: one direction per contribution and method, and the distilled maps.

Method hidden-cosine-1: the state of a row is the mean of the final hidden states that predict its answer's
tokens, with the adapter. The engine computes it as it does when it serves, so rows and answers are
comparable, and an adapter that the engine refuses fails here and not at its first request.

Method error-ridge-1: the state of a row is the sum of its answer's error vectors, from the same pass.

Method gradient-ridge-4: the state of a row is the gradient of its loss at the checkpoint after a third of
training, sketched for each part of the modules; see `workers.training.gradients` and
`workers.training.influence`.

Methods distilled-1 and distilled-error-1: maps from the states of an answer to its scores by gradient, fitted
on generated answers; see `workers.training.distil`.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load
from torch.nn import functional

from backend.domain.attribution import (
    AGREEMENTS,
    CHECKPOINT_FILE,
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    INDEX_METADATA,
    METHODS_OF_INDEX,
    NUM_KEPT_OUT,
)
from backend.domain.errors import InvalidInput
from backend.services.answers.distilled import distilled_features, error_features
from inference import offline
from inference.config import EngineConfig
from inference.engine import Engine
from workers.training.distil import STRENGTHS, distil
from workers.training.fit import lora_model
from workers.training.gradients import row_gradients, sketch_row_gradients
from workers.training.influence import (
    ERROR_RIDGE,
    GRADIENT_RIDGE,
    directions,
    gradient_directions,
    stream_gradient_directions,
)
from workers.training.progress import ProgressReporter
from workers.training.rows import last_answer, preamble_ids
from workers.training.sketch import SKETCH_SEED, SKETCH_SIZE, PartSketch
from workers.training.split import SPLIT
from workers.training.tensors import canonical_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.domain.training import TrainingConfig
    from inference.config import DType
    from inference.protocol import AdapterRef
    from workers.training.answers import Answer
    from workers.training.base import Base
    from workers.training.distil import Distilled
    from workers.training.progress import Emit
    from workers.training.rows import Example

ARITHMETIC: DType = "float32"
"""That of engine and gradients in which anyone can compute an index again. In bf16 the indices of two
processors differ by up to a tenth of a vector's norm, and a forgery as small moves much of an answer's pool
(docs/adr/0061).
"""
CHUNK_ROWS = 4096
"""Rows whose states as lists, or whose sketches, are in memory at once: a few hundred MB."""
MAPS = {DISTILLED_METHOD: "distilled", DISTILLED_ERROR_METHOD: "distilled_error"}
"""Method -> prefix of its map's names in the index."""


@dataclass(frozen=True, slots=True)
class Index:
    """Content of the index's file. `evidence` has `NUM_KEPT_OUT`, and the `AGREEMENTS` that are defined."""

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]
    evidence: Mapping[str, float]

    def serialise(self) -> bytes:
        return canonical_safetensors(dict(self.tensors), dict(self.metadata))


class IndexTooLarge(InvalidInput):
    """The index would be larger than `MAX_INDEX_BYTES`, so that answers could not be attributed by it."""


def index_bytes(num_rows: int, num_contributions: int, hidden_size: int, num_parameters: int) -> int:
    """Memory for the index of an adapter: four vectors of states for each row, and for each contribution the
    sums and the direction of its sketches, at most 16 bytes for each of their coordinates. The base model's
    parameters are there twice while gradients are computed, in fp32 at most: with the adapter and without.
    """
    return 16 * (num_rows * hidden_size + num_contributions * SKETCH_SIZE) + 8 * num_parameters


def compute_index(
    base: Base,
    adapter: AdapterRef,
    config: TrainingConfig,
    rows: Sequence[Example],
    answers: Sequence[Answer],
    num_threads: int,
    emit: Emit,
    arithmetic: DType = ARITHMETIC,
) -> Index:
    """The index of a trained adapter, whose folder has its weights and `CHECKPOINT_FILE`: a function of the
    adapter, the `rows` that it was trained on with `config`, and its generated `answers`. Anyone can compute
    it again, within the rounding of another processor, if `arithmetic` is `ARITHMETIC`.

    Its tensors are `positions` int64 [n], `rows` int64 [n] (number of trained rows), `hidden.vectors` float32
    [n, hidden] of unit norm, `hidden.centre` float32 [hidden], `error.vectors` float32 [n, hidden],
    `gradient.vectors` float32 [n, sketch size], `distilled.weights` float32 [n, 2 * hidden],
    `distilled_error.weights` float32 [n, hidden], and `distilled.bias` and `distilled_error.bias` float32
    [n]. `index_bytes` says how much memory that takes, apart from a batch's activations.

    Errors: `inference.errors.InferenceError` if the engine refuses the adapter.
    """
    generated = [answer.example for answer in answers]
    parts = {"index": rows, "distillation": generated}
    (hidden, errors), states = states_by_part(base.folder, adapter, parts, num_threads, emit, arithmetic)
    model = lora_model(base.folder, config, torch.float32 if arithmetic == "float32" else None)
    load_adapter(model, (Path(adapter.path) / CHECKPOINT_FILE).read_bytes())
    preamble = preamble_ids(base.tokenizer)
    vectors = capture_gradients(model, rows, preamble, emit)
    scores = score_by_gradient(model, vectors, generated, preamble, emit)
    contributions = [row.contribution for row in rows]  # positions in snapshot 0
    error_vectors = directions(errors, contributions, ERROR_RIDGE)[1]
    maps = distil_scores(*states, scores, error_vectors, answers)
    tensors = {
        **hidden_index(hidden, contributions),
        "error.vectors": error_vectors,
        "gradient.vectors": vectors,
        **_map_tensors(maps),
    }
    evidence = _evidence(maps, answers)
    return Index(tensors, _metadata(config, maps, evidence, arithmetic), evidence)


@contextmanager
def open_engine(base_folder: Path, num_threads: int, dtype: DType = "bfloat16") -> Iterator[Engine]:
    engine = Engine(EngineConfig(base_folder, dtype=dtype, num_threads=num_threads))
    try:
        yield engine
    finally:
        engine.close()


def states_by_part(
    base_folder: Path,
    adapter: AdapterRef,
    parts: Mapping[str, Sequence[Example]],
    num_threads: int,
    emit: Emit,
    arithmetic: DType = ARITHMETIC,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`answer_states` of each part, whose name is the stage of its progress. The engine and its copy of the
    base model are freed on return.
    """
    with open_engine(base_folder, num_threads, arithmetic) as engine:
        return [answer_states(engine, adapter, each, stage, emit) for stage, each in parts.items()]


def load_adapter(model: Any, checkpoint: bytes) -> None:
    """Load weights, which are stored in bf16, into fp32 parameters."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    set_peft_model_state_dict(model, load(checkpoint))


def answer_states(
    engine: Engine, adapter: AdapterRef, examples: Sequence[Example], stage: str, emit: Emit
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean states, summed error vectors) of each example's answer, both [examples, hidden] fp32."""
    progress = ProgressReporter(emit, stage, len(examples))
    answers, errors = [], []
    for start in range(0, max(1, len(examples)), CHUNK_ROWS):
        pairs = [last_answer(example) for example in examples[start : start + CHUNK_ROWS]]
        probes = offline.embed_tokens(engine, pairs, adapter, progress.advance)
        answers.append(torch.tensor([each.answer for each in probes]))
        errors.append(torch.tensor([each.error for each in probes]))
    return torch.cat(answers), torch.cat(errors)


def capture_gradients(
    model: Any, rows: Sequence[Example], preamble: Sequence[int], emit: Emit
) -> torch.Tensor:
    """The direction of each contribution, by rising position, fp32 [n, sketch size], from the gradients of
    its rows at the weights of `model`. `preamble` is as `preamble_ids` returns it.
    """
    contributions = [row.contribution for row in rows]
    if len(rows) <= CHUNK_ROWS:
        return gradient_directions(row_gradients(model, rows, preamble, emit), contributions)
    chunks = _sketch_chunks(model, rows, preamble, emit)
    return stream_gradient_directions(chunks, len(set(contributions)))


def _sketch_chunks(
    model: Any, rows: Sequence[Example], preamble: Sequence[int], emit: Emit
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (sketches of some rows, the places of their contributions among all), `CHUNK_ROWS` at a time."""
    places = {each: place for place, each in enumerate(sorted({row.contribution for row in rows}))}
    sketch = PartSketch(model.config.num_hidden_layers)
    sketches: list[torch.Tensor] = []
    found: list[int] = []
    for batch, sketched in sketch_row_gradients(model, rows, preamble, sketch, emit):
        sketches.append(sketched)
        found += [places[row.contribution] for row in batch]
        if len(found) >= CHUNK_ROWS:
            yield torch.cat(sketches), torch.tensor(found)
            sketches, found = [], []
    if found:
        yield torch.cat(sketches), torch.tensor(found)


def score_by_gradient(
    model: Any, vectors: torch.Tensor, answers: Sequence[Example], preamble: Sequence[int], emit: Emit
) -> torch.Tensor:
    """Scores fp64 [answers, n] of the contributions with directions `vectors` [n, sketch size]."""
    return row_gradients(model, answers, preamble, emit).double() @ vectors.double().T


def distil_scores(
    hidden: torch.Tensor,
    errors: torch.Tensor,
    scores: torch.Tensor,
    error_vectors: torch.Tensor,
    answers: Sequence[Answer],
    strengths: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> dict[str, Distilled]:
    """The map of each distilled method, starting from `error_vectors` [n, hidden], the directions of
    error-ridge-1. `hidden` and `errors` are [answers, hidden], `scores` [answers, n]. `strengths` has the
    candidates of methods for which they are not `STRENGTHS`.
    """
    is_kept_out = [answer.prompt.is_kept_out for answer in answers]
    prior = error_vectors.double().numpy()
    parts = {
        DISTILLED_METHOD: (
            distilled_features(hidden.numpy(), errors.numpy()),
            np.concatenate((np.zeros_like(prior), prior), axis=1),
        ),
        DISTILLED_ERROR_METHOD: (error_features(errors.numpy()), prior),
    }
    return {
        method: distil(features, scores.numpy(), start, is_kept_out, strengths.get(method, STRENGTHS))
        for method, (features, start) in parts.items()
    }


def _map_tensors(maps: Mapping[str, Distilled]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for method, found in maps.items():
        tensors[f"{MAPS[method]}.weights"] = torch.from_numpy(found.map.weights)
        tensors[f"{MAPS[method]}.bias"] = torch.from_numpy(found.map.bias)
    return tensors


def _metadata(
    config: TrainingConfig, maps: Mapping[str, Distilled], evidence: Mapping[str, float], arithmetic: str
) -> dict[str, str]:
    """What serving reads the index by, and verification repeats the computation by."""
    return {
        **INDEX_METADATA,
        "methods": " ".join(METHODS_OF_INDEX),
        "sketch_seed": str(SKETCH_SEED),
        "lambda": str(GRADIENT_RIDGE),
        "config": json.dumps(asdict(config), sort_keys=True),
        "split": SPLIT,
        "arithmetic": arithmetic,
        **{f"{MAPS[method]}_strength": str(found.strength) for method, found in maps.items()},
        **{name: str(value) for name, value in evidence.items()},
    }


def _evidence(maps: Mapping[str, Distilled], answers: Sequence[Answer]) -> dict[str, float]:
    agreements = {AGREEMENTS[method]: found.agreement for method, found in maps.items()}
    known = {name: value for name, value in agreements.items() if value is not None}
    return {**known, NUM_KEPT_OUT: sum(answer.prompt.is_kept_out for answer in answers)}


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
