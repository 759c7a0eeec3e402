"""Headers of the tus resumable upload protocol.

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
CHUNK_TYPE = "application/offset+octet-stream"
MAX_METADATA = 1024


class UnknownTusVersion(DomainError):
    """`Tus-Resumable` is not the supported version, which `Tus-Version` names."""


def name_version(request: Request) -> None:
    """Dependency that adds the version to the response, also to errors."""
    request.state.headers = getattr(request.state, "headers", {}) | {"tus-resumable": TUS_VERSION}


def check_version(
    _wallet: WalletDep, tus_resumable: Annotated[str, Header(description=TUS_VERSION)] = ""
) -> None:
    """Dependency. Errors: `UnknownTusVersion`."""
    if tus_resumable != TUS_VERSION:
        raise UnknownTusVersion(f"Only Tus-Resumable: {TUS_VERSION} is supported.", "Tus-Resumable")


TUS_DEPENDENCIES = [Depends(name_version), Depends(check_version)]


def capabilities(max_bytes: int) -> dict[str, str]:
    return {
        "tus-version": TUS_VERSION,
        "tus-extension": EXTENSIONS,
        "tus-max-size": str(max_bytes),
        "tus-checksum-algorithm": ",".join(ALGORITHMS),
    }


def progress_headers(transfer: Transfer) -> dict[str, str]:
    expires = {"upload-expires": format_datetime(transfer.expires_at, usegmt=True)}
    metadata = {"upload-metadata": transfer.metadata} if transfer.metadata else {}
    length = {"upload-length": str(transfer.num_bytes), "cache-control": "no-store"}
    return {"upload-offset": str(transfer.offset), **length, **expires, **metadata}


def parse_metadata(header: str) -> dict[str, str]:
    """Parse `key base64,key base64`; values are optional. Errors: `InvalidInput`."""
    if len(header) > MAX_METADATA:
        raise InvalidInput(f"Upload-Metadata has more than {MAX_METADATA} characters.", "Upload-Metadata")
    pairs = (pair.split() for pair in header.split(",")) if header.strip() else ()
    try:
        return {key: b64decode("".join(value), validate=True).decode() for key, *value in pairs}
    except ValueError:
        raise InvalidInput(
            "Upload-Metadata must be comma-separated 'key base64' pairs.", "Upload-Metadata"
        ) from None


def parse_checksum(header: str) -> Checksum | None:
    """Parse `algorithm base64`. Errors: `InvalidInput`."""
    if not header:
        return None
    algorithm, _, digest = header.partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidInput(f"Upload-Checksum must use one of {', '.join(ALGORITHMS)}.", "Upload-Checksum")
    try:
        return Checksum(algorithm, b64decode(digest, validate=True))
    except ValueError:
        raise InvalidInput(
            "Upload-Checksum must be an algorithm and a Base64 digest.", "Upload-Checksum"
        ) from None
