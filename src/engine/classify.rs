//! Whether a failed step failed by itself, or because something around it did: read off the step's own log lines. Pure; the
//! patterns are those that tools print, the rule is that of the design (section 6): the last line that matches anything decides,
//! and a missing package is transient only after a network error in the same step.

use std::sync::LazyLock;

use regex::RegexSet;

use crate::failure::{FailureClass, Retry};

/// What a failed step's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Step or infra.
    pub class: FailureClass,
    /// Whether again.
    pub retry: Retry,
    /// The line that decided; `None` when none did.
    pub evidence: Option<String>,
    /// For [`crate::failure::Failure::group`].
    pub group: Option<&'static str>,
}

/// Another attempt may pass.
const TRANSIENT: &[&str] = &[
    // apt, dpkg
    r"Temporary failure resolving|Could not resolve '|Could not connect to|Unable to connect to \S+:http|Connection (timed out|failed|refused)",
    r"Hash Sum mismatch|File has unexpected size .*Mirror sync in progress|Failed to fetch .* (50[0234]|429|Undetermined Error)",
    r"Some index files failed to download|Unable to fetch some archives|Could not get lock /var/lib/(dpkg|apt)|[Ee]rror reading from server",
    r"frontend lock (is|was) locked by another process|unable to (fill|sync) |Input/output error",
    // yum, dnf, apk, zypper
    r"Could not retrieve mirrorlist|Cannot retrieve repository metadata|Cannot find a valid baseurl|Cannot download repomd\.xml",
    r"\[Errno 1[24]\]|Operation too slow|Timeout on http|urlopen error|Curl error \((5|6|7|16|18|28|35|52|55|56|92)\)",
    r"temporary error \(try again later\)|Download \(curl\) error",
    // curl, wget, git
    r"^curl: \((5|6|7|16|18|28|35|52|55|56|92)\)|curl: \(22\).* (408|429|5\d\d)",
    r"unable to resolve host address|Read error \(|Unable to establish SSL connection|HTTP request sent, awaiting response\.\.\. (429|5\d\d)",
    r"Could not resolve host|RPC failed; (curl|HTTP) |early EOF|unexpected disconnect while reading sideband|remote end hung up",
    r"The requested URL returned error: (429|5\d\d)",
    // npm, pnpm, yarn, pip, cargo, go, gpg
    r"code (EAI_AGAIN|ECONNRESET|ETIMEDOUT|ENOTFOUND|ECONNREFUSED|ERR_SOCKET_TIMEOUT|E429|E5\d\d|EINTEGRITY)|network (aborted|timeout)",
    r"ERR_PNPM_(FETCH_5|META_FETCH_FAIL)|ESOCKETTIMEDOUT|EAI_AGAIN",
    r"Connection broken:|ReadTimeoutError|NewConnectionError|Max retries exceeded|ConnectionResetError|IncompleteRead|Retrying \(Retry\(total=",
    r"spurious network error|download of config\.json failed|dial tcp[ :].*(i/o timeout|connection (re|timed)|no such host|timed out)",
    r"TLS handshake timeout|unexpected EOF|GOAWAY|keyserver (receive|refresh) failed|No keyserver available",
    // registries and daemons
    r"toomanyrequests|Client\.Timeout exceeded|connection reset by peer|[Rr]eceived unexpected HTTP status: (429|5\d\d)|BLOB_UPLOAD_UNKNOWN",
    r"i/o timeout|server misbehaving|rpc error: code = (Unavailable|Canceled)|error reading from server: EOF|error during connect",
    r"closing transport|layer .* already being pulled|push or pull .* is already in progress|unexpected commit digest|failed commit on ref",
    r"provided digest did not match uploaded content|We encountered an internal error\. Please try again|(^|: |\s)EOF$",
    r"http2: server sent|failed to do request: Head|failed to create (shim|endpoint)|context deadline exceeded|no active session for",
];

/// What it says ends it, whatever came before.
const PERMANENT: &[&str] = &[
    r"exec format error|: [Pp]ermission denied|Operation not permitted",
    r"[Ss]yntax error|unexpected token|dockerfile parse error|unknown (flag|instruction)",
    r"(command|executable file) not found|: not found$|No such file or directory|cannot stat ",
    r"unmet dependencies|held broken packages|dpkg returned an error code|Unmet dependency|conflicts with",
    r"npm ERR! code E(404|401|403|RESOLVE|LIFECYCLE)|npm error code E(404|401|403|RESOLVE|LIFECYCLE)|error\[E\d+\]|fatal error: |make: \*\*\* ",
    r"OOMKilled|[Oo]ut of memory|Cannot allocate memory|^Killed$",
    r"manifest (for .* )?(unknown|not found)|name unknown|pull access denied",
];

