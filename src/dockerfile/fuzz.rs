//! What must hold of this room whatever the text: for fuzzers and the smoke run (`crate::fuzz`). Panics where it does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;

use super::glob::ShellPattern;
use super::words::Lexer;
use super::{Command, Configs, Dockerfile, FileSource, Ignore, Instruction, Request, Resolved, Span, Spanned, parse, parse_test};
use crate::image::ImageConfig;
use crate::problem::{Problem, Source};

fn source(text: &str) -> Arc<Source> {
    Arc::new(Source { path: "Dockerfile".into(), text: text.into() })
}

/// Every base has these triggers.
struct Triggers(Arc<ImageConfig>);

impl Configs for Triggers {
    fn config(&self, _: &str) -> Option<Arc<ImageConfig>> {
        Some(self.0.clone())
    }
}

/// A Dockerfile, and behind a NUL the ONBUILD triggers of every base, one a line. Places lie in the text; what is generated parses, has
/// the same stages and instructions, and generates itself.
pub fn dockerfile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, triggers) = text.split_once('\0').unwrap_or((text, ""));
    let on_build = triggers.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let config = ImageConfig { env: vec!["A=a b".into(), "PATH=/bin".into()], on_build, ..ImageConfig::default() };
    let configs = Triggers(Arc::new(config));
    for parse in [parse, parse_test] {
        let source = source(text);
        match parse(&source) {
            Err(problems) => check_problems(&problems),
            Ok(dockerfile) => check_dockerfile(&dockerfile, &configs),
        }
    }
}

fn check_problems(problems: &[Problem]) {
    assert!(!problems.is_empty(), "an error without a problem");
    for problem in problems {
        assert!(!problem.message.is_empty());
        for place in &problem.places {
            assert!(place.source.text.get(place.span.clone()).is_some(), "{:?} is no place: {}", place.span, problem.message);
            place.line_column();
        }
    }
}

fn resolve(dockerfile: &Dockerfile, configs: &dyn Configs) -> Result<Resolved, Vec<Problem>> {
    let args: BTreeMap<String, String> = [("B".to_owned(), "b".to_owned())].into();
    let platform = crate::platform::Platform::host();
    dockerfile.resolve(&Request { target: None, args: &args, platform: &platform, build_platform: &platform }, configs)
}

fn check_dockerfile(dockerfile: &Dockerfile, configs: &dyn Configs) {
    let text = &dockerfile.source().text;
    let inside = |span: &Span, outer: &Span| {
        assert!(text.get(span.clone()).is_some(), "{span:?} is no place");
        assert!(outer.start <= span.start && span.end <= outer.end, "{span:?} is not in {outer:?}");
    };
    let mut end = 0;
    for instruction in dockerfile.global_args() {
        check_instruction(instruction, &inside);
    }
    for stage in dockerfile.stages() {
        inside(&stage.span, &(end..text.len()));
        end = stage.span.end;
        let mut end = stage.span.start;
        for instruction in std::iter::once(&stage.from).chain(&stage.instructions) {
            inside(&instruction.span, &(end..stage.span.end));
            end = instruction.span.end;
            check_instruction(instruction, &inside);
        }
    }
    let resolved = match resolve(dockerfile, configs) {
        Err(problems) => return check_problems(&problems),
        Ok(resolved) => resolved,
    };
    let generated = resolved.generate(dockerfile, &|_| "img:1".into());
    let again = parse(&source(&generated)).unwrap_or_else(|problems| panic!("{generated:?}: {}", problems[0].message));
    let kinds = |instructions: &mut dyn Iterator<Item = &Arc<Instruction>>| -> Vec<_> {
        instructions.map(|instruction| (std::mem::discriminant(&instruction.command), instruction.heredocs.len())).collect()
    };
    let before: Vec<_> = resolved
        .stages
        .iter()
        .map(|index| &dockerfile.stages()[*index])
        .map(|stage| kinds(&mut std::iter::once(&stage.from).chain(&stage.instructions)))
        .collect();
    let after: Vec<_> = again.stages().iter().map(|stage| kinds(&mut std::iter::once(&stage.from).chain(&stage.instructions))).collect();
    assert_eq!(before, after, "what is generated says something else: {generated:?}");
    let second = resolve(&again, configs).unwrap_or_else(|problems| panic!("{generated:?}: {}", problems[0].message));
    assert_eq!(resolved.stages.len(), second.stages.len(), "{generated:?} needs other stages");
    assert_eq!(second.generate(&again, &|_| "img:1".into()).trim_end(), generated.trim_end(), "generated twice");
    resolved.canonical(dockerfile);
}

