//! `palatine sign`: the headers of a signed request, for cURL and scripts.

use anyhow::Result;
use auth::BoundRequest;
use domain::{Clock, SystemClock};

use super::{gateway, signer};
use crate::cli::{Sign, Target};
use crate::up::StateDir;

pub(crate) fn run(target: &Target, request: &Sign) -> Result<()> {
    let state = StateDir::at(target.state.as_deref())?;
    let keypair = signer(target, &state)?;
    let (gateway, path) = match split(&request.url) {
        Some((gateway, path)) => (gateway.to_owned(), path),
        None => (gateway(target, &state)?, request.url.as_str()),
    };
    let name = client::gateway_name(&gateway)?;
    let signed = BoundRequest { method: &request.method, path, body: request.body.as_bytes() };
    let headers = keypair.sign_request(&name, &signed, SystemClock.now());
    println!("X-Wallet: {}\nX-Signature: {}", headers.wallet, headers.signature);
    println!("X-Timestamp: {}\nX-Audience: {name}", headers.timestamp);
    Ok(())
}

/// A URL's gateway and its path with the query; a path alone has no gateway.
fn split(url: &str) -> Option<(&str, &str)> {
    let host = url.find("://")? + 3;
    if url.starts_with('/') {
        return None;
    }
    match url[host..].find(['/', '?', '#']) {
        Some(at) => Some(url.split_at(host + at)),
        None => Some((url, "/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_2_5_a_urls_host_is_what_is_signed_for() {
        assert_eq!(
            split("http://127.0.0.1:8080/spawn?wait=false"),
            Some(("http://127.0.0.1:8080", "/spawn?wait=false"))
        );
        assert_eq!(split("https://api.example"), Some(("https://api.example", "/")));
        assert_eq!(split("/usage/x?to=http://y/"), None);
        assert_eq!(split("/agents"), None);
    }
}
