//! Loading a workspace: all build files read, and what only shows when they are seen together. Knows entries, no
//! Dockerfile and no graph.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::claims::Claims;
use super::model::{Catalogue, Image, LoadedFile, Span, Workspace};
use super::package::{PackageDraft, read_package};
use super::paths::Paths;
use super::rules::{Draft, Entry};
use super::walk::{BUILD_FILE, Found, ReadError, find_packages, read_file};
use super::workspace::read_workspace;
use crate::label::{Label, Package};
use crate::problem::{Problem, Source, nearest};

/// Loads the workspace whose root is the folder `root`.
///
/// # Errors
/// All problems that were found, sorted by place.
pub fn load(root: &Path) -> Result<Catalogue, Vec<Problem>> {
    let mut problems = Vec::new();
    let result = load_all(root, &mut problems);
    match result {
        Some(catalogue) if problems.is_empty() => Ok(catalogue),
        _ => {
            sort_problems(&mut problems);
            Err(problems)
        }
    }
}

/// Sorts problems by file and place; those without a place come first.
pub(super) fn sort_problems(problems: &mut [Problem]) {
    let key = |problem: &Problem| problem.places.first().map(|place| (place.source.path.clone(), place.span.start));
    problems.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message)));
}

fn load_all(root: &Path, problems: &mut Vec<Problem>) -> Option<Catalogue> {
    let mut paths = match Paths::new(root) {
        Ok(paths) => paths,
        Err(error) => {
            problems.push(Problem::new(format!("can't open the workspace `{}`: {error}", root.display())));
            return None;
        }
    };
    let (stamp, source) = match read_file(&root.join(BUILD_FILE), BUILD_FILE) {
        Ok(read) => read,
        Err(ReadError::Problem(problem)) => {
            problems.push(problem);
            return None;
        }
        Err(ReadError::Missing) => {
            problems.push(Problem::new(format!("`{}` has no `{BUILD_FILE}`", root.display())));
            return None;
        }
    };
    let workspace = read_workspace(&source, &paths, problems)?;
    let mut found = search(root, &workspace, problems)?;
    problems.append(&mut found.problems);
    let mut files = found.files;
    // the build files among them do no harm: nothing lies below a file
    paths.learn(files.iter().map(|file| file.path.clone()), found.links);
    files.push(LoadedFile { path: BUILD_FILE.into(), stamp });
    files.sort();
    let drafts: Vec<Result<PackageDraft, Problem>> = found
        .packages
        .into_par_iter()
        .map(|(folder, source)| {
            let package = package_of(&folder, &workspace.packages, &source)?;
            Ok(read_package(package, folder, source, &paths, workspace.retries))
        })
        .collect();
    let mut catalogue = Catalogue {
        root: root.to_owned(),
        workspace,
        packages: BTreeMap::new(),
        images: BTreeMap::new(),
        tests: BTreeMap::new(),
        bases: BTreeMap::new(),
        claims: Claims::default(),
        files,
    };
    let mut packages = Vec::with_capacity(drafts.len());
    for draft in drafts {
        match draft {
            Ok(draft) => packages.push(draft),
            Err(problem) => problems.push(problem),
        }
    }
    assemble(&mut catalogue, packages, problems);
    Some(catalogue)
}

fn search(root: &Path, workspace: &Workspace, problems: &mut Vec<Problem>) -> Option<Found> {
    let found = find_packages(root, &workspace.packages);
    if found.is_none() {
        let place = workspace.origin.field("packages");
        let problem = Problem::new(format!("there is no folder `{}` to hold the packages", workspace.packages));
        problems.push(problem.at(&place.source, place.span).hint("make it, or name another: `packages: \"…\"`"));
    }
    found
}

fn package_of(folder: &str, packages: &str, source: &Arc<Source>) -> Result<Package, Problem> {
    let path = folder.strip_prefix(packages).unwrap_or(folder).trim_start_matches('/');
    Package::parse(path).map_err(|error| {
        Problem::new(format!("this folder can be no package: {error}"))
            .at(source, 0..0)
            .hint("rename the folder, or take its build file away")
    })
}

/// All entries that there are, broken ones too, by label: what each is.
type Known = HashMap<Label, &'static str>;

/// Where an entry lists its tests, for problems.
struct Listing<'a> {
    source: &'a Arc<Source>,
    known: &'a Known,
    /// Packages that may have entries which could not be read.
    incomplete: &'a HashSet<Package>,
}

