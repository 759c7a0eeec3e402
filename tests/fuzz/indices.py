"""Parsers of what an adapter's folder holds for attribution: its index, and the answers that it published."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from backend.domain.attribution import (
    AGREEMENTS,
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    ERROR_METHOD,
    GRADIENT_METHOD,
    INDEX_FILE,
    INDEX_METADATA,
    NUM_KEPT_OUT,
)
from backend.domain.errors import InvalidInput
from backend.domain.money import PPM
from backend.ports.attribution import Probe
from backend.services.answers.attribution import (
    Distilled,
    DistilledError,
    HiddenCosine,
    Ridge,
    Uniform,
    attribute,
)
from backend.services.answers.attribution_index import Indices, has_gradients, load_index
from backend.services.contribute.answers_file import parse_answers
from backend.services.market.agreements import read_agreement
from tests.fuzz.mutations import safetensors
from tests.fuzz.target import Target

METHODS = (DISTILLED_METHOD, DISTILLED_ERROR_METHOD, GRADIENT_METHOD, ERROR_METHOD)
LABELS = dict.fromkeys((*AGREEMENTS.values(), NUM_KEPT_OUT), "0.5")


def attribution_index(data: bytes) -> None:
    """An index that is read attributes any answer, by each of its methods, and every share to someone."""
    read_agreement([data[:10], data[10:]])
    with tempfile.TemporaryDirectory(prefix="loraledger-fuzz-") as place:
        folder = Path(place)
        (folder / INDEX_FILE).write_bytes(data)
        has_gradients(folder)
        try:
            index = load_index(folder / INDEX_FILE, 1 << 20, with_gradients=True)
        except InvalidInput:
            return
        indices = Indices(with_gradients=True)
        answer = [1.0] * index.centre.size
        sketch = None if index.gradient is None else [1.0] * index.gradient.shape[1]
        for method in (
            Distilled(indices),
            DistilledError(indices),
            Ridge(indices, "error"),
            Ridge(indices, "gradient"),
            HiddenCosine(indices),
        ):
            methods = (method, Uniform())
            found = attribute(methods, folder, index.positions.tolist() or [0], Probe(answer, answer, sketch))
            assert sum(share.ppm for share in found.shares) == PPM


def attribution_index_seeds() -> list[bytes]:
    vectors = np.array([[1, 0], [0, -1]], np.float32)
    plain = {
        "positions": np.array([0, 7], np.int64),
        "rows": np.array([4, 1], np.int64),
        "hidden.vectors": vectors,
        "hidden.centre": np.array([10, 10], np.float32),
        "error.vectors": vectors,
    }
    maps = {
        "distilled.weights": np.ones((2, 4), np.float32),
        "distilled.bias": np.zeros(2, np.float32),
        "distilled_error.weights": vectors,
        "distilled_error.bias": np.zeros(2, np.float32),
        "gradient.vectors": np.ones((2, 3), np.float32),
    }
    named = INDEX_METADATA | LABELS | {"methods": " ".join(METHODS), NUM_KEPT_OUT: "8"}
    return [save(plain, INDEX_METADATA | {"methods": ERROR_METHOD}), save(plain | maps, named)]


def answers_file(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert all(found.prompt and found.answer for found in parse_answers(data))


def answers_file_seeds() -> list[bytes]:
    columns = {"prompt_ends": [1, 4], "ends": [3, 6], "seeds": [5, 9], "token_ids": [*range(6)]}
    tensors = {name: np.array(column, np.int64) for name, column in columns.items()}
    return [save(tensors | {"is_kept_out": np.array([True, False])}), save({})]


TARGETS = (
    Target("attribution_index", attribution_index, attribution_index_seeds, mutate=safetensors),
    Target("answers_file", answers_file, answers_file_seeds, max_bytes=2048, mutate=safetensors),
)
