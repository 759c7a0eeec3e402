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
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {Units} from "./libraries/Units.sol";

/// @title Demands
/// @notice The part of `Disputes` that forces out the leaves which an operator withholds; see `IDisputes`.
abstract contract Demands is Verdicts, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using Lookups for TreeRoot;

    uint256 private constant _MAX_KEYS = 64;
    /// @dev An answer may take this part of the dispute window; finding a leaf in a hidden tree takes a few of them.
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
        uint64 period = answerSeconds(header);
        uint64 until = header.finalAt - 2 * period;
        require(block.timestamp <= until, TooLateToDemand(until));
        Demand memory asked = Demand({
            batchHash: settlement.hold(header),
            tree: tree,
            keys: keys,
            challenger: msg.sender,
            deadline: uint64(block.timestamp) + period,
            bondUnits: Math.ceilDiv(parameters.setAt(header.parameterSet).demandBond, Units.MICRO)
        });
        id = keccak256(abi.encode(asked));
        require(unansweredOf[id] == 0, DemandExists(id));
        unansweredOf[id] = (1 << keys.length) - 1;
        ++numOpenDemands[asked.batchHash];
        emit Demanded(id, header.operator, asked.batchHash, asked);
        _take(msg.sender, asked.bondUnits * keys.length);
    }

    /// @inheritdoc IDisputes
    function answer(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external nonReentrant {
        bytes32 id = _checkOpen(asked, i, header);
        require(asked.tree != Tree.Receipts, WrongTree(asked.tree));
        _checkReadable(abi.encodeCall(this.answer, (asked, i, header, parent, lookup)));
        if (asked.tree == Tree.ParentBalances) {
            _checkHeader(parent, header.parent);
            Lookups.treeOf(parent, asked.tree).find(asked.keys[i], lookup);
        } else {
            Lookups.treeOf(header, asked.tree).find(asked.keys[i], lookup);
        }
        _settleAnswer(asked, id, i, header);
    }

    /// @inheritdoc IDisputes
    function answerReceipt(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        bytes32 id = _checkOpen(asked, i, header);
        require(asked.tree == Tree.Receipts, WrongTree(asked.tree));
        _checkReadable(abi.encodeCall(this.answerReceipt, (asked, i, header, witness, signature)));
        uint256 index = witness.opening.index;
        require(index == uint256(asked.keys[i]), KeyOutOfRange(bytes32(index), header.receiptsCount));
        _openReceipt(header, witness.receipt, witness.opening);
        _checkSigned(header.operator, witness.receipt, signature);
        Fault fault = _faultOf(header, witness);
        require(fault == Fault.None, ReceiptIsFaulty(fault));
        _settleAnswer(asked, id, i, header);
    }

    /// @inheritdoc IDisputes
    function unanswered(Demand calldata asked, BatchHeader calldata header) external {
        _checkDemand(asked, header);
        require(block.timestamp > asked.deadline, AnswerNotDue(asked.deadline));
        _void(header, asked.challenger);
    }

    /// @inheritdoc IDisputes
    function returnBond(Demand calldata asked, BatchHeader calldata header) external nonReentrant {
        bytes32 id = _checkDemand(asked, header);
        require(!settlement.isPending(header), BatchStands(asked.batchHash));
        uint256 units = _count(unansweredOf[id]) * asked.bondUnits;
        unansweredOf[id] = 0;
        --numOpenDemands[asked.batchHash];
        emit BondReturned(id, asked.challenger, units);
        token.safeTransfer(asked.challenger, units);
    }

    /// @inheritdoc IDisputes
    function answerSeconds(BatchHeader calldata header) public view returns (uint64) {
        uint64 part = parameters.setAt(header.parameterSet).disputeWindow / _ANSWERS_IN_WINDOW;
        return part == 0 ? 1 : part;
    }

    // --- inside ---

    function _checkKeys(BatchHeader calldata header, Tree tree, bytes32[] calldata keys) private pure {
        require(keys.length != 0 && keys.length <= _MAX_KEYS, InvalidKeyCount(keys.length, _MAX_KEYS));
        require(tree != Tree.ParentBalances || header.parent != 0, NoParent());
        if (tree != Tree.Receipts) return;
        for (uint256 i = 0; i < keys.length; ++i) {
            require(uint256(keys[i]) < header.receiptsCount, KeyOutOfRange(keys[i], header.receiptsCount));
        }
    }

    function _checkDemand(Demand calldata asked, BatchHeader calldata header) private view returns (bytes32 id) {
        id = keccak256(abi.encode(asked));
        require(unansweredOf[id] != 0, DemandUnknown(id));
        _checkHeader(header, asked.batchHash);
    }

    function _checkOpen(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header
    ) private view returns (bytes32 id) {
        id = _checkDemand(asked, header);
        // Once the batch is void its bonds are the challengers' again.
        require(settlement.isPending(header), BatchIsVoid(asked.batchHash));
        require(block.timestamp <= asked.deadline, AnswerTooLate(asked.deadline));
        require((unansweredOf[id] >> i) & 1 == 1, AlreadyAnswered(id, i));
    }

    /// @dev The compiler's decoder takes encodings that others refuse; an answer is for everybody to read.
    function _checkReadable(bytes memory canonical) private pure {
        require(keccak256(msg.data) == keccak256(canonical), NotCanonical());
    }

    function _settleAnswer(Demand calldata asked, bytes32 id, uint256 i, BatchHeader calldata header) private {
        uint256 left = unansweredOf[id] & ~(1 << i);
        unansweredOf[id] = left;
        if (left == 0 && --numOpenDemands[asked.batchHash] == 0) settlement.release(header);
        emit Answered(id, i, msg.sender, msg.data);
        token.safeTransfer(msg.sender, asked.bondUnits);
    }

    function _take(address from, uint256 units) private {
        uint256 expected = token.balanceOf(address(this)) + units;
        token.safeTransferFrom(from, address(this), units);
        uint256 held = token.balanceOf(address(this));
        require(held == expected, UnexpectedTransfer(expected, held));
    }

    function _count(uint256 bits) private pure returns (uint256 count) {
        for (; bits != 0; bits &= bits - 1) ++count;
    }
}
