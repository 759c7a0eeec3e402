"""Runs every command of docs/deploy.md and docs/joining-a-market.md, on a chain with Sepolia's id."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from backend.chain.keys import import_key
from backend.chain.local_node import ROOT
from backend.chain.node import Node
from backend.client.waiting import wait_until
from backend.deployment.contracts import CONTRACTS
from backend.deployment.deployer import Deployer
from backend.domain.ids import Account
from backend.domain.money import PRICE
from backend.loopback import free_port
from tests.fixtures_engine import make_model
from tests.support.deployment import fund, key, public_node, put_token

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = ROOT / "docs" / "deploy.md"
JOINING = ROOT / "docs" / "joining-a-market.md"
ENDPOINT = "https://sepolia.example.org"
SEPOLIA = 11155111
TOKEN_AT = Account("0x1c7d4b196cb0c7b01d743fbc6116a902379c7238")
PLACEHOLDER = re.compile(r"0x([0-9a-f]{2})\1{19}")
DELEGATE = "loraledger market delegate --key"
WELL = ("disk", "database", "chain", "indexer", "engine", "operator", "gas", "base")
PROCESSES = "processes running here: serve, index, send, settle, watch, relay; not running here: worker"
HOLDERS = [key("0x" + digit * 40) for digit in "123456"]


def commands(page: Path) -> list[str]:
    """Code blocks of the page with commands."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


class Shell:
    """A shell session that keeps its variables."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self._url = folder, url
        self._state = folder / ".shell"
        self._state.write_text("")
        programs = folder / ".bin"
        programs.mkdir()
        command = programs / "loraledger"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m backend.cli.main "$@"\n')
        command.chmod(0o755)
        self._environment = {
            "PATH": f"{programs}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
        }

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        script = script.replace(ENDPOINT, self._url)
        return subprocess.run(
            ["bash", "-euc", f"set -a; . {self._state}; {script}\nexport -p > {self._state}"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, script: str) -> None:
        """Run the script's commands in the background until `end`."""
        started = self.run(f"{script}\njobs -p >> .pids")
        assert started.returncode == 0, started.stderr

    def end(self) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def num_running(self) -> int:
        return sum(Path(f"/proc/{pid}/exe").exists() for pid in self._pids())

    def _pids(self) -> list[int]:
        known = self.folder / ".pids"
        return [int(pid) for pid in known.read_text().split()] if known.is_file() else []

    def value(self, name: str) -> str:
        return self.run(f'printf %s "${name}"').stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with public_node(tmp_path_factory.mktemp("sepolia"), SEPOLIA) as server:
        connected = Node.connect(server.url)
        put_token(connected, TOKEN_AT)
        yield connected
        connected.close()


@pytest.fixture
def shell(node: Node, tmp_path: Path) -> Iterator[Shell]:
    shutil.copytree(ROOT / "deployments", tmp_path / "deployments")
    made = Shell(tmp_path, str(node.rpc._provider.endpoint_uri))
    yield made
    made.end()


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_every_command_of_the_guide_works_as_written(shell: Shell, node: Node) -> None:
    with_key, copy, plan, deploy, delegate, check, sources = commands(GUIDE)
    done = shell.run(with_key)
    assert done.returncode == 0, done.stderr
    deployer = Account(shell.value("DEPLOYER"))
    assert done.stdout.split() == [deployer]
    fund(node, deployer)

    assert shell.run(copy).returncode == 0
    refused = shell.run(plan)
    assert refused.returncode == 1
    assert "placeholder" in refused.stderr
    assert "Traceback" not in refused.stderr
    _edit(shell.folder / "terms.toml")
    planned = shell.run(plan)
    assert planned.returncode == 0, planned.stderr
    assert "quorum 10 %: 1,000,000 of the 5,400,000 that can vote" in planned.stdout
    assert "at least 2 holders" in planned.stdout

    deployed = shell.run(deploy)
    assert deployed.stdout.strip() == "deployments/11155111.json", deployed.stderr
    sent = node.num_transactions(deployer)
    assert shell.run(deploy).stdout == deployed.stdout  # typed again: nothing is sent
    assert node.num_transactions(deployer) == sent

    too_early = shell.run(check)
    assert too_early.returncode == 1
    assert too_early.stdout.startswith("error: MarketGovernor: 0 votes are delegated")
    _delegate(shell, node, delegate)
    fine = shell.run(check)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout.startswith(f"no differences: {len(CONTRACTS)} contracts at block")
    assert json.loads(shell.run(check.strip() + " --json").stdout) == []

    written = shell.run(sources)
    assert len(written.stdout.split()) == len(CONTRACTS) + 1, written.stderr
    _explorer_could_verify(shell.folder, node)
    _operates(shell, node, commands(JOINING))


