//! Images of a containerd, which is a real one of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use palatine_image::{ContainerdError, ContainerdSource, Image, ImageError, ImageStore, NoProgress, SignatureError};
use serde_json::json;

use crate::archive::oci_archive;
use crate::fixture::{CreatedInodes, INDEX, MANIFEST, Place, Tar, descriptor, digest, layout, story};
use crate::signature::{Signed, Signer, payload, tag, trusting};

/// How long it may take until it answers.
const START: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "theirs";

/// Ends with the test.
struct Containerd {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        // Of its parts only those that keep images, so that it reaches nothing of the machine.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.opt\", \"io.containerd.internal.v1.restart\", \
             \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock"),
            path("sock.ttrpc")
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.path().join("config.toml"));
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let it = Self { daemon: daemon.expect("the package containerd is installed"), dir };
        let until = Instant::now() + START;
        while !it.ctr(&["version"]).status.success() {
            assert!(Instant::now() < until, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        it
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    fn ctr(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]).args(words);
        command.output().expect("ctr is installed with containerd")
    }

    fn has(&self, words: &[&str]) -> String {
        let done = self.ctr(words);
        assert!(done.status.success(), "ctr {words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Has it take an archive in, whose images have no other names.
    fn import(&self, archive: &[u8], name: &str) {
        let file = self.dir.path().join("archive.tar");
        std::fs::write(&file, archive).unwrap();
        let file = file.display().to_string();
        self.has(&["images", "import", "--no-unpack", "--all-platforms", "--index-name", name, &file]);
    }

    async fn take(&self, store: &ImageStore, image: &str) -> Result<Image, ImageError> {
        let (socket, namespace) = (self.socket(), NAMESPACE.to_owned());
        let source = ContainerdSource { socket, namespace, image: image.to_owned() };
        store.import_from_containerd(&source, "test", Arc::new(NoProgress)).await
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn image() -> CreatedInodes {
    // A layer of more than one piece.
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[usize::from(at % 2 == 0)]).collect();
    CreatedInodes::of(vec![Tar::new().file("a", &large).done(), Tar::new().file("b", b"2").done()])
}

fn archive(root: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", root).unwrap();
    archive.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_an_operators_containerd_has_is_taken_under_its_own_digest() {
    let (place, containerd) = (Place::new(), Containerd::start());
    containerd.import(&oci_archive(&image()), "example.org/team/agent:1");
    let taken = containerd.take(&place.store, "example.org/team/agent:1").await.unwrap();
    assert_eq!(taken.digest.to_string(), image().digest());
    assert_eq!(place.store.resolve("test").unwrap(), taken.digest);
    let again = Place::new();
    assert_eq!(again.import(&image()).unwrap().digest, taken.digest, "as any other way");
    // Nothing is changed there.
    assert!(containerd.has(&["images", "ls", "-q"]).contains("example.org/team/agent:1"));

    let error = containerd.take(&place.store, "example.org/team/other:1").await.unwrap_err();
    assert!(story(&error).contains("it has there: example.org/team/agent:1"), "{}", story(&error));
    let mut elsewhere = ContainerdSource {
        socket: containerd.socket(),
        namespace: "nobodys".to_owned(),
        image: "example.org/team/agent:1".to_owned(),
    };
    let error = again.store.import_from_containerd(&elsewhere, "other", Arc::new(NoProgress)).await.unwrap_err();
    assert!(story(&error).contains("in its namespace \"nobodys\"; it has there: none"), "{}", story(&error));
    elsewhere.socket = containerd.dir.path().join("none");
    let error = again.store.import_from_containerd(&elsewhere, "other", Arc::new(NoProgress)).await.unwrap_err();
    assert!(story(&error).contains("/none cannot be used: name another by --containerd="), "{}", story(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_image_for_this_machine_is_taken_and_what_containerd_let_go_is_named() {
    let (place, containerd) = (Place::new(), Containerd::start());
    let (ours, dir) = (image(), tempfile::tempdir().unwrap());
    let for_platform = |made: &CreatedInodes, architecture: &str| {
        let mut named = descriptor(MANIFEST, &made.manifest);
        named["platform"] = json!({"os": "linux", "architecture": architecture});
        named
    };
    let other = CreatedInodes::of(vec![Tar::new().file("c", b"3").done()]);
    let platforms = [for_platform(&other, "arm64"), for_platform(&ours, "amd64")];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": platforms}).to_string().into_bytes();
    let blobs: Vec<_> = ours.blobs().into_iter().chain(other.blobs()).chain([&index[..]]).collect();
    let root = layout(dir.path(), &blobs, &[descriptor(INDEX, &index)]);
    containerd.import(&archive(&root), "example.org/team/agent:2");
    let taken = containerd.take(&place.store, "example.org/team/agent:2").await.unwrap();
    assert_eq!(taken.digest.to_string(), ours.digest());

    let lost = digest(&ours.layers[0]);
    containerd.has(&["content", "rm", &lost]);
    let place = Place::new();
    let error = containerd.take(&place.store, "example.org/team/agent:2").await.unwrap_err();
    let named = matches!(&error, ImageError::Containerd(ContainerdError::NoContent { digest, .. }) if *digest == lost);
    assert!(named && story(&error).contains("ctr -n theirs content fetch"), "{}", story(&error));
    place.assert_no_image();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_has_under_a_digest_and_is_something_else_is_refused() {
    let (place, containerd) = (Place::new(), Containerd::start());
    let made = image();
    containerd.import(&oci_archive(&made), "example.org/team/agent:3");
    // On its disk another layer lies under this one's name, of the same length.
    let hex = digest(&made.layers[1])["sha256:".len()..].to_owned();
    let blob = containerd.dir.path().join("root/io.containerd.content.v1.content/blobs/sha256").join(hex);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let error = containerd.take(&place.store, "example.org/team/agent:3").await.unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{}", story(&error));
    place.assert_no_image();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_images_must_be_signed_containerd_has_to_have_the_signature_beside() {
    let (place, containerd, key) = (Place::new(), Containerd::start(), Signer::new());
    let (store, made) = (trusting(&place, &key), image());
    containerd.import(&oci_archive(&made), "example.org/team/agent:4");
    let error = containerd.take(&store, "example.org/team/agent:4").await.unwrap_err();
    assert!(matches!(error, ImageError::Signature(SignatureError::Missing(_))), "{}", story(&error));
    place.assert_no_image();

    let (signed, dir) = (Signed::by(&key, payload(&made.digest())), tempfile::tempdir().unwrap());
    let mut named = descriptor(MANIFEST, &signed.manifest);
    named["annotations"] =
        json!({"io.containerd.image.name": format!("example.org/team/agent:{}", tag(&made.digest()))});
    let root = layout(dir.path(), &signed.blobs().collect::<Vec<_>>(), &[named]);
    containerd.import(&archive(&root), "example.org/team/signatures:4");
    let taken = containerd.take(&store, "example.org/team/agent:4").await.unwrap();
    assert_eq!(taken.digest.to_string(), made.digest());
}
