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
        parameters.append(0, expected);
        vm.assertEq(parameters.currentId(), 1);
        vm.assertEq(keccak256(abi.encode(parameters.setAt(0))), keccak256(abi.encode(firstSet())));
        vm.assertEq(keccak256(abi.encode(parameters.setAt(1))), keccak256(abi.encode(expected)));
    }

    function test_a_set_replaces_every_parameter() external {
        ParameterSet memory set = ParameterSet({
            treasury: address(7),
            feePpm: 1,
            stakeCoverPpm: 300_000,
            disputeWindow: 11,
            minContributorsPpm: 100_000,
            minOperatorPpm: 50_000,
            maxOperatorPpm: 700_000,
            challengerPpm: 200_000,
            demandBond: 5e9
        });
        append(set);
        vm.assertEq(keccak256(abi.encode(parameters.current())), keccak256(abi.encode(set)));
        (, uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm) = parameters.splitRules();
        vm.assertEq(minContributorsPpm, 100_000);
        vm.assertEq(minOperatorPpm, 50_000);
        vm.assertEq(maxOperatorPpm, 700_000);
        (uint32 disputeWindow, , uint32 stakeCoverPpm) = parameters.commitTerms(1);
        vm.assertEq(disputeWindow, 11);
        vm.assertEq(stakeCoverPpm, 300_000);
    }

    /// @dev Two proposals made at the same time: the second would undo the change of the first.
    function test_a_set_that_was_derived_from_an_older_one_is_refused() external {
        (ParameterSet memory fee, ParameterSet memory window) = (firstSet(), firstSet());
        (fee.feePpm, window.disputeWindow) = (7, 11);
        vm.startPrank(address(timelock));
        parameters.append(0, fee);
        vm.expectRevert(abi.encodeWithSelector(IParameters.ParameterSetNotCurrent.selector, 0, 1));
        parameters.append(0, window);
        vm.expectRevert(abi.encodeWithSelector(IParameters.ParameterSetNotCurrent.selector, 2, 1));
        parameters.append(2, window);
        vm.stopPrank();
        vm.assertEq(parameters.current().feePpm, 7);
    }

    function test_no_vote_crosses_a_hard_bound(uint32 value) external {
        Bounds memory limits = parameters.bounds();
        ParameterSet memory set = firstSet();
        set.feePpm = value;
        _append(set, "feePpm", value, 0, limits.maxFeePpm);
        set = firstSet();
        set.disputeWindow = value;
        _append(set, "disputeWindow", value, limits.minDisputeWindow, limits.maxDisputeWindow);
        set = firstSet();
        set.stakeCoverPpm = value;
        _append(set, "stakeCoverPpm", value, limits.minStakeCoverPpm, limits.maxStakeCoverPpm);
        set = firstSet();
        set.challengerPpm = value;
        _append(set, "challengerPpm", value, limits.minChallengerPpm, limits.maxChallengerPpm);
    }

    function test_demands_are_neither_free_nor_priced_out_of_reach(uint128 demandBond, bool isLow) external {
        demandBond = uint128(bound(demandBond, 0, isLow ? 2e9 : 2e15));
        Bounds memory limits = parameters.bounds();
        vm.assertEq(limits.minDemandBond, 1e9);
        vm.assertEq(limits.maxDemandBond, 1_000 * 1e6 * 1e6);
        ParameterSet memory set = firstSet();
        set.demandBond = demandBond;
        _append(set, "demandBond", demandBond, limits.minDemandBond, limits.maxDemandBond);
    }

    function test_a_cover_above_the_whole_pot_that_no_operator_could_hold_is_refused() external {
        ParameterSet memory set = firstSet();
        set.stakeCoverPpm = 1_000_001;
        _append(set, "stakeCoverPpm", 1_000_001, 50_000, 1_000_000);
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
        _appendShares(900_001, 0, 0, "minContributorsPpm", 900_001, 0, 900_000);
        _appendShares(0, 500_001, 500_001, "minOperatorPpm", 500_001, 0, 500_000);
        _appendShares(700_000, 300_001, 300_001, "minOperatorPpm", 300_001, 0, 300_000);
        _appendShares(0, 100_000, 99_999, "maxOperatorPpm", 99_999, 100_000, 1_000_000);
    }

    function test_a_zero_treasury_is_refused() external {
        ParameterSet memory set = firstSet();
        set.treasury = address(0);
        _append(set, "treasury", 0, 1, type(uint160).max);
    }

    function test_only_governance_appends(address caller) external {
        vm.assume(caller != address(timelock));
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller));
        vm.prank(caller);
        parameters.append(0, firstSet());
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

    /// @dev Appends a set, or expects it to be refused for a value out of its range.
    function _append(ParameterSet memory set, bytes32 field, uint256 value, uint256 min, uint256 max) private {
        uint32 parent = parameters.currentId();
        if (value < min || value > max) {
            vm.expectRevert(abi.encodeWithSelector(IParameters.OutOfBounds.selector, field, value, min, max));
        }
        vm.prank(address(timelock));
        parameters.append(parent, set);
    }

    function _appendShares(
        uint32 minContributorsPpm,
        uint32 minOperatorPpm,
        uint32 maxOperatorPpm,
        bytes32 field,
        uint256 value,
        uint256 min,
        uint256 max
    ) private {
        ParameterSet memory set = firstSet();
        set.minContributorsPpm = minContributorsPpm;
        (set.minOperatorPpm, set.maxOperatorPpm) = (minOperatorPpm, maxOperatorPpm);
        _append(set, field, value, min, max);
    }
}
