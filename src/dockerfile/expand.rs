//! Variables in instructions: the scope of a stage, and which words of which instruction BuildKit expands. Knows no stages.

use std::borrow::Cow;
use std::sync::Arc;

use super::words::{Expansion, Lexer, WordError};
use super::{Command, Environment, Heredoc, Instruction, Mount, Pair, Span, Spanned, Transfer, mount};
use crate::problem::{Problem, Source};

/// What PATH is where the base sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment at some point of a stage. ENV and ARG write into the same names, the later one wins (as in BuildKit). What lives as
/// long as the request is borrowed: most of it is never asked for, thousands of times.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'a> {
    variables: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The variables as they are handed out; dropped when one changes.
    shared: Option<Environment>,
    /// The image whose ENV is not known, if so: a name that is not set here may be set there.
    pub unknown_base: Option<String>,
}

impl<'a> Scope<'a> {
    /// An empty one with room for so many variables.
    pub fn with_room(variables: usize) -> Self {
        Self { variables: Vec::with_capacity(variables), ..Self::default() }
    }

    /// The scope of a stage's start.
    pub fn of_base(env: &[String]) -> Self {
        let mut scope = Self::with_room(env.len() + 4);
        for entry in env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            scope.set(name.to_owned(), value.to_owned());
        }
        if scope.value("PATH").is_none() {
            scope.set("PATH", DEFAULT_PATH);
        }
        scope
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.shared = None;
        let (name, value) = (name.into(), value.into());
        match self.variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name, value)),
        }
    }

    /// All variables, in order of their first setting; shared until one changes.
    pub fn environment(&mut self) -> Environment {
        let variables = &self.variables;
        let owned = || variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.shared.get_or_insert_with(owned).clone()
    }
}

/// Where the words of an instruction stand, for problems.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The text its spans point into.
    pub source: Arc<Source>,
    /// For a trigger of a base image: the FROM that brings it in.
    pub from: Option<(Arc<Source>, Span)>,
}

impl Origin {
    /// A problem at `span`, and at the FROM that brings it in.
    pub fn problem(&self, message: impl Into<String>, span: &Span) -> Problem {
        let problem = Problem::new(message).at(&self.source, span.clone());
        match &self.from {
            Some((source, from)) => problem.at_with(source, from.clone(), "the image started from here brings it as ONBUILD"),
            None => problem,
        }
    }
}

/// Whether a word comes out as it is: most do, thousands of times.
fn is_plain(word: &str, escape: char) -> bool {
    !word.contains(['$', '\'', '"', escape])
}

/// Expands words in one scope.
pub(super) struct Expander<'a> {
    pub escape: char,
    pub scope: &'a Scope<'a>,
    pub origin: &'a Origin,
    /// Names asked for, in order.
    pub names: Vec<String>,
    /// A modifier with a pattern was used.
    pub pattern: bool,
    /// Names that are not set, though the base may set them.
    pub unknown: Vec<String>,
}

/// An instruction with its words expanded.
pub(super) struct Expanded {
    pub instruction: Arc<Instruction>,
    pub mounts: Vec<Mount>,
    /// A name in what is read from the context that the base may set.
    pub unknown_source: Option<String>,
}

impl<'a> Expander<'a> {
    pub fn new(escape: char, scope: &'a Scope<'a>, origin: &'a Origin) -> Self {
        Self { escape, scope, origin, names: Vec::new(), pattern: false, unknown: Vec::new() }
    }

    fn lex(&mut self, lexer: Lexer, word: &str) -> Result<Expansion, WordError> {
        let scope = self.scope;
        let expansion = lexer.expand(word, &|name| scope.value(name).map(str::to_owned));
        let expansion = match expansion {
            // the base may set it
            Err(WordError::Required { name, .. }) if scope.unknown_base.is_some() && scope.value(&name).is_none() => {
                self.unknown.push(name);
                return Ok(Expansion { text: word.to_owned(), words: vec![word.to_owned()], names: Vec::new(), pattern: false });
            }
            expansion => expansion?,
        };
        for (name, set) in &expansion.names {
            if !set && scope.unknown_base.is_some() {
                self.unknown.push(name.clone());
            }
            self.names.push(name.clone());
        }
        self.pattern |= expansion.pattern;
        Ok(expansion)
    }

