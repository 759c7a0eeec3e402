"""Retrains on subsets of the contributors."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from backend.domain.training import TrainingConfig
from workers.training.fit import MIDWAY_FILE, compute_dtype, fit, lora_model
from workers.training.folders import lock_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from workers.training.progress import Emit
    from workers.training.rows import Example

CONFIG = TrainingConfig()
"""The defaults of the product."""


@dataclass(frozen=True, slots=True)
class Base:
    folder: Path
    name: str


@dataclass(frozen=True, slots=True)
class Run:
    """A training on the rows of `contributors` with one seed."""

    contributors: tuple[int, ...]
    seed: int

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.contributors))}.{self.seed}"


def planned(subsets: Sequence[tuple[int, ...]], num_repeats: int) -> list[Run]:
    """One run per half, then repeats of the first `num_repeats` halves with another seed."""
    return [*(Run(half, 0) for half in subsets), *(Run(half, 1) for half in subsets[:num_repeats])]


@contextmanager
def retrained(run: Run, rows: Sequence[Example], base: Base, work: Path, emit: Emit) -> Iterator[Any]:
    """The trained model. A killed run resumes at its last checkpoint; a finished context leaves no
    files. Errors: `BlockingIOError` if another process is working on the run.
    """
    scratch = work / "scratch" / run.name
    scratch.mkdir(parents=True, exist_ok=True)
    with lock_folder(scratch, waits=False):
        model = make_model(base, run.seed)
        fit(model, rows, replace(CONFIG, seed=run.seed), scratch, emit)
        yield model
        shutil.rmtree(scratch)


def retrain_reference(run: Run, rows: Sequence[Example], base: Base, work: Path, emit: Emit) -> None:
    """Train the adapter that methods attribute with, unless it is done, and store its weights in fp32 and
    its midway checkpoint.
    """
    path = weights_file(work)
    if path.exists():
        return
    with retrained(run, rows, base, work, emit) as model:
        partial = path.with_suffix(".partial")
        save_file(_lora_weights(model), partial)  # in fp32
        shutil.copyfile(work / "scratch" / run.name / MIDWAY_FILE, midway_file(work))
        partial.replace(path)


def make_model(base: Base, seed: int = CONFIG.seed) -> Any:
    """A new LoRA model. Its frozen weights are rounded to bf16 on every machine, so that runs of several ones
    compare; they are stored and multiplied in `compute_dtype`, since a CPU without instructions for bf16
    takes nine times as long for its products.
    """
    model = lora_model(base.folder, replace(CONFIG, seed=seed))
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(torch.bfloat16).to(compute_dtype())
    return model


def reference_model(base: Base, work: Path) -> Any:
    """The model with the adapter of all contributors, in fp32. Errors: `FileNotFoundError`."""
    model = make_model(base).float()
    load_weights(model, work)
    return model


def load_weights(model: Any, work: Path) -> None:
    """Load those at the end of training. Errors: `FileNotFoundError`."""
    weights = load_file(weights_file(work))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data.copy_(weights[name])


def weights_file(work: Path) -> Path:
    return work / "reference.safetensors"


def midway_file(work: Path) -> Path:
    return work / "reference.midway.safetensors"


def _lora_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
