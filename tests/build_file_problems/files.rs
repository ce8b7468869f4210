//! Files and folders.
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn links_that_leave_or_loop() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("w");
    write(&root, "BUILD.ron", "Workspace()");
    write(
        &root,
        "images/a/BUILD.ron",
        r#"Package(rules: [
    Image(name: "1", dockerfile: "out/Dockerfile"),
    Image(name: "2", context: "round"),
    Image(name: "3", dockerfile: "in/Dockerfile"),
    Image(name: "4", extra_inputs: ["out/*"]),
])"#,
    );
    symlink("../../..", root.join("images/a/out")).unwrap();
    symlink("round", root.join("images/a/round")).unwrap();
    symlink("..", root.join("images/a/in")).unwrap();
    insta::assert_snapshot!(rendered(&root), @r#"
        error: `out/Dockerfile` leaves the workspace: `images/a/out` is a symbolic link to `../../..`
         --> images/a/BUILD.ron:2:34
          |
        2 |     Image(name: "1", dockerfile: "out/Dockerfile"),
          |                                  ^^^^^^^^^^^^^^^^
          |
          = hint: a path may leave its package, not the workspace: bring the file in

        error: `round` can't be followed: `images/a/round` is a symbolic link in a loop
         --> images/a/BUILD.ron:3:31
          |
        3 |     Image(name: "2", context: "round"),
          |                               ^^^^^^^

        error: `out/*` leaves the workspace: `images/a/out` is a symbolic link to `../../..`
         --> images/a/BUILD.ron:5:37
          |
        5 |     Image(name: "4", extra_inputs: ["out/*"]),
          |                                     ^^^^^^^
          |
          = hint: a path may leave its package, not the workspace: bring the file in
        "#);
}

#[test]
fn what_can_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "BUILD.ron", "Workspace()");
    write(root, "images/a/BUILD.ron", b"Package(\n    repository: \"caf\xe9\",\n)");
    write(root, "images/b c/BUILD.ron", "Package()");
    fs::create_dir_all(root.join("images/d/BUILD.ron")).unwrap();
    symlink("nowhere", root.join("images/BUILD.ron")).unwrap();
    write(root, "images/4.2/BUILD.ron", "Package(rules: [Image(name: \"1\")])");
    write(root, "images/4.2/x/BUILD.ron", "Package(rules: [Image(name: \"1\")])");
    write(root, "images/Up/BUILD.ron", "Package(rules: [Image(name: \"1\")])");
    insta::assert_snapshot!(rendered(root), @r#"
        error: `images/d/BUILD.ron` is not a regular file

        error: can't read `images/BUILD.ron`: no such file

        error: the path of //4.2/x is no repository
         --> images/4.2/x/BUILD.ron:1:1
          |
        1 | Package(rules: [Image(name: "1")])
          | ^^^^^^^
          |
          = hint: give the package one, like `repository: "team/app"`

        error: the path of //Up is no repository
         --> images/Up/BUILD.ron:1:1
          |
        1 | Package(rules: [Image(name: "1")])
          | ^^^^^^^
          |
          = hint: give the package one, like `repository: "team/app"`

        error: this is not UTF-8
         --> images/a/BUILD.ron:2:21
          |
        2 |     repository: "caf�",
          |                     ^
          |
          = hint: save the file as UTF-8

        error: this folder can be no package: `b c`: character ` ` is not allowed in a package
         --> images/b c/BUILD.ron:1:1
          |
        1 | Package()
          | ^
          |
          = hint: rename the folder, or take its build file away
        "#);
}

#[test]
fn no_workspace_above() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let said = |start: &Path| render_problems(&find_root(start).unwrap_err(), false).replace(root.to_str().unwrap(), "ROOT");
    fs::create_dir_all(root.join("a/b")).unwrap();
    insta::assert_snapshot!(said(&root.join("a/b")), @r"
        error: no workspace here: neither `ROOT/a/b` nor a folder above it has a `BUILD.ron` with a `Workspace(…)`
        hint: write `Workspace()` into a `BUILD.ron` in the folder that holds all packages
        ");
    write(root, "a/BUILD.ron", "Package()");
    insta::assert_snapshot!(said(&root.join("a/b")), @r"
        error: no workspace here: neither `ROOT/a/b` nor a folder above it has a `BUILD.ron` with a `Workspace(…)`
        hint: `ROOT/a/BUILD.ron` is not one; write `Workspace()` into a `BUILD.ron` in the folder that holds all packages
        ");
    write(root, "BUILD.ron", "// the root\n/* here */ Workspace(broken");
    assert_eq!(find_root(&root.join("a/b")), Ok(root.to_owned()));
    assert_eq!(find_root(root), Ok(root.to_owned()));
}

#[test]
fn names_that_meet_in_staging() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "BUILD.ron", "Workspace()");
    write(root, "images/a/BUILD.ron", r#"Package(rules: [Image(name: "1", aliases: ["ghcr.io/team/x:1"])])"#);
    write(root, "images/b/BUILD.ron", r#"Package(repository: "team/x", rules: [Image(name: "1")])"#);
    let catalogue = load(root).unwrap();
    let problems = catalogue.check_staging(&Registry::parse("localhost:5000").unwrap());
    insta::assert_snapshot!(render_problems(&problems, false), @r#"
        error: `localhost:5000/team/x:1` is claimed by two entries
         --> images/b/BUILD.ron:1:51
          |
        1 | Package(repository: "team/x", rules: [Image(name: "1")])
          |                                                   ^^^ //b:1 claims it here
          |
         ::: images/a/BUILD.ron:1:44
          |
        1 | Package(rules: [Image(name: "1", aliases: ["ghcr.io/team/x:1"])])
          |                                            ------------------ //a:1 claims it here
        "#);
}
