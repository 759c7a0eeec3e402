"""Reads what the block store has of a datanet and of its contributions. All of it is untrusted."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from backend.domain.content import ContentMissing, cid_of
from backend.domain.dataset import split_lines
from backend.services.contribute.staging import DATA_FILE
from backend.services.contribute.terms import accepted_licence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.registries import Contribution, Datanet
    from backend.ports.storage import BlobStore

DESCRIPTION_FILE = "README.md"
MAX_DESCRIPTION_BYTES = 64 << 10
READ_BYTES, SHOWN_BYTES = 64 << 20, 4096


@dataclass(frozen=True, slots=True)
class Terms:
    """A datanet's description in Markdown, and the SPDX expression of the licences that it accepts (None:
    any).
    """

    description: str
    licence: str | None


def read_terms(store: BlobStore, datanet: Datanet) -> Terms | None:
    """None if the folder is not stored. A description above `MAX_DESCRIPTION_BYTES` is left out.

    Errors: `UnreadableTerms`, `Unavailable`.
    """
    folder = cid_of(datanet.cid_digest)
    try:
        size = store.names(folder).get(DESCRIPTION_FILE, 0)
        raw = store.read(folder, DESCRIPTION_FILE) if 0 < size <= MAX_DESCRIPTION_BYTES else b""
        return Terms(raw.decode(errors="replace"), accepted_licence(store, datanet))
    except ContentMissing:
        return None


def read_rows(store: BlobStore, contribution: Contribution, start: int, count: int) -> list[str]:
    """Up to `count` rows as JSON, from row `start` (0: the first), each cut after `SHOWN_BYTES`. Rows beyond
    the first `READ_BYTES` of the contribution are not read: who asks need not be its contributor.

    Errors: `ContentMissing`, `ContentCorrupt`, `Unavailable`.
    """
    stream = _limited(store.open(cid_of(contribution.cid_digest), DATA_FILE))
    lines = islice(split_lines(stream), start, start + count)
    return ["" if line is None else line[:SHOWN_BYTES].decode(errors="replace") for line in lines]


def _limited(stream: Iterator[bytes]) -> Iterator[bytes]:
    left = READ_BYTES
    for chunk in stream:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return
