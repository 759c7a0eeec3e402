// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Stake} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Bounds} from "../../contracts/interfaces/IParameters.sol";
import {Channel, ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, OperatorState} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Account} from "./support/PayerMoves.sol";
import {SentDemand} from "./support/DisputeMoves.sol";
import {GovernanceMoves} from "./support/GovernanceMoves.sol";
import {SmallBatch} from "./support/SmallBatches.sol";

struct FuzzSelector {
    address addr;
    bytes4[] selectors;
}

/// @notice Handler of the invariant tests: payers, operators, earners, challengers, governance and guardian make
/// possible moves in any order. No move may revert. The checks here run after each move.
contract Handler is GovernanceMoves {
    constructor() {
        setUp();
    }

    /// @notice All moves.
    function moves() public pure returns (bytes4[] memory all) {
        all = new bytes4[](25);
        (all[0], all[1]) = (this.pay.selector, this.grant.selector);
        (all[2], all[3]) = (this.revoke.selector, this.startThaw.selector);
        (all[4], all[5]) = (this.withdraw.selector, this.commitBatch.selector);
        (all[6], all[7]) = (this.finalise.selector, this.claim.selector);
        (all[8], all[9]) = (this.setWallet.selector, this.stakeMore.selector);
        (all[10], all[11]) = (this.startUnstake.selector, this.unstake.selector);
        (all[12], all[13]) = (this.demand.selector, this.answer.selector);
        (all[14], all[15]) = (this.convictForSilence.selector, this.returnBond.selector);
        (all[16], all[17]) = (this.convict.selector, this.accuseFalsely.selector);
        (all[18], all[19]) = (this.refund.selector, this.pause.selector);
        (all[20], all[21]) = (this.change.selector, this.wait.selector);
        (all[22], all[23]) = (this.meddle.selector, this.withdrawCredit.selector);
        all[24] = this.moveBalance.selector;
    }

    function checkSolvency() external view {
        uint256 owed = 0;
        for (uint256 i = 0; i < 4; ++i) {
            owed += vault.channelOf(ChannelId.wrap(channelAt(i))).balance;
            owed += vault.channelOf(ChannelId.wrap(movedChannelAt(i))).balance;
        }
        uint256 staked = 0;
        for (uint256 i = 0; i < 2; ++i) {
            owed += vault.potOf(collector, operatorAt(i));
            staked += operators.stakeOf(operatorAt(i)).stake;
        }
        vm.assertEq(usd.balanceOf(address(vault)) * MICRO, owed);
        vm.assertEq(usd.balanceOf(address(operators)) * MICRO, staked);
        vm.assertEq(address(disputes).balance, seenInBonds + seenInCredits + seenBurnt);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
    }

    function checkChannels() external view {
        for (uint256 i = 0; i < 4; ++i) {
            Account memory kept = batches[channelAt(i)];
            Channel memory state = vault.channelOf(ChannelId.wrap(channelAt(i)));
            vm.assertEq(kept.deposited, state.balance + kept.withdrawn + kept.moved + kept.paid);
            vm.assertEq(kept.moved, vault.channelOf(ChannelId.wrap(movedChannelAt(i))).balance);
            vm.assertEq(state.collected, kept.line);
            vm.assertLe(state.collected, kept.signed);
        }
    }

    /// @dev An operator's pot and claims sum to what its channels paid: nothing came from another operator's pot.
    function checkOperators() external view {
        for (uint256 i = 0; i < 2; ++i) {
            address account = operatorAt(i);
            OperatorState memory state = settlement.stateOf(account);
            uint256 paid = batches[channelAt(i)].paid + batches[channelAt(i + 2)].paid;
            uint256 claimed = _claimed(account);
            uint256 finalTotal = state.finalised == 0 ? 0 : _headerAt(account, state.finalised).cumulativeTotal;
            vm.assertEq(state.finalTotal, finalTotal);
            vm.assertLe(claimed, finalTotal);
            vm.assertLe(finalTotal, state.cumulativeTotal);
            vm.assertEq(state.cumulativeTotal, paid);
            vm.assertEq(vault.potOf(collector, account), paid - claimed);
        }
    }

    /// @dev The parts of a split sum exactly, in the entries and in the balances of each batch.
    function checkSums() external view {
        for (uint256 i = 0; i < 2; ++i) {
            bytes[] storage chain = chains[operatorAt(i)];
            if (chain.length == 0) continue;
            SmallBatch memory batch = abi.decode(chain[chain.length - 1], (SmallBatch));
            vm.assertEq(_sum(batch.entries.values), batch.header.total);
            vm.assertEq(_sum(batch.balances.values), batch.header.cumulativeTotal);
        }
    }

    function checkDelays() external view {
        Bounds memory b = parameters.bounds();
        uint256 window = parameters.current().disputeWindow;
        uint256 paused = parameters.pausedUntil();
        uint256 pauseLeft = paused > block.timestamp ? paused - block.timestamp : 0;
        vm.assertLe(b.maxSettlementInterval + window + b.maxExtension + pauseLeft + b.margin + 1, vault.thawSeconds());
        vm.assertLe(pauseLeft, b.maxPause);
    }

    /// @dev Committed batches are kept for ever, and voided ones are not returned.
    function checkBatches() external view {
        for (uint256 i = 0; i < 2; ++i) {
            address account = operatorAt(i);
            OperatorState memory state = settlement.stateOf(account);
            vm.assertEq(state.last, chains[account].length);
            vm.assertEq(state.toRefund, voided[account].length);
            bytes32 parent = 0;
            for (uint256 n = 1; n <= state.last; ++n) {
                BatchHeader memory header = _headerAt(account, n);
                bytes32 batchHash = settlement.batchHashAt(account, uint64(n));
                vm.assertEq(batchHash, Hashing.batch(header));
                vm.assertEq(header.parent, parent);
                parent = batchHash;
            }
            vm.assertEq(settlement.batchHashAt(account, state.last + 1), bytes32(0));
        }
    }

    /// @dev Every demand leaves time for its answer and for a proof after it, within the bound of the extension. Each
    /// open leaf is counted, and holds its batch.
    function checkDemands() external view {
        Bounds memory b = parameters.bounds();
        for (uint256 i = 0; i < sentDemands.length; ++i) {
            SentDemand memory sent = abi.decode(sentDemands[i], (SentDemand));
            BatchHeader memory header = sent.batch.header;
            (uint32 open, , uint64 proofsUntil) = disputes.demandsOn(Hashing.batch(header));
            vm.assertLe(sent.demandedAt + b.answerSeconds, sent.demand.deadline);
            vm.assertLe(sent.demand.deadline + b.answerSeconds, proofsUntil);
            vm.assertLe(proofsUntil, header.finalAt + b.maxExtension);
            if (disputes.demandOf(Hashing.batch(header), sent.tree, sent.key).challenger == address(0)) continue;
            vm.assertTrue(open != 0);
            bool isVoided = settlement.batchHashAt(header.operator, header.number) != Hashing.batch(header);
            vm.assertTrue(isVoided || settlement.stateOf(header.operator).finalised < header.number);
        }
    }

    /// @dev The stake that covers a batch stays until the batch is final or refunded, or is slashed before.
    function checkStakes() external view {
        for (uint256 i = 0; i < 2; ++i) {
            address account = operatorAt(i);
            OperatorState memory state = settlement.stateOf(account);
            Stake memory kept = operators.stakeOf(account);
            for (uint256 n = state.finalised + 1; n <= state.last; ++n) {
                vm.assertLe(_headerAt(account, n).slashUpTo, kept.stake + kept.slashed);
            }
            for (uint256 n = 0; n < voided[account].length; ++n) {
                BatchHeader memory header = abi.decode(voided[account][n], (SmallBatch)).header;
                vm.assertLe(header.slashUpTo, kept.stake + kept.slashed);
            }
        }
    }

    function checkTerms() external view {
        for (uint256 i = 0; i < 2; ++i) {
            uint256 last = chains[operatorAt(i)].length;
            if (last == 0) continue;
            BatchHeader memory header = _headerAt(operatorAt(i), last);
            bytes32 terms = keccak256(abi.encode(parameters.setAt(header.parameterSet)));
            vm.assertEq(terms, termsOf[Hashing.batch(header)]);
            uint256 window = parameters.setAt(header.parameterSet).disputeWindow;
            vm.assertLe(header.committedAt + window, header.finalAt);
        }
        vm.assertEq(adapters.versionOf(Hashing.versionId(record)).parameterSet, 0);
    }

    function checkEvents() external view {
        vm.assertEq(usd.balanceOf(address(vault)) * MICRO, seenInVault);
        vm.assertEq(usd.balanceOf(address(operators)) * MICRO, seenInStakes);
        vm.assertEq(address(disputes).balance, seenInBonds + seenInCredits + seenBurnt);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        for (uint256 i = 0; i < 4; ++i) {
            Channel memory state = vault.channelOf(ChannelId.wrap(channelAt(i)));
            vm.assertEq(state.balance, seenBalance[channelAt(i)]);
            vm.assertEq(state.collected, seenCollected[channelAt(i)]);
            Channel memory other = vault.channelOf(ChannelId.wrap(movedChannelAt(i)));
            vm.assertEq(other.balance, seenBalance[movedChannelAt(i)]);
        }
        for (uint256 i = 0; i < 2; ++i) {
            _checkOperatorsEvents(operatorAt(i));
        }
        address[] memory all = _accounts();
        for (uint256 i = 0; i < all.length; ++i) {
            vm.assertEq(usd.balanceOf(all[i]) * MICRO, seenPaid[all[i]]);
        }
    }

    function _checkOperatorsEvents(address account) private view {
        OperatorState memory state = settlement.stateOf(account);
        vm.assertEq(vault.potOf(collector, account), seenPot[account]);
        vm.assertEq(operators.stakeOf(account).stake, seenStake[account]);
        vm.assertEq(state.cumulativeTotal, seenTotal[account]);
        vm.assertEq(state.last, seenLast[account]);
        vm.assertEq(state.finalised, seenFinalised[account]);
    }

    function _claimed(address account) private view returns (uint256 claimed) {
        address[] memory all = _accounts();
        for (uint256 i = 0; i < all.length; ++i) {
            claimed += settlement.claimedOf(account, all[i]);
        }
    }

    /// @dev All accounts that may be paid.
    function _accounts() private view returns (address[] memory all) {
        all = new address[](12);
        for (uint256 i = 0; i < 2; ++i) {
            (all[i], all[i + 2], all[i + 4]) = (payerAt(i), operatorAt(i), contributors[i]);
            all[i + 6] = treasuries[i];
        }
        (all[8], all[9], all[10], all[11]) = (creator, thief, challenger, vm.addr(keyOf("wallet")));
    }

    function _headerAt(address account, uint256 number) private view returns (BatchHeader memory) {
        return abi.decode(chains[account][number - 1], (SmallBatch)).header;
    }

    function _sum(uint128[] memory values) private pure returns (uint256 sum) {
        for (uint256 i = 0; i < values.length; ++i) {
            sum += values[i];
        }
    }
}

