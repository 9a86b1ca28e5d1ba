//! A payment's whole life, with everything that can go wrong in any order.

use domain::{U256, UnixMillis, Usdc};
use palatine_x402::fake::TransferBehavior;
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
    TransferBehavior(TransferBehavior),
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
            2 => Just(TransferBehavior::Settles), 1 => Just(TransferBehavior::SettlesWithoutAnswer), 1 => Just(TransferBehavior::NeverAnswers), 1 => Just(TransferBehavior::Unavailable),
            1 => Just(TransferBehavior::UnknownOutcome),
        ].prop_map(Step::TransferBehavior),
        1 => any::<bool>().prop_map(Step::Hide),
        1 => Just(Step::Execute),
        1 => Just(Step::Cancel),
    ]
}

struct Model {
    server: ResourceServer,
    payer: Payer,
    now: UnixMillis,
    held: Vec<AnswerPermit>,
    answers: usize,
}

impl Model {
    fn new() -> Self {
        let server = ResourceServer::new();
        let payer = funded_payer(&server);
        server.chain.set_time(NOW);
        Self { server, payer, now: now(), held: Vec::new(), answers: 0 }
    }

    async fn take(&mut self, step: Step) {
        let authorization = authorization(&self.payer);
        match step {
            Step::Ask { body } => {
                let headers = signs_for(&self.payer, &authorization);
                if let Ok(permit) = self.server.ask_for(body, &headers, self.now).await {
                    assert_eq!(self.server.chain.holds(ASSET, PAYEE), PRICE, "nothing is served unpaid");
                    self.held.push(permit);
                }
            }
            Step::Answer => {
                if let Some(permit) = self.held.pop() {
                    self.answers += usize::from(permit.answer().await.is_ok());
                }
            }
            Step::GiveBack => {
                if let Some(permit) = self.held.pop() {
                    permit.give_back().await.unwrap();
                }
            }
            Step::Crash => {
                self.held.clear();
                self.server = ResourceServer::over(self.server.chain.clone(), self.server.payments.clone());
            }
            Step::Wait { seconds } => {
                self.now = self.now.plus(seconds * 1000);
                self.server.chain.set_time(self.now.0 / 1000);
            }
            Step::Reconcile => drop(self.server.settlements.reconcile(self.now, 10).await.unwrap()),
            Step::TransferBehavior(behavior) => self.server.chain.set_behavior(behavior),
            Step::Hide(hidden) => self.server.chain.hide(hidden),
            // The token takes nothing after its time.
            Step::Execute if U256::from(self.now.0 / 1000) >= authorization.valid_before => {}
            Step::Execute => drop(self.server.chain.execute(&authorization)),
            Step::Cancel => self.server.chain.cancel(authorization.key()),
        }
    }
}

/// After all of it, on a fair day: whoever has paid this gateway for this request
/// and has not been answered is answered, once.
async fn settle_up(model: &mut Model) {
    model.held.clear();
    model.take(Step::Hide(false)).await;
    model.take(Step::TransferBehavior(TransferBehavior::Settles)).await;
    model.take(Step::Wait { seconds: 61 }).await;
    model.take(Step::Reconcile).await;
    let key = authorization(&model.payer).key();
    let found = model.server.payments.find(&key).await.unwrap();
    let request = PaidRequestHash::of("POST", URL, b"hello");
    let owed = matches!(&found, Some((reserved, PaymentState::Settled { .. })) if reserved.request == request);
    let before = model.answers;
    model.take(Step::Ask { body: "hello" }).await;
    model.take(Step::Answer).await;
    if owed {
        assert_eq!(model.answers, before + 1, "what is paid and owed is served");
    }
    model.take(Step::Ask { body: "hello" }).await;
    model.take(Step::Answer).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn one_payment_buys_at_most_one_answer_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            for step in steps {
                model.take(step).await;
                assert!(model.server.chain.holds(ASSET, PAYEE) <= PRICE, "nobody pays twice");
            }
            settle_up(&mut model).await;
            assert!(model.answers <= 1, "{} answers for one payment", model.answers);
            if model.answers == 1 {
                assert_eq!(model.server.chain.holds(ASSET, PAYEE), PRICE);
            }
            assert!(model.server.chain.holds(ASSET, PAYEE) <= Usdc(PRICE.0));
        });
    }
}
