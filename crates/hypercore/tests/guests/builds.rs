//! Holders' images that are built in machines of their own: what comes of them, what ends them, what they reach.

use std::time::Duration;

use domain::{ArchiveSum, ImageId};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use wire::fault::Code;
use wire::v1::images::{ArchiveSpec, BuildRuntime, BuildSpec, ContextBuild, HeldImage, ImportSpec};

use crate::machine::Residue;
use crate::node::NodeProcess;

/// How long a build may take on a machine that does other things too.
const BUILT: Duration = Duration::from_secs(240);
const LIMITS: &str =
    "build_timeout_s = 100\nbuild_memory_mib = 512\nbuild_disk_mib = 512\nbuild_processes = 200\nbuild_cores = 1";

async fn node(name: &'static str, number: u32, limits: &str) -> NodeProcess {
    let mut node = NodeProcess::plan(name, number, "", "uplinks = [\"lo\"]");
    node.configure("[log]", &format!("{limits}\n[log]"));
    node.start().await;
    node
}

/// Sends a context, and has it built.
async fn begin(node: &NodeProcess, id: ImageId, context: &[u8]) -> HeldImage {
    let client = node.client();
    // What a run of this test has left that was cut off.
    let _ = client.forget_image(id).await;
    let spec = ArchiveSpec { size: context.len() as u64, sha256: ArchiveSum(Sha256::digest(context).into()) };
    client.begin_image(id, &spec).await.expect("an upload");
    client.append_image(id, 0, Full::from(context.to_vec())).await.expect("it is taken");
    let build = BuildSpec { context: ContextBuild { containerfile: None, date: 7 }, bases: [].into() };
    let spec = ImportSpec { name: "work".to_owned(), max_mib: 256, build: Some(build), holder: None };
    client.import_image(id, &spec).await.unwrap_or_else(|error| panic!("{error}: {}", node.log()))
}

async fn built(node: &NodeProcess, id: ImageId, context: &[u8]) -> HeldImage {
    let begun = begin(node, id, context).await;
    assert!(
        matches!(begun, HeldImage::Importing { runtime: Some(BuildRuntime::QemuTcg), .. }),
        "the answer names what it runs in: {begun:?}"
    );
    let end = Instant::now() + BUILT;
    loop {
        let now = node.client().held_image(id).await.expect("an answer").expect("it is there");
        if !matches!(now, HeldImage::Importing { .. }) {
            return now;
        }
        assert!(Instant::now() < end, "still {now:?}: {} {}", log(node, id).await, node.log());
        sleep(Duration::from_millis(100)).await;
    }
}

async fn log(node: &NodeProcess, id: ImageId) -> String {
    node.client().build_log(id, 0).await.map(|part| part.text).unwrap_or_default()
}

async fn refused(node: &NodeProcess, id: ImageId, lines: &str) -> String {
    let ended = built(node, id, &fixtures::build_context(lines)).await;
    let said = log(node, id).await;
    let HeldImage::Failed { code: Code::InvalidImage, error } = ended else {
        panic!("{ended:?}: {said} {}", node.log());
    };
    node.client().forget_image(id).await.expect("it is forgotten");
    error
}

fn read(node: &NodeProcess, image: &HeldImage, file: &str) -> (String, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let HeldImage::Held { digest, .. } = image else { panic!("{image:?}") };
    let store = std::env::temp_dir().join("palatine-hypercore-tests");
    let store = image::ImageStore::open(&image::Config { store, ..image::Config::default() }).expect("a store");
    let root = store.unpacked(digest).unwrap_or_else(|error| panic!("{error}: {}", node.log()));
    let path = root.join(file);
    let data = std::fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    (std::fs::read_to_string(&path).unwrap_or_default(), data.mode() & 0o7777)
}

#[tokio::test]
async fn a_context_is_built_in_a_machine_of_its_own_twice_the_same_and_the_image_says_so() {
    needs::needs!(root, network, tun, cgroups);
    let before = Residue::of("pltbu");
    let node = node("pltbu", 16, LIMITS).await;
    let context = fixtures::build_context("RUN echo a line of the build && echo it ran > /told\n");
    // The store is that of all tests.
    let [one, two, three, four] = [0x11, 0x12, 0x13, 0x14].map(ImageId::from_bits);
    let first = built(&node, one, &context).await;
    let said = log(&node, one).await;
    let HeldImage::Held { digest, built_in: Some(BuildRuntime::QemuTcg), .. } = first else {
        panic!("{first:?}: {said} {}", node.log());
    };
    assert!(said.contains("a line of the build\n") && said.contains("(qemu-tcg)"), "{said}");
    assert_eq!(read(&node, &first, "told").0, "it ran\n");
    let HeldImage::Held { digest: again, .. } = built(&node, two, &context).await else { panic!("{}", node.log()) };
    assert_eq!(again, digest);

    // A recipe, whose files have what it says and no more.
    let text = "from = 'scratch'\nentrypoint = ['/bin/sh', '-c', 'exec /bin/cat']\nuser = '7:8'\nport = 99\n\
                [env]\nA = \"it's set\"\n[[tar]]\nfrom = 'shell.tar'\n[[copy]]\nfrom = 'note'\nto = '/d/note'\n\
                mode = '0750'\n[[write]]\nto = '/w'\ntext = \"x'y\\n\"\n[[directory]]\npath = '/t'\nmode = '1777'\n\
                [[run]]\ncommand = 'echo \"$A\" > /a; echo of the recipe'\n";
    let of_recipe = built(&node, three, &fixtures::recipe_context(text, &[("note", "a note")])).await;
    let said = log(&node, three).await;
    assert!(matches!(of_recipe, HeldImage::Held { .. }), "{of_recipe:?}: {said} {}", node.log());
    assert!(said.contains("[[run]] (line 19)") && said.contains("of the recipe"), "{said}");
    assert_eq!(read(&node, &of_recipe, "d/note"), ("a note".to_owned(), 0o750));
    assert_eq!(read(&node, &of_recipe, "w"), ("x'y\n".to_owned(), 0o644));
    assert_eq!(read(&node, &of_recipe, "a").0, "it's set\n");
    assert_eq!(read(&node, &of_recipe, "t").1, 0o1777);
    let packages =
        fixtures::recipe_context("from = 'scratch'\n[[packages]]\nsuite = 'bookworm'\ninclude = ['git']\n", &[]);
    let HeldImage::Failed { error, .. } = built(&node, four, &packages).await else { panic!("{}", node.log()) };
    assert!(error.contains("line 2: [[packages]]") && error.contains("no network"), "{error}");
    for id in [one, two, three, four] {
        node.client().forget_image(id).await.expect("it is forgotten");
    }
    node.end(&before);
}

