//! Settles bases: asks a registry once, or makes and measures a local one. Loading it into an engine comes when it is needed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::attempts::{self, Attempts, Terms, disk_failure, record_failure};
use super::builds::{Recorded, ended, unrecorded};
use super::probes;
use super::world::{Job, JobEnd, World};
use crate::digest::{Digest, ImageId, Key};
use crate::engine::Attempt;
use crate::engine::classify::classify;
use crate::event::{NodeKind, Outcome, Stream};
use crate::failure::{Failure, FailureClass, Retry};
use crate::graph::{BaseNode, BaseSource, NodeIndex, StandIn};
use crate::image::{EngineImage, ImageConfig, ImageSource};
use crate::lock::{LockEntry, LockedBase};
use crate::plan::Value;
use crate::platform::Platform;
use crate::record::{AnswerRecord, BlobPlace, Facts, Location};
use crate::reference::Reference;
use crate::registry::{OciLayout, RemoteImage, RootfsTar};
use crate::spec::BaseFrom;
use crate::stamp::Stamp;

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
        // two nodes may name one reference: the second finds what the first put into the lock
        let slot = world.held.resolving(reference, &node.platform);
        let _resolving = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let locked = if stand_in { None } else { world.lock.entry(reference, &node.platform) };
        let (remote, entry) = match locked {
            Some(entry) => {
                let remote = world.registry.image(&reference.with_digest(entry.manifest), world.cancel);
                (remote.map_err(|failure| gone(failure, reference))?, None)
            }
            None if world.options.locked && !stand_in => {
                return Err(Failure::step(format!("{} is not in igraph.lock, and --locked forbids adding it", reference.familiar()))
                    .hint("run `igraph update`, and commit igraph.lock"));
            }
            None => {
                attempt.output.line(Stream::Engine, &format!("asking {} for {}", reference.host(), reference.familiar()));
                let resolved =
                    world.registry.resolve(reference, &node.platform, world.cancel).map_err(|failure| elsewhere(failure, reference))?;
                let entry = LockEntry {
                    reference: reference.clone(),
                    platform: node.platform.clone(),
                    base: LockedBase {
                        index: resolved.index,
                        manifest: resolved.manifest,
                        config: resolved.image_id,
                        time: world.clock.now(),
                        candidate: None,
                    },
                };
                (world.registry.base_image(&resolved, world.cancel)?, Some(entry))
            }
        };
        let (manifest, image) = (remote.manifest(), remote.image_id());
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

/// What the lock has may have been removed from its registry.
fn gone(failure: Failure, reference: &Reference) -> Failure {
    if failure.class == FailureClass::Step && failure.hint.is_none() {
        return failure.hint(format!("igraph.lock has it; `igraph update {}` takes what is there now", reference.familiar()));
    }
    elsewhere(failure, reference)
}

/// Where a base can't be had, there are other ways to one.
fn elsewhere(failure: Failure, reference: &Reference) -> Failure {
    if failure.hint.is_some() || failure.class != FailureClass::Infra {
        return failure;
    }
    let name = reference.familiar();
    failure.hint(format!(
        "where {} can't be reached, name a mirror of it in `registries`, or try `--base {name}=rootfs:FILE`",
        reference.host()
    ))
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
    let attempts = attempts::attempt(world, &label, &terms(world), |attempt, number| {
        let config = match place(base) {
            Some(Place::Command(argv, env, folder)) => {
                let work = work_folder(world, key);
                let kept = make(world, &work, argv, env, folder, attempt).and_then(|tar| {
                    attempt.output.line(Stream::Engine, "measuring the root filesystem");
                    keep(world, &tar, &node.platform)
                });
                if let Err(error) = clear(&work) {
                    attempt.output.line(Stream::Engine, &format!("`{}` stays: {error}", work.display()));
                }
                kept?.config().to_vec()
            }
            Some(Place::Rootfs(path)) => measured(world, index, &world.root.join(path), key, job.no_cache || number > 1)?,
            Some(Place::Layout(path)) => OciLayout::open(&world.root.join(path), &node.platform)?.config().to_vec(),
            None => return Err(Failure::infra("a base without a source")),
        };
        let image = EngineImage { id: ImageId(Digest::of(&config)), handle: String::new(), platform: node.platform.clone() };
        let config = ImageConfig::parse(&config).map_err(|error| Failure::infra(format!("its config can't be read: {error}")))?;
        Ok((image.clone(), config, answers(world, index, base, &image, attempt)))
    });
    finish_local(world, index, base, job, key, components, &attempts)
}

