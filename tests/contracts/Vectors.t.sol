// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionId, VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {Contribution, SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {ChannelId, ChannelMove, SessionGrant} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, EntryKey, Opening, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../contracts/libraries/MerkleSum.sol";
import {Parts, Split} from "../../contracts/libraries/Split.sol";
import {Base} from "./support/Base.sol";

/// @notice Passes calldata to the libraries.
contract Libraries {
    function versionId(VersionRecord calldata record) external pure returns (VersionId) {
        return Hashing.versionId(record);
    }

    function contribution(
        address account,
        Contribution calldata content,
        uint256 nonce,
        uint256 until
    ) external pure returns (bytes32) {
        return Hashing.contribution(account, content, nonce, until);
    }

    function sessionGrant(
        ChannelId channel,
        SessionGrant calldata grant,
        uint256 nonce
    ) external pure returns (bytes32) {
        return Hashing.sessionGrant(channel, grant, nonce);
    }

    function channelMove(address payer, address operator, ChannelMove calldata move) external pure returns (bytes32) {
        return Hashing.channelMove(payer, operator, move);
    }

    function receipt(Receipt calldata r) external pure returns (bytes32) {
        return Hashing.receipt(r);
    }

    function entry(EntryKey calldata key) external pure returns (bytes32) {
        return Hashing.entry(key);
    }

    function open(
        bytes32 leaf,
        uint32 count,
        Opening calldata opening
    ) external pure returns (bytes32 root, uint128 sum, uint128 prefix) {
        return MerkleSum.open(leaf, count, opening);
    }

    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) external pure returns (uint128) {
        return Split.contributorPart(contributors, list, j);
    }
}

