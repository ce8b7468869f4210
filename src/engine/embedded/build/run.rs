//! RUN: the command, its environment, its mounts, the sandbox, and the layer that comes of it.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::path::Path;

use nix::fcntl::Flock;

use super::config::DEFAULT_PATH;
use super::key::KeyHasher;
use super::place::{Destination, new_upper};
use super::relay::Relay;
use super::stage::{Builder, StageState};
use super::tree::Tree;
use super::users;
use crate::access::{Network, SecretSource};
use crate::digest::Digest;
use crate::dockerfile::{Command, CommandLine, Ignore, Instruction, Mount, MountKind, Run, Step, is_proxy};
use crate::engine::Output;
use crate::engine::classify::{classify, ignored_index_failure};
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::view::{View, clean};
use crate::engine::embedded::sandbox::{self, Ended, Host, Listener, Program, Spec, What};
use crate::engine::embedded::store::Work;
use crate::engine::words::proxy_variables;
use crate::event::Stream;
use crate::failure::{Failure, FailureClass};
use crate::scrub::Scrub;

/// Lines of a step that are kept to tell why it failed.
const KEPT: usize = 2000;

/// Shows output, and keeps the last of it.
pub(in crate::engine::embedded) struct Log<'a> {
    output: &'a dyn Output,
    pub kept: VecDeque<String>,
}

impl<'a> Log<'a> {
    pub fn new(output: &'a dyn Output) -> Self {
        Self { output, kept: VecDeque::new() }
    }
}

impl Listener for Log<'_> {
    fn started(&mut self, _: usize) {}

    fn line(&mut self, stream: Stream, line: &str) {
        self.output.line(stream, line);
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(line.to_owned());
    }
}

/// The failure of a command, its class from its own log.
pub(in crate::engine::embedded) fn failed(what: &str, code: i64, log: &VecDeque<String>) -> Failure {
    let verdict = classify(log.iter().map(String::as_str), Some(code), "");
    let failure = match verdict.class {
        FailureClass::Infra => {
            let failure = Failure::infra(what).retry(verdict.retry);
            verdict.evidence.map_or(failure.clone(), |line| failure.hint(format!("`{line}`")))
        }
        _ => Failure::step(what),
    };
    let failure = verdict.group.map_or(failure.clone(), |group| failure.group(group));
    failure.exit_code(code)
}

/// By chroot a step without a network lacks even the loopback that others have: said where its log looks like that.
pub(in crate::engine::embedded) fn explained(failure: Failure, host: &Host, spec: &Spec, log: &VecDeque<String>) -> Failure {
    let signs = ["EAFNOSUPPORT", "Address family not supported"];
    let told = host.root == sandbox::Root::Chroot && spec.isolated && log.iter().any(|line| signs.iter().any(|sign| line.contains(sign)));
    let hint = "without a network there is no loopback either where steps run by chroot: let it have `network: \"host\"`, or run igraph in a \
                container that allows namespaces (`igraph doctor` says how)";
    if told && failure.hint.is_none() { failure.hint(hint) } else { failure }
}

/// What a program that can't be executed is told as.
pub(in crate::engine::embedded) fn not_run(program: &str, errno: i32) -> Failure {
    let why = match errno {
        libc::ENOENT => "no such file or directory".to_owned(),
        libc::EACCES => "permission denied".to_owned(),
        libc::ENOEXEC => "exec format error".to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    };
    let failure = Failure::step(format!("`{program}` can't be run in the image: {why}"));
    if program == "/bin/sh" { failure.hint("the image has no shell; write it as `[\"program\", \"argument\"]`") } else { failure }
}

/// Files that the machine lends to every sandbox.
pub(in crate::engine::embedded) fn lent() -> Vec<sandbox::Mount> {
    let hosts = b"127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_vec();
    let resolver = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    let mount = |target: &str, bytes| sandbox::Mount {
        target: target.into(),
        what: What::Content { bytes, mode: 0o644, uid: 0, gid: 0 },
        read_only: true,
    };
    vec![mount("/etc/hosts", hosts), mount("/etc/resolv.conf", resolver)]
}

