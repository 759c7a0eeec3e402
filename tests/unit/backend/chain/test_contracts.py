from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.chain.contracts import all_errors, decode_revert, interface
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.hashing import keccak, version_id
from backend.domain.ids import Account, Hash32, SnapshotId
from backend.domain.receipt import VersionRecord
from backend.domain.settlement import DISPUTE_FUNCTIONS

ACCOUNT = "0x" + "ab" * 20
RECORD = {
    "creator": ACCOUNT,
    "name": "0x" + b"legal".ljust(32, b"\0").hex(),
    "adapterDigest": "0x" + "02" * 32,
    "cidDigest": "0x" + "03" * 32,
    "baseModel": "0x" + "04" * 32,
    "snapshots": ["0x" + "05" * 32],
    "promptPrice": 1,
    "completionPrice": 2,
    "operatorPpm": 300_000,
    "creatorPpm": 100_000,
}


def test_structs_pass_as_dicts_and_as_tuples_and_integers_as_text() -> None:
    register = interface("AdapterRegistry").function("register", [RECORD])
    as_dict = register.encode([RECORD])
    assert as_dict == register.encode([tuple(RECORD.values())])
    assert as_dict == register.encode([RECORD | {"promptPrice": "1"}])
    assert register.decode_args(as_dict[4:]) == {"record": RECORD}


def test_version_ids_hash_the_abi_encoding() -> None:
    register = interface("AdapterRegistry").function("register", [RECORD])
    record = VersionRecord(
        creator=Account(ACCOUNT),
        name="legal",
        adapter_digest=Hash32("0x" + "02" * 32),
        cid_digest=Hash32("0x" + "03" * 32),
        base_model=Hash32("0x" + "04" * 32),
        snapshots=(SnapshotId(Hash32("0x" + "05" * 32)),),
        prompt_price=1,
        completion_price=2,
        operator_ppm=300_000,
        creator_ppm=100_000,
    )
    assert version_id(record) == "0x" + keccak(register.encode([RECORD])[4:]).hex()


@pytest.mark.parametrize(
    "args",
    [["no address", 1], [ACCOUNT, -1], [ACCOUNT, 1 << 256], [ACCOUNT, "x"], [ACCOUNT, None], [None, 1]],
)
def test_wrong_arguments_are_refused_with_the_signature(args: list[object]) -> None:
    with pytest.raises(InvalidInput, match=r"mint\(address,uint256\)"):
        interface("TestUSD").function("mint", args).encode(args)


def test_unknown_contracts_functions_and_counts_are_refused() -> None:
    with pytest.raises(NotFound, match="no ABI of a contract Nope"):
        interface("Nope")
    with pytest.raises(NotFound, match="TestUSD has no function nope"):
        interface("TestUSD").function("nope", [])
    with pytest.raises(InvalidInput, match="does not take 3 arguments"):
        interface("TestUSD").function("mint", [1, 2, 3])


def test_the_number_of_arguments_resolves_overloads() -> None:
    governor = interface("MarketGovernor")
    assert governor.function("quorumNumerator", []).signature == "quorumNumerator()"
    assert governor.function("quorumNumerator", [5]).signature == "quorumNumerator(uint256)"


def test_an_error_of_any_contract_is_decoded() -> None:
    known = next(e for e in all_errors().values() if e.name == "CapExceeded")
    data = known.encode(["0x" + "11" * 32, ACCOUNT, 5, 7])
    error = decode_revert("Settlement", "commit", data)
    assert error.error == "CapExceeded"
    assert error.args_by_name == {"channelId": "0x" + "11" * 32, "key": ACCOUNT, "cap": 5, "until": 7}
    assert "Settlement.commit reverted: CapExceeded" in error.message


@given(st.binary(max_size=80))
def test_unknown_revert_data_is_an_error_with_its_bytes(data: bytes) -> None:
    if data[:4] not in all_errors():
        error = decode_revert("A", "f", data, "the node's words")
        assert (error.error, error.details["data"]) == ("", "0x" + data.hex())
        assert "the node's words" in error.message


def test_revert_data_that_cannot_be_decoded_are_kept_as_they_are() -> None:
    known = next(e for e in all_errors().values() if e.name == "CapExceeded")
    error = decode_revert("Settlement", "commit", known.selector + b"\1")
    assert (error.error, error.details["data"]) == ("", "0x" + known.selector.hex() + "01")


def test_call_data_that_cannot_be_decoded_are_no_call() -> None:
    parameters = interface("Parameters")
    pause = parameters.function("pauseCommits", (1,))
    assert parameters.decode_call(pause.encode((1,))) == ("pauseCommits", {"duration": 1})
    assert parameters.decode_call(pause.selector + b"\1") is None
    assert parameters.decode_call(b"\0\0\0\0") is None
    relay = interface("MarketGovernor").function("relay", (ACCOUNT, 0, b""))
    huge = relay.selector + b"\xff" * 128
    assert interface("MarketGovernor").decode_call(huge) is None


def test_padding_may_have_any_value_as_in_solidity() -> None:
    relay = interface("MarketGovernor").function("relay", (ACCOUNT, 0, b"a"))
    data = relay.encode((ACCOUNT, 0, b"a"))
    assert relay.decode_args(data[4:-1] + b"\xff") == relay.decode_args(data[4:])


def test_invalid_utf8_is_decoded_with_replacements() -> None:
    event = next(e for e in interface("OperatorRegistry").events.values() if e.name == "EndpointChanged")
    data = (32).to_bytes(32, "big") + (3).to_bytes(32, "big") + b"\xff\x00a".ljust(32, b"\0")
    topics = [event.topic, bytes(12) + bytes.fromhex(ACCOUNT[2:])]
    assert event.decode_log(topics, data) == {"operator": ACCOUNT, "endpoint": "\ufffd\ufffda"}


def test_verbs_are_complete_and_match_their_selectors() -> None:
    disputes = interface("Disputes")
    selectors = {"0x" + disputes.selector(name).hex(): name for name in DISPUTE_FUNCTIONS.values()}
    assert selectors == DISPUTE_FUNCTIONS
    functions = (entry for entry in disputes.abi if entry["type"] == "function")
    calls = {entry["name"] for entry in functions if entry["stateMutability"] in {"nonpayable", "payable"}}
    assert calls - set(DISPUTE_FUNCTIONS.values()) == {
        "reserve",
        "demand",
        "answer",
        "answerReceipt",
        "returnBond",
        "withdrawCredit",
    }
