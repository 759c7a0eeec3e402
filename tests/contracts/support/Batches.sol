// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Collection} from "../../../contracts/interfaces/IPaymentVault.sol";
import {
    BatchHeader,
    Claim,
    Commitment,
    EntryKey,
    Opening,
    Receipt
} from "../../../contracts/interfaces/ISettlement.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {Log} from "./Vm.sol";
import {Payments} from "./Payments.sol";
import {Tree, Trees} from "./Trees.sol";

/// @notice A payer's channel with the settlement as collector, an operator with stake and receipt key, and small
/// batches of one receipt, one entry and any number of balances.
abstract contract Batches is Payments {
    using Trees for Tree;

    uint256 internal constant STAKE_UNITS = 1_000_000;
    uint256 internal constant DEPOSIT_UNITS = 1_000_000;

    address internal receiptKey;
    BatchHeader internal lastHeader;

    function setUp() public virtual override {
        super.setUp();
        collector = address(settlement);
        receiptKey = accountOf("receipt key");
        deposit(DEPOSIT_UNITS);
        addStake(operator, STAKE_UNITS);
        addReceiptKey(operator, "receipt key");
    }

    function addStake(address account, uint256 units) internal {
        usd.mint(account, units);
        vm.startPrank(account);
        usd.approve(address(operators), units);
        operators.stake(units);
        vm.stopPrank();
    }

    function addReceiptKey(address account, string memory name) internal {
        bytes32 digest = typedDigest(address(operators), Hashing.receiptKey(account));
        address key = accountOf(name);
        bytes memory signature = sign(keyOf(name), digest);
        vm.prank(account);
        operators.addReceiptKey(key, signature);
    }

    // --- trees ---

    function balancesOf(address[] memory accounts, uint128[] memory values) internal pure returns (Tree memory tree) {
        tree.values = values;
        tree.leaves = new bytes32[](accounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            tree.leaves[i] = MerkleSum.leafHash(MerkleSum.BALANCES, Hashing.account(accounts[i]));
        }
    }

    /// @notice A balances tree with `value` for one account.
    function oneBalance(address account, uint128 value) internal pure returns (Tree memory) {
        address[] memory accounts = new address[](1);
        uint128[] memory values = new uint128[](1);
        (accounts[0], values[0]) = (account, value);
        return balancesOf(accounts, values);
    }

    function oneLeaf(bytes32 tag, bytes32 key, uint128 value) internal pure returns (Tree memory tree) {
        (tree.leaves, tree.values) = (new bytes32[](1), new uint128[](1));
        (tree.leaves[0], tree.values[0]) = (MerkleSum.leafHash(tag, key), value);
    }

    // --- commits ---

    function commitmentOf(uint128 total, Tree memory balances) internal view returns (Commitment memory c) {
        c.parent = settlement.batchHashAt(operator, settlement.stateOf(operator).last);
        c.parameterSet = parameters.currentId();
        c.total = total;
        (c.receiptsRoot, c.receiptsCount) = (keccak256("receipts"), 1);
        (c.entriesRoot, c.entriesCount) = (keccak256("entries"), 1);
        (c.balancesRoot, c.balancesCount) = (balances.rootOf(), uint32(balances.leaves.length));
        c.dataDigest = keccak256("data");
    }

    function collections(uint128 total) internal view returns (Collection[] memory all) {
        uint128 before = vault.channelOf(channel()).collected;
        all = new Collection[](1);
        all[0] = collection(keyOf(payerName), before, before + total);
    }

    /// @notice Commits `total` with these balances and stores the header from the event.
    function commit(uint128 total, Tree memory balances) internal returns (BatchHeader memory) {
        return commit(commitmentOf(total, balances), collections(total));
    }

    function commit(
        Commitment memory commitment,
        Collection[] memory all
    ) internal returns (BatchHeader memory header) {
        vm.recordLogs();
        vm.prank(operator);
        settlement.commit(commitment, all);
        Log[] memory logs = vm.getRecordedLogs();
        header = abi.decode(logs[logs.length - 1].data, (BatchHeader));
        lastHeader = header;
    }

    function expectCommitError(Commitment memory commitment, Collection[] memory all, bytes memory error) internal {
        vm.expectRevert(error);
        vm.prank(operator);
        settlement.commit(commitment, all);
    }

    /// @notice Commits, waits and finalises.
    function settle(uint128 total, Tree memory balances) internal returns (BatchHeader memory header) {
        header = commit(total, balances);
        vm.warp(header.finalAt);
        finalise(header);
    }

    /// @notice Finalises the operator's next batch.
    function finalise(BatchHeader memory header) internal {
        BatchHeader[] memory headers = new BatchHeader[](1);
        headers[0] = header;
        settlement.finalise(headers);
    }

    /// @notice Finalises the operator's next two batches.
    function finalise(BatchHeader memory first, BatchHeader memory second) internal {
        BatchHeader[] memory headers = new BatchHeader[](2);
        (headers[0], headers[1]) = (first, second);
        settlement.finalise(headers);
    }

    /// @notice Returns whether an open demand keeps the batch from finality.
    function hasOpenDemand(BatchHeader memory header) internal view returns (bool) {
        (uint32 open, , ) = disputes.demandsOn(Hashing.batch(header));
        return open != 0;
    }

    /// @notice Voids the operator's pending batches, as a proof against this one would.
    function voidPending(BatchHeader memory header) internal {
        vm.prank(address(disputes));
        settlement.voidPending(header, address(0));
    }

    // --- claims ---

    /// @notice A claim against the latest batch.
    function claimOf(address account, Tree memory balances, uint256 index) internal view returns (Claim memory) {
        return Claim(lastHeader, account, balances.open(index));
    }
}
