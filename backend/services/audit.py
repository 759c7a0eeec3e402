"""Recompute batches from chain and public batch data alone; no receipt of this installation is consulted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.batch import HEADER_FIELDS, Batch, Header, Ledger, build
from backend.domain.batch_data import FILE_NAME, MAX_LINE, BatchName, MalformedBatch, decode
from backend.domain.chain import BatchState
from backend.domain.content import ContentCorrupt, ContentMissing, cid_of
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.rules import BadReceipt, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from backend.domain.chain import CommittedBatch, ParameterSet
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain import ChainView, Recover
    from backend.ports.settlement import MirrorTx
    from backend.ports.storage import BlobStore


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that is wrong with a batch."""

    what: str
    """Machine-readable: `data_missing`, `data_malformed`, `signature`, or the field that is wrong."""
    message: str
    receipt: int | None = None
    """Index of the wrong receipt, in the order of the batch."""
    unit: int | None = None
    """The first wrong micro-unit on the batch's line [0, total), where one receipt is to blame."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit says of one batch. Sums in micro-units, from the header."""

    header: Header
    finding: Finding | None

    @property
    def is_right(self) -> bool:
        return self.finding is None


@dataclass
class WrongBatch(Conflict):
    """A batch of this operator is wrong: nothing may be built on it and no claim be made from it."""

    verdict: Verdict | None = None


class _Wrong(Exception):
    def __init__(self, finding: Finding) -> None:
        self.finding = finding


class Auditor:
    """Judges operators' batches, and mirrors the ledgers that follow from them.

    `read` gives one consistent view of the projections, `begin` commits; `recover` is the signers' inverse.
    """

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[MirrorTx]],
        read: Callable[[], AbstractContextManager[MirrorTx]],
        blobs: BlobStore,
        recover: Recover,
        settlement: TypedDomain,
    ) -> None:
        self._begin, self._read = begin, read
        self._blobs, self._recover, self._settlement = blobs, recover, settlement

    def audit(self, operator: Account) -> Iterator[Verdict]:
        """Verdicts from the operator's first batch on; a wrong one is the last, as all after it fall with it.

        Errors: `Unavailable` if the store of batch data cannot be reached.
        """
        with self._read() as tx:
            ledger = Ledger()
            for committed in standing(tx.chain.batches(operator)):
                verdict, batch = self._judge(tx.chain, ledger, committed)
                yield verdict
                if batch is None:
                    return
                ledger = batch.after(verdict.header)

    def follow(self, operator: Account) -> Ledger:
        """The ledger after the operator's newest batch; audits and mirrors what is new since the last call.

        Errors: `WrongBatch`; `Unavailable` as `audit`.
        """
        with self._read() as tx:
            ledger, fresh = _resume(tx, operator, standing(tx.chain.batches(operator)))
            finalised = tx.chain.finalised(operator)
            for committed in fresh:
                ledger = self._right(tx.chain, ledger, committed)[1]
                with self._begin() as mirror:
                    mirror.batches.save_ledger(operator, ledger)
        if fresh:
            with self._begin() as mirror:
                mirror.batches.prune_ledgers(operator, below=finalised)
        return ledger

    def batch(self, operator: Account, number: int) -> Batch:
        """A right batch with its trees, for openings. Errors: `NotFound`; `WrongBatch`; as `audit`."""
        with self._read() as tx:
            known = [b for b in standing(tx.chain.batches(operator)) if b.number <= number]
            if not known or known[-1].number != number:
                raise NotFound(f"{operator} has no batch {number}", "number")
            ledger, fresh = _resume(tx, operator, known[:-1])
            for committed in fresh:
                ledger = self._right(tx.chain, ledger, committed)[1]
            return self._right(tx.chain, ledger, known[-1])[0]

    def _right(self, chain: ChainView, parent: Ledger, committed: CommittedBatch) -> tuple[Batch, Ledger]:
        """The batch and the ledger after it. Errors: `WrongBatch`."""
        verdict, batch = self._judge(chain, parent, committed)
        if batch is None:
            raise _wrong_batch(verdict)
        return batch, batch.after(verdict.header)

    def _judge(
        self, chain: ChainView, parent: Ledger, committed: CommittedBatch
    ) -> tuple[Verdict, Batch | None]:
        """The verdict, and the batch if it is right."""
        header = Header.from_chain(committed.header)
        try:
            _check("hash", committed.hash, header.hash)
            terms = _terms(chain, header)
            batch = self._rebuild(chain, parent, header, terms, self._receipts(header))
            final_at = max(parent.final_at, header.committed_at + terms.dispute_window)
            expected = batch.header(header.committed_at, final_at, header.data_digest)
            for name in HEADER_FIELDS:
                _check(name, getattr(expected, name), getattr(header, name))
        except _Wrong as wrong:
            return Verdict(header, wrong.finding), None
        return Verdict(header, None), batch

    def _receipts(self, header: Header) -> tuple[SignedReceipt, ...]:
        cid = cid_of(header.data_digest)
        try:
            # What somebody else published must not fill our memory.
            if self._blobs.names(cid).get(FILE_NAME, 0) > MAX_LINE * (header.receipts_count + 1):
                raise _Wrong(Finding("data_malformed", "the batch data is longer than its receipts can be"))
            name, receipts = decode(self._blobs.read(cid, FILE_NAME))
        except (ContentMissing, ContentCorrupt) as error:
            raise _Wrong(Finding("data_missing", f"the batch data {cid}: {error}")) from None
        except MalformedBatch as error:
            raise _Wrong(Finding("data_malformed", str(error))) from None
        here = BatchName(self._settlement.chain_id, self._settlement.contract, header.operator, header.number)
        _check("data_name", here, name)
        if not receipts:
            raise _Wrong(Finding("data_malformed", "the batch data has no receipt"))
        return receipts

    def _rebuild(
        self,
        chain: ChainView,
        parent: Ledger,
        header: Header,
        terms: ParameterSet,
        receipts: Sequence[SignedReceipt],
    ) -> Batch:
        """Errors: `_Wrong` naming the first receipt that is wrong, be it in itself or in its signature."""
        try:
            batch = build(header.operator, parent, terms, receipts, Rules(chain))
        except BadReceipt as bad:
            index: int = bad.details["index"]
            self._check_signatures(chain, header.operator, receipts[:index])
            raise _Wrong(_at(receipts, index, bad.param or "receipt", str(bad))) from None
        self._check_signatures(chain, header.operator, receipts)
        return batch

    def _check_signatures(
        self, chain: ChainView, operator: Account, receipts: Sequence[SignedReceipt]
    ) -> None:
        known = chain.operator(operator)
        keys = () if known is None else known.keys
        for index, signed in enumerate(receipts):
            try:
                signer = self._recover(self._settlement.receipt_digest(signed.receipt), signed.signature)
            except InvalidInput as error:
                raise _Wrong(_at(receipts, index, "signature", str(error))) from None
            if signer not in keys:
                text = f"{signer} is no receipt key of {operator}"
                raise _Wrong(_at(receipts, index, "signature", text))


