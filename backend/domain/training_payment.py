"""What training costs. It is paid as answers are: by receipts, on a record of the operator that sells it."""

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

MOST_RECEIPT_TOKENS = (1 << 32) - 1
"""What a receipt has room for."""


def training_record(operator: Account, base_model: Hash32, price: int) -> VersionRecord:
    """What this operator sells training on this base model by."""
    return own_record(operator, base_model, TRAINING_NAME, price, 0)


def most_tokens(config: TrainingConfig, num_rows: int) -> int:
    """The most that such a job can train on so many rows, whatever is in them. Nothing predicts the first
    token of a place in a step, and fewer usable rows are never more places.
    """
    num_steps = config.steps or max(1, round(config.epochs * -(-num_rows // config.batch_size)))
    num_places = num_steps * min(config.batch_size, num_rows)
    if not config.steps:
        num_places = min(num_places, math.ceil(config.epochs) * num_rows)
    return num_places * (config.max_length - 1)


def request_bytes(job: TrainingJob) -> bytes:
    """What the request hash of its receipt is of: JSON with sorted keys and no spaces."""
    asked = {"hyperparameters": asdict(job.config), "id": job.id, "snapshot_id": job.snapshot_id}
    return json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
