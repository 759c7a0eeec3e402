// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Verdicts} from "./Verdicts.sol";
import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {Demand, Fault, IDisputes, Lookup, ReceiptWitness, Tree} from "./interfaces/IDisputes.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {BatchHeader, ISettlement} from "./interfaces/ISettlement.sol";
import {ExactTransfer} from "./libraries/ExactTransfer.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {Units} from "./libraries/Units.sol";

/// @title Demands
/// @notice The part of `Disputes` that forces operators to reveal withheld leaves; see `IDisputes`.
abstract contract Demands is Verdicts, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using ExactTransfer for IERC20;
    using Lookups for TreeRoot;

    uint256 private constant _MAX_KEYS = 64;
    /// @dev The time for an answer is the dispute window divided by this, so that a challenger can search a withheld
    /// tree with several demands in sequence.
    uint64 private constant _ANSWERS_IN_WINDOW = 8;

    /// @inheritdoc IDisputes
    IERC20 public immutable override token;

    /// @inheritdoc IDisputes
    mapping(bytes32 id => uint256 bits) public override unansweredOf;
    /// @inheritdoc IDisputes
    mapping(bytes32 batchHash => uint256 count) public override numOpenDemands;

    constructor(
        ISettlement settlement_,
        IOperatorRegistry operators_,
        IAdapterRegistry adapters_
    ) Verdicts(settlement_, operators_, adapters_) {
        token = operators_.token();
    }

    /// @inheritdoc IDisputes
    function demand(
        BatchHeader calldata header,
        Tree tree,
        bytes32[] calldata keys
    ) external nonReentrant returns (bytes32 id) {
        _checkKeys(header, tree, keys);
        bytes32 batchHash = Hashing.batch(header);
        require(settlement.isPending(header), BatchNotPending(batchHash));
        uint64 period = answerSeconds(header);
        uint64 until = header.finalAt - 2 * period;
        require(block.timestamp <= until, TooLateToDemand(until));
        Demand memory demand_ = Demand({
            batchHash: batchHash,
            tree: tree,
            keys: keys,
            challenger: msg.sender,
            deadline: uint64(block.timestamp) + period,
            bondUnits: Math.ceilDiv(parameters.setAt(header.parameterSet).demandBond, Units.MICRO)
        });
        id = keccak256(abi.encode(demand_));
        require(unansweredOf[id] == 0, DemandExists(id));
        unansweredOf[id] = (1 << keys.length) - 1;
        ++numOpenDemands[batchHash];
        emit Demanded(id, header.operator, batchHash, demand_);
        token.pull(demand_.bondUnits * keys.length);
    }

    /// @inheritdoc IDisputes
    function answer(
        Demand calldata demand_,
        uint256 i,
        BatchHeader calldata header,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external nonReentrant {
        bytes32 id = _checkOpen(demand_, i, header);
        require(demand_.tree != Tree.Receipts, WrongTree(demand_.tree));
        _checkCanonical(abi.encodeCall(this.answer, (demand_, i, header, parent, lookup)));
        if (demand_.tree == Tree.ParentBalances) {
            _checkHeader(parent, header.parent);
            Lookups.treeOf(parent, demand_.tree).find(demand_.keys[i], lookup);
        } else {
            Lookups.treeOf(header, demand_.tree).find(demand_.keys[i], lookup);
        }
        _recordAnswer(demand_, id, i);
    }

    /// @inheritdoc IDisputes
    function answerReceipt(
        Demand calldata demand_,
        uint256 i,
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        bytes32 id = _checkOpen(demand_, i, header);
        require(demand_.tree == Tree.Receipts, WrongTree(demand_.tree));
        _checkCanonical(abi.encodeCall(this.answerReceipt, (demand_, i, header, witness, signature)));
        uint256 index = witness.opening.index;
        require(index == uint256(demand_.keys[i]), KeyOutOfRange(bytes32(index), header.receiptsCount));
        _openReceipt(header, witness.receipt, witness.opening);
        _checkSigned(header, witness.receipt, signature);
        Fault fault = _faultOf(header, witness);
        require(fault == Fault.None, ReceiptIsFaulty(fault));
        _recordAnswer(demand_, id, i);
    }

    /// @inheritdoc IDisputes
    function voidUnanswered(Demand calldata demand_, BatchHeader calldata header) external {
        _checkDemand(demand_, header);
        require(block.timestamp > demand_.deadline, DeadlineNotPassed(demand_.deadline));
        _void(header, demand_.challenger);
    }

    /// @inheritdoc IDisputes
    function returnBond(Demand calldata demand_, BatchHeader calldata header) external nonReentrant {
        bytes32 id = _checkDemand(demand_, header);
        require(!settlement.isPending(header), BatchPending(demand_.batchHash));
        uint256 units = _popCount(unansweredOf[id]) * demand_.bondUnits;
        unansweredOf[id] = 0;
        --numOpenDemands[demand_.batchHash];
        emit BondReturned(id, demand_.challenger, units);
        token.safeTransfer(demand_.challenger, units);
    }

    /// @inheritdoc IDisputes
    function demandsOn(bytes32 batchHash) external view returns (uint32 open, uint64 proofsUntil) {
        return (uint32(numOpenDemands[batchHash]), 0);
    }

    /// @inheritdoc IDisputes
    function answerSeconds(BatchHeader calldata header) public view returns (uint64) {
        uint64 period = parameters.setAt(header.parameterSet).disputeWindow / _ANSWERS_IN_WINDOW;
        return period == 0 ? 1 : period;
    }

    // --- internal ---

    function _checkKeys(BatchHeader calldata header, Tree tree, bytes32[] calldata keys) private pure {
        require(keys.length != 0 && keys.length <= _MAX_KEYS, InvalidKeyCount(keys.length, _MAX_KEYS));
        require(tree != Tree.ParentBalances || header.parent != 0, NoParent());
        if (tree != Tree.Receipts) return;
        for (uint256 i = 0; i < keys.length; ++i) {
            require(uint256(keys[i]) < header.receiptsCount, KeyOutOfRange(keys[i], header.receiptsCount));
        }
    }

    function _checkDemand(Demand calldata demand_, BatchHeader calldata header) private view returns (bytes32 id) {
        id = keccak256(abi.encode(demand_));
        require(unansweredOf[id] != 0, DemandUnknown(id));
        _checkHeader(header, demand_.batchHash);
    }

    function _checkOpen(
        Demand calldata demand_,
        uint256 i,
        BatchHeader calldata header
    ) private view returns (bytes32 id) {
        id = _checkDemand(demand_, header);
        // Once the batch is voided, `returnBond` pays the remaining bonds back to their challengers.
        require(settlement.isPending(header), BatchNotPending(demand_.batchHash));
        require(block.timestamp <= demand_.deadline, AnswerTooLate(demand_.deadline));
        require((unansweredOf[id] >> i) & 1 == 1, AlreadyAnswered(id, i));
    }

    /// @dev Solidity's ABI decoder accepts non-canonical encodings that other decoders reject. An answer must be
    /// readable by all of them.
    function _checkCanonical(bytes memory canonical) private pure {
        require(keccak256(msg.data) == keccak256(canonical), NotCanonical());
    }

    function _recordAnswer(Demand calldata demand_, bytes32 id, uint256 i) private {
        uint256 remaining = unansweredOf[id] & ~(1 << i);
        unansweredOf[id] = remaining;
        if (remaining == 0) --numOpenDemands[demand_.batchHash];
        emit Answered(id, i, msg.sender, msg.data);
        token.safeTransfer(msg.sender, demand_.bondUnits);
    }

    function _popCount(uint256 bits) private pure returns (uint256 count) {
        for (; bits != 0; bits &= bits - 1) ++count;
    }
}
