//! The agents' tokens, as this user was shown them: one file each, 0600, so that
//! `palatine ask` works after `palatine spawn`.

use std::fs;
use std::io;
use std::path::PathBuf;

use domain::PodId;
use wire::Secret;

/// The folder of tokens.
#[derive(Clone, Debug)]
pub(crate) struct TokenFolder {
    dir: PathBuf,
}

impl TokenFolder {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps a token.
    pub(crate) fn keep(&self, id: PodId, token: &Secret) -> io::Result<()> {
        durable::make_dir("tokens", &self.dir)?;
        durable::replace("token", &self.dir.join(id.to_string()), token.expose().as_bytes())
    }

    /// The token of an agent, if it was spawned from here.
    pub(crate) fn find(&self, id: PodId) -> Option<Secret> {
        fs::read_to_string(self.dir.join(id.to_string())).ok().map(Secret::from)
    }

    /// Forgets the token of an agent that is gone.
    pub(crate) fn forget(&self, id: PodId) -> io::Result<()> {
        match fs::remove_file(self.dir.join(id.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_kept_token_is_found_by_its_owner_alone_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let ring = TokenFolder::at(dir.path().join("tokens"));
        let id = "agent-123".parse().unwrap();
        ring.keep(id, &Secret::from("plt_x".to_owned())).unwrap();
        assert_eq!(ring.find(id).unwrap().expose(), "plt_x");
        let mode = fs::metadata(dir.path().join("tokens").join(id.to_string())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ring.forget(id).unwrap();
        ring.forget(id).unwrap();
        assert!(ring.find(id).is_none());
    }
}
