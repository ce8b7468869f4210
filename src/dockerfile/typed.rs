//! From a line taken apart to a typed instruction: which arguments and flags each keyword wants, checked as BuildKit does.

use std::sync::Arc;

use super::flags::{Flags, Takes, spanned};
use super::raw::{Arguments, Raw};
use super::text::Mapped;
use super::{
    AddFlags, ArgDeclaration, Command, CommandLine, FileSource, Healthcheck, HealthcheckTest, Heredoc, ImageFrom, Instruction, OnBuild,
    Pair, Run, Spanned, Transfer, heredoc, mount,
};
use crate::problem::{Problem, Source, nearest};

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What the reading of one instruction needs.
pub(super) struct Typed<'a> {
    pub source: &'a Arc<Source>,
    pub raw: &'a Raw,
    pub heredocs: &'a [Heredoc],
    /// The logical line.
    pub line: &'a Mapped,
}

impl Typed<'_> {
    fn keyword(&self) -> String {
        self.raw.keyword.as_str().to_ascii_uppercase()
    }

    fn fail(&self, message: String) -> Problem {
        Problem::new(message).at(self.source, self.raw.keyword.span().start..self.raw.rest.end.max(self.raw.keyword.span().end))
    }

    fn flags(&self, known: &[(&'static str, Takes)]) -> Result<Flags, Problem> {
        Flags::read(self.source, self.raw, known)
    }

    fn no_flags(&self) -> Result<(), Problem> {
        self.flags(&[]).map(drop)
    }

    /// The arguments as a list; of a JSON array every string has the place of the whole.
    fn list(&self) -> Vec<Spanned> {
        match &self.raw.arguments {
            Arguments::Words(words) => words.iter().map(spanned).collect(),
            Arguments::Json(strings) => {
                strings.iter().map(|string| Spanned { value: string.clone(), span: self.raw.rest.clone() }).collect()
            }
            _ => Vec::new(),
        }
    }

    fn at_least_one(&self) -> Result<Vec<Spanned>, Problem> {
        let list = self.list();
        if list.is_empty() {
            return Err(self.fail(format!("`{}` requires at least one argument", self.keyword())));
        }
        Ok(list)
    }

    fn exactly_one(&self) -> Result<Spanned, Problem> {
        let mut list = self.list();
        match (list.pop(), list.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(self.fail(format!("`{}` requires exactly one argument", self.keyword()))),
        }
    }

    /// The instruction's meaning.
    pub fn command(&self) -> Result<Command, Problem> {
        match self.keyword().as_str() {
            "FROM" => self.from(),
            "ARG" => self.arg(),
            "RUN" => self.run(),
            "COPY" => self.copy(),
            "ADD" => self.add(),
            "ENV" => self.pairs().map(Command::Env),
            "LABEL" => self.pairs().map(Command::Label),
            "MAINTAINER" => self.no_flags().and_then(|()| self.exactly_one()).map(Command::Maintainer),
            "EXPOSE" => self.no_flags().and_then(|()| self.at_least_one()).map(Command::Expose),
            "CMD" => self.no_flags().map(|()| Command::Cmd(command_line(&self.raw.arguments))),
            "ENTRYPOINT" => self.no_flags().map(|()| Command::Entrypoint(command_line(&self.raw.arguments))),
            "WORKDIR" => self.no_flags().and_then(|()| self.exactly_one()).map(Command::Workdir),
            "USER" => self.no_flags().and_then(|()| self.exactly_one()).map(Command::User),
            "VOLUME" => self.volume(),
            "STOPSIGNAL" => self.no_flags().and_then(|()| self.exactly_one()).map(Command::StopSignal),
            "SHELL" => self.shell(),
            "HEALTHCHECK" => self.healthcheck(),
            "ONBUILD" => self.on_build(),
            _ => {
                let problem =
                    Problem::new(format!("unknown instruction `{}`", self.raw.keyword.as_str())).at(self.source, self.raw.keyword.span());
                Err(match nearest(&self.keyword(), KEYWORDS) {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem,
                })
            }
        }
    }

    fn from(&self) -> Result<Command, Problem> {
        let flags = self.flags(&[("platform", Takes::Text)])?;
        let words = self.list();
        let (reference, name) = match &words[..] {
            [reference] => (reference, None),
            [reference, word, name] if word.value.eq_ignore_ascii_case("as") => (reference, Some(name)),
            _ => {
                return Err(self
                    .fail("`FROM` requires either one or three arguments".into())
                    .hint("write `FROM image` or `FROM image AS name`"));
            }
        };
        let name = name
            .map(|written| {
                let value = written.value.to_lowercase();
                let valid = value.starts_with(|c: char| c.is_ascii_lowercase())
                    && value.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c));
                if !valid {
                    return Err(Problem::new(format!("invalid name for a stage: `{}`", written.value))
                        .at(self.source, written.span.clone())
                        .hint("it starts with a letter and goes on with `a-z 0-9 - _ .`"));
                }
                Ok(Spanned { value, span: written.span.clone() })
            })
            .transpose()?;
        Ok(Command::From(ImageFrom { platform: flags.text("platform"), reference: reference.clone(), name }))
    }

    fn arg(&self) -> Result<Command, Problem> {
        self.no_flags()?;
        self.at_least_one()?;
        let Arguments::Words(words) = &self.raw.arguments else { return Ok(Command::Arg(Vec::new())) };
        let declaration = |word: &Mapped| match word.split_once('=') {
            Some((name, _)) if name.is_empty() => Err(Problem::new("names of `ARG` can't be blank").at(self.source, word.span())),
            Some((name, default)) => Ok(ArgDeclaration { name: spanned(&name), default: Some(spanned(&default)) }),
            None => Ok(ArgDeclaration { name: spanned(word), default: None }),
        };
        words.iter().map(declaration).collect::<Result<_, _>>().map(Command::Arg)
    }

    fn pairs(&self) -> Result<Vec<Pair>, Problem> {
        self.no_flags()?;
        let Arguments::Pairs(pairs) = &self.raw.arguments else { return Ok(Vec::new()) };
        if pairs.is_empty() {
            return Err(self.fail(format!("`{}` requires at least one argument", self.keyword())));
        }
        pairs
            .iter()
            .map(|(key, value, sign)| {
                if key.is_empty() {
                    return Err(self.fail(format!("names of `{}` can't be blank", self.keyword())));
                }
                Ok(Pair { key: spanned(key), value: spanned(value), legacy: !sign })
            })
            .collect()
    }

    fn run(&self) -> Result<Command, Problem> {
        let flags =
            self.flags(&[("mount", Takes::Texts), ("network", Takes::Text), ("security", Takes::Text), ("device", Takes::Texts)])?;
        let mounts = flags
            .texts("mount")
            .map(|flag| {
                mount::parse_flag(flag).map_err(|((message, hint), span)| {
                    let problem = Problem::new(message).at(self.source, span);
                    Problem { hint, ..problem }
                })
            })
            .collect::<Result<_, _>>()?;
        let one_of = |name: &str, allowed: &[&str]| match flags.text(name) {
            Some(value) if !allowed.contains(&value.value.as_str()) => {
                let problem = Problem::new(format!("`{}` is no value of `--{name}`", value.value)).at(self.source, value.span);
                let list = allowed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                Err(problem.hint(format!("there are {list}")))
            }
            value => Ok(value),
        };
        Ok(Command::Run(Run {
            line: command_line(&self.raw.arguments),
            mounts,
            network: one_of("network", &["default", "none", "host"])?,
            security: one_of("security", &["sandbox", "insecure"])?,
            devices: flags.texts("device").map(spanned).collect(),
        }))
    }

    fn copy(&self) -> Result<Command, Problem> {
        let flags = self.flags(&[
            ("from", Takes::Text),
            ("chown", Takes::Text),
            ("chmod", Takes::Text),
            ("link", Takes::Bool),
            ("parents", Takes::Bool),
            ("exclude", Takes::Texts),
        ])?;
        let transfer = self.transfer(&flags)?;
        if let Some(from) = transfer.from.as_ref().filter(|from| from.value.contains(['$', '\\', '\'', '"'])) {
            return Err(Problem::new("`--from` takes no variables")
                .at(self.source, from.span.clone())
                .hint("define a stage with `FROM` and a global `ARG`, and take its name here"));
        }
        Ok(Command::Copy(transfer))
    }

    fn add(&self) -> Result<Command, Problem> {
        let flags = self.flags(&[
            ("chown", Takes::Text),
            ("chmod", Takes::Text),
            ("link", Takes::Bool),
            ("exclude", Takes::Texts),
            ("checksum", Takes::Text),
            ("keep-git-dir", Takes::Bool),
            ("unpack", Takes::Bool),
        ])?;
        let transfer = self.transfer(&flags)?;
        if flags.text("checksum").is_some() && transfer.sources.len() != 1 {
            let span = flags.span("checksum").unwrap_or_else(|| self.raw.rest.clone());
            return Err(Problem::new("`--checksum` goes with one source only").at(self.source, span));
        }
        let add = AddFlags {
            checksum: flags.text("checksum"),
            keep_git_dir: flags.bool("keep-git-dir").unwrap_or(false),
            unpack: flags.bool("unpack"),
        };
        Ok(Command::Add(transfer, add))
    }

    fn transfer(&self, flags: &Flags) -> Result<Transfer, Problem> {
        let keyword = self.keyword();
        let mut words = self.list();
        let Some(destination) = words.pop().filter(|_| !words.is_empty()) else {
            return Err(self.fail(format!("`{keyword}` requires at least two arguments")).hint("sources first, the destination last"));
        };
        let is_json = matches!(self.raw.arguments, Arguments::Json(_));
        let heredoc_of = |word: &Spanned| if is_json { None } else { heredoc::parse_word(&word.value).ok().flatten() };
        if heredoc_of(&destination).is_some() {
            return Err(Problem::new(format!("`{keyword}` can't take a heredoc as its destination")).at(self.source, destination.span));
        }
        let source = |word: Spanned| match heredoc_of(&word) {
            // of several with one name the last one's body counts
            Some(found) => match self.heredocs.iter().rposition(|heredoc| heredoc.name == found.name) {
                Some(index) => FileSource::Heredoc(index),
                None => FileSource::Path(word),
            },
            None => FileSource::Path(word),
        };
        Ok(Transfer {
            from: flags.text("from"),
            sources: words.into_iter().map(source).collect(),
            destination,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.bool("link").unwrap_or(false),
            parents: flags.bool("parents").unwrap_or(false),
            exclude: flags.texts("exclude").map(spanned).collect(),
        })
    }

    fn volume(&self) -> Result<Command, Problem> {
        self.no_flags()?;
        let volumes = self.at_least_one()?;
        if let Some(empty) = volumes.iter().find(|volume| volume.value.trim().is_empty()) {
            return Err(Problem::new("a path of `VOLUME` can't be empty").at(self.source, empty.span.clone()));
        }
        Ok(Command::Volume(volumes))
    }

    fn shell(&self) -> Result<Command, Problem> {
        self.no_flags()?;
        match &self.raw.arguments {
            Arguments::Json(strings) if !strings.is_empty() => Ok(Command::Shell(strings.clone())),
            Arguments::Words(words) if !words.is_empty() => {
                Err(self.fail("`SHELL` requires its arguments as a JSON array".into()).hint("like `SHELL [\"/bin/bash\", \"-c\"]`"))
            }
            _ => Err(self.fail("`SHELL` requires at least one argument".into())),
        }
    }

    fn healthcheck(&self) -> Result<Command, Problem> {
        let Arguments::Typed(kind, rest) = &self.raw.arguments else {
            return Err(self.fail("`HEALTHCHECK` requires at least one argument".into()).hint("`CMD` and a command, or `NONE`"));
        };
        let line = command_line(rest);
        let empty = match &line {
            CommandLine::Shell(text) => text.is_empty(),
            CommandLine::Exec(strings) => strings.is_empty(),
        };
        match kind.as_str().to_ascii_uppercase().as_str() {
            "NONE" if !empty => Err(self.fail("`HEALTHCHECK NONE` takes no arguments".into())),
            "NONE" => {
                self.no_flags()?;
                Ok(Command::Healthcheck(Healthcheck::default()))
            }
            "CMD" => {
                let flags = self.flags(&[
                    ("interval", Takes::Text),
                    ("timeout", Takes::Text),
                    ("start-period", Takes::Text),
                    ("start-interval", Takes::Text),
                    ("retries", Takes::Text),
                ])?;
                if empty {
                    return Err(self.fail("a command is missing behind `HEALTHCHECK CMD`".into()));
                }
                let duration = |name: &str| flags.text(name).map(|text| self.duration(name, &text)).transpose();
                let retries = flags.text("retries").map(|text| {
                    text.value.parse::<u32>().ok().filter(|retries| *retries <= i32::MAX as u32).ok_or_else(|| {
                        Problem::new(format!("`--retries` is a number from 0, not `{}`", text.value)).at(self.source, text.span)
                    })
                });
                Ok(Command::Healthcheck(Healthcheck {
                    test: HealthcheckTest::Command(line),
                    interval: duration("interval")?,
                    timeout: duration("timeout")?,
                    start_period: duration("start-period")?,
                    start_interval: duration("start-interval")?,
                    retries: retries.transpose()?,
                }))
            }
            _ => Err(Problem::new(format!("unknown type `{}` of `HEALTHCHECK`", kind.as_str()))
                .at(self.source, kind.span())
                .hint("it is `CMD` or `NONE`")),
        }
    }

    fn duration(&self, name: &str, text: &Spanned) -> Result<u64, Problem> {
        let fail = |message: String| Problem::new(message).at(self.source, text.span.clone());
        let nanoseconds = parse_duration(&text.value)
            .ok_or_else(|| fail(format!("`{}` is no duration", text.value)).hint("like `30s`, `1m30s` or `500ms`"))?;
        if (1..1_000_000).contains(&nanoseconds) {
            return Err(fail(format!("`--{name}` can't be less than `1ms`")));
        }
        Ok(nanoseconds)
    }

    fn on_build(&self) -> Result<Command, Problem> {
        self.no_flags()?;
        let Arguments::Trigger(raw) = &self.raw.arguments else {
            return Err(self.fail("`ONBUILD` requires at least one argument".into()));
        };
        let trigger = Typed { source: self.source, raw, heredocs: self.heredocs, line: self.line };
        match trigger.keyword().as_str() {
            "ONBUILD" => return Err(self.fail("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into())),
            keyword @ ("FROM" | "MAINTAINER") => {
                return Err(self.fail(format!("`{keyword}` isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        let command = trigger.command()?;
        let line = self.line.as_str().trim();
        let written = line["ONBUILD".len().min(line.len())..].trim_start();
        let mut text = written.to_owned();
        for heredoc in self.heredocs {
            text = format!("{text}\n{}{}", heredoc.content, heredoc.name);
        }
        let span = raw.keyword.span().start..raw.rest.end.max(raw.keyword.span().end);
        let trigger = Instruction { span, text: written.to_owned(), heredocs: self.heredocs.to_vec(), command };
        Ok(Command::OnBuild(OnBuild { text, trigger: Box::new(trigger) }))
    }
}

fn command_line(arguments: &Arguments) -> CommandLine {
    match arguments {
        Arguments::Json(strings) => CommandLine::Exec(strings.clone()),
        Arguments::Words(words) => CommandLine::Shell(words.iter().map(Mapped::as_str).collect::<Vec<_>>().join(" ")),
        _ => CommandLine::Shell(String::new()),
    }
}

/// Nanoseconds of a duration as Go writes it; not negative.
fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.len() - rest.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.').len();
        let factor = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[unit..];
        total += number * factor;
    }
    (total <= i64::MAX as f64).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("0", Some(0)),
            ("5", None),
            ("", None),
            ("-1s", None),
            ("1x", None),
            ("s", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
