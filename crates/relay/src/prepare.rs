//! From a request to work that may be taken on: the rules, a trial, a price.

use std::net::IpAddr;

use alloy_primitives::{Address, B256, U256, keccak256};
use chain::evm::{Revert, calls};
use domain::payment::SignedAuthorization;
use domain::{Client, UnixMillis};
use wire::relay::{CallRequest, MAX_BATCH, Priority, SignedRequest};

use crate::allow::Rule;
use crate::budget::Unit;
use crate::chain::{Call, Simulation};
use crate::class::{CallClass, VaultDeployment, caller, payee};
use crate::config::FeePolicy;
use crate::error::Error;
use crate::payment::{self, PaymentError};
use crate::price::COLLECTING_GAS;
use crate::relayer::Inner;
use crate::request::Request;
use crate::spend::{self, Beneficiary, GasSpend};
use crate::text::{self, printable};
use domain::relay::{DailyQuota, FeePayment, ForwarderNonce, RelayEntry, RelayState, Transaction};

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

/// Transaction that may be taken on.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) id: B256,
    nonce: Option<ForwarderNonce>,
    /// What it is for.
    class: CallClass,
    /// Who has it made.
    wallet: Address,
    /// For whom, beside him.
    beneficiary: Option<Beneficiary>,
    transaction: Transaction,
    after: Option<B256>,
    attempt: u32,
}

