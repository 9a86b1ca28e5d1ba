//! The public API's own description.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::{Modify, OpenApi};
use wire::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

/// The OpenAPI document of this gateway, as pretty JSON.
#[must_use]
pub fn openapi() -> String {
    serde_json::to_string_pretty(&Document::openapi()).unwrap_or_default()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Palatine",
        description = "A holder of the operator's token signs a request and has an agent in a virtual machine of \
        its own.\n\nEvery request of a holder carries `X-Wallet`, `X-Signature` and `X-Timestamp`. Signed is \
        `romulus:<unix-ms>:<METHOD>:<host[:port]><path>:<hex sha256 of the body>`, where `<host[:port]>` is that of the \
        gateway's URL as the client was given it (without the port if it is the scheme's own), which goes as \
        `X-Audience` too, and `<path>` is the path with its query string as sent. Where a route takes requests without \
        `X-Audience`, `romulus:<unix-ms>` will do, unless the operator closed that. A text is signed as raw bytes or as \
        a Solana off-chain message of version 0 or 1. `X-Timestamp` is `<unix-ms>`, 13 digits. Each signature is good \
        once, for five minutes.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        crate::spawn::spawn,
        crate::agents::stop,
        crate::agents::status,
        crate::agents::usage,
        crate::agents::list,
        crate::logs::logs,
        crate::events::events,
        crate::process::pass,
        crate::vaults::chain,
        crate::links::link,
        crate::links::my_link,
        crate::vaults::agent_vault,
        crate::vaults::deploy,
        crate::prices::prices,
        crate::prices::set_prices,
        crate::vaults::submit,
        crate::vaults::decline,
        crate::vaults::vault,
        crate::vaults::tasks,
        crate::relay::relay,
        crate::relay::batch,
        crate::relay::call,
        crate::relay::raw,
        crate::relay::nonce,
        crate::relay::domain,
        crate::relay::estimate,
        crate::facilitator::supported,
        crate::facilitator::verify,
        crate::facilitator::settle,
        crate::meta::tiers,
        crate::meta::health,
        crate::meta::ready,
        crate::meta::metrics,
        crate::meta::openapi,
    ),
    components(schemas(wire::fault::Fault, wire::public::StateChange)),
    modifiers(&Signature)
)]
struct Document;

/// The headers of a signature, as security schemes.
struct Signature;

impl Modify for Signature {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        for (name, header, said) in [
            ("wallet", X_WALLET, "The wallet, base58 of 32 bytes."),
            ("signature", X_SIGNATURE, "The ed25519 signature, base58 of 64 bytes."),
            ("timestamp", X_TIMESTAMP, "The signed instant: Unix milliseconds, 13 digits."),
            ("audience", X_AUDIENCE, "The host of the gateway's URL, with its port unless that is the scheme's own."),
        ] {
            let value = ApiKeyValue::with_description(header, said);
            components.add_security_scheme(name, SecurityScheme::ApiKey(ApiKey::Header(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_with_its_faults() {
        let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let described: Vec<&String> = paths.keys().collect();
        insta::assert_json_snapshot!(described);
        for (path, item) in paths {
            for operation in item.as_object().unwrap().values() {
                let open = ["/tiers", "/health", "/metrics", "/openapi.json"].contains(&path.as_str());
                assert!(open || operation["responses"].get("default").is_some(), "{path}");
            }
        }
    }
}
