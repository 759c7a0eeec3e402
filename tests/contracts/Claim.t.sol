// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Claim, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Batches} from "./support/Batches.sol";
import {Tree, Trees} from "./support/Trees.sol";

contract ClaimTest is Batches {
    using Trees for Tree;

    address private _account;
    address private _other;

    function setUp() public override {
        super.setUp();
        (_account, _other) = (accountOf("contributor"), accountOf("another contributor"));
    }

    function test_a_claim_pays_whole_units_and_leaves_the_remainder(uint128 earned) external {
        earned = uint128(bound(earned, MICRO, DEPOSIT_UNITS * MICRO));
        Tree memory balances = oneBalance(_account, earned);
        settle(earned, balances);
        uint128 batch = (earned / MICRO) * MICRO;
        vm.expectEmit(address(settlement));
        emit ISettlement.Claimed(operator, _account, _account, batch, batch);
        settlement.claim(claimOf(_account, balances, 0));
        vm.assertEq(usd.balanceOf(_account), earned / MICRO);
        vm.assertEq(settlement.claimedOf(operator, _account), batch);
        vm.assertEq(vault.potOf(address(settlement), operator), earned - batch);
    }

    function test_a_second_claim_pays_only_the_increase(uint128 first, uint128 second) external {
        first = uint128(bound(first, MICRO, 1_000 * MICRO));
        second = uint128(bound(second, MICRO, 1_000 * MICRO));
        Tree memory balances = oneBalance(_account, first);
        settle(first, balances);
        settlement.claim(claimOf(_account, balances, 0));
        balances = oneBalance(_account, first + second);
        settle(second, balances);
        settlement.claim(claimOf(_account, balances, 0));
        vm.assertEq(usd.balanceOf(_account), (first + second) / MICRO);
    }

    function test_a_claim_cannot_be_repeated() external {
        Tree memory balances = oneBalance(_account, 5 * MICRO + 7);
        settle(5 * MICRO + 7, balances);
        settlement.claim(claimOf(_account, balances, 0));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NothingToClaim.selector, operator, _account, 7));
        settlement.claim(claimOf(_account, balances, 0));
    }

    function test_many_accounts_claim_at_once(uint64 left, uint64 right) external {
        left = uint64(bound(left, MICRO, DEPOSIT_UNITS * MICRO / 2));
        right = uint64(bound(right, MICRO, DEPOSIT_UNITS * MICRO / 2));
        Tree memory balances = _twoBalances(left, right);
        settle(left + right, balances);
        settlement.claimMany(_bothClaims(balances));
        vm.assertEq(usd.balanceOf(_account), left / MICRO);
        vm.assertEq(usd.balanceOf(_other), right / MICRO);
    }

    function test_many_claims_skip_what_was_already_claimed(uint256 which) external {
        Tree memory balances = _twoBalances(5 * MICRO, 6 * MICRO + 7);
        settle(11 * MICRO + 7, balances);
        Claim[] memory claims = _bothClaims(balances);
        settlement.claim(claims[which % 2]);
        settlement.claimMany(claims);
        settlement.claimMany(claims);
        vm.assertEq(usd.balanceOf(_account), 5);
        vm.assertEq(usd.balanceOf(_other), 6);
        vm.assertEq(vault.potOf(address(settlement), operator), 7);
    }

    function test_many_claims_pay_a_repeated_claim_once() external {
        Tree memory balances = _twoBalances(5 * MICRO, 6 * MICRO);
        settle(11 * MICRO, balances);
        Claim[] memory claims = _bothClaims(balances);
        claims[1] = claims[0];
        settlement.claimMany(claims);
        vm.assertEq(usd.balanceOf(_account), 5);
        vm.assertEq(vault.potOf(address(settlement), operator), 6 * MICRO);
    }

    function test_many_claims_report_the_invalid_one(uint256 which, bool isClaimed) external {
        Tree memory balances = _twoBalances(5 * MICRO, 6 * MICRO);
        settle(11 * MICRO, balances);
        Claim[] memory claims = _bothClaims(balances);
        which %= 2;
        // A claim with nothing left must still be valid.
        if (isClaimed) settlement.claim(claims[which]);
        uint256 pot = vault.potOf(address(settlement), operator);
        claims[which].opening.path = bytes.concat(claims[which].opening.path, hex"00");
        bytes memory reason = abi.encodeWithSelector(MerkleSum.InvalidPathLength.selector, 49, 48);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.ClaimFailed.selector, which, reason));
        settlement.claimMany(claims);
        vm.assertEq(vault.potOf(address(settlement), operator), pot);
    }

    function test_many_claims_report_the_one_that_is_not_paid() external {
        Tree memory balances = _twoBalances(5 * MICRO, 6 * MICRO);
        settle(11 * MICRO, balances);
        vm.mockCallRevert(address(usd), abi.encodeCall(usd.transfer, (_other, 6)), "frozen");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.ClaimFailed.selector, 1, bytes("frozen")));
        settlement.claimMany(_bothClaims(balances));
    }

    function test_nothing_is_paid_before_finality() external {
        Tree memory balances = oneBalance(_account, 5 * MICRO);
        commit(5 * MICRO, balances);
        Claim memory request = claimOf(_account, balances, 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchNotFinal.selector, 1));
        settlement.claim(request);
    }

    function test_a_batch_that_was_never_committed_pays_nothing(uint256 field, uint64 change) external {
        vm.assume(change != 0);
        Tree memory balances = oneBalance(_account, 5 * MICRO);
        settle(5 * MICRO, balances);
        Claim memory request = claimOf(_account, balances, 0);
        if (field % 5 == 0) request.header.number ^= change;
        if (field % 5 == 1) request.header.balancesRoot ^= bytes32(uint256(change));
        if (field % 5 == 2) request.header.cumulativeTotal ^= change;
        if (field % 5 == 3) request.header.operator = address(uint160(operator) ^ change);
        if (field % 5 == 4) request.header.balancesCount ^= uint32(change) | 1;
        bytes32 unknown = settlement.hashBatch(request.header);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, unknown));
        settlement.claim(request);
    }

    function test_a_voided_batch_pays_nothing() external {
        Tree memory balances = oneBalance(_account, 5 * MICRO);
        commit(5 * MICRO, balances);
        Claim memory request = claimOf(_account, balances, 0);
        voidPending(lastHeader);
        vm.warp(lastHeader.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchNotFinal.selector, 1));
        settlement.claim(request);
    }

    /// @dev Each final batch pays what it credits beyond earlier claims, in any order.
    function test_any_final_batch_pays_the_balance_that_is_not_claimed(uint128[4] memory amounts, uint256 order) external {
        Claim[4] memory claims;
        uint128[4] memory earned;
        uint128 total = 0;
        for (uint256 i = 0; i < 4; ++i) {
            uint128 amount = uint128(bound(amounts[i], 1, 1_000 * MICRO));
            total += amount;
            earned[i] = total;
            Tree memory balances = oneBalance(_account, total);
            settle(amount, balances);
            claims[i] = claimOf(_account, balances, 0);
        }
        uint128 claimed = 0;
        for (uint256 n = 0; n < 8; ++n) {
            uint256 i = (order >> (2 * n)) % 4;
            uint128 due = earned[i] > claimed ? ((earned[i] - claimed) / MICRO) * MICRO : 0;
            if (due == 0) vm.expectPartialRevert(ISettlement.NothingToClaim.selector);
            settlement.claim(claims[i]);
            claimed += due;
            vm.assertEq(settlement.claimedOf(operator, _account), claimed);
            vm.assertEq(usd.balanceOf(_account), claimed / MICRO);
        }
    }

    /// @dev Batches whose balances contradict each other: all claims against all of them together pay at most what the
    /// latest one collected in total.
    function test_claims_against_contradictory_batches_stay_within_the_final_total(
        uint128[4] memory amounts,
        uint256 order
    ) external {
        Claim[4] memory claims;
        uint128 total = 0;
        for (uint256 i = 0; i < 4; ++i) {
            uint128 amount = uint128(bound(amounts[i], 1, 1_000 * MICRO));
            total += amount;
            address account = vm.addr(i + 1);
            Tree memory balances = oneBalance(account, total);
            settle(amount, balances);
            claims[i] = claimOf(account, balances, 0);
        }
        commit(9 * MICRO, oneBalance(_account, total + 9 * MICRO));
        uint128 paid = 0;
        for (uint256 n = 0; n < 8; ++n) {
            uint256 i = (order >> (2 * n)) % 4;
            uint128 left = claims[i].opening.value - settlement.claimedOf(operator, vm.addr(i + 1));
            uint128 due = (left / MICRO) * MICRO;
            if (due == 0) vm.expectPartialRevert(ISettlement.NothingToClaim.selector);
            else if (paid + due > total) vm.expectPartialRevert(IPaymentVault.PayoutLimitExceeded.selector);
            settlement.claim(claims[i]);
            if (paid + due <= total) paid += due;
            vm.assertEq(vault.potOf(address(settlement), operator), total + 9 * MICRO - paid);
        }
        vm.assertLe(paid, settlement.stateOf(operator).finalTotal);
    }

    /// @dev The balances of a later batch are unpublished or lost: what earlier batches made final is paid nevertheless.
    function test_finding5_final_money_is_no_hostage_of_a_later_batch() external {
        Tree memory published = oneBalance(_account, 100 * MICRO);
        settle(100 * MICRO, published);
        Claim memory request = claimOf(_account, published, 0);
        settle(50 * MICRO, _twoBalances(100 * MICRO, 50 * MICRO));
        settlement.claim(request);
        vm.assertEq(usd.balanceOf(_account), 100);
    }

    /// @dev The operator finalises the next batch ahead of each claim.
    function test_finding5_finalising_ahead_censors_no_claim() external {
        BatchHeader[4] memory headers;
        Claim[4] memory claims;
        for (uint128 i = 0; i < 4; ++i) {
            Tree memory balances = oneBalance(_account, (i + 1) * 100 * MICRO);
            headers[i] = commit(100 * MICRO, balances);
            claims[i] = claimOf(_account, balances, 0);
        }
        vm.warp(headers[3].finalAt);
        finalise(headers[0]);
        for (uint256 i = 1; i < 4; ++i) {
            vm.prank(operator);
            finalise(headers[i]);
            settlement.claim(claims[i - 1]);
            vm.assertEq(usd.balanceOf(_account), i * 100);
        }
    }

    function test_another_balance_or_value_cannot_be_claimed(uint128 value) external {
        Tree memory balances = _twoBalances(5 * MICRO, 6 * MICRO);
        settle(11 * MICRO, balances);
        Claim memory request = claimOf(_other, balances, 0);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        settlement.claim(request);
        request = claimOf(_account, balances, 0);
        vm.assume(value != request.opening.value && value < type(uint128).max - 6 * MICRO);
        request.opening.value = value;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        settlement.claim(request);
    }

    function test_a_balance_below_what_was_claimed_pays_nothing() external {
        Tree memory balances = oneBalance(_account, 5 * MICRO);
        settle(5 * MICRO, balances);
        settlement.claim(claimOf(_account, balances, 0));
        balances = _twoBalances(MICRO, 5 * MICRO);
        settle(MICRO, balances);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NothingToClaim.selector, operator, _account, 0));
        settlement.claim(claimOf(_account, balances, 0));
    }

    /// @dev Over-allocated balances: a dishonest final batch can pay an accomplice what others earned and did not
    /// claim, which only a fraud proof prevents, but never the amounts collected by pending batches.
    function test_the_payout_limit_protects_pending_amounts() external {
        Tree memory validBatch = oneBalance(_account, 5 * MICRO);
        settle(5 * MICRO, validBatch);
        settlement.claim(claimOf(_account, validBatch, 0));
        Tree memory forged = oneBalance(_other, 6 * MICRO);
        settle(MICRO, forged);
        Claim memory request = claimOf(_other, forged, 0);
        commit(9 * MICRO, oneBalance(_other, 15 * MICRO));
        vm.expectRevert(
            abi.encodeWithSelector(IPaymentVault.PayoutLimitExceeded.selector, 5 * MICRO, 6 * MICRO, 6 * MICRO)
        );
        settlement.claim(request);
    }

    function test_no_claim_reaches_another_operators_pot() external {
        settle(5 * MICRO, oneBalance(_account, 5 * MICRO));
        address validBatch = operator;
        operator = accountOf("raider");
        deposit(DEPOSIT_UNITS);
        addStake(operator, STAKE_UNITS);
        // Totals are bounded by collections, so the raider's balances cannot exceed its own pot.
        Tree memory balances = oneBalance(_other, 2 * MICRO);
        settle(2 * MICRO, balances);
        Claim memory request = claimOf(_other, balances, 0);
        request.header.operator = validBatch;
        vm.expectPartialRevert(ISettlement.BatchUnknown.selector);
        settlement.claim(request);
        settlement.claim(claimOf(_other, balances, 0));
        vm.assertEq(vault.potOf(address(settlement), validBatch), 5 * MICRO);
    }

    function test_balances_beyond_the_total_cannot_be_claimed() external {
        // The operator chooses the root freely, but the sum of an opening must equal the batch's cumulative total.
        Tree memory inflated = oneBalance(_account, 50 * MICRO);
        settle(5 * MICRO, inflated);
        Claim memory request = claimOf(_account, inflated, 0);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        settlement.claim(request);
    }

    function _bothClaims(Tree memory balances) private view returns (Claim[] memory claims) {
        claims = new Claim[](2);
        (claims[0], claims[1]) = (claimOf(_account, balances, 0), claimOf(_other, balances, 1));
    }

    function _twoBalances(uint128 left, uint128 right) private view returns (Tree memory) {
        address[] memory accounts = new address[](2);
        uint128[] memory values = new uint128[](2);
        (accounts[0], accounts[1]) = (_account, _other);
        (values[0], values[1]) = (left, right);
        return balancesOf(accounts, values);
    }
}
