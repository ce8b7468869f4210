//! Tests and bases.
use super::package;

#[test]
fn a_test_without_form() {
    insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "t")])"#), @r#"
        error: this test does nothing
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Test(name: "t")])
          |                 ^^^^
          |
          = hint: give it one of `run`, `exec` and `dockerfile`
        "#);
}

#[test]
fn two_forms() {
    insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "t", run: ["x"], exec: [["x"]])])"#), @r#"
        error: a test has one form, but this has `run` and `exec`
         --> images/a/BUILD.ron:1:45
          |
        1 | Package(rules: [Test(name: "t", run: ["x"], exec: [["x"]])])
          |                                 ---         ^^^^
          |                                 |
          |                                 first here
        "#);
}

#[test]
fn nothing_to_run() {
    insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "a", run: []), Test(name: "b", run: [" "]), Test(name: "c", exec: [[]])])"#), @r#"
        error: `run` is empty, so this test would always pass
         --> images/a/BUILD.ron:1:38
          |
        1 | Package(rules: [Test(name: "a", run: []), Test(name: "b", run: [" "]), Test(name: "c", exec: [[]])])
          |                                      ^^

        error: this command is empty, so it would always pass
         --> images/a/BUILD.ron:1:65
          |
        1 | Package(rules: [Test(name: "a", run: []), Test(name: "b", run: [" "]), Test(name: "c", exec: [[]])])
          |                                                                 ^^^

        error: this command names no program
         --> images/a/BUILD.ron:1:95
          |
        1 | Package(rules: [Test(name: "a", run: []), Test(name: "b", run: [" "]), Test(name: "c", exec: [[]])])
          |                                                                                               ^^
        "#);
}

#[test]
fn a_flat_exec() {
    insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "t", exec: ["/app", "--version"])])"#), @r#"
        error: `exec` is a list of lists of strings, like `[["/app", "--version"]]`
         --> images/a/BUILD.ron:1:40
          |
        1 | Package(rules: [Test(name: "t", exec: ["/app", "--version"])])
          |                                        ^^^^^^ this is a string

        error: `exec` is a list of lists of strings, like `[["/app", "--version"]]`
         --> images/a/BUILD.ron:1:48
          |
        1 | Package(rules: [Test(name: "t", exec: ["/app", "--version"])])
          |                                                ^^^^^^^^^^^ this is a string
        "#);
}

#[test]
fn fields_of_another_form() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Test(name: "a", run: ["x"], args: {"A": "1"}),
    Test(name: "b", dockerfile: "D", env: {"A": "1"}),
    Test(name: "c", exec: [["x"]], context: "."),
])"#), @r#"
error: a test with `run` has no `args`
 --> images/a/BUILD.ron:2:33
  |
2 |     Test(name: "a", run: ["x"], args: {"A": "1"}),
  |                                 ^^^^
  |
  = hint: commands get variables by `env`

error: a test with `dockerfile` has no `env`
 --> images/a/BUILD.ron:3:38
  |
3 |     Test(name: "b", dockerfile: "D", env: {"A": "1"}),
  |                                      ^^^
  |
  = hint: a Dockerfile gets variables by `args`

error: a test with `exec` has no `context`
 --> images/a/BUILD.ron:4:36
  |
4 |     Test(name: "c", exec: [["x"]], context: "."),
  |                                    ^^^^^^^
  |
  = hint: commands see the image alone; to bring files, use a `dockerfile`
"#);
}

#[test]
fn a_test_that_is_not_there() {
    insta::assert_snapshot!(package(r#"Package(tests: ["//b:smok"], rules: [Image(name: "1", tests: [":smoke"])])"#), @r#"
        error: there is no test `//b:smok`
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(tests: ["//b:smok"], rules: [Image(name: "1", tests: [":smoke"])])
          |                 ^^^^^^^^^^
          |
          = hint: did you mean `//b:smoke`?

        error: there is no test `//a:smoke`
         --> images/a/BUILD.ron:1:63
          |
        1 | Package(tests: ["//b:smok"], rules: [Image(name: "1", tests: [":smoke"])])
          |                                                               ^^^^^^^^
          |
          = hint: did you mean `//b:smoke`?
        "#);
}

#[test]
fn an_image_as_test() {
    insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1"), Image(name: "2", tests: [":1", "//b:base"])])"#), @r#"
        error: `//a:1` is an image, not a test
         --> images/a/BUILD.ron:1:60
          |
        1 | Package(rules: [Image(name: "1"), Image(name: "2", tests: [":1", "//b:base"])])
          |                                                            ^^^^

        error: `//b:base` is an image, not a test
         --> images/a/BUILD.ron:1:66
          |
        1 | Package(rules: [Image(name: "1"), Image(name: "2", tests: [":1", "//b:base"])])
          |                                                                  ^^^^^^^^^^
        "#);
}

#[test]
fn a_test_without_colon() {
    insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: ["t", "//b", "//b:a b"])])"#), @r#"
        error: `t`: a label begins with `//`, like `//debian/jessie:4.2.1`
         --> images/a/BUILD.ron:1:71
          |
        1 | Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: ["t", "//b", "//b:a b"])])
          |                                                                       ^^^
          |
          = hint: a test of this package is `":t"`

        error: `//b` names a package, not a test
         --> images/a/BUILD.ron:1:76
          |
        1 | Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: ["t", "//b", "//b:a b"])])
          |                                                                            ^^^^^
          |
          = hint: a test of it is `"//b:NAME"`

        error: `a b`: character ` ` is not allowed in a name
         --> images/a/BUILD.ron:1:83
          |
        1 | Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: ["t", "//b", "//b:a b"])])
          |                                                                                   ^^^^^^^^^
        "#);
}

