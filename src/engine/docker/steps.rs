//! Which line of the user's Dockerfile a daemon's step is, and what a daemon's error says. Pure.

use std::sync::LazyLock;

use regex::Regex;

use crate::dockerfile::{Command, Dockerfile, FromTarget, Resolved, ResolvedStage, Step};
use crate::engine::words::step_place;

/// The exit code in a daemon's error.
pub(super) fn exit_code(error: &str) -> Option<i64> {
    static CODE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?:exit code: |returned a non-zero code: |exit status |exited with code )(-?\d+)").ok());
    let code = CODE.as_ref()?.captures_iter(error).last()?;
    code.get(1)?.as_str().parse().ok()
}

/// A daemon's error without the wrappers that say nothing, and without the command that it repeats.
pub(super) fn said(error: &str) -> &str {
    let wrappers = [
        "failed to solve with frontend dockerfile.v0: ",
        "failed to solve: ",
        "failed to build LLB: ",
        "rpc error: code = Unknown desc = ",
    ];
    let mut rest = error.trim();
    while let Some(inner) = wrappers.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
        rest = inner;
    }
    let after = match rest {
        rest if rest.starts_with("executor failed running [") => rest.rsplit_once("]: "),
        rest if rest.starts_with("process \"") => rest.rsplit_once(" did not complete successfully: "),
        _ => None,
    };
    after.map_or(rest, |(_, said)| said)
}

/// The first line of it.
pub(super) fn plain_error(error: &str) -> String {
    said(error).lines().next().unwrap_or_default().to_owned()
}

/// `RUN make (Dockerfile:7)` for the name that BuildKit or the classic builder gave a step; `None` where it can't be told.
pub(super) fn place_of(name: &str, dockerfile: &Dockerfile, resolved: &Resolved) -> Option<String> {
    let (stage, step) = match name.strip_prefix("Step ") {
        Some(step) => classic_step(step, resolved)?,
        None => buildkit_step(name, dockerfile, resolved)?,
    };
    step_place(dockerfile, stage.index, step)
}

/// A stage, and a step of it; `None` for its FROM.
type Found<'a> = (&'a ResolvedStage, Option<&'a Step>);

/// `[n/total] …` or `[stage n/total] …`, with a platform before the stage when there are several. FROM of an image and what makes a
/// layer count, triggers first; the total leaves triggers out, at least up to Docker 20.10, so nothing is counted from the end.
fn buildkit_step<'a>(name: &str, dockerfile: &Dockerfile, resolved: &'a Resolved) -> Option<Found<'a>> {
    let (inside, _) = name.strip_prefix('[')?.split_once(']')?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let number: usize = words.last()?.split_once('/')?.0.parse().ok()?;
    let stage_name = words.len().checked_sub(2).and_then(|at| words.get(at)).filter(|word| !word.contains('/'));
    let stage = match stage_name {
        None => resolved.steps.last()?,
        Some(wanted) => {
            let named =
                |index: usize| dockerfile.stages().get(index).and_then(|stage| stage.image.name.as_ref()).map(|name| name.value.as_str());
            let by_name = resolved.steps.iter().rfind(|stage| named(stage.index) == Some(wanted));
            by_name.or_else(|| resolved.steps.get(wanted.strip_prefix("stage-")?.parse::<usize>().ok()?))?
        }
    };
    let counts =
        |step: &&Step| matches!(step.instruction.command, Command::Add(..) | Command::Copy(..) | Command::Run(..) | Command::Workdir(..));
    let from = usize::from(matches!(stage.base, FromTarget::Image(_)));
    let at = number.checked_sub(from + 1);
    Some((stage, at.and_then(|at| stage.steps.iter().filter(counts).nth(at))))
}

