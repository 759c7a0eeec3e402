// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {Claim} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {BatchData, BatchModel, Served} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract BelowClaimedTest is Disputed {
    using BatchModel for *;

    address private _thief;

    function setUp() public override {
        super.setUp();
        _thief = accountOf("thief");
    }

    // --- invalid batches ---

    /// @dev After the claims the pot is almost empty, so that the theft risks almost no stake. It passes unproved, the
    /// next batch follows from it, and from then on every pot would pay the same amount again.
    function test_claimed_amounts_that_an_unproved_batch_moved_are_not_paid_again() external {
        (BatchData memory theft, address robbed, uint128 claimed) = _unprovedTheft();
        vm.assertTrue(theft.header.slashUpTo < claimed);
        BatchData memory next = _batch(theft, 1_000);
        commitBatch(next);
        _expectRightBalance(next, robbed);
        _expectRightBalance(next, _thief);

        uint256 before = vm.snapshotState();
        _finalise(next);
        _claim(next, _thief);
        vm.assertTrue(usd.balanceOf(_thief) != 0);
        vm.revertToState(before);

        _convict(next, robbed);
    }

    function test_an_absent_balance_is_below_any_claim() external {
        (BatchData memory theft, address robbed, ) = _unprovedTheft();
        BatchData memory next = _small(theft);
        uint256 at = next.balances.placeOf(Hashing.account(robbed));
        vm.assertNotEq(next.balances.keys[at], Hashing.account(robbed));
        commitBatch(next);
        _convict(next, robbed);
    }

    function test_a_balance_equal_to_the_claim_acquits_and_one_below_convicts() external {
        BatchData memory first = _claimedFirst();
        uint256 i = _richest(first);
        address robbed = _account(first, i);
        BatchData memory batch = _small(first);
        uint256 at = batch.balances.placeOf(Hashing.account(robbed));
        uint128 surplus = batch.balances.values[at] - settlement.claimedOf(operator, robbed);
        _move(batch, at, surplus);
        uint256 before = vm.snapshotState();
        commitBatch(batch);
        _expectAcquittal(batch, robbed);
        vm.revertToState(before);
        _move(batch, batch.balances.placeOf(Hashing.account(robbed)), 1);
        commitBatch(batch);
        _convict(batch, robbed);
    }

    // --- valid batches ---

    function test_no_account_of_a_valid_batch_convicts(uint256 i, address other) external {
        _claimedFirst();
        BatchData memory batch = committedBatch();
        _expectAcquittal(batch, _account(batch, bound(i, 0, batch.balances.keys.length - 1)));
        _expectAcquittal(batch, other);
    }

    function test_another_accounts_lookup_is_refused(uint256 i, uint256 j) external {
        _claimedFirst();
        BatchData memory batch = committedBatch();
        i = bound(i, 0, batch.balances.keys.length - 1);
        j = bound(j, 0, batch.balances.keys.length - 1);
        vm.assume(i != j);
        Lookup memory lookup = batch.single(Tree.Balances, j);
        (bool isHeld, bytes memory result) = _send(batch, _account(batch, i), lookup);
        vm.assertFalse(isHeld);
        bool isMismatch = bytes4(result) == Lookups.LookupMismatch.selector;
        vm.assertTrue(isMismatch);
    }

    function test_a_final_batch_below_later_claims_stays() external {
        BatchData memory first = _claimedFirst();
        BatchData memory batch = committedBatch();
        _finaliseAndClaim(batch);
        address account = _account(first, _richest(first));
        (bool isHeld, ) = _send(first, account, first.lookUp(Tree.Balances, Hashing.account(account)));
        vm.assertFalse(isHeld);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 seed) external {
        _claimedFirst();
        BatchData memory batch = committedBatch();
        address account = _account(batch, bound(i, 0, batch.balances.keys.length - 1));
        Lookup memory lookup = batch.lookUp(Tree.Balances, Hashing.account(account));
        expectAcquittal(batch, abi.encodeCall(IDisputes.proveBelowClaimed, (batch.header, account, lookup)), seed);
    }

    // --- batches, internal ---

    /// @dev The first batch, final, with every whole unit claimed.
    function _claimedFirst() private returns (BatchData memory first) {
        first = firstBatch();
        _finaliseAndClaim(first);
    }

    /// @dev A final batch that moves the largest claimed balance to the thief.
    function _unprovedTheft() private returns (BatchData memory theft, address robbed, uint128 claimed) {
        BatchData memory first = _claimedFirst();
        robbed = _account(first, _richest(first));
        claimed = settlement.claimedOf(operator, robbed);
        vm.assertTrue(claimed != 0);
        theft = _small(first);
        uint256 at = theft.balances.placeOf(Hashing.account(robbed));
        _move(theft, at, theft.balances.values[at]);
        theft.balances = theft.balances.remove(theft.balances.placeOf(Hashing.account(robbed)));
        commitBatch(theft);
        _finalise(theft);
    }

    /// @dev A valid batch of one small receipt, not committed.
    function _small(BatchData memory parent) private returns (BatchData memory) {
        return _batch(parent, 1);
    }

    /// @dev A valid batch of one receipt of the version without contributors, not committed.
    function _batch(BatchData memory parent, uint32 tokens) private returns (BatchData memory) {
        uint128 begin = vault.channelOf(channel()).collected;
        Served[] memory served = new Served[](1);
        served[0] = BatchModel.serve(channel(), begin, tokens, blend(0, 1, false));
        Refund[] memory spans = new Refund[](1);
        spans[0] = Refund(payer, begin, begin, served[0].receipt.cumulative);
        return buildBatch(served, spans, parent);
    }

    /// @dev Moves a part of the balance at index `at` to the thief.
    function _move(BatchData memory batch, uint256 at, uint128 amount) private view {
        batch.balances.values[at] -= amount;
        bytes32 key = Hashing.account(_thief);
        uint256 to = batch.balances.placeOf(key);
        bool isThere = to < batch.balances.keys.length && batch.balances.keys[to] == key;
        if (isThere) batch.balances.values[to] += amount;
        else batch.balances = batch.balances.insert(to, key, amount);
    }

    function _finalise(BatchData memory batch) private {
        vm.warp(batch.header.finalAt);
        vm.roll(block.number + batch.header.finalBlock);
        finalise(batch.header);
    }

    function _finaliseAndClaim(BatchData memory batch) private {
        _finalise(batch);
        Claim[] memory claims = new Claim[](batch.balances.keys.length);
        for (uint256 i = 0; i < claims.length; ++i) {
            claims[i] = Claim(batch.header, _account(batch, i), batch.open(Tree.Balances, i));
        }
        settlement.claimMany(claims);
    }

    function _claim(BatchData memory batch, address account) private {
        uint256 i = batch.balances.placeOf(Hashing.account(account));
        settlement.claim(Claim(batch.header, account, batch.open(Tree.Balances, i)));
    }

    function _richest(BatchData memory batch) private pure returns (uint256 richest) {
        for (uint256 i = 1; i < batch.balances.keys.length; ++i) {
            if (batch.balances.values[i] > batch.balances.values[richest]) richest = i;
        }
    }

    function _account(BatchData memory batch, uint256 i) private pure returns (address) {
        return address(uint160(uint256(batch.balances.keys[i])));
    }

    // --- proofs, internal ---

    /// @dev Reserves the proof and sends it in a later block.
    function _send(
        BatchData memory batch,
        address account,
        Lookup memory lookup
    ) private returns (bool isHeld, bytes memory result) {
        return _reserved(abi.encodeCall(IDisputes.proveBelowClaimed, (batch.header, account, lookup)));
    }

    function _reserved(bytes memory proof) private returns (bool isHeld, bytes memory result) {
        bytes32 reservation = keccak256(abi.encode(address(this), keccak256(proof)));
        if (disputes.reservedAt(reservation) == 0) disputes.reserve(reservation);
        vm.roll(block.number + 1);
        return address(disputes).call(proof);
    }

    function _convict(BatchData memory batch, address account) private {
        Lookup memory lookup = batch.lookUp(Tree.Balances, Hashing.account(account));
        bytes memory proof = abi.encodeCall(IDisputes.proveBelowClaimed, (batch.header, account, lookup));
        disputes.reserve(keccak256(abi.encode(address(this), keccak256(proof))));
        vm.roll(block.number + 1);
        expectConviction(batch, IDisputes.proveBelowClaimed.selector, address(this));
        disputes.proveBelowClaimed(batch.header, account, lookup);
        assertVoid(batch);
    }

    function _expectAcquittal(BatchData memory batch, address account) private {
        bytes32 key = Hashing.account(account);
        (bool isHeld, bytes memory result) = _send(batch, account, batch.lookUp(Tree.Balances, key));
        vm.assertFalse(isHeld);
        (uint128 value, uint128 claimed) = (batch.balances.valueOf(key), settlement.claimedOf(operator, account));
        vm.assertTrue(value >= claimed);
        vm.assertEq(result, abi.encodeWithSelector(IDisputes.NotBelowClaimed.selector, key, value, claimed));
    }

    function _expectRightBalance(BatchData memory batch, address account) private {
        bytes memory proof = abi.encodeCall(
            IDisputes.proveWrongBalance,
            (batch.header, balanceWitness(batch, account))
        );
        (bool isHeld, bytes memory result) = _reserved(proof);
        vm.assertFalse(isHeld);
        bytes32 key = Hashing.account(account);
        bytes4 selector = IDisputes.ValueMatches.selector;
        vm.assertEq(result, abi.encodeWithSelector(selector, key, uint256(batch.balances.valueOf(key))));
    }
}
