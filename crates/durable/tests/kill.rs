//! Every operation, killed at every one of its points: afterwards the file is the
//! old one or the new one, and the same operation goes through.
//!
//! The killed process is this test binary again, told by its environment what to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use palatine_durable as durable;

const FILE: &str = "PALATINE_TEST_FILE";
const OPERATION: &str = "PALATINE_TEST_OPERATION";
/// Bytes of a reserve.
const RESERVE: usize = 4096;
const OLD: &[u8] = b"the old one";
const NEW: &[u8] = b"the new one, which is longer";

#[test]
#[ignore = "a child process of other tests"]
fn the_process_that_is_killed() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    operate(&std::env::var(OPERATION).unwrap(), &file);
}

fn operate(operation: &str, file: &Path) {
    match operation {
        "create" => match durable::create("thing", file, NEW) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.unwrap(),
        },
        "replace" => durable::replace("thing", file, NEW).unwrap(),
        "wipe" => durable::wipe("thing", file).unwrap(),
        "refill" => durable::BallastFile::at(file, RESERVE).refill().unwrap(),
        "make_dir" => durable::make_dir("thing", file).unwrap(),
        other => panic!("no operation {other}"),
    }
}

/// Runs the operation in a process of its own; says whether it was killed.
fn run(operation: &str, file: &Path, variable: &str, value: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "the_process_that_is_killed"])
        .env(FILE, file)
        .env(OPERATION, operation)
        .env(variable, value)
        .output()
        .unwrap()
        .status;
    assert!(status.success() || status.signal() == Some(9), "{operation}: {status}");
    status.signal() == Some(9)
}

fn points(operation: &str, start: impl Fn(&Path)) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let (file, list) = (dir.path().join("deep.key"), dir.path().join("list"));
    start(&file);
    assert!(!run(operation, &file, durable::SEEN, list.to_str().unwrap()));
    fs::read_to_string(list).unwrap().lines().map(str::to_owned).collect()
}

fn killed_everywhere(operation: &str, least: usize, start: impl Fn(&Path), check: impl Fn(&str, &Path)) {
    let points = points(operation, &start);
    assert!(points.len() >= least, "{operation} passes {points:?}");
    for point in &points {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep.key");
        start(&file);
        assert!(run(operation, &file, durable::AT, point), "{operation} was not killed at {point}");
        check(point, &file);
        operate(operation, &file);
        // Again, as the next program does.
        operate(operation, &file);
    }
}

#[test]
fn fault_1_4_a_file_that_is_made_is_there_whole_or_not_at_all_and_is_made_the_next_time() {
    killed_everywhere(
        "create",
        5,
        |_| {},
        |point, file| {
            match fs::read(file) {
                Ok(bytes) => assert_eq!(bytes, NEW, "{point}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{point}"),
            }
            // What is made may be a secret: no draft of it stays.
            let names = fs::read_dir(file.parent().unwrap()).unwrap().count();
            assert_eq!(names, usize::from(file.exists()), "{point}");
        },
    );
}

#[test]
fn fault_1_4_of_eight_makers_in_one_process_one_wins_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let barrier = std::sync::Barrier::new(8);
    // So long that makers who shared a draft would find each other in it.
    let made = |maker: u8| {
        barrier.wait();
        durable::create("thing", &file, &vec![maker; 1 << 20]).map_err(|error| error.kind())
    };
    let made: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8).map(|maker| scope.spawn(move || made(maker))).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    let winners: Vec<_> = (0..8).zip(&made).filter(|(_, made)| made.is_ok()).map(|(maker, _)| maker).collect();
    let [winner] = winners.as_slice() else { panic!("{made:?}") };
    assert!(made.iter().filter_map(|made| made.err()).all(|kind| kind == ErrorKind::AlreadyExists), "{made:?}");
    assert!(fs::read(&file).unwrap() == vec![*winner; 1 << 20], "{winner} is not whole");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn fault_1_4_a_file_that_is_replaced_is_the_old_one_or_the_new_one() {
    killed_everywhere(
        "replace",
        5,
        |file| fs::write(file, OLD).unwrap(),
        |point, file| {
            let bytes = fs::read(file).unwrap();
            assert!(bytes == OLD || bytes == NEW, "{point}: {bytes:?}");
        },
    );
}

#[test]
fn fault_1_4_a_file_that_is_wiped_is_never_found_half() {
    killed_everywhere(
        "wipe",
        2,
        |file| fs::write(file, OLD).unwrap(),
        |point, file| match fs::read(file) {
            Ok(bytes) => assert_eq!(bytes, [0; OLD.len()], "{point}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{point}"),
        },
    );
    killed_everywhere("make_dir", 1, |_| {}, |_, _| {});
}

#[test]
fn fault_1_4_a_reserve_is_whole_and_made_again_the_next_time() {
    let start = |folder: &Path| fs::create_dir(folder).unwrap();
    killed_everywhere("refill", 2, start, |point, folder| {
        let kept = fs::metadata(folder.join("reserve")).map(|data| data.len());
        assert!(kept.map_or(point == "reserve.written", |bytes| bytes == RESERVE as u64), "{point}");
    });
}

#[test]
fn an_existing_file_is_never_replaced_by_a_maker_nor_is_what_a_link_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("key"), dir.path().join("link"));
    durable::create("thing", &file, OLD).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
    for path in [&file, &link] {
        assert_eq!(durable::create("thing", path, NEW).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(fs::read(&file).unwrap(), OLD);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "drafts are left");
}

#[test]
fn of_many_makers_at_once_one_wins_and_none_leaves_a_draft() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| run("create", &file, "PALATINE_UNUSED", ""));
        }
    });
    assert_eq!(fs::read(&file).unwrap(), NEW);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_replaced_file_is_closed_to_others() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("record.json");
    durable::replace("thing", &file, OLD).unwrap();
    durable::replace("thing", &file, NEW).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_wiped_file_leaves_zeros_behind_its_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("secrets"), dir.path().join("other"));
    durable::replace("thing", &file, b"hush").unwrap();
    fs::hard_link(&file, &other).unwrap();
    durable::wipe("thing", &file).unwrap();
    durable::wipe("thing", &file).unwrap();
    assert!(!file.exists());
    assert_eq!(fs::read(&other).unwrap(), [0; 4]);
}
