"""A market and a node as a wallet sees them, and changes of what they answer."""

from __future__ import annotations

import copy
import json
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import httpx

from backend.client.keystore import LocalKey
from backend.client.node import Mined
from backend.client.payments import CHANNEL_AMOUNTS
from backend.client.signing import Statement, Wallet
from backend.domain.deployment import Deployment
from backend.domain.hashing import channel_id, keccak
from backend.domain.money import AMOUNT
from tests.fuzz.mutations import json_values
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHAIN = 10
CONTRACTS = (
    "PaymentVault",
    "PaymentToken",
    "Settlement",
    "DatasetRegistry",
    "AdapterRegistry",
    "MarketToken",
    "MarketGovernor",
    "Parameters",
)
ADDRESSES = {name: some_account(name) for name in CONTRACTS}
KEY = LocalKey(keccak(b"payer"))
OPERATOR = some_account("operator")
CHANNEL = channel_id(KEY.account, OPERATOR, ADDRESSES["Settlement"])
UNITS = 5_000_000
NONCE = 4
"""The next one of `KEY` in the vault."""
Path = tuple[str | int, ...]


class Chain:
    """The node that a wallet sends to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.parameters = {
            "treasury": some_account("treasury"),
            "feePpm": 50_000,
            "stakeCoverPpm": 1,
            "disputeWindow": 2,
            "minContributorsPpm": 3,
            "minOperatorPpm": 4,
            "maxOperatorPpm": 5,
            "challengerPpm": 6,
        }

    def check(self) -> None: ...

    def read(self, _contract: str, function: str, *_args: Any) -> Any:
        return {"currentId": 3, "current": self.parameters, "nonces": NONCE}[function]

    def fill(self, _contract: str, _function: str, call: dict[str, Any]) -> dict[str, Any]:
        return {**call, "gas": 21_000, "maxFeePerGas": 10**9}

    def send(self, _signer: object, transaction: dict[str, Any]) -> Mined:
        self.sent.append(transaction)
        return Mined(some_hash("transaction"), 7)


class Market:
    """Answers as the API does, with what `answers` has for a path; takes what the client posts."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = {"/v1/moves/relay": {"amount": AMOUNT.render(600)}, **answers}
        self.posted: list[tuple[str, Any]] = []
        self.statements: list[Statement] = []
        deployment = Deployment(CHAIN, 1, some_hash("block"), ADDRESSES)
        self.wallet = Wallet(KEY, deployment, self.statements.append, "http://node")
        self.chain = Chain()
        self.wallet.node = self._node  # type: ignore[method-assign]

    @contextmanager
    def _node(self) -> Iterator[Chain]:
        yield self.chain

    def post(self, path: str, body: Any = None) -> Any:
        httpx.Request("POST", f"http://market{path}", json=body)  # as a client encodes it
        self.posted.append((path, body))
        return copy.deepcopy(self.answers.get(path, {}))

    def get(self, path: str) -> Any:
        return copy.deepcopy(self.answers[path])

    def list_all(self, _path: str) -> list[dict[str, Any]]:
        """Datanets: another account's and an older one of this name, then the new one too."""
        names = {"name": "poems", "creator": KEY.account}
        listed = [{"id": 1, **names}, {"id": 3, **names, "creator": OPERATOR}, {"id": 4, **names}]
        return listed if self.chain.sent else listed[:1]

    def wait_confirmed(self, _queued: Any) -> None: ...

    def has_signed(self) -> bool:
        return bool(self.statements or self.chain.sent)


def stated_channel() -> dict[str, Any]:
    whose = {"id": CHANNEL, "operator": OPERATOR, "collector": ADDRESSES["Settlement"], "sessions": []}
    return {"data": [{**whose, **dict.fromkeys(CHANNEL_AMOUNTS, AMOUNT.render(0))}]}


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def changed(answer: Any, path: Path, change: Callable[[Any, str | int], None]) -> Any:
    found = copy.deepcopy(answer)
    inner = found
    for step in path[:-1]:
        inner = inner[step]
    change(inner, path[-1])
    return found


def with_changed_values(answers: dict[str, Any], seed: int) -> dict[str, Any]:
    """The answers with some values of one of them changed, removed or added at random."""
    random = Random(seed)
    path = random.choice(sorted(answers))
    return answers | {path: json.loads(json_values(json.dumps(answers[path]).encode(), random))}


def bump(container: Any, name: str | int) -> None:
    """The smallest change of the value that has the same type."""
    value = container[name]
    if isinstance(value, int):
        container[name] = value + 1
    elif value.isdecimal():
        container[name] = str(int(value) + 1)
    else:
        container[name] = value[:-1] + ("1" if value[-1] != "1" else "2")
