//! Broken build files, and what people are told: the exact text.

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

mod spelling {
    //! What is no RON, or not the right rule.
    use super::package;

    #[test]
    fn a_string_without_end() {
        insta::assert_snapshot!(package(r#"Package(repository: "team/app)"#), @r#"
        error: this string has no end
         --> images/a/BUILD.ron:1:21
          |
        1 | Package(repository: "team/app)
          |                     ^^^^^^^^^^
          |
          = help: close it with `"`
        "#);
    }

    #[test]
    fn a_bracket_never_closed() {
        insta::assert_snapshot!(package(r#"Package(
    rules: [
        Image(name: "1"),
"#), @r"
error: this `[` is never closed
 --> images/a/BUILD.ron:2:12
  |
2 |     rules: [
  |            ^
");
    }

    #[test]
    fn a_bracket_closed_by_another() {
        insta::assert_snapshot!(package(r#"Package(
    rules: [
        Image(name: "1",
    ],
)"#), @r#"
error: this `(` is not closed
 --> images/a/BUILD.ron:3:14
  |
3 |         Image(name: "1",
  |              ^
4 |     ],
  |     - before this `]`
"#);
    }

    #[test]
    fn a_missing_comma() {
        insta::assert_snapshot!(package(r#"Package(rules: [
    Image(name: "1" aliases: ["2"]),
])"#), @r#"
error: expected `,` or `)`, found `aliases`
 --> images/a/BUILD.ron:2:21
  |
2 |     Image(name: "1" aliases: ["2"]),
  |                     ^^^^^^^
"#);
    }

    #[test]
    fn an_equals_sign() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name = "1")])"#), @r#"
        error: expected `:` after `name`, found `=`
         --> images/a/BUILD.ron:1:28
          |
        1 | Package(rules: [Image(name = "1")])
          |                            ^
        "#);
    }

    #[test]
    fn a_field_in_quotes() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image("name": "1")])"#), @r#"
        error: the name of a field stands without quotes
         --> images/a/BUILD.ron:1:23
          |
        1 | Package(rules: [Image("name": "1")])
          |                       ^^^^^^
          |
          = help: write `name: …`
        "#);
    }

    #[test]
    fn single_quotes() {
        insta::assert_snapshot!(package("Package(rules: [Image(name: '4.2')])"), @r"
        error: a string stands in double quotes, not in single ones
         --> images/a/BUILD.ron:1:29
          |
        1 | Package(rules: [Image(name: '4.2')])
          |                             ^^^^^
        ");
    }

    #[test]
    fn a_wrong_escape() {
        insta::assert_snapshot!(package(r#"Package(rules: [Test(name: "t", run: ["grep \d+ x"])])"#), @r#"
        error: `\d` is no escape
         --> images/a/BUILD.ron:1:45
          |
        1 | Package(rules: [Test(name: "t", run: ["grep \d+ x"])])
          |                                             ^^
          |
          = help: a backslash is written `\\`; or write a raw string, like `r"\d+"`
        "#);
    }

    #[test]
    fn a_missing_value() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: , target: "x")])"#), @r#"
        error: expected a value, found `,`
         --> images/a/BUILD.ron:1:29
          |
        1 | Package(rules: [Image(name: , target: "x")])
          |                             ^
        "#);
    }

    #[test]
    fn a_comment_without_end() {
        insta::assert_snapshot!(package("Package(rules: [/* TODO ])"), @r"
        error: this comment has no end
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [/* TODO ])
          |                 ^^
          |
          = help: close it with `*/`
        ");
    }

    #[test]
    fn an_empty_file() {
        insta::assert_snapshot!(package(r"// nothing yet
"), @r"
error: this build file is empty
 --> images/a/BUILD.ron:1:1
  |
1 | // nothing yet
  | ^
  |
  = help: write `Package(rules: [])` into it, or remove it
");
    }

    #[test]
    fn two_values() {
        insta::assert_snapshot!(package(r#"Package(rules: [])
Image(name: "1")"#), @r#"
error: a build file holds one value, but here follows `Image`
 --> images/a/BUILD.ron:2:1
  |
2 | Image(name: "1")
  | ^^^^^
  |
  = help: rules stand in the list `rules` of one `Package(…)`
"#);
    }

    #[test]
    fn a_rule_without_a_package() {
        insta::assert_snapshot!(package(r#"Image(name: "1")"#), @r#"
        error: a build file holds one `Package(…)`
         --> images/a/BUILD.ron:1:1
          |
        1 | Image(name: "1")
          | ^^^^^
          |
          = help: write `Package(rules: [Image(…)])`
        "#);
    }

    #[test]
    fn a_misspelt_package() {
        insta::assert_snapshot!(package("Pakage(rules: [])"), @r"
        error: there is no rule `Pakage` here
         --> images/a/BUILD.ron:1:1
          |
        1 | Pakage(rules: [])
          | ^^^^^^
          |
          = help: did you mean `Package`?
        ");
    }

    #[test]
    fn a_list_for_a_package() {
        insta::assert_snapshot!(package(r#"[Image(name: "1")]"#), @r#"
        error: a build file holds one `Package(…)`
         --> images/a/BUILD.ron:1:1
          |
        1 | [Image(name: "1")]
          | ^^^^^^^^^^^^^^^^^^ this is a list
        "#);
    }

    #[test]
    fn a_workspace_within() {
        insta::assert_snapshot!(package("Workspace()"), @r"
        error: a workspace can't lie within another
         --> images/a/BUILD.ron:1:1
          |
        1 | Workspace()
          | ^^^^^^^^^
          |
          = help: this is a package of the workspace above: write `Package(…)`, or move the folder out of it
        ");
    }

    #[test]
    fn a_misspelt_rule() {
        insta::assert_snapshot!(package(r#"Package(rules: [Imgae(name: "1"), Job(name: "2")])"#), @r#"
        error: there is no rule `Imgae` here
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Imgae(name: "1"), Job(name: "2")])
          |                 ^^^^^
          |
          = help: did you mean `Image`?

        error: there is no rule `Job` here
         --> images/a/BUILD.ron:1:35
          |
        1 | Package(rules: [Imgae(name: "1"), Job(name: "2")])
          |                                   ^^^
          |
          = help: what may stand here: `Image`, `Test`, `Base`
        "#);
    }

    #[test]
    fn no_rule_at_all() {
        insta::assert_snapshot!(package(r#"Package(rules: [{"name": "1"}, "x", (name: "2")])"#), @r#"
        error: a rule is `Image(…)`, `Test(…)` or `Base(…)`
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [{"name": "1"}, "x", (name: "2")])
          |                 ^^^^^^^^^^^^^ this is a map

        error: a rule is `Image(…)`, `Test(…)` or `Base(…)`
         --> images/a/BUILD.ron:1:32
          |
        1 | Package(rules: [{"name": "1"}, "x", (name: "2")])
          |                                ^^^ this is a string

        error: a rule is `Image(…)`, `Test(…)` or `Base(…)`
         --> images/a/BUILD.ron:1:37
          |
        1 | Package(rules: [{"name": "1"}, "x", (name: "2")])
          |                                     ^^^^^^^^^^^ this is a group in `( )`
        "#);
    }

    #[test]
    fn nothing_hides_anything() {
        insta::assert_snapshot!(package(r#"Package(rules: [
    Image(name "1"),
    Image(nme: "2"),
    Imag(name: "3"),
    Test(name: "t", run: ["x"], retries: -1),
])"#), @r#"
error: expected `,` or `)`, found `"1"`
 --> images/a/BUILD.ron:2:16
  |
2 |     Image(name "1"),
  |                ^^^

error: this rule has no `name`
 --> images/a/BUILD.ron:3:5
  |
3 |     Image(nme: "2"),
  |     ^^^^^
  |
  = help: write it like `name: "4.2.1"`

error: `Image` has no field `nme`
 --> images/a/BUILD.ron:3:11
  |
3 |     Image(nme: "2"),
  |           ^^^
  |
  = help: did you mean `name`?

error: there is no rule `Imag` here
 --> images/a/BUILD.ron:4:5
  |
4 |     Imag(name: "3"),
  |     ^^^^
  |
  = help: did you mean `Image`?

error: `retries` is a whole number from 0 to 100
 --> images/a/BUILD.ron:5:42
  |
5 |     Test(name: "t", run: ["x"], retries: -1),
  |                                          ^^
"#);
    }
}

mod fields {
    //! Fields that are unknown, double, missing, or of another type.
    use super::package;

    #[test]
    fn an_unknown_field() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", dockerfiel: "x")])"#), @r#"
        error: `Image` has no field `dockerfiel`
         --> images/a/BUILD.ron:1:34
          |
        1 | Package(rules: [Image(name: "1", dockerfiel: "x")])
          |                                  ^^^^^^^^^^
          |
          = help: did you mean `dockerfile`?
        "#);
    }

    #[test]
    fn a_field_of_nothing_near() {
        insta::assert_snapshot!(package(r#"Package(rules: [Base(name: "b", provides: ["x:1"], from: Registry("x:2"), colour: "red")])"#), @r#"
        error: `Base` has no field `colour`
         --> images/a/BUILD.ron:1:75
          |
        1 | Package(rules: [Base(name: "b", provides: ["x:1"], from: Registry("x:2"), colour: "red")])
          |                                                                           ^^^^^^
          |
          = help: its fields are `name`, `provides`, `from`, `inputs`, `env`, `platform`
        "#);
    }

    #[test]
    fn a_field_twice() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(
    name: "1",
    target: "a",
    target: "b",
)])"#), @r#"
error: `target` is written twice
 --> images/a/BUILD.ron:4:5
  |
3 |     target: "a",
  |     ------ first here
4 |     target: "b",
  |     ^^^^^^
"#);
    }

    #[test]
    fn a_field_without_name() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image("4.2.1")])"#), @r#"
        error: this rule has no `name`
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Image("4.2.1")])
          |                 ^^^^^
          |
          = help: write it like `name: "4.2.1"`

        error: the fields of `Image` have names
         --> images/a/BUILD.ron:1:23
          |
        1 | Package(rules: [Image("4.2.1")])
          |                       ^^^^^^^
          |
          = help: write it like `name: …`
        "#);
    }

    #[test]
    fn no_name() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(dockerfile: "Dockerfile")])"#), @r#"
        error: this rule has no `name`
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Image(dockerfile: "Dockerfile")])
          |                 ^^^^^
          |
          = help: write it like `name: "4.2.1"`
        "#);
    }

    #[test]
    fn a_number_for_a_name() {
        insta::assert_snapshot!(package("Package(rules: [Image(name: 4.2)])"), @r#"
        error: `name` is a string, like `"4.2.1"`
         --> images/a/BUILD.ron:1:29
          |
        1 | Package(rules: [Image(name: 4.2)])
          |                             ^^^ this is a number
          |
          = help: put it in quotes: `"4.2"`
        "#);
    }

    #[test]
    fn a_version_without_quotes() {
        insta::assert_snapshot!(package("Package(rules: [Image(name: 4.2.1)])"), @r#"
        error: `name` is a string, like `"4.2.1"`
         --> images/a/BUILD.ron:1:29
          |
        1 | Package(rules: [Image(name: 4.2.1)])
          |                             ^^^^^ this is a number
          |
          = help: put it in quotes: `"4.2.1"`
        "#);
    }

    #[test]
    fn a_name_that_is_no_tag() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "4.2/1"), Image(name: "-x"), Image(name: "")])"#), @r#"
        error: `4.2/1`: character `/` is not allowed in a name
         --> images/a/BUILD.ron:1:29
          |
        1 | Package(rules: [Image(name: "4.2/1"), Image(name: "-x"), Image(name: "")])
          |                             ^^^^^^^

        error: `-x`: a name is a Docker tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`
         --> images/a/BUILD.ron:1:51
          |
        1 | Package(rules: [Image(name: "4.2/1"), Image(name: "-x"), Image(name: "")])
          |                                                   ^^^^

        error: `name` is empty
         --> images/a/BUILD.ron:1:70
          |
        1 | Package(rules: [Image(name: "4.2/1"), Image(name: "-x"), Image(name: "")])
          |                                                                      ^^
        "#);
    }

    #[test]
    fn a_string_for_a_list() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", aliases: "2")])"#), @r#"
        error: `aliases` is a list of strings, like `["4", "4.2"]`
         --> images/a/BUILD.ron:1:43
          |
        1 | Package(rules: [Image(name: "1", aliases: "2")])
          |                                           ^^^ this is a string
          |
          = help: put it in brackets: `["2"]`
        "#);
    }

    #[test]
    fn a_number_in_a_list() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", aliases: ["2", 3])])"#), @r#"
        error: `aliases` is a list of strings, like `["4", "4.2"]`
         --> images/a/BUILD.ron:1:49
          |
        1 | Package(rules: [Image(name: "1", aliases: ["2", 3])])
          |                                                 ^ this is a number
          |
          = help: put it in quotes: `"3"`
        "#);
    }

