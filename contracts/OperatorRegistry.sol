// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IOperatorRegistry, Stake} from "./interfaces/IOperatorRegistry.sol";
import {ISettlement, OperatorState} from "./interfaces/ISettlement.sol";
import {ExactTransfer} from "./libraries/ExactTransfer.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Units} from "./libraries/Units.sol";

/// @title Operator registry
/// @notice See `IOperatorRegistry`.
contract OperatorRegistry is IOperatorRegistry, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using ExactTransfer for IERC20;

    uint256 private constant _MAX_ENDPOINT = 256;
    /// @dev Time in which an operator retires all keys of one leak.
    uint64 private constant _RETIREMENT_WINDOW = 1 days;
    /// @dev From the first retirement of one leak to that of the next. Longer than a vault's thaw: an operator that
    /// wants to disown all its receipts must hold them back until payers can have withdrawn.
    uint64 private constant _RETIREMENT_COOL_DOWN = 30 days;

    struct ReceiptKey {
        address operator;
        uint64 retiredAt;
    }

    /// @inheritdoc IOperatorRegistry
    IERC20 public immutable override token;
    /// @inheritdoc IOperatorRegistry
    address public immutable override settlement;

    /// @inheritdoc IOperatorRegistry
    mapping(address operator => uint64 at) public override retirementsSince;
    /// @inheritdoc IOperatorRegistry
    mapping(address payee => uint128 amount) public override owed;

    mapping(address key => ReceiptKey) private _keys;
    mapping(address operator => Stake) private _stakes;

    constructor(IERC20 token_, address settlement_) EIP712("loraledger", "1") {
        require(address(token_) != address(0) && settlement_ != address(0), ZeroAddress());
        token = token_;
        settlement = settlement_;
    }

    // --- operators ---

    /// @inheritdoc IOperatorRegistry
    function setEndpoint(string calldata endpoint) external {
        uint256 length = bytes(endpoint).length;
        require(length <= _MAX_ENDPOINT, EndpointTooLong(length, _MAX_ENDPOINT));
        emit EndpointChanged(msg.sender, endpoint);
    }

    /// @inheritdoc IOperatorRegistry
    function addReceiptKey(address key, bytes calldata signature) external {
        require(key != msg.sender, KeyIsOperator(key));
        address owner = _keys[key].operator;
        require(owner == address(0), KeyAlreadyBound(key, owner));
        bytes32 digest = _hashTypedDataV4(Hashing.receiptKey(msg.sender));
        (address signer, , ) = ECDSA.tryRecoverCalldata(digest, signature);
        require(signer == key && key != address(0), InvalidKeySignature(key));
        _keys[key].operator = msg.sender;
        emit ReceiptKeyAdded(msg.sender, key);
    }

    /// @inheritdoc IOperatorRegistry
    function retireReceiptKey(address key) external {
        ReceiptKey storage stored = _keys[key];
        require(stored.operator == msg.sender, KeyNotBound(key, msg.sender));
        require(stored.retiredAt == 0, KeyAlreadyRetired(key, stored.retiredAt));
        uint64 since = retirementsSince[msg.sender];
        if (block.timestamp > since + _RETIREMENT_WINDOW) {
            uint64 until = since + _RETIREMENT_COOL_DOWN;
            require(block.timestamp >= until, KeyRetirementCoolingDown(until));
            retirementsSince[msg.sender] = uint64(block.timestamp);
        }
        stored.retiredAt = uint64(block.timestamp);
        emit ReceiptKeyRetired(msg.sender, key, stored.retiredAt);
    }

    /// @inheritdoc IOperatorRegistry
    function stake(uint256 units) external nonReentrant {
        _stake(msg.sender, units);
    }

    /// @inheritdoc IOperatorRegistry
    function stakeFor(address operator, uint256 units) external nonReentrant {
        require(operator != address(0), ZeroAddress());
        _stake(operator, units);
    }

    /// @inheritdoc IOperatorRegistry
    function restake(IOperatorRegistry next, uint256 units) external nonReentrant {
        uint128 amount = Units.toAmount(units);
        require(amount != 0, ZeroAmount());
        Stake storage stored = _stakes[msg.sender];
        uint128 staked = stored.stake;
        require(amount <= staked, InsufficientStake(msg.sender, staked, amount));
        OperatorState memory state = ISettlement(settlement).stateOf(msg.sender);
        require(_isSettled(state), StakeLocked(msg.sender, state.last + state.toRefund));
        stored.stake = staked - amount;
        emit Unstaked(msg.sender, amount);
        uint256 before = token.balance();
        token.forceApprove(address(next), units);
        next.stakeFor(msg.sender, units);
        token.forceApprove(address(next), 0);
        token.checkSent(before, units);
    }

    /// @inheritdoc IOperatorRegistry
    function startUnstake(uint128 amount) external {
        Stake storage stored = _stakes[msg.sender];
        require(amount <= stored.stake, InsufficientStake(msg.sender, stored.stake, amount));
        OperatorState memory state = ISettlement(settlement).stateOf(msg.sender);
        // The stake covers voided batches until their refunds, whose numbers follow the last one.
        uint64 lockedByBatch = state.last + state.toRefund;
        stored.unstaking = amount;
        stored.lockedByBatch = lockedByBatch;
        emit UnstakeStarted(msg.sender, amount, lockedByBatch);
    }

    /// @inheritdoc IOperatorRegistry
    function unstake() external nonReentrant returns (uint128 amount) {
        Stake memory stored = _stakes[msg.sender];
        require(stored.unstaking != 0, NothingUnstaking(msg.sender));
        _checkUnlocked(msg.sender, stored.lockedByBatch);
        // A slash in between may have reduced the stake below the requested amount.
        uint256 units = Units.toUnitsDown(stored.unstaking < stored.stake ? stored.unstaking : stored.stake);
        require(units != 0, ZeroAmount());
        amount = Units.toAmount(units);
        _stakes[msg.sender].stake = stored.stake - amount;
        _stakes[msg.sender].unstaking = 0;
        emit Unstaked(msg.sender, amount);
        token.safeTransfer(msg.sender, units);
    }

    // --- slashes ---

    /// @inheritdoc IOperatorRegistry
    function slash(
        address operator,
        uint128 upTo,
        address challenger,
        uint32 challengerPpm,
        address treasury
    ) external nonReentrant {
        require(msg.sender == settlement, NotSettlement(msg.sender));
        Stake storage stored = _stakes[operator];
        (uint128 staked, uint128 slashed) = (stored.stake, stored.slashed);
        if (upTo <= slashed) return;
        uint128 due = upTo - slashed;
        // The stake covers what is due, see `IOperatorRegistry`; a void must not revert even if it did not.
        uint256 units = Units.toUnitsDown(due < staked ? due : staked);
        uint256 reward = Units.mulPpmDown(units, challengerPpm);
        uint256 rest = units - reward;
        uint128 amount = Units.toAmount(units);
        (stored.stake, stored.slashed) = (staked - amount, slashed + amount);
        emit Slashed(operator, challenger, Units.toAmount(reward), treasury, Units.toAmount(rest));
        _payOrOwe(challenger, reward);
        _payOrOwe(treasury, rest);
    }

    /// @inheritdoc IOperatorRegistry
    function withdrawOwed(address to) external nonReentrant returns (uint128 amount) {
        amount = owed[msg.sender];
        require(amount != 0, NothingOwed(msg.sender));
        owed[msg.sender] = 0;
        emit OwedWithdrawn(msg.sender, to, amount);
        token.safeTransfer(to, Units.toUnitsDown(amount));
    }

    // --- views ---

    /// @inheritdoc IOperatorRegistry
    function operatorOfKey(address key) external view returns (address) {
        return _keys[key].operator;
    }

    /// @inheritdoc IOperatorRegistry
    function retiredAt(address key) external view returns (uint64) {
        return _keys[key].retiredAt;
    }

    /// @inheritdoc IOperatorRegistry
    function isReceiptKey(address key, address operator, uint64 committedAt) external view returns (bool) {
        ReceiptKey memory stored = _keys[key];
        bool isBound = stored.operator == operator && operator != address(0);
        return isBound && (stored.retiredAt == 0 || committedAt <= stored.retiredAt);
    }

    /// @inheritdoc IOperatorRegistry
    function stakeOf(address operator) external view returns (Stake memory) {
        return _stakes[operator];
    }

    /// @inheritdoc IOperatorRegistry
    function coverOf(address operator) external view returns (uint128 cover, uint128 slashed) {
        Stake storage stored = _stakes[operator];
        (uint128 staked, uint128 unstaking) = (stored.stake, stored.unstaking);
        return (staked > unstaking ? staked - unstaking : 0, stored.slashed);
    }

    /// @dev A payee that the token refuses, for instance by a block list, must not prevent a slash.
    function _payOrOwe(address payee, uint256 units) private {
        if (units == 0 || token.trySafeTransfer(payee, units)) return;
        uint128 amount = Units.toAmount(units);
        owed[payee] += amount;
        emit Owed(payee, amount);
    }

    function _stake(address operator, uint256 units) private {
        uint128 amount = Units.toAmount(units);
        require(amount != 0, ZeroAmount());
        _stakes[operator].stake += amount;
        emit Staked(operator, amount);
        token.pull(units);
    }

    function _checkUnlocked(address operator, uint64 lockedByBatch) private view {
        OperatorState memory state = ISettlement(settlement).stateOf(operator);
        bool isUnlocked = _isSettled(state) || state.finalised >= lockedByBatch;
        require(isUnlocked, StakeLocked(operator, lockedByBatch));
    }

    /// @dev Whether no batch of the operator is pending or to be refunded.
    function _isSettled(OperatorState memory state) private pure returns (bool) {
        return state.finalised == state.last && state.toRefund == 0;
    }
}
