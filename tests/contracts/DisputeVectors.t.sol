// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {
    BalanceWitness,
    EntryPlace,
    IDisputes,
    Lookup,
    ReceiptWitness,
    SnapshotWitness,
    Tree
} from "../../contracts/interfaces/IDisputes.sol";
import {BatchHeader, Opening, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups, TreeRoot} from "../../contracts/libraries/Lookups.sol";
import {Base} from "./support/Base.sol";

/// @notice Decodes each proof as `Disputes` does, and returns the batch's hash and the re-encoded call.
contract Mirror {
    using Lookups for TreeRoot;

    function proveBadReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata spans
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.proveBadReceipt, (header, witness, spans)));
    }

    function proveBadPosition(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        uint256 slice,
        uint256 item,
        SnapshotWitness calldata snapshot
    ) external pure returns (bytes32, bytes memory) {
        bytes memory again = abi.encodeCall(IDisputes.proveBadPosition, (header, witness, slice, item, snapshot));
        return (Hashing.batch(header), again);
    }

    function proveWrongEntry(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        EntryPlace calldata place,
        Lookup calldata lookup
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.proveWrongEntry, (header, witness, place, lookup)));
    }

    function proveWrongBalance(
        BatchHeader calldata header,
        BalanceWitness calldata witness
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.proveWrongBalance, (header, witness)));
    }

    function proveBelowClaimed(
        BatchHeader calldata header,
        address account,
        Lookup calldata lookup
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.proveBelowClaimed, (header, account, lookup)));
    }

    function proveWrongOrder(
        BatchHeader calldata header,
        Tree tree,
        Lookup calldata leaves
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.proveWrongOrder, (header, tree, leaves)));
    }

    function proveZeroLeaf(
        BatchHeader calldata header,
        Tree tree,
        bytes32 leafHash,
        Opening calldata opening
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.proveZeroLeaf, (header, tree, leafHash, opening)));
    }

    function proveEquivocation(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        Receipt calldata other,
        bytes calldata signature
    ) external pure returns (bytes32, bytes memory) {
        bytes memory again = abi.encodeCall(IDisputes.proveEquivocation, (header, receipt, opening, other, signature));
        return (Hashing.batch(header), again);
    }

    function voidUnanswered(
        BatchHeader calldata header,
        Tree tree,
        bytes32 key
    ) external pure returns (bytes32, bytes memory) {
        return (Hashing.batch(header), abi.encodeCall(IDisputes.voidUnanswered, (header, tree, key)));
    }

    function find(
        TreeRoot calldata tree,
        bytes32 key,
        Lookup calldata lookup
    ) external pure returns (uint128 value, uint128 prefix) {
        TreeRoot memory root = tree;
        return root.find(key, lookup);
    }
}

/// @notice Tests the encodings of disputes against the vectors that the Python tests use too.
contract DisputeVectorsTest is Base {
    Mirror private _mirror = new Mirror();
    string private _json;
    string private _at;

    /// @dev Each kind of case has a distinguishing field.
    modifier forEach(string memory field) {
        _json = vm.readFile("tests/vectors/disputes.json");
        uint256 count = 0;
        for (uint256 i = 0; vm.keyExistsJson(_json, string.concat("$[", _decimal(i), "]")); ++i) {
            _at = string.concat("$[", _decimal(i), "].");
            if (!vm.keyExistsJson(_json, _key(field))) continue;
            _;
            ++count;
        }
        vm.assertTrue(count != 0);
    }

    function test_leaf_ids_agree() external forEach("leafId") {
        bytes32 leafId = keccak256(abi.encode(_bytes32("batchHash"), Tree(_uint("tree")), _bytes32("key")));
        vm.assertEq(leafId, _bytes32("leafId"));
    }

    function test_lookups_agree() external forEach("prefix") {
        TreeRoot memory root = TreeRoot({
            tag: _bytes32("tag"),
            root: _bytes32("root"),
            count: uint32(_uint("count")),
            sum: uint128(_uint("sum"))
        });
        (uint128 value, uint128 prefix) = _mirror.find(root, _bytes32("key"), _lookup());
        vm.assertEq(value, _uint("value"));
        vm.assertEq(prefix, _uint("prefix"));
    }

    function test_calls_are_decoded_as_they_were_encoded() external forEach("data") {
        bytes memory data = vm.parseJsonBytes(_json, _key("data"));
        (bool isRead, bytes memory result) = address(_mirror).staticcall(data);
        vm.assertTrue(isRead);
        (bytes32 batchHash, bytes memory again) = abi.decode(result, (bytes32, bytes));
        vm.assertEq(batchHash, _bytes32("batchHash"));
        vm.assertEq(again, data);
    }

    function _lookup() private view returns (Lookup memory lookup) {
        lookup.keys = vm.parseJsonBytes32Array(_json, _key("keys"));
        uint256[] memory indices = vm.parseJsonUintArray(_json, _key("indices"));
        uint256[] memory values = vm.parseJsonUintArray(_json, _key("values"));
        bytes[] memory paths = vm.parseJsonBytesArray(_json, _key("paths"));
        lookup.openings = new Opening[](indices.length);
        for (uint256 i = 0; i < indices.length; ++i) {
            lookup.openings[i] = Opening(uint32(indices[i]), uint128(values[i]), paths[i]);
        }
    }

    function _uint(string memory field) private view returns (uint256) {
        return vm.parseJsonUint(_json, _key(field));
    }

    function _bytes32(string memory field) private view returns (bytes32) {
        return vm.parseJsonBytes32(_json, _key(field));
    }

    function _key(string memory field) private view returns (string memory) {
        return string.concat(_at, field);
    }

    function _decimal(uint256 value) private pure returns (string memory) {
        if (value < 10) return string(abi.encodePacked(bytes1(uint8(48 + value))));
        return string.concat(_decimal(value / 10), _decimal(value % 10));
    }
}