def _edit(terms: Path) -> None:
    """Replace the placeholders by real accounts, as the reader does."""
    terms.write_text(PLACEHOLDER.sub(lambda found: key(found[0]).account, terms.read_text()))


def _delegate(shell: Shell, node: Node, command: str) -> None:
    password = (shell.folder / "loraledger-password").read_text().strip()
    for holder in HOLDERS[:2]:  # as many as the quorum takes
        fund(node, holder.account)
        import_key(shell.folder / "deployer" / "keys", holder._key.secret, password)
        done = shell.run(f"HOLDER={holder.account}; {command}")
        assert done.stdout.startswith("mined in block"), done.stderr


def _explorer_could_verify(folder: Path, node: Node) -> None:
    """Names, compiler and arguments, which the input does not contain."""
    listed = json.loads((folder / "sources" / "contracts.json").read_text())
    record = json.loads((folder / "deployments" / "11155111.json").read_text())
    assert list(listed) == list(CONTRACTS)
    for contract, entry in listed.items():
        source, name = entry["name"].split(":")
        given = json.loads((folder / "sources" / entry["input"]).read_text())
        assert (name, given["language"]) == (contract, "Solidity")
        assert source in given["sources"]
        assert entry["compiler"] == "v0.8.34+commit.80d5c536"
        sent = node.rpc.request("eth_getTransactionByHash", record["transactions"][contract])["input"]
        assert sent.endswith(entry["constructor_arguments"])
        assert entry["address"] == record["addresses"][contract]


def _operates(shell: Shell, node: Node, blocks: list[str]) -> None:
    """A fresh home serves and can settle after the commands of the page on joining."""
    install, follow, join, show, serve, look = blocks
    made = shell.run(install)
    assert made.returncode == 0, made.stderr
    operator, watcher = map(Account, made.stdout.split())
    model, port = make_model(shell.folder / "Tiny"), free_port()
    shell.run(f"LORALEDGER_BASE_MODEL={model}; LORALEDGER_ENGINE_DTYPE=float32; LORALEDGER_API_PORT={port}")
    shell.start(follow)  # and they make the tables
    ill = shell.run(f"{look.strip()} --json")
    assert ill.returncode == 1
    assert {"operator", "base"} < json.loads(ill.stdout).keys()
    refused = shell.run(join)
    assert refused.returncode == 1
    assert "no coin to pay for gas" in refused.stderr
    fund(node, operator, watcher)
    _mint(node, operator, 1_000 * 10**6)
    joined = shell.run(join)
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout.count("is confirmed: 0x") == 6
    assert "answers      0.2 and 0.4 dollars per million prompt and completion tokens" in joined.stdout
    sent = node.num_transactions(operator)
    _typed_again_sends_only_the_endpoint(shell, join)
    assert node.num_transactions(operator) == sent + 1
    shown = wait_until(lambda: _done(shell.run(show)), "the index to have the receipt key", 120)
    assert "endpoint     https://market.example\n" in shown
    assert "stake        1,000 dollars\n" in shown

    shell.start(serve)
    well = wait_until(lambda: _done(shell.run(look)), "all to be well", 300)
    assert [line.split() for line in well.splitlines()[:-1]] == [[part, "ok"] for part in WELL]
    answer = wait_until(lambda: _answer(f"http://127.0.0.1:{port}/v1/models"), "the API to answer", 300)
    assert shell.num_running() == 7
    assert shell.run(look).stdout.splitlines()[-1] == PROCESSES
    (model_served,) = answer.json()["data"]
    assert model_served["id"] == "Tiny"
    assert [model_served[f"{name}_price"] for name in ("prompt", "completion")] == [
        PRICE.render(200_000),
        PRICE.render(400_000),
    ]


