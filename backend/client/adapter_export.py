"""Writes a registered adapter as a folder that model hubs take. What the market sends is verified."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.client.errors import ApiError, NotAMarket, reading_answer
from backend.client.model_card import render_card
from backend.disk.files import folder_draft
from backend.domain.adapter_files import CARD_FILE, CONFIG_FILE, MAX_ADAPTER_BYTES, MAX_BYTES
from backend.domain.content import ContentCorrupt, ContentMissing, cid_of, decode_cid
from backend.domain.disputes.witnesses import record_from_chain
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.hashing import version_id
from backend.domain.ids import ZERO_HASH, Cid, Hash32, VersionId
from backend.storage.car import read_tree
from backend.storage.reader import TreeReader
from inference.errors import AdapterError
from inference.lora.files import adapter_digest

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from backend.client.api import ApiClient
    from backend.domain.content import DecodedCid
    from backend.domain.receipt import VersionRecord

MAX_CAR_BYTES = 2 * MAX_ADAPTER_BYTES
"""A trained adapter's folder has an attribution index next to the adapter."""


@dataclass(frozen=True, slots=True)
class ExportedAdapter:
    version: VersionId
    cid: Cid
    digest: Hash32


def export_adapter(client: ApiClient, adapter: str, destination: Path) -> ExportedAdapter:
    """Write the adapter's two files, unchanged, and a model card; the folder is written whole or not at all.

    Errors: `Conflict` if the destination is not empty; `InvalidInput` for a model without an adapter;
    `NotAMarket` or `ContentCorrupt` if what the market sends is not the version; `NotFound`; `ApiError`.
    """
    destination = destination.resolve()
    _check_free(destination)
    with reading_answer():
        model = client.get(f"/v1/models/{adapter}")
        version = VersionId(Hash32(str(model["version_id"])))
        record = record_from_chain(client.get(f"/v1/versions/{version}")["record"])
        is_version = version_id(record) == version
    if is_version and record.adapter_digest == ZERO_HASH:
        raise InvalidInput(f"{adapter} is the base model, which has no adapter to export", param="adapter")
    if not is_version or not _is_named(adapter, version, record):
        raise NotAMarket(f"{client.api_url} sends the record of another version than {adapter}")
    cid = cid_of(record.cid_digest)
    with folder_draft(destination) as folder:
        _fetch(client, cid, folder)
        _check_digest(folder, record.adapter_digest)
        base = _base_name(folder / CONFIG_FILE, str(model["root"]))
        with reading_answer():
            card = render_card(record, version, model, base)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        _check_free(destination)
    return ExportedAdapter(version, cid, record.adapter_digest)


def _is_named(adapter: str, version: VersionId, record: VersionRecord) -> bool:
    """Whether the name that the user gave is this version's."""
    owner, _, rest = adapter.partition("/")
    if rest:
        name, _, prefix = rest.partition("@")
        is_version = version[2:].startswith(prefix.removeprefix("0x"))
        return (owner.lower(), name) == (record.creator, record.name) and is_version
    return "0x" + adapter.lower().removeprefix("0x") in {version, record.adapter_digest}


def _check_free(destination: Path) -> None:
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise Conflict(
            f"{destination} exists and is not an empty folder; nothing is overwritten: name a folder that "
            "does not exist yet",
            param="folder",
        )


def _fetch(client: ApiClient, cid: Cid, folder: Path) -> None:
    """Write the adapter's files of a published folder; every block is verified against the CID."""
    with tempfile.TemporaryFile(dir=folder) as blocks:
        places = _store(client, cid, blocks)
        reader = TreeReader(lambda block: _block(blocks, places, block))
        sizes = {entry.path: entry.size for entry in reader.entries(cid)}
        for name, most in MAX_BYTES.items():
            if not 0 < (sizes.get(name) or 0) <= most:
                raise ContentCorrupt(f"{name} of {cid} is missing, empty or larger than {most} bytes")
            with (folder / name).open("xb") as file:
                file.writelines(reader.open(cid, name))


def _store(client: ApiClient, cid: Cid, blocks: BinaryIO) -> dict[DecodedCid, tuple[int, int]]:
    """Download the folder's blocks; returns position and size of each."""
    places = {}
    try:
        with client.download(f"/ipfs/{cid}", MAX_CAR_BYTES, format="car") as chunks:
            for block_cid, block in read_tree(decode_cid(cid), chunks):
                places[block_cid] = blocks.tell(), len(block)
                blocks.write(block)
    except ApiError as error:
        if error.details["code"] != "content_missing":
            raise
        raise NotFound(
            f"{client.api_url} does not store the adapter's folder {cid}: name a market that does",
            param="adapter",
        ) from error
    return places


def _block(blocks: BinaryIO, places: dict[DecodedCid, tuple[int, int]], cid: DecodedCid) -> bytes:
    if cid not in places:
        raise ContentMissing(f"{cid} is not in the folder", "cid", {"cid": str(cid)})
    position, size = places[cid]
    blocks.seek(position)
    return blocks.read(size)


def _check_digest(folder: Path, digest: Hash32) -> None:
    """The digest over the files as they were written, as the engine computes it."""
    try:
        written = f"0x{adapter_digest(folder)}"
    except AdapterError as error:
        raise ContentCorrupt(f"the published folder is not an adapter: {error}") from error
    if written != digest:
        raise ContentCorrupt(f"the published files have the digest {written}, not the registered {digest}")


def _base_name(config: Path, served_name: str) -> str:
    """The base model's name in the adapter's configuration; without one, the market's."""
    stated: Any = json.loads(config.read_bytes()).get("base_model_name_or_path")
    return stated if isinstance(stated, str) and stated else served_name
