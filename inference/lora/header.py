"""Parses and checks the header of a safetensors file, before any tensor is read.

No other code parses the header: a second parser could interpret a crafted one differently.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import torch

from inference.errors import (
    AdapterCorruptError,
    AdapterHeaderError,
    AdapterTooManyTensorsError,
    AdapterUnsupportedError,
)
from inference.kernels.factors import TensorSpec
from inference.lora.files import WEIGHTS_FILE
from inference.lora.strict_json import parse_object

_LENGTH = struct.Struct("<Q")
LENGTH_BYTES = _LENGTH.size
"""Size of the length field at the start of a file."""
_METADATA = "__metadata__"
_MAX_DEPTH = 3  # the object, an entry, its shape
_BYTES_PER_ENTRY = 512  # a name, a dtype, a shape and two offsets take about 160
_METADATA_BYTES = 64 * 1024
_MAX_DIMENSIONS = 8  # the product of a very long shape would take long
_MAX_SIZE = 2**63 - 1
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def max_header_bytes(max_tensors: int) -> int:
    return max_tensors * _BYTES_PER_ENTRY + _METADATA_BYTES


def extract_header(weights: memoryview, max_tensors: int) -> bytes:
    """The header bytes of a whole file. Their length is limited by `max_tensors`.
    Raises `AdapterCorruptError`, `AdapterHeaderError`, `AdapterTooManyTensorsError`.
    """
    if len(weights) < _LENGTH.size:
        raise AdapterCorruptError(WEIGHTS_FILE, f"{len(weights)} bytes are no safetensors file")
    (length,) = _LENGTH.unpack_from(weights)
    data_start = _LENGTH.size + length
    if data_start > len(weights):
        raise AdapterHeaderError(WEIGHTS_FILE, f"a header of {length} bytes in a file of {len(weights)}")
    if length > max_header_bytes(max_tensors):
        raise AdapterTooManyTensorsError(
            WEIGHTS_FILE, f"a header of {length} bytes; the base model has room for {max_tensors} tensors"
        )
    return bytes(weights[_LENGTH.size : data_start])


def read_header(header: bytes, file_size: int, max_tensors: int) -> dict[str, TensorSpec]:
    """Specs by tensor name. Together they cover the file from the header to its end, without gap or overlap.

    Raises `AdapterCorruptError`, `AdapterHeaderError`, `AdapterTooManyTensorsError`,
    `AdapterUnsupportedError`.
    """
    try:
        entries = parse_object(header, _MAX_DEPTH)
    except ValueError as error:
        raise AdapterCorruptError(WEIGHTS_FILE, f"its header is no JSON object: {error}") from error
    entries.pop(_METADATA, None)
    if not entries:
        raise AdapterCorruptError(WEIGHTS_FILE, "it holds no tensors")
    if len(entries) > max_tensors:
        reason = f"{len(entries)} tensors; the base model has room for {max_tensors}"
        raise AdapterTooManyTensorsError(WEIGHTS_FILE, reason)
    return _read_entries(entries, _LENGTH.size + len(header), file_size)


def _read_entries(entries: dict[str, Any], data_start: int, file_size: int) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        begin, end, spec = _read_entry(name, entry, data_start)
        specs[name] = spec
        ranges.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise AdapterHeaderError(name, f"begins at {begin}, the tensors before it end at {position}")
        position = end
    if data_start + position != file_size:
        num_bytes = file_size - data_start
        raise AdapterHeaderError(WEIGHTS_FILE, f"tensors of {position} bytes, but {num_bytes} follow")
    return specs


def _read_entry(name: str, entry: object, data_start: int) -> tuple[int, int, TensorSpec]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise AdapterHeaderError(name, "its entry is not a dtype, a shape and two offsets")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise AdapterHeaderError(name, f"shape {shape!r} or offsets {offsets!r} are not sizes")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise AdapterUnsupportedError(name, f"{dtype!r} is not served; save it in 16 or 32 bits")
    spec = TensorSpec(_DTYPES[dtype], tuple(shape), data_start + offsets[0])
    if math.prod(shape) * spec.dtype.itemsize != offsets[1] - offsets[0]:
        raise AdapterHeaderError(name, f"{dtype} of shape {shape} does not fill bytes {offsets}")
    return offsets[0], offsets[1], spec


def _are_sizes(value: object) -> bool:
    """`bool` is a subclass of `int`, but no size."""
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return False
    for size in value:  # noqa: SIM110  # called hundreds of times; a generator takes three times as long
        if type(size) is not int or not 0 <= size <= _MAX_SIZE:
            return False
    return True
