//! A facilitator's endpoints for other sellers: `/supported`, `/verify` and
//! `/settle`, bytes in, status and JSON out.
//!
//! One payment gets one `success: true`, whatever is asked how often: a copy that
//! comes later is told `duplicate_settlement` and the transaction. Were it told
//! `success` again, a seller who verifies and settles without a record of his own
//! would serve each of many copies (arXiv 2605.30998, duplicate settlement). A
//! repeated call whose first answer was never made (it crashed) does get it.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::{Address, B256, UnixMillis, Usdc};
use serde_json::{Value, json};
use x402_types::proto::{SupportedPaymentKind, v1::VerifyResponse};

use crate::seller::SellerTiming;
use crate::settlements::{SettleOutcome, SettlementUnknown, Settlements};
use crate::verify::{check_validity, held_against};
use crate::wire::to_json;
use crate::wire::{FacilitatorRequest, SettleResponse, parse_request, settled_by_cronos};
use crate::{
    ClientAddr, Dialect, InvalidReason, Offer, PaidRequestHash, Payment, PaymentLease, PaymentState,
    SignedAuthorization, Tokens,
};

/// Seconds after which a copy of a payment that is at work may ask again.
const SOON_S: u64 = 1;
/// Seconds after which one may ask again where nothing can be decided, and nobody knows
/// for how long.
const LATER_S: u64 = 5;

/// For whom and what is settled. Each settlement costs us gas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacilitatorPolicy {
    /// Payees that are settled for.
    pub payees: AllowedPayees,
    /// The smallest payment.
    pub least: Usdc,
    /// The largest payment.
    pub most: Usdc,
    /// Seconds of `maxTimeoutSeconds` at most.
    pub max_timeout_s: u64,
}

/// Payees that are settled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedPayees {
    /// All.
    Anyone,
    /// These.
    Only(BTreeSet<Address>),
}

impl FacilitatorPolicy {
    fn allows(&self, offer: &Offer) -> bool {
        let payee = match &self.payees {
            AllowedPayees::Anyone => true,
            AllowedPayees::Only(payees) => payees.contains(&offer.pay_to),
        };
        payee && (self.least..=self.most).contains(&offer.amount) && offer.max_timeout_s <= self.max_timeout_s
    }
}

/// An answer: a status and a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacilitatorResponse {
    /// 200 for whatever was decided, good or bad; 400 for what is no request; 409
    /// while a copy is at work; 503 when nothing can be decided.
    pub status: u16,
    /// Seconds after which to ask again, with a 409 and a 503; the body says it too, as
    /// `retry_after`.
    pub retry_after_s: Option<u64>,
    /// JSON.
    pub body: Vec<u8>,
}

/// Settles for other sellers.
pub struct Facilitator {
    settlements: Arc<Settlements>,
    tokens: Arc<Tokens>,
    timing: SellerTiming,
    policy: FacilitatorPolicy,
}

/// How sure an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerKind {
    /// This was decided, well or badly.
    Decided,
    /// It was no request.
    Malformed,
    /// A copy is at work on it.
    InFlight,
    /// Nothing can be decided for so many seconds.
    Undecided(u64),
}

impl AnswerKind {
    /// Nothing can be decided, for as long as is known.
    fn broken(error: &SettlementUnknown) -> Self {
        let known =
            if let SettlementUnknown::Unavailable { retry_after_s, .. } = error { *retry_after_s } else { None };
        Self::Undecided(known.unwrap_or(LATER_S))
    }

    const fn status(self) -> u16 {
        match self {
            Self::Decided => 200,
            Self::Malformed => 400,
            Self::InFlight => 409,
            Self::Undecided(_) => 503,
        }
    }

    const fn retry_after_s(self) -> Option<u64> {
        match self {
            Self::Decided | Self::Malformed => None,
            Self::InFlight => Some(SOON_S),
            Self::Undecided(seconds) => Some(seconds),
        }
    }
}

/// How a settlement is told.
struct Outcome {
    told: AnswerKind,
    tx: Result<B256, InvalidReason>,
    /// The transaction of what was settled before.
    known: Option<B256>,
}

impl Facilitator {
    /// A facilitator for these tokens.
    #[must_use]
    pub const fn new(
        settlements: Arc<Settlements>,
        tokens: Arc<Tokens>,
        timing: SellerTiming,
        policy: FacilitatorPolicy,
    ) -> Self {
        Self { settlements, tokens, timing, policy }
    }

    /// `GET /supported`: each chain once in each version.
    #[must_use]
    pub fn supported(&self) -> FacilitatorResponse {
        let mut kinds: Vec<SupportedPaymentKind> = Vec::new();
        for token in self.tokens.iter() {
            for (x402_version, network) in [(2, token.caip2()), (1, token.network().to_owned())] {
                if !kinds.iter().any(|kind| kind.network == network) {
                    kinds.push(SupportedPaymentKind { x402_version, scheme: "exact".into(), network, extra: None });
                }
            }
        }
        answer(AnswerKind::Decided, json!({ "kinds": kinds, "extensions": [], "signers": {} }))
    }

