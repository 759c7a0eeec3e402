from __future__ import annotations

import re

from tools.contract_checks.common import ROOT
from tools.contract_checks.coverage import COPIED


def test_the_measured_copy_has_the_files_that_the_hardhat_configuration_imports() -> None:
    imported = re.findall(r'from "\./(.+)"', (ROOT / "hardhat.config.js").read_text())
    assert imported
    assert set(imported) <= set(COPIED)