/// Transient only after a network error earlier in the same step.
const CONDITIONAL: &[&str] =
    &[r"Unable to locate package|has no installation candidate|404 +Not Found|No matching distribution found|No package .* available"];

/// No attempt helps before a person does something.
const DISK: &[&str] = &[r"[Nn]o space left on device|ENOSPC|Disk quota exceeded"];
const CREDENTIALS: &[&str] =
    &[r"^unauthorized: |^denied: |authentication required|incorrect username or password|no basic auth credentials"];
/// Of the machine, not of the step.
const MACHINE: &[&str] =
    &[r"network bridge not found|could not find an available.* network|cgroups: .* (not|no) |OCI runtime create failed: .*cgroup"];

struct Patterns {
    transient: RegexSet,
    permanent: RegexSet,
    conditional: RegexSet,
    disk: RegexSet,
    credentials: RegexSet,
    machine: RegexSet,
    echo: RegexSet,
}

#[expect(clippy::expect_used, reason = "the patterns are constants, and a test compiles them")]
static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let set = |patterns: &[&str]| RegexSet::new(patterns).expect("a constant pattern compiles");
    Patterns {
        transient: set(TRANSIENT),
        permanent: set(PERMANENT),
        conditional: set(CONDITIONAL),
        disk: set(DISK),
        credentials: set(CREDENTIALS),
        machine: set(MACHINE),
        // what repeats a command says nothing about how it ended
        echo: set(&[r"^\++ ", r"^Step \d", r"^(E: )?The command '", r#"^(executor failed running|process ")"#]),
    }
});

/// Classifies a failed step. `lines` are its own output, oldest first; `error` is what the engine said, which counts as the last line
/// where no command ran to an exit code.
pub fn classify<'a>(lines: impl IntoIterator<Item = &'a str>, exit_code: Option<i64>, error: &'a str) -> Verdict {
    let patterns = &*PATTERNS;
    let step = |evidence: Option<&str>| Verdict {
        class: FailureClass::Step,
        retry: Retry::Never,
        evidence: evidence.map(|line| line.trim().to_owned()),
        group: None,
    };
    let infra = |line: &str, retry, group| Verdict { class: FailureClass::Infra, retry, evidence: Some(line.trim().to_owned()), group };
    let mut network = false;
    let mut verdict = step(None);
    let last = error.lines().filter(|_| exit_code.is_none());
    for line in lines.into_iter().chain(last) {
        if line.is_empty() || patterns.echo.is_match(line) {
            continue;
        }
        if patterns.disk.is_match(line) {
            verdict = infra(line, Retry::Never, Some("disk"));
        } else if patterns.credentials.is_match(line) {
            verdict = infra(line, Retry::Never, Some("credentials"));
        } else if patterns.machine.is_match(line) {
            verdict = infra(line, Retry::Never, Some("engine"));
        } else if patterns.conditional.is_match(line) {
            verdict = if network { infra(line, Retry::Backoff, None) } else { step(Some(line)) };
        } else if patterns.transient.is_match(line) {
            network = true;
            verdict = infra(line, Retry::Backoff, None);
        } else if patterns.permanent.is_match(line) {
            verdict = step(Some(line));
        }
    }
    // 137 is SIGKILL: out of memory, or a person; 126 and 127 are the shell's "can't be run" and "not found"
    if verdict.class == FailureClass::Infra && matches!(exit_code, Some(126 | 127 | 137)) {
        return step(verdict.evidence.as_deref());
    }
    verdict
}