/// @notice The market's invariants under any order of moves, none of which may revert. Numbers are those of the
/// protocol's design. The fourth and the sixth (no proof convicts a valid batch, and every invalid batch has a proof)
/// are tested on full batches in Python (`tests/integration/settlement`); the moves here check them on small batches.
contract InvariantsTest {
    Handler private _handler;

    error MoveNeverMade(bytes4[] moves);
    error MoveReverted(bytes words);
    error TooFewMoves(uint256 numMade, uint256 numTried);

    function setUp() external {
        _handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(_handler), _handler.moves());
    }

    /// @dev Checks that moves succeed and are not only tried: some hundred random ones include each of them.
    function test_every_move_is_made() external {
        bytes4[] memory moves = _handler.moves();
        bytes memory words = abi.encode("moves", 0, 0, 0, 0);
        uint256 numTried = 0;
        for (uint256 numMissing = moves.length; numMissing != 0; ++numTried) {
            require(numTried < 1_500, MoveNeverMade(_missing(moves)));
            words = abi.encode(keccak256(words), _fold(words, 1), _fold(words, 2), _fold(words, 3), _fold(words, 4));
            // Independent of the words, so that no move sees only some values of its arguments.
            bytes4 move = moves[uint256(_fold(words, 5)) % moves.length];
            (bool isMade, ) = address(_handler).call(bytes.concat(move, words));
            require(isMade, MoveReverted(words));
            numMissing = _missing(moves).length;
        }
    }

    /// @dev Invariants would hold trivially in a run without successful moves.
    function afterInvariant() external view {
        bytes4[] memory moves = _handler.moves();
        uint256 numMade = 0;
        for (uint256 i = 0; i < moves.length; ++i) {
            numMade += _handler.made(moves[i]);
        }
        uint256 numTried = _handler.numTried();
        require(numTried < 32 || 16 * numMade >= numTried, TooFewMoves(numMade, numTried));
    }

    /// @dev 1: the vault's tokens equal channels plus pots; stakes and bonds are held separately.
    function invariant_1_the_vault_holds_what_it_owes() external view {
        _handler.checkSolvency();
    }

    /// @dev 2: per channel, deposited = balance + withdrawn + paid into the pot. The paid amount never exceeds the
    /// signed one and decreases only by the exact refund of a voided batch.
    function invariant_2_each_channel_is_balanced() external view {
        _handler.checkChannels();
    }

    /// @dev 3: claimed <= final total <= collected - refunded, per operator; no claim reaches another operator's pot.
    function invariant_3_no_operator_pays_more_than_it_settled() external view {
        _handler.checkOperators();
    }

    /// @dev 5: parts of a split sum exactly.
    function invariant_5_no_micro_unit_is_lost_in_a_split() external view {
        _handler.checkSums();
    }

    /// @dev 7: thaw > interval + window + extension + pause + margin, with any governed parameters.
    function invariant_7_the_thaw_outlasts_every_delay() external view {
        _handler.checkDelays();
    }

    /// @dev 8: no role moves payers' funds or alters a batch.
    function invariant_8_no_role_alters_a_batch() external view {
        _handler.checkBatches();
    }

    /// @dev 9: a stake stays until the batches that it covers are final or refunded; slash <= stake.
    function invariant_9_the_stake_covers_a_batch_until_it_is_final() external view {
        _handler.checkStakes();
    }

    /// @dev 12: a demand leaves time for its answer and a proof, and delays finality within a bound.
    function invariant_12_demands_leave_time_for_answers_and_proofs() external view {
        _handler.checkDemands();
    }

    /// @dev 10: the parameters and records of a batch are those that it names.
    function invariant_10_a_batch_keeps_the_terms_it_named() external view {
        _handler.checkTerms();
    }

    /// @dev 11: every event states the amount that was moved.
    function invariant_11_the_events_alone_determine_all_balances() external view {
        _handler.checkEvents();
    }

    function _missing(bytes4[] memory moves) private view returns (bytes4[] memory missing) {
        uint256 count = 0;
        missing = new bytes4[](moves.length);
        for (uint256 i = 0; i < moves.length; ++i) {
            if (_handler.made(moves[i]) == 0) missing[count++] = moves[i];
        }
        assembly ("memory-safe") {
            mstore(missing, count)
        }
    }

    function _fold(bytes memory words, uint256 i) private pure returns (bytes32) {
        return keccak256(abi.encode(words, i));
    }
}
