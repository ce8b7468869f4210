//! From a Dockerfile to what one target, one set of arguments and one platform need of it: stages, images, context, args.
//! Walks the stages as BuildKit does; knows no files and asks for no image but through [`Configs`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::expand::{Expander, Origin, Scope};
use super::resolved::Replacement;
use super::{
    ArgDeclaration, Command, Configs, ContextSource, Dockerfile, Environment, Feature, FileSource, FromTarget, ImageUse, Instruction,
    MountKind, Request, Resolved, ResolvedStage, Secret, Span, Spanned, Ssh, Step, Transfer, UseKind, check, features, parse,
};
use crate::image::ImageConfig;
use crate::platform::Platform;
use crate::problem::{Place, Problem, Source, nearest};

/// Proxies are passed to builds by themselves and count for no key (Dockerfile reference, "Predefined ARGs").
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// Whether an argument is predefined: RUN sees it undeclared, and it is in no key.
pub fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name) || PROXIES.iter().any(|proxy| proxy.to_ascii_uppercase() == name)
}

impl Dockerfile {
    /// Decides what is needed. Where a config is missing the answer is provisional: [`Resolved::configs_needed`] says which.
    ///
    /// # Errors
    /// Everything in needed stages that cannot be: no such target or stage, words that cannot be expanded, platforms, modes …
    pub fn resolve(&self, request: &Request<'_>, configs: &dyn Configs) -> Result<Resolved, Vec<Problem>> {
        Resolver::new(self, request, configs).and_then(Resolver::run)
    }
}

/// FROM, expanded.
struct Head {
    base: FromTarget,
    platform: Option<Platform>,
    /// Global args that it uses.
    names: Vec<String>,
    pattern: bool,
}

/// An instruction that a stage runs, and where it comes from.
struct Planned {
    instruction: Arc<Instruction>,
    origin: Origin,
    trigger: bool,
}

struct Resolver<'a> {
    dockerfile: &'a Dockerfile,
    request: &'a Request<'a>,
    configs: &'a dyn Configs,
    globals: Scope<'a>,
    /// Which names the default of a global ARG uses.
    global_uses: BTreeMap<String, Vec<String>>,
    heads: Vec<Result<Head, Problem>>,
    origin: Origin,
    problems: Vec<Problem>,
    used_globals: BTreeSet<String>,
    /// Scope at the end of each resolved stage.
    ends: BTreeMap<usize, (Scope<'a>, Platform)>,
    resolved: Resolved,
}

impl<'a> Resolver<'a> {
    fn new(dockerfile: &'a Dockerfile, request: &'a Request<'a>, configs: &'a dyn Configs) -> Result<Self, Vec<Problem>> {
        let origin = Origin { source: dockerfile.source.clone(), from: None };
        let mut resolver = Self {
            dockerfile,
            request,
            configs,
            globals: Scope::with_room(16),
            global_uses: BTreeMap::new(),
            heads: Vec::new(),
            origin,
            problems: Vec::new(),
            used_globals: BTreeSet::new(),
            ends: BTreeMap::new(),
            resolved: Resolved::default(),
        };
        resolver.read_globals().map_err(|problem| vec![problem])?;
        for index in 0..dockerfile.stages.len() {
            let head = resolver.head(index);
            resolver.heads.push(head);
        }
        Ok(resolver)
    }

