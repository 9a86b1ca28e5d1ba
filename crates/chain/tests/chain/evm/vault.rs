//! A vault's whole life on a real chain.

use domain::vault::{TaskId, Terms};
use domain::{Address, B256, U256, Usdc};
use palatine_chain::evm::{At, EvmError, Field, OnChain, Revert, Role, SendError, calls, typed};
use proptest::prelude::{ProptestConfig, any, proptest};

use super::node::{FUNDS, METADATA, Person, World, consent};

const RESULT: B256 = B256::repeat_byte(0xaa);

async fn state(world: &World, vault: Address, terms: &Terms) -> OnChain {
    let id = typed::task_id(world.chain.evm.config(), vault, terms);
    world.chain.task(vault, id, At::Latest).await.unwrap().map_or(OnChain::None, |task| task.state)
}

async fn usdc(world: &World, person: &Person) -> Usdc {
    world.chain.usdc_of(person.address(), At::Latest).await.unwrap()
}

async fn refused(world: &World, person: &Person, call: &domain::evm::Call) -> Revert {
    match world.tries(person, call).await {
        Err(SendError::Evm(EvmError::Reverted(revert))) => revert,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_vault_is_made_by_anyone_with_the_owners_signature_where_it_was_told() {
    let world = World::start().await;
    let (owner, agent) = (Person::new("owner"), Person::new("agent"));
    let told = world.chain.vault_of("pod", owner.address()).await.unwrap();
    assert!(!world.chain.is_vault(told).await.unwrap());

    assert_eq!(world.vault("pod", &owner, &agent).await, told);
    assert!(world.chain.is_vault(told).await.unwrap());
    assert!(!world.chain.is_vault(world.deployed.implementation).await.unwrap());
    let view = world.chain.vault(told, At::Latest).await.unwrap();
    assert_eq!((view.pod_id.as_str(), view.owner, view.agent_wallet), ("pod", owner.address(), agent.address()));

    let deadline = world.anvil.now().await + 3600;
    let again = consent(&world.chain, "pod", &owner, &agent, deadline);
    let make =
        |consent| calls::create_vault(world.deployed.factory, "pod", owner.address(), agent.address(), Some(consent));
    assert_eq!(refused(&world, &world.boss, &make(&again)).await, Revert::VaultExists { vault: told });
    let forged = consent(&world.chain, "pod", &agent, &agent, deadline);
    let other = calls::create_vault(world.deployed.factory, "other", owner.address(), agent.address(), Some(&forged));
    assert_eq!(refused(&world, &world.boss, &other).await, Revert::OwnerSignature { owner: owner.address() });
}

#[tokio::test]
async fn a_task_is_paid_by_signature_alone_and_every_micro_usdc_is_somewhere() {
    let world = World::start().await;
    let (owner, agent) = (world.person("owner").await, world.person("agent").await);
    let creator = world.person("creator").await;
    let vault = world.vault("pod", &owner, &agent).await;
    let terms = world.terms(&creator, 1).await;

    let create = world.funded(vault, &creator, &terms).await;
    world.does(&world.boss, &create).await;
    assert_eq!(usdc(&world, &creator).await, Usdc(FUNDS.0 - terms.amount.0));
    world.does(&agent, &calls::submit(vault, &terms, RESULT)).await;
    world.does(&creator, &calls::complete(vault, &terms, Usdc(4_000_000))).await;
    assert_eq!(state(&world, vault, &terms).await, OnChain::Completed);

    world.does(&owner, &calls::withdraw(vault, owner.address(), Usdc(4_000_000))).await;
    world.does(&creator, &calls::withdraw_credit(vault, creator.address(), Usdc(1_000_000))).await;
    assert_eq!(usdc(&world, &owner).await, Usdc(FUNDS.0 + 4_000_000));
    assert_eq!(usdc(&world, &creator).await, Usdc(FUNDS.0 - 4_000_000));
    assert_eq!(world.chain.usdc_of(vault, At::Latest).await, Ok(Usdc::ZERO));
    assert_eq!(world.chain.vault(vault, At::Latest).await.unwrap().total_earnings, Usdc(4_000_000));
}

#[tokio::test]
async fn the_unhappy_paths_end_where_they_should() {
    let world = World::start().await;
    let (owner, agent, creator) =
        (world.person("owner").await, world.person("agent").await, world.person("creator").await);
    let vault = world.vault("pod", &owner, &agent).await;
    let mut all = Vec::new();
    for salt in 0..4 {
        let terms = world.terms(&creator, salt).await;
        world.does(&world.boss, &world.funded(vault, &creator, &terms).await).await;
        all.push(terms);
    }
    let [declined, silent_agent, silent_client, disputed] = &all[..] else { unreachable!() };

    world.does(&agent, &calls::decline(vault, declined)).await;
    world.does(&agent, &calls::submit(vault, silent_client, RESULT)).await;
    world.does(&agent, &calls::submit(vault, disputed, RESULT)).await;
    world.does(&creator, &calls::dispute(vault, disputed, B256::ZERO)).await;
    world.anvil.pass(4000).await;
    world.does(&world.boss, &calls::refund(vault, silent_agent)).await;
    world.does(&world.boss, &calls::claim(vault, silent_client)).await;
    world.does(&world.boss, &calls::default_resolve(vault, disputed)).await;

    let ends = [OnChain::Refunded, OnChain::Refunded, OnChain::Completed, OnChain::Resolved];
    for (terms, end) in all.iter().zip(ends) {
        assert_eq!(state(&world, vault, terms).await, end);
    }
    let view = world.chain.vault(vault, At::Latest).await.unwrap();
    let back = world.chain.credit(vault, creator.address(), At::Latest).await.unwrap();
    assert_eq!((view.available, back), (Usdc(6_250_000), Usdc(13_750_000)));
    assert_eq!(view.balance, Usdc(20_000_000));
}

#[tokio::test]
async fn a_task_is_paid_by_permit_and_by_allowance_too() {
    let world = World::start().await;
    let (owner, agent, creator) =
        (world.person("owner").await, world.person("agent").await, world.person("creator").await);
    let vault = world.vault("pod", &owner, &agent).await;

    let terms = world.terms(&creator, 1).await;
    let deadline = world.anvil.now().await + 3600;
    let permit = typed::Permit {
        owner: creator.address(),
        spender: vault,
        value: terms.amount.to_u256(),
        nonce: world.chain.permit_nonce(creator.address()).await.unwrap(),
        deadline: U256::from(deadline),
    };
    let signature = creator.sign(typed::digest(&permit, &world.chain.usdc_domain));
    let permit = calls::Consent { deadline, signature };
    let consent = creator.sign(typed::task_id(world.chain.evm.config(), vault, &terms).0);
    world.does(&world.boss, &calls::create_task_with_permit(vault, &terms, METADATA, &permit, consent)).await;

    let terms = world.terms(&creator, 2).await;
    world.does(&creator, &calls::approve(world.deployed.usdc, vault, terms.amount)).await;
    assert_eq!(world.chain.allowance(creator.address(), vault, At::Latest).await, Ok(terms.amount.to_u256()));
    world.does(&creator, &calls::create_task(vault, &terms, METADATA)).await;
    assert_eq!(state(&world, vault, &terms).await, OnChain::Funded);
}

#[tokio::test]
async fn a_call_that_is_forwarded_is_its_signers() {
    let world = World::start().await;
    let (owner, agent) = (Person::new("owner without a coin"), Person::new("agent without a coin"));
    let vault = world.vault("pod", &owner, &agent).await;
    let pause = calls::set_paused(vault, true);
    let nonce = world.chain.forwarder_nonce(owner.address()).await.unwrap();
    let request = calls::request(owner.address(), &pause, 200_000, nonce, world.anvil.now().await + 600);
    let digest = typed::digest(&request, &world.chain.forwarder_domain);

    let forged = calls::forward(world.deployed.forwarder, &request, agent.sign(digest));
    assert!(matches!(refused(&world, &world.boss, &forged).await, Revert::RequestSigner { .. }));
    world.does(&world.boss, &calls::forward(world.deployed.forwarder, &request, owner.sign(digest))).await;
    assert!(world.chain.vault(vault, At::Latest).await.unwrap().paused);
    let again = calls::forward(world.deployed.forwarder, &request, owner.sign(digest));
    assert!(matches!(refused(&world, &world.boss, &again).await, Revert::RequestSigner { .. }));
}

#[tokio::test]
async fn places_change_hands_in_two_steps() {
    let world = World::start().await;
    let (owner, agent, heir) = (world.person("owner").await, world.person("agent").await, world.person("heir").await);
    let vault = world.vault("pod", &owner, &agent).await;
    world.does(&owner, &calls::set_operator(vault, heir.address(), true)).await;
    assert!(world.chain.is_operator(vault, heir.address(), At::Latest).await.unwrap());
    world.does(&owner, &calls::propose_agent_wallet(vault, heir.address())).await;
    world.does(&heir, &calls::accept_agent_wallet(vault)).await;
    world.does(&owner, &calls::transfer_ownership(vault, heir.address())).await;
    assert_eq!(world.chain.vault(vault, At::Latest).await.unwrap().pending_owner, heir.address());
    world.does(&heir, &calls::accept_ownership(vault)).await;
    let view = world.chain.vault(vault, At::Latest).await.unwrap();
    assert_eq!((view.owner, view.agent_wallet), (heir.address(), heir.address()));
}

#[tokio::test]
async fn a_refusal_says_who_may_when_and_how_much() {
    let world = World::start().await;
    let (owner, agent, creator) =
        (world.person("owner").await, world.person("agent").await, world.person("creator").await);
    let vault = world.vault("pod", &owner, &agent).await;
    let terms = world.terms(&creator, 1).await;
    let task = typed::task_id(world.chain.evm.config(), vault, &terms);

    let early = calls::submit(vault, &terms, RESULT);
    assert_eq!(refused(&world, &agent, &early).await, Revert::NoTask { task });
    let create = world.funded(vault, &creator, &terms).await;
    world.does(&world.boss, &create).await;
    assert_eq!(refused(&world, &world.boss, &create).await, Revert::TaskExists { task });
    let caller = creator.address();
    assert_eq!(
        refused(&world, &creator, &early).await,
        Revert::Unauthorized { caller, required: Role::AgentOrOperator }
    );
    let complete = calls::complete(vault, &terms, terms.amount);
    let state = Revert::WrongState { task, actual: OnChain::Funded, required: OnChain::Submitted };
    assert_eq!(refused(&world, &creator, &complete).await, state);
    let refund = refused(&world, &world.boss, &calls::refund(vault, &terms)).await;
    assert!(matches!(refund, Revert::DeadlineNotReached { deadline, .. } if deadline == terms.submit_by), "{refund}");
    world.does(&agent, &early).await;
    let little = refused(&world, &creator, &calls::complete(vault, &terms, Usdc(1))).await;
    assert!(matches!(little, Revert::OutOfBounds { field: Field::Paid, .. }), "{little}");
    let much = refused(&world, &owner, &calls::withdraw(vault, owner.address(), Usdc(1))).await;
    assert_eq!(much, Revert::InsufficientBalance { available: U256::ZERO, requested: U256::from(1) });
}

#[tokio::test]
async fn the_tokens_refusals_come_through_the_vault() {
    let world = World::start().await;
    let (owner, agent) = (Person::new("owner"), Person::new("agent"));
    let poor = Person::new("poor");
    let vault = world.vault("pod", &owner, &agent).await;
    let terms = world.terms(&poor, 1).await;
    let create = world.funded(vault, &poor, &terms).await;
    let broke = refused(&world, &world.boss, &create).await;
    assert!(matches!(broke, Revert::TokenBalance { account, .. } if account == poor.address()), "{broke}");

    let other = Terms { salt: B256::repeat_byte(9), ..terms.clone() };
    let window = typed::Window { after: 0, before: u64::MAX };
    let payment = typed::task_payment(world.chain.evm.config(), vault, &terms, window);
    let signature = poor.sign(typed::digest(&payment, &world.chain.usdc_domain));
    let squat = calls::create_task_with_authorization(vault, &other, METADATA, window, signature);
    assert_eq!(refused(&world, &world.boss, &squat).await, Revert::AuthorizationSignature);
}

#[tokio::test]
async fn the_task_id_that_is_computed_here_is_the_vaults() {
    let world = World::start().await;
    let vault = world.vault("pod", &Person::new("owner"), &Person::new("agent")).await;
    let terms = world.terms(&Person::new("creator"), 7).await;
    let ours = typed::task_id(world.chain.evm.config(), vault, &terms);
    let missing = world.chain.evm.call(&calls::refund(vault, &terms), None, At::Latest).await;
    assert_eq!(missing, Err(EvmError::Reverted(Revert::NoTask { task: ours })));
    assert_eq!(world.chain.task(vault, TaskId(B256::ZERO), At::Latest).await, Ok(None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_decode_to_some_reason_that_can_be_read(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert!(!Revert::decode(&data).to_string().is_empty());
    }
}
