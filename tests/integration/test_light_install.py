"""The wheel without extras: what it brings, which commands it has, and what the others say."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backend.chain.local_node import ROOT
from tests.support.market import CHAIN_ID, Market, some_hash
from tests.support.receipt_files import receipt_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.light_install import LightInstall

MOST_BYTES = 60_000_000
HEAVY = {
    "alembic",
    "celery",
    "coincurve",
    "fastapi",
    "numpy",
    "openai",
    "peft",
    "pydantic-settings",
    "requests",
}
HEAVY |= {"sqlalchemy", "torch", "transformers", "web3"}
KECCAK = "safe-pysha3>=1.0.4,<2"
"""The only package that the domain imports."""


def test_it_is_small_and_brings_nothing_of_an_installation(light: LightInstall) -> None:
    assert light.required.keys() & HEAVY == set()
    assert light.num_bytes < MOST_BYTES


def test_the_import_contracts_name_every_package_that_they_forbid() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {each["id"]: each for each in project["tool"]["importlinter"]["contracts"]}
    modules: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for name in distributions:
            modules.setdefault(canonicalize_name(name), set()).add(module)
    extras = project["project"]["optional-dependencies"]
    expected = {
        "light": {*extras["server"], *extras["operator"]} - {"loraledger[server]"},
        "domain-packages": set(project["project"]["dependencies"]) - {KECCAK},
    }
    for contract, requirements in expected.items():
        forbidden = set(contracts[contract]["forbidden_modules"])
        for requirement in map(Requirement, requirements):
            assert modules[canonicalize_name(requirement.name)] & forbidden, (contract, requirement)


def test_the_wheel_has_the_data_that_the_client_reads(light: LightInstall) -> None:
    with ZipFile(light.wheel) as wheel:
        names = set(wheel.namelist())
    assert {"backend/py.typed", "backend/chain/abi/PaymentVault.json"} <= names
    code = "from backend.client.deployments import SHIPPED; from backend.chain.contracts import all_errors; "
    found = light.run("python", "-c", code + "print(len(all_errors()) > 100, SHIPPED.parent.name)")
    assert found.stdout == "True site-packages\n", found.stderr


def test_every_module_of_the_client_can_be_imported(light: LightInstall) -> None:
    code = (
        "import importlib, pkgutil, backend.client, backend.domain\n"
        "for package in (backend.client, backend.domain):\n"
        "    for each in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(each.name)"
    )
    assert light.run("python", "-c", code).stderr == ""


def test_every_command_is_listed_and_has_help(light: LightInstall) -> None:
    shown = light.run("loraledger", "--help")
    assert "deposit" in shown.stdout
    assert "Run the local stack" in shown.stdout
    assert "--challenge" in light.run("loraledger", "watch", "--help").stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [("up", "operator"), ("engine", "operator"), ("operator show", "server"), ("watch --once", "server")],
)
def test_a_command_of_an_installation_says_in_one_line_which_extra_it_needs(
    light: LightInstall, command: str, extra: str
) -> None:
    done = light.run("loraledger", *command.split())
    name = command.partition(" --")[0]
    assert done.stderr == (
        f"error: `loraledger {name}` needs the extra {extra}, which the light install does not have: "
        f"pip install 'loraledger[{extra}]'\n"
    )
    assert done.returncode == 1


def test_the_parts_of_actors_commands_that_need_more_say_so_too(light: LightInstall, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    for command in (
        f"data validate {rows} --licence MIT",
        "adapter pull owner/name folder",
        "receipts verify receipt.json --re-execute",
    ):
        done = light.run("loraledger", *command.split())
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.endswith("pip install 'loraledger[operator]'\n")
    demo = light.run("loraledger", "demo")
    assert "the extras operator and demo" in demo.stderr
    assert "'loraledger[operator,demo]'" in demo.stderr


def test_a_wallet_is_made_and_a_market_asked_for(light: LightInstall, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "ETH_PASSWORD": str(tmp_path / "password")}
    (tmp_path / "password").write_text("secret")
    made = light.run("loraledger", "wallet", "new", "alice", environment=home)
    listed = light.run("loraledger", "wallet", "list", environment=home)
    assert listed.stdout == f"alice  {made.stdout}"
    asked = light.run("loraledger", "balance", environment=home)
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1)
    assert "name a market with --market" in asked.stderr


def test_a_receipt_is_verified_offline(light: LightInstall, tmp_path: Path) -> None:
    market = Market()
    shown = receipt_file(market.serve())
    file, record = tmp_path / "receipt.json", tmp_path / "record.json"
    file.write_text(json.dumps(shown))
    pinned = {"chain_id": CHAIN_ID, "block_number": 1, "block_hash": some_hash("block")}
    record.write_text(json.dumps({**pinned, "addresses": {"Settlement": market.settlement}}))
    arguments = ("receipts", "verify", str(file), "--deployment", str(record), "--json")
    done = light.run("loraledger", *arguments)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    results = {"hash": True, "signature": None, "slices": True, "charge": None, "batch": None}
    assert {name: check["is_right"] for name, check in found.items()} == results
    assert market.receipt_key.account in found["signature"]["message"]
    shown["receipt"]["charge"] = "1"
    file.write_text(json.dumps(shown))
    assert light.run("loraledger", *arguments).returncode == 1
