"""The contracts' interfaces: encodes calls, decodes results, logs and custom errors.

Values on our side of the border are plain: integers, booleans, text, lower-case 0x-hex for bytes and
addresses, lists, and dicts for structs. On the way in, decimal strings pass as integers (arguments come out
of JSON) and tuples as structs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any

from eth_abi.abi import default_codec
from eth_abi.exceptions import EncodingError

from backend.domain.chain import Reverted
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.hashing import keccak

if TYPE_CHECKING:
    from collections.abc import Sequence

ARRAY = re.compile(r"^(.*)\[\d*\]$")
BUILT_IN_ERRORS: list[dict[str, Any]] = [
    {"type": "error", "name": "Error", "inputs": [{"name": "message", "type": "string"}]},
    {"type": "error", "name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]},
]

PAYMENT_TOKEN_ABI = [
    {
        "type": "function",
        "name": name,
        "inputs": [{"name": "", "type": kind} for kind in inputs],
        "outputs": [{"name": "", "type": kind} for kind in outputs],
    }
    for name, inputs, outputs in (
        ("balanceOf", ["address"], ["uint256"]),
        ("allowance", ["address", "address"], ["uint256"]),
        ("approve", ["address", "uint256"], ["bool"]),
        ("name", [], ["string"]),
        ("version", [], ["string"]),
        ("DOMAIN_SEPARATOR", [], ["bytes32"]),
        ("authorizationState", ["address", "bytes32"], ["bool"]),
        (
            "eip712Domain",
            [],
            ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"],
        ),
    )
]
"""What we ask of any payment token: ERC-20, EIP-712 by EIP-2612 or ERC-5267, EIP-3009."""

Parameter = dict[str, Any]
"""One input or output of an ABI entry: `name`, `type`, `components` of a tuple."""


@dataclass(frozen=True)
class Entry:
    """A function, event or error."""

    name: str
    inputs: list[Parameter]
    outputs: list[Parameter]

    @cached_property
    def signature(self) -> str:
        return f"{self.name}({','.join(map(_type, self.inputs))})"

    @cached_property
    def topic(self) -> bytes:
        """Keccak of the signature: `topics[0]` of an event, its first four bytes the selector."""
        return keccak(self.signature.encode())

    def encode(self, args: Sequence[Any]) -> bytes:
        """Call data. `InvalidInput` says which argument does not fit."""
        return self.topic[:4] + encode(self.inputs, args, self.signature)

    def plain_args(self, args: Sequence[Any]) -> dict[str, Any]:
        """Arguments by name in plain form, as they would come back from the chain."""
        return self.decode_args(encode(self.inputs, args, self.signature))

    def decode_args(self, data: bytes) -> dict[str, Any]:
        """Arguments by name."""
        return _named(self.inputs, decode(self.inputs, data))

    def decode_result(self, data: bytes) -> Any:
        """The value; a tuple of values where the function returns several; None where it returns none."""
        values = decode(self.outputs, data)
        return values[0] if len(values) == 1 else tuple(values) or None

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Arguments by name. Indexed strings and arrays are their hashes, all that the log holds."""
        indexed, remaining = self._parts_of_log
        values = iter(decode(remaining, data))
        found = iter(decode(indexed, b"".join(topics[1:])))
        return {p["name"]: next(found) if p["indexed"] else next(values) for p in self.inputs}

    @cached_property
    def _parts_of_log(self) -> tuple[list[Parameter], list[Parameter]]:
        """What the topics hold, a word each, and what the data holds."""
        indexed = [_as_topic(p) for p in self.inputs if p["indexed"]]
        return indexed, [p for p in self.inputs if not p["indexed"]]


class Interface:
    """The ABI of one contract."""

    def __init__(self, name: str, abi: list[dict[str, Any]]) -> None:
        self.name = name
        self.abi = abi
        entries = [(e["type"], _entry(e)) for e in abi]
        self.functions = [entry for kind, entry in entries if kind == "function"]
        self.events = {entry.topic: entry for kind, entry in entries if kind == "event"}
        self.errors = {entry.topic[:4]: entry for kind, entry in entries if kind == "error"}
        self.constructor = next(
            (e for kind, e in entries if kind == "constructor"), Entry("constructor", [], [])
        )

    def function(self, name: str, args: Sequence[Any]) -> Entry:
        """By name, or by whole signature; where the name is overloaded the number of arguments decides."""
        found = [f for f in self.functions if name in (f.name, f.signature)]
        if not found:
            raise NotFound(f"{self.name} has no function {name}", param="function")
        fitting = [f for f in found if len(f.inputs) == len(args)]
        if len(fitting) != 1:
            raise InvalidInput(
                f"{self.name}.{name} does not take {len(args)} arguments",
                param="args",
                details={"signatures": [f.signature for f in found]},
            )
        return fitting[0]

    def by_selector(self, selector: bytes) -> Entry | None:
        return next((f for f in self.functions if f.topic[:4] == selector), None)

    def selector(self, name: str) -> bytes:
        """First four bytes of the call data of a function that is not overloaded."""
        (found,) = [f for f in self.functions if f.name == name]
        return found.topic[:4]