    /// One word.
    pub fn word(&mut self, word: &Spanned) -> Result<Spanned, Problem> {
        if is_plain(&word.value, self.escape) {
            return Ok(word.clone());
        }
        let text = self.lex(Lexer::new(self.escape), &word.value).map_err(|error| self.origin.problem(error.to_string(), &word.span))?.text;
        Ok(Spanned { value: text, span: word.span.clone() })
    }

    fn all(&mut self, words: &[Spanned]) -> Result<Vec<Spanned>, Problem> {
        words.iter().map(|word| self.word(word)).collect()
    }

    fn optional(&mut self, word: Option<&Spanned>) -> Result<Option<Spanned>, Problem> {
        // what comes out empty counts as not given
        Ok(word.map(|word| self.word(word)).transpose()?.filter(|word| !word.value.is_empty()))
    }

    fn pairs(&mut self, pairs: &[Pair]) -> Result<Vec<Pair>, Problem> {
        pairs.iter().map(|pair| Ok(Pair { key: self.word(&pair.key)?, value: self.word(&pair.value)?, legacy: pair.legacy })).collect()
    }

    /// Splits into words after expansion, as EXPOSE does.
    fn split(&mut self, words: &[Spanned]) -> Result<Vec<Spanned>, Problem> {
        let mut all = Vec::new();
        for word in words {
            let expansion =
                self.lex(Lexer::new(self.escape), &word.value).map_err(|error| self.origin.problem(error.to_string(), &word.span))?;
            all.extend(expansion.words.into_iter().map(|value| Spanned { value, span: word.span.clone() }));
        }
        Ok(all)
    }

    fn transfer(&mut self, transfer: &Transfer) -> Result<(Transfer, Option<String>), Problem> {
        let mut result = transfer.clone();
        result.destination = self.word(&transfer.destination)?;
        result.chown = self.optional(transfer.chown.as_ref())?;
        result.chmod = self.optional(transfer.chmod.as_ref())?;
        let before = self.unknown.len();
        for source in &mut result.sources {
            if let super::FileSource::Path(path) = source {
                *path = self.word(path)?;
            }
        }
        result.exclude = self.all(&transfer.exclude)?;
        Ok((result, self.unknown.get(before).cloned()))
    }

    fn heredocs(&mut self, heredocs: &[Heredoc]) -> Result<Vec<Heredoc>, Problem> {
        let lexer = Lexer { skip_quotes: true, ..Lexer::new('\\') };
        heredocs
            .iter()
            .map(|heredoc| {
                let mut result = heredoc.clone();
                if heredoc.expand {
                    let body = heredoc.body();
                    result.content = self.lex(lexer, &body).map_err(|error| self.origin.problem(error.to_string(), &heredoc.span))?.text;
                    result.chomp = false;
                }
                Ok(result)
            })
            .collect()
    }

