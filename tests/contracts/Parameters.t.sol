// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {Parameters} from "../../contracts/Parameters.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {Bounds, IParameters, ParameterSet, Profile} from "../../contracts/interfaces/IParameters.sol";
import {Profiles} from "../../contracts/libraries/Profiles.sol";
import {LocalParameters} from "../../contracts/local/LocalParameters.sol";
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
            challengerPpm: 200_000
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

    /// @dev An account that a vote made an administrator could otherwise append a set before each commit, which names
    /// the current one.
    function test_a_set_stays_current_for_a_settlement_interval(uint64 elapsed) external {
        uint64 interval = parameters.bounds().maxSettlementInterval;
        elapsed = uint64(bound(elapsed, 0, 2 * interval));
        uint64 earliest = uint64(block.timestamp) + interval;
        append(firstSet());
        vm.assertEq(parameters.nextAppendAt(), earliest);
        vm.warp(block.timestamp + elapsed);
        if (elapsed < interval) {
            vm.expectRevert(abi.encodeWithSelector(IParameters.AppendedTooEarly.selector, earliest));
        }
        vm.prank(address(timelock));
        parameters.append(1, firstSet());
        vm.assertEq(parameters.currentId(), elapsed < interval ? 1 : 2);
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

    function test_a_cover_above_the_whole_pot_that_no_operator_could_hold_is_refused() external {
        ParameterSet memory set = firstSet();
        set.stakeCoverPpm = 1_000_001;
        _append(set, "stakeCoverPpm", 1_000_001, 50_000, 1_000_000);
    }

    function test_the_profiles_differ_in_times_and_bonds_only() external {
        Bounds memory ethereum = _publicBounds(Profile.Ethereum);
        for (uint256 i = 0; i < 3; ++i) {
            Bounds memory other = i == 0 ? parameters.bounds() : _publicBounds(Profile(1 + i));
            (other.minDisputeWindow, other.maxDisputeWindow) = (ethereum.minDisputeWindow, ethereum.maxDisputeWindow);
            (other.answerSeconds, other.secondsPerAnswer) = (ethereum.answerSeconds, ethereum.secondsPerAnswer);
            (other.maxExtension, other.bondFee) = (ethereum.maxExtension, ethereum.bondFee);
            (other.maxPause, other.pauseCoolDown) = (ethereum.maxPause, ethereum.pauseCoolDown);
            (other.maxBlockSeconds, other.margin) = (ethereum.maxBlockSeconds, ethereum.margin);
            other.maxSettlementInterval = ethereum.maxSettlementInterval;
            vm.assertEq(keccak256(abi.encode(other)), keccak256(abi.encode(ethereum)));
        }
    }

    /// @dev An operator that accuses itself thus loses most of the slash.
    function test_a_challengers_share_is_below_one_half_in_every_profile() external {
        Bounds memory limits = parameters.bounds();
        for (uint256 i = 1; i <= 4; ++i) {
            vm.assertTrue(limits.maxChallengerPpm < 500_000);
            if (i != 4) limits = _publicBounds(Profile(i));
        }
    }

    /// @dev Two rounds of demands, a proof and a reserve fit in every window.
    function test_every_window_has_four_answers() external {
        Bounds memory limits = parameters.bounds();
        for (uint256 i = 1; i <= 4; ++i) {
            vm.assertLe(4 * limits.answerSeconds, limits.minDisputeWindow);
            vm.assertTrue(limits.bondFee != 0 && limits.secondsPerAnswer != 0);
            if (i != 4) limits = _publicBounds(Profile(i));
        }
    }

    /// @dev A transaction is forced in after 12 hours on the OP stack, after 24 hours on Arbitrum.
    function test_an_answer_outlasts_the_forced_inclusion_of_each_profile() external {
        vm.assertLe(12 hours + 3 hours, _publicBounds(Profile.OpStack).answerSeconds);
        vm.assertLe(24 hours + 3 hours, _publicBounds(Profile.Arbitrum).answerSeconds);
        vm.assertTrue(_publicBounds(Profile.Ethereum).maxBlockSeconds != 0);
        vm.assertEq(_publicBounds(Profile.OpStack).maxBlockSeconds, 0);
        vm.assertEq(_publicBounds(Profile.Arbitrum).maxBlockSeconds, 0);
    }

    /// @dev The operator answers at the deadline, and the sequencer is its ally. On Arbitrum it delays two demands, a
    /// reserve and a proof by 24 hours each, one after the other. On the OP stack, where a transaction sent by L1 has
    /// the time of its L1 block within half an hour, it hides the answers for 12 hours. The last demand needs two
    /// answer times.
    function test_a_window_contains_two_rounds_and_a_proof_although_the_sequencer_delays_each() external {
        Bounds memory arbitrum = _publicBounds(Profile.Arbitrum);
        vm.assertLe(4 * 24 hours + 2 * arbitrum.answerSeconds, arbitrum.minDisputeWindow);
        vm.assertLe(2 * 24 hours + 3 * arbitrum.answerSeconds, arbitrum.minDisputeWindow);
        Bounds memory opStack = _publicBounds(Profile.OpStack);
        vm.assertLe(13 hours + 3 * opStack.answerSeconds, opStack.minDisputeWindow);
    }

    function test_the_production_code_has_no_local_bounds() external {
        ParameterSet memory first = firstSet();
        vm.expectRevert(abi.encodeWithSelector(Profiles.NoBounds.selector, Profile.Local));
        new Parameters(address(access), Profile.Local, vault, first);
    }

    function test_minimum_shares_sum_to_at_most_one() external {
        _appendShares(900_001, 0, 0, "minContributorsPpm", 900_001, 0, 900_000);
        _appendShares(0, 500_001, 500_001, "minOperatorPpm", 500_001, 0, 500_000);
        _appendShares(700_000, 300_001, 300_001, "minOperatorPpm", 300_001, 0, 300_000);
        _appendShares(0, 100_000, 99_999, "maxOperatorPpm", 99_999, 100_000, 1_000_000);
    }

    function test_the_zero_address_and_the_vault_are_no_treasury(bool isVault) external {
        ParameterSet memory set = firstSet();
        set.treasury = isVault ? address(vault) : address(0);
        vm.expectRevert(abi.encodeWithSelector(IParameters.InvalidTreasury.selector, set.treasury));
        vm.prank(address(timelock));
        parameters.append(0, set);
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
        thaw = uint64(bound(thaw, 1, 28 days));
        for (uint256 i = 0; i < 4; ++i) {
            _tryThaw(Profile(i), thaw);
        }
    }

    function _tryThaw(Profile profile, uint64 thaw) private {
        PaymentVault other = new PaymentVault(usd, thaw);
        ParameterSet memory first = firstSet();
        // Interval, window, extension, pause and margin of the profiles.
        uint64 delays = profile == Profile.Local ? 60 + 120 + 4 + 60 + 30 : 13 days;
        if (profile != Profile.Local) first.disputeWindow = 7 days;
        if (thaw <= delays) {
            vm.expectRevert(abi.encodeWithSelector(IParameters.ThawTooShort.selector, thaw, delays + 1));
        }
        if (profile == Profile.Local) new LocalParameters(address(access), profile, other, first);
        else new Parameters(address(access), profile, other, first);
    }

    function _publicBounds(Profile profile) private returns (Bounds memory) {
        ParameterSet memory first = firstSet();
        first.disputeWindow = 7 days;
        return new Parameters(address(access), profile, new PaymentVault(usd, 28 days), first).bounds();
    }

    /// @dev Appends a set, or expects it to be refused for a value out of its range.
    function _append(ParameterSet memory set, bytes32 field, uint256 value, uint256 min, uint256 max) private {
        uint32 parent = parameters.currentId();
        if (block.timestamp < parameters.nextAppendAt()) vm.warp(parameters.nextAppendAt());
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
