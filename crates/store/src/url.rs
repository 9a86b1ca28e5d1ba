//! `[store] url`: which database, with a password that is never shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

const SQLITE: &str = "sqlite://";
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where a database is.
pub(crate) enum Place {
    /// In this directory.
    Sqlite(PathBuf),
    /// At this server.
    Postgres(Box<PgConnectOptions>),
}

/// The URL of a database.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreUrl(Kind);

#[derive(Clone)]
enum Kind {
    Sqlite(PathBuf),
    /// The text holds a password; what it says otherwise is read already.
    Postgres(SecretString, Box<PgConnectOptions>),
}

/// Why a text is no URL of a database. What it holds is not said: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// Another kind of database.
    #[error("[store] url must begin with sqlite:/// or postgres://")]
    Scheme,
    /// No absolute path.
    #[error("[store] url: sqlite:// is followed by an absolute path, as in sqlite:///var/lib/palatine/store")]
    Path,
    /// PostgreSQL's URLs look different.
    #[error("[store] url is not of the form postgres://user:password@host:port/database")]
    Postgres,
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if let Some(path) = text.strip_prefix(SQLITE) {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self(Kind::Sqlite(path))) } else { Err(StoreUrlError::Path) };
        }
        if !POSTGRES.iter().any(|scheme| text.starts_with(scheme)) {
            return Err(StoreUrlError::Scheme);
        }
        let options: PgConnectOptions = text.parse().map_err(|_| StoreUrlError::Postgres)?;
        // Otherwise it would be the user's name, and that of whoever runs this.
        if options.get_database().is_none() {
            return Err(StoreUrlError::Postgres);
        }
        Ok(Self(Kind::Postgres(SecretString::from(text), Box::new(options))))
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = StoreUrlError;

    fn try_from(text: String) -> Result<Self, StoreUrlError> {
        text.parse()
    }
}

impl StoreUrl {
    pub(crate) fn place(&self) -> Place {
        match &self.0 {
            Kind::Sqlite(directory) => Place::Sqlite(directory.clone()),
            Kind::Postgres(_, options) => Place::Postgres(options.clone()),
        }
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Sqlite(one), Kind::Sqlite(other)) => one == other,
            (Kind::Postgres(one, _), Kind::Postgres(other, _)) => one.expose_secret() == other.expose_secret(),
            (Kind::Sqlite(_), Kind::Postgres(..)) | (Kind::Postgres(..), Kind::Sqlite(_)) => false,
        }
    }
}

impl Eq for StoreUrl {}

/// Without its password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Sqlite(path) => write!(f, "{SQLITE}{}", path.display()),
            Kind::Postgres(_, options) => {
                write!(f, "postgres://{}/{}", options.get_host(), options.get_database().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url: StoreUrl = "postgres://palatine:hush-hush@db.example:5433/agents".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://db.example/agents");
        assert!(!format!("{url:?}").contains("hush"));
        let refused = "postgres://palatine:hush-hush@db.example:port/agents".parse::<StoreUrl>().unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hush"));
    }

    #[test]
    fn what_names_no_database_is_refused() {
        for (text, why) in [
            ("mysql://a/b", StoreUrlError::Scheme),
            ("/var/lib/palatine", StoreUrlError::Scheme),
            ("sqlite://store", StoreUrlError::Path),
            ("postgres://palatine@localhost", StoreUrlError::Postgres),
        ] {
            assert_eq!(text.parse::<StoreUrl>(), Err(why), "{text}");
        }
        assert!(
            matches!("sqlite:///a/b".parse::<StoreUrl>().unwrap().place(), Place::Sqlite(path) if path == std::path::Path::new("/a/b"))
        );
    }
}
