"""Reserves and charges the payment of jobs, in the database transaction that changes the job.

The maximum charge is reserved on the creator's channel when the job is created, charged when its adapter is
published, and released if the job ends otherwise.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, PaymentRequired, Unavailable
from backend.domain.hashing import (
    attribution_hash,
    response_bytes,
    salted_hash,
    slices_hash,
    to_hash,
    version_id,
)
from backend.domain.money import AMOUNT, PPM
from backend.domain.receipt import Slice
from backend.domain.serving import Reservation
from backend.domain.training import Payment
from backend.domain.training_payment import (
    MAX_RECEIPT_TOKENS,
    charged_tokens,
    max_charged_tokens,
    request_bytes,
    training_record,
)
from backend.services.channels.admission import Bill, Payer
from backend.services.channels.balance import channel_balance, latest_time
from backend.services.channels.ledger import ChannelLedger, lacks
from backend.services.train.options import InvalidConfig
from backend.services.train.parents import require_version
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.catalogue import BaseModel
    from backend.domain.ids import Hash32, SnapshotId
    from backend.domain.receipt import VersionRecord
    from backend.domain.training import TrainingConfig, TrainingJob, TrainingResult
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Signer
    from backend.services.channels.admission import Counterparty

METHOD = "none"
"""Training pays no contributors; the adapter's answers do."""


class TrainingNotOffered(Unavailable):
    """The version record by which this operator sells training is not confirmed on the chain."""


class NotTrained(InvalidInput):
    """The operator trains no adapters of this base model."""


class PaymentWithdrawn(PaymentRequired):
    """The job's channel no longer covers its reservation."""


class Payments:
    """`bases` are those that the operator serves, with the prices of training. `receipt_key` returns the key
    in use by a view of the chain. It is called only to charge: processes that only create or queue jobs have
    no key.
    """

    def __init__(
        self,
        counterparty: Counterparty,
        bases: Sequence[BaseModel],
        receipt_key: Callable[[ChainView], Signer],
        max_lag_seconds: int,
    ) -> None:
        self._counterparty = counterparty
        self._bases = {base.digest: base for base in bases}
        self._records = {base.digest: _record(base) for base in bases if base.training_price is not None}
        self._receipt_key = receipt_key
        self._max_lag_seconds = max_lag_seconds

    def base_of(self, chain: ChainView, config: TrainingConfig, base: Hash32 | None) -> Hash32:
        """Digest of the base model that a job trains: `base`, else its parent's, else the first that is
        trained.

        Errors: `NotTrained`, `NotFound` for the parent.
        """
        if base is None and config.parent is not None:
            base = require_version(chain, config.parent).base_model
        if base is None:
            base = next(iter(self._records or self._bases))
        if base not in self._records:
            named = self._bases[base].name if base in self._bases else base
            offered = ", ".join(self._bases[each].name for each in self._records) or "none"
            raise NotTrained(f"This operator does not train {named}; it trains: {offered}.", param="model")
        return base

    def price(self, base: Hash32) -> int:
        """Token units per million charged tokens, of a base model from `base_of`."""
        record = self._records[base]
        return 0 if record is None else record.prompt_price

    def check_registered(self, chain: ChainView) -> None:
        """Errors: `TrainingNotOffered` until the chain has the records of all base models."""
        for record in self._records.values():
            _check_registered(chain, record)

    def reserve(self, tx: UnitOfWork, job: TrainingJob, now: datetime) -> TrainingJob:
        """Reserve the maximum charge on the creator's channel; return the job with its payment.

        Errors: `InvalidConfig` for more tokens than fit into a receipt, `TrainingNotOffered`, those of
        `base_of` and `Admission.reserve`.
        """
        record = self._records[self.base_of(tx.chain, job.config, job.base)]
        if record is None:
            return job
        channel = self._counterparty.channel(job.creator)
        _check_registered(tx.chain, record)
        max_tokens = _max_charged_tokens(tx.chain, job.snapshot_id, job.config)
        payment = Payment(channel, version_id(record), record.prompt_price, max_tokens)
        tx.channels.lock(channel)
        ledger = ChannelLedger.load(tx, [channel], [], now)
        ledger.check(channel, None, payment.max_charge, self._max_lag_seconds)
        ledger.reserve(_reservation(job.id, payment))
        ledger.write(tx)
        return replace(job, payment=payment)

    def charge(self, tx: UnitOfWork, job: TrainingJob, now: datetime) -> TrainingJob:
        """Charge for the trained adapter; return the job with its receipt. To be called once per job.

        Errors: `PaymentWithdrawn`.
        """
        payment = job.payment
        if payment is None:
            return job
        tx.channels.lock(payment.channel_id)
        if (error := uncovered_charge(tx, job, now)) is not None:
            raise error
        ledger = ChannelLedger.load(tx, [payment.channel_id], [], now)
        reservation, bill = _reservation(job.id, payment), _bill(job, payment)
        payer, key, trace = Payer(job.creator), self._receipt_key(tx.chain), traces.current_traceparent()
        receipt = self._counterparty.issue_receipt(ledger, payer, reservation, bill, key, trace)
        ledger.write(tx)
        data = {"receipt_id": receipt.id, "tokens": bill.prompt_tokens, "charge": str(bill.charge)}
        tx.training.add_event(job.id, "charged", data, now)
        return replace(job, payment=replace(payment, receipt_id=receipt.id))


