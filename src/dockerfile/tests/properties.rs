//! Whatever the text: parsing ends, never panics, and every place lies in the text; what is generated parses again.

use proptest::prelude::*;

use super::{parse, resolve_with, source};
use crate::dockerfile::{Ignore, NoConfigs, parse_test};

/// Text made of what Dockerfiles are made of.
fn dockerfile() -> impl Strategy<Value = String> {
    let pieces = [
        "FROM a",
        "FROM scratch AS x",
        "FROM x",
        "AS",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV A=1",
        "ENV A b",
        "ARG B",
        "ARG B=$A",
        "LABEL x=y",
        "ONBUILD ",
        "HEALTHCHECK CMD x",
        "SHELL [\"a\"]",
        "EXPOSE 80",
        "WORKDIR /x",
        "USER u",
        "VOLUME /v",
        "CMD []",
        "STOPSIGNAL 9",
        "--from=x ",
        "--mount=type=cache,target=/c ",
        "--link ",
        "<<EOF",
        "<<-'E' ",
        "EOF",
        "E",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "# escape=`\n",
        "# syntax=x\n",
        "#",
        " ",
        "\t",
        "${A:-b}",
        "${A/b/c}",
        "$",
        "\"",
        "'",
        "[\"a\", \"b\"]",
        "é",
        "\u{feff}",
        "[",
        "*",
        "!",
        "a b ",
        "https://x/y.git ",
    ];
    proptest::collection::vec(prop_oneof![4 => proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => ".{0,3}"], 0..40)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn places_lie_in_the_text(text in dockerfile()) {
        for parsed in [parse(&source(&text)), parse_test(&source(&text))] {
            let problems = match parsed {
                Err(problems) => problems,
                Ok(dockerfile) => match resolve_with(&dockerfile, None, &[("B", "b")], &NoConfigs) {
                    Err(problems) => problems,
                    Ok(resolved) => {
                        resolved.canonical(&dockerfile);
                        let generated = resolved.generate(&dockerfile, &|_| "img:1".into());
                        prop_assert!(parse(&source(&generated)).is_ok(), "{text:?} gave {generated:?}");
                        continue;
                    }
                },
            };
            prop_assert!(!problems.is_empty());
            for place in problems.iter().flat_map(|problem| &problem.places) {
                prop_assert!(place.source.text.get(place.span.clone()).is_some(), "{:?} in {:?}", place.span, text);
            }
        }
    }

    #[test]
    fn any_text_ends(text in "\\PC{0,200}") {
        let _ = parse(&source(&text));
    }

    /// A folder that is excluded and cannot be taken back below holds nothing that is not excluded: pruning loses nothing.
    #[test]
    fn pruning_loses_nothing(lines in proptest::collection::vec("!?[ab*?/]{1,6}", 1..6), path in "[ab](/[ab]){0,3}") {
        let Ok(ignore) = Ignore::parse(&source(&lines.join("\n"))) else { return Ok(()) };
        for (at, _) in path.match_indices('/') {
            if ignore.excludes(&path[..at]) && !ignore.may_reinclude_below(&path[..at]) {
                prop_assert!(ignore.excludes(&path), "{:?} {} {}", lines, &path[..at], path);
            }
        }
    }
}
