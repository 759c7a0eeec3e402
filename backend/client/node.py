"""Reads from and sends to an Ethereum node by plain JSON-RPC, on the chain of one deployment."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from backend.chain.contracts import decode_revert, interface
from backend.domain.errors import Conflict, InvalidInput, Unavailable
from backend.domain.money import COIN

if TYPE_CHECKING:
    from typing import Self

    from eth_account.signers.local import LocalAccount

    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account

MINING_SECONDS = 60.0
TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 1.0
LIMIT_EXCEEDED = -32005
"""Error of JSON-RPC by which a node refuses requests for some time (EIP-1474)."""


class WrongChain(Conflict):
    """The node is on another chain than the deployment. Nothing was signed."""


class NoGas(Conflict):
    """The wallet has too little of the chain's coin for a transaction. Nothing was signed."""


class NodeRefusal(Conflict):
    """The node answered with an error."""

    revert_data: bytes = b""


class NotMined(Conflict):
    """A transaction was or may have been broadcast, and was not seen mined in time. It may still be mined."""


@dataclass(frozen=True, slots=True)
class Mined:
    """A mined transaction that succeeded."""

    tx_hash: str
    block_number: int
    logs: tuple[dict[str, Any], ...] = ()
    """As the node returns them."""

    def event(self, contract: str, name: str) -> dict[str, Any]:
        """Arguments of the first event of this name. Errors: `Conflict` if the node returned none."""
        (entry,) = (event for event in interface(contract).events.values() if event.name == name)
        for log in self.logs:
            topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
            if topics[:1] == [entry.topic]:
                return entry.decode_log(topics, bytes.fromhex(log["data"][2:]))
        raise Conflict(f"transaction {self.tx_hash} is mined, but the node returned no event {name} of it")


