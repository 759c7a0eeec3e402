"""Writes the files with which a block explorer verifies the contracts' source code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.deployment.builds import load_build
from backend.deployment.contracts import CONTRACTS
from backend.deployment.record import check_chain
from backend.disk.files import write_durably
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from backend.chain.node import Node
    from backend.deployment.record import Record

ARTIFACTS = Path(__file__).parents[2] / "build" / "artifacts"
"""Hardhat's build, which `make contracts` writes."""


def write_sources(node: Node, record: Record, folder: Path, artifacts: Path = ARTIFACTS) -> list[Path]:
    """Write the verification files of all contracts and return their paths.

    `<folder>/<contract>.json` is the compiler's standard JSON input with the settings of the build.
    `contracts.json` lists each contract's address, qualified name, compiler and constructor arguments.

    Errors: as of `check_chain`; `NotFound` without Hardhat's build; `InvalidInput` if it is not that of this
    version, or a contract on the chain was not created by it.
    """
    check_chain(node, record)
    folder.mkdir(parents=True, exist_ok=True)
    listed: dict[str, Any] = {}
    written = []
    for contract in CONTRACTS:
        built = _artifact(contract, artifacts)
        info = _build_info(built["buildInfoId"], artifacts)
        path = folder / f"{contract}.json"
        write_durably(path, json.dumps(_explorer_input(info["input"]), indent=1) + "\n")
        written.append(path)
        listed[contract] = {
            "address": record.addresses[contract],
            "name": f"{built['inputSourceName']}:{contract}",
            "compiler": f"v{info['solcLongVersion']}",
            "input": path.name,
            "constructor_arguments": _constructor_arguments(node, record, contract, built["bytecode"]),
        }
    write_durably(folder / "contracts.json", json.dumps(listed, indent=2) + "\n")
    return [*written, folder / "contracts.json"]


def _explorer_input(build_input: dict[str, Any]) -> dict[str, Any]:
    """The build's input without the outputs that only Hardhat requests."""
    outputs = {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}}
    return build_input | {"settings": build_input["settings"] | {"outputSelection": outputs}}


def _artifact(contract: str, artifacts: Path) -> dict[str, Any]:
    built = _read(next(artifacts.glob(f"**/{contract}.sol/{contract}.json"), artifacts / f"{contract}.json"))
    if built["bytecode"] != "0x" + load_build(contract).creation.hex():
        raise InvalidInput(f"{artifacts} has another {contract} than this version: run `make contracts`")
    return built


def _build_info(name: str, artifacts: Path) -> dict[str, Any]:
    return _read(artifacts / "build-info" / f"{name}.json")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"no {path}: run `make contracts`, which compiles the contracts", param="artifacts")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _constructor_arguments(node: Node, record: Record, contract: str, creation: str) -> str:
    """The data after the creation code, hex without 0x, as explorers expect it."""
    tx = node.rpc.request("eth_getTransactionByHash", record.transactions[contract])
    if tx is None:
        raise NotFound(f"the node does not have the transaction that created {contract}", param="deployment")
    if not tx["input"].startswith(creation):
        raise InvalidInput(
            f"{contract} was not created by this build: check out the version it was deployed from",
            param="deployment",
        )
    arguments: str = tx["input"][len(creation) :]
    return arguments
