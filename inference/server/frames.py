"""Wire format of `inference.protocol`: each message is a big-endian 32-bit length and that many bytes of
JSON.

This module does not import torch.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TypeVar

import msgspec
from msgspec import Struct

from inference.protocol import Command, Event

MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class _Address(Struct):
    """The part of a message that is needed to address an error to its sender."""

    request_id: str = ""


T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_addresses = msgspec.json.Decoder(_Address)


class FrameTooLargeError(Exception):
    """A frame longer than `MAX_FRAME_BYTES`; the connection is unusable afterwards."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(f"frame of {num_bytes} bytes; at most {MAX_FRAME_BYTES} are allowed")


def encode_frame(message: Struct) -> bytes:
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLargeError(len(body))
    return _LENGTH.pack(len(body)) + body


def decode_command(body: bytes) -> Command:
    """Raises `msgspec.ValidationError` (naming the field) or `msgspec.DecodeError`."""
    return _decode(_commands, body)


def decode_event(body: bytes) -> Event:
    """Raises `msgspec.MsgspecError`."""
    return _decode(_events, body)


def find_request_id(body: bytes) -> str:
    """The request id of a malformed message, or "" if it cannot be read either."""
    try:
        return _decode(_addresses, body).request_id
    except msgspec.MsgspecError:
        return ""


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The library raises errors of Python's for text that is not UTF-8 and for too deep nesting."""
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"the message cannot be decoded: {error}") from error


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame's body, or None when the peer has closed the connection. Raises `FrameTooLargeError`."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise FrameTooLargeError(length)
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
