//! `verify`: whether the engine still holds an image as it was made; with `--rebuild`, whether building it again gives the same. Records
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::cli::args::Verify;
use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::settled::{self, Settled};
use crate::cli::workbench::Workbench;
use crate::digest::{Digest, ImageId};
use crate::engine::{Attempt, Engine, ExportSink, Output, Scrub};
use crate::event::{Event, Sink, Stream};
use crate::execute::{self, Held, LazyEngine, Options, Stops, World};
use crate::failure::{Failure, FailureClass};
use crate::image::EngineImage;
use crate::record::State;

/// Verifies.
pub fn run(args: &Verify, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    bench.enter(&args.world)?;
    let state = bench.state_read_only()?;
    let ended =
        settled::with(&bench, &state, &args.label, &args.world, |settled| Verifying { bench: &bench, state: &state, args }.run(settled));
    match (ended, context.signals.first()) {
        (Err(Error::Failure(failure)), Some(number)) if failure.class == FailureClass::Stopped => Ok(Exit::Signal(number)),
        (ended, _) => ended,
    }
}

struct Verifying<'a> {
    bench: &'a Workbench<'a>,
    state: &'a State,
    args: &'a Verify,
}

/// Shows the steps' output where it is asked for.
struct Shown<'a>(&'a Context<'a>);

impl Output for Shown<'_> {
    fn line(&self, _: Stream, line: &str) {
        if self.0.global.verbose {
            self.0.printer.say(format_args!("           | {line}"));
        }
    }

    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

/// Nothing is recorded.
struct Nobody;

impl Sink for Nobody {
    fn emit(&self, _: &Event) {}
}

impl Verifying<'_> {
    fn run(&self, settled: &Settled<'_>) -> Result<Exit, Error> {
        let context = self.bench.context;
        let process = format!("verify-{}", std::process::id());
        let lazy = LazyEngine::new(Box::new(|| self.bench.engine(&self.args.world, &process)));
        let engine = lazy.engine()?.as_ref();
        let output = Shown(context);
        let attempt = Attempt { cancel: context.cancel, output: &output, timeout: None };
        let Some(image) = engine.find(settled.image)? else {
            let message = format!("the engine has no image {} any more", settled.image.0.short());
            let hint = format!("`igraph build --verify {}` brings it back", settled.label);
            return Err(Failure::infra(message).hint(hint).into());
        };
        let say = |text: String| {
            if !context.global.quiet {
                context.printer.say(text);
            }
        };
        let layers = layers(engine, &image, &attempt)?;
        if !self.args.rebuild {
            let bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
            say(format!(
                "igraph: {} is as it was made: image {}, {} layers, {bytes} bytes",
                settled.label,
                image.id.0.short(),
                layers.len()
            ));
            return Ok(Exit::Done);
        }
        let again = self.rebuild(settled, &lazy, &attempt)?;
        if again.id == image.id {
            say(format!("igraph: {} built again is the same image, {}", settled.label, image.id.0.short()));
            return Ok(Exit::Done);
        }
        let compared = compare(engine, (&image, &layers), &again, &attempt);
        engine.discard(&again)?;
        let difference = compared?;
        let printer = context.printer;
        printer.say(format_args!(
            "igraph: {} built again is another image: {} is recorded, {} came out",
            settled.label,
            image.id.0.short(),
            again.id.0.short()
        ));
        printer.say(format_args!("  {difference}"));
        if let Some(scrub) = difference.scrub() {
            printer.hint(format_args!("`scrub: [{scrub}]` leaves that file out of the image"));
        }
        Ok(Exit::ImageFailed)
    }

    fn rebuild(&self, settled: &Settled<'_>, engine: &LazyEngine<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Error> {
        let context = self.bench.context;
        let clock = context.clock();
        let client = self.bench.client(clock.clone(), None)?;
        let (stops, durations) = (Stops::default(), BTreeMap::new());
        let world = World {
            root: self.bench.root(),
            catalogue: &self.bench.catalogue,
            graph: settled.planner.graph,
            planner: settled.planner,
            plan: &[],
            state: self.state,
            lock: settled.lock,
            engine,
            registry: &client,
            clock: clock.as_ref(),
            sink: &Nobody,
            run: "verify",
            durations: &durations,
            cancel: context.cancel,
            stops: &stops,
            environment: &environment::secret,
            proxies: &context.environment.proxies,
            options: Options { jobs: 1, fail_fast: true, retries: Some(0), timeout: None, verify: false, locked: true },
            held: Held::new(clock.now()),
        };
        Ok(execute::rebuild(&world, settled.index, settled.values, attempt)?)
    }
}

/// A layer, read to its end.
struct Layer {
    diff_id: Digest,
    bytes: u64,
}

/// Takes nothing but digests, and the files of one layer.
#[derive(Default)]
struct Reader {
    config: Vec<u8>,
    layers: BTreeMap<Digest, u64>,
    wanted: Option<Digest>,
    files: BTreeMap<String, File>,
}

struct Counting<'a> {
    tar: &'a mut dyn Read,
    hasher: Sha256,
    bytes: u64,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

