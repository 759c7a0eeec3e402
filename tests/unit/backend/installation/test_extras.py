from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import InvalidInput
from backend.installation.extras import PACKAGES, require_extra
from backend.installation.installation import Installation
from backend.settings import Settings
from workers.installation import Workers

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from pathlib import Path


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the extras' packages can be found."""

    def find(name: str) -> ModuleSpec | None:
        if name == PACKAGES["gcp"]:
            raise ModuleNotFoundError(name)
        return None if name in PACKAGES.values() else find_spec(name)

    monkeypatch.setattr("backend.installation.extras.find_spec", find)


@pytest.mark.usefixtures("without")
def test_a_setting_whose_extra_is_missing_says_what_to_install(tmp_path: Path) -> None:
    uses = {
        "s3_url": ("s3://bucket", "aws", lambda found: found.blobs),
        "database_url": ("postgresql://host/name", "postgres", lambda found: found.database),
        "broker_url": ("redis://host", "redis", lambda found: Workers(found).app),
    }
    for name, (value, extra, use) in uses.items():
        installation = Installation(Settings.model_validate({"home": tmp_path, name: value}))
        with pytest.raises(InvalidInput, match=rf"LORALEDGER_{name.upper()} needs the extra {extra}: pip"):
            use(installation)
    with pytest.raises(InvalidInput, match=r"'loraledger\[server,gcp\]'"):
        require_extra("gcp", "LORALEDGER_OPERATOR_SIGNER")


def test_the_extras_of_the_development_environment_are_found() -> None:
    for extra in PACKAGES:
        require_extra(extra, "LORALEDGER_ANY")


def test_two_block_stores_are_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ipfs_api="http://127.0.0.1:5001", s3_url="s3://bucket")
    with pytest.raises(InvalidInput, match="not both"):
        _ = Installation(settings).blobs
