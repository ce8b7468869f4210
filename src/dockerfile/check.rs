//! What can only be judged once words are expanded: modes, ports, signals, and where COPY and ADD may take things from.

use super::expand::Origin;
use super::{Command, FileSource, Instruction, Spanned};
use crate::problem::Problem;

/// Names of signals without `SIG`, in the order of their numbers from 1 (signal(7), x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Where ADD takes a source from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A path of the context.
    Local,
    /// http or https.
    Url,
    /// A Git repository.
    Git,
}

/// What a source of ADD is, by its text.
pub fn source_kind(source: &str) -> SourceKind {
    let http = source.starts_with("http://") || source.starts_with("https://");
    let scheme = ["git://", "ssh://"].iter().any(|scheme| source.starts_with(scheme));
    // user@host:path
    let short = source.split_once('@').is_some_and(|(user, rest)| {
        let word = |text: &str, extra: &[u8]| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || extra.contains(&c));
        word(user, b"-_") && rest.split_once(':').is_some_and(|(host, _)| word(host, b"-."))
    });
    match http {
        true if source.split(['#', '?']).next().is_some_and(|path| path.ends_with(".git")) => SourceKind::Git,
        true => SourceKind::Url,
        false if scheme || short => SourceKind::Git,
        false => SourceKind::Local,
    }
}

/// Checks an expanded instruction.
pub(super) fn check(instruction: &Instruction, origin: &Origin) -> Result<(), Problem> {
    let fail = |message: String, word: &Spanned| Err(origin.problem(message, &word.span));
    match &instruction.command {
        Command::Copy(transfer) | Command::Add(transfer, _) => {
            if let Some(chmod) = transfer.chmod.as_ref().filter(|chmod| !valid_mode(&chmod.value)) {
                return fail(format!("`--chmod` is an octal mode up to 7777 or a symbolic one, not `{}`", chmod.value), chmod);
            }
            let paths = transfer.sources.iter().filter_map(|source| match source {
                FileSource::Path(path) => Some(path),
                FileSource::Heredoc(_) => None,
            });
            for path in paths {
                let what = match source_kind(&path.value) {
                    SourceKind::Local => "a path of the context",
                    SourceKind::Url => "a URL",
                    SourceKind::Git => "a Git repository",
                };
                match &instruction.command {
                    Command::Copy(_) if source_kind(&path.value) != SourceKind::Local => {
                        return fail(format!("the source of `COPY` can't be {what}"), path)
                            .map_err(|problem: Problem| problem.hint("use `ADD`"));
                    }
                    Command::Add(_, add) if add.checksum.is_some() && source_kind(&path.value) == SourceKind::Local => {
                        return fail(format!("`--checksum` goes with a URL or a Git repository, not with {what}"), path);
                    }
                    _ => {}
                }
            }
            Ok(())
        }
        Command::Expose(ports) => match ports.iter().find(|port| !valid_port(&port.value)) {
            Some(port) => {
                fail(format!("`{}` is no port", port.value), port).map_err(|problem| problem.hint("like `80`, `8000-8010` or `53/udp`"))
            }
            None => Ok(()),
        },
        Command::StopSignal(signal) if !valid_signal(&signal.value) => fail(format!("`{}` is no signal", signal.value), signal),
        Command::Volume(paths) => match paths.iter().find(|path| path.value.is_empty()) {
            Some(path) => fail("a path of `VOLUME` can't be empty".into(), path),
            None => Ok(()),
        },
        Command::Workdir(path) if path.value.is_empty() => fail("the path of `WORKDIR` is empty".into(), path),
        _ => Ok(()),
    }
}

/// Whether a mode is written in letters.
pub(super) fn symbolic(mode: &str) -> bool {
    u32::from_str_radix(mode, 8).is_err()
}

fn valid_mode(mode: &str) -> bool {
    match u32::from_str_radix(mode, 8) {
        Ok(mode) => mode <= 0o7777,
        Err(_) => mode.split(',').all(|clause| {
            let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
            rest.starts_with(['+', '-', '=']) && rest.bytes().all(|c| b"+-=rwxXstugo".contains(&c))
        }),
    }
}

fn valid_port(text: &str) -> bool {
    // [[address:]host port:]port[-port][/protocol]
    let written = text.rsplit(':').next().unwrap_or("");
    let (ports, protocol) = written.split_once('/').unwrap_or((written, ""));
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let range = match ports.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(ports).is_some(),
    };
    range && ["", "tcp", "udp", "sctp"].contains(&protocol.to_ascii_lowercase().as_str())
}

fn valid_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str, sign: char, most: u8| {
        name.is_empty()
            || name.strip_prefix(sign).is_some_and(|offset| offset.parse::<u8>().is_ok_and(|offset| (1..=most).contains(&offset)))
    };
    SIGNALS.contains(&name)
        || ["CLD", "IOT", "POLL", "UNUSED"].contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|rest| real_time(rest, '+', 15))
        || name.strip_prefix("RTMAX").is_some_and(|rest| real_time(rest, '-', 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for (source, expected) in [
            ("a/b", SourceKind::Local),
            ("./git@host:x", SourceKind::Local),
            ("github.com/a/b", SourceKind::Local),
            ("https://example.com/a.tar.gz", SourceKind::Url),
            ("https://example.com/a.git#main:dir", SourceKind::Git),
            ("git@example.com:a/b.git", SourceKind::Git),
            ("ssh://git@example.com/a", SourceKind::Git),
        ] {
            assert_eq!(source_kind(source), expected, "{source}");
        }
    }

    #[test]
    fn modes_ports_signals() {
        let good = |valid: fn(&str) -> bool, texts: &[&str]| texts.iter().filter(|text| !valid(text)).count();
        assert_eq!(good(valid_mode, &["755", "0644", "7777", "u=rwX,go=rX", "+x"]), 0);
        assert_eq!(good(valid_mode, &["10000", "999", "u", "rwx", ""]), 5);
        assert_eq!(good(valid_port, &["80", "80/UDP", "1-2/tcp", "127.0.0.1:80:80"]), 0);
        assert_eq!(good(valid_port, &["", "x", "2-1", "80/x", "70000", "1-2-3", "+1"]), 7);
        assert_eq!(good(valid_signal, &["9", "SIGTERM", "kill", "RTMIN+3", "SIGRTMAX-14", "RTMIN"]), 0);
        assert_eq!(good(valid_signal, &["0", "SIGFOO", "RTMIN+16", ""]), 4);
    }
}
