"""ABI codec of the contracts: encodes calls, decodes results, logs and custom errors.

Decoded values are integers, booleans, text, lower-case 0x-hex for bytes and addresses, lists, and dicts for
structs. Encoding also accepts decimal strings as integers, because queued arguments are JSON, and tuples
as structs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from eth_abi.abi import default_codec
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import (
    abi_to_signature,
    collapse_if_tuple,
    event_signature_to_log_topic,
    function_signature_to_4byte_selector,
)

from backend.domain.chain import Reverted
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from eth_typing import ABIElement

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
"""The functions of a payment token that we call: ERC-20, ERC-5267, and those of EIP-2612 and EIP-3009."""

UNDECODABLE = (DecodingError, OverflowError)
"""What decoding raises for bytes that others chose and that are not of the types."""

Parameter = dict[str, Any]
"""One input or output of an ABI entry: `name`, `type`, and for a tuple its `components`."""


@dataclass(frozen=True)
class Entry:
    """A function, event, error or constructor."""

    name: str
    signature: str
    """Name and canonical types of the inputs, such as `transfer(address,uint256)`."""
    inputs: list[Parameter]
    outputs: list[Parameter]

    @classmethod
    def from_abi(cls, raw: dict[str, Any]) -> Self:
        signature = abi_to_signature(cast("ABIElement", raw))
        return cls(raw.get("name", raw["type"]), signature, raw.get("inputs", []), raw.get("outputs", []))

    @cached_property
    def topic(self) -> bytes:
        """`topics[0]` of the event's logs."""
        return event_signature_to_log_topic(self.signature)

    @cached_property
    def selector(self) -> bytes:
        """The first four bytes of the call data or of the revert data."""
        return function_signature_to_4byte_selector(self.signature)

    def encode(self, args: Sequence[Any]) -> bytes:
        """Call data. Errors: `InvalidInput` if the arguments do not fit."""
        return self.selector + encode(self.inputs, args, self.signature)

    def plain_args(self, args: Sequence[Any]) -> dict[str, Any]:
        """Arguments by name in the form in which decoding returns them."""
        return self.decode_args(encode(self.inputs, args, self.signature))

    def decode_args(self, data: bytes) -> dict[str, Any]:
        """Arguments by name. Errors: `UNDECODABLE`."""
        return _named(self.inputs, decode(self.inputs, data))

    def decode_result(self, data: bytes) -> Any:
        """The value; a tuple if the function returns several values, None if it returns none."""
        values = decode(self.outputs, data)
        return values[0] if len(values) == 1 else tuple(values) or None

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Arguments by name. Of an indexed string, array or struct the log has only the hash."""
        in_topics, in_data = self._log_parameters
        values = iter(decode(in_data, data))
        indexed = iter(decode(in_topics, b"".join(topics[1:])))
        return {p["name"]: next(indexed) if p["indexed"] else next(values) for p in self.inputs}

    @cached_property
    def _log_parameters(self) -> tuple[list[Parameter], list[Parameter]]:
        """Parameters in the topics, one word each, and parameters in the data."""
        indexed = [_as_topic(p) for p in self.inputs if p["indexed"]]
        return indexed, [p for p in self.inputs if not p["indexed"]]


class Interface:
    """The ABI of one contract."""

    def __init__(self, name: str, abi: list[dict[str, Any]]) -> None:
        self.name = name
        self.abi = abi
        entries = [(e["type"], Entry.from_abi(e)) for e in abi if e["type"] not in ("fallback", "receive")]
        self.functions = [entry for kind, entry in entries if kind == "function"]
        self.events = {entry.topic: entry for kind, entry in entries if kind == "event"}
        self.errors = {entry.selector: entry for kind, entry in entries if kind == "error"}
        default = Entry.from_abi({"type": "constructor"})
        self.constructor = next((entry for kind, entry in entries if kind == "constructor"), default)

    def function(self, name: str, args: Sequence[Any]) -> Entry:
        """Find a function by name or signature. The number of arguments resolves overloads.

        Errors: `NotFound` if the contract has no such function, `InvalidInput` if none takes these arguments.
        """
        named = [f for f in self.functions if name in (f.name, f.signature)]
        if not named:
            raise NotFound(f"{self.name} has no function {name}", param="function")
        fitting = [f for f in named if len(f.inputs) == len(args)]
        if len(fitting) != 1:
            raise InvalidInput(
                f"{self.name}.{name} does not take {len(args)} arguments",
                param="args",
                details={"signatures": [f.signature for f in named]},
            )
        return fitting[0]

    def by_selector(self, selector: bytes) -> Entry | None:
        return next((f for f in self.functions if f.selector == selector), None)

    def decode_call(self, data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Name of the function and arguments of call data; None if the contract has no such function, or they
        cannot be decoded.
        """
        entry = self.by_selector(data[:4])
        try:
            return None if entry is None else (entry.name, entry.decode_args(data[4:]))
        except UNDECODABLE:
            return None

    def selector(self, name: str) -> bytes:
        """The selector of a function that is not overloaded."""
        (function,) = [f for f in self.functions if f.name == name]
        return function.selector


