"""Pricing of training, which is paid by receipts on a training record of the operator."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from backend.domain.receipt import TRAINING_NAME, own_record

if TYPE_CHECKING:
    from backend.domain.ids import Account, Hash32
    from backend.domain.receipt import VersionRecord
    from backend.domain.training import TrainingConfig, TrainingJob

MAX_RECEIPT_TOKENS = (1 << 32) - 1
"""Highest token count of a receipt (uint32)."""


def training_record(operator: Account, base_model: Hash32, price: int) -> VersionRecord:
    """The record by which an operator sells training on a base model, at `price` per million tokens."""
    return own_record(operator, base_model, TRAINING_NAME, price, 0)


def charged_tokens(job: TrainingJob) -> int | None:
    """Tokens that the job is charged for: those that go through the model in training, with or without loss,
    and at least those of one epoch, because evaluation and attribution index read every row once. None until
    it is trained, and for an imported adapter.

    Results of earlier releases count the tokens with loss alone. Jobs that earlier releases created may have
    reserved less than an epoch, and no job is charged more than it reserved.
    """
    metrics = {} if job.result is None else job.result.metrics
    counted = metrics.get("num_charged_tokens", metrics.get("num_trained_tokens"))
    if counted is None:
        return None
    return int(counted) if job.payment is None else min(int(counted), job.payment.max_tokens)


def max_charged_tokens(config: TrainingConfig, num_rows: int) -> int:
    """Upper bound of the tokens that a job on `num_rows` rows of any content is charged for.

    Fewer usable rows never give more sequences, and an epoch has no more sequences than rows.
    """
    num_steps = config.steps or max(1, round(config.epochs * -(-num_rows // config.batch_size)))
    num_sequences = num_steps * min(config.batch_size, num_rows)
    if not config.steps:
        num_sequences = min(num_sequences, math.ceil(config.epochs) * num_rows)
    return max(num_sequences, num_rows) * config.max_length


def request_bytes(job: TrainingJob) -> bytes:
    """The request that the receipt's request hash covers: JSON with sorted keys and no spaces."""
    request = {"hyperparameters": asdict(job.config), "id": job.id, "snapshot_id": job.snapshot_id}
    return json.dumps(request, sort_keys=True, separators=(",", ":")).encode()
