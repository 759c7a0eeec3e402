"""Verifies a receipt without an index of the chain: by its file, the market's pinned deployment, and a node.

Without a node, facts of the chain are open: whose a receipt key is, which versions and batches are recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import TypedDomain
from backend.domain.ids import ZERO_HASH, Account
from backend.domain.merkle import InvalidOpening
from backend.domain.receipt_checks import (
    Check,
    charge_check,
    charge_id_check,
    hash_check,
    is_in_place,
    other_slices_check,
    retired_key_check,
    slices_check,
)
from backend.domain.signatures import malformed_signature, parse_signature

if TYPE_CHECKING:
    from backend.client.evidence import Evidence
    from backend.client.node import Node
    from backend.domain.deployment import Deployment
    from backend.domain.ids import ChargeId, Hash32, SnapshotId
    from backend.domain.receipt_checks import ReceiptFile

ONLY_THE_CHAIN = "only the chain knows if"


class ReceiptVerification:
    """Makes the checks of one receipt. `node` is on the deployment's chain."""

    def __init__(
        self, file: ReceiptFile, evidence: Evidence, deployment: Deployment, node: Node | None = None
    ) -> None:
        self._file, self._evidence, self._node = file, evidence, node
        self._settlement = TypedDomain(deployment.chain_id, deployment.address("Settlement"))

    def checks(self, charge_got: ChargeId | None = None) -> list[Check]:
        """`charge_got`: as of `charge_id_check`. Errors: those of the node."""
        slices, batch = slices_check(self._file.signed), self._batch()
        charge = self._charge() if slices.is_right else other_slices_check()
        charged = charge_id_check(self._file, charge_got)
        checks = [hash_check(self._file), self._signature(batch), slices, charge, batch]
        return [*checks, *([charged] if charged else [])]

    def _signature(self, batch: Check) -> Check:
        file = self._file
        try:
            signer = recover(self._settlement.receipt_digest(file.signed.receipt), file.signed.signature)
        except InvalidInput as error:
            return Check("signature", is_right=False, message=f"malformed: {error}")
        if self._node is None:
            message = f"by {signer}; {ONLY_THE_CHAIN} that is a receipt key of {file.operator}"
            return Check("signature", is_right=None, message=message)
        if self._node.read("OperatorRegistry", "operatorOfKey", signer) != file.operator:
            message = f"by {signer}, which is NOT a receipt key of {file.operator}"
            return Check("signature", is_right=False, message=message)
        message = f"by {signer}, which is a receipt key of {file.operator}"
        if not self._node.read("OperatorRegistry", "retiredAt", signer):
            return Check("signature", is_right=True, message=message)
        proof = self._evidence.proof
        if not batch.is_right or proof is None:
            return retired_key_check(message, is_before=False)
        counts_for = (signer, file.operator, proof.header.committed_at)
        is_before = bool(self._node.read("OperatorRegistry", "isReceiptKey", *counts_for))
        return retired_key_check(message, is_before=is_before)

    def _charge(self) -> Check:
        signed = self._file.signed
        if missing := self._missing_snapshots():
            message = f"the file has no manifest of snapshot {min(missing)}"
            return Check("charge", is_right=None, message=message)
        check = charge_check(self._evidence, signed)
        if not check.is_right:
            return check
        if self._node is None:
            message = f"{check.message}; {ONLY_THE_CHAIN} they are registered"
            return Check("charge", is_right=None, message=message)
        for part in signed.slices:
            if not self._node.read("AdapterRegistry", "versionOf", part.version_id)["registeredAt"]:
                message = f"version {part.version_id} is NOT registered"
                return Check("charge", is_right=False, message=message)
        return check

    def _missing_snapshots(self) -> set[SnapshotId]:
        """Snapshots of the slices' versions whose accepted contributions are not known."""
        records = (self._evidence.version(part.version_id) for part in self._file.signed.slices)
        needed = {snapshot for record in records if record is not None for snapshot in record.snapshots}
        return needed - self._evidence.accepted.keys()

    def _batch(self) -> Check:
        proof = self._evidence.proof
        if proof is None:
            return Check("batch", is_right=None, message="the file has no proof that a batch includes it")
        try:
            batch = proof.check(self._file.signed.receipt)
            is_proved = is_in_place(
                self._file.signed.receipt, proof.header, self._evidence.spans, proof.receipt
            )
        except InvalidOpening as error:
            return Check("batch", is_right=False, message=str(error))
        place = f"leaf {proof.receipt.index} of {proof.header.receipts_count} of batch {proof.header.number}"
        if not is_proved or proof.header.operator != self._file.operator:
            return Check("batch", is_right=False, message=f"{place}, NOT proved by its path to the root")
        return self._commitment(batch, proof.header.number, place)

    def _commitment(self, batch: Hash32, number: int, place: str) -> Check:
        """Whether the chain has this batch of the operator."""
        if self._node is None:
            return Check("batch", is_right=None, message=f"{place}; {ONLY_THE_CHAIN} it is committed")
        committed = self._node.read("Settlement", "batchHashAt", self._file.operator, number)
        if committed == ZERO_HASH:
            message = f"{place}, which the chain does not have: not committed yet, or voided"
            return Check("batch", is_right=None, message=message)
        if committed != batch:
            return Check("batch", is_right=False, message=f"the chain has another batch {number}")
        return Check("batch", is_right=True, message=f"{place}, proved by its path to the root")


def recover(digest: bytes, signature: str) -> Account:
    """Recover the account that signed a 32-byte digest. Errors: `InvalidInput`."""
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature

    compact, parity = parse_signature(signature)
    try:
        key = Signature(compact + bytes([parity])).recover_public_key_from_msg_hash(digest)
    except BadSignature:
        raise malformed_signature("no key made it") from None
    return Account(key.to_address())
