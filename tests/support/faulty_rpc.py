"""JSON-RPC server over a simulated or real chain that refuses, drops, delays and falsifies answers."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol

import requests

from backend.chain.contracts import encode, interface
from backend.domain.deployment import Deployment
from tests.support.answering import QuietHandler, running
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.domain.ids import Account

CHAIN_ID = 31337
SLOW_SECONDS = 0.2
"""Seconds that a slow answer takes."""
FIRST = 1
"""Number of the block with the first contract."""
STAKED = next(e for e in interface("OperatorRegistry").events.values() if e.name == "Staked")


class AnyChain(Protocol):
    def answer(self, method: str, params: list[Any]) -> Any: ...


class RealNode:
    """Forwards calls to a node, and its errors unchanged."""

    def __init__(self, url: str) -> None:
        self._url = url

    def answer(self, method: str, params: list[Any]) -> Any:
        call = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
        answer = requests.post(self._url, json=call, timeout=30, proxies={"http": ""})
        answered: dict[str, Any] = answer.json()
        if "error" in answered:
            raise Answer(200, answer.content)
        return answered["result"]


class HonestChain:
    """A chain with stakes in every block. `fork` replaces the newest blocks, but none up to FIRST."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._blocks: list[dict[str, Any]] = []
        self._logs: list[list[dict[str, Any]]] = []
        self.mine(FIRST + 1)

    @property
    def deployment(self) -> Deployment:
        return Deployment(CHAIN_ID, FIRST, self._blocks[FIRST]["hash"], _addresses())

    def mine(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                self._mine()

    def fork(self, depth: int) -> None:
        """Replace the newest `depth` blocks by `depth + 1` others."""
        with self._lock:
            kept = max(len(self._blocks) - depth, FIRST + 1)
            num_new = len(self._blocks) - kept + 1
            del self._blocks[kept:], self._logs[kept:]
            for _ in range(num_new):
                self._mine()

    def answer(self, method: str, params: list[Any], num_missing: int = 0) -> Any:
        """The answer of a node that does not have the newest `num_missing` blocks."""
        with self._lock:
            blocks = self._blocks[: max(len(self._blocks) - num_missing, FIRST + 1)]
            places = {block["hash"]: place for place, block in enumerate(blocks)}
            if method == "eth_chainId":
                return hex(CHAIN_ID)
            if method == "eth_getBlockByNumber":
                number = len(blocks) - 1 if params[0] == "latest" else int(params[0], 16)
                return blocks[number] if number < len(blocks) else None
            if method == "eth_getBlockByHash":
                return blocks[places[params[0]]] if params[0] in places else None
            if method == "eth_getLogs" and "blockHash" in params[0]:
                place = places.get(params[0]["blockHash"])
                return _error("unknown block") if place is None else self._logs[place]
            if method == "eth_getLogs":
                first, last = (int(params[0][name], 16) for name in ("fromBlock", "toBlock"))
                return [log for logs in self._logs[: len(blocks)][first : last + 1] for log in logs]
        raise AssertionError(method)

    def _mine(self) -> None:
        number = len(self._blocks)
        block_hash = some_hash(f"block {self._random.random()}")
        parent = self._blocks[-1]["hash"] if self._blocks else some_hash("nothing")
        names = {"number": hex(number), "hash": block_hash, "parentHash": parent}
        self._blocks.append(names | {"timestamp": hex(1_790_000_000 + number)})
        count = self._random.randint(0, 3) if number >= FIRST else 0
        self._logs.append([self._log(number, block_hash, index) for index in range(count)])

    def _log(self, number: int, block_hash: str, index: int) -> dict[str, Any]:
        operator, amount = some_account(f"operator {index}"), self._random.randint(1, 10**9)
        return {
            "address": some_account("OperatorRegistry"),
            "topics": ["0x" + raw.hex() for raw in (STAKED.topic, encode(STAKED.inputs[:1], [operator], ""))],
            "data": "0x" + encode(STAKED.inputs[1:], [amount], "").hex(),
            "blockNumber": hex(number),
            "blockHash": block_hash,
            "blockTimestamp": hex(1_790_000_000 + number),
            "transactionHash": some_hash(f"transaction {block_hash} {index}"),
            "transactionIndex": "0x0",
            "logIndex": hex(index),
            "removed": False,
        }


class MixedNodes:
    """Nodes behind one address: with probability `rate`, one that is some blocks behind answers."""

    def __init__(self, chain: HonestChain, seed: int, rate: float) -> None:
        self._chain = chain
        self._random = random.Random(seed)
        self.rate = rate

    def answer(self, method: str, params: list[Any]) -> Any:
        is_behind = self._random.random() < self.rate
        return self._chain.answer(method, params, self._random.randint(1, 3) if is_behind else 0)


class Faults:
    """Random faults of answers, with probability `rate`; 0 is an honest node."""

    def __init__(self, seed: int, rate: float) -> None:
        self._random = random.Random(seed)
        self.rate = rate
        self.met: set[str] = set()
        self._kinds: dict[str, Callable[[str, Any], Any]] = {
            "refused": _refused,
            "not found": _not_found,
            "slow": _slow,
            "cut off": _cut_off,
            "no JSON": _no_json,
            "busy": _busy,
            "twice": _twice,
            "of another fork": _of_another_fork,
            "elsewhere": _elsewhere,
            "shuffled": self._shuffled,
        }

    def take_in(self, method: str) -> None:
        """Raises `Answer` for a call that does not reach the chain."""

    def pass_on(self, method: str, result: Any) -> Any:
        """The result, or a fault in its place. Raises `Answer` for what is not a result at all."""
        if self._random.random() >= self.rate:
            return result
        kind = self._random.choice(sorted(self._kinds))
        self.met.add(kind)
        return self._kinds[kind](method, result)

    def _shuffled(self, method: str, result: Any) -> Any:
        return self._random.sample(result, len(result)) if method == "eth_getLogs" else result


class SendingFaults(Faults):
    """Random faults of sending and tracking transactions: lost calls, lost answers, and a
    node that answers as if some blocks were still to come.
    """

    def __init__(self, seed: int, rate: float) -> None:
        super().__init__(seed, rate)
        self._kinds = {
            "cut off": _cut_off,
            "no JSON": _no_json,
            "busy": _busy,
            "refused though taken": _refused_though_taken,
            "behind": self._behind,
        }

    def take_in(self, method: str) -> None:
        if self._random.random() < self.rate / 2:
            self.met.add("lost")
            raise Answer(0)

    def _behind(self, method: str, result: Any) -> Any:
        if method in {"eth_getTransactionReceipt", "eth_getTransactionByHash"}:
            return None
        if method == "eth_getTransactionCount":
            return hex(max(int(result, 16) - self._random.randint(1, 3), 0))
        return result


class Answer(Exception):
    """An HTTP answer that is not a result: status and body; a status of 0 closes the connection."""

    def __init__(self, status: int, body: bytes = b"") -> None:
        super().__init__(status)
        self.status, self.body = status, body


def _refused(method: str, result: Any) -> Any:
    if method == "eth_getLogs":
        _error("query returned more than 10000 results")
    return result


def _not_found(method: str, result: Any) -> Any:
    return _error("header not found") if method == "eth_getBlockByNumber" else result


def _refused_though_taken(method: str, result: Any) -> Any:
    return _error("already known") if method == "eth_sendRawTransaction" else result


def _error(message: str) -> Any:
    body = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32000, "message": message}}
    raise Answer(200, json.dumps(body).encode())