#[test]
fn a_test_listed_twice() {
    insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: [":t", "//a:t"])])"#), @r#"
        error: `//a:t` is listed twice
         --> images/a/BUILD.ron:1:77
          |
        1 | Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: [":t", "//a:t"])])
          |                                                                       ----  ^^^^^^^
          |                                                                       |
          |                                                                       first here
        "#);
}

#[test]
fn two_tests_of_one_name() {
    insta::assert_snapshot!(package(r#"Package(tests: ["//b:smoke"], rules: [
    Test(name: "smoke", run: ["x"]),
    Image(name: "1", tests: [":smoke"]),
])"#), @r#"
error: //a:1 has two tests of the name `smoke`: //b:smoke and //a:smoke
 --> images/a/BUILD.ron:3:30
  |
1 | Package(tests: ["//b:smoke"], rules: [
  |                 ----------- first here
2 |     Test(name: "smoke", run: ["x"]),
3 |     Image(name: "1", tests: [":smoke"]),
  |                              ^^^^^^^^
  |
  = hint: a step is called by the name of its test, so those of an image differ: rename one
"#);
}

#[test]
fn untested_with_tests() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Image(name: "1", untested: "no time", tests: ["//b:smoke"]),
    Image(name: "2", untested: " "),
    Image(name: "3", untested: true),
])"#), @r#"
error: an image that has tests is not untested
 --> images/a/BUILD.ron:2:32
  |
2 |     Image(name: "1", untested: "no time", tests: ["//b:smoke"]),
  |                                ^^^^^^^^^          ----------- a test is listed here
  |
  = hint: leave out `untested`, or the tests

error: `untested` is empty
 --> images/a/BUILD.ron:3:32
  |
3 |     Image(name: "2", untested: " "),
  |                                ^^^

error: `untested` is a string that says why, like `"only a parent of others"`
 --> images/a/BUILD.ron:4:32
  |
4 |     Image(name: "3", untested: true),
  |                                ^^^^ this is the word `true`, without quotes
"#);
}

#[test]
fn untested_with_tests_of_the_package() {
    insta::assert_snapshot!(package(r#"Package(tests: ["//b:smoke"], rules: [Image(name: "1", untested: "no time")])"#), @r#"
        error: an image that has tests is not untested
         --> images/a/BUILD.ron:1:66
          |
        1 | Package(tests: ["//b:smoke"], rules: [Image(name: "1", untested: "no time")])
          |                 ----------- a test is listed here                ^^^^^^^^^
          |
          = hint: leave out `untested`, or the tests
        "#);
}

#[test]
fn an_untested_package_with_tests() {
    insta::assert_snapshot!(package(r#"Package(untested: "no time", tests: ["//b:smoke"])"#), @r#"
        error: a package that lists tests is not untested
         --> images/a/BUILD.ron:1:19
          |
        1 | Package(untested: "no time", tests: ["//b:smoke"])
          |                   ^^^^^^^^^          ----------- a test is listed here
          |
          = hint: leave out `untested`, or the tests
        "#);
}

#[test]
fn a_base_of_nothing() {
    insta::assert_snapshot!(package(r#"Package(rules: [Base(name: "b"), Base(name: "c", provides: [], from: "x.tar")])"#), @r#"
        error: this base has no `from`
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Base(name: "b"), Base(name: "c", provides: [], from: "x.tar")])
          |                 ^^^^
          |
          = hint: say what it is made from, like `from: Registry("debian:bookworm")`

        error: this base has no `provides`, so nothing can start from it
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Base(name: "b"), Base(name: "c", provides: [], from: "x.tar")])
          |                 ^^^^
          |
          = hint: write the references that Dockerfiles use, like `provides: ["debian:bookworm"]`

        error: `provides` is empty, so nothing can start from this base
         --> images/a/BUILD.ron:1:60
          |
        1 | Package(rules: [Base(name: "b"), Base(name: "c", provides: [], from: "x.tar")])
          |                                                            ^^

        error: `from` is `Registry("…")`, `Rootfs("…")`, `OciLayout("…")` or `Command([…])`
         --> images/a/BUILD.ron:1:70
          |
        1 | Package(rules: [Base(name: "b"), Base(name: "c", provides: [], from: "x.tar")])
          |                                                                      ^^^^^^^ this is a string
        "#);
}

#[test]
fn a_wrong_source() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Base(name: "a", provides: ["a:1"], from: Rootfss("x.tar")),
    Base(name: "b", provides: ["b:1"], from: Docker("x")),
    Base(name: "c", provides: ["c:1"], from: Rootfs(["x.tar"])),
    Base(name: "d", provides: ["d:1"], from: Registry("A b")),
    Base(name: "e", provides: ["e:1"], from: Rootfs("x", "y")),
])"#), @r#"
error: a base can't be made from `Rootfss`
 --> images/a/BUILD.ron:2:46
  |
