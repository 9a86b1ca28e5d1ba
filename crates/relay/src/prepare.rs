//! From a request to work that may be taken on: the rules, a trial, a price.

use std::net::IpAddr;

use alloy_primitives::{Address, B256, U256, keccak256};
use chain::evm::{Revert, calls};
use domain::payment::SignedAuthorization;
use domain::{ClientAddr, UnixMillis};
use wire::v1::relay::{MAX_BATCH, Priority, RelayCallRequest, SignedRequest};

use crate::allow::AllowVerdict;
use crate::budget::BudgetUnit;
use crate::chain::{EthCall, Simulation};
use crate::class::{CallPurpose, VaultDeployment, caller, payee};
use crate::config::FeePolicy;
use crate::error::RelayError;
use crate::payment::{self, PaymentError};
use crate::price::COLLECTING_GAS;
use crate::request::VerifiedRequest;
use crate::spend::{self, Beneficiary, GasSpend};
use crate::state::Inner;
use crate::text::{self, printable};
use domain::relay::{DailyQuota, FeePayment, ForwarderNonce, RelayEntry, RelayState, RelayTransaction};

/// What every transaction costs before it does anything.
const INTRINSIC_GAS: u64 = 21_000;
/// Gas per byte of a transaction's data at most (EIP-7623).
const DATA_GAS: u64 = 40;
/// Gas of the forwarder's own work for one request, generously.
const FORWARDER_GAS: u64 = 120_000;
/// What `executeBatch` costs beyond `execute`.
const BATCH_GAS: u64 = 8_000;
/// Seconds in a day.
const DAY_S: u64 = 86_400;

/// A call that may be taken on.
#[derive(Clone, Debug)]
pub(crate) struct PreparedCall {
    pub(crate) id: B256,
    nonce: Option<ForwarderNonce>,
    /// What it is for.
    class: CallPurpose,
    /// Who has it made.
    wallet: Address,
    /// For whom, beside him.
    beneficiary: Option<Beneficiary>,
    transaction: RelayTransaction,
    after: Option<B256>,
    attempt: u32,
}

impl PreparedCall {
    pub(crate) fn into_entry(self, payment: Option<FeePayment>, state: RelayState, at: UnixMillis) -> RelayEntry {
        let Self { id, nonce, transaction, after, attempt, .. } = self;
        RelayEntry { id, nonce, transaction, payment, state, after, attempt, at }
    }

    /// What is counted of it.
    fn spend(&self) -> GasSpend {
        GasSpend { class: self.class, wallet: self.wallet, beneficiary: self.beneficiary, gas: self.transaction.gas }
    }
}

impl Inner {
    /// Checks a request against the rules and tries it. One that follows another
    /// (`after`) is tried when its turn comes.
    pub(crate) async fn prepare(
        &self,
        request: &VerifiedRequest,
        after: Option<B256>,
        before: Option<&RelayEntry>,
    ) -> Result<PreparedCall, RelayError> {
        let facts = self.chain.facts();
        let class = self.rules.class(request.to, &request.data);
        let rule = self.rules.forwarded(request.to, request.selector());
        // A vault is asked for otherwise, by whoever may have one.
        if class == CallPurpose::Deploy && self.rules.sponsored(request.to, request.selector()) == AllowVerdict::Allowed
        {
            return Err(RelayError::NotSponsored);
        }
        self.allow(rule, request.to).await?;
        let data = request.execution(facts);
        let most = ceiling(request.gas, data.len());
        let gas = match after {
            Some(_) => most,
            None => self.try_out(request).await?.min(most),
        };
        let transaction = RelayTransaction { to: facts.forwarder, value: request.value, data, gas };
        let nonce = Some(request.forwarder_nonce(facts));
        let (id, wallet) = (request.digest, request.from);
        Ok(PreparedCall {
            id,
            nonce,
            class,
            wallet,
            beneficiary: None,
            transaction,
            after,
            attempt: next_attempt(before),
        })
    }

