//! `Image`, `Test` and `Base`: from the fields of one rule to a draft of its entry. Knows one build file, no other
//! entry; what needs the others is checked when all are read.

use std::sync::Arc;

use super::fields::{Field, Fields, Schema, Sink, describe, wrong_type};
use super::freshness::{FRESHNESS, check_base, freshness};
use super::model::{Base, BaseFrom, Image, Origin, Span, Test, TestForm};
use super::names::ImageName;
use super::paths::parent;
use super::settings::{SETTINGS, Scope, Settings, globs, network, path, platform, resolve, retries, timeout, variables};
use super::tree::{Call, Kind, Node};
use crate::label::{Label, LabelError, Name};
use crate::platform::Platform;
use crate::problem::{Problem, nearest};
use crate::reference::Reference;

const NAME: Field = ("name", "a string, like `\"4.2.1\"`");

const NAME_HINT: &str = "a name is a tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`";

const IMAGE: Schema = Schema {
    rule: "Image",
    groups: &[
        &[NAME],
        SETTINGS,
        FRESHNESS,
        &[("tests", "a list of strings, like `[\":smoke\", \"//tests:node\"]`"), ("aliases", "a list of strings, like `[\"4\", \"4.2\"]`")],
    ],
};

const TEST: Schema = Schema {
    rule: "Test",
    groups: &[&[
        NAME,
        ("run", "a list of strings, like `[\"node --version\"]`"),
        ("exec", "a list of lists of strings, like `[[\"/app\", \"--version\"]]`"),
        ("dockerfile", "a string, like `\"tests/Dockerfile\"`"),
        ("context", "a string, like `\".\"`"),
        ("args", "a map of strings, like `{\"VERSION\": \"4.2.1\"}`"),
        ("env", "a map of strings, like `{\"NODE_ENV\": \"test\"}`"),
        ("network", "a string: `\"default\"`, `\"host\"` or `\"none\"`"),
        ("platform", "a string, like `\"linux/amd64\"`"),
        ("timeout", "a duration in a string, like `\"30m\"`"),
        ("retries", "a whole number, like `2`, or the full form, like `(max: 2, delay: \"2s\")`"),
    ]],
};

const BASE: Schema = Schema {
    rule: "Base",
    groups: &[
        &[
            NAME,
            ("provides", "a list of strings, like `[\"debian:bookworm\"]`"),
            ("from", "`Registry(\"…\")`, `Rootfs(\"…\")`, `OciLayout(\"…\")` or `Command([…])`"),
            ("inputs", "a list of strings, like `[\"bootstrap\"]`"),
            ("env", "a map of strings, like `{\"MIRROR\": \"…\"}`"),
            ("platform", "a string, like `\"linux/amd64\"`"),
        ],
        FRESHNESS,
    ],
};

/// The rules of a package, for hints.
pub const RULES: &[&str] = &["Image", "Test", "Base"];

/// What a package lends to its images.
pub struct Defaults {
    pub settings: Settings,
    pub places: Vec<(&'static str, Span)>,
    pub tests: Vec<(Label, Span)>,
    /// As written and as parsed; `None` where it is wrong, which is told already.
    pub repository: Option<(Arc<str>, Reference)>,
}

/// An entry before it is checked against all others.
pub struct Draft {
    pub name: Name,
    pub span: Span,
    pub entry: Entry,
}

/// What kind of entry, and what could be made of it.
pub enum Entry {
    Image { image: Box<Image>, tests: Vec<(Label, Span)>, untested: Option<(Arc<str>, Span)> },
    Test(Option<Box<Test>>),
    Base(Option<Box<Base>>),
}

impl Entry {
    /// With its article, for messages.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Image { .. } => "an image",
            Self::Test(_) => "a test",
            Self::Base(_) => "a base",
        }
    }
}