def _record(base: BaseModel) -> VersionRecord | None:
    """The record by which training is sold; None if it is free."""
    price = base.training_price
    return training_record(base.creator, base.digest, price) if price else None


def _check_registered(chain: ChainView, record: VersionRecord | None) -> None:
    if record is not None and chain.version(version := version_id(record)) is None:
        message = "The record by which this operator sells training is not confirmed yet; try again later."
        raise TrainingNotOffered(message, details={"version_id": version})


def release(tx: UnitOfWork, job: TrainingJob) -> None:
    """Release the job's reservation, if any."""
    if job.payment is not None:
        tx.channels.lock(job.payment.channel_id)
        tx.channels.drop_reservations([_reservation(job.id, job.payment).id])


def uncovered_payment(tx: UnitOfWork, job: TrainingJob, now: datetime) -> PaymentWithdrawn | None:
    """The reason not to start training, if the channel no longer covers the job's reservation."""
    if job.payment is None:
        return None
    missing = channel_balance(tx, job.payment.channel_id, now).missing(0)
    return _withdrawn(missing, "what was reserved when the job was created") if missing else None


def uncovered_charge(tx: UnitOfWork, job: TrainingJob, now: datetime) -> PaymentWithdrawn | None:
    """The reason not to go on, if the channel no longer holds the job's charge: until it is trained, the most
    that this can be. What still thaws counts: it can be collected until then.
    """
    if job.payment is None:
        return None
    balance = channel_balance(tx, job.payment.channel_id, now)
    channel = tx.chain.channel(job.payment.channel_id)
    if channel is not None and channel.thawed_at > latest_time(tx.chain.cursor(), now).timestamp():
        balance = replace(balance, thawing=0)
    charge = job.payment.max_charge if job.result is None else _trained(job)[1] * job.payment.price
    lack = balance.charged + charge - balance.funded
    return _withdrawn({"balance": lack}, "the job's charge") if lack > 0 else None


def _withdrawn(missing: Mapping[str, int], use: str) -> PaymentWithdrawn:
    details = {name: AMOUNT.render(lack) for name, lack in missing.items()}
    message = f"the channel lacks {lacks(missing)} for {use}: add it and create the job again"
    return PaymentWithdrawn(message, details={"missing": details})


def _max_charged_tokens(chain: ChainView, snapshot_id: SnapshotId, config: TrainingConfig) -> int:
    num_rows = stated_rows(chain, snapshot_id)
    most = max_charged_tokens(config, num_rows)
    if most > MAX_RECEIPT_TOKENS:
        least = max_charged_tokens(replace(config, steps=1), num_rows)  # a step costs as much as an epoch
        name = "max_length" if least > MAX_RECEIPT_TOKENS else "steps" if config.steps else "epochs"
        message = f"the job may be charged for {most} tokens, more than the {MAX_RECEIPT_TOKENS} of a receipt"
        raise InvalidConfig(f"{message}: lower {name}", param=name)
    return most


def stated_rows(chain: ChainView, snapshot_id: SnapshotId) -> int:
    """Rows of the accepted contributions, as stated on the chain."""
    snapshot = chain.snapshot(snapshot_id)
    if snapshot is None:
        return 0
    accepted = set(snapshot.accepted)
    return sum(c.num_rows for c in chain.contributions(snapshot.datanet) if c.index in accepted)


def _reservation(job_id: str, payment: Payment) -> Reservation:
    """A reservation without expiry: the end of the job releases it."""
    number = job_id.removeprefix("ftjob-")
    return Reservation(number, payment.channel_id, None, payment.max_charge, None)


def _trained(job: TrainingJob) -> tuple[TrainingResult, int]:
    """(the job's result, the tokens that it is charged for)."""
    tokens = charged_tokens(job)
    if job.result is None or tokens is None:
        raise ValueError(f"{job.id} has not been trained")
    return job.result, tokens


def _bill(job: TrainingJob, payment: Payment) -> Bill:
    result, tokens = _trained(job)
    slices = (Slice(payment.version_id, PPM, ()),)
    salt = secrets.token_bytes(32)
    return Bill(
        charge=tokens * payment.price,
        request_hash=salted_hash(salt, request_bytes(job)),
        response_hash=salted_hash(salt, response_bytes([result.adapter_digest])),
        slices=slices,
        slices_hash=slices_hash(slices),
        method=METHOD,
        attribution_hash=attribution_hash(METHOD, slices),
        prompt_tokens=tokens,
        completion_tokens=0,
        salt=to_hash(salt),
    )
