"""What requests and answers of the resumable upload protocol say in their headers.

Source: https://tus.io/protocols/resumable-upload, 1.0.0, with creation, checksum, expiration, termination.
"""

from __future__ import annotations

from base64 import b64decode
from email.utils import format_datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Header, Request

from backend.api.deps import WalletDep
from backend.domain.errors import DomainError, InvalidInput
from backend.services.contribute.transfers import ALGORITHMS, Checksum

if TYPE_CHECKING:
    from backend.services.contribute.transfers import Transfer

TUS_VERSION = "1.0.0"
EXTENSIONS = "creation,checksum,expiration,termination"
PIECE_TYPE = "application/offset+octet-stream"
MAX_METADATA = 1024


class UnknownTusVersion(DomainError):
    """`Tus-Resumable` does not name the version that is spoken here, which `Tus-Version` does."""


def name_version(request: Request) -> None:
    """A dependency: the answer names the version, also where it is a refusal."""
    request.state.headers = getattr(request.state, "headers", {}) | {"tus-resumable": TUS_VERSION}


def check_version(
    _wallet: WalletDep, tus_resumable: Annotated[str, Header(description=TUS_VERSION)] = ""
) -> None:
    """A dependency. Errors: `UnknownTusVersion`."""
    if tus_resumable != TUS_VERSION:
        raise UnknownTusVersion(f"Tus-Resumable: {TUS_VERSION} is spoken here.", "Tus-Resumable")


SPEAKS_TUS = [Depends(name_version), Depends(check_version)]


def capabilities(max_bytes: int) -> dict[str, str]:
    return {
        "tus-version": TUS_VERSION,
        "tus-extension": EXTENSIONS,
        "tus-max-size": str(max_bytes),
        "tus-checksum-algorithm": ",".join(ALGORITHMS),
    }


def standing(transfer: Transfer) -> dict[str, str]:
    """How far it has come."""
    expires = {"upload-expires": format_datetime(transfer.expires_at, usegmt=True)}
    metadata = {"upload-metadata": transfer.metadata} if transfer.metadata else {}
    whole = {"upload-length": str(transfer.num_bytes), "cache-control": "no-store"}
    return {"upload-offset": str(transfer.offset), **whole, **expires, **metadata}


def metadata_of(header: str) -> dict[str, str]:
    """`key base64,key base64`; a key may stand alone. Errors: `InvalidInput`."""
    if len(header) > MAX_METADATA:
        raise InvalidInput(f"Upload-Metadata has more than {MAX_METADATA} characters.", "Upload-Metadata")
    pairs = (pair.split() for pair in header.split(",")) if header.strip() else ()
    try:
        return {key: b64decode("".join(value), validate=True).decode() for key, *value in pairs}
    except ValueError:
        raise InvalidInput("Upload-Metadata is 'key base64' pairs with commas.", "Upload-Metadata") from None


def checksum_of(header: str) -> Checksum | None:
    """`algorithm base64`. Errors: `InvalidInput`."""
    if not header:
        return None
    algorithm, _, digest = header.partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidInput(f"Upload-Checksum is one of {', '.join(ALGORITHMS)}.", "Upload-Checksum")
    try:
        return Checksum(algorithm, b64decode(digest, validate=True))
    except ValueError:
        raise InvalidInput("Upload-Checksum is an algorithm and Base64.", "Upload-Checksum") from None
