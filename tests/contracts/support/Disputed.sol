// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {BalanceWitness, Demand, EntryPlace, IDisputes, Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {Receipt} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {Book, Books, Served} from "./Books.sol";
import {ValidBatch} from "./ValidBatch.sol";

/// @notice Base of tests that corrupt a part of the valid batch, commit it and dispute it.
abstract contract Disputed is ValidBatch {
    using Books for *;

    /// @dev Time limit of an answer.
    uint64 internal constant PERIOD = DISPUTE_WINDOW / 8;
    uint256 internal constant BOND = 10_000;

    address internal challenger;

    function setUp() public virtual override {
        super.setUp();
        challenger = who("challenger");
    }

    // --- an invalid batch ---

    /// @notice Commits a batch with a zero leaf.
    function wrong() internal returns (Book memory book) {
        book = validBook();
        book.balances = book.balances.insert(0, bytes32(0), 0);
        commitBook(book);
    }

    /// @notice Returns the call that convicts the batch of `wrong`.
    function proofOf(Book memory book) internal pure returns (bytes memory) {
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.BALANCES, bytes32(0));
        return abi.encodeCall(IDisputes.proveZeroLeaf, (book.header, Tree.Balances, leaf, book.open(Tree.Balances, 0)));
    }

    /// @notice Convicts the batch of `wrong` as `sender`.
    function convict(Book memory book, address sender) internal {
        bytes memory proof = proofOf(book);
        vm.prank(sender);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
    }

    // --- witnesses ---

    function placeOf(
        Book memory book,
        uint256 i,
        uint256 slice,
        uint256 part
    ) internal view returns (EntryPlace memory place) {
        Served memory served = book.served[i];
        (place.slice, place.part) = (uint16(slice), uint16(part));
        VersionRecord memory record = served.parts[slice].record;
        if (part < 3 || record.snapshots.length == 0) return place;
        uint256 position = served.parts[slice].list.bytesAt((part - 3) * 8);
        place.snapshot = snapshotBehind[record.snapshots[position >> 24]];
        place.contentHash = contentOf(place.snapshot.datanetId, uint32(position) & 0xffffff);
        return place;
    }

    function keyOfPlace(Book memory book, uint256 i, uint256 slice, uint256 part) internal view returns (bytes32) {
        (address account, ) = earned(book.served[i], slice, part);
        return Hashing.entryKey(account, uint32(i), uint16(slice), uint16(part));
    }

    function balanceWitness(Book memory book, address account) internal pure returns (BalanceWitness memory witness) {
        bytes32 key = Hashing.account(account);
        (witness.account, witness.parent) = (account, book.parent);
        if (book.parent.number != 0) witness.earlier = book.look(Tree.ParentBalances, key);
        witness.later = book.look(Tree.Balances, key);
        witness.entriesFrom = book.look(Tree.Entries, bytes32(uint256(key) << 64));
        witness.entriesUntil = book.look(Tree.Entries, bytes32((uint256(key) + 1) << 64));
    }

    function signed(Receipt memory receipt) internal view returns (bytes memory) {
        return sign(keyOf("receipt key"), settlement.receiptDigest(receipt));
    }

    // --- verdicts ---

    /// @notice Expects that the next call convicts the batch without a reservation.
    function expectConviction(Book memory book, bytes4 proof) internal {
        expectConviction(book, proof, address(0));
    }

    function expectConviction(Book memory book, bytes4 proof, address by) internal {
        vm.expectEmit(address(disputes));
        emit IDisputes.BatchConvicted(operator, book.header.number, Hashing.batch(book.header), proof, by);
    }

    function assertVoid(Book memory book) internal view {
        vm.assertFalse(settlement.isPending(book.header));
        vm.assertEq(settlement.stateOf(operator).last, book.header.number - 1);
    }

    /// @notice A call of the disputes that must not convict: changed in one to three words behind the header.
    function expectAcquittal(Book memory book, bytes memory call, uint256 seed) internal {
        (bool isHeld, ) = address(disputes).call(mutated(call, seed));
        vm.assertFalse(isHeld);
        vm.assertTrue(settlement.isPending(book.header));
    }

    /// @notice Changes one to three words of a call behind its selector and header: to another word of the call, by
    /// one, or to anything.
    function mutated(bytes memory call, uint256 seed) internal pure returns (bytes memory changed) {
        changed = bytes.concat(call);
        uint256 numWords = (call.length - 4) / 32;
        for (uint256 i = 0; i <= seed % 3; ++i) {
            uint256 draw = uint256(keccak256(abi.encode(seed, i)));
            uint256 at = 36 + 32 * (16 + (uint64(draw) % (numWords - 16)));
            uint256 other = 36 + 32 * (uint64(draw >> 64) % numWords);
            uint256 kind = (draw >> 128) % 4;
            assembly ("memory-safe") {
                let word := add(changed, at)
                switch kind
                case 0 {
                    mstore(word, mload(add(changed, other)))
                }
                case 1 {
                    mstore(word, add(mload(word), 1))
                }
                case 2 {
                    mstore(word, sub(mload(word), 1))
                }
                default {
                    mstore(word, draw)
                }
            }
        }
    }

    // --- demands ---

    /// @notice A demand of the challenger, as it would be made now.
    function demandOf(Book memory book, Tree tree, bytes32[] memory keys) internal view returns (Demand memory) {
        uint64 deadline = uint64(block.timestamp) + PERIOD;
        return Demand(Hashing.batch(book.header), tree, keys, challenger, deadline, BOND);
    }

    function demand(Book memory book, Tree tree, bytes32[] memory keys) internal returns (Demand memory asked) {
        asked = demandOf(book, tree, keys);
        fundChallenger(keys.length * BOND);
        vm.prank(challenger);
        disputes.demand(book.header, tree, keys);
    }

    function fundChallenger(uint256 units) internal {
        usd.mint(challenger, units);
        vm.prank(challenger);
        usd.approve(address(disputes), units);
    }

    function oneKey(bytes32 key) internal pure returns (bytes32[] memory keys) {
        keys = new bytes32[](1);
        keys[0] = key;
    }

    function idOf(Demand memory asked) internal pure returns (bytes32) {
        return keccak256(abi.encode(asked));
    }
}
