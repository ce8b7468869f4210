//! The first push, the second that does nothing, and that all names of an image are one manifest of the tested image.

use std::collections::BTreeMap;

use super::catalogue::{BIG, Workspace};
use super::site::Site;

/// Every name that the catalogue has, the image's own first.
pub const NAMES: [&[&str]; 5] = [
    &["team/app:1", "team/app:latest", "other/app:1"],
    &["team/app:1-dev", "team/dev:1"],
    &["team/app:1-full", "team/app:full"],
    &["team/app:2", "other/app:2"],
    &["team/tool:x", "other/tool:x"],
];

#[test]
fn push_and_push_again() {
    let Some(mut site) = Site::start("push_and_push_again", true) else { return };
    let one = site.catalogue();
    let first = site.igraph(&one.root, &["push", "//...", "--show-output"]).done();
    assert!(
        first.err.contains("5 built") && first.err.contains("tests: 11 passed") && first.err.contains("pushes: 11 moved"),
        "{}",
        first.err
    );
    assert!(!first.err.contains("tell-nobody") && !first.out.contains("tell-nobody"));

    // every name answers one manifest, whose config is what was tested
    let tested: BTreeMap<&str, &str> = first.out.lines().map(|line| line.split_once('\t').unwrap()).collect();
    let labels = ["//app:1", "//app:1-dev", "//app:1-full", "//app:2", "//tool:x"];
    assert_eq!(tested.keys().copied().collect::<Vec<_>>(), labels);
    for (label, names) in labels.into_iter().zip(NAMES) {
        let published: Vec<_> = names.iter().map(|name| site.published(name).unwrap()).collect();
        assert!(published.iter().all(|one| *one == published[0]), "{label}: {published:?}");
        assert_eq!(published[0].1.to_string(), tested[label], "{label}");
        for name in names {
            assert_eq!(site.local(name).as_deref(), Some(tested[label]), "{name}");
        }
    }

    // again: nothing; the second time found by looking at all, the third by the witness of that
    let runs = one.runs();
    site.calls();
    for verb in ["push", "push", "test"] {
        site.igraph(&one.root, &[verb, "//..."]).idle();
        assert_eq!((site.calls(), one.runs()), ((0, 0), runs), "{verb}");
    }
    // and with neither a daemon nor a registry, with the witness and without
    site.dockerd = None;
    site.registry = None;
    site.igraph(&one.root, &["push", "//..."]).idle();
    std::fs::remove_dir_all(one.root.join("igraph-out/snapshot")).unwrap();
    site.igraph(&one.root, &["push", "//..."]).idle();
    let check = site.igraph(&one.root, &["push", "//...", "--check"]).done();
    assert!(check.err.contains("0 to run"), "{}", check.err);
    assert_eq!((site.calls(), one.runs()), ((0, 0), runs));
}

#[test]
fn a_base_of_many_images_goes_over_once() {
    let Some(site) = Site::start("a_base_of_many_images_goes_over_once", false) else { return };
    let many = Workspace::of_many(&site.folder.path().join("many"), &site.host);
    site.igraph(&many.root, &["push", "//..."]).done();
    let sent = site.front.take();
    let bytes: u64 = sent.iter().map(|one| one.body).sum();
    assert!(bytes > BIG && bytes < BIG + (1 << 20), "{bytes} bytes were sent for a base of {BIG}");
    let large = sent.iter().filter(|one| one.body > 1 << 20).count();
    assert_eq!(large, 1, "uploads of the base");
    for image in 0..50 {
        let repository = image / 10;
        let (own, other) = (format!("many/r{repository}:{image}"), format!("all/many:{image}"));
        assert_eq!(site.published(&own).unwrap(), site.published(&other).unwrap());
    }
}
