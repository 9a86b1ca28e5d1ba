// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Nothing of ours: it has OpenZeppelin's forwarder compiled with the rest, to be deployed as it is.
// solhint-disable-next-line no-unused-import
import {ERC2771Forwarder} from "@openzeppelin/contracts/metatx/ERC2771Forwarder.sol";