/// apt exits 0 when all its mirrors fail: the line that says so in the log of a step that succeeded.
pub fn ignored_index_failure<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let sign = "Some index files failed to download";
    lines.into_iter().find(|line| line.contains(sign) && (line.starts_with("W: ") || line.starts_with("E: "))).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(log: &str, code: Option<i64>, error: &str) -> (FailureClass, Retry) {
        let verdict = classify(log.lines(), code, error);
        (verdict.class, verdict.retry)
    }

    const STEP: (FailureClass, Retry) = (FailureClass::Step, Retry::Never);
    const AGAIN: (FailureClass, Retry) = (FailureClass::Infra, Retry::Backoff);
    const STUCK: (FailureClass, Retry) = (FailureClass::Infra, Retry::Never);

    #[test]
    fn the_table() {
        let rows: &[(&str, Option<i64>, &str, (FailureClass, Retry))] = &[
            ("", Some(1), "exit code: 1", STEP),
            ("test 3 failed", Some(1), "", STEP),
            // the last match wins, both ways
            ("curl: (6) Could not resolve host: x\nsh: 1: foo: not found", Some(1), "", STEP),
            ("sh: 1: foo: not found\ncurl: (6) Could not resolve host: x", Some(6), "", AGAIN),
            // a missing package
            ("E: Unable to locate package curll", Some(100), "", STEP),
            ("W: Failed to fetch http://d/x  Temporary failure resolving 'd'\nE: Unable to locate package curl", Some(100), "", AGAIN),
            ("E: Unable to locate package curl\nErr:1 http://d Temporary failure resolving 'd'", Some(100), "", AGAIN),
            ("Err:4 http://d/x  404  Not Found [IP: 1.2.3.4 80]", Some(100), "", STEP),
            ("E: Package 'x' has no installation candidate", Some(100), "", STEP),
            ("Ign:1 Could not connect to d:80\nE: Package 'x' has no installation candidate", Some(100), "", AGAIN),
            // tools
            ("npm error code EAI_AGAIN", Some(1), "", AGAIN),
            ("npm error code E404", Some(1), "", STEP),
            ("    warning: spurious network error (3 tries remaining): [6]", Some(101), "", AGAIN),
            ("error[E0308]: mismatched types", Some(101), "", STEP),
            ("fatal: unable to access 'https://g/': Could not resolve host: g", Some(128), "", AGAIN),
            ("wget: unable to resolve host address 'x'", Some(4), "", AGAIN),
            ("ERROR: No matching distribution found for x", Some(1), "", STEP),
            ("WARNING: Retrying (Retry(total=0)) after connection broken\nERROR: No matching distribution found for x", Some(1), "", AGAIN),
            // what a person has to do something about
            ("tar: x: Cannot write: No space left on device", Some(2), "", STUCK),
            ("Killed", Some(137), "", STEP),
            ("curl: (28) Operation timed out", Some(137), "", STEP),
            // echoes decide nothing
            ("+ echo curl: (6)", Some(1), "", STEP),
            ("x", Some(1), "The command '/bin/sh -c echo Hash Sum mismatch; false' returned a non-zero code: 1", STEP),
            // no exit code: the engine's own words count
            ("", None, "failed to compute cache key: \"/gone\" not found: not found", STEP),
            ("", None, "rpc error: code = Unavailable desc = closing transport", AGAIN),
            ("", None, "failed to solve: dockerfile parse error on line 3: unknown instruction: RUNN", STEP),
            ("", None, "network bridge not found", STUCK),
            ("", None, "write /var/lib/docker/x: no space left on device", STUCK),
        ];
        for (log, code, error, expected) in rows {
            assert_eq!(verdict(log, *code, error), *expected, "{log:?} {code:?} {error:?}");
        }
    }

    #[test]
    fn aptget_update_that_ignored_its_mirrors() {
        let log = "Get:1 http://d\nW: Failed to fetch x\nW: Some index files failed to download. They have been ignored, or old ones used instead.";
        assert!(ignored_index_failure(log.lines()).is_some());
        assert_eq!(ignored_index_failure(["+ echo Some index files failed to download"]), None);
    }

    /// Real failures of a real catalogue, and what became of them when they were tried again.
    #[test]
    fn recorded_failures() {
        #[derive(serde::Deserialize)]
        struct Row {
            phase: String,
            tail: Vec<String>,
            decisive_line: String,
            category: String,
        }
        let shared = std::env::var_os("IGRAPH_SHARED")
            .map_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), std::path::PathBuf::from);
        let Ok(text) = std::fs::read_to_string(shared.join("data/failures.jsonl")) else {
            use std::io::Write;
            drop(writeln!(std::io::stderr(), "SKIPPED recorded_failures: no data/failures.jsonl in IGRAPH_SHARED"));
            return;
        };
        let mut rows = 0;
        for line in text.lines() {
            let row: Row = serde_json::from_str(line).unwrap();
            let code = (row.phase == "build").then_some(1);
            let expected = if row.category == "registry-push auth" { STUCK } else { AGAIN };
            let seen = classify(row.tail.iter().map(String::as_str), code, &row.decisive_line);
            assert_eq!((seen.class, seen.retry), expected, "{} {:?}", row.decisive_line, seen.evidence);
            rows += 1;
        }
        assert!(rows >= 300, "{rows}");
    }
}
