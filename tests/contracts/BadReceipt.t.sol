// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Fault, IDisputes, ReceiptWitness} from "../../contracts/interfaces/IDisputes.sol";
import {ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {Book, Books, Served} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract BadReceiptTest is Disputed {
    using Books for *;

    uint32 private constant _WHOLE = 1_000_000;

    // --- faults of the receipt itself ---

    function test_a_leaf_whose_value_differs_from_its_charge_convicts(uint256 i, uint256 j, uint128 amount) external {
        Book memory book = validBook();
        (i, j) = (_receipt(book, i), _receipt(book, j));
        vm.assume(i != j);
        book.receipts.shift(i, j, uint128(bound(amount, 1, book.receipts.values[i])));
        commitBook(book);
        ReceiptWitness memory witness = book.witnessOf(i);
        // Only the receipt and its leaf are needed.
        (witness.slices, witness.attribution, witness.parts) = ("", "", book.served[0].parts);
        uint256 before = vm.snapshotState();
        _expectFault(book, i, Fault.Value);
        disputes.proveBadReceipt(book.header, witness, "");
        vm.revertToState(before);
        _expectFault(book, j, Fault.Value);
        disputes.proveBadReceipt(book.header, book.witnessOf(j), "");
        assertVoid(book);
    }

    function test_an_answer_priced_at_zero_convicts(uint256 i) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        uint128 charge = book.served[i].receipt.charge;
        book.served[i].receipt.charge = 0;
        book.fillReceipts();
        book.receipts.values[(i + 1) % 7] += charge;
        commitBook(book);
        _convict(book, i, Fault.ZeroCharge);
    }

    function test_slices_whose_weights_do_not_sum_to_one_convict(uint256 i, uint256 kind) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        Served memory served = book.served[i];
        served.slices = _badSlices(served.slices, kind % 7);
        served.attribution = "";
        served.rehash();
        _commitReceipts(book);
        _convict(book, i, Fault.Slices);
    }

    function test_an_attribution_of_another_number_of_lists_convicts(uint256 i, uint256 kind) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        Served memory served = book.served[i];
        bytes[5] memory wrongs = [
            bytes(""),
            bytes.concat(served.attribution, bytes32(0)),
            bytes.concat(served.attribution, bytes1(0)),
            _cut(served.attribution, 1),
            _cut(served.attribution, 32)
        ];
        served.attribution = wrongs[kind % 5];
        served.rehash();
        _commitReceipts(book);
        _convict(book, i, Fault.Attribution);
    }

    function test_a_version_that_is_not_registered_convicts(uint256 i, uint256 slice) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        slice = bound(slice, 0, book.served[i].parts.length - 1);
        book.served[i].parts[slice].record.name = "unknown";
        book.served[i].repack();
        _commitReceipts(book);
        _convict(book, i, Fault.Version);
    }

    function test_a_version_registered_after_the_commit_convicts(uint32 later) external {
        Book memory book = validBook();
        VersionRecord memory record = book.served[0].parts[0].record;
        record.name = "late";
        book.served[0].repack();
        _commitReceipts(book);
        vm.warp(block.timestamp + 1 + later);
        registerVersion(record);
        _convict(book, 0, Fault.Version);
    }

    function test_a_version_registered_in_the_block_of_the_commit_is_valid() external {
        Book memory book = validBook();
        VersionRecord memory record = book.served[0].parts[0].record;
        record.name = "just-in-time";
        book.served[0].repack();
        _commitReceipts(book);
        registerVersion(record);
        _acquit(book, 0);
    }

    function test_a_malformed_list_convicts(uint256 kind) external {
        Book memory book = validBook();
        // A slice of the version with one snapshot, and one of the version without.
        (uint256 i, uint256 slice) = kind % 10 == 9 ? (0, 0) : (1, 0);
        Served memory served = book.served[i];
        served.parts[slice].list = _badList(kind % 10);
        served.repack();
        _commitReceipts(book);
        _convict(book, i, Fault.List);
    }

    function test_a_charge_off_the_registered_price_convicts(uint256 i, bool isMore, uint128 amount) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        Receipt memory receipt = book.served[i].receipt;
        Receipt memory other = book.served[(i + 1) % 7].receipt;
        amount = uint128(bound(amount, 1, (isMore ? other : receipt).charge - 1));
        if (isMore) (receipt.charge, other.charge) = (receipt.charge + amount, other.charge - amount);
        else (receipt.charge, other.charge) = (receipt.charge - amount, other.charge + amount);
        book.fillReceipts();
        commitBook(book);
        uint256 before = vm.snapshotState();
        _convict(book, i, Fault.Price);
        vm.revertToState(before);
        _convict(book, (i + 1) % 7, Fault.Price);
    }

    // --- position ---

    function test_a_gap_or_an_overlap_convicts(uint256 i, bool isLater, uint128 amount) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        Receipt memory receipt = book.served[i].receipt;
        amount = uint128(bound(amount, 1, type(uint96).max));
        if (isLater) receipt.cumulative += amount;
        else receipt.cumulative = amount > receipt.cumulative ? 0 : receipt.cumulative - amount;
        _commitReceipts(book);
        _convictPlace(book, i);
    }

    function test_a_receipt_of_a_foreign_channel_convicts(uint256 i, bytes32 channelId) external {
        Book memory book = validBook();
        i = _receipt(book, i);
        vm.assume(ChannelId.unwrap(book.served[i].receipt.channelId) != channelId);
        book.served[i].receipt.channelId = ChannelId.wrap(channelId);
        _commitReceipts(book);
        _convictPlace(book, i);
    }

    function test_a_receipt_in_anothers_channel_of_the_batch_convicts() external {
        Book memory book = validBook();
        book.served[0].receipt.channelId = book.served[6].receipt.channelId;
        _commitReceipts(book);
        _convictPlace(book, 0);
    }

    /// @dev A receipt extends into the next channel's span.
    function test_a_receipt_that_straddles_its_spans_end_convicts(uint128 amount) external {
        Book memory book = validBook();
        (Receipt memory last, Receipt memory next) = (book.served[2].receipt, book.served[3].receipt);
        amount = uint128(bound(amount, 1, next.charge - 1));
        (last.charge, last.cumulative) = (last.charge + amount, last.cumulative + amount);
        next.charge -= amount;
        book.fillReceipts();
        commitBook(book);
        uint256 before = vm.snapshotState();
        _convictPlace(book, 2);
        vm.revertToState(before);
        // Its neighbour has the right position but another price.
        _convict(book, 3, Fault.Price);
    }

    function test_a_double_listed_receipt_convicts() external {
        Book memory book = validBook();
        // The second receipt's charge in the first one's channel.
        book.served[1].receipt = book.served[0].receipt;
        _commitReceipts(book);
        _convictPlace(book, 1);
    }

    function test_swapped_receipts_convict() external {
        Book memory book = validBook();
        (book.served[3], book.served[4]) = (book.served[4], book.served[3]);
        _commitReceipts(book);
        uint256 before = vm.snapshotState();
        _convictPlace(book, 3);
        vm.revertToState(before);
        _convictPlace(book, 4);
    }

    function test_a_replayed_receipt_of_an_earlier_batch_convicts() external {
        Book memory book = validBook();
        uint256 i = _firstOf(book, first().served[0].receipt.channelId);
        book.served[i] = first().served[0];
        _commitReceipts(book);
        _convictPlace(book, i);
    }

    function test_a_receipt_within_the_waived_interval_convicts() external {
        Book memory book = validBook();
        book.served[3].receipt.cumulative -= 777;
        _commitReceipts(book);
        _convictPlace(book, 3);
    }

    function test_more_than_the_channel_ever_paid_convicts() external {
        Book memory book = validBook();
        book.served[0].receipt.cumulative = book.served[0].receipt.charge - 1;
        _commitReceipts(book);
        _convictPlace(book, 0);
    }

    // --- valid batches ---

    function test_a_valid_receipt_has_no_fault(uint256 i) external {
        Book memory book = committed();
        _acquit(book, _receipt(book, i));
    }

    function test_a_single_valid_receipt_has_no_fault() external {
        _acquit(first(), 0);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, bool isPlace, uint256 seed) external {
        Book memory book = committed();
        ReceiptWitness memory witness = book.witnessOf(_receipt(book, i));
        bytes memory spans = isPlace ? book.spans : bytes("");
        expectAcquittal(book, abi.encodeCall(IDisputes.proveBadReceipt, (book.header, witness, spans)), seed);
    }

    function test_another_leafs_opening_is_refused(uint256 i, uint256 j) external {
        Book memory book = committed();
        (i, j) = (_receipt(book, i), _receipt(book, j));
        vm.assume(i != j);
        ReceiptWitness memory witness = book.witnessOf(i);
        witness.opening = book.witnessOf(j).opening;
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.proveBadReceipt(book.header, witness, "");
    }

    function test_anything_but_the_preimages_is_refused(uint256 i, uint256 kind) external {
        Book memory book = committed();
        i = _receipt(book, i);
        ReceiptWitness memory witness = book.witnessOf(i);
        uint256 last = witness.parts.length - 1;
        kind %= 4;
        if (kind == 0) witness.slices = bytes.concat(witness.slices, witness.slices);
        if (kind == 1) witness.attribution = _cut(witness.attribution, 1);
        if (kind == 2) witness.parts[last].record.operatorPpm += 1;
        if (kind == 3) witness.parts[last].list = bytes.concat(witness.parts[last].list, bytes8(0));
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        disputes.proveBadReceipt(book.header, witness, "");
    }

    function test_other_spans_are_refused(uint256 at, uint256 i) external {
        Book memory book = committed();
        bytes memory spans = bytes.concat(book.spans);
        at = bound(at, 0, spans.length - 1);
        spans[at] = ~spans[at];
        bytes4 selector = ReceiptRules.WitnessMismatch.selector;
        ReceiptWitness memory witness = book.witnessOf(_receipt(book, i));
        vm.expectRevert(abi.encodeWithSelector(selector, keccak256(book.spans), keccak256(spans)));
        disputes.proveBadReceipt(book.header, witness, spans);
    }

    function test_a_receipt_of_another_batch_is_refused() external {
        Book memory book = committed();
        ReceiptWitness memory witness = first().witnessOf(0);
        vm.expectRevert();
        disputes.proveBadReceipt(book.header, witness, "");
    }

    // --- internal ---

    function _receipt(Book memory book, uint256 i) private pure returns (uint256) {
        return bound(i, 0, book.served.length - 1);
    }

    function _firstOf(Book memory book, ChannelId id) private pure returns (uint256 i) {
        while (ChannelId.unwrap(book.served[i].receipt.channelId) != ChannelId.unwrap(id)) ++i;
    }

    /// @dev Commits the current receipts; the last leaf takes the rest of the total.
    function _commitReceipts(Book memory book) private {
        book.fillReceipts();
        uint128 sum = 0;
        for (uint256 j = 0; j < 6; ++j) {
            sum += book.receipts.values[j];
        }
        book.receipts.values[6] = book.total - sum;
        commitBook(book);
    }

    function _expectFault(Book memory book, uint256 i, Fault fault) private {
        vm.expectEmit(address(disputes));
        emit IDisputes.ReceiptFaulty(Hashing.batch(book.header), uint32(i), fault);
        expectConviction(book, IDisputes.proveBadReceipt.selector);
    }

    function _convict(Book memory book, uint256 i, Fault fault) private {
        ReceiptWitness memory witness = book.witnessOf(i);
        _expectFault(book, i, fault);
        disputes.proveBadReceipt(book.header, witness, "");
        assertVoid(book);
    }

    function _convictPlace(Book memory book, uint256 i) private {
        ReceiptWitness memory witness = book.witnessOf(i);
        _expectFault(book, i, Fault.Place);
        disputes.proveBadReceipt(book.header, witness, book.spans);
        assertVoid(book);
    }

    function _acquit(Book memory book, uint256 i) private {
        ReceiptWitness memory witness = book.witnessOf(i);
        bytes memory none = abi.encodeWithSelector(IDisputes.NoFault.selector);
        vm.expectRevert(none);
        disputes.proveBadReceipt(book.header, witness, "");
        vm.expectRevert(none);
        disputes.proveBadReceipt(book.header, witness, book.spans);
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