/// The folders of a sandbox within `work`, whose upper folder is there already.
pub(in crate::engine::embedded) fn spec(layers: std::path::PathBuf, mut lower: Vec<String>, work: &Work) -> Result<Spec, Failure> {
    let name = work.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let make = |folder: &str| std::fs::create_dir(work.path().join(folder)).map_err(disk("a sandbox"));
    let folder = |folder: &str| format!("../work/{name}/{folder}");
    make("work")?;
    make("memory")?;
    if lower.is_empty() {
        make("empty")?;
        lower.push(folder("empty"));
    }
    Ok(Spec {
        layers,
        lower,
        upper: folder("fs"),
        work: folder("work"),
        merged: folder("merged"),
        memory: folder("memory"),
        ..Spec::default()
    })
}

/// The script of heredocs, in place of the line: the text itself where the line is nothing else, else all as the shell reads it.
fn with_heredocs(line: &str, instruction: &Instruction) -> String {
    let alone = line.trim().trim_start_matches(|char: char| char.is_ascii_digit()).strip_prefix("<<");
    let alone = alone.is_some_and(|rest| !rest.trim_start_matches('-').trim().contains(|char: char| char.is_whitespace() || char == '<'));
    match &instruction.heredocs[..] {
        [] => line.to_owned(),
        [only] if alone => only.body(),
        heredocs => heredocs.iter().fold(line.to_owned(), |text, heredoc| format!("{text}\n{}{}", heredoc.content, heredoc.name)),
    }
}

/// Removes files of known sets from what a step has left; those of layers below stay. No link is followed.
fn leave_out(upper: &Path, scrub: &BTreeSet<Scrub>) -> std::io::Result<()> {
    for path in scrub.iter().flat_map(|scrub| scrub.paths()) {
        let mut at = upper.to_owned();
        let mut found = None;
        for part in path.split('/') {
            if found.is_some_and(|metadata: std::fs::Metadata| !metadata.is_dir()) {
                found = None;
                break;
            }
            at.push(part);
            found = files::stat(&at)?;
            if found.is_none() {
                break;
            }
        }
        if found.is_some_and(|metadata| metadata.is_file()) {
            std::fs::remove_file(&at)?;
        }
    }
    Ok(())
}

/// What a step's mounts need to stay while it runs.
#[derive(Default)]
pub(super) struct Held {
    pub locks: Vec<Flock<File>>,
    pub works: Vec<Work>,
    relays: Vec<Relay>,
}

