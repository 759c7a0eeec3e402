"""Malicious and malformed adapter folders, each with the error that must reject it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import socket
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from inference import errors
from inference.errors import AdapterError
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE, adapter_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
LORA_A, LORA_B = f"{Q_PROJ}.lora_A.weight", f"{Q_PROJ}.lora_B.weight"
MARKER = "was_executed"


@dataclass(frozen=True)
class MaliciousFolder:
    """A function that corrupts a valid folder, and the error that must reject it."""

    corrupt: Callable[[Path], None]
    error: type[AdapterError]


def claimed_digest(folder: Path) -> str:
    """The digest that a publisher would claim: the true one where it is defined."""
    try:
        return adapter_digest(folder)
    except AdapterError:
        return hashlib.sha256(str(folder).encode()).hexdigest()


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG_FILE).read_text())


def write_raw(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    """Write a weights file with an arbitrary header and claimed header `length`."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = struct.pack("<Q", len(text) if length is None else length)
    (folder / WEIGHTS_FILE).write_bytes(count + text + data)


def edit_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the header of a valid file without changing its data."""

    def corrupt(folder: Path) -> None:
        content = (folder / WEIGHTS_FILE).read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        change(header)
        write_raw(folder, header, content[8 + length :])

    return corrupt


def entry(**values: object) -> Callable[[Path], None]:
    """Change one tensor's entry in the header."""
    return edit_header(lambda header: header[LORA_A].update(values))


def raw(header: object, data: bytes = b"", length: int | None = None) -> Callable[[Path], None]:
    return lambda folder: write_raw(folder, header, data, length)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        values = load_file(folder / WEIGHTS_FILE)
        change(values)
        save_file({name: value.clone().contiguous() for name, value in values.items()}, folder / WEIGHTS_FILE)

    return corrupt


def poke(name: str, value: float) -> Callable[[Path], None]:
    return tensors(lambda values: values[name].view(-1).__setitem__(3, value))


def config(**values: object) -> Callable[[Path], None]:
    return lambda folder: write(CONFIG_FILE, json.dumps({**config_of(folder), **values}).encode())(folder)


