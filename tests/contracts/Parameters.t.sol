// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {Parameters} from "../../contracts/Parameters.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {Bounds, IParameters, ParameterSet, Profile} from "../../contracts/interfaces/IParameters.sol";
import {Market} from "./support/Market.sol";

contract ParametersTest is Market {
    function test_the_first_set_is_current() external view {
        vm.assertEq(parameters.currentId(), 0);
        vm.assertEq(keccak256(abi.encode(parameters.current())), keccak256(abi.encode(firstSet())));
    }

    function test_a_change_appends_a_set_and_leaves_the_old(uint32 feePpm) external {
        feePpm = uint32(bound(feePpm, 0, parameters.bounds().maxFeePpm));
        ParameterSet memory expected = firstSet();
        expected.feePpm = feePpm;
        vm.expectEmit(address(parameters));
        emit IParameters.ParameterSetAppended(1, expected);
        vm.prank(address(timelock));
        parameters.setFee(feePpm);
        vm.assertEq(parameters.currentId(), 1);
        vm.assertEq(keccak256(abi.encode(parameters.setAt(0))), keccak256(abi.encode(firstSet())));
        vm.assertEq(keccak256(abi.encode(parameters.setAt(1))), keccak256(abi.encode(expected)));
    }

    function test_each_setter_changes_its_fields_only() external {
        ParameterSet memory expected = firstSet();
        vm.startPrank(address(timelock));
        parameters.setTreasury(address(7));
        parameters.setDisputeWindow(11);
        parameters.setStakeCover(300_000);
        parameters.setSplitRules(100_000, 50_000, 700_000);
        parameters.setDisputeTerms(200_000, 5e9);
        vm.stopPrank();
        (expected.treasury, expected.disputeWindow, expected.stakeCoverPpm) = (address(7), 11, 300_000);
        expected.minContributorsPpm = 100_000;
        (expected.minOperatorPpm, expected.maxOperatorPpm) = (50_000, 700_000);
        (expected.challengerPpm, expected.demandBond) = (200_000, 5e9);
        vm.assertEq(keccak256(abi.encode(parameters.current())), keccak256(abi.encode(expected)));
        vm.assertEq(parameters.currentId(), 5);
    }

    function test_no_vote_crosses_a_hard_bound(uint32 value) external {
        Bounds memory limits = parameters.bounds();
        vm.startPrank(address(timelock));
        _expectIf(value > limits.maxFeePpm, "feePpm", value, 0, limits.maxFeePpm);
        parameters.setFee(value);
        bool isOut = value < limits.minDisputeWindow || value > limits.maxDisputeWindow;
        _expectIf(isOut, "disputeWindow", value, limits.minDisputeWindow, limits.maxDisputeWindow);
        parameters.setDisputeWindow(value);
        isOut = value < limits.minStakeCoverPpm || value > limits.maxStakeCoverPpm;
        _expectIf(isOut, "stakeCoverPpm", value, limits.minStakeCoverPpm, limits.maxStakeCoverPpm);
        parameters.setStakeCover(value);
        isOut = value < limits.minChallengerPpm || value > limits.maxChallengerPpm;
        _expectIf(isOut, "challengerPpm", value, limits.minChallengerPpm, limits.maxChallengerPpm);
        parameters.setDisputeTerms(value, 1e9);
        vm.stopPrank();
    }

    function test_demands_are_neither_free_nor_priced_out_of_reach(uint128 demandBond, bool isLow) external {
        demandBond = uint128(bound(demandBond, 0, isLow ? 2e9 : 2e15));
        Bounds memory limits = parameters.bounds();
        vm.assertEq(limits.minDemandBond, 1e9);
        vm.assertEq(limits.maxDemandBond, 1_000 * 1e6 * 1e6);
        bool isOut = demandBond < limits.minDemandBond || demandBond > limits.maxDemandBond;
        vm.prank(address(timelock));
        _expectIf(isOut, "demandBond", demandBond, limits.minDemandBond, limits.maxDemandBond);
        parameters.setDisputeTerms(200_000, demandBond);
    }

    function test_a_cover_above_the_whole_pot_that_no_operator_could_hold_is_refused() external {
        vm.prank(address(timelock));
        _expectIf(true, "stakeCoverPpm", 1_000_001, 50_000, 1_000_000);
        parameters.setStakeCover(1_000_001);
    }

    function test_the_profiles_differ_in_times_only() external {
        ParameterSet memory first = firstSet();
        first.disputeWindow = 2 days;
        PaymentVault other = new PaymentVault(usd, 30 days);
        Bounds memory production = new Parameters(address(access), Profile.Production, other, first).bounds();
        Bounds memory local = parameters.bounds();
        (local.minDisputeWindow, local.maxDisputeWindow) = (production.minDisputeWindow, production.maxDisputeWindow);
        (local.maxPause, local.pauseCoolDown) = (production.maxPause, production.pauseCoolDown);
        local.maxBlockSeconds = production.maxBlockSeconds;
        (local.maxSettlementInterval, local.margin) = (production.maxSettlementInterval, production.margin);
        vm.assertEq(keccak256(abi.encode(local)), keccak256(abi.encode(production)));
    }

    function test_minimum_shares_sum_to_at_most_one() external {
        vm.startPrank(address(timelock));
        _expectIf(true, "minContributorsPpm", 900_001, 0, 900_000);
        parameters.setSplitRules(900_001, 0, 0);
        _expectIf(true, "minOperatorPpm", 500_001, 0, 500_000);
        parameters.setSplitRules(0, 500_001, 500_001);
        _expectIf(true, "minOperatorPpm", 300_001, 0, 300_000);
        parameters.setSplitRules(700_000, 300_001, 300_001);
        _expectIf(true, "maxOperatorPpm", 99_999, 100_000, 1_000_000);
        parameters.setSplitRules(0, 100_000, 99_999);
        vm.stopPrank();
    }

    function test_a_zero_treasury_is_refused() external {
        vm.prank(address(timelock));
        _expectIf(true, "treasury", 0, 1, type(uint160).max);
        parameters.setTreasury(address(0));
    }

    function test_only_governance_sets(address caller) external {
        vm.assume(caller != address(timelock));
        bytes memory error = abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller);
        vm.startPrank(caller);
        vm.expectRevert(error);
        parameters.setFee(1);
        vm.expectRevert(error);
        parameters.setTreasury(caller);
        vm.expectRevert(error);
        parameters.setDisputeWindow(2);
        vm.expectRevert(error);
        parameters.setStakeCover(100_000);
        vm.expectRevert(error);
        parameters.setSplitRules(0, 0, 0);
        vm.expectRevert(error);
        parameters.setDisputeTerms(100_000, 0);
        vm.stopPrank();
    }

    function test_an_unknown_set_is_refused() external {
        vm.expectRevert(abi.encodeWithSelector(IParameters.ParameterSetUnknown.selector, 1));
        parameters.setAt(1);
    }

    function test_the_thaw_outlasts_every_governed_delay(uint64 thaw) external {
        Profile[2] memory profiles = [Profile.Local, Profile.Production];
        for (uint256 i = 0; i < 2; ++i) {
            _tryThaw(profiles[i], uint64(bound(thaw, 1, 60 days)));
        }
    }

    function _tryThaw(Profile profile, uint64 thaw) private {
        PaymentVault other = new PaymentVault(usd, thaw);
        ParameterSet memory first = firstSet();
        first.disputeWindow = profile == Profile.Local ? 10 : 2 days;
        // Interval, window, pause and margin of the profiles.
        uint64 delays = profile == Profile.Local ? 60 + 120 + 60 + 30 : 12 days;
        if (thaw <= delays) {
            vm.expectRevert(abi.encodeWithSelector(IParameters.ThawTooShort.selector, thaw, delays + 1));
        }
        new Parameters(address(access), profile, other, first);
    }

    function _expectIf(bool isOut, bytes32 parameter, uint256 value, uint256 min, uint256 max) private {
        if (!isOut) return;
        vm.expectRevert(abi.encodeWithSelector(IParameters.OutOfBounds.selector, parameter, value, min, max));
    }
}
