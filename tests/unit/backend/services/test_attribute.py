from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from backend.domain.attribution import INDEX_FILE, INDEX_METADATA
from backend.domain.errors import InvalidInput
from backend.services.attribute import (
    AttributionIndex,
    HiddenCosine,
    Uniform,
    attribute,
    load_index,
)

if TYPE_CHECKING:
    from pathlib import Path

POSITIONS = [0, 1, 1 << 24]


def write_index(folder: Path, metadata: dict[str, str] = INDEX_METADATA, **changes: Any) -> None:
    tensors: dict[str, Any] = {
        "positions": np.array(POSITIONS, dtype=np.int64),
        "hidden.vectors": np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32),
        "hidden.centre": np.array([10, 10], dtype=np.float32),
    }
    tensors |= changes
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / INDEX_FILE, metadata)


def test_scores_are_cosines_of_centred_states_moved_to_between_0_and_1(tmp_path: Path) -> None:
    write_index(tmp_path)
    scores = HiddenCosine().scores(tmp_path, POSITIONS, [13.0, 14.0])
    assert scores == pytest.approx({0: 0.8, 1: 0.9, 1 << 24: 0.2})


def test_positions_outside_the_snapshots_get_nothing(tmp_path: Path) -> None:
    write_index(tmp_path)
    scores = HiddenCosine().scores(tmp_path, [1], [13.0, 14.0])
    assert scores == pytest.approx({1: 0.9})


def test_shares_follow_the_scores(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute([HiddenCosine(), Uniform()], tmp_path, POSITIONS, [13.0, 14.0])
    assert found.method == "hidden-cosine-1"
    assert [share.position for share in found.shares] == POSITIONS
    squares = 0.8**2 + 0.9**2 + 0.2**2
    assert found.shares[0].ppm == pytest.approx(0.8**2 / squares * 1_000_000, abs=2)
    assert sum(share.ppm for share in found.shares) == 1_000_000


def test_of_two_opposite_contributions_the_farther_one_still_earns(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    write_index(tmp_path, positions=np.array([0, 1], dtype=np.int64), **{"hidden.vectors": vectors})
    found = attribute([HiddenCosine()], tmp_path, [0, 1], [13.0, 14.0])
    assert [share.ppm for share in found.shares] == pytest.approx([941_176, 58_824], abs=2)


def test_a_state_at_the_centre_counts_all_alike(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute([HiddenCosine()], tmp_path, POSITIONS, [10.0, 10.0])
    assert [share.ppm for share in found.shares] == [333_334, 333_333, 333_333]


@pytest.mark.parametrize("probe", [None, [13.0, 14.0]])
def test_without_index_or_probe_all_count_alike(tmp_path: Path, probe: list[float] | None) -> None:
    if probe is None:
        write_index(tmp_path)
    found = attribute([HiddenCosine(), Uniform()], tmp_path, [5, 6], probe)
    assert found.method == "uniform-1"
    assert [(share.position, share.ppm) for share in found.shares] == [(5, 500_000), (6, 500_000)]


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden.vectors": None},
        {"hidden.vectors": np.zeros((2, 2), dtype=np.float32)},
        {"hidden.vectors": np.full((3, 2), np.nan, dtype=np.float32)},
        {"hidden.vectors": np.full((3, 2), 1e30, dtype=np.float32)},
        {"hidden.vectors": np.full((3, 2), 0.9, dtype=np.float32)},
        {"positions": np.zeros(3, dtype=np.int32)},
        {"positions": np.zeros((3, 1), dtype=np.int64)},
        {"hidden.centre": np.zeros(2, dtype=np.float64)},
        {"hidden.centre": np.full(2, np.inf, dtype=np.float32)},
        {"metadata": {"method": "hidden-cosine-1", "version": "1"}},
        {"metadata": {}},
    ],
)
def test_a_malformed_index_is_found_in_preparation_and_all_count_alike(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    write_index(tmp_path, **changes)
    with pytest.raises(InvalidInput):
        load_index(tmp_path / INDEX_FILE)
    cosine = HiddenCosine()
    cosine.prepare(tmp_path)
    assert "count alike" in caplog.text
    found = attribute([cosine, Uniform()], tmp_path, POSITIONS, [13.0, 14.0])
    assert found.method == "uniform-1"


def test_a_file_that_numpy_cannot_read_is_no_index(tmp_path: Path) -> None:
    header = b'{"hidden.centre":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    bfloat16 = len(header).to_bytes(8, "little") + header + b"\0\0"
    for data in (b"not tensors", b"", bfloat16):
        (tmp_path / INDEX_FILE).write_bytes(data)
        with pytest.raises(InvalidInput):
            load_index(tmp_path / INDEX_FILE)


def test_a_probe_of_another_model_counts_all_alike(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute([HiddenCosine(), Uniform()], tmp_path, POSITIONS, [1.0, 2.0, 3.0])
    assert found.method == "uniform-1"


def test_indices_in_memory_stay_within_their_bytes(tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(path: Path, max_bytes: int) -> AttributionIndex:
        loaded.append(path.parent.name)
        return load_index(path, max_bytes)

    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        write_index(folder)
    a, b, c = folders
    cosine = HiddenCosine(max_bytes=2500)  # two of them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.services.attribute.load_index", load)
        for folder in (a, b, a, c, a, b):
            cosine.prepare(folder)
    assert loaded == ["a", "b", "c", "b"]


def test_an_index_above_the_budget_is_not_read(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert HiddenCosine(max_bytes=100).scores(tmp_path, POSITIONS, [13.0, 14.0]) is None
