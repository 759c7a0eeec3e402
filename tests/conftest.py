"""Fixtures for all tests: real servers, an empty database and a fresh deployment for each test."""

from __future__ import annotations

import gc
from functools import cache
from typing import TYPE_CHECKING

import httpx
import pytest
import typer.testing
from hypothesis import HealthCheck, settings

from backend.app import freeze_heap
from backend.chain.client import ChainClient
from backend.db.unit_of_work import Database
from backend.deployment.local import deploy_local
from tests.support.empty_databases import PostgresTables, open_empty
from tests.support.light_install import LightInstall, build_wheel
from tests.support.servers import hardhat_server, postgres_schema, postgres_server, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment


# By default httpx gives up after 5 s, within which a busy machine may not answer.
httpx._config.DEFAULT_TIMEOUT_CONFIG.read = 60.0
# Each client reads all certificates of the machine, which takes longer than most requests of tests.
httpx._transports.default.create_ssl_context = cache(httpx._transports.default.create_ssl_context)
# Each call of the command line builds the parsers of all commands, in a tenth of a second.
typer.testing._get_command = cache(typer.testing._get_command)
# Deterministic examples, without deadlines.
settings.register_profile(
    "steady", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(autouse=True, scope="module")
def frozen_heap() -> Iterator[None]:
    """Collections of the imported modules' objects are a fifth of the processor time of some tests. What a
    module leaves open is reported at its end.
    """
    freeze_heap()
    yield
    gc.collect()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # so that libraries do not report what is left as leaked


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    with postgres_server() as uri:
        yield uri


@pytest.fixture
def postgres_url(postgres_uri: str) -> Iterator[str]:
    """An empty database on PostgreSQL."""
    with postgres_schema(postgres_uri) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def postgres_tables(postgres_uri: str) -> PostgresTables:
    return PostgresTables(postgres_uri)


@pytest.fixture
def postgres_database(postgres_tables: PostgresTables) -> Iterator[Database]:
    """A database with all tables, for tests of what only PostgreSQL does."""
    with postgres_tables.empty() as url:
        opened = Database.open(url)
        yield opened
        opened.close()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A database with all tables, for tests that do not depend on the database engine."""
    opened = open_empty(tmp_path / "embedded.db")
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with all tables, on each of the engines we support."""
    if request.param == "sqlite":
        opened = open_empty(tmp_path / "test.db")
        yield opened
        opened.close()
    else:
        yield request.getfixturevalue("postgres_database")


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> LightInstall:
    """The wheel without extras, in an environment of its own."""
    folder = tmp_path_factory.mktemp("light")
    return LightInstall(folder / "environment", build_wheel(folder / "sources"))


@pytest.fixture(scope="session")
def hardhat_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNode]:
    with hardhat_server(tmp_path_factory.mktemp("hardhat")) as node:
        yield node


@pytest.fixture(scope="session")
def deployed(hardhat_node: LocalNode) -> Deployment:
    """The contracts, deployed once. Use `deployment` in tests."""
    return deploy_local(hardhat_node.url)


@pytest.fixture
def deployment(hardhat_node: LocalNode, deployed: Deployment) -> Iterator[Deployment]:
    """The contracts in their state after deployment; the chain is reverted after the test."""
    with snapshot(hardhat_node.url):
        yield deployed


@pytest.fixture
def chain(hardhat_node: LocalNode, deployment: Deployment) -> Iterator[ChainClient]:
    client = ChainClient.connect(hardhat_node.url, deployment)
    yield client
    client.close()