2 |     Base(name: "a", provides: ["a:1"], from: Rootfss("x.tar")),
  |                                              ^^^^^^^
  |
  = hint: did you mean `Rootfs`?

error: a base can't be made from `Docker`
 --> images/a/BUILD.ron:3:46
  |
3 |     Base(name: "b", provides: ["b:1"], from: Docker("x")),
  |                                              ^^^^^^
  |
  = hint: it is made from `Registry("…")`, `Rootfs("…")`, `OciLayout("…")` or `Command([…])`

error: `Rootfs` is a string
 --> images/a/BUILD.ron:4:53
  |
4 |     Base(name: "c", provides: ["c:1"], from: Rootfs(["x.tar"])),
  |                                                     ^^^^^^^^^ this is a list

error: `A b` is no image reference: a repository is lower case
 --> images/a/BUILD.ron:5:55
  |
5 |     Base(name: "d", provides: ["d:1"], from: Registry("A b")),
  |                                                       ^^^^^

error: `Rootfs` takes one value
 --> images/a/BUILD.ron:6:46
  |
6 |     Base(name: "e", provides: ["e:1"], from: Rootfs("x", "y")),
  |                                              ^^^^^^^^^^^^^^^^
"#);
}

#[test]
fn a_wrong_command() {
    insta::assert_snapshot!(package(r#"Package(rules: [
    Base(name: "a", provides: ["a:1"], from: Command("./x {out}")),
    Base(name: "b", provides: ["b:1"], from: Command(["./x"])),
    Base(name: "c", provides: ["c:1"], from: Rootfs("x"), inputs: ["y"], env: {"A": "1"}),
])"#), @r#"
error: `Command` is a list of strings, like `["./bootstrap", "{out}"]`
 --> images/a/BUILD.ron:2:54
  |
2 |     Base(name: "a", provides: ["a:1"], from: Command("./x {out}")),
  |                                                      ^^^^^^^^^^^ this is a string
  |
  = hint: put it in brackets: `["./x {out}"]`

error: this command has no `{out}`
 --> images/a/BUILD.ron:3:54
  |
3 |     Base(name: "b", provides: ["b:1"], from: Command(["./x"])),
  |                                                      ^^^^^^^
  |
  = hint: igraph puts a path that ends in `.tar` in its place, for the command to write the root filesystem to

error: only a base from `Command(…)` has `inputs`
 --> images/a/BUILD.ron:4:59
  |
4 |     Base(name: "c", provides: ["c:1"], from: Rootfs("x"), inputs: ["y"], env: {"A": "1"}),
  |                                                           ^^^^^^

error: only a base from `Command(…)` has `env`
 --> images/a/BUILD.ron:4:74
  |
4 |     Base(name: "c", provides: ["c:1"], from: Rootfs("x"), inputs: ["y"], env: {"A": "1"}),
  |                                                                          ^^^
"#);
}

#[test]
fn a_wrong_reference() {
    insta::assert_snapshot!(package(r#"Package(rules: [Base(name: "a", provides: ["Debian:1", "debian@sha256:2"], from: Registry("x"))])"#), @r#"
        error: `Debian:1` is no image reference: a repository is lower case
         --> images/a/BUILD.ron:1:44
          |
        1 | Package(rules: [Base(name: "a", provides: ["Debian:1", "debian@sha256:2"], from: Registry("x"))])
          |                                            ^^^^^^^^^^

        error: `debian@sha256:2` is no image reference: after `@` stands `sha256:` and 64 hex digits
         --> images/a/BUILD.ron:1:56
          |
        1 | Package(rules: [Base(name: "a", provides: ["Debian:1", "debian@sha256:2"], from: Registry("x"))])
          |                                                        ^^^^^^^^^^^^^^^^^
        "#);
}

#[test]
fn a_broken_test_is_not_missed_too() {
    insta::assert_snapshot!(package(r#"Package(tests: [":t", ":u", ":v"], rules: [
    Test(name: "t"),
    Test(name "u", run: ["x"]),
    Image(name: "1", tests: ["//b:v"]),
])"#), @r#"
error: this test does nothing
 --> images/a/BUILD.ron:2:5
  |
2 |     Test(name: "t"),
  |     ^^^^
  |
  = hint: give it one of `run`, `exec` and `dockerfile`

error: expected `,` or `)`, found `"u"`
 --> images/a/BUILD.ron:3:15
  |
3 |     Test(name "u", run: ["x"]),
  |               ^^^

error: there is no test `//b:v`
 --> images/a/BUILD.ron:4:30
  |
4 |     Image(name: "1", tests: ["//b:v"]),
  |                              ^^^^^^^
"#);
}
