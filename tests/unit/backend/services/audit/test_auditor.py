from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from backend.db.tables.settlement import LedgerRow
from backend.domain.batch import Header, camel_case, tree_of_receipts
from backend.domain.batch_data import FILE_NAME, BatchName, decode, encode
from backend.domain.content import cid_digest, cid_of
from backend.domain.disputes.proofs import BadReceiptProof, holds
from backend.domain.disputes.witnesses import Tree
from backend.domain.errors import Unavailable
from backend.domain.hashing import to_hash
from backend.domain.ids import ZERO_HASH
from backend.domain.settlement import BatchState
from backend.services.audit.auditor import Auditor, Verdict, WrongBatch
from backend.services.audit.background import BackgroundAudits
from backend.services.audit.cases import Cases
from backend.services.audit.published import BatchTooLarge
from backend.services.background import Background
from tests.support.chain_view import batches_read
from tests.support.market import CHAIN_ID, Key, in_order, recover
from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.judging.case import Finding
    from backend.domain.receipt import SignedReceipt
    from backend.services.audit.published import BatchReceipts


@pytest.fixture(scope="module")
def settled_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SettlementHarness]:
    """Two valid batches; tests replace the second."""
    harness = SettlementHarness(tmp_path_factory.mktemp("settlement"))
    for count in (3, 4):
        for _ in range(count):
            harness.serve()
        harness.settler().run_once(is_forced=True)
        harness.mine()
    yield harness
    harness.database.close()


@pytest.fixture
def harness(settled_harness: SettlementHarness) -> Iterator[SettlementHarness]:
    honest = list(settled_harness.chain.committed)
    yield settled_harness
    settled_harness.chain.committed[:] = honest


def verdicts(harness: SettlementHarness) -> list[Verdict]:
    return list(harness.auditor().audit(harness.market.operator))


def put_header(harness: SettlementHarness, header: dict[str, Any]) -> None:
    batch_hash = Header.from_chain(header).hash
    harness.chain.committed[1] = replace(harness.chain.committed[1], header=header, hash=batch_hash)


def put_data(harness: SettlementHarness, data: bytes) -> None:
    """Replace the published data of the second batch."""
    cid = harness.blobs.add_folder({FILE_NAME: data})
    put_header(harness, dict(harness.chain.committed[1].header) | {"dataDigest": cid_digest(cid)})


def data_of(harness: SettlementHarness) -> bytes:
    return harness.blobs.read(cid_of(harness.chain.committed[1].header["dataDigest"]), FILE_NAME)


def finding(harness: SettlementHarness) -> Finding:
    found = verdicts(harness)
    assert found[0].is_right
    assert found[1].finding is not None
    return found[1].finding


def test_right_batches_are_found_right_with_their_sums(harness: SettlementHarness) -> None:
    found = verdicts(harness)
    assert [v.header.number for v in found] == [1, 2]
    assert all(v.is_right for v in found)
    assert found[1].header.cumulative_total == sum(harness.market.cumulative.values())


def put_field(harness: SettlementHarness, name: str) -> None:
    header = dict(harness.chain.committed[1].header)
    field = camel_case(name)
    header[field] = header[field] + 1 if isinstance(header[field], int) else header[field][:-2] + "00"
    put_header(harness, header)


@pytest.mark.parametrize("part", ["root", "count"])
@pytest.mark.parametrize("tree", [Tree.RECEIPTS, Tree.ENTRIES, Tree.BALANCES])
def test_a_tree_that_is_not_what_the_data_make_is_found_with_what_to_demand(
    harness: SettlementHarness, tree: Tree, part: str
) -> None:
    put_field(harness, f"{tree.name.lower()}_{part}")
    verdict = verdicts(harness)[1]
    assert verdict.finding is not None
    assert verdict.finding.what == f"{tree.name.lower()}_{part}"
    assert verdict.proof is None
    assert {of for of, _ in verdict.demands} == {tree}


@pytest.mark.parametrize("name", ["committed_at", "final_at"])
def test_header_fields_computed_by_the_contract_are_not_disputed(
    harness: SettlementHarness, name: str
) -> None:
    put_field(harness, name)
    assert verdicts(harness)[1].is_right


def test_data_of_another_operator_or_number_are_withheld_data(harness: SettlementHarness) -> None:
    put_field(harness, "number")
    found = verdicts(harness)[1]
    assert found.finding is not None
    assert found.finding.what == "data_name"
    assert found.demands == ((Tree.RECEIPTS, tuple(range(found.header.receipts_count))),)


def test_a_header_that_does_not_hash_to_its_batch_is_found(harness: SettlementHarness) -> None:
    harness.chain.committed[1] = replace(harness.chain.committed[1], hash=ZERO_HASH)
    assert finding(harness).what == "hash"


