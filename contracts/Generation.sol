// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {OperatorRegistry} from "./OperatorRegistry.sol";
import {Settlement} from "./Settlement.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {Bounds, IParameters} from "./interfaces/IParameters.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";

/// @title Generation
/// @notice Creates, in its constructor, the contracts that know each other for ever: operator registry, settlement and
/// disputes. It can do nothing afterwards, so nobody can ever put another contract in the place of one of them.
///
/// The fraud proofs are not written yet: `disputes` is the address at which this contract would have created them. It
/// stays without code, as only this contract could fill it, so in this generation nobody can void a batch or slash a
/// stake.
contract Generation {
    /// @notice The stakes and receipt keys.
    IOperatorRegistry public immutable operators;

    /// @notice The collector that payers name when they open a channel.
    ISettlement public immutable settlement;

    /// @notice The fraud proofs.
    address public immutable disputes;

    error UnstakeTooShort(uint64 unstakeSeconds, uint64 needed);

    /// @notice Creates the set.
    /// @param parameters The governed numbers; they name the vault.
    /// @param unstakeSeconds How long a stake stays locked after it was asked back: at least the longest dispute
    /// window and the margin.
    constructor(IParameters parameters, uint64 unstakeSeconds) {
        Bounds memory bounds = parameters.bounds();
        uint64 needed = uint64(bounds.maxDisputeWindow) + bounds.margin;
        require(unstakeSeconds >= needed, UnstakeTooShort(unstakeSeconds, needed));
        (address settlementAt, address disputesAt) = (_created(2), _created(3));
        operators = new OperatorRegistry(parameters.vault().token(), unstakeSeconds, settlementAt, disputesAt);
        settlement = new Settlement(parameters, operators, disputesAt);
        disputes = disputesAt;
        assert(address(settlement) == settlementAt);
    }

    /// @dev The address of this contract's creation number `nonce`, below 128 (the RLP of sender and nonce).
    function _created(uint8 nonce) private view returns (address) {
        bytes32 hash = keccak256(abi.encodePacked(bytes2(0xd694), address(this), nonce));
        return address(uint160(uint256(hash)));
    }
}
