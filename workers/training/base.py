"""The base model of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.model.base_model import base_model_digest
from inference.model.sources import resolve_model
from inference.tokenization.load import load_tokenizer


@dataclass(frozen=True, slots=True)
class Base:
    folder: Path
    digest: str
    tokenizer: Any


def open_base(base_folder: str, model_cache: str) -> Base:
    """Arguments as in `TrainingSpec`. Errors: `ModelNotFoundError`, `UnsupportedModelError`."""
    folder = resolve_model(base_folder, Path(model_cache))
    tokenizer = load_tokenizer(folder)
    return Base(folder, base_model_digest(folder), tokenizer)
