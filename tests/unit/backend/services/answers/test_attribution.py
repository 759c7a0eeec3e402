from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from backend.domain.attribution import CHECKPOINT_FILE, GRADIENT_METHOD, INDEX_FILE, INDEX_METADATA
from backend.domain.errors import InvalidInput
from backend.ports.attribution import Probe
from backend.services.answers.attribution import (
    Distilled,
    DistilledError,
    HiddenCosine,
    Ridge,
    Uniform,
    attribute,
    score_all,
)
from backend.services.answers.attribution_index import (
    AttributionIndex,
    Indices,
    has_gradients,
    load_index,
)
from backend.services.answers.distilled import distilled_features

if TYPE_CHECKING:
    from pathlib import Path

    from backend.ports.attribution import Attributor

POSITIONS = [0, 1, 1 << 24]
METADATA = INDEX_METADATA | {"methods": f"{GRADIENT_METHOD} error-ridge-1"}
DISTILLED = METADATA | {"methods": f"distilled-1 distilled-error-1 {METADATA['methods']}"}
MAPS = {
    "distilled.weights": np.array([[1, 0, 0, 0], [0, 0, 2, 0], [0, -1, 0, 0]], dtype=np.float32),
    "distilled.bias": np.array([-10, 0, 20], dtype=np.float32),
    "distilled_error.weights": np.array([[1, 1], [0, 1], [-1, 0]], dtype=np.float32),
    "distilled_error.bias": np.array([0, 1, 0], dtype=np.float32),
}
PROBE = Probe([13.0, 14.0], error=[1.0, 2.0], gradient=[1.0, 0.0, -1.0, 2.0])


def write_index(folder: Path, metadata: dict[str, str] = METADATA, **changes: Any) -> None:
    tensors: dict[str, Any] = {
        "positions": np.array(POSITIONS, dtype=np.int64),
        "hidden.vectors": np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32),
        "rows": np.array([4, 1, 9], dtype=np.int64),
        "hidden.centre": np.array([10, 10], dtype=np.float32),
        "error.vectors": np.array([[3, 0], [0, -1], [1, 1]], dtype=np.float32),
        "gradient.vectors": np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 3]], dtype=np.float32),
    }
    tensors |= changes
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / INDEX_FILE, metadata)


def test_scores_are_cosines_of_centred_states_moved_to_between_0_and_1(tmp_path: Path) -> None:
    write_index(tmp_path)
    scores = HiddenCosine(Indices()).scores(tmp_path, POSITIONS, PROBE)
    assert scores == pytest.approx({0: 0.8, 1: 0.9, 1 << 24: 0.2})


def test_ridge_scores_are_dot_products_and_may_be_negative(tmp_path: Path) -> None:
    write_index(tmp_path)
    indices = Indices(with_gradients=True)
    by_error = Ridge(indices, "error").scores(tmp_path, POSITIONS, PROBE)
    assert by_error == {0: 3.0, 1: -2.0, 1 << 24: 3.0}
    by_gradient = Ridge(indices, "gradient").scores(tmp_path, POSITIONS, PROBE)
    assert by_gradient == {0: 1.0, 1: -1.0, 1 << 24: 6.0}
    found = attribute([Ridge(indices, "error")], tmp_path, POSITIONS, PROBE)
    assert found.method == "error-ridge-1"
    assert [(share.position, share.ppm) for share in found.shares] == [(0, 500_000), (1 << 24, 500_000)]


def test_ridge_scores_of_huge_vectors_stay_finite(tmp_path: Path) -> None:
    huge = np.full((3, 2), 3e38, dtype=np.float32)
    write_index(tmp_path, **{"error.vectors": huge})
    found = attribute([Ridge(Indices(), "error")], tmp_path, POSITIONS, Probe(error=[3e38, 3e38]))
    assert [share.ppm for share in found.shares] == [333_334, 333_333, 333_333]


@pytest.mark.parametrize("probe", [Probe([1.0, 2.0]), Probe(error=[1.0] * 3, gradient=[1.0] * 3)])
def test_ridge_cannot_say_without_its_own_part_of_the_probe(tmp_path: Path, probe: Probe) -> None:
    write_index(tmp_path)
    indices = Indices(with_gradients=True)
    assert Ridge(indices, "error").scores(tmp_path, POSITIONS, probe) is None
    assert Ridge(indices, "gradient").scores(tmp_path, POSITIONS, probe) is None


