// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {Channel, ChannelId, ChannelMove, Collection, Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {Proof} from "./Prover.sol";

/// @notice A token that transfers any amount that the vault requests, which is more than real tokens allow.
contract GenerousToken is ERC20("Generous", "GEN") {
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function transferFrom(address from, address to, uint256 units) public override returns (bool) {
        _mint(from, units);
        _transfer(from, to, units);
        return true;
    }

    function transfer(address, uint256) public pure override returns (bool) {
        return true;
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 units,
        uint256,
        uint256,
        bytes32,
        uint8,
        bytes32,
        bytes32
    ) external {
        transferFrom(from, to, units);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 units,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        transferFrom(from, to, units);
    }
}

/// @notice A vault with arbitrary storage, and an arbitrary channel in it.
abstract contract AnyVault is Proof {
    struct Books {
        uint256 balance;
        uint256 collected;
        uint256 pot;
    }

    PaymentVault internal immutable _vault;

    address internal _payer;
    address internal _operator;
    address internal _collector;

    constructor() {
        _vault = new PaymentVault(new GenerousToken(), 7 days);
    }

    function _begin(address payer, address operator, address collector) internal {
        svm.enableSymbolicStorage(address(_vault));
        (_payer, _operator, _collector) = (payer, operator, collector);
    }

    function _id() internal view returns (ChannelId) {
        return _vault.channelIdOf(_payer, _operator, _collector);
    }

    function _books() internal view returns (Books memory) {
        return _booksUnder(_collector);
    }

    /// @dev The books of the same payer and operator under another collector.
    function _booksUnder(address collector) internal view returns (Books memory) {
        Channel memory channel = _vault.channelOf(_vault.channelIdOf(_payer, _operator, collector));
        return Books(channel.balance, channel.collected, _vault.potOf(collector, _operator));
    }

    function _movesMoney(bytes4 selector) internal pure returns (bool) {
        return
            selector == PaymentVault.deposit.selector ||
            selector == PaymentVault.depositWithAuthorization.selector ||
            selector == PaymentVault.withdraw.selector ||
            selector == PaymentVault.moveBalance.selector ||
            selector == PaymentVault.collect.selector ||
            selector == PaymentVault.refund.selector ||
            selector == PaymentVault.payOut.selector;
    }

    function _collect(Collection memory c) internal {
        Collection[] memory all = new Collection[](1);
        all[0] = c;
        vm.prank(_collector);
        _vault.collect(_operator, all);
    }

    function _refund(Refund memory r) internal {
        Refund[] memory all = new Refund[](1);
        all[0] = r;
        vm.prank(_collector);
        _vault.refund(_operator, all);
    }

    function _assertDeposited(Books memory old, uint256 units) internal view {
        Books memory current = _books();
        assert(units != 0 && current.balance == old.balance + units * 1e6);
        assert(current.collected == old.collected && current.pot == old.pot);
    }

    function _assertSame(Channel memory old, Channel memory current) internal pure {
        assert(old.balance == current.balance && old.collected == current.collected);
        assert(old.thawing == current.thawing && old.thawedAt == current.thawedAt);
    }

    function _signer(Collection calldata c) internal view returns (address) {
        return
            ecrecover(
                _voucherDigest(c),
                uint8(uint256(c.vs) >> 255) + 27,
                c.r,
                bytes32((uint256(c.vs) << 1) >> 1)
            );
    }

    /// @dev The digest of the voucher, implemented independently of the contract.
    function _voucherDigest(Collection calldata c) internal view returns (bytes32) {
        bytes32 voucher = keccak256("Voucher(bytes32 channelId,uint128 from,uint128 maxCumulative)");
        return _typedDigest(keccak256(abi.encode(voucher, _id(), c.from, c.maxCumulative)));
    }

    function _moveSigner(ChannelMove calldata move, bytes calldata signature) internal view returns (address) {
        return
            ecrecover(
                _moveDigest(move),
                uint8(signature[64]),
                bytes32(signature[:32]),
                bytes32(signature[32:64])
            );
    }

    /// @dev The digest of the move, implemented independently of the contract.
    function _moveDigest(ChannelMove calldata move) internal view returns (bytes32) {
        bytes32 typehash = keccak256(
            "ChannelMove(address payer,address operator,address collector,address newCollector,uint128 maxAmount,"
            "address key,uint128 cap,uint64 expiry,uint256 nonce,uint256 deadline)"
        );
        bytes memory head = abi.encode(typehash, _payer, _operator, move.collector, move.newCollector, move.maxAmount);
        bytes memory grant = abi.encode(move.grant.key, move.grant.cap, move.grant.expiry);
        return _typedDigest(keccak256(bytes.concat(head, grant, abi.encode(move.nonce, move.deadline))));
    }

    function _typedDigest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("loraledger"),
                keccak256("1"),
                block.chainid,
                address(_vault)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
