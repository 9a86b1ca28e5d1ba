//! Who serves a store: each node that does holds a lock on a file of its own, which ends with it.
//!
//! ```text
//! served/<process>.json   {"process": 123, "socket": "/run/palatine/hypercore.sock"}
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use serde::{Deserialize, Serialize};

use crate::lock::Lock;
use crate::store::{entries, unlink};
use crate::{ImageError, ImageStore};

/// A node that serves a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreServer {
    /// Its process.
    pub process: u32,
    /// The socket by which it is asked.
    pub socket: PathBuf,
}

/// As long as this is there, the store is said to be served.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for Served {
    fn drop(&mut self) {
        // What stays of it is locked by nobody, and so says nothing.
        drop(fs::remove_file(&self.path));
    }
}

impl ImageStore {
    /// Says that this process serves the store, and is asked by this socket.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn serve(&self, socket: &Path) -> Result<Served, ImageError> {
        let dir = self.dir("served");
        fs::create_dir_all(&dir).map_err(|source| ImageError::file("create", &dir, source))?;
        for name in entries(&dir)? {
            if process_of(&name).is_none_or(|process| !is_alive(process)) {
                unlink(&dir.join(name))?;
            }
        }
        let own = StoreServer { process: process::id(), socket: socket.to_owned() };
        let path = dir.join(format!("{}.json", own.process));
        let failed = |source| ImageError::file("write", &path, source);
        // Nobody believes it before it is locked.
        fs::write(&path, serde_json::to_vec(&own).unwrap_or_default()).map_err(failed)?;
        let lock = Lock::exclusive(&path)?;
        Ok(Served { path, _lock: lock })
    }

    /// The nodes that serve the store now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn servers(&self) -> Result<Vec<StoreServer>, ImageError> {
        let dir = self.dir("served");
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let live = entries(&dir)?.into_iter().filter(|name| {
            // Its file is locked as long as it lives, and is not there if it ended just now.
            let path = dir.join(name);
            process_of(name).is_some_and(is_alive) && path.exists() && Lock::try_exclusive(&path).is_err()
        });
        Ok(live.filter_map(|name| serde_json::from_slice(&fs::read(dir.join(name)).ok()?).ok()).collect())
    }
}

fn process_of(name: &str) -> Option<u32> {
    name.strip_suffix(".json")?.parse().ok()
}

fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn a_store_says_who_serves_it_while_they_live_and_what_the_dead_left_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&Config { store: dir.path().to_owned(), ..Config::default() }).unwrap();
        assert_eq!(store.servers().unwrap(), []);
        let served = store.serve(Path::new("/run/one.sock")).unwrap();
        let own = StoreServer { process: process::id(), socket: "/run/one.sock".into() };
        assert_eq!(store.servers().unwrap(), [own]);
        drop(served);
        assert_eq!(store.servers().unwrap(), []);
        // One of a process that is no more, and one whose process's number another has now.
        let left = |process: u32| dir.path().join(format!("served/{process}.json"));
        for process in [4_194_305, process::id()] {
            let was = StoreServer { process, socket: "/run/two.sock".into() };
            fs::write(left(process), serde_json::to_vec(&was).unwrap()).unwrap();
        }
        assert_eq!(store.servers().unwrap(), []);
        let _served = store.serve(Path::new("/run/three.sock")).unwrap();
        assert!(!left(4_194_305).exists());
        assert_eq!(store.servers().unwrap().len(), 1);
    }
}
