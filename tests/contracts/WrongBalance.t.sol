// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {BalanceWitness, IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract WrongBalanceTest is Disputed {
    using BatchModel for *;

    address private constant _HIGHEST = address(type(uint160).max);

    // --- invalid batches ---

    function test_a_balance_that_differs_from_the_earnings_convicts(uint256 i, uint256 j, uint128 amount) external {
        BatchData memory batch = validBatch();
        (i, j) = (_balance(batch, i), _balance(batch, j));
        vm.assume(i != j);
        batch.balances.shift(i, j, uint128(bound(amount, 1, batch.balances.values[i])));
        commitBatch(batch);
        uint256 before = vm.snapshotState();
        _convict(batch, _account(batch, i));
        vm.revertToState(before);
        _convict(batch, _account(batch, j));
    }

    function test_a_balance_that_is_missing_convicts(uint256 i, uint256 j) external {
        BatchData memory batch = validBatch();
        (i, j) = (_balance(batch, i), _balance(batch, j));
        vm.assume(i != j);
        address account = _account(batch, i);
        batch.balances.values[j] += batch.balances.values[i];
        batch.balances = batch.balances.remove(i);
        commitBatch(batch);
        _convict(batch, account);
    }

    function test_over_allocated_balances_convict(address thief, uint256 i, uint128 amount) external {
        BatchData memory batch = validBatch();
        bytes32 key = Hashing.account(thief);
        vm.assume(batch.balances.valueOf(key) == 0);
        i = _balance(batch, i);
        amount = uint128(bound(amount, 1, batch.balances.values[i]));
        batch.balances.values[i] -= amount;
        batch.balances = batch.balances.insert(batch.balances.placeOf(key), key, amount);
        commitBatch(batch);
        _convict(batch, thief);
    }

    function test_the_first_batch_starts_from_nothing(uint256 i, uint256 j, uint128 amount) external {
        BatchData memory batch = firstToRecommit();
        (i, j) = (_balance(batch, i), _balance(batch, j));
        vm.assume(i != j);
        batch.balances.shift(i, j, uint128(bound(amount, 1, batch.balances.values[i])));
        commitBatch(batch);
        _convict(batch, _account(batch, i));
    }

    /// @dev The entries around the account are in reverse order, so that the difference of prefixes is negative.
    function test_entries_in_reverse_order_convict(address account) external {
        BatchData memory batch = validBatch();
        uint256 last = batch.entries.keys.length - 1;
        uint256 low = uint256(batch.entries.keys[0]) >> 64;
        uint256 high = uint256(batch.entries.keys[last]) >> 64;
        account = address(uint160(bound(uint160(account), low + 1, high - 1)));
        batch.entries.swap(0, last);
        commitBatch(batch);
        BalanceWitness memory witness = balanceWitness(batch, account);
        uint256 key = uint256(uint160(account));
        witness.entriesFrom = batch.single(Tree.Entries, last);
        witness.entriesUntil = batch.single(Tree.Entries, 0);
        vm.assertTrue(uint256(witness.entriesFrom.keys[0]) < key << 64);
        expectConviction(batch, IDisputes.proveWrongBalance.selector);
        prover.proveWrongBalance(batch.header, witness);
        assertVoid(batch);
    }

    function test_the_highest_account_is_an_account(uint128 amount) external {
        setTreasury(_HIGHEST);
        BatchData memory batch = validBatch();
        fillEntries(batch);
        batch.fillBalances();
        uint256 before = vm.snapshotState();
        commitBatch(batch);
        uint256 last = batch.balances.keys.length - 1;
        vm.assertEq(batch.balances.keys[last], Hashing.account(_HIGHEST));
        _expectAcquittal(batch, _HIGHEST);
        vm.revertToState(before);
        batch.balances.shift(last, 0, uint128(bound(amount, 1, batch.balances.values[last])));
        commitBatch(batch);
        _convict(batch, _HIGHEST);
    }

    // --- valid batches ---

    function test_no_balance_of_a_valid_batch_convicts(uint256 i) external {
        BatchData memory batch = committedBatch();
        _expectAcquittal(batch, _account(batch, _balance(batch, i)));
    }

    function test_an_account_without_earnings_has_no_balance(address account) external {
        BatchData memory batch = committedBatch();
        _expectAcquittal(batch, account);
        _expectAcquittal(batch, address(0));
        _expectAcquittal(batch, _HIGHEST);
    }

    function test_the_first_batch_needs_no_parent(uint256 i, address other) external {
        BatchData memory batch = firstBatch();
        _expectAcquittal(batch, _account(batch, _balance(batch, i)));
        _expectAcquittal(batch, other);
    }

    // --- other witnesses ---

    function test_another_parent_is_refused(uint256 field) external {
        BatchData memory batch = committedBatch();
        BalanceWitness memory witness = balanceWitness(batch, operator);
        if (field % 3 == 0) witness.parent = batch.header;
        if (field % 3 == 1) witness.parent.balancesCount += 1;
        if (field % 3 == 2) witness.parent.cumulativeTotal += 1;
        bytes32 found = Hashing.batch(witness.parent);
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, batch.header.parent, found));
        prover.proveWrongBalance(batch.header, witness);
    }

    function test_another_accounts_lookup_is_refused(uint256 i, address other, uint256 which) external {
        BatchData memory batch = committedBatch();
        address account = _account(batch, _balance(batch, i));
        BalanceWitness memory witness = balanceWitness(batch, account);
        BalanceWitness memory wrongs = balanceWitness(batch, other);
        bytes32 before = keccak256(abi.encode(witness));
        which %= 4;
        bytes32 key = Hashing.account(account);
        if (which == 0) witness.earlier = wrongs.earlier;
        if (which == 1) witness.later = wrongs.later;
        if (which == 2) (witness.entriesFrom, key) = (wrongs.entriesFrom, key << 64);
        if (which == 3) (witness.entriesUntil, key) = (wrongs.entriesUntil, bytes32((uint256(key) + 1) << 64));
        vm.assume(keccak256(abi.encode(witness)) != before);
        vm.expectRevert(abi.encodeWithSelector(Lookups.LookupMismatch.selector, key));
        prover.proveWrongBalance(batch.header, witness);
    }

    function test_the_parents_balances_do_not_pass_for_the_batchs(uint256 i) external {
        BatchData memory batch = committedBatch();
        BalanceWitness memory witness = balanceWitness(batch, _account(batch, _balance(batch, i)));
        (witness.earlier, witness.later) = (witness.later, witness.earlier);
        vm.expectRevert();
        prover.proveWrongBalance(batch.header, witness);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 seed) external {
        BatchData memory batch = committedBatch();
        BalanceWitness memory witness = balanceWitness(batch, _account(batch, _balance(batch, i)));
        expectAcquittal(batch, abi.encodeCall(IDisputes.proveWrongBalance, (batch.header, witness)), seed);
    }

    // --- internal ---

    function _balance(BatchData memory batch, uint256 i) private pure returns (uint256) {
        return bound(i, 0, batch.balances.keys.length - 1);
    }

    function _account(BatchData memory batch, uint256 i) private pure returns (address) {
        return address(uint160(uint256(batch.balances.keys[i])));
    }

    function _convict(BatchData memory batch, address account) private {
        BalanceWitness memory witness = balanceWitness(batch, account);
        expectConviction(batch, IDisputes.proveWrongBalance.selector);
        prover.proveWrongBalance(batch.header, witness);
        assertVoid(batch);
    }

    function _expectAcquittal(BatchData memory batch, address account) private {
        bytes32 key = Hashing.account(account);
        BalanceWitness memory witness = balanceWitness(batch, account);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.ValueMatches.selector, key, batch.balances.valueOf(key)));
        prover.proveWrongBalance(batch.header, witness);
    }
}
