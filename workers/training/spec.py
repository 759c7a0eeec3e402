"""Files of a job folder: the specifications that a worker writes for the training process, and the result."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backend.disk.files import sync_tree, write_durably
from backend.domain.adapter_files import CARD_FILE
from backend.domain.training import About, TrainingConfig
from inference.errors import InferenceError
from inference.lora.files import adapter_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.domain.ids import Hash32
    from inference.config import DType

SPEC_FILE = "spec.json"
IMPORT_FILE = "import.json"
VERIFICATION_FILE = "verification.json"
ROWS_FILE = "rows.jsonl"
RESULT_FILE = "result.json"
INSPECTION_FILE = "inspection.json"
CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
"""Marks a complete checkpoint by the digest of its files; earlier releases left it empty. A checkpoint
without this file was being written when its process was killed.
"""
ADAPTER = "adapter"
UPLOADED = "uploaded"
"""Folder with the files of an imported adapter, not validated yet."""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Specification of a training job.

    `snapshots` are the ids of the training data in the order of the version record; `licences` are theirs.
    `base_folder` is a Hugging Face folder; empty: the bundled base model, cached in `model_cache`.
    """

    job_id: str
    config: TrainingConfig
    snapshots: tuple[str, ...]
    licences: tuple[str, ...]
    model_cache: str
    base_folder: str = ""
    num_threads: int = 2
    parent_folder: str = ""
    """Local folder of the adapter to continue from."""
    parent_base: str = ""
    """Digest of the parent's base model."""
    arithmetic: DType = "float32"
    """That of the attribution index."""

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
    """Specification of the validation of an imported adapter; fields as in `TrainingSpec`."""

    creator: str
    licence: str
    model_cache: str
    base_folder: str
    num_threads: int
    about: About = field(default_factory=About)

    def save(self, folder: Path) -> None:
        write_json(folder / IMPORT_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> ImportSpec:
        spec = cls(**json.loads((folder / IMPORT_FILE).read_bytes()))
        raw: dict[str, Any] = spec.about  # type: ignore[assignment]  # JSON knows no dataclasses
        return replace(spec, about=About(**{**raw, "tags": tuple(raw["tags"])}))


@dataclass(frozen=True, slots=True)
class VerificationSpec:
    """Specification of the verification of a published index; fields as in `TrainingSpec`.

    `adapter_digest`: 64 hex digits. `has_rows`: whether `ROWS_FILE` has the snapshot's rows.
    """

    adapter_folder: str
    adapter_digest: str
    model_cache: str
    base_folder: str
    num_threads: int
    has_rows: bool

    def save(self, folder: Path) -> None:
        write_json(folder / VERIFICATION_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> VerificationSpec:
        return cls(**json.loads((folder / VERIFICATION_FILE).read_bytes()))


def draft_of(folder: Path) -> Path:
    """Where a job's adapter is written."""
    return folder / f"{ADAPTER}.partial"


def adapter_draft(folder: Path) -> Path:
    """A new folder that `write_result` publishes. What a killed process left there is deleted."""
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    return draft


def write_result(draft: Path, card: str, inspection: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Add the card to the draft and make it the job's adapter, then write the result, all of it durably."""
    folder = draft.parent
    (draft / CARD_FILE).write_text(card, encoding="utf-8")
    sync_tree(draft)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    draft.rename(folder / ADAPTER)
    write_json(folder / INSPECTION_FILE, inspection)
    result = {name: inspection[name] for name in ("adapter_digest", "base_model")}
    write_json(folder / RESULT_FILE, {**result, "metrics": metrics})


def has_adapter(folder: Path, digest: Hash32) -> bool:
    """Whether a job's folder has the adapter with this digest, undamaged."""
    try:
        return "0x" + adapter_digest(folder / ADAPTER) == digest
    except InferenceError:
        return False


def write_json(path: Path, value: Any) -> None:
    write_durably(path, json.dumps(value, sort_keys=True, indent=2))
