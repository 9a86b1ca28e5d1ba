//! Paying for an agent's answer, within what was said.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::Signature;
use domain::{Address, B256, Clock, SystemClock, Usdc};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use identity::{Identity, SignerSync};
use x402::{BuyError, Buyer, SignError, SignHash, SignedPayment, Tokens};

use crate::cli::Signer;
use crate::signer::open;
use crate::up::StateDir;

/// Who pays, how much at most, and what was paid.
pub(crate) struct LimitedPayer<'a> {
    signer: &'a Signer,
    state: &'a StateDir,
    most: Option<Usdc>,
    paying: Mutex<Option<SignedPayment>>,
}

/// A key that is opened only when something is to be signed.
struct KeySigner(Identity);

impl SignHash for KeySigner {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn sign(&self, hash: &B256) -> Result<Signature, SignError> {
        self.0.sign_hash_sync(hash).map_err(|error| SignError(error.to_string()))
    }
}

/// Stands for a key while the price is only looked at.
struct NoSigner;

impl SignHash for NoSigner {
    fn address(&self) -> Address {
        Address::ZERO
    }

    fn sign(&self, _: &B256) -> Result<Signature, SignError> {
        Err(SignError("nothing was to be paid".to_owned()))
    }
}

impl<'a> LimitedPayer<'a> {
    pub(crate) fn new(signer: &'a Signer, state: &'a StateDir, most: Option<Usdc>) -> Self {
        Self { signer, state, most, paying: Mutex::new(None) }
    }

    /// The tokens that may be paid in: USDC on Cronos, and the token of the stack
    /// that runs here.
    fn tokens(&self) -> anyhow::Result<Arc<Tokens>> {
        let mut config = x402::Config::default();
        if let Some(stack) = self.state.running()? {
            config.tokens.push(stack.token());
        }
        Ok(Arc::new(config.tokens()))
    }

    fn sign(&self, headers: &HeaderMap, body: &[u8]) -> Result<SignedPayment, Box<dyn Error + Send + Sync>> {
        let most_s = x402::Config::default().max_timeout_s;
        let now_s = SystemClock.now().0 / 1000;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)?;
        let nonce = B256::from(nonce);
        let Some(most) = self.most else {
            let look = Buyer::new(NoSigner, self.tokens()?, most_s).pay(headers, body, Usdc::ZERO, now_s, nonce);
            return Err(match look {
                Err(BuyError::TooDear { asked, .. }) => {
                    format!("it costs {asked} USDC: pass --pay-up-to {asked}").into()
                }
                Err(error) => error.into(),
                Ok(_) => "it asks for a payment of nothing".into(),
            });
        };
        let signer = KeySigner(open(self.signer, self.state)?);
        Ok(Buyer::new(signer, self.tokens()?, most_s).pay(headers, body, most, now_s, nonce)?)
    }
}

impl client::Payer for LimitedPayer<'_> {
    fn pay(&self, headers: &HeaderMap, body: &[u8]) -> Result<(HeaderName, HeaderValue), Box<dyn Error + Send + Sync>> {
        let paying = self.sign(headers, body)?;
        let header = paying.header.clone();
        *self.paying.lock().unwrap_or_else(PoisonError::into_inner) = Some(paying);
        Ok(header)
    }

    fn paid(&self, headers: &HeaderMap) {
        let paying = self.paying.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(paying) = paying else { return };
        let tx = x402::receipt(headers).map(|tx| format!(" in {tx}")).unwrap_or_default();
        eprintln!("Paid {} USDC to {}{tx}.", paying.amount, paying.payee);
    }
}
