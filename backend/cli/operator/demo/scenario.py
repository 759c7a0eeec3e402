"""The six steps of the value loop, with six wallets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backend.cli.operator.demo import actions, governance, reconciliation
from backend.cli.operator.demo.questions import Answer, Question, ask_all
from backend.cli.snapshots import freeze
from backend.client import payments
from backend.client.api import ApiClient
from backend.client.keystore import LocalKey
from backend.client.registries import create_datanet
from backend.client.signing import Wallet
from backend.client.waiting import wait_until
from backend.domain.errors import Conflict
from backend.domain.ids import Account, ChannelId, Hash32, ReceiptId
from backend.domain.money import UNIT, in_dollars
from backend.domain.settlement import BatchState

if TYPE_CHECKING:
    from backend.cli.operator.demo.actions import Adapter
    from backend.cli.operator.demo.reconciliation import Reconciliation
    from backend.cli.operator.demo.screen import Screen
    from backend.installation.installation import Installation

CONTRIBUTORS, CREATOR, CONSUMER, VOTER = (
    ("contributor 1", "contributor 2", "contributor 3"),
    "creator",
    "consumer",
    "voter",
)
WALLETS = (*CONTRIBUTORS, CREATOR, CONSUMER, VOTER)
"""In the order of the local network's test users."""
NEW_FEE_PPM = 80_000
DEPOSIT_UNITS, TRAINING_DEPOSIT_UNITS = 20_000_000, 1_000_000
SETTLE_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Datanet:
    """A datanet of docstrings. `packages`: the package that each contributor uploads."""

    name: str
    description: str
    packages: dict[str, str]
    questions: tuple[str, ...]


DATANETS = (
    Datanet(
        "data-libraries",
        "What the functions of data libraries do, from their docstrings.",
        {"contributor 1": "sqlalchemy", "contributor 2": "alembic"},
        (
            "What does `sqlalchemy.create_engine` do?",
            "What does `sqlalchemy.orm.Session.commit` do?",
            "What does `alembic.command.upgrade` do?",
            "What does `alembic.op.add_column` do?",
        ),
    ),
    Datanet(
        "web-libraries",
        "What the functions of web libraries do, from their docstrings.",
        {"contributor 3": "fastapi", "contributor 2": "requests"},
        (
            "What does `fastapi.FastAPI.get` do?",
            "What does `fastapi.Depends` do?",
            "What does `requests.Session.send` do?",
            "What does `requests.Response.json` do?",
        ),
    ),
)
LAST_QUESTIONS = 2
"""Number of questions asked of each adapter again under the new fee."""


@dataclass
class Outcome:
    """Results of the scenario, for the report."""

    contributors: list[Account]
    adapters: list[Adapter] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    channels: list[ChannelId] = field(default_factory=list)
    """Channels of the payers: the creator, who trains, and the consumer."""
    funds_before: dict[Account, int] = field(default_factory=dict)
    fee_before: int = 0
    fee_after: int = 0
    """Protocol fee of the parameter set that the last batch names, in ppm."""
    proposal_id: str = ""
    verified: dict[str, bool] = field(default_factory=dict)

    @property
    def charged_by_payer(self) -> dict[str, int]:
        return {
            CREATOR: sum(adapter.charge for adapter in self.adapters),
            CONSUMER: sum(answer.charge for answer in self.answers),
        }

    @property
    def receipt_ids(self) -> set[str]:
        return {a.receipt_id for a in self.adapters} | {a.receipt_id for a in self.answers}


