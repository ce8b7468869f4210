//! Paths.
use super::package;

#[test]
fn out_of_the_workspace() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", dockerfile: "../../../Dockerfile")])"#), @r#"
        error: `../../../Dockerfile` leaves the workspace
         --> images/a/BUILD.ron:1:46
          |
        1 | Package(rules: [Image(name: "1", dockerfile: "../../../Dockerfile")])
          |                                              ^^^^^^^^^^^^^^^^^^^^^
          |
          = hint: a path may leave its package, not the workspace: bring the file in
        "#);
}

#[test]
fn absolute() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", context: "/srv/app")])"#), @r#"
        error: `/srv/app` is absolute; a path is relative to the package's folder
         --> images/a/BUILD.ron:1:43
          |
        1 | Package(rules: [Image(name: "1", context: "/srv/app")])
          |                                           ^^^^^^^^^^
          |
          = hint: write it like `srv/app`, or with `..` to leave the package
        "#);
}

#[test]
fn empty() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", context: "")])"#), @r#"
        error: `context` is empty
         --> images/a/BUILD.ron:1:43
          |
        1 | Package(rules: [Image(name: "1", context: "")])
          |                                           ^^
          |
          = hint: the package's own folder is `"."`
        "#);
}

#[test]
fn patterns() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", extra_inputs: ["../../../**", "/etc/*", "*/../../x"])])"#), @r#"
        error: `../../../**` leaves the workspace
         --> images/a/BUILD.ron:1:49
          |
        1 | Package(rules: [Image(name: "1", extra_inputs: ["../../../**", "/etc/*", "*/../../x"])])
          |                                                 ^^^^^^^^^^^^^
          |
          = hint: a path may leave its package, not the workspace: bring the file in

        error: `/etc/*` is absolute; a path is relative to the package's folder
         --> images/a/BUILD.ron:1:64
          |
        1 | Package(rules: [Image(name: "1", extra_inputs: ["../../../**", "/etc/*", "*/../../x"])])
          |                                                                ^^^^^^^^
          |
          = hint: write it like `etc/*`, or with `..` to leave the package

        error: `*/../../x` leaves the workspace
         --> images/a/BUILD.ron:1:74
          |
        1 | Package(rules: [Image(name: "1", extra_inputs: ["../../../**", "/etc/*", "*/../../x"])])
          |                                                                          ^^^^^^^^^^^
          |
          = hint: a path may leave its package, not the workspace: bring the file in
        "#);
}
