//! The public API's own description.

use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};
use wire::v1::keys::X_API_KEY;
use wire::v1::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::api::routes::{UNLIMITED, routes};

/// The OpenAPI document of this gateway, as pretty JSON.
#[must_use]
pub fn openapi() -> String {
    let mut document = Document::openapi();
    document.merge(routes().into_openapi());
    Signature.modify(&mut document);
    Limits.modify(&mut document);
    serde_json::to_string_pretty(&document).unwrap_or_default()
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
        once, for five minutes.\n\nIn place of a signature an API key does, as `Authorization: Bearer` or as \
        `X-API-Key`, where its scope opens the route. It acts for the wallet that made it, whose balance and tier are \
        asked for as ever.\n\n| | `read` | `run` | the wallet's signature alone |\n|---|---|---|---|\n| `GET /agents`, \
        `/status/{id}`, `/usage/{wallet}`, `/agents/{id}/logs`, `…/events`, `…/prices`, `…/vault`, `…/volumes`, `/volumes`, \
        `/volumes/{id}`, `…/snapshots`, `/volumecontent/{id}/*`, `/agents/{id}/data`, `/agents/{id}/data/*`, `/images`, \
        `/images/{image}`, `/keys/self` | yes | yes | |\n| `POST /spawn` (a start again too), `POST /stop/{id}`, \
        `POST /agents/{id}/timeout`, `POST /volumes`, `PUT /volumes/{id}`, `POST /volumes/{id}/snapshots`, `PUT` and \
        `DELETE /agents/{id}/volumes/{name}`, `/agents/{id}/process.Process/*`, and the agents themselves, as their tokens \
        do; what changes files of volumes and of kept data | | yes | |\n| `DELETE /agents/{id}`, \
        `GET /agents/{id}/token`, `PUT /agents/{id}/prices`, `DELETE /volumes/{id}`, \
        `DELETE /volumes/{id}/snapshots/{snapshot}`, `POST /volumes/{id}/restore`, vaults and tasks, `POST /images`, \
        `PUT` and `DELETE /images/{image}`, `/links`, `/keys` | | | yes |\n\nWhat follows on `POST /images` \
        (`/images/uploads/{id}`) is opened by the token that it answers with. A stop removes an agent that was spawned \
        `ephemeral`, by a key too: \
        that was said when it was spawned. A key is known by its digest alone; once it is revoked it opens nothing, and \
        an answer that it opened before ends within ten seconds.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(wire::fault::Fault, wire::v1::public::StateChange))
)]
struct Document;

/// The headers of a signature and of an API key, as security schemes.
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
        let said = "An API key, made by `POST /keys`.";
        let value = ApiKeyValue::with_description(X_API_KEY, said);
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(value)));
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.description = Some(format!("{said} It begins with `pal_` or `e2b_`."));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let mut upload = Http::new(HttpAuthScheme::Bearer);
        upload.description = Some("The token of an upload, which `POST /images` answers with.".to_owned());
        components.add_security_scheme("upload", SecurityScheme::Http(upload));
        let mut content = Http::new(HttpAuthScheme::Bearer);
        let said = "The token of a disk's files, which `GET /volumes/{id}` and `GET /agents/{id}/data` answer with.";
        content.description = Some(said.to_owned());
        components.add_security_scheme("content", SecurityScheme::Http(content));
    }
}

/// What any route may answer whatever it does: too many requests, and that what it
/// needs is not there just now.
struct Limits;

impl Modify for Limits {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let methods = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
            for operation in methods.into_iter().flatten() {
                let fault = |said| RefOr::T(faulty(said));
                if !UNLIMITED.contains(&path.as_str()) {
                    let said = "Too many requests: wait as long as `Retry-After` says";
                    operation.responses.responses.insert("429".to_owned(), fault(said));
                }
                if !STANDALONE.contains(&path.as_str()) {
                    let said = "What this needs is not there just now, by `code`: try again later";
                    operation.responses.responses.entry("503".to_owned()).or_insert_with(|| fault(said));
                }
            }
        }
    }
}

/// Routes that need nothing but the gateway itself.
const STANDALONE: [&str; 4] = ["/tiers", "/health", "/metrics", "/openapi.json"];

fn faulty(said: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Fault"))).build();
    let wait = HeaderBuilder::new()
        .schema(Some(Object::with_type(Type::Integer)))
        .description(Some("Seconds to wait"))
        .build();
    ResponseBuilder::new().description(said).content("application/json", body).header("Retry-After", wait).build()
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

    fn document() -> serde_json::Value {
        serde_json::from_str(&openapi()).unwrap()
    }

    #[test]
    fn case_openapi_codes_the_golden_document_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/public.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(golden, document(), "run ./dev openapi and look at the change");
    }

    #[test]
    fn case_openapi_codes_are_the_words_of_the_wire() {
        let words: Vec<&str> = wire::fault::Code::ALL.iter().map(|code| code.as_str()).collect();
        let schemas = &document()["components"]["schemas"];
        assert_eq!(schemas["Code"]["enum"], serde_json::json!(words));
        assert!(words.iter().all(|word| serde_json::from_value::<wire::fault::Code>(serde_json::json!(word)).is_ok()));
    }

    /// A word of an enumeration in the document is the wire's, never a variant's name.
    #[test]
    fn case_openapi_codes_no_enumeration_has_the_name_of_a_variant() {
        for (name, schema) in document()["components"]["schemas"].as_object().unwrap() {
            for word in schema["enum"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
                assert!(!word.starts_with(|first: char| first.is_ascii_uppercase()), "{name}: {word}");
            }
        }
    }

    #[test]
    fn case_openapi_codes_ids_and_addresses_have_a_pattern() {
        let document = document();
        for name in ["PodId", "RunId", "KeyId", "VolumeId", "Wallet", "ImageDigest", "EvmAddress", "EvmHash"] {
            assert!(document["components"]["schemas"][name]["pattern"].is_string(), "{name}");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                for parameter in parameters.filter(|parameter| parameter["in"] == "path") {
                    let named = ["id", "wallet", "address", "task"].iter().any(|name| parameter["name"] == *name);
                    assert!(!named || parameter["schema"]["$ref"].is_string(), "{path}: {parameter}");
                }
            }
        }
    }

    #[test]
    fn case_openapi_codes_say_429_and_503_where_they_can_come() {
        for (path, item) in document()["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                let has = |status: &str| operation["responses"].get(status).is_some();
                assert_eq!(has("429"), !["/health", "/ready", "/metrics"].contains(&path.as_str()), "{path}");
                assert!(operation["security"].is_null() || has("503"), "{path}");
            }
        }
    }
}
