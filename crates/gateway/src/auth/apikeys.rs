//! API keys: whose one is that a request carries, and what it opens.
//!
//! Nothing is cached: each request has its key looked up, so that one that was revoked opens
//! nothing from that moment on, at any gateway of the same database. An answer that goes on
//! is looked after: it ends [`LOOK_EVERY`] after its key was revoked or has expired, or a
//! little later.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use auth::ApiKey;
use axum::body::Body;
use domain::{KeyId, KeyScope, UnixMillis, Wallet};
use http::header::HeaderMap;
use store::ApiKeyRecord;
use wire::fault::{Code, Fault};
use wire::v1::keys::X_API_KEY;
use wire::v1::public::{X_SIGNATURE, X_WALLET};

use crate::edge::headers::bearer;
use crate::edge::streams::broken_off;
use crate::error::ApiError;
use crate::state::Gateway;

/// How often it is looked whether the key that opened an answer is still good.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A use is shown to the minute.
const SHOWN_MS: u64 = 60 * 1000;

/// The API key that a request carries, if it carries one and no signature.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<ApiKey>, ApiError> {
    let signed = headers.contains_key(X_WALLET) || headers.contains_key(X_SIGNATURE);
    let mut named = headers.get_all(X_API_KEY).iter();
    let header = named.next().map(|value| value.to_str().unwrap_or_default());
    let claimed = |text: &&str| ApiKey::is_claimed(text);
    // What is no key of ours is somebody else's business where there is a signature.
    let header = if signed { header.filter(claimed) } else { header };
    let carried = bearer(headers).filter(claimed);
    let text = match (header, carried) {
        (None, None) => return Ok(None),
        (Some(one), Some(other)) if one != other => {
            return Err(ApiError::invalid("X-API-Key and Authorization carry two keys; send one"));
        }
        (Some(text), _) | (None, Some(text)) => text,
    };
    if signed {
        return Err(ApiError::invalid("send a wallet's signature or an API key, not both"));
    }
    if named.next().is_some() {
        return Err(ApiError::new(Code::InvalidKey, "the header X-API-Key is there twice"));
    }
    parse(text).map(Some)
}

fn parse(text: &str) -> Result<ApiKey, ApiError> {
    ApiKey::parse(text).map_err(|error| ApiError::new(Code::InvalidKey, error.to_string()))
}

/// What a route that only a wallet's signature opens says of an API key.
pub(crate) fn refuse(headers: &HeaderMap) -> Result<(), ApiError> {
    match presented(headers)? {
        None => Ok(()),
        Some(_) => Err(ApiError::new(Code::KeyScope, "no API key opens this: it needs the wallet's own signature")),
    }
}

impl Gateway {
    /// Looks up a key that must be good and open this, and says what it lacks. Its use is
    /// noted.
    pub(crate) async fn open(&self, key: &ApiKey, needs: KeyScope) -> Result<ApiKeyRecord, ApiError> {
        let now = self.now();
        let record = self.parts.store.api_key(key.id()).await?.filter(|record| key.is_of(&record.digest));
        let Some(record) = record else {
            let said = "this gateway knows no such API key; it was revoked, or is another gateway's";
            return Err(ApiError::new(Code::InvalidKey, said));
        };
        if record.expires_at <= now {
            let said = "the API key has expired; its wallet makes another one by POST /keys";
            return Err(ApiError::new(Code::ExpiredKey, said));
        }
        if record.scope < needs {
            let said = format!("the API key's scope is {}, and this needs {needs}", record.scope);
            return Err(Fault::new(Code::KeyScope, said).into());
        }
        self.key_uses.note(record.id, now);
        Ok(record)
    }

    /// When a key was used last, as far as this gateway knows.
    pub(crate) fn last_used(&self, record: &ApiKeyRecord) -> Option<UnixMillis> {
        let last = record.used_at.max(self.key_uses.of(record.id));
        last.map(|at| UnixMillis(at.0 - at.0 % SHOWN_MS))
    }

    /// Writes down when keys were used: off the way of every answer.
    pub(crate) async fn write_key_uses(&self) {
        let uses = self.key_uses.take();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.parts.store.note_api_keys_used(uses).await {
            tracing::warn!(%error, "when API keys were used last cannot be written down; lists show earlier uses");
        }
    }

