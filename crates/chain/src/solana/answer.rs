//! What an RPC's answers mean. Pure; trusts nothing.

use std::collections::HashSet;

use domain::{TokenAmount, Wallet};
use serde::Deserialize;

use crate::TokenProgram;

/// What is pinned of the mint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mint {
    pub(super) address: String,
    pub(super) program: TokenProgram,
    pub(super) decimals: u8,
}

/// Why an answer cannot be used, though it is of the right shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidAnswer {
    #[error("an account of another mint")]
    OtherMint,
    #[error("an account of another owner")]
    OtherOwner,
    #[error("an account with other decimals")]
    OtherDecimals,
    #[error("the same account twice")]
    Twice,
    #[error("an amount that is no 64-bit integer")]
    Amount,
    #[error("no such mint here")]
    NoMint,
    #[error("the mint belongs to a program that keeps no tokens")]
    NoTokenProgram,
    #[error("the mint is not initialised")]
    Uninitialised,
}

/// An answer that says which slot it is of.
#[derive(Debug, Deserialize)]
pub(super) struct AnswerAtSlot<T> {
    pub(super) context: ResponseContext,
    pub(super) value: T,
}

#[derive(Debug, Deserialize)]
pub(super) struct ResponseContext {
    pub(super) slot: u64,
}

/// One token account, with its address.
#[derive(Debug, Deserialize)]
pub(super) struct TokenAccount {
    pubkey: String,
    account: ParsedAccount<AccountInfo>,
}

/// An account whose data the RPC has parsed. Raw data (an array) is refused.
#[derive(Debug, Deserialize)]
pub(super) struct ParsedAccount<I> {
    owner: String,
    data: Data<I>,
}

#[derive(Debug, Deserialize)]
struct Data<I> {
    parsed: Parsed<I>,
}

