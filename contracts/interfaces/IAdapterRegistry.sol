// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDatasetRegistry, SnapshotId} from "./IDatasetRegistry.sol";
import {IParameters} from "./IParameters.sol";

/// @notice Identifies an adapter version: `keccak256(abi.encode(record))`.
type VersionId is bytes32;

/// @notice The terms on which an adapter version is sold. Ratios in ppm, prices in token units per million tokens.
/// @param creator Account that registers the version and earns the creator's share.
/// @param name 1 to 32 characters of `a-z`, `0-9`, `-` in ASCII, left-aligned and zero-padded. Each creator has a
/// separate namespace. A name that several records share refers to the latest one that is not deprecated.
/// @param adapterDigest sha-256 of the adapter's canonical content; zero for a base-model or training record.
/// @param cidDigest CID digest of the adapter's folder; zero for a base-model or training record.
/// @param baseModel sha-256 of the base model.
/// @param snapshots Snapshots that the adapter was trained on: at most four, none for a base-model or training record.
/// An adapter trained from a warm start also names the snapshots of its parent.
/// @param promptPrice Price of a million prompt tokens.
/// @param completionPrice Price of a million completion tokens.
/// @param operatorPpm The operator's share of the charge after the protocol fee.
/// @param creatorPpm The creator's share of the same amount; the contributors earn the remainder.
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

/// @notice The stored state of a version.
/// @param registeredAt Unix seconds of the registration; zero if the version is not registered.
/// @param parameterSet Id of the parameter set whose split rules the record was checked against.
/// @param isDeprecated Whether the creator deprecated the version.
struct Version {
    uint64 registeredAt;
    uint32 parameterSet;
    bool isDeprecated;
}

/// @title Adapter registry
/// @notice Registers adapter versions, base models and training records. A record is immutable and its id is its hash,
/// so callers pass the record again where its content is needed. A new price is a new record of the same weights.
///
/// Trust: an account registers records under its own name only. The contract checks that the named snapshots exist;
/// that the weights were trained on them is the creator's claim.
interface IAdapterRegistry {
    /// @notice A version was registered.
    event VersionRegistered(
        VersionId indexed versionId,
        address indexed creator,
        bytes32 indexed name,
        VersionRecord record
    );
    /// @notice The creator deprecated a version. Royalties, both settled and not yet settled, are unaffected.
    event VersionDeprecated(VersionId indexed versionId, address indexed creator);

    error NotCreator(address caller, address creator);
    error VersionAlreadyRegistered(VersionId versionId);
    error VersionUnknown(VersionId versionId);
    error VersionIsDeprecated(VersionId versionId);
    error InvalidName(bytes32 name);
    error ZeroHash();
    /// @notice The record names a folder or snapshots without an adapter digest. Base-model and training records have
    /// neither.
    error NotAnAdapter();
    error TooManySnapshots(uint256 count, uint256 maxCount);
    error SnapshotUnknown(SnapshotId snapshotId);
    error SnapshotRepeated(SnapshotId snapshotId);
    error OperatorShareOutOfRange(uint32 operatorPpm, uint32 min, uint32 max);
    error ContributorsShareTooLow(uint256 contributorsPpm, uint32 min);
    error SharesExceedWhole(uint32 operatorPpm, uint32 creatorPpm);

    /// @notice Registers a version. Only `record.creator`.
    function register(VersionRecord calldata record) external returns (VersionId);

    /// @notice Deprecates a version permanently. Only `record.creator`.
    function deprecate(VersionRecord calldata record) external;

    /// @notice The registry in which snapshots are looked up.
    function datasets() external view returns (IDatasetRegistry);

    /// @notice The source of the split rules that registration enforces.
    function parameters() external view returns (IParameters);

    /// @notice Returns the id of a record, whether or not it is registered.
    function versionIdOf(VersionRecord calldata record) external pure returns (VersionId);

    /// @notice Returns the state of a version; all zero if it is not registered.
    function versionOf(VersionId versionId) external view returns (Version memory);
}
