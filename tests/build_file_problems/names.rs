//! Names that are used or claimed twice, and aliases that are none.
use super::package;

#[test]
fn a_name_twice() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Image(name: "1"),
    Test(name: "1", run: ["x"]),
])"#), @r#"
error: the name `1` is used twice in //a
 --> images/a/BUILD.ron:3:16
  |
2 |     Image(name: "1"),
  |                 --- first here
3 |     Test(name: "1", run: ["x"]),
  |                ^^^
"#);
}

#[test]
fn wrong_aliases() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", aliases: [
    "4 2", ".x", "team/app", "team/App:1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
])])"#), @r#"
error: `4 2` is no tag: character ` ` is not allowed
 --> images/a/BUILD.ron:2:5
  |
2 |     "4 2", ".x", "team/app", "team/App:1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000...
  |     ^^^^^

error: `.x` is no tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`
 --> images/a/BUILD.ron:2:12
  |
2 |     "4 2", ".x", "team/app", "team/App:1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000...
  |            ^^^^

error: `team/app` is no tag, and has none
 --> images/a/BUILD.ron:2:18
  |
2 |     "4 2", ".x", "team/app", "team/App:1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000...
  |                  ^^^^^^^^^^
  |
  = hint: a full name is written `team/app:TAG`

error: `team/App:1` is no image reference: a repository is lower case
 --> images/a/BUILD.ron:2:30
  |
2 |     "4 2", ".x", "team/app", "team/App:1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000...
  |                              ^^^^^^^^^^^^

error: `reg.corp:5000/app` is no alias: it has no tag
 --> images/a/BUILD.ron:2:44
  |
2 |     "4 2", ".x", "team/app", "team/App:1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000...
  |                                            ^^^^^^^^^^^^^^^^^^^
  |
  = hint: write `reg.corp:5000/app:TAG`

error: `app:1@sha256:0000000000000000000000000000000000000000000000000000000000000000` is no alias: it has a digest
 --> images/a/BUILD.ron:2:65
  |
2 | ...1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
  |                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = hint: a name points at what was built; leave `@sha256:…` out
"#);
}

#[test]
fn an_alias_twice() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", aliases: ["2", "1", "2", "a:2", "docker.io/library/a:3", "a:3"])])"#), @r#"
        error: //a:1 has the name `a:1` twice
         --> images/a/BUILD.ron:1:49
          |
        1 | Package(rules: [Image(name: "1", aliases: ["2", "1", "2", "a:2", "docker.io/library/a:3", "a:3"])])
          |                             --- first here      ^^^

        error: //a:1 has the name `a:2` twice
         --> images/a/BUILD.ron:1:54
          |
        1 | Package(rules: [Image(name: "1", aliases: ["2", "1", "2", "a:2", "docker.io/library/a:3", "a:3"])])
          |                                            ---       ^^^
          |                                            |
          |                                            first here

        error: //a:1 has the name `a:2` twice
         --> images/a/BUILD.ron:1:59
          |
        1 | Package(rules: [Image(name: "1", aliases: ["2", "1", "2", "a:2", "docker.io/library/a:3", "a:3"])])
          |                                            --- first here ^^^^^

        error: //a:1 has the name `a:3` twice
         --> images/a/BUILD.ron:1:91
          |
        1 | Package(rules: [Image(name: "1", aliases: ["2", "1", "2", "a:2", "docker.io/library/a:3", "a:3"])])
          |                                                                  -----------------------  ^^^^^
          |                                                                  |
          |                                                                  first here
        "#);
}

#[test]
fn an_alias_of_two() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Image(name: "1", aliases: ["latest"]),
    Image(name: "2", aliases: ["latest"]),
])"#), @r#"
error: `a:latest` is claimed by two entries
 --> images/a/BUILD.ron:3:32
  |
2 |     Image(name: "1", aliases: ["latest"]),
  |                                -------- //a:1 claims it here
3 |     Image(name: "2", aliases: ["latest"]),
  |                                ^^^^^^^^ //a:2 claims it here
"#);
}

#[test]
fn a_name_of_another_package() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", aliases: ["docker.io/team/b:base", "debian"])])"#), @r#"
        error: `team/b:base` is claimed by two entries
         --> images/b/BUILD.ron:3:17
          |
        3 |     Image(name: "base", aliases: ["debian:latest"]),
          |                 ^^^^^^ //b:base claims it here
          |
         ::: images/a/BUILD.ron:1:44
          |
        1 | Package(rules: [Image(name: "1", aliases: ["docker.io/team/b:base", "debian"])])
          |                                            ----------------------- //a:1 claims it here
        "#);
}

#[test]
fn a_repository_with_tag() {
    insta::assert_snapshot!(package(r#"Package(repository: "team/app:1", rules: [Image(name: "1")])"#), @r#"
        error: a repository has no tag and no digest
         --> images/a/BUILD.ron:1:21
          |
        1 | Package(repository: "team/app:1", rules: [Image(name: "1")])
          |                     ^^^^^^^^^^^^
          |
          = hint: the tags are the names and aliases of its images
        "#);
}

#[test]
fn a_repository_in_upper_case() {
    insta::assert_snapshot!(package(r#"Package(repository: "Team/app", rules: [Image(name: "1")])"#), @r#"
        error: `Team/app` is no image reference: a repository is lower case
         --> images/a/BUILD.ron:1:21
          |
        1 | Package(repository: "Team/app", rules: [Image(name: "1")])
          |                     ^^^^^^^^^^
        "#);
}

#[test]
fn what_two_entries_provide() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Base(name: "x", provides: ["busybox", "debian"], from: Registry("busybox")),
    Base(name: "y", provides: ["docker.io/library/busybox:latest"], from: Registry("busybox")),
])"#), @r#"
error: `busybox:latest` is claimed by two entries
 --> images/a/BUILD.ron:3:32
  |
2 |     Base(name: "x", provides: ["busybox", "debian"], from: Registry("busybox")),
  |                                --------- //a:x claims it here
3 |     Base(name: "y", provides: ["docker.io/library/busybox:latest"], from: Registry("busybox")),
  |                                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ //a:y claims it here

error: `debian:latest` is claimed by two entries
 --> images/b/BUILD.ron:3:35
  |
3 |     Image(name: "base", aliases: ["debian:latest"]),
  |                                   ^^^^^^^^^^^^^^^ //b:base claims it here
  |
 ::: images/a/BUILD.ron:2:43
  |
2 |     Base(name: "x", provides: ["busybox", "debian"], from: Registry("busybox")),
  |                                           -------- //a:x claims it here
"#);
}
