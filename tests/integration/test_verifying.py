"""Runs docs/verifying.md as a payer in another operator's home folder, then with forged statements."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.chain.local_keys import local_private_key
from backend.chain.local_node import ROOT
from backend.cli.actor import Actor
from backend.cli.main import app
from backend.cli.operator import verification
from backend.client.api import ApiClient
from backend.client.keystore import LocalKey
from backend.client.receipt_file import parse_receipt
from backend.client.signing import Wallet
from backend.domain.attribution import DISTILLED_METHOD
from backend.installation.verification import Recomputation
from tests.integration.api.conftest import sign_in
from tests.support.two_operators import TwoOperators
from tools.local_market import PAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.installation.installation import Installation

GUIDE = ROOT / "docs" / "verifying.md"
PAYER = 7


@pytest.fixture
def operators(
    chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TwoOperators]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        yield TwoOperators(chain, hardhat_node.url, tmp_path, stack)


def ask(operators: TwoOperators) -> str:
    """Run the page's program, which writes request and answer to this folder; the receipt's id."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    messages = [{"role": "user", "content": "hello"}]
    with operators.client() as client, redirect_stdout(StringIO()) as printed:
        away = client.with_options(base_url=f"{operators.away.url}/v1")
        exec(program, {"client": away, "model": operators.version, "messages": messages})  # noqa: S102
    return printed.getvalue().strip()


def test_every_command_of_the_guide_does_what_the_page_says(
    operators: TwoOperators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, away = operators.home, operators.away
    receipt = ask(operators)
    away.installation.settler.run_once(is_forced=True)
    away.pump()
    home.pump()
    # Brings the batch's data, as `watch` does.
    home.installation.audit.auditor.follow(away.installation.operator.account)

    def connect(_actor: Actor) -> ApiClient:
        wallet = Wallet(LocalKey(local_private_key(PAYER)), away.installation.deployment, lambda _: None)
        return ApiClient(away.url, wallet).sign_in()

    @contextmanager
    def opened() -> Iterator[Installation]:
        yield home.installation

    monkeypatch.setattr(Actor, "connect", connect)
    monkeypatch.setattr(verification, "open_installation", opened)
    (tmp_path / "market.json").write_bytes(home.settings.deployment_file.read_bytes())
    said = []
    commands = re.findall(r"^```sh\n(.*?)\n```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    for command in commands:
        typed = command.replace("$RECEIPT", receipt).replace("http://127.0.0.1:8545", home.settings.rpc_url)
        result = CliRunner().invoke(app, shlex.split(typed)[1:])
        assert result.exit_code == 0, (command, result.output, result.exception)
        said.append(result.output)
    assert len(commands) == 6
    assert receipt in said[0]
    names = ["hash", "signature", "slices", "charge", "batch", "content", "execution", "attribution"]
    for output, expected in zip(said[2:], (names[:5], names[:5], names[:6], names), strict=True):
        lines = [line.split()[:2] for line in output.splitlines()]
        assert lines == [["right", name] for name in expected], output
    _check_lies(operators, tmp_path)
    _check_example(operators, tmp_path)


def _check_example(operators: TwoOperators, folder: Path) -> None:
    """Run the page's program with the package as built, on the API and the node."""
    node, source = ROOT / "node_modules" / ".bin" / "node", ROOT / "clients" / "typescript"
    package = folder / "node_modules" / "@loraledger" / "verify"
    package.mkdir(parents=True)
    shutil.copy(source / "package.json", package)
    subprocess.run([node, source / "build.mjs", "--out", package / "dist"], check=True)
    (program,) = re.findall(r"^```js\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    (folder / "example.mjs").write_text(program)
    away = operators.away
    environment = {
        "LORALEDGER_MARKET": away.url,
        "MARKET_TOKEN": sign_in(away.url, PAYERS[0]),
        "ETH_RPC_URL": away.settings.rpc_url,
    }
    done = subprocess.run(
        [node, "example.mjs"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [line.split()[:2] for line in done.stdout.splitlines()]
    names = ["hash", "signature", "slices", "charge", "batch", "earnings", "content"]
    assert found == [[name, "true"] for name in names], done.stdout


def _check_lies(operators: TwoOperators, folder: Path) -> None:
    """Each with a receipt whose other parts are right."""
    shown = parse_receipt((folder / "receipt.json").read_bytes())
    installation = operators.home.installation
    body, answer = (folder / "request.json").read_bytes(), (folder / "answer.txt").read_text()
    assert shown.signed.method == DISTILLED_METHOD

    honest = Recomputation(installation, shown, body, answer)
    repeated = honest.execute()
    (part,) = shown.signed.slices
    first, second = part.shares
    swapped = (replace(first, ppm=second.ppm), replace(second, ppm=first.ppm))
    lying = replace(shown, signed=replace(shown.signed, slices=(replace(part, shares=swapped),)))
    (attribution,) = Recomputation(installation, lying, body, answer).attribution(repeated)
    assert attribution.is_right is False

    other = Recomputation(installation, shown, body, "Z" + answer[1:])
    assert other.content().is_right is False  # type: ignore[union-attr]
    assert other.execution(repeated).is_right is False

    forged = replace(shown, signed=replace(shown.signed, signature="0x" + "11" * 64 + "1b"))
    found: dict[str, Any] = {c.name: c.is_right for c in installation.audit.verification.checks(forged)}
    assert found.pop("signature") is False
    assert set(found.values()) == {True}
