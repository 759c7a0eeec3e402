// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDatasetRegistry, SnapshotId} from "./IDatasetRegistry.sol";
import {IParameters} from "./IParameters.sol";

/// @notice Identifies an adapter version: `keccak256(abi.encode(record))`.
type VersionId is bytes32;

/// @notice An adapter version as it is sold. Ratios in ppm, prices in token units per million tokens.
/// @param creator Who registers it and earns the creator's part.
/// @param name ASCII, left-aligned, zero-padded: 1 to 32 of `a-z`, `0-9`, `-`. Names are each creator's own; where
/// several records bear one name it means the latest that is not deprecated.
/// @param adapterDigest sha-256 of the adapter's canonical content; zero for a base-model or training record.
/// @param cidDigest Folder of the adapter; zero for a base-model or training record.
/// @param baseModel sha-256 of the base model.
/// @param snapshots What it was trained on, at most four, none for a base-model or training record. A warm start names
/// its parent's too.
/// @param promptPrice For a million prompt tokens.
/// @param completionPrice For a million completion tokens.
/// @param operatorPpm The operator's part of what remains after the protocol fee.
/// @param creatorPpm The creator's part, likewise; the contributors get what remains.
struct VersionRecord {
    address creator;
    bytes32 name;
    bytes32 adapterDigest;
    bytes32 cidDigest;
    bytes32 baseModel;
    SnapshotId[] snapshots;
    uint64 promptPrice;
    uint64 completionPrice;
    uint32 operatorPpm;
    uint32 creatorPpm;
}

/// @notice What the registry keeps of a version.
/// @param registeredAt Instant in seconds; zero if it is not registered.
/// @param parameterSet The set whose rules it was held to.
/// @param isDeprecated Whether its creator advises against it.
struct Version {
    uint64 registeredAt;
    uint32 parameterSet;
    bool isDeprecated;
}

/// @title Adapter registry
/// @notice Records of adapter versions, of base models and of training. A record never changes; its id is its hash, so
/// callers pass the record again where its content is needed. A new price is a new record of the same weights.
///
/// Trust: a creator registers in their own name only. That the weights were trained on the named snapshots is the
/// creator's claim; the chain shows only that the snapshots exist.
interface IAdapterRegistry {
    /// @notice A version is registered.
    event VersionRegistered(
        VersionId indexed versionId,
        address indexed creator,
        bytes32 indexed name,
        VersionRecord record
    );
    /// @notice The creator advises against a version. Royalties earned or yet to be settled are untouched.
    event VersionDeprecated(VersionId indexed versionId, address indexed creator);

    error NotCreator(address caller, address creator);
    error VersionTaken(VersionId versionId);
    error VersionUnknown(VersionId versionId);
    error VersionIsDeprecated(VersionId versionId);
    error InvalidName(bytes32 name);
    error ZeroHash();
    /// @notice A record without adapter digest is a base-model or training record: it has neither folder nor snapshots.
    error NotAnAdapter();
    error TooManySnapshots(uint256 count, uint256 maxCount);
    error SnapshotUnknown(SnapshotId snapshotId);
    error SnapshotRepeated(SnapshotId snapshotId);
    error OperatorShareOutOfRange(uint32 operatorPpm, uint32 min, uint32 max);
    error ContributorsShareTooLow(uint256 contributorsPpm, uint32 min);
    error SharesExceedWhole(uint32 operatorPpm, uint32 creatorPpm);

    /// @notice Registers a version of the caller.
    function register(VersionRecord calldata record) external returns (VersionId);

    /// @notice Marks a version of the caller as deprecated, for good.
    function deprecate(VersionRecord calldata record) external;

    /// @notice Where snapshots are looked up.
    function datasets() external view returns (IDatasetRegistry);

    /// @notice Whose split rules hold at registration.
    function parameters() external view returns (IParameters);

    /// @notice The id of a record, registered or not.
    function versionIdOf(VersionRecord calldata record) external pure returns (VersionId);

    /// @notice The state of a version; all zero if it is not registered.
    function versionOf(VersionId versionId) external view returns (Version memory);
}
