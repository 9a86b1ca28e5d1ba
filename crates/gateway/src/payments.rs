//! What is needed to take payments for requests, as a narrow trait.

use std::sync::Arc;

use async_trait::async_trait;
use domain::{Usdc, Wallet};
use treasury::{Treasury, TreasuryError};
use x402::{Quote, Seller};

/// Where requests to agents are paid.
#[async_trait]
pub trait PaymentProvider: Send + Sync {
    /// Who takes the payments.
    ///
    /// # Errors
    /// When nobody does.
    fn seller(&self) -> Result<Arc<Seller>, TreasuryError>;

    /// The terms of a request to a holder's agent that costs this.
    ///
    /// # Errors
    /// When nobody is there to be paid, or the chain is not known yet.
    async fn quote(&self, holder: Wallet, url: &str, price: Usdc) -> Result<Quote, TreasuryError>;
}

#[async_trait]
impl PaymentProvider for Treasury {
    fn seller(&self) -> Result<Arc<Seller>, TreasuryError> {
        self.seller()
    }

    async fn quote(&self, holder: Wallet, url: &str, price: Usdc) -> Result<Quote, TreasuryError> {
        self.quote(holder, url, price).await
    }
}
