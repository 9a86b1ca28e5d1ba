//! What an identity signs, against the examples of the standards.

use alloy::consensus::{SignableTransaction, TxEip1559, TxLegacy};
use alloy::network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy::primitives::{Signature, TxKind, address, b256, keccak256, uint};
use alloy::rpc::types::TransactionRequest;
use alloy_sol_types::{SolStruct, eip712_domain, sol};
use domain::{Address, U256};
use palatine_identity::{Identity, InvalidKey, Signer, SignerSync, TxSigner, TxSignerSync, VaultMismatch};

sol! {
    struct Person {
        string name;
        address wallet;
    }

    struct Mail {
        Person from;
        Person to;
        string contents;
    }
}

fn identity() -> Identity {
    Identity::from_secret(&[0x46; 32]).unwrap()
}

#[test]
fn the_address_is_that_of_eip_155s_example() {
    assert_eq!(identity().address(), address!("0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"));
}

#[test]
fn the_transaction_of_eip_155_is_signed_as_there() {
    let mut transaction = TxLegacy {
        chain_id: Some(1),
        nonce: 9,
        gas_price: 20_000_000_000,
        gas_limit: 21_000,
        to: TxKind::Call(Address::from([0x35; 20])),
        value: U256::from(1_000_000_000_000_000_000_u64),
        input: Vec::new().into(),
    };
    let signature = identity().sign_transaction_sync(&mut transaction).unwrap();
    let expected = Signature::new(
        uint!(0x28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276_U256),
        uint!(0x67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83_U256),
        false,
    );
    assert_eq!(signature, expected);
}

#[test]
fn the_mail_of_eip_712_is_signed_as_there() {
    let cow = Identity::from_secret(&keccak256("cow").0).unwrap();
    let domain = eip712_domain! {
        name: "Ether Mail",
        version: "1",
        chain_id: 1,
        verifying_contract: address!("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"),
    };
    let mail = Mail {
        from: Person { name: "Cow".into(), wallet: address!("0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826") },
        to: Person { name: "Bob".into(), wallet: address!("0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB") },
        contents: "Hello, Bob!".into(),
    };
    let digest = mail.eip712_signing_hash(&domain);
    assert_eq!(digest, b256!("0xbe609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"));
    let expected = Signature::new(
        uint!(0x4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d_U256),
        uint!(0x07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562_U256),
        true,
    );
    assert_eq!(cow.sign_typed_data_sync(&mail, &domain).unwrap(), expected);
    assert_eq!(cow.sign_hash_sync(&digest).unwrap(), expected);
}

/// By ethers 6: `new Wallet("0x4646…46").signMessage("Palatine links")`.
#[test]
fn a_personal_text_is_signed_as_another_wallet_signs_it() {
    let signature = identity().sign_message_sync(b"Palatine links").unwrap();
    assert_eq!(
        signature.to_string(),
        "0xecc27d34a4208ba0ca3db65e8d8d255df601ebe2e49cfd181bd0584dd4c3b395751ae67df2f335063cfd09ef77cf0a238a469bbc850dd9c39c7b39448fea84781b"
    );
}

#[tokio::test]
async fn the_asynchronous_traits_sign_alike_and_keep_to_their_chain() {
    let mut identity = identity();
    let digest = keccak256("digest");
    assert_eq!(identity.sign_hash(&digest).await.unwrap(), identity.sign_hash_sync(&digest).unwrap());
    identity.set_chain_id(Some(338));
    let mut transaction = TxEip1559 { chain_id: 338, gas_limit: 21_000, ..Default::default() };
    let signature = TxSigner::sign_transaction(&identity, &mut transaction).await.unwrap();
    let signer = signature.recover_address_from_prehash(&transaction.signature_hash()).unwrap();
    assert_eq!(signer, identity.address());
    let mut elsewhere = TxEip1559 { chain_id: 25, ..transaction };
    assert!(TxSigner::sign_transaction(&identity, &mut elsewhere).await.is_err());
}

#[tokio::test]
async fn an_identity_is_a_wallet_to_alloys_providers() {
    let wallet = EthereumWallet::from(identity());
    let request = TransactionRequest::default()
        .to(Address::ZERO)
        .nonce(0)
        .gas_limit(21_000)
        .max_fee_per_gas(1)
        .max_priority_fee_per_gas(1)
        .with_chain_id(338);
    let envelope = request.build(&wallet).await.unwrap();
    let signer = envelope.signature().recover_address_from_prehash(&envelope.signature_hash()).unwrap();
    assert_eq!(signer, identity().address());
}

#[test]
fn a_vault_is_owned_by_the_identity_that_it_names_alone() {
    let ours = identity().address();
    assert_eq!(identity().verify_ownership(ours), Ok(()));
    for vaults in [Address::ZERO, Address::from([0x35; 20])] {
        assert_eq!(identity().verify_ownership(vaults), Err(VaultMismatch { ours, vaults }));
    }
}

#[test]
fn numbers_that_are_no_key_are_refused() {
    let order = b256!("0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141").0;
    for secret in [[0; 32], order, [255; 32]] {
        assert_eq!(Identity::from_secret(&secret).unwrap_err(), InvalidKey);
    }
}

#[test]
fn nothing_that_is_shown_of_an_identity_is_its_key() {
    let shown = format!("{:?} {:#?}", identity(), identity());
    assert!(shown.contains("0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F") && !shown.contains("4646"), "{shown}");
    assert!(!shown.contains("70, 70"), "{shown}");
}