    /// The key that opens an agent of this holder's as the agent's token would. One of another
    /// holder's is as none; what is wrong with a key is said whether there is such an agent
    /// or not.
    pub(crate) async fn key_to(&self, shown: Option<&str>, of: Option<Wallet>) -> Result<Option<KeyId>, ApiError> {
        let Some(text) = shown.filter(|text| ApiKey::is_claimed(text)) else { return Ok(None) };
        let record = self.open(&parse(text)?, KeyScope::Run).await?;
        Ok(of.filter(|of| record.wallet == *of).map(|_| record.id))
    }

    /// The body of an answer, which breaks off once the key that opened it, if one did, is good no
    /// more.
    pub(crate) fn while_good(self: &Arc<Self>, key: Option<KeyId>, body: Body) -> Body {
        if key.is_none() {
            return body;
        }
        broken_off(body, Arc::clone(self).withdrawn(key), "the API key that opened this is good no more")
    }

    /// Comes when the key is good no more; never, where none is needed.
    pub(crate) async fn withdrawn(self: Arc<Self>, key: Option<KeyId>) {
        let Some(id) = key else { return pending().await };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.parts.store.api_key(id).await {
                Ok(Some(record)) if record.expires_at > self.now() => {}
                Ok(_) => return,
                // As long as the store does not answer, nobody can revoke anything either.
                Err(error) => tracing::warn!(%error, "whether an API key is still good cannot be read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::KeyForm;
    use http::header::{HeaderName, HeaderValue};
    use secrecy::ExposeSecret;

    use super::*;

    fn text(n: u8) -> String {
        let form = if n.is_multiple_of(2) { KeyForm::Palatine } else { KeyForm::E2b };
        ApiKey::new(form, KeyId::from_bits(n.into()), &[n; 32]).text().expose_secret().to_owned()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn code(pairs: &[(&'static str, &str)]) -> Result<Option<KeyId>, Code> {
        let found = presented(&headers(pairs)).map_err(|error| Fault::from(error).code);
        found.map(|key| key.map(|key| key.id()))
    }

    #[test]
    fn a_key_is_found_in_either_header_and_in_either_form() {
        let (one, two) = (text(2), text(3));
        let (bearer_one, bearer_two) = (format!("Bearer {one}"), format!("bearer {two}"));
        for pairs in [&[("x-api-key", one.as_str())][..], &[("authorization", bearer_one.as_str())]] {
            assert_eq!(code(pairs), Ok(Some(KeyId::from_bits(2))));
        }
        for pairs in
            [&[("x-api-key", two.as_str())][..], &[("x-api-key", two.as_str()), ("authorization", bearer_two.as_str())]]
        {
            assert_eq!(code(pairs), Ok(Some(KeyId::from_bits(3))));
        }
        assert_eq!(code(&[]), Ok(None));
        assert_eq!(code(&[("authorization", "Bearer plt_x")]), Ok(None), "an agent's token");
    }

    #[test]
    fn what_is_no_key_two_keys_and_a_signature_beside_one_are_refused_without_being_shown() {
        let (one, two) = (text(2), text(3));
        let bearer_two = format!("Bearer {two}");
        let cut = &one[..ApiKey::TEXT - 1];
        for pairs in [
            &[("x-api-key", "somebody's")][..],
            &[("x-api-key", cut)],
            &[("authorization", "Bearer pal_x")],
            &[("x-api-key", one.as_str()), ("x-api-key", one.as_str())],
        ] {
            assert_eq!(code(pairs), Err(Code::InvalidKey), "{pairs:?}");
            let said = Fault::from(presented(&headers(pairs)).unwrap_err()).to_string();
            assert!(!said.contains(&one[20..40]) && !said.contains("somebody"), "{said}");
        }
        assert_eq!(
            code(&[("x-api-key", one.as_str()), ("authorization", bearer_two.as_str())]),
            Err(Code::InvalidRequest)
        );
        assert_eq!(code(&[("x-api-key", one.as_str()), ("x-wallet", "w")]), Err(Code::InvalidRequest));
        assert_eq!(code(&[("x-api-key", "somebody's"), ("x-wallet", "w"), ("x-signature", "s")]), Ok(None));
    }
}
