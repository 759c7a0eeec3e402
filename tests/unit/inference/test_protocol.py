"""Blends on the wire: validity and digests."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol import (
    MAX_BLEND_PARTS,
    AdapterBlend,
    AdapterRef,
    BlendPart,
    Embed,
    EmbedItem,
    Generate,
)
from inference.server.frames import decode_command, encode_frame

ONE, TWO = AdapterRef("1" * 64, "/one"), AdapterRef("2" * 64, "/two")
PARTS = st.lists(
    st.tuples(st.integers(0, 2**256 - 1), st.floats(allow_nan=False, allow_infinity=False).filter(bool)),
    min_size=1,
    max_size=MAX_BLEND_PARTS,
    unique_by=lambda part: part[0],
)


def blend_of(parts: list[tuple[int, float]]) -> AdapterBlend:
    return AdapterBlend(
        tuple(BlendPart(AdapterRef(f"{number:064x}", "/x"), weight) for number, weight in parts)
    )


@given(PARTS, st.randoms())
def test_a_blend_survives_the_wire_and_its_digest_any_order(parts: list[tuple[int, float]], rng: Any) -> None:
    blend = blend_of(parts)
    command = decode_command(encode_frame(Generate("r", prompt="x", blend=blend))[4:])
    assert isinstance(command, Generate)
    assert command.blend == command.adapter_or_blend == blend
    shuffled = list(parts)
    rng.shuffle(shuffled)
    assert blend_of(shuffled).digest == blend.digest


def test_the_digest_is_what_its_documentation_says() -> None:
    content = b"loraledger/blend/v1\0" + b"\x11" * 32 + struct.pack(">d", 0.5) + b"\x22" * 32
    content += struct.pack(">d", -2.0)
    blend = AdapterBlend((BlendPart(TWO, -2.0), BlendPart(ONE, 0.5)))
    assert blend.digest == hashlib.sha256(content).hexdigest()


def test_where_an_adapter_lies_does_not_name_it() -> None:
    moved = AdapterRef(ONE.digest, "/elsewhere")
    assert AdapterBlend((BlendPart(ONE, 1.0),)).digest == AdapterBlend((BlendPart(moved, 1.0),)).digest


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((), "1 to 8"),
        (tuple(BlendPart(AdapterRef(f"{n:064x}", "/"), 1.0) for n in range(9)), "1 to 8"),
        ((BlendPart(ONE, 0.0),), "other than zero"),
        ((BlendPart(ONE, math.nan),), "finite"),
        ((BlendPart(ONE, math.inf),), "finite"),
        ((BlendPart(ONE, 1.0), BlendPart(ONE, 2.0)), "once"),
    ],
)
def test_invalid_blends_are_refused(parts: tuple[BlendPart, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AdapterBlend(parts)


@pytest.mark.parametrize("command", [Generate, Embed])
def test_an_adapter_and_a_blend_exclude_each_other(command: type[Generate | Embed]) -> None:
    values: dict[str, Any] = {"adapter": ONE, "blend": AdapterBlend((BlendPart(TWO, 1.0),))}
    if command is Embed:
        values["items"] = (EmbedItem(prompt="x"),)
    with pytest.raises(ValueError, match="not both"):
        command("r", **values)


def test_an_invalid_blend_is_reported_as_an_invalid_field() -> None:
    text = (
        b'{"type":"generate","request_id":"r","blend":{"parts":[{"adapter":'
        b'{"digest":"' + b"1" * 64 + b'","path":"/"},"weight":0}]}}'
    )
    with pytest.raises(msgspec.ValidationError, match="other than zero"):
        decode_command(text)
