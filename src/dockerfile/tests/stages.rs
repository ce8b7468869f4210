//! Stages, scopes, images, args, features, and the texts made from them.

use super::{Known, parsed, resolve_with, resolved, shown, source};
use crate::dockerfile::{Command, CommandLine, Feature, FromTarget, MountKind, NoConfigs, Resolved, UseKind, parse_test};

fn references(resolved: &Resolved) -> Vec<&str> {
    resolved.references.iter().map(|used| used.text.as_str()).collect()
}

#[test]
fn only_what_the_target_reaches() {
    let dockerfile = parsed(
        "ARG V=1\nFROM base:$V AS a\nFROM unused AS b\nRUN --mount=from=never,target=/x true\nFROM scratch AS c\n\
         COPY --from=A /x /\nFROM tools AS d\nFROM c\nCOPY --from=busybox:1 /bin/sh /\n\
         RUN --mount=type=bind,from=d,target=/d --mount=type=cache,from=seed,target=/c true\n",
    );
    let resolved = resolve_with(&dockerfile, None, &[("V", "2"), ("STRAY", "x"), ("http_proxy", "p")], &NoConfigs).unwrap();
    assert_eq!(resolved.stages, [0, 2, 3, 4]);
    assert_eq!(references(&resolved), ["base:2", "tools", "busybox:1", "seed"]);
    assert_eq!(resolved.references[3].kind, UseKind::MountFrom);
    assert_eq!(resolved.configs_needed, ["base:2", "tools"]);
    assert_eq!(resolved.unused_args, ["STRAY"]);
    assert_eq!(resolved.args.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>(), ["V=Some(\"2\")"]);
    assert_eq!(resolved.steps[3].base, FromTarget::Stage(2));
    let to_c = resolve_with(&dockerfile, Some("C"), &[], &NoConfigs).unwrap();
    assert_eq!((to_c.stages, references(&resolve_with(&dockerfile, Some("0"), &[], &NoConfigs).unwrap())), (vec![0, 2], vec!["base:1"]));
}

/// The value of an ENV instruction's words, as they come out.
fn env_of(text: &str, args: &[(&str, &str)], configs: &Known) -> Vec<String> {
    let dockerfile = parsed(text);
    let resolved = resolve_with(&dockerfile, None, args, configs).unwrap_or_else(|problems| panic!("{}", shown(&problems)));
    let steps = resolved.steps.iter().flat_map(|stage| &stage.steps);
    steps
        .filter_map(|step| match &step.instruction.command {
            Command::Env(pairs) => Some(pairs.iter().map(|pair| format!("{}={}", pair.key.value, pair.value.value)).collect::<Vec<_>>()),
            _ => None,
        })
        .flatten()
        .collect()
}

#[test]
fn scopes() {
    let base = || Known::default().with("base", &["FROM_BASE=b", "BOTH=env"], &[]);
    for (text, args, expected) in [
        // a global ARG is seen in a stage only where it is declared again
        ("ARG G=1\nFROM base\nENV A=$G\nARG G\nENV B=$G\n", &[][..], &["A=", "B=1"][..]),
        ("ARG G=1\nFROM base\nARG G=2\nENV B=$G\n", &[], &["B=2"]),
        ("ARG G=1\nFROM base\nARG G=2\nENV B=$G\n", &[("G", "3")], &["B=3"]),
        ("FROM base\nENV A=$FROM_BASE P=$PATH\n", &[], &["A=b", "P=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]),
        // the later one wins, as in BuildKit
        ("FROM base\nARG BOTH=arg\nENV A=$BOTH\nENV BOTH=x\nENV B=$BOTH\n", &[], &["A=arg", "BOTH=x", "B=x"]),
        ("FROM base\nARG BOTH\nENV A=$BOTH\n", &[], &["A=env"]),
        // all words of one ENV see what was before it
        ("FROM base\nENV A=1\nENV A=2 B=$A\n", &[], &["A=1", "A=2", "B=1"]),
        // stages on top of others inherit ENV and ARG
        ("FROM base AS x\nARG R=1\nENV E=2\nFROM x\nENV A=$R$E\n", &[], &["E=2", "A=12"]),
        ("FROM base\nARG TARGETARCH\nARG BUILDPLATFORM\nENV A=$TARGETARCH,$BUILDPLATFORM,$TARGETOS\n", &[], &["A=amd64,linux/amd64,"]),
        ("# escape=`\nFROM base\nENV A=`$FROM_BASE B=a\\b\n", &[], &["A=$FROM_BASE", "B=a\\b"]),
        ("FROM base\nENV A some  text $FROM_BASE\n", &[], &["A=some  text b"]),
        ("FROM base\nENV A=\"x y\" B=c\\ d C='$X'\n", &[], &["A=x y", "B=c d", "C=$X"]),
        ("ARG A=1\nARG B=${A}2\nFROM base\nARG B\nENV X=$B\n", &[("A", "9")], &["X=92"]),
    ] {
        assert_eq!(env_of(text, args, &base()), expected, "{text}");
    }
}

#[test]
fn args_are_those_that_count() {
    let dockerfile = parsed(
        "ARG USED=1\nARG UNUSED=2\nARG VIA=3\nARG OVER=$VIA\nFROM a:$USED-$OVER AS x\nARG TARGETPLATFORM\nARG HTTP_PROXY\nARG NONE\nARG OWN=$NONE-o\n\
         FROM b\nARG ELSEWHERE\n",
    );
    let resolved = resolve_with(&dockerfile, Some("x"), &[("ELSEWHERE", "1")], &NoConfigs).unwrap();
    let args: Vec<String> = resolved.args.iter().map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("∅"))).collect();
    assert_eq!(args, ["NONE=∅", "OVER=3", "OWN=-o", "TARGETPLATFORM=linux/amd64", "USED=1", "VIA=3"]);
    assert_eq!(resolved.unused_args, [""; 0]);
}

