"""What an operator does not serve, and why; and below which price it serves nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from backend.domain.errors import Forbidden, InvalidInput

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.receipt import VersionRecord


class Denied(StrEnum):
    """What a denial is about; its subject is spelled as in `PATTERNS`."""

    ADAPTER = "adapter"
    """Digest of the weights: under whatever names and prices they are registered."""
    DATANET = "datanet"
    """Id of a datanet: all that learned from one of its snapshots."""
    PAYER = "payer"
    """Account that gets no answers."""
    CONTENT = "content"
    """Digest of a folder that the gateway does not hand out, as version records have it."""


class Reason(StrEnum):
    """What whoever is refused is told."""

    LEGAL = "legal"
    LICENCE = "licence"
    HARMFUL = "harmful"
    POLICY = "policy"

    @property
    def is_legal(self) -> bool:
        """Whether HTTP says 451: it is not the operator's own choice."""
        return self in {Reason.LEGAL, Reason.LICENCE}


PATTERNS = {
    Denied.ADAPTER: re.compile("0x[0-9a-f]{64}"),
    Denied.DATANET: re.compile("[1-9][0-9]{0,18}"),
    Denied.PAYER: re.compile("0x[0-9a-f]{40}"),
    Denied.CONTENT: re.compile("0x[0-9a-f]{64}"),
}


class ModelDenied(Forbidden):
    """The operator does not serve the adapter, or nothing of its datanet; `details["reason"]` says why."""


class ModelWithheld(ModelDenied):
    """Likewise, for a reason of law or licence."""


class PayerDenied(Forbidden):
    """The operator does not answer this account. What it has deposited can be withdrawn as ever."""


class ContentWithheld(Forbidden):
    """The operator does not hand out the content; whoever else has it may."""


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    kind: Denied
    id: str

    @classmethod
    def parse(cls, kind: str, text: str) -> Subject:
        """Errors: `InvalidInput` for an unknown kind, or a spelling that the kind does not have."""
        if kind not in tuple(Denied):
            raise InvalidInput(f"no kind {kind!r}; there are {', '.join(Denied)}", param="kind")
        found = cls(Denied(kind), text.lower())
        if not PATTERNS[found.kind].fullmatch(found.id):
            raise InvalidInput(
                f"{text!r} names no {kind}: it must match {PATTERNS[found.kind].pattern}", "subject"
            )
        return found


@dataclass(frozen=True, slots=True)
class Denial:
    subject: Subject
    reason: Reason
    created_at: datetime


MAX_FLOOR = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class FloorPrice:
    """The least that this operator answers for: token units per million tokens, as in version records.

    Errors: `InvalidInput` outside 0 to `MAX_FLOOR`.
    """

    prompt: int = 1
    completion: int = 1

    def __post_init__(self) -> None:
        for param in ("prompt", "completion"):
            if not 0 <= getattr(self, param) <= MAX_FLOOR:
                raise InvalidInput(f"the floor of {param} tokens must lie between 0 and {MAX_FLOOR}", param)

    def allows(self, record: VersionRecord) -> bool:
        return record.prompt_price >= self.prompt and record.completion_price >= self.completion
