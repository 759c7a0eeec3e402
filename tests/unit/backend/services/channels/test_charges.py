"""Charges whose receipts are signed later: each interval has exactly one receipt."""

from __future__ import annotations

import asyncio
import itertools
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.chain.keys import recover
from backend.domain.attribution import DISTILLED_METHOD, GRADIENT_METHOD
from backend.domain.errors import Unavailable
from backend.domain.hashing import attribution_hash, charge_id, receipt_id, slices_hash, to_hash
from backend.domain.money import PPM
from backend.domain.receipt import Attributed, Share, Slice
from backend.services.channels.admission import Bill, Payer
from backend.services.channels.charges import Charges, sign_overdue
from backend.services.channels.ledger import ReservationLost
from tests.support.fakes import some_key
from tests.support.market import some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.serving import NewCharge, StoredReceipt

FUNDS, BOUND, SECONDS = 10**6, 50, 60
NUMBERS = itertools.count()
"""Salts make each request's hash its own."""
FALLBACK, GRADIENT = DISTILLED_METHOD, GRADIENT_METHOD


@pytest.fixture
def installation(tmp_path: Path, database: Database) -> ScriptedInstallation:
    """On SQLite and on PostgreSQL."""
    built = ScriptedInstallation(tmp_path, database)
    built.fund(FUNDS)
    return built


def slices(installation: ScriptedInstallation, *ppms: int) -> tuple[Slice, ...]:
    shares = tuple(Share(position, ppm) for position, ppm in enumerate(ppms) if ppm)
    return (Slice(installation.version, PPM, shares),)


def by_gradient(installation: ScriptedInstallation) -> Attributed:
    return Attributed(GRADIENT, slices(installation, 900_000, 100_000))


def bill(installation: ScriptedInstallation, amount: int) -> Bill:
    number = next(NUMBERS)
    parts = slices(installation, 500_000, 500_000)
    return Bill(
        charge=amount,
        request_hash=some_hash(f"request {number}"),
        response_hash=some_hash("response"),
        slices=parts,
        slices_hash=slices_hash(parts),
        method=FALLBACK,
        attribution_hash=attribution_hash(FALLBACK, parts),
        prompt_tokens=3,
        completion_tokens=4,
        salt=to_hash(number.to_bytes(32, "big")),
    )


async def charged(installation: ScriptedInstallation, amount: int = 5) -> NewCharge:
    payer = Payer(installation.payer.account)
    reservation = await installation.admitting.reserve(payer, max(BOUND, amount))
    return await installation.admitting.charge_first(payer, reservation, bill(installation, amount), SECONDS)


def signing(installation: ScriptedInstallation) -> Charges:
    return Charges(installation.db, installation.domain, lambda _: installation.receipt_key)


def overdue(installation: ScriptedInstallation) -> int:
    now = int(installation.clock().timestamp())
    with installation.begin() as tx:
        return sign_overdue(
            tx, installation.operator, installation.domain, lambda _: installation.receipt_key, now
        )


def receipts(installation: ScriptedInstallation) -> list[StoredReceipt]:
    """The payer's, in the order of their intervals."""
    with installation.read() as tx:
        found = tx.receipts.page(installation.payer.account, None, 10**6)
    return sorted(found, key=lambda stored: (stored.signed.receipt.cumulative, stored.sequence))


def settleable(installation: ScriptedInstallation) -> list[int]:
    with installation.read() as tx:
        return [s.receipt.cumulative for s in tx.receipts.unsettled(installation.channel, 0, 10**6)]


async def test_a_charge_says_all_but_the_attribution(
    installation: ScriptedInstallation,
) -> None:
    new = await charged(installation)
    charge = new.signed.charge
    assert new.id == charge_id(charge)
    signer = recover(installation.domain.charge_digest(charge), new.signed.signature)
    assert signer == new.signer == installation.receipt_key.account
    assert (charge.cumulative, charge.charge, charge.receipt_by) == (5, 5, charge.served_at + SECONDS)
    with installation.read() as tx:
        stored = tx.charges.get(new.id)
    assert stored is not None
    assert (stored.signed, stored.receipt, stored.attributed) == (new.signed, None, new.fallback)
    assert receipts(installation) == []


