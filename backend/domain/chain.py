"""Blocks, decoded logs and refusals of one EVM chain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Hash32


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block of the chain. A number alone does not identify it after a reorganisation; its hash does."""

    number: int
    hash: Hash32
    parent_hash: Hash32
    timestamp: int  # unix seconds


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One decoded log.

    Values of `args` are integers, booleans, text, lower-case 0x-hex for bytes and addresses, lists and dicts.
    """

    block_number: int
    block_hash: Hash32
    log_index: int
    tx_hash: Hash32
    timestamp: int  # unix seconds
    contract: str
    name: str
    args: Mapping[str, Any]


@dataclass
class Reverted(DomainError):
    """The contract refuses the call."""

    error: str = ""
    """Name of the custom error; empty if the revert data is not a known error."""
    args_by_name: dict[str, Any] = field(default_factory=dict)
    """Arguments of the custom error."""


@dataclass
class ChainReplaced(DomainError):
    """The chain behind the RPC is not the chain that the deployment file names."""
