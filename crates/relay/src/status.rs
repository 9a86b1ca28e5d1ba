//! What the relayer tells of itself: prices, its domain, how it is.

use alloy_primitives::{B256, U256};
use domain::{UnixMillis, Usdc};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire::v1::relay::{
    DomainAnswer, Eip712Domain, Eip712Field, Eip712Types, EstimateAnswer, EstimateQuery, FeeQuote, HealthStatus,
    NonceAnswer, PaymentOptions, PaymentRequired, PaymentRequirements, PricingInputs, Priority, PriorityPrice,
    PriorityPrices, RebalanceStatus, RelayerBalance, RelayerHealth, RelayerStats, SenderInfo, SenderPool, TokenDomain,
    X402_VERSION,
};

use crate::chain::{AccountBalances, EthCall, Simulation};
use crate::config::FeePolicy;
use crate::error::RelayError;
use crate::payment::{SCHEME, network};
use crate::prepare::ceiling;
use crate::price::{COLLECTING_GAS, units};
use crate::request::DOMAIN_VERSION;
use crate::state::{CachedPrice, Inner, Relayer};
use crate::text;
use domain::relay::RelayCounts;

/// Gas that CroGas's clients ask for where their caller names none.
const UNTRIED_GAS: u64 = 100_000;
/// Decimals of CRO.
const CRO_DECIMALS: usize = 18;
/// Decimals of USDC.
const USDC_DECIMALS: usize = 6;
/// Decimals of a gwei.
const GWEI_DECIMALS: usize = 9;

impl Relayer {
    /// `GET /meta/nonce/{address}`.
    ///
    /// # Errors
    /// When it is no address, or the chain does not answer.
    pub async fn nonce(&self, address: &str) -> Result<NonceAnswer, RelayError> {
        let from = text::address(address).map_err(|error| RelayError::Field { field: "address", error })?;
        let nonce = self.0.chain.nonce(from).await?.to_string();
        Ok(NonceAnswer { address: address.to_owned(), nonce })
    }

    /// `GET /meta/domain`.
    #[must_use]
    pub fn domain(&self) -> DomainAnswer {
        let facts = self.0.chain.facts();
        let forwarder_address = facts.forwarder.to_string();
        let domain = Eip712Domain {
            name: facts.forwarder_name.clone(),
            version: DOMAIN_VERSION.to_owned(),
            chain_id: facts.chain_id,
            verifying_contract: forwarder_address.clone(),
        };
        DomainAnswer { domain, types: types(), forwarder_address }
    }

    /// `GET /estimate`: what a call would cost. It is tried in the relayer's own name,
    /// since nobody has signed it.
    ///
    /// # Errors
    /// When the query is wrong, or the chain does not answer.
    pub async fn estimate(&self, query: &EstimateQuery) -> Result<EstimateAnswer, RelayError> {
        let inner = &self.0;
        let call = inner.estimated_call(query)?;
        let (gas, simulated) = match inner.chain.estimate(&call).await? {
            Simulation::Done(gas) => (gas, true),
            Simulation::Reverted(_) => (ceiling(UNTRIED_GAS, call.data.len()), false),
        };
        let price = inner.fresh_price(&[gas]).await?;
        Ok(EstimateAnswer { simulated, ..inner.estimate_answer(gas, &price, query.priority) })
    }

    /// `GET /health`: the status, 200 or 503, and the body.
    pub async fn health(&self) -> (u16, RelayerHealth) {
        let inner = &self.0;
        let (holdings, gas_price, counts) =
            tokio::join!(inner.chain.holdings(inner.payee), inner.chain.gas_price(), inner.journal.counts());
        let mut warnings = Vec::new();
        let holdings = holdings.inspect_err(|error| warnings.push(error.to_string())).ok();
        let gas_price = gas_price.inspect_err(|error| warnings.push(error.to_string())).ok();
        let counts = counts.inspect_err(|error| warnings.push(error.to_string())).ok();
        // What an endpoint said in its own words is for the log.
        for warning in &mut warnings {
            tracing::warn!(%warning, "the relayer is degraded");
            "the chain or the journal does not answer".clone_into(warning);
        }
        warnings.dedup();
        warnings.extend(holdings.as_ref().and_then(|it| inner.low(it)));
        let status = match (holdings.is_some() && gas_price.is_some() && counts.is_some(), warnings.is_empty()) {
            (true, true) => HealthStatus::Healthy,
            (true, false) => HealthStatus::Degraded,
            (false, _) => HealthStatus::Unhealthy,
        };
        let code = if status == HealthStatus::Healthy { 200 } else { 503 };
        let known = (holdings.unwrap_or_default(), gas_price.unwrap_or_default(), counts.unwrap_or_default());
        (code, inner.health_answer(status, known, warnings))
    }
}

