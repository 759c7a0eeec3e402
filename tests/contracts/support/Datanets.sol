// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Contribution, Review} from "../../../contracts/interfaces/IDatasetRegistry.sol";
import {Market} from "./Market.sol";

/// @notice A market with one datanet and a contributor.
abstract contract Datanets is Market {
    uint64 internal datanetId;
    address internal contributor;

    function setUp() public virtual override {
        super.setUp();
        contributor = accountOf("contributor");
        datanetId = datasets.createDatanet("docstrings", keccak256("description"));
    }

    function contribution(bytes32 contentHash) internal view returns (Contribution memory) {
        return Contribution(datanetId, contentHash, keccak256("folder"), "MIT", 12);
    }

    function contribute(string memory content) internal {
        Contribution memory c = contribution(keccak256(bytes(content)));
        vm.prank(contributor);
        datasets.contribute(c);
    }

    function review(string memory content, bool isAccepted) internal {
        Review[] memory reviews = new Review[](1);
        reviews[0] = Review(keccak256(bytes(content)), isAccepted, isAccepted ? 0 : 7);
        vm.prank(curator);
        datasets.review(datanetId, reviews);
    }

    /// @dev Writes the count into the creator's slot. The mapping follows authority, two EIP-712 slots, number and
    /// nonces.
    function setCount(uint32 count) internal {
        bytes32 slot = keccak256(abi.encode(datanetId, 5));
        uint256 packed = uint256(uint160(datasets.datanetOf(datanetId).creator)) | (uint256(count) << 160);
        vm.store(address(datasets), slot, bytes32(packed));
        vm.assertEq(datasets.datanetOf(datanetId).count, count);
    }

    function structHash(
        address account,
        Contribution memory c,
        uint256 nonce,
        uint256 deadline
    ) internal pure returns (bytes32) {
        bytes32 typehash = keccak256(
            "Contribution(address account,uint64 datanetId,bytes32 contentHash,bytes32 cidDigest,bytes32 licence,"
            "uint32 rows,uint256 nonce,uint256 deadline)"
        );
        return keccak256(abi.encode(typehash, account, c, nonce, deadline));
    }
}
