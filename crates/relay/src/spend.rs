//! What is counted of calls: how many, and what they cost, for each who has a hand in
//! them. Nobody ends the day of a class for the others: calls are counted in numbers,
//! budgets in gas, so a share of the budget bounds what one can have of it. Pure.

use std::collections::BTreeMap;

use domain::{Address, ClientAddr, Wallet};

use crate::class::CallPurpose;
use crate::config::Config;
use domain::relay::DailyQuota;

/// A call that costs the operator gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GasSpend {
    /// What it is for.
    pub class: CallPurpose,
    /// Who has it made: who signs it, or pays.
    pub wallet: Address,
    /// Who else is counted.
    pub beneficiary: Option<Beneficiary>,
    /// Gas it may use.
    pub gas: u64,
}

/// Whom a call is made for, beside who has it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beneficiary {
    /// Who is paid.
    Payee(Address),
    /// Whose agent it is for.
    Holder(Wallet),
}

/// Bounds of one subject a day: calls, and what they may cost.
#[derive(Clone, Copy)]
struct Bounds {
    calls: Option<u64>,
    cost: Option<u64>,
}

/// What a subject adds.
#[derive(Default)]
struct Sum {
    calls: u64,
    cost: u64,
    /// The dearest of its calls.
    dearest: u64,
}

/// What these calls count for, on this day.
pub(crate) fn quotas(
    config: &Config,
    spends: &[GasSpend],
    client: Option<ClientAddr>,
    wei_per_gas: u128,
    day: u64,
) -> Vec<DailyQuota> {
    let mut sums: BTreeMap<String, (Sum, Bounds)> = BTreeMap::new();
    for spend in spends {
        let cost = config.budgets.unit.cost(spend.gas, wei_per_gas);
        for (subject, bounds) in subjects(config, spend, client) {
            let (sum, _) = sums.entry(subject).or_insert_with(|| (Sum::default(), bounds));
            sum.calls = sum.calls.saturating_add(1);
            sum.cost = sum.cost.saturating_add(cost);
            sum.dearest = sum.dearest.max(cost);
        }
    }
    let quota = |subject, add, limit| DailyQuota { subject, day, add, limit };
    let mut quotas: Vec<DailyQuota> = Vec::new();
    // First what holds for all: whoever is refused for it is told so.
    for class in CallPurpose::ALL {
        let costs = spends.iter().filter(|spend| spend.class == class);
        let costs = costs.map(|spend| config.budgets.unit.cost(spend.gas, wei_per_gas));
        let cost = costs.reduce(u64::saturating_add);
        quotas.extend(cost.map(|cost| quota(format!("{}:budget", class.name()), cost, config.budgets.of(class))));
    }
    for (subject, (sum, bounds)) in &sums {
        quotas.extend(bounds.calls.map(|most| quota(subject.clone(), sum.calls, most)));
        // However small the budget is, a share of it has room for one call.
        let share = |most: u64| quota(format!("{subject}:share"), sum.cost, most.max(sum.dearest));
        quotas.extend(bounds.cost.map(share));
    }
    quotas
}

/// Everyone that a call counts for, and his bounds.
fn subjects(config: &Config, spend: &GasSpend, client: Option<ClientAddr>) -> impl Iterator<Item = (String, Bounds)> {
    let class = spend.class;
    let budgets = &config.budgets;
    let share = |percent| Some(budgets.share(class, percent));
    let client = client.map(|client| {
        let bounds = Bounds { calls: Some(config.per_client_day), cost: share(budgets.client_percent) };
        (client.to_string(), bounds)
    });
    let wallet = Bounds { calls: per_wallet(config, class), cost: share(budgets.wallet_percent) };
    let beneficiary = spend.beneficiary.map(|beneficiary| match beneficiary {
        Beneficiary::Payee(payee) => {
            (format!("payee:{payee}"), Bounds { calls: None, cost: share(budgets.payee_percent) })
        }
        // His calls are all alike: their number bounds what they cost.
        Beneficiary::Holder(holder) => {
            (format!("holder:{holder}"), Bounds { calls: Some(config.deploys_per_owner_day), cost: None })
        }
    });
    let all = [client, Some((format!("sender:{}", spend.wallet), wallet)), beneficiary];
    all.into_iter().flatten().map(move |(who, bounds)| (format!("{}:{who}", class.name()), bounds))
}

/// Calls of one wallet a day. Payments are bounded by what they cost, and by what their
/// payers hold.
const fn per_wallet(config: &Config, class: CallPurpose) -> Option<u64> {
    match class {
        CallPurpose::Deploy => Some(config.deploys_per_owner_day),
        CallPurpose::Task | CallPurpose::Withdraw | CallPurpose::Manage | CallPurpose::Forward => {
            Some(config.per_sender_day)
        }
        CallPurpose::Settle => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spends: &[GasSpend]) -> Vec<(String, u64, u64)> {
        let client = ClientAddr::of([10, 0, 0, 1].into());
        let quotas = quotas(&Config::default(), spends, Some(client), 0, 7);
        quotas.into_iter().map(|quota| (quota.subject, quota.add, quota.limit)).collect()
    }

    #[test]
    fn fault_2_6_a_payment_counts_for_its_payer_its_payee_and_its_client_in_the_budgets_unit() {
        let (payer, payee) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let beneficiary = Some(Beneficiary::Payee(payee));
        let spend = GasSpend { class: CallPurpose::Settle, wallet: payer, beneficiary, gas: 90_000 };
        let expected = [
            ("settle:budget".to_owned(), 90_000, 1_000_000_000),
            ("settle:client:10.0.0.1".to_owned(), 1, 1000),
            ("settle:client:10.0.0.1:share".to_owned(), 90_000, 100_000_000),
            (format!("settle:payee:{payee}:share"), 90_000, 100_000_000),
            (format!("settle:sender:{payer}:share"), 90_000, 100_000_000),
        ];
        assert_eq!(of(&[spend]), expected);
    }

    #[test]
    fn calls_of_one_wallet_are_added_up_and_a_share_has_room_for_the_dearest() {
        let wallet = Address::repeat_byte(1);
        let manage = |gas| GasSpend { class: CallPurpose::Manage, wallet, beneficiary: None, gas };
        let share = (format!("manage:sender:{wallet}:share"), 4_000_000, 3_500_000);
        assert!(of(&[manage(3_500_000), manage(500_000)]).contains(&share));
        assert!(of(&[manage(3_500_000), manage(500_000)]).contains(&(format!("manage:sender:{wallet}"), 2, 200)));
    }

    #[test]
    fn fault_2_6_a_vault_counts_for_its_owner_and_its_agents_holder() {
        let (wallet, holder) = (Address::repeat_byte(1), Wallet([3; 32]));
        let spend = GasSpend {
            class: CallPurpose::Deploy,
            wallet,
            beneficiary: Some(Beneficiary::Holder(holder)),
            gas: 135_000,
        };
        let counted = of(&[spend]);
        assert!(counted.contains(&(format!("deploy:holder:{holder}"), 1, 8)), "{counted:?}");
        assert!(counted.contains(&(format!("deploy:sender:{wallet}"), 1, 8)), "{counted:?}");
    }
}
