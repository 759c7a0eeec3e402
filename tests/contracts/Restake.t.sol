// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {OperatorRegistry} from "../../contracts/OperatorRegistry.sol";
import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {BatchHeader} from "../../contracts/interfaces/ISettlement.sol";
import {ExactTransfer} from "../../contracts/libraries/ExactTransfer.sol";
import {TestUSD} from "../../contracts/local/TestUSD.sol";
import {Batches} from "./support/Batches.sol";

/// @notice Pulls other units than it was asked to, or enters the registry again.
contract DishonestRegistry {
    TestUSD private immutable _usd;
    uint256 private immutable _units;

    constructor(TestUSD usd, uint256 units) {
        (_usd, _units) = (usd, units);
    }

    function stakeFor(address operator, uint256 units) external {
        if (_units == type(uint256).max) IOperatorRegistry(msg.sender).stakeFor(operator, units);
        _usd.transferFrom(msg.sender, address(this), _units);
    }
}

contract RestakeTest is Batches {
    uint128 private constant _STAKE = uint128(STAKE_UNITS) * MICRO;

    IOperatorRegistry private _next;

    function setUp() public override {
        super.setUp();
        _next = _deployGeneration().operators();
    }

    function test_a_stake_moves_to_the_next_generation_in_one_step(uint64 units) external {
        units = uint64(bound(units, 1, STAKE_UNITS));
        uint128 amount = uint128(units) * MICRO;
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Unstaked(operator, amount);
        vm.expectEmit(address(_next));
        emit IOperatorRegistry.Staked(operator, amount);
        vm.prank(operator);
        operators.restake(_next, units);
        vm.assertEq(operators.stakeOf(operator).stake, _STAKE - amount);
        vm.assertEq(_next.stakeOf(operator).stake, amount);
        vm.assertEq(usd.balanceOf(address(operators)), STAKE_UNITS - units);
        vm.assertEq(usd.balanceOf(address(_next)), units);
        vm.assertEq(usd.allowance(address(operators), address(_next)), 0);
    }

    function test_no_more_than_the_stake_is_restaked() external {
        _expectRestakeError(
            _next,
            STAKE_UNITS + 1,
            abi.encodeWithSelector(IOperatorRegistry.InsufficientStake.selector, operator, _STAKE, _STAKE + MICRO)
        );
    }

    /// @dev Not even into a registry that accepts nothing.
    function test_nothing_is_not_restaked() external {
        IOperatorRegistry next = IOperatorRegistry(address(new DishonestRegistry(usd, 0)));
        _expectRestakeError(next, 0, abi.encodeWithSelector(IOperatorRegistry.ZeroAmount.selector));
    }

    /// @dev The stake covers pending batches.
    function test_no_stake_leaves_while_a_batch_is_pending() external {
        BatchHeader memory header = commit(5, oneBalance(operator, 5));
        _expectRestakeError(_next, 1, abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, 1));
        vm.warp(header.finalAt);
        finalise(header);
        vm.prank(operator);
        operators.restake(_next, STAKE_UNITS);
        vm.assertEq(_next.stakeOf(operator).stake, _STAKE);
    }

    function test_no_stake_leaves_while_a_batch_is_to_be_refunded() external {
        BatchHeader memory header = commit(5, oneBalance(operator, 5));
        vm.prank(address(disputes));
        settlement.voidPending(header, accountOf("challenger"));
        _expectRestakeError(_next, 1, abi.encodeWithSelector(IOperatorRegistry.StakeLocked.selector, operator, 1));
    }

    /// @dev An unstake in progress is reduced to what is left.
    function test_an_unstaking_amount_can_be_restaked() external {
        vm.startPrank(operator);
        operators.startUnstake(_STAKE);
        operators.restake(_next, STAKE_UNITS - 3);
        vm.assertEq(operators.unstake(), 3 * MICRO);
        vm.stopPrank();
    }

    function test_a_registry_that_pulls_other_units_is_refused(uint64 pulled) external {
        pulled = uint64(bound(pulled, 0, 9));
        IOperatorRegistry next = IOperatorRegistry(address(new DishonestRegistry(usd, pulled)));
        bytes memory error = abi.encodeWithSelector(ExactTransfer.UnexpectedSpending.selector, 10, pulled);
        _expectRestakeError(next, 10, error);
    }

    function test_a_registry_that_enters_again_is_refused() external {
        IOperatorRegistry next = IOperatorRegistry(address(new DishonestRegistry(usd, type(uint256).max)));
        bytes memory error = abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        _expectRestakeError(next, 10, error);
    }

    function test_anyone_stakes_for_an_operator() external {
        address friend = accountOf("friend");
        usd.mint(friend, 5);
        vm.startPrank(friend);
        usd.approve(address(operators), 5);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Staked(operator, 5 * MICRO);
        operators.stakeFor(operator, 5);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.ZeroAddress.selector));
        operators.stakeFor(address(0), 5);
        vm.stopPrank();
        vm.assertEq(operators.stakeOf(operator).stake, _STAKE + 5 * MICRO);
    }

    function _expectRestakeError(IOperatorRegistry next, uint256 units, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(operator);
        operators.restake(next, units);
    }
}