def config_text(change: Callable[[str], str | bytes]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        text = change((folder / CONFIG_FILE).read_text())
        write(CONFIG_FILE, text if isinstance(text, bytes) else text.encode())(folder)

    return corrupt


def with_member(member: str) -> Callable[[Path], None]:
    """Insert a literal `"key": value` member into the configuration."""
    return config_text(lambda text: text.rstrip().removesuffix("}") + f", {member}}}")


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return corrupt


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


class Payload:
    """Creates a marker file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._marker,))


def pickled(name: str, protocol: int = 4) -> Callable[[Path], None]:
    return lambda folder: write(name, pickle.dumps(Payload(folder.parent / MARKER), protocol))(folder)


def archived(name: str) -> Callable[[Path], None]:
    """A pickle within a zip archive, as torch saves it."""

    def corrupt(folder: Path) -> None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Payload(folder.parent / MARKER)))
        write(name, archive.getvalue())(folder)

    return corrupt


def _many_files(folder: Path) -> None:
    for number in range(1001):
        (folder / f"{number}.txt").touch()


FOLDERS = {
    "adapter_model.bin": MaliciousFolder(pickled("adapter_model.bin"), errors.AdapterPickleError),
    "training_args.PT": MaliciousFolder(pickled("training_args.PT"), errors.AdapterPickleError),
    "pickle of protocol 0": MaliciousFolder(pickled("x.pkl", 0), errors.AdapterPickleError),
    "pickle called safetensors": MaliciousFolder(pickled(WEIGHTS_FILE), errors.AdapterPickleError),
    "pickle called readme": MaliciousFolder(pickled("README.md", 2), errors.AdapterPickleError),
    "pickle in an archive": MaliciousFolder(archived("weights.zip"), errors.AdapterPickleError),
    "archive called safetensors": MaliciousFolder(archived(WEIGHTS_FILE), errors.AdapterPickleError),
    "link to weights": MaliciousFolder(
        replace(WEIGHTS_FILE, lambda path: path.symlink_to("/dev/zero")), errors.AdapterIrregularFileError
    ),
    "link to a secret": MaliciousFolder(
        replace(CONFIG_FILE, lambda path: path.symlink_to("/etc/passwd")), errors.AdapterIrregularFileError
    ),
    "extra link": MaliciousFolder(
        replace("notes", lambda path: path.symlink_to("nowhere")), errors.AdapterIrregularFileError
    ),
    "link in a circle": MaliciousFolder(
        replace("loop", lambda path: path.symlink_to("loop")), errors.AdapterIrregularFileError
    ),
    "pipe as weights": MaliciousFolder(replace(WEIGHTS_FILE, os.mkfifo), errors.AdapterIrregularFileError),
    "pipe as config": MaliciousFolder(replace(CONFIG_FILE, os.mkfifo), errors.AdapterIrregularFileError),
    "extra pipe": MaliciousFolder(replace("pipe", os.mkfifo), errors.AdapterIrregularFileError),
    "socket": MaliciousFolder(replace("socket", bind_socket), errors.AdapterIrregularFileError),
    "folder as weights": MaliciousFolder(replace(WEIGHTS_FILE, Path.mkdir), errors.AdapterIrregularFileError),
    "a thousand files": MaliciousFolder(_many_files, errors.AdapterTooLargeError),
    "a config of megabytes": MaliciousFolder(config(task_type="x" * 2**21), errors.AdapterTooLargeError),
    "weights of gigabytes": MaliciousFolder(
        lambda folder: os.truncate(folder / WEIGHTS_FILE, 2**40), errors.AdapterTooLargeError
    ),
}


def _overlap(header: dict[str, Any]) -> None:
    header[LORA_B]["data_offsets"] = list(header[LORA_A]["data_offsets"])
    header[LORA_B]["shape"] = list(header[LORA_A]["shape"])


def _duplicate(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    first = json.dumps({LORA_A: header[LORA_B]})[:-1]
    write_raw(folder, f"{first}, {json.dumps(header)[1:]}".encode(), content[8 + length :])


def _f16(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}


def _tiny(count: int) -> dict[str, Any]:
    return {f"t{number}": _f16([1], 2 * number, 2 * number + 2) for number in range(count)}


_MILLION = b"{" + b'"t":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},' * 1_000_000 + b"}"

WEIGHTS = {
    "empty": MaliciousFolder(write(WEIGHTS_FILE, b""), errors.AdapterCorruptError),
    "seven bytes": MaliciousFolder(write(WEIGHTS_FILE, bytes(7)), errors.AdapterCorruptError),
    "no tensors": MaliciousFolder(raw({}), errors.AdapterCorruptError),
    "metadata alone": MaliciousFolder(raw({"__metadata__": {"format": "pt"}}), errors.AdapterCorruptError),
    "header of 2^63 bytes": MaliciousFolder(raw({}, length=2**63), errors.AdapterHeaderError),
    "header of 2^64 - 1 bytes": MaliciousFolder(raw({}, length=2**64 - 1), errors.AdapterHeaderError),
    "header longer than the file": MaliciousFolder(raw({}, length=3), errors.AdapterHeaderError),
    "header is no JSON": MaliciousFolder(raw(b"\0\1\2"), errors.AdapterCorruptError),
    "header is a list": MaliciousFolder(raw([]), errors.AdapterCorruptError),
    "header is not UTF-8": MaliciousFolder(raw(b'{"\xff": 1}'), errors.AdapterCorruptError),
    "header of great depth": MaliciousFolder(raw(b'{"a":' + b"[" * 10_000), errors.AdapterCorruptError),
    "half of the data": MaliciousFolder(
        lambda folder: os.truncate(folder / WEIGHTS_FILE, (folder / WEIGHTS_FILE).stat().st_size // 2 + 700),
        errors.AdapterHeaderError,
    ),
    "more data than tensors": MaliciousFolder(
        lambda folder: write(WEIGHTS_FILE, (folder / WEIGHTS_FILE).read_bytes() + b"1234")(folder),
        errors.AdapterHeaderError,
    ),
    "a name given twice": MaliciousFolder(_duplicate, errors.AdapterCorruptError),
    "overlapping tensors": MaliciousFolder(edit_header(_overlap), errors.AdapterHeaderError),
    "a gap between tensors": MaliciousFolder(
        edit_header(lambda header: header.pop(LORA_A)), errors.AdapterHeaderError
    ),
    "offsets past the end": MaliciousFolder(
        entry(shape=[2, 2**40], data_offsets=[0, 2**43]), errors.AdapterHeaderError
    ),
    "offsets in reverse": MaliciousFolder(entry(data_offsets=[1024, 0]), errors.AdapterHeaderError),
    "negative offsets": MaliciousFolder(entry(data_offsets=[-1024, 0]), errors.AdapterHeaderError),
    "fractional offsets": MaliciousFolder(entry(data_offsets=[0.0, 1024.0]), errors.AdapterHeaderError),
    "three offsets": MaliciousFolder(entry(data_offsets=[0, 1, 2]), errors.AdapterHeaderError),
    "a boolean size": MaliciousFolder(entry(shape=[True, 64]), errors.AdapterHeaderError),
    "a text for a shape": MaliciousFolder(entry(shape="64"), errors.AdapterHeaderError),
    "a size of 2^63": MaliciousFolder(entry(shape=[2**63, 2**63]), errors.AdapterHeaderError),
    "a thousand dimensions": MaliciousFolder(entry(shape=[2**62] * 1000), errors.AdapterHeaderError),
    "a vast shape over little data": MaliciousFolder(
        entry(shape=[10_000_000, 10_000_000]), errors.AdapterHeaderError
    ),
    "a dtype that does not fill its bytes": MaliciousFolder(entry(dtype="F16"), errors.AdapterHeaderError),
    "an unknown dtype": MaliciousFolder(entry(dtype="Q9"), errors.AdapterUnsupportedError),
    "a dtype that is a list": MaliciousFolder(entry(dtype=["F32"]), errors.AdapterUnsupportedError),
    "one key more": MaliciousFolder(entry(code="x"), errors.AdapterHeaderError),
    "an entry that is a number": MaliciousFolder(raw({LORA_A: 5}), errors.AdapterHeaderError),
    "a hundred tiny tensors": MaliciousFolder(raw(_tiny(100), bytes(200)), errors.AdapterTooManyTensorsError),
    "thousands of tiny tensors": MaliciousFolder(
        raw(_tiny(3000), bytes(6000)), errors.AdapterTooManyTensorsError
    ),
    "a million tiny tensors": MaliciousFolder(raw(_MILLION, bytes(2)), errors.AdapterTooLargeError),
    "whole numbers": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A: values[LORA_A].int()})), errors.AdapterUnsupportedError
    ),
    "doubles": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A: values[LORA_A].double()})),
        errors.AdapterUnsupportedError,
    ),
    "NaN in A": MaliciousFolder(poke(LORA_A, float("nan")), errors.AdapterNotFiniteError),
    "NaN in B": MaliciousFolder(poke(LORA_B, float("nan")), errors.AdapterNotFiniteError),
    "infinity in A": MaliciousFolder(poke(LORA_A, float("inf")), errors.AdapterNotFiniteError),
    "infinity in B": MaliciousFolder(poke(LORA_B, float("-inf")), errors.AdapterNotFiniteError),
    "A without B": MaliciousFolder(tensors(lambda values: values.pop(LORA_B)), errors.AdapterShapeError),
    "A of three dimensions": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A: values[LORA_A].unsqueeze(0)})), errors.AdapterShapeError
    ),
    "another rank than the config's": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A: values[LORA_A][:3]})), errors.AdapterShapeError
    ),
    "another width than the base's": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A: values[LORA_A][:, :32]})), errors.AdapterWrongBaseError
    ),
    "a rank of ten thousand": MaliciousFolder(
        tensors(
            lambda values: values.update({LORA_A: torch.ones(10_000, 64), LORA_B: torch.ones(64, 10_000)})
        ),
        errors.AdapterTooLargeError,
    ),
    "a layer that is not there": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A.replace("layers.0", "layers.7"): values[LORA_A]})),
        errors.AdapterWrongBaseError,
    ),
    "a layer of forty digits": MaliciousFolder(
        tensors(
            lambda values: values.update({LORA_A.replace("layers.0", f"layers.{'9' * 40}"): values[LORA_A]})
        ),
        errors.AdapterTargetError,
    ),
    "one layer by two names": MaliciousFolder(
        tensors(lambda values: values.update({LORA_A.replace("layers.0", "layers.00"): values[LORA_A]})),
        errors.AdapterTargetError,
    ),
    "a name that leaves the folder": MaliciousFolder(
        tensors(lambda values: values.update({"../../../etc/passwd": values[LORA_A]})),
        errors.AdapterTargetError,
    ),
    "half of the head": MaliciousFolder(
        tensors(lambda values: values.update({"base_model.model.lm_head.lora_A.weight": values[LORA_A]})),
        errors.AdapterShapeError,
    ),
    "a magnitude without DoRA": MaliciousFolder(
        tensors(lambda values: values.update({f"{Q_PROJ}.lora_magnitude_vector": torch.ones(64)})),
        errors.AdapterShapeError,
    ),
}

CONFIGS = {
    "no JSON": MaliciousFolder(config_text(lambda _: "{"), errors.AdapterConfigError),
    "no object": MaliciousFolder(config_text(lambda text: f"[{text}]"), errors.AdapterConfigError),
    "not UTF-8": MaliciousFolder(config_text(lambda text: text.encode("utf-16")), errors.AdapterConfigError),
    "a byte order mark": MaliciousFolder(
        config_text(lambda text: f"\ufeff{text}"), errors.AdapterConfigError
    ),
    "half a surrogate pair": MaliciousFolder(with_member(r'"x": "\ud800"'), errors.AdapterConfigError),
    "a key given twice": MaliciousFolder(with_member('"r": 4'), errors.AdapterConfigError),
    "a key given twice, deep inside": MaliciousFolder(
        with_member('"loftq_config": {"a": [{"b": 1, "b": 2}]}'), errors.AdapterConfigError
    ),
    "depth of ten thousand": MaliciousFolder(
        with_member(f'"loftq_config": {"[" * 10_000}{"]" * 10_000}'), errors.AdapterConfigError
    ),
    "an integer of five thousand digits": MaliciousFolder(
        with_member(f'"x": {"9" * 5000}'), errors.AdapterConfigError
    ),
    "a float beyond doubles": MaliciousFolder(with_member('"x": 1e999'), errors.AdapterConfigError),
    "NaN": MaliciousFolder(with_member('"x": NaN'), errors.AdapterConfigError),
    "a rank of ten thousand": MaliciousFolder(config(r=10_000), errors.AdapterRankError),
    "a rank of four thousand digits": MaliciousFolder(config(r=10**4000), errors.AdapterRankError),
    "a rank below one": MaliciousFolder(config(r=-4), errors.AdapterRankError),
    "a true rank": MaliciousFolder(config(r=True), errors.AdapterRankError),
    "a fractional rank": MaliciousFolder(config(r=4.0), errors.AdapterRankError),
    "an alpha of four hundred digits": MaliciousFolder(config(lora_alpha=10**400), errors.AdapterConfigError),
    "an alpha that overflows": MaliciousFolder(config(lora_alpha=1e300), errors.AdapterNotFiniteError),
    "an alpha in words": MaliciousFolder(config(lora_alpha="eight"), errors.AdapterConfigError),
    "a pattern that backtracks": MaliciousFolder(
        config(rank_pattern={"(a+)+$": 4}), errors.AdapterPatternError
    ),
    "a pattern with a lookbehind": MaliciousFolder(
        config(alpha_pattern={"(?<=x)q": 4}), errors.AdapterPatternError
    ),
    "a pattern of a megabyte": MaliciousFolder(
        config(alpha_pattern={"a" * 900_000: 4}), errors.AdapterPatternError
    ),
    "a pattern that refers back": MaliciousFolder(
        config(rank_pattern={r"\9": 4}), errors.AdapterPatternError
    ),
    "ten thousand patterns": MaliciousFolder(
        config(rank_pattern={f"m{number}": 4 for number in range(10_000)}), errors.AdapterPatternError
    ),
    "code of its own": MaliciousFolder(
        config(auto_mapping={"base_model_class": "Popen", "parent_library": "subprocess"}),
        errors.AdapterRemoteCodeError,
    ),
    "code by a path": MaliciousFolder(
        config(auto_mapping={"parent_library": "transformers.models/../../evil"}),
        errors.AdapterRemoteCodeError,
    ),
    "trust in remote code": MaliciousFolder(config(trust_remote_code=True), errors.AdapterRemoteCodeError),
    "a map to code": MaliciousFolder(
        config(auto_map={"AutoModel": "evil--model.Model"}), errors.AdapterRemoteCodeError
    ),
    "custom modules": MaliciousFolder(
        config(custom_modules={"Linear": "evil"}), errors.AdapterRemoteCodeError
    ),
    "modules to save": MaliciousFolder(config(modules_to_save=["lm_head"]), errors.AdapterModulesToSaveError),
    "another base": MaliciousFolder(config(base_model_digest="0" * 64), errors.AdapterWrongBaseError),
    "a base that is a list": MaliciousFolder(config(base_model_digest=["0"]), errors.AdapterWrongBaseError),
    "a base changed at the start": MaliciousFolder(
        config(init_lora_weights="pissa"), errors.AdapterUnsupportedError
    ),
    "a kind yet to be invented": MaliciousFolder(config(use_foo={"rank": 3}), errors.AdapterUnsupportedError),
    "another method": MaliciousFolder(config(peft_type="IA3"), errors.AdapterUnsupportedError),
    "biases": MaliciousFolder(config(bias="lora_only"), errors.AdapterBiasError),
    "DoRA without magnitudes": MaliciousFolder(config(use_dora=True), errors.AdapterShapeError),
}

ALL: Mapping[str, MaliciousFolder] = {
    f"{group}: {name}": hostile
    for group, members in (("folder", FOLDERS), ("weights", WEIGHTS), ("config", CONFIGS))
    for name, hostile in members.items()
}
