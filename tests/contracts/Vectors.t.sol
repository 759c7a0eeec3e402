// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Base} from "./support/Base.sol";

contract VectorsTest is Base {
    function test_probe() external view {
        string memory json = vm.readFile("tests/vectors/splits.json");
        uint256[] memory charges = vm.parseJsonUintArray(json, "$[*].charge");
        bytes[] memory lists = vm.parseJsonBytesArray(json, "$[*].list");
        vm.assertEq(charges.length, lists.length);
        vm.assertTrue(vm.keyExistsJson(json, "$[1]"));
        vm.assertFalse(vm.keyExistsJson(json, "$[1111]"));
        uint256[] memory parts = vm.parseJsonUintArray(json, "$[1].parts");
        vm.assertEq(parts.length, 1);
    }
}