impl Inner {
    /// The price for one group of calls, kept as long as quotes are kept: each
    /// call's gas, and once that of collecting the fee.
    pub(crate) async fn price(&self, group: B256, gas: &[u64]) -> Result<CachedPrice, RelayError> {
        if let Some(price) = self.quotes.get(&group).await.filter(|price| price.until > self.clock.now()) {
            return Ok(price);
        }
        let price = self.fresh_price(gas).await?;
        self.quotes.insert(group, price).await;
        Ok(price)
    }

    async fn fresh_price(&self, gas: &[u64]) -> Result<CachedPrice, RelayError> {
        let gas_price = self.chain.gas_price().await?;
        let fee = match self.config.fee {
            FeePolicy::Waived => Usdc::ZERO,
            FeePolicy::Charged => {
                let gas = gas.iter().copied().fold(COLLECTING_GAS, u64::saturating_add);
                self.rates.fee(gas, gas_price).ok_or(RelayError::NoPrice)?
            }
        };
        Ok(CachedPrice { fee, gas_price, until: self.clock.now().plus(self.config.quote_s * 1000) })
    }

    /// The body of a 402.
    pub(crate) fn terms(&self, price: &CachedPrice, gas: &[u64], priority: Priority) -> PaymentRequired {
        let facts = self.chain.facts();
        let what =
            if gas.len() == 1 { "Meta-transaction relay".to_owned() } else { format!("Batch relay of {}", gas.len()) };
        let terms = PaymentRequirements {
            scheme: SCHEME.to_owned(),
            network: network(facts.chain_id),
            asset: facts.token.to_string(),
            pay_to: self.payee.to_string(),
            max_amount_required: price.fee.0.to_string(),
            description: format!("{what}: {} gas", sum(gas)),
            extra: Some(TokenDomain { name: facts.token_name.clone(), version: facts.token_version.clone() }),
        };
        PaymentRequired {
            error: "Payment Required".to_owned(),
            message: None,
            x402: PaymentOptions { version: X402_VERSION, accepts: vec![terms] },
            quote: self.quote(price, gas, priority),
        }
    }

    fn quote(&self, price: &CachedPrice, gas: &[u64], priority: Priority) -> FeeQuote {
        let one_by_one = |gas: &u64| self.rates.fee(gas.saturating_add(COLLECTING_GAS), price.gas_price);
        let original: Usdc = gas.iter().filter_map(one_by_one).sum();
        let saved = original.0.saturating_sub(price.fee.0).saturating_mul(100).checked_div(original.0);
        let batch = gas.len() > 1;
        FeeQuote {
            gas_estimate: sum(gas).to_string(),
            gas_price_gwei: gwei(price.gas_price),
            cro_price: self.rates.dollars(),
            price_usdc: usdc(price.fee),
            priority,
            priority_emoji: priority.emoji().to_owned(),
            estimated_time: self.latency.told(),
            valid_until: rfc3339(price.until),
            transaction_count: batch.then_some(gas.len()),
            total_gas: batch.then(|| sum(gas).to_string()),
            original_price_usdc: batch.then(|| usdc(original)),
            discount_percent: saved.filter(|_| batch),
        }
    }

    fn estimated_call(&self, query: &EstimateQuery) -> Result<EthCall, RelayError> {
        let to = text::address(&query.to).map_err(|error| RelayError::Field { field: "to", error })?;
        let data = text::bytes(query.data.as_deref().unwrap_or("0x"));
        let data = data.map_err(|error| RelayError::Field { field: "data", error })?;
        let value = text::number(query.value.as_deref().unwrap_or("0"));
        let value = value.map_err(|error| RelayError::Field { field: "value", error })?;
        Ok(EthCall { from: self.chain.facts().relayer, to, value, data, gas: None })
    }

