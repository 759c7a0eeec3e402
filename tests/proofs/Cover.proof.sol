// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {OperatorRegistry} from "../../contracts/OperatorRegistry.sol";
import {Stake} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Units} from "../../contracts/libraries/Units.sol";
import {AnyRegistry} from "./AnyRegistry.sol";

/// @notice Invariant 9: as long as a batch is pending or to be refunded, the operator's stake covers what its header
/// states. By induction over the calls the invariant always holds: a commit establishes it, and no call violates it,
/// each from arbitrary storage of the registry.
contract CoverProof is AnyRegistry {
    /// @dev A commit requires that `coverOf` is at least what it adds to the slashes.
    function check_a_commit_is_covered(address operator, uint64 number, uint128 needed) external {
        _begin(operator);
        (uint128 cover, uint128 slashed) = _registry.coverOf(operator);
        vm.assume(needed != 0 && needed <= cover);
        assert(_isCovered(OpenBatch(number, slashed + needed)));
    }

    function check_every_call_keeps_the_cover(address operator, OpenBatch calldata batch, address sender) external {
        _begin(operator, batch);
        _call(sender);
        assert(_isCovered(batch));
    }

    /// @dev The stake suffices for what the header of a voided batch states. Less than one unit cannot be paid.
    function check_a_slash_reaches_its_sum(
        address operator,
        OpenBatch calldata batch,
        address challenger,
        uint32 challengerPpm,
        address treasury
    ) external {
        _begin(operator, batch);
        vm.assume(challengerPpm <= Units.PPM);
        vm.prank(address(_settlement));
        _registry.slash(operator, batch.slashUpTo, challenger, challengerPpm, treasury);
        assert(uint256(_stake().slashed) + Units.MICRO > batch.slashUpTo);
    }
}

/// @notice False claims about the registry, one for each function that changes a stake.
contract CoverRefuted is AnyRegistry {
    /// @dev What is being unstaked covers the batches before it.
    function refute_unstaking_covers_nothing(address operator, OpenBatch calldata batch) external {
        _begin(operator, batch);
        Stake memory stored = _stake();
        assert(uint256(stored.stake) + stored.slashed >= uint256(batch.slashUpTo) + stored.unstaking);
    }

    function refute_stake_adds_nothing(address operator, OpenBatch calldata batch, address sender) external {
        _begin(operator, batch);
        uint128 old = _stake().stake;
        _call(sender, OperatorRegistry.stake.selector);
        assert(_stake().stake == old);
    }

    function refute_only_the_operator_stakes(address operator, OpenBatch calldata batch, address sender) external {
        _begin(operator, batch);
        uint128 old = _stake().stake;
        _call(sender, OperatorRegistry.stakeFor.selector);
        assert(_stake().stake == old || sender == operator);
    }

    function refute_start_unstake_locks_nothing(address operator, OpenBatch calldata batch, address sender) external {
        _begin(operator, batch);
        uint128 old = _stake().unstaking;
        _call(sender, OperatorRegistry.startUnstake.selector);
        assert(_stake().unstaking == old);
    }

    /// @dev Other batches are final, and the stake does not cover only this one.
    function refute_unstake_waits_for_all_batches(address operator, OpenBatch calldata batch, address sender) external {
        _begin(operator, batch);
        uint128 old = _stake().stake;
        _call(sender, OperatorRegistry.unstake.selector);
        assert(_stake().stake == old);
    }

    function refute_restake_moves_nothing(address operator, address sender) external {
        _begin(operator);
        uint128 old = _stake().stake;
        _call(sender, OperatorRegistry.restake.selector);
        assert(_stake().stake == old);
    }

    function refute_slash_takes_nothing(address operator, OpenBatch calldata batch, address sender) external {
        _begin(operator, batch);
        uint128 old = _stake().stake;
        _call(sender, OperatorRegistry.slash.selector);
        assert(_stake().stake == old);
    }
}