/// Reads one element of `rules`. `None` where it has no usable name.
pub fn read_rule(node: &Node<'_>, defaults: &Defaults, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<Draft> {
    let Kind::Call(call @ Call { name: Some((rule, word)), .. }) = &node.kind else {
        if !matches!(node.kind, Kind::Broken) {
            let problem = Problem::new("a rule is `Image(…)`, `Test(…)` or `Base(…)`");
            sink.problems.push(problem.at_with(sink.source, node.span.range(), describe(node)));
        }
        return None;
    };
    let schema = match *rule {
        "Image" => &IMAGE,
        "Test" => &TEST,
        "Base" => &BASE,
        _ => {
            report_rule(rule, *word, RULES, sink);
            return None;
        }
    };
    let fields = Fields::of(call, *word, schema, sink);
    let name = read_name(&fields, sink);
    let span = name.as_ref().map_or(*word, |(_, span)| *span);
    let origin = Origin { source: sink.source.clone(), name: span, fields: fields.places().collect() };
    // a rule without a usable name is read too, for the sake of its other problems
    let entry = match *rule {
        "Image" => read_image(&fields, name.as_ref().map(|(name, _)| name), origin, defaults, scope, sink),
        "Test" => Entry::Test(read_test(&fields, origin, scope, sink).map(Box::new)),
        _ => Entry::Base(read_base(&fields, origin, scope, sink).map(Box::new)),
    };
    name.map(|(name, span)| Draft { name, span, entry })
}

/// Reports a rule that there is none of.
pub fn report_rule(rule: &str, word: Span, known: &[&str], sink: &mut Sink<'_>) {
    let problem = sink.at(word, format!("there is no rule `{rule}` here"));
    sink.problems.push(match nearest(rule, known.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => {
            let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
            problem.hint(format!("what may stand here: {}", known.join(", ")))
        }
    });
}