async def test_the_gradients_shares_become_the_receipt(installation: ScriptedInstallation) -> None:
    new = await charged(installation)
    number = await signing(installation).sign(new, by_gradient(installation))
    (stored,) = receipts(installation)
    assert (stored.id, stored.signed.method) == (number, GRADIENT)
    assert stored.signed.slices == by_gradient(installation).slices
    assert stored.signed.receipt == new.signed.charge.receipt(stored.signed.receipt.attribution_hash)
    digest = installation.domain.receipt_digest(stored.signed.receipt)
    assert recover(digest, stored.signed.signature) == installation.receipt_key.account
    with installation.read() as tx:
        by_charge, by_receipt = tx.charges.get(new.id), tx.charges.of_receipt(stored.id)
    assert by_charge == by_receipt
    assert by_charge is not None
    assert by_charge.receipt == number


async def test_without_shares_the_fallback_is_signed(installation: ScriptedInstallation) -> None:
    new = await charged(installation)
    await signing(installation).sign(new, None)
    (stored,) = receipts(installation)
    assert (stored.signed.method, stored.signed.slices) == (FALLBACK, new.fallback.slices)
    assert receipt_id(stored.signed.receipt) == stored.id


async def test_a_late_attribution_changes_nothing(installation: ScriptedInstallation) -> None:
    new = await charged(installation)
    installation.clock.pass_seconds(SECONDS)
    assert overdue(installation) == 1
    before = receipts(installation)
    assert await signing(installation).sign(new, by_gradient(installation)) is None
    assert receipts(installation) == before
    assert overdue(installation) == 0


async def test_of_two_attributions_one_is_signed(installation: ScriptedInstallation) -> None:
    new = await charged(installation)
    one, other = signing(installation), signing(installation)
    numbers = await asyncio.gather(one.sign(new, by_gradient(installation)), other.sign(new, None))
    (stored,) = receipts(installation)
    assert sorted(number is None for number in numbers) == [False, True]
    assert stored.id in numbers


async def test_nothing_is_overdue_before_its_time(installation: ScriptedInstallation) -> None:
    await charged(installation)
    installation.clock.pass_seconds(SECONDS - 1)
    assert overdue(installation) == 0
    assert receipts(installation) == []


async def test_an_attribution_of_other_versions_is_not_signed(installation: ScriptedInstallation) -> None:
    new = await charged(installation)
    other = Attributed(GRADIENT, (Slice(installation.base_version, PPM, ()),))
    with pytest.raises(ValueError, match="other versions"):
        await signing(installation).sign(new, other)
    assert receipts(installation) == []


async def test_a_signer_that_fails_leaves_the_charge_unsigned(installation: ScriptedInstallation) -> None:
    new = await charged(installation)

    def fail(_: object) -> None:
        raise Unavailable("no key")

    failing = Charges(installation.db, installation.domain, fail)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await failing.sign(new, None)
    assert receipts(installation) == []
    assert await signing(installation).sign(new, None) is not None


async def test_the_next_key_signs_what_a_retired_key_charged(installation: ScriptedInstallation) -> None:
    new = await charged(installation)
    old, installation.receipt_key = installation.receipt_key, some_key("next receipt key")
    await signing(installation).sign(new, None)
    (stored,) = receipts(installation)
    digest = installation.domain.receipt_digest(stored.signed.receipt)
    assert recover(digest, stored.signed.signature) == installation.receipt_key.account
    with installation.read() as tx:
        found = tx.charges.get(new.id)
        again = tx.receipts.signed_by_others(installation.operator, [installation.receipt_key.account])
        assert not again
    assert found is not None
    assert (
        recover(installation.domain.charge_digest(found.signed.charge), found.signed.signature) == old.account
    )


async def test_unsigned_receipts_are_not_signed_again(installation: ScriptedInstallation) -> None:
    await charged(installation)
    with installation.read() as tx:
        assert not tx.receipts.signed_by_others(installation.operator, [])


