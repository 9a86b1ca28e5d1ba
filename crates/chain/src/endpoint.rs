//! An endpoint's URL, which may be a secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An endpoint's URL. Its path and query may be a key, so it prints its host
/// alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endpoint(pub String);

impl Endpoint {
    /// The host and port, which may be shown.
    #[must_use]
    pub fn host(&self) -> String {
        let url = self.url();
        let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
        host.map_or_else(|| "not a URL".to_owned(), |(host, port)| format!("{host}:{port}"))
    }

    /// Whether it is a URL that HTTP can be spoken to.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.url().is_some()
    }

    fn url(&self) -> Option<reqwest::Url> {
        let url = reqwest::Url::parse(&self.0).ok();
        url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.host())
    }
}