impl Listing<'_> {
    /// Keeps the labels that are tests.
    fn existing(&self, tests: Vec<(Label, Span)>, problems: &mut Vec<Problem>) -> Vec<(Label, Span)> {
        let mut kept: Vec<(Label, Span)> = Vec::with_capacity(tests.len());
        for (label, span) in tests {
            match self.known.get(&label) {
                Some(&"a test") => kept.push((label, span)),
                Some(what) => problems.push(Problem::new(format!("`{label}` is {what}, not a test")).at(self.source, span.range())),
                None if self.incomplete.contains(&label.package) => {}
                None => {
                    let mut all: Vec<String> =
                        self.known.iter().filter(|(_, what)| **what == "a test").map(|(label, _)| label.to_string()).collect();
                    all.sort();
                    let problem = Problem::new(format!("there is no test `{label}`")).at(self.source, span.range());
                    problems.push(match nearest(&label.to_string(), all.iter().map(String::as_str)) {
                        Some(near) => problem.hint(format!("did you mean `{near}`?")),
                        None => problem,
                    });
                }
            }
        }
        kept
    }

    /// Adds `more` to `tests`, each label once; two of one name are reported.
    fn add(&self, tests: &mut Vec<(Label, Span)>, more: Vec<(Label, Span)>, whose: &str, problems: &mut Vec<Problem>) {
        for (label, span) in more {
            match tests.iter().find(|(known, _)| known.name == label.name) {
                None => tests.push((label, span)),
                Some((known, _)) if *known == label => {}
                Some((known, first)) => problems.push(
                    Problem::new(format!("{whose} has two tests of the name `{}`: {known} and {label}", label.name))
                        .at(self.source, span.range())
                        .at_with(self.source, first.range(), "first here")
                        .hint("a step is called by the name of its test, so those of an image differ: rename one"),
                ),
            }
        }
    }
}

fn assemble(catalogue: &mut Catalogue, packages: Vec<PackageDraft>, problems: &mut Vec<Problem>) {
    let label = |package: &Package, entry: &Draft| Label { package: package.clone(), name: entry.name.clone() };
    let entries: usize = packages.iter().map(|draft| draft.entries.len()).sum();
    let mut known = Known::with_capacity(entries);
    known.extend(packages.iter().flat_map(|draft| draft.entries.iter().map(|entry| (label(&draft.package, entry), entry.entry.what()))));
    let incomplete = packages.iter().filter(|draft| draft.incomplete).map(|draft| draft.package.clone()).collect();
    let mut claims = Claims::default();
    let names = packages.iter().flat_map(|draft| &draft.entries).map(|entry| match &entry.entry {
        Entry::Image { image, .. } => image.names.len(),
        Entry::Test(_) | Entry::Base(_) => 1,
    });
    claims.reserve(names.sum());
    let (mut images, mut tests, mut bases) = (Vec::with_capacity(entries), Vec::new(), Vec::new());
    for mut draft in packages {
        problems.append(&mut draft.problems);
        let listing = Listing { source: &draft.spec.source, known: &known, incomplete: &incomplete };
        let mut shared = Vec::new();
        listing.add(&mut shared, listing.existing(draft.tests, problems), &draft.package.to_string(), problems);
        if let (Some((_, span)), Some((_, test))) = (&draft.untested, shared.first()) {
            problems.push(contradiction("a package that lists tests is not untested", listing.source, *span, *test));
            draft.untested = None;
        }
        for entry in draft.entries {
            let label = label(&draft.package, &entry);
            match entry.entry {
                Entry::Image { mut image, tests, untested } => {
                    let own = listing.existing(tests, problems);
                    let mut all = shared.clone();
                    listing.add(&mut all, own, &label.to_string(), problems);
                    settle_tests(&mut image, &all, untested, draft.untested.as_ref(), listing.source, problems);
                    claims.add_image(&label, &image, &catalogue.workspace.registry, problems);
                    images.push((label, *image));
                }
                Entry::Test(Some(test)) => tests.push((label, *test)),
                Entry::Base(Some(base)) => {
                    claims.add_base(&label, &base.provides, &base.origin, problems);
                    bases.push((label, *base));
                }
                Entry::Test(None) | Entry::Base(None) => {}
            }
        }
        catalogue.packages.insert(draft.package, draft.spec);
    }
    catalogue.images = images.into_iter().collect();
    catalogue.tests = tests.into_iter().collect();
    catalogue.bases = bases.into_iter().collect();
    catalogue.claims = claims;
}

fn settle_tests(
    image: &mut Image,
    tests: &[(Label, Span)],
    own: Option<(Arc<str>, Span)>,
    package: Option<&(Arc<str>, Span)>,
    source: &Arc<Source>,
    problems: &mut Vec<Problem>,
) {
    match (tests.first(), own) {
        (Some((_, test)), Some((_, span))) => problems.push(contradiction("an image that has tests is not untested", source, span, *test)),
        (None, Some((why, _))) => image.untested = Some(why),
        (None, None) => image.untested = package.map(|(why, _)| why.clone()),
        (Some(_), None) => {}
    }
    image.tests = tests.iter().map(|(label, _)| label.clone()).collect();
}

fn contradiction(message: &str, source: &Arc<Source>, untested: Span, test: Span) -> Problem {
    Problem::new(message)
        .at(source, untested.range())
        .at_with(source, test.range(), "a test is listed here")
        .hint("leave out `untested`, or the tests")
}