class Node:
    """One endpoint. It is used only if its chain is the deployment's."""

    def __init__(self, url: str, deployment: Deployment) -> None:
        """Errors: `InvalidInput` for what is no URL."""
        try:
            parts, _ = urlsplit(url), httpx.URL(url)
        except (ValueError, httpx.InvalidURL) as error:
            raise InvalidInput(f"the node is not named by a URL: {error}", param="rpc_url") from error
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        """URL for messages, without user, path and query, which often contain API keys."""
        self._url = url
        self._deployment = deployment
        # A proxy from the environment cannot reach this machine's loopback.
        is_local = parts.hostname in {"127.0.0.1", "::1", "localhost"}
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=not is_local)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def check(self) -> None:
        """Check chain id and the block of the first contract. Errors: `WrongChain`, `Unavailable`."""
        expected = self._deployment
        chain_id = int(self._request("eth_chainId"), 16)
        if chain_id != expected.chain_id:
            raise WrongChain(
                f"the node {self.name} is on chain {chain_id}, the market's deployment on chain "
                f"{expected.chain_id}: name another node with --rpc-url",
                details={"node": chain_id, "deployment": expected.chain_id},
            )
        block = self._request("eth_getBlockByNumber", hex(expected.block_number), False)
        found = block["hash"] if block else "no such block"
        if found != expected.block_hash:
            raise WrongChain(
                f"the node {self.name} is on another chain of id {chain_id}: its block "
                f"{expected.block_number} is not the deployment's",
                details={"node": found, "deployment": expected.block_hash},
            )

    def read(self, contract: str, function: str, *args: Any) -> Any:
        """Call a function of the deployment without a transaction."""
        entry = interface(contract).function(function, args)
        call = {"to": self._deployment.address(contract), "data": "0x" + entry.encode(args).hex()}
        raw = self._call(contract, function, "eth_call", call, "latest")
        return entry.decode_result(bytes.fromhex(raw[2:]))

    def fill(self, contract: str, function: str, call: dict[str, Any]) -> dict[str, Any]:
        """Complete `from`, `to`, `data` and `value` (hex) to a transaction to sign.

        Errors: `Reverted` if the contract refuses the call, `NoGas`.
        """
        gas = int(self._call(contract, function, "eth_estimateGas", call), 16) * 5 // 4
        tip = int(self._request("eth_maxPriorityFeePerGas"), 16)
        price = int(self._request("eth_gasPrice"), 16)
        self._check_coin(call["from"], gas * (2 * price + tip) + int(call["value"], 16))
        return {
            "type": 2,
            "chainId": self._deployment.chain_id,
            "nonce": int(self._request("eth_getTransactionCount", call["from"], "pending"), 16),
            "to": call["to"],
            "data": call["data"],
            "value": int(call["value"], 16),
            "gas": gas,
            "maxFeePerGas": 2 * price + tip,
            "maxPriorityFeePerGas": tip,
        }

    def _check_coin(self, account: Account, most: int) -> None:
        """`most` in wei. A node refuses a transaction whose sender could not pay the most that it costs."""
        held = int(self._request("eth_getBalance", account, "latest"), 16)
        if held < most:
            raise NoGas(
                f"{account} has {held / COIN:.9f} of the chain's coin, and the transaction costs up to "
                f"{most / COIN:.9f} for gas: send it some",
                details={"held_wei": held, "required_wei": most},
            )

    def send(self, signer: LocalAccount, transaction: dict[str, Any]) -> Mined:
        """Sign, broadcast and wait. Errors: `NodeRefusal` if the node does not take it; `Conflict` if it
        fails on chain; `NotMined`. Each has the transaction's hash.
        """
        from eth_utils.address import to_checksum_address

        checked = transaction | {"to": to_checksum_address(transaction["to"])}
        signed = signer.sign_transaction(checked)
        tx_hash, raw = ("0x" + bytes(part).hex() for part in (signed.hash, signed.raw_transaction))
        found = self._broadcast_and_wait(tx_hash, raw)
        if int(found["status"], 16) != 1:
            raise Conflict(f"transaction {tx_hash} reverted", details={"tx_hash": tx_hash})
        return Mined(tx_hash, int(found["blockNumber"], 16), tuple(found["logs"]))

    def _broadcast_and_wait(self, tx_hash: str, raw: str) -> dict[str, Any]:
        """Receipt of the mined transaction. Requests that fail are repeated: a node whose answer is lost may
        have taken the transaction, and takes the same one again without harm.
        """
        deadline = time.monotonic() + MINING_SECONDS
        is_taken, failure = False, ""
        while True:
            try:
                if not is_taken:
                    self._broadcast(tx_hash, raw)
                    is_taken = True
                if found := self._request("eth_getTransactionReceipt", tx_hash):
                    return dict(found)
            except (Unavailable, NodeRefusal) as error:
                if isinstance(error, NodeRefusal) and not (is_taken or failure):
                    error.details["tx_hash"] = tx_hash
                    raise
                failure = str(error)
            if time.monotonic() > deadline:
                raise _not_mined(tx_hash, failure, is_taken=is_taken)
            time.sleep(POLL_SECONDS)

    def _broadcast(self, tx_hash: str, raw: str) -> None:
        """Errors: `NodeRefusal` unless the node has the transaction already."""
        try:
            self._request("eth_sendRawTransaction", raw)
        except NodeRefusal:
            if self._request("eth_getTransactionByHash", tx_hash) is None:
                raise

    def _call(self, contract: str, function: str, method: str, *params: Any) -> str:
        try:
            return str(self._request(method, *params))
        except NodeRefusal as error:
            if error.revert_data:
                raise decode_revert(contract, function, error.revert_data) from error
            raise

    def _request(self, method: str, *params: Any) -> Any:
        answer = self._post({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        if answer.get("error"):
            raise _refusal(self.name, method, answer["error"])
        return answer["result"]

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response, which has an `error` or a `result`. Errors: `Unavailable`."""
        try:
            response = self._http.post(self._url, json=body)
        except httpx.RequestError as error:
            raise Unavailable(
                f"the node {self.name} is not reachable ({error}); name another one with --rpc-url"
            ) from error
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        is_answer = isinstance(answer, dict) and (answer.get("error") or "result" in answer)
        is_failing = response.is_server_error and not is_answer
        if is_failing or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            raise Unavailable(
                f"the node {self.name} answered {response.status_code}; try again later, or name another one "
                "with --rpc-url"
            )
        if not is_answer:
            raise Unavailable(f"{self.name} does not speak JSON-RPC; is it the URL of a node?")
        return dict(answer)


def _not_mined(tx_hash: str, failure: str, *, is_taken: bool) -> NotMined:
    """`failure`: the latest one of the node, if there was one. `is_taken`: whether a broadcast succeeded."""
    broadcast = "was broadcast" if is_taken else "may have been broadcast"
    return NotMined(
        f"transaction {tx_hash} {broadcast}, and was not seen mined within {MINING_SECONDS:.0f} s: look it "
        "up before you repeat the command, because it may still be mined",
        details={"tx_hash": tx_hash} | ({"latest failure": failure} if failure else {}),
    )


def _refusal(name: str, method: str, error: Any) -> NodeRefusal | Unavailable:
    stated = error if isinstance(error, dict) else {}
    text = f"the node {name} refuses {method}: {stated.get('message', error)}"
    if stated.get("code") == LIMIT_EXCEEDED:
        return Unavailable(text)
    found = NodeRefusal(text)
    data = stated.get("data")
    data = data.get("data") if isinstance(data, dict) else data
    if isinstance(data, str) and data.startswith("0x"):
        with suppress(ValueError):
            found.revert_data = bytes.fromhex(data[2:])
    return found
