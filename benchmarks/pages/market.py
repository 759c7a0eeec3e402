"""Seeds an installation with many described adapters, their use, and a receipt. Its chain is events alone."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.db.tables.catalogue import VersionUsageRow
from backend.db.tables.chain import BatchRow
from backend.domain.catalogue import CHART_DAYS, Agreement, Card, Description
from backend.domain.earnings import ContributionEarning
from backend.domain.hashing import (
    receipt_id,
    response_bytes,
    salted_hash,
    to_bytes,
    version_id,
)
from backend.domain.money import PPM
from backend.domain.receipt import Share, SignedReceipt, Slice, own_record
from backend.domain.serving import NewReceipt
from benchmarks.api import chain_events, market
from benchmarks.pages import work
from tools.labels import some_account, some_hash, some_key
from tools.receipts import new_receipt

if TYPE_CHECKING:
    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account, ReceiptId
    from backend.domain.receipt import VersionRecord
    from backend.installation.installation import Installation

METHOD = "distilled-1"
NUM_CONTRIBUTORS = 7
NUM_OPERATORS, NUM_BATCHES = 200, 1000
DAY_SECONDS = 86_400
SUBJECTS = (
    ("docstrings", "Writes docstrings for Python functions in the style of the standard library."),
    ("sql-repair", "Repairs SQL that a database refused, and says what was wrong."),
    ("clinic-notes", "Turns dictated notes of a clinic into structured summaries."),
    ("tax-letters", "Explains letters of the tax office in plain German."),
    ("changelog", "Writes changelog entries from diffs, one line that a user understands."),
    ("chess-coach", "Comments on chess games move by move, for club players."),
    ("soil-reports", "Reads laboratory reports of soil and recommends fertiliser."),
    ("legal-latin", "Explains Latin terms of contracts, with the article of law that they stem from."),
    ("recipe-scale", "Scales recipes and converts measures without rounding away the salt."),
    ("log-triage", "Sorts log lines of Kubernetes clusters by what to look at first."),
)
LICENCES = ("MIT", "Apache-2.0", "CC-BY-4.0", "PSF-2.0 AND MIT")
CARD = """# {title}

{summary}

## Intended use

Short requests of one task each. Answers are not checked by anyone before you see them.

| setting | value |
| --- | --- |
| rank | 8 |
| epochs | 3 |

Evaluated on rows that were held out of training:

```python
loss = evaluate(model, held_out)
```
"""


@dataclass(frozen=True, slots=True)
class SeededPages:
    """Paths of the measured pages, by name, and the cookie of the account that reads them."""

    paths: dict[str, str]
    session: str


def seed(installation: Installation, num_adapters: int) -> SeededPages:
    """Register `num_adapters` adapters and the base model, describe them, and store one receipt."""
    base = own_record(installation.operator.account, some_hash("base"), "base", 200_000, 400_000)
    records = [_record(number) for number in range(num_adapters)]
    market.seed(installation, NUM_CONTRIBUTORS, records[0], base, *records[1:])
    with installation.database.begin() as tx:
        for number, record in enumerate(records):
            _describe(tx, number, record)
        _pay(tx, installation.operator.account, records)
        receipt = _answered(installation, tx, records[0])
        works = work.seed(installation, tx, records[0].snapshots[0])
        _add_operators(tx, installation.operator.account)
        session = work.session(installation, tx)
    adapter = f"/m/{records[0].creator}/{records[0].name}"
    paths = {"catalogue": "/", "adapter": adapter, "receipt": f"/r/{receipt}", "account": "/account"}
    settled = {"operators_of_many": "/operators", "batches_of_many": f"/o/{installation.operator.account}"}
    return SeededPages(paths | works | settled, session)


def _add_operators(tx: UnitOfWork, own: Account) -> None:
    """Register the installation's operator and others, and have batches of the first become final."""
    accounts = [own, *(some_account(f"operator {number}") for number in range(NUM_OPERATORS))]
    events: list[chain_events.Event] = [
        ("OperatorRegistry", "Staked", {"operator": account, "amount": 10**15}) for account in accounts
    ]
    for number in range(2, NUM_BATCHES + 2):
        events += chain_events.batch_committed(own, number)
    market.append_block(tx, events, 3)


