"""Every snippet of docs/api.md, in the order of the page, against a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.hashing import keccak
from backend.domain.ids import DatanetId
from backend.domain.registries import Datanet
from backend.services.channels.moves import LEAST_MOVE
from inference.protocol import ToolCall
from inference.tool_calls import HERMES
from tests.integration.api.conftest import FUNDS
from tests.support.fakes import FakeChain
from tests.support.market import CHAIN_ID, some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from inference.protocol import Generate

PAGE = Path("docs/api.md")
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHER_LANGUAGE = re.compile(r"^```(?!python$)\w", re.MULTILINE)


class TokenChain(FakeChain):
    """With a payment token that takes signed authorisations."""

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        answers: dict[str, Any] = {
            "allowance": 0,
            "authorizationState": False,
            "eip712Domain": ("0x0f", "Test USD", "1", CHAIN_ID, some_account("PaymentToken"), "0x", []),
            "balanceOf": 10**12,
        }
        return answers[function] if function in answers else super().call(contract, function, *args)


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database, TokenChain())
    built.fund(FUNDS + LEAST_MOVE)
    known = Datanet(DatanetId(7), some_account("curator"), "docs", some_hash("description"), 4)
    built.view.datanet_list.append(known)
    return built


def speak_json(installation: ScriptedInstallation) -> None:
    """Where a schema or a call is asked for."""
    plain, generate = installation.engine.words, installation.engine.generate

    def generate_json(request: Generate) -> Any:
        if request.tools is not None and request.tools.is_required:
            call = HERMES.render(ToolCall("weather", '{"city": "Paris"}'))
            installation.engine.words = (call[:40], call[40:])
        else:
            installation.engine.words = ('{"text": ', '"hi"}') if request.sampling.constraint else plain
        return generate(request)

    installation.engine.generate = generate_json  # type: ignore[method-assign]


def test_every_snippet_runs(
    installation: ScriptedInstallation,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    speak_json(installation)
    monkeypatch.setenv("MARKET_URL", url)
    monkeypatch.setenv("WALLET_KEY", "0x" + keccak(b"payer").hex())
    monkeypatch.setenv("SNAPSHOT", some_hash("snapshot"))
    text = PAGE.read_text()
    snippets = SNIPPET.findall(text)
    names: dict[str, Any] = {"__name__": "how_to"}
    for number, snippet in enumerate(snippets, start=1):
        line = text[: text.index(snippet)].count("\n")
        exec(compile("\n" * line + snippet, f"{PAGE} snippet {number}", "exec"), names)  # noqa: S102
    names["market"].close()
    names["client"].close()
    printed = capsys.readouterr().out
    assert len(snippets) >= 12
    assert printed.count("Hello there, world.") >= 2
    assert "queued" in printed
    assert '{"city": "Paris"} Hello there, world.' in printed
    assert "Hello there, world.4" in printed
    assert "Greeting(text='hi')" in printed or "text='hi'" in printed


def test_the_page_shows_nothing_that_is_not_run() -> None:
    assert not OTHER_LANGUAGE.search(PAGE.read_text())