#[test]
fn triggers_of_bases_and_of_stages() {
    let configs =
        Known::default().with("onbuild:1", &["DIR=app"], &["COPY $DIR /src", "RUN --mount=from=tools,target=/t make", "ARG SEEN"]);
    let dockerfile = parsed("FROM onbuild:1 AS a\nONBUILD COPY --from=assets:1 own /own\nONBUILD RUN <<EOF\nx\nEOF\nFROM a\nCOPY last /\n");
    let resolved = resolve_with(&dockerfile, None, &[("SEEN", "1")], &configs).unwrap();
    assert_eq!(references(&resolved), ["onbuild:1", "tools", "assets:1"]);
    assert_eq!(resolved.references.iter().map(|used| used.in_base).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(resolved.context.sources.iter().map(|source| source.path.as_str()).collect::<Vec<_>>(), ["app", "last"]);
    assert_eq!(resolved.context.sources[0].place.note.as_deref(), Some("its image brings `ONBUILD COPY $DIR /src`"));
    assert!(resolved.unused_args.is_empty() && resolved.configs_needed.is_empty());
    assert_eq!(resolved.steps[1].steps.iter().filter(|step| step.trigger).count(), 2);
    // the target's own triggers run nowhere, and are kept as they are
    let only = resolve_with(&dockerfile, Some("a"), &[], &configs).unwrap();
    assert_eq!(references(&only), ["onbuild:1", "tools"]);
    assert!(only.generate(&dockerfile, &|text| format!("new/{text}")).contains("ONBUILD COPY --from=assets:1 own"));
    let broken = Known::default().with("onbuild:1", &[], &["FROM x", "COPPY a b"]);
    insta::assert_snapshot!(shown(&resolve_with(&dockerfile, None, &[], &broken).unwrap_err()));
}

#[test]
fn an_unknown_base_makes_paths_uncertain_only_where_it_may_matter() {
    let whole = |text: &str, configs: &Known| resolve_with(&parsed(text), None, &[], configs).unwrap().context.whole;
    let known = Known::default().with("base", &[], &[]);
    let text = "FROM base\nCOPY app-$VERSION /\n";
    assert_eq!(whole(text, &Known::default()).as_deref(), Some("`$VERSION` may come from the image `base`, whose config is not known"));
    assert_eq!(whole(text, &known), None);
    assert_eq!(whole("FROM base\nCOPY a $HOME/\n", &Known::default()), None);
    assert_eq!(whole("FROM base\nARG VERSION=1\nCOPY app-$VERSION /\n", &Known::default()), None);
    assert_eq!(
        whole("FROM base\nRUN --mount=source=$S,target=/x true\n", &Known::default()).as_deref(),
        Some("`$S` may come from the image `base`, whose config is not known")
    );
    assert_eq!(whole("# syntax=corp/x:1\nFROM scratch\n", &known).as_deref(), Some("what `# syntax=corp/x:1` reads is not known"));
    for text in ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs", "docker/dockerfile"] {
        assert_eq!(whole(&format!("# syntax={text}\nFROM scratch\n"), &known), None);
    }
}

