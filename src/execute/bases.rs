//! Settles bases: asks a registry once, or makes and measures a local one. Loading it into an engine comes when it is needed.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::attempts::{self, Attempts, Terms, disk_failure, record_failure};
use super::builds::{Recorded, ended, record};
use super::world::{Job, JobEnd, World};
use crate::digest::{Digest, ImageId, Key};
use crate::engine::Attempt;
use crate::engine::classify::classify;
use crate::event::{NodeKind, Outcome, Stream};
use crate::failure::Failure;
use crate::graph::{BaseNode, BaseSource, NodeIndex, StandIn};
use crate::image::{EngineImage, ImageConfig, ImageSource};
use crate::lock::{LockEntry, LockedBase};
use crate::plan::Value;
use crate::platform::Platform;
use crate::record::{BlobPlace, Facts, Location};
use crate::reference::Reference;
use crate::registry::{OciLayout, RemoteImage, RootfsTar};
use crate::spec::BaseFrom;

/// Settles.
pub(super) fn run(world: &World<'_>, index: NodeIndex, base: &BaseNode<'_>, job: &Job) -> JobEnd {
    match &base.source {
        BaseSource::Registry(reference) => from_registry(world, index, reference, job, false),
        BaseSource::StandIn(StandIn::Registry(reference)) => from_registry(world, index, reference, job, true),
        BaseSource::Entry | BaseSource::StandIn(_) => local(world, index, base, job),
    }
}

fn terms(world: &World<'_>) -> Terms {
    Terms { policy: world.policy(&world.catalogue.workspace.retries), step_too: false, timeout: world.options.timeout }
}

/// What a registry's image tells without its layers.
struct Seen {
    manifest: Digest,
    image: ImageId,
}

fn from_registry(world: &World<'_>, index: NodeIndex, reference: &Reference, job: &Job, stand_in: bool) -> JobEnd {
    let node = world.graph.node(index);
    let label = node.label();
    let attempts = attempts::attempt(world, &label, &terms(world), |attempt, _| {
        let locked = if stand_in { None } else { world.lock.entry(reference, &node.platform) };
        let (manifest, entry) = match locked {
            Some(entry) => (entry.manifest, None),
            None if world.options.locked && !stand_in => {
                return Err(Failure::step(format!("{} is not in igraph.lock, and --locked forbids adding it", reference.familiar()))
                    .hint("run `igraph update`, and commit igraph.lock"));
            }
            None => {
                attempt.output.line(Stream::Engine, &format!("asking {} for {}", reference.host(), reference.familiar()));
                let resolved = world.registry.resolve(reference, &node.platform, world.cancel)?;
                let entry = LockEntry {
                    reference: reference.clone(),
                    platform: node.platform.clone(),
                    base: LockedBase {
                        index: resolved.index,
                        manifest: resolved.manifest,
                        config: resolved.image_id,
                        time: world.clock.now(),
                    },
                };
                (resolved.manifest, Some(entry))
            }
        };
        let remote = world.registry.image(&reference.with_digest(manifest), world.cancel)?;
        let image = remote.image_id();
        learn_remote(world, reference, manifest, &remote)?;
        if let (Some(entry), false) = (entry, stand_in) {
            world.lock.insert([entry]).map_err(|error| disk_failure(&error, "igraph.lock"))?;
        }
        Ok(Seen { manifest, image })
    });
    let end = match &attempts.result {
        Ok(seen) => JobEnd::done(
            Outcome::Succeeded { image: Some(seen.image), changed: true },
            Some(Value::Base {
                content: seen.manifest.to_string(),
                image: seen.image,
                manifest: Some((reference.clone(), seen.manifest)),
                stand_in,
            }),
        ),
        Err(failure) => JobEnd::failed(failure.clone()),
    };
    ended(end, job, &attempts)
}

/// Keeps the config, where the image is, and where its layers lie.
fn learn_remote(world: &World<'_>, reference: &Reference, manifest: Digest, remote: &RemoteImage) -> Result<(), Failure> {
    let config =
        ImageConfig::parse(remote.config()).map_err(|error| Failure::infra(format!("the config of {reference} can't be read: {error}")))?;
    let image = remote.image_id();
    let (host, repository) = (reference.host().to_owned(), reference.repository().to_owned());
    let blobs = remote.layers().iter().map(|layer| BlobPlace {
        diff_id: layer.diff_id,
        host: host.clone(),
        repository: repository.clone(),
        digest: layer.digest,
        size: layer.size,
        compression: layer.compression,
    });
    let facts = Facts {
        configs: vec![(image.0, config)],
        blobs: blobs.collect(),
        locations: vec![Location { image, host: host.clone(), repository: repository.clone(), manifest }],
        ..Facts::default()
    };
    world.state.learn(&facts).map_err(|error| record_failure(&error))
}