#[derive(Debug, Deserialize)]
struct Parsed<I> {
    info: I,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountInfo {
    mint: String,
    owner: String,
    state: AccountState,
    token_amount: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AccountState {
    Uninitialized,
    Initialized,
    Frozen,
}

/// `uiAmount` is a nullable float and is not read.
#[derive(Debug, Deserialize)]
struct Amount {
    amount: String,
    decimals: u8,
}

/// What a mint says of itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MintInfo {
    decimals: u8,
    is_initialized: bool,
}

/// The sum of what counts. Accounts that another program owns are not of this
/// token, whatever they say.
pub(super) fn sum(accounts: &[TokenAccount], mint: &Mint, wallet: &Wallet) -> Result<TokenAmount, InvalidAnswer> {
    let wallet = wallet.to_string();
    let mut seen = HashSet::with_capacity(accounts.len());
    let mut total = 0_u128;
    for held in accounts.iter().filter(|held| held.account.owner == mint.program.address()) {
        if !seen.insert(held.pubkey.as_str()) {
            return Err(InvalidAnswer::Twice);
        }
        total += u128::from(counted(&held.account.data.parsed.info, mint, &wallet)?);
    }
    Ok(TokenAmount(total))
}

fn counted(info: &AccountInfo, mint: &Mint, wallet: &str) -> Result<u64, InvalidAnswer> {
    if info.mint != mint.address {
        return Err(InvalidAnswer::OtherMint);
    }
    if info.owner != wallet {
        return Err(InvalidAnswer::OtherOwner);
    }
    if info.token_amount.decimals != mint.decimals {
        return Err(InvalidAnswer::OtherDecimals);
    }
    let amount = integer(&info.token_amount.amount).ok_or(InvalidAnswer::Amount)?;
    Ok(match info.state {
        AccountState::Initialized => amount,
        AccountState::Frozen | AccountState::Uninitialized => 0,
    })
}

/// Digits alone: `u64::from_str` would take a sign.
fn integer(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What to pin of a mint.
pub(super) fn mint(address: &str, account: Option<&ParsedAccount<MintInfo>>) -> Result<Mint, InvalidAnswer> {
    let account = account.ok_or(InvalidAnswer::NoMint)?;
    let program = TokenProgram::at(&account.owner).ok_or(InvalidAnswer::NoTokenProgram)?;
    let info = &account.data.parsed.info;
    if !info.is_initialized {
        return Err(InvalidAnswer::Uninitialised);
    }
    Ok(Mint { address: address.to_owned(), program, decimals: info.decimals })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const MINT: &str = "5ruEtrHGgqxE3Zo1UdRAvVrdetLwq6SFJvLjgth6pump";
    const OWNER: Wallet = Wallet([9; 32]);

    fn pinned() -> Mint {
        Mint { address: MINT.to_owned(), program: TokenProgram::SplToken, decimals: 6 }
    }

    fn account(pubkey: &str, amount: &Value, state: &str) -> Value {
        json!({"pubkey": pubkey, "account": {
            "owner": TokenProgram::SplToken.address(),
            "data": {"program": "spl-token", "space": 165, "parsed": {"type": "account", "info": {
                "mint": MINT, "owner": OWNER.to_string(), "state": state, "isNative": false,
                "tokenAmount": {"amount": amount, "decimals": 6, "uiAmount": null, "uiAmountString": "?"},
            }}},
        }})
    }

    fn read(accounts: Value) -> Result<Result<TokenAmount, InvalidAnswer>, serde_json::Error> {
        let accounts: Vec<TokenAccount> = serde_json::from_value(accounts)?;
        Ok(sum(&accounts, &pinned(), &OWNER))
    }

    fn changed(pointer: &str, to: Value) -> Result<Result<TokenAmount, InvalidAnswer>, serde_json::Error> {
        let mut accounts = json!([account("a", &json!("5"), "initialized")]);
        *accounts.pointer_mut(pointer).unwrap() = to;
        read(accounts)
    }

    #[test]
    fn frozen_and_uninitialised_accounts_do_not_count() {
        let accounts = json!([
            account("a", &json!("5"), "initialized"),
            account("b", &json!("7"), "frozen"),
            account("c", &json!("9"), "uninitialized"),
        ]);
        assert_eq!(read(accounts).unwrap(), Ok(TokenAmount(5)));
    }

    #[test]
    fn a_delegated_amount_belongs_to_its_owner() {
        let mut one = account("a", &json!("5"), "initialized");
        one["account"]["data"]["parsed"]["info"]["delegate"] = json!("somebody");
        one["account"]["data"]["parsed"]["info"]["delegatedAmount"] = json!({"amount": "5", "decimals": 6});
        assert_eq!(read(json!([one])).unwrap(), Ok(TokenAmount(5)));
    }

    #[test]
    fn sums_beyond_64_bits_are_exact() {
        let accounts: Vec<_> =
            (0..3).map(|at| account(&at.to_string(), &json!(u64::MAX.to_string()), "initialized")).collect();
        assert_eq!(read(json!(accounts)).unwrap(), Ok(TokenAmount(3 * u128::from(u64::MAX))));
    }

    #[test]
    fn amounts_that_are_no_integer_texts_are_refused() {
        for amount in ["+5", "-5", "5.0", "5e3", "0x5", "", " 5", "18446744073709551616", "NaN"] {
            let answer = changed("/0/account/data/parsed/info/tokenAmount/amount", json!(amount)).unwrap();
            // The empty text is no number either.
            assert_eq!(answer, Err(InvalidAnswer::Amount), "{amount:?}");
        }
        for amount in [json!(5), json!(5.5), json!(null), json!(["5"])] {
            assert!(changed("/0/account/data/parsed/info/tokenAmount/amount", amount).is_err());
        }
    }

    #[test]
    fn accounts_of_others_are_refused() {
        let info = "/0/account/data/parsed/info";
        let cases = [
            ("mint", json!("So11111111111111111111111111111111111111112"), InvalidAnswer::OtherMint),
            ("owner", json!(Wallet([8; 32]).to_string()), InvalidAnswer::OtherOwner),
            ("tokenAmount/decimals", json!(9), InvalidAnswer::OtherDecimals),
        ];
        for (field, to, said) in cases {
            assert_eq!(changed(&format!("{info}/{field}"), to).unwrap(), Err(said));
        }
        let twice = json!([account("a", &json!("5"), "initialized"), account("a", &json!("5"), "initialized")]);
        assert_eq!(read(twice).unwrap(), Err(InvalidAnswer::Twice));
    }

    #[test]
    fn accounts_of_another_program_are_not_of_this_token() {
        let other = changed("/0/account/owner", json!(TokenProgram::Token2022.address())).unwrap();
        assert_eq!(other, Ok(TokenAmount(0)));
    }

    #[test]
    fn shapes_we_do_not_know_are_errors_and_not_zero() {
        assert!(changed("/0/account/data", json!(["AAAA", "base64"])).is_err());
        assert!(changed("/0/account/data/parsed/info/state", json!("thawed")).is_err());
        assert!(changed("/0", json!(null)).is_err());
        assert!(read(json!(null)).is_err());
        assert!(read(json!({})).is_err());
    }

    #[test]
    fn a_mint_is_pinned_with_its_program_and_decimals() {
        let of = |owner: &str, ready: bool| {
            let account: ParsedAccount<MintInfo> = serde_json::from_value(json!({
                "owner": owner, "data": {"parsed": {"info": {"decimals": 6, "isInitialized": ready}}},
            }))
            .unwrap();
            mint(MINT, Some(&account))
        };
        assert_eq!(of(TokenProgram::Token2022.address(), true).unwrap().program, TokenProgram::Token2022);
        assert_eq!(of("11111111111111111111111111111111", true), Err(InvalidAnswer::NoTokenProgram));
        assert_eq!(of(TokenProgram::SplToken.address(), false), Err(InvalidAnswer::Uninitialised));
        assert_eq!(mint(MINT, None), Err(InvalidAnswer::NoMint));
    }

    proptest! {
        #[test]
        fn the_sum_is_the_sum(amounts in proptest::collection::vec(any::<u64>(), 0..40)) {
            let accounts: Vec<_> = amounts
                .iter()
                .enumerate()
                .map(|(at, amount)| account(&at.to_string(), &json!(amount.to_string()), "initialized"))
                .collect();
            let total: u128 = amounts.iter().copied().map(u128::from).sum();
            prop_assert_eq!(read(json!(accounts)).unwrap(), Ok(TokenAmount(total)));
        }
    }
}
