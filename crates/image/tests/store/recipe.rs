//! Recipes built into images.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use palatine_image::{BuildOptions, ImageError, NoProgress};

use crate::fixture::{Place, extract, story};

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const RECIPE: &str = r#"
from = "scratch"
entrypoint = ["/usr/bin/agent", "serve"]
user = "1000:1000"
port = 9000
ready = "/readyz"

[env]
B = "2"
A = "1"

[labels]
z = "1"
y = "2"
x = "3"

[[directory]]
path = "/data"
mode = "1777"

[[write]]
to = "/etc/passwd"
text = "agent:x:1000:1000::/:/bin/sh\n"

[[copy]]
from = "tree"
to = "/usr"
owner = "5:6"
"#;

fn context(dir: &Path) {
    write(dir, "image.toml", RECIPE);
    write(dir, "tree/bin/agent", "program");
    write(dir, "tree/share/z", "z");
    write(dir, "tree/share/a", "a");
    std::fs::set_permissions(dir.join("tree/bin/agent"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("bin/agent", dir.join("tree/link")).unwrap();
}

#[test]
fn the_same_files_give_the_same_digest_wherever_and_whenever() {
    let digests = [0, 1].map(|_| {
        let (place, dir) = (Place::new(), tempfile::tempdir().unwrap());
        context(dir.path());
        place.store.build(dir.path(), &BuildOptions::default(), "agent", &NoProgress).unwrap().digest
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_built_image_has_what_its_recipe_says() {
    let (place, dir) = (Place::new(), tempfile::tempdir().unwrap());
    context(dir.path());
    let image = place.store.build(dir.path(), &BuildOptions::default(), "agent", &NoProgress).unwrap();
    assert_eq!((image.run.argv.join(" ").as_str(), image.run.port), ("/usr/bin/agent serve", 9000));
    assert_eq!((image.run.ready_path.as_str(), image.run.health_path.as_str()), ("/readyz", "/health"));
    assert_eq!((image.run.env["A"].as_str(), image.run.env["B"].as_str()), ("1", "2"));
    let root = extract(&image, place.dir.path());
    let data = std::fs::metadata(root.join("usr/bin/agent")).unwrap();
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (5, 6, 0o755));
    assert_eq!(std::fs::metadata(root.join("usr/share/a")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::metadata(root.join("data")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(std::fs::read_link(root.join("usr/link")).unwrap(), Path::new("bin/agent"));
}

#[test]
fn a_recipe_builds_on_an_image_of_the_store() {
    let (place, dir) = (Place::new(), tempfile::tempdir().unwrap());
    context(dir.path());
    let below = place.store.build(dir.path(), &BuildOptions::default(), "below", &NoProgress).unwrap();
    let above = tempfile::tempdir().unwrap();
    write(
        above.path(),
        "image.toml",
        "from = 'below'\nport = 7\n[env]\nA = 'new'\n[[write]]\nto = '/etc/motd'\ntext = 'hi'\n",
    );
    let image = place.store.build(above.path(), &BuildOptions::default(), "above", &NoProgress).unwrap();
    assert_eq!((image.layers, image.run.port, image.run.argv == below.run.argv), (2, 7, true));
    assert_eq!((image.run.env["A"].as_str(), image.run.env["B"].as_str()), ("new", "2"));
    let root = extract(&image, place.dir.path());
    assert!(root.join("etc/motd").exists() && root.join("usr/bin/agent").exists());
    let unknown = tempfile::tempdir().unwrap();
    write(unknown.path(), "image.toml", "from = 'nowhere'\nentrypoint = ['/a']");
    let error = place.store.build(unknown.path(), &BuildOptions::default(), "x", &NoProgress).unwrap_err();
    assert!(matches!(error, ImageError::UnknownName(_)));
}

#[test]
fn a_context_apart_from_the_recipe_is_where_files_come_from() {
    let (place, recipe, files) = (Place::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    context(files.path());
    std::fs::rename(files.path().join("image.toml"), recipe.path().join("image.toml")).unwrap();
    let options = BuildOptions { context: Some(files.path()), ..BuildOptions::default() };
    let apart = place.store.build(recipe.path(), &options, "apart", &NoProgress).unwrap();
    context(files.path().join("again").as_path());
    let beside =
        place.store.build(&files.path().join("again"), &BuildOptions::default(), "beside", &NoProgress).unwrap();
    assert_eq!(apart.digest, beside.digest);
}

#[test]
fn a_recipe_cannot_take_files_from_outside_its_context() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "canary");
    let copies = ["../secret", "/etc/passwd", "link/secret", "missing", ""];
    for from in copies {
        let (place, dir) = (Place::new(), tempfile::tempdir_in(outside.path()).unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let text = format!("from = 'scratch'\nentrypoint = ['/a']\n[[copy]]\nfrom = '{from}'\nto = '/x'\n");
        write(dir.path(), "image.toml", &text);
        let error = place.store.build(dir.path(), &BuildOptions::default(), "x", &NoProgress).unwrap_err();
        assert!(story(&error).contains("is not in the context"), "{from}: {}", story(&error));
        place.assert_no_image();
    }
    for to in ["relative", "/a/../b", "/a\\u0000b"] {
        let (place, dir) = (Place::new(), tempfile::tempdir().unwrap());
        write(dir.path(), "image.toml", &format!("from = 'scratch'\n[[write]]\nto = \"{to}\"\ntext = ''\n"));
        let error = place.store.build(dir.path(), &BuildOptions::default(), "x", &NoProgress).unwrap_err();
        assert!(
            story(&error).contains("[[write]] in line 2") && story(&error).contains("is no path in an image"),
            "{to}"
        );
    }
}
