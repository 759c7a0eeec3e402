from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.client import INDEXED, ChainClient
from backend.chain.node import Node
from backend.chain.rpc import Rpc, RpcError
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.errors import Unavailable
from tests.support.faulty_rpc import Answer, Faults, HonestChain, serving
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from tests.support.faulty_rpc import AnyChain


def test_messages_name_the_node_without_the_keys_in_its_url() -> None:
    rpc = Rpc("http://user:secret@127.0.0.1:9/v3/secret?token=secret", retries=1)
    with pytest.raises(Unavailable) as away:
        rpc.request("eth_chainId")
    assert away.value.message.startswith("the chain's RPC at http://127.0.0.1:9 is not reachable")
    assert "secret" not in f"{away.value.message} {away.value.details}"
    rpc.close()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"7", b'{"jsonrpc": "2.0", "id": 0}'])
def test_responses_that_are_not_json_rpc_are_errors(body: bytes) -> None:
    faults = Faults(0, 0)
    faults.pass_on = lambda *_: _raise(Answer(200, body))  # type: ignore[method-assign]
    with serving(HonestChain(0), faults) as url:
        rpc = Rpc(url, retries=1)
        with pytest.raises(Unavailable, match="does not speak JSON-RPC"):
            rpc.request("eth_chainId")
        rpc.close()


def _batch(status: int, body: bytes) -> list[Any]:
    """The results of two requests whose answer is this."""
    faults = Faults(0, 0)
    faults.pass_on = lambda *_: _raise(Answer(status, body))  # type: ignore[method-assign]
    with serving(HonestChain(0), faults) as url:
        rpc = Rpc(url, retries=1)
        try:
            return rpc.batch("eth_getBlockByNumber", [("0x0", False), ("0x1", False)])
        finally:
            rpc.close()


def test_the_results_of_a_batch_are_in_the_order_of_its_requests() -> None:
    assert _batch(200, b'[{"id": 1, "result": "second"}, {"id": 0, "result": null}]') == [None, "second"]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b'[{"id": 0, "result": 7}, {"id": 1, "error": {"message": "unknown block"}}]', "unknown block"),
        (200, b'{"id": null, "error": {"message": "batch too large"}}', "batch too large"),
        (200, b'[{"id": 0, "error": {"message": "batch too large"}}]', "batch too large"),
        (413, b"", "HTTP status 413"),
    ],
    ids=["one request", "the batch", "the batch in a list", "the batch by its HTTP status"],
)
def test_a_refused_request_of_a_batch_is_an_error(status: int, body: bytes, error: str) -> None:
    with pytest.raises(RpcError, match=error):
        _batch(status, body)


@pytest.mark.parametrize(
    "body", [b"7", b"[]", b"[7, 8]", b'[{"id": 0, "result": 7}]', b'{"id": 0, "result": 7}']
)
def test_a_batch_without_a_response_to_each_request_is_an_error(body: bytes) -> None:
    with pytest.raises(Unavailable, match="does not speak JSON-RPC"):
        _batch(200, body)


def test_a_long_batch_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.chain.rpc.MAX_BATCH", 2)
    chain = HonestChain(0)
    chain.mine(3)
    with serving(chain, Faults(0, 0)) as url:
        node = Node.connect(url)
        sizes: list[int] = []
        send = node.rpc._post_batch
        monkeypatch.setattr(node.rpc, "_post_batch", lambda calls: sizes.append(len(calls)) or send(calls))
        assert node.blocks(0, 4) == [node.block(number) for number in range(5)]
        assert sizes == [2, 2, 1]
        with pytest.raises(RpcError, match="does not have block 5"):
            node.blocks(4, 6)
        node.close()


def test_a_public_node_that_answers_for_unknown_blocks_is_refused() -> None:
    class Hiding:
        def answer(self, _method: str, _params: list[Any]) -> object:
            return []

    def check(chain: AnyChain, chain_id: int) -> None:
        with serving(chain, Faults(0, 0)) as url:
            addresses = dict.fromkeys(INDEXED, some_account("contract"))
            client = ChainClient.connect(url, Deployment(chain_id, 1, some_hash("block"), addresses))
            try:
                client.check_block_logs()
            finally:
                client.close()

    check(HonestChain(0), 1)
    check(Hiding(), LOCAL_CHAIN_ID)
    with pytest.raises(Unavailable, match="logs of a block that it does not have"):
        check(Hiding(), 1)


@pytest.mark.parametrize(
    "history",
    [None, [], {"reward": 7}, {"reward": [[]]}, {"reward": [["0x1", "0x2"]]}, {"reward": [[None]]}, "0x"],
)
def test_a_malformed_history_of_fees_is_an_error_that_callers_expect(history: object) -> None:
    class Chain:
        def answer(self, _method: str, _params: list[Any]) -> object:
            return history

    with serving(Chain(), Faults(0, 0)) as url:
        node = Node.connect(url)
        with pytest.raises(Unavailable, match="eth_feeHistory"):
            node.paid_tip(5)
        node.close()


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "data", "is_revert"),
    [
        ({"message": "execution reverted", "data": "0x1234"}, b"\x12\x34", True),
        ({"message": "reverted", "data": {"data": "0x1234", "txHash": "0x"}}, b"\x12\x34", True),
        ({"message": "execution reverted"}, b"", True),
        ({"message": "header not found", "code": -32000}, b"", False),
        ({"message": "limit exceeded", "data": {"limit": 5}}, b"", False),
    ],
)
def test_reverts_differ_from_other_errors(error: dict[str, object], data: bytes, is_revert: bool) -> None:
    found = RpcError("eth_call", error)
    assert (found.revert_data, found.is_revert) == (data, is_revert)