def _pay(tx: UnitOfWork, operator: Account, records: list[VersionRecord]) -> None:
    """A batch that credits every contribution through every version."""
    batch, place = some_hash("batch 1"), {"block_number": 2, "log_index": 10**6}
    named = {"hash": batch, "operator": operator, "number": 1, "header": {}, "is_refunded": False}
    tx.session.add(BatchRow(**named, **place, tx_hash=some_hash("commit")))
    earned = []
    for number, record in enumerate(records):
        source, version = random.Random(number), version_id(record)  # noqa: S311
        for index in range(NUM_CONTRIBUTORS):
            account, amount = some_account(f"contributor {index}"), source.expovariate(1 / 2e11)
            earned.append(ContributionEarning(version, chain_events.DATANET, index, account, int(amount)))
    tx.contribution_totals.add(operator, 1, batch, earned, tx.chain.valid_among)


def _record(number: int) -> VersionRecord:
    subject, _ = SUBJECTS[number % len(SUBJECTS)]
    edition = number // len(SUBJECTS)
    name = subject if edition == 0 else f"{subject}-{edition + 1}"
    source = random.Random(number)  # noqa: S311 - a fixed seed, so that runs are comparable
    prompt = source.randrange(5, 60) * 10_000
    return replace(
        chain_events.version_record(name, NUM_CONTRIBUTORS),
        creator=some_account(f"creator {number % 23}"),
        prompt_price=prompt,
        completion_price=2 * prompt,
    )


def _describe(tx: UnitOfWork, number: int, record: VersionRecord) -> None:
    version, source = version_id(record), random.Random(number)  # noqa: S311
    subject, summary = SUBJECTS[number % len(SUBJECTS)]
    title = subject.replace("-", " ").capitalize()
    before = source.uniform(2.2, 3.1)
    metrics = {
        "eval_loss_base": before,
        "eval_loss_adapter": before - source.uniform(-0.05, 0.9),
        "general_loss_base": 2.914,
        "general_loss_adapter": 2.914 + source.uniform(-0.01, 0.06),
    }
    known = Description(
        licence=source.choice(LICENCES),
        parents=(),
        num_contributions=NUM_CONTRIBUTORS,
        licences=("MIT",),
        metrics={} if number % 7 == 5 else metrics,
    )
    tx.catalogue.describe(version, known, subject, datetime.now(UTC) + timedelta(days=1))
    card = Card(title, summary, (subject.partition("-")[0],), CARD.format(title=title, summary=summary))
    agreement = Agreement({METHOD: 0.83, "distilled-error-1": 0.78}, 64) if number % 3 == 0 else None
    tx.catalogue.put_card(version, card, summary.casefold(), agreement)
    today = int(time.time()) // DAY_SECONDS
    for day in range(today - CHART_DAYS + 1, today + 1):
        answers = int(source.expovariate(1 / (4 + 2000 / (number + 3))))
        tx.session.add(VersionUsageRow(version_id=version, day=day, num_answers=answers, last_sequence=0))


def _answered(installation: Installation, tx: UnitOfWork, record: VersionRecord) -> ReceiptId:
    """Store the receipt of one answer of 812 + 164 tokens."""
    shares = (310_000, 240_000, 180_000, 120_000, 90_000, 50_000, 10_000)
    shared = tuple(Share(position, ppm) for position, ppm in enumerate(shares))
    slices = (Slice(version_id(record), PPM, shared),)
    payer = some_account("payer 1")
    salt = some_hash("salt")
    hidden = to_bytes(salt)
    receipt = new_receipt(
        installation.counterparty.channel(payer),
        41_250_000_000,
        METHOD,
        slices,
        [record],
        (812, 164),
        request_hash=salted_hash(hidden, b"{}"),
        response_hash=salted_hash(hidden, response_bytes(["Hello."])),
        served_at=int(time.time()) - 90,
    )
    key = some_key("receipt key")
    signed = SignedReceipt(
        receipt, METHOD, slices, key.sign(installation.counterparty.receipts.receipt_digest(receipt))
    )
    identity = receipt_id(receipt)
    operator = installation.operator.account
    tx.receipts.add(NewReceipt(identity, operator, payer, signed, key.account, salt, None))
    return identity
