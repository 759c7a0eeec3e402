from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import rlp
from eth_account import Account as EthAccount
from hypothesis import given
from hypothesis import strategies as st

from backend.chain.client import ARBITRUM_PROFILE, ChainClient
from backend.chain.contracts import all_errors, interface
from backend.chain.keys import LocalSigner
from backend.chain.node import Fees, TxReceipt
from backend.chain.rpc import RpcError
from backend.chain.transactions import (
    TX_GAS_CAP,
    NotRun,
    UnsignedTransaction,
    call_error,
    current_gas_price,
    error_fields,
    failure_of,
    raised,
    replacement_fees,
    sign,
)
from backend.deployment.profiles import ARBITRUM, ETHEREUM
from backend.domain.chain import Reverted
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.hashing import keccak, to_bytes, to_hash
from backend.domain.transactions import SIGNED_CALL_GAS_CAP, SIGNED_CALLS
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.ids import Account

KEY = b"\x01" * 32
SIGNER = LocalSigner(KEY)
FEES = st.builds(Fees, st.integers(0, 10**13), st.integers(0, 10**12))
TRANSACTIONS = st.builds(
    UnsignedTransaction,
    chain_id=st.integers(1, 1 << 32),
    nonce=st.integers(0, 1 << 32),
    to=st.none() | st.just(some_account("receiver")),
    data=st.binary(max_size=100),
    gas=st.integers(21_000, 1 << 24),
    fees=FEES,
    value=st.integers(0, 1 << 90),
)


def signed_by_library(transaction: UnsignedTransaction) -> Any:
    to = b"" if transaction.to is None else to_bytes(transaction.to)
    fields = {
        "type": 2,
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "to": to,
        "value": transaction.value,
        "data": transaction.data,
        "gas": transaction.gas,
        "maxFeePerGas": transaction.fees.max_fee,
        "maxPriorityFeePerGas": transaction.fees.priority_fee,
    }
    return EthAccount.sign_transaction(fields, KEY)


@given(TRANSACTIONS)
def test_a_signed_transaction_recovers_to_its_signer(transaction: UnsignedTransaction) -> None:
    signed = sign(SIGNER, transaction)
    assert EthAccount.recover_transaction(signed.raw).lower() == SIGNER.account
    assert signed.hash == to_hash(keccak(to_bytes(signed.raw)))


@given(TRANSACTIONS)
def test_signing_gives_the_bytes_that_eth_account_gives(transaction: UnsignedTransaction) -> None:
    expected, signed = signed_by_library(transaction), sign(SIGNER, transaction)
    assert (signed.raw, signed.hash) == ("0x" + expected.raw_transaction.hex(), "0x" + expected.hash.hex())


def test_what_reaches_the_signer_is_the_unsigned_transaction() -> None:
    class RemoteSigner:
        account: Account = SIGNER.account
        messages: tuple[bytes, ...] = ()

        def sign_message(self, message: bytes) -> str:
            self.messages += (message,)
            return SIGNER.sign_message(message)

    signer = RemoteSigner()
    sign(signer, UnsignedTransaction(1, 0, some_account("receiver"), b"\1\2", 50_000, Fees(3, 1)))
    (message,) = signer.messages
    assert message[0] == 2
    assert rlp.decode(message[1:])[7:] == [b"\1\2", []]


@given(FEES)
def test_a_replacement_pays_an_eighth_more_than_pools_ask_for(fees: Fees) -> None:
    higher = raised(fees)
    for old, new in ((fees.max_fee, higher.max_fee), (fees.priority_fee, higher.priority_fee)):
        assert new > old  # geth: higher, also where a tenth of the fee is nothing
        assert new * 10 >= old * 11  # and by at least a tenth
        assert old * 9 <= new * 8 < max(old * 9, 1) + 8  # an eighth, rounded up


@given(FEES, FEES)
def test_a_replacement_covers_both_the_raise_and_the_suggestion(previous: Fees, suggested: Fees) -> None:
    fees, least = replacement_fees(previous, suggested), raised(previous)
    assert fees.max_fee == max(least.max_fee, suggested.max_fee)
    assert fees.priority_fee == max(least.priority_fee, suggested.priority_fee)


def test_the_first_version_of_a_transaction_pays_the_suggestion() -> None:
    assert replacement_fees(Fees(0, 0), Fees(7, 2)) == Fees(7, 2)


@given(st.integers(0, 10**13), st.integers(0, 10**12))
def test_the_gas_price_is_base_fee_plus_tip(base_fee: int, tip: int) -> None:
    assert current_gas_price(Fees(2 * base_fee + tip, tip)) == base_fee + tip


def rpc_error(message: str, data: str | None = None) -> RpcError:
    return RpcError("eth_call", {"message": message} | ({} if data is None else {"data": data}))