@cache
def interface(name: str) -> Interface:
    """Load a contract's committed ABI file. Errors: `NotFound` if there is none."""
    if name == PAYMENT_TOKEN:
        return Interface(name, PAYMENT_TOKEN_ABI)
    file = resources.files("backend.chain").joinpath("abi", f"{name}.json")
    if not file.is_file():
        raise NotFound(f"no ABI of a contract {name}", param="contract")
    return Interface(name, json.loads(file.read_text()))


@cache
def all_errors() -> dict[bytes, Entry]:
    """Selector -> error, of all contracts: a call also returns the errors of the contracts that it calls."""
    files = resources.files("backend.chain").joinpath("abi").iterdir()
    names = sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))
    built_in = Interface("Solidity", BUILT_IN_ERRORS).errors
    return built_in | {selector: e for name in names for selector, e in interface(name).errors.items()}


def encode_call(contract: str, function: str, args: Sequence[Any]) -> bytes:
    """Call data. Errors: those of `Interface.function` and `Entry.encode`."""
    return interface(contract).function(function, args).encode(args)


def decode_revert(contract: str, function: str, data: bytes, message: str = "") -> Reverted:
    """Decode revert data into an error; `message`, from the node, describes data that no ABI has."""
    entry = all_errors().get(data[:4])
    where = f"{contract}.{function}"
    details: dict[str, Any] = {"contract": contract, "function": function}
    try:
        args = {} if entry is None else entry.decode_args(data[4:])
    except UNDECODABLE:
        entry = None
    if entry is None:
        details["data"] = "0x" + data.hex()
        return Reverted(f"{where} reverted: {message or 'no reason given'}", details=details)
    listed = ", ".join(f"{name} {value}" for name, value in args.items())
    text = f"{where} reverted: {entry.name}" + (f" ({listed})" if listed else "")
    details |= {"error": entry.name, "args": args}
    return Reverted(text, details=details, error=entry.name, args_by_name=args)


def encode(parameters: list[Parameter], args: Sequence[Any], where: str) -> bytes:
    if len(args) != len(parameters):
        raise InvalidInput(f"{where} takes {len(parameters)} arguments, got {len(args)}", param=where)
    try:
        values = [_to_abi(p, value) for p, value in zip(parameters, args, strict=True)]
        return default_codec.encode([collapse_if_tuple(p) for p in parameters], values)
    except (EncodingError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"arguments do not fit {where}: {error}", param=where) from error


def decode(parameters: list[Parameter], data: bytes) -> list[Any]:
    # Strings are decoded as bytes: a contract may hold invalid UTF-8, which must not stop the indexer. As in
    # Solidity, padding may have any value.
    types = [collapse_if_tuple(p).replace("string", "bytes") for p in parameters]
    values = default_codec.decode(types, data, strict=False)
    return [_from_abi(p, v) for p, v in zip(parameters, values, strict=True)]


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
        return value.decode(errors="replace").replace("\0", "\ufffd")  # PostgreSQL text cannot hold NUL
    if name.startswith("bytes"):
        return "0x" + value.hex()
    return value.lower() if name == "address" else value


def _as_topic(parameter: Parameter) -> Parameter:
    name = parameter["type"]
    is_hashed = name in ("string", "bytes", "tuple") or ARRAY.match(name)
    return parameter | {"type": "bytes32"} if is_hashed else parameter