/// @notice Tests the contracts' hashes and arithmetic against the vectors that the Python tests use too.
contract VectorsTest is Base {
    Libraries private _lib = new Libraries();
    string private _json;
    string private _at;

    modifier forEach(string memory name) {
        _json = vm.readFile(string.concat("tests/vectors/", name, ".json"));
        uint256 count = 0;
        while (vm.keyExistsJson(_json, string.concat("$[", _decimal(count), "]"))) {
            _at = string.concat("$[", _decimal(count), "].");
            _;
            ++count;
        }
        vm.assertTrue(count != 0);
    }

    function test_channel_ids_agree() external forEach("channels") {
        ChannelId id = Hashing.channelId(_address("payer"), _address("operator"), _address("collector"));
        vm.assertEq(ChannelId.unwrap(id), _bytes32("channelId"));
    }

    function test_version_ids_agree() external forEach("versions") {
        vm.assertEq(VersionId.unwrap(_lib.versionId(_record())), _bytes32("versionId"));
    }

    function test_snapshot_ids_agree() external forEach("snapshots") {
        bytes32 acceptedHash = keccak256(vm.parseJsonBytes(_json, _key("accepted")));
        vm.assertEq(acceptedHash, _bytes32("acceptedHash"));
        SnapshotId id = Hashing.snapshotId(uint64(_uint("datanetId")), uint32(_uint("count")), acceptedHash);
        vm.assertEq(SnapshotId.unwrap(id), _bytes32("snapshotId"));
    }

    function test_voucher_digests_agree() external forEach("vouchers") {
        bytes32 hash = Hashing.voucher(_channelId(), uint128(_uint("from")), uint128(_uint("maxCumulative")));
        vm.assertEq(_digest(hash), _bytes32("digest"));
    }

    function test_session_grant_digests_agree() external forEach("grants") {
        vm.assertEq(_digest(_lib.sessionGrant(_channelId(), _grant(), _uint("nonce"))), _bytes32("digest"));
    }

    function test_channel_move_digests_agree() external forEach("moves") {
        ChannelMove memory move = ChannelMove({
            collector: _address("collector"),
            newCollector: _address("newCollector"),
            maxAmount: uint128(_uint("maxAmount")),
            grant: _grant(),
            nonce: _uint("nonce"),
            deadline: _uint("deadline")
        });
        bytes32 hash = _lib.channelMove(_address("payer"), _address("operator"), move);
        vm.assertEq(_digest(hash), _bytes32("digest"));
    }

    function test_session_revocation_digests_agree() external forEach("revocations") {
        bytes32 hash = Hashing.sessionRevocation(_channelId(), _address("key"), _uint("nonce"));
        vm.assertEq(_digest(hash), _bytes32("digest"));
    }

    function test_contribution_digests_agree() external forEach("contributions") {
        Contribution memory content = Contribution({
            datanetId: uint64(_uint("datanetId")),
            contentHash: _bytes32("contentHash"),
            cidDigest: _bytes32("cidDigest"),
            licence: _bytes32("licence"),
            rows: uint32(_uint("rows"))
        });
        bytes32 hash = _lib.contribution(_address("account"), content, _uint("nonce"), _uint("deadline"));
        vm.assertEq(_digest(hash), _bytes32("digest"));
    }

    function test_payout_change_digests_agree() external forEach("payouts") {
        bytes32 hash = Hashing.payoutChange(
            _address("account"),
            _address("newWallet"),
            _uint("nonce"),
            _uint("deadline")
        );
        vm.assertEq(_digest(hash), _bytes32("digest"));
    }

    function test_receipt_key_digests_agree() external forEach("receipt_keys") {
        vm.assertEq(_digest(Hashing.receiptKey(_address("operator"))), _bytes32("digest"));
    }

    function test_receipt_ids_and_digests_agree() external forEach("receipts") {
        Receipt memory receipt = Receipt({
            channelId: _channelId(),
            cumulative: uint128(_uint("cumulative")),
            charge: uint128(_uint("charge")),
            requestHash: _bytes32("requestHash"),
            responseHash: _bytes32("responseHash"),
            slicesHash: _bytes32("slicesHash"),
            promptTokens: uint32(_uint("promptTokens")),
            completionTokens: uint32(_uint("completionTokens")),
            attributionHash: _bytes32("attributionHash"),
            servedAt: uint64(_uint("servedAt"))
        });
        bytes32 hash = _lib.receipt(receipt);
        vm.assertEq(hash, _bytes32("receiptId"));
        vm.assertEq(_digest(hash), _bytes32("digest"));
    }

    function test_slices_and_attributions_agree() external forEach("attributions") {
        bytes32[] memory ids = vm.parseJsonBytes32Array(_json, _key("versionIds"));
        uint256[] memory weights = vm.parseJsonUintArray(_json, _key("weightsPpm"));
        bytes[] memory lists = vm.parseJsonBytesArray(_json, _key("lists"));
        bytes memory slices;
        bytes memory attribution = abi.encodePacked(_bytes32("method"));
        for (uint256 i = 0; i < ids.length; ++i) {
            slices = abi.encodePacked(slices, ids[i], uint32(weights[i]));
            attribution = abi.encodePacked(attribution, keccak256(lists[i]));
        }
        vm.assertEq(keccak256(slices), _bytes32("slicesHash"));
        vm.assertEq(keccak256(attribution), _bytes32("attributionHash"));
    }

    function test_openings_agree() external forEach("openings") {
        bytes32 leaf = MerkleSum.leafHash(_bytes32("tag"), _bytes32("key"));
        Opening memory opening = Opening({
            index: uint32(_uint("index")),
            value: uint128(_uint("value")),
            path: vm.parseJsonBytes(_json, _key("path"))
        });
        (bytes32 root, uint128 sum, uint128 prefix) = _lib.open(leaf, uint32(_uint("count")), opening);
        vm.assertEq(root, _bytes32("root"));
        vm.assertEq(sum, _uint("sum"));
        vm.assertEq(prefix, _uint("prefix"));
    }

    function test_batch_hashes_agree() external forEach("batches") {
        BatchHeader memory header = _header();
        bytes memory spans = vm.parseJsonBytes(_json, _key("spans"));
        vm.assertEq(keccak256(spans), header.spansHash);
        vm.assertEq(Hashing.batch(header), _bytes32("batchHash"));
    }

    function test_charges_agree() external forEach("charges") {
        uint128 charge = Split.sliceCharge(
            uint32(_uint("weightPpm")),
            uint32(_uint("promptTokens")),
            uint32(_uint("completionTokens")),
            uint64(_uint("promptPrice")),
            uint64(_uint("completionPrice"))
        );
        vm.assertEq(charge, _uint("charge"));
    }

    function test_splits_agree() external forEach("splits") {
        Parts memory parts = Split.partsOf(
            uint128(_uint("charge")),
            uint32(_uint("feePpm")),
            uint32(_uint("operatorPpm")),
            uint32(_uint("creatorPpm"))
        );
        vm.assertEq(parts.fee, _uint("fee"));
        vm.assertEq(parts.operator, _uint("operator"));
        vm.assertEq(parts.creator, _uint("creator"));
        vm.assertEq(parts.contributors, _uint("contributors"));
        bytes memory list = vm.parseJsonBytes(_json, _key("list"));
        uint256[] memory shares = vm.parseJsonUintArray(_json, _key("parts"));
        for (uint256 j = 0; j < shares.length; ++j) {
            vm.assertEq(_lib.contributorPart(parts.contributors, list, j), shares[j]);
        }
    }

    function test_tags_are_the_named_hashes() external pure {
        vm.assertEq(MerkleSum.RECEIPTS, keccak256("loraledger.receipts"));
        vm.assertEq(MerkleSum.ENTRIES, keccak256("loraledger.entries"));
        vm.assertEq(MerkleSum.BALANCES, keccak256("loraledger.balances"));
    }

    function test_an_entry_key_fills_its_fields(address account, uint32 receipt, uint16 slice, uint16 part) external view {
        uint256 key = uint256(_lib.entry(EntryKey(account, receipt, slice, part)));
        vm.assertEq(key >> 64, uint160(account));
        vm.assertEq((key >> 32) & type(uint32).max, receipt);
        vm.assertEq((key >> 16) & type(uint16).max, slice);
        vm.assertEq(key & type(uint16).max, part);
    }

    function _record() private view returns (VersionRecord memory record) {
        record.creator = _address("creator");
        record.name = _bytes32("name");
        record.adapterDigest = _bytes32("adapterDigest");
        record.cidDigest = _bytes32("cidDigest");
        record.baseModel = _bytes32("baseModel");
        bytes32[] memory ids = vm.parseJsonBytes32Array(_json, _key("snapshots"));
        record.snapshots = new SnapshotId[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            record.snapshots[i] = SnapshotId.wrap(ids[i]);
        }
        record.promptPrice = uint64(_uint("promptPrice"));
        record.completionPrice = uint64(_uint("completionPrice"));
        record.operatorPpm = uint32(_uint("operatorPpm"));
        record.creatorPpm = uint32(_uint("creatorPpm"));
    }

    function _header() private view returns (BatchHeader memory header) {
        header.operator = _address("operator");
        header.number = uint64(_uint("number"));
        header.parent = _bytes32("parent");
        header.parameterSet = uint32(_uint("parameterSet"));
        header.committedAt = uint64(_uint("committedAt"));
        header.finalAt = uint64(_uint("finalAt"));
        header.finalBlock = uint64(_uint("finalBlock"));
        header.total = uint128(_uint("total"));
        header.cumulativeTotal = uint128(_uint("cumulativeTotal"));
        header.slashUpTo = uint128(_uint("slashUpTo"));
        header.spansHash = _bytes32("spansHash");
        header.receiptsRoot = _bytes32("receiptsRoot");
        header.receiptsCount = uint32(_uint("receiptsCount"));
        header.entriesRoot = _bytes32("entriesRoot");
        header.entriesCount = uint32(_uint("entriesCount"));
        header.balancesRoot = _bytes32("balancesRoot");
        header.balancesCount = uint32(_uint("balancesCount"));
        header.dataDigest = _bytes32("dataDigest");
    }

    function _grant() private view returns (SessionGrant memory) {
        return SessionGrant(_address("key"), uint128(_uint("cap")), uint64(_uint("expiry")));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return typedDigest(_uint("chainId"), _address("contract"), structHash);
    }

    function _channelId() private view returns (ChannelId) {
        return ChannelId.wrap(_bytes32("channelId"));
    }

    function _uint(string memory field) private view returns (uint256) {
        return vm.parseJsonUint(_json, _key(field));
    }

    function _bytes32(string memory field) private view returns (bytes32) {
        return vm.parseJsonBytes32(_json, _key(field));
    }

    function _address(string memory field) private view returns (address) {
        return vm.parseJsonAddress(_json, _key(field));
    }

    function _key(string memory field) private view returns (string memory) {
        return string.concat(_at, field);
    }

    function _decimal(uint256 value) private pure returns (string memory) {
        if (value < 10) return string(abi.encodePacked(bytes1(uint8(48 + value))));
        return string.concat(_decimal(value / 10), _decimal(value % 10));
    }
}
