//! Certificates of one's own.

use std::fs;
use std::path::Path;

use reqwest::{Certificate, Client};
use serde_json::json;

use crate::edge::{Edge, PATIENCE, Setup, client, holder};

const NAME: &str = "gateway.test";

/// Writes a new certificate and its key; returns the certificate.
fn issue(home: &Path) -> String {
    let names = vec![NAME.to_owned(), format!("*.{NAME}")];
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(home.join("key.pem"), issued.signing_key.serialize_pem()).unwrap();
    fs::write(home.join("cert.pem"), issued.cert.pem()).unwrap();
    issued.cert.pem()
}

fn trusting(edge: &Edge, cert: &str) -> Client {
    let root = Certificate::from_pem(cert.as_bytes()).unwrap();
    let address = edge.tls_address.unwrap();
    let builder = client().tls_certs_only([root]).resolve(NAME, address);
    builder.resolve(&format!("a1b2c3d4-e5f6-7890.{NAME}"), address).build().unwrap()
}

async fn secure() -> (Edge, String) {
    let mut setup = Setup::default();
    let cert = issue(setup.home.path());
    setup.tls.cert_file = Some(setup.home.path().join("cert.pem"));
    setup.tls.key_file = Some(setup.home.path().join("key.pem"));
    setup.tls.reload_ms = 20;
    setup.config.agent_url = Some(format!("https://{{id}}.{NAME}"));
    (setup.start().await, cert)
}

#[tokio::test]
async fn https_speaks_http_2_with_those_who_can_and_names_its_agents_so() {
    let (edge, cert) = secure().await;
    let port = edge.tls_address.unwrap().port();
    let answer = trusting(&edge, &cert).get(format!("https://{NAME}:{port}/health")).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    let (id, _) = edge.agent(&holder(), false).await;
    let record = edge.store.get(id).await.unwrap().unwrap();
    assert_eq!(record.id, id);
    let host = format!("https://a1b2c3d4-e5f6-7890.{NAME}:{port}/");
    let ingress = trusting(&edge, &cert).get(host).send().await.unwrap();
    assert_eq!(ingress.status(), 401);
}

#[tokio::test]
async fn https_speaks_http_1_with_those_who_cannot() {
    let (edge, cert) = secure().await;
    let root = Certificate::from_pem(cert.as_bytes()).unwrap();
    let builder = client().tls_certs_only([root]).resolve(NAME, edge.tls_address.unwrap()).http1_only();
    let url = format!("https://{NAME}:{}/health", edge.tls_address.unwrap().port());
    let answer = builder.build().unwrap().get(url).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_11);
}

#[tokio::test]
async fn a_changed_certificate_is_taken_over_and_a_broken_one_is_not() {
    let (edge, _) = secure().await;
    let url = format!("https://{NAME}:{}/health", edge.tls_address.unwrap().port());
    fs::write(edge.setup.home.path().join("cert.pem"), "broken").unwrap();
    let cert = issue(edge.setup.home.path());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // A client trusts one certificate alone: it gets in once that is in use.
    while trusting(&edge, &cert).get(&url).send().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is never used");
    }
    fs::write(edge.setup.home.path().join("cert.pem"), "broken").unwrap();
    let rounds = tokio::time::Instant::now() + std::time::Duration::from_millis(200);
    while tokio::time::Instant::now() < rounds {
        assert!(trusting(&edge, &cert).get(&url).send().await.is_ok());
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_before_anything_is_served() {
    let mut setup = Setup::default();
    issue(setup.home.path());
    let (cert, key) = (setup.home.path().join("cert.pem"), setup.home.path().join("other.pem"));
    let other = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    (setup.tls.cert_file, setup.tls.key_file) = (Some(cert), Some(key));
    let edge = setup.start().await;
    let said = edge.task.await.unwrap().unwrap_err().to_string();
    assert_eq!(json!(said), json!("the certificate and its key cannot be used together"));
}
