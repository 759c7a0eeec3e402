"""Measures the overhead of the gradient index: processor time of capture and training on the same rows."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer

from backend.domain.training import TrainingConfig
from backend.services.contribute.docstrings import build_dataset
from inference.model.sources import resolve_model
from workers.training.fit import MIDWAY_FILE, fit, lora_model
from workers.training.index import capture_gradients
from workers.training.rows import encode, preamble_ids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from workers.training.rows import Example

PACKAGES = ("json", "asyncio", "collections", "email", "logging", "unittest")


@dataclass(frozen=True, slots=True)
class Overhead:
    """Processor seconds of training and capture, by repeat."""

    training: tuple[float, ...]
    capture: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over the repeats of capture to training of the same repeat."""
        return statistics.median(c / t for c, t in zip(self.capture, self.training, strict=True))


def measure_capture(
    num_rows: int, num_threads: int, base_model: str, work: Path, repeats: int = 1
) -> Overhead:
    """Docstrings and the product's defaults, training and capture in turns. `base_model` as
    `inference.model.sources` takes it.
    """
    torch.set_num_threads(num_threads)
    config = TrainingConfig()
    folder = resolve_model(base_model, work / "models")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = [row for package in PACKAGES for row in build_dataset(package).rows]
    examples = [
        encode(number % len(PACKAGES), row, tokenizer, config.max_length)
        for number, row in enumerate(rows[:: max(1, len(rows) // num_rows)][:num_rows])
    ]
    checkpoints = work / "capture"
    preamble = preamble_ids(tokenizer)
    turns = [_turn(folder, config, examples, preamble, checkpoints) for _ in range(repeats)]
    return Overhead(tuple(training for training, _ in turns), tuple(capture for _, capture in turns))


def _turn(
    folder: Path,
    config: TrainingConfig,
    examples: list[Example],
    preamble: tuple[int, ...],
    checkpoints: Path,
) -> tuple[float, float]:
    model = lora_model(folder, config)
    shutil.rmtree(checkpoints, ignore_errors=True)
    began = time.process_time()
    summary = fit(model, examples, config, checkpoints, _ignore)
    trained = time.process_time()
    midway = (checkpoints / MIDWAY_FILE).read_bytes()
    captured = time.process_time()
    capture_gradients(model, midway, summary.midway_step, examples, preamble, _ignore)
    ended = time.process_time()
    shutil.rmtree(checkpoints)
    return trained - began, ended - captured


def _ignore(kind: str, data: Mapping[str, Any]) -> None:
    """Discard progress."""