def test_gradients_are_not_scored_unless_they_are_loaded(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert Ridge(Indices(), "gradient").scores(tmp_path, POSITIONS, PROBE) is None


@pytest.mark.parametrize("methods", ["gradient-ridge-3 error-ridge-1", "error-ridge-1", None])
def test_gradients_that_another_method_took_are_not_scored_by(tmp_path: Path, methods: str | None) -> None:
    write_index(tmp_path, metadata=INDEX_METADATA | ({"methods": methods} if methods else {}))
    indices = Indices(with_gradients=True)
    assert Ridge(indices, "gradient").scores(tmp_path, POSITIONS, PROBE) is None
    found = attribute([Ridge(indices, "gradient"), Ridge(indices, "error")], tmp_path, POSITIONS, PROBE)
    assert found.method == "error-ridge-1"


def test_an_index_that_names_gradients_has_them(tmp_path: Path) -> None:
    write_index(tmp_path, **{"gradient.vectors": None})
    assert load_index(tmp_path / INDEX_FILE).gradient is None
    with pytest.raises(InvalidInput, match="lacks"):
        load_index(tmp_path / INDEX_FILE, with_gradients=True)


def attributors() -> list[Attributor]:
    indices = Indices()
    distilled = Distilled(indices), DistilledError(indices)
    return [*distilled, Ridge(indices, "error"), HiddenCosine(indices), Uniform()]


def test_distilled_scores_are_a_linear_map_of_the_directions_of_state_and_error(tmp_path: Path) -> None:
    write_index(tmp_path, DISTILLED, **MAPS)
    indices, probe = Indices(), Probe([3.0, 4.0], error=[0.0, -2.0])
    by_both = Distilled(indices).scores(tmp_path, POSITIONS, probe)
    assert by_both == pytest.approx({0: 1.2 - 10, 1: 0.0, 1 << 24: -1.6 + 20})
    by_error = DistilledError(indices).scores(tmp_path, POSITIONS, probe)
    assert by_error == pytest.approx({0: -1.0, 1: 0.0, 1 << 24: 0.0})


def test_features_of_huge_or_empty_vectors_are_finite() -> None:
    hidden = np.array([[0.0, 0.0], [3e38, 3e38]], dtype=np.float32)
    features = distilled_features(hidden, hidden[::-1])
    expected = [[0.0, 0.0, 0.5**0.5, 0.5**0.5], [2**0.5, 2**0.5, 0.0, 0.0]]
    assert features == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("probe", "method"),
    [
        (PROBE, "distilled-1"),
        (Probe(error=[1.0, 2.0]), "distilled-error-1"),
        (Probe([13.0, 14.0]), "hidden-cosine-1"),
        (Probe([13.0, 14.0], error=[1.0]), "hidden-cosine-1"),
        (Probe([13.0], error=[1.0]), "uniform-1"),
        (Probe(), "uniform-1"),
    ],
)
def test_an_answer_is_attributed_by_the_best_method_that_its_probe_allows(
    tmp_path: Path, probe: Probe, method: str
) -> None:
    write_index(tmp_path, DISTILLED, **MAPS)
    assert attribute(attributors(), tmp_path, POSITIONS, probe).method == method


@pytest.mark.parametrize(
    ("methods", "method"),
    [
        ("distilled-1 distilled-error-1", "distilled-1"),
        ("distilled-error-1", "distilled-error-1"),
        ("error-ridge-1 hidden-cosine-1", "error-ridge-1"),
        ("distilled-2 error-ridge-1", "error-ridge-1"),
    ],
)
def test_maps_that_an_index_does_not_name_are_not_used(tmp_path: Path, methods: str, method: str) -> None:
    write_index(tmp_path, INDEX_METADATA | {"methods": methods}, **MAPS)
    assert attribute(attributors(), tmp_path, POSITIONS, PROBE).method == method


