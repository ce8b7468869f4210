//! Stages: each starts from its base and runs its steps; those that don't need each other run at the same time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::Image;
use super::key::KeyHasher;
use super::place::{Destination, new_upper};
use super::tree::Context;
use super::users;
use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::dockerfile::{Command, FileSource, FromTarget, ResolvedStage, Step};
use crate::engine::context::ContextFiles;
use crate::engine::embedded::files::disk;
use crate::engine::embedded::layer::view::clean;
use crate::engine::embedded::sandbox::Host;
use crate::engine::embedded::store::Store;
use crate::engine::words::step_place;
use crate::engine::{Attempt, BuildRequest};
use crate::event::Stream;
use crate::failure::Failure;

/// Looks an environment variable up.
pub(in crate::engine::embedded) type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A build under way.
pub(super) struct Builder<'a> {
    pub store: &'a Store,
    pub host: &'a Host,
    pub environment: &'a Environment,
    pub request: &'a BuildRequest<'a>,
    pub attempt: &'a Attempt<'a>,
    pub context: Context,
    begin: Instant,
    created: String,
    finished: Mutex<BTreeMap<usize, Arc<StageState>>>,
}

/// A stage so far.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    pub image: Image,
    /// The stage has said CMD.
    has_cmd: bool,
    /// Names that ARG has declared, as often as it did; for the history.
    args: Vec<String>,
}

impl<'a> Builder<'a> {
    pub fn new(
        store: &'a Store,
        host: &'a Host,
        environment: &'a Environment,
        request: &'a BuildRequest<'a>,
        attempt: &'a Attempt<'a>,
    ) -> Self {
        let context = Context::new(ContextFiles::new(request.context_root, request.context, request.epoch));
        let created = Timestamp(request.epoch.saturating_mul(1000)).to_rfc3339();
        Self { store, host, environment, request, attempt, context, begin: Instant::now(), created, finished: Mutex::default() }
    }

