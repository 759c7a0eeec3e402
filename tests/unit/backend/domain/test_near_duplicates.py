from __future__ import annotations

from backend.domain.near_duplicates import NUM_BANDS, similarity_ppm

ALIKE = (0x0102030405060708,) * NUM_BANDS


def test_equal_sketches_have_full_similarity() -> None:
    assert similarity_ppm(ALIKE, ALIKE) == 1_000_000


def test_sketches_without_a_common_byte_have_no_similarity() -> None:
    assert similarity_ppm(ALIKE, (-1,) * NUM_BANDS) == 0


def test_similarity_is_corrected_for_chance() -> None:
    half = ALIKE[: NUM_BANDS // 2] + (-1,) * (NUM_BANDS // 2)
    assert similarity_ppm(ALIKE, half) == 1_000_000 * (256 * 32 - 64) // (255 * 64)
    one_off = (ALIKE[0] ^ 0xFF, *ALIKE[1:])
    assert 980_000 < similarity_ppm(ALIKE, one_off) < 1_000_000