impl Builder<'_> {
    /// The layer that RUN makes, `None` where it changes nothing, and what was run.
    pub(super) fn run(&self, state: &StageState, step: &Step) -> Result<(Option<Digest>, Vec<String>), Failure> {
        let Command::Run(run) = &step.instruction.command else { return Ok((None, Vec::new())) };
        let diff_ids = &state.image.rootfs.diff_ids;
        let view = self.store.view(diff_ids)?;
        let (program, script) = self.program(state, step, run, &view)?;
        let network = match run.network.as_ref().map(|network| network.value.as_str()) {
            Some("none") => Network::None,
            Some("host") => Network::Host,
            _ => self.request.network,
        };
        let key = self.run_key(state, step, &program, script.as_deref(), network)?;
        let argv = program.argv.clone();
        if let Some(layer) = self.cached(&key, diff_ids) {
            return Ok((layer, argv));
        }
        let work = self.store.work()?;
        let upper = work.path().join("fs");
        new_upper(&upper, &view)?;
        let mut spec = spec(self.store.layers(), self.store.stack(diff_ids)?, &work)?;
        spec.isolated = network == Network::None;
        spec.mounts = lent();
        let mut program = program;
        let mut held = Held::default();
        if let Some(script) = script {
            let what = What::Content { bytes: script.into_bytes(), mode: 0o755, uid: 0, gid: 0 };
            spec.mounts.push(sandbox::Mount { target: format!("/dev/pipes/{}", step.instruction.heredocs[0].name), what, read_only: true });
        }
        for (number, mount) in step.mounts.iter().enumerate() {
            let from = step.from.get(number).and_then(Option::as_ref);
            self.mount(state, mount, number, from, &work, &mut spec, &mut program, &mut held)?;
        }
        // what was given as an argument comes first; like all proxies it is in no key
        let given = self.request.args.iter().filter(|(name, _)| is_proxy(name)).map(|(name, value)| (name.clone(), value.clone()));
        for (name, value) in given.chain(proxy_variables(self.request.proxies)) {
            if !program.environment.iter().any(|(known, _)| *known == name) {
                program.environment.push((name, value));
            }
        }
        spec.programs = vec![program.clone()];
        let mut log = Log::new(self.attempt.output);
        let ran = sandbox::run(self.host, &spec, &upper, &self.left()?, &mut log)?;
        match ran.ended.first() {
            Some(Ended::Code(0)) => {}
            Some(Ended::Code(code)) => {
                return Err(explained(failed(&format!("exit {code}"), *code, &log.kept), self.host, &spec, &log.kept));
            }
            Some(Ended::NotRun(errno)) => return Err(not_run(program.argv.first().map_or("", String::as_str), *errno)),
            None => return Err(Failure::infra("the sandbox ended before it said how")),
        }
        if let Some(line) = ignored_index_failure(log.kept.iter().map(String::as_str)) {
            return Err(Failure::infra("apt went on without its indexes").hint(format!("`{line}`")));
        }
        leave_out(&upper, self.request.scrub).map_err(disk("leaving files out of a layer"))?;
        let made = self.store.make_layer(work, &view, self.request.epoch)?.map(|made| made.diff_id);
        self.store.cache(&key, made)?;
        Ok((made, argv))
    }

    /// The program, and the text of a heredoc that is a script of its own.
    fn program(&self, state: &StageState, step: &Step, run: &Run, view: &View) -> Result<(Program, Option<String>), Failure> {
        let mut script = None;
        let argv = match &run.line {
            CommandLine::Exec(argv) => argv.clone(),
            CommandLine::Shell(line) => {
                let mut text = with_heredocs(line, &step.instruction);
                if step.instruction.heredocs.len() == 1 && text.starts_with("#!") {
                    let path = format!("/dev/pipes/{}", step.instruction.heredocs[0].name);
                    script = Some(std::mem::replace(&mut text, path));
                }
                let mut argv = state.image.shell();
                argv.push(text);
                argv
            }
        };
        let user = users::user(&state.image.config.user, view)?;
        let mut environment = step.environment.to_vec();
        let mut default = |name: &str, value: String| {
            if !environment.iter().any(|(known, _)| known == name) {
                environment.push((name.to_owned(), value));
            }
        };
        default("PATH", DEFAULT_PATH.to_owned());
        default("HOME", user.home);
        default("SOURCE_DATE_EPOCH", self.request.epoch.to_string());
        let folder = state.image.absolute("");
        Ok((Program { argv, environment, folder, uid: user.uid, gid: user.gid, groups: user.groups }, script))
    }

    fn run_key(
        &self,
        state: &StageState,
        step: &Step,
        program: &Program,
        script: Option<&str>,
        network: Network,
    ) -> Result<blake3::Hash, Failure> {
        let mut key = KeyHasher::new("run");
        key.layers(&state.image.rootfs.diff_ids);
        key.text(&self.request.epoch.to_string());
        key.texts(self.request.scrub.iter().map(ToString::to_string).collect::<Vec<_>>().iter().map(String::as_str));
        key.text(&format!("{program:?} {script:?} {network}"));
        for (number, mount) in step.mounts.iter().enumerate() {
            let plain = Mount { span: 0..0, ..mount.clone() };
            key.text(&format!("{plain:?}"));
            if mount.kind == MountKind::Bind {
                match step.from.get(number).and_then(Option::as_ref) {
                    Some(target) => key.layers(&self.layers_of(target)?),
                    None => {
                        let tree = Tree::Context(&self.context);
                        let source = mount.source.as_deref().unwrap_or("");
                        if let Some(node) = tree.locate(source, true).map_err(disk("a mount"))? {
                            tree.describe(source, &node, &mut key);
                        }
                    }
                }
            }
        }
        Ok(key.finish())
    }

    #[expect(clippy::too_many_arguments, reason = "a mount changes the sandbox, the program and what is held")]
    fn mount(
        &self,
        state: &StageState,
        mount: &Mount,
        number: usize,
        from: Option<&crate::dockerfile::FromTarget>,
        work: &Work,
        spec: &mut Spec,
        program: &mut Program,
        held: &mut Held,
    ) -> Result<(), Failure> {
        let target = || mount.target.as_deref().map(|target| state.image.absolute(target));
        let needed = || Failure::step("a mount has no target");
        let inner = || clean(Path::new(mount.source.as_deref().unwrap_or(""))).to_string_lossy().into_owned();
        let place = work.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = |kind: &str| -> Result<String, Failure> {
            std::fs::create_dir(work.path().join(format!("{kind}{number}"))).map_err(disk("a mount"))?;
            Ok(format!("../work/{place}/{kind}{number}"))
        };
        let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        match mount.kind {
            MountKind::Tmpfs => {
                let what = What::Memory(mount.size);
                spec.mounts.push(sandbox::Mount { target: target().ok_or_else(needed)?, what, read_only: false });
            }
            MountKind::Bind => {
                let mut lower = match from {
                    Some(from) => self.store.stack(&self.layers_of(from)?)?,
                    None => {
                        let source = mount.source.as_deref().unwrap_or("");
                        vec![self.context_folder(source, &folder, &format!("context{number}"), work)?]
                    }
                };
                // two at least, where nothing is written to
                lower.push(folder("none")?);
                let upper = if mount.read_only { None } else { Some((folder("upper")?, folder("overlay")?)) };
                let what = What::Stack { lower, upper, at: inner(), folder: folder("bind")? };
                spec.mounts.push(sandbox::Mount { target: target().ok_or_else(needed)?, what, read_only: mount.read_only });
            }
            MountKind::Cache => {
                let target = target().ok_or_else(needed)?;
                let (path, at) = self.cache_folder(mount, &target, from, held)?;
                let what = if at.is_empty() { What::Host(path) } else { What::Within(path, at) };
                spec.mounts.push(sandbox::Mount { target, what, read_only: mount.read_only });
            }
            MountKind::Secret => {
                let id = mount.effective_id();
                let Some(bytes) = self.secret(id)? else {
                    return if mount.required { Err(Failure::step(format!("there is no secret `{id}`"))) } else { Ok(()) };
                };
                if let Some(name) = &mount.env {
                    let value = String::from_utf8_lossy(&bytes).into_owned();
                    program.environment.retain(|(known, _)| known != name);
                    program.environment.push((name.clone(), value));
                }
                if mount.env.is_none() || mount.target.is_some() {
                    let target = target().unwrap_or_else(|| format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(id)));
                    let what = What::Content { bytes, mode: mount.mode.unwrap_or(0o400), uid, gid };
                    spec.mounts.push(sandbox::Mount { target, what, read_only: true });
                }
            }
            MountKind::Ssh => {
                let id = mount.effective_id();
                let target = target().unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{number}"));
                if !program.environment.iter().any(|(known, _)| known == "SSH_AUTH_SOCK") {
                    program.environment.push(("SSH_AUTH_SOCK".into(), target.clone()));
                }
                let Some(socket) = self.request.ssh.get(id) else {
                    return if mount.required { Err(Failure::step(format!("there is no ssh agent `{id}`"))) } else { Ok(()) };
                };
                let relay = Relay::start(socket, &work.path().join(format!("agent{number}")), (uid, gid), mount.mode.unwrap_or(0o600))?;
                let what = What::Host(relay.path().to_owned());
                held.relays.push(relay);
                spec.mounts.push(sandbox::Mount { target, what, read_only: false });
            }
        }
        Ok(())
    }

    /// A path of the context, made as the key saw it.
    fn context_folder(
        &self,
        source: &str,
        folder: &dyn Fn(&str) -> Result<String, Failure>,
        name: &str,
        work: &Work,
    ) -> Result<String, Failure> {
        let relative = folder("context")?;
        let tree = Tree::Context(&self.context);
        let node = tree.locate(source, true).map_err(disk("a mount"))?;
        let node = node.ok_or_else(|| Failure::step(format!("`{source}` is not there")))?;
        let none = View::new(Vec::new());
        let mut writer = Destination::new(&work.path().join(name), &none, self.request.epoch, None, None);
        writer.copy(&tree, &node, &clean(std::path::Path::new(source)), "", &Ignore::default())?;
        Ok(relative)
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Failure> {
        match self.request.secrets.get(id) {
            None => Ok(None),
            Some(SecretSource::Env(name)) => Ok((self.environment)(name).map(String::into_bytes)),
            Some(SecretSource::File(path)) => {
                std::fs::read(path).map(Some).map_err(|error| Failure::step(format!("the secret `{id}` can't be read: {error}")))
            }
        }
    }
}
