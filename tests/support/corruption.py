"""Corruptions of a batch by a dishonest operator. Sums stay consistent, so that only the content is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backend.domain.hashing import attribution_hash, slices_hash
from backend.domain.ids import VersionId
from backend.domain.money import PPM
from backend.domain.receipt import Share, Slice
from tests.support.dishonest_operator import random_root
from tests.support.market import METHOD, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from backend.domain.receipt import SignedReceipt
    from tests.support.batch_factory import BatchFactory
    from tests.support.dishonest_operator import Draft, Leaves

    Corruption = Callable[[Random, Draft, BatchFactory], None]

# --- leaves of entries or balances; `step` is the distance to the next account


def move_value(random: Random, leaves: Leaves, step: int) -> None:
    """Move value from one leaf to another."""
    if len(leaves) < 2:
        return
    poor, rich = random.sample(range(len(leaves)), 2)
    amount = random.randint(min(1, leaves[poor][1]), leaves[poor][1])
    give(leaves, poor, -amount)
    give(leaves, rich, amount)


def add_spare(random: Random, leaves: Leaves, step: int) -> None:
    """Add a surplus leaf, financed by a shortfall of another one."""
    payer = max(range(len(leaves)), key=lambda i: leaves[i][1])
    amount = random.randint(min(1, leaves[payer][1]), leaves[payer][1])
    give(leaves, payer, -amount)
    leaves.append((random.randrange(step << 160), amount))
    leaves.sort()


def rename(random: Random, leaves: Leaves, step: int) -> None:
    """Give a leaf the key of the next account."""
    place = random.randrange(len(leaves))
    key, value = leaves[place]
    leaves[place] = (key + step, value)


def drop(random: Random, leaves: Leaves, step: int) -> None:
    """Drop a leaf and add its value to another."""
    if len(leaves) < 2:
        return
    _, value = leaves.pop(random.randrange(len(leaves)))
    give(leaves, random.randrange(len(leaves)), value)


def swap(random: Random, leaves: Leaves, step: int) -> None:
    if len(leaves) < 2:
        return
    place = random.randrange(len(leaves) - 1)
    leaves[place : place + 2] = leaves[place : place + 2][::-1]


def repeat(random: Random, leaves: Leaves, step: int) -> None:
    """Split a leaf into two with the same key."""
    place = random.randrange(len(leaves))
    key, value = leaves[place]
    part = random.randint(0, value)
    leaves[place : place + 1] = [(key, part), (key, value - part)]


def add_nothing(random: Random, leaves: Leaves, step: int) -> None:
    """Add a leaf of value zero, in key order."""
    leaves.append((random.randrange(step << 160), 0))
    leaves.sort()


def take_all(random: Random, leaves: Leaves, step: int) -> None:
    key, total = leaves[random.randrange(len(leaves))][0], sum(value for _, value in leaves)
    leaves[:] = [(key + random.choice([0, step]), total)]


def give(leaves: Leaves, place: int, amount: int) -> None:
    key, value = leaves[place]
    leaves[place] = (key, value + amount)


LEAVES = (move_value, add_spare, rename, drop, swap, repeat, add_nothing, take_all)


def of_entries(change: Callable[[Random, Leaves, int], None]) -> Corruption:
    return lambda random, draft, _: change(random, draft.entries, 1 << 64)


def of_balances(change: Callable[[Random, Leaves, int], None]) -> Corruption:
    return lambda random, draft, _: change(random, draft.balances, 1)


# --- header fields that contradict the trees


def wrong_root(name: str) -> Corruption:
    def change(random: Random, draft: Draft, factory: BatchFactory) -> None:
        draft.fields[f"{name}_root"] = random_root(f"{random.random()}")

    return change


def wrong_count(name: str) -> Corruption:
    def change(random: Random, draft: Draft, factory: BatchFactory) -> None:
        count = draft.trees()[name].count
        draft.fields[f"{name}_count"] = max(count + random.choice([-1, 1, 1000]), 1)

    return change


# --- receipts


def put(draft: Draft, index: int, signed: SignedReceipt) -> None:
    draft.receipts[index] = signed
    draft.values[index] = signed.receipt.charge
    draft.published = list(draft.receipts)


def overcharge(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Charge more for one answer and less for another of the same channel."""
    if len(draft.receipts) < 2:
        return
    index = random.randrange(len(draft.receipts) - 1)
    first, second = (draft.receipts[i] for i in (index, index + 1))
    if second.receipt.charge == 0:
        return
    amount = random.randint(1, second.receipt.charge)
    more = replace(
        first.receipt,
        charge=first.receipt.charge + amount,
        cumulative=first.receipt.cumulative + amount,
    )
    less = replace(second.receipt, charge=second.receipt.charge - amount)
    put(draft, index, factory.signed(more, first.slices))
    put(draft, index + 1, factory.signed(less, second.slices))