    /// The gas limit for a request, if it would succeed now.
    pub(crate) async fn try_out(&self, request: &VerifiedRequest) -> Result<u64, RelayError> {
        match self.chain.estimate(&request.trial(self.chain.facts())).await? {
            Simulation::Done(gas) => Ok(gas.saturating_add(BATCH_GAS)),
            Simulation::Reverted(why) => Err(self.explain(request, why).await?),
        }
    }

    /// The forwarder's revert data says little: a wrong nonce looks like a wrong
    /// signature, and the inner call's reason is swallowed.
    async fn explain(&self, request: &VerifiedRequest, why: Revert) -> Result<RelayError, RelayError> {
        if matches!(why, Revert::RequestSigner { .. }) {
            let expected = self.chain.nonce(request.from).await?;
            if expected != request.nonce {
                return Ok(RelayError::Nonce { from: request.from, expected, given: request.nonce });
            }
        }
        if why != Revert::ForwardedCallFailed {
            return Ok(would_revert(&why));
        }
        match self.chain.simulate(&self.inner_call(request)).await? {
            Simulation::Reverted(inner) => Ok(would_revert(&inner)),
            // The call works with more gas than the request gives it.
            Simulation::Done(_) => Ok(RelayError::WouldRevert("the request's gas does not suffice".to_owned())),
        }
    }

    /// The call as the target gets it, with what a transaction costs on top.
    pub(crate) fn inner_call(&self, request: &VerifiedRequest) -> EthCall {
        let call = request.inner(self.chain.facts());
        EthCall { gas: Some(ceiling(request.gas, call.data.len())), ..call }
    }

    async fn allow(&self, rule: AllowVerdict, to: Address) -> Result<(), RelayError> {
        match rule {
            AllowVerdict::Allowed => Ok(()),
            AllowVerdict::NoSuchCall => Err(RelayError::Target(to)),
            AllowVerdict::IfVault if self.vaults.contains_key(&to) => Ok(()),
            AllowVerdict::IfVault if self.chain.is_vault(to).await? => {
                self.vaults.insert(to, ()).await;
                Ok(())
            }
            AllowVerdict::IfVault => Err(RelayError::Target(to)),
        }
    }

    /// The rules for a transaction of somebody else.
    pub(crate) async fn allow_broadcast(&self, to: Address, data: &[u8]) -> Result<(), RelayError> {
        self.allow(self.rules.broadcast(to, data.first_chunk().copied()), to).await
    }

    pub(crate) fn read_call(&self, request: &RelayCallRequest) -> Result<EthCall, RelayError> {
        let to = text::address(&request.to).map_err(|error| RelayError::Field { field: "to", error })?;
        let data = text::bytes(&request.data).map_err(|error| RelayError::Field { field: "data", error })?;
        let most = self.bounds().max_data;
        if data.len() > most {
            return Err(crate::request::RequestError::Data(data.len(), most).into());
        }
        Ok(EthCall { from: self.chain.facts().relayer, to, value: U256::ZERO, data, gas: None })
    }

    /// The name of a sponsored call.
    pub(crate) fn call_id(&self, call: &EthCall) -> B256 {
        let chain = self.chain.facts().chain_id.to_be_bytes();
        keccak256([b"call".as_slice(), &chain, call.to.as_slice(), &call.data].concat())
    }

    /// Checks a sponsored call against the rules and tries it.
    pub(crate) async fn prepare_call(
        &self,
        call: &EthCall,
        before: Option<&RelayEntry>,
    ) -> Result<PreparedCall, RelayError> {
        let selector = call.data.first_chunk().copied();
        self.allow(self.rules.sponsored(call.to, selector), call.to).await?;
        let class = self.rules.class(call.to, &call.data);
        let (wallet, beneficiary) = self.sponsored(class, call).await?;
        let gas = match self.chain.estimate(call).await? {
            Simulation::Done(gas) => gas,
            Simulation::Reverted(why) => return Err(would_revert(&why)),
        };
        let most = ceiling(self.config.max_gas, call.data.len());
        if gas > most {
            return Err(RelayError::TooMuchGas(gas, most));
        }
        let transaction = RelayTransaction { to: call.to, value: call.value, data: call.data.clone(), gas };
        let (id, attempt) = (self.call_id(call), next_attempt(before));
        Ok(PreparedCall { id, nonce: None, class, wallet, beneficiary, transaction, after: None, attempt })
    }

