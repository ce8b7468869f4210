//! The environment: every variable that igraph reads, declared once with what it does, and the one place that reads them.
//! Knows no command. Variables that build files name (secrets) are asked by name when they are used.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::spec::parse_duration;

/// A variable and what it does.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, for people.
    pub doc: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $name:literal: $doc:literal;)*) => {
        $(#[doc = $doc] pub const $constant: &str = $name;)*
        /// All variables that igraph itself reads, in the order of the page; proxies have a table of their own.
        pub const VARIABLES: &[Variable] = &[$(Variable { name: $name, doc: $doc },)*];
    };
}

variables! {
    DOCKER_HOST = "DOCKER_HOST": "the Docker daemon where neither --engine nor the workspace names one, like unix:///run/docker.sock";
    DOCKER_CONTEXT = "DOCKER_CONTEXT": "the docker context to use where neither --engine nor DOCKER_HOST says where the daemon is";
    DOCKER_TLS_VERIFY = "DOCKER_TLS_VERIFY": "not empty: talk TLS to a tcp:// daemon and verify it";
    DOCKER_CERT_PATH = "DOCKER_CERT_PATH": "the folder of ca.pem, cert.pem and key.pem for that; default: the Docker config folder";
    DOCKER_CONFIG = "DOCKER_CONFIG": "the folder of Docker's config.json (credentials, contexts); default: ~/.docker";
    HOME = "HOME": "where ~/.docker is";
    SSH_AUTH_SOCK = "SSH_AUTH_SOCK": "the ssh agent for images that say `ssh`";
    SSL_CERT_FILE = "SSL_CERT_FILE": "a PEM file of CAs to trust instead of the system's";
    SSL_CERT_DIR = "SSL_CERT_DIR": "a folder of CAs to trust instead of the system's";
    NO_COLOR = "NO_COLOR": "not empty: no colour";
    CI = "CI": "not empty and not `false` or `0`: --console auto is the plain console, on a terminal too";
    TERM = "TERM": "`dumb`: no colour, and --console auto is the plain console";
    STORE = "IGRAPH_STORE": "the folder of the embedded engine's store, which workspaces may share; default: igraph-out/store";
    PATH = "PATH": "where `doctor` looks for programs, and the commands of bases are found";
    COLUMNS = "COLUMNS": "the width to cut lines of the console to, instead of the terminal's";
}

/// Proxies, in the spelling that is looked at first; the lower-case form counts as well.
pub const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Whether a stream is a terminal, and how wide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminals {
    /// stdout is one.
    pub stdout: bool,
    /// stderr is one.
    pub stderr: bool,
    /// Columns of the terminal that stderr is.
    pub width: Option<usize>,
}

