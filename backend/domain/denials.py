"""Denials and floor prices: what an operator does not serve."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from backend.domain.errors import Forbidden, InvalidInput
from backend.domain.money import price_in_dollars

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.ids import Account
    from backend.domain.receipt import VersionRecord


class Denied(StrEnum):
    """Kind of a denial's subject. The subject's id has the form in `PATTERNS`."""

    ADAPTER = "adapter"
    """Digest of an adapter's weights, under any name and price."""
    DATANET = "datanet"
    """Id of a datanet; denies all adapters trained on its snapshots."""
    PAYER = "payer"
    """Account whose requests are refused."""
    CONTENT = "content"
    """Digest of a folder's CID, as in version records; the gateway does not serve it."""


class Reason(StrEnum):
    """Reason of a denial, which the refused caller receives."""

    LEGAL = "legal"
    LICENCE = "licence"
    HARMFUL = "harmful"
    POLICY = "policy"

    @property
    def is_legal(self) -> bool:
        """Whether the denial is for legal reasons (HTTP status 451) and not the operator's choice."""
        return self in {Reason.LEGAL, Reason.LICENCE}


PATTERNS = {
    Denied.ADAPTER: re.compile("0x[0-9a-f]{64}"),
    Denied.DATANET: re.compile("[1-9][0-9]{0,18}"),
    Denied.PAYER: re.compile("0x[0-9a-f]{40}"),
    Denied.CONTENT: re.compile("0x[0-9a-f]{64}"),
}


class ModelDenied(Forbidden):
    """The operator does not serve the adapter or its datanet. `details["reason"]` has the reason."""


class ModelWithheld(ModelDenied):
    """The operator does not serve the adapter or its datanet for legal reasons."""


class PayerDenied(Forbidden):
    """The operator does not serve this payer, who can still withdraw its deposits."""


class ContentWithheld(Forbidden):
    """The operator does not serve the content. Other nodes may."""


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    kind: Denied
    id: str

    @classmethod
    def parse(cls, kind: str, text: str) -> Subject:
        """Errors: `InvalidInput` for an unknown kind or an id that is not in the kind's form."""
        if kind not in tuple(Denied):
            raise InvalidInput(f"unknown kind {kind!r}: use one of {', '.join(Denied)}", param="kind")
        subject = cls(Denied(kind), text.lower())
        if not PATTERNS[subject.kind].fullmatch(subject.id):
            raise InvalidInput(
                f"{text!r} is not a {kind}: it must match {PATTERNS[subject.kind].pattern}", "subject"
            )
        return subject


@dataclass(frozen=True, slots=True)
class Denial:
    subject: Subject
    reason: Reason
    created_at: datetime


MAX_FLOOR = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class FloorPrice:
    """The least that this operator serves for, in token units per million tokens: what it earns itself of the
    prices, before the protocol's fee. The prices alone bound nothing: a payer who registers an adapter again
    gets back what the record gives to its creator.

    Errors: `InvalidInput` outside 0 to `MAX_FLOOR`.
    """

    prompt: int = 1
    completion: int = 1

    def __post_init__(self) -> None:
        for param in ("prompt", "completion"):
            if not 0 <= getattr(self, param) <= MAX_FLOOR:
                most = price_in_dollars(MAX_FLOOR)
                raise InvalidInput(f"the floor of {param} tokens must be between 0 and {most}", param)

    def allows(self, record: VersionRecord, operator: Account) -> bool:
        prompt, completion = record.operator_prices(operator)
        return prompt >= self.prompt and completion >= self.completion
