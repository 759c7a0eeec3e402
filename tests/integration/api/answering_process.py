"""Answers without end on the channel of a test's payer: `python answering_process.py FOLDER DATABASE_URL`.

A line on standard output names each receipt, once its caller was notified that it is durable. With `charges`
as third argument answers are charged first: a line `charge ID` names each charge, `receipt ID` each receipt
that was signed for it. At the same time another task signs overdue charges, as the settler does.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from backend.db.unit_of_work import Database
from backend.domain.hashing import attribution_hash, slices_hash, to_hash
from backend.domain.money import PPM
from backend.domain.receipt import Attributed, Slice
from backend.services.channels.admission import Bill, Payer
from backend.services.channels.charges import Charges, sign_overdue
from tests.support.scripted_installation import ScriptedInstallation

NUM_CLIENTS = 32
BOUND, CHARGE = 7, 5
FUNDS = 10**9
RECEIPT_SECONDS = 60
SETTLEMENT_SECONDS = 0.02


def main(folder: Path, url: str, *, charges_first: bool) -> None:
    installation = ScriptedInstallation(folder, Database.open(url))
    installation.fund(FUNDS)
    asyncio.run((charge_all if charges_first else answer_all)(installation))


async def answer_all(installation: ScriptedInstallation) -> None:
    await asyncio.gather(*(answer(installation) for _ in range(NUM_CLIENTS)))


async def charge_all(installation: ScriptedInstallation) -> None:
    charges = Charges(installation.db, installation.domain, lambda _: installation.receipt_key)
    clients = (charge_first(installation, charges) for _ in range(NUM_CLIENTS))
    await asyncio.gather(sign_due(installation), *clients)


async def answer(installation: ScriptedInstallation) -> None:
    payer = Payer(installation.payer.account)
    while True:
        reservation = await installation.admitting.reserve(payer, BOUND)
        stored = await installation.admitting.charge(payer, reservation, some_bill(installation))
        say(stored.id)


async def charge_first(installation: ScriptedInstallation, charges: Charges) -> None:
    payer = Payer(installation.payer.account)
    for number in itertools.count():
        reservation = await installation.admitting.reserve(payer, BOUND)
        bill = some_bill(installation)
        charge = await installation.admitting.charge_first(payer, reservation, bill, RECEIPT_SECONDS)
        say(f"charge {charge.id}")
        attributed = Attributed("gradient", bill.slices) if number % 2 else None
        receipt = await charges.sign(charge, attributed)
        if receipt is not None:
            say(f"receipt {receipt}")


async def sign_due(installation: ScriptedInstallation) -> None:
    """Sign all charges without a receipt, as the settler signs overdue ones. The clock is ahead, so that
    every charge is overdue.
    """
    now = int(installation.clock().timestamp()) + RECEIPT_SECONDS
    key = installation.receipt_key

    def sign() -> None:
        with installation.begin() as tx:
            sign_overdue(tx, installation.operator, installation.domain, lambda _: key, now)

    while True:
        await asyncio.to_thread(sign)
        await asyncio.sleep(SETTLEMENT_SECONDS)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def some_bill(installation: ScriptedInstallation) -> Bill:
    salt = to_hash(secrets.token_bytes(32))
    slices = (Slice(installation.base_version, PPM, ()),)
    return Bill(
        charge=CHARGE,
        request_hash=salt,
        response_hash=salt,
        slices=slices,
        slices_hash=slices_hash(slices),
        method="none",
        attribution_hash=attribution_hash("none", slices),
        prompt_tokens=1,
        completion_tokens=2,
        salt=salt,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], charges_first="charges" in sys.argv[3:])
