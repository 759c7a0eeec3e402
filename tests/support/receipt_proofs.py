"""Proofs of receipts as the API shows them."""

from __future__ import annotations

from typing import Any

from backend.domain.batch import Header
from backend.domain.entries import Entry
from backend.domain.merkle import Opening
from backend.domain.receipt_proof import ProvenBalance, ProvenEntry, ReceiptProof


def read_back(shown: dict[str, Any]) -> ReceiptProof:
    """Parse a proof from the JSON of the response alone, as a client does."""
    index = shown["receipt"]["index"]
    return ReceiptProof(
        header=Header.from_chain(shown["header"]),
        receipt=_opening(shown["receipt"]),
        entries=tuple(
            ProvenEntry(
                Entry(e["account"], index, e["slice"], e["part"], int(e["opening"]["value"])),
                _opening(e["opening"]),
            )
            for e in shown["entries"]
        ),
        balances=tuple(ProvenBalance(b["account"], _opening(b["opening"])) for b in shown["balances"]),
    )


def _opening(shown: dict[str, Any]) -> Opening:
    return Opening(shown["index"], int(shown["value"]), bytes.fromhex(shown["path"][2:]))
