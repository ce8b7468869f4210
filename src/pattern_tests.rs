//! Tests of `pattern`.

use super::*;

fn entries() -> BTreeMap<Label, Visibility> {
    [
        ("//:root", Visibility::Usual),
        ("//debian/jessie:4.2.1", Visibility::Manual),
        ("//debian/bookworm:4.2.1", Visibility::Usual),
        ("//debian/bookworm:4.10", Visibility::Usual),
        ("//debian/bookworm:18", Visibility::Usual),
        ("//debian/bookworm-slim:18", Visibility::Usual),
        ("//debian/bookworm/dev:18", Visibility::Manual),
        ("//lone:1", Visibility::Manual),
        ("//lone:2", Visibility::Manual),
    ]
    .into_iter()
    .map(|(label, visibility)| (Label::parse(label, None).unwrap(), visibility))
    .collect()
}

fn at(current: &str) -> Here {
    Here { packages: "images".to_owned(), current: current.to_owned() }
}

/// What a pattern selects, or what is said of it.
fn said(text: &str, current: &str, excluded: &[&str]) -> String {
    let here = at(current);
    let pattern = match Pattern::parse(text, &here) {
        Ok(pattern) => pattern,
        Err(error) => return format!("error: {error} | {}", error.hint().unwrap_or_default()),
    };
    let excluded: Vec<Pattern> = excluded.iter().map(|text| Pattern::parse(text, &here).unwrap()).collect();
    match resolve(&[pattern], &excluded, &entries()) {
        Ok(selection) => {
            let mut words: Vec<String> = selection.labels.iter().map(ToString::to_string).collect();
            words.extend(selection.steps.iter().map(ToString::to_string));
            words.extend(selection.warnings.iter().map(|warning| format!("warning: {warning}")));
            words.join(" ")
        }
        Err(problems) => problems
            .iter()
            .map(|problem| format!("error: {} | {}", problem.message, problem.hint.clone().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

#[test]
fn patterns_from_the_root_of_the_tree() {
    for (text, expected) in [
        ("//debian/bookworm:18", "//debian/bookworm:18"),
        ("//debian/bookworm:", "//debian/bookworm:4.2.1 //debian/bookworm:4.10 //debian/bookworm:18"),
        ("//debian/bookworm:4.*", "//debian/bookworm:4.2.1 //debian/bookworm:4.10"),
        ("//debian/bookworm:*1*", "//debian/bookworm:4.2.1 //debian/bookworm:4.10 //debian/bookworm:18"),
        ("//debian/bookworm/...", "//debian/bookworm:4.2.1 //debian/bookworm:4.10 //debian/bookworm:18"),
        ("//debian/...:18", "//debian/bookworm:18 //debian/bookworm-slim:18"),
        ("//debian/jessie:4.2.1", "//debian/jessie:4.2.1"),
        ("//:root", "//:root"),
        ("//:", "//:root"),
        ("//debian/bookworm:18[test/smoke]", "//debian/bookworm:18[test/smoke]"),
        ("//debian/bookworm:18[push/team/x:1]", "//debian/bookworm:18[push/team/x:1]"),
        ("//debian/bookworm:4.*[test/smoke]", "//debian/bookworm:4.2.1[test/smoke] //debian/bookworm:4.10[test/smoke]"),
    ] {
        assert_eq!(said(text, "", &[]), expected, "{text}");
    }
    assert_eq!(said("//...", "", &[]).split(' ').count(), 5);
}

#[test]
fn patterns_from_the_current_folder() {
    for (text, current, expected) in [
        (":18", "images/debian/bookworm", "//debian/bookworm:18"),
        ("bookworm:18", "images/debian", "//debian/bookworm:18"),
        ("./bookworm:18", "images/debian", "//debian/bookworm:18"),
        ("../bookworm-slim:", "images/debian/bookworm", "//debian/bookworm-slim:18"),
        ("...", "images/debian/bookworm-slim", "//debian/bookworm-slim:18"),
        ("debian/bookworm-slim/...", "", "//debian/bookworm-slim:18"),
        ("images/debian/bookworm-slim:18", "", "//debian/bookworm-slim:18"),
        ("debian/bookworm-slim:18", "", "//debian/bookworm-slim:18"),
        (":root", "images", "//:root"),
        ("../images/debian/bookworm:18", "docs", "//debian/bookworm:18"),
    ] {
        assert_eq!(said(text, current, &[]), expected, "{text} in {current}");
    }
    assert_eq!(said("...", "", &[]), said("//...", "", &[]));
    assert_eq!(said("images/...", "", &[]), said("//...", "", &[]));
    assert_eq!(Pattern::all_from(&at("docs")).unwrap_err().to_string(), "`...` lies outside of `images`, which holds the packages");
}

#[test]
fn wrong_patterns_say_what_to_write() {
    for (text, expected) in [
        (
            "//debian/jessie",
            "error: `//debian/jessie` names a package, not an image: names are versions here, so there is no default one | write `//debian/jessie:VERSION` for one image, `//debian/jessie:` for all of the package, `//debian/jessie/...` for all below it",
        ),
        (
            "4.2.1",
            "error: `4.2.1` names no image | write `:4.2.1` for an image of this package, `4.2.1:` for all of a package, `4.2.1/...` for all below it",
        ),
        ("", "error: `` names no image | write `...` for all from here on, `:` for all of this package"),
        ("//deb*:1", "error: `//deb*:1`: `*` stands for a part of a name, not of a package | write `//deb/...` for all packages below"),
        (
            "docker.io//library/debian:jessie",
            "error: `docker.io//library/debian:jessie` is an image outside of the workspace | `igraph why` knows such images; there is nothing to build or push",
        ),
        (
            "../x:1",
            "error: `../x:1` lies outside of `images`, which holds the packages | write it from the root, like `//debian/jessie:4.2.1`",
        ),
        (
            "//a:b[run/x]",
            "error: `//a:b[run/x]`: in brackets stands `test/NAME`, `tag/NAME` or `push/NAME` | `igraph targets --steps //a:b` lists them",
        ),
        (
            "//a:b[test/x",
            "error: `//a:b[test/x`: in brackets stands `test/NAME`, `tag/NAME` or `push/NAME` | `igraph targets --steps //a:b` lists them",
        ),
        ("//a:b c", "error: `b c`: character ` ` is not allowed in a name | "),
        ("//a b:c", "error: `a b`: character ` ` is not allowed in a package | "),
        ("//a:b/*", "error: `b/*`: character `/` is not allowed in a name | "),
        ("//debian/bookworm:4.1", "error: `//debian/bookworm:4.1` matches nothing | did you mean `//debian/bookworm:4.10`?"),
        (
            "//debian/bookworm:argon",
            "error: `//debian/bookworm:argon` matches nothing | //debian/bookworm has 3 images, from `4.2.1` to `18`",
        ),
        ("//debian/bookworm-slim:argon", "error: `//debian/bookworm-slim:argon` matches nothing | //debian/bookworm-slim has only `18`"),
        ("//debian/bokworm:18", "error: `//debian/bokworm:18` matches nothing | did you mean `//debian/bookworm:18`?"),
        ("//debian/bokworm:", "error: `//debian/bokworm:` matches nothing | did you mean `//debian/bookworm:`?"),
        ("//debian/bokworm/...", "error: `//debian/bokworm/...` matches nothing | did you mean `//debian/bookworm/...`?"),
        ("//zzz:1", "error: `//zzz:1` matches nothing | `igraph targets //...` lists what there is"),
        ("//debian:", "error: `//debian:` matches nothing | `igraph targets //...` lists what there is"),
    ] {
        assert_eq!(said(text, "", &[]), expected, "{text}");
    }
}

#[test]
fn manual_images_and_exclusions() {
    let one = "//debian/jessie:4.2.1, which is manual: name it exactly";
    assert_eq!(said("//debian/jessie:", "", &[]), format!("warning: `//debian/jessie:` matches only {one}"));
    let two = "matches only manual images (2, the first is //lone:1): name them exactly";
    assert_eq!(said("//lone/...", "", &[]), format!("warning: `//lone/...` {two}"));
    assert_eq!(said("//debian/bookworm:", "", &["//debian/bookworm:4.*"]), "//debian/bookworm:18");
    assert_eq!(said("//debian/bookworm:18[test/x]", "", &["//debian/..."]), "warning: all that the patterns match is excluded");
    assert_eq!(said("//debian/bookworm:", "", &["//lone:3"]), "error: `//lone:3` matches nothing | did you mean `//lone:1`?");
    assert_eq!(said("//lone:1", "", &["//lone:2[test/x]"]), "error: `//lone:2[test/x]` can't be excluded: only whole images can | ");
    let patterns: Vec<Pattern> =
        ["//lone:1[test/x]", "//lone:1", "//lone:2[test/x]"].iter().map(|text| Pattern::parse(text, &at("")).unwrap()).collect();
    let selection = resolve(&patterns, &[], &entries()).unwrap();
    assert_eq!(format!("{:?} {:?}", selection.labels, selection.steps), "{//lone:1} {//lone:2[test/x]}");
    assert_eq!(resolve(&[], &[], &entries()), Ok(Selection::default()));
}

#[test]
fn stars_match_anything() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("4.*", "4.", true),
        ("4.*", "14.1", false),
        ("*-slim", "4-slim", true),
        ("*-slim", "4-slim2", false),
        ("4*4", "4", false),
        ("a*b*c", "axbxbc", true),
        ("a**c", "ac", true),
    ] {
        assert_eq!(like(pattern, text), expected, "{pattern} {text}");
    }
    assert_eq!(pattern_lines(" //a:1 \n\n# no\r\n//b:").collect::<Vec<_>>(), ["//a:1", "//b:"]);
}