fn check_instruction(instruction: &Instruction, inside: &dyn Fn(&Span, &Span)) {
    let check = |word: &Spanned| inside(&word.span, &instruction.span);
    for heredoc in &instruction.heredocs {
        inside(&heredoc.span, &instruction.span);
    }
    match &instruction.command {
        Command::From(image) => {
            check(&image.reference);
            image.name.iter().chain(&image.platform).for_each(check);
        }
        Command::Copy(transfer) | Command::Add(transfer, _) => {
            check(&transfer.destination);
            [&transfer.from, &transfer.chown, &transfer.chmod].into_iter().flatten().for_each(check);
            transfer.exclude.iter().for_each(check);
            for source in &transfer.sources {
                match source {
                    FileSource::Path(path) => check(path),
                    FileSource::Heredoc(index) => assert!(*index < instruction.heredocs.len()),
                }
            }
        }
        Command::Run(run) => run.mounts.iter().for_each(|mount| check(&mount.text)),
        Command::Env(pairs) | Command::Label(pairs) => pairs.iter().for_each(|pair| {
            check(&pair.key);
            check(&pair.value);
        }),
        Command::Arg(declarations) => declarations.iter().for_each(|declaration| {
            check(&declaration.name);
            declaration.default.iter().for_each(check);
        }),
        Command::Expose(words) | Command::Volume(words) => words.iter().for_each(check),
        Command::Workdir(word) | Command::User(word) | Command::StopSignal(word) | Command::Maintainer(word) => check(word),
        _ => {}
    }
}

/// A word, and behind NULs the values of `V` and `W`; its first byte says how it is read. Quoting holds, nothing is lost in splitting,
/// and patterns match what a naive reading matches.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\0');
    let (head, value, other) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    let mut chars = head.chars();
    let how = chars.next().map_or(0, u32::from);
    let word = chars.as_str();
    let escape = if how & 1 == 0 { '\\' } else { '`' };
    let mut lexer = Lexer::new(escape);
    lexer.raw_quotes = how & 2 != 0;
    lexer.raw_escapes = how & 4 != 0;
    lexer.skip_quotes = how & 8 != 0;
    lexer.skip_unset = how & 16 != 0;
    let lookup = |name: &str| match name {
        "V" => Some(value.to_owned()),
        "W" => other.map(str::to_owned),
        _ => None,
    };
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    if let Ok(expansion) = lexer.expand(word, &lookup) {
        assert_eq!(plain(&expansion.words.concat()), plain(&expansion.text), "splitting loses or adds something");
        assert!(expansion.words.iter().all(|word| !word.is_empty()));
        if !word.contains(['$', '\'', '"', escape]) {
            assert_eq!(expansion.text, word);
        }
    }
    let ordinary = Lexer::new(escape);
    let unset = |_: &str| None;
    let escaped: String = word.chars().flat_map(|char| [escape, char]).collect();
    assert_eq!(ordinary.expand(&escaped, &unset).map(|expansion| expansion.text).as_deref(), Ok(word), "escaped");
    if !word.contains('\'') {
        let expansion = ordinary.expand(&format!("'{word}'"), &unset);
        let expected: Vec<&str> = Some(word).filter(|word| !word.is_empty()).into_iter().collect();
        assert_eq!(expansion.map(|expansion| expansion.words).unwrap_or_default(), expected, "in single quotes");
    }
    let quoted: String =
        word.chars().flat_map(|char| if char == '"' || char == '$' || char == escape { vec![escape, char] } else { vec![char] }).collect();
    assert_eq!(ordinary.expand(&format!("\"{quoted}\""), &unset).map(|expansion| expansion.text).as_deref(), Ok(word), "in double quotes");
    let keep = Lexer { raw_quotes: true, skip_unset: true, ..ordinary };
    if let (false, Ok(expansion)) = (word.contains([escape, '\\']), keep.expand(word, &unset)) {
        assert_eq!(expansion.text, word, "what is unset stays");
    }
    patterns(word, value);
}

/// Whether all of `text` matches, by trying everything; `any` is what a star takes.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
        ['?', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
        ['\\', char, rest @ ..] | [char, rest @ ..] => text.first() == Some(char) && naive(rest, &text[1..]),
    }
}

