//! Tests: commands on an image in one throwaway root, of which nothing is left.

use super::build::{Log, explained, failed, lent, not_run, spec, user};
use super::sandbox::{self, Ended, Host, Listener, Program};
use super::store::Store;
use crate::access::Network;
use crate::digest::Digest;
use crate::engine::words::proxy_variables;
use crate::engine::{Attempt, Output, TestRequest};
use crate::event::Stream;
use crate::failure::Failure;
use crate::image::ImageConfig;

/// What Docker gives an image that says no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a test.
///
/// # Errors
/// As [`crate::engine::Engine::test`].
pub(super) fn test(store: &Store, host: &Host, request: &TestRequest<'_>, attempt: &Attempt<'_>) -> Result<(), Failure> {
    let _lease = store.lease()?;
    let gone = || Failure::infra(format!("the image {} is not in the store any more", request.subject.id.0.short()));
    let bytes = store.image(request.subject.id).ok_or_else(gone)?;
    let config = ImageConfig::parse(&bytes).map_err(|error| Failure::step(format!("the image's config can't be read: {error}")))?;
    let diff_ids: &[Digest] = &config.diff_ids;
    let view = store.view(diff_ids)?;
    let user = user(&config.user, &view)?;
    let mut environment: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| {
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
    };
    set("PATH", DEFAULT_PATH);
    set("HOME", &user.home);
    proxy_variables(request.proxies).iter().for_each(|(name, value)| set(name, value));
    for variable in &config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    request.env.iter().for_each(|(name, value)| set(name, value));
    let work = store.work()?;
    let upper = work.path().join("fs");
    super::build::new_upper(&upper, &view)?;
    let mut spec = spec(store.layers(), store.stack(diff_ids)?, &work)?;
    spec.isolated = request.network == Network::None;
    spec.throwaway = true;
    spec.mounts = lent();
    let folder = if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() };
    for argv in request.commands {
        spec.programs.push(Program {
            argv: argv.clone(),
            environment: environment.clone(),
            folder: folder.clone(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        });
    }
    let mut log = TestLog { log: Log::new(attempt.output), output: attempt.output, commands: request.commands };
    let ran = sandbox::run(host, &spec, &upper, attempt, &mut log)?;
    let Some((last, argv)) = ran.ended.last().zip(request.commands.get(ran.ended.len().saturating_sub(1))) else { return Ok(()) };
    match last {
        Ended::Code(0) => Ok(()),
        Ended::Code(code) => {
            let failure = failed(&format!("exit {code} at {}", short(argv)), *code, &log.log.kept);
            Err(explained(failure, host, &spec, &log.log.kept))
        }
        Ended::NotRun(errno) => {
            let program = argv.first().map_or("", String::as_str);
            let failure = not_run(program, *errno);
            Err(if program == "/bin/sh" { failure.hint("for images without a shell write the test with `exec`") } else { failure })
        }
    }
}

struct TestLog<'a> {
    log: Log<'a>,
    output: &'a dyn Output,
    commands: &'a [Vec<String>],
}

impl Listener for TestLog<'_> {
    fn started(&mut self, index: usize) {
        self.log.kept.clear();
        if let Some(argv) = self.commands.get(index).filter(|_| self.commands.len() > 1) {
            self.output.line(Stream::Engine, &format!("$ {}", short(argv)));
        }
    }

    fn line(&mut self, stream: Stream, line: &str) {
        self.log.line(stream, line);
    }
}

/// A command on one line.
fn short(argv: &[String]) -> String {
    let text = match argv {
        [sh, flag, text] if sh == "/bin/sh" && flag == "-ec" => text.clone(),
        argv => argv.join(" "),
    };
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let short: String = line.chars().take(80).collect();
    if short.len() < line.len() { format!("{short}…") } else { short }
}
