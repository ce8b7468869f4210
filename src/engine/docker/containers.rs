//! Tests as containers: commands in one throwaway root, their output, their exit code, and nothing left behind.
//!
//! One command is one container. Several `/bin/sh -ec` texts are one container too, driven by that shell. Several commands of any
//! other form can't be: an image without a shell has nothing that would keep a container alive between them. There each command gets a
//! container of its own, on a throwaway commit of the one before; what it wrote to a VOLUME does not carry over.

use std::collections::{HashMap, VecDeque};

use bollard::container::LogOutput;
use bollard::models::{ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::StreamExt;

use super::engine::{DockerEngine, daemon_failure, error_text, status_of};
use super::images::{OWNER_LABEL, RUN_LABEL};
use super::progress::{Line, OutputLines};
use crate::engine::classify::classify;
use crate::engine::{Attempt, Output, TestRequest};
use crate::event::Stream;
use crate::failure::{Failure, FailureClass};

/// Runs its arguments one after the other, each in a shell of its own; says before each which one it is.
const DRIVER: &str =
    r#"mark=$1; shift; n=0; for text do n=$((n+1)); echo "$mark $n"; echo "$mark $n" >&2; /bin/sh -ec "$text" || exit; done"#;

impl DockerEngine {
    pub(super) fn run_test(&self, request: &TestRequest<'_>, attempt: &Attempt<'_>) -> Result<(), Failure> {
        let name = format!("igraph-{}-{:016x}", self.options.run, fastrand::u64(..));
        let mut made = Made::default();
        let result = self.run(attempt, self.run_commands(request, &name, &mut made, attempt.output));
        // on every way out, cancelled and timed out too
        let cleaned = self.ask("remove a test's containers", self.clean(&made));
        result.and(cleaned)
    }

    async fn clean(&self, made: &Made) -> Result<(), Failure> {
        for (name, created) in &made.containers {
            let mut tries = 0;
            // a create that was dropped before its answer may still take effect
            while !self.remove_container(name).await? && !created && tries < 20 {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
        for image in made.images.iter().rev() {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            if let Err(error) = self.docker.remove_image(image, Some(options), None).await
                && status_of(&error) != Some(404)
            {
                return Err(daemon_failure("remove a test's image", &error));
            }
        }
        Ok(())
    }

    async fn run_commands(&self, request: &TestRequest<'_>, name: &str, made: &mut Made, output: &dyn Output) -> Result<(), Failure> {
        let shell: Option<Vec<&String>> = request
            .commands
            .iter()
            .map(|argv| match argv.as_slice() {
                [sh, flag, text] if sh == "/bin/sh" && flag == "-ec" => Some(text),
                _ => None,
            })
            .collect();
        if let (Some(texts), true) = (&shell, request.commands.len() > 1) {
            let mark = format!("igraph-{:016x}", fastrand::u64(..));
            let mut argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), DRIVER.to_owned(), "igraph".to_owned(), mark.clone()];
            argv.extend(texts.iter().map(|text| (*text).clone()));
            let mut log = TestLog::new(request.commands, Some(mark), output);
            let code = self.run_container(request, &request.subject.handle, name, argv, made, &mut log).await?;
            return log.verdict(code);
        }
        let mut image = request.subject.handle.clone();
        for (index, argv) in request.commands.iter().enumerate() {
            let name = format!("{name}-{index}");
            let mut log = TestLog::new(request.commands, None, output);
            log.begin(index + 1);
            let code = self.run_container(request, &image, &name, argv.clone(), made, &mut log).await?;
            log.verdict(code)?;
            if index + 1 < request.commands.len() {
                let options = CommitContainerOptionsBuilder::default().container(&name).pause(false).build();
                let committed = self.docker.commit_container(options, ContainerConfig::default()).await;
                image = committed.map_err(|error| daemon_failure("keep a test's root", &error))?.id;
                made.images.push(image.clone());
            }
        }
        Ok(())
    }

    async fn run_container(
        &self,
        request: &TestRequest<'_>,
        image: &str,
        name: &str,
        argv: Vec<String>,
        made: &mut Made,
        log: &mut TestLog<'_>,
    ) -> Result<i64, Failure> {
        let mut variables = crate::engine::words::proxy_variables(request.proxies);
        variables.extend(request.env.clone());
        let program = argv.first().cloned().unwrap_or_default();
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // the whole of it: a Cmd of the image would be appended to a shorter one
            entrypoint: Some(argv),
            cmd: None,
            env: Some(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(HashMap::from([
                (RUN_LABEL.to_owned(), self.options.run.clone()),
                (OWNER_LABEL.to_owned(), self.options.owner.clone()),
            ])),
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            host_config: Some(HostConfig { network_mode: Some(self.network_mode(request.network).to_owned()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        made.containers.push((name.to_owned(), false));
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker.create_container(Some(options), body).await.map_err(|error| daemon_failure("create a container", &error))?;
        if let Some((_, created)) = made.containers.last_mut() {
            *created = true;
        }
        let options = AttachContainerOptionsBuilder::default().stdout(true).stderr(true).stream(true).logs(true).build();
        let attached =
            self.docker.attach_container(name, Some(options)).await.map_err(|error| daemon_failure("attach to a container", &error))?;
        if let Err(error) = self.docker.start_container(name, None).await {
            return Err(not_started(&program, &error));
        }
        let mut stream = attached.output;
        while let Some(piece) = stream.next().await {
            match piece.map_err(|error| daemon_failure("read a container's output", &error))? {
                LogOutput::StdErr { message } => log.take(Stream::Stderr, &message),
                LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                    log.take(Stream::Stdout, &message)
                }
            }
        }
        log.end();
        // the output may end before the process
        let mut wait = self.docker.wait_container(name, None);
        let code = match wait.next().await {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(daemon_failure("wait for a container", &error)),
            None => return Err(Failure::infra("wait for a container: the docker daemon closed the connection")),
        };
        let state = self.docker.inspect_container(name, None).await.map_err(|error| daemon_failure("inspect a container", &error))?.state;
        log.out_of_memory = state.and_then(|state| state.oom_killed).unwrap_or(false);
        Ok(code)
    }
}

/// What a test made in the daemon; a container with whether its making was answered.
#[derive(Debug, Default)]
struct Made {
    containers: Vec<(String, bool)>,
    images: Vec<String>,
}

/// A container that does not start: the image lacks the program, or the daemon is in trouble.
fn not_started(program: &str, error: &bollard::errors::Error) -> Failure {
    let text = error_text(error);
    let absent = ["executable file not found", "no such file or directory", "permission denied", "exec format error", "not a directory"];
    let lower = text.to_ascii_lowercase();
    if let Some(sign) = absent.iter().find(|sign| lower.contains("exec") && lower.contains(*sign)) {
        let failure = Failure::step(format!("`{program}` can't be run in the image: {sign}"));
        return if program == "/bin/sh" { failure.hint("for images without a shell write the test with `exec`") } else { failure };
    }
    daemon_failure("start a container", error)
}

/// The output of a test: shown as it comes, kept for the verdict, with the driver's marks taken out. The daemon keeps no order between
/// stdout and stderr, so each has marks of its own.
struct TestLog<'a> {
    commands: &'a [Vec<String>],
    mark: Option<String>,
    output: &'a dyn Output,
    lines: OutputLines,
    /// What the last command that began has said.
    kept: VecDeque<String>,
    /// The command whose output stdout and stderr carry.
    current: [usize; 2],
    /// The last command that began, from 1; 0 before the first.
    begun: usize,
    out_of_memory: bool,
}

impl<'a> TestLog<'a> {
    fn new(commands: &'a [Vec<String>], mark: Option<String>, output: &'a dyn Output) -> Self {
        let (lines, kept) = Default::default();
        Self { commands, mark, output, lines, kept, current: [0; 2], begun: 0, out_of_memory: false }
    }

    /// The command of this number, from 1, has begun; told once.
    fn begin(&mut self, number: usize) {
        if number <= self.begun {
            return;
        }
        self.begun = number;
        self.kept.clear();
        if self.commands.len() > 1 {
            self.output.line(Stream::Engine, &format!("$ {}", self.command()));
        }
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let lines = self.lines.take(stream, bytes);
        self.show(lines);
    }

    fn end(&mut self) {
        let rest = self.lines.rest();
        self.show(rest);
    }

    fn show(&mut self, lines: Vec<Line>) {
        for (stream, line) in lines {
            let marked = self.mark.as_ref().and_then(|mark| line.split_once(mark.as_str()));
            let number = marked.and_then(|(_, number)| number.trim().parse::<usize>().ok());
            let (Some((before, _)), Some(number)) = (marked, number) else {
                self.keep(stream, line);
                continue;
            };
            if !before.is_empty() {
                self.keep(stream, before.to_owned());
            }
            self.current[usize::from(stream == Stream::Stderr)] = number;
            self.begin(number);
        }
    }

    fn keep(&mut self, stream: Stream, line: String) {
        self.output.line(stream, &line);
        // what another command has said before comes late
        let late = self.mark.is_some() && self.current[usize::from(stream == Stream::Stderr)] < self.begun;
        if late {
            return;
        }
        if self.kept.len() == 2000 {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    /// The running command on one line.
    fn command(&self) -> String {
        let text = match self.commands.get(self.begun.saturating_sub(1)).map(Vec::as_slice) {
            Some([sh, flag, text]) if sh == "/bin/sh" && flag == "-ec" => text.clone(),
            Some(argv) => argv.join(" "),
            None => String::new(),
        };
        let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let short: String = line.chars().take(80).collect();
        if short.len() < line.len() { format!("{short}…") } else { short }
    }

    fn verdict(&self, code: i64) -> Result<(), Failure> {
        if code == 0 {
            return Ok(());
        }
        if self.out_of_memory {
            return Err(Failure::step(format!("out of memory (exit {code}) at {}", self.command())).exit_code(code));
        }
        let verdict = classify(self.kept.iter().map(String::as_str), Some(code), "");
        let message = format!("exit {code} at {}", self.command());
        let failure = match verdict.class {
            FailureClass::Infra => {
                let failure = Failure::infra(message).retry(verdict.retry);
                verdict.evidence.map_or(failure.clone(), |line| failure.hint(format!("`{line}`")))
            }
            _ => Failure::step(message),
        };
        Err(failure.exit_code(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Output for Kept {
        fn line(&self, stream: Stream, line: &str) {
            self.0.lock().unwrap().push(format!("{stream:?} {line}"));
        }
        fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
    }

    #[test]
    fn the_drivers_marks_tell_the_command() {
        let commands: Vec<Vec<String>> =
            ["true", "\nnode --version | grep x"].iter().map(|text| vec!["/bin/sh".into(), "-ec".into(), (*text).into()]).collect();
        let output = Kept::default();
        let mut log = TestLog::new(&commands, Some("igraph-ab".into()), &output);
        log.take(Stream::Stderr, b"igraph-ab 1\nno end");
        log.take(Stream::Stdout, b"igraph-ab 1\nigraph-ab 1 is the test's own\n");
        log.take(Stream::Stderr, b"igraph-ab 2\n");
        log.take(Stream::Stdout, b"Connection timed out\nigraph-ab 2\nwrong\n");
        log.end();
        assert_eq!(log.verdict(0), Ok(()));
        // what the first command said, and the daemon brought late, is nothing of the second's
        let failure = log.verdict(3).unwrap_err();
        assert_eq!((failure.message.as_str(), failure.class), ("exit 3 at node --version | grep x", FailureClass::Step));
        assert_eq!(
            *output.0.lock().unwrap(),
            [
                "Engine $ true",
                "Stdout igraph-ab 1 is the test's own",
                "Stderr no end",
                "Engine $ node --version | grep x",
                "Stdout Connection timed out",
                "Stdout wrong",
            ]
        );
    }

    #[test]
    fn output_that_comes_before_the_other_streams_mark_is_kept() {
        let commands: Vec<Vec<String>> = ["true", "x"].iter().map(|text| vec!["/bin/sh".into(), "-ec".into(), (*text).into()]).collect();
        let output = Kept::default();
        let mut log = TestLog::new(&commands, Some("m".into()), &output);
        log.take(Stream::Stdout, b"m 1\nm 2\nConnection timed out\n");
        log.take(Stream::Stderr, b"m 1\nm 2\n");
        log.end();
        assert_eq!(log.verdict(3).unwrap_err().class, FailureClass::Infra);
    }
}
