// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry, Version, VersionId, VersionRecord} from "./interfaces/IAdapterRegistry.sol";
import {IDatasetRegistry, SnapshotId} from "./interfaces/IDatasetRegistry.sol";
import {IParameters} from "./interfaces/IParameters.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Units} from "./libraries/Units.sol";

/// @title Adapter registry
/// @notice See `IAdapterRegistry`.
contract AdapterRegistry is IAdapterRegistry {
    uint256 private constant _MAX_SNAPSHOTS = 4;

    /// @dev Bit c is set if a name may contain the character c: `-`, `0-9`, `a-z`.
    uint256 private constant _NAME_CHARACTERS = (1 << 0x2d) | (0x3ff << 0x30) | (0x3ffffff << 0x61);

    /// @inheritdoc IAdapterRegistry
    IDatasetRegistry public immutable override datasets;
    /// @inheritdoc IAdapterRegistry
    IParameters public immutable override parameters;

    mapping(VersionId versionId => Version) private _versions;

    constructor(IDatasetRegistry datasets_, IParameters parameters_) {
        datasets = datasets_;
        parameters = parameters_;
    }

    /// @inheritdoc IAdapterRegistry
    function register(VersionRecord memory record) external returns (VersionId versionId) {
        require(msg.sender == record.creator, NotCreator(msg.sender, record.creator));
        versionId = Hashing.versionId(record);
        require(_versions[versionId].registeredAt == 0, VersionAlreadyRegistered(versionId));
        _checkName(record.name);
        _checkContent(record);
        _checkSnapshots(record.snapshots);
        uint32 parameterSet = _checkSplit(record);
        _versions[versionId] = Version(uint64(block.timestamp), parameterSet, false);
        emit VersionRegistered(versionId, record.creator, record.name, record);
    }

    /// @inheritdoc IAdapterRegistry
    function deprecate(VersionRecord memory record) external {
        require(msg.sender == record.creator, NotCreator(msg.sender, record.creator));
        VersionId versionId = Hashing.versionId(record);
        Version storage version = _versions[versionId];
        require(version.registeredAt != 0, VersionUnknown(versionId));
        require(!version.isDeprecated, VersionIsDeprecated(versionId));
        version.isDeprecated = true;
        emit VersionDeprecated(versionId, record.creator);
    }

    /// @inheritdoc IAdapterRegistry
    function versionIdOf(VersionRecord memory record) external pure returns (VersionId) {
        return Hashing.versionId(record);
    }

    /// @inheritdoc IAdapterRegistry
    function versionOf(VersionId versionId) external view returns (Version memory) {
        return _versions[versionId];
    }

    function _checkSnapshots(SnapshotId[] memory snapshots) private view {
        require(snapshots.length <= _MAX_SNAPSHOTS, TooManySnapshots(snapshots.length, _MAX_SNAPSHOTS));
        for (uint256 i = 0; i < snapshots.length; ++i) {
            require(datasets.snapshotOf(snapshots[i]).frozenAt != 0, SnapshotUnknown(snapshots[i]));
            for (uint256 j = 0; j < i; ++j) {
                require(
                    SnapshotId.unwrap(snapshots[i]) != SnapshotId.unwrap(snapshots[j]),
                    SnapshotRepeated(snapshots[i])
                );
            }
        }
    }

    function _checkSplit(VersionRecord memory record) private view returns (uint32 parameterSet) {
        (uint32 id, uint32 minContributors, uint32 minOperator, uint32 maxOperator) = parameters.splitRules();
        (uint32 operatorPpm, uint32 creatorPpm) = (record.operatorPpm, record.creatorPpm);
        uint256 shares = uint256(operatorPpm) + creatorPpm;
        require(shares <= Units.PPM, SharesExceedWhole(operatorPpm, creatorPpm));
        // Base-model and training records have no contributors, and operator and creator are one account.
        if (record.adapterDigest != 0) {
            require(
                operatorPpm >= minOperator && operatorPpm <= maxOperator,
                OperatorShareOutOfRange(operatorPpm, minOperator, maxOperator)
            );
            uint256 contributors = Units.PPM - shares;
            require(contributors >= minContributors, ContributorsShareTooLow(contributors, minContributors));
        }
        return id;
    }

    function _checkContent(VersionRecord memory record) private pure {
        require(record.baseModel != 0, ZeroHash());
        if (record.adapterDigest == 0) {
            require(record.cidDigest == 0 && record.snapshots.length == 0, NotAnAdapter());
        } else {
            require(record.cidDigest != 0, ZeroHash());
        }
    }

    /// @dev A name has 1 to 32 characters of `a-z`, `0-9`, `-`, followed by zeros.
    function _checkName(bytes32 name) private pure {
        uint256 characters = 0;
        for (uint256 rest = uint256(name); rest != 0; rest <<= 8) {
            characters |= 1 << (rest >> 248);
        }
        require(characters != 0 && characters & ~_NAME_CHARACTERS == 0, InvalidName(name));
    }
}