impl ExportSink for Reader {
    fn config(&mut self, _: ImageId, bytes: &[u8]) -> Result<(), Failure> {
        bytes.clone_into(&mut self.config);
        Ok(())
    }

    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure> {
        let broken = |error: io::Error| match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::infra(format!("layer {} can't be read: {error}", diff_id.short())),
        };
        let mut reader = Counting { tar, hasher: Sha256::new(), bytes: 0 };
        if self.wanted == Some(diff_id) {
            self.files = files(&mut reader).map_err(broken)?;
        }
        io::copy(&mut reader, &mut io::sink()).map_err(broken)?;
        if Digest::from_bytes(reader.hasher.finalize().into()) != diff_id {
            return Err(Failure::infra(format!("layer {} is damaged in the engine", diff_id.short())));
        }
        self.layers.insert(diff_id, reader.bytes);
        Ok(())
    }
}

fn read(
    engine: &dyn Engine,
    image: &EngineImage,
    layers: &[Digest],
    wanted: Option<Digest>,
    attempt: &Attempt<'_>,
) -> Result<Reader, Failure> {
    let mut reader = Reader { wanted, ..Reader::default() };
    engine.export(std::slice::from_ref(image), &layers.iter().copied().collect(), &mut reader, attempt)?;
    Ok(reader)
}

/// All layers of an image, base first, each read and held against its digest.
fn layers(engine: &dyn Engine, image: &EngineImage, attempt: &Attempt<'_>) -> Result<Vec<Layer>, Failure> {
    let diff_ids = engine.config(image)?.diff_ids;
    let reader = read(engine, image, &diff_ids, None, attempt)?;
    let layer = |diff_id: &Digest| {
        let bytes = reader.layers.get(diff_id).ok_or_else(|| Failure::infra(format!("the engine has no layer {}", diff_id.short())))?;
        Ok(Layer { diff_id: *diff_id, bytes: *bytes })
    };
    diff_ids.iter().map(layer).collect()
}

/// An entry of a layer, all that counts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    kind: &'static str,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: String,
    device: (u32, u32),
    attributes: BTreeMap<String, String>,
    size: u64,
    content: Option<Digest>,
}

fn files(tar: &mut dyn Read) -> io::Result<BTreeMap<String, File>> {
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = format!("/{}", String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").trim_matches('/'));
        let mut attributes = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
                    attributes.insert(name.to_owned(), String::from_utf8_lossy(extension.value_bytes()).into_owned());
                }
            }
        }
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default();
        let header = entry.header().clone();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => "folder",
            tar::EntryType::Symlink => "link",
            tar::EntryType::Link => "hard link",
            tar::EntryType::Char | tar::EntryType::Block => "device",
            tar::EntryType::Fifo => "pipe",
            _ => "file",
        };
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        let mut size = 0;
        loop {
            let count = entry.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
        let content = (kind == "file").then(|| Digest::from_bytes(hasher.finalize().into()));
        let device = (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
        // some leave the fields of whiteouts empty
        let owner = (header.uid().unwrap_or(0), header.gid().unwrap_or(0));
        found.insert(
            path,
            File {
                kind,
                mode: header.mode().unwrap_or(0),
                owner,
                mtime: header.mtime().unwrap_or(0),
                link,
                device,
                attributes,
                size,
                content,
            },
        );
    }
    Ok(found)
}

/// Where two builds part.
#[derive(Debug)]
enum Difference {
    /// A file of a layer, and how many others of it differ.
    File { layer: usize, by: String, path: String, what: String, others: usize },
    /// One has more layers.
    Layers(usize, usize),
    /// The same files under another config.
    Config(String),
}

impl Difference {
    /// The known set that the file belongs to.
    fn scrub(&self) -> Option<Scrub> {
        let Self::File { path, .. } = self else { return None };
        Scrub::ALL.into_iter().find(|scrub| scrub.paths().iter().any(|known| path.trim_start_matches('/') == *known))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { layer, by, path, what, others } => {
                let more = match others {
                    0 => "no other file of that layer differs".to_owned(),
                    1 => "one more file of that layer differs".to_owned(),
                    others => format!("{others} more files of that layer differ"),
                };
                write!(f, "{path}: {what}\n  in layer {layer}{by}; {more}")
            }
            Self::Layers(one, other) => write!(f, "{one} layers before, {other} now"),
            Self::Config(what) => write!(f, "the same files, another config: {what}"),
        }
    }
}

