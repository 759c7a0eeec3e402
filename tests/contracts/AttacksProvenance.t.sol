// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry, VersionId, VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {Contribution, IDatasetRegistry, SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {EntryPlace, IDisputes, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

/// @notice Attacks on provenance. The chain cannot compare contents, but it makes copies visible, preserves the first
/// record, and checks every receipt against the records.
contract AttacksProvenanceTest is Disputed {
    using BatchModel for *;

    function test_copied_data_under_another_wallet_is_refused(address copier) external {
        uint64 datanetId = snapshotBehind[snapshots[0]].datanetId;
        vm.assume(copier != address(0));
        bytes32 content = contentOf(datanetId, 0);
        Contribution memory copy = Contribution(datanetId, content, keccak256("another folder"), "MIT", 9);
        bytes4 selector = IDatasetRegistry.ContentAlreadyRecorded.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, datanetId, content));
        vm.prank(copier);
        datasets.contribute(copy);
        vm.assertEq(datasets.contributionOf(datanetId, content).contributor, contributorOf(datanetId, 0));
    }

    /// @dev An entry for the copier instead of the registered contributor is wrong.
    function test_copied_data_under_another_wallet_earns_nothing() external {
        BatchData memory batch = validBatch();
        uint256 at = batch.entries.placeOf(bytes32(uint256(uint160(contributorOf(1, 0))) << 64));
        bytes32 key = batch.entries.keys[at];
        bytes32 copied = bytes32((uint256(uint160(accountOf("copier"))) << 64) | uint64(uint256(key)));
        uint128 value = batch.entries.values[at];
        batch.entries = batch.entries.remove(at);
        batch.entries = batch.entries.insert(batch.entries.placeOf(copied), copied, value);
        batch.fillBalances();
        commitBatch(batch);
        _convictEntry(batch, key);
        assertVoid(batch);
    }

    /// @dev The copy is a separate record: it gets neither the id, nor the royalties, nor the earlier date of the
    /// original, and its digest shows whose weights it has.
    function test_a_copied_adapter_leaves_the_original_its_id_and_date(address copier) external {
        VersionRecord memory original = versions[1];
        vm.assume(copier != original.creator && copier != address(0));
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.NotCreator.selector, copier, original.creator));
        vm.prank(copier);
        adapters.register(original);
        VersionId id = Hashing.versionId(original);
        VersionRecord memory copy = versions[1];
        copy.creator = copier;
        vm.warp(block.timestamp + 1);
        registerVersion(copy);
        VersionId copied = Hashing.versionId(copy);
        vm.assertNotEq(VersionId.unwrap(id), VersionId.unwrap(copied));
        vm.assertEq(copy.adapterDigest, original.adapterDigest);
        vm.assertTrue(adapters.versionOf(id).registeredAt < adapters.versionOf(copied).registeredAt);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.NotCreator.selector, copier, original.creator));
        vm.prank(copier);
        adapters.deprecate(original);
    }

    /// @dev The chain cannot detect perturbed weights, but they bring no gain: a version without snapshots pays the
    /// contributors' part to the treasury, not to its creator.
    function test_a_perturbed_adapter_without_snapshots_does_not_keep_the_contributors_part() external {
        VersionRecord memory perturbed = versions[1];
        (perturbed.creator, perturbed.adapterDigest) = (accountOf("copier"), keccak256("perturbed"));
        perturbed.snapshots = new SnapshotId[](0);
        (perturbed.operatorPpm, perturbed.creatorPpm) = (200_000, 600_001);
        bytes4 selector = IAdapterRegistry.ContributorsShareTooLow.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, 199_999, 200_000));
        vm.prank(perturbed.creator);
        adapters.register(perturbed);
        perturbed.creatorPpm = 600_000;
        registerVersion(perturbed);
    }

    /// @dev A version pays only the snapshots in its record: a receipt of the warm start that claims to pay the
    /// parents' contributors is faulty, so that the record shows that their snapshots were dropped.
    function test_a_warm_start_dropping_its_parents_cannot_claim_to_pay_them() external {
        VersionRecord memory warm = versions[2];
        (warm.name, warm.adapterDigest) = ("warm", keccak256("warm"));
        warm.snapshots = new SnapshotId[](1);
        warm.snapshots[0] = snapshots[1];
        registerVersion(warm);
        BatchData memory batch = validBatch();
        batch.served[6].parts[0].record = warm;
        // The parent's snapshot would be the record's second.
        batch.served[6].parts[0].list = abi.encodePacked(uint32(0), uint32(1), uint32(1 << 24), uint32(999_999));
        batch.served[6].repack();
        batch.fillReceipts();
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(6);
        expectConviction(batch, IDisputes.proveBadReceipt.selector);
        prover.proveBadReceipt(batch.header, witness, "");
        assertVoid(batch);
    }

    // --- internal ---

    function _convictEntry(BatchData memory batch, bytes32 key) private {
        uint256 word = uint256(key);
        uint32 i = uint32(word >> 32);
        ReceiptWitness memory witness = batch.witnessOf(i);
        EntryPlace memory place = placeOf(batch, i, uint16(word >> 16), uint16(word));
        prover.proveWrongEntry(batch.header, witness, place, batch.lookUp(Tree.Entries, key));
    }
}
