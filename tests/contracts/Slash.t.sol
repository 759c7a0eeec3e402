// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {BatchData} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract SlashTest is Disputed {
    function test_the_cover_that_the_commit_required_is_slashed(uint32 coverPpm, uint32 challengerPpm) external {
        coverPpm = uint32(bound(coverPpm, 50_000, 1_000_000));
        challengerPpm = uint32(bound(challengerPpm, 50_000, 490_000));
        setStakeCover(coverPpm);
        setChallengerShare(challengerPpm);
        BatchData memory batch = invalidBatch();
        uint256 units = _coverOfPot(coverPpm);
        uint256 reward = (units * challengerPpm) / 1e6;
        _expectSlash(batch, challenger, reward, units - reward);
    }

    function test_the_terms_of_the_batchs_parameter_set_apply() external {
        BatchData memory batch = invalidBatch();
        setStakeCover(1_000_000);
        setChallengerShare(490_000);
        setTreasury(accountOf("later treasury"));
        uint256 units = _coverOfPot(250_000);
        _expectSlash(batch, challenger, units / 4, units - units / 4);
        vm.assertEq(usd.balanceOf(accountOf("later treasury")), 0);
    }

    function test_a_batch_is_voided_even_if_nothing_is_left_to_slash() external {
        BatchData memory batch = invalidBatch();
        vm.prank(address(settlement));
        operators.slash(operator, uint128(STAKE_UNITS) * MICRO, address(0), 0, accountOf("earlier treasury"));
        convict(batch, challenger);
        assertVoid(batch);
    }

    /// @dev Self-accusation must not pay: less than half of the slash is returned.
    function test_an_operator_that_accuses_itself_loses_most(uint32 challengerPpm) external {
        challengerPpm = uint32(bound(challengerPpm, 50_000, 490_000));
        setChallengerShare(challengerPpm);
        BatchData memory batch = invalidBatch();
        uint128 before = operators.stakeOf(operator).stake;
        convict(batch, operator);
        uint256 lost = (before - operators.stakeOf(operator).stake) / MICRO;
        vm.assertTrue(2 * usd.balanceOf(operator) < lost);
    }

    function test_a_slash_does_not_touch_deposits() external {
        BatchData memory batch = invalidBatch();
        uint256 held = usd.balanceOf(address(vault));
        convict(batch, challenger);
        vm.assertEq(usd.balanceOf(address(vault)), held);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.assertEq(usd.balanceOf(address(settlement)), 0);
    }

    function test_an_unstaking_amount_is_slashed_too() external {
        BatchData memory batch = invalidBatch();
        vm.prank(operator);
        operators.startUnstake(uint128(STAKE_UNITS) * MICRO);
        uint256 units = _coverOfPot(250_000);
        _expectSlash(batch, challenger, units / 4, units - units / 4);
    }

    /// @dev The required cover of the pot as it is now, in whole units.
    function _coverOfPot(uint256 coverPpm) private view returns (uint256) {
        return (vault.potOf(address(settlement), operator) * coverPpm + 1e12 - 1) / 1e12;
    }

    function _expectSlash(BatchData memory batch, address sender, uint256 reward, uint256 rest) private {
        reserve(batch, sender);
        (uint128 stake, uint256 kept) = (operators.stakeOf(operator).stake, usd.balanceOf(address(timelock)));
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Slashed(
            operator,
            sender,
            uint128(reward) * MICRO,
            address(timelock),
            uint128(rest) * MICRO
        );
        prove(batch, sender);
        vm.assertEq(usd.balanceOf(sender), reward);
        vm.assertEq(usd.balanceOf(address(timelock)) - kept, rest);
        vm.assertEq(operators.stakeOf(operator).stake, stake - uint128(reward + rest) * MICRO);
        vm.assertEq(operators.stakeOf(operator).slashed, uint128(reward + rest) * MICRO);
    }
}
