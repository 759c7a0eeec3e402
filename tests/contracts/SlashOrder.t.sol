// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Tree as DisputedTree} from "../../contracts/interfaces/IDisputes.sol";
import {Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Claim, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Batches} from "./support/Batches.sol";
import {Tree, Trees} from "./support/Trees.sol";

/// @notice What a conviction costs an operator: the largest cover that its pending batches required, independently of
/// claims before the conviction and of which of them is convicted.
contract SlashOrderTest is Batches {
    using Trees for Tree;

    uint256 private constant _COVER_PPM = 250_000;

    /// @dev A batch with what the property needs of its commit.
    struct Committed {
        BatchHeader header;
        uint128 before; // the channel's collected amount
        uint128 slashed; // the operator's slashes
        uint128 cover; // c x P
    }

    Committed[] private _batches;
    Claim[] private _claims;
    uint128 private _earned;

    // --- findings ---

    /// @dev The operator pushes the victims' rightful claims just before the proof, which shrinks its pot.
    function test_finding2_slash_is_not_reduced_by_claims() external {
        address victim = accountOf("victim");
        uint128 amount = 900_000 * MICRO;
        Tree memory valid = oneBalance(victim, amount);
        settle(amount, valid);
        Claim memory rightful = claimOf(victim, valid, 0);
        Tree memory wrong = _two(accountOf("accomplice"), amount + 10 * MICRO, victim, 0);
        BatchHeader memory header = commit(10 * MICRO, wrong);
        vm.prank(operator);
        settlement.claim(rightful);
        _convict(header, wrong, victim);
        vm.assertEq(operators.stakeOf(operator).slashed, 225_003 * MICRO);
    }

    /// @dev Two wrong batches of one bug cost the larger of their covers once, independently of which is convicted.
    function test_finding7_two_wrong_batches_slash_once(bool isNewest) external {
        address victim = accountOf("victim");
        Tree memory firstTree = _two(accountOf("accomplice"), 100 * MICRO, victim, 0);
        BatchHeader memory first = _commit(100 * MICRO, firstTree);
        Tree memory secondTree = _two(accountOf("accomplice"), 104 * MICRO, victim, 0);
        BatchHeader memory second = _commit(4 * MICRO, secondTree);
        if (isNewest) _convict(second, secondTree, victim);
        else _convict(first, firstTree, victim);
        _refundAll();
        vm.assertEq(operators.stakeOf(operator).slashed, 26 * MICRO);
    }

    /// @dev A wrong batch takes what the pot holds. Before anyone proves it, the operator convicts a later batch of its
    /// own, which takes the slash: the wrong one must not stay pending without a stake behind it.
    function test_an_operator_cannot_prepay_the_slash_of_an_earlier_wrong_batch() external {
        address victim = accountOf("victim");
        BatchHeader memory wrong = _commit(100 * MICRO, _two(accountOf("accomplice"), 100 * MICRO, victim, 0));
        Tree memory laterTree = _two(accountOf("accomplice"), 104 * MICRO, victim, 0);
        BatchHeader memory later = _commit(4 * MICRO, laterTree);
        vm.prank(operator);
        _convict(later, laterTree, victim);
        vm.assertFalse(settlement.isPending(wrong));
        vm.warp(later.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(wrong)));
        finalise(wrong);
        // Nothing is committed before the wrong batch is refunded too, and its replacement needs a cover again.
        _refundAll();
        vm.assertEq(vault.potOf(address(settlement), operator), 0);
        vm.assertEq(_commit(100 * MICRO, oneBalance(victim, 100 * MICRO)).slashUpTo, (26 + 25) * MICRO);
    }

    // --- properties ---

    /// @dev The slash is the largest that a pending batch stated, independently of which of them is convicted.
    function test_any_conviction_slashes_the_same(uint256 amounts, uint256 one, uint256 other) external {
        uint256 count = 2 + (amounts % 5);
        _settleSome(amounts);
        for (uint256 i = 0; i < count; ++i) _commit(_amountOf(amounts, i), oneBalance(operator, _earned));
        if (amounts % 2 == 0) settlement.claim(_claims[0]);
        uint256 snapshot = vm.snapshotState();
        uint128 slashed = _slashOf(one % count);
        vm.revertToState(snapshot);
        vm.assertEq(_slashOf(other % count), slashed);
    }

    /// @dev Commits, claims, convictions and recommits in any order: a conviction costs at least the cover that its
    /// commit required, less what was slashed while the batch was pending, and never more than the stake.
    function test_a_conviction_costs_the_required_cover(uint256[24] memory moves) external {
        _settleSome(moves[0]);
        for (uint256 i = 0; i < moves.length; ++i) {
            uint256 move = moves[i] % 4;
            uint256 draw = moves[i] >> 2;
            if (move == 0) _claimAny(draw);
            if (move == 1 || _batches.length == 0) _commit(_amountOf(draw, i), oneBalance(operator, _earned));
            if (move == 2 && _batches.length != 0) _checkConviction(draw % _batches.length);
            if (move == 3 && _batches.length != 0) _finaliseFirst();
        }
        uint256 held = usd.balanceOf(address(operators)) * MICRO;
        vm.assertEq(operators.stakeOf(operator).stake, held);
        vm.assertEq(operators.stakeOf(operator).slashed + held, STAKE_UNITS * MICRO);
    }

    // --- internal ---

    function _checkConviction(uint256 i) private {
        Committed memory convicted = _batches[i];
        uint128 due = 0;
        for (uint256 j = 0; j < _batches.length; ++j) {
            uint128 needed = _batches[j].slashed + _batches[j].cover;
            if (needed > due) due = needed;
        }
        uint128 slashed = operators.stakeOf(operator).slashed;
        voidPending(convicted.header);
        vm.assertLe(convicted.slashed + convicted.cover, operators.stakeOf(operator).slashed);
        _refundAll();
        uint128 sum = operators.stakeOf(operator).slashed;
        uint128 expected = due > slashed ? due : slashed;
        // Covers are rounded up to whole units.
        vm.assertLe(expected, sum);
        vm.assertLe(sum, expected + MICRO);
        _earned = settlement.stateOf(operator).cumulativeTotal;
    }

    /// @dev Convicts one of the pending batches, refunds all, checks the sum of slashes and returns it.
    function _slashOf(uint256 convicted) private returns (uint128 slashed) {
        uint128 largest = 0;
        for (uint256 i = 0; i < _batches.length; ++i) {
            if (_batches[i].header.slashUpTo > largest) largest = _batches[i].header.slashUpTo;
        }
        voidPending(_batches[convicted].header);
        _refundAll();
        slashed = operators.stakeOf(operator).slashed;
        vm.assertEq(slashed, largest);
    }

    function _refundAll() private {
        while (_batches.length != 0) _refundLast();
    }

    function _refundLast() private {
        _refund(_batches[_batches.length - 1]);
        _batches.pop();
    }

    function _refund(Committed memory batch) private {
        Refund[] memory refunds = new Refund[](1);
        refunds[0] = Refund(payer, batch.before, batch.before, batch.before + batch.header.total);
        settlement.refund(batch.header, refunds);
    }

    function _commit(uint128 amount, Tree memory balances) private returns (BatchHeader memory header) {
        Committed memory next;
        next.before = vault.channelOf(channel()).collected;
        next.slashed = operators.stakeOf(operator).slashed;
        header = commit(amount, balances);
        next.header = header;
        next.cover = uint128((vault.potOf(address(settlement), operator) * _COVER_PPM) / 1e6);
        _batches.push(next);
        _earned = header.cumulativeTotal;
    }

    /// @dev A final batch of two accounts, of which the operator can push the claims.
    function _settleSome(uint256 seed) private {
        uint128 amount = _amountOf(seed, 99);
        Tree memory balances = _two(accountOf("victim"), amount, accountOf("other victim"), amount);
        settle(2 * amount, balances);
        _claims.push(claimOf(accountOf("victim"), balances, 0));
        _claims.push(claimOf(accountOf("other victim"), balances, 1));
        _earned = 2 * amount;
    }

    function _claimAny(uint256 draw) private {
        Claim memory request = _claims[draw % 2];
        if (settlement.claimedOf(operator, request.account) == 0) settlement.claim(request);
    }

    function _finaliseFirst() private {
        BatchHeader memory first = _batches[0].header;
        if (block.timestamp < first.finalAt) vm.warp(first.finalAt);
        finalise(first);
        for (uint256 i = 1; i < _batches.length; ++i) _batches[i - 1] = _batches[i];
        _batches.pop();
    }

    function _convict(BatchHeader memory header, Tree memory balances, address victim) private {
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.BALANCES, Hashing.account(victim));
        prover.proveZeroLeaf(header, DisputedTree.Balances, leaf, balances.open(1));
    }

    function _two(
        address one,
        uint128 oneValue,
        address other,
        uint128 otherValue
    ) private pure returns (Tree memory) {
        address[] memory accounts = new address[](2);
        uint128[] memory values = new uint128[](2);
        (accounts[0], values[0], accounts[1], values[1]) = (one, oneValue, other, otherValue);
        return balancesOf(accounts, values);
    }

    /// @dev Small amounts are as likely as large ones, and all of them together stay within deposit and cover.
    function _amountOf(uint256 seed, uint256 i) private pure returns (uint128) {
        uint256 draw = uint256(keccak256(abi.encode(seed, i)));
        return uint128(bound(draw >> 8, MICRO, draw % 2 == 0 ? 3 * MICRO : 20_000 * MICRO));
    }
}
