// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Channel, ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, OperatorState} from "../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./support/Batches.sol";
import {Tree} from "./support/Trees.sol";

struct FuzzSelector {
    address addr;
    bytes4[] selectors;
}

/// @notice Two payers, two operators and two earners who do whatever is possible at the moment, in any order. Nothing
/// that it does may revert.
contract Handler is Batches {
    struct Books {
        uint128 deposited;
        uint128 withdrawn;
        uint128 collected;
    }

    string[2] private _payers = ["payer", "second payer"];
    string[2] private _operators = ["operator", "second operator"];
    address[2] public earners;

    mapping(ChannelId channelId => Books) public books;
    mapping(address operator => BatchHeader[]) private _headers;
    mapping(address operator => Tree[]) private _trees;
    mapping(address operator => uint128[2] amounts) private _earned;

    constructor() {
        setUp();
        earners = [who("first earner"), who("second earner")];
        addStake(who("second operator"), 100 * STAKE_UNITS);
        addStake(operator, 99 * STAKE_UNITS);
        books[channel()].deposited = uint128(DEPOSIT_UNITS) * MICRO;
    }

    // --- moves ---

    function pay(uint256 payerIndex, uint256 operatorIndex, uint64 units) external {
        _choose(payerIndex, operatorIndex);
        units = uint64(bound(units, 1, DEPOSIT_UNITS));
        books[deposit(units)].deposited += uint128(units) * MICRO;
    }

    function startThaw(uint256 payerIndex, uint256 operatorIndex, uint128 amount) external {
        _choose(payerIndex, operatorIndex);
        Channel memory state = vault.channelOf(channel());
        amount = uint128(bound(amount, 0, state.balance));
        if (amount == 0 && state.thawedAt == 0) return;
        vm.prank(payer);
        vault.thaw(operator, collector, amount);
    }

    function withdraw(uint256 payerIndex, uint256 operatorIndex) external {
        _choose(payerIndex, operatorIndex);
        Channel memory state = vault.channelOf(channel());
        uint128 amount = state.thawing < state.balance ? state.thawing : state.balance;
        if (state.thawedAt == 0 || block.timestamp < state.thawedAt || amount < MICRO) return;
        vm.prank(payer);
        books[channel()].withdrawn += vault.withdraw(operator, collector);
    }

    function commitBatch(uint256 payerIndex, uint256 operatorIndex, uint128 total, uint128 part) external {
        _choose(payerIndex, operatorIndex);
        OperatorState memory state = settlement.stateOf(operator);
        uint128 balance = vault.channelOf(channel()).balance;
        if (balance == 0 || state.last - state.finalised == settlement.ringSize() - 1) return;
        total = uint128(bound(total, 1, balance));
        part = uint128(bound(part, 0, total));
        _earned[operator][0] += part;
        _earned[operator][1] += total - part;
        books[channel()].collected += total;
        Tree memory tree = _balances();
        _headers[operator].push(commit(total, tree));
        _trees[operator].push(tree);
    }

    function finalise(uint256 operatorIndex, uint256 number) external {
        _choose(0, operatorIndex);
        OperatorState memory state = settlement.stateOf(operator);
        if (state.last == state.finalised) return;
        number = bound(number, state.finalised + 1, state.last);
        BatchHeader memory header = _headers[operator][number - 1];
        if (block.timestamp < header.finalAt) vm.warp(header.finalAt);
        settlement.finalise(header);
    }

    function claim(uint256 operatorIndex, uint256 earnerIndex) external {
        _choose(0, operatorIndex);
        earnerIndex %= 2;
        uint32 finalised = settlement.stateOf(operator).finalised;
        if (finalised == 0) return;
        Tree memory tree = _trees[operator][finalised - 1];
        uint128 claimed = settlement.claimedOf(operator, earners[earnerIndex]);
        if (tree.values[earnerIndex] < claimed + MICRO) return;
        settlement.claim(claimOf(earners[earnerIndex], tree, earnerIndex));
    }

    function wait(uint16 time) external {
        vm.warp(block.timestamp + bound(time, 1, THAW));
    }

    // --- what the invariants look at ---

    function checkSolvency() external view {
        uint256 owed = 0;
        for (uint256 i = 0; i < 4; ++i) {
            owed += vault.channelOf(_channelAt(i)).balance;
        }
        for (uint256 i = 0; i < 2; ++i) {
            owed += vault.potOf(collector, _operatorAt(i));
        }
        vm.assertEq(usd.balanceOf(address(vault)) * MICRO, owed);
        vm.assertEq(usd.balanceOf(address(operators)), 200 * STAKE_UNITS);
    }

    function checkChannels() external view {
        for (uint256 i = 0; i < 4; ++i) {
            ChannelId id = _channelAt(i);
            Books memory kept = books[id];
            Channel memory state = vault.channelOf(id);
            vm.assertEq(kept.deposited, uint256(state.balance) + kept.withdrawn + kept.collected);
            vm.assertEq(state.collected, kept.collected);
        }
    }

    function checkOperators() external view {
        for (uint256 i = 0; i < 2; ++i) {
            address account = _operatorAt(i);
            OperatorState memory state = settlement.stateOf(account);
            uint128 finalTotal = state.finalised == 0 ? 0 : _headers[account][state.finalised - 1].cumulativeTotal;
            uint128 claimed = settlement.claimedOf(account, earners[0]) + settlement.claimedOf(account, earners[1]);
            vm.assertLe(claimed, finalTotal);
            vm.assertLe(finalTotal, state.cumulativeTotal);
            vm.assertEq(vault.potOf(collector, account), state.cumulativeTotal - claimed);
        }
    }

    function _choose(uint256 payerIndex, uint256 operatorIndex) private {
        payer = who(_payers[payerIndex % 2]);
        payerName = _payers[payerIndex % 2];
        operator = who(_operators[operatorIndex % 2]);
    }

    function _balances() private view returns (Tree memory) {
        address[] memory accounts = new address[](2);
        uint128[] memory values = new uint128[](2);
        (accounts[0], accounts[1]) = (earners[0], earners[1]);
        (values[0], values[1]) = (_earned[operator][0], _earned[operator][1]);
        return balancesOf(accounts, values);
    }

    function _channelAt(uint256 i) private view returns (ChannelId) {
        return vault.channelIdOf(vm.addr(keyOf(_payers[i / 2])), _operatorAt(i), collector);
    }

    function _operatorAt(uint256 i) private view returns (address) {
        return vm.addr(keyOf(_operators[i % 2]));
    }
}

/// @notice The money's invariants under any order of moves, none of which may revert; numbers as in the design of the
/// protocol.
contract InvariantsTest {
    Handler private _handler;

    function setUp() external {
        _handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        bytes4[] memory selectors = new bytes4[](7);
        (selectors[0], selectors[1]) = (Handler.pay.selector, Handler.startThaw.selector);
        (selectors[2], selectors[3]) = (Handler.withdraw.selector, Handler.commitBatch.selector);
        (selectors[4], selectors[5]) = (Handler.finalise.selector, Handler.claim.selector);
        selectors[6] = Handler.wait.selector;
        targets[0] = FuzzSelector(address(_handler), selectors);
    }

    /// @dev 1: the vault's tokens are what channels and pots hold, stakes apart.
    function invariant_the_vault_owes_what_it_holds() external view {
        _handler.checkSolvency();
    }

    /// @dev 2: deposited = balance + withdrawn + paid into the pot, per channel.
    function invariant_each_channel_adds_up() external view {
        _handler.checkChannels();
    }

    /// @dev 3: claimed <= final total <= collected, per operator; no claim reaches another operator's pot.
    function invariant_no_operator_pays_more_than_it_settled() external view {
        _handler.checkOperators();
    }
}
