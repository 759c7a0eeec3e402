// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {Opening, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract EquivocationTest is Disputed {
    using BatchModel for *;

    function test_another_receipt_over_the_same_interval_convicts(uint256 i, uint128 begin, uint128 charge) external {
        BatchData memory batch = committedBatch();
        i = bound(i, 0, 6);
        Receipt memory receipt = batch.served[i].receipt;
        // From any start below its end to any end above its start.
        uint128 from = receipt.cumulative - receipt.charge;
        begin = uint128(bound(begin, 0, receipt.cumulative - 1));
        uint128 least = begin < from ? from - begin + 1 : 1;
        charge = uint128(bound(charge, least, type(uint128).max - begin));
        _convict(batch, i, _other(receipt, begin + charge, charge));
    }

    function test_the_same_interval_with_another_content_convicts(bytes32 responseHash) external {
        BatchData memory batch = committedBatch();
        Receipt memory other = _copy(batch.served[2].receipt);
        vm.assume(other.responseHash != responseHash);
        other.responseHash = responseHash;
        _convict(batch, 2, other);
    }

    function test_any_receipt_key_of_the_operator_counts() external {
        addReceiptKey(operator, "second receipt key");
        BatchData memory batch = committedBatch();
        Receipt memory other = _other(batch.served[0].receipt, batch.served[0].receipt.cumulative, 1);
        bytes memory signature = sign(keyOf("second receipt key"), settlement.receiptDigest(other));
        Opening memory opening = batch.open(Tree.Receipts, 0);
        prover.proveEquivocation(batch.header, batch.served[0].receipt, opening, other, signature);
        assertVoid(batch);
    }

    function test_adjacent_intervals_do_not_conflict(uint256 i, uint128 charge) external {
        BatchData memory batch = committedBatch();
        i = bound(i, 0, 6);
        Receipt memory receipt = batch.served[i].receipt;
        uint128 from = receipt.cumulative - receipt.charge;
        charge = uint128(bound(charge, 1, type(uint128).max - receipt.cumulative));
        _expectApart(batch, i, _other(receipt, receipt.cumulative + charge, charge));
        if (from != 0) _expectApart(batch, i, _other(receipt, from, uint128(bound(charge, 1, from))));
    }

    function test_an_empty_interval_conflicts_with_none(uint128 at) external {
        BatchData memory batch = committedBatch();
        Receipt memory receipt = batch.served[4].receipt;
        _expectApart(batch, 4, _other(receipt, at, 0));
        _expectApart(batch, 4, _other(receipt, receipt.cumulative - 1, 0));
    }

    /// @dev A receipt of the batch with zero charge is faulty, but does not conflict.
    function test_a_receipt_of_the_batch_with_zero_charge_conflicts_with_none() external {
        BatchData memory batch = validBatch();
        Receipt memory receipt = batch.served[0].receipt;
        uint128 charge = receipt.charge;
        (receipt.charge, receipt.cumulative) = (0, receipt.cumulative - 1);
        batch.fillReceipts();
        batch.receipts.values[1] += charge;
        commitBatch(batch);
        _expectApart(batch, 0, _other(receipt, receipt.cumulative + 1, charge));
    }

    function test_receipts_of_a_valid_batch_do_not_conflict(uint256 i, uint256 j) external {
        BatchData memory batch = committedBatch();
        (i, j) = (bound(i, 0, 6), bound(j, 0, 6));
        (Receipt memory one, Receipt memory two) = (batch.served[i].receipt, batch.served[j].receipt);
        bytes memory error = abi.encodeWithSelector(
            IDisputes.IntervalsDisjoint.selector,
            one.cumulative - one.charge,
            one.cumulative,
            two.cumulative - two.charge,
            two.cumulative
        );
        bool isSame = ChannelId.unwrap(one.channelId) == ChannelId.unwrap(two.channelId);
        if (!isSame) error = abi.encodeWithSelector(IDisputes.ChannelMismatch.selector);
        if (i == j) error = abi.encodeWithSelector(IDisputes.SameReceipt.selector, Hashing.receipt(one));
        _expectError(batch, i, two, signReceipt(two), error);
    }

    function test_a_signature_by_another_account_is_refused(uint256 key) external {
        BatchData memory batch = committedBatch();
        Receipt memory other = _other(batch.served[0].receipt, batch.served[0].receipt.cumulative, 1);
        key = bound(key, 1, CURVE_ORDER - 1);
        vm.assume(key != keyOf("receipt key"));
        bytes memory error = abi.encodeWithSelector(IDisputes.NotSignedBy.selector, operator, vm.addr(key));
        _expectError(batch, 0, other, sign(key, settlement.receiptDigest(other)), error);
    }

    function test_another_operators_key_is_refused() external {
        addReceiptKey(accountOf("other operator"), "other receipt key");
        BatchData memory batch = committedBatch();
        Receipt memory other = _other(batch.served[0].receipt, batch.served[0].receipt.cumulative, 1);
        bytes memory signature = sign(keyOf("other receipt key"), settlement.receiptDigest(other));
        bytes4 selector = IDisputes.NotSignedBy.selector;
        bytes memory error = abi.encodeWithSelector(selector, operator, accountOf("other receipt key"));
        _expectError(batch, 0, other, signature, error);
    }

    function test_malleable_and_malformed_signatures_are_refused() external {
        BatchData memory batch = committedBatch();
        Receipt memory other = _other(batch.served[0].receipt, batch.served[0].receipt.cumulative, 1);
        bytes memory signature = signReceipt(other);
        bytes memory error = abi.encodeWithSelector(IDisputes.NotSignedBy.selector, operator, address(0));
        _expectError(batch, 0, other, malleate(signature), error);
        _expectError(batch, 0, other, bytes.concat(signature, bytes1(0)), error);
        _expectError(batch, 0, other, "", error);
    }

    function test_a_signature_for_another_contract_or_chain_is_refused() external {
        BatchData memory batch = committedBatch();
        Receipt memory other = _other(batch.served[0].receipt, batch.served[0].receipt.cumulative, 1);
        bytes32 hash = Hashing.receipt(other);
        Opening memory opening = batch.open(Tree.Receipts, 0);
        bytes memory elsewhere = sign(keyOf("receipt key"), typedDigest(address(disputes), hash));
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        prover.proveEquivocation(batch.header, batch.served[0].receipt, opening, other, elsewhere);
        elsewhere = sign(keyOf("receipt key"), typedDigest(block.chainid + 1, address(settlement), hash));
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        prover.proveEquivocation(batch.header, batch.served[0].receipt, opening, other, elsewhere);
    }

    function test_a_receipt_outside_the_batch_convicts_nothing(uint256 i) external {
        BatchData memory batch = committedBatch();
        i = bound(i, 0, 6);
        Receipt memory receipt = _copy(batch.served[i].receipt);
        receipt.servedAt += 1;
        Opening memory opening = batch.open(Tree.Receipts, i);
        Receipt memory other = batch.served[i].receipt;
        bytes memory signature = signReceipt(other);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveEquivocation(batch.header, receipt, opening, other, signature);
    }

    function test_an_interval_below_zero_convicts_nothing(uint128 cumulative) external {
        BatchData memory batch = committedBatch();
        Receipt memory receipt = batch.served[0].receipt;
        cumulative = uint128(bound(cumulative, 0, type(uint128).max - 1));
        Receipt memory other = _other(receipt, cumulative, cumulative + 1);
        bytes memory panic = abi.encodeWithSignature("Panic(uint256)", 0x11);
        _expectError(batch, 0, other, signReceipt(other), panic);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 seed) external {
        BatchData memory batch = committedBatch();
        i = bound(i, 0, 6);
        Opening memory opening = batch.open(Tree.Receipts, i);
        Receipt memory receipt = batch.served[i].receipt;
        bytes memory signature = signReceipt(receipt);
        expectAcquittal(
            batch,
            abi.encodeCall(IDisputes.proveEquivocation, (batch.header, receipt, opening, receipt, signature)),
            seed
        );
    }

    // --- internal ---

    function _copy(Receipt memory receipt) private pure returns (Receipt memory) {
        return abi.decode(abi.encode(receipt), (Receipt));
    }

    function _other(
        Receipt memory receipt,
        uint128 cumulative,
        uint128 charge
    ) private pure returns (Receipt memory other) {
        other = _copy(receipt);
        (other.cumulative, other.charge, other.requestHash) = (cumulative, charge, keccak256("another request"));
    }

    function _convict(BatchData memory batch, uint256 i, Receipt memory other) private {
        bytes memory signature = signReceipt(other);
        Opening memory opening = batch.open(Tree.Receipts, i);
        expectConviction(batch, IDisputes.proveEquivocation.selector);
        prover.proveEquivocation(batch.header, batch.served[i].receipt, opening, other, signature);
        assertVoid(batch);
    }

    function _expectApart(BatchData memory batch, uint256 i, Receipt memory other) private {
        // There is no empty interval below zero.
        Receipt memory receipt = batch.served[i].receipt;
        bytes memory error = abi.encodeWithSelector(
            IDisputes.IntervalsDisjoint.selector,
            receipt.cumulative - receipt.charge,
            receipt.cumulative,
            other.cumulative - other.charge,
            other.cumulative
        );
        _expectError(batch, i, other, signReceipt(other), error);
    }

    function _expectError(
        BatchData memory batch,
        uint256 i,
        Receipt memory other,
        bytes memory signature,
        bytes memory error
    ) private {
        Opening memory opening = batch.open(Tree.Receipts, i);
        vm.expectRevert(error);
        prover.proveEquivocation(batch.header, batch.served[i].receipt, opening, other, signature);
    }
}