/// A base that lies or is made on this machine: its image id is measured, and recorded under its key.
fn local(world: &World<'_>, index: NodeIndex, base: &BaseNode<'_>, job: &Job) -> JobEnd {
    let node = world.graph.node(index);
    let label = node.label();
    let Some((key, components)) = job.key.clone() else { return JobEnd::failed(Failure::infra("a local base without a key")) };
    let attempts = attempts::attempt(world, &label, &terms(world), |attempt, _| {
        let source: Box<dyn ImageSource> = match place(base) {
            Some(Place::Command(argv, env, folder)) => {
                let work = Work::begin(world, key)?;
                let tar = make(world, &work.0, argv, env, &folder, attempt)?;
                attempt.output.line(Stream::Engine, "measuring the root filesystem");
                let source = rootfs(world, &tar, &node.platform)?;
                let kept = kept_tar(world, source.image_id());
                keep(&tar, &kept).map_err(|error| disk_failure(&error, "the root filesystem"))?;
                Box::new(rootfs(world, &kept, &node.platform)?)
            }
            Some(Place::Rootfs(path)) => Box::new(rootfs(world, &world.root.join(path), &node.platform)?),
            Some(Place::Layout(path)) => Box::new(OciLayout::open(&world.root.join(path), &node.platform)?),
            None => return Err(Failure::infra("a base without a source")),
        };
        let image = EngineImage { id: source.image_id(), handle: String::new(), platform: node.platform.clone() };
        let config = ImageConfig::parse(source.config()).map_err(|error| Failure::infra(format!("its config can't be read: {error}")))?;
        Ok((image, config))
    });
    finish_local(world, index, base, job, key, components, &attempts)
}

fn finish_local(
    world: &World<'_>,
    index: NodeIndex,
    base: &BaseNode<'_>,
    job: &Job,
    key: Key,
    components: Vec<crate::component::Component>,
    attempts: &Attempts<(EngineImage, ImageConfig)>,
) -> JobEnd {
    let made = attempts.result.as_ref().ok();
    let facts =
        made.map_or_else(Facts::default, |(image, config)| Facts { configs: vec![(image.id.0, config.clone())], ..Facts::default() });
    let image = made.map(|(image, _)| image.clone());
    let recorded = record(world, index, NodeKind::Base, Recorded { key, components, image: image.clone(), job, attempts, facts });
    let end = match (&attempts.result, recorded, image) {
        (Err(failure), ..) => JobEnd::failed(failure.clone()),
        (_, Err(failure), _) => JobEnd::failed(failure),
        (_, _, Some(image)) => JobEnd::done(
            Outcome::Succeeded { image: Some(image.id), changed: true },
            Some(Value::Base {
                content: image.id.to_string(),
                image: image.id,
                manifest: None,
                stand_in: matches!(base.source, BaseSource::StandIn(_)),
            }),
        ),
        (_, _, None) => JobEnd::failed(Failure::infra("a base without an image")),
    };
    ended(end, job, attempts)
}

type Texts = std::collections::BTreeMap<std::sync::Arc<str>, std::sync::Arc<str>>;

enum Place<'a> {
    Command(&'a [std::sync::Arc<str>], &'a Texts, PathBuf),
    Rootfs(PathBuf),
    Layout(PathBuf),
}

fn place<'a>(base: &'a BaseNode<'_>) -> Option<Place<'a>> {
    match (&base.source, base.entry) {
        (BaseSource::StandIn(StandIn::Rootfs(path)), _) => Some(Place::Rootfs(path.clone())),
        (BaseSource::StandIn(StandIn::OciLayout(path)), _) => Some(Place::Layout(path.clone())),
        (BaseSource::Entry, Some(entry)) => match &entry.from {
            BaseFrom::Command { argv, env, .. } => Some(Place::Command(argv, env, PathBuf::from(crate::keys::command_folder(entry)))),
            BaseFrom::Rootfs(path) => Some(Place::Rootfs(PathBuf::from(&**path))),
            BaseFrom::OciLayout(path) => Some(Place::Layout(PathBuf::from(&**path))),
            BaseFrom::Registry(_) => None,
        },
        _ => None,
    }
}

fn rootfs(world: &World<'_>, path: &std::path::Path, platform: &Platform) -> Result<RootfsTar, Failure> {
    RootfsTar::open(path, platform, world.catalogue.workspace.epoch)
}

/// Where the tar that a command made is kept: igraph's only copy of that base besides the engine's.
fn kept_tar(world: &World<'_>, image: ImageId) -> PathBuf {
    world.state.folder().bases().join(format!("{}.tar", image.0.hex()))
}