    /// `POST /verify`: would it be settled? Sends nothing.
    pub async fn verify(&self, body: &[u8], now: UnixMillis, client: ClientAddr) -> FacilitatorResponse {
        let asked = match parse_request(body, &self.tokens) {
            Ok(asked) => asked,
            Err((dialect, reason)) => return verified(AnswerKind::Malformed, dialect, None, Err(reason)),
        };
        let (dialect, payer) = (asked.presented.dialect(), Some(asked.presented.payer()));
        let checked = match self.check(&asked, now) {
            Ok((_, signed)) => self.promising(&signed, client).await,
            Err(reason) => Ok(Err(reason)),
        };
        match checked {
            Ok(verdict) => verified(AnswerKind::Decided, dialect, payer, verdict),
            Err(error) => {
                tracing::warn!(%error, "a payment cannot be verified at the moment");
                verified(AnswerKind::broken(&error), dialect, payer, Err(InvalidReason::Unsettled))
            }
        }
    }

    /// `POST /settle`: settles it. `lease` is a random number of this call alone.
    pub async fn settle(&self, body: &[u8], now: UnixMillis, lease: u64, client: ClientAddr) -> FacilitatorResponse {
        let asked = match parse_request(body, &self.tokens) {
            Ok(asked) => asked,
            Err((dialect, reason)) => {
                return settled(
                    None,
                    dialect,
                    "",
                    Outcome { told: AnswerKind::Malformed, tx: Err(reason), known: None },
                );
            }
        };
        let network = self.network(&asked);
        let outcome = match self.check(&asked, now) {
            Ok((offer, signed)) => self.take(&offer, signed, (now, lease), client).await,
            Err(reason) => Ok(Outcome { told: AnswerKind::Decided, tx: Err(reason), known: None }),
        };
        let outcome = outcome.unwrap_or_else(|error| {
            tracing::warn!(%error, "a payment cannot be settled at the moment");
            Outcome { told: AnswerKind::broken(&error), tx: Err(InvalidReason::Unsettled), known: None }
        });
        settled(Some(&asked), asked.presented.dialect(), &network, outcome)
    }

    fn network(&self, asked: &FacilitatorRequest) -> String {
        let chain_id = asked.presented.chain_id;
        let token = self.tokens.iter().find(|token| token.chain_id() == chain_id);
        token.map_or_else(String::new, |token| match asked.presented.dialect() {
            Dialect::V2 => token.caip2(),
            Dialect::V1 | Dialect::Cronos => token.network().to_owned(),
        })
    }

    /// Everything that needs no chain.
    fn check(
        &self,
        asked: &FacilitatorRequest,
        now: UnixMillis,
    ) -> Result<(Offer, SignedAuthorization), InvalidReason> {
        let offer = self.offer(asked)?;
        // What the payer accepted is what he is held against, to the letter.
        if asked.presented.accepted.as_ref().is_some_and(|accepted| *accepted != asked.terms) {
            return Err(InvalidReason::Requirements);
        }
        let mut presented = asked.presented.clone();
        presented.accepted = None;
        let signed = held_against(&offer, &presented)?;
        check_validity(&signed.authorization, offer.max_timeout_s, &self.timing.tolerance(now))?;
        Ok((offer, signed))
    }

    fn offer(&self, asked: &FacilitatorRequest) -> Result<Offer, InvalidReason> {
        let terms = &asked.terms;
        let token = self.tokens.at(asked.presented.chain_id, terms.asset).ok_or(InvalidReason::Requirements)?;
        if !domain_agrees(terms.extra.as_ref(), token.name(), token.version()) {
            return Err(InvalidReason::Requirements);
        }
        let offer = Offer {
            token: Arc::clone(token),
            pay_to: terms.pay_to,
            amount: terms.amount,
            max_timeout_s: terms.max_timeout_s,
        };
        if self.policy.allows(&offer) { Ok(offer) } else { Err(InvalidReason::Policy) }
    }

    /// Not used before, and the payer holds enough. What this facilitator has
    /// begun to settle and not answered may be asked for again.
    async fn promising(
        &self,
        signed: &SignedAuthorization,
        client: ClientAddr,
    ) -> Result<Result<(), InvalidReason>, SettlementUnknown> {
        let _permit = self.settlements.permit(client, signed).await?;
        let authorization = &signed.authorization;
        match self.settlements.payments().find(&authorization.key()).await? {
            Some((begun, state)) if begun.resource == Payment::FACILITATOR && begun.signed == *signed => match state {
                PaymentState::Settled { .. } => return Ok(Ok(())),
                PaymentState::Reserved => {}
                PaymentState::Answered { .. } | PaymentState::Failed { .. } => return Ok(Err(InvalidReason::Used)),
            },
            Some(_) => return Ok(Err(InvalidReason::Used)),
            None => {}
        }
        self.settlements.check_token(authorization).await
    }

