//! Reads for the graph: the Dockerfiles of images and tests, wave by wave, and whose each of their references is. Adds no node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use super::build::{Builder, Depth, SUBJECT};
use super::node::DockerfileRead;
use crate::dockerfile::{self, Configs, Dockerfile, Request};
use crate::label::{Label, Name, NodeLabel};
use crate::platform::Platform;
use crate::problem::{Place, Problem, Source};
use crate::reference::Reference;
use crate::spec;
use crate::stamp::Stamp;

/// What a Dockerfile refers to, each text once.
pub(super) type References = Vec<Used>;

/// A reference of a Dockerfile.
pub(super) struct Used {
    /// Expanded.
    pub text: String,
    /// Whose it is.
    pub target: Target,
    /// For which platform.
    pub platform: Platform,
    /// Where it stands.
    pub span: std::ops::Range<usize>,
}

/// An image whose Dockerfile is read, with its tests.
pub(super) struct Read<'c> {
    pub dockerfile: DockerfileRead,
    pub references: References,
    pub tests: Vec<TestRead<'c>>,
}

/// A test as it applies to one image.
pub(super) struct TestRead<'c> {
    pub name: Name,
    pub spec: &'c spec::Test,
    pub dockerfile: Option<DockerfileRead>,
    pub references: References,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Target {
    Entry(Label),
    Outside(Reference),
    Subject,
}

impl Target {
    pub fn owner(&self) -> Option<NodeLabel> {
        match self {
            Self::Entry(label) => Some(NodeLabel::Entry(label.clone())),
            Self::Outside(reference) => Some(NodeLabel::Outside(reference.clone())),
            Self::Subject => None,
        }
    }
}

