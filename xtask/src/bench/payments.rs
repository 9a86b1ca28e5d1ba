//! Payments verified per second on one core: from a request's headers to a payer
//! who is known; and how many bare key recoveries by alloy's own function go into
//! the same time, taken in turns with it. That function recovers and then verifies;
//! ours only recovers, which is as good, so that the ratio may exceed one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::Signature;
use alloy::signers::SignerSync;
use anyhow::{Context, Result};
use domain::{Address, B256, UnixMillis, Usdc};
use http::{HeaderMap, HeaderName};
use relay::fake::TestWallet;
use x402::{
    Buyer, ClockTolerance, Offer, PAYMENT_REQUIRED, Quote, Resource, SellerTiming, SignError, SignHash,
    SignedAuthorization, Token, Tokens, UnverifiedPayment, digest, payment_required, verify,
};

use super::figures::Figure;
use super::machine::pin;

/// How long each dialect is measured, beside its bare counterpart.
const SPAN: Duration = Duration::from_secs(2);
/// Different payments that are gone through.
const PAYMENTS: u8 = 64;
/// Who pays.
const PAYER: u64 = 3;
const PRICE: Usdc = Usdc(10_000);
const NOW_S: u64 = 1_800_000_000;
/// What a payment of each version answers: an offer in the headers and the body,
/// and one in the body alone.
const VERSIONS: [(&str, Option<HeaderName>); 2] = [("version 2", None), ("version 1", Some(PAYMENT_REQUIRED))];

/// Measures, and returns the figures.
pub(super) fn run() -> Result<Vec<Figure>> {
    pin(1)?;
    let mut figures = Vec::new();
    for (version, without) in &VERSIONS {
        figures.extend(VerifyBench::new(without.as_ref())?.measure(version)?);
    }
    Ok(figures)
}

struct WalletSigner(TestWallet);

impl SignHash for WalletSigner {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn sign(&self, hash: &B256) -> Result<Signature, SignError> {
        self.0.signer().sign_hash_sync(hash).map_err(|error| SignError(error.to_string()))
    }
}

/// What is sold, and requests that pay for it.
struct VerifyBench {
    tokens: Arc<Tokens>,
    quote: Quote,
    tolerance: ClockTolerance,
    requests: Vec<HeaderMap>,
}

impl VerifyBench {
    fn new(without: Option<&HeaderName>) -> Result<Self> {
        let token = Token::new(338, "cronos-testnet", Address::repeat_byte(0xaa), "Bridged USDC (Stargate)", "2");
        let tokens: Arc<Tokens> = Arc::new([token].into_iter().collect());
        let token = tokens.iter().next().context("find the token")?.clone();
        let offer = Offer { token, pay_to: Address::repeat_byte(0xee), amount: PRICE, max_timeout_s: 300 };
        let resource = Resource {
            url: "https://agent.example/v1/chat/completions".to_owned(),
            description: "one answer".to_owned(),
            mime_type: "application/json".to_owned(),
        };
        let quote = Quote { resource, offers: vec![offer] };
        let requests = paid(&tokens, &quote, without)?;
        let terms = SellerTiming { settle_margin_s: 10, clock_skew_s: 30, lease_ms: 1 };
        Ok(Self { tokens, quote, tolerance: terms.tolerance(UnixMillis(NOW_S * 1000)), requests })
    }

    fn measure(&self, version: &str) -> Result<[Figure; 3]> {
        let signed = self.requests.iter().map(|headers| self.check(headers)).collect::<Result<Vec<_>>>()?;
        let (mut ours, mut bare, mut count) = (Duration::ZERO, Duration::ZERO, 0_u32);
        while ours < SPAN {
            let since = Instant::now();
            for headers in &self.requests {
                black_box(self.check(black_box(headers))?);
            }
            ours += since.elapsed();
            let since = Instant::now();
            for (offer, signed) in &signed {
                let hash = digest(&offer.token, &signed.authorization);
                black_box(signed.signature.recover_address_from_prehash(black_box(&hash))?);
            }
            bare += since.elapsed();
            count += u32::from(PAYMENTS);
        }
        let per_second = |took: Duration| f64::from(count) / took.as_secs_f64();
        Ok([
            Figure::new(format!("x402 payments verified per second, one core, {version}"), per_second(ours), "1/s"),
            Figure::new("… bare key recoveries by alloy", per_second(bare), "1/s"),
            Figure::new("… ratio", per_second(ours) / per_second(bare), "×"),
        ])
    }

    fn check(&self, headers: &HeaderMap) -> Result<(Offer, SignedAuthorization)> {
        let presented = UnverifiedPayment::from_headers(headers, &self.tokens).map_err(|(_, reason)| reason)?;
        let presented = presented.context("find the payment")?;
        Ok(verify(&self.quote, &presented, &self.tolerance)?)
    }
}

/// Requests that pay, as our own buyer makes them from what the seller asks.
fn paid(tokens: &Arc<Tokens>, quote: &Quote, without: Option<&HeaderName>) -> Result<Vec<HeaderMap>> {
    let buyer = Buyer::new(WalletSigner(TestWallet::new(PAYER)), Arc::clone(tokens), 600);
    let mut asked = payment_required(quote, "payment required");
    if let Some(name) = without {
        asked.headers_mut().remove(name);
    }
    let pay = |nonce| buyer.pay(asked.headers(), asked.body(), PRICE, NOW_S, B256::repeat_byte(nonce));
    (0..PAYMENTS).map(|nonce| Ok(HeaderMap::from_iter([pay(nonce)?.header]))).collect()
}