    /// Whether all words come out as they are: then nothing need be copied.
    fn leaves<'w>(&self, mut words: impl Iterator<Item = &'w Spanned>) -> bool {
        words.all(|word| is_plain(&word.value, self.escape))
    }

    fn leaves_transfer(&self, transfer: &Transfer, heredocs: &[Heredoc]) -> bool {
        let optional: Vec<&Spanned> = transfer.chown.iter().chain(&transfer.chmod).collect();
        let paths = transfer.sources.iter().filter_map(|source| match source {
            super::FileSource::Path(path) => Some(path),
            _ => None,
        });
        // what is empty counts as not given
        !optional.iter().any(|word| word.value.is_empty())
            && !heredocs.iter().any(|heredoc| heredoc.expand)
            && self.leaves(paths.chain(optional).chain(&transfer.exclude).chain([&transfer.destination]))
    }

    /// The command as it runs; `None` where it stays as it is.
    fn command(&mut self, instruction: &Instruction, expanded: &mut Expanded) -> Result<Option<(Command, Vec<Heredoc>)>, Problem> {
        let heredocs = &instruction.heredocs;
        let command = match &instruction.command {
            Command::From(_) | Command::Arg(_) | Command::OnBuild(_) | Command::Maintainer(_) => return Ok(None),
            Command::Cmd(_) | Command::Entrypoint(_) | Command::Shell(_) | Command::Healthcheck(_) => return Ok(None),
            Command::Run(run) => {
                for flag in &run.mounts {
                    let before = self.unknown.len();
                    let read = mount::expand(flag, &mut |value| {
                        self.lex(Lexer::new(self.escape), value).map(|expansion| expansion.text).map_err(|error| error.to_string())
                    });
                    let unknown = self.unknown.get(before).cloned();
                    match read {
                        Ok(mount) => {
                            if mount.kind == super::MountKind::Bind && mount.from.is_none() {
                                expanded.unknown_source = expanded.unknown_source.take().or(unknown);
                            }
                            expanded.mounts.push(mount);
                        }
                        // it may well be right once the base is known
                        Err(_) if unknown.is_some() => expanded.unknown_source = expanded.unknown_source.take().or(unknown),
                        Err((message, hint)) => {
                            let problem = self.origin.problem(message, &flag.text.span);
                            return Err(Problem { hint, ..problem });
                        }
                    }
                }
                return Ok(None);
            }
            Command::Copy(transfer) if self.leaves_transfer(transfer, heredocs) => return Ok(None),
            Command::Copy(transfer) => {
                let (transfer, unknown) = self.transfer(transfer)?;
                expanded.unknown_source = unknown;
                return Ok(Some((Command::Copy(transfer), self.heredocs(heredocs)?)));
            }
            Command::Add(transfer, add) => {
                let (transfer, unknown) = self.transfer(transfer)?;
                let checksum = self.optional(add.checksum.as_ref())?;
                expanded.unknown_source = unknown;
                let command = Command::Add(transfer, super::AddFlags { checksum, ..add.clone() });
                return Ok(Some((command, self.heredocs(heredocs)?)));
            }
            Command::Env(pairs) | Command::Label(pairs) if self.leaves(pairs.iter().flat_map(|pair| [&pair.key, &pair.value])) => {
                return Ok(None);
            }
            Command::Env(pairs) => Command::Env(self.pairs(pairs)?),
            Command::Label(pairs) => Command::Label(self.pairs(pairs)?),
            Command::Expose(ports) => Command::Expose(self.split(ports)?),
            Command::Workdir(path) => Command::Workdir(self.word(path)?),
            Command::User(user) => Command::User(self.word(user)?),
            Command::Volume(paths) => Command::Volume(self.all(paths)?),
            Command::StopSignal(signal) => Command::StopSignal(self.word(signal)?),
        };
        Ok(Some((command, heredocs.clone())))
    }

    /// The instruction as it runs. FROM, ARG and ONBUILD stay as they are: they have rules of their own; the caller does ARG.
    pub fn instruction(&mut self, instruction: &Arc<Instruction>) -> Result<Expanded, Problem> {
        let mut expanded = Expanded { instruction: instruction.clone(), mounts: Vec::new(), unknown_source: None };
        if let Some((command, heredocs)) = self.command(instruction, &mut expanded)? {
            expanded.instruction = Arc::new(instruction.with(command, heredocs));
        }
        if self.unknown.is_empty() {
            super::check::check(&expanded.instruction, self.origin)?;
        }
        Ok(expanded)
    }
}
