"""What the worker tells the training process, and what that says back: JSON, in files and on its output."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.domain.training import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

SPEC_FILE = "spec.json"
FOREIGN_FILE = "foreign.json"
ROWS_FILE = "rows.jsonl"
RESULT_FILE = "result.json"
INSPECTION_FILE = "inspection.json"
CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
"""A checkpoint without this file was being written when its process was killed."""
ADAPTER = "adapter"
BROUGHT = "brought"
"""What the creator of an adapter that was trained elsewhere sent, and nobody has looked at yet."""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """One job as its process sees it.

    `snapshots` are the ids whose rows are trained on, in the order of the version record, `licences` theirs.
    `base_folder` is a Hugging Face folder; empty: the bundled base model, kept in `model_cache`.
    """

    job_id: str
    config: TrainingConfig
    snapshots: tuple[str, ...]
    licences: tuple[str, ...]
    model_cache: str
    base_folder: str = ""
    num_threads: int = 2
    parent_folder: str = ""
    """Of the adapter that training goes on from, on this machine."""
    parent_base: str = ""
    """Digest of that one's base model."""

    def save(self, folder: Path) -> None:
        write_json(folder / SPEC_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> TrainingSpec:
        spec = cls(**json.loads((folder / SPEC_FILE).read_bytes()))
        raw: dict[str, Any] = spec.config  # type: ignore[assignment]  # JSON knows no dataclasses
        config = TrainingConfig(**{**raw, "targets": tuple(raw["targets"])})
        return replace(spec, config=config, snapshots=tuple(spec.snapshots), licences=tuple(spec.licences))


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """An adapter that was trained elsewhere, as the process sees it that looks at it; see `TrainingSpec`."""

    creator: str
    licence: str
    model_cache: str
    base_folder: str
    num_threads: int

    def save(self, folder: Path) -> None:
        write_json(folder / FOREIGN_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> ImportSpec:
        return cls(**json.loads((folder / FOREIGN_FILE).read_bytes()))


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all, whenever the process is killed."""
    scratch = path.with_suffix(".partial")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True, indent=2)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