    async fn take(
        &self,
        offer: &Offer,
        payment: SignedAuthorization,
        (now, lease): (UnixMillis, u64),
        client: ClientAddr,
    ) -> Result<Outcome, SettlementUnknown> {
        let told = |told, tx, known| Outcome { told, tx, known };
        if let Err(reason) = self.settlements.precheck(client, &payment).await? {
            return Ok(told(AnswerKind::Decided, Err(reason), None));
        }
        let key = payment.authorization.key();
        let request = PaidRequestHash::of(Payment::FACILITATOR, &key.to_string(), offer.pay_to.as_slice());
        let resource = Payment::FACILITATOR.to_owned();
        let reservation = Payment { signed: payment, request, resource, seen_at: now };
        let held = PaymentLease { id: lease, until: now.plus(self.timing.lease_ms) };
        Ok(match self.settlements.settle(reservation, held, client).await? {
            SettleOutcome::Paid(tx) if self.settlements.payments().answered(&key, lease).await? => {
                told(AnswerKind::Decided, Ok(tx), None)
            }
            SettleOutcome::Paid(tx) | SettleOutcome::Answered(tx) => {
                told(AnswerKind::Decided, Err(InvalidReason::Used), Some(tx))
            }
            SettleOutcome::InFlight => told(AnswerKind::InFlight, Err(InvalidReason::Used), None),
            // 200, or unmodified clients do not read it: they ask once more, and then wait.
            SettleOutcome::Pending(tx) => told(AnswerKind::Decided, Err(InvalidReason::Pending), Some(tx)),
            SettleOutcome::Open(InvalidReason::Unsettled) => {
                told(AnswerKind::Undecided(LATER_S), Err(InvalidReason::Unsettled), None)
            }
            SettleOutcome::Refused(reason) | SettleOutcome::Open(reason) => {
                told(AnswerKind::Decided, Err(reason), None)
            }
        })
    }
}

/// Terms may leave the token's domain out, but not state another one.
pub(crate) fn domain_agrees(extra: Option<&Value>, name: &str, version: &str) -> bool {
    let says = |key: &str, ours: &str| match extra.and_then(|extra| extra.get(key)) {
        None | Some(Value::Null) => true,
        Some(theirs) => theirs.as_str() == Some(ours),
    };
    says("name", name) && says("version", version)
}

fn verified(
    told: AnswerKind,
    dialect: Dialect,
    payer: Option<Address>,
    verdict: Result<(), InvalidReason>,
) -> FacilitatorResponse {
    let payer = payer.map(|payer| payer.to_string());
    let verdict = match (verdict, payer) {
        (Ok(()), Some(payer)) => VerifyResponse::valid(payer),
        (Ok(()), None) => VerifyResponse::invalid(None, InvalidReason::Payload.code(dialect).to_owned()),
        (Err(reason), payer) => VerifyResponse::invalid(payer, reason.code(dialect).to_owned()),
    };
    answer(told, json!(verdict))
}

fn settled(
    asked: Option<&FacilitatorRequest>,
    dialect: Dialect,
    network: &str,
    outcome: Outcome,
) -> FacilitatorResponse {
    let code = outcome.tx.map_err(|reason| reason.code(dialect));
    let transfer = asked.map(|asked| &asked.presented.transfer);
    let body = match dialect {
        Dialect::Cronos => {
            Value::Object(settled_by_cronos(network, transfer, code.map_err(|code| (code, outcome.known))))
        }
        Dialect::V2 | Dialect::V1 => {
            let payer = transfer.map(|transfer| transfer.from);
            json!(match (code, payer) {
                (Ok(tx), Some(payer)) => SettleResponse::settled(tx, network.to_owned(), payer),
                (Ok(tx), None) => SettleResponse::failed("invalid_payload", Some(tx), network.to_owned(), None),
                (Err(code), payer) => SettleResponse::failed(code, outcome.known, network.to_owned(), payer),
            })
        }
    };
    answer(outcome.told, body)
}

fn answer(told: AnswerKind, mut body: Value) -> FacilitatorResponse {
    let retry_after_s = told.retry_after_s();
    if let (Some(seconds), Some(fields)) = (retry_after_s, body.as_object_mut()) {
        fields.insert("retry_after".to_owned(), seconds.into());
    }
    FacilitatorResponse { status: told.status(), retry_after_s, body: to_json(&body) }
}
