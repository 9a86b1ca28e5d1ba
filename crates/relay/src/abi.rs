//! The contracts' ABI, under the names this crate uses.

pub(crate) use chain::evm::abi::{ERC2771Forwarder, PODVault, PODVaultFactory, TestUSDC};
pub(crate) use chain::evm::typed::ForwardRequest;