def test_missing_data_is_found(harness: SettlementHarness) -> None:
    put_header(harness, dict(harness.chain.committed[1].header) | {"dataDigest": "0x" + "11" * 32})
    assert finding(harness).what == "data_missing"


def test_data_of_another_batch_is_found(harness: SettlementHarness) -> None:
    put_header(
        harness,
        dict(harness.chain.committed[1].header)
        | {"dataDigest": harness.chain.committed[0].header["dataDigest"]},
    )
    assert finding(harness).what == "data_name"


def test_data_that_no_such_batch_can_have_is_not_even_read(harness: SettlementHarness) -> None:
    put_data(harness, b"x" * 20_000 * 6)
    assert "larger than" in finding(harness).message


def test_data_without_receipts_is_found(harness: SettlementHarness) -> None:
    put_data(harness, data_of(harness).splitlines(keepends=True)[0])
    assert finding(harness).what == "data_malformed"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_the_data_is_found(harness: SettlementHarness, data: st.DataObject) -> None:
    honest = list(harness.chain.committed)
    changed = bytearray(data_of(harness))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    put_data(harness, bytes(changed))
    assert not verdicts(harness)[1].is_right
    harness.chain.committed[:] = honest


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str):
        yield path
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(item, (*path, key))


def corrupt(value: Any, path: tuple[Any, ...]) -> None:
    *parents, last = path
    for key in parents:
        value = value[key]
    text = value[last]
    value[last] = str(int(text) + 1) if text.isdecimal() else text[:-1] + ("1" if text[-1] == "0" else "0")


def test_every_single_corrupted_field_is_found_in_its_receipt(harness: SettlementHarness) -> None:
    honest = list(harness.chain.committed)
    lines = [json.loads(line) for line in data_of(harness).splitlines()]
    tried = 0
    for number, fields in enumerate(lines[1:], 1):
        for path in leaves(fields):
            changed = json.loads(json.dumps(lines))
            corrupt(changed[number], path)
            text = "".join(json.dumps(x, sort_keys=True, separators=(",", ":")) + "\n" for x in changed)
            put_data(harness, text.encode())
            found = finding(harness)
            is_displaced = "channelId" in path or "cumulative" in path
            if found.what != "data_malformed" and not is_displaced:
                assert found.receipt == number - 1, (path, found)
            harness.chain.committed[:] = honest
            tried += 1
    assert tried > 40


@pytest.mark.parametrize("change", ["dropped", "doubled", "swapped"])
def test_dropped_doubled_and_swapped_receipts_are_found(harness: SettlementHarness, change: str) -> None:
    first, *lines = data_of(harness).splitlines(keepends=True)
    changed = {
        "dropped": [lines[:i] + lines[i + 1 :] for i in range(len(lines))],
        "doubled": [[*lines[: i + 1], *lines[i:]] for i in range(len(lines))],
        "swapped": [[*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]] for i in range(len(lines) - 1)],
    }
    honest = list(harness.chain.committed)
    for variant in changed[change]:
        put_data(harness, b"".join([first, *variant]))
        assert not verdicts(harness)[1].is_right
        harness.chain.committed[:] = honest


def recommit(harness: SettlementHarness, receipts: list[SignedReceipt]) -> None:
    """Commit the second batch again, as software that accepts these receipts would."""
    header = dict(harness.chain.committed[1].header)
    header["receiptsRoot"] = to_hash(tree_of_receipts(receipts).root)
    put_header(harness, header)
    put_data(
        harness, encode(BatchName(CHAIN_ID, harness.market.settlement, harness.market.operator, 2), receipts)
    )


def test_a_receipt_that_no_key_of_the_operator_signed_is_demanded(harness: SettlementHarness) -> None:
    _, receipts = decode(data_of(harness))
    forged = Key("another key").sign(harness.market.domain.receipt_digest(receipts[2].receipt))
    recommit(harness, [*receipts[:2], replace(receipts[2], signature=forged), *receipts[3:]])
    found, unit = finding(harness), sum(signed.receipt.charge for signed in receipts[:2])
    assert (found.what, found.receipt, found.unit) == ("signature", 2, unit)
    assert verdicts(harness)[1].demands == ((Tree.RECEIPTS, (2,)),)


def test_the_first_wrong_receipt_is_named_with_its_first_unit_and_its_proof(
    harness: SettlementHarness,
) -> None:
    _, receipts = decode(data_of(harness))
    altered = [replace(s, receipt=replace(s.receipt, prompt_tokens=99)) for s in receipts]
    recommit(harness, [receipts[0], *altered[1:]])
    verdict, unit = verdicts(harness)[1], receipts[0].receipt.charge
    assert verdict.finding is not None
    assert (verdict.finding.what, verdict.finding.receipt, verdict.finding.unit) == ("charge", 1, unit)
    assert isinstance(verdict.proof, BadReceiptProof)
    assert verdict.proof.witness.receipt == altered[1].receipt
    assert holds(verdict.proof, harness.market)  # type: ignore[arg-type]


