//! Keystores that others wrote, and what is none.

use domain::Address;
use palatine_identity::{Identity, Keystore, KeystoreError, MAX_TEXT};
use secrecy::SecretString;

/// The key that the vectors of the definition hold.
const DEFINITION: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
const ETHERS: &str = include_str!("keystores/ethers.json");

fn opened(text: &str, password: &str) -> Result<Address, KeystoreError> {
    Keystore::parse(text.as_bytes())?.open(&SecretString::from(password)).map(|identity| identity.address())
}

fn address_of(secret: &str) -> Address {
    let secret: [u8; 32] = hex::decode(secret).unwrap().try_into().unwrap();
    Identity::from_secret(&secret).unwrap().address()
}

#[test]
fn the_definitions_pbkdf2_vector_opens() {
    let text = include_str!("keystores/definition-pbkdf2.json");
    assert_eq!(opened(text, "testpassword"), Ok(address_of(DEFINITION)));
    assert_eq!(Keystore::parse(text.as_bytes()).unwrap().address(), None);
}

#[test]
fn the_definitions_scrypt_vector_opens() {
    let text = include_str!("keystores/definition-scrypt.json");
    assert_eq!(opened(text, "testpassword"), Ok(address_of(DEFINITION)));
}

#[test]
fn what_ethers_and_eth_account_write_opens_with_its_password_alone() {
    let files =
        [ETHERS, include_str!("keystores/eth-account-scrypt.json"), include_str!("keystores/eth-account-pbkdf2.json")];
    for text in files {
        assert_eq!(opened(text, "correct horse"), Ok(address_of(&"46".repeat(32))));
        assert_eq!(opened(text, "correct horse "), Err(KeystoreError::Password));
    }
}

fn changed(from: &str, to: &str) -> KeystoreError {
    assert!(ETHERS.contains(from), "{from}");
    opened(&ETHERS.replace(from, to), "correct horse").unwrap_err()
}

fn unsupported(field: &'static str, found: &str) -> KeystoreError {
    KeystoreError::Unsupported { field, found: found.to_owned() }
}

#[test]
fn a_kind_of_keystore_that_we_do_not_read_is_named() {
    assert_eq!(changed("\"version\":3", "\"version\":4"), unsupported("version", "4"));
    assert_eq!(changed("\"version\":3", "\"version\":\"1\""), unsupported("version", "1"));
    assert_eq!(changed("\"scrypt\"", "\"argon2id\""), unsupported("kdf", "argon2id"));
    assert_eq!(changed("aes-128-ctr", "aes-128-cbc"), unsupported("cipher", "aes-128-cbc"));
    assert_eq!(changed("\"dklen\":32", "\"dklen\":16"), unsupported("dklen", "16"));
    let pbkdf2 = include_str!("keystores/eth-account-pbkdf2.json").replace("hmac-sha256", "hmac-sha512");
    assert_eq!(opened(&pbkdf2, "x"), Err(unsupported("prf", "hmac-sha512")));
}

#[test]
fn a_field_that_is_missing_or_of_another_shape_is_named() {
    for field in ["ciphertext", "iv", "mac", "salt", "kdf", "cipher", "dklen", "version", "cipherparams"] {
        let renamed = ETHERS.replace(&format!("\"{field}\":"), "\"other\":");
        assert_eq!(opened(&renamed, "x"), Err(KeystoreError::Missing(field)));
        let emptied = ETHERS.replace(&format!("\"{field}\":"), &format!("\"{field}\":null,\"other\":"));
        assert_eq!(opened(&emptied, "x"), Err(KeystoreError::Malformed(field)), "{field}");
    }
    for field in ["ciphertext", "iv", "mac", "address"] {
        let shorter = ETHERS.replacen(&format!("\"{field}\":\""), &format!("\"{field}\":\"00"), 1);
        assert_eq!(opened(&shorter, "x"), Err(KeystoreError::Malformed(field)), "{field}");
    }
    assert_eq!(changed("\"id\":\"", "\"id\":\"x"), KeystoreError::Malformed("id"));
    assert_eq!(changed("\"n\":4096", "\"n\":4096.0"), KeystoreError::Malformed("n"));
    assert_eq!(changed("\"n\":4096", "\"n\":-4096"), KeystoreError::Malformed("n"));
}