@cache
def interface(name: str) -> Interface:
    """From the committed ABI files. `NotFound` for a contract that we do not know."""
    if name == PAYMENT_TOKEN:
        return Interface(name, PAYMENT_TOKEN_ABI)
    file = resources.files("backend.chain").joinpath("abi", f"{name}.json")
    if not file.is_file():
        raise NotFound(f"no ABI of a contract {name}", param="contract")
    return Interface(name, json.loads(file.read_text()))


@cache
def all_errors() -> dict[bytes, Entry]:
    """Selector -> error of any contract: an error reaches the caller through all contracts in between."""
    files = resources.files("backend.chain").joinpath("abi").iterdir()
    names = sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))
    built_in = Interface("Solidity", BUILT_IN_ERRORS).errors
    return built_in | {selector: e for name in names for selector, e in interface(name).errors.items()}


def reverted(contract: str, function: str, data: bytes, message: str = "") -> Reverted:
    """The error that revert data stands for; `message`: the node's own words, for data unknown to us."""
    entry = all_errors().get(data[:4])
    where = f"{contract}.{function}"
    details: dict[str, Any] = {"contract": contract, "function": function}
    if entry is None:
        details["data"] = "0x" + data.hex()
        return Reverted(f"{where} reverted: {message or 'no reason given'}", details=details)
    args = entry.decode_args(data[4:])
    shown = ", ".join(f"{name} {value}" for name, value in args.items())
    text = f"{where} reverted: {entry.name}" + (f" ({shown})" if shown else "")
    details |= {"error": entry.name, "args": args}
    return Reverted(text, details=details, error=entry.name, args_by_name=args)


def encode(parameters: list[Parameter], args: Sequence[Any], where: str) -> bytes:
    if len(args) != len(parameters):
        raise InvalidInput(f"{where} takes {len(parameters)} arguments, got {len(args)}", param=where)
    try:
        values = [_to_abi(p, value) for p, value in zip(parameters, args, strict=True)]
        return default_codec.encode([_type(p) for p in parameters], values)
    except (EncodingError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"arguments do not fit {where}: {error}", param=where) from error


def decode(parameters: list[Parameter], data: bytes) -> list[Any]:
    # Text is read as bytes: a contract may hold bytes that are not UTF-8, and these must not stop an indexer.
    types = [_type(p).replace("string", "bytes") for p in parameters]
    return [_from_abi(p, v) for p, v in zip(parameters, default_codec.decode(types, data), strict=True)]


def _entry(raw: dict[str, Any]) -> Entry:
    return Entry(raw.get("name", raw["type"]), raw.get("inputs", []), raw.get("outputs", []))


def _type(parameter: Parameter) -> str:
    """Canonical type: tuples as their components."""
    name: str = parameter["type"]
    if not name.startswith("tuple"):
        return name
    return f"({','.join(map(_type, parameter['components']))}){name.removeprefix('tuple')}"


def _named(parameters: list[Parameter], values: Sequence[Any]) -> dict[str, Any]:
    return {p["name"] or str(i): value for i, (p, value) in enumerate(zip(parameters, values, strict=True))}


def _to_abi(parameter: Parameter, value: Any) -> Any:
    name = parameter["type"]
    if array := ARRAY.match(name):
        element = parameter | {"type": array[1]}
        return [_to_abi(element, item) for item in value]
    if name == "tuple":
        parts = parameter["components"]
        values = [value[p["name"]] for p in parts] if isinstance(value, dict) else value
        return tuple(_to_abi(p, v) for p, v in zip(parts, values, strict=True))
    if name.startswith("bytes"):
        return value if isinstance(value, bytes) else bytes.fromhex(value.removeprefix("0x"))
    if "int" in name and isinstance(value, str):
        return int(value)
    return value


def _from_abi(parameter: Parameter, value: Any) -> Any:
    name = parameter["type"]
    if array := ARRAY.match(name):
        element = parameter | {"type": array[1]}
        return [_from_abi(element, item) for item in value]
    if name == "tuple":
        parts = parameter["components"]
        return _named(parts, [_from_abi(p, v) for p, v in zip(parts, value, strict=True)])
    if name == "string":
        return value.decode(errors="replace").replace("\0", "\ufffd")  # PostgreSQL keeps no NUL in text
    if name.startswith("bytes"):
        return "0x" + value.hex()
    return value.lower() if name == "address" else value


def _as_topic(parameter: Parameter) -> Parameter:
    name = parameter["type"]
    is_hashed = name in ("string", "bytes", "tuple") or ARRAY.match(name)
    return parameter | {"type": "bytes32"} if is_hashed else parameter