impl<'c> Builder<'c, '_> {
    /// Reads the Dockerfiles of the selected images and, wave by wave, of the images those refer to.
    pub(super) fn read_images(&mut self, selected: &BTreeSet<Label>) -> BTreeMap<Label, Read<'c>> {
        let mut images: BTreeMap<Label, Read<'c>> = BTreeMap::new();
        let mut wave: Vec<Label> = selected.iter().cloned().collect();
        let mut seen: BTreeSet<Label> = selected.clone();
        while !wave.is_empty() {
            let read: Vec<_> = wave.par_iter().map(|label| self.read_image(label)).collect();
            let mut next = BTreeSet::new();
            for (label, read) in wave.into_iter().zip(read) {
                match read {
                    Ok(read) => {
                        let tested = read.tests.iter().flat_map(|test| &test.references);
                        for used in read.references.iter().chain(tested) {
                            if let Target::Entry(parent) = &used.target
                                && self.catalogue.images.contains_key(parent)
                                && seen.insert(parent.clone())
                            {
                                next.insert(parent.clone());
                            }
                        }
                        images.insert(label, read);
                    }
                    Err(problems) => self.problems.extend(problems),
                }
            }
            wave = next.into_iter().collect();
        }
        images
    }

    fn read_image(&self, label: &Label) -> Result<Read<'c>, Vec<Problem>> {
        let Some(image) = self.catalogue.images.get(label) else {
            return Err(vec![Problem::new(format!("{label} is no image"))]);
        };
        let dockerfile = read_dockerfile(&self.catalogue.root, &image.dockerfile, &image.origin.field("dockerfile"), dockerfile::parse)?;
        let platform = &image.platform;
        let args = crate::keys::image_arguments(image);
        let request = Request { target: image.target.as_deref(), args: &args, platform, build_platform: self.options.platform };
        let references = self.references(&dockerfile.parsed, &request, None)?;
        let mut tests = Vec::new();
        if self.options.depth >= Depth::Test {
            for test in &image.tests {
                tests.push(self.read_test(test, label, image)?);
            }
        }
        Ok(Read { dockerfile, references, tests })
    }

    fn read_test(&self, label: &Label, image_label: &Label, image: &spec::Image) -> Result<TestRead<'c>, Vec<Problem>> {
        let Some(spec) = self.catalogue.tests.get(label) else {
            return Err(vec![Problem::new(format!("{label} is no test"))]);
        };
        let spec::TestForm::Dockerfile { dockerfile, .. } = &spec.form else {
            return Ok(TestRead { name: label.name.clone(), spec, dockerfile: None, references: Vec::new() });
        };
        let known = self.test_files.lock().unwrap_or_else(PoisonError::into_inner).get(label).cloned();
        let dockerfile = match known {
            Some(read) => read,
            None => {
                let read = read_dockerfile(&self.catalogue.root, dockerfile, &spec.origin.field("dockerfile"), dockerfile::parse_test)?;
                self.test_files.lock().unwrap_or_else(PoisonError::into_inner).insert(label.clone(), read.clone());
                read
            }
        };
        let args = crate::keys::test_arguments(spec, image_label, image);
        let request = Request { target: None, args: &args, platform: &image.platform, build_platform: self.options.platform };
        let references = self.references(&dockerfile.parsed, &request, Some(image_label))?;
        Ok(TestRead { name: label.name.clone(), spec, dockerfile: Some(dockerfile), references })
    }

    /// What the needed stages refer to; in the Dockerfile of a test, with the image that it tests.
    fn references(&self, dockerfile: &Dockerfile, request: &Request<'_>, subject: Option<&Label>) -> Result<References, Vec<Problem>> {
        let configs = ByText { builder: self, platform: request.platform, subject };
        let resolved = dockerfile.resolve(request, &configs)?;
        let mut found = References::new();
        let mut problems = Vec::new();
        for reference in &resolved.references {
            let platform = reference.platform.as_ref().unwrap_or(request.platform);
            match found.iter().find(|used| used.text == reference.text) {
                Some(used) if used.platform == *platform => {}
                Some(used) => problems.push(
                    Problem::new(format!("`{}` is used for two platforms, {} and {platform}", reference.text, used.platform))
                        .at(dockerfile.source(), reference.span.clone())
                        .hint("write one of them in another way, like docker.io/library/debian:jessie for debian:jessie"),
                ),
                None => match self.target(&reference.text, subject.is_some()) {
                    Ok(target) => {
                        let (text, span) = (reference.text.clone(), reference.span.clone());
                        found.push(Used { text, target, platform: platform.clone(), span });
                    }
                    Err(problem) => problems.push(problem.at(dockerfile.source(), reference.span.clone())),
                },
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    /// Whose reference is it? (DESIGN §2)
    fn target(&self, text: &str, in_test: bool) -> Result<Target, Problem> {
        if in_test && text == SUBJECT {
            return Ok(Target::Subject);
        }
        let reference: Reference = text.parse().map_err(|error: crate::reference::ParseReferenceError| Problem::new(error.to_string()))?;
        Ok(match self.catalogue.claims.owner(&reference) {
            None => Target::Outside(reference),
            Some(label) => Target::Entry(label.clone()),
        })
    }
}

struct ByText<'a> {
    builder: &'a Builder<'a, 'a>,
    platform: &'a Platform,
    /// In the Dockerfile of a test, what it tests.
    subject: Option<&'a Label>,
}

impl Configs for ByText<'_> {
    fn config(&self, reference: &str) -> Option<Arc<crate::image::ImageConfig>> {
        let owner = match self.builder.target(reference, self.subject.is_some()).ok()? {
            Target::Subject => NodeLabel::Entry(self.subject?.clone()),
            Target::Outside(reference) => NodeLabel::Outside(reference),
            // what comes from a registry is known by its reference there
            Target::Entry(label) => match self.builder.catalogue.bases.get(&label).map(|entry| &entry.from) {
                Some(spec::BaseFrom::Registry(reference)) => NodeLabel::Outside(reference.clone()),
                _ => NodeLabel::Entry(label),
            },
        };
        self.builder.configs.known(&owner, self.platform)
    }
}

/// The Dockerfile at `path` relative to `root`; `place` is where a build file names it.
///
/// # Errors
/// That it is not there, can't be read, is no text, or is broken.
fn read_dockerfile(
    root: &Path,
    path: &str,
    place: &Place,
    parse: fn(&Arc<Source>) -> Result<Dockerfile, Vec<Problem>>,
) -> Result<DockerfileRead, Vec<Problem>> {
    let full = root.join(path);
    let fail = |error: &std::io::Error| {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file `{path}`"),
            _ => format!("`{path}` can't be read: {error}"),
        };
        vec![Problem { message, places: vec![place.clone()], hint: None }]
    };
    let metadata = std::fs::metadata(&full).map_err(|error| fail(&error))?;
    let bytes = std::fs::read(&full).map_err(|error| fail(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        vec![Problem {
            message: format!("`{path}` is not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            places: vec![place.clone()],
            hint: None,
        }]
    })?;
    let source = Arc::new(Source { path: path.to_owned(), text });
    let parsed = parse(&source)?;
    Ok(DockerfileRead { path: path.to_owned(), stamp: Stamp::of(&metadata), parsed: Arc::new(parsed) })
}
