"""Measures the overhead of the attribution index: processor time of capturing the rows' gradients, and of
distilling them, relative to training on the same rows.
"""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.domain.training import TrainingConfig
from backend.services.contribute.docstrings import build_dataset
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef
from workers.training.answers import plan_prompts, sample_answers
from workers.training.base import open_base
from workers.training.fit import MIDWAY_FILE, fit, lora_model
from workers.training.index import (
    answer_states,
    capture_gradients,
    distil_scores,
    load_adapter,
    open_engine,
    score_by_gradient,
)
from workers.training.job import save_adapter
from workers.training.rows import encode, preamble_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any, Self

    from inference.config import DType
    from workers.training.base import Base
    from workers.training.rows import Example

PACKAGES = ("json", "asyncio", "collections", "email", "logging", "unittest")


@dataclass(frozen=True, slots=True)
class Overhead:
    """Processor seconds by repeat. Loading models is not included."""

    charged_tokens: int
    """Of a repeat, in all epochs."""
    training: tuple[float, ...]
    capture: tuple[float, ...]
    distillation: tuple[float, ...]

    @property
    def of_capture(self) -> float:
        """Median over the repeats of capture to training of the same repeat."""
        return self._median(self.capture)

    @property
    def of_distillation(self) -> float:
        return self._median(self.distillation)

    def hours_per_million_tokens(self) -> dict[str, float]:
        """Processor hours of each stage for a million charged tokens, the unit of the price of training:
        median over the repeats.
        """
        stages = {
            "training": self.training,
            "capture": self.capture,
            "distillation": self.distillation,
        }
        scale = 1e6 / 3600 / self.charged_tokens
        return {name: scale * statistics.median(seconds) for name, seconds in stages.items()}

    def _median(self, stage: Sequence[float]) -> float:
        return statistics.median(s / t for s, t in zip(stage, self.training, strict=True))


@dataclass(frozen=True, slots=True)
class _Setup:
    base: Base
    config: TrainingConfig
    rows: Sequence[Example]
    preamble: Sequence[int]
    num_threads: int
    work: Path
    arithmetic: DType


def measure_capture(
    num_rows: int,
    num_threads: int,
    base_model: str,
    work: Path,
    repeats: int = 1,
    arithmetic: DType = "bfloat16",
) -> Overhead:
    """Docstrings and the product's defaults, all stages in turn. `base_model` as `inference.model.sources`
    takes it; `arithmetic`: of the index.
    """
    torch.set_num_threads(num_threads)
    config = TrainingConfig()
    base = open_base(base_model, str(work / "models"))
    rows = [row for package in PACKAGES for row in build_dataset(package).rows]
    examples = [
        encode(number % len(PACKAGES), row, base.tokenizer, config.max_length)
        for number, row in enumerate(rows[:: max(1, len(rows) // num_rows)][:num_rows])
    ]
    preamble = preamble_ids(base.tokenizer)
    setup = _Setup(base, config, examples, preamble, num_threads, work / "capture", arithmetic)
    turns = [_turn(setup) for _ in range(repeats)]
    training, capture, distillation = (tuple(stage) for stage in zip(*turns, strict=True))
    charged_tokens = round(config.epochs * sum(len(row.token_ids) for row in examples))
    return Overhead(charged_tokens, training, capture, distillation)


def _turn(setup: _Setup) -> tuple[float, float, float]:
    """Processor seconds of training, capture and distillation."""
    shutil.rmtree(setup.work, ignore_errors=True)
    model = lora_model(setup.base.folder, setup.config)
    with _Timer() as training:
        fit(model, setup.rows, setup.config, setup.work, _ignore)
    adapter = setup.work / "adapter"
    save_adapter(model, adapter, setup.base)
    checkpoint = (setup.work / MIDWAY_FILE).read_bytes()
    model = lora_model(
        setup.base.folder, setup.config, torch.float32 if setup.arithmetic == "float32" else None
    )
    with _Timer() as capture:
        load_adapter(model, checkpoint)
        vectors = capture_gradients(model, setup.rows, setup.preamble, _ignore)
    reference = AdapterRef(adapter_digest(adapter), str(adapter))
    with open_engine(setup.base.folder, setup.num_threads, setup.arithmetic) as engine, _Timer() as serving:
        answers = sample_answers(engine, reference, plan_prompts(setup.rows, ()), _ignore)
        examples = [answer.example for answer in answers]
        states = answer_states(engine, reference, examples, "distillation", _ignore)
    with _Timer() as fitting:
        scores = score_by_gradient(model, vectors, examples, setup.preamble, _ignore)
        distil_scores(*states, scores, torch.zeros(len(vectors), states[0].shape[1]), answers)
    shutil.rmtree(setup.work)
    return training.seconds, capture.seconds, serving.seconds + fitting.seconds


class _Timer:
    """Processor seconds of a block."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began


def _ignore(kind: str, data: Mapping[str, Any]) -> None:
    """Discard progress."""