    fn source(&self) -> &'a Arc<Source> {
        &self.dockerfile.source
    }

    /// Platform args, then the ARGs before the first FROM.
    fn read_globals(&mut self) -> Result<(), Problem> {
        let (stages, request) = (&self.dockerfile.stages, self.request);
        let last = || stages.last().and_then(|stage| stage.image.name.as_ref()).map(|name| name.value.as_str());
        let stage = request.target.or_else(last).unwrap_or("default");
        for (name, value) in platform_args(request, stage) {
            let value = self.request.args.get(name).map_or(value, |requested| Cow::Borrowed(requested.as_str()));
            self.globals.set(name, value);
        }
        let dockerfile = self.dockerfile;
        for instruction in &dockerfile.global_args {
            let Command::Arg(declarations) = &instruction.command else { continue };
            for ArgDeclaration { name, default } in declarations {
                let value = match (self.request.args.get(&name.value), default) {
                    (Some(requested), _) => Cow::Borrowed(requested.as_str()),
                    (None, None) => continue,
                    (None, Some(default)) => {
                        let mut expander = Expander::new(self.dockerfile.directives.escape, &self.globals, &self.origin);
                        let value = expander.word(default)?.value;
                        let names = std::mem::take(&mut expander.names);
                        self.global_uses.entry(name.value.clone()).or_default().extend(names);
                        Cow::Owned(value)
                    }
                };
                self.globals.set(&*name.value, value);
            }
        }
        Ok(())
    }

    fn head(&self, index: usize) -> Result<Head, Problem> {
        let stage = &self.dockerfile.stages[index];
        let mut expander = Expander::new(self.dockerfile.directives.escape, &self.globals, &self.origin);
        let reference = expander.word(&stage.image.reference)?;
        let fail = |message: String, word: &Spanned| Problem::new(message).at(self.source(), word.span.clone());
        if reference.value.is_empty() {
            return Err(fail(format!("the base `{}` comes out empty", stage.image.reference.value), &reference)
                .hint("give the `ARG` before the first `FROM` a default, or pass it"));
        }
        let platform = stage.image.platform.as_ref().map(|written| {
            let word = expander.word(written)?;
            word.value.parse::<Platform>().map_err(|error| fail(error.to_string(), &word))
        });
        let platform = platform.transpose()?;
        let earlier = &self.dockerfile.stages[..index];
        // names of stages are lower case, and FROM looks for them as written
        let named = earlier.iter().rposition(|other| other.image.name.as_ref().is_some_and(|name| name.value == reference.value));
        let base = match named {
            Some(stage) => FromTarget::Stage(stage),
            None if reference.value == "scratch" => FromTarget::Scratch,
            None => FromTarget::Image(ImageUse::key_of(&reference.value, platform.as_ref().filter(|own| *own != self.request.platform))),
        };
        Ok(Head { base, platform, names: expander.names, pattern: expander.pattern })
    }

    /// Index of the target.
    fn target(&self) -> Result<usize, Problem> {
        let stages = &self.dockerfile.stages;
        let Some(target) = self.request.target else { return Ok(stages.len() - 1) };
        let lower = target.to_lowercase();
        let named = |stage: &super::Stage| stage.image.name.as_ref().is_some_and(|name| name.value == lower);
        if let Some(index) = stages.iter().position(named) {
            return Ok(index);
        }
        if let Some(index) = target.parse().ok().filter(|index| *index < stages.len()) {
            return Ok(index);
        }
        let names: Vec<&str> = stages.iter().filter_map(|stage| stage.image.name.as_ref()).map(|name| name.value.as_str()).collect();
        let problem = Problem::new(format!("there is no stage `{target}`")).at(self.source(), stages[0].from.span.clone());
        Err(match (nearest(&lower, names.iter().copied()), names.is_empty()) {
            (Some(near), _) => problem.hint(format!("did you mean `{near}`?")),
            (None, true) => problem.hint("no stage has a name; give it one with `FROM … AS name`"),
            (None, false) => problem.hint(format!("there are `{}`", names.join("`, `"))),
        })
    }

    /// Where `--from` or `from=` of an instruction of stage `index` leads; `number` where it may be a stage's number.
    fn leads_to(&self, index: usize, word: &Spanned, number: bool, origin: &Origin) -> Result<FromTarget, Problem> {
        let stages = &self.dockerfile.stages;
        let lower = word.value.to_lowercase();
        let named = stages.iter().position(|stage| stage.image.name.as_ref().is_some_and(|name| name.value == lower));
        let numbered = if number { word.value.parse::<i64>().ok() } else { None };
        let found = match numbered {
            Some(number) => match usize::try_from(number).ok().filter(|number| *number < stages.len()) {
                Some(stage) => Some(stage),
                None => return Err(origin.problem(format!("there is no stage {number}"), &word.span)),
            },
            None => named,
        };
        match found {
            Some(stage) if stage == index => Err(origin.problem("a stage can't take from itself", &word.span)),
            Some(stage) if stage > index => {
                let problem = origin.problem(format!("stage `{}` is defined only after this one", word.value), &word.span);
                Err(problem.at_with(self.source(), stages[stage].from.span.clone(), "defined here"))
            }
            Some(stage) => Ok(FromTarget::Stage(stage)),
            None if word.value == "scratch" => Ok(FromTarget::Scratch),
            None => Ok(FromTarget::Image(word.value.clone())),
        }
    }

    /// Where an instruction of stage `index` takes things from, in order; `None` for the context.
    fn targets(&self, index: usize, planned: &Planned) -> Result<Vec<Option<FromTarget>>, Problem> {
        let target =
            |word: &Option<Spanned>, number| word.as_ref().map(|word| self.leads_to(index, word, number, &planned.origin)).transpose();
        match &planned.instruction.command {
            Command::Copy(transfer) => Ok(vec![target(&transfer.from, true)?]),
            Command::Run(run) => run.mounts.iter().map(|mount| target(&mount.from, false)).collect(),
            _ => Ok(Vec::new()),
        }
    }

    fn config(&self, head: &Head) -> Option<Arc<ImageConfig>> {
        match &head.base {
            FromTarget::Image(text) => self.configs.config(text),
            _ => None,
        }
    }

    /// What stage `index` runs: the triggers of its base, then its own instructions.
    fn plan(&self, index: usize, head: &Head) -> Result<Vec<Planned>, Vec<Problem>> {
        let stage = &self.dockerfile.stages[index];
        let mut planned = Vec::with_capacity(stage.instructions.len());
        if let FromTarget::Stage(base) = head.base {
            for instruction in &self.dockerfile.stages[base].instructions {
                if let Command::OnBuild(on_build) = &instruction.command {
                    let instruction = Arc::new((*on_build.trigger).clone());
                    planned.push(Planned { instruction, origin: self.origin.clone(), trigger: true });
                }
            }
        }
        if let Some(config) = self.config(head) {
            for (number, text) in config.on_build.iter().enumerate() {
                let path = format!("ONBUILD {} of {}", number + 1, stage.image.reference.value);
                let source = Arc::new(Source { path, text: text.clone() });
                let from = (self.source().clone(), stage.from.span.clone());
                let instruction = parse::parse_trigger(&source).map_err(|problems| {
                    let note = "the image started from here brings it as ONBUILD";
                    problems.into_iter().map(|problem| problem.at_with(&from.0, from.1.clone(), note)).collect::<Vec<_>>()
                })?;
                let instruction = Arc::new(instruction);
                planned.push(Planned { instruction, origin: Origin { source, from: Some(from) }, trigger: true });
            }
        }
        let own = stage.instructions.iter();
        planned.extend(own.map(|instruction| Planned { instruction: instruction.clone(), origin: self.origin.clone(), trigger: false }));
        Ok(planned)
    }

    fn run(mut self) -> Result<Resolved, Vec<Problem>> {
        let target = self.target().map_err(|problem| vec![problem])?;
        let mut needed = BTreeSet::from([target]);
        let mut plans = BTreeMap::new();
        // whatever a stage needs stands before it
        for index in (0..=target).rev() {
            if !needed.contains(&index) {
                continue;
            }
            let head = match &self.heads[index] {
                Ok(head) => head,
                Err(problem) => {
                    self.problems.push(problem.clone());
                    continue;
                }
            };
            if let FromTarget::Stage(base) = head.base {
                needed.insert(base);
            }
            let plan = match self.plan(index, head) {
                Ok(plan) => plan,
                Err(problems) => {
                    self.problems.extend(problems);
                    continue;
                }
            };
            let mut steps = Vec::with_capacity(plan.len());
            for planned in plan {
                match self.targets(index, &planned) {
                    Ok(targets) => {
                        needed.extend(targets.iter().filter_map(|target| match target {
                            Some(FromTarget::Stage(stage)) => Some(*stage),
                            _ => None,
                        }));
                        steps.push((planned, targets));
                    }
                    Err(problem) => self.problems.push(problem),
                }
            }
            plans.insert(index, steps);
        }
        self.resolved.stages = needed.into_iter().collect();
        for (index, steps) in plans {
            self.stage(index, steps);
        }
        self.finish()
    }

    fn stage(&mut self, index: usize, plan: Vec<(Planned, Vec<Option<FromTarget>>)>) {
        let Ok(head) = &self.heads[index] else { return };
        let stage = &self.dockerfile.stages[index];
        let config = self.config(head);
        let (base, names, pattern) = (head.base.clone(), head.names.clone(), head.pattern);
        let (mut scope, platform) = match &base {
            FromTarget::Stage(base) => match self.ends.get(base) {
                Some((scope, platform)) => (scope.clone(), platform.clone()),
                // its problems are told already
                None => return,
            },
            base => {
                let env = config.as_ref().map_or(&[][..], |config| &config.env[..]);
                let mut scope = Scope::of_base(env);
                if let (FromTarget::Image(key), None) = (base, &config) {
                    scope.unknown_base = Some(ImageUse::of_key(key).0.to_owned());
                }
                (scope, head.platform.clone().unwrap_or_else(|| self.request.platform.clone()))
            }
        };
        for name in names {
            self.use_global(&name);
        }
        let reference = stage.image.reference.span.clone();
        if pattern {
            self.feature(Feature::PatternExpansion, &reference);
        }
        if let FromTarget::Image(key) = &base {
            if config.is_none() && !self.resolved.configs_needed.contains(key) {
                self.resolved.configs_needed.push(key.clone());
            }
            let (text, other) = ImageUse::of_key(key);
            if other.is_some() {
                self.feature(Feature::Platform, &reference);
            }
            self.reference(text, other, UseKind::From, reference.clone(), false);
            self.resolved.replacements.push(Replacement { span: reference, target: base.clone() });
        }
        let mut steps = Vec::with_capacity(plan.len());
        for (planned, targets) in plan {
            match self.step(&mut scope, planned, targets) {
                Ok(step) => steps.push(step),
                Err(problem) => self.problems.push(problem),
            }
        }
        self.ends.insert(index, (scope, platform.clone()));
        self.resolved.steps.push(ResolvedStage { index, base, platform, steps });
    }

    fn step(&mut self, scope: &mut Scope<'a>, planned: Planned, targets: Vec<Option<FromTarget>>) -> Result<Step, Problem> {
        let Planned { instruction, origin, trigger } = planned;
        // in the file itself a word has its own place, in a trigger of a base the FROM stands for it
        let shown = |span: &Span| origin.from.as_ref().map_or_else(|| span.clone(), |(_, from)| from.clone());
        let place = |span: &Span| Place {
            source: self.dockerfile.source.clone(),
            span: shown(span),
            note: origin.from.as_ref().map(|_| format!("its image brings `ONBUILD {}`", instruction.text.trim())),
        };
        // a trigger of a base has no directives
        let escape = if origin.from.is_some() { '\\' } else { self.dockerfile.directives.escape };
        let mut defaults = Vec::new();
        if let Command::Arg(declarations) = &instruction.command {
            for ArgDeclaration { name, default } in declarations {
                let mut expanded = None;
                let value = match (self.request.args.get(&name.value), default) {
                    (Some(requested), default) => {
                        // it counts for nothing, but for what the image's history says
                        expanded = default.as_ref().and_then(|default| Expander::new(escape, scope, &origin).word(default).ok());
                        Some(requested.clone())
                    }
                    (None, Some(default)) => {
                        let mut expander = Expander::new(escape, scope, &origin);
                        let word = expander.word(default)?;
                        if expander.pattern {
                            self.feature(Feature::PatternExpansion, &shown(&default.span));
                        }
                        let value = word.value.clone();
                        expanded = Some(word);
                        Some(value)
                    }
                    (None, None) => {
                        let global = self.globals.value(&name.value).map(str::to_owned);
                        if global.is_some() {
                            self.use_global(&name.value);
                        }
                        global
                    }
                };
                if let Some(value) = &value {
                    scope.set(name.value.clone(), value.clone());
                }
                if !is_proxy(&name.value) {
                    self.resolved.args.insert(name.value.clone(), value);
                }
                defaults.push(ArgDeclaration { name: name.clone(), default: expanded.or_else(|| default.clone()) });
            }
        }
        let mut expander = Expander::new(escape, scope, &origin);
        let mut expanded = expander.instruction(&instruction)?;
        if matches!(instruction.command, Command::Arg(_)) {
            expanded.instruction = Arc::new(instruction.with(Command::Arg(defaults), instruction.heredocs.clone()));
        }
        let pattern = expander.pattern;
        if let (Some(name), None) = (&expanded.unknown_source, &self.resolved.context.whole) {
            let base = scope.unknown_base.as_deref().unwrap_or_default();
            self.resolved.context.whole = Some(format!("`${name}` may come from the image `{base}`, whose config is not known"));
        }
        let words = from_words(&instruction.command);
        for (word, target) in words.iter().zip(&targets) {
            let (Some((word, kind)), Some(target)) = (word, target) else { continue };
            if let FromTarget::Image(text) = target {
                self.reference(text, None, *kind, shown(&word.span), origin.from.is_some());
            }
            let number = *kind == UseKind::CopyFrom && word.value.parse::<i64>().is_ok();
            if origin.from.is_none() && (number || matches!(target, FromTarget::Image(_))) {
                self.resolved.replacements.push(Replacement { span: word.span.clone(), target: target.clone() });
            }
        }
        match &expanded.instruction.command {
            Command::Env(pairs) => pairs.iter().for_each(|pair| scope.set(pair.key.value.clone(), pair.value.value.clone())),
            Command::Copy(transfer) if transfer.from.is_none() => {
                let sources = copy_sources(transfer, "COPY", &place);
                self.resolved.context.sources.extend(sources);
            }
            Command::Add(transfer, _) => {
                let sources = copy_sources(transfer, "ADD", &place);
                self.resolved.context.sources.extend(sources);
            }
            _ => {}
        }
        for mount in &expanded.mounts {
            let span = shown(&mount.span);
            match mount.kind {
                MountKind::Bind if mount.from.is_none() => {
                    let source = ContextSource::of_mount(mount.source.as_deref().unwrap_or(""), place(&mount.span));
                    self.resolved.context.sources.push(source);
                }
                MountKind::Secret => {
                    let (id, required) = (mount.effective_id().to_owned(), mount.required);
                    match self.resolved.secrets.iter_mut().find(|secret| secret.id == id) {
                        Some(secret) => secret.required |= required,
                        None => self.resolved.secrets.push(Secret { id, required, span: span.clone() }),
                    }
                }
                MountKind::Ssh => {
                    let (id, required) = (mount.effective_id().to_owned(), mount.required);
                    match self.resolved.ssh.iter_mut().find(|ssh| ssh.id == id) {
                        Some(ssh) => ssh.required |= required,
                        None => self.resolved.ssh.push(Ssh { id, required, span: span.clone() }),
                    }
                }
                _ => {}
            }
            self.feature(Feature::Mount(mount.kind), &span);
            if mount.env.is_some() {
                self.feature(Feature::SecretEnv, &span);
            }
        }
        for feature in features::features(&expanded.instruction).into_iter().chain(pattern.then_some(Feature::PatternExpansion)) {
            self.feature(feature, &shown(&instruction.span));
        }
        let is_run = matches!(instruction.command, Command::Run(_));
        Ok(Step {
            instruction: expanded.instruction,
            source: origin.source.clone(),
            trigger,
            from: targets,
            mounts: expanded.mounts,
            environment: if is_run { scope.environment() } else { Environment::default() },
        })
    }

    fn reference(&mut self, text: &str, platform: Option<Platform>, kind: UseKind, span: Span, in_base: bool) {
        let same = |used: &&mut ImageUse| used.text == text && used.platform == platform;
        match self.resolved.references.iter_mut().find(same) {
            Some(used) => used.in_base &= in_base,
            None => self.resolved.references.push(ImageUse { text: text.to_owned(), platform, kind, span, in_base }),
        }
    }

    fn feature(&mut self, feature: Feature, span: &Span) {
        if !self.resolved.features.iter().any(|(known, _)| *known == feature) {
            self.resolved.features.push((feature, span.clone()));
        }
    }

    fn use_global(&mut self, name: &str) {
        if self.globals.value(name).is_none() || !self.used_globals.insert(name.to_owned()) {
            return;
        }
        for name in self.global_uses.get(name).cloned().unwrap_or_default() {
            self.use_global(&name);
        }
    }

    fn finish(mut self) -> Result<Resolved, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        for name in &self.used_globals {
            if !is_proxy(name) {
                let value = self.globals.value(name).map(str::to_owned);
                self.resolved.args.entry(name.clone()).or_insert(value);
            }
        }
        let declared = self.declared();
        let stray = |name: &&String| !declared.contains(name.as_str()) && !is_proxy(name) && !name.starts_with("BUILDKIT_");
        self.resolved.unused_args = self.request.args.keys().filter(stray).cloned().collect();
        if let Some(syntax) = self.dockerfile.directives.custom_syntax() {
            let (name, span) = (syntax.value.clone(), syntax.span.clone());
            self.resolved.context.whole = Some(format!("what `# syntax={name}` reads is not known"));
            self.feature(Feature::CustomFrontend(name), &span);
        }
        self.resolved.features.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(self.resolved)
    }

    /// Every name that some ARG declares, in needed stages or not, and the platform args.
    fn declared(&self) -> BTreeSet<String> {
        let own = self.dockerfile.stages.iter().flat_map(|stage| &stage.instructions).chain(&self.dockerfile.global_args);
        let steps = self.resolved.steps.iter().flat_map(|stage| &stage.steps).map(|step| &step.instruction);
        let names = own.chain(steps).filter_map(|instruction| match &instruction.command {
            Command::Arg(declarations) => Some(declarations.iter().map(|declaration| declaration.name.value.clone())),
            _ => None,
        });
        let used = self.used_globals.iter().cloned();
        names.flatten().chain(used).collect()
    }
}