    #[test]
    fn a_list_for_a_map() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", args: ["VERSION=1"])])"#), @r#"
        error: `args` is a map of strings, like `{"VERSION": "4.2.1"}`
         --> images/a/BUILD.ron:1:40
          |
        1 | Package(rules: [Image(name: "1", args: ["VERSION=1"])])
          |                                        ^^^^^^^^^^^^^ this is a list
        "#);
    }

    #[test]
    fn a_number_for_an_argument() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", args: {"VERSION": 4.2})])"#), @r#"
        error: `VERSION` is a string, like all values of variables
         --> images/a/BUILD.ron:1:52
          |
        1 | Package(rules: [Image(name: "1", args: {"VERSION": 4.2})])
          |                                                    ^^^ this is a number
          |
          = help: put it in quotes: `"4.2"`
        "#);
    }

    #[test]
    fn a_key_twice() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", args: {
    "A": "1",
    "B": "2",
    "A": "3",
})])"#), @r#"
error: the key `A` is written twice in `args`
 --> images/a/BUILD.ron:4:5
  |
2 |     "A": "1",
  |     --- first here
3 |     "B": "2",
4 |     "A": "3",
  |     ^^^
"#);
    }

    #[test]
    fn a_wrong_variable() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", args: {"A-B": "1"})])"#), @r#"
        error: `A-B` is no name of a variable: those are letters, digits and `_`, the first no digit
         --> images/a/BUILD.ron:1:41
          |
        1 | Package(rules: [Image(name: "1", args: {"A-B": "1"})])
          |                                         ^^^^^
        "#);
    }

    #[test]
    fn a_word_for_the_network() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", network: none), Image(name: "2", network: "hots"), Image(name: "3", network: "bridge")])"#), @r#"
        error: `network` is a string: `"default"`, `"host"` or `"none"`
         --> images/a/BUILD.ron:1:43
          |
        1 | Package(rules: [Image(name: "1", network: none), Image(name: "2", network: "hots"), Image(name: "3", network: "bridge")])
          |                                           ^^^^ this is the word `none`, without quotes
          |
          = help: put it in quotes: `"none"`

        error: there is no network `hots`
         --> images/a/BUILD.ron:1:76
          |
        1 | Package(rules: [Image(name: "1", network: none), Image(name: "2", network: "hots"), Image(name: "3", network: "bridge")])
          |                                                                            ^^^^^^
          |
          = help: did you mean `"host"`?

        error: there is no network `bridge`
         --> images/a/BUILD.ron:1:111
          |
        1 | Package(rules: [Image(name: "1", network: none), Image(name: "2", network: "hots"), Image(name: "3", network: "bridge")])
          |                                                                                                               ^^^^^^^^
          |
          = help: it is `"default"`, `"host"` or `"none"`
        "#);
    }

    #[test]
    fn a_string_for_a_boolean() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", manual: "true")])"#), @r#"
        error: `manual` is `true` or `false`
         --> images/a/BUILD.ron:1:42
          |
        1 | Package(rules: [Image(name: "1", manual: "true")])
          |                                          ^^^^^^ this is a string
          |
          = help: write it without quotes: `true`
        "#);
    }

    #[test]
    fn a_wrong_platform() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", platform: "amd64")])"#), @r#"
        error: `amd64` is no platform; write it as `linux/amd64` or `linux/arm/v7`
         --> images/a/BUILD.ron:1:44
          |
        1 | Package(rules: [Image(name: "1", platform: "amd64")])
          |                                            ^^^^^^^
        "#);
    }

    #[test]
    fn a_wrong_duration() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", timeout: "30 minutes"), Image(name: "2", timeout: 30), Image(name: "3", timeout: "0s")])"#), @r#"
        error: `30 minutes` is no duration
         --> images/a/BUILD.ron:1:43
          |
        1 | Package(rules: [Image(name: "1", timeout: "30 minutes"), Image(name: "2", timeout: 30), Image(name: "3", timeout: "0s")])
          |                                           ^^^^^^^^^^^^
          |
          = help: write a whole number and its unit, like `500ms`, `2s`, `1m`, `6h` or `7d`

        error: `timeout` is a duration in a string, like `"30m"`
         --> images/a/BUILD.ron:1:84
          |
        1 | Package(rules: [Image(name: "1", timeout: "30 minutes"), Image(name: "2", timeout: 30), Image(name: "3", timeout: "0s")])
          |                                                                                    ^^ this is a number
          |
          = help: give it a unit, and put it in quotes: `"30s"`

        error: `timeout` is zero, so every attempt would fail
         --> images/a/BUILD.ron:1:115
          |
        1 | Package(rules: [Image(name: "1", timeout: "30 minutes"), Image(name: "2", timeout: 30), Image(name: "3", timeout: "0s")])
          |                                                                                                                   ^^^^
          |
          = help: leave it out for no limit
        "#);
    }

    #[test]
    fn retries_out_of_range() {
        insta::assert_snapshot!(package(r#"Package(rules: [
    Image(name: "1", retries: 101),
    Image(name: "2", retries: 1.5),
    Image(name: "3", retries: "2"),
    Image(name: "4", retries: (max: 1, delay: "2m", backof: 2.0)),
    Image(name: "5", retries: (backoff: 0.5)),
])"#), @r#"
error: `retries` is a whole number from 0 to 100
 --> images/a/BUILD.ron:2:31
  |
2 |     Image(name: "1", retries: 101),
  |                               ^^^

error: `retries` is a whole number from 0 to 100
 --> images/a/BUILD.ron:3:31
  |
3 |     Image(name: "2", retries: 1.5),
  |                               ^^^

error: `retries` is a whole number, like `2`, or the full form, like `(max: 2, delay: "2s")`
 --> images/a/BUILD.ron:4:31
  |
4 |     Image(name: "3", retries: "2"),
  |                               ^^^ this is a string
  |
  = help: write it without quotes: `2`

error: `delay` is longer than `max_delay`
 --> images/a/BUILD.ron:5:47
  |
5 |     Image(name: "4", retries: (max: 1, delay: "2m", backof: 2.0)),
  |                                               ^^^^

error: `retries` has no field `backof`
 --> images/a/BUILD.ron:5:53
  |
5 |     Image(name: "4", retries: (max: 1, delay: "2m", backof: 2.0)),
  |                                                     ^^^^^^
  |
  = help: did you mean `backoff`?

error: `backoff` is a number from 1.0 to 100.0
 --> images/a/BUILD.ron:6:41
  |
6 |     Image(name: "5", retries: (backoff: 0.5)),
  |                                         ^^^
"#);
    }

    #[test]
    fn wrong_secrets() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", secrets: {
    "a": "NPM_TOKEN",
    "b": Env("NPM TOKEN"),
    "c": Vault("x"),
    "d e": Env("E"),
})])"#), @r#"
error: a source is `Env("VARIABLE")` or `File("path")`
 --> images/a/BUILD.ron:2:10
  |