def reprice(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Change the token counts without changing the charge."""
    index = random.randrange(len(draft.receipts))
    signed = draft.receipts[index]
    changed = replace(signed.receipt, prompt_tokens=signed.receipt.prompt_tokens + 10_000_000)
    put(draft, index, factory.signed(changed, signed.slices))


def displace(random: Random, draft: Draft, factory: BatchFactory) -> None:
    index = random.randrange(len(draft.receipts))
    signed = draft.receipts[index]
    by = random.choice([-1, 1, 10**9])
    changed = replace(signed.receipt, cumulative=max(signed.receipt.cumulative + by, 0))
    put(draft, index, factory.signed(changed, signed.slices))


def divert(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Move a receipt to a channel from which the batch does not collect."""
    index = random.randrange(len(draft.receipts))
    signed = draft.receipts[index]
    changed = replace(signed.receipt, channel_id=some_hash(f"{random.random()}"))
    put(draft, index, factory.signed(changed, signed.slices))


def straddle(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """One receipt over the border of two spans: the last of the first and the first of the second."""
    borders = [
        i
        for i in range(len(draft.receipts) - 1)
        if draft.receipts[i].receipt.channel_id != draft.receipts[i + 1].receipt.channel_id
        and draft.receipts[i + 1].receipt.charge
    ]
    if not borders:
        return
    index = random.choice(borders)
    amount = 1
    for place, more in ((index, amount), (index + 1, -amount)):
        signed = draft.receipts[place]
        end = amount if place == index else 0
        changed = replace(
            signed.receipt,
            charge=signed.receipt.charge + more,
            cumulative=signed.receipt.cumulative + end,
        )
        put(draft, place, factory.signed(changed, signed.slices))


def exchange(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Swap two receipts."""
    if len(draft.receipts) < 2:
        return
    index = random.randrange(len(draft.receipts) - 1)
    first, second = draft.receipts[index : index + 2]
    put(draft, index, second)
    put(draft, index + 1, first)


def list_twice(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Replace a receipt by a copy of another."""
    if len(draft.receipts) < 2:
        return
    one, other = random.sample(range(len(draft.receipts)), 2)
    value = draft.values[one]
    put(draft, one, draft.receipts[other])
    draft.values[one] = value


def misvalue(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Commit leaves whose values differ from their receipts' charges."""
    if len(draft.receipts) < 2:
        return
    one, other = random.sample(range(len(draft.receipts)), 2)
    draft.values[one] += draft.values[other]
    draft.values[other] = 0


def unsign(random: Random, draft: Draft, factory: BatchFactory) -> None:
    index = random.randrange(len(draft.receipts))
    put(draft, index, replace(draft.receipts[index], signature="0x" + "11" * 65))


def add_free(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Add a receipt with charge zero."""
    index = random.randrange(len(draft.receipts))
    signed = draft.receipts[index]
    free = factory.signed(replace(signed.receipt, charge=0), signed.slices)
    draft.receipts.insert(index + 1, free)
    draft.values.insert(index + 1, 0)
    draft.published = list(draft.receipts)


def with_slices(draft: Draft, index: int, factory: BatchFactory, slices: tuple[Slice, ...]) -> None:
    """Recompute the hashes, so that only the slices are wrong."""
    hashes = {"slices_hash": slices_hash(slices), "attribution_hash": attribution_hash(METHOD, slices)}
    put(draft, index, factory.signed(replace(draft.receipts[index].receipt, **hashes), slices))


def spoil_slices(random: Random, draft: Draft, factory: BatchFactory) -> None:
    index = random.randrange(len(draft.receipts))
    slices = draft.receipts[index].slices
    if not slices:
        return
    first = slices[0]
    variants = (
        (replace(first, weight_ppm=first.weight_ppm - 1), *slices[1:]),
        (*slices, replace(first, weight_ppm=0)),
        (),
        (replace(first, weight_ppm=PPM - 4),) + (replace(first, weight_ppm=1),) * 4,
        (replace(first, version_id=VersionId(some_hash("unregistered"))), *slices[1:]),
    )
    with_slices(draft, index, factory, random.choice(variants))


def spoil_list(random: Random, draft: Draft, factory: BatchFactory) -> None:
    index = random.randrange(len(draft.receipts))
    slices = list(draft.receipts[index].slices)
    if not slices:
        return
    place = random.randrange(len(slices))
    shares = slices[place].shares
    variants: list[tuple[Share, ...]] = [(Share(0, PPM - 1),), (Share(0, 0), Share(1, PPM))]
    variants += [(Share(1, 500_000), Share(0, 500_000)), (Share(0, 500_000),) * 2]
    too_many = (*(Share(i, 1) for i in range(256)), Share(256, PPM - 256))
    variants += [(Share(3 << 24, PPM),), too_many]
    variants += [()] if shares else []
    slices[place] = replace(slices[place], shares=random.choice(variants))
    with_slices(draft, index, factory, tuple(slices))


def falsify(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Attribute to a position that the snapshot does not include: a rejected or missing contribution."""
    index = random.randrange(len(draft.receipts))
    slices = list(draft.receipts[index].slices)
    for place, slice_ in enumerate(slices):
        record = factory.version(slice_.version_id)
        if record is None or not record.snapshots:
            continue
        known = factory.snapshots[record.snapshots[0]]
        outside = [i for i in range(known.count + 2) if i not in known.accepted]
        slices[place] = replace(slice_, shares=(Share(random.choice(outside), PPM),))
        with_slices(draft, index, factory, tuple(slices))
        return


def hide(random: Random, draft: Draft, factory: BatchFactory) -> None:
    """Commit to a hash whose preimage is withheld."""
    index = random.randrange(len(draft.receipts))
    signed = draft.receipts[index]
    name = random.choice(["slices_hash", "attribution_hash"])
    put(draft, index, factory.signed(replace(signed.receipt, **{name: some_hash("hidden")}), signed.slices))


RECEIPTS = (
    overcharge,
    reprice,
    displace,
    divert,
    straddle,
    exchange,
    list_twice,
    misvalue,
    unsign,
    add_free,
    spoil_slices,
    spoil_list,
    falsify,
    hide,
)
HEADERS = tuple(
    make(name) for make in (wrong_root, wrong_count) for name in ("receipts", "entries", "balances")
)
ALL: dict[str, Corruption] = (
    {f"entries: {one.__name__}": of_entries(one) for one in LEAVES}
    | {f"balances: {one.__name__}": of_balances(one) for one in LEAVES}
    | {f"receipts: {one.__name__}": one for one in RECEIPTS}
    | {f"header: {n}": one for n, one in enumerate(HEADERS)}
)


# --- what is published


def publish_as_committed(draft: Draft, honest: list[SignedReceipt]) -> None:
    draft.published = list(draft.receipts)


def publish_nothing(draft: Draft, honest: list[SignedReceipt]) -> None:
    draft.published = None


def publish_honestly(draft: Draft, honest: list[SignedReceipt]) -> None:
    """Publish the data of the honest batch."""
    draft.published = list(honest)


PUBLISHING = (publish_as_committed, publish_nothing, publish_honestly)
