from __future__ import annotations

import pytest

from backend.chain.contracts import interface
from backend.deployment.builds import Build, load_build
from backend.deployment.contracts import CONTRACTS, LOCAL_BUILDS
from backend.domain.errors import NotFound

EIP_170_BYTES = 24_576


@pytest.mark.parametrize("contract", [*CONTRACTS, *LOCAL_BUILDS.values(), "TestUSD"])
def test_every_contract_has_a_build_that_can_be_deployed(contract: str) -> None:
    build = load_build(contract)
    assert 0 < len(build.runtime) <= EIP_170_BYTES
    assert build.mask_immutables(build.runtime) == build.runtime
    assert len(build.creation) > len(build.runtime)


@pytest.mark.parametrize("contract", [*CONTRACTS, "TestUSD"])
def test_a_build_has_the_functions_of_its_interface(contract: str) -> None:
    runtime = load_build(contract).runtime
    # The compiler pushes a selector without its leading zeros.
    assert all(function.selector.lstrip(b"\0") in runtime for function in interface(contract).functions)


def test_only_immutables_are_masked() -> None:
    build = Build(b"", b"", ((1, 2), (9, 32)))
    assert build.mask_immutables(bytes([1, 2, 3, 4])) == bytes([1, 0, 0, 4])


def test_an_unknown_contract_is_not_found() -> None:
    with pytest.raises(NotFound, match="no build of a contract Nothing"):
        load_build("Nothing")
