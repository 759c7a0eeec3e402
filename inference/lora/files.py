"""Reads the files of an adapter folder and computes the digest over them.

Folders are untrusted and may change while they are read. Every file is therefore opened once, without
following links, and the bytes that are hashed are the bytes that are used.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.errors import (
    AdapterChangedError,
    AdapterConfigError,
    AdapterFileMissingError,
    AdapterIrregularFileError,
    AdapterPickleError,
    AdapterTooLargeError,
)
from inference.lora.strict_json import canonical, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import BufferedReader
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_DIGEST_DOMAIN = b"loraledger/adapter/v1\0"
_MAX_CONFIG_BYTES = 1024 * 1024
MAX_CONFIG_DEPTH = 16
_MAX_ENTRIES = 1000
_MAX_BUFFER_BYTES = 32 * 1024 * 1024  # per loader thread, in addition to the host cache's budget
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Pickles under other names are found by their content: a ZIP archive, in which torch and numpy store
# pickles, or a pickle of protocol 2 or later.
_PICKLE_HEADS = (b"PK\x03\x04", *(bytes((0x80, protocol)) for protocol in range(2, 6)))


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The contents of an adapter folder."""

    config: bytes  # in canonical form
    weights: memoryview
    digest: str


class ReadBuffer(threading.local):
    """A thread's buffer for reading files. Reusing it avoids zeroing new pages, which takes longer than
    reading the file.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def reserve(self, size: int) -> memoryview:
        """`size` bytes of undefined content, valid until this thread's next call."""
        if size > _MAX_BUFFER_BYTES:
            return memoryview(bytearray(size))
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        return memoryview(self._buffer)[:size]


def adapter_digest(folder: Path) -> str:
    r"""Content digest of a PEFT folder, 64 hex digits.

    SHA-256 over `b"loraledger/adapter/v1\0"`, then the 32-byte SHA-256 of adapter_config.json in canonical
    form (parsed, re-written with sorted keys, no blanks, UTF-8), then the 32-byte SHA-256 of the bytes of
    adapter_model.safetensors. Other files of the folder, such as a README, are not included.
    """
    return read_adapter_files(folder).digest


def digest_of(config: bytes, weights: Iterable[bytes]) -> str:
    """As `adapter_digest`, of the contents of both files, the weights in chunks. Raises `ValueError` for an
    invalid configuration.
    """
    return _digest(_canonical(config), weights)


def read_adapter_files(
    folder: Path, max_weights_bytes: int | None = None, buffer: ReadBuffer | None = None
) -> AdapterFiles:
    """With a `buffer`, the weights are valid until this thread's next call with it.
    Raises `AdapterFileMissingError`, `AdapterIrregularFileError`, `AdapterPickleError`,
    `AdapterTooLargeError`, `AdapterChangedError`, `AdapterConfigError`.
    """
    with _opened(folder) as directory:
        for name in _regular_files(directory):
            _refuse_pickle(directory, name)
        config_bytes = _read(directory, CONFIG_FILE, _MAX_CONFIG_BYTES, ReadBuffer())
        weights = _read(directory, WEIGHTS_FILE, max_weights_bytes, buffer or ReadBuffer())
    try:
        config = _canonical(bytes(config_bytes))
    except ValueError as error:
        raise AdapterConfigError(CONFIG_FILE, str(error)) from error
    return AdapterFiles(config, weights, _digest(config, [weights]))


def _canonical(config: bytes) -> bytes:
    return canonical(parse_object(config, MAX_CONFIG_DEPTH))


def _digest(config: bytes, weights: Iterable[bytes | memoryview]) -> str:
    hashed = hashlib.sha256()
    for chunk in weights:
        hashed.update(chunk)
    digests = hashlib.sha256(config).digest() + hashed.digest()
    return hashlib.sha256(_DIGEST_DOMAIN + digests).hexdigest()


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise AdapterFileMissingError(str(folder), f"not a readable folder ({error})") from error
    try:
        yield directory
    finally:
        os.close(directory)


def _regular_files(directory: int) -> list[str]:
    """Names of the files directly in the folder, sorted. Subfolders are never read."""
    names = []
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if number == _MAX_ENTRIES:
                raise AdapterTooLargeError("the folder", f"more than {_MAX_ENTRIES} files")
            if entry.is_file(follow_symlinks=False):
                names.append(entry.name)
            elif not entry.is_dir(follow_symlinks=False):
                raise _irregular(entry.name)
    return sorted(names)


def _refuse_pickle(directory: int, name: str) -> None:
    with _open_regular(directory, name) as file:
        head = file.read(4)
    if name.lower().endswith(_PICKLE_SUFFIXES) or head.startswith(_PICKLE_HEADS):
        raise AdapterPickleError(name, "pickle can run code when read; save the adapter as safetensors")


def _read(directory: int, name: str, max_bytes: int | None, buffer: ReadBuffer) -> memoryview:
    with _open_regular(directory, name) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            raise AdapterTooLargeError(name, f"{size} bytes, at most {max_bytes} are read")
        try:
            content = buffer.reserve(size)
        except MemoryError as error:
            raise AdapterTooLargeError(name, f"{size} bytes do not fit into memory") from error
        if file.readinto(content) != size or file.read(1):
            raise AdapterChangedError(name, "it changed while it was read; never write into a served folder")
    return content


@contextmanager
def _open_regular(directory: int, name: str) -> Iterator[BufferedReader]:
    """Open without following links or waiting for the writer of a pipe."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _irregular(name) from error
        raise AdapterFileMissingError(name, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _irregular(name)
    with os.fdopen(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise AdapterFileMissingError(name, f"cannot be read ({error.strerror})") from error


def _irregular(name: str) -> AdapterIrregularFileError:
    return AdapterIrregularFileError(
        name, "not a regular file; put the file itself there, no link, pipe, device or folder"
    )
