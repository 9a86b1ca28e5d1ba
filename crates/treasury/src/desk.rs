//! What there is once the chain has answered: everything that needs it.

use std::sync::Arc;
use std::time::Duration;

use chain::evm::{Chain, EvmConfig, Key, Sender};
use identity::Identity;
use relay::Relayer;
use store::Store;
use x402::{Facilitator, Hosted, Limits, Payments, Seller, Settler, Till, Token, Tokens};

use crate::config::Options;
use crate::outbox::outbox;
use crate::settle::{OwnSettlement, TokenReader};
use crate::sponsor::StoreSponsor;
use crate::trouble::{Trouble, unfit};

/// The chain, and what works on it.
pub(crate) struct Desk {
    pub(crate) chain: Arc<Chain>,
    /// Our own account, where the relayer is enabled.
    pub(crate) sender: Option<Sender>,
    pub(crate) relayer: Option<Relayer>,
    /// Where somebody settles.
    pub(crate) counter: Option<Counter>,
}

/// Where payments are taken.
pub(crate) struct Counter {
    pub(crate) till: Arc<Till>,
    pub(crate) seller: Arc<Seller>,
    /// Where we settle ourselves.
    pub(crate) facilitator: Option<Arc<Facilitator>>,
    pub(crate) tokens: Arc<Tokens>,
}

impl Desk {
    /// Asks the chain, checks what is on it, and sets everything up.
    pub(crate) async fn open(
        options: &Options,
        evm: &EvmConfig,
        store: &Store,
        key: Option<&Identity>,
    ) -> Result<Self, Trouble> {
        let chain = Arc::new(Chain::connect(evm).await?);
        let sender = match key {
            None => None,
            Some(identity) => {
                let key = Key::new(identity.clone());
                Some(Sender::start(Arc::clone(&chain), outbox(store), key).await?)
            }
        };
        let relayer = match &sender {
            None => None,
            Some(sender) => Some(relayer(options, &chain, sender, store).await?),
        };
        let counter = counter(options, &chain, sender.as_ref().zip(relayer.as_ref()), store)?;
        Ok(Self { chain, sender, relayer, counter })
    }
}

async fn relayer(options: &Options, chain: &Arc<Chain>, sender: &Sender, store: &Store) -> Result<Relayer, Trouble> {
    let chain_id = chain.evm.config().chain_id;
    let chain = relay::EvmChain::new(Arc::clone(chain), sender.clone());
    let sponsor = Arc::new(StoreSponsor(store.clone()));
    let (chain, journal, clock) =
        (Arc::new(chain), Arc::new(store.relay_journal(chain_id)), Arc::new(relay::SystemClock));
    let relayer = Relayer::sponsoring(options.relayer.clone(), chain, journal, clock, sponsor);
    let relayer = relayer.map_err(|error| unfit(&error))?;
    relayer.resume().await?;
    Ok(relayer)
}

fn counter(
    options: &Options,
    chain: &Arc<Chain>,
    own: Option<(&Sender, &Relayer)>,
    store: &Store,
) -> Result<Option<Counter>, Trouble> {
    let config = &options.x402;
    let payments: Arc<dyn Payments> = Arc::new(store.payments());
    let reader = Arc::new(TokenReader(Arc::clone(chain)));
    let limits: Limits = config.limits();
    // One chain is worked on here: what is on others is neither sold for nor settled.
    let here = |token: &&Arc<Token>| token.chain_id() == chain.evm.config().chain_id;
    let tokens: Arc<Tokens> = Arc::new(config.tokens().iter().filter(here).map(|token| Token::clone(token)).collect());
    check_token(&tokens, chain)?;
    let (till, own) = match (config.settler().map_err(|error| unfit(&error))?, own) {
        (Settler::Own, None) => return Ok(None),
        (Settler::Own, Some((sender, relayer))) => {
            let (sender, relayer) = (sender.clone(), relayer.clone());
            let settlement = OwnSettlement { chain: Arc::clone(chain), sender, relayer };
            (Till::new(payments, Arc::new(settlement), reader, limits), true)
        }
        (Settler::Hosted(url), _) => {
            let patience = Duration::from_millis(config.settle_timeout_ms);
            let hosted = Hosted::new(&url, patience, config.max_timeout_s, Arc::clone(&tokens), reader.clone());
            (Till::new(payments, Arc::new(hosted.map_err(|error| unfit(&error))?), reader, limits), false)
        }
    };
    let till = Arc::new(till);
    let seller = Arc::new(Seller::new(Arc::clone(&till), Arc::clone(&tokens), config.terms()));
    let policy = config.policy([]).map_err(|error| unfit(&error))?;
    let facilitate = || Arc::new(Facilitator::new(Arc::clone(&till), Arc::clone(&tokens), config.terms(), policy));
    let facilitator = own.then(facilitate);
    Ok(Some(Counter { till, seller, facilitator, tokens }))
}

/// The chain's token must be one that payments are taken in, in its own domain.
fn check_token(tokens: &Tokens, chain: &Chain) -> Result<(), Trouble> {
    let evm = chain.evm.config();
    let Some(token) = tokens.at(evm.chain_id, evm.usdc) else {
        return Err(unfit(&format_args!("[[x402.tokens]] lacks {} of chain {}", evm.usdc, evm.chain_id)));
    };
    if token.separator() != chain.usdc_domain.separator() {
        return Err(unfit(&format_args!("[[x402.tokens]] {}: the token has another EIP-712 domain", evm.usdc)));
    }
    Ok(())
}
