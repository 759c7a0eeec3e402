// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry, Version, VersionId, VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Datanets} from "./support/Datanets.sol";

contract RegisterTest is Datanets {
    address private _creator;
    SnapshotId private _snapshot;

    function setUp() public override {
        super.setUp();
        _creator = accountOf("creator");
        contribute("a");
        review("a", true);
        _snapshot = datasets.freeze(datanetId, 1);
    }

    function test_the_id_is_the_records_hash(uint64 promptPrice, uint64 completionPrice) external {
        VersionRecord memory record = _record();
        (record.promptPrice, record.completionPrice) = (promptPrice, completionPrice);
        VersionId expected = VersionId.wrap(keccak256(abi.encode(record)));
        vm.expectEmit(address(adapters));
        emit IAdapterRegistry.VersionRegistered(expected, _creator, record.name, record);
        vm.prank(_creator);
        VersionId id = adapters.register(record);
        vm.assertEq(VersionId.unwrap(id), VersionId.unwrap(expected));
        vm.assertEq(VersionId.unwrap(adapters.versionIdOf(record)), VersionId.unwrap(expected));
        Version memory version = adapters.versionOf(id);
        vm.assertEq(version.registeredAt, block.timestamp);
        vm.assertEq(version.parameterSet, 0);
        vm.assertFalse(version.isDeprecated);
    }

    function test_a_record_is_registered_once_and_by_its_creator() external {
        VersionRecord memory record = _record();
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.NotCreator.selector, address(this), _creator));
        adapters.register(record);
        VersionId id = _register(record);
        _expectError(record, abi.encodeWithSelector(IAdapterRegistry.VersionAlreadyRegistered.selector, id));
    }

    function test_a_new_price_is_a_new_record_of_the_same_name() external {
        VersionRecord memory record = _record();
        VersionId first = _register(record);
        ++record.promptPrice;
        VersionId second = _register(record);
        vm.assertNotEq(VersionId.unwrap(first), VersionId.unwrap(second));
    }

    function test_names_are_short_lower_case_words(bytes32 name) external {
        VersionRecord memory record = _record();
        record.name = name;
        if (_isName(name)) {
            _register(record);
        } else {
            _expectError(record, abi.encodeWithSelector(IAdapterRegistry.InvalidName.selector, name));
        }
    }

    function test_named_examples() external {
        string[5] memory good = ["a", "z-9", "-", "docstrings-of-numpy", "abcdefghijklmnopqrstuvwxyz012345"];
        string[5] memory bad = ["", "A", "a b", "a_b", "caf\xc3\xa9"];
        VersionRecord memory record = _record();
        for (uint256 i = 0; i < 5; ++i) {
            record.name = bytes32(bytes(good[i]));
            _register(record);
            record.name = bytes32(bytes(bad[i]));
            _expectError(record, abi.encodeWithSelector(IAdapterRegistry.InvalidName.selector, record.name));
        }
        record.name = hex"610061";
        _expectError(record, abi.encodeWithSelector(IAdapterRegistry.InvalidName.selector, record.name));
    }

    function test_the_split_must_satisfy_the_rules(uint32 operatorPpm, uint32 creatorPpm) external {
        operatorPpm = uint32(bound(operatorPpm, 0, 1_100_000));
        creatorPpm = uint32(bound(creatorPpm, 0, 1_100_000));
        VersionRecord memory record = _record();
        (record.operatorPpm, record.creatorPpm) = (operatorPpm, creatorPpm);
        bytes memory error = _splitError(operatorPpm, creatorPpm);
        if (error.length == 0) _register(record);
        else _expectError(record, error);
    }

    /// @dev The operator of a base model is its creator, and no contributor has a share.
    function test_the_rules_of_shares_do_not_bind_a_base_model_record(uint32 operatorPpm) external {
        VersionRecord memory record = _record();
        (record.adapterDigest, record.cidDigest) = (0, 0);
        record.snapshots = new SnapshotId[](0);
        (record.operatorPpm, record.creatorPpm) = (operatorPpm, 0);
        if (operatorPpm <= 1_000_000) record.creatorPpm = 1_000_000 - operatorPpm;
        bytes memory error = abi.encodeWithSelector(IAdapterRegistry.SharesExceedWhole.selector, operatorPpm, 0);
        if (operatorPpm <= 1_000_000) _register(record);
        else _expectError(record, error);
    }

    function test_an_adapter_without_snapshot_still_leaves_their_share() external {
        VersionRecord memory record = _record();
        record.snapshots = new SnapshotId[](0);
        (record.operatorPpm, record.creatorPpm) = (400_000, 400_001);
        _expectError(
            record,
            abi.encodeWithSelector(IAdapterRegistry.ContributorsShareTooLow.selector, 199_999, 200_000)
        );
        record.creatorPpm = 400_000;
        _register(record);
    }

    function test_the_split_rules_at_registration_apply() external {
        setSplitRules(0, 0, 1_000_000);
        VersionRecord memory record = _record();
        (record.operatorPpm, record.creatorPpm) = (1_000_000, 0);
        vm.assertEq(adapters.versionOf(_register(record)).parameterSet, 1);
    }

    function test_a_record_without_adapter_has_neither_folder_nor_snapshots() external {
        bytes memory error = abi.encodeWithSelector(IAdapterRegistry.NotAnAdapter.selector);
        VersionRecord memory record = _record();
        record.adapterDigest = 0;
        _expectError(record, error);
        record.cidDigest = 0;
        _expectError(record, error);
        record = _record();
        record.cidDigest = 0;
        _expectError(record, abi.encodeWithSelector(IAdapterRegistry.ZeroHash.selector));
        record = _record();
        record.baseModel = 0;
        _expectError(record, abi.encodeWithSelector(IAdapterRegistry.ZeroHash.selector));
    }

    function test_snapshots_exist_and_differ_and_are_at_most_four() external {
        VersionRecord memory record = _record();
        record.snapshots = new SnapshotId[](2);
        (record.snapshots[0], record.snapshots[1]) = (_snapshot, _snapshot);
        _expectError(record, abi.encodeWithSelector(IAdapterRegistry.SnapshotRepeated.selector, _snapshot));
        record.snapshots[1] = SnapshotId.wrap(keccak256("none"));
        _expectError(
            record,
            abi.encodeWithSelector(IAdapterRegistry.SnapshotUnknown.selector, record.snapshots[1])
        );
        record.snapshots = new SnapshotId[](5);
        _expectError(record, abi.encodeWithSelector(IAdapterRegistry.TooManySnapshots.selector, 5, 4));
    }

    // --- deprecation ---

    function test_a_creator_deprecates_once() external {
        VersionRecord memory record = _record();
        VersionId id = adapters.versionIdOf(record);
        _expectDeprecateError(record, abi.encodeWithSelector(IAdapterRegistry.VersionUnknown.selector, id));
        _register(record);
        vm.expectEmit(address(adapters));
        emit IAdapterRegistry.VersionDeprecated(id, _creator);
        vm.prank(_creator);
        adapters.deprecate(record);
        vm.assertTrue(adapters.versionOf(id).isDeprecated);
        vm.assertTrue(adapters.versionOf(id).registeredAt != 0);
        _expectDeprecateError(record, abi.encodeWithSelector(IAdapterRegistry.VersionIsDeprecated.selector, id));
    }

    function test_only_the_creator_deprecates(address caller) external {
        vm.assume(caller != _creator);
        VersionRecord memory record = _record();
        _register(record);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.NotCreator.selector, caller, _creator));
        vm.prank(caller);
        adapters.deprecate(record);
    }

    function _record() private view returns (VersionRecord memory record) {
        record.creator = _creator;
        record.name = "docstrings";
        record.adapterDigest = keccak256("adapter");
        record.cidDigest = keccak256("folder");
        record.baseModel = keccak256("base model");
        record.snapshots = new SnapshotId[](1);
        record.snapshots[0] = _snapshot;
        (record.promptPrice, record.completionPrice) = (1_000_000, 2_000_000);
        (record.operatorPpm, record.creatorPpm) = (200_000, 300_000);
    }

    function _register(VersionRecord memory record) private returns (VersionId) {
        vm.prank(_creator);
        return adapters.register(record);
    }

    function _expectError(VersionRecord memory record, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(_creator);
        adapters.register(record);
    }

    function _expectDeprecateError(VersionRecord memory record, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(_creator);
        adapters.deprecate(record);
    }

    function _splitError(uint32 operatorPpm, uint32 creatorPpm) private pure returns (bytes memory) {
        uint256 given = uint256(operatorPpm) + creatorPpm;
        if (given > 1_000_000) {
            return abi.encodeWithSelector(IAdapterRegistry.SharesExceedWhole.selector, operatorPpm, creatorPpm);
        }
        if (operatorPpm < 100_000 || operatorPpm > 600_000) {
            bytes4 selector = IAdapterRegistry.OperatorShareOutOfRange.selector;
            return abi.encodeWithSelector(selector, operatorPpm, 100_000, 600_000);
        }
        if (given > 800_000) {
            bytes4 selector = IAdapterRegistry.ContributorsShareTooLow.selector;
            return abi.encodeWithSelector(selector, 1_000_000 - given, 200_000);
        }
        return "";
    }

    function _isName(bytes32 name) private pure returns (bool) {
        bool hasEnded = false;
        for (uint256 i = 0; i < 32; ++i) {
            bytes1 c = name[i];
            hasEnded = hasEnded || c == 0;
            if (hasEnded && c != 0) return false;
            bool isAllowed = c == "-" || (c >= "a" && c <= "z") || (c >= "0" && c <= "9");
            if (!hasEnded && !isAllowed) return false;
        }
        return name[0] != 0;
    }
}
