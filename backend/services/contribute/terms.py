"""Terms of a datanet: the licences that it accepts, in a file of its published folder.

The chain has the CID of that folder, so the terms cannot change.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from backend.domain.content import ContentMissing, cid_of
from backend.domain.dataset import canonical_row, is_too_deep
from backend.domain.errors import Conflict
from backend.services.contribute.licences import UnknownLicence, parse_licence

if TYPE_CHECKING:
    from backend.domain.registries import Datanet
    from backend.ports.storage import BlobStore

TERMS_FILE = "datanet.json"
MAX_TERMS_BYTES = 4096


class UnreadableTerms(Conflict):
    """The datanet's terms cannot be read. Its creator must create another datanet."""


def terms_file(licence: str) -> bytes:
    """Errors: `UnknownLicence`."""
    return canonical_row({"format": "loraledger-datanet-1", "licence": parse_licence(licence)}) + b"\n"


def accepted_licence(store: BlobStore, datanet: Datanet) -> str | None:
    """The SPDX expression of accepted licences; None if there is none, or the folder is not stored here.

    Errors: `UnreadableTerms`, `Unavailable`.
    """
    folder = cid_of(datanet.cid_digest)
    try:
        size = store.names(folder).get(TERMS_FILE)
        if size is None:
            return None
        if size > MAX_TERMS_BYTES:
            raise UnreadableTerms(f"the terms of datanet {datanet.id} have more than {MAX_TERMS_BYTES} bytes")
        text = store.read(folder, TERMS_FILE).decode()
    except ContentMissing:
        return None
    except UnicodeDecodeError as error:
        raise UnreadableTerms(f"the terms of datanet {datanet.id} are not UTF-8") from error
    return _licence_of(datanet, text)


def _licence_of(datanet: Datanet, text: str) -> str:
    try:
        stated = {} if is_too_deep(text) else json.loads(text)
        return parse_licence(str(stated["licence"]))
    except (ValueError, LookupError, TypeError, UnknownLicence) as error:
        raise UnreadableTerms(f"the terms of datanet {datanet.id} state no SPDX licence") from error
