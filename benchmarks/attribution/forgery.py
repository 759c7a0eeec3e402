"""Measures what a forged attribution index can move while `loraledger attribution verify` calls it right.

The creator knows every answer by which verification measures what an index moves: the published ones, and the
rows. So it changes the vectors in a direction that none of these answers has, by as much as the tolerance of
a vector's norm allows, towards answers of another kind. It knows that kind too: the direction is made from
the very answers that the movement is measured on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backend.domain.attribution import CHECKPOINT_FILE, DISTILLED_METHOD, GRADIENT_METHOD
from backend.domain.attribution_checks import DISTANCE
from backend.services.answers.distilled import distilled_features
from benchmarks.attribution.data import write_rows
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef
from workers.training.base import open_base
from workers.training.fit import lora_model
from workers.training.gradients import row_gradients
from workers.training.index import load_adapter, states_by_part
from workers.training.published import read_published
from workers.training.rows import preamble_ids, read_examples
from workers.training.spec import ROWS_FILE
from workers.training.split import hold_out
from workers.training.verification import MAX_ROWS_COMPARED, moved_ppm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from workers.training.base import Base
    from workers.training.progress import Emit
    from workers.training.published import Published
    from workers.training.rows import Example

    Floats = NDArray[np.float64]


def measure_forgery(
    adapter: Path, job: Path, other: str, base_folder: str, cache: str, num_threads: int, emit: Emit
) -> dict[str, int]:
    """By method, the part of an answer's pool in ppm that the forger moves, the mean over the rows of the
    study `other`. `job` has the rows that `adapter` was trained on.
    """
    base = open_base(base_folder, cache)
    published = read_published(adapter)
    config = published.config
    rows = read_examples(job / ROWS_FILE, base.tokenizer, config.max_length, emit, config.loss_on)
    train = hold_out(rows, config.eval_fraction, config.seed).train
    answers = [answer.example for answer in published.answers]
    file = job / "other.jsonl"
    write_rows(other, file)
    targets = read_examples(file, base.tokenizer, config.max_length, emit, config.loss_on)
    parts = {"known": [*answers, *train[:MAX_ROWS_COMPARED]], "targets": targets}
    probes = _probes(base, adapter, published, parts, num_threads, emit)
    index = published.index
    if index.distilled is None or index.gradient is None:
        raise ValueError(f"the index of {adapter} lacks a method")
    vectors = {
        DISTILLED_METHOD: np.column_stack([index.distilled.weights, index.distilled.bias]),
        GRADIENT_METHOD: index.gradient,
    }
    return {
        method: moved_by_forger(each.astype(np.float64), *(probes[part][method] for part in parts))
        for method, each in vectors.items()
    }


def moved_by_forger(vectors: Floats, known: Floats, targets: Floats, distance: float = DISTANCE) -> int:
    """Mean part of a target's pool in ppm that moves, for the contribution that gains most.

    `vectors` [n, size] of the contributions; answers `known` [m, size] to the verifier, and `targets` [k,
    size]. Each vector is changed by `distance` of its norm, that of the gaining contribution towards the
    targets and all others away from them.
    """
    basis, _ = np.linalg.qr(known.T)
    units = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    mean = units.mean(0)
    direction = mean - basis @ (basis.T @ mean)
    changes = distance * np.linalg.norm(vectors, axis=1, keepdims=True) * direction
    changes /= max(float(np.linalg.norm(direction)), float(np.finfo(np.float64).tiny))
    return max(_moved(vectors, changes, targets, gaining) for gaining in range(len(vectors)))


def _moved(vectors: Floats, changes: Floats, targets: Floats, gaining: int) -> int:
    forged = vectors - changes
    forged[gaining] = vectors[gaining] + changes[gaining]
    moved = [moved_ppm(forged @ each, vectors @ each) for each in targets]
    return round(sum(moved) / len(moved))


def _probes(
    base: Base,
    adapter: Path,
    published: Published,
    parts: Mapping[str, Sequence[Example]],
    num_threads: int,
    emit: Emit,
) -> dict[str, dict[str, Any]]:
    """What each method compares answers by, fp64 [answers, size], by part of the answers."""
    torch.set_num_threads(num_threads)
    reference = AdapterRef(adapter_digest(adapter), str(adapter))
    found: dict[str, dict[str, Any]] = {}
    states = states_by_part(base.folder, reference, parts, num_threads, emit)
    for part, pair in zip(parts, states, strict=True):
        features = distilled_features(*(each.numpy() for each in pair)).astype(np.float64)
        found[part] = {DISTILLED_METHOD: np.column_stack([features, np.ones(len(features))])}
    model = lora_model(base.folder, published.config, torch.float32)
    load_adapter(model, (adapter / CHECKPOINT_FILE).read_bytes())
    preamble = preamble_ids(base.tokenizer)
    for part, examples in parts.items():
        gradients = row_gradients(model, examples, preamble, emit)
        found[part][GRADIENT_METHOD] = gradients.double().numpy()
    return found
