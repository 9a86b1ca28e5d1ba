//! A vault's whole life on a real chain.

use domain::vault::{TaskId, TaskTerms};
use domain::{Address, B256, U256, Usdc};
use palatine_chain::evm::{
    BlockTag, EvmError, OnChainTaskState, Revert, SendError, VaultField, VaultRole, calls, typed,
};
use proptest::prelude::{ProptestConfig, any, proptest};

use super::node::{FUNDS, Fixture, METADATA, Person, consent};

const RESULT: B256 = B256::repeat_byte(0xaa);

async fn state(fixture: &Fixture, vault: Address, terms: &TaskTerms) -> OnChainTaskState {
    let id = typed::task_id(fixture.chain.evm.config(), vault, terms);
    fixture.chain.task(vault, id, BlockTag::Latest).await.unwrap().map_or(OnChainTaskState::None, |task| task.state)
}

async fn usdc(fixture: &Fixture, person: &Person) -> Usdc {
    fixture.chain.usdc_of(person.address(), BlockTag::Latest).await.unwrap()
}

async fn refused(fixture: &Fixture, person: &Person, call: &domain::evm::Call) -> Revert {
    match fixture.tries(person, call).await {
        Err(SendError::Evm(EvmError::Reverted(revert))) => revert,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_vault_is_made_by_anyone_with_the_owners_signature_where_it_was_told() {
    let fixture = Fixture::start().await;
    let (owner, agent) = (Person::new("owner"), Person::new("agent"));
    let told = fixture.chain.vault_of("pod", owner.address()).await.unwrap();
    assert!(!fixture.chain.is_vault(told).await.unwrap());

    assert_eq!(fixture.vault("pod", &owner, &agent).await, told);
    assert!(fixture.chain.is_vault(told).await.unwrap());
    assert!(!fixture.chain.is_vault(fixture.deployed.implementation).await.unwrap());
    let view = fixture.chain.vault(told, BlockTag::Latest).await.unwrap();
    assert_eq!((view.pod_id.as_str(), view.owner, view.agent_wallet), ("pod", owner.address(), agent.address()));

    let deadline = fixture.anvil.now().await + 3600;
    let again = consent(&fixture.chain, "pod", &owner, &agent, deadline);
    let make =
        |consent| calls::create_vault(fixture.deployed.factory, "pod", owner.address(), agent.address(), Some(consent));
    assert_eq!(refused(&fixture, &fixture.boss, &make(&again)).await, Revert::VaultExists { vault: told });
    let forged = consent(&fixture.chain, "pod", &agent, &agent, deadline);
    let other = calls::create_vault(fixture.deployed.factory, "other", owner.address(), agent.address(), Some(&forged));
    assert_eq!(refused(&fixture, &fixture.boss, &other).await, Revert::OwnerSignature { owner: owner.address() });
}

#[tokio::test]
async fn a_task_is_paid_by_signature_alone_and_every_micro_usdc_is_somewhere() {
    let fixture = Fixture::start().await;
    let (owner, agent) = (fixture.person("owner").await, fixture.person("agent").await);
    let creator = fixture.person("creator").await;
    let vault = fixture.vault("pod", &owner, &agent).await;
    let terms = fixture.terms(&creator, 1).await;

    let create = fixture.funded(vault, &creator, &terms).await;
    fixture.does(&fixture.boss, &create).await;
    assert_eq!(usdc(&fixture, &creator).await, Usdc(FUNDS.0 - terms.amount.0));
    fixture.does(&agent, &calls::submit(vault, &terms, RESULT)).await;
    fixture.does(&creator, &calls::complete(vault, &terms, Usdc(4_000_000))).await;
    assert_eq!(state(&fixture, vault, &terms).await, OnChainTaskState::Completed);

    fixture.does(&owner, &calls::withdraw(vault, owner.address(), Usdc(4_000_000))).await;
    fixture.does(&creator, &calls::withdraw_credit(vault, creator.address(), Usdc(1_000_000))).await;
    assert_eq!(usdc(&fixture, &owner).await, Usdc(FUNDS.0 + 4_000_000));
    assert_eq!(usdc(&fixture, &creator).await, Usdc(FUNDS.0 - 4_000_000));
    assert_eq!(fixture.chain.usdc_of(vault, BlockTag::Latest).await, Ok(Usdc::ZERO));
    assert_eq!(fixture.chain.vault(vault, BlockTag::Latest).await.unwrap().total_earnings, Usdc(4_000_000));
}

#[tokio::test]
async fn the_unhappy_paths_end_where_they_should() {
    let fixture = Fixture::start().await;
    let (owner, agent, creator) =
        (fixture.person("owner").await, fixture.person("agent").await, fixture.person("creator").await);
    let vault = fixture.vault("pod", &owner, &agent).await;
    let mut all = Vec::new();
    for salt in 0..4 {
        let terms = fixture.terms(&creator, salt).await;
        fixture.does(&fixture.boss, &fixture.funded(vault, &creator, &terms).await).await;
        all.push(terms);
    }
    let [declined, silent_agent, silent_client, disputed] = &all[..] else { unreachable!() };

    fixture.does(&agent, &calls::decline(vault, declined)).await;
    fixture.does(&agent, &calls::submit(vault, silent_client, RESULT)).await;
    fixture.does(&agent, &calls::submit(vault, disputed, RESULT)).await;
    fixture.does(&creator, &calls::dispute(vault, disputed, B256::ZERO)).await;
    fixture.anvil.advance_time(4000).await;
    fixture.does(&fixture.boss, &calls::refund(vault, silent_agent)).await;
    fixture.does(&fixture.boss, &calls::claim(vault, silent_client)).await;
    fixture.does(&fixture.boss, &calls::default_resolve(vault, disputed)).await;

    let ends = [
        OnChainTaskState::Refunded,
        OnChainTaskState::Refunded,
        OnChainTaskState::Completed,
        OnChainTaskState::Resolved,
    ];
    for (terms, end) in all.iter().zip(ends) {
        assert_eq!(state(&fixture, vault, terms).await, end);
    }
    let view = fixture.chain.vault(vault, BlockTag::Latest).await.unwrap();
    let back = fixture.chain.credit(vault, creator.address(), BlockTag::Latest).await.unwrap();
    assert_eq!((view.available, back), (Usdc(6_250_000), Usdc(13_750_000)));
    assert_eq!(view.balance, Usdc(20_000_000));
}

#[tokio::test]
async fn a_task_is_paid_by_permit_and_by_allowance_too() {
    let fixture = Fixture::start().await;
    let (owner, agent, creator) =
        (fixture.person("owner").await, fixture.person("agent").await, fixture.person("creator").await);
    let vault = fixture.vault("pod", &owner, &agent).await;

    let terms = fixture.terms(&creator, 1).await;
    let deadline = fixture.anvil.now().await + 3600;
    let permit = typed::Permit {
        owner: creator.address(),
        spender: vault,
        value: terms.amount.to_u256(),
        nonce: fixture.chain.permit_nonce(creator.address()).await.unwrap(),
        deadline: U256::from(deadline),
    };
    let signature = creator.sign(typed::digest(&permit, &fixture.chain.usdc_domain));
    let permit = calls::DeadlineSignature { deadline, signature };
    let consent = creator.sign(typed::task_id(fixture.chain.evm.config(), vault, &terms).0);
    fixture.does(&fixture.boss, &calls::create_task_with_permit(vault, &terms, METADATA, &permit, consent)).await;

    let terms = fixture.terms(&creator, 2).await;
    fixture.does(&creator, &calls::approve(fixture.deployed.usdc, vault, terms.amount)).await;
    assert_eq!(fixture.chain.allowance(creator.address(), vault, BlockTag::Latest).await, Ok(terms.amount.to_u256()));
    fixture.does(&creator, &calls::create_task(vault, &terms, METADATA)).await;
    assert_eq!(state(&fixture, vault, &terms).await, OnChainTaskState::Funded);
}

#[tokio::test]
async fn a_call_that_is_forwarded_is_its_signers() {
    let fixture = Fixture::start().await;
    let (owner, agent) = (Person::new("owner without a coin"), Person::new("agent without a coin"));
    let vault = fixture.vault("pod", &owner, &agent).await;
    let pause = calls::set_paused(vault, true);
    let nonce = fixture.chain.forwarder_nonce(owner.address()).await.unwrap();
    let request = calls::request(owner.address(), &pause, 200_000, nonce, fixture.anvil.now().await + 600);
    let digest = typed::digest(&request, &fixture.chain.forwarder_domain);

    let forged = calls::forward(fixture.deployed.forwarder, &request, agent.sign(digest));
    assert!(matches!(refused(&fixture, &fixture.boss, &forged).await, Revert::RequestSigner { .. }));
    fixture.does(&fixture.boss, &calls::forward(fixture.deployed.forwarder, &request, owner.sign(digest))).await;
    assert!(fixture.chain.vault(vault, BlockTag::Latest).await.unwrap().paused);
    let again = calls::forward(fixture.deployed.forwarder, &request, owner.sign(digest));
    assert!(matches!(refused(&fixture, &fixture.boss, &again).await, Revert::RequestSigner { .. }));
}

#[tokio::test]
async fn places_change_hands_in_two_steps() {
    let fixture = Fixture::start().await;
    let (owner, agent, heir) =
        (fixture.person("owner").await, fixture.person("agent").await, fixture.person("heir").await);
    let vault = fixture.vault("pod", &owner, &agent).await;
    fixture.does(&owner, &calls::set_operator(vault, heir.address(), true)).await;
    assert!(fixture.chain.is_operator(vault, heir.address(), BlockTag::Latest).await.unwrap());
    fixture.does(&owner, &calls::propose_agent_wallet(vault, heir.address())).await;
    fixture.does(&heir, &calls::accept_agent_wallet(vault)).await;
    fixture.does(&owner, &calls::transfer_ownership(vault, heir.address())).await;
    assert_eq!(fixture.chain.vault(vault, BlockTag::Latest).await.unwrap().pending_owner, heir.address());
    fixture.does(&heir, &calls::accept_ownership(vault)).await;
    let view = fixture.chain.vault(vault, BlockTag::Latest).await.unwrap();
    assert_eq!((view.owner, view.agent_wallet), (heir.address(), heir.address()));
}

#[tokio::test]
async fn a_refusal_says_who_may_when_and_how_much() {
    let fixture = Fixture::start().await;
    let (owner, agent, creator) =
        (fixture.person("owner").await, fixture.person("agent").await, fixture.person("creator").await);
    let vault = fixture.vault("pod", &owner, &agent).await;
    let terms = fixture.terms(&creator, 1).await;
    let task = typed::task_id(fixture.chain.evm.config(), vault, &terms);

    let early = calls::submit(vault, &terms, RESULT);
    assert_eq!(refused(&fixture, &agent, &early).await, Revert::NoTask { task });
    let create = fixture.funded(vault, &creator, &terms).await;
    fixture.does(&fixture.boss, &create).await;
    assert_eq!(refused(&fixture, &fixture.boss, &create).await, Revert::TaskExists { task });
    let caller = creator.address();
    assert_eq!(
        refused(&fixture, &creator, &early).await,
        Revert::Unauthorized { caller, required: VaultRole::AgentOrOperator }
    );
    let complete = calls::complete(vault, &terms, terms.amount);
    let state = Revert::WrongState { task, actual: OnChainTaskState::Funded, required: OnChainTaskState::Submitted };
    assert_eq!(refused(&fixture, &creator, &complete).await, state);
    let refund = refused(&fixture, &fixture.boss, &calls::refund(vault, &terms)).await;
    assert!(matches!(refund, Revert::DeadlineNotReached { deadline, .. } if deadline == terms.submit_by), "{refund}");
    fixture.does(&agent, &early).await;
    let little = refused(&fixture, &creator, &calls::complete(vault, &terms, Usdc(1))).await;
    assert!(matches!(little, Revert::OutOfBounds { field: VaultField::Paid, .. }), "{little}");
    let much = refused(&fixture, &owner, &calls::withdraw(vault, owner.address(), Usdc(1))).await;
    assert_eq!(much, Revert::InsufficientBalance { available: U256::ZERO, requested: U256::from(1) });
}

#[tokio::test]
async fn the_tokens_refusals_come_through_the_vault() {
    let fixture = Fixture::start().await;
    let (owner, agent) = (Person::new("owner"), Person::new("agent"));
    let poor = Person::new("poor");
    let vault = fixture.vault("pod", &owner, &agent).await;
    let terms = fixture.terms(&poor, 1).await;
    let create = fixture.funded(vault, &poor, &terms).await;
    let broke = refused(&fixture, &fixture.boss, &create).await;
    assert!(matches!(broke, Revert::TokenBalance { account, .. } if account == poor.address()), "{broke}");

    let other = TaskTerms { salt: B256::repeat_byte(9), ..terms.clone() };
    let window = typed::ValidityWindow { after: 0, before: u64::MAX };
    let payment = typed::task_payment(fixture.chain.evm.config(), vault, &terms, window);
    let signature = poor.sign(typed::digest(&payment, &fixture.chain.usdc_domain));
    let squat = calls::create_task_with_authorization(vault, &other, METADATA, window, signature);
    assert_eq!(refused(&fixture, &fixture.boss, &squat).await, Revert::AuthorizationSignature);
}

#[tokio::test]
async fn the_task_id_that_is_computed_here_is_the_vaults() {
    let fixture = Fixture::start().await;
    let vault = fixture.vault("pod", &Person::new("owner"), &Person::new("agent")).await;
    let terms = fixture.terms(&Person::new("creator"), 7).await;
    let ours = typed::task_id(fixture.chain.evm.config(), vault, &terms);
    let missing = fixture.chain.evm.call(&calls::refund(vault, &terms), None, BlockTag::Latest).await;
    assert_eq!(missing, Err(EvmError::Reverted(Revert::NoTask { task: ours })));
    assert_eq!(fixture.chain.task(vault, TaskId(B256::ZERO), BlockTag::Latest).await, Ok(None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_decode_to_some_reason_that_can_be_read(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert!(!Revert::decode(&data).to_string().is_empty());
    }
}
