//! Why a call reverted, in words: from revert data, which others wrote. Pure.

use alloy_primitives::hex;
use alloy_sol_types::{Panic, Revert, SolError};

use crate::abi::{ERC2771Forwarder, PODVault, PODVaultFactory, TestUSDC};

/// Characters of a reason at most.
pub const MAX_REASON: usize = 200;
/// Bytes of revert data that are looked at.
const MAX_DATA: usize = 4096;

/// What revert data says: a text, a panic, or one of our contracts' errors by
/// name; its selector where it is none of these. Bounded, whatever the data.
#[must_use]
pub fn reason(data: &[u8]) -> String {
    let data = &data[..data.len().min(MAX_DATA)];
    if data.is_empty() {
        return "the call reverted without a reason".to_owned();
    }
    printable(&text(data).or_else(|| panic(data)).or_else(|| named(data)).unwrap_or_else(|| unknown(data)))
}

fn text(data: &[u8]) -> Option<String> {
    Revert::abi_decode(data).ok().map(|revert| revert.reason)
}

fn panic(data: &[u8]) -> Option<String> {
    let panic = Panic::abi_decode(data).ok()?;
    let meaning = panic.kind().map_or("unknown", |kind| kind.as_str());
    Some(format!("panic {:#x}: {meaning}", panic.code))
}

fn named(data: &[u8]) -> Option<String> {
    let selector = *data.first_chunk()?;
    let names = [
        PODVault::PODVaultErrors::name_by_selector,
        PODVaultFactory::PODVaultFactoryErrors::name_by_selector,
        ERC2771Forwarder::ERC2771ForwarderErrors::name_by_selector,
        TestUSDC::TestUSDCErrors::name_by_selector,
    ];
    names.iter().find_map(|of| of(selector)).map(ToOwned::to_owned)
}

fn unknown(data: &[u8]) -> String {
    let selector = data.get(..4).map(hex::encode_prefixed);
    selector.map_or_else(|| "an unknown error".to_owned(), |it| format!("the unknown error {it}"))
}

/// Others' words: no control characters, bounded.
pub(crate) fn printable(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_panics_and_our_errors_are_named() {
        assert_eq!(reason(&Revert::from("too late").abi_encode()), "too late");
        assert!(reason(&Panic::from(0x11_u64).abi_encode()).starts_with("panic 0x11"));
        assert_eq!(reason(&PODVault::ZeroAmount {}.abi_encode()), "ZeroAmount");
        assert_eq!(reason(&[1, 2, 3, 4]), "the unknown error 0x01020304");
        assert_eq!(reason(&[]), "the call reverted without a reason");
    }

    #[test]
    fn a_return_bomb_becomes_a_short_reason() {
        let bomb = Revert::from("\u{7}boom".repeat(100_000)).abi_encode();
        assert!(reason(&bomb).len() <= MAX_REASON);
        let long = Revert::from("x".repeat(1000)).abi_encode();
        assert_eq!(reason(&long), "x".repeat(MAX_REASON));
    }

    proptest! {
        #[test]
        fn no_data_makes_it_panic(data in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(!reason(&data).is_empty());
        }
    }
}
