"""Complete installations on one chain, wired as in production, each in a separate home folder."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from backend.api.app import create_app
from backend.chain.keys import create_key, local_account
from backend.db.migrate import upgrade
from backend.deployment.deployment_file import save_deployment
from backend.domain.hashing import TypedDomain
from backend.installation.api_services import api_services
from backend.installation.installation import Installation
from backend.loopback import listen
from backend.settings import Settings
from backend.web.app import add_pages

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.keys import LocalSigner
    from backend.domain.ids import Account
    from backend.installation.base_model import BaseModelInfo
    from tools.local_market import LocalMarket

STAKE = 1_000_000_000
PASSWORD = "of the test"


class RunningOperator:
    """One operator. `pump` runs in one call what its daemons do continuously."""

    def __init__(
        self, home: Path, market: LocalMarket, facts: BaseModelInfo, rpc_url: str, url: str, **settings: Any
    ) -> None:
        home.mkdir()
        save_deployment(market.chain.deployment, home / "deployment.json")
        (home / "password").write_text(PASSWORD)
        self.market, self.url = market, url
        self.settings = Settings(
            home=home,
            rpc_url=rpc_url,
            confirmations=0,
            max_lag_seconds=10**6,
            public_url=url,
            keystore_password_file=home / "password",
            engine_dtype="float32",
            engine_threads=1,
            **settings,
        )
        self.installation = Installation(self.settings)
        upgrade(self.installation.database.engine)
        self.installation.save_base_model(facts)

    def pump(self) -> None:
        for _ in range(3):
            self.installation.sender.run_once()
        self.installation.indexer.catch_up()

    def announce(self) -> None:
        self.installation.membership.announce(self.url)
        self.pump()


def new_operator(home: Path, market: LocalMarket) -> dict[str, str]:
    """Create a second operator with keys in a key store, stake and receipt key; returns its settings."""
    operator, receipt_key = (create_key(home / "keys", PASSWORD) for _ in range(2))
    registry = market.chain.address("OperatorRegistry")
    market.rpc("hardhat_setBalance", operator.account, hex(10**20))
    market.send(local_account(0), "TestUSD", "mint", operator.account, STAKE)
    market.send(operator, "TestUSD", "approve", registry, STAKE)
    market.send(operator, "OperatorRegistry", "stake", STAKE)
    domain = TypedDomain(market.chain.chain_id, registry)
    consent = receipt_key.sign(domain.receipt_key_digest(operator.account))
    market.send(operator, "OperatorRegistry", "addReceiptKey", receipt_key.account, consent)
    return {"operator": operator.account, "receipt_key": receipt_key.account}


def deposit(market: LocalMarket, payer: LocalSigner, operator: Account, units: int) -> None:
    """Open a channel of the payer with this operator, without a session key."""
    grant = {"key": "0x" + "00" * 20, "cap": 0, "expiry": 0}
    market.send(payer, "TestUSD", "approve", market.vault.contract, units)
    market.send(payer, "PaymentVault", "deposit", operator, market.settlement.contract, units, grant)


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """Bind a loopback port before the installation serves on it; yields the socket and its URL."""
    with listen() as listener:
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(operating: RunningOperator, listener: socket.socket) -> Iterator[None]:
    app = create_app(api_services(operating.installation), operating.settings)
    add_pages(app, operating.settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
        operating.installation.close()


@contextmanager
def pumping(operator: RunningOperator) -> Iterator[None]:
    """The operator's daemons run meanwhile."""
    has_ended = threading.Event()

    def pump() -> None:
        while not has_ended.wait(0.1):
            operator.pump()

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