    /// Who has a sponsored call made, if it is made for him, and for whom beside him.
    async fn sponsored(
        &self,
        class: CallPurpose,
        call: &EthCall,
    ) -> Result<(Address, Option<Beneficiary>), RelayError> {
        let wallet = caller(call.to, &call.data);
        match class {
            CallPurpose::Deploy => self.deployed(&call.data).await,
            CallPurpose::Settle => match payee(&call.data) {
                // It would cost gas and move nothing.
                Some(payee) if payee == wallet => Err(RelayError::SelfPayment),
                payee => Ok((wallet, payee.map(Beneficiary::Payee))),
            },
            CallPurpose::Task | CallPurpose::Withdraw | CallPurpose::Manage | CallPurpose::Forward => {
                Ok((wallet, None))
            }
        }
    }

    /// Whose vault is deployed, and for whose agent.
    async fn deployed(&self, data: &[u8]) -> Result<(Address, Option<Beneficiary>), RelayError> {
        let vault = VaultDeployment::read(data).ok_or(RelayError::NotSponsored)?;
        // Whoever pays the fee costs the operator nothing.
        if self.config.fee == FeePolicy::Charged {
            return Ok((vault.owner, None));
        }
        // An owner is a key, and costs nothing to make: his holder counts too.
        let holder = self.sponsor.sponsors(&vault).await?.ok_or(RelayError::NotSponsored)?;
        Ok((vault.owner, Some(Beneficiary::Holder(holder))))
    }

    /// Checks the shape and the signature of every request of a batch, and that
    /// those of one signer follow each other.
    pub(crate) fn read_batch(&self, signed: &[SignedRequest]) -> Result<Vec<VerifiedRequest>, RelayError> {
        if !(1..=MAX_BATCH).contains(&signed.len()) {
            return Err(RelayError::Batch(signed.len()));
        }
        let (facts, bounds, now) = (self.chain.facts(), self.bounds(), self.now_s());
        let read = |(index, signed)| {
            VerifiedRequest::read(signed, facts, &bounds, now).map_err(|e| RelayError::from(e).at(index))
        };
        let requests = signed.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        for request in &requests {
            if !follow(&requests, request.from) {
                return Err(RelayError::Sequence(request.from));
            }
        }
        Ok(requests)
    }