fn read_name(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<(Name, Span)> {
    if fields.key("name").is_none() {
        // a slip in its name is told already
        if fields.meant("name") {
            return None;
        }
        sink.report_hint(fields.word, "this rule has no `name`", "write it like `name: \"4.2.1\"`");
        return None;
    }
    let (text, span) = fields.filled("name", sink)?;
    Name::parse(text).map(|name| (name, span)).map_err(|error| sink.report_hint(span, error.to_string(), NAME_HINT)).ok()
}

/// Labels of tests, each once.
pub fn read_tests(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Vec<(Label, Span)> {
    let mut labels: Vec<(Label, Span)> = Vec::new();
    for (text, span) in fields.texts("tests", sink).unwrap_or_default() {
        match Label::parse(text, Some(scope.package)) {
            Ok(label) => match labels.iter().find(|(known, _)| *known == label) {
                Some((_, first)) => sink.report_twice(span, *first, format!("`{text}` is listed twice"), "first here"),
                None => labels.push((label, span)),
            },
            Err(error @ LabelError::NoRoot { .. }) if !text.starts_with('/') => {
                sink.report_hint(span, error.to_string(), format!("a test of this package is `\":{text}\"`"));
            }
            Err(LabelError::NoName { .. }) => {
                sink.report_hint(span, format!("`{text}` names a package, not a test"), format!("a test of it is `\"{text}:NAME\"`"));
            }
            Err(error) => sink.report(span, error.to_string()),
        }
    }
    labels
}

/// A reference, or what is wrong with it. Docker takes a first segment in upper case for a host; here that is a slip.
pub fn read_reference(text: &str, span: Span, sink: &mut Sink<'_>) -> Option<Reference> {
    match text.parse::<Reference>() {
        Ok(reference) if !reference.host().contains(['.', ':']) && reference.host() != "localhost" => {
            sink.report(span, format!("`{text}` is no image reference: a repository is lower case"));
            None
        }
        Ok(reference) => Some(reference),
        Err(error) => {
            sink.report(span, error.to_string());
            None
        }
    }
}

/// Whether a reference was written with a tag (or a port and no path, which no reference has).
pub fn has_tag(text: &str) -> bool {
    text.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn read_image(
    fields: &Fields<'_, '_>,
    name: Option<&Name>,
    mut origin: Origin,
    defaults: &Defaults,
    scope: &Scope<'_>,
    sink: &mut Sink<'_>,
) -> Entry {
    let own = Settings::take(fields, scope, sink);
    let package = &defaults.settings;
    let tests = read_tests(fields, scope, sink);
    let names = read_names(fields, name, origin.name, defaults, sink);
    let untested = own.untested.clone().zip(fields.find("untested").map(|node| node.span));
    let dockerfile = own.dockerfile.or_else(|| package.dockerfile.clone()).unwrap_or_else(|| {
        // it may be a link that leads out
        resolve("Dockerfile", "dockerfile", origin.name, scope, sink).unwrap_or_else(|| in_folder(scope.folder, "Dockerfile"))
    });
    let context = own.context.or_else(|| package.context.clone()).unwrap_or_else(|| parent(&dockerfile).into());
    let mut args = package.args.clone();
    args.extend(own.args);
    let inherited = defaults.places.iter().filter(|(name, _)| !origin.fields.iter().any(|(own, _)| own == name));
    origin.fields = origin.fields.iter().chain(inherited).copied().collect();
    let image = Image {
        dockerfile,
        context,
        target: own.target.or_else(|| package.target.clone()),
        args,
        platform: own.platform.or_else(|| package.platform.clone()).unwrap_or_else(Platform::host),
        network: own.network.or(package.network).unwrap_or_default(),
        secrets: own.secrets.or_else(|| package.secrets.clone()).unwrap_or_default(),
        ssh: own.ssh.or_else(|| package.ssh.clone()).unwrap_or_default(),
        extra_inputs: own.extra_inputs.or_else(|| package.extra_inputs.clone()).unwrap_or_default(),
        tests: Vec::new(),
        untested: None,
        names,
        repository: defaults.repository.as_ref().map_or_else(|| "".into(), |(written, _)| written.clone()),
        timeout: own.timeout.or(package.timeout),
        retries: own.retries.on(package.retries.on(scope.retries)),
        manual: own.manual.or(package.manual).unwrap_or(false),
        freshness: own.freshness.or(&package.freshness),
        scrub: own.scrub.or_else(|| package.scrub.clone()).unwrap_or_default(),
        origin,
    };
    Entry::Image { image: Box::new(image), tests, untested }
}

fn in_folder(folder: &str, name: &str) -> Arc<str> {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}").into() }
}

/// The image's own name and its aliases.
fn read_names(fields: &Fields<'_, '_>, name: Option<&Name>, span: Span, defaults: &Defaults, sink: &mut Sink<'_>) -> Vec<ImageName> {
    let repository = defaults.repository.as_ref().map(|(_, reference)| reference);
    let tag = |tag: &str, span| {
        let reference = repository?.with_tag(tag).ok()?;
        Some(ImageName { written: tag.into(), reference, span })
    };
    let mut names: Vec<ImageName> = name.and_then(|name| tag(name.as_str(), span)).into_iter().collect();
    for (text, span) in fields.texts("aliases", sink).unwrap_or_default() {
        if text.contains(':') {
            match read_reference(text, span, sink) {
                Some(reference) if reference.digest().is_some() => {
                    let hint = "a name points at what was built; leave `@sha256:…` out";
                    sink.report_hint(span, format!("`{text}` is no alias: it has a digest"), hint);
                }
                Some(_) if !has_tag(text) => {
                    sink.report_hint(span, format!("`{text}` is no alias: it has no tag"), format!("write `{text}:TAG`"));
                }
                Some(reference) => names.push(ImageName { written: text.into(), reference, span }),
                None => {}
            }
        } else if text.contains('/') {
            sink.report_hint(span, format!("`{text}` is no tag, and has none"), format!("a full name is written `{text}:TAG`"));
        } else if let Err(error) = Name::parse(text) {
            let problem = match error {
                LabelError::Character { character, .. } => format!("`{text}` is no tag: character `{character}` is not allowed"),
                _ => format!("`{text}` is no tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`"),
            };
            sink.report(span, problem);
        } else {
            names.extend(tag(text, span));
        }
    }
    names
}

fn read_test(fields: &Fields<'_, '_>, origin: Origin, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<Test> {
    let before = sink.problems.len();
    let forms: Vec<(&str, Span)> = ["run", "exec", "dockerfile"].into_iter().filter_map(|form| Some((form, fields.key(form)?))).collect();
    match forms[..] {
        [] => sink.report_hint(fields.word, "this test does nothing", "give it one of `run`, `exec` and `dockerfile`"),
        [(first, at), (second, span), ..] => {
            sink.report_twice(span, at, format!("a test has one form, but this has `{first}` and `{second}`"), "first here");
        }
        _ => {}
    }
    let only = |field: &str, of: &str, instead: &str, sink: &mut Sink<'_>| {
        if let (Some(span), [(form, _)]) = (fields.key(field), &forms[..])
            && (*form == "dockerfile") != (of == "dockerfile")
        {
            sink.report_hint(span, format!("a test with `{form}` has no `{field}`"), instead);
        }
    };
    only("args", "dockerfile", "commands get variables by `env`", sink);
    only("context", "dockerfile", "commands see the image alone; to bring files, use a `dockerfile`", sink);
    only("env", "run", "a Dockerfile gets variables by `args`", sink);
    let form = match forms.first().map(|(form, _)| *form) {
        Some("run") => read_run(fields, sink).map(|commands| TestForm::Run { commands, env: variables(fields, "env", sink) }),
        Some("exec") => read_exec(fields, sink).map(|commands| TestForm::Exec { commands, env: variables(fields, "env", sink) }),
        Some(_) => path(fields, "dockerfile", scope, sink).map(|dockerfile| {
            let context = path(fields, "context", scope, sink).unwrap_or_else(|| parent(&dockerfile).into());
            TestForm::Dockerfile { dockerfile, context, args: variables(fields, "args", sink) }
        }),
        None => None,
    };
    let test = Test {
        form: form?,
        network: network(fields, sink).unwrap_or_default(),
        platform: platform(fields, sink),
        timeout: timeout(fields, sink),
        retries: retries(fields, scope.retries, sink).on(scope.retries),
        origin,
    };
    (sink.problems.len() == before).then_some(test)
}

fn read_run(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<Vec<Arc<str>>> {
    let texts = fields.texts("run", sink)?;
    report_empty(fields, "run", "this test would always pass", sink);
    for (_, span) in texts.iter().filter(|(text, _)| text.trim().is_empty()) {
        sink.report(*span, "this command is empty, so it would always pass");
    }
    Some(texts.into_iter().map(|(text, _)| text.into()).collect())
}

fn read_exec(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<Vec<Vec<Arc<str>>>> {
    let lists = fields.list("exec", sink)?;
    report_empty(fields, "exec", "this test would always pass", sink);
    let mut commands = Vec::with_capacity(lists.len());
    for node in lists {
        let Kind::List(words) = &node.kind else {
            fields.wrong("exec", node, sink);
            continue;
        };
        let argv: Vec<Arc<str>> = words.iter().filter_map(|word| fields.element("exec", word, sink)).map(|(text, _)| text.into()).collect();
        if argv.first().is_none_or(|program| program.is_empty()) {
            sink.report(node.span, "this command names no program");
        }
        commands.push(argv);
    }
    Some(commands)
}

fn report_empty(fields: &Fields<'_, '_>, name: &str, so: &str, sink: &mut Sink<'_>) {
    if let Some(node) = fields.find(name)
        && matches!(&node.kind, Kind::List(nodes) if nodes.is_empty())
    {
        sink.report(node.span, format!("`{name}` is empty, so {so}"));
    }
}

fn read_base(fields: &Fields<'_, '_>, origin: Origin, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<Base> {
    let before = sink.problems.len();
    let provides = read_provides(fields, sink);
    let from = read_from(fields, scope, sink);
    let platform = platform(fields, sink);
    let freshness = freshness(fields, sink);
    let from = from?;
    check_base(fields, &from, sink);
    (sink.problems.len() == before).then_some(Base { provides, from, platform, freshness, origin })
}

fn read_provides(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Vec<ImageName> {
    if fields.key("provides").is_none() {
        let hint = "write the references that Dockerfiles use, like `provides: [\"debian:bookworm\"]`";
        sink.report_hint(fields.word, "this base has no `provides`, so nothing can start from it", hint);
    }
    report_empty(fields, "provides", "nothing can start from this base", sink);
    let mut provides = Vec::new();
    for (text, span) in fields.texts("provides", sink).unwrap_or_default() {
        match read_reference(text, span, sink) {
            Some(reference) if reference.digest().is_some() => {
                let hint = "a reference with `@sha256:` always means the image outside";
                sink.report_hint(span, format!("`{text}` can't be provided: it has a digest"), hint);
            }
            Some(reference) => provides.push(ImageName { written: text.into(), reference, span }),
            None => {}
        }
    }
    provides
}

fn read_from(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<BaseFrom> {
    const SOURCES: &[&str] = &["Registry", "Rootfs", "OciLayout", "Command"];
    let inputs = globs(fields, "inputs", scope, sink);
    let env = variables(fields, "env", sink);
    let Some(node) = fields.find("from") else {
        if fields.key("from").is_none() {
            sink.report_hint(
                fields.word,
                "this base has no `from`",
                "say what it is made from, like `from: Registry(\"debian:bookworm\")`",
            );
        }
        return None;
    };
    let Kind::Call(Call { name: Some((source, word)), items }) = &node.kind else {
        fields.wrong("from", node, sink);
        return None;
    };
    if !SOURCES.contains(source) {
        let problem = sink.at(*word, format!("a base can't be made from `{source}`"));
        sink.problems.push(match nearest(source, SOURCES.iter().copied()) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint("it is made from `Registry(\"…\")`, `Rootfs(\"…\")`, `OciLayout(\"…\")` or `Command([…])`"),
        });
        return None;
    }
    if *source != "Command" {
        for field in ["inputs", "env"] {
            if let Some(span) = fields.key(field) {
                sink.report(span, format!("only a base from `Command(…)` has `{field}`"));
            }
        }
    }
    let [item] = &items[..] else {
        sink.report(node.span, format!("`{source}` takes one value"));
        return None;
    };
    let value = &item.value;
    if let Some((_, span)) = item.name {
        sink.report(span, format!("the value of `{source}` has no name"));
        return None;
    }
    match (&value.kind, *source) {
        (Kind::Broken, _) => None,
        (Kind::List(words), "Command") => {
            let argv: Vec<Arc<str>> =
                words.iter().filter_map(|word| fields.element("from", word, sink)).map(|(text, _)| text.into()).collect();
            if argv.first().is_none_or(|program| program.is_empty()) {
                sink.report(value.span, "this command names no program");
            } else if !argv.iter().any(|word| word.contains("{out}")) {
                let hint = "igraph puts a path that ends in `.tar` in its place, for the command to write the root filesystem to";
                sink.report_hint(value.span, "this command has no `{out}`", hint);
            }
            Some(BaseFrom::Command { argv, inputs: inputs.unwrap_or_default(), env })
        }
        (Kind::Text(text), "Registry") => read_reference(text, value.span, sink).map(BaseFrom::Registry),
        (Kind::Text(text), "Rootfs") => resolve(text, "Rootfs", value.span, scope, sink).map(BaseFrom::Rootfs),
        (Kind::Text(text), "OciLayout") => resolve(text, "OciLayout", value.span, scope, sink).map(BaseFrom::OciLayout),
        (_, "Command") => {
            wrong_type("Command", "a list of strings, like `[\"./bootstrap\", \"{out}\"]`", value, sink);
            None
        }
        _ => {
            wrong_type(source, "a string", value, sink);
            None
        }
    }
}