#[test]
fn context_of_every_kind_of_source() {
    let (_, resolved) = resolved(
        "FROM scratch AS s\nFROM scratch\nCOPY a ./b/../c *.txt /x/\nCOPY [\"with blank\", \"/y\"]\nCOPY --from=s ignored /\nCOPY <<EOF inline /z/\n$x\nEOF\n\
         ADD d https://example.com/u git@example.com:r.git /\nRUN --mount=type=bind,source=/e/,target=/e --mount=type=bind,from=s,target=/s \
         --mount=target=/whole true\nCOPY --parents f/./g/h i/*/j /\nCOPY --exclude=*.md --exclude=!keep.md . /\n",
    );
    let rows: Vec<String> = resolved
        .context
        .sources
        .iter()
        .map(|source| {
            let include = source.include.as_ref().map(|pattern| format!(" include {pattern}")).unwrap_or_default();
            let exclude = if source.exclude.is_empty() { String::new() } else { format!(" exclude {}", source.exclude.join(" ")) };
            format!("{} `{}`{}{include}{exclude}", source.instruction, source.path, if source.wildcard { " wildcard" } else { "" })
        })
        .collect();
    insta::assert_snapshot!(rows.join("\n"));
}

#[test]
fn features_secrets_and_ssh() {
    let (_, resolved) = resolved(
        "FROM --platform=linux/arm64 a\nCOPY --link --chmod=u+x --exclude=x a /\nCOPY --parents a /\nADD --checksum=sha256:0 https://x/y /\n\
         ADD --keep-git-dir --unpack=false https://x/y.git /\nRUN --network=none --security=insecure --device=d <<EOF\nEOF\n\
         RUN --mount=type=secret,id=npm --mount=type=secret,target=/run/x/token,required --mount=type=secret,id=e,env=E --mount=type=ssh,required \
         --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=target=/b true\nRUN --mount=type=secret,id=npm,required true\n\
         HEALTHCHECK --start-interval=1s CMD x\nONBUILD RUN x\nENV A=${B#x}\n",
    );
    use Feature as F;
    assert_eq!(
        resolved.features.iter().map(|(feature, _)| feature.clone()).collect::<Vec<_>>(),
        [
            F::Heredoc,
            F::Link,
            F::CopyChmod,
            F::SymbolicChmod,
            F::AddChecksum,
            F::KeepGitDir,
            F::Unpack,
            F::Exclude,
            F::Parents,
            F::Mount(MountKind::Bind),
            F::Mount(MountKind::Cache),
            F::Mount(MountKind::Tmpfs),
            F::Mount(MountKind::Secret),
            F::Mount(MountKind::Ssh),
            F::SecretEnv,
            F::RunNetwork,
            F::RunSecurity,
            F::RunDevice,
            F::StartInterval,
            F::AddUrl,
            F::AddGit,
            F::OnBuild,
            F::Platform,
            F::PatternExpansion,
        ]
    );
    let secrets: Vec<_> = resolved.secrets.iter().map(|secret| (secret.id.as_str(), secret.required)).collect();
    assert_eq!(secrets, [("npm", true), ("token", true), ("e", false)]);
    assert_eq!(resolved.ssh.iter().map(|ssh| (ssh.id.as_str(), ssh.required)).collect::<Vec<_>>(), [("default", true)]);
    assert_eq!(resolved.references[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
}

#[test]
fn run_sees_its_environment_and_keeps_its_text() {
    let configs = Known::default().with("base", &["PATH=/bin", "E=1"], &[]);
    let dockerfile = parsed(
        "FROM base\nARG A=$E\nRUN echo $A \\\n  # comment\n  && b\nRUN [\"x\", \"$A\"]\nCOPY <<EOF <<'RAW' /d/\nv=$A \\$x \"q\"\nEOF\n$A\nRAW\n",
    );
    let resolved = resolve_with(&dockerfile, None, &[], &configs).unwrap();
    let steps = &resolved.steps[0].steps;
    let environment: Vec<String> = steps[1].environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(environment, ["PATH=/bin", "E=1", "A=1"]);
    let line = |index: usize| match &steps[index].instruction.command {
        Command::Run(run) => run.line.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(line(1), CommandLine::Shell("echo $A   && b".into()));
    assert_eq!(line(2), CommandLine::Exec(vec!["x".into(), "$A".into()]));
    let bodies: Vec<String> = steps[3].instruction.heredocs.iter().map(|heredoc| heredoc.body()).collect();
    assert_eq!(bodies, ["v=1 $x \"q\"\n", "$A\n"]);
}

#[test]
fn generated_text() {
    let dockerfile = parsed(
        "# syntax=docker/dockerfile:1\n# escape=`\n# about\nARG V=1\n\nFROM unused AS u\nRUN x\n\n# the tools\nFROM \"base:$V\" AS a\nRUN y `\n  # in it\n  && z\n\n\
         FROM a AS skipped\nRUN s\n\nFROM scratch AS out\nCOPY --from=1 /x /\nCOPY --from=busybox /b /\n\
         RUN --mount=type=bind,from=tools:2,target=/t <<EOF\nFROM not a stage\nEOF\n",
    );
    let resolved = resolve_with(&dockerfile, None, &[], &NoConfigs).unwrap();
    let text = resolved.generate(&dockerfile, &|text| format!("id/{}", text.replace(':', "-")));
    insta::assert_snapshot!(text);
    let lines = |text: &str, wanted: &str| text.lines().position(|line| line.contains(wanted));
    for wanted in ["RUN y", "COPY --from=busybox", "not a stage"] {
        let new = wanted.replace("busybox", "id/busybox");
        assert_eq!(lines(&dockerfile.source().text, wanted), lines(&text, &new), "{wanted}");
    }
    // what was generated means the same
    let again = parsed(&text);
    assert_eq!(super::resolve_with(&again, None, &[], &NoConfigs).unwrap().stages, [0, 1]);
}

#[test]
fn generated_tests_start_from_the_subject() {
    let dockerfile = parse_test(&source("# escape=`\n# why\nARG IGRAPH_NAME\nRUN test $IGRAPH_NAME\n")).unwrap();
    let resolved = resolve_with(&dockerfile, None, &[], &NoConfigs).unwrap();
    assert_eq!(references(&resolved), ["subject"]);
    let text = resolved.generate(&dockerfile, &|_| "igraph/x:1".into());
    assert_eq!(text, "# escape=`\n\nFROM igraph/x:1\nARG IGRAPH_NAME\nRUN test $IGRAPH_NAME\n");
    let with_from = parse_test(&source("FROM subject\nCOPY --from=subject /a /b\n")).unwrap();
    let resolved = resolve_with(&with_from, None, &[], &NoConfigs).unwrap();
    assert_eq!(resolved.generate(&with_from, &|_| "i:1".into()), "FROM i:1\nCOPY --from=i:1 /a /b\n");
}

#[test]
fn canonical_text_changes_only_with_what_counts() {
    let canonical = |text: &str| {
        let (dockerfile, resolved) = resolved(text);
        resolved.canonical(&dockerfile)
    };
    let first =
        canonical("FROM a AS x\nRUN b \\\n  && c\nCOPY --from=x /d /e\n".replace("COPY --from=x", "FROM scratch\nCOPY --from=x").as_str());
    let same =
        canonical("\u{feff}# c\nFROM unused AS u\n\nFROM a AS x\nRUN b \\\n# comment\n\n  && c\r\nFROM scratch\nCOPY --from=x /d /e");
    assert_eq!(first, same);
    assert_eq!(first[1], ("stage 0 instruction 1".into(), "RUN b   && c".into()));
    assert_ne!(first, canonical("FROM a AS x\nRUN b && c\nFROM scratch\nCOPY --from=x /d /e\n"));
    // a number means another stage when one comes before it
    let numbered = "FROM a AS x\nFROM b AS y\nFROM scratch\nCOPY --from=1 /d /e\nCOPY --from=x /f /g\nCOPY --from=y /f /g\n";
    assert_ne!(canonical(numbered), canonical(&format!("FROM unused AS u\n{numbered}")));
    // the body of a heredoc counts exactly
    assert_ne!(canonical("FROM a\nRUN <<E\nx\nE\n"), canonical("FROM a\nRUN <<E\nx \nE\n"));
}