    /// What CroGas answers with a priority and without, in one: its clients read
    /// the former whatever they asked.
    fn estimate_answer(&self, gas: u64, price: &CachedPrice, priority: Option<Priority>) -> EstimateAnswer {
        let at = |priority: Priority| PriorityPrice {
            emoji: priority.emoji().to_owned(),
            label: priority.label().to_owned(),
            price_usdc: usdc(price.fee),
            estimated_time: self.latency.told(),
        };
        let pricing =
            || PriorityPrices { slow: at(Priority::Slow), normal: at(Priority::Normal), fast: at(Priority::Fast) };
        EstimateAnswer {
            gas_estimate: gas.to_string(),
            simulated: true,
            gas_price_gwei: gwei(price.gas_price),
            cro_price: self.rates.dollars(),
            price_usdc: usdc(price.fee),
            valid_until: rfc3339(price.until),
            valid_for: self.config.quote_s,
            priority,
            estimated_time: self.latency.told(),
            recommended: priority.is_none().then_some(Priority::Normal),
            pricing: priority.is_none().then(pricing),
        }
    }

    fn low(&self, holdings: &AccountBalances) -> Option<String> {
        let least = U256::from(self.config.low_balance_cro) * U256::from(10).pow(U256::from(CRO_DECIMALS));
        let has = units(holdings.wei, CRO_DECIMALS);
        let words = || format!("Low CRO balance: {has} CRO (threshold: {})", self.config.low_balance_cro);
        (holdings.wei < least).then(words)
    }

    fn health_answer(
        &self,
        status: HealthStatus,
        (holdings, gas_price, counts): (AccountBalances, u128, RelayCounts),
        warnings: Vec<String>,
    ) -> RelayerHealth {
        let address = self.chain.facts().relayer.to_string();
        let sender = SenderInfo { address: address.clone(), pending_tx_count: counts.pending };
        let gwei = gas_price / 10_u128.pow(9);
        RelayerHealth {
            status,
            relayer_address: address,
            relayer_balance: RelayerBalance {
                cro: units(holdings.wei, CRO_DECIMALS),
                usdc: units(holdings.usdc, USDC_DECIMALS),
            },
            stats: stats(&counts),
            pricing: PricingInputs { cro_usd_price: self.rates.dollars(), current_gas_price_gwei: gwei.to_string() },
            warnings,
            auto_rebalance: RebalanceStatus::default(),
            relayer_pool: SenderPool { total_relayers: 1, relayers: vec![sender] },
        }
    }
}

fn stats(counts: &RelayCounts) -> RelayerStats {
    let RelayCounts { pending, executed, failed } = *counts;
    let ended = executed.saturating_add(failed);
    let thousandths = executed.saturating_mul(1000).checked_div(ended).unwrap_or(1000);
    RelayerStats {
        total_relayed: ended.saturating_add(pending),
        pending,
        confirmed: executed,
        failed,
        success_rate: format!("{}.{:03}", thousandths / 1000, thousandths % 1000),
    }
}

fn types() -> Eip712Types {
    let member = |(name, kind): (&str, &str)| Eip712Field { name: name.to_owned(), kind: kind.to_owned() };
    let members = [
        ("from", "address"),
        ("to", "address"),
        ("value", "uint256"),
        ("gas", "uint256"),
        ("nonce", "uint256"),
        ("deadline", "uint48"),
        ("data", "bytes"),
    ];
    Eip712Types { forward_request: members.map(member).to_vec() }
}

/// Six decimals, as CroGas writes it.
fn usdc(amount: Usdc) -> String {
    format!("{}.{:06}", amount.0 / 1_000_000, amount.0 % 1_000_000)
}

fn gwei(wei: u128) -> String {
    units(U256::from(wei), GWEI_DECIMALS)
}

fn sum(gas: &[u64]) -> u64 {
    gas.iter().copied().fold(0, u64::saturating_add)
}

/// Empty after the year 9999.
fn rfc3339(at: UnixMillis) -> String {
    let at = i128::from(at.0) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(at).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
