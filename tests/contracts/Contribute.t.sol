// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {
    Contribution,
    ContributionRecord,
    IDatasetRegistry,
    SharedTerms,
    SignedContent,
    SignedContribution,
    SnapshotId
} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Datanets} from "./support/Datanets.sol";
import {ContractWallet} from "./support/Wallets.sol";

contract ContributeTest is Datanets {
    function test_datanets_count_from_one() external {
        vm.assertEq(datanetId, 1);
        vm.expectEmit(address(datasets));
        emit IDatasetRegistry.DatanetCreated(2, contributor, "second", keccak256("folder"));
        vm.prank(contributor);
        vm.assertEq(datasets.createDatanet("second", keccak256("folder")), 2);
        vm.assertEq(datasets.numDatanets(), 2);
        vm.assertEq(datasets.datanetOf(2).creator, contributor);
    }

    function test_a_datanet_needs_a_name_and_a_folder() external {
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.ZeroHash.selector));
        datasets.createDatanet("", keccak256("folder"));
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.ZeroHash.selector));
        datasets.createDatanet("name", 0);
    }

    function test_a_contribution_is_recorded_under_its_contributor(bytes32 contentHash, uint32 rows) external {
        vm.assume(contentHash != 0);
        Contribution memory c = contribution(contentHash);
        c.rows = rows;
        vm.expectEmit(address(datasets));
        emit IDatasetRegistry.ContributionRecorded(
            datanetId,
            contentHash,
            contributor,
            c.cidDigest,
            c.licence,
            rows
        );
        vm.prank(contributor);
        datasets.contribute(c);
        ContributionRecord memory kept = datasets.contributionOf(datanetId, contentHash);
        vm.assertEq(kept.contributor, contributor);
        vm.assertFalse(kept.isAdmitted);
        vm.assertEq(datasets.datanetOf(datanetId).count, 0);
    }

    function test_copied_data_under_another_wallet_is_refused() external {
        contribute("data");
        vm.expectRevert(
            abi.encodeWithSelector(IDatasetRegistry.ContentAlreadyRecorded.selector, datanetId, keccak256("data"))
        );
        vm.prank(accountOf("copier"));
        datasets.contribute(contribution(keccak256("data")));
    }

    function test_a_hash_recorded_first_from_the_mempool_stays_recorded_when_rejected() external {
        contribute("data");
        review("data", true);
        SnapshotId frozen = datasets.freeze(datanetId, 1);
        review("data", false);
        vm.expectRevert(
            abi.encodeWithSelector(IDatasetRegistry.ContentAlreadyRecorded.selector, datanetId, keccak256("data"))
        );
        vm.prank(accountOf("victim"));
        datasets.contribute(contribution(keccak256("data")));
        vm.assertEq(datasets.snapshotOf(frozen).count, 1);
        vm.assertEq(datasets.contributionOf(datanetId, keccak256("data")).contributor, contributor);
    }

    function test_the_same_content_may_enter_another_datanet() external {
        contribute("data");
        datanetId = datasets.createDatanet("other", keccak256("folder"));
        contribute("data");
        vm.assertEq(datasets.contributionOf(datanetId, keccak256("data")).contributor, contributor);
    }

    function test_a_contribution_needs_datanet_content_and_folder() external {
        Contribution memory c = contribution(keccak256("data"));
        c.datanetId = 9;
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.DatanetUnknown.selector, 9));
        datasets.contribute(c);
        c = contribution(0);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.ZeroHash.selector));
        datasets.contribute(c);
        c = contribution(keccak256("data"));
        c.cidDigest = 0;
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.ZeroHash.selector));
        datasets.contribute(c);
    }

    // --- relayed ---

    function test_a_contribution_is_relayed_by_signature(uint32 left) external {
        SignedContribution memory signed = _signed("data", 0, block.timestamp + left);
        vm.prank(accountOf("relayer"));
        datasets.contributeWithSig(signed);
        vm.assertEq(datasets.contributionOf(datanetId, keccak256("data")).contributor, contributor);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidAccountNonce.selector, contributor, 1));
        datasets.contributeWithSig(signed);
    }

    function test_many_are_relayed_at_once() external {
        vm.prank(accountOf("relayer"));
        datasets.contributeManyWithSig(_shared(0), _contents(0, 3));
        vm.assertEq(datasets.nonces(contributor), 3);
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(datasets.contributionOf(datanetId, keccak256(abi.encode(i))).contributor, contributor);
        }
        datasets.contributeManyWithSig(_shared(3), _contents(3, 1));
        vm.assertEq(datasets.contributionOf(datanetId, keccak256(abi.encode(3))).contributor, contributor);
        datasets.contributeWithSig(_signed("single", 4, block.timestamp));
    }

    function test_many_contributions_emit_one_event_each() external {
        SignedContent[] memory contents = _contents(0, 2);
        for (uint256 i = 0; i < 2; ++i) {
            Contribution memory c = contribution(contents[i].contentHash);
            vm.expectEmit(address(datasets));
            emit IDatasetRegistry.ContributionRecorded(
                datanetId,
                c.contentHash,
                contributor,
                c.cidDigest,
                c.licence,
                c.rows
            );
        }
        datasets.contributeManyWithSig(_shared(0), contents);
    }

    function test_many_need_each_their_own_signature_in_order(uint256 field) external {
        (SharedTerms memory shared, SignedContent[] memory contents) = (_shared(0), _contents(0, 3));
        field = field % 7;
        if (field == 0) contents[2].contentHash = keccak256("other");
        if (field == 1) contents[2].cidDigest = keccak256("other");
        if (field == 2) ++contents[2].rows;
        if (field == 3) shared.licence = "other";
        if (field == 4) ++shared.deadline;
        if (field == 5) shared.contributor = accountOf("thief");
        if (field == 6) (contents[0], contents[1]) = (contents[1], contents[0]);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidSignature.selector, shared.contributor));
        datasets.contributeManyWithSig(shared, contents);
        vm.assertEq(datasets.nonces(contributor), 0);
    }

    function test_an_invalid_signature_does_not_pass_for_the_zero_account() external {
        (SharedTerms memory shared, SignedContent[] memory contents) = (_shared(0), _contents(0, 1));
        (shared.contributor, contents[0].r) = (address(0), 0);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidSignature.selector, address(0)));
        datasets.contributeManyWithSig(shared, contents);
    }

    function test_many_are_relayed_once_in_time_and_to_an_existing_datanet() external {
        (SharedTerms memory shared, SignedContent[] memory contents) = (_shared(0), _contents(0, 2));
        datasets.contributeManyWithSig(shared, contents);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidAccountNonce.selector, contributor, 2));
        datasets.contributeManyWithSig(shared, contents);
        (shared.nonce, shared.deadline) = (2, block.timestamp - 1);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.SignatureExpired.selector, shared.deadline));
        datasets.contributeManyWithSig(shared, contents);
        shared.deadline = block.timestamp;
        vm.expectRevert(
            abi.encodeWithSelector(
                IDatasetRegistry.ContentAlreadyRecorded.selector,
                datanetId,
                keccak256(abi.encode(0))
            )
        );
        datasets.contributeManyWithSig(shared, _resigned(contents, 2));
        shared.datanetId = 9;
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.DatanetUnknown.selector, 9));
        datasets.contributeManyWithSig(shared, _contents(2, 2));
    }

    function test_a_late_signature_is_refused() external {
        uint256 deadline = block.timestamp - 1;
        SignedContribution memory signed = _signed("data", 0, deadline);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.SignatureExpired.selector, deadline));
        datasets.contributeWithSig(signed);
    }

    function test_a_changed_contribution_or_another_signer_is_refused(uint256 field) external {
        SignedContribution memory signed = _signed("data", 0, block.timestamp);
        _change(signed, field % 6);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidSignature.selector, signed.contributor));
        datasets.contributeWithSig(signed);
    }

    function test_a_signature_for_another_contract_or_chain_is_refused() external {
        SignedContribution memory signed = _signed("data", 0, block.timestamp);
        bytes32 hash = structHash(contributor, signed.contribution, 0, block.timestamp);
        bytes memory error = abi.encodeWithSelector(IDatasetRegistry.InvalidSignature.selector, contributor);
        signed.signature = sign(keyOf("contributor"), typedDigest(address(vault), hash));
        vm.expectRevert(error);
        datasets.contributeWithSig(signed);
        signed.signature = sign(keyOf("contributor"), typedDigest(1, address(datasets), hash));
        vm.expectRevert(error);
        datasets.contributeWithSig(signed);
    }

    function test_an_account_with_delegated_code_contributes_by_its_keys_signature() external {
        delegateCode(contributor);
        datasets.contributeWithSig(_signed("data", 0, block.timestamp));
        vm.assertEq(datasets.contributionOf(datanetId, keccak256("data")).contributor, contributor);
    }

    function test_a_contract_wallet_contributes_by_eip1271() external {
        address wallet = address(new ContractWallet(contributor));
        SignedContribution memory signed = _signedFor(wallet, "data", 0, block.timestamp);
        datasets.contributeWithSig(signed);
        vm.assertEq(datasets.contributionOf(datanetId, keccak256("data")).contributor, signed.contributor);
    }

    function test_finding8_a_wallets_contribution_is_recorded_for_no_other_account() external {
        address wallet = address(new ContractWallet(contributor));
        address otherWallet = address(new ContractWallet(contributor));
        SignedContribution memory signed = _signedFor(wallet, "data", 0, block.timestamp);
        address[2] memory others = [contributor, otherWallet];
        for (uint256 i = 0; i < others.length; ++i) {
            signed.contributor = others[i];
            vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidSignature.selector, others[i]));
            vm.prank(accountOf("griefer"));
            datasets.contributeWithSig(signed);
        }
        signed.contributor = wallet;
        datasets.contributeWithSig(signed);
        vm.assertEq(datasets.contributionOf(datanetId, keccak256("data")).contributor, wallet);
    }

    function test_finding8_a_wallets_contributions_are_not_relayed_in_a_batch_of_its_owner() external {
        SharedTerms memory shared = _shared(0);
        SignedContent[] memory contents = new SignedContent[](1);
        contents[0].contentHash = keccak256(abi.encode(0));
        contents = _resignedFor(address(new ContractWallet(contributor)), contents, 0);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidSignature.selector, contributor));
        datasets.contributeManyWithSig(shared, contents);
    }

    function _shared(uint256 nonce) private view returns (SharedTerms memory) {
        bytes32 licence = contribution(0).licence;
        return SharedTerms(contributor, datanetId, licence, nonce, block.timestamp);
    }

    /// @dev Contents derived from their nonces, starting at `first`.
    function _contents(uint256 first, uint256 count) private view returns (SignedContent[] memory contents) {
        contents = new SignedContent[](count);
        for (uint256 i = 0; i < count; ++i) {
            contents[i].contentHash = keccak256(abi.encode(first + i));
        }
        return _resigned(contents, first);
    }

    function _resigned(
        SignedContent[] memory contents,
        uint256 nonce
    ) private view returns (SignedContent[] memory) {
        return _resignedFor(contributor, contents, nonce);
    }

    /// @dev Signs by the contributor's key for `account`.
    function _resignedFor(
        address account,
        SignedContent[] memory contents,
        uint256 nonce
    ) private view returns (SignedContent[] memory) {
        for (uint256 i = 0; i < contents.length; ++i) {
            Contribution memory c = contribution(contents[i].contentHash);
            (contents[i].cidDigest, contents[i].rows) = (c.cidDigest, c.rows);
            bytes32 digest = typedDigest(address(datasets), structHash(account, c, nonce + i, block.timestamp));
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(keyOf("contributor"), digest);
            (contents[i].r, contents[i].vs) = (r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
        }
        return contents;
    }

    function _signed(
        string memory content,
        uint256 nonce,
        uint256 deadline
    ) private view returns (SignedContribution memory) {
        return _signedFor(contributor, content, nonce, deadline);
    }

    /// @dev Signs by the contributor's key for `account`.
    function _signedFor(
        address account,
        string memory content,
        uint256 nonce,
        uint256 deadline
    ) private view returns (SignedContribution memory signed) {
        signed.contribution = contribution(keccak256(bytes(content)));
        (signed.contributor, signed.nonce, signed.deadline) = (account, nonce, deadline);
        bytes32 hash = structHash(account, signed.contribution, nonce, deadline);
        signed.signature = sign(keyOf("contributor"), typedDigest(address(datasets), hash));
    }

    function _change(SignedContribution memory signed, uint256 field) private {
        if (field == 0) signed.contribution.contentHash = keccak256("other");
        if (field == 1) signed.contribution.cidDigest = keccak256("other");
        if (field == 2) signed.contribution.licence = "other";
        if (field == 3) ++signed.contribution.rows;
        if (field == 4) ++signed.deadline;
        if (field == 5) signed.contributor = accountOf("thief");
    }
}