fn compare(
    engine: &dyn Engine,
    (one, layers): (&EngineImage, &[Layer]),
    other: &EngineImage,
    attempt: &Attempt<'_>,
) -> Result<Difference, Failure> {
    let before: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    let after: Vec<Digest> = engine.config(other)?.diff_ids;
    let Some(position) = before.iter().zip(&after).position(|(one, other)| one != other) else {
        if before.len() != after.len() {
            return Ok(Difference::Layers(before.len(), after.len()));
        }
        let configs = [one, other].map(|image| read(engine, image, &[], None, attempt).map(|reader| reader.config));
        let [one, other] = configs;
        return Ok(Difference::Config(first_difference(&one?, &other?)));
    };
    let one_files = read(engine, one, &[before[position]], Some(before[position]), attempt)?;
    let other_files = read(engine, other, &[after[position]], Some(after[position]), attempt)?;
    let by = history(&one_files.config, position).map(|by| format!(", {by}")).unwrap_or_default();
    let (one, other) = (one_files.files, other_files.files);
    let paths: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let mut differing = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    let Some(path) = differing.next() else {
        let what = "the same files, packed otherwise".to_owned();
        return Ok(Difference::File { layer: position + 1, by, path: "/".to_owned(), what, others: 0 });
    };
    let what = match (one.get(path), other.get(path)) {
        (Some(one), Some(other)) => told(one, other),
        (Some(_), None) => "not made this time".to_owned(),
        _ => "made only this time".to_owned(),
    };
    Ok(Difference::File { layer: position + 1, by, path: path.clone(), what, others: differing.count() })
}

fn told(one: &File, other: &File) -> String {
    let mut told = Vec::new();
    let mut part = |name: &str, one: String, other: String| {
        if one != other {
            told.push(format!("{name} {one} → {other}"));
        }
    };
    part("kind", one.kind.to_owned(), other.kind.to_owned());
    part("mode", format!("{:o}", one.mode), format!("{:o}", other.mode));
    part("owner", format!("{}:{}", one.owner.0, one.owner.1), format!("{}:{}", other.owner.0, other.owner.1));
    part("link", one.link.clone(), other.link.clone());
    part("device", format!("{:?}", one.device), format!("{:?}", other.device));
    part("attributes", format!("{:?}", one.attributes), format!("{:?}", other.attributes));
    part("time", one.mtime.to_string(), other.mtime.to_string());
    let content = |file: &File| file.content.map_or("none".to_owned(), |digest| format!("{} ({} bytes)", digest.short(), file.size));
    part("content", content(one), content(other));
    told.join(", ")
}

/// What made a layer, by the config's history.
fn history(config: &[u8], layer: usize) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let steps = config["history"].as_array()?.iter().filter(|step| step["empty_layer"] != true);
    let by = steps.map(|step| step["created_by"].as_str().unwrap_or_default()).nth(layer)?;
    let first = by.lines().next().unwrap_or_default();
    (!first.is_empty()).then(|| format!("`{}`", first.chars().take(120).collect::<String>()))
}

/// The first field of two configs that differs.
fn first_difference(one: &[u8], other: &[u8]) -> String {
    fn walk(path: &str, one: &serde_json::Value, other: &serde_json::Value) -> Option<String> {
        use serde_json::Value;
        match (one, other) {
            (Value::Object(left), Value::Object(right)) => {
                let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
                names.into_iter().find_map(|name| walk(&format!("{path}.{name}"), &one[name], &other[name]))
            }
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
                left.iter().zip(right).enumerate().find_map(|(at, (one, other))| walk(&format!("{path}[{at}]"), one, other))
            }
            _ => (one != other).then(|| format!("{} {one} → {other}", path.trim_start_matches('.'))),
        }
    }
    match (serde_json::from_slice(one), serde_json::from_slice(other)) {
        (Ok(one), Ok(other)) => walk("", &one, &other).unwrap_or_else(|| "written otherwise".to_owned()),
        _ => "it can't be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> String {
        first_difference(br#"{"config":{"Env":["A=1","B=2"]},"os":"linux"}"#, text.as_bytes())
    }

    #[test]
    fn configs_differ_in_one_place() {
        assert_eq!(config(r#"{"config":{"Env":["A=1","B=3"]},"os":"linux"}"#), r#"config.Env[1] "B=2" → "B=3""#);
        assert_eq!(config(r#"{"config":{"Env":["A=1","B=2"],"User":"u"},"os":"linux"}"#), r#"config.User null → "u""#);
        assert_eq!(config(r#"{"os":"linux","config":{"Env":["A=1","B=2"]}}"#), "written otherwise");
    }

    #[test]
    fn every_part_of_a_file_is_told() {
        let pack = |mode: u32, mtime: u64, content: &str| {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_mode(mode);
            header.set_mtime(mtime);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, "etc/x", content.as_bytes()).unwrap();
            files(&mut builder.into_inner().unwrap().as_slice()).unwrap()
        };
        let (one, other) = (pack(0o644, 1, "a"), pack(0o600, 2, "bc"));
        let (one, other) = (&one["/etc/x"], &other["/etc/x"]);
        assert_eq!(
            told(one, other),
            "mode 644 → 600, time 1 → 2, content ca978112ca1b (1 bytes) → 6ae5d2ee0d1e (2 bytes)"
                .replace("6ae5d2ee0d1e", &other.content.unwrap().short().to_string())
        );
        assert_eq!(told(one, one), "");
    }

    #[test]
    fn the_history_tells_which_step_made_a_layer() {
        let config = br#"{"history":[{"created_by":"FROM x"},{"created_by":"ENV A=1","empty_layer":true},{"created_by":"RUN a\nb"}]}"#;
        assert_eq!(history(config, 1), Some("`RUN a`".to_owned()));
        assert_eq!(history(config, 2), None);
    }
}
