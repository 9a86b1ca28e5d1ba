//! Whose disks a run's folder holds: its POD's name, beside them before they are there.
//!
//! A POD whose name was minted is called as its first run is: the folder of that run says
//! so by itself, as all those of programs did that knew no PODs.

use std::fs;
use std::io;
use std::path::Path;

use domain::{PodId, RunId};
use serde::{Deserialize, Serialize};

/// The file's name.
pub(crate) const FILE: &str = "owner.json";
/// Its form.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Owner {
    version: u32,
    pod: PodId,
}

/// Says in the folder of a run which POD it is of.
pub(crate) fn write(dir: &Path, run: RunId, pod: PodId) -> io::Result<()> {
    if pod.first_run() == Some(run) || dir.join(FILE).try_exists()? && read(dir, run)? == pod {
        return Ok(());
    }
    durable::replace("owner", &dir.join(FILE), &serde_json::to_vec(&Owner { version: VERSION, pod })?)
}

/// The POD of the run with this folder. What cannot be read is no guess.
pub(crate) fn read(dir: &Path, run: RunId) -> io::Result<PodId> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PodId::minted(run)),
        Err(error) => return Err(error),
    };
    let unreadable = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", path.display()));
    let owner: Owner = serde_json::from_slice(&text).map_err(|error| unreadable(format!("is damaged ({error})")))?;
    if owner.version > VERSION {
        return Err(unreadable(format!(
            "was written by a later version of this program (its form is {})",
            owner.version
        )));
    }
    Ok(owner.pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId::from_bits(7);

    #[test]
    fn a_folder_says_which_pod_its_run_is_of() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), RUN).unwrap(), PodId::minted(RUN), "as programs of before left it");
        write(dir.path(), RUN, PodId::minted(RUN)).unwrap();
        assert!(!dir.path().join(FILE).exists());
        for pod in [PodId::minted(RunId::from_bits(6)), PodId::chosen("agent-123").unwrap()] {
            for _ in 0..2 {
                write(dir.path(), RUN, pod).unwrap();
                assert_eq!(read(dir.path(), RUN).unwrap(), pod);
            }
        }
    }

    #[test]
    fn an_owner_that_cannot_be_read_is_not_guessed_nor_written_over() {
        for text in ["{\"version\":1,\"pod\":\"agent", "{\"version\":2,\"pod\":\"agent-123\"}", ""] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(read(dir.path(), RUN).is_err(), "{text}");
            assert!(write(dir.path(), RUN, PodId::chosen("agent-124").unwrap()).is_err(), "{text}");
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        }
    }
}
