"""The API on a real server, a real database and real signatures; engine and chain are scripted."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from openai import OpenAI

from backend.api.app import create_app
from backend.domain.sign_in_message import personal_digest
from backend.loopback import listen
from backend.settings import Settings
from backend.web.app import add_pages
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

    from backend.chain.keys import LocalSigner
    from backend.db.unit_of_work import Database

FUNDS = 100_000


@dataclass
class Api:
    """One installation on loopback, and its payer's ways to talk to it."""

    installation: ScriptedInstallation
    url: str
    session: str
    key: str

    @cached_property
    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def http(self, token: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {token or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


def sign_in(url: str, signer: LocalSigner) -> str:
    return str(tokens(url, signer)["token"])


def tokens(url: str, signer: LocalSigner) -> dict[str, str]:
    challenge = httpx.post(f"{url}/v1/auth/challenges", json={"account": signer.account}).json()
    signature = signer.sign(personal_digest(challenge["message"]))
    answer = httpx.post(
        f"{url}/v1/auth/sessions", json={"message": challenge["message"], "signature": signature}
    )
    assert answer.status_code == 201, answer.text
    found: dict[str, str] = answer.json()
    return found


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.fund(FUNDS)
    return built


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[FastAPI, str]]:
    """One server for all tests; each test brings its own services."""
    with running_server(Settings(max_upload_bytes=1000)) as found:
        yield found


@contextmanager
def running_server(settings: Settings) -> Iterator[tuple[FastAPI, str]]:
    """The API without services, and its address."""
    services: Any = None
    app = create_app(services, settings)
    add_pages(app, settings)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with listen() as listener:  # connections wait in the backlog until the server takes them
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
        uvicorn_server.should_exit = True
        thread.join()


@pytest.fixture
def url(server: tuple[FastAPI, str], installation: ScriptedInstallation) -> str:
    app, address = server
    app.state.services = installation.services
    return address


@pytest.fixture
def api(installation: ScriptedInstallation, url: str) -> Iterator[Api]:
    session = sign_in(url, installation.payer)
    answer = httpx.post(
        f"{url}/v1/keys", json={"name": "test"}, headers={"authorization": f"Bearer {session}"}
    )
    built = Api(installation, url, session, answer.json()["secret"])
    yield built
    built.openai.close()