/// What the environment says, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The current directory; `None` where it is gone.
    pub current_dir: Option<PathBuf>,
    /// `DOCKER_HOST`, not empty.
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`, not empty.
    pub docker_context: Option<String>,
    /// `DOCKER_TLS_VERIFY` is set and not empty.
    pub docker_tls_verify: bool,
    /// `DOCKER_CERT_PATH`.
    pub docker_cert_path: Option<PathBuf>,
    /// `DOCKER_CONFIG`, or `.docker` in `HOME`.
    pub docker_config: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `SSH_AUTH_SOCK`.
    pub ssh_agent: Option<PathBuf>,
    /// Proxies for igraph and for builds, each in both spellings. Never part of a key.
    pub proxies: BTreeMap<String, String>,
    /// Colour is not wanted.
    pub no_color: bool,
    /// A continuous-integration runner, by its own word.
    pub ci: bool,
    /// `TERM` is `dumb`, or there is none.
    pub dumb: bool,
    /// `COLUMNS`.
    pub columns: Option<usize>,
    /// `IGRAPH_STORE`.
    pub store: Option<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// igraph's own tests run against an engine that only pretends.
    pub fake_engine: bool,
    /// igraph's own tests let `--watch` poll.
    pub poll: bool,
    /// igraph's own tests set the clock ahead.
    pub ahead: Duration,
    /// Where that engine writes its calls.
    pub fake_log: Option<PathBuf>,
    /// What the streams are.
    pub terminals: Terminals,
}

impl Environment {
    /// Reads the process's environment. The only place that does, but for [`secret`].
    pub fn read() -> Self {
        let terminals =
            Terminals { stdout: std::io::stdout().is_terminal(), stderr: std::io::stderr().is_terminal(), width: stderr_width() };
        Self { current_dir: std::env::current_dir().ok(), terminals, ..Self::of(|name| std::env::var_os(name)) }
    }

    /// What `lookup` says, with no terminal anywhere.
    pub fn of(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| lookup(name).filter(|value| !value.is_empty());
        let text = |name| set(name).and_then(|value| value.into_string().ok());
        let path = |name| set(name).map(PathBuf::from);
        let home = path(HOME);
        Self {
            current_dir: None,
            docker_host: text(DOCKER_HOST),
            docker_context: text(DOCKER_CONTEXT),
            docker_tls_verify: set(DOCKER_TLS_VERIFY).is_some(),
            docker_cert_path: path(DOCKER_CERT_PATH),
            docker_config: path(DOCKER_CONFIG).or_else(|| home.as_ref().map(|home| home.join(".docker"))),
            home,
            ssh_agent: path(SSH_AUTH_SOCK),
            proxies: proxies(text),
            no_color: set(NO_COLOR).is_some(),
            ci: text(CI).is_some_and(|value| !matches!(value.as_str(), "0" | "false")),
            dumb: text(TERM).is_none_or(|value| value == "dumb"),
            columns: text(COLUMNS).and_then(|value| value.parse().ok()).filter(|columns| *columns > 0),
            store: path(STORE),
            path: lookup(PATH),
            fake_engine: text("IGRAPH_TEST_ENGINE").is_some_and(|value| value == "fake"),
            poll: text("IGRAPH_TEST_WATCH").is_some_and(|value| value == "poll"),
            ahead: text("IGRAPH_TEST_AHEAD").and_then(|value| parse_duration(&value).ok()).unwrap_or_default(),
            fake_log: path("IGRAPH_FAKE_LOG"),
            terminals: Terminals::default(),
        }
    }

    /// What choosing a Docker daemon looks at.
    pub fn docker_variables(&self) -> BTreeMap<String, String> {
        let cert_path = self.docker_cert_path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let verify = self.docker_tls_verify.then(|| "1".to_owned());
        let all = [
            (DOCKER_HOST, self.docker_host.clone()),
            (DOCKER_CONTEXT, self.docker_context.clone()),
            (DOCKER_CERT_PATH, cert_path),
            (DOCKER_TLS_VERIFY, verify),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Proxies for registries.
    pub fn registry_proxies(&self) -> crate::registry::Proxies {
        let of = |name: &str| self.proxies.get(name).cloned();
        crate::registry::Proxies { http: of("HTTP_PROXY"), https: of("HTTPS_PROXY"), no_proxy: of("NO_PROXY") }
    }

    /// Whether people get colour on a stream that is, or is not, a terminal.
    pub fn color(&self, terminal: bool) -> bool {
        terminal && !self.no_color && !self.dumb
    }

    /// Whether `--console auto` is the live one.
    pub fn wants_live(&self) -> bool {
        self.terminals.stderr && !self.dumb && !self.ci
    }

    /// The width to cut the console's lines to; `None`: leave them whole.
    pub fn width(&self) -> Option<usize> {
        self.columns.or(self.terminals.width)
    }

    /// The page `igraph help environment`, below its introduction.
    pub fn page() -> String {
        let mut page = String::new();
        for variable in VARIABLES {
            page.push_str(&format!("  {:<18} {}\n", variable.name, variable.doc));
        }
        page.push_str(&format!(
            "\nProxies, each in upper or lower case: {}.\n\
             igraph's own requests go through them, and builds get them as the predefined arguments of those names.\n\
             They are in no key: another proxy rebuilds nothing.\n",
            PROXIES.join(", ")
        ));
        page
    }
}

/// The value of a variable that a build file names as a source of secrets or agents; read when it is used, kept nowhere.
pub fn secret(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn proxies(text: impl Fn(&'static str) -> Option<String>) -> BTreeMap<String, String> {
    const LOWER: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    let mut found = BTreeMap::new();
    for (upper, lower) in PROXIES.into_iter().zip(LOWER) {
        // programs disagree about which spelling they read, so builds get both
        let (first, second) = (text(upper), text(lower));
        if let Some(value) = first.clone().or_else(|| second.clone()) {
            found.insert(upper.to_owned(), value);
        }
        if let Some(value) = second.or(first) {
            found.insert(lower.to_owned(), value);
        }
    }
    found
}

fn stderr_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize through a pointer to one, and fails where stderr is no terminal
    let status = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (status == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Environment {
        let pairs: BTreeMap<String, OsString> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Environment::of(|name| pairs.get(name).cloned())
    }

    #[test]
    fn empty_is_unset_and_the_docker_folder_is_at_home() {
        let environment = of(&[("DOCKER_HOST", ""), ("HOME", "/home/me"), ("NO_COLOR", ""), ("CI", "false"), ("COLUMNS", "0")]);
        assert_eq!(environment.docker_host, None);
        assert_eq!(environment.docker_config, Some("/home/me/.docker".into()));
        assert!(!environment.no_color && !environment.ci);
        assert_eq!(environment.columns, None);
        assert_eq!(of(&[("DOCKER_CONFIG", "/c"), ("HOME", "/h")]).docker_config, Some("/c".into()));
    }

    #[test]
    fn proxies_come_in_both_spellings() {
        let environment = of(&[("http_proxy", "http://p"), ("NO_PROXY", "a"), ("no_proxy", "b")]);
        let pairs: Vec<(&str, &str)> = environment.proxies.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("HTTP_PROXY", "http://p"), ("NO_PROXY", "a"), ("http_proxy", "http://p"), ("no_proxy", "b")]);
    }

    #[test]
    fn live_needs_a_capable_terminal_and_no_ci() {
        let on_terminal =
            |pairs: &[(&str, &str)]| Environment { terminals: Terminals { stderr: true, ..Terminals::default() }, ..of(pairs) };
        assert!(on_terminal(&[("TERM", "xterm")]).wants_live());
        assert!(!on_terminal(&[("TERM", "xterm"), ("CI", "true")]).wants_live());
        assert!(!on_terminal(&[("TERM", "dumb")]).wants_live());
        assert!(!of(&[("TERM", "xterm")]).wants_live());
        assert!(!on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]).color(true));
    }

    #[test]
    fn variables_are_declared_once() {
        let mut names: Vec<&str> = VARIABLES.iter().map(|variable| variable.name).chain(PROXIES).collect();
        names.sort_unstable();
        let declared = names.len();
        names.dedup();
        assert_eq!(names.len(), declared);
    }
}
