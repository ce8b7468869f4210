//! What is wrong with a Dockerfile, as the user gets to see it: message, place, hint.

use super::{parse, parsed, resolve_with, shown, source};
use crate::dockerfile::{NoConfigs, parse_test};

/// Messages of each text, below it.
fn table(texts: &[&str], problems: impl Fn(&str) -> String) -> String {
    texts.iter().map(|text| format!("--- {}\n{}\n", text.replace('\n', "⏎"), problems(text))).collect()
}

#[test]
fn parsing() {
    let texts = [
        "",
        "# only a comment\n",
        "RUN a\nRUN b\nFROM x\n",
        "ARG A\n",
        "FROM\n",
        "FROM a b\n",
        "FROM a AS 1x\n",
        "FROM a AS x\nFROM b AS X\n",
        "FROM --plattform=linux/arm64 a\n",
        "FROM a\nRUNN x\n",
        "FROM a\nfoo x\n",
        "FROM a\nCOPY x\n",
        "FROM a\nCOPY --form=x a b\n",
        "FROM a\nCOPY --from a b\n",
        "FROM a\nCOPY --link=maybe a b\n",
        "FROM a\nCOPY --chown=1 --chown=2 a b\n",
        "FROM a\nCOPY --from=$X a b\n",
        "FROM a\nCOPY a <<EOF\nEOF\n",
        "FROM a\nCOPY [\"a\", 1]\n",
        "FROM a\nADD --from=x a b\n",
        "FROM a\nADD --checksum=sha256:0 a b c\n",
        "FROM a\nRUN <<EOF\necho\n",
        "FROM a\nRUN --mount=type=cach,target=/x true\n",
        "FROM a\nRUN --mount=from=$B,target=/x true\n",
        "FROM a\nRUN --network=hots true\n",
        "FROM a\nENV A\n",
        "FROM a\nENV A=1 B\n",
        "FROM a\nENV =1\n",
        "FROM a\nENV\n",
        "FROM a\nARG\n",
        "FROM a\nARG =1\n",
        "FROM a\nLABEL\n",
        "FROM a\nWORKDIR\n",
        "FROM a\nEXPOSE\n",
        "FROM a\nVOLUME [\"\"]\n",
        "FROM a\nSHELL /bin/bash -c\n",
        "FROM a\nSHELL []\n",
        "FROM a\nHEALTHCHECK\n",
        "FROM a\nHEALTHCHECK CMD\n",
        "FROM a\nHEALTHCHECK NONE x\n",
        "FROM a\nHEALTHCHECK PING x\n",
        "FROM a\nHEALTHCHECK --interval=5 CMD x\n",
        "FROM a\nHEALTHCHECK --interval=5us CMD x\n",
        "FROM a\nHEALTHCHECK --retries=-1 CMD x\n",
        "FROM a\nONBUILD\n",
        "FROM a\nONBUILD FROM b\n",
        "FROM a\nONBUILD ONBUILD RUN x\n",
        "FROM a\nONBUILD COPY x\n",
        "FROM a\nUSER --x y\n",
        "# escape=x\nFROM a\n",
        "# syntax=a\n# syntax=b\nFROM a\n",
        "FROM a\nCOPPY x y\nRUN --moun=x y\nENV Z\n",
    ];
    insta::assert_snapshot!(table(&texts, |text| match parse(&source(text)) {
        Ok(_) => "no problem".into(),
        Err(problems) => shown(&problems),
    }));
}

#[test]
fn resolving() {
    let texts = [
        "FROM $NOTHING\n",
        "ARG P=linux/x/y/z\nFROM --platform=$P a\n",
        "FROM a\nENV A=\"b\n",
        "FROM a\nENV A=\"${B:?give it}\"\n",
        "FROM a\nENV A=${B\n",
        "FROM a\nCOPY --from=later x y\nFROM b AS later\nFROM a\nCOPY --from=1 x y\nCOPY --from=0 x y\n",
        "FROM a AS me\nCOPY --from=me x y\n",
        "FROM a\nCOPY --from=7 x y\n",
        "FROM a\nCOPY --chmod=999 x y\n",
        "FROM a\nCOPY https://example.com/x y\n",
        "FROM a\nADD --checksum=sha256:0 x y\n",
        "FROM a\nEXPOSE http\n",
        "FROM a\nSTOPSIGNAL SIGFOO\n",
        "FROM scratch\nWORKDIR $X\n",
        "FROM scratch\nRUN --mount=type=$T,target=/x true\n",
        "FROM scratch\nENV A=\"${B:?give it}\"\n",
        "FROM a\nWORKDIR $FROM_BASE\nEXPOSE $FROM_BASE\nRUN --mount=type=$FROM_BASE,target=/x true\n",
    ];
    insta::assert_snapshot!(table(&texts, |text| match resolve_with(&parsed(text), None, &[], &NoConfigs) {
        Ok(_) => "no problem".into(),
        Err(problems) => shown(&problems),
    }));
    let stages = parsed("FROM a AS builder\nFROM b AS runtime\n");
    let target = |name| shown(&resolve_with(&stages, Some(name), &[], &NoConfigs).unwrap_err());
    insta::assert_snapshot!(target("runtme"), @r"
    1:1 `FROM a AS builder`: there is no stage `runtme`
        hint: did you mean `runtime`?
    ");
    insta::assert_snapshot!(target("x"), @r"
    1:1 `FROM a AS builder`: there is no stage `x`
        hint: there are `builder`, `runtime`
    ");
}

#[test]
fn a_broken_stage_that_nobody_needs_is_no_problem() {
    let dockerfile = parsed("FROM $NOTHING AS broken\nFROM a\n");
    assert_eq!(resolve_with(&dockerfile, None, &[], &NoConfigs).unwrap().stages, [1]);
}

#[test]
fn tests_start_from_their_subject() {
    let first = |text: &str| parse_test(&source(text)).map(|dockerfile| dockerfile.stages().last().unwrap().image.reference.value.clone());
    for text in ["RUN x\n", "# escape=`\n# c\nARG A\nRUN x\n", "FROM subject\nRUN x\n", "FROM alpine AS a\nFROM subject AS b\n"] {
        assert_eq!(first(text).as_deref(), Ok("subject"), "{text}");
    }
    insta::assert_snapshot!(shown(&first("FROM subject AS a\nFROM a\n").unwrap_err()), @r"
    2:6 `a`: the final stage of a test starts `FROM subject`, not `FROM a`
        hint: earlier stages may start anywhere; without any `FROM`, igraph adds `FROM subject` itself
    ");
    assert!(parse_test(&source("# nothing\n")).is_err());
}
