//! Broken build files, and what people are told: the exact text.

mod fields;
mod files;
mod names;
mod paths;
mod spelling;
mod tests_and_bases;
mod workspaces;

use std::fs;
use std::path::Path;

use igraph::report::diagnostics::render_problems;
use igraph::spec::{Registry, find_root, load};

const OTHER: &str = r#"Package(repository: "team/b", rules: [
    Test(name: "smoke", run: ["true"]),
    Image(name: "base", aliases: ["debian:latest"]),
])"#;

fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn rendered(root: &Path) -> String {
    let Err(problems) = load(root) else { panic!("this was to be refused") };
    for place in problems.iter().flat_map(|problem| &problem.places) {
        assert!(place.span.end <= place.source.text.len(), "{place:?}");
    }
    render_problems(&problems, false).replace(root.to_str().unwrap(), "ROOT")
}

/// What is said of a workspace with a sound package `//b` and this package `//a`.
fn package(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "BUILD.ron", "Workspace()");
    write(folder.path(), "images/b/BUILD.ron", OTHER);
    write(folder.path(), "images/a/BUILD.ron", text);
    rendered(folder.path())
}

/// What is said of a workspace with this root.
fn workspace(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "BUILD.ron", text);
    write(folder.path(), "images/a/BUILD.ron", "Package(repository: \"reg.corp/a\", rules: [Image(name: \"1\", aliases: [\"a:1\"])])");
    rendered(folder.path())
}