def test_revert_data_becomes_the_custom_error() -> None:
    entry = next(e for e in all_errors().values() if e.name == "AccessManagedUnauthorized")
    data = "0x" + entry.encode([some_account("caller")]).hex()
    error = call_error("Parameters", "append", rpc_error("execution reverted", data))
    assert isinstance(error, Reverted)
    assert (error.error, error.args_by_name) == (entry.name, {"caller": some_account("caller")})


def test_a_node_that_cannot_run_a_call_is_unavailable() -> None:
    error = call_error("Parameters", "append", rpc_error("missing trie node"))
    assert isinstance(error, NotRun)
    assert error.code == Unavailable("").code
    assert "Parameters.append: missing trie node" in error.message


TX_RECEIPT = TxReceipt(some_hash("tx"), 50, some_hash("block"), False, None, gas_used=80_000)


def fails_at(*blocks: int) -> Callable[[int], object]:
    def simulate(block: int) -> object:
        if block in blocks:
            raise Reverted(f"reverted on block {block}", error="Failing")
        return b""

    return simulate


@pytest.mark.parametrize(
    ("blocks", "message"), [((50, 49), "on block 50"), ((50,), "on block 50"), ((49,), "on block 49")]
)
def test_a_failure_is_explained_by_its_own_block_first(blocks: tuple[int, ...], message: str) -> None:
    failure = failure_of(TX_RECEIPT, 100_000, fails_at(*blocks))
    assert failure.error == "Failing"
    assert message in failure.message


def test_a_failure_that_used_all_its_gas_ran_out_of_it() -> None:
    failure = failure_of(replace(TX_RECEIPT, gas_used=100_000), 100_000, fails_at())
    assert error_fields(failure) == {
        "error": "OutOfGas",
        "message": "all of 100000 gas was used",
        "args": {},
    }


def test_a_failure_that_cannot_be_reproduced_says_so() -> None:
    fields = error_fields(failure_of(TX_RECEIPT, 100_000, fails_at()))
    assert fields["error"] == "Reverted"
    assert "succeeds now" in fields["message"]


def test_a_failure_in_a_block_without_a_state_has_no_reason() -> None:
    def lacks_state(block: int) -> object:
        raise NotRun(f"missing trie node of block {block}")

    assert "not known: missing trie node of block 49" in failure_of(TX_RECEIPT, 100_000, lacks_state).message
    with pytest.raises(NotRun, match="block 50"):
        failure_of(TX_RECEIPT, 100_000, lacks_state, is_new=True)


def test_other_errors_are_stored_by_their_class() -> None:
    fields = error_fields(InvalidInput("no such function", details={"known": []}))
    assert fields == {"error": "InvalidInput", "message": "no such function", "args": {"known": []}}


def test_a_call_that_no_gas_limit_suffices_for_is_refused_and_not_tried_again() -> None:
    error = RpcError("eth_estimateGas", {"message": "gas required exceeds allowance (16777216)"})
    assert isinstance(call_error("Settlement", "commit", error), Reverted)
    other = RpcError("eth_estimateGas", {"message": "the state is not available"})
    assert isinstance(call_error("Settlement", "commit", other), Unavailable)


def test_no_gas_limit_is_above_that_of_a_transaction() -> None:
    """A transaction above it is never mined, and blocks those with later nonces."""

    def limit(needed: int, function: str = "commit", profile: int = ETHEREUM) -> int:
        node: Any = SimpleNamespace(
            estimate_gas=lambda *_: needed, call=lambda *_: profile.to_bytes(32, "big")
        )
        addresses = {name: some_account(name) for name in ("Parameters", "Settlement")}
        client = ChainClient(node, Deployment(1, 1, some_hash("block"), addresses))
        return client.estimate_gas("Settlement", function, b"", some_account("operator"))

    assert limit(100) == 125
    assert limit(14_000_000) == limit(TX_GAS_CAP) == TX_GAS_CAP
    with pytest.raises(Reverted, match="its transaction may have 16777216"):
        limit(TX_GAS_CAP + 1)
    assert ARBITRUM_PROFILE == ARBITRUM
    assert limit(2 * TX_GAS_CAP, profile=ARBITRUM) == 2 * TX_GAS_CAP * 5 // 4, "data counts as gas there"
    assert limit(900_000, "grantSessionWithSig") == SIGNED_CALL_GAS_CAP
    with pytest.raises(Reverted, match="its transaction may have 1000000"):
        limit(SIGNED_CALL_GAS_CAP + 1, "grantSessionWithSig")


def test_every_call_with_a_signature_of_another_account_has_the_lower_gas_limit() -> None:
    contracts = ("DatasetRegistry", "PaymentVault", "Settlement")
    names = {function.name for contract in contracts for function in interface(contract).functions}
    signed = {name for name in names if name.endswith(("WithSig", "WithAuthorization"))}
    assert signed - {"contributeManyWithSig"} | {"moveBalance"} == SIGNED_CALLS
