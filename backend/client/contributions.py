"""A contributor's calls: upload a file, sign its contribution, withdraw it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from backend.client.comparison import NONCE, Chosen, SignatureRefused, deadline
from backend.client.errors import UNSIGNED, reading_answer
from backend.client.signing import AskedMessage, Statement
from backend.client.transfers import PIECE_BYTES, transfer
from backend.disk.files import pieces
from backend.domain.dataset import LineChecker, Row, split_lines
from backend.domain.hashing import CONTRIBUTION_TYPE, licence_word, to_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from backend.client.api import ApiClient
    from backend.domain.ids import Hash32

CHECK_SECONDS = 3600
"""Before the API answers, an upload of up to a gigabyte is compared with its whole datanet."""
READ_BYTES = 1 << 20
PARQUET = b"PAR1"
"""The first bytes of a Parquet file."""


@dataclass(frozen=True, slots=True)
class CanonicalFile:
    """Hash and number of the rows of a JSONL file, or of a part of them, in canonical form."""

    content_hash: Hash32
    num_rows: int


def rows_to_sign(
    client: ApiClient, draft: Mapping[str, Any], path: Path, *, accepts_partial: bool
) -> CanonicalFile | None:
    """The rows that a draft of this file must name: all of them, or with `accepts_partial` all but those in
    which the market finds a defect.

    None where the market alone knows: for Parquet, and if it lists only a part of the defects. Errors:
    `SignatureRefused`.
    """
    with path.open("rb") as file:
        if file.read(len(PARQUET)) == PARQUET:
            return None
    with reading_answer(UNSIGNED):
        num_left_out, num_defects = (draft["report"][name] for name in ("num_left_out", "num_defects"))
    if not (accepts_partial and num_left_out):
        return canonical_file(path, frozenset())
    listed = client.send("GET", f"/v1/contributions/{draft['id']}/defects").content.splitlines()
    with reading_answer(UNSIGNED):
        left_out = frozenset(int(json.loads(defect)["line"]) for defect in listed)
    return canonical_file(path, left_out) if len(listed) == num_defects else None


def canonical_file(path: Path, left_out: Collection[int]) -> CanonicalFile:
    """Read a JSONL file without the lines `left_out`, counted from 1. Errors: `SignatureRefused` if another
    line has a defect.
    """
    checker, digest, num_rows = LineChecker(), sha256(), 0
    for number, line in enumerate(split_lines(pieces(path, READ_BYTES)), 1):
        row = checker.check(number, line)
        if number in left_out:
            continue
        if not isinstance(row, Row):
            raise SignatureRefused(
                f"line {number} of {path} has a defect that the market does not find ({row[0].message}); "
                "nothing was signed"
            )
        digest.update(row.canonical + b"\n")
        num_rows += 1
    return CanonicalFile(to_hash(digest.digest()), num_rows)


def upload(
    client: ApiClient, params: Mapping[str, Any], rows: Iterable[bytes] | None = None
) -> dict[str, Any]:
    """Upload rows as a draft; returns the upload with its report. Nothing is recorded on the chain.

    `params`: datanet, name, licence, and the id of a transfer if there are no `rows`.
    """
    draft: dict[str, Any] = client.request(
        "POST", "/v1/contributions", params=params, content=rows, timeout=CHECK_SECONDS
    )
    return draft


def upload_file(
    client: ApiClient, params: Mapping[str, Any], path: Path, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Upload a file as a draft. A large file is sent resumably."""
    if path.stat().st_size <= PIECE_BYTES:
        return upload(client, params, [path.read_bytes()])
    return upload(client, {**params, "transfer": transfer(client, path, on_progress)})


def submit(
    client: ApiClient,
    draft: Mapping[str, Any],
    *,
    datanet: int,
    licence: str,
    file: CanonicalFile | None = None,
) -> dict[str, Any]:
    """Sign a draft; the API publishes it and relays it to the chain.

    The signature names the datanet, the licence, and with a `file` exactly its rows. Errors:
    `SignatureRefused`.
    """
    with reading_answer(UNSIGNED):
        stated, path = str(draft["report"]["licence"]), f"/v1/contributions/{draft['id']}"
        num_rows = int(draft["report"]["num_rows"]) if file is None else file.num_rows
    if _letters(stated) != _letters(licence):
        raise SignatureRefused(
            f"the market reads the licence {licence!r} as {stated!r}; nothing was signed: "
            "state that one if you mean it"
        )
    terms = (
        ("datanet", str(datanet)),
        ("licence", stated),
        ("rows", f"{num_rows:,}"),
        ("content", "as the market read it" if file is None else f"the file's, {file.content_hash}"),
        ("contributor", client.wallet.account),
    )
    fields = {
        "account": client.wallet.account,
        "datanetId": datanet,
        "contentHash": Chosen("content hash") if file is None else file.content_hash,
        "cidDigest": Chosen(),
        "licence": licence_word(stated),
        "rows": num_rows,
        "nonce": NONCE,
        "deadline": deadline(),
    }
    asked = AskedMessage(Statement("Contribute data", terms), CONTRIBUTION_TYPE, fields)
    signature = client.wallet.sign(asked, client.post(f"{path}/typed-data"))
    submitted: dict[str, Any] = client.post(f"{path}/submit", {"signature": signature})
    return submitted


def withdraw(client: ApiClient, upload_id: str) -> dict[str, Any]:
    """Withdraw a contribution."""
    withdrawn: dict[str, Any] = client.post(f"/v1/contributions/{upload_id}/withdraw")
    return withdrawn


def _letters(expression: str) -> str:
    """An SPDX expression without what its spelling is free in; brackets have a meaning."""
    return "".join(expression.casefold().split())
