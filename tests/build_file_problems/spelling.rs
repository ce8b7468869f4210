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
          = hint: close it with `"`
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
          = hint: write `name: …`
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
          = hint: a backslash is written `\\`; or write a raw string, like `r"\d+"`
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
          = hint: close it with `*/`
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
  = hint: write `Package(rules: [])` into it, or remove it
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
  = hint: rules stand in the list `rules` of one `Package(…)`
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
          = hint: write `Package(rules: [Image(…)])`
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
          = hint: did you mean `Package`?
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
          = hint: this is a package of the workspace above: write `Package(…)`, or move the folder out of it
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
          = hint: did you mean `Image`?

        error: there is no rule `Job` here
         --> images/a/BUILD.ron:1:35
          |
        1 | Package(rules: [Imgae(name: "1"), Job(name: "2")])
          |                                   ^^^
          |
          = hint: what may stand here: `Image`, `Test`, `Base`
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

error: `Image` has no field `nme`
 --> images/a/BUILD.ron:3:11
  |
3 |     Image(nme: "2"),
  |           ^^^
  |
  = hint: did you mean `name`?

error: there is no rule `Imag` here
 --> images/a/BUILD.ron:4:5
  |
4 |     Imag(name: "3"),
  |     ^^^^
  |
  = hint: did you mean `Image`?

error: `retries` is a whole number from 0 to 100
 --> images/a/BUILD.ron:5:42
  |
5 |     Test(name: "t", run: ["x"], retries: -1),
  |                                          ^^
"#);
}
