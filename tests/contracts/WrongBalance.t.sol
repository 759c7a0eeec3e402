// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {BalanceWitness, IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {Book, Books} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract WrongBalanceTest is Disputed {
    using Books for *;

    address private constant _HIGHEST = address(type(uint160).max);

    // --- invalid batches ---

    function test_a_balance_that_differs_from_the_earnings_convicts(uint256 i, uint256 j, uint128 amount) external {
        Book memory book = validBook();
        (i, j) = (_balance(book, i), _balance(book, j));
        vm.assume(i != j);
        book.balances.shift(i, j, uint128(bound(amount, 1, book.balances.values[i])));
        commitBook(book);
        uint256 before = vm.snapshotState();
        _convict(book, _account(book, i));
        vm.revertToState(before);
        _convict(book, _account(book, j));
    }

    function test_a_balance_that_is_missing_convicts(uint256 i, uint256 j) external {
        Book memory book = validBook();
        (i, j) = (_balance(book, i), _balance(book, j));
        vm.assume(i != j);
        address account = _account(book, i);
        book.balances.values[j] += book.balances.values[i];
        book.balances = book.balances.remove(i);
        commitBook(book);
        _convict(book, account);
    }

    function test_over_allocated_balances_convict(address thief, uint256 i, uint128 amount) external {
        Book memory book = validBook();
        bytes32 key = Hashing.account(thief);
        vm.assume(book.balances.valueOf(key) == 0);
        i = _balance(book, i);
        amount = uint128(bound(amount, 1, book.balances.values[i]));
        book.balances.values[i] -= amount;
        book.balances = book.balances.insert(book.balances.placeOf(key), key, amount);
        commitBook(book);
        _convict(book, thief);
    }

    function test_the_first_batch_starts_from_nothing(uint256 i, uint256 j, uint128 amount) external {
        Book memory book = firstToRecommit();
        (i, j) = (_balance(book, i), _balance(book, j));
        vm.assume(i != j);
        book.balances.shift(i, j, uint128(bound(amount, 1, book.balances.values[i])));
        commitBook(book);
        _convict(book, _account(book, i));
    }

    /// @dev The entries around the account are in reverse order, so that the difference of prefixes is negative.
    function test_entries_in_reverse_order_convict(address account) external {
        Book memory book = validBook();
        uint256 last = book.entries.keys.length - 1;
        uint256 low = uint256(book.entries.keys[0]) >> 64;
        uint256 high = uint256(book.entries.keys[last]) >> 64;
        account = address(uint160(bound(uint160(account), low + 1, high - 1)));
        book.entries.swap(0, last);
        commitBook(book);
        BalanceWitness memory witness = balanceWitness(book, account);
        uint256 key = uint256(uint160(account));
        witness.entriesFrom = book.single(Tree.Entries, last);
        witness.entriesUntil = book.single(Tree.Entries, 0);
        vm.assertTrue(uint256(witness.entriesFrom.keys[0]) < key << 64);
        expectConviction(book, IDisputes.proveWrongBalance.selector);
        disputes.proveWrongBalance(book.header, witness);
        assertVoid(book);
    }

    function test_the_highest_account_is_an_account(uint128 amount) external {
        vm.prank(address(timelock));
        parameters.setTreasury(_HIGHEST);
        Book memory book = validBook();
        fillEntries(book);
        book.fillBalances();
        uint256 before = vm.snapshotState();
        commitBook(book);
        uint256 last = book.balances.keys.length - 1;
        vm.assertEq(book.balances.keys[last], Hashing.account(_HIGHEST));
        _expectRight(book, _HIGHEST);
        vm.revertToState(before);
        book.balances.shift(last, 0, uint128(bound(amount, 1, book.balances.values[last])));
        commitBook(book);
        _convict(book, _HIGHEST);
    }

    // --- valid batches ---

    function test_no_balance_of_a_valid_batch_convicts(uint256 i) external {
        Book memory book = committed();
        _expectRight(book, _account(book, _balance(book, i)));
    }

    function test_an_account_without_earnings_has_no_balance(address account) external {
        Book memory book = committed();
        _expectRight(book, account);
        _expectRight(book, address(0));
        _expectRight(book, _HIGHEST);
    }

    function test_the_first_batch_needs_no_parent(uint256 i, address other) external {
        Book memory book = first();
        _expectRight(book, _account(book, _balance(book, i)));
        _expectRight(book, other);
    }

    // --- other witnesses ---

    function test_another_parent_is_refused(uint256 field) external {
        Book memory book = committed();
        BalanceWitness memory witness = balanceWitness(book, operator);
        if (field % 3 == 0) witness.parent = book.header;
        if (field % 3 == 1) witness.parent.balancesCount += 1;
        if (field % 3 == 2) witness.parent.cumulativeTotal += 1;
        bytes32 found = Hashing.batch(witness.parent);
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, book.header.parent, found));
        disputes.proveWrongBalance(book.header, witness);
    }

    function test_another_accounts_lookup_is_refused(uint256 i, address other, uint256 which) external {
        Book memory book = committed();
        address account = _account(book, _balance(book, i));
        BalanceWitness memory witness = balanceWitness(book, account);
        BalanceWitness memory wrongs = balanceWitness(book, other);
        bytes32 before = keccak256(abi.encode(witness));
        which %= 4;
        bytes32 key = Hashing.account(account);
        if (which == 0) witness.earlier = wrongs.earlier;
        if (which == 1) witness.later = wrongs.later;
        if (which == 2) (witness.entriesFrom, key) = (wrongs.entriesFrom, key << 64);
        if (which == 3) (witness.entriesUntil, key) = (wrongs.entriesUntil, bytes32((uint256(key) + 1) << 64));
        vm.assume(keccak256(abi.encode(witness)) != before);
        vm.expectRevert(abi.encodeWithSelector(Lookups.LookupMismatch.selector, key));
        disputes.proveWrongBalance(book.header, witness);
    }

    function test_the_parents_balances_do_not_pass_for_the_batchs(uint256 i) external {
        Book memory book = committed();
        BalanceWitness memory witness = balanceWitness(book, _account(book, _balance(book, i)));
        (witness.earlier, witness.later) = (witness.later, witness.earlier);
        vm.expectRevert();
        disputes.proveWrongBalance(book.header, witness);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 seed) external {
        Book memory book = committed();
        BalanceWitness memory witness = balanceWitness(book, _account(book, _balance(book, i)));
        expectAcquittal(book, abi.encodeCall(IDisputes.proveWrongBalance, (book.header, witness)), seed);
    }

    // --- internal ---

    function _balance(Book memory book, uint256 i) private pure returns (uint256) {
        return bound(i, 0, book.balances.keys.length - 1);
    }

    function _account(Book memory book, uint256 i) private pure returns (address) {
        return address(uint160(uint256(book.balances.keys[i])));
    }

    function _convict(Book memory book, address account) private {
        BalanceWitness memory witness = balanceWitness(book, account);
        expectConviction(book, IDisputes.proveWrongBalance.selector);
        disputes.proveWrongBalance(book.header, witness);
        assertVoid(book);
    }

    function _expectRight(Book memory book, address account) private {
        bytes32 key = Hashing.account(account);
        BalanceWitness memory witness = balanceWitness(book, account);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.ValueMatches.selector, key, book.balances.valueOf(key)));
        disputes.proveWrongBalance(book.header, witness);
    }
}
