// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {OperatorRegistry} from "../../contracts/OperatorRegistry.sol";
import {IOperatorRegistry, Stake} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {BatchHeader} from "../../contracts/interfaces/ISettlement.sol";
import {ExactTransfer} from "../../contracts/libraries/ExactTransfer.sol";
import {Batches} from "./support/Batches.sol";
import {BlockingToken, ChargingToken} from "./support/Tokens.sol";

contract StakeTest is Batches {
    uint128 private constant _STAKE = uint128(STAKE_UNITS) * MICRO;

    function test_a_stake_is_stored_and_covers_batches(uint64 units) external {
        vm.assume(units != 0);
        addStake(operator, units);
        vm.assertEq(operators.stakeOf(operator).stake, _STAKE + uint128(units) * MICRO);
        vm.assertEq(_cover(), _STAKE + uint128(units) * MICRO);
        vm.assertEq(usd.balanceOf(address(operators)), STAKE_UNITS + units);
    }

    function test_a_zero_stake_is_refused() external {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.ZeroAmount.selector));
        vm.prank(operator);
        operators.stake(0);
    }

    function test_fee_on_transfer_tokens_are_refused() external {
        ChargingToken charging = new ChargingToken();
        OperatorRegistry other = new OperatorRegistry(charging, address(settlement));
        charging.mint(operator, 10);
        vm.startPrank(operator);
        charging.approve(address(other), 10);
        vm.expectRevert(abi.encodeWithSelector(ExactTransfer.UnexpectedTransfer.selector, 10, 9));
        other.stake(10);
        vm.stopPrank();
    }

    function test_an_unstaked_part_is_paid_while_nothing_is_pending(uint128 amount) external {
        amount = uint128(bound(amount, MICRO, _STAKE));
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.UnstakeStarted(operator, amount, 0);
        _startUnstake(amount);
        vm.assertEq(_cover(), _STAKE - amount);
        vm.prank(operator);
        uint128 left = operators.unstake();
        vm.assertEq(left, (amount / MICRO) * MICRO);
        vm.assertEq(usd.balanceOf(operator), left / MICRO);
        vm.assertEq(_cover(), _STAKE - left);
    }

    function test_a_single_unit_can_be_withdrawn_and_less_cannot() external {
        _startUnstake(MICRO - 1);
        _expectUnstakeError(abi.encodeWithSelector(IOperatorRegistry.ZeroAmount.selector));
        _startUnstake(MICRO);
        vm.prank(operator);
        vm.assertEq(operators.unstake(), MICRO);
        vm.assertEq(abi.encode(operators.stakeOf(operator)), abi.encode(Stake(_STAKE - MICRO, 0, 0, 0)));
    }

    function test_no_unstake_without_a_request() external {
        _expectUnstakeError(abi.encodeWithSelector(IOperatorRegistry.NothingUnstaking.selector, operator));
    }

    function test_unstaking_zero_cancels() external {
        _startUnstake(_STAKE);
        _startUnstake(0);
        vm.assertEq(_cover(), _STAKE);
        _expectUnstakeError(abi.encodeWithSelector(IOperatorRegistry.NothingUnstaking.selector, operator));
    }

    function test_no_more_than_the_stake_is_unstaked() external {
        vm.expectRevert(
            abi.encodeWithSelector(IOperatorRegistry.InsufficientStake.selector, operator, _STAKE, _STAKE + 1)
        );
        _startUnstake(_STAKE + 1);
    }

    function test_a_stake_stays_locked_past_its_last_batchs_finality() external {
        BatchHeader memory header = commit(5, oneBalance(operator, 5));
        _startUnstake(_STAKE / 2);
        vm.warp(header.finalAt);
        _expectUnstakeError(abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, 1));
        commit(5, oneBalance(operator, 10));
        finalise(header);
        vm.prank(operator);
        operators.unstake();
        vm.assertEq(usd.balanceOf(operator), STAKE_UNITS / 2);
    }

    // --- slashing, called directly from the address of the settlement ---

    function test_a_slash_is_divided(uint128 amount, uint32 challengerPpm) external {
        amount = uint128(bound(amount, MICRO, _STAKE));
        challengerPpm = uint32(bound(challengerPpm, 0, 1_000_000));
        uint256 units = amount / MICRO;
        uint256 reward = (units * challengerPpm) / 1_000_000;
        address challenger = accountOf("challenger");
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Slashed(
            operator,
            challenger,
            uint128(reward) * MICRO,
            address(timelock),
            uint128(units - reward) * MICRO
        );
        _slash(amount, challengerPpm);
        vm.assertEq(usd.balanceOf(challenger), reward);
        vm.assertEq(usd.balanceOf(address(timelock)), units - reward);
        vm.assertEq(operators.stakeOf(operator).stake, _STAKE - units * MICRO);
        vm.assertEq(usd.balanceOf(address(operators)), STAKE_UNITS - units);
    }

    function test_a_payee_that_the_token_refuses_does_not_prevent_a_slash(bool isTreasury) external {
        BlockingToken blocking = new BlockingToken();
        OperatorRegistry other = _stakedRegistry(blocking, 100);
        (address challenger, address treasury) = (accountOf("challenger"), accountOf("treasury"));
        address refused = isTreasury ? treasury : challenger;
        uint128 amount = (isTreasury ? 30 : 10) * MICRO;
        blocking.setBlocked(refused, true);
        vm.expectEmit(address(other));
        emit IOperatorRegistry.Slashed(operator, challenger, 10 * MICRO, treasury, 30 * MICRO);
        vm.expectEmit(address(other));
        emit IOperatorRegistry.Owed(refused, amount);
        other.slash(operator, 40 * MICRO, challenger, 250_000, treasury);
        vm.assertEq(other.owed(refused), amount);
        vm.assertEq(other.stakeOf(operator).stake, 60 * MICRO);
        vm.assertEq(blocking.balanceOf(address(other)), 60 + amount / MICRO);
        _withdrawOwed(other, blocking, refused, amount);
    }

    function test_owed_amounts_add_up() external {
        BlockingToken blocking = new BlockingToken();
        OperatorRegistry other = _stakedRegistry(blocking, 100);
        (address challenger, address treasury) = (accountOf("challenger"), accountOf("treasury"));
        blocking.setBlocked(challenger, true);
        other.slash(operator, 40 * MICRO, challenger, 250_000, treasury);
        other.slash(operator, 60 * MICRO, challenger, 250_000, treasury);
        vm.assertEq(other.owed(challenger), 15 * MICRO);
        _withdrawOwed(other, blocking, challenger, 15 * MICRO);
    }

    function test_only_owed_amounts_are_withdrawn(address caller) external {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NothingOwed.selector, caller));
        vm.prank(caller);
        operators.withdrawOwed(caller);
    }

    function test_no_slash_exceeds_the_stake(uint128 upTo) external {
        upTo = uint128(bound(upTo, _STAKE, type(uint128).max));
        _slash(upTo, 250_000);
        vm.assertEq(operators.stakeOf(operator).stake, 0);
        vm.assertEq(operators.stakeOf(operator).slashed, _STAKE);
    }

    /// @dev Slashes are cumulative: repeating one, or a lower one, takes nothing.
    function test_a_slash_is_cumulative(uint128 first, uint128 second) external {
        first = uint128(bound(first, 0, STAKE_UNITS)) * MICRO;
        second = uint128(bound(second, 0, STAKE_UNITS)) * MICRO;
        _slash(first, 250_000);
        _slash(second, 250_000);
        _slash(first, 250_000);
        uint128 larger = first > second ? first : second;
        vm.assertEq(operators.stakeOf(operator).slashed, larger);
        vm.assertEq(operators.stakeOf(operator).stake, _STAKE - larger);
    }

    function test_an_unstaking_amount_can_still_be_slashed() external {
        _startUnstake(_STAKE);
        _slash(_STAKE / 4, 250_000);
        vm.assertEq(_cover(), 0);
        vm.prank(operator);
        vm.assertEq(operators.unstake(), _STAKE - _STAKE / 4);
    }

    function test_only_the_settlement_slashes(address caller) external {
        vm.assume(caller != address(settlement));
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotSettlement.selector, caller));
        vm.prank(caller);
        operators.slash(operator, 1, caller, 250_000, caller);
    }

    function _slash(uint128 amount, uint32 challengerPpm) private {
        address challenger = accountOf("challenger");
        vm.prank(address(settlement));
        operators.slash(operator, amount, challenger, challengerPpm, address(timelock));
    }

    /// @dev A registry of another token with a stake of the operator; the test contract acts as its settlement.
    function _stakedRegistry(BlockingToken other, uint256 units) private returns (OperatorRegistry registry) {
        registry = new OperatorRegistry(other, address(this));
        other.mint(operator, units);
        vm.startPrank(operator);
        other.approve(address(registry), units);
        registry.stake(units);
        vm.stopPrank();
    }

    /// @dev An amount that the token refuses to transfer is not lost: its payee withdraws it once, to an account that the
    /// token does not refuse.
    function _withdrawOwed(OperatorRegistry from, BlockingToken paid, address payee, uint128 amount) private {
        address to = accountOf("another account of the payee");
        vm.startPrank(payee);
        vm.expectRevert(abi.encodeWithSelector(BlockingToken.Blocked.selector, payee));
        from.withdrawOwed(payee);
        vm.expectEmit(address(from));
        emit IOperatorRegistry.OwedWithdrawn(payee, to, amount);
        vm.assertEq(from.withdrawOwed(to), amount);
        vm.assertEq(paid.balanceOf(to), amount / MICRO);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NothingOwed.selector, payee));
        from.withdrawOwed(to);
        vm.stopPrank();
    }

    function _cover() private view returns (uint128 cover) {
        (cover, ) = operators.coverOf(operator);
    }

    function _startUnstake(uint128 amount) private {
        vm.prank(operator);
        operators.startUnstake(amount);
    }

    function _expectUnstakeError(bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(operator);
        operators.unstake();
    }
}
