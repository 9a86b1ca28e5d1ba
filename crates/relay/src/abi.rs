//! The contracts, from their checked-in ABI, and EIP-712's view of what is signed.

use alloy_sol_types::sol;

mod generated {
    use super::sol;

    sol!(ERC2771Forwarder, "../../contracts/abi/ERC2771Forwarder.json");
    sol!(PODVault, "../../contracts/abi/PODVault.json");
    sol!(PODVaultFactory, "../../contracts/abi/PODVaultFactory.json");
    sol!(TestUSDC, "../../contracts/abi/TestUSDC.json");
}

pub(crate) use generated::{ERC2771Forwarder, PODVault, PODVaultFactory, TestUSDC};

sol! {
    /// What OpenZeppelin's forwarder has its signers sign.
    #[derive(Debug)]
    struct ForwardRequest {
        address from;
        address to;
        uint256 value;
        uint256 gas;
        uint256 nonce;
        uint48 deadline;
        bytes data;
    }

    /// EIP-3009.
    #[derive(Debug)]
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}