    /// For each request, in order, the entry that stands already (`Ok`) or what may
    /// be taken on (`Err`).
    pub(crate) async fn prepare_batch(
        &self,
        requests: &[VerifiedRequest],
    ) -> Result<Vec<Result<RelayEntry, PreparedCall>>, RelayError> {
        let mut members = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            let member = self.prepare_member(requests, request).await;
            members.push(member.map_err(|error| error.at(index))?);
        }
        Ok(members)
    }

    async fn prepare_member(
        &self,
        all: &[VerifiedRequest],
        request: &VerifiedRequest,
    ) -> Result<Result<RelayEntry, PreparedCall>, RelayError> {
        let found = self.journal.find(request.digest).await?;
        if let Some(entry) = found.as_ref().filter(|entry| !entry.is_replaceable()) {
            return Ok(Ok(entry.clone()));
        }
        let is_before =
            |it: &&VerifiedRequest| it.from == request.from && it.nonce.checked_add(U256::ONE) == Some(request.nonce);
        let after = all.iter().find(is_before).map(|it| it.digest);
        self.prepare(request, after, found.as_ref()).await.map(Err)
    }

    /// What these count for.
    pub(crate) async fn quotas(&self, client: IpAddr, fresh: &[&PreparedCall]) -> Result<Vec<DailyQuota>, RelayError> {
        let spends: Vec<GasSpend> = fresh.iter().map(|it| it.spend()).collect();
        self.count(&spends, Some(ClientAddr::of(client))).await
    }

    pub(crate) async fn count(
        &self,
        spends: &[GasSpend],
        client: Option<ClientAddr>,
    ) -> Result<Vec<DailyQuota>, RelayError> {
        let gas_price = match self.config.budgets.unit {
            BudgetUnit::Gas => 0,
            BudgetUnit::Gwei => self.chain.gas_price().await?,
        };
        Ok(spend::quotas(&self.config, spends, client, gas_price, self.now_s() / DAY_S))
    }

    pub(crate) fn over_quota(&self, subject: String) -> RelayError {
        RelayError::OverQuota { subject, retry_after_s: DAY_S - self.now_s() % DAY_S }
    }

    /// The payment for these, checked; `None` where calls cost nothing.
    pub(crate) async fn charge(
        &self,
        fresh: &[PreparedCall],
        header: Option<&str>,
        priority: Priority,
    ) -> Result<Option<FeePayment>, RelayError> {
        if self.config.fee == FeePolicy::Waived {
            return Ok(None);
        }
        let group = group(fresh);
        let gas: Vec<u64> = fresh.iter().map(|it| it.transaction.gas).collect();
        let price = self.price(group, &gas).await?;
        let Some(header) = header else {
            return Err(RelayError::PaymentRequired(Box::new(self.terms(&price, &gas, priority))));
        };
        let refused = |error| RelayError::Payment(error, Some(Box::new(self.terms(&price, &gas, priority))));
        let signed = payment::read(header, self.chain.facts()).map_err(refused)?;
        payment::check(&signed, self.chain.facts(), self.payee, price.fee, self.now_s()).map_err(refused)?;
        let gas = self.try_payment(&signed).await?.map_err(refused)?;
        Ok(Some(FeePayment { group, signed, gas }))
    }

    /// The gas limit of the transaction that collects a payment.
    async fn try_payment(&self, signed: &SignedAuthorization) -> Result<Result<u64, PaymentError>, RelayError> {
        let facts = self.chain.facts();
        if self.chain.spent(signed.authorization.from, signed.authorization.nonce).await? {
            return Ok(Err(PaymentError::Spent));
        }
        let domain::evm::Call { to, data, value } = calls::transfer_with_authorization(signed);
        let call = EthCall { from: facts.relayer, to, value, data, gas: None };
        Ok(match self.chain.estimate(&call).await? {
            Simulation::Done(gas) => Ok(gas.min(2 * COLLECTING_GAS)),
            Simulation::Reverted(why) => Err(PaymentError::Refused(printable(&why.to_string()))),
        })
    }
}

pub(crate) fn would_revert(why: &Revert) -> RelayError {
    RelayError::WouldRevert(printable(&why.to_string()))
}

/// The name of all that one payment buys.
pub(crate) fn group(fresh: &[PreparedCall]) -> B256 {
    let ids: Vec<u8> = fresh.iter().flat_map(|it| it.id.0).collect();
    keccak256([b"group".as_slice(), &ids].concat())
}

/// The gas limit that is surely enough for a call with this much gas through the
/// forwarder: a 64th stays with the caller (EIP-150).
pub(crate) fn ceiling(gas: u64, data: usize) -> u64 {
    let data = u64::try_from(data).unwrap_or(u64::MAX).saturating_mul(DATA_GAS);
    let call = gas.saturating_add(gas / 63);
    call.saturating_add(data).saturating_add(INTRINSIC_GAS + FORWARDER_GAS)
}

fn next_attempt(before: Option<&RelayEntry>) -> u32 {
    before.map_or(0, |entry| entry.attempt.saturating_add(1))
}

/// Whether the nonces of one signer follow each other, in any order.
fn follow(requests: &[VerifiedRequest], from: Address) -> bool {
    let mut nonces: Vec<U256> = requests.iter().filter(|it| it.from == from).map(|it| it.nonce).collect();
    nonces.sort_unstable();
    nonces.windows(2).all(|pair| pair[0].checked_add(U256::ONE) == Some(pair[1]))
}