#[tokio::test]
async fn a_machine_whose_build_forks_fills_its_disk_or_its_memory_or_never_ends_is_ended_and_it_is_told() {
    needs::needs!(root, network, tun, cgroups);
    let before = Residue::of("pltbv");
    let node = node("pltbv", 17, LIMITS).await;
    for (bits, run, said) in [
        (0x21, "bomb() { bomb | bomb & }; bomb; sleep 600", "more than 200 processes"),
        (0x22, "cat /bin/ls > /a; while cat /a /a > /b && cat /b /b > /a; do :; done", "more than 512 MiB"),
        (0x23, "a=x; while a=$a$a; do :; done", "512 MiB of memory"),
        (0x24, "echo for ever; while :; do sleep 1; done", "after 100 s"),
        (0x25, "echo so it is; exit 7", "so it is"),
    ] {
        let error = refused(&node, ImageId::from_bits(bits), &format!("RUN {run}\n")).await;
        assert!(error.contains(said), "{run}: {error}");
    }
    // Whoever wants it no more ends it at once, and its machine is gone.
    let six = ImageId::from_bits(0x26);
    begin(&node, six, &fixtures::build_context("RUN echo for ever; while :; do sleep 1; done\n")).await;
    let end = Instant::now() + BUILT;
    while !log(&node, six).await.contains("for ever\n") {
        assert!(Instant::now() < end, "it does not begin: {}", log(&node, six).await);
        sleep(Duration::from_millis(100)).await;
    }
    while node.client().forget_image(six).await.is_err() {
        assert!(Instant::now() < end, "it does not end");
        sleep(Duration::from_millis(100)).await;
    }
    node.end(&before);
}

#[tokio::test]
async fn a_build_in_a_machine_reaches_neither_the_host_nor_a_neighbour_nor_the_world() {
    needs::needs!(root, network, tun, cgroups);
    let before = Residue::of("pltbw");
    let mut node = node("pltbw", 18, LIMITS).await;
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "canary").expect("a file");
    let path = secret.path().display();
    // Who listens on all of the host's addresses hears nobody.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let own = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let own = own.map(|address| address.ip().to_string()).unwrap_or_default();
    // It is root of its machine, and gets out of the root that its commands are put in: there is no host to find.
    let lines = format!(
        "RUN cat /proc/1/root{path} {path} > /seen 2> /said; : > /reached; \
         for a in 10.200.0.1 127.0.0.1 169.254.169.254 9.9.9.9 {own}; do \
         bash -c \"exec 3<>/dev/tcp/$a/{port} && echo $a >> /reached\" 2> /dev/null & done; sleep 8\n"
    );
    let one = ImageId::from_bits(0x31);
    let context = fixtures::build_context_with(&["bash"], &lines);
    let image = built(&node, one, &context).await;
    assert!(matches!(image, HeldImage::Held { .. }), "{image:?}: {} {}", log(&node, one).await, node.log());
    assert_eq!(read(&node, &image, "reached").0, "");
    assert!(listener.accept().is_err(), "the host was reached");
    assert_eq!(read(&node, &image, "seen").0, "");
    assert_eq!(read(&node, &image, "said").0.lines().count(), 2);
    node.client().forget_image(one).await.expect("it is forgotten");

    // A daemon that is killed in the middle of a build leaves nothing that its next one does not end, and the
    // context stays to be built again.
    let two = ImageId::from_bits(0x32);
    begin(&node, two, &fixtures::build_context("RUN echo for ever; while :; do sleep 1; done\n")).await;
    let end = Instant::now() + BUILT;
    while !log(&node, two).await.contains("for ever\n") {
        assert!(Instant::now() < end, "it does not begin: {}", log(&node, two).await);
        sleep(Duration::from_millis(100)).await;
    }
    node.kill();
    node.start().await;
    let there = node.client().held_image(two).await.expect("an answer");
    assert!(matches!(there, Some(HeldImage::Receiving { offset, size }) if offset == size), "{there:?}");
    node.client().forget_image(two).await.expect("it is forgotten");
    node.end(&before);
}
