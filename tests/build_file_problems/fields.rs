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
          = hint: did you mean `dockerfile`?
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
      = hint: its fields are `name`, `provides`, `from`, `inputs`, `env`, `platform`, `refresh`, `probe`, `settle`, `until`
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
          = hint: write it like `name: "4.2.1"`

        error: the fields of `Image` have names
         --> images/a/BUILD.ron:1:23
          |
        1 | Package(rules: [Image("4.2.1")])
          |                       ^^^^^^^
          |
          = hint: write it like `name: …`
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
          = hint: write it like `name: "4.2.1"`
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
          = hint: put it in quotes: `"4.2"`
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
          = hint: put it in quotes: `"4.2.1"`
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
          |
          = hint: a name is a tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`

        error: `-x`: a name is a Docker tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`
         --> images/a/BUILD.ron:1:51
          |
        1 | Package(rules: [Image(name: "4.2/1"), Image(name: "-x"), Image(name: "")])
          |                                                   ^^^^
          |
          = hint: a name is a tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`

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
          = hint: put it in brackets: `["2"]`
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
          = hint: put it in quotes: `"3"`
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
          = hint: put it in quotes: `"4.2"`
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
          = hint: put it in quotes: `"none"`

        error: there is no network `hots`
         --> images/a/BUILD.ron:1:76
          |
        1 | Package(rules: [Image(name: "1", network: none), Image(name: "2", network: "hots"), Image(name: "3", network: "bridge")])
          |                                                                            ^^^^^^
          |
          = hint: did you mean `"host"`?

        error: there is no network `bridge`
         --> images/a/BUILD.ron:1:111
          |
        1 | Package(rules: [Image(name: "1", network: none), Image(name: "2", network: "hots"), Image(name: "3", network: "bridge")])
          |                                                                                                               ^^^^^^^^
          |
          = hint: it is `"default"`, `"host"` or `"none"`
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
          = hint: write it without quotes: `true`
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
          = hint: write a whole number and its unit, like `500ms`, `2s`, `1m`, `6h` or `7d`

        error: `timeout` is a duration in a string, like `"30m"`
         --> images/a/BUILD.ron:1:84
          |
        1 | Package(rules: [Image(name: "1", timeout: "30 minutes"), Image(name: "2", timeout: 30), Image(name: "3", timeout: "0s")])
          |                                                                                    ^^ this is a number
          |
          = hint: give it a unit, and put it in quotes: `"30s"`

        error: `timeout` is zero, so every attempt would fail
         --> images/a/BUILD.ron:1:115
          |
        1 | Package(rules: [Image(name: "1", timeout: "30 minutes"), Image(name: "2", timeout: 30), Image(name: "3", timeout: "0s")])
          |                                                                                                                   ^^^^
          |
          = hint: leave it out for no limit
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
  = hint: write it without quotes: `2`

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
  = hint: did you mean `backoff`?

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
fn wrong_policies() {
    insta::assert_snapshot!(package(r#"Package(refresh: "0s", settle: "soon", rules: [Image(name: "1", until: "2027-02-29")])"#), @r#"
    error: `refresh` is zero, so every update would renew it
     --> images/a/BUILD.ron:1:18
      |
    1 | Package(refresh: "0s", settle: "soon", rules: [Image(name: "1", until: "2027-02-29")])
      |                  ^^^^
      |
      = hint: leave it out for none

    error: `soon` is no duration
     --> images/a/BUILD.ron:1:32
      |
    1 | Package(refresh: "0s", settle: "soon", rules: [Image(name: "1", until: "2027-02-29")])
      |                                ^^^^^^
      |
      = hint: write a whole number and its unit, like `500ms`, `2s`, `1m`, `6h` or `7d`

    error: `2027-02-29` is no day
     --> images/a/BUILD.ron:1:72
      |
    1 | Package(refresh: "0s", settle: "soon", rules: [Image(name: "1", until: "2027-02-29")])
      |                                                                        ^^^^^^^^^^^^
      |
      = hint: write it like `"2027-06-30"`: that day is the last, in UTC
    "#);
    insta::assert_snapshot!(package(r#"Package(rules: [
    Base(name: "a", provides: ["a:1"], from: Registry("x:2"), refresh: "7d", settle: "6h", until: "2027-06-30"),
    Base(name: "b", provides: ["b:1"], from: Rootfs("b.tar"), settle: "1h"),
    Base(name: "c", provides: ["c:1"], from: Command(["./c", "{out}"]), refresh: "7d", settle: "6h"),
])"#), @r#"
    error: a base from a registry has no `refresh`
     --> images/a/BUILD.ron:2:63
      |
    2 |     Base(name: "a", provides: ["a:1"], from: Registry("x:2"), refresh: "7d", settle: "6h", until: "2027-06-30"),
      |                                                               ^^^^^^^
      |
      = hint: it moves when its registry says so: `igraph update` asks

    error: a base from a file has no `settle`
     --> images/a/BUILD.ron:3:63
      |
    3 |     Base(name: "b", provides: ["b:1"], from: Rootfs("b.tar"), settle: "1h"),
      |                                                               ^^^^^^
      |
      = hint: it changes when its files do

    error: a base from a command has no `settle`
     --> images/a/BUILD.ron:4:88
      |
    4 |     Base(name: "c", provides: ["c:1"], from: Command(["./c", "{out}"]), refresh: "7d", settle: "6h"),
      |                                                                                        ^^^^^^
      |
      = hint: nothing moves it that could be waited for; it is renewed by `refresh`
    "#);
}
