"""Answers that adapters generated in training and published, by which rows made of them are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import VersionId


@dataclass(frozen=True, slots=True)
class AnswerShingles:
    """Hashes of the shingles of a version's published answers, in place of their texts."""

    version: VersionId
    shingles: bytes
    """uint32, little-endian: the distinct hashes of the first answer, then those of the next."""
    lengths: bytes
    """uint32, little-endian: the number of hashes of each answer; 0 for one that is not compared."""
