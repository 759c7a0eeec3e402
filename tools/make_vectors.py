"""Writes `tests/vectors/*.json`, which Solidity and Python tests both read; `--check` only compares.

Each file is an array of flat objects: bytes and addresses as 0x-hex, integers as decimal strings. Names are
those of docs/protocol.md. `backend.domain` computes the values; tests compare them with independent encoders.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain import hashing
from backend.domain.batch import HEADER_FIELDS, Header, Span, spans_hash
from backend.domain.hashing import TypedDomain, keccak, to_bytes
from backend.domain.ids import (
    ZERO_ACCOUNT,
    ChannelId,
    DatanetId,
    Hash32,
    SnapshotId,
    VersionId,
)
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, SumTree, resolve
from backend.domain.money import PPM
from backend.domain.receipt import Charge, Receipt, Share, Slice, VersionRecord
from backend.domain.split import slice_charges, split
from backend.domain.voucher import ChannelMove, Voucher
from tools import dispute_vectors, worked_example
from tools.cases import Case, case
from tools.labels import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "vectors"
U128 = (1 << 128) - 1


def fields_of(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in type(item).__slots__}


SESSION = {"channel_id": some_hash("channel"), "key": some_account("session key")}
DOMAINS = [TypedDomain(chain, some_account(f"contract {chain}")) for chain in (1, 31337)]


def typed(item: Any, digest: str, domain: TypedDomain) -> Case:
    return {
        **case(chain_id=domain.chain_id, contract=domain.contract, **fields_of(item)),
        **case(digest=getattr(domain, digest)(item)),
    }


def declared(declaration: str, domain: TypedDomain, **values: int | str) -> Case:
    """A message with these fields, in the order of its declaration, and its digest."""
    digest = domain.typed_digest(declaration, *values.values())
    return case(chain_id=domain.chain_id, contract=domain.contract, **values, digest=digest)


def channels() -> Iterable[Case]:
    for n in range(3):
        payer, operator, collector = (
            some_account(f"{role} {n}") for role in ("payer", "operator", "collector")
        )
        channel = hashing.channel_id(payer, operator, collector)
        yield case(payer=payer, operator=operator, collector=collector, channel_id=channel)


def record(num_snapshots: int) -> VersionRecord:
    return VersionRecord(
        creator=some_account("creator"),
        name="docstrings-of-numpy" if num_snapshots else "base",
        adapter_digest=some_hash("adapter"),
        cid_digest=some_hash("folder"),
        base_model=some_hash("base model"),
        snapshots=tuple(SnapshotId(some_hash(f"snapshot {n}")) for n in range(num_snapshots)),
        prompt_price=1_500_000,
        completion_price=(1 << 64) - 1,
        operator_ppm=200_000,
        creator_ppm=300_000,
    )


def versions() -> Iterable[Case]:
    for count in (0, 1, 2, 4):
        version = record(count)
        named = {**fields_of(version), "name": hashing.ascii_word(version.name)}
        yield case(**named, version_id=hashing.version_id(version))


def snapshots() -> Iterable[Case]:
    for datanet, count in ((1, 1), (2, 255), (3, 256), (9, 600)):
        bits = [i % 3 != 1 for i in range(count)]
        accepted = hashing.accepted_hash(bits)
        yield case(
            datanet_id=datanet,
            count=count,
            accepted=hashing.accepted_words(bits),
            accepted_hash=accepted,
            snapshot_id=hashing.snapshot_id(DatanetId(datanet), count, accepted),
        )


def shares_of(count: int) -> tuple[Share, ...]:
    """Equal shares, the first with the remainder; positions have gaps, the last are in a second snapshot."""
    if not count:
        return ()
    part = PPM // count
    first = Share(2, part + PPM - part * count)
    rest = (Share(3 * i + 2 + (1 << 24) * (2 * i >= count), part) for i in range(1, count))
    return (first, *rest)


def slices_of(counts: tuple[int, ...]) -> tuple[Slice, ...]:
    weights = [PPM // len(counts)] * len(counts)
    weights[-1] += PPM - sum(weights)
    return tuple(
        Slice(VersionId(some_hash(f"version {n}")), weight, shares_of(count))
        for n, (count, weight) in enumerate(zip(counts, weights, strict=True))
    )


def attributions() -> Iterable[Case]:
    for counts in ((0,), (1,), (3, 0), (2, 256, 7)):
        slices = slices_of(counts)
        yield case(
            method=hashing.ascii_word("hidden-cosine-1"),
            version_ids=[s.version_id for s in slices],
            weights_ppm=[s.weight_ppm for s in slices],
            lists=[hashing.pack_list(s.shares) for s in slices],
            slices_hash=hashing.slices_hash(slices),
            attribution_hash=hashing.attribution_hash("hidden-cosine-1", slices),
        )


def receipt(cumulative: int, charge: int) -> Receipt:
    slices = slices_of((3, 0))
    return Receipt(
        channel_id=ChannelId(some_hash("channel")),
        cumulative=cumulative,
        charge=charge,
        request_hash=hashing.salted_hash(bytes(32), b'{"model": "base"}'),
        response_hash=hashing.salted_hash(bytes(range(32)), hashing.response_bytes(["Paris.", "Übung"])),
        slices_hash=hashing.slices_hash(slices),
        prompt_tokens=17,
        completion_tokens=(1 << 32) - 1,
        attribution_hash=hashing.attribution_hash("hidden-cosine-1", slices),
        served_at=1_790_000_000,
    )


def receipts() -> Iterable[Case]:
    for item, domain in zip((receipt(7_000, 7_000), receipt(U128, 1)), DOMAINS, strict=True):
        yield {**typed(item, "receipt_digest", domain), **case(receipt_id=hashing.receipt_id(item))}


def signed_charges() -> Iterable[Case]:
    for item, domain in zip((receipt(7_000, 7_000), receipt(U128, 1)), DOMAINS, strict=True):
        shared = {name: value for name, value in fields_of(item).items() if name != "attribution_hash"}
        charge = Charge(**shared, receipt_by=1_790_000_600)
        yield {**typed(charge, "charge_digest", domain), **case(charge_id=hashing.charge_id(charge))}


def vouchers() -> Iterable[Case]:
    for start, most, domain in ((0, 5_000_000, DOMAINS[0]), (U128 - 1, U128, DOMAINS[1])):
        voucher = Voucher(ChannelId(some_hash("channel")), start, most)
        fields = typed(voucher, "voucher_digest", domain)
        yield {"from": fields.pop("waivedUntil"), **fields}


def grants() -> Iterable[Case]:
    for nonce, domain in enumerate(DOMAINS):
        limits = {"cap": U128 - nonce, "expiry": 1_800_000_000, "nonce": nonce}
        yield declared(hashing.GRANT_TYPE, domain, **SESSION, **limits)


def revocations() -> Iterable[Case]:
    for nonce, domain in enumerate(DOMAINS):
        yield declared(hashing.REVOCATION_TYPE, domain, **SESSION, nonce=nonce)


def moves() -> Iterable[Case]:
    for nonce, (key, domain) in enumerate(
        zip((ZERO_ACCOUNT, some_account("session key")), DOMAINS, strict=True)
    ):
        move = ChannelMove(
            payer=some_account("payer"),
            operator=some_account("operator"),
            collector=some_account("collector"),
            new_collector=some_account("new collector"),
            max_amount=U128 - nonce,
            key=key,
            cap=nonce * 5_000_000,
            expiry=nonce * 1_800_000_000,
            nonce=nonce,
            deadline=1_790_000_000,
        )
        yield typed(move, "move_digest", domain)


def contributions() -> Iterable[Case]:
    for nonce, (licence, domain) in enumerate(
        zip(("MIT", "MIT OR Apache-2.0 OR BSD-3-Clause"), DOMAINS, strict=True)
    ):
        values: dict[str, Any] = {
            "content_hash": some_hash("content"),
            "cid_digest": some_hash("folder"),
            "licence": hashing.licence_word(licence),
            "rows": 1_234,
            "nonce": nonce,
            "deadline": 1_790_000_000,
        }
        account = some_account("contributor")
        digest = domain.contribution_digest(account, DatanetId(7), **values)
        subject = case(account=account, datanet_id=7, digest=digest)
        named = {**case(chain_id=domain.chain_id, contract=domain.contract), **subject}
        yield {**named, **case(**values)}


def payouts() -> Iterable[Case]:
    for nonce, domain in enumerate(DOMAINS):
        account, wallet, deadline = some_account("account"), some_account("wallet"), 1_790_000_000
        digest = domain.typed_digest(hashing.PAYOUT_TYPE, account, wallet, nonce, deadline)
        named = case(chain_id=domain.chain_id, contract=domain.contract, account=account, digest=digest)
        yield {**named, **case(new_wallet=wallet, nonce=nonce, deadline=deadline)}


def receipt_keys() -> Iterable[Case]:
    for domain in DOMAINS:
        operator = some_account("operator")
        named = case(chain_id=domain.chain_id, contract=domain.contract, operator=operator)
        yield {**named, **case(digest=domain.receipt_key_digest(operator))}


def charges() -> Iterable[Case]:
    for weight, prompt, completion in ((PPM, 12, 34), (333_333, 1, 1), (1, (1 << 32) - 1, (1 << 32) - 1)):
        version = record(1)
        (charge,) = slice_charges(
            [Slice(VersionId(some_hash("v")), weight, ())], [version], prompt, completion
        )
        yield case(
            weight_ppm=weight,
            prompt_tokens=prompt,
            completion_tokens=completion,
            prompt_price=version.prompt_price,
            completion_price=version.completion_price,
            charge=charge,
        )


def splits() -> Iterable[Case]:
    uneven = (Share(0, 300_000), Share(5, 350_000), Share(9, 350_000))
    lists = [(), shares_of(1), shares_of(3), shares_of(256), uneven]
    for n, shares in enumerate(lists):
        for charge in (1, 999, 10_000_019, U128 // PPM):
            fee_ppm, operator_ppm, creator_ppm = 50_000 * n, 200_000, 123_457
            parts = split(charge, fee_ppm, operator_ppm, creator_ppm, shares)
            yield case(
                charge=charge,
                fee_ppm=fee_ppm,
                operator_ppm=operator_ppm,
                creator_ppm=creator_ppm,
                list=hashing.pack_list(shares),
                fee=parts.fee,
                operator=parts.operator,
                creator=parts.creator,
                contributors=sum(parts.contributors),
                parts=parts.contributors,
            )


def openings() -> Iterable[Case]:
    tags = (RECEIPTS_TAG, ENTRIES_TAG, BALANCES_TAG)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 70):
        tag = tags[count % 3]
        leaves = [(keccak(b"leaf %d" % i), i * i * 1_000 + 1) for i in range(count)]
        tree = SumTree(tag, leaves)
        for index in range(count) if count < 10 else {0, count // 2, count - 2, count - 1}:
            opening = tree.open(index)
            opened = resolve(tag, leaves[index][0], count, opening)
            yield case(
                tag=tag,
                key=leaves[index][0],
                count=count,
                index=index,
                value=opening.value,
                path=opening.path,
                root=opened.root,
                sum=opened.total,
                prefix=opened.prefix,
            )


def batches() -> Iterable[Case]:
    first = Header(
        operator=some_account("operator"),
        number=1,
        parent=Hash32("0x" + "00" * 32),
        parameter_set=0,
        committed_at=1_790_000_000,
        final_at=1_790_000_600,
        final_block=20_000_037,
        total=U128 // 3,
        cumulative_total=U128 // 3,
        slash_up_to=U128 // 5,
        spans_hash=some_hash(""),
        receipts_root=some_hash("receipts"),
        receipts_count=10_000,
        entries_root=some_hash("entries"),
        entries_count=670_000,
        balances_root=some_hash("balances"),
        balances_count=68,
        data_digest=some_hash("data"),
    )
    for number in range(1, 4):
        spans = [Span(ChannelId(some_hash(f"channel {n}")), n, 2 * n, U128 - n) for n in range(number)]
        header = replace(first, number=number, spans_hash=spans_hash(spans))
        yield case(
            **{name: getattr(header, name) for name in HEADER_FIELDS},
            spans=b"".join(to_bytes(s.channel_id) + _words16(s.before, s.start, s.until) for s in spans),
            batch_hash=header.hash,
        )


def disputes() -> Iterable[Case]:
    yield from dispute_vectors.demands()
    yield from dispute_vectors.lookups()
    yield from dispute_vectors.calls(receipt(7_000, 7_000), record(2), shares_of(3))


def example() -> Iterable[Case]:
    yield from worked_example.cases()


def _words16(*values: int) -> bytes:
    return b"".join(value.to_bytes(16, "big") for value in values)


SUBJECTS = (
    channels,
    versions,
    snapshots,
    attributions,
    receipts,
    signed_charges,
    vouchers,
    grants,
    revocations,
    moves,
    contributions,
    payouts,
    receipt_keys,
    charges,
    splits,
    openings,
    batches,
    disputes,
    example,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    is_check = parser.parse_args().check
    stale = []
    for subject in SUBJECTS:
        path = OUT / f"{subject.__name__}.json"
        text = json.dumps(list(subject()), indent=1) + "\n"
        if is_check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not is_check:
            path.write_text(text)
    if stale:
        print(f"stale: {', '.join(stale)}; run python -m tools.make_vectors", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