2 |     "a": "NPM_TOKEN",
  |          ^^^^^^^^^^^ this is a string

error: `NPM TOKEN` is no name of an environment variable
 --> images/a/BUILD.ron:3:14
  |
3 |     "b": Env("NPM TOKEN"),
  |              ^^^^^^^^^^^

error: a source is `Env("VARIABLE")` or `File("path")`
 --> images/a/BUILD.ron:4:10
  |
4 |     "c": Vault("x"),
  |          ^^^^^^^^^^ this is `Vault(…)`

error: an id in `secrets` is not empty, and has no white space, `,` or `=`
 --> images/a/BUILD.ron:5:5
  |
5 |     "d e": Env("E"),
  |     ^^^^^
"#);
    }

    #[test]
    fn a_wrong_ssh() {
        insta::assert_snapshot!(package(r#"Package(rules: [Image(name: "1", ssh: true)])"#), @r#"
        error: `ssh` is a list of strings, like `["default"]`, or a map, like `{"deploy": Env("DEPLOY_SOCK")}`
         --> images/a/BUILD.ron:1:39
          |
        1 | Package(rules: [Image(name: "1", ssh: true)])
          |                                       ^^^^ this is the word `true`, without quotes
        "#);
    }

    #[test]
    fn fields_of_later_versions() {
        insta::assert_snapshot!(package(r#"Package(refresh: "7d", rules: [Image(name: "1", scrub: true), Base(name: "b", provides: ["x:1"], from: Registry("x:2"), until: "2027-06-30")])"#), @r#"
        error: `refresh` is not there yet: freshness policies come with a later version
         --> images/a/BUILD.ron:1:9
          |
        1 | Package(refresh: "7d", rules: [Image(name: "1", scrub: true), Base(name: "b", provides: ["x:1"], from: Registry("x:2"), until: "2027-...
          |         ^^^^^^^

        error: `scrub` is not there yet: it comes with a later version
         --> images/a/BUILD.ron:1:49
          |
        1 | Package(refresh: "7d", rules: [Image(name: "1", scrub: true), Base(name: "b", provides: ["x:1"], from: Registry("x:2"), until: "2027-...
          |                                                 ^^^^^

        error: `until` is not there yet: freshness policies come with a later version
         --> images/a/BUILD.ron:1:121
          |
        1 | Package(refresh: "7d", rules: [Image(name: "1", scrub: true), Base(name: "b", provides: ["x:1"], from: Registry("x:2"), until: "2027-...
          |                                                                                                                         ^^^^^
        "#);
    }
}

mod paths {
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
          = help: a path may leave its package, not the workspace: bring the file in
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
          = help: write it like `srv/app`, or with `..` to leave the package
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
          = help: the package's own folder is `"."`
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
          = help: a path may leave its package, not the workspace: bring the file in

        error: `/etc/*` is absolute; a path is relative to the package's folder
         --> images/a/BUILD.ron:1:64
          |
        1 | Package(rules: [Image(name: "1", extra_inputs: ["../../../**", "/etc/*", "*/../../x"])])
          |                                                                ^^^^^^^^
          |
          = help: write it like `etc/*`, or with `..` to leave the package

        error: `*/../../x` leaves the workspace
         --> images/a/BUILD.ron:1:74
          |
        1 | Package(rules: [Image(name: "1", extra_inputs: ["../../../**", "/etc/*", "*/../../x"])])
          |                                                                          ^^^^^^^^^^^
          |
          = help: a path may leave its package, not the workspace: bring the file in
        "#);
    }
}

mod tests_and_bases {
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
          = help: give it one of `run`, `exec` and `dockerfile`
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
  = help: commands get variables by `env`

error: a test with `dockerfile` has no `env`
 --> images/a/BUILD.ron:3:38
  |
3 |     Test(name: "b", dockerfile: "D", env: {"A": "1"}),
  |                                      ^^^
  |
  = help: a Dockerfile gets variables by `args`

error: a test with `exec` has no `context`
 --> images/a/BUILD.ron:4:36
  |
4 |     Test(name: "c", exec: [["x"]], context: "."),
  |                                    ^^^^^^^
  |
  = help: commands see the image alone; to bring files, use a `dockerfile`
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
          = help: did you mean `//b:smoke`?

        error: there is no test `//a:smoke`
         --> images/a/BUILD.ron:1:63
          |
        1 | Package(tests: ["//b:smok"], rules: [Image(name: "1", tests: [":smoke"])])
          |                                                               ^^^^^^^^
          |
          = help: did you mean `//b:smoke`?
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
          = help: a test of this package is `":t"`

        error: `//b` names a package, not a test
         --> images/a/BUILD.ron:1:76
          |
        1 | Package(rules: [Test(name: "t", run: ["x"]), Image(name: "1", tests: ["t", "//b", "//b:a b"])])
          |                                                                            ^^^^^
          |
          = help: a test of it is `"//b:NAME"`

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
  = help: a step is called by the name of its test, so those of an image differ: rename one
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
  = help: leave out `untested`, or the tests

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
          = help: leave out `untested`, or the tests
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
          = help: leave out `untested`, or the tests
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
          = help: say what it is made from, like `from: Registry("debian:bookworm")`

        error: this base has no `provides`, so nothing can start from it
         --> images/a/BUILD.ron:1:17
          |
        1 | Package(rules: [Base(name: "b"), Base(name: "c", provides: [], from: "x.tar")])
          |                 ^^^^
          |
          = help: write the references that Dockerfiles use, like `provides: ["debian:bookworm"]`

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
  = help: did you mean `Rootfs`?

error: a base can't be made from `Docker`
 --> images/a/BUILD.ron:3:46
  |
3 |     Base(name: "b", provides: ["b:1"], from: Docker("x")),
  |                                              ^^^^^^
  |
  = help: it is made from `Registry("…")`, `Rootfs("…")`, `OciLayout("…")` or `Command([…])`

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
  = help: put it in brackets: `["./x {out}"]`

error: this command has no `{out}`
 --> images/a/BUILD.ron:3:54
  |
3 |     Base(name: "b", provides: ["b:1"], from: Command(["./x"])),
  |                                                      ^^^^^^^
  |
  = help: igraph puts a path that ends in `.tar` in its place, for the command to write the root filesystem to

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
}

mod names {
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
  = help: a full name is written `team/app:TAG`

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
  = help: write `reg.corp:5000/app:TAG`

error: `app:1@sha256:0000000000000000000000000000000000000000000000000000000000000000` is no alias: it has a digest
 --> images/a/BUILD.ron:2:65
  |
2 | ...1", "reg.corp:5000/app", "app:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
  |                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: a name points at what was built; leave `@sha256:…` out
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
          = help: the tags are the names and aliases of its images
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
}

mod workspaces {
    //! The root.
    use super::workspace;

    #[test]
    fn unknown_fields() {
        insta::assert_snapshot!(workspace(r#"Workspace(package: "images", regstry: "x")"#), @r#"
        error: `Workspace` has no field `package`
         --> BUILD.ron:1:11
          |
        1 | Workspace(package: "images", regstry: "x")
          |           ^^^^^^^
          |
          = help: did you mean `packages`?

        error: `Workspace` has no field `regstry`
         --> BUILD.ron:1:30
          |
        1 | Workspace(package: "images", regstry: "x")
          |                              ^^^^^^^
          |
          = help: did you mean `registry`?
        "#);
    }

    #[test]
    fn a_wrong_registry() {
        insta::assert_snapshot!(workspace(r#"Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b": Off, "c.d": (tls: Ca(1))})"#), @r#"
        error: `nodesource` is no registry: it begins with a host that has a `.` or a port, or is `localhost`
         --> BUILD.ron:1:21
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                     ^^^^^^^^^^^^
          |
          = help: write it like `docker.io`, `reg.corp:5000` or `reg.corp:5000/staging`

        error: `https://x` is no registry: it begins with a host that has a `.` or a port, or is `localhost`
         --> BUILD.ron:1:48
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                ^^^^^^^^^^^
          |
          = help: write it like `docker.io`, `reg.corp:5000` or `reg.corp:5000/staging`

        error: `reg.corp/a` has a path; settings are for a host
         --> BUILD.ron:1:73
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                                         ^^^^^^^^^^^^
          |
          = help: write `"reg.corp"`

        error: `tls` is `Off` or `Ca("ca.pem")`
         --> BUILD.ron:1:109
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                                                                             ^^^^^ this is a string

        error: `registries` has no field `mirorrs`
         --> BUILD.ron:1:116
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                                                                                    ^^^^^^^
          |
          = help: did you mean `mirrors`?

        error: `a.b` is a group, like `(tls: Off, mirrors: ["mirror.corp"])`
         --> BUILD.ron:1:137
          |
        1 | ...eg.corp": (tls: "off", mirorrs: []), "a.b": Off, "c.d": (tls: Ca(1))})
          |                                                ^^^ this is the word `Off`, without quotes

        error: `Ca` is a string, like `"ca.pem"`
         --> BUILD.ron:1:158
          |
        1 | ... (tls: "off", mirorrs: []), "a.b": Off, "c.d": (tls: Ca(1))})
          |                                                            ^ this is a number
          |
          = help: put it in quotes: `"1"`
        "#);
    }

    #[test]
    fn a_later_engine() {
        insta::assert_snapshot!(workspace("Workspace(engine: Embedded)"), @r"
        error: `Embedded` is not there yet: the embedded engine comes with a later version
         --> BUILD.ron:1:19
          |
        1 | Workspace(engine: Embedded)
          |                   ^^^^^^^^
          |
          = help: write `Docker`
        ");
    }

    #[test]
    fn a_wrong_engine() {
        insta::assert_snapshot!(workspace("Workspace(engine: docker, jobs: 0, epoch: -1)"), @r"
        error: there is no engine `docker`
         --> BUILD.ron:1:19
          |
        1 | Workspace(engine: docker, jobs: 0, epoch: -1)
          |                   ^^^^^^
          |
          = help: did you mean `Docker`?

        error: `jobs` is a whole number from 1 to 4096
         --> BUILD.ron:1:33
          |
        1 | Workspace(engine: docker, jobs: 0, epoch: -1)
          |                                 ^

        error: `epoch` is a whole number from 0 to 253402300799
         --> BUILD.ron:1:43
          |
        1 | Workspace(engine: docker, jobs: 0, epoch: -1)
          |                                           ^^
        ");
    }

    #[test]
    fn another_wrong_engine() {
        insta::assert_snapshot!(workspace(r#"Workspace(engine: "Docker", jobs: "4")"#), @r#"
        error: `engine` is `Docker` or `Docker(host: "unix:///var/run/docker.sock")`
         --> BUILD.ron:1:19
          |
        1 | Workspace(engine: "Docker", jobs: "4")
          |                   ^^^^^^^^ this is a string

        error: `jobs` is a whole number, like `4`
         --> BUILD.ron:1:35
          |
        1 | Workspace(engine: "Docker", jobs: "4")
          |                                   ^^^ this is a string
          |
          = help: write it without quotes: `4`
        "#);
    }

    #[test]
    fn a_wrong_engine_host() {
        insta::assert_snapshot!(workspace(r#"Workspace(engine: Docker(host: ""), retries: (max_delay: "1s"))"#), @r#"
        error: `host` is empty
         --> BUILD.ron:1:32
          |
        1 | Workspace(engine: Docker(host: ""), retries: (max_delay: "1s"))
          |                                ^^

        error: `delay` is longer than `max_delay`
         --> BUILD.ron:1:58
          |
        1 | Workspace(engine: Docker(host: ""), retries: (max_delay: "1s"))
          |                                                          ^^^^
        "#);
    }

    #[test]
    fn no_packages() {
        insta::assert_snapshot!(workspace(r#"Workspace(packages: "pictures")"#), @r#"
        error: there is no folder `pictures` to hold the packages
         --> BUILD.ron:1:21
          |
        1 | Workspace(packages: "pictures")
          |                     ^^^^^^^^^^
          |
          = help: make it, or name another: `packages: "…"`
        "#);
    }

    #[test]
    fn no_workspace() {
        insta::assert_snapshot!(workspace("Package(rules: [])"), @r"
        error: there is no rule `Package` here
         --> BUILD.ron:1:1
          |
        1 | Package(rules: [])
          | ^^^^^^^
          |
          = help: what may stand here: `Workspace`
        ");
    }

    #[test]
    fn packages_outside() {
        insta::assert_snapshot!(workspace(r#"Workspace(packages: "..")"#), @r#"
        error: `..` leaves the workspace
         --> BUILD.ron:1:21
          |
        1 | Workspace(packages: "..")
          |                     ^^^^
          |
          = help: a path may leave its package, not the workspace: bring the file in
        "#);
    }

    #[test]
    fn one_name_at_the_registry() {
        insta::assert_snapshot!(workspace(r#"Workspace(registry: "reg.corp")"#), @r#"
        error: //a:1 has the name `reg.corp/a:1` twice
         --> images/a/BUILD.ron:1:70
          |
        1 | Package(repository: "reg.corp/a", rules: [Image(name: "1", aliases: ["a:1"])])
          |                                                       --- first here ^^^^^
        "#);
    }
}
mod files {
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
          = help: a path may leave its package, not the workspace: bring the file in

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
          = help: a path may leave its package, not the workspace: bring the file in
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
          = help: give the package one, like `repository: "team/app"`

        error: the path of //Up is no repository
         --> images/Up/BUILD.ron:1:1
          |
        1 | Package(rules: [Image(name: "1")])
          | ^^^^^^^
          |
          = help: give the package one, like `repository: "team/app"`

        error: this is not UTF-8
         --> images/a/BUILD.ron:2:21
          |
        2 |     repository: "caf�",
          |                     ^
          |
          = help: save the file as UTF-8

        error: this folder can be no package: `b c`: character ` ` is not allowed in a package
         --> images/b c/BUILD.ron:1:1
          |
        1 | Package()
          | ^
          |
          = help: rename the folder, or take its build file away
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
        help: `igraph init` makes one, or write `Workspace()` into a `BUILD.ron`
        ");
        write(root, "a/BUILD.ron", "Package()");
        insta::assert_snapshot!(said(&root.join("a/b")), @r"
        error: no workspace here: neither `ROOT/a/b` nor a folder above it has a `BUILD.ron` with a `Workspace(…)`
        help: `ROOT/a/BUILD.ron` is not one; write `Workspace()` into a `BUILD.ron` in the folder that holds all packages
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
}