def test_a_receipt_of_a_version_registered_after_the_commit_is_wrong(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = verdicts(harness)[1].header.committed_at + 1
    used = decode(data_of(harness))[1][-1].slices[0].version_id
    known = harness.market.registered_at
    monkeypatch.setattr(harness.market, "registered_at", lambda v: late if v == used else known(v))
    # The first batch was committed by then too; its verdict does not matter here.
    found = next(v for v in verdicts(harness) if not v.is_right)
    assert found.finding is not None
    assert found.finding.what == "version_id"
    assert isinstance(found.proof, BadReceiptProof)


def test_batches_after_a_wrong_one_are_not_judged(harness: SettlementHarness) -> None:
    header = dict(harness.chain.committed[0].header) | {"entriesCount": 1}
    harness.chain.committed[0] = replace(
        harness.chain.committed[0], header=header, hash=Header.from_chain(header).hash
    )
    (only,) = verdicts(harness)
    assert only.finding is not None


def test_the_audit_needs_no_receipt_of_this_installation(harness: SettlementHarness, tmp_path: Any) -> None:
    other = SettlementHarness(tmp_path)
    other.chain, other.blobs = harness.chain, harness.blobs
    assert all(v.is_right for v in other.auditor().audit(harness.market.operator))
    ledger = other.auditor().follow(harness.market.operator)
    assert sum(ledger.balances.values()) == ledger.cumulative_total
    other.database.close()


def test_following_judges_only_what_is_new(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = harness.market.operator
    ledger = harness.auditor().follow(operator)
    auditor = harness.auditor()
    auditor._cases = None  # no data is read again
    read = batches_read(harness.chain, monkeypatch)
    assert auditor.follow(operator) == ledger
    with harness.read() as tx:
        assert auditor.is_current(tx, operator)
    assert set(read) == {2}, "the newest alone"


def test_following_stops_at_a_wrong_batch_with_its_verdict(harness: SettlementHarness, tmp_path: Any) -> None:
    put_header(harness, dict(harness.chain.committed[1].header) | {"balancesCount": 1})
    other = SettlementHarness(tmp_path)
    other.chain, other.blobs = harness.chain, harness.blobs
    with pytest.raises(WrongBatch) as caught:
        other.auditor().follow(harness.market.operator)
    assert caught.value.verdict is not None
    assert caught.value.verdict.header.number == 2
    with other.begin() as tx:
        assert tx.batches.ledger(harness.market.operator, harness.chain.committed[0].hash) is not None
    other.database.close()


def test_the_order_of_a_batch_is_that_of_channel_and_line(harness: SettlementHarness) -> None:
    _, receipts = decode(data_of(harness))
    assert list(receipts) == in_order(receipts)


@pytest.mark.parametrize("is_void", [False, True])
def test_a_batch_is_judged_as_it_is_when_its_data_was_read(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch, *, is_void: bool
) -> None:
    """While its data is read, a batch can become final, and accounts claim from it; or it becomes void."""
    operator, committed = harness.market.operator, harness.chain.committed
    earner, earned = max(harness.auditor().follow(operator).balances.items(), key=lambda item: item[1])
    auditor = harness.auditor()
    receipts = auditor._cases.receipts

    def read(header: Header) -> BatchReceipts:
        if header.number == 1 and is_void:
            committed[:] = [replace(batch, state=BatchState.VOID) for batch in committed]
        elif header.number == 1:
            monkeypatch.setattr(harness.chain, "final", 2)
            monkeypatch.setattr(harness.chain, "claimed", lambda _: {earner: earned})
        return receipts(header)

    monkeypatch.setattr(auditor._cases, "receipts", read)
    if is_void:
        with pytest.raises(Unavailable, match="became invalid"):
            list(auditor.audit(operator))
    else:
        assert all(verdict.is_right for verdict in auditor.audit(operator))


def test_a_batch_that_takes_more_memory_than_there_is_fails_its_own_audit_alone(
    harness: SettlementHarness,
) -> None:
    with harness.begin() as tx:
        tx.session.execute(delete(LedgerRow))
    first = harness.chain.committed[0]
    size = len(harness.blobs.read(cid_of(first.header["dataDigest"]), FILE_NAME))
    cases = Cases(harness.chain, harness.blobs, recover, harness.market.domain, max_judged=size)
    auditor = Auditor(harness.db, cases)
    right, large = auditor.audit(harness.market.operator)
    assert right.is_right
    assert (large.finding and large.finding.what, large.proof, large.demands) == ("too_large", None, ())
    failed = BackgroundAudits(harness.db, auditor, Background()).follow([harness.market.operator])
    assert isinstance(failed[harness.market.operator], BatchTooLarge)
    assert auditor.batch(harness.market.operator, 1).number == 1