def _typed_again_sends_only_the_endpoint(shell: Shell, join: str) -> None:
    again = shell.run(join)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("nothing to do") == 2
    assert again.stdout.count("is confirmed: 0x") == 1


def _mint(node: Node, account: Account, units: int) -> None:
    sender = Deployer(node, key("who gives"))
    fund(node, sender.account)
    sender.addresses = {"TestUSD": TOKEN_AT}
    sender.send("TestUSD", "mint", account, units)


def _done(command: subprocess.CompletedProcess[str]) -> str | None:
    return command.stdout if command.returncode == 0 else None


def _answer(url: str) -> httpx.Response | None:
    try:
        answer = httpx.get(url)
    except httpx.TransportError:
        return None
    return answer if answer.is_success else None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("loraledger market check none.json", "no deployment record none.json"),
        ("loraledger market check", "no deployment record deployments/11155111.json"),
        ("loraledger market deploy none.toml --key 0x12", "no terms file none.toml"),
        ("loraledger market key", "LORALEDGER_KEYSTORE_PASSWORD_FILE"),
        ("LORALEDGER_KEYSTORE_PASSWORD_FILE=none; loraledger market key", "no password file none"),
        (
            "touch empty; LORALEDGER_KEYSTORE_PASSWORD_FILE=empty; loraledger market key",
            "password file empty is empty",
        ),
        (
            f"echo x > word; LORALEDGER_KEYSTORE_PASSWORD_FILE=word; {DELEGATE} 0x12",
            "'0x12' is not an address",
        ),
        (
            f"echo x > word; LORALEDGER_KEYSTORE_PASSWORD_FILE=word; {DELEGATE} {HOLDERS[0].account}",
            "no key of",
        ),
        ("LORALEDGER_RPC_URL=http://127.0.0.1:9; loraledger market check", "not reachable"),
    ],
)
def test_a_command_that_cannot_work_explains_why(shell: Shell, command: str, message: str) -> None:
    done = shell.run(f"LORALEDGER_RPC_URL={ENDPOINT}; {command}")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.deep
@pytest.mark.parametrize("contract", ["PaymentVault", "Disputes", "TimelockController"])
def test_the_sources_compile_to_the_deployed_code(contract: str, tmp_path: Path) -> None:
    """Compile like an explorer, one contract of each input of the build."""
    from backend.deployment.sources import ARTIFACTS, _artifact, _build_info, _explorer_input

    built = _artifact(contract, ARTIFACTS)
    given = tmp_path / "input.json"
    given.write_text(json.dumps(_explorer_input(_build_info(built["buildInfoId"], ARTIFACTS)["input"])))
    script = (
        "const solc = require('solc'); const fs = require('fs');"
        "process.stdout.write(solc.compile(fs.readFileSync(process.argv[1], 'utf8')))"
    )
    node = ROOT / "node_modules" / ".bin" / "node"
    compiled = subprocess.run(
        [node, "-e", script, given], cwd=ROOT, capture_output=True, text=True, check=True
    )
    output = json.loads(compiled.stdout)["contracts"][built["inputSourceName"]][contract]
    assert "0x" + output["evm"]["bytecode"]["object"] == built["bytecode"]