def standing(batches: Sequence[CommittedBatch]) -> list[CommittedBatch]:
    """Those that were not voided, in order."""
    return [batch for batch in batches if batch.state is not BatchState.VOID]


def _resume(
    tx: MirrorTx, operator: Account, batches: list[CommittedBatch]
) -> tuple[Ledger, list[CommittedBatch]]:
    """The newest mirrored ledger of these batches, and those after it."""
    for known in range(len(batches), 0, -1):
        ledger = tx.batches.ledger(operator, batches[known - 1].hash)
        if ledger is not None:
            return ledger, batches[known:]
    return Ledger(), batches


def _terms(chain: ChainView, header: Header) -> ParameterSet:
    terms = chain.parameter_set(header.parameter_set)
    if terms is None:
        raise _Wrong(Finding("parameter_set", f"there is no parameter set {header.parameter_set}"))
    return terms


def _check(what: str, expected: Any, found: Any) -> None:
    if expected != found:
        raise _Wrong(Finding(what, f"{what} is {found}, it must be {expected}"))


def _at(receipts: Sequence[SignedReceipt], index: int, what: str, message: str) -> Finding:
    unit = sum(signed.receipt.charge for signed in receipts[:index])
    return Finding(what, f"receipt {index}: {message}", index, unit)


def _wrong_batch(verdict: Verdict) -> WrongBatch:
    header, finding = verdict.header, verdict.finding
    message = f"batch {header.number} of {header.operator} is wrong: {finding.message if finding else ''}"
    return WrongBatch(message, verdict=verdict)
