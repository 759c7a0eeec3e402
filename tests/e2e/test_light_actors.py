"""Every actor's work with the light install and a fresh key, at an operator's market in another home."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.client import ChainClient
from backend.chain.keys import local_account
from backend.client.deployments import read_deployment
from backend.client.waiting import wait_until
from backend.domain.ids import Account
from backend.domain.money import AMOUNT, UNIT
from tests.e2e.test_stack import running
from tests.support.contributions import jsonl
from tools.local_market import LocalMarket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.light_install import LightInstall

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1800)]
QUESTION = "What does a wordsmith number 3 do?"
WAIT_SECONDS = 300
TREASURY, HOLDER = local_account(0), local_account(8)
"""They can mint test dollars, and hold the market tokens."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the light install with a home, a wallet named `me`, and nothing of the operator's."""

    light: LightInstall
    environment: Mapping[str, str]
    market: LocalMarket
    rpc_url: str
    account: Account

    def run(self, *arguments: str) -> str:
        done = self.light.run("loraledger", *arguments, environment=self.environment)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def read(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def transact(self, *arguments: str) -> str:
        return self.run(*arguments, "--yes", "--rpc-url", self.rpc_url)

    def take_dollars(self, units: int) -> None:
        self.market.send(TREASURY, "TestUSD", "mint", self.account, units)

    def take_coin(self) -> None:
        self.market.rpc("hardhat_setBalance", self.account, hex(10**18))

    @property
    def has_never_had_coin(self) -> bool:
        asked = (self.account, "latest")
        balance, nonce = (
            self.market.rpc(method, *asked) for method in ("eth_getBalance", "eth_getTransactionCount")
        )
        return (int(balance, 16), int(nonce, 16)) == (0, 0)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """People on other machines, who have the URL of the market, its record, and a node of its chain."""

    light: LightInstall
    folder: Path
    market: LocalMarket
    facts: dict[str, Any]

    def person(self, name: str) -> Person:
        home = self.folder / name
        home.mkdir(parents=True)
        (home / "password").write_text(f"secret of {name}\n")
        record = home / "market.json"
        record.write_bytes((Path(self.facts["home"]) / "deployment.json").read_bytes())
        environment = {
            "HOME": str(home),
            "ETH_PASSWORD": str(home / "password"),
            "ETH_KEYSTORE_ACCOUNT": "me",
            "LORALEDGER_MARKET": self.facts["api"],
            "LORALEDGER_DEPLOYMENT": str(record),
            "LORALEDGER_HOME": str(home / "installation"),
        }
        made = self.light.run("loraledger", "wallet", "new", "me", environment=environment)
        person = Person(self.light, environment, self.market, self.facts["rpc"], Account(made.stdout.strip()))
        person.run("login", "--yes")
        return person


@pytest.fixture
def elsewhere(light: LightInstall, tmp_path: Path) -> Iterator[Elsewhere]:
    with running(tmp_path / "operator", tmp_path / "up.log") as stack:
        deployment = read_deployment(Path(stack.facts["home"]) / "deployment.json")
        chain = ChainClient.connect(stack.facts["rpc"], deployment)
        try:
            yield Elsewhere(light, tmp_path / "elsewhere", LocalMarket(chain), stack.facts)
        finally:
            chain.close()


def test_people_elsewhere_contribute_train_ask_claim_and_vote(elsewhere: Elsewhere, tmp_path: Path) -> None:
    creator, contributor, consumer = map(elsewhere.person, ("creator", "contributor", "consumer"))
    datanet = create_datanet(creator)
    contribute(contributor, datanet, tmp_path / "rows.jsonl")
    model = train(creator, datanet)
    receipt = ask(consumer, model)
    verify(consumer, receipt, tmp_path / "receipt.json")
    claim(contributor, elsewhere.market)
    assert contributor.has_never_had_coin
    assert consumer.has_never_had_coin
    vote(elsewhere.person("voter"))
    assert not list((tmp_path / "elsewhere").glob("*/installation")), "no part of an installation was made"


def create_datanet(creator: Person) -> int:
    creator.take_coin()
    number = int(
        creator.transact("datanet", "create", "words", "--description", "Wordsmiths", "--licence", "MIT")
    )
    assert f"{number}  words by {creator.account}: 0 contributions\n" in creator.run("datanet", "list")
    return number


def contribute(contributor: Person, datanet: int, file: Path) -> None:
    trade = "What does a wordsmith number {} do?", "It smiths {} words a day."
    rows = ({"prompt": trade[0].format(n), "completion": trade[1].format(n)} for n in range(40))
    file.write_bytes(jsonl(*rows))
    said = contributor.run("data", "push", str(file), "--datanet", str(datanet), "--licence", "MIT", "--yes")
    upload = said.splitlines()[-1].split()[0]

    def accepted() -> bool | None:
        [found] = contributor.read("data", "status", upload)
        assert not found["error"], found
        return found["state"] == "accepted" or None

    wait_until(accepted, "the contribution to be accepted", WAIT_SECONDS)


def train(creator: Person, datanet: int) -> str:
    """Train an adapter and register it; returns the model's name."""
    creator.take_dollars(2_000_000)
    assert "2 dollars can be spent" in creator.run("deposit", "2", "--yes")
    snapshot = creator.run("snapshot", "create", str(datanet)).strip()
    options = ("--set", "rank=4", "--set", "epochs=1", "--set", "max_length=64")
    assert "dollars on the channel until the job ends" in creator.run("train", "estimate", snapshot, *options)
    job = creator.run("train", "create", snapshot, *options, "--max-cost", "1", "--yes").split()[0]
    assert f"{job} succeeded" in creator.run("train", "watch", job)
    terms = ("--name", "words", "--prices", "500", "1500", "--accept-worse")
    said = creator.transact("train", "register", job, *terms)
    assert f"{creator.account}/words is version 0x" in said
    return f"{creator.account}/words"


def ask(consumer: Person, model: str) -> str:
    """Pay for an answer; returns its receipt's id."""
    consumer.take_dollars(5_000_000)
    assert "5 dollars can be spent" in consumer.run("deposit", "5", "--yes")
    assert model in consumer.run("models")
    assert consumer.run("chat", model, QUESTION, "--max-tokens", "24").strip()
    [receipt] = consumer.read("receipts", "list")
    assert AMOUNT.read(receipt["charge"]) > 0
    return str(receipt["id"])


def verify(consumer: Person, receipt: str, file: Path) -> None:
    def final() -> bool | None:
        found = json.loads(consumer.run("receipts", "show", receipt))
        return found["batch_state"] == "final" or None

    wait_until(final, "the receipt's batch to be final", WAIT_SECONDS)
    consumer.run("receipts", "show", receipt, "--out", str(file))
    checks = consumer.read("receipts", "verify", str(file), "--rpc-url", consumer.rpc_url)
    names = ("hash", "signature", "slices", "charge", "batch")
    assert [(check["name"], check["is_right"]) for check in checks] == [(name, True) for name in names]
    offline = {check["name"]: check["is_right"] for check in consumer.read("receipts", "verify", str(file))}
    assert offline == dict.fromkeys(names, None) | {"hash": True, "slices": True}


def claim(contributor: Person, market: LocalMarket) -> None:
    [earning] = contributor.read("earnings")
    due = AMOUNT.read(earning["claimable"])
    assert due > 0
    assert market.dollars(contributor.account) == 0
    assert f"claimed from {earning['operator']}" in contributor.run("claim", "--yes")
    assert market.dollars(contributor.account) * UNIT == due
    assert contributor.run("claim") == "nothing to claim\n"


def vote(voter: Person) -> None:
    votes = voter.market.chain.call("MarketToken", "balanceOf", HOLDER.account)
    voter.market.send(HOLDER, "MarketToken", "transfer", voter.account, votes)
    voter.take_coin()
    assert "mined in block" in voter.transact("vote", "delegate")
    voter.market.pass_time(2)  # votes count from the second after the delegation
    proposal = voter.transact("vote", "propose", "feePpm=70000").strip()

    def reach(state: str) -> None:
        def reached() -> bool | None:
            listed = voter.read("vote", "list")
            return any((p["id"], p["state"]) == (proposal, state) for p in listed) or None

        wait_until(reached, f"the proposal to be {state}", WAIT_SECONDS)

    for command, state in (("cast", "active"), ("queue", "succeeded")):
        reach(state)
        voter.transact("vote", command, proposal, *(["for"] if command == "cast" else []))
    reach("queued")
    voter.market.pass_time(5)  # the timelock
    assert "mined in block" in voter.transact("vote", "execute", proposal)
    reach("executed")
    assert re.search(r'"feePpm":\s*"?70000', json.dumps(voter.market.chain.call("Parameters", "current")))
