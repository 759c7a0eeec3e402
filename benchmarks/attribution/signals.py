"""Signals of rows and answers that methods compare, as the product's trainer and engine compute them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

from backend.domain.attribution import CHECKPOINT_FILE
from benchmarks.attribution.retrain import make_model, midway_file, reference_model
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef
from workers.training.answers import plan_prompts, read_answers, sample_answers, serialise_answers
from workers.training.base import open_base
from workers.training.gradients import row_gradients
from workers.training.index import answer_states, load_adapter, open_engine
from workers.training.job import save_adapter
from workers.training.sketch import DEPTHS, NUM_PARTS, PART_SIZE, SKETCH_SEED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from benchmarks.attribution.retrain import Base
    from workers.training.answers import Answer as SampledAnswer
    from workers.training.progress import Emit
    from workers.training.rows import Example


@dataclass(frozen=True, slots=True)
class Signals:
    """Of rows or answers."""

    hidden: Tensor  # [n, hidden] mean final state over the answer
    error: Tensor  # [n, hidden] sum over the answer of W^T (p - y)
    gradients: Tensor  # [n, parts, part size] sketches

    def select(self, chosen: Tensor) -> Signals:
        """Those of which `chosen` bool [n] is true."""
        return Signals(self.hidden[chosen], self.error[chosen], self.gradients[chosen])


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter that was trained on `rows`: below `work` are its weights, its checkpoint, and what is
    computed from them. `preamble` has the token ids at the start of all rows.
    """

    base: Base
    work: Path
    rows: Sequence[Example]
    preamble: Sequence[int]
    num_threads: int


@dataclass(frozen=True, slots=True)
class StudySignals:
    """`sampled` are those of `distillation`, the answers to which the distilled maps are fitted."""

    rows: Signals
    answers: Signals
    sampled: Signals
    distillation: Sequence[SampledAnswer]


def read_signals(trained: Trained, answers: Sequence[Example], emit: Emit) -> StudySignals:
    """Computed once and stored. Errors: `FileNotFoundError` before the adapter is trained."""
    sampled = _sampled(trained, emit)
    parts = {
        "rows": trained.rows,
        "answers": answers,
        "sampled": [answer.example for answer in sampled],
    }
    found = _stored(trained, "signals", parts, emit)
    return StudySignals(**found, distillation=sampled)


def read_variants(trained: Trained, rows: Mapping[str, Sequence[Example]], emit: Emit) -> dict[str, Signals]:
    """Signals of manipulated rows by manipulation, computed once and stored."""
    return _stored(trained, "variants", rows, emit)


def published_adapter(trained: Trained) -> AdapterRef:
    """Save the weights as the trainer publishes an adapter."""
    folder = trained.work / "adapter"
    if not (folder / CHECKPOINT_FILE).exists():
        model = reference_model(trained.base, trained.work)
        save_adapter(model, folder, open_base(str(trained.base.folder), ""))
        shutil.copyfile(midway_file(trained.work), folder / CHECKPOINT_FILE)
    return AdapterRef(adapter_digest(folder), str(folder))


def _sampled(trained: Trained, emit: Emit) -> list[SampledAnswer]:
    """Answers to the prompts of trained rows alone: the held-out ones are the study's questions."""
    file = trained.work / "sampled.safetensors"
    if not file.exists():
        adapter = published_adapter(trained)
        with open_engine(trained.base.folder, trained.num_threads) as engine:
            answers = sample_answers(engine, adapter, plan_prompts(trained.rows, ()), emit)
        file.write_bytes(serialise_answers(answers))
    return read_answers(file)


def _stored(
    trained: Trained, name: str, parts: Mapping[str, Sequence[Example]], emit: Emit
) -> dict[str, Signals]:
    """Signals by part, from the file `name` if it is of these examples."""
    file, key = trained.work / f"{name}.safetensors", _key(parts)
    if not file.exists() or _read_key(file) != key:
        save_file(_compute(trained, parts, emit), file, {"key": key})
    with safe_open(file, "pt") as stored:
        return {
            part: Signals(*(stored.get_tensor(f"{part}.{each}") for each in Signals.__slots__))
            for part in parts
        }


def _compute(trained: Trained, parts: Mapping[str, Sequence[Example]], emit: Emit) -> dict[str, Tensor]:
    adapter = published_adapter(trained)
    tensors: dict[str, Tensor] = {}
    with open_engine(trained.base.folder, trained.num_threads) as engine:
        for part, examples in parts.items():
            states = answer_states(engine, adapter, examples, part, emit)
            tensors |= {f"{part}.hidden": states[0], f"{part}.error": states[1]}
    model = make_model(trained.base)
    load_adapter(model, midway_file(trained.work).read_bytes())
    for part, examples in parts.items():
        found = row_gradients(model, examples, trained.preamble, emit)
        tensors[f"{part}.gradients"] = found.view(-1, NUM_PARTS, PART_SIZE)
    return tensors


def _key(parts: Mapping[str, Sequence[Example]]) -> str:
    """Digest of what signals are of."""
    rows = [(name, [row.token_ids for row in examples]) for name, examples in parts.items()]
    return hashlib.sha256(repr((SKETCH_SEED, PART_SIZE, DEPTHS, rows)).encode()).hexdigest()


def _read_key(file: Path) -> str:
    with safe_open(file, "pt") as stored:
        key: str = stored.metadata()["key"]
    return key
