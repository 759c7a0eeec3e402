// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @notice Identifies a snapshot: `keccak256(abi.encode(datanetId, count, acceptedHash))`.
type SnapshotId is bytes32;

/// @notice A community data set.
/// @param creator Who created it.
/// @param count Number of contributions recorded so far.
struct Datanet {
    address creator;
    uint32 count;
}

/// @notice What a contributor uploads; the bytes themselves are on IPFS.
/// @param datanetId Where it goes.
/// @param contentHash sha-256 of the canonical bytes; unique within the datanet.
/// @param cidDigest sha-256 digest of the CIDv1 of its folder.
/// @param licence SPDX expression in ASCII, left-aligned; its `keccak256` if longer than 32 bytes.
/// @param rows Number of rows.
struct Contribution {
    uint64 datanetId;
    bytes32 contentHash;
    bytes32 cidDigest;
    bytes32 licence;
    uint32 rows;
}

/// @notice A contribution with its contributor's `Contribution` signature.
struct SignedContribution {
    address contributor;
    Contribution contribution;
    uint256 nonce;
    uint256 deadline;
    bytes signature;
}

/// @notice What the contributions of one relayed batch have in common. Fields as in `Contribution` and
/// `SignedContribution`; `nonce` is the first one's, each further one signed the next.
struct SharedTerms {
    address contributor;
    uint64 datanetId;
    bytes32 licence;
    uint256 nonce;
    uint256 deadline;
}

/// @notice One contribution of a relayed batch. Fields as in `Contribution`, and the contributor's signature as
/// `r` and `vs` (EIP-2098).
struct SignedContent {
    bytes32 contentHash;
    bytes32 cidDigest;
    uint32 rows;
    bytes32 r;
    bytes32 vs;
}

/// @notice What the registry keeps of a contribution.
/// @param contributor Who earns for it; zero if there is none with that hash.
/// @param index Its place in the datanet, from 0.
/// @param recordedAt Instant in seconds.
struct ContributionRecord {
    address contributor;
    uint32 index;
    uint64 recordedAt;
}

/// @notice A curator's decision.
/// @param contentHash Which contribution.
/// @param isAccepted Whether later snapshots contain it.
/// @param reason Machine-readable code, zero for none; listed in the documentation of contributions.
struct Review {
    bytes32 contentHash;
    bool isAccepted;
    uint16 reason;
}

/// @notice What the registry keeps of a snapshot.
/// @param datanetId Whose contributions; zero if there is no such snapshot.
/// @param count It spans the first `count` contributions.
/// @param frozenAt Instant in seconds.
struct Snapshot {
    uint64 datanetId;
    uint32 count;
    uint64 frozenAt;
}

/// @title Dataset registry
/// @notice Datanets, their contributions in order of recording, curators' decisions, and snapshots.
///
/// A contribution is kept under its content hash, in one slot; whoever needs the contributor at an index passes the
/// hash.
///
/// Trust: anyone may create a datanet and contribute. Curators (a role of the access manager, governed) decide what
/// later snapshots contain; they change neither contributors nor snapshots that exist.
///
/// The first to record a content hash is its contributor: whoever sees it in the mempool can record it first, by a
/// transaction of its own. A contributor who minds sends through a private relay; curators reject whom they find to
/// have copied. A rejected contribution keeps its hash, as earlier snapshots may contain it and its contributor must
/// stay provable: the same bytes do not enter the same datanet again.
interface IDatasetRegistry {
    /// @notice Datanet `datanetId` exists. `cidDigest` is the folder with its description.
    event DatanetCreated(uint64 indexed datanetId, address indexed creator, bytes32 name, bytes32 cidDigest);
    /// @notice A contribution was recorded.
    event ContributionRecorded(
        uint64 indexed datanetId,
        uint32 index,
        address indexed contributor,
        bytes32 contentHash,
        bytes32 cidDigest,
        bytes32 licence,
        uint32 rows
    );
    /// @notice A curator decided.
    event ContributionReviewed(
        uint64 indexed datanetId,
        uint32 indexed index,
        address indexed curator,
        bool isAccepted,
        uint16 reason
    );
    /// @notice A snapshot exists. `accepted` are the words of its accept bits, big-endian.
    event SnapshotFrozen(
        SnapshotId indexed snapshotId,
        uint64 indexed datanetId,
        uint32 count,
        bytes32 acceptedHash,
        bytes accepted
    );

    error ZeroHash();
    error DatanetUnknown(uint64 datanetId);
    error DatanetFull(uint64 datanetId);
    error ContentTaken(uint64 datanetId, bytes32 contentHash, uint32 index);
    error ContributionUnknown(uint64 datanetId, bytes32 contentHash);
    error InvalidSignature(address signer);
    error InvalidAccountNonce(address account, uint256 currentNonce);
    error SignatureExpired(uint256 deadline);
    error InvalidCount(uint64 datanetId, uint32 count, uint32 available);
    error NothingAccepted(uint64 datanetId, uint32 count);

    /// @notice Creates a datanet; ids count from 1.
    /// @param name ASCII, left-aligned, for display; not unique.
    /// @param cidDigest Folder with its description.
    function createDatanet(bytes32 name, bytes32 cidDigest) external returns (uint64 datanetId);

    /// @notice Records a contribution of the caller.
    function contribute(Contribution calldata contribution) external returns (uint32 index);

    /// @notice Records a contribution by its contributor's signature (EOA or EIP-1271); anyone may relay it.
    function contributeWithSig(SignedContribution calldata signed) external returns (uint32 index);

    /// @notice As `contributeWithSig`, many of one contributor, which must be an externally owned account; one that
    /// fails reverts all.
    function contributeManyWithSig(SharedTerms calldata shared, SignedContent[] calldata contents) external;

    /// @notice Decides on contributions of a datanet. Only curators. A later decision replaces an earlier one.
    function review(uint64 datanetId, Review[] calldata reviews) external;

    /// @notice Freezes the first `count` contributions with their accept bits as they stand. Anyone may; freezing the
    /// same again changes nothing and emits nothing. At least one contribution must be accepted.
    function freeze(uint64 datanetId, uint32 count) external returns (SnapshotId);

    /// @notice The state of a datanet; all zero if there is none.
    function datanetOf(uint64 datanetId) external view returns (Datanet memory);

    /// @notice The nonce of the next contribution that `contributor` signs.
    function nonces(address contributor) external view returns (uint256);

    /// @notice Number of datanets.
    function numDatanets() external view returns (uint64);

    /// @notice The contribution with that content; all zero if there is none.
    function contributionOf(uint64 datanetId, bytes32 contentHash) external view returns (ContributionRecord memory);

    /// @notice Whether curators accept the contribution at `index` at present.
    function isAccepted(uint64 datanetId, uint32 index) external view returns (bool);

    /// @notice The snapshot with that id; all zero if there is none.
    function snapshotOf(SnapshotId snapshotId) external view returns (Snapshot memory);

    /// @notice What `freeze` would freeze now.
    function previewSnapshot(
        uint64 datanetId,
        uint32 count
    ) external view returns (SnapshotId snapshotId, bytes32 acceptedHash);
}
