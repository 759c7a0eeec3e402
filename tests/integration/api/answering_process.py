"""Answers without end on the channel of a test's payer: `python answering_process.py FOLDER DATABASE_URL`.

A line on standard output names each receipt, once its caller was notified that it is durable. With `charges`
as third argument answers are charged first: a line `charge ID` names each charge, `receipt ID` each receipt.
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
from backend.services.channels.charges import Charges
from tests.support.scripted_installation import ScriptedInstallation

NUM_CLIENTS = 32
BOUND, CHARGE = 7, 5
FUNDS = 10**9
RECEIPT_SECONDS = 60


def main(folder: Path, url: str, *, charges_first: bool) -> None:
    installation = ScriptedInstallation(folder, Database.open(url))
    installation.fund(FUNDS)
    payer = Payer(installation.payer.account)
    charges = Charges(installation.db, installation.domain, lambda _: installation.receipt_key)

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    async def client() -> None:
        while True:
            reservation = await installation.admitting.reserve(payer, BOUND)
            stored = await installation.admitting.charge(payer, reservation, some_bill(installation))
            say(stored.id)

    async def charged_first() -> None:
        for number in itertools.count():
            reservation = await installation.admitting.reserve(payer, BOUND)
            bill = some_bill(installation)
            charge = await installation.admitting.charge_first(payer, reservation, bill, RECEIPT_SECONDS)
            say(f"charge {charge.id}")
            attributed = Attributed("gradient", bill.slices) if number % 2 else None
            say(f"receipt {await charges.sign(charge, attributed)}")

    async def clients() -> None:
        run = charged_first if charges_first else client
        await asyncio.gather(*(run() for _ in range(NUM_CLIENTS)))

    asyncio.run(clients())


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
