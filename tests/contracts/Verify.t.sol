// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {
    BatchHeader,
    Commitment,
    EntryKey,
    ISettlement,
    Opening,
    Receipt
} from "../../contracts/interfaces/ISettlement.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Batches} from "./support/Batches.sol";
import {Tree, Trees} from "./support/Trees.sol";

contract VerifyTest is Batches {
    using Trees for Tree;

    uint128 private constant _CHARGE = 7_000;

    Receipt private _receipt;
    bytes private _signature;
    Tree private _receipts;
    EntryKey private _entry;
    Tree private _entries;
    BatchHeader private _header;

    function setUp() public override {
        super.setUp();
        _receipt = Receipt({
            channelId: channel(),
            cumulative: _CHARGE,
            charge: _CHARGE,
            requestHash: keccak256("request"),
            responseHash: keccak256("response"),
            slicesHash: keccak256("slices"),
            promptTokens: 3,
            completionTokens: 4,
            attributionHash: keccak256("attribution"),
            servedAt: uint64(block.timestamp)
        });
        bytes32 structHash = settlement.hashReceipt(_receipt);
        _signature = sign(keyOf("receipt key"), typedDigest(address(settlement), structHash));
        _receipts = oneLeaf(MerkleSum.RECEIPTS, structHash, _CHARGE);
        _entry = EntryKey(accountOf("contributor"), 0, 0, 3);
        _entries = oneLeaf(MerkleSum.ENTRIES, _key(_entry), _CHARGE);
        _commit();
    }

    function test_a_receipt_in_a_batch_is_verified() external view {
        vm.assertTrue(settlement.verifyReceipt(_header, _receipt, _receipts.open(0), _signature));
    }

    function test_a_receipt_signed_by_an_unregistered_key_is_not_verified() external view {
        bytes32 digest = typedDigest(address(settlement), settlement.hashReceipt(_receipt));
        bytes memory forged = sign(keyOf("unregistered"), digest);
        vm.assertFalse(settlement.verifyReceipt(_header, _receipt, _receipts.open(0), forged));
        forged = malleate(_signature);
        vm.assertFalse(settlement.verifyReceipt(_header, _receipt, _receipts.open(0), forged));
        vm.assertFalse(settlement.verifyReceipt(_header, _receipt, _receipts.open(0), ""));
    }

    function test_a_receipt_signed_by_another_operators_key_is_not_verified() external {
        addReceiptKey(accountOf("other operator"), "other receipt key");
        bytes32 digest = typedDigest(address(settlement), settlement.hashReceipt(_receipt));
        bytes memory foreign = sign(keyOf("other receipt key"), digest);
        vm.assertFalse(settlement.verifyReceipt(_header, _receipt, _receipts.open(0), foreign));
    }

    function test_a_changed_receipt_is_not_verified(uint64 change) external view {
        vm.assume(change != 0);
        Receipt memory receipt = _receipt;
        receipt.servedAt ^= change;
        bytes32 digest = typedDigest(address(settlement), settlement.hashReceipt(receipt));
        bytes memory signature = sign(keyOf("receipt key"), digest);
        vm.assertFalse(settlement.verifyReceipt(_header, receipt, _receipts.open(0), signature));
    }

    function test_an_entry_in_a_batch_is_verified() external view {
        vm.assertTrue(settlement.verifyEntry(_header, _entry, _entries.open(0)));
    }

    function test_another_entry_is_not_verified(uint32 receiptIndex, uint16 slice, uint16 part) external view {
        EntryKey memory key = EntryKey(_entry.account, receiptIndex, slice, part);
        vm.assume(_key(key) != _key(_entry));
        vm.assertFalse(settlement.verifyEntry(_header, key, _entries.open(0)));
    }

    function test_an_entry_with_another_value_is_not_verified(uint128 value) external view {
        vm.assume(value != _CHARGE);
        Opening memory opening = _entries.open(0);
        opening.value = value;
        vm.assertFalse(settlement.verifyEntry(_header, _entry, opening));
    }

    function test_a_batch_that_was_never_committed_reverts() external {
        BatchHeader memory header = _header;
        header.entriesRoot = bytes32(0);
        bytes memory error = abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(header));
        Opening memory opening = _entries.open(0);
        vm.expectRevert(error);
        settlement.verifyEntry(header, _entry, opening);
        vm.expectRevert(error);
        settlement.verifyReceipt(header, _receipt, opening, _signature);
    }

    function test_a_slot_left_stale_by_a_void_verifies_nothing() external {
        bytes memory error = abi.encodeWithSelector(ISettlement.BatchUnknown.selector, settlement.hashBatch(_header));
        (Opening memory entry, Opening memory receipt) = (_entries.open(0), _receipts.open(0));
        voidPending(_header);
        vm.expectRevert(error);
        settlement.verifyEntry(_header, _entry, entry);
        vm.expectRevert(error);
        settlement.verifyReceipt(_header, _receipt, receipt, _signature);
    }

    function _commit() private {
        Commitment memory c = commitmentOf(_CHARGE, oneBalance(_entry.account, _CHARGE));
        c.receiptsRoot = _receipts.rootOf();
        c.entriesRoot = _entries.rootOf();
        _header = commit(c, collections(_CHARGE));
    }

    function _key(EntryKey memory key) private pure returns (bytes32) {
        uint256 tail = (uint256(key.receiptIndex) << 32) | (uint256(key.slice) << 16) | key.part;
        return bytes32((uint256(uint160(key.account)) << 64) | tail);
    }
}
