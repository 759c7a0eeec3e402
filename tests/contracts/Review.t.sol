// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IDatasetRegistry, Review} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Datanets} from "./support/Datanets.sol";

contract ReviewTest is Datanets {
    function test_the_latest_review_counts(uint8 decisions) external {
        contribute("a");
        contribute("b");
        vm.assertFalse(datasets.isAccepted(datanetId, 1));
        for (uint256 i = 0; i < 8; ++i) {
            bool isAccepted = (decisions >> i) & 1 == 1;
            vm.expectEmit(address(datasets));
            emit IDatasetRegistry.ContributionReviewed(datanetId, 1, curator, isAccepted, isAccepted ? 0 : 7);
            review("b", isAccepted);
            vm.assertEq(datasets.isAccepted(datanetId, 1), isAccepted);
        }
        vm.assertFalse(datasets.isAccepted(datanetId, 0));
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
}
