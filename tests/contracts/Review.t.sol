// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {ContributionRecord, IDatasetRegistry, Review} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Datanets} from "./support/Datanets.sol";

contract ReviewTest is Datanets {
    function test_the_latest_review_counts(uint8 decisions) external {
        contribute("a");
        contribute("b");
        review("a", true);
        review("b", true);
        for (uint256 i = 0; i < 8; ++i) {
            bool isAccepted = (decisions >> i) & 1 == 1;
            vm.expectEmit(address(datasets));
            emit IDatasetRegistry.ContributionReviewed(
                datanetId,
                keccak256("b"),
                curator,
                isAccepted,
                isAccepted ? 0 : 7
            );
            review("b", isAccepted);
            vm.assertEq(datasets.isAccepted(datanetId, 1), isAccepted);
        }
        vm.assertTrue(datasets.isAccepted(datanetId, 0));
        vm.assertEq(datasets.datanetOf(datanetId).count, 2);
    }

    function test_the_first_acceptance_gives_the_next_index() external {
        contribute("a");
        contribute("b");
        review("b", true);
        vm.expectEmit(address(datasets));
        emit IDatasetRegistry.ContributionAdmitted(datanetId, keccak256("a"), 1);
        review("a", true);
        review("b", false);
        review("b", true);
        _checkIndex("b", 0);
        _checkIndex("a", 1);
    }

    function test_a_contribution_rejected_before_it_is_accepted_has_no_index() external {
        contribute("a");
        review("a", false);
        vm.assertFalse(datasets.contributionOf(datanetId, keccak256("a")).isAdmitted);
        vm.assertEq(datasets.datanetOf(datanetId).count, 0);
        review("a", true);
        _checkIndex("a", 0);
    }

    /// @dev Recording is open to everybody; had each record an index, its price would be that of filling the datanet.
    function test_finding9_records_do_not_fill_a_datanet(bytes32[] calldata junk) external {
        for (uint256 i = 0; i < junk.length; ++i) {
            bytes32 hash = keccak256(abi.encode(i, junk[i]));
            vm.prank(accountOf("griefer"));
            datasets.contribute(contribution(hash));
        }
        vm.assertEq(datasets.datanetOf(datanetId).count, 0);
        contribute("a");
        review("a", true);
        _checkIndex("a", 0);
    }

    function test_a_datanet_admits_as_many_as_fraud_proofs_can_carry() external {
        uint32 full = 1 << 18;
        contribute("last");
        contribute("too many");
        setCount(full - 1);
        review("last", true);
        _checkIndex("last", full - 1);
        Review[] memory reviews = new Review[](1);
        reviews[0] = Review(keccak256("too many"), true, 0);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.DatanetFull.selector, datanetId));
        vm.prank(curator);
        datasets.review(datanetId, reviews);
        // Decisions about admitted contributions, and rejections, need no index.
        review("too many", false);
        review("last", false);
        review("last", true);
    }

    function test_an_unknown_contribution_cannot_be_reviewed() external {
        Review[] memory reviews = new Review[](1);
        reviews[0] = Review(keccak256("nothing"), true, 0);
        vm.expectRevert(
            abi.encodeWithSelector(IDatasetRegistry.ContributionUnknown.selector, datanetId, keccak256("nothing"))
        );
        vm.prank(curator);
        datasets.review(datanetId, reviews);
    }

    function test_only_curators_review(address caller) external {
        vm.assume(caller != curator);
        contribute("a");
        Review[] memory reviews = new Review[](1);
        reviews[0] = Review(keccak256("a"), true, 0);
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller));
        vm.prank(caller);
        datasets.review(datanetId, reviews);
    }

    function _checkIndex(string memory content, uint32 index) private view {
        ContributionRecord memory stored = datasets.contributionOf(datanetId, keccak256(bytes(content)));
        vm.assertTrue(stored.isAdmitted);
        vm.assertEq(stored.index, index);
        vm.assertEq(stored.contributor, contributor);
    }
}
