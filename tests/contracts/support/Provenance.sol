// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {Contribution, Review, SnapshotId} from "../../../contracts/interfaces/IDatasetRegistry.sol";
import {SnapshotWitness} from "../../../contracts/interfaces/IDisputes.sol";
import {Batches} from "./Batches.sol";
import {BatchModel, Part} from "./BatchModel.sol";

/// @notice Two snapshots and four versions: a base model, one trained on the first, one on both, one without snapshots.
abstract contract Provenance is Batches {
    using BatchModel for bytes;

    uint32 internal constant WHOLE = 1_000_000;

    VersionRecord[4] internal versions;
    SnapshotId[2] internal snapshots;
    mapping(SnapshotId id => SnapshotWitness) internal snapshotBehind;

    function setUp() public virtual override {
        super.setUp();
        (snapshots[0], snapshots[1]) = (makeSnapshot(5, 2), makeSnapshot(3, 1));
        _registerVersions();
    }

    /// @dev Five accounts, so that some positions share an account.
    function contributorOf(uint64 datanetId, uint32 index) internal returns (address) {
        return accountOf(_contributorName(datanetId, index));
    }

    function contentOf(uint64 datanetId, uint32 index) internal pure returns (bytes32) {
        return keccak256(abi.encode("content", datanetId, index));
    }

    function contribute(uint64 datanetId, uint32 index) internal returns (bytes32 content) {
        content = contentOf(datanetId, index);
        Contribution memory c = Contribution(datanetId, content, keccak256("folder"), "MIT", 1);
        vm.prank(contributorOf(datanetId, index));
        datasets.contribute(c);
    }

    /// @notice Freezes a new datanet of `count` contributions, of which all but `rejected` are accepted. All are
    /// admitted, in order.
    function makeSnapshot(uint32 count, uint32 rejected) internal returns (SnapshotId id) {
        uint64 datanetId = datasets.createDatanet("data", keccak256("description"));
        Review[] memory reviews = new Review[](count + 1);
        for (uint32 i = 0; i < count; ++i) {
            reviews[i] = Review(contribute(datanetId, i), true, 0);
        }
        reviews[count] = Review(contentOf(datanetId, rejected), false, 1);
        vm.prank(curator);
        datasets.review(datanetId, reviews);
        id = datasets.freeze(datanetId, count);
        snapshotBehind[id] = SnapshotWitness(datanetId, count, _words(count, rejected));
    }

    function registerVersion(VersionRecord memory record) internal {
        vm.prank(record.creator);
        adapters.register(record);
    }

    /// @notice Blends `count` versions from index `first` on; `isOther` selects the second list of each version.
    function blend(uint256 first, uint256 count, bool isOther) internal view returns (Part[] memory parts) {
        parts = new Part[](count);
        uint32 left = WHOLE;
        for (uint256 i = 0; i < count; ++i) {
            uint256 number = (first + i) % versions.length;
            uint32 weight = i + 1 == count ? left : uint32(WHOLE / (count + 1) + 7 * i);
            left -= weight;
            parts[i] = Part(versions[number], weight, _listOf(number, isOther));
        }
    }

    function contributorAt(VersionRecord memory record, bytes memory list, uint256 j) internal view returns (address) {
        uint256 position = list.bytesAt(j * 8);
        uint64 datanetId = snapshotBehind[record.snapshots[position >> 24]].datanetId;
        return vm.addr(keyOf(_contributorName(datanetId, uint32(position) & 0xffffff)));
    }

    // --- internal ---

    function _registerVersions() private {
        for (uint256 i = 0; i < versions.length; ++i) {
            VersionRecord memory record;
            (record.creator, record.baseModel) = (accountOf(i < 2 ? "creator" : "other creator"), keccak256("base"));
            record.name = i == 0 ? bytes32("base") : bytes32("tuned");
            if (i != 0) (record.adapterDigest, record.cidDigest) = (keccak256(abi.encode(i)), keccak256("folder"));
            record.snapshots = new SnapshotId[](i < 3 ? i : 0);
            for (uint256 j = 0; j < record.snapshots.length; ++j) {
                record.snapshots[j] = snapshots[j];
            }
            (record.promptPrice, record.completionPrice) = (uint64(300_001 + 1_000 * i), uint64(900_007 + i));
            (record.operatorPpm, record.creatorPpm) = (uint32(200_000 + 33 * i), uint32(100_003 * i));
            versions[i] = record;
            registerVersion(record);
        }
    }

    function _contributorName(uint64 datanetId, uint32 index) private pure returns (string memory) {
        return string(abi.encodePacked("contributor ", bytes1(uint8(48 + ((datanetId + index) % 5)))));
    }

    function _words(uint32 count, uint32 rejected) private pure returns (bytes memory words) {
        for (uint32 first = 0; first < count; first += 256) {
            uint256 word = count - first < 256 ? (1 << (count - first)) - 1 : type(uint256).max;
            if (rejected >= first && rejected < first + 256) word &= ~(1 << (rejected - first));
            words = abi.encodePacked(words, word);
        }
    }

    function _listOf(uint256 version, bool isOther) private pure returns (bytes memory) {
        if (version % 3 == 0) return "";
        if (version == 1) {
            if (isOther) return abi.encodePacked(uint32(3), WHOLE);
            return abi.encodePacked(uint32(0), uint32(400_000), uint32(1), uint32(400_000), uint32(4), uint32(200_000));
        }
        uint32 second = 1 << 24;
        if (isOther) return abi.encodePacked(second, uint32(1), second + 2, WHOLE - 1);
        return abi.encodePacked(uint32(0), uint32(333_333), uint32(3), uint32(1), second, uint32(666_666));
    }
}