/// `n/total : …`: every instruction counts, in order; counted from the end, so that what stands before the first FROM does not matter.
/// Triggers run within their FROM's step.
fn classic_step<'a>(step: &str, resolved: &'a Resolved) -> Option<Found<'a>> {
    let (count, _) = step.split_once(" : ")?;
    let (number, total) = count.split_once('/')?;
    let mut behind = total.parse::<usize>().ok()?.checked_sub(number.parse().ok()?)?;
    for stage in resolved.steps.iter().rev() {
        let own: Vec<&Step> = stage.steps.iter().filter(|step| !step.trigger).collect();
        if behind <= own.len() {
            return Some((stage, own.len().checked_sub(behind + 1).and_then(|at| own.get(at).copied())));
        }
        behind -= own.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_all_builders() {
        for (error, code) in [
            ("executor failed running [/bin/sh -c exit 3]: exit code: 3", Some(3)),
            ("process \"/bin/sh -c echo exit code: 9; false\" did not complete successfully: exit code: 1", Some(1)),
            ("The command '/bin/sh -c apt-get update' returned a non-zero code: 100", Some(100)),
            ("failed to compute cache key: \"/gone\" not found: not found", None),
        ] {
            assert_eq!(exit_code(error), code, "{error}");
        }
    }

    #[test]
    fn wrappers_go() {
        let error =
            "failed to solve with frontend dockerfile.v0: failed to build LLB: failed to compute cache key: \"/x\" not found: not found";
        assert_eq!(plain_error(error), "failed to compute cache key: \"/x\" not found: not found");
        let error = "executor failed running [/bin/sh -c a [b]: \n c]: failed to create endpoint x on network bridge: no such interface";
        assert_eq!(plain_error(error), "failed to create endpoint x on network bridge: no such interface");
        let error = "process \"/bin/sh -c a\nb\" did not complete successfully: failed to create shim task\nmore";
        assert_eq!((said(error), plain_error(error).as_str()), ("failed to create shim task\nmore", "failed to create shim task"));
    }

    #[test]
    fn steps_are_found_in_the_users_file() {
        use crate::dockerfile::{Configs, Request};
        use crate::image::ImageConfig;
        use std::collections::BTreeMap;
        use std::sync::Arc;

        struct Triggering;
        impl Configs for Triggering {
            fn config(&self, reference: &str) -> Option<Arc<ImageConfig>> {
                let on_build = if reference == "parent" { vec!["RUN in-the-base".to_owned(), "ENV T=1".to_owned()] } else { Vec::new() };
                Some(Arc::new(ImageConfig { on_build, ..ImageConfig::default() }))
            }
        }
        let text = "ARG GLOBAL=1\n\nFROM base AS build\nENV A=1\nRUN make \\\n  all\n# comment\nWORKDIR /w\n\
                    FROM base AS unused\nRUN unused\nFROM parent\nLABEL a=b\nCOPY --from=build /x /x\nRUN test\n";
        let source = Arc::new(crate::problem::Source { path: "p/Dockerfile".into(), text: text.into() });
        let dockerfile = crate::dockerfile::parse(&source).unwrap();
        let (args, platform) = (BTreeMap::new(), "linux/amd64".parse().unwrap());
        let request = Request { target: None, args: &args, platform: &platform, build_platform: &platform };
        let resolved = dockerfile.resolve(&request, &Triggering).unwrap();
        for (name, place) in [
            ("[build 1/3] FROM docker.io/igraph/base", Some("FROM base AS build (p/Dockerfile:3)")),
            ("[build 2/3] RUN make   all", Some("RUN make all (p/Dockerfile:5)")),
            ("[build 3/3] WORKDIR /w", Some("WORKDIR /w (p/Dockerfile:8)")),
            ("[stage-1 1/3] FROM docker.io/igraph/parent", Some("FROM parent (p/Dockerfile:11)")),
            ("[stage-1 2/3] RUN in-the-base", Some("ONBUILD RUN in-the-base (p/Dockerfile:11)")),
            ("[stage-1 3/3] COPY --from=build /x /x", Some("COPY --from=build /x /x (p/Dockerfile:13)")),
            ("[linux/amd64 stage-1 4/3] RUN test", Some("RUN test (p/Dockerfile:14)")),
            ("[internal] load build context", None),
            ("exporting to image", None),
            ("Step 3/9 : ENV A=1", Some("ENV A=1 (p/Dockerfile:4)")),
            ("Step 4/9 : RUN make", Some("RUN make all (p/Dockerfile:5)")),
            ("Step 6/9 : FROM igraph/parent", Some("FROM parent (p/Dockerfile:11)")),
            ("Step 8/9 : COPY --from=build", Some("COPY --from=build /x /x (p/Dockerfile:13)")),
            ("Step 9/9 : RUN test", Some("RUN test (p/Dockerfile:14)")),
        ] {
            assert_eq!(place_of(name, &dockerfile, &resolved).as_deref(), place, "{name}");
        }
    }
}
