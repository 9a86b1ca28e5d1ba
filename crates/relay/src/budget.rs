//! `[relayer.budgets]`: what each class of calls may cost the operator a day.

use serde::{Deserialize, Serialize};

use crate::class::CallPurpose;

/// `[relayer.budgets]`. A class whose budget is used up waits for the next day (UTC);
/// the others go on. Nobody uses a class up alone: whoever has had his share of it waits
/// too. One call a day is never too large for a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// What is counted: `gas`, or `gwei`, which is gas times its price at that moment.
    /// Default `gas`.
    pub unit: BudgetUnit,
    /// Vaults. Default 27000000: some 200.
    pub deploy: u64,
    /// Tasks: paid for, worked on, decided. Default 100000000.
    pub task: u64,
    /// Money that leaves vaults. Default 30000000.
    pub withdraw: u64,
    /// Vaults' settings. Default 30000000.
    pub manage: u64,
    /// Calls of `targets`. Default 40000000.
    pub forward: u64,
    /// Payments for requests, and those that `/settle` makes. Default 1000000000.
    pub settle: u64,
    /// Per cent of a class's budget that calls of one wallet may cost: of who signs or
    /// pays, or of a contract that anyone may call. Default 10.
    pub wallet_percent: u64,
    /// Per cent of `settle` that payments to one payee may cost. Default 10.
    pub payee_percent: u64,
    /// Per cent of a class's budget that calls from one client address (of an IPv6
    /// /64) may cost. Default 10.
    pub client_percent: u64,
}

/// What budgets are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetUnit {
    /// Gas, whatever it costs.
    #[default]
    Gas,
    /// Billionths of a CRO: gas times its price.
    Gwei,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            unit: BudgetUnit::Gas,
            deploy: 27_000_000,
            task: 100_000_000,
            withdraw: 30_000_000,
            manage: 30_000_000,
            forward: 40_000_000,
            settle: 1_000_000_000,
            wallet_percent: 10,
            payee_percent: 10,
            client_percent: 10,
        }
    }
}

impl Budgets {
    /// The budget of one class.
    #[must_use]
    pub const fn of(&self, class: CallPurpose) -> u64 {
        match class {
            CallPurpose::Deploy => self.deploy,
            CallPurpose::Task => self.task,
            CallPurpose::Withdraw => self.withdraw,
            CallPurpose::Manage => self.manage,
            CallPurpose::Forward => self.forward,
            CallPurpose::Settle => self.settle,
        }
    }

    /// So many per cent of one class's budget.
    pub(crate) fn share(&self, class: CallPurpose, percent: u64) -> u64 {
        let share = u128::from(self.of(class)) * u128::from(percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

impl BudgetUnit {
    /// So much gas at so many wei each, rounded up.
    pub(crate) fn cost(self, gas: u64, wei_per_gas: u128) -> u64 {
        match self {
            Self::Gas => gas,
            Self::Gwei => {
                let wei = u128::from(gas).saturating_mul(wei_per_gas);
                u64::try_from(wei.div_ceil(WEI_PER_GWEI)).unwrap_or(u64::MAX)
            }
        }
    }
}

const WEI_PER_GWEI: u128 = 1_000_000_000;
