//! Payments verified per second on one core: from a request's header to a payer
//! who is known; and how many bare key recoveries by alloy's own function go into
//! the same time, taken in turns with it. `cargo run --release -p palatine-x402 --example verifications`

#![expect(clippy::print_stdout, reason = "this prints a figure")]
#![expect(clippy::unwrap_used, reason = "what is measured is made here")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use domain::{Address, B256, UnixMillis, Usdc};
use http::{HeaderMap, HeaderName};
use palatine_x402::fake::Payer;
use palatine_x402::{
    Buyer, Offer, PAYMENT_REQUIRED, Quote, Resource, SellerTiming, Token, Tokens, UnverifiedPayment, digest,
    payment_required, verify,
};

const NOW: u64 = 1_800_000_000;
/// How long each dialect is measured.
const SPAN: Duration = Duration::from_secs(3);
/// Different payments that are gone through.
const PAYMENTS: u8 = 64;

fn main() {
    let tokens: std::sync::Arc<Tokens> = std::sync::Arc::new(
        [Token::new(338, "cronos-testnet", Address::repeat_byte(0xaa), "Bridged USDC (Stargate)", "1")]
            .into_iter()
            .collect(),
    );
    let offer = Offer {
        token: tokens.iter().next().unwrap().clone(),
        pay_to: Address::repeat_byte(0xee),
        amount: Usdc(10_000),
        max_timeout_s: 300,
    };
    let resource = Resource {
        url: "https://agent.example/v1/chat/completions".into(),
        description: "one answer".into(),
        mime_type: "application/json".into(),
    };
    let quote = Quote { resource, offers: vec![offer] };
    for (dialect, drop) in [("v2", None), ("v1", Some(PAYMENT_REQUIRED))] {
        let (ours, bare) = measure(&tokens, &quote, drop.as_ref());
        println!(
            "{dialect}: {ours:.0} payments verified per second on one core, {:.2} x alloy's bare key recoveries ({bare:.0})",
            ours / bare,
        );
    }
}

/// Payments, and bare recoveries, per second.
fn measure(tokens: &std::sync::Arc<Tokens>, quote: &Quote, drop: Option<&HeaderName>) -> (f64, f64) {
    let payments = payments(tokens, quote, drop);
    let terms = SellerTiming { settle_margin_s: 10, clock_skew_s: 30, lease_ms: 1 };
    let tolerance = terms.tolerance(UnixMillis(NOW * 1000));
    let check = |headers: &HeaderMap| {
        let presented = UnverifiedPayment::from_headers(black_box(headers), tokens).unwrap().unwrap();
        verify(quote, &presented, &tolerance).unwrap()
    };
    let signed: Vec<_> = payments.iter().map(|headers| check(headers).1).collect();
    let token = &quote.offers[0].token;
    let (mut ours, mut bare, mut rounds) = (Duration::ZERO, Duration::ZERO, 0_u32);
    while ours < SPAN {
        ours += timed(|| payments.iter().for_each(|headers| drop_it(check(headers))));
        bare += timed(|| {
            for signed in &signed {
                let hash = digest(token, &signed.authorization);
                drop_it(signed.signature.recover_address_from_prehash(black_box(&hash)).unwrap());
            }
        });
        rounds += 1;
    }
    let count = f64::from(rounds) * f64::from(PAYMENTS);
    (count / ours.as_secs_f64(), count / bare.as_secs_f64())
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn drop_it<T>(value: T) {
    black_box(value);
}

fn payments(tokens: &std::sync::Arc<Tokens>, quote: &Quote, drop: Option<&HeaderName>) -> Vec<HeaderMap> {
    let key = Payer::new(0x42);
    let buyer = Buyer::new(key, tokens.clone(), 600);
    let mut asked = payment_required(quote, "payment required");
    if let Some(name) = drop {
        asked.headers_mut().remove(name);
    }
    let pay = |nonce| buyer.pay(asked.headers(), asked.body(), Usdc(10_000), NOW, B256::repeat_byte(nonce)).unwrap();
    (0..PAYMENTS).map(|nonce| HeaderMap::from_iter([pay(nonce).header])).collect()
}