/// The bytes of a local base, if they are still those of `image`.
pub(super) fn local_source(world: &World<'_>, base: &BaseNode<'_>, platform: &Platform, image: ImageId) -> Option<Box<dyn ImageSource>> {
    let source: Box<dyn ImageSource> = match place(base)? {
        Place::Command(..) => Box::new(rootfs(world, &kept_tar(world, image), platform).ok()?),
        Place::Rootfs(path) => Box::new(rootfs(world, &world.root.join(path), platform).ok()?),
        Place::Layout(path) => Box::new(OciLayout::open(&world.root.join(path), platform).ok()?),
    };
    (source.image_id() == image).then_some(source)
}

/// Moves a tar to where it is kept, durably: it is there before a record says so.
fn keep(tar: &std::path::Path, kept: &std::path::Path) -> std::io::Result<()> {
    std::fs::File::open(tar)?.sync_all()?;
    std::fs::rename(tar, kept)?;
    kept.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

/// The work folder of a base's command; gone with it, but for what something is mounted on.
struct Work(PathBuf);

impl Work {
    fn begin(world: &World<'_>, key: Key) -> Result<Self, Failure> {
        let work = world.state.folder().bases().join(format!("work-{key}"));
        let fail = |error: std::io::Error| disk_failure(&error, "the work folder");
        crate::record::remove_tree(&work).map_err(fail)?;
        std::fs::create_dir_all(&work).map_err(fail)?;
        Ok(Self(work))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // what is left is cleared by the next try, which can say what is wrong with it
        let _ = crate::record::remove_tree(&self.0);
    }
}

/// What a command sees of igraph's own environment; all else could change what it makes, and is in no key.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "USER"];

/// Runs the command of a base in the package's folder; returns the tar it wrote. It gets mount and pid namespaces of its own where
/// `unshare` can make them, so that what it leaves mounted or running goes with it.
fn make(
    world: &World<'_>,
    work: &std::path::Path,
    argv: &[std::sync::Arc<str>],
    env: &Texts,
    folder: &std::path::Path,
    attempt: &Attempt<'_>,
) -> Result<PathBuf, Failure> {
    let tar = work.join("rootfs.tar");
    let words: Vec<String> = argv.iter().map(|word| word.replace("{out}", &tar.to_string_lossy())).collect();
    let mut command = if can_unshare() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]).args(&words);
        command
    } else {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    };
    command
        .current_dir(world.root.join(folder))
        .env_clear()
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, (world.environment)(name)?))))
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", work)
        .env("SOURCE_DATE_EPOCH", world.catalogue.workspace.epoch.to_string())
        .envs(world.proxies)
        .envs(env.iter().map(|(name, value)| (&**name, &**value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|error| {
        Failure::step(format!("`{}` can't be started: {error}", words[0]))
            .hint("the command of a base is looked for in its package's folder when it begins with `./`")
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let lines = std::sync::Mutex::new(Vec::new());
    let status = std::thread::scope(|scope| {
        if let Some(stdout) = stdout {
            scope.spawn(|| read_lines(stdout, Stream::Stdout, attempt, &lines));
        }
        if let Some(stderr) = stderr {
            scope.spawn(|| read_lines(stderr, Stream::Stderr, attempt, &lines));
        }
        let start = world.clock.monotonic();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    // what it left running would keep the pipes open
                    kill_group(&child);
                    return Ok(status);
                }
                Ok(None) => {}
                Err(error) => return Err(Failure::infra(format!("waiting for `{}`: {error}", words[0]))),
            }
            let late = attempt.timeout.filter(|limit| world.clock.monotonic().saturating_sub(start) > *limit);
            if attempt.cancel.is_cancelled() || late.is_some() {
                kill_group(&child);
                let _ = child.wait();
                return Err(late.map_or_else(Failure::stopped, |limit| Failure::step(format!("timed out after {}s", limit.as_secs()))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let status = status?;
    if !status.success() {
        let lines = lines.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let code = status.code().map(i64::from).unwrap_or_else(|| 128 + i64::from(status.signal().unwrap_or(0)));
        let message = format!("exit {code} of `{}`", argv.join(" "));
        let verdict = classify(lines.iter().map(String::as_str), Some(code), &message);
        return Err(Failure {
            class: verdict.class,
            retry: verdict.retry,
            message,
            hint: verdict.evidence,
            exit_code: Some(code),
            group: verdict.group.map(str::to_owned),
        });
    }
    if !tar.is_file() {
        return Err(Failure::step(format!("`{}` ended well but wrote no {{out}}", argv.join(" ")))
            .hint("it has to write a tar to the path that `{out}` stands for"));
    }
    Ok(tar)
}

fn read_lines(pipe: impl Read, stream: Stream, attempt: &Attempt<'_>, lines: &std::sync::Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        attempt.output.line(stream, &line);
        lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
    }
}

fn can_unshare() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CAN.get_or_init(|| {
        let mut probe = Command::new("unshare");
        probe.args(["--mount", "--pid", "--fork", "--mount-proc", "--", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// The whole group of a child; it may have ended meanwhile.
fn kill_group(child: &std::process::Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}
