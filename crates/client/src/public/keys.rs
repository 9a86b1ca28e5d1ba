//! API keys.

use domain::KeyId;
use wire::v1::keys::{ApiKey, KeyRequest, KeyResponse, KeysResponse, RevokedResponse};
use wire::v1::public::IDEMPOTENCY_KEY;

use super::http::Call;
use super::{ClientError, GatewayClient};

impl GatewayClient {
    /// Makes an API key for the wallet that signs. The key is in this answer alone; a retry
    /// with the same idempotency key has another one in its place.
    ///
    /// # Errors
    /// See [`ClientError`]; a wallet that has as many as it may is refused with
    /// `too_many_keys`.
    pub async fn create_key(
        &self,
        request: &KeyRequest,
        idempotency_key: Option<&str>,
    ) -> Result<KeyResponse, ClientError> {
        let operation = "make an API key";
        let body = serde_json::to_vec(request).map_err(|error| ClientError::protocol(operation, error))?;
        let mut call = Call::post(operation, "/keys", self.limits.read).body("application/json", body);
        if let Some(key) = idempotency_key {
            call = call.header(IDEMPOTENCY_KEY, key)?;
        }
        self.signed(call).await
    }

    /// The API keys of the wallet that signs, newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn keys(&self) -> Result<KeysResponse, ClientError> {
        self.signed(Call::get("list the API keys", "/keys", self.limits.read)).await
    }

    /// Revokes an API key of the wallet that signs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_key(&self, id: KeyId) -> Result<RevokedResponse, ClientError> {
        self.signed(Call::delete("revoke the API key", format!("/keys/{id}"), self.limits.read)).await
    }

    /// What is known of the API key that this client carries.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn own_key(&self) -> Result<ApiKey, ClientError> {
        self.signed(Call::get("read the API key's own record", "/keys/self", self.limits.read)).await
    }
}
