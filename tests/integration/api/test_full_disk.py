"""A full disk under the database: reported, nothing charged, and recovered once there is space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from openai import InternalServerError

from tests.support.databases import fill

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

ASKED = {"model": "tiny", "prompt": "a" * 10}
LARGE = {"name": "n" * 64}
MOST_KEYS = 1000


def fill_up(api: Api) -> None:
    """Use up what is left of the last pages too."""
    with api.http(api.session) as http:
        for _ in range(MOST_KEYS):
            answer = http.post("/v1/keys", json=LARGE)
            if answer.status_code != 201:
                break
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert answer.json()["error"]["message"].startswith("There is no room left on the disk")
    assert "INSERT" not in answer.text


def charged(api: Api) -> int:
    with api.http() as http:
        return len(http.get("/v1/receipts").json()["data"])


def test_a_full_disk_is_a_507_that_charges_nothing_and_ends_with_its_cause(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    make_room = fill(api.installation.database)
    fill_up(api)
    answers = []
    with api.http() as http:
        for _ in range(MOST_KEYS):  # reservations are small: some may still fit
            answers.append(http.post("/v1/completions", json=ASKED))
            if answers[-1].status_code != 200:
                break
        assert (answers[-1].status_code, answers[-1].json()["error"]["code"]) == (507, "disk_full")
        assert charged(api) == len(answers) - 1, "reading goes on, and only what was answered was charged"
        with pytest.raises(InternalServerError, match="no room left"):
            api.openai.completions.create(**ASKED)
        assert "defect" not in caplog.text
        make_room()
        assert http.post("/v1/completions", json=ASKED).status_code == 200
    assert charged(api) == len(answers)