def test_an_index_written_before_distillation_is_attributed_by_error_vectors(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute(attributors(), tmp_path, POSITIONS, PROBE)
    assert found == attribute([Ridge(Indices(), "error")], tmp_path, POSITIONS, PROBE)
    assert found.method == "error-ridge-1"


def test_a_blend_uses_the_first_method_that_all_its_versions_have(tmp_path: Path) -> None:
    new, newer, old = (tmp_path / name for name in ("new", "newer", "old"))
    for folder in (new, newer, old):
        folder.mkdir()
    write_index(new, DISTILLED, **MAPS)
    write_index(newer, DISTILLED, **MAPS)
    write_index(old)
    method, _ = score_all(attributors(), [(new, POSITIONS), (newer, POSITIONS)], PROBE)
    assert method == "distilled-1"
    method, scores = score_all(attributors(), [(new, POSITIONS), (old, POSITIONS)], PROBE)
    assert method == "error-ridge-1"
    assert scores[0] == scores[1] == Ridge(Indices(), "error").scores(old, POSITIONS, PROBE)


def test_a_version_without_an_index_does_not_decide_how_the_others_of_a_blend_are_attributed(
    tmp_path: Path,
) -> None:
    indexed, without = tmp_path / "indexed", tmp_path / "without"
    indexed.mkdir()
    without.mkdir()
    write_index(indexed, DISTILLED, **MAPS)
    alone = score_all(attributors(), [(indexed, POSITIONS)], PROBE)
    method, scores = score_all(attributors(), [(without, [5, 9]), (indexed, POSITIONS)], PROBE)
    assert (method, scores[1]) == (alone[0], alone[1][0])
    assert scores[0] == {5: 1.0, 9: 1.0}
    method, scores = score_all(attributors(), [(without, [5, 9]), (without, [7])], PROBE)
    assert (method, scores) == ("uniform-1", [{5: 1.0, 9: 1.0}, {7: 1.0}])


def test_distilled_scores_of_huge_vectors_stay_finite(tmp_path: Path) -> None:
    huge = MAPS | {"distilled.weights": np.full((3, 4), 3e38, dtype=np.float32)}
    write_index(tmp_path, DISTILLED, **huge)
    found = attribute(attributors(), tmp_path, POSITIONS, Probe([3e38] * 2, error=[3e38] * 2))
    assert [share.ppm for share in found.shares] == [333_334, 333_333, 333_333]


@pytest.mark.parametrize(
    "changes",
    [
        {"distilled.weights": None},
        {"distilled.bias": None},
        {"distilled.weights": np.zeros((3, 2), dtype=np.float32)},
        {"distilled.weights": np.zeros((2, 4), dtype=np.float32)},
        {"distilled.weights": np.zeros((3, 4), dtype=np.float64)},
        {"distilled.weights": np.full((3, 4), np.nan, dtype=np.float32)},
        {"distilled.bias": np.zeros((3, 1), dtype=np.float32)},
        {"distilled.bias": np.zeros(2, dtype=np.float32)},
        {"distilled.bias": np.full(3, np.inf, dtype=np.float32)},
        {"distilled_error.weights": np.zeros((3, 4), dtype=np.float32)},
        {"distilled_error.bias": None},
    ],
)
def test_an_index_with_a_malformed_map_is_not_used(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_index(tmp_path, DISTILLED, **(MAPS | changes))
    with pytest.raises(InvalidInput):
        load_index(tmp_path / INDEX_FILE)
    assert attribute(attributors(), tmp_path, POSITIONS, PROBE).method == "uniform-1"


def test_the_cache_counts_the_bytes_of_maps(tmp_path: Path) -> None:
    write_index(tmp_path, DISTILLED, **MAPS)
    maps = sum(tensor.nbytes for tensor in MAPS.values())
    whole = load_index(tmp_path / INDEX_FILE).num_bytes
    write_index(tmp_path)
    assert whole - load_index(tmp_path / INDEX_FILE).num_bytes == maps


def test_positions_outside_the_snapshots_get_nothing(tmp_path: Path) -> None:
    write_index(tmp_path)
    scores = HiddenCosine(Indices()).scores(tmp_path, [1], PROBE)
    assert scores == pytest.approx({1: 0.9})


@pytest.mark.parametrize(
    "attributor", [HiddenCosine, Distilled, DistilledError], ids=lambda each: each.method
)
def test_contributions_that_do_not_count_are_not_scored_and_change_no_score(
    tmp_path: Path, attributor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path, DISTILLED, **MAPS)
    scoring = attributor(Indices())
    whole = scoring.scores(tmp_path, POSITIONS, PROBE)
    sizes: list[int] = []
    score = attributor.score

    def counted(self: Any, index: AttributionIndex, probe: Probe) -> Any:
        sizes.append(len(index.positions))
        return score(self, index, probe)

    monkeypatch.setattr(attributor, "score", counted)
    for wanted in ([POSITIONS[0], POSITIONS[2]], [POSITIONS[1], 77]):
        found = scoring.scores(tmp_path, wanted, PROBE)
        assert found == pytest.approx({at: whole[at] for at in wanted if at in whole})
    assert sizes == [2, 1]


def test_shares_follow_the_scores(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute([HiddenCosine(Indices()), Uniform()], tmp_path, POSITIONS, PROBE)
    assert found.method == "hidden-cosine-1"
    assert [share.position for share in found.shares] == POSITIONS
    squares = 0.8**2 + 0.9**2 + 0.2**2
    assert found.shares[0].ppm == pytest.approx(0.8**2 / squares * 1_000_000, abs=2)
    assert sum(share.ppm for share in found.shares) == 1_000_000


def test_of_two_opposite_contributions_the_farther_one_still_earns(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    changes = {"rows": np.ones(2, dtype=np.int64), "hidden.vectors": vectors, "error.vectors": vectors}
    write_index(tmp_path, positions=np.array([0, 1], dtype=np.int64), **changes)
    found = attribute([HiddenCosine(Indices())], tmp_path, [0, 1], PROBE)
    assert [share.ppm for share in found.shares] == pytest.approx([941_176, 58_824], abs=2)


def test_a_state_at_the_centre_counts_all_alike(tmp_path: Path) -> None:
    write_index(tmp_path)
    found = attribute([HiddenCosine(Indices())], tmp_path, POSITIONS, Probe([10.0, 10.0]))
    assert [share.ppm for share in found.shares] == [333_334, 333_333, 333_333]


@pytest.mark.parametrize("probe", [Probe(), PROBE])
def test_without_index_or_probe_all_count_alike(tmp_path: Path, probe: Probe) -> None:
    if probe == Probe():
        write_index(tmp_path)
    found = attribute([HiddenCosine(Indices()), Uniform()], tmp_path, [5, 6], probe)
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
        {"positions": np.array([0, 0, 1], dtype=np.int64)},
        {"rows": None},
        {"rows": np.array([1, 1, -1], dtype=np.int64)},
        {"rows": np.ones(2, dtype=np.int64)},
        {"error.vectors": None},
        {"error.vectors": np.zeros((3, 3), dtype=np.float32)},
        {"error.vectors": np.full((3, 2), np.nan, dtype=np.float32)},
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
    cosine = HiddenCosine(Indices())
    cosine.prepare(tmp_path)
    assert "attributed equally" in caplog.text
    found = attribute([cosine, Uniform()], tmp_path, POSITIONS, PROBE)
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
    found = attribute(
        [HiddenCosine(Indices()), Uniform()], tmp_path, POSITIONS, Probe([1.0, 2.0, 3.0], [1.0])
    )
    assert found.method == "uniform-1"


def test_indices_in_memory_stay_within_their_bytes(tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(path: Path, max_bytes: int, *, with_gradients: bool) -> AttributionIndex:
        loaded.append(path.parent.name)
        return load_index(path, max_bytes, with_gradients=with_gradients)

    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        write_index(folder)
    a, b, c = folders
    cosine = HiddenCosine(Indices(max_bytes=2500))  # two of them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.services.answers.attribution_index.load_index", load)
        for folder in (a, b, a, c, a, b):
            cosine.prepare(folder)
    assert loaded == ["a", "b", "c", "b"]


def test_a_folder_without_an_index_is_searched_once_and_an_absent_folder_again(tmp_path: Path) -> None:
    without, absent = tmp_path / "without", tmp_path / "absent"
    without.mkdir()
    cosine = HiddenCosine(Indices())
    cosine.prepare(without)
    cosine.prepare(absent)
    write_index(without)  # as no process does: folders are named by their content
    absent.mkdir()
    write_index(absent)
    assert cosine.scores(without, POSITIONS, PROBE) is None
    assert not cosine.is_prepared(absent)
    assert cosine.scores(absent, POSITIONS, PROBE) is not None


def test_an_index_above_the_budget_is_not_read(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert HiddenCosine(Indices(max_bytes=100)).scores(tmp_path, POSITIONS, PROBE) is None


def test_gradients_that_make_an_index_too_large_are_not_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path, **{"gradient.vectors": np.ones((3, 1000), np.float32)})
    (tmp_path / CHECKPOINT_FILE).touch()
    assert has_gradients(tmp_path)
    monkeypatch.setattr("backend.services.answers.attribution_index.MAX_INDEX_BYTES", 12_000)
    assert not has_gradients(tmp_path)


def test_the_budget_does_not_count_gradients_that_are_not_read(tmp_path: Path) -> None:
    write_index(tmp_path, **{"gradient.vectors": np.ones((3, 1000), np.float32)})
    assert load_index(tmp_path / INDEX_FILE, 1000).gradient is None
    with pytest.raises(InvalidInput, match="bytes, more than 1000"):
        load_index(tmp_path / INDEX_FILE, 1000, with_gradients=True)
