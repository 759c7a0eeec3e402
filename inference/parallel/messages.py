"""What the leading rank tells the others, through a pipe: framed msgpack, and tensors as safetensors."""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

import msgspec
from safetensors.torch import load, save

from inference.layout import StepLayout
from inference.lora.adapter import Adapter
from inference.lora.block import LoraBlock, OutputGain
from inference.lora.stack import Stack

if TYPE_CHECKING:
    from torch import Tensor

READY = b"ready\n"  # a follower's only word, on its standard output
_LENGTH = struct.Struct("<Q")


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message. `config` are the fields of an `EngineConfig`, the path of the model as text."""

    config: dict[str, bool | int | str | None]
    rank: int
    rendezvous: str
    max_context: int
    num_blocks: int


class Load(msgspec.Struct, frozen=True, tag="load"):
    """The leader has met all ranks. Whoever ends before this word looks, to the others, like one that never
    came.
    """


class Write(msgspec.Struct, frozen=True, tag="write"):
    """Put a stack of adapters, cut to the rank's share, into a slot."""

    slot: int
    first_row: int
    rank: int
    weights: list[float]
    tensors: bytes


class Erase(msgspec.Struct, frozen=True, tag="erase"):
    slot: int


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    layout: StepLayout


Message = Start | Load | Write | Erase | Forward

_decoder = msgspec.msgpack.Decoder(Message)


def write_message(file: IO[bytes], message: Message) -> None:
    body = msgspec.msgpack.encode(message)
    file.write(_LENGTH.pack(len(body)) + body)
    file.flush()


def read_message(file: IO[bytes]) -> Message | None:
    """None where the pipe has ended."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = file.read(length)
    return _decoder.decode(body) if len(body) == length else None


def pack_stack(stack: Stack, slot: int, first_row: int) -> Write:
    tensors: dict[str, Tensor] = {}
    for index, (adapter, _) in enumerate(stack.parts):
        for block in adapter.blocks:
            name = f"{index} {block.layers.start} {block.linear}"
            tensors |= {f"{name} shrink": block.shrink, f"{name} expand": block.expand}
            if block.gain is not None:
                tensors[f"{name} factor"] = block.gain.factor
                if block.gain.offset is not None:
                    tensors[f"{name} offset"] = block.gain.offset
    weights = [weight for _, weight in stack.parts]
    # Whatever is shared between adapters, as a view or whole, is sent as often as it is used.
    return Write(slot, first_row, stack.rank, weights, save({name: t.clone() for name, t in tensors.items()}))


def unpack_stack(message: Write) -> Stack:
    """Only what an arena reads: the stack has no digest, and its adapters have none."""
    tensors = load(message.tensors)
    blocks: list[list[LoraBlock]] = [[] for _ in message.weights]
    for name in {name.rpartition(" ")[0] for name in tensors}:
        index, first, linear = name.split()
        factor = tensors.get(f"{name} factor")
        gain = None if factor is None else OutputGain(factor, tensors.get(f"{name} offset"))
        shrink, expand = tensors[f"{name} shrink"], tensors[f"{name} expand"]
        layers = range(int(first), int(first) + len(shrink))
        blocks[int(index)].append(LoraBlock(linear, layers, shrink, expand, gain))
    adapters = [Adapter("", part, 0, 0.0) for part in blocks]
    return Stack("", list(zip(adapters, message.weights, strict=True)), message.rank)