/// The args that are there without being passed (Dockerfile reference, "Automatic platform ARGs in the global scope").
fn platform_args<'a>(request: &Request<'a>, stage: &'a str) -> [(&'static str, Cow<'a, str>); 11] {
    let (target, build) = (request.platform, request.build_platform);
    [
        ("BUILDPLATFORM", build.to_string().into()),
        ("BUILDOS", build.os().into()),
        ("BUILDOSVERSION", "".into()),
        ("BUILDARCH", build.architecture().into()),
        ("BUILDVARIANT", build.variant().unwrap_or_default().into()),
        ("TARGETPLATFORM", target.to_string().into()),
        ("TARGETOS", target.os().into()),
        ("TARGETOSVERSION", "".into()),
        ("TARGETARCH", target.architecture().into()),
        ("TARGETVARIANT", target.variant().unwrap_or_default().into()),
        ("TARGETSTAGE", stage.into()),
    ]
}

/// The words of `--from` and `from=`, in the order of [`Resolver::targets`].
fn from_words(command: &Command) -> Vec<Option<(Spanned, UseKind)>> {
    match command {
        Command::Copy(transfer) => vec![transfer.from.clone().map(|word| (word, UseKind::CopyFrom))],
        Command::Run(run) => run.mounts.iter().map(|mount| mount.from.clone().map(|word| (word, UseKind::MountFrom))).collect(),
        _ => Vec::new(),
    }
}

fn copy_sources(transfer: &Transfer, instruction: &'static str, place: &dyn Fn(&Span) -> Place) -> Vec<ContextSource> {
    let exclude: Vec<String> = transfer.exclude.iter().map(|pattern| pattern.value.clone()).collect();
    let local = transfer.sources.iter().filter_map(|source| match source {
        FileSource::Path(path) if instruction == "COPY" || check::source_kind(&path.value) == check::SourceKind::Local => Some(path),
        _ => None,
    });
    local.map(|path| ContextSource::of_copy(&path.value, transfer.parents, exclude.clone(), instruction, place(&path.span))).collect()
}