/// The baseline of its probe, where it has one and can be brought into the engine.
fn answers(world: &World<'_>, index: NodeIndex, base: &BaseNode<'_>, image: &EngineImage, attempt: &Attempt<'_>) -> Vec<AnswerRecord> {
    let probe = base.entry.and_then(|entry| entry.freshness.probe.as_deref()).filter(|_| matches!(base.source, BaseSource::Entry));
    if probe.is_none() {
        return Vec::new();
    }
    match world.image_with(index, image.id, None, attempt) {
        Ok(held) => probes::baseline(world, index, probe, &held, attempt),
        Err(_) => Vec::new(),
    }
}

fn finish_local(
    world: &World<'_>,
    index: NodeIndex,
    base: &BaseNode<'_>,
    job: &Job,
    key: Key,
    components: Vec<crate::component::Component>,
    attempts: &Attempts<(EngineImage, ImageConfig, Vec<AnswerRecord>)>,
) -> JobEnd {
    let made = attempts.result.as_ref().ok();
    let facts = made.map_or_else(Facts::default, |(image, config, answers)| Facts {
        configs: vec![(image.id.0, config.clone())],
        answers: answers.clone(),
        ..Facts::default()
    });
    let image = made.map(|(image, ..)| image.clone());
    let record = unrecorded(world, index, NodeKind::Base, Recorded { key, components, image: image.clone(), job, attempts, facts });
    let end = match (&attempts.result, image) {
        (Err(failure), _) => JobEnd::failed(failure.clone()),
        (_, Some(image)) => JobEnd::done(
            Outcome::Succeeded { image: Some(image.id), changed: true },
            Some(Value::Base {
                content: image.id.to_string(),
                image: image.id,
                manifest: None,
                stand_in: matches!(base.source, BaseSource::StandIn(_)),
            }),
        ),
        (_, None) => JobEnd::failed(Failure::infra("a base without an image")),
    };
    ended(JobEnd { record, ..end }, job, attempts)
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

fn rootfs(world: &World<'_>, path: &Path, platform: &Platform) -> Result<RootfsTar, Failure> {
    RootfsTar::open(path, platform, world.catalogue.workspace.epoch)
}

/// The config of a tar's image. The engine may remember which layer the tar is; else it is read.
fn measured(world: &World<'_>, index: NodeIndex, path: &Path, key: Key, no_cache: bool) -> Result<Vec<u8>, Failure> {
    let platform = &world.graph.node(index).platform;
    // what stands on the base will tell where there is no engine
    let engine = world.engine.engine().ok();
    if let Some(layer) = engine.filter(|_| !no_cache).and_then(|engine| engine.remembered(&key)) {
        let config = RootfsTar::config_of(layer, platform, world.catalogue.workspace.epoch);
        return config.map_err(|error| Failure::infra(error.to_string()));
    }
    let source = rootfs(world, path, platform)?;
    if let Some(engine) = engine.filter(|_| is_as_keyed(world, index)) {
        engine.remember(&key, source.layers()[0].diff_id);
    }
    Ok(source.config().to_vec())
}

/// Whether the files of a node are those that its key is made of.
fn is_as_keyed(world: &World<'_>, index: NodeIndex) -> bool {
    let now = world.clock.now().0.saturating_mul(1_000_000);
    let same = |path: &str, keyed: &Option<Stamp>| {
        let stamp = std::fs::metadata(world.root.join(path)).ok().map(|metadata| Stamp::of(&metadata));
        stamp == *keyed && stamp.is_none_or(|stamp| stamp.is_settled(now, false))
    };
    world.planner.traces(index).is_some_and(|traces| traces.watched().all(|(path, keyed)| same(&path, &keyed)))
}

/// Where the tar that a command made is kept: igraph's only copy of that base besides the engine's.
fn kept_tar(world: &World<'_>, image: ImageId) -> PathBuf {
    world.state.folder().bases().join(format!("{}.tar", image.0.hex()))
}

/// Keeps a tar that a command made, durably, under the id of its image.
fn keep(world: &World<'_>, tar: &Path, platform: &Platform) -> Result<RootfsTar, Failure> {
    let source = rootfs(world, tar, platform)?;
    let kept = kept_tar(world, source.image_id());
    let move_there = || {
        File::open(tar)?.sync_all()?;
        std::fs::rename(tar, &kept)?;
        File::open(world.state.folder().bases())?.sync_all()
    };
    move_there().map_err(|error| disk_failure(&error, "the root filesystem"))?;
    Ok(source.moved(kept))
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

/// What a command sees of igraph's own environment; all else could change what it makes, and is in no key.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "USER"];

/// Runs the command of a base in the package's folder; returns the tar it wrote. It gets mount and pid namespaces of its own where
/// `unshare` can make them, so that what it leaves mounted or running goes with it.
fn make(
    world: &World<'_>,
    work: &Path,
    argv: &[std::sync::Arc<str>],
    env: &Texts,
    folder: PathBuf,
    attempt: &Attempt<'_>,
) -> Result<PathBuf, Failure> {
    clear(work)
        .map_err(|error| Failure::infra(format!("the work folder of an earlier try can't be removed: {error}")).retry(Retry::Never))?;
    std::fs::create_dir_all(work).map_err(|error| disk_failure(&error, "the work folder"))?;
    let tar = work.join("rootfs.tar");
    let words: Vec<String> = argv.iter().map(|word| word.replace("{out}", &tar.to_string_lossy())).collect();
    let mut command = if can_unshare() {
        let mut command = Command::new(APART[0]);
        command.args(&APART[1..]).args(&words);
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
    let group = i32::try_from(child.id()).ok().map(nix::unistd::Pid::from_raw);
    let end_group = || {
        if let Some(group) = group {
            // it may have ended meanwhile
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    };
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
                    // what it left running would hold its output open
                    end_group();
                    return Ok(status);
                }
                Ok(None) => {}
                Err(error) => return Err(Failure::infra(format!("waiting for `{}`: {error}", words[0]))),
            }
            let late = attempt.timeout.filter(|limit| world.clock.monotonic().saturating_sub(start) > *limit);
            if attempt.cancel.is_cancelled() || late.is_some() {
                end_group();
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
            hint: match code {
                126 => Some("its first line or its mode does not let it run: is it executable?".to_owned()),
                127 => Some("a program is looked for in PATH, or, written with a `/`, from the package's folder".to_owned()),
                _ => verdict.evidence,
            },
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

/// Runs a program apart: in mount and pid namespaces that end with it, and with igraph. The shell is what the kernel protects there
/// from signals, so that the program is not.
#[rustfmt::skip]
const APART: [&str; 14] = [
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--",
    "sh", "-c", "\"$@\"; exit $?", "sh",
];

fn can_unshare() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CAN.get_or_init(|| {
        let mut probe = Command::new(APART[0]);
        probe.args(&APART[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// Where a command makes its tar.
fn work_folder(world: &World<'_>, key: Key) -> PathBuf {
    world.state.folder().bases().join(format!("work-{key}"))
}

/// Removes a work folder, never across a mount.
fn clear(folder: &Path) -> std::io::Result<()> {
    crate::record::remove_tree(folder)
}
