"""Terms of a datanet: the licences that it accepts, in a file of its published folder.

The chain has the CID of that folder, so the terms cannot change.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from backend.domain.content import ContentMissing, cid_of
from backend.domain.dataset import canonical_row, parse_json
from backend.domain.errors import Conflict, Unavailable
from backend.services.contribute.licences import UnknownLicence, parse_licence

if TYPE_CHECKING:
    from backend.domain.errors import DomainError
    from backend.domain.ids import Cid
    from backend.domain.registries import Datanet
    from backend.ports.storage import BlobStore, FetchFolder
    from backend.services.background import Background

TERMS_FILE = "datanet.json"
MAX_TERMS_BYTES = 4096
MAX_FOLDER_BYTES = 1 << 20
"""Files of a folder that is fetched from another operator. A description and terms have at most 68 KiB."""


class UnreadableTerms(Conflict):
    """The datanet's terms cannot be read. Its creator must create another datanet."""


def terms_file(licence: str) -> bytes:
    """Errors: `UnknownLicence`."""
    return canonical_row({"format": "loraledger-datanet-1", "licence": parse_licence(licence)}) + b"\n"


class DatanetTerms:
    """Terms of datanets. A folder that the store lacks is fetched from other operators in `background`, which
    should be theirs alone: anyone can create datanets whose folder no operator has.
    """

    def __init__(self, store: BlobStore, fetch_folder: FetchFolder, background: Background) -> None:
        self._store, self._fetch_folder, self._background = store, fetch_folder, background

    def accepted_licence(self, datanet: Datanet) -> str | None:
        """As `accepted_licence` of the store. Waits for a fetch as long as requests do; a later one goes on.

        Errors: those of `accepted_licence`; `ContentMissing` also if the folder has not arrived yet.
        """
        folder = cid_of(datanet.cid_digest)
        if not self._store.has(folder) and (error := self._error(folder, datanet)) is not None:
            if isinstance(error, UnreadableTerms):
                raise error
            raise ContentMissing(f"the terms of datanet {datanet.id}: {error}", details={"cid": folder})
        return accepted_licence(self._store, datanet)

    def _error(self, folder: Cid, datanet: Datanet) -> DomainError | None:
        """Why the folder has not arrived; None if it has."""
        try:
            work = self._background.start(folder, partial(self._fetch, datanet))
        except Unavailable as error:  # too many wait already
            return error
        return self._background.error(work, self._background.clock())

    def _fetch(self, datanet: Datanet) -> bool:
        self._fetch_folder(cid_of(datanet.cid_digest), MAX_FOLDER_BYTES)
        accepted_licence(self._store, datanet)  # an IPFS daemon searches its network here
        return True


def accepted_licence(store: BlobStore, datanet: Datanet) -> str | None:
    """The SPDX expression of accepted licences; None if the datanet accepts any.

    Errors: `ContentMissing` if the store lacks the folder, `UnreadableTerms`, `Unavailable`.
    """
    folder = cid_of(datanet.cid_digest)
    try:
        size = store.names(folder).get(TERMS_FILE)
        if size is None:
            return None
        if size > MAX_TERMS_BYTES:
            raise UnreadableTerms(f"the terms of datanet {datanet.id} have more than {MAX_TERMS_BYTES} bytes")
        text = store.read(folder, TERMS_FILE).decode()
    except UnicodeDecodeError as error:
        raise UnreadableTerms(f"the terms of datanet {datanet.id} are not UTF-8") from error
    return _licence_of(datanet, text)


def _licence_of(datanet: Datanet, text: str) -> str:
    try:
        return parse_licence(str(parse_json(text)["licence"]))
    except (ValueError, LookupError, TypeError, UnknownLicence) as error:
        raise UnreadableTerms(f"the terms of datanet {datanet.id} state no SPDX licence") from error
