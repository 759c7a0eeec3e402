// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parameters} from "../../../contracts/Parameters.sol";
import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {
    BalanceWitness,
    Demand,
    EntryPlace,
    IDisputes,
    Lookup,
    ReceiptWitness,
    Tree
} from "../../../contracts/interfaces/IDisputes.sol";
import {Opening, Receipt} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {BatchData, BatchModel, Served} from "./BatchModel.sol";
import {PatientParameters} from "./PatientParameters.sol";
import {ValidBatch} from "./ValidBatch.sol";

/// @notice Base of tests that corrupt a part of the valid batch, commit it and dispute it.
abstract contract Disputed is ValidBatch {
    using BatchModel for *;

    /// @dev Bounds of `PatientParameters`.
    uint64 internal constant PERIOD = 10;
    uint64 internal constant PER_ANSWER = 2;
    uint64 internal constant EXTENSION = 20;
    uint256 internal constant BASE_FEE = 7 gwei;

    address internal challenger;

    function setUp() public virtual override {
        super.setUp();
        challenger = accountOf("challenger");
        vm.deal(challenger, 1e9 ether);
        vm.fee(BASE_FEE);
    }

    function newParameters() internal virtual override returns (Parameters) {
        return new PatientParameters(address(access), vault, firstSet());
    }

    // --- an invalid batch ---

    /// @notice Commits a batch with a zero leaf.
    function invalidBatch() internal returns (BatchData memory batch) {
        batch = validBatch();
        batch.balances = batch.balances.insert(0, bytes32(0), 0);
        commitBatch(batch);
    }

    /// @notice Returns the call that convicts `invalidBatch`.
    function proofOf(BatchData memory batch) internal pure returns (bytes memory) {
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.BALANCES, bytes32(0));
        Opening memory opening = batch.open(Tree.Balances, 0);
        return abi.encodeCall(IDisputes.proveZeroLeaf, (batch.header, Tree.Balances, leaf, opening));
    }

    /// @notice Convicts `invalidBatch` as `sender`, who reserved the proof.
    function convict(BatchData memory batch, address sender) internal {
        reserve(batch, sender);
        prove(batch, sender);
    }

    /// @notice Reserves the proof for `sender`, which can send it from now on.
    function reserve(BatchData memory batch, address sender) internal {
        disputes.reserve(keccak256(abi.encode(sender, keccak256(proofOf(batch)))));
        vm.roll(block.number + 1);
    }

    function prove(BatchData memory batch, address sender) internal {
        bytes memory proof = proofOf(batch);
        vm.prank(sender);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
    }

    // --- witnesses ---

    function placeOf(
        BatchData memory batch,
        uint256 i,
        uint256 slice,
        uint256 part
    ) internal view returns (EntryPlace memory place) {
        Served memory served = batch.served[i];
        (place.slice, place.part) = (uint16(slice), uint16(part));
        VersionRecord memory record = served.parts[slice].record;
        if (part < 3 || record.snapshots.length == 0) return place;
        uint256 position = served.parts[slice].list.bytesAt((part - 3) * 8);
        place.snapshot = snapshotBehind[record.snapshots[position >> 24]];
        place.contentHash = contentOf(place.snapshot.datanetId, uint32(position) & 0xffffff);
        return place;
    }

    function keyOfPlace(
        BatchData memory batch,
        uint256 i,
        uint256 slice,
        uint256 part
    ) internal view returns (bytes32) {
        (address account, ) = earningOf(batch.served[i], slice, part);
        return Hashing.entryKey(account, uint32(i), uint16(slice), uint16(part));
    }

    function balanceWitness(
        BatchData memory batch,
        address account
    ) internal pure returns (BalanceWitness memory witness) {
        bytes32 key = Hashing.account(account);
        (witness.account, witness.parent) = (account, batch.parent);
        if (batch.parent.number != 0) witness.earlier = batch.lookUp(Tree.ParentBalances, key);
        witness.later = batch.lookUp(Tree.Balances, key);
        witness.entriesFrom = batch.lookUp(Tree.Entries, bytes32(uint256(key) << 64));
        witness.entriesUntil = batch.lookUp(Tree.Entries, bytes32((uint256(key) + 1) << 64));
    }

    function signReceipt(Receipt memory receipt) internal view returns (bytes memory) {
        return sign(keyOf("receipt key"), settlement.receiptDigest(receipt));
    }

    // --- verdicts ---

    /// @notice Expects that the next call, of the prover, convicts the batch.
    function expectConviction(BatchData memory batch, bytes4 proof) internal {
        expectConviction(batch, proof, address(prover));
    }

    function expectConviction(BatchData memory batch, bytes4 proof, address by) internal {
        vm.expectEmit(address(disputes));
        emit IDisputes.BatchConvicted(operator, batch.header.number, Hashing.batch(batch.header), proof, by);
    }

    function assertVoid(BatchData memory batch) internal view {
        vm.assertFalse(settlement.isPending(batch.header));
        vm.assertEq(settlement.stateOf(operator).last, settlement.stateOf(operator).finalised);
    }

    /// @notice A call of the disputes that must not convict: changed in one to three words behind the header.
    function expectAcquittal(BatchData memory batch, bytes memory call, uint256 seed) internal {
        (bool isHeld, ) = address(prover).call(mutated(call, seed));
        vm.assertFalse(isHeld);
        vm.assertTrue(settlement.isPending(batch.header));
    }

    /// @notice Changes one to three words of a call behind its selector and header: to another word of the call, by
    /// one, or to anything.
    function mutated(bytes memory call, uint256 seed) internal pure returns (bytes memory changed) {
        changed = bytes.concat(call);
        uint256 numWords = (call.length - 4) / 32;
        for (uint256 i = 0; i <= seed % 3; ++i) {
            uint256 draw = uint256(keccak256(abi.encode(seed, i)));
            uint256 at = 36 + 32 * (18 + (uint64(draw) % (numWords - 18)));
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

    /// @notice The challenger demands one leaf.
    function demand(BatchData memory batch, Tree tree, bytes32 key) internal returns (Demand memory) {
        demandMany(batch, tree, oneKey(key));
        return demandOf(batch, tree, key);
    }

    /// @notice The challenger demands leaves and sends their exact bonds.
    function demandMany(BatchData memory batch, Tree tree, bytes32[] memory keys) internal {
        uint256 bonds = bondsOf(tree, keys.length);
        vm.prank(challenger);
        disputes.demand{value: bonds}(batch.header, tree, keys);
    }

    /// @notice The operator answers a demand for entries or balances.
    function answer(BatchData memory batch, Tree tree, bytes32 key) internal {
        Lookup memory lookup = batch.lookUp(tree, key);
        vm.prank(operator);
        disputes.answer(batch.header, tree, key, batch.parent, lookup);
    }

    /// @notice The operator answers a demand for receipt `i`.
    function answerReceipt(BatchData memory batch, uint256 i) internal {
        ReceiptWitness memory witness = batch.witnessOf(i);
        bytes memory signature = signReceipt(witness.receipt);
        vm.prank(operator);
        disputes.answerReceipt(batch.header, witness, signature);
    }

    /// @notice The bonds of further leaves of the operator's batches at the base fee of the tests.
    function bondsOf(Tree tree, uint256 count) internal view returns (uint256) {
        return disputes.bondOf(operator, tree, count, block.basefee);
    }

    function demandOf(BatchData memory batch, Tree tree, bytes32 key) internal view returns (Demand memory) {
        return disputes.demandOf(Hashing.batch(batch.header), tree, key);
    }

    function leafOf(BatchData memory batch, Tree tree, bytes32 key) internal pure returns (bytes32) {
        return keccak256(abi.encode(Hashing.batch(batch.header), tree, key));
    }

    function numOpen(BatchData memory batch) internal view returns (uint32 open) {
        (open, , ) = disputes.demandsOn(Hashing.batch(batch.header));
    }

    /// @notice Time before which the batch is not final.
    function finalityOf(BatchData memory batch) internal view returns (uint64 finality) {
        (, , finality) = disputes.demandsOn(Hashing.batch(batch.header));
        if (finality < batch.header.finalAt) finality = batch.header.finalAt;
    }

    /// @notice Time two answers before which the last further leaf can be demanded.
    function endOfDemandsOn(BatchData memory batch) internal view returns (uint64 end) {
        (, end, ) = disputes.demandsOn(Hashing.batch(batch.header));
        if (end < batch.header.finalAt) end = batch.header.finalAt;
    }

    function oneKey(bytes32 key) internal pure returns (bytes32[] memory keys) {
        keys = new bytes32[](1);
        keys[0] = key;
    }

    /// @notice `count` different keys of absent leaves.
    function absentKeys(uint256 count) internal pure returns (bytes32[] memory keys) {
        keys = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            keys[i] = bytes32(i + 1);
        }
    }
}