def _slow(method: str, result: Any) -> Any:
    time.sleep(SLOW_SECONDS)
    return result


def _cut_off(method: str, result: Any) -> Any:
    raise Answer(0)


def _no_json(method: str, result: Any) -> Any:
    raise Answer(200, b"<html>Gateway</html>")


def _busy(method: str, result: Any) -> Any:
    raise Answer(429, b"too many requests")


def _twice(method: str, result: Any) -> Any:
    return result + result[:1] if method == "eth_getLogs" else result


def _of_another_fork(method: str, result: Any) -> Any:
    """The last block's logs, from a node on another fork."""
    if method != "eth_getLogs" or not result:
        return result
    number = result[-1]["blockNumber"]
    other = {"blockHash": some_hash("another fork")}
    return [log | other if log["blockNumber"] == number else log for log in result]


def _elsewhere(method: str, result: Any) -> Any:
    """A log of a block outside the requested range."""
    if method != "eth_getLogs" or not result:
        return result
    return [*result, result[-1] | {"blockNumber": hex(10**6)}]


@contextmanager
def serving(chain: AnyChain, faults: Faults) -> Iterator[str]:
    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # header and body are two packets

        @staticmethod
        def _answered(call: dict[str, Any]) -> dict[str, Any]:
            method = call["method"]
            faults.take_in(method)
            result = faults.pass_on(method, chain.answer(method, call["params"]))
            return {"jsonrpc": "2.0", "id": call["id"], "result": result}

        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["content-length"])))
            try:
                answered = list(map(self._answered, call)) if isinstance(call, list) else self._answered(call)
                answer = Answer(200, json.dumps(answered).encode())
            except Answer as fault:
                answer = fault
            if not answer.status:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            with suppress(ConnectionError):  # the client may have been killed
                self.wfile.write(answer.body)

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def _addresses() -> dict[str, Account]:
    names = (
        *("DatasetRegistry", "AdapterRegistry", "PaymentVault", "Parameters", "OperatorRegistry"),
        *("Settlement", "Disputes", "MarketGovernor"),
    )
    return {name: some_account(name) for name in names}