#[test]
fn a_keystore_cut_off_anywhere_is_called_that() {
    for end in 0..ETHERS.trim_end().len() {
        assert_eq!(opened(&ETHERS[..end], "correct horse"), Err(KeystoreError::Truncated), "{end}");
    }
}

#[test]
fn other_json_and_other_files_are_told_from_a_broken_keystore() {
    let foreign = ["null", "3", "[1,2,3]", "{}", "{\"address\":\"00\"}", "\"0x4646464646464646464646464646464646\""];
    for text in foreign {
        assert_eq!(opened(text, "x"), Err(KeystoreError::Foreign), "{text}");
    }
    for text in ["0x4646", "-----BEGIN EC PRIVATE KEY-----", "\u{feff}{}", "{} {}", "{'version': 3}"] {
        assert_eq!(opened(text, "x"), Err(KeystoreError::NotJson), "{text}");
    }
    assert_eq!(Keystore::parse(&[0xff; 32]), Err(KeystoreError::NotJson));
    assert_eq!(Keystore::parse(&vec![b' '; MAX_TEXT + 1]), Err(KeystoreError::TooLarge));
    assert_eq!(Keystore::parse(&vec![b'['; MAX_TEXT]), Err(KeystoreError::NotJson));
}

#[test]
fn no_error_shows_what_a_file_held() {
    let secret = "4f3edf983ac636a65a842ce7c78d9aa706d3b113bce9c46f30d7d21715b23b1d";
    let texts = [
        format!("\"{secret}\""),
        format!("{{\"version\":\"{secret}\",\"crypto\":{{}}}}"),
        ETHERS.replace("aes-128-ctr", secret),
        ETHERS.replace("\"scrypt\"", &format!("\"{secret}\"")),
        ETHERS.replace("\"n\":4096", &format!("\"n\":\"{secret}\"")),
    ];
    for text in texts {
        let error = opened(&text, "x").unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[..8]), "{error:?}");
    }
}

#[test]
fn a_keystore_that_would_eat_the_machine_is_refused_before_anything_is_derived() {
    let asks = |from: &str, to: &str, what: &str| match changed(from, to) {
        KeystoreError::TooCostly { what: said, .. } => assert_eq!(said, what, "{to}"),
        error => panic!("{to}: {error:?}"),
    };
    let memory = "bytes of memory";
    asks("\"n\":4096", "\"n\":1099511627776", memory);
    asks("\"n\":4096", "\"n\":9223372036854775808", memory);
    asks("\"r\":8", "\"r\":4294967295", memory);
    asks("\"p\":1", "\"p\":4294967295", memory);
    asks("\"p\":1", "\"p\":4096", "blocks of work");
    let endless = include_str!("keystores/eth-account-pbkdf2.json").replace("\"c\": 1000", "\"c\": 4294967295");
    let said = opened(&endless, "x");
    assert!(matches!(said, Err(KeystoreError::TooCostly { what: "rounds", .. })), "{said:?}");
}

#[test]
fn parameters_that_are_no_scrypt_are_named() {
    for n in ["0", "1", "3", "4095", "18446744073709551615"] {
        assert_eq!(changed("\"n\":4096", &format!("\"n\":{n}")), KeystoreError::Malformed("n"));
    }
    assert_eq!(changed("\"r\":8", "\"r\":0"), KeystoreError::Malformed("r"));
    assert_eq!(changed("\"p\":1", "\"p\":0"), KeystoreError::Malformed("p"));
    assert_eq!(changed("\"r\":8", "\"r\":4294967296"), KeystoreError::Malformed("r"));
    let none = include_str!("keystores/eth-account-pbkdf2.json").replace("\"c\": 1000", "\"c\": 0");
    assert_eq!(opened(&none, "x"), Err(KeystoreError::Malformed("c")));
}

#[test]
fn an_address_that_is_not_the_keys_is_found_out() {
    let stated = Address::from([0x11; 20]);
    let actual = address_of(&"46".repeat(32));
    let other = changed("9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f", &"11".repeat(20));
    assert_eq!(other, KeystoreError::Address { stated, actual });
}

#[test]
fn an_address_may_be_written_with_0x_and_in_capitals() {
    let written = ETHERS.replace("9d8a62f656a8d1615c", "0x9D8A62f656a8d1615c");
    assert_eq!(opened(&written, "correct horse"), Ok(address_of(&"46".repeat(32))));
}
