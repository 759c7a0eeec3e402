from __future__ import annotations

import random
import string

from rensa import RMinHash

from backend.domain.near_duplicates import NEAR_PPM, NUM_BANDS, similarity_ppm
from backend.services.contribute.sketch import SHINGLE_BYTES, build_sketches

SENTENCE = "Returns the number of items in the list, or zero if there are none at all."

GOLDEN = (
    *(-7078368947501381342, 3728984482210932993, 2987453096278783957, 8746531439244567899),
    *(-7304229311949796267, 8933432276920100686, -1139000499499507714, -7501659011238472612),
)


def jaccard(one: str, other: str) -> float:
    sets = []
    for text in (one, other):
        plain = " ".join(text.casefold().split()).encode()
        sets.append({plain[at : at + SHINGLE_BYTES] for at in range(len(plain) - SHINGLE_BYTES + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_sketches_are_those_that_databases_hold() -> None:
    """If this fails after an upgrade, a migration must recompute the sketches of all uploads."""
    assert RMinHash.ALGORITHM_VERSION == 2
    [sketch] = build_sketches([SENTENCE])
    assert sketch == GOLDEN


def test_case_and_blanks_do_not_count() -> None:
    one, other, third = build_sketches([SENTENCE, SENTENCE.upper(), SENTENCE.replace(" ", " \n\t")])
    assert one == other == third


def test_a_text_has_the_same_sketch_in_any_company() -> None:
    texts = ["", "a", "é", "short", SENTENCE, "x" * 100_000, "漢字" * 50]
    together = build_sketches(texts)
    assert together == [build_sketches([text])[0] for text in texts]
    assert len(set(together)) == len(texts)
    assert all(len(sketch) == NUM_BANDS for sketch in together)
    assert build_sketches([]) == []


def test_likeness_is_estimated_closely() -> None:
    dice = random.Random(5)
    errors = []
    for _ in range(300):
        words = ["".join(dice.choices(string.ascii_lowercase, k=dice.randint(2, 9))) for _ in range(40)]
        changed = list(words)
        for place in dice.sample(range(40), dice.randint(0, 8)):
            changed[place] = "changed" + str(place)
        one, other = " ".join(words), " ".join(changed)
        errors.append(similarity_ppm(*build_sketches([one, other])) / 1e6 - jaccard(one, other))
    assert abs(sum(errors) / len(errors)) < 0.02
    assert sum(error * error for error in errors) / len(errors) < 0.06**2


def test_rows_that_are_nearly_the_same_share_a_band() -> None:
    dice = random.Random(7)
    found = tried = 0
    for _ in range(300):
        words = ["".join(dice.choices(string.ascii_lowercase, k=dice.randint(2, 9))) for _ in range(60)]
        changed = list(words)
        changed[dice.randrange(60)] = "other"
        one, other = build_sketches([" ".join(words), " ".join(changed)])
        if similarity_ppm(one, other) >= NEAR_PPM:
            tried += 1
            found += any(mine == theirs for mine, theirs in zip(one, other, strict=True))
    assert tried > 290
    assert found / tried > 0.98
