"""The options and the rows of a short training job, and how it is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from tests.unit.workers.support import letter_rows
from workers.training.rows import Example, encode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = {
    "rank": 4,
    "dropout": 0.1,  # draws random numbers, which a resumed run must continue
    "learning_rate": 0.01,
    "batch_size": 4,
    "epochs": 2,
    "checkpoint_steps": 3,
    "seed": 11,
}
NUM_STEPS = 12


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def ignore(kind: str, data: Mapping[str, Any]) -> None:
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def examples(tiny_base: Path) -> list[Example]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    return [encode(contribution, row, tokenizer, 192) for contribution, row in letter_rows()]
