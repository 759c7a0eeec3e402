// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @notice Identifies a snapshot: `keccak256(abi.encode(datanetId, count, acceptedHash))`.
type SnapshotId is bytes32;

/// @notice A community data set.
/// @param creator Account that created it.
/// @param count Number of contributions admitted so far.
struct Datanet {
    address creator;
    uint32 count;
}

/// @notice Metadata of an upload; the content is on IPFS.
/// @param datanetId Datanet to which it is contributed.
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

/// @notice A contribution with its contributor's `Contribution` signature, which names the contributor: what the owner
/// of a contract wallet signs for the wallet cannot be recorded for the owner's own account, or another wallet.
struct SignedContribution {
    address contributor;
    Contribution contribution;
    uint256 nonce;
    uint256 deadline;
    bytes signature;
}

/// @notice Fields that all contributions of one relayed batch share, as in `Contribution` and `SignedContribution`.
/// The first contribution is signed with `nonce`, each further one with the next nonce.
struct SharedTerms {
    address contributor;
    uint64 datanetId;
    bytes32 licence;
    uint256 nonce;
    uint256 deadline;
}

/// @notice One contribution of a relayed batch: fields as in `Contribution`, and the contributor's signature as `r` and
/// `vs` (EIP-2098).
struct SignedContent {
    bytes32 contentHash;
    bytes32 cidDigest;
    uint32 rows;
    bytes32 r;
    bytes32 vs;
}

/// @notice The stored state of a contribution.
/// @param contributor Account that earns from it; zero if no contribution has the hash.
/// @param index Index within the datanet, from 0 in order of admission; zero until it is admitted.
/// @param isAdmitted Whether curators ever accepted it.
struct ContributionRecord {
    address contributor;
    uint32 index;
    bool isAdmitted;
}

/// @notice A curator's decision.
/// @param contentHash Content hash of the reviewed contribution.
/// @param isAccepted Whether later snapshots include it.
/// @param reason Reason code, zero for none; see docs/contributing-data.md.
struct Review {
    bytes32 contentHash;
    bool isAccepted;
    uint16 reason;
}

/// @notice The stored state of a snapshot.
/// @param datanetId Datanet of the snapshot; zero if the snapshot does not exist.
/// @param count The snapshot covers the first `count` contributions.
/// @param frozenAt Unix seconds at which it was frozen.
struct Snapshot {
    uint64 datanetId;
    uint32 count;
    uint64 frozenAt;
}

/// @title Dataset registry
/// @notice Stores datanets, their contributions, curators' reviews, and snapshots.
///
/// Anyone may record a contribution. Its first acceptance by a curator admits it to the datanet and gives it the next
/// index, which it keeps if it is rejected later. Snapshots, attribution and earnings know admitted contributions only.
/// A datanet has a limited number of indices, so recording takes none: otherwise anyone could fill it for good.
///
/// A contribution is stored by content hash, in one slot. To look up the contributor at an index, callers pass the
/// hash.
///
/// Trust: anyone may create a datanet and contribute. Curators (a governed role of the access manager) decide what
/// later snapshots include; they can change neither contributors nor existing snapshots.
///
/// The first account to record a content hash is its contributor, so an observer of the mempool can front-run a
/// contribution. A private relay prevents this, and curators reject copies that they detect. A rejected contribution
/// keeps its hash, because earlier snapshots may include it and its contributor must stay provable: the same bytes
/// cannot enter the same datanet again.
interface IDatasetRegistry {
    /// @notice A datanet was created. `cidDigest` is the CID digest of the folder with its description.
    event DatanetCreated(uint64 indexed datanetId, address indexed creator, bytes32 name, bytes32 cidDigest);
    /// @notice A contribution was recorded.
    event ContributionRecorded(
        uint64 indexed datanetId,
        bytes32 indexed contentHash,
        address indexed contributor,
        bytes32 cidDigest,
        bytes32 licence,
        uint32 rows
    );
    /// @notice A contribution was accepted for the first time, and got `index`.
    event ContributionAdmitted(uint64 indexed datanetId, bytes32 indexed contentHash, uint32 index);
    /// @notice A curator reviewed a contribution.
    event ContributionReviewed(
        uint64 indexed datanetId,
        bytes32 indexed contentHash,
        address indexed curator,
        bool isAccepted,
        uint16 reason
    );
    /// @notice A snapshot was frozen. `accepted` contains its accept bits as big-endian 32-byte words.
    event SnapshotFrozen(
        SnapshotId indexed snapshotId,
        uint64 indexed datanetId,
        uint32 count,
        bytes32 acceptedHash,
        bytes accepted
    );

    error ZeroHash();
    error DatanetUnknown(uint64 datanetId);
    /// @notice All indices of the datanet are taken.
    error DatanetFull(uint64 datanetId);
    error ContentAlreadyRecorded(uint64 datanetId, bytes32 contentHash);
    error ContributionUnknown(uint64 datanetId, bytes32 contentHash);
    error InvalidSignature(address signer);
    error InvalidAccountNonce(address account, uint256 currentNonce);
    error SignatureExpired(uint256 deadline);
    error InvalidCount(uint64 datanetId, uint32 count, uint32 available);
    error NothingAccepted(uint64 datanetId, uint32 count);

    /// @notice Creates a datanet; ids count from 1.
    /// @param name ASCII, left-aligned, for display; not unique.
    /// @param cidDigest CID digest of the folder with its description.
    function createDatanet(bytes32 name, bytes32 cidDigest) external returns (uint64 datanetId);

    /// @notice Records a contribution of the caller.
    function contribute(Contribution calldata contribution) external;

    /// @notice Records a contribution that its contributor signed (EOA or EIP-1271). Anyone may relay it.
    function contributeWithSig(SignedContribution calldata signed) external;

    /// @notice Records several contributions of one contributor, which must be an externally owned account. Anyone may
    /// relay them. Reverts if one of them fails.
    function contributeManyWithSig(SharedTerms calldata shared, SignedContent[] calldata contents) external;

    /// @notice Accepts or rejects contributions of a datanet, in this order. The first acceptance admits a
    /// contribution. A later review replaces an earlier one. Only curators.
    function review(uint64 datanetId, Review[] calldata reviews) external;

    /// @notice Freezes the first `count` admitted contributions with their current accept bits. Anyone may call it. If
    /// the same snapshot exists, nothing changes and no event is emitted. At least one contribution must be accepted.
    function freeze(uint64 datanetId, uint32 count) external returns (SnapshotId);

    /// @notice Returns the state of a datanet; all zero if it does not exist.
    function datanetOf(uint64 datanetId) external view returns (Datanet memory);

    /// @notice Returns the nonce that the next signed contribution of `contributor` must carry.
    function nonces(address contributor) external view returns (uint256);

    /// @notice Returns the number of datanets.
    function numDatanets() external view returns (uint64);

    /// @notice Returns the contribution with a content hash; all zero if there is none.
    function contributionOf(uint64 datanetId, bytes32 contentHash) external view returns (ContributionRecord memory);

    /// @notice Returns whether the admitted contribution at `index` is currently accepted.
    function isAccepted(uint64 datanetId, uint32 index) external view returns (bool);

    /// @notice Returns the state of a snapshot; all zero if it does not exist.
    function snapshotOf(SnapshotId snapshotId) external view returns (Snapshot memory);

    /// @notice Returns the snapshot that `freeze` would create in the current block.
    function previewSnapshot(
        uint64 datanetId,
        uint32 count
    ) external view returns (SnapshotId snapshotId, bytes32 acceptedHash);
}
