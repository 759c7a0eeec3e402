// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IPaymentVault} from "./interfaces/IPaymentVault.sol";
import {Claim, ISettlement, Opening} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Units} from "./libraries/Units.sol";

/// @title Claims
/// @notice The part of `Settlement` that pays accounts what final batches credited to them; see `ISettlement`.
abstract contract Claims is ISettlement, EIP712, Nonces {
    /// @inheritdoc ISettlement
    IPaymentVault public immutable override vault;

    /// @inheritdoc ISettlement
    mapping(address operator => bytes32) public override balancesHashOf;
    /// @inheritdoc ISettlement
    mapping(address operator => mapping(address account => uint128 amount)) public override claimedOf;
    mapping(address account => address wallet) private _payoutWallets;

    constructor(IPaymentVault vault_) EIP712("loraledger", "1") {
        vault = vault_;
    }

    /// @inheritdoc ISettlement
    function claim(Claim calldata request) external {
        (address operator, address account) = (request.operator, request.account);
        Opening calldata opening = request.opening;
        uint128 finalTotal = _checkBalance(operator, account, request.balancesCount, opening);
        mapping(address => uint128) storage claimedBy = claimedOf[operator];
        uint128 claimed = claimedBy[account];
        (uint256 units, uint128 amount) = _claimable(operator, account, opening.value, claimed);

        uint128 cumulative = claimed + amount;
        claimedBy[account] = cumulative;
        address wallet = payoutWalletOf(account);
        emit Claimed(operator, account, wallet, amount, cumulative);
        // The wall: never more than the final batches collected is paid out, so what the others collected stays.
        vault.payOut(operator, wallet, units, finalTotal);
    }

    /// @inheritdoc ISettlement
    function claimMany(Claim[] calldata requests) external {
        for (uint256 i = 0; i < requests.length; ++i) {
            // A call for each, so that whatever refuses one can be told with its place.
            // solhint-disable-next-line no-empty-blocks
            try this.claim(requests[i]) {} catch (bytes memory reason) {
                require(bytes4(reason) == NothingToClaim.selector, ClaimFailed(i, reason));
            }
        }
    }

    /// @inheritdoc ISettlement
    function setPayoutWallet(address wallet) external {
        _setPayoutWallet(msg.sender, wallet);
    }

    /// @inheritdoc ISettlement
    function setPayoutWalletWithSig(
        address account,
        address wallet,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        require(block.timestamp <= deadline, SignatureExpired(deadline));
        _useCheckedNonce(account, nonce);
        bytes32 structHash = Hashing.payoutChange(account, wallet, nonce, deadline);
        require(Signatures.isValid(account, _hashTypedDataV4(structHash), signature), InvalidSignature(account));
        _setPayoutWallet(account, wallet);
    }

    /// @inheritdoc ISettlement
    function payoutWalletOf(address account) public view returns (address) {
        address wallet = _payoutWallets[account];
        return wallet == address(0) ? account : wallet;
    }

    // --- inside ---

    /// @notice What may be claimed of `earned`; reverts if that is less than a unit.
    /// @return units In whole units.
    /// @return amount The same in micro-units: at most what was earned beyond what was claimed.
    function _claimable(
        address operator,
        address account,
        uint128 earned,
        uint128 claimed
    ) private pure returns (uint256 units, uint128 amount) {
        // A dishonest batch may state less than was claimed already.
        unchecked {
            uint128 claimable = earned > claimed ? earned - claimed : 0;
            units = Units.toUnitsDown(claimable);
            require(units != 0, NothingToClaim(operator, account, claimable));
            return (units, claimable - (claimable % Units.MICRO));
        }
    }

    function _setPayoutWallet(address account, address wallet) private {
        // The vault pays nobody out to itself: every claim of the account would revert.
        require(wallet != address(vault), InvalidWallet(wallet));
        _payoutWallets[account] = wallet;
        emit PayoutWalletChanged(account, wallet == address(0) ? account : wallet);
    }

    /// @notice Opens the balance against the latest final batch.
    /// @return finalTotal The sum of the balances of the operator's latest final batch.
    function _checkBalance(
        address operator,
        address account,
        uint32 count,
        Opening calldata opening
    ) private view returns (uint128 finalTotal) {
        bytes32 root;
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.BALANCES, Hashing.account(account));
        (root, finalTotal, ) = MerkleSum.open(leaf, count, opening);
        bytes32 opened = Hashing.balances(root, count, finalTotal);
        bytes32 expected = balancesHashOf[operator];
        require(opened == expected, BalancesMismatch(operator, expected, opened));
    }
}
