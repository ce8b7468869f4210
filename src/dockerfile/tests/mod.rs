//! The room as a whole, held against fixtures of our own and, where they are there, the shared tables of BuildKit and moby.

mod errors;
mod files;
mod properties;
mod stages;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Configs, Dockerfile, NoConfigs, Request, Resolved, parse};
use crate::image::ImageConfig;
use crate::problem::{Problem, Source};

/// A Dockerfile's text, at a path that messages show.
fn source(text: &str) -> Arc<Source> {
    Arc::new(Source { path: "Dockerfile".into(), text: text.into() })
}

/// A Dockerfile that is known to be right.
fn parsed(text: &str) -> Dockerfile {
    parse(&source(text)).unwrap_or_else(|problems| panic!("{}", shown(&problems)))
}

/// Problems as lines of place, message and hint.
fn shown(problems: &[Problem]) -> String {
    let line = |problem: &Problem| {
        let places: Vec<String> = problem
            .places
            .iter()
            .map(|place| {
                let (line, column) = place.line_column();
                let text = place.source.text[place.span.clone()].replace('\n', "⏎");
                let note = place.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
                format!("{line}:{column} `{text}`{note}")
            })
            .collect();
        let hint = problem.hint.as_ref().map(|hint| format!("\n    hint: {hint}")).unwrap_or_default();
        format!("{}: {}{hint}", places.join(", "), problem.message)
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Configs by reference text.
#[derive(Default)]
struct Known(BTreeMap<String, Arc<ImageConfig>>);

impl Known {
    fn with(mut self, reference: &str, env: &[&str], on_build: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let config = ImageConfig { env: owned(env), on_build: owned(on_build), ..ImageConfig::default() };
        self.0.insert(reference.to_owned(), Arc::new(config));
        self
    }
}

impl Configs for Known {
    fn config(&self, reference: &str) -> Option<Arc<ImageConfig>> {
        self.0.get(reference).cloned()
    }
}

/// Resolves for linux/amd64.
fn resolve_with(
    dockerfile: &Dockerfile,
    target: Option<&str>,
    args: &[(&str, &str)],
    configs: &dyn Configs,
) -> Result<Resolved, Vec<Problem>> {
    let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let platform = "linux/amd64".parse().unwrap();
    dockerfile.resolve(&Request { target, args: &args, platform: &platform, build_platform: &platform }, configs)
}

/// Resolves what is known to be right, with configs that set nothing.
fn resolved(text: &str) -> (Dockerfile, Resolved) {
    let dockerfile = parsed(text);
    let resolved = resolve_with(&dockerfile, None, &[], &NoConfigs).unwrap_or_else(|problems| panic!("{}", shown(&problems)));
    (dockerfile, resolved)
}
