// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Opening, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract RetireReceiptKeyTest is Disputed {
    using BatchModel for *;

    uint64 private constant _TOGETHER = 1 days;
    uint64 private constant _COOL_DOWN = 30 days;

    function setUp() public override {
        super.setUp();
        addReceiptKey(operator, "next receipt key");
    }

    // --- what a retirement ends ---

    /// @dev The thief convicts what is pending when the key leaks, and no batch committed after the retirement.
    function test_finding4_a_stolen_receipt_key_convicts_no_batch_after_its_retirement() external {
        finaliseFirst();
        BatchData memory batch = committedBatch();
        _prove(batch, _forged(batch), "receipt key");
        assertVoid(batch);
        settlement.refund(batch.header, batch.refunds);

        _retire("receipt key");
        commitBatch(batch);
        uint128 staked = operators.stakeOf(operator).stake;
        _expectRefused(batch, _forged(batch), "receipt key");
        vm.warp(batch.header.finalAt);
        _expectRefused(batch, _forged(batch), "receipt key");
        vm.assertTrue(settlement.isPending(batch.header));
        vm.assertEq(operators.stakeOf(operator).stake, staked);
    }

    function test_the_next_key_convicts_after_a_retirement() external {
        _retire("receipt key");
        BatchData memory batch = committedBatch();
        _prove(batch, _forged(batch), "next receipt key");
        assertVoid(batch);
    }

    /// @dev Signing the same receipts again with the next key is no equivocation.
    function test_a_receipt_signed_again_by_the_next_key_conflicts_with_nothing() external {
        _retire("receipt key");
        BatchData memory batch = committedBatch();
        Receipt memory receipt = batch.served[0].receipt;
        bytes memory signature = _signed("next receipt key", receipt);
        Opening memory opening = batch.open(Tree.Receipts, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.SameReceipt.selector, Hashing.receipt(receipt)));
        prover.proveEquivocation(batch.header, receipt, opening, receipt, signature);
    }

    function test_demanded_receipts_are_answered_with_the_next_key_after_a_retirement() external {
        _retire("receipt key");
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Receipts, bytes32(uint256(3)));
        ReceiptWitness memory witness = batch.witnessOf(3);
        bytes memory signature = _signed("receipt key", witness.receipt);
        vm.expectRevert(_refusalOf("receipt key"));
        disputes.answerReceipt(batch.header, witness, signature);
        _answer(batch, 3, "next receipt key");
    }

    // --- what it leaves ---

    /// @dev An operator cannot escape a conviction of a committed batch by retiring the key of the evidence.
    function test_a_retirement_takes_no_evidence_against_a_committed_batch_away(uint64 wait) external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.committedAt + bound(wait, 1, 7 days));
        _retire("receipt key");
        vm.warp(block.timestamp + bound(wait, 0, 7 days));
        _prove(batch, _forged(batch), "receipt key");
        assertVoid(batch);
    }

    function test_demanded_receipts_of_an_earlier_batch_are_answered_with_either_key() external {
        BatchData memory batch = committedBatch();
        _retire("receipt key");
        bytes32[] memory keys = new bytes32[](2);
        keys[1] = bytes32(uint256(1));
        demandMany(batch, Tree.Receipts, keys);
        _answer(batch, 0, "receipt key");
        _answer(batch, 1, "next receipt key");
    }

    /// @dev In one block, a commit before the retirement keeps its signatures and what contradicts them.
    function test_a_key_counts_for_a_batch_committed_in_the_second_of_its_retirement() external {
        BatchData memory batch = committedBatch();
        vm.assertEq(_retireNow("receipt key"), batch.header.committedAt);
        demand(batch, Tree.Receipts, 0);
        _answer(batch, 0, "receipt key");
        _prove(batch, _forged(batch), "receipt key");
        assertVoid(batch);
    }

    /// @dev In the other order too, so that no operator escapes by two calls in one block.
    function test_a_retirement_in_the_second_of_a_commit_takes_no_evidence_away() external {
        _retireNow("receipt key");
        BatchData memory batch = committedBatch();
        vm.assertEq(batch.header.committedAt, operators.retiredAt(receiptKey));
        _prove(batch, _forged(batch), "receipt key");
        assertVoid(batch);
    }

    function test_a_receipt_of_an_earlier_batch_stays_verified(uint64 time) external {
        BatchData memory batch = committedBatch();
        vm.warp(_retire("receipt key") + bound(time, 0, 365 days));
        Receipt memory receipt = batch.served[2].receipt;
        Opening memory opening = batch.open(Tree.Receipts, 2);
        vm.assertTrue(settlement.verifyReceipt(batch.header, receipt, opening, _signed("receipt key", receipt)));
    }

    function test_a_receipt_of_a_later_batch_is_verified_by_the_next_key() external {
        _retire("receipt key");
        BatchData memory batch = committedBatch();
        Receipt memory receipt = batch.served[2].receipt;
        Opening memory opening = batch.open(Tree.Receipts, 2);
        vm.assertFalse(settlement.verifyReceipt(batch.header, receipt, opening, _signed("receipt key", receipt)));
        bytes memory signature = _signed("next receipt key", receipt);
        vm.assertTrue(settlement.verifyReceipt(batch.header, receipt, opening, signature));
    }

    function test_a_key_counts_until_its_retirement(uint64 committedAt) external {
        vm.assertTrue(operators.isReceiptKey(receiptKey, operator, committedAt));
        vm.assertEq(operators.retiredAt(receiptKey), 0);
        uint64 at = _retire("receipt key");
        vm.assertEq(operators.retiredAt(receiptKey), at);
        vm.assertEq(operators.isReceiptKey(receiptKey, operator, committedAt), committedAt <= at);
        vm.assertTrue(operators.isReceiptKey(receiptKey, operator, at));
        vm.assertFalse(operators.isReceiptKey(receiptKey, operator, at + 1));
        vm.assertFalse(operators.isReceiptKey(receiptKey, challenger, committedAt));
        vm.assertFalse(operators.isReceiptKey(address(0), address(0), committedAt));
        vm.assertEq(operators.operatorOfKey(receiptKey), operator);
    }

    // --- who can retire what, and how often ---

    function test_a_retirement_takes_effect_at_once() external {
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.ReceiptKeyRetired(operator, receiptKey, uint64(block.timestamp));
        vm.assertEq(_retireNow("receipt key"), block.timestamp);
        vm.assertEq(operators.retirementsSince(operator), block.timestamp);
    }

    function test_only_its_operator_retires_a_key() external {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.KeyNotBound.selector, receiptKey, challenger));
        vm.prank(challenger);
        operators.retireReceiptKey(receiptKey);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.KeyNotBound.selector, receiptKey, receiptKey));
        vm.prank(receiptKey);
        operators.retireReceiptKey(receiptKey);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.KeyNotBound.selector, challenger, operator));
        vm.prank(operator);
        operators.retireReceiptKey(challenger);
    }

    function test_a_retirement_is_final() external {
        uint64 at = _retire("receipt key");
        bytes4 selector = IOperatorRegistry.KeyAlreadyRetired.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, receiptKey, at));
        vm.prank(operator);
        operators.retireReceiptKey(receiptKey);
        bytes memory signature = sign(
            keyOf("receipt key"),
            typedDigest(address(operators), Hashing.receiptKey(operator))
        );
        selector = IOperatorRegistry.KeyAlreadyBound.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, receiptKey, operator));
        vm.prank(operator);
        operators.addReceiptKey(receiptKey, signature);
    }

    /// @dev All keys of one leak, and a next key that leaks at once, are retired together.
    function test_further_keys_are_retired_within_a_day_of_the_first(uint64 wait) external {
        uint64 since = uint64(block.timestamp);
        _retire("receipt key");
        vm.warp(since + bound(wait, 0, _TOGETHER));
        vm.assertEq(_retireNow("next receipt key"), block.timestamp);
        vm.assertEq(operators.retirementsSince(operator), since);
    }

    /// @dev An operator that retired its keys before every commit could not be convicted of equivocation.
    function test_retirements_cool_down(uint64 wait) external {
        uint64 since = uint64(block.timestamp);
        _retire("receipt key");
        uint64 until = since + _COOL_DOWN;
        vm.assertTrue(_COOL_DOWN > vault.thawSeconds());
        vm.warp(bound(wait, since + _TOGETHER + 1, until - 1));
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.KeyRetirementCoolingDown.selector, until));
        vm.prank(operator);
        operators.retireReceiptKey(accountOf("next receipt key"));
        vm.warp(until);
        vm.assertEq(_retire("next receipt key"), until);
        vm.assertEq(operators.retirementsSince(operator), until);
    }

    function test_operators_retire_keys_independently() external {
        address other = accountOf("other operator");
        addReceiptKey(other, "other receipt key");
        _retire("receipt key");
        vm.warp(block.timestamp + _TOGETHER + 1);
        vm.prank(other);
        operators.retireReceiptKey(accountOf("other receipt key"));
        vm.assertEq(operators.retirementsSince(other), block.timestamp);
    }

    // --- internal ---

    /// @dev Retires a key, and lets the second of the retirement pass.
    function _retire(string memory name) private returns (uint64 at) {
        at = _retireNow(name);
        vm.warp(at + 1);
    }

    function _retireNow(string memory name) private returns (uint64) {
        address key = accountOf(name);
        vm.prank(operator);
        operators.retireReceiptKey(key);
        return operators.retiredAt(key);
    }

    /// @dev A receipt that the operator never signed, over the same interval as the first of the batch.
    function _forged(BatchData memory batch) private pure returns (Receipt memory forged) {
        forged = abi.decode(abi.encode(batch.served[0].receipt), (Receipt));
        forged.responseHash = keccak256("never said");
    }

    function _answer(BatchData memory batch, uint256 i, string memory name) private {
        ReceiptWitness memory witness = batch.witnessOf(i);
        disputes.answerReceipt(batch.header, witness, _signed(name, witness.receipt));
    }

    function _signed(string memory name, Receipt memory receipt) private view returns (bytes memory) {
        return sign(keyOf(name), settlement.receiptDigest(receipt));
    }

    function _prove(BatchData memory batch, Receipt memory other, string memory name) private {
        bytes memory signature = _signed(name, other);
        Opening memory opening = batch.open(Tree.Receipts, 0);
        prover.proveEquivocation(batch.header, batch.served[0].receipt, opening, other, signature);
    }

    function _expectRefused(BatchData memory batch, Receipt memory other, string memory name) private {
        bytes memory signature = _signed(name, other);
        Opening memory opening = batch.open(Tree.Receipts, 0);
        vm.expectRevert(_refusalOf(name));
        prover.proveEquivocation(batch.header, batch.served[0].receipt, opening, other, signature);
    }

    function _refusalOf(string memory name) private returns (bytes memory) {
        return abi.encodeWithSelector(IDisputes.NotSignedBy.selector, operator, accountOf(name));
    }
}
