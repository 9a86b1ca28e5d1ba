//! A payment's whole life, with everything that can go wrong in any order.

use domain::{U256, UnixMillis, Usdc};
use palatine_x402::fake::Weather;
use palatine_x402::*;
use proptest::prelude::*;

use crate::common::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The payer sends his request, or a copy, or the payment with another one.
    Ask { body: &'static str },
    /// A request that holds the payment lets its answer leave.
    Answer,
    /// A request that holds the payment gives it back.
    GiveBack,
    /// The gateway dies; the next one finds record and chain as they are.
    Crash,
    /// Time goes by, for us and for the chain.
    Wait { seconds: u64 },
    /// The reconciler comes round.
    Reconcile,
    /// Whoever settles is in this mood from now on.
    Weather(Weather),
    /// The chain cannot be read, or can again.
    Hide(bool),
    /// Somebody puts the payment on the chain.
    Execute,
    /// The payer uses the nonce up otherwise.
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![4 => Just("hello"), 1 => Just("another")].prop_map(|body| Step::Ask { body }),
        3 => Just(Step::Answer),
        1 => Just(Step::GiveBack),
        1 => Just(Step::Crash),
        2 => prop_oneof![Just(1_u64), Just(61), Just(400)].prop_map(|seconds| Step::Wait { seconds }),
        2 => Just(Step::Reconcile),
        2 => prop_oneof![
            2 => Just(Weather::Fair), 1 => Just(Weather::SettlesInSilence), 1 => Just(Weather::Silence), 1 => Just(Weather::Down),
            1 => Just(Weather::Unknown),
        ].prop_map(Step::Weather),
        1 => any::<bool>().prop_map(Step::Hide),
        1 => Just(Step::Execute),
        1 => Just(Step::Cancel),
    ]
}

struct World {
    shop: Shop,
    payer: Payer,
    now: UnixMillis,
    held: Vec<Ticket>,
    answers: usize,
}

impl World {
    fn new() -> Self {
        let shop = Shop::new();
        let payer = rich(&shop);
        shop.chain.set_time(NOW);
        Self { shop, payer, now: now(), held: Vec::new(), answers: 0 }
    }

    async fn take(&mut self, step: Step) {
        let authorization = authorization(&self.payer);
        match step {
            Step::Ask { body } => {
                let headers = signs_for(&self.payer, &authorization);
                if let Ok(ticket) = self.shop.ask_for(body, &headers, self.now).await {
                    assert_eq!(self.shop.chain.holds(ASSET, PAYEE), PRICE, "nothing is served unpaid");
                    self.held.push(ticket);
                }
            }
            Step::Answer => {
                if let Some(ticket) = self.held.pop() {
                    self.answers += usize::from(ticket.answer().await.is_ok());
                }
            }
            Step::GiveBack => {
                if let Some(ticket) = self.held.pop() {
                    ticket.give_back().await.unwrap();
                }
            }
            Step::Crash => {
                self.held.clear();
                self.shop = Shop::over(self.shop.chain.clone(), self.shop.payments.clone());
            }
            Step::Wait { seconds } => {
                self.now = self.now.plus(seconds * 1000);
                self.shop.chain.set_time(self.now.0 / 1000);
            }
            Step::Reconcile => drop(self.shop.till.reconcile(self.now, 10).await.unwrap()),
            Step::Weather(weather) => self.shop.chain.weather(weather),
            Step::Hide(hidden) => self.shop.chain.hide(hidden),
            // The token takes nothing after its time.
            Step::Execute if U256::from(self.now.0 / 1000) >= authorization.valid_before => {}
            Step::Execute => drop(self.shop.chain.execute(&authorization)),
            Step::Cancel => self.shop.chain.cancel(authorization.key()),
        }
    }
}

/// After all of it, on a fair day: whoever has paid this gateway for this request
/// and has not been answered is answered, once.
async fn settle_up(world: &mut World) {
    world.held.clear();
    world.take(Step::Hide(false)).await;
    world.take(Step::Weather(Weather::Fair)).await;
    world.take(Step::Wait { seconds: 61 }).await;
    world.take(Step::Reconcile).await;
    let key = authorization(&world.payer).key();
    let found = world.shop.payments.find(&key).await.unwrap();
    let request = RequestHash::of("POST", URL, b"hello");
    let owed = matches!(&found, Some((reserved, PaymentState::Settled { .. })) if reserved.request == request);
    let before = world.answers;
    world.take(Step::Ask { body: "hello" }).await;
    world.take(Step::Answer).await;
    if owed {
        assert_eq!(world.answers, before + 1, "what is paid and owed is served");
    }
    world.take(Step::Ask { body: "hello" }).await;
    world.take(Step::Answer).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn one_payment_buys_at_most_one_answer_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
                assert!(world.shop.chain.holds(ASSET, PAYEE) <= PRICE, "nobody pays twice");
            }
            settle_up(&mut world).await;
            assert!(world.answers <= 1, "{} answers for one payment", world.answers);
            if world.answers == 1 {
                assert_eq!(world.shop.chain.holds(ASSET, PAYEE), PRICE);
            }
            assert!(world.shop.chain.holds(ASSET, PAYEE) <= Usdc(PRICE.0));
        });
    }
}
