from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from backend.domain.errors import InvalidInput
from backend.services.attribute import INDEX_FILE, HiddenCosine, Uniform, attribute

if TYPE_CHECKING:
    from pathlib import Path

METADATA = {"method": "hidden-cosine-1", "version": "1"}
POSITIONS = [0, 1, 1 << 24]


def write_index(folder: Path, metadata: dict[str, str] = METADATA, **changes: Any) -> None:
    tensors: dict[str, Any] = {
        "positions": np.array(POSITIONS, dtype=np.int64),
        "vectors": np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32),
        "centre": np.array([10, 10], dtype=np.float32),
    }
    tensors |= changes
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / INDEX_FILE, metadata)


def test_scores_are_cosines_of_centred_states(tmp_path: Path) -> None:
    write_index(tmp_path)
    scores = HiddenCosine().scores(tmp_path, POSITIONS, [13.0, 14.0])
    assert scores == pytest.approx({0: 0.6, 1: 0.8, 1 << 24: -0.6})


def test_positions_outside_the_snapshots_get_nothing(tmp_path: Path) -> None:
    write_index(tmp_path)
    scores = HiddenCosine().scores(tmp_path, [1], [13.0, 14.0])
    assert scores == pytest.approx({1: 0.8})


def test_shares_follow_the_scores(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute([HiddenCosine(), Uniform()], tmp_path, POSITIONS, [13.0, 14.0])
    assert found.method == "hidden-cosine-1"
    assert [share.position for share in found.shares] == [0, 1]
    assert found.shares[0].ppm == pytest.approx(360_000, abs=2)
    assert sum(share.ppm for share in found.shares) == 1_000_000


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
        {"vectors": None},
        {"vectors": np.zeros((2, 2), dtype=np.float32)},
        {"vectors": np.full((3, 2), np.nan, dtype=np.float32)},
        {"positions": np.zeros(3, dtype=np.int32)},
        {"centre": np.zeros(2, dtype=np.float64)},
        {"metadata": {"method": "other", "version": "1"}},
        {"metadata": {}},
    ],
)
def test_a_malformed_index_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_index(tmp_path, **changes)
    with pytest.raises(InvalidInput):
        HiddenCosine().scores(tmp_path, POSITIONS, [13.0, 14.0])


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_bytes(b"not tensors")
    with pytest.raises(InvalidInput):
        HiddenCosine().scores(tmp_path, POSITIONS, [13.0, 14.0])


def test_a_probe_of_another_model_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path)
    with pytest.raises(InvalidInput):
        HiddenCosine().scores(tmp_path, POSITIONS, [1.0, 2.0, 3.0])
