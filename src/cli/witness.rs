//! The short way to "nothing to do": a snapshot of all that the last such answer relied on, looked at before anything is loaded.
//! It answers only where a full evaluation would give the same: same program, same arguments, same stats everywhere.

use super::args::Verb;
use super::program::Context;
use super::workbench::{self, OUT, Workbench};
use crate::graph::{Body, NodeIndex};
use crate::plan::{Decision, Planner};
use crate::record::{Snapshot, SnapshotDraft, StateFolder, Validity, Written};

/// The witness of one command line.
pub struct Witness {
    root: std::path::PathBuf,
    folder: StateFolder,
    scope: [u8; 32],
    draft: SnapshotDraft,
}

impl Witness {
    /// The witness of a verb with these arguments; `None` where they ask for more than whether there is something to do.
    pub fn of(verb: &str, args: &Verb, context: &Context<'_>) -> Option<Self> {
        let plan = &args.plan;
        let looks = plan.dry_run || plan.check || plan.force || plan.verify || args.output.json || args.output.show_output;
        let documents = args.output.junit.is_some() || args.output.build_report.is_some();
        let stdin = args.selection.patterns.iter().chain(&args.exclude).any(|pattern| pattern.starts_with('@'));
        if looks || documents || stdin || !args.world.bases.is_empty() {
            return None;
        }
        let root = workbench::root(context.environment).ok()?;
        let folder = StateFolder::new(root.join(OUT));
        let current = context.environment.current_dir.as_ref()?.strip_prefix(&root).ok()?.to_path_buf();
        let mut hasher = blake3::Hasher::new_derive_key("igraph 2026 scope of a witness");
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(env!("CARGO_PKG_VERSION"));
        part(&crate::component::KEY_SCHEMA.to_string());
        part(verb);
        part(&current.to_string_lossy());
        part(&format!("{:?}", args.world.engine));
        part(&format!("{:?}", args.registry));
        part(&context.environment.fake_engine.to_string());
        part(&crate::platform::Platform::host().to_string());
        for list in [&args.selection.patterns, &args.exclude] {
            part(&list.len().to_string());
            list.iter().for_each(|text| part(text));
        }
        let scope = *hasher.finalize().as_bytes();
        let since = crate::stamp::coarse_clock();
        let draft = SnapshotDraft::begin(&folder, since);
        Some(Self { root, folder, scope, draft })
    }

    /// What was said when all was fresh, if all that it relied on is as it was.
    pub fn holds(&self) -> Option<String> {
        let snapshot = Snapshot::read(&self.folder, &self.scope)?;
        match snapshot.validate(&self.folder, &self.root) {
            Validity::Valid(line) => String::from_utf8(line.to_vec()).ok(),
            Validity::Invalid(_) => None,
        }
    }

    /// Keeps what a plan relied on in which everything was fresh. Where something changed a moment ago nothing is kept: the next
    /// run evaluates again.
    pub fn keep(self, line: &str, bench: &Workbench<'_>, planner: &Planner<'_>, plan: &[(NodeIndex, Decision)]) -> Option<Written> {
        let mut draft = self.draft;
        for file in &bench.catalogue.files {
            draft.relies_on(relative(&file.path), file.stamp);
        }
        for (index, _) in plan {
            let traces = match (&planner.graph.node(*index).body, planner.traces(*index)) {
                (_, Some(traces)) => traces,
                (Body::Image(_) | Body::Test(_), None) => return None,
                // a registry base is in the lock, gates and names are in the records
                (_, None) => continue,
            };
            for (path, stamp) in traces.watched() {
                match stamp {
                    Some(stamp) => draft.relies_on(relative(&path), stamp),
                    None => draft.relies_on_absence(relative(&path)),
                }
            }
        }
        let lock = self.root.join(crate::lock::LOCK_FILE);
        match lock.symlink_metadata() {
            Ok(metadata) => draft.relies_on(crate::lock::LOCK_FILE, crate::stamp::Stamp::of(&metadata)),
            Err(_) => draft.relies_on_absence(crate::lock::LOCK_FILE),
        }
        draft.write(&self.folder, &self.root, &self.scope, line.as_bytes()).ok()
    }
}

fn relative(path: &str) -> String {
    if path.is_empty() { ".".to_owned() } else { path.to_owned() }
}
