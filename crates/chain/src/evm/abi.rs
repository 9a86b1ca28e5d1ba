//! The contracts, as their checked-in ABI has them: a function, event or error
//! that is named here and not there does not compile.

#![expect(missing_docs, reason = "the contracts' own documentation is in contracts/src/interfaces")]

use alloy_sol_types::sol;

sol!(
    #[sol(all_derives)]
    PODVault,
    "../../contracts/abi/PODVault.json"
);
sol!(
    #[sol(all_derives)]
    PODVaultFactory,
    "../../contracts/abi/PODVaultFactory.json"
);
sol!(
    #[sol(all_derives)]
    TestUSDC,
    "../../contracts/abi/TestUSDC.json"
);
sol!(
    #[sol(all_derives)]
    ERC2771Forwarder,
    "../../contracts/abi/ERC2771Forwarder.json"
);
