// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {
    Contribution,
    ContributionRecord,
    Datanet,
    IDatasetRegistry,
    Review,
    SharedTerms,
    SignedContent,
    SignedContribution,
    Snapshot,
    SnapshotId
} from "./interfaces/IDatasetRegistry.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @title Dataset registry
/// @notice See `IDatasetRegistry`.
contract DatasetRegistry is IDatasetRegistry, AccessManaged, EIP712 {
    /// @dev Fraud proofs carry the accept bits of a snapshot, which this limits to 32 kB. It is below the 24 bits that
    /// attribution lists have for an index.
    uint32 private constant _MAX_COUNT = 1 << 18;

    /// @inheritdoc IDatasetRegistry
    uint64 public override numDatanets;
    /// @inheritdoc IDatasetRegistry
    mapping(address contributor => uint256 nonce) public override nonces;

    mapping(uint64 datanetId => Datanet) private _datanets;
    mapping(uint64 datanetId => mapping(bytes32 contentHash => ContributionRecord)) private _contributions;
    mapping(uint64 datanetId => mapping(uint256 word => uint256 bits)) private _accepted;
    mapping(SnapshotId snapshotId => Snapshot) private _snapshots;

    /// @notice Starts without datanets.
    /// @param authority The access manager.
    constructor(address authority) AccessManaged(authority) EIP712("loraledger", "1") {}

    // --- contributors ---

    /// @inheritdoc IDatasetRegistry
    function createDatanet(bytes32 name, bytes32 cidDigest) external returns (uint64 datanetId) {
        require(name != 0 && cidDigest != 0, ZeroHash());
        datanetId = ++numDatanets;
        _datanets[datanetId].creator = msg.sender;
        emit DatanetCreated(datanetId, msg.sender, name, cidDigest);
    }

    /// @inheritdoc IDatasetRegistry
    function contribute(Contribution memory contribution) external {
        _record(_contributionsOf(contribution.datanetId), msg.sender, contribution);
    }

    /// @inheritdoc IDatasetRegistry
    function contributeWithSig(SignedContribution calldata signed) external {
        require(block.timestamp <= signed.deadline, SignatureExpired(signed.deadline));
        _useNonces(signed.contributor, signed.nonce, 1);
        Contribution memory contribution = signed.contribution;
        bytes32 structHash = Hashing.contribution(signed.contributor, contribution, signed.nonce, signed.deadline);
        bytes32 digest = _hashTypedDataV4(structHash);
        bool isSigned = Signatures.isValid(signed.contributor, digest, signed.signature);
        require(isSigned, InvalidSignature(signed.contributor));
        _record(_contributionsOf(contribution.datanetId), signed.contributor, contribution);
    }

    /// @inheritdoc IDatasetRegistry
    function contributeManyWithSig(SharedTerms calldata shared, SignedContent[] calldata contents) external {
        address contributor = shared.contributor;
        // An invalid signature recovers to the zero address.
        require(contributor != address(0), InvalidSignature(contributor));
        require(block.timestamp <= shared.deadline, SignatureExpired(shared.deadline));
        _useNonces(contributor, shared.nonce, contents.length);
        mapping(bytes32 contentHash => ContributionRecord) storage records = _contributionsOf(shared.datanetId);
        bytes32 domain = _domainSeparatorV4();
        Contribution memory contribution;
        (contribution.datanetId, contribution.licence) = (shared.datanetId, shared.licence);
        for (uint256 i = 0; i < contents.length; ++i) {
            SignedContent calldata content = contents[i];
            (contribution.contentHash, contribution.cidDigest) = (content.contentHash, content.cidDigest);
            contribution.rows = content.rows;
            bytes32 structHash = Hashing.contribution(contributor, contribution, shared.nonce + i, shared.deadline);
            bytes32 digest = MessageHashUtils.toTypedDataHash(domain, structHash);
            (address signer, , ) = ECDSA.tryRecover(digest, content.r, content.vs);
            require(signer == contributor, InvalidSignature(contributor));
            _record(records, contributor, contribution);
        }
    }

    // --- curators ---

    /// @inheritdoc IDatasetRegistry
    function review(uint64 datanetId, Review[] calldata reviews) external restricted {
        for (uint256 i = 0; i < reviews.length; ++i) {
            _review(datanetId, reviews[i]);
        }
    }

    // --- snapshots ---

    /// @inheritdoc IDatasetRegistry
    function freeze(uint64 datanetId, uint32 count) external returns (SnapshotId snapshotId) {
        bytes memory accepted = _acceptedWords(datanetId, count);
        bytes32 acceptedHash = keccak256(accepted);
        snapshotId = Hashing.snapshotId(datanetId, count, acceptedHash);
        if (_snapshots[snapshotId].frozenAt != 0) return snapshotId;
        _snapshots[snapshotId] = Snapshot(datanetId, count, uint64(block.timestamp));
        emit SnapshotFrozen(snapshotId, datanetId, count, acceptedHash, accepted);
    }

    // --- views ---

    /// @inheritdoc IDatasetRegistry
    function datanetOf(uint64 datanetId) external view returns (Datanet memory) {
        return _datanets[datanetId];
    }

    /// @inheritdoc IDatasetRegistry
    function contributionOf(
        uint64 datanetId,
        bytes32 contentHash
    ) external view returns (ContributionRecord memory) {
        return _contributions[datanetId][contentHash];
    }

    /// @inheritdoc IDatasetRegistry
    function isAccepted(uint64 datanetId, uint32 index) external view returns (bool) {
        return (_accepted[datanetId][index >> 8] >> (index & 0xff)) & 1 == 1;
    }

    /// @inheritdoc IDatasetRegistry
    function snapshotOf(SnapshotId snapshotId) external view returns (Snapshot memory) {
        return _snapshots[snapshotId];
    }

    /// @inheritdoc IDatasetRegistry
    function previewSnapshot(
        uint64 datanetId,
        uint32 count
    ) external view returns (SnapshotId snapshotId, bytes32 acceptedHash) {
        acceptedHash = keccak256(_acceptedWords(datanetId, count));
        snapshotId = Hashing.snapshotId(datanetId, count, acceptedHash);
    }

    // --- internal ---

    function _useNonces(address contributor, uint256 nonce, uint256 count) private {
        uint256 next = nonces[contributor];
        require(nonce == next, InvalidAccountNonce(contributor, next));
        nonces[contributor] = next + count;
    }

    /// @notice Returns the contributions of an existing datanet.
    function _contributionsOf(
        uint64 datanetId
    ) private view returns (mapping(bytes32 contentHash => ContributionRecord) storage) {
        require(_datanets[datanetId].creator != address(0), DatanetUnknown(datanetId));
        return _contributions[datanetId];
    }

    /// @notice Records a contribution.
    /// @param records The contributions of its datanet.
    function _record(
        mapping(bytes32 contentHash => ContributionRecord) storage records,
        address contributor,
        Contribution memory contribution
    ) private {
        (uint64 datanetId, bytes32 contentHash) = (contribution.datanetId, contribution.contentHash);
        bytes32 cidDigest = contribution.cidDigest;
        require(contentHash != 0 && cidDigest != 0, ZeroHash());
        ContributionRecord storage stored = records[contentHash];
        require(stored.contributor == address(0), ContentAlreadyRecorded(datanetId, contentHash));
        stored.contributor = contributor;
        emit ContributionRecorded(
            datanetId,
            contentHash,
            contributor,
            cidDigest,
            contribution.licence,
            contribution.rows
        );
    }

    function _review(uint64 datanetId, Review calldata decision) private {
        ContributionRecord storage stored = _contributions[datanetId][decision.contentHash];
        require(stored.contributor != address(0), ContributionUnknown(datanetId, decision.contentHash));
        if (decision.isAccepted && !stored.isAdmitted) _admit(datanetId, decision.contentHash, stored);
        if (stored.isAdmitted) _setAccepted(datanetId, stored.index, decision.isAccepted);
        emit ContributionReviewed(
            datanetId,
            decision.contentHash,
            msg.sender,
            decision.isAccepted,
            decision.reason
        );
    }

    /// @notice Gives a contribution the next index of its datanet.
    function _admit(uint64 datanetId, bytes32 contentHash, ContributionRecord storage stored) private {
        uint32 index = _datanets[datanetId].count;
        require(index < _MAX_COUNT, DatanetFull(datanetId));
        _datanets[datanetId].count = index + 1;
        (stored.index, stored.isAdmitted) = (index, true);
        emit ContributionAdmitted(datanetId, contentHash, index);
    }

    function _setAccepted(uint64 datanetId, uint32 index, bool isAccepted_) private {
        uint256 bit = 1 << (index & 0xff);
        if (isAccepted_) {
            _accepted[datanetId][index >> 8] |= bit;
        } else {
            _accepted[datanetId][index >> 8] &= ~bit;
        }
    }

    /// @dev Returns the accept bits of the first `count` contributions in 32-byte words; bits from `count` on are zero.
    function _acceptedWords(uint64 datanetId, uint32 count) private view returns (bytes memory) {
        uint32 available = _datanets[datanetId].count;
        require(count != 0 && count <= available, InvalidCount(datanetId, count, available));
        uint256[] memory words = new uint256[]((uint256(count) + 255) >> 8);
        uint256 union = 0;
        for (uint256 i = 0; i < words.length; ++i) {
            words[i] = _accepted[datanetId][i];
            if (i == words.length - 1) words[i] &= type(uint256).max >> ((words.length << 8) - count);
            union |= words[i];
        }
        require(union != 0, NothingAccepted(datanetId, count));
        return abi.encodePacked(words);
    }
}