fn patterns(pattern: &str, value: &str) {
    let Some(parsed) = ShellPattern::parse(pattern) else { return };
    let (pattern, value): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
    // trying everything takes its time
    if pattern.len() > 10 || value.len() > 16 {
        return;
    }
    let text = |chars: &[char]| chars.iter().collect::<String>();
    let length = value.len();
    let ends: Vec<usize> = (0..=length).filter(|end| naive(&pattern, &value[..*end])).collect();
    let starts: Vec<usize> = (0..=length).filter(|start| naive(&pattern, &value[*start..])).collect();
    let whole = text(&value);
    assert_eq!(parsed.without_prefix(&whole, false), text(&value[ends.first().copied().unwrap_or(0)..]), "#");
    assert_eq!(parsed.without_prefix(&whole, true), text(&value[ends.last().copied().unwrap_or(0)..]), "##");
    assert_eq!(parsed.without_suffix(&whole, false), text(&value[..starts.last().copied().unwrap_or(length)]), "%");
    assert_eq!(parsed.without_suffix(&whole, true), text(&value[..starts.first().copied().unwrap_or(length)]), "%%");
    let first = (0..=length).find_map(|start| Some((start, (start..=length).rev().find(|end| naive(&pattern, &value[start..*end]))?)));
    let expected = match first {
        Some((start, end)) => format!("{}<>{}", text(&value[..start]), text(&value[end..])),
        None => whole.clone(),
    };
    assert_eq!(parsed.replace(&whole, "<>", false), expected, "/");
    let (mut expected, mut at, mut last) = (String::new(), 0, None);
    while at <= length {
        let end = (at..=length).rev().find(|end| naive(&pattern, &value[at..*end]));
        if let Some(end) = end.filter(|end| *end > at || last != Some(at)) {
            expected.push_str("<>");
            last = Some(end);
            if end > at {
                at = end;
                continue;
            }
        }
        expected.extend(value.get(at));
        at += 1;
    }
    assert_eq!(parsed.replace(&whole, "<>", true), expected, "//");
}

/// An ignore file, and behind a NUL a path. It agrees with a slow reading by regular expressions, as moby's own is, and what is pruned
/// holds nothing that counts.
pub fn ignore(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, path) = text.split_once('\0').unwrap_or((text, "a/b"));
    let source = source(text);
    let ignore = match Ignore::parse(&source) {
        Ok(ignore) => ignore,
        Err(problem) => return check_problems(&[problem]),
    };
    let path = path.trim_matches('/');
    if path.is_empty() || path.contains('\n') || path.contains("//") {
        return;
    }
    let mut excluded = false;
    for (pattern, _) in super::ignore::read(text) {
        let (pattern, takes_back) = pattern.strip_prefix('!').map_or((pattern.as_str(), false), |rest| (rest, true));
        let Some(matches) = slow_pattern(pattern) else { return };
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        if matches(path) || parents.into_iter().any(&matches) {
            excluded = !takes_back;
        }
    }
    assert_eq!(ignore.excludes(path), excluded, "{path:?}");
    for (at, _) in path.match_indices('/') {
        if ignore.excludes(&path[..at]) && !ignore.may_reinclude_below(&path[..at]) {
            assert!(ignore.excludes(path), "{path:?} is lost below {:?}", &path[..at]);
        }
    }
}

type Matcher = Box<dyn Fn(&str) -> bool>;

/// A pattern by moby's translation to a regular expression; `None` where that has no meaning of its own.
fn slow_pattern(pattern: &str) -> Option<Matcher> {
    if let Some(suffix) = pattern.strip_prefix("**").filter(|rest| !rest.contains(['*', '?', '[', ']', '\\'])) {
        let suffix = suffix.to_owned();
        return Some(Box::new(move |path| path.ends_with(&suffix) || suffix.strip_prefix('/') == Some(path)));
    }
    let mut expression = String::from("(?s)^");
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                expression.push_str(if chars.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '\\' => expression.push_str(&regex::escape(&chars.next()?.to_string())),
            '[' => {
                expression.push('[');
                let mut first = true;
                loop {
                    match chars.next()? {
                        '^' if first && expression.ends_with('[') => {
                            expression.push('^');
                            continue;
                        }
                        ']' if !first => break,
                        '\\' => expression.push_str(&format!("\\x{{{:x}}}", u32::from(chars.next()?))),
                        '-' => expression.push('-'),
                        char => expression.push_str(&format!("\\x{{{:x}}}", u32::from(char))),
                    }
                    first = false;
                }
                expression.push(']');
            }
            char => expression.push_str(&regex::escape(&char.to_string())),
        }
    }
    expression.push('$');
    // a range that runs backwards is nothing for it
    let expression = Regex::new(&expression).ok()?;
    Some(Box::new(move |path| expression.is_match(path)))
}