impl Prepared {
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
        request: &Request,
        after: Option<B256>,
        before: Option<&RelayEntry>,
    ) -> Result<Prepared, Error> {
        let facts = self.chain.facts();
        let class = self.rules.class(request.to, &request.data);
        let rule = self.rules.forwarded(request.to, request.selector());
        // A vault is asked for otherwise, by whoever may have one.
        if class == CallClass::Deploy && self.rules.sponsored(request.to, request.selector()) == Rule::Allowed {
            return Err(Error::NotSponsored);
        }
        self.allow(rule, request.to).await?;
        let data = request.execution(facts);
        let most = ceiling(request.gas, data.len());
        let gas = match after {
            Some(_) => most,
            None => self.try_out(request).await?.min(most),
        };
        let transaction = Transaction { to: facts.forwarder, value: request.value, data, gas };
        let nonce = Some(request.forwarder_nonce(facts));
        let (id, wallet) = (request.digest, request.from);
        Ok(Prepared { id, nonce, class, wallet, beneficiary: None, transaction, after, attempt: next_attempt(before) })
    }

    /// The gas limit for a request, if it would succeed now.
    pub(crate) async fn try_out(&self, request: &Request) -> Result<u64, Error> {
        match self.chain.estimate(&request.trial(self.chain.facts())).await? {
            Simulation::Done(gas) => Ok(gas.saturating_add(BATCH_GAS)),
            Simulation::Reverted(why) => Err(self.explain(request, why).await?),
        }
    }

    /// The forwarder's revert data says little: a wrong nonce looks like a wrong
    /// signature, and the inner call's reason is swallowed.
    async fn explain(&self, request: &Request, why: Revert) -> Result<Error, Error> {
        if matches!(why, Revert::RequestSigner { .. }) {
            let expected = self.chain.nonce(request.from).await?;
            if expected != request.nonce {
                return Ok(Error::Nonce { from: request.from, expected, given: request.nonce });
            }
        }
        if why != Revert::ForwardedCallFailed {
            return Ok(would_revert(&why));
        }
        match self.chain.simulate(&self.inner_call(request)).await? {
            Simulation::Reverted(inner) => Ok(would_revert(&inner)),
            // The call works with more gas than the request gives it.
            Simulation::Done(_) => Ok(Error::WouldRevert("the request's gas does not suffice".to_owned())),
        }
    }

    /// The call as the target gets it, with what a transaction costs on top.
    pub(crate) fn inner_call(&self, request: &Request) -> Call {
        let call = request.inner(self.chain.facts());
        Call { gas: Some(ceiling(request.gas, call.data.len())), ..call }
    }

    async fn allow(&self, rule: Rule, to: Address) -> Result<(), Error> {
        match rule {
            Rule::Allowed => Ok(()),
            Rule::NoSuchCall => Err(Error::Target(to)),
            Rule::IfVault if self.vaults.contains_key(&to) => Ok(()),
            Rule::IfVault if self.chain.is_vault(to).await? => {
                self.vaults.insert(to, ()).await;
                Ok(())
            }
            Rule::IfVault => Err(Error::Target(to)),
        }
    }

    /// The rules for a transaction of somebody else.
    pub(crate) async fn allow_broadcast(&self, to: Address, data: &[u8]) -> Result<(), Error> {
        self.allow(self.rules.broadcast(to, data.first_chunk().copied()), to).await
    }

    pub(crate) fn read_call(&self, request: &CallRequest) -> Result<Call, Error> {
        let to = text::address(&request.to).map_err(|error| Error::Field { field: "to", error })?;
        let data = text::bytes(&request.data).map_err(|error| Error::Field { field: "data", error })?;
        let most = self.bounds().max_data;
        if data.len() > most {
            return Err(crate::request::RequestError::Data(data.len(), most).into());
        }
        Ok(Call { from: self.chain.facts().relayer, to, value: U256::ZERO, data, gas: None })
    }

    /// The name of a sponsored call.
    pub(crate) fn call_id(&self, call: &Call) -> B256 {
        let chain = self.chain.facts().chain_id.to_be_bytes();
        keccak256([b"call".as_slice(), &chain, call.to.as_slice(), &call.data].concat())
    }

    /// Checks a sponsored call against the rules and tries it.
    pub(crate) async fn prepare_call(&self, call: &Call, before: Option<&RelayEntry>) -> Result<Prepared, Error> {
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
            return Err(Error::TooMuchGas(gas, most));
        }
        let transaction = Transaction { to: call.to, value: call.value, data: call.data.clone(), gas };
        let (id, attempt) = (self.call_id(call), next_attempt(before));
        Ok(Prepared { id, nonce: None, class, wallet, beneficiary, transaction, after: None, attempt })
    }

    /// Who has a sponsored call made, if it is made for him, and for whom beside him.
    async fn sponsored(&self, class: CallClass, call: &Call) -> Result<(Address, Option<Beneficiary>), Error> {
        let wallet = caller(call.to, &call.data);
        match class {
            CallClass::Deploy => self.deployed(&call.data).await,
            CallClass::Settle => match payee(&call.data) {
                // It would cost gas and move nothing.
                Some(payee) if payee == wallet => Err(Error::SelfPayment),
                payee => Ok((wallet, payee.map(Beneficiary::Payee))),
            },
            CallClass::Task | CallClass::Withdraw | CallClass::Manage | CallClass::Forward => Ok((wallet, None)),
        }
    }

    /// Whose vault is deployed, and for whose agent.
    async fn deployed(&self, data: &[u8]) -> Result<(Address, Option<Beneficiary>), Error> {
        let vault = VaultDeployment::read(data).ok_or(Error::NotSponsored)?;
        // Whoever pays the fee costs the operator nothing.
        if self.config.fee == FeePolicy::Charged {
            return Ok((vault.owner, None));
        }
        // An owner is a key, and costs nothing to make: his holder counts too.
        let holder = self.sponsor.sponsors(&vault).await?.ok_or(Error::NotSponsored)?;
        Ok((vault.owner, Some(Beneficiary::Holder(holder))))
    }

    /// Checks the shape and the signature of every request of a batch, and that
    /// those of one signer follow each other.
    pub(crate) fn read_batch(&self, signed: &[SignedRequest]) -> Result<Vec<Request>, Error> {
        if !(1..=MAX_BATCH).contains(&signed.len()) {
            return Err(Error::Batch(signed.len()));
        }
        let (facts, bounds, now) = (self.chain.facts(), self.bounds(), self.now_s());
        let read = |(index, signed)| Request::read(signed, facts, &bounds, now).map_err(|e| Error::from(e).at(index));
        let requests = signed.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        for request in &requests {
            if !follow(&requests, request.from) {
                return Err(Error::Sequence(request.from));
            }
        }
        Ok(requests)
    }

    /// For each request, in order, the entry that stands already (`Ok`) or what may
    /// be taken on (`Err`).
    pub(crate) async fn prepare_batch(&self, requests: &[Request]) -> Result<Vec<Result<RelayEntry, Prepared>>, Error> {
        let mut members = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            let member = self.prepare_member(requests, request).await;
            members.push(member.map_err(|error| error.at(index))?);
        }
        Ok(members)
    }

    async fn prepare_member(&self, all: &[Request], request: &Request) -> Result<Result<RelayEntry, Prepared>, Error> {
        let found = self.journal.find(request.digest).await?;
        if let Some(entry) = found.as_ref().filter(|entry| !entry.is_replaceable()) {
            return Ok(Ok(entry.clone()));
        }
        let is_before =
            |it: &&Request| it.from == request.from && it.nonce.checked_add(U256::ONE) == Some(request.nonce);
        let after = all.iter().find(is_before).map(|it| it.digest);
        self.prepare(request, after, found.as_ref()).await.map(Err)
    }

    /// What these count for.
    pub(crate) async fn quotas(&self, client: IpAddr, fresh: &[&Prepared]) -> Result<Vec<DailyQuota>, Error> {
        let spends: Vec<GasSpend> = fresh.iter().map(|it| it.spend()).collect();
        self.count(&spends, Some(Client::of(client))).await
    }

    pub(crate) async fn count(&self, spends: &[GasSpend], client: Option<Client>) -> Result<Vec<DailyQuota>, Error> {
        let gas_price = match self.config.budgets.unit {
            Unit::Gas => 0,
            Unit::Gwei => self.chain.gas_price().await?,
        };
        Ok(spend::quotas(&self.config, spends, client, gas_price, self.now_s() / DAY_S))
    }

    pub(crate) fn over_quota(&self, subject: String) -> Error {
        Error::OverQuota { subject, retry_after_s: DAY_S - self.now_s() % DAY_S }
    }

    /// The payment for these, checked; `None` where calls cost nothing.
    pub(crate) async fn charge(
        &self,
        fresh: &[Prepared],
        header: Option<&str>,
        priority: Priority,
    ) -> Result<Option<FeePayment>, Error> {
        if self.config.fee == FeePolicy::Waived {
            return Ok(None);
        }
        let group = group(fresh);
        let gas: Vec<u64> = fresh.iter().map(|it| it.transaction.gas).collect();
        let price = self.price(group, &gas).await?;
        let Some(header) = header else {
            return Err(Error::PaymentRequired(Box::new(self.terms(&price, &gas, priority))));
        };
        let refused = |error| Error::Payment(error, Some(Box::new(self.terms(&price, &gas, priority))));
        let signed = payment::read(header, self.chain.facts()).map_err(refused)?;
        payment::check(&signed, self.chain.facts(), self.payee, price.fee, self.now_s()).map_err(refused)?;
        let gas = self.try_payment(&signed).await?.map_err(refused)?;
        Ok(Some(FeePayment { group, signed, gas }))
    }

    /// The gas limit of the transaction that collects a payment.
    async fn try_payment(&self, signed: &SignedAuthorization) -> Result<Result<u64, PaymentError>, Error> {
        let facts = self.chain.facts();
        if self.chain.spent(signed.authorization.from, signed.authorization.nonce).await? {
            return Ok(Err(PaymentError::Spent));
        }
        let domain::evm::Call { to, data, value } = calls::transfer_with_authorization(signed);
        let call = Call { from: facts.relayer, to, value, data, gas: None };
        Ok(match self.chain.estimate(&call).await? {
            Simulation::Done(gas) => Ok(gas.min(2 * COLLECTING_GAS)),
            Simulation::Reverted(why) => Err(PaymentError::Refused(printable(&why.to_string()))),
        })
    }
}

pub(crate) fn would_revert(why: &Revert) -> Error {
    Error::WouldRevert(printable(&why.to_string()))
}

/// The name of all that one payment buys.
pub(crate) fn group(fresh: &[Prepared]) -> B256 {
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
fn follow(requests: &[Request], from: Address) -> bool {
    let mut nonces: Vec<U256> = requests.iter().filter(|it| it.from == from).map(|it| it.nonce).collect();
    nonces.sort_unstable();
    nonces.windows(2).all(|pair| pair[0].checked_add(U256::ONE) == Some(pair[1]))
}