class Scenario:
    """One run of the demo. `facts`: output of `loraledger up --json`; `installation` is only read from."""

    def __init__(
        self, facts: dict[str, Any], installation: Installation, screen: Screen, max_rows: int
    ) -> None:
        self._api_url = facts["api"]
        self._installation = installation
        self._screen = screen
        self._max_rows = max_rows
        users = [entry for entry in facts["accounts"] if entry["role"].startswith("user")]
        self._clients = {
            name: ApiClient(self._api_url, self._wallet(user["private_key"], facts["rpc"]), is_own=True)
            for name, user in zip(WALLETS, users, strict=True)
        }
        self.outcome = Outcome([self.account(name) for name in CONTRIBUTORS])

    def _wallet(self, private_key: str, rpc_url: str) -> Wallet:
        return Wallet(LocalKey(private_key), self._installation.deployment, lambda _: None, rpc_url)

    def account(self, name: str) -> Account:
        return self._clients[name].wallet.account

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    # 1

    def contribute(self) -> list[str]:
        """Contribute to both datanets; returns a snapshot of each."""
        for client in self._clients.values():
            client.sign_in()
        creator = self._clients[CREATOR]
        uploads: list[tuple[ApiClient, str]] = []
        ids = [create_datanet(creator, each.name, each.description) for each in DATANETS]
        for datanet_id, datanet in zip(ids, DATANETS, strict=True):
            for name, package in datanet.packages.items():
                uploads.append(self._contribute(name, datanet_id, package))
        for client, upload_id in uploads:
            actions.await_acceptance(client, upload_id)
        self._screen.say("recorded on chain and accepted by the curator")
        return [freeze(creator, datanet_id) for datanet_id in ids]

    def _contribute(self, name: str, datanet: int, package: str) -> tuple[ApiClient, str]:
        from backend.services.contribute.docstrings import build_dataset

        dataset = build_dataset(package, self._max_rows)
        client = self._clients[name]
        upload_id = actions.contribute(client, datanet, package, dataset.licence, dataset.lines())
        self._screen.say(f"{name} uploaded {len(dataset.rows):3} rows of {package} ({dataset.licence})")
        return client, upload_id

    # 2

    def train(self, snapshots: list[str], hyperparameters: dict[str, Any]) -> None:
        """Train, publish and register one adapter for each snapshot."""
        creator = self._clients[CREATOR]
        self._deposit(creator, TRAINING_DEPOSIT_UNITS)
        jobs = [actions.start_training(creator, snapshot, hyperparameters) for snapshot in snapshots]
        for datanet, job_id in zip(DATANETS, jobs, strict=True):
            job = self._follow(creator, datanet.name, job_id)
            adapter = actions.register(creator, datanet.name, job)
            self.outcome.adapters.append(adapter)
            losses = f"{adapter.eval_loss_base:.2f} -> {adapter.eval_loss_adapter:.2f}"
            self._screen.say(
                f"{datanet.name}: held-out loss {losses}, {adapter.cid[:16]}..., "
                f"version {adapter.version_id[:10]}..."
            )
        tokens = sum(adapter.num_charged_tokens for adapter in self.outcome.adapters)
        charged = self.outcome.charged_by_payer[CREATOR]
        self._screen.say(f"{in_dollars(charged)} charged for {tokens:,} tokens of training")

    def _deposit(self, client: ApiClient, units: int) -> None:
        self.outcome.channels.append(payments.deposit(client, units))
        self._screen.say(f"deposited {in_dollars(units * UNIT)}; the gateway holds a session key")

    def _follow(self, creator: ApiClient, name: str, job_id: str) -> dict[str, Any]:
        with self._screen.progress(name) as move:

            def show(event: dict[str, Any]) -> None:
                data = event["data"]
                if event["kind"] == "progress":
                    state = f"loss {data['loss']:.2f}, {data['tokens_per_second']:.0f} tokens/s"
                    move(data["step"], data["num_steps"], state)

            return actions.await_training(creator, job_id, show)

    # 3

    def ask(self) -> list[Answer]:
        """Ask both adapters and the base model, all questions concurrently."""
        self._deposit(self._clients[CONSUMER], DEPOSIT_UNITS)
        base = self._base_model()
        questions = [
            Question(adapter.model, text)
            for adapter, datanet in zip(self.outcome.adapters, DATANETS, strict=True)
            for text in datanet.questions
        ]
        questions += [Question(base, text) for datanet in DATANETS for text in datanet.questions[::2]]
        return self._ask(questions)

    def ask_again(self) -> list[Answer]:
        """Ask a few more questions, for the batch under the new fee."""
        return self._ask(
            [
                Question(adapter.model, text)
                for adapter, datanet in zip(self.outcome.adapters, DATANETS, strict=True)
                for text in datanet.questions[:LAST_QUESTIONS]
            ]
        )

    def _ask(self, questions: list[Question]) -> list[Answer]:
        key = payments.create_key(self._clients[CONSUMER], "demo")
        answers = ask_all(self._api_url, key, questions)
        self.outcome.answers += answers
        spent = sum(answer.charge for answer in answers)
        self._screen.say(f"{len(answers)} answers streamed, {in_dollars(spent)} charged")
        return answers

    def _base_model(self) -> str:
        models = self._clients[CONSUMER].get("/v1/models")["data"]
        return str(next(m["id"] for m in models if m["parent"] is None))

    # 4 and 5

    def settle(self) -> int:
        """Wait until all receipts so far are final; returns the number of the last batch."""
        ids = self.outcome.receipt_ids
        consumer = self._clients[CONSUMER]

        def final_batch() -> int | None:
            found = [consumer.get(f"/v1/receipts/{receipt_id}") for receipt_id in ids]
            if any(receipt.get("batch_state") != BatchState.FINAL for receipt in found):
                return None
            return max(int(receipt["batch"]) for receipt in found)

        number = wait_until(final_batch, "the batch to be final", SETTLE_SECONDS)
        self._screen.say(f"batch {number} is final")
        return number

    def claim(self) -> None:
        if not self.outcome.funds_before:
            self.outcome.funds_before = reconciliation.funds(self._installation.chain, self._earners())
        with ThreadPoolExecutor(len(CONTRIBUTORS)) as pool:
            claimed = list(pool.map(lambda name: actions.claim(self._clients[name]), CONTRIBUTORS))
        for name, amount in zip(CONTRIBUTORS, claimed, strict=True):
            self._screen.say(f"{name} claimed {in_dollars(amount)}")

    def _earners(self) -> list[Account]:
        operator = self._installation.operator.account
        treasury = self._terms().treasury
        return [*self.outcome.contributors, self.account(CREATOR), operator, treasury]

    # 6

    def vote(self) -> None:
        self.outcome.fee_before = self._terms().fee_ppm
        self.outcome.proposal_id = governance.change_fee(self._clients[VOTER], NEW_FEE_PPM, self._screen.say)

        def new_fee() -> int | None:
            fee = self._terms().fee_ppm
            return fee if fee == NEW_FEE_PPM else None

        wait_until(new_fee, "the new fee to be indexed", SETTLE_SECONDS)

    def _terms(self) -> Any:
        with self._installation.database.read() as tx:
            terms = tx.chain.latest_parameter_set()
        if terms is None:
            raise Conflict("no parameter set is indexed")
        return terms

    # Reconciliation

    def _last_receipt_of(self, number: int) -> ReceiptId:
        consumer = self._clients[CONSUMER]
        receipts = (consumer.get(f"/v1/receipts/{a.receipt_id}") for a in reversed(self.outcome.answers))
        return next(ReceiptId(Hash32(r["id"])) for r in receipts if r["batch"] == number)

    def names(self) -> dict[Account, str]:
        """Role of each account."""
        operator = self._installation.operator.account
        roles = {self._terms().treasury: "treasury", operator: "operator"}
        return roles | {self.account(name): name for name in WALLETS}

    def reconcile(self, number: int) -> Reconciliation:
        """Verify batch `number` on the chain, and reconcile all accounts."""
        receipt = self._last_receipt_of(number)
        self.outcome.verified = reconciliation.verify_on_chain(
            self._installation, number, receipt, self.outcome.contributors
        )
        self.outcome.fee_after = reconciliation.fee_of(self._installation, number)
        return reconciliation.reconcile(self._installation, self.outcome.channels, self.outcome.funds_before)
