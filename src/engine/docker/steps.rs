//! Which line of the user's Dockerfile a daemon's step is, and what a daemon's error says. Pure.

use std::sync::LazyLock;

use regex::Regex;

use crate::dockerfile::{Command, Dockerfile, Instruction, Resolved};
use crate::problem::Place;

/// The exit code in a daemon's error.
pub(super) fn exit_code(error: &str) -> Option<i64> {
    static CODE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?:exit code: |returned a non-zero code: |exit status |exited with code )(-?\d+)").ok());
    let code = CODE.as_ref()?.captures_iter(error).last()?;
    code.get(1)?.as_str().parse().ok()
}

/// A daemon's error without the wrappers that say nothing.
pub(super) fn plain_error(error: &str) -> String {
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
    rest.lines().next().unwrap_or_default().to_owned()
}

/// `RUN make (Dockerfile:7)` for the name that BuildKit or the classic builder gave a step; `None` where it can't be told.
pub(super) fn place_of(name: &str, dockerfile: &Dockerfile, resolved: &Resolved) -> Option<String> {
    let instruction = if let Some(step) = name.strip_prefix("Step ") {
        classic_instruction(step, dockerfile, resolved)?
    } else {
        buildkit_instruction(name, dockerfile, resolved)?
    };
    let source = dockerfile.source();
    let (line, _) = Place { source: source.clone(), span: instruction.span.clone(), note: None }.line_column();
    let written = source.text.get(instruction.span.clone()).unwrap_or_default();
    Some(format!("{} ({}:{line})", shortened(written, dockerfile.directives().escape), source.path))
}

/// The head of an instruction on one line.
fn shortened(written: &str, escape: char) -> String {
    const LENGTH: usize = 60;
    let mut text = String::new();
    for line in written.lines() {
        let (part, goes_on) = match line.trim_end().strip_suffix(escape) {
            Some(part) => (part, true),
            None => (line, false),
        };
        text.extend(part.split_whitespace().flat_map(|word| [" ", word]));
        if !goes_on || text.chars().count() > LENGTH {
            break;
        }
    }
    let text = text.trim();
    match text.char_indices().nth(LENGTH) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

/// `[n/total] …` or `[stage n/total] …`, with a platform before the stage when there are several. FROM and what makes a layer count.
/// Counted from the end, so that ONBUILD triggers, which the daemon puts first, don't matter.
fn buildkit_instruction<'a>(name: &str, dockerfile: &'a Dockerfile, resolved: &'a Resolved) -> Option<&'a Instruction> {
    let (inside, _) = name.strip_prefix('[')?.split_once(']')?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let (number, total) = words.last()?.split_once('/')?;
    let behind = total.parse::<usize>().ok()?.checked_sub(number.parse().ok()?)?;
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
    let counts = |instruction: &&Instruction| {
        matches!(instruction.command, Command::Add(..) | Command::Copy(..) | Command::Run(..) | Command::Workdir(..))
    };
    let layers: Vec<&Instruction> = stage.steps.iter().map(|step| &step.instruction).filter(counts).collect();
    match layers.len().checked_sub(behind + 1) {
        Some(at) => layers.get(at).copied(),
        None => dockerfile.stages().get(stage.index).map(|stage| &stage.from),
    }
}

/// `n/total : …`: every instruction counts, in order; counted from the end, so that what stands before the first FROM does not matter.
fn classic_instruction<'a>(step: &str, dockerfile: &'a Dockerfile, resolved: &'a Resolved) -> Option<&'a Instruction> {
    let (count, _) = step.split_once(" : ")?;
    let (number, total) = count.split_once('/')?;
    let mut behind = total.parse::<usize>().ok()?.checked_sub(number.parse().ok()?)?;
    for stage in resolved.steps.iter().rev() {
        let own: Vec<&Instruction> = stage.steps.iter().filter(|step| !step.trigger).map(|step| &step.instruction).collect();
        if behind < own.len() {
            return own.get(own.len() - 1 - behind).copied();
        }
        behind -= own.len();
        if behind == 0 {
            return dockerfile.stages().get(stage.index).map(|stage| &stage.from);
        }
        behind -= 1;
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
    }

    #[test]
    fn instructions_shorten_to_one_line() {
        assert_eq!(shortened("RUN apt-get update \\\n   && apt-get   install x", '\\'), "RUN apt-get update && apt-get install x");
        assert_eq!(shortened("RUN <<EOF\nmake\nEOF", '\\'), "RUN <<EOF");
        assert_eq!(shortened(&format!("RUN {}", "é".repeat(80)), '\\'), format!("RUN {}…", "é".repeat(56)));
    }
}
