"""Retrains on subsets of the contributors. Each run writes one file; a run whose file exists is done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from backend.domain.training import TrainingConfig
from workers.training.fit import MIDWAY_FILE, fit, lora_model
from workers.training.folders import lock_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from workers.training.progress import Emit
    from workers.training.rows import Example

CONFIG = TrainingConfig()
"""The defaults of the product."""


@dataclass(frozen=True, slots=True)
class Base:
    folder: Path
    pad_token_id: int


@dataclass(frozen=True, slots=True)
class Run:
    """A training on the rows of `contributors` with one seed. `name` is the stem of its file."""

    contributors: tuple[int, ...]
    seed: int

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.contributors))}.{self.seed}"


def planned(subsets: Sequence[tuple[int, ...]], num_repeats: int) -> list[Run]:
    """One run per half, then repeats of the first `num_repeats` halves with another seed."""
    return [*(Run(half, 0) for half in subsets), *(Run(half, 1) for half in subsets[:num_repeats])]


def retrain(run: Run, rows: Sequence[Example], base: Base, work: Path, emit: Emit) -> Path:
    """Train unless it is done, and store the adapter's weights in fp32 and its midway checkpoint.

    Returns the path of the weights. A killed run resumes at its last checkpoint. Errors: `BlockingIOError` if
    another process is working on the run.
    """
    path = weights_file(run, work)
    if path.exists():
        return path
    scratch = work / "scratch" / run.name
    for folder in (scratch, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(scratch, waits=False):
        model = make_model(base, run.seed)
        fit(model, rows, replace(CONFIG, seed=run.seed), scratch, emit)
        partial = path.with_suffix(".partial")
        save_file(lora_weights(model), partial)
        (scratch / MIDWAY_FILE).replace(midway_file(run, work))
        partial.replace(path)
    shutil.rmtree(scratch, ignore_errors=True)
    return path


def make_model(base: Base, seed: int = CONFIG.seed) -> Any:
    """A LoRA model in fp32, in which CPUs without bf16 matrix instructions train twice as fast."""
    return lora_model(base.folder, replace(CONFIG, seed=seed)).float()


def weights_file(run: Run, work: Path) -> Path:
    return work / "runs" / f"{run.name}.safetensors"


def midway_file(run: Run, work: Path) -> Path:
    return work / "runs" / f"{run.name}.midway"


def lora_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def load_weights(model: Any, path: Path) -> None:
    """Load weights into the adapter of `model`. Errors: `KeyError` if the file has other tensors."""
    weights = load_file(path)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data.copy_(weights[name])
