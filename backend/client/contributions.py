"""A contributor's calls: upload a file, sign its contribution, withdraw it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from backend.client.errors import UNSIGNED, reading_answer
from backend.client.signing import NONCE, AskedMessage, Chosen, SignatureRefused, Statement, deadline
from backend.client.transfers import PIECE_BYTES, transfer
from backend.domain.dataset import LineChecker, Row, split_lines
from backend.domain.hashing import CONTRIBUTION_TYPE, licence_word, to_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from backend.client.api import ApiClient
    from backend.domain.ids import Hash32

CHECK_SECONDS = 3600
"""Before the API answers, an upload of up to a gigabyte is compared with its whole datanet."""
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CanonicalFile:
    """Hash and number of the rows of a JSONL file in canonical form."""

    content_hash: Hash32
    num_rows: int


def canonical_file(path: Path) -> CanonicalFile | None:
    """What a contribution of the whole file must name; None for Parquet, and for a file with defects."""
    checker, digest, num_rows = LineChecker(), sha256(), 0
    with path.open("rb") as file:
        for num_rows, line in enumerate(split_lines(iter(lambda: file.read(READ_BYTES), b"")), 1):
            row = checker.check(num_rows, line)
            if not isinstance(row, Row):
                return None
            digest.update(row.canonical + b"\n")
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
