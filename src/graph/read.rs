//! Reads for the graph: the Dockerfiles of images and tests, wave by wave, and whose each of their references is. Adds no node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use super::build::{Builder, Depth, SUBJECT};
use super::node::DockerfileRead;
use crate::dockerfile::{self, Configs, Dockerfile, ImageUse, Request, UseKind};
use crate::folder::{read_file, stamp_of};
use crate::label::{Label, Name, NodeLabel};
use crate::platform::Platform;
use crate::problem::{Place, Problem, Source, nearest};
use crate::reference::Reference;
use crate::spec;

/// What a Dockerfile refers to: by key, whose it is, the platform wanted, and where it stands.
pub(super) type References = Vec<(String, Target, Platform, std::ops::Range<usize>)>;

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
                        for (_, target, ..) in read.references.iter().chain(tested) {
                            if let Target::Entry(parent) = target
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
        let references = self.references(&dockerfile.parsed, image.target.as_deref(), &spec::image_arguments(image), platform, None)?;
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
        let args = spec::test_arguments(spec, image_label, image);
        let references = self.references(&dockerfile.parsed, None, &args, &image.platform, Some((image_label, image)))?;
        Ok(TestRead { name: label.name.clone(), spec, dockerfile: Some(dockerfile), references })
    }

    fn references(
        &self,
        dockerfile: &Dockerfile,
        target: Option<&str>,
        args: &BTreeMap<String, String>,
        platform: &Platform,
        subject: Option<(&Label, &spec::Image)>,
    ) -> Result<References, Vec<Problem>> {
        let in_test = subject.is_some();
        let configs = ByText { builder: self, platform, subject };
        let request = Request { target, args, platform, build_platform: self.options.platform };
        let resolved = dockerfile.resolve(&request, &configs)?;
        let mut found = References::with_capacity(resolved.references.len());
        let mut problems = Vec::new();
        for reference in &resolved.references {
            let wanted = reference.platform.as_ref().unwrap_or(platform);
            match self.target(&reference.text, in_test).and_then(|target| self.check_platform(reference, target, wanted)) {
                Ok(target) => found.push((reference.key(), target, wanted.clone(), reference.span.clone())),
                Err(problem) => {
                    let written = dockerfile.source().text.get(reference.span.clone()).unwrap_or_default();
                    let lower = written.to_lowercase();
                    let problem = match problem.hint {
                        None if written.contains('$') => {
                            problem.hint(format!("`{written}` became that: give its arguments values, with `ARG NAME=…` or in `args`"))
                        }
                        None if lower != written && self.target(&lower, in_test).is_ok() => {
                            problem.hint(format!("did you mean `{lower}`?"))
                        }
                        _ => problem,
                    };
                    problems.push(problem.at(dockerfile.source(), reference.span.clone()));
                }
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

    /// A stage starts from an image for its own platform.
    fn check_platform(&self, reference: &ImageUse, target: Target, wanted: &Platform) -> Result<Target, Problem> {
        let own = match &target {
            Target::Entry(label) => match (self.catalogue.images.get(label), self.catalogue.bases.get(label)) {
                (Some(image), _) => image.platform.clone(),
                (None, Some(base)) => base.platform_for(wanted),
                (None, None) => return Ok(target),
            },
            Target::Outside(_) | Target::Subject => return Ok(target),
        };
        if reference.kind != UseKind::From || (own.os(), own.architecture()) == (wanted.os(), wanted.architecture()) {
            return Ok(target);
        }
        let is = target.owner().map(|owner| owner.to_string()).unwrap_or_default();
        Err(Problem::new(format!("`{}` is {is}, which is for {own}, and is wanted for {wanted} here", reference.text))
            .hint(format!("set `platform` of one of the two, or write `FROM --platform={own}`")))
    }
}

struct ByText<'a> {
    builder: &'a Builder<'a, 'a>,
    platform: &'a Platform,
    /// In the Dockerfile of a test, what it tests.
    subject: Option<(&'a Label, &'a spec::Image)>,
}

impl Configs for ByText<'_> {
    fn config(&self, image: &str) -> Option<Arc<crate::image::ImageConfig>> {
        let (text, other) = ImageUse::of_key(image);
        let wanted = other.as_ref().unwrap_or(self.platform);
        let catalogue = self.builder.catalogue;
        match self.builder.target(text, self.subject.is_some()).ok()? {
            Target::Entry(label) => match catalogue.bases.get(&label) {
                Some(base) => {
                    let owner = match &base.from {
                        spec::BaseFrom::Registry(reference) => NodeLabel::Outside(reference.clone()),
                        _ => NodeLabel::Entry(label),
                    };
                    self.builder.configs.known(&owner, &base.platform_for(wanted))
                }
                None => {
                    let platform = &catalogue.images.get(&label)?.platform;
                    self.builder.configs.known(&NodeLabel::Entry(label.clone()), platform)
                }
            },
            Target::Outside(reference) => self.builder.configs.known(&NodeLabel::Outside(reference), wanted),
            Target::Subject => {
                let (label, image) = self.subject?;
                self.builder.configs.known(&NodeLabel::Entry(label.clone()), &image.platform)
            }
        }
    }
}

/// What was probably meant by the path of a Dockerfile that is not there: one nearby, by its path from the same folder.
fn near_dockerfile(root: &Path, path: &str) -> Option<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (above, last) = folder.rsplit_once('/').unwrap_or(("", folder));
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let beside: Vec<String> = names(folder).into_iter().filter(|near| root.join(folder).join(near).is_file()).collect();
    let folders: Vec<String> = names(above).into_iter().filter(|near| root.join(above).join(near).join(name).is_file()).collect();
    let join = |parts: [&str; 2]| parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let near = nearest(name, beside.iter().map(String::as_str)).map(|near| join([folder, near]));
    let near = near.or_else(|| nearest(last, folders.iter().map(String::as_str)).map(|near| join([&join([above, near]), name])));
    Some(near.map_or_else(|| "write it, or say where it lies: `dockerfile: \"…\"`".to_owned(), |near| format!("did you mean `{near}`?")))
}

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
            std::io::ErrorKind::PermissionDenied => format!("`{path}` can't be read: permission denied"),
            _ => format!("`{path}` can't be read: {error}"),
        };
        let hint = (error.kind() == std::io::ErrorKind::NotFound).then(|| near_dockerfile(root, path)).flatten();
        vec![Problem { message, places: vec![place.clone()], hint }]
    };
    let file = std::fs::File::open(&full).map_err(|error| fail(&error))?;
    let stamp = stamp_of(&file).map_err(|error| fail(&error))?;
    if stamp.is_dir() {
        let hint = full.join("Dockerfile").is_file().then(|| format!("did you mean `{path}/Dockerfile`?"));
        return Err(vec![Problem { message: format!("`{path}` is a folder, not a Dockerfile"), places: vec![place.clone()], hint }]);
    }
    let mut bytes = Vec::new();
    read_file(&file, stamp.size, &mut bytes).map_err(|error| fail(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        vec![Problem {
            message: format!("`{path}` is not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            places: vec![place.clone()],
            hint: None,
        }]
    })?;
    let source = Arc::new(Source { path: path.to_owned(), text });
    let parsed = parse(&source)?;
    Ok(DockerfileRead { path: path.to_owned(), stamp, parsed: Arc::new(parsed) })
}
