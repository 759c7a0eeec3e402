// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Fault, IDisputes, ReceiptWitness} from "../../contracts/interfaces/IDisputes.sol";
import {ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {BatchData, BatchModel, Served} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract BadReceiptTest is Disputed {
    using BatchModel for *;

    uint32 private constant _WHOLE = 1_000_000;

    // --- faults of the receipt itself ---

    function test_a_leaf_whose_value_differs_from_its_charge_convicts(uint256 i, uint256 j, uint128 amount) external {
        BatchData memory batch = validBatch();
        (i, j) = (_receipt(batch, i), _receipt(batch, j));
        vm.assume(i != j);
        batch.receipts.shift(i, j, uint128(bound(amount, 1, batch.receipts.values[i])));
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(i);
        // Only the receipt and its leaf are needed.
        (witness.slices, witness.attribution, witness.parts) = ("", "", batch.served[0].parts);
        uint256 before = vm.snapshotState();
        _expectFault(batch, i, Fault.Value);
        prover.proveBadReceipt(batch.header, witness, "");
        vm.revertToState(before);
        _expectFault(batch, j, Fault.Value);
        prover.proveBadReceipt(batch.header, batch.witnessOf(j), "");
        assertVoid(batch);
    }

    function test_an_answer_priced_at_zero_convicts(uint256 i) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        uint128 charge = batch.served[i].receipt.charge;
        batch.served[i].receipt.charge = 0;
        batch.fillReceipts();
        batch.receipts.values[(i + 1) % 7] += charge;
        commitBatch(batch);
        _convict(batch, i, Fault.ZeroCharge);
    }

    function test_slices_whose_weights_do_not_sum_to_one_convict(uint256 i, uint256 kind) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        Served memory served = batch.served[i];
        served.slices = _badSlices(served.slices, kind % 7);
        served.attribution = "";
        served.rehash();
        _commitReceipts(batch);
        _convict(batch, i, Fault.Slices);
    }

    /// @dev The batch data can state no other method, so that no other reader could check the receipt.
    function test_a_method_that_no_data_can_state_convicts(uint256 i, uint256 kind, uint8 at) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        Served memory served = batch.served[i];
        bytes1[5] memory wrongs = [bytes1(0x20), bytes1(0x7f), bytes1(0x00), bytes1(0xff), bytes1(0x0a)];
        // The method is `test`.
        served.attribution[at % 3] = wrongs[kind % 5];
        served.rehash();
        _commitReceipts(batch);
        _convict(batch, i, Fault.Attribution);
    }

    function test_a_method_of_any_visible_character_is_valid(uint256 i, uint8 at) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        Served memory served = batch.served[i];
        bytes1[3] memory ends = [bytes1("!"), bytes1("~"), bytes1("-")];
        served.attribution[at % 4] = ends[at % 3];
        served.rehash();
        _commitReceipts(batch);
        _acquit(batch, i);
    }

    function test_an_attribution_of_another_number_of_lists_convicts(uint256 i, uint256 kind) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        Served memory served = batch.served[i];
        bytes[5] memory wrongs = [
            bytes(""),
            bytes.concat(served.attribution, bytes32(0)),
            bytes.concat(served.attribution, bytes1(0)),
            _cut(served.attribution, 1),
            _cut(served.attribution, 32)
        ];
        served.attribution = wrongs[kind % 5];
        served.rehash();
        _commitReceipts(batch);
        _convict(batch, i, Fault.Attribution);
    }

    function test_a_version_that_is_not_registered_convicts(uint256 i, uint256 slice) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        slice = bound(slice, 0, batch.served[i].parts.length - 1);
        batch.served[i].parts[slice].record.name = "unknown";
        batch.served[i].repack();
        _commitReceipts(batch);
        _convict(batch, i, Fault.Version);
    }

    function test_a_version_registered_after_the_commit_convicts(uint32 later) external {
        BatchData memory batch = validBatch();
        VersionRecord memory record = batch.served[0].parts[0].record;
        record.name = "late";
        batch.served[0].repack();
        _commitReceipts(batch);
        vm.warp(block.timestamp + 1 + later);
        registerVersion(record);
        _convict(batch, 0, Fault.Version);
    }

    function test_a_version_registered_in_the_block_of_the_commit_is_valid() external {
        BatchData memory batch = validBatch();
        VersionRecord memory record = batch.served[0].parts[0].record;
        record.name = "just-in-time";
        batch.served[0].repack();
        _commitReceipts(batch);
        registerVersion(record);
        _acquit(batch, 0);
    }

    function test_a_malformed_list_convicts(uint256 kind) external {
        BatchData memory batch = validBatch();
        // A slice of the version with one snapshot, and one of the version without.
        (uint256 i, uint256 slice) = kind % 10 == 9 ? (0, 0) : (1, 0);
        Served memory served = batch.served[i];
        served.parts[slice].list = _badList(kind % 10);
        served.repack();
        _commitReceipts(batch);
        _convict(batch, i, Fault.List);
    }

    function test_a_charge_off_the_registered_price_convicts(uint256 i, bool isMore, uint128 amount) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        Receipt memory receipt = batch.served[i].receipt;
        Receipt memory other = batch.served[(i + 1) % 7].receipt;
        amount = uint128(bound(amount, 1, (isMore ? other : receipt).charge - 1));
        if (isMore) (receipt.charge, other.charge) = (receipt.charge + amount, other.charge - amount);
        else (receipt.charge, other.charge) = (receipt.charge - amount, other.charge + amount);
        batch.fillReceipts();
        commitBatch(batch);
        uint256 before = vm.snapshotState();
        _convict(batch, i, Fault.Price);
        vm.revertToState(before);
        _convict(batch, (i + 1) % 7, Fault.Price);
    }

    // --- position ---

    function test_a_gap_or_an_overlap_convicts(uint256 i, bool isLater, uint128 amount) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        Receipt memory receipt = batch.served[i].receipt;
        amount = uint128(bound(amount, 1, type(uint96).max));
        if (isLater) receipt.cumulative += amount;
        else receipt.cumulative = amount > receipt.cumulative ? 0 : receipt.cumulative - amount;
        _commitReceipts(batch);
        _convictPlace(batch, i);
    }

    function test_a_receipt_of_a_foreign_channel_convicts(uint256 i, bytes32 channelId) external {
        BatchData memory batch = validBatch();
        i = _receipt(batch, i);
        vm.assume(ChannelId.unwrap(batch.served[i].receipt.channelId) != channelId);
        batch.served[i].receipt.channelId = ChannelId.wrap(channelId);
        _commitReceipts(batch);
        _convictPlace(batch, i);
    }

    function test_a_receipt_in_anothers_channel_of_the_batch_convicts() external {
        BatchData memory batch = validBatch();
        batch.served[0].receipt.channelId = batch.served[6].receipt.channelId;
        _commitReceipts(batch);
        _convictPlace(batch, 0);
    }

    /// @dev A receipt extends into the next channel's span.
    function test_a_receipt_that_straddles_its_spans_end_convicts(uint128 amount) external {
        BatchData memory batch = validBatch();
        (Receipt memory last, Receipt memory next) = (batch.served[2].receipt, batch.served[3].receipt);
        amount = uint128(bound(amount, 1, next.charge - 1));
        (last.charge, last.cumulative) = (last.charge + amount, last.cumulative + amount);
        next.charge -= amount;
        batch.fillReceipts();
        commitBatch(batch);
        uint256 before = vm.snapshotState();
        _convictPlace(batch, 2);
        vm.revertToState(before);
        // Its neighbour has the right position but another price.
        _convict(batch, 3, Fault.Price);
    }

    function test_a_double_listed_receipt_convicts() external {
        BatchData memory batch = validBatch();
        // The second receipt's charge in the first one's channel.
        batch.served[1].receipt = batch.served[0].receipt;
        _commitReceipts(batch);
        _convictPlace(batch, 1);
    }

    function test_swapped_receipts_convict() external {
        BatchData memory batch = validBatch();
        (batch.served[3], batch.served[4]) = (batch.served[4], batch.served[3]);
        _commitReceipts(batch);
        uint256 before = vm.snapshotState();
        _convictPlace(batch, 3);
        vm.revertToState(before);
        _convictPlace(batch, 4);
    }

    function test_a_replayed_receipt_of_an_earlier_batch_convicts() external {
        BatchData memory batch = validBatch();
        uint256 i = _firstOf(batch, firstBatch().served[0].receipt.channelId);
        batch.served[i] = firstBatch().served[0];
        _commitReceipts(batch);
        _convictPlace(batch, i);
    }

    function test_a_receipt_within_the_waived_interval_convicts() external {
        BatchData memory batch = validBatch();
        batch.served[3].receipt.cumulative -= 777;
        _commitReceipts(batch);
        _convictPlace(batch, 3);
    }

    function test_more_than_the_channel_ever_paid_convicts() external {
        BatchData memory batch = validBatch();
        batch.served[0].receipt.cumulative = batch.served[0].receipt.charge - 1;
        _commitReceipts(batch);
        _convictPlace(batch, 0);
    }

    // --- valid batches ---

    function test_a_valid_receipt_has_no_fault(uint256 i) external {
        BatchData memory batch = committedBatch();
        _acquit(batch, _receipt(batch, i));
    }

    function test_a_single_valid_receipt_has_no_fault() external {
        _acquit(firstBatch(), 0);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, bool isPlace, uint256 seed) external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = batch.witnessOf(_receipt(batch, i));
        bytes memory spans = isPlace ? batch.spans : bytes("");
        expectAcquittal(batch, abi.encodeCall(IDisputes.proveBadReceipt, (batch.header, witness, spans)), seed);
    }

    function test_another_leafs_opening_is_refused(uint256 i, uint256 j) external {
        BatchData memory batch = committedBatch();
        (i, j) = (_receipt(batch, i), _receipt(batch, j));
        vm.assume(i != j);
        ReceiptWitness memory witness = batch.witnessOf(i);
        witness.opening = batch.witnessOf(j).opening;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveBadReceipt(batch.header, witness, "");
    }

    function test_anything_but_the_preimages_is_refused(uint256 i, uint256 kind) external {
        BatchData memory batch = committedBatch();
        i = _receipt(batch, i);
        ReceiptWitness memory witness = batch.witnessOf(i);
        uint256 last = witness.parts.length - 1;
        kind %= 4;
        if (kind == 0) witness.slices = bytes.concat(witness.slices, witness.slices);
        if (kind == 1) witness.attribution = _cut(witness.attribution, 1);
        if (kind == 2) witness.parts[last].record.operatorPpm += 1;
        if (kind == 3) witness.parts[last].list = bytes.concat(witness.parts[last].list, bytes8(0));
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        prover.proveBadReceipt(batch.header, witness, "");
    }

    function test_other_spans_are_refused(uint256 at, uint256 i) external {
        BatchData memory batch = committedBatch();
        bytes memory spans = bytes.concat(batch.spans);
        at = bound(at, 0, spans.length - 1);
        spans[at] = ~spans[at];
        bytes4 selector = ReceiptRules.WitnessMismatch.selector;
        ReceiptWitness memory witness = batch.witnessOf(_receipt(batch, i));
        vm.expectRevert(abi.encodeWithSelector(selector, keccak256(batch.spans), keccak256(spans)));
        prover.proveBadReceipt(batch.header, witness, spans);
    }

    function test_a_receipt_of_another_batch_is_refused() external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = firstBatch().witnessOf(0);
        vm.expectRevert();
        prover.proveBadReceipt(batch.header, witness, "");
    }

    // --- internal ---

    function _receipt(BatchData memory batch, uint256 i) private pure returns (uint256) {
        return bound(i, 0, batch.served.length - 1);
    }

    function _firstOf(BatchData memory batch, ChannelId id) private pure returns (uint256 i) {
        while (ChannelId.unwrap(batch.served[i].receipt.channelId) != ChannelId.unwrap(id)) ++i;
    }

    /// @dev Commits the current receipts; the last leaf takes the rest of the total.
    function _commitReceipts(BatchData memory batch) private {
        batch.fillReceipts();
        uint128 sum = 0;
        for (uint256 j = 0; j < 6; ++j) {
            sum += batch.receipts.values[j];
        }
        batch.receipts.values[6] = batch.total - sum;
        commitBatch(batch);
    }

    function _expectFault(BatchData memory batch, uint256 i, Fault fault) private {
        vm.expectEmit(address(disputes));
        emit IDisputes.ReceiptFaulty(Hashing.batch(batch.header), uint32(i), fault);
        expectConviction(batch, IDisputes.proveBadReceipt.selector);
    }

    function _convict(BatchData memory batch, uint256 i, Fault fault) private {
        ReceiptWitness memory witness = batch.witnessOf(i);
        _expectFault(batch, i, fault);
        prover.proveBadReceipt(batch.header, witness, "");
        assertVoid(batch);
    }

    function _convictPlace(BatchData memory batch, uint256 i) private {
        ReceiptWitness memory witness = batch.witnessOf(i);
        _expectFault(batch, i, Fault.Place);
        prover.proveBadReceipt(batch.header, witness, batch.spans);
        assertVoid(batch);
    }

    function _acquit(BatchData memory batch, uint256 i) private {
        ReceiptWitness memory witness = batch.witnessOf(i);
        bytes memory none = abi.encodeWithSelector(IDisputes.NoFault.selector);
        vm.expectRevert(none);
        prover.proveBadReceipt(batch.header, witness, "");
        vm.expectRevert(none);
        prover.proveBadReceipt(batch.header, witness, batch.spans);
    }

    function _cut(bytes memory data, uint256 count) private pure returns (bytes memory less) {
        less = bytes.concat(data);
        uint256 length = less.length - count;
        assembly ("memory-safe") {
            mstore(less, length)
        }
    }

    function _badSlices(bytes memory slices, uint256 kind) private pure returns (bytes memory) {
        bytes32 id = keccak256("version");
        bytes memory quarter = abi.encodePacked(id, uint32(250_000));
        if (kind == 0) return "";
        if (kind == 1) return bytes.concat(quarter, quarter, quarter, quarter, abi.encodePacked(id, uint32(0)));
        if (kind == 2) return _cut(slices, 1);
        if (kind == 3) return bytes.concat(slices, bytes1(0));
        if (kind == 4) return abi.encodePacked(id, _WHOLE, id, uint32(0));
        if (kind == 5) return abi.encodePacked(id, _WHOLE - 1);
        return abi.encodePacked(id, _WHOLE, id, uint32(1));
    }

    function _badList(uint256 kind) private pure returns (bytes memory list) {
        uint32 half = 500_000;
        if (kind == 0) return "";
        if (kind == 1) return abi.encodePacked(uint32(0), _WHOLE, uint8(0));
        if (kind == 2) return abi.encodePacked(uint32(0), _WHOLE - 1);
        if (kind == 3) return abi.encodePacked(uint32(0), _WHOLE, uint32(1), uint32(1));
        if (kind == 4) return abi.encodePacked(uint32(1), half, uint32(1), half);
        if (kind == 5) return abi.encodePacked(uint32(1), half, uint32(0), half);
        if (kind == 6) return abi.encodePacked(uint32(0), _WHOLE, uint32(1), uint32(0));
        if (kind == 7) return abi.encodePacked(uint32(0), half, uint32(1 << 24), half);
        if (kind == 9) return abi.encodePacked(uint32(0), _WHOLE);
        for (uint32 i = 0; i < 257; ++i) {
            list = abi.encodePacked(list, i, i == 0 ? _WHOLE - 256 : uint32(1));
        }
    }
}