async def test_a_lost_reservation_charges_nothing(installation: ScriptedInstallation) -> None:
    payer = Payer(installation.payer.account)
    reservation = await installation.admitting.reserve(payer, BOUND)
    await installation.admitting.release(reservation)
    with pytest.raises(ReservationLost):
        await installation.admitting.charge_first(payer, reservation, bill(installation, 5), SECONDS)
    with installation.read() as tx:
        assert tx.channels.charged([installation.channel])[installation.channel] == 0


async def test_settlement_waits_for_the_first_unsigned_charge(installation: ScriptedInstallation) -> None:
    first, second, third = [await charged(installation) for _ in range(3)]
    charges = signing(installation)
    await charges.sign(second, by_gradient(installation))
    await charges.sign(third, None)
    assert settleable(installation) == []
    with installation.read() as tx:
        assert tx.receipts.backlogs(installation.operator) == []
    await charges.sign(first, None)
    assert settleable(installation) == [5, 10, 15]


async def test_what_is_charged_is_used_and_unsettled_at_once(
    installation: ScriptedInstallation,
) -> None:
    new = await charged(installation)
    day = new.signed.charge.served_at
    with installation.read() as tx:
        (usage,) = tx.receipts.usage(installation.payer.account, day, day + 1)
        figures = tx.figures(installation.operator, installation.clock())
    assert (usage.spend, usage.num_answers, usage.prompt_tokens) == (5, 1, 3)
    assert (figures.unsettled_units, figures.unsettled.count) == (5, 1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "charge", "gradient", "fallback", "overdue", "settle"]), st.integers(0, 9)
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_interval_has_one_receipt_that_never_changes(
    sqlite_database: Database, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_run(ScriptedInstallation(tmp_path_factory.mktemp("run"), sqlite_database), steps))


async def _run(installation: ScriptedInstallation, steps: list[tuple[str, int]]) -> None:
    installation.fund(FUNDS)
    with installation.read() as tx:
        start = tx.channels.charged([installation.channel]).get(installation.channel, 0)
    new: list[NewCharge] = []
    signed: dict[str, str] = {}
    batch, total = 1, 0
    for step, choice in steps:
        if step in {"answer", "charge"}:
            total += choice
        if step == "charge":
            new.append(await charged(installation, choice))
        elif step == "answer":
            payer = Payer(installation.payer.account)
            reservation = await installation.admitting.reserve(payer, BOUND)
            await installation.admitting.charge(payer, reservation, bill(installation, choice))
        elif step in {"gradient", "fallback"} and new:
            found = by_gradient(installation) if step == "gradient" else None
            await signing(installation).sign(new[choice % len(new)], found)
        elif step == "overdue":
            installation.clock.pass_seconds(choice * 20)
            overdue(installation)
        elif step == "settle":
            with installation.begin() as tx:
                prefix = tx.receipts.unsettled(installation.channel, start, choice + 1)
                tx.receipts.assign(installation.operator, batch, [receipt_id(s.receipt) for s in prefix])
        for stored in receipts(installation):
            assert signed.setdefault(stored.id, stored.signed.signature) == stored.signed.signature
    installation.clock.pass_seconds(SECONDS)
    overdue(installation)
    _check_line(installation, start, start + total)


def _check_line(installation: ScriptedInstallation, start: int, end: int) -> None:
    """The receipts cover all that was charged, without gaps or overlaps; what is settled is a prefix."""
    found = [s for s in receipts(installation) if s.signed.receipt.cumulative > start]
    found = [stored for stored in found if stored.signed.receipt.charge]
    edges = [start, *(stored.signed.receipt.cumulative for stored in found)]
    assert [after - before for before, after in pairwise(edges)] == [s.signed.receipt.charge for s in found]
    assert edges[-1] == end
    with installation.read() as tx:
        assert tx.channels.charged([installation.channel]).get(installation.channel, 0) == end
    is_settled = [stored.batch is not None for stored in found]
    assert is_settled == sorted(is_settled, reverse=True)
