//! What there is once the chain has answered: everything that needs it.

use std::sync::Arc;
use std::time::Duration;

use chain::evm::{CheckedChain, EvmConfig, Sender, SigningKey};
use domain::SystemClock;
use identity::Identity;
use relay::Relayer;
use store::Store;
use x402::{
    Facilitator, FacilitatorChoice, HostedFacilitator, Payments, Seller, SettlementLimits, Settlements, Token, Tokens,
};

use crate::config::ServicesConfig;
use crate::sponsor::StoreSponsor;
use crate::transfers::{ChainTokenReader, RelayerTransfers};
use crate::unavailable::{ChainUnavailable, unfit};

/// The chain, and what works on it.
pub(crate) struct ChainServices {
    pub(crate) chain: Arc<CheckedChain>,
    /// Our own account, where the relayer is enabled.
    pub(crate) sender: Option<Sender>,
    pub(crate) relayer: Option<Relayer>,
    /// Where somebody settles.
    pub(crate) payments: Option<PaymentServices>,
}

/// Where payments are taken.
pub(crate) struct PaymentServices {
    pub(crate) settlements: Arc<Settlements>,
    pub(crate) seller: Arc<Seller>,
    /// Where we settle ourselves.
    pub(crate) facilitator: Option<Arc<Facilitator>>,
    pub(crate) tokens: Arc<Tokens>,
}

impl ChainServices {
    /// Asks the chain, checks what is on it, and sets everything up.
    pub(crate) async fn open(
        options: &ServicesConfig,
        evm: &EvmConfig,
        store: &Store,
        key: Option<&Identity>,
    ) -> Result<Self, ChainUnavailable> {
        let chain = Arc::new(CheckedChain::connect(evm).await?);
        let sender = match key {
            None => None,
            Some(identity) => {
                let key = SigningKey::new(identity.clone());
                Some(Sender::start(Arc::clone(&chain), Arc::new(store.outbox()), key).await?)
            }
        };
        let relayer = match &sender {
            None => None,
            Some(sender) => Some(relayer(options, &chain, sender, store).await?),
        };
        let payments = payments(options, &chain, sender.as_ref().zip(relayer.as_ref()), store)?;
        Ok(Self { chain, sender, relayer, payments })
    }
}

async fn relayer(
    options: &ServicesConfig,
    chain: &Arc<CheckedChain>,
    sender: &Sender,
    store: &Store,
) -> Result<Relayer, ChainUnavailable> {
    let chain_id = chain.evm.config().chain_id;
    let chain = relay::EvmChain::new(Arc::clone(chain), sender.clone());
    let sponsor = Arc::new(StoreSponsor(store.clone()));
    let (chain, journal, clock) = (Arc::new(chain), Arc::new(store.relay_journal(chain_id)), Arc::new(SystemClock));
    let relayer = Relayer::sponsoring(options.relayer.clone(), chain, journal, clock, sponsor);
    let relayer = relayer.map_err(|error| unfit(&error))?;
    relayer.resume().await?;
    Ok(relayer)
}

fn payments(
    options: &ServicesConfig,
    chain: &Arc<CheckedChain>,
    own: Option<(&Sender, &Relayer)>,
    store: &Store,
) -> Result<Option<PaymentServices>, ChainUnavailable> {
    let config = &options.x402;
    let payments: Arc<dyn Payments> = Arc::new(store.payments());
    let reader = Arc::new(ChainTokenReader(Arc::clone(chain)));
    let limits: SettlementLimits = config.limits();
    // One chain is worked on here: what is on others is neither sold for nor settled.
    let here = |token: &&Arc<Token>| token.chain_id() == chain.evm.config().chain_id;
    let tokens: Arc<Tokens> = Arc::new(config.tokens().iter().filter(here).map(|token| Token::clone(token)).collect());
    check_token(&tokens, chain)?;
    let (settlements, own) = match (config.settler().map_err(|error| unfit(&error))?, own) {
        (FacilitatorChoice::Own, None) => return Ok(None),
        (FacilitatorChoice::Own, Some((sender, relayer))) => {
            let (sender, relayer) = (sender.clone(), relayer.clone());
            let settlement = RelayerTransfers { chain: Arc::clone(chain), sender, relayer };
            (Settlements::new(payments, Arc::new(settlement), reader, limits), true)
        }
        (FacilitatorChoice::Hosted(url), _) => {
            let patience = Duration::from_millis(config.settle_timeout_ms);
            let hosted =
                HostedFacilitator::new(&url, patience, config.max_timeout_s, Arc::clone(&tokens), reader.clone());
            (Settlements::new(payments, Arc::new(hosted.map_err(|error| unfit(&error))?), reader, limits), false)
        }
    };
    let settlements = Arc::new(settlements);
    let seller = Arc::new(Seller::new(Arc::clone(&settlements), Arc::clone(&tokens), config.timing()));
    let policy = config.policy([]).map_err(|error| unfit(&error))?;
    let facilitate =
        || Arc::new(Facilitator::new(Arc::clone(&settlements), Arc::clone(&tokens), config.timing(), policy));
    let facilitator = own.then(facilitate);
    Ok(Some(PaymentServices { settlements, seller, facilitator, tokens }))
}

/// The chain's token must be one that payments are taken in, in its own domain.
fn check_token(tokens: &Tokens, chain: &CheckedChain) -> Result<(), ChainUnavailable> {
    let evm = chain.evm.config();
    let Some(token) = tokens.at(evm.chain_id, evm.usdc) else {
        return Err(unfit(&format_args!("[[x402.tokens]] lacks {} of chain {}", evm.usdc, evm.chain_id)));
    };
    if token.separator() != chain.usdc_domain.separator() {
        return Err(unfit(&format_args!("[[x402.tokens]] {}: the token has another EIP-712 domain", evm.usdc)));
    }
    Ok(())
}
