"""Messages from the leading rank to the others: length-prefixed msgpack in a pipe, tensors as safetensors."""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

import msgspec
from safetensors.torch import load, save

from inference.executor.layout import StepLayout
from inference.lora.adapter import Adapter
from inference.lora.blend import Blend
from inference.lora.block import DoraScale, LoraBlock

if TYPE_CHECKING:
    from torch import Tensor

READY = b"ready\n"  # a follower writes it to its standard output once its share is loaded
_LENGTH = struct.Struct("<Q")


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message. `config` holds the fields of an `EngineConfig`, with the model's path as text."""

    config: dict[str, bool | int | str | None]
    rank: int
    rendezvous: str
    max_context: int
    num_blocks: int


class Load(msgspec.Struct, frozen=True, tag="load"):
    """All ranks are connected: load the share. A follower must not exit before this message, because the
    other ranks would wait for its connection until they time out.
    """


class Write(msgspec.Struct, frozen=True, tag="write"):
    """Write the rank's share of a blend into a slot."""

    slot: int
    first_row: int
    rank: int
    weights: list[float]
    tensors: bytes


class Erase(msgspec.Struct, frozen=True, tag="erase"):
    """Empty a slot."""

    slot: int


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    """Compute a step."""

    layout: StepLayout


Message = Start | Load | Write | Erase | Forward

_decoder = msgspec.msgpack.Decoder(Message)


def write_message(file: IO[bytes], message: Message) -> None:
    body = msgspec.msgpack.encode(message)
    file.write(_LENGTH.pack(len(body)) + body)
    file.flush()


def read_message(file: IO[bytes]) -> Message | None:
    """None at the end of the pipe."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = file.read(length)
    return _decoder.decode(body) if len(body) == length else None


def pack_blend(blend: Blend, slot: int, first_row: int) -> Write:
    tensors: dict[str, Tensor] = {}
    for index, (adapter, _) in enumerate(blend.parts):
        for block in adapter.blocks:
            name = f"{index} {block.layers.start} {block.linear}"
            tensors |= {f"{name} shrink": block.shrink, f"{name} expand": block.expand}
            if block.dora is not None:
                tensors[f"{name} factor"] = block.dora.factor
                if block.dora.offset is not None:
                    tensors[f"{name} offset"] = block.dora.offset
    weights = [weight for _, weight in blend.parts]
    # safetensors refuses tensors that share memory, as the blocks of an adapter do.
    return Write(slot, first_row, blend.rank, weights, save({name: t.clone() for name, t in tensors.items()}))


def unpack_blend(message: Write) -> Blend:
    """A blend with all that an arena reads; its digest, and those of its adapters, are empty."""
    tensors = load(message.tensors)
    blocks: list[list[LoraBlock]] = [[] for _ in message.weights]
    for name in {name.rpartition(" ")[0] for name in tensors}:
        index, first, linear = name.split()
        factor = tensors.get(f"{name} factor")
        dora = None if factor is None else DoraScale(factor, tensors.get(f"{name} offset"))
        shrink, expand = tensors[f"{name} shrink"], tensors[f"{name} expand"]
        layers = range(int(first), int(first) + len(shrink))
        blocks[int(index)].append(LoraBlock(linear, layers, shrink, expand, dora))
    adapters = [Adapter("", own, 0, 0.0) for own in blocks]
    return Blend("", list(zip(adapters, message.weights, strict=True)), message.rank)
