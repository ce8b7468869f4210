//! The catalogues that the benches measure: their shape, and that `ninja` agrees with it.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

#[path = "../benches/catalogue.rs"]
mod catalogue;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use catalogue::Catalogue;

/// Every file below a folder, by its path from there.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn has_the_shape_that_is_asked_for() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let catalogue = Catalogue::write(one.path(), 123).unwrap();
    assert_eq!(catalogue.root, one.path());
    assert_eq!((catalogue.contexts.len(), catalogue.tests.len()), (123, 10));

    let written = files(one.path());
    for context in &catalogue.contexts {
        let sizes: Vec<usize> =
            written.iter().filter(|(path, _)| path.starts_with(&format!("{context}/"))).map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(sizes.len(), 4, "{context}");
        assert_eq!(sizes.iter().filter(|size| **size == 4096).count(), 3, "{context}");
    }
    let distinct: std::collections::BTreeSet<&Vec<u8>> =
        written.iter().filter(|(path, _)| path.contains("/node/")).map(|(_, bytes)| bytes).collect();
    assert_eq!(distinct.len(), 123 * 4 + 10 + 1, "no two images share a file; the tests share their Dockerfile");

    Catalogue::write(two.path(), 123).unwrap();
    assert_eq!(written, files(two.path()), "the same bytes each time");
}

#[test]
fn ninja_builds_and_tests_each_image_once() {
    if Command::new("ninja").arg("--version").output().is_err() {
        assert!(std::env::var_os("IGRAPH_NO_SKIP").is_none(), "ninja is not here: scripts/setup test");
        eprintln!("skipped: ninja is not here (scripts/setup test)");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::write(root.path(), 20).unwrap();
    let ninja = || {
        let output = Command::new("ninja").arg("-C").arg(&catalogue.root).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(ninja().contains("[40/40]"));
    assert!(ninja().contains("no work to do"));
    let edited = root.path().join(&catalogue.contexts[7]).join("npmrc");
    fs::write(&edited, "loglevel=warn\n").unwrap();
    // later than what was built, however coarse the clock of file times is
    fs::File::options().append(true).open(&edited).unwrap().set_modified(SystemTime::now() + Duration::from_secs(2)).unwrap();
    assert!(ninja().contains("[2/2]"), "one image and its test");
}
