"""Kubo's RPC over the embedded store, as far as IPFS clients need it: `/api/v0`, loopback only.

Source: https://docs.ipfs.tech/reference/kubo/rpc/. Like Kubo's it has no authentication. It serves only
callers on this machine, only POST, and no requests of web pages: none with an `Origin` or another `Host`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from backend.domain.content import ContentMissing
from backend.domain.errors import DomainError, InvalidInput
from backend.domain.ids import Cid
from backend.loopback import LocalCallersOnly
from backend.storage.unixfs import check_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from backend.storage.embedded import EmbeddedStore

VERSION = "0.8.0"
"""The version of Kubo whose RPC this is; the newest that ipfshttpclient supports."""


def kubo_rpc(store: EmbeddedStore) -> ASGIApp:
    """An ASGI app for a server on a loopback address."""
    rpc = _Rpc(store)
    commands = {
        "version": rpc.version,
        "add": rpc.add,
        "cat": rpc.cat,
        "block/get": rpc.block_get,
        "block/stat": rpc.block_stat,
        "pin/add": rpc.pin_add,
        "pin/rm": rpc.pin_rm,
        "pin/ls": rpc.pin_ls,
        "dag/export": rpc.dag_export,
        "dag/import": rpc.dag_import,
        "repo/gc": rpc.repo_gc,
    }
    routes = [Route(f"/api/v0/{name}", command, methods=["POST"]) for name, command in commands.items()]
    return LocalCallersOnly(
        Starlette(routes=routes, exception_handlers={DomainError: _failed, OSError: _failed})
    )


def _failed(_request: Request, error: Exception) -> Response:
    """Kubo's error format; it uses status 500 for every failure."""
    return JSONResponse({"Message": str(error), "Code": 0, "Type": "error"}, 500)


def _lines(values: Iterable[dict[str, Any]]) -> Response:
    text = "".join(json.dumps(value) + "\n" for value in values)
    return PlainTextResponse(text, media_type="application/json")


class _Rpc:
    """One method per command. Synchronous ones only wait for the disk, and run in threads."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store

    def version(self, _request: Request) -> Response:
        return JSONResponse({"Version": VERSION, "Commit": "", "Repo": "12", "System": "", "Golang": ""})

    async def add(self, request: Request) -> Response:
        """Add files and folders as `ipfs add` does; only CIDv1 with raw leaves and the default chunks."""
        options = request.query_params
        supported = {"cid-version": "1", "raw-leaves": "true", "chunker": "size-262144", "only-hash": "false"}
        for name, value in supported.items():
            default = value if name in {"chunker", "only-hash"} else "unset"
            if options.get(name, default).lower() != value:
                raise InvalidInput(f"add: only {name}={value} is supported", name)
        async with request.form(max_files=100_000) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            wraps = options.get("wrap-with-directory") == "true"
            added = await run_in_threadpool(self._add_parts, parts, wraps=wraps)
        return _lines(added)

    def cat(self, request: Request) -> Response:
        cid, _, name = _arg(request).partition("/")
        return StreamingResponse(self._store.open(Cid(cid), name), media_type="text/plain")

    def block_get(self, request: Request) -> Response:
        return Response(self._store.block(Cid(_arg(request))), media_type="application/octet-stream")

    def block_stat(self, request: Request) -> Response:
        cid = Cid(_arg(request))
        return JSONResponse({"Key": cid, "Size": len(self._store.block(cid))})

    def pin_add(self, request: Request) -> Response:
        self._store.pin(Cid(_arg(request)))
        return JSONResponse({"Pins": [_arg(request)]})

    def pin_rm(self, request: Request) -> Response:
        self._require_pin(cid := Cid(_arg(request)))
        self._store.unpin(cid)
        return JSONResponse({"Pins": [cid]})

    def pin_ls(self, request: Request) -> Response:
        pins = self._store.pins()
        if "arg" in request.query_params:
            self._require_pin(cid := Cid(_arg(request)))
            pins = [cid]
        return JSONResponse({"Keys": {pin: {"Type": "recursive"} for pin in pins}})

    def dag_export(self, request: Request) -> Response:
        cid = Cid(_arg(request))
        self._store.block(cid)  # a missing root must fail before the response has started
        return StreamingResponse(self._store.car(cid), media_type="application/vnd.ipld.car")

    async def dag_import(self, request: Request) -> Response:
        async with request.form() as form:
            car = next((part for part in form.values() if isinstance(part, UploadFile)), None)
            if car is None:
                raise InvalidInput("dag/import: no CAR in the request", "file")
            root = await run_in_threadpool(self._store.import_car, car.file)
        return JSONResponse({"Root": {"Cid": {"/": root}, "PinErrorMsg": ""}})

    def repo_gc(self, _request: Request) -> Response:
        return _lines({"Key": {"/": cid}} for cid in self._store.collect_garbage())

    def _require_pin(self, cid: Cid) -> None:
        if not self._store.has(cid):
            raise ContentMissing(f"path '/ipfs/{cid}' is not pinned", "arg", {"cid": cid})

    def _add_parts(self, parts: list[UploadFile], *, wraps: bool) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            for part in parts:
                _save(part, Path(folder))
            return list(self._add_folder(Path(folder), wraps=wraps))

    def _add_folder(self, folder: Path, *, wraps: bool) -> Iterator[dict[str, Any]]:
        """Report entries as `ipfs add` does, contents before their folder. Top-level entries are pinned."""
        pins = set(self._store.pins()).difference(self._store.copies(inf))
        root = self._store.add_directory(folder)
        entries = self._store.entries(root)
        for entry in reversed(entries):
            if "/" not in entry.path and not wraps:
                self._store.pin(Cid(str(entry.cid)))
            yield {"Name": entry.path, "Hash": str(entry.cid), "Size": str(entry.size or 0)}
        if wraps:
            yield {"Name": "", "Hash": root, "Size": str(sum(entry.size or 0 for entry in entries))}
        elif root not in pins:
            self._store.unpin(root)


def _save(part: UploadFile, folder: Path) -> None:
    names = [check_name(name) for name in unquote(part.filename or "file").split("/")]
    target = folder.joinpath(*names)
    if part.content_type == "application/x-directory":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(part.file, file)


def _arg(request: Request) -> str:
    argument = request.query_params.get("arg", "")
    if not argument:
        raise InvalidInput('argument "ipfs-path" is required', "arg")
    return argument.removeprefix("/ipfs/")
