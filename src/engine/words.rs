//! Words that engines share: what a step is called in messages, how time runs out, how proxies are spelled. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dockerfile::{Dockerfile, Instruction, Step};
use crate::failure::Failure;
use crate::problem::Place;

/// `timed out after 5m`.
pub(in crate::engine) fn timed_out(after: Duration) -> Failure {
    let (seconds, milliseconds) = (after.as_secs(), after.subsec_millis());
    let text = match (seconds / 60, seconds % 60) {
        (0, 0) => format!("{milliseconds}ms"),
        (0, seconds) if milliseconds == 0 => format!("{seconds}s"),
        (0, seconds) => format!("{seconds}.{milliseconds:03}s"),
        (minutes, 0) => format!("{minutes}m"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    };
    Failure::step(format!("timed out after {text}"))
}

/// Proxies in both spellings, as programs look for either.
pub(in crate::engine) fn proxy_variables(proxies: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let both = |(name, value): (&String, &String)| [(name.to_ascii_uppercase(), value.clone()), (name.to_ascii_lowercase(), value.clone())];
    let mut all: BTreeMap<String, String> = proxies.iter().flat_map(both).collect();
    all.extend(proxies.clone());
    all
}

/// `RUN make (Dockerfile:7)` for a step of the stage of that index in the file; for its FROM without a step.
pub(in crate::engine) fn step_place(dockerfile: &Dockerfile, stage: usize, step: Option<&Step>) -> Option<String> {
    let from = &dockerfile.stages().get(stage)?.from;
    let escape = dockerfile.directives().escape;
    let line_of = |instruction: &Instruction| {
        Place { source: dockerfile.source().clone(), span: instruction.span.clone(), note: None }.line_column().0
    };
    let (text, line) = match step {
        Some(step) if step.trigger => (format!("ONBUILD {}", shortened(&step.instruction.text, escape)), line_of(from)),
        Some(step) => {
            let written = step.source.text.get(step.instruction.span.clone()).unwrap_or_default();
            (shortened(written, escape), line_of(&step.instruction))
        }
        // the text, not the source: a test's FROM may stand in no file
        None => (shortened(&from.text, escape), line_of(from)),
    };
    Some(format!("{text} ({}:{line})", dockerfile.source().path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_shorten_to_one_line() {
        assert_eq!(shortened("RUN apt-get update \\\n   && apt-get   install x", '\\'), "RUN apt-get update && apt-get install x");
        assert_eq!(shortened("RUN <<EOF\nmake\nEOF", '\\'), "RUN <<EOF");
        assert_eq!(shortened(&format!("RUN {}", "é".repeat(80)), '\\'), format!("RUN {}…", "é".repeat(56)));
    }
}
