"""Renders the worked example of docs/protocol.md from `tests/vectors/example.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tools.markdown import filled, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

BEGIN = "<!-- Written by `make docs` from tests/vectors/example.json, up to the end of the example. -->"
END = "<!-- End of the example. -->"
NODE = 2 * 48
PARTS = (
    "fee",
    "operator",
    "creator",
    "contributors",
    "floor of the first",
    "floor of the second",
    "the first",
)

Case = dict[str, Any]


def with_example(page: str, vector: Path) -> str:
    """Return the page with the rendered example. Raises `ValueError` without the two marks."""
    cases = {one["name"]: one for one in json.loads(vector.read_text())}
    return filled(page, BEGIN, END, "\n\n".join(_example(cases)))


def _example(cases: dict[str, Case]) -> Iterator[str]:
    yield from _setting(cases)
    yield from _receipts(_all(cases, "receipt"))
    yield from _trees(cases)
    yield from _batch(cases["header"], cases["spans"], cases["data"])
    yield from _claim(cases["claim"], cases["balances tree"])
    yield from _proof(cases["proof"], cases["forged header"])


def _setting(cases: dict[str, Case]) -> Iterator[str]:
    market, snapshot = cases["market"], cases["snapshot"]
    yield (
        "All accounts, and hashes of external content, are bytes of the `keccak` of a word. "
        f"The fee is {market['feePpm']} ppm. Datanet {snapshot['datanetId']} has {snapshot['count']} "
        "contributions, of which the second is rejected."
    )
    yield from _table(
        ("what", "value"),
        [
            ("`Settlement` on chain " + market["chainId"], market["settlement"]),
            ("its domain separator", market["domainSeparator"]),
            ("operator", market["operator"]),
            ("treasury", market["treasury"]),
            ("contributors", "<br>".join(f"`{one}`" for one in snapshot["contributors"])),
            ("accept bits", snapshot["accepted"]),
            ("`acceptedHash`", snapshot["acceptedHash"]),
            ("snapshot", snapshot["snapshotId"]),
        ],
    )
    yield "Two versions are registered, an adapter trained on the snapshot and its base model:"
    fields = [name for name in cases["adapter"] if name not in ("name", "snapshots")]
    rows = [(_label(name), cases["adapter"][name], cases["base"][name]) for name in fields]
    rows.insert(4, ("`snapshots`", "the snapshot above", "none"))
    yield from _table(("field", "adapter", "base"), rows)


def _label(name: str) -> str:
    return {"word": "`name` as `bytes32`", "versionId": "version id"}.get(name, f"`{name}`")


def _receipts(receipts: list[Case]) -> Iterator[str]:
    yield (
        "**Receipts.** The adapter answers the first payer, then adapter and base answer together; the base "
        "answers the second payer. Each request is `{}`, each response `Paris.`, and all salts are zero. "
        "The charges of the slices are rounded down separately."
    )
    parts = (
        "channelId",
        "promptTokens",
        "completionTokens",
        "charges",
        "charge",
        "cumulative",
        "slices",
        "slicesHash",
        "attribution",
        "attributionHash",
        "structHash",
        "digest",
        "leafHash",
    )
    for receipt in receipts:
        yield f"*{receipt['name'].capitalize()}*"
        yield from _code((name, receipt[name]) for name in parts)
    first = receipts[0]
    yield "Common to all three receipts, and the list (positions 0 and 2) and signature of the first:"
    common = ("requestHash", "responseHash", "servedAt", "method", "lists", "signature")
    yield from _code((name, first[name]) for name in common)


def _trees(cases: dict[str, Case]) -> Iterator[str]:
    yield "**Entries.** In the order of their keys. A part of zero has no entry."
    entries = _all(cases, "entry")
    yield from _table(
        ("index", "account", "receipt", "slice", "part", "value"),
        [(str(n), *_place(entry["key"]), entry["value"]) for n, entry in enumerate(entries)],
    )
    yield f"The key of the first entry is `{entries[0]['key']}`, its leaf `{entries[0]['leafHash']}`."
    yield "**Balances.** This is the operator's first batch, so its balances are the sums of the entries."
    balances = _all(cases, "balance")
    rows = [("0x" + b["key"][26:], b["value"], b["leafHash"]) for b in balances]
    yield from _table(("account", "value", "leaf"), rows)
    yield (
        "**Trees.** Root, sum and count of each tree. The inner nodes of the two small trees follow "
        "as `sum ‖ hash`, level by level."
    )
    trees = [cases[f"{name} tree"] for name in ("receipts", "entries", "balances")]
    roots = [(t["name"].removesuffix(" tree"), t["count"], t["sum"], t["root"]) for t in trees]
    yield from _table(("tree", "count", "sum", "root"), roots)
    yield from _code((f"{t['name']}, level {level}", node) for t in trees[::2] for level, node in _levels(t))


def _place(key: str) -> tuple[str, str, str, str]:
    account, place = "0x" + key[10:50], int(key[50:], 16)
    return account, str(place >> 32), str(place >> 16 & 0xFFFF), str(place & 0xFFFF)


def _levels(tree: Case) -> Iterator[tuple[int, str]]:
    nodes, width, level = iter(tree["nodes"]), int(tree["count"]), 0
    while width > 1:
        width, level = (width + 1) // 2, level + 1
        for _ in range(width):
            yield level, _node(next(nodes)[2:])


def _node(digits: str) -> str:
    """Format a packed node with its sum in decimals."""
    return f"{int(digits[:32], 16)} ‖ 0x{digits[32:]}"


def _batch(header: Case, spans: Case, data: Case) -> Iterator[str]:
    yield "**Batch.** Its two packed spans, and the header that the contract derives from the commitment:"
    names = [name for name in header if name not in ("name", "batchHash")]
    yield from _code([("spans", spans["spans"]), *((name, header[name]) for name in names)])
    yield (
        f"Its hash is `{header['batchHash']}`. The operator was never slashed, so `slashUpTo` is the stake "
        f"cover of its pot of {header['total']}: 10 %, rounded up to whole token units."
    )
    name_line, first, *_ = data["text"].splitlines()
    yield "The first two lines of its `batch.jsonl`:"
    yield f"```json\n{name_line}\n{first}\n```"


def _claim(claim: Case, tree: Case) -> Iterator[str]:
    yield (
        f"**A claim.** The first contributor opens its balance of {claim['value']}: leaf {claim['index']} "
        f"of {claim['balancesCount']}. The leaf is promoted twice, so the path has one node:"
    )
    yield from _code(("path", _node(one)) for one in _nodes(claim["path"]))
    yield (
        f"The keccak of that node and, on its right, `{claim['value']} ‖ leaf` is the root `{tree['root']}`, "
        f"and the sum is {tree['sum']}, as in the header of the final batch. {claim['units']} token units "
        "are paid; the remainder stays credited."
    )


def _proof(proof: Case, header: Case) -> Iterator[str]:
    yield (
        f"**A proof.** In the same batch the operator writes {proof['value']} where the contributor earns "
        f"{proof['expected']}, and the difference for itself. The root of the entries is then "
        f"`{header['entriesRoot']}` and the batch hash `{header['batchHash']}`. The watcher demands the leaf "
        f"with the key `{proof['key']}`, receives leaf {proof['index']} with the path"
    )
    yield from _code(("", _node(one)) for one in _nodes(proof["path"]))
    num_nodes = len(proof["receiptPath"][2:]) // NODE
    yield (
        f"and sends `{proof['function']}` with the header, "
        f"the receipt (leaf 0 with a path of {num_nodes} nodes, "
        "`slices` and `attribution` as above, the adapter's record and list), "
        f"slice {proof['slice']}, part {proof['part']}, the snapshot's preimage, the content hash "
        f"`{proof['contentHash']}` of the contribution, and that look-up. The contract recomputes the part. "
        "The remainder of the two rounded parts goes to the first contributor, whose ppm is larger:"
    )
    yield from _code(zip(PARTS, proof["parts"], strict=True))
    yield f"The calldata has {len(proof['data'][2:]) // 2} bytes; it is `data` of the vector."


def _all(cases: dict[str, Case], name: str) -> list[Case]:
    """Return the cases called `name` followed by a number, in order."""
    return [one for key, one in cases.items() if key.rstrip("0123456789") == f"{name} "]


def _nodes(path: str) -> Iterator[str]:
    digits = path[2:]
    yield from (digits[at : at + NODE] for at in range(0, len(digits), NODE))


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield "\n".join(table(head, [list(map(_cell, row)) for row in rows]))


def _cell(value: str) -> str:
    return f"`{value}`" if value.startswith("0x") else value


def _code(rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    shown = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in rows]
    width = max(len(name) for name, _ in shown)
    lines = (f"{name:{width}} {value}".strip() for name, value in shown)
    yield "```\n" + "\n".join(lines) + "\n```"