    /// Builds every needed stage; the bytes of the target's config, or the base itself where the target changes nothing.
    pub fn build(&self) -> Result<Result<Vec<u8>, ImageId>, Failure> {
        let target = self.request.resolved.steps.last().ok_or_else(|| Failure::infra("a Dockerfile without stages"))?;
        let mut waiting: Vec<&ResolvedStage> = self.request.resolved.steps.iter().collect();
        while !waiting.is_empty() {
            let done = |index: &usize| self.finished.lock().unwrap_or_else(PoisonError::into_inner).contains_key(index);
            let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|stage| needs(stage).iter().all(done));
            waiting = rest;
            if ready.is_empty() {
                return Err(Failure::infra("stages that wait for each other"));
            }
            // most Dockerfiles have one stage, or stages that wait for each other: those need no thread
            if let [only] = ready[..] {
                self.stage(only)?;
                continue;
            }
            std::thread::scope(|scope| {
                let running: Vec<_> = ready.iter().map(|stage| scope.spawn(|| self.stage(stage))).collect();
                let ended: Vec<Result<(), Failure>> =
                    running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
                ended.into_iter().collect::<Result<(), Failure>>()
            })?;
        }
        let state = self.finished(target.index)?;
        if let (FromTarget::Image(text), true) = (&target.base, target.steps.is_empty()) {
            return Ok(Err(self.request.references.get(text).ok_or_else(|| missing(text))?.id));
        }
        state.image.to_bytes(&self.created).map(Ok).map_err(|error| Failure::infra(error.to_string()))
    }

    /// A stage that is done.
    pub fn finished(&self, index: usize) -> Result<Arc<StageState>, Failure> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.get(&index).cloned().ok_or_else(|| Failure::infra("a stage that is not built yet"))
    }

    /// The config of an image that the Dockerfile names.
    pub fn base(&self, text: &str) -> Result<Image, Failure> {
        let image = self.request.references.get(text).ok_or_else(|| missing(text))?;
        let gone = || Failure::infra(format!("the image {} is not in the store any more", image.id.0.short()));
        let bytes = self.store.image(image.id).ok_or_else(gone)?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::step(format!("the config of `{text}` can't be read: {error}")))
    }

    /// What is left of the attempt's time.
    pub fn left(&self) -> Result<Attempt<'a>, Failure> {
        if self.attempt.cancel.is_cancelled() {
            return Err(Failure::stopped());
        }
        let timeout = match self.attempt.timeout.map(|limit| (limit, limit.saturating_sub(self.begin.elapsed()))) {
            Some((limit, left)) if left < Duration::from_millis(1) => return Err(crate::engine::words::timed_out(limit)),
            other => other.map(|(_, left)| left),
        };
        Ok(Attempt { cancel: self.attempt.cancel, output: self.attempt.output, timeout })
    }

    /// What the instruction cache knows, where it is to be asked.
    pub fn cached(&self, key: &blake3::Hash, below: &[Digest]) -> Option<Option<Digest>> {
        if self.request.no_cache {
            return None;
        }
        let found = self.store.cached(key, below)?;
        self.attempt.output.line(Stream::Engine, "cached");
        Some(found)
    }

    fn stage(&self, stage: &ResolvedStage) -> Result<(), Failure> {
        let image = match &stage.base {
            FromTarget::Scratch => Image::scratch(&stage.platform),
            FromTarget::Image(text) => self.base(text)?.into_base(),
            FromTarget::Stage(index) => self.finished(*index)?.image.clone().into_base(),
        };
        let mut state = StageState { image, has_cmd: false, args: Vec::new() };
        for step in &stage.steps {
            self.left()?;
            let place = step_place(self.request.dockerfile, stage.index, Some(step)).unwrap_or_default();
            self.step(&mut state, step, &place).map_err(|failure| self.placed(failure, &place))?;
        }
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.index, Arc::new(state));
        Ok(())
    }

    /// Says where a failure happened; running out of time is told of the whole attempt.
    fn placed(&self, failure: Failure, place: &str) -> Failure {
        use crate::failure::FailureClass::Stopped;
        let late = failure.message.starts_with("timed out after ");
        if failure.class == Stopped || failure.message.ends_with("changed while it was read") {
            return failure;
        }
        if let Some(limit) = self.attempt.timeout.filter(|_| late) {
            let message = format!("{} at {place}", crate::engine::words::timed_out(limit).message);
            return Failure { message, ..failure };
        }
        Failure { message: format!("{} at {place}", failure.message), ..failure }
    }

    fn step(&self, state: &mut StageState, step: &Step, place: &str) -> Result<(), Failure> {
        let command = &step.instruction.command;
        if matches!(command, Command::Run(_) | Command::Copy(_) | Command::Add(..)) {
            self.attempt.output.line(Stream::Engine, place);
        }
        if let Some(by) = state.image.apply(command, &mut state.has_cmd) {
            if let Command::Arg(declarations) = command {
                state.args.extend(declarations.iter().map(|declaration| declaration.name.value.clone()));
            }
            by.into_iter().for_each(|by| state.image.record(&self.created, by, None));
            return Ok(());
        }
        let (layer, by) = match command {
            Command::Run(_) => {
                let (layer, argv) = self.run(state, step)?;
                let mut by = String::from("RUN ");
                if !state.args.is_empty() {
                    by.push_str(&format!("|{} ", state.args.len()));
                    for name in &state.args {
                        let value = step.environment.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
                        by.push_str(&format!("{name}={value} "));
                    }
                }
                by.push_str(&argv.join(" "));
                (layer, by)
            }
            Command::Copy(transfer) | Command::Add(transfer, _) => {
                let name = if matches!(command, Command::Copy(_)) { "COPY" } else { "ADD" };
                let words = transfer.sources.iter().map(|source| match source {
                    FileSource::Path(path) => path.value.clone(),
                    FileSource::Heredoc(index) => {
                        format!("<<{}", step.instruction.heredocs.get(*index).map_or("", |heredoc| heredoc.name.as_str()))
                    }
                });
                let mut by = name.to_owned();
                if transfer.parents {
                    by.push_str(" --parents");
                }
                for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
                    by.extend(value.iter().map(|value| format!(" --{flag}={}", value.value)));
                }
                by.extend(words.map(|word| format!(" {word}")));
                by.push_str(&format!(" {}", transfer.destination.value));
                (self.copy(state, step)?, by)
            }
            Command::Workdir(path) => {
                let absolute = state.image.absolute(&path.value);
                let folder = format!("/{}", clean(Path::new(&absolute)).display());
                let layer = self.workdir(state, Path::new(&folder))?;
                let by = format!("WORKDIR {folder}");
                state.image.config.working_dir = folder;
                (layer, by)
            }
            _ => return Ok(()),
        };
        state.image.record(&self.created, by, layer);
        Ok(())
    }

    /// The layer that a working directory needs; `None` where it is there.
    fn workdir(&self, state: &StageState, folder: &Path) -> Result<Option<Digest>, Failure> {
        let diff_ids = &state.image.rootfs.diff_ids;
        let view = self.store.view(diff_ids)?;
        let work = self.store.work()?;
        let upper: PathBuf = work.path().join("fs");
        let user = users::user(&state.image.config.user, &view)?;
        let located = view.locate(folder, true).map_err(disk(format!("`{}`", folder.display())))?;
        if located.spot.is_some_and(|spot| spot.is_folder()) {
            return Ok(None);
        }
        let mut key = KeyHasher::new("workdir");
        key.layers(diff_ids);
        key.text(&format!("{} {} {} {}", folder.display(), user.uid, user.gid, self.request.epoch));
        let key = key.finish();
        if let Some(layer) = self.cached(&key, diff_ids) {
            return Ok(layer);
        }
        new_upper(&upper, &view)?;
        let mut writer = Destination::new(&upper, &view, self.request.epoch, Some((user.uid, user.gid)), None);
        writer.folder(&located.path)?;
        let made = self.store.make_layer(work, &view, self.request.epoch)?.map(|made| made.diff_id);
        self.store.cache(&key, made)?;
        Ok(made)
    }
}

fn missing(text: &str) -> Failure {
    Failure::infra(format!("the image `{text}` was not handed in"))
}

/// Stages that must be done before.
fn needs(stage: &ResolvedStage) -> Vec<usize> {
    let from = stage.steps.iter().flat_map(|step| step.from.iter().flatten());
    std::iter::once(&stage.base)
        .chain(from)
        .filter_map(|target| match target {
            FromTarget::Stage(index) => Some(*index),
            _ => None,
        })
        .collect()
}
