//! `export`: an image, as it was built, into an OCI layout, an archive, or a Docker Engine. Builds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cli::args::Export;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::settled;
use crate::cli::values::ExportTarget;
use crate::cli::workbench::{self, Workbench};
use crate::digest::{Digest, ImageId};
use crate::docker_archive;
use crate::engine::{Attempt, Engine, ExportSink, KeptLayer, Limits, Output, PackedLayers};
use crate::event::Stream;
use crate::execute::{find_packed, keep_packed};
use crate::failure::{Failure, FailureClass, Retry};
use crate::image::{Compression, EngineImage, ImageConfig, ImageSource, LayerBlob};
use crate::label::Label;
use crate::platform::Platform;
use crate::record::State;
use crate::reference::Reference;
use crate::registry::LayoutWriter;

/// Exports.
pub fn run(args: &Export, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    bench.enter(&args.world)?;
    let state = bench.state_read_only()?;
    let ended = settled::with(&bench, &state, &args.label, &args.world, |settled| {
        let names = settled.names().map(|names| names.names.iter().map(|name| name.reference.clone()).collect()).unwrap_or_default();
        let platform = settled.planner.graph.node(settled.index).platform.clone();
        let chosen = Chosen { image: settled.image, platform, names };
        Exporting { bench: &bench, state: &state, label: settled.label, chosen, args }.export()
    });
    match (ended, context.signals.first()) {
        (Err(Error::Failure(failure)), Some(number)) if failure.class == FailureClass::Stopped => Ok(Exit::Signal(number)),
        (ended, _) => ended.map(|()| Exit::Done),
    }
}

/// What is exported.
struct Chosen {
    image: ImageId,
    platform: Platform,
    /// Its names, own first; none where they may not go along.
    names: Vec<Reference>,
}

struct Exporting<'a> {
    bench: &'a Workbench<'a>,
    state: &'a State,
    label: &'a Label,
    chosen: Chosen,
    args: &'a Export,
}

/// The console has nothing to say about an export but its end.
struct Silent;

impl Output for Silent {
    fn line(&self, _: Stream, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

impl Exporting<'_> {
    fn export(&self) -> Result<(), Error> {
        let context = self.bench.context;
        let attempt = Attempt { cancel: context.cancel, output: &Silent, timeout: None };
        let engine = self.bench.engine(&self.args.world, "export")?;
        let image = self.held(engine.as_ref(), &attempt)?;
        let target = &self.args.destination;
        let how = match target {
            ExportTarget::OciLayout(folder) => self.to_layout(engine.as_ref(), &image, folder, &attempt)?,
            ExportTarget::DockerArchive(file) => self.to_archive(engine.as_ref(), &image, file, &attempt)?,
            ExportTarget::Docker(url) => self.to_docker(engine.as_ref(), &image, url.as_deref(), &attempt)?,
        };
        if !context.global.quiet {
            let names = match &self.names()[..] {
                [] => "without a name, since its tests have not all passed".to_owned(),
                names => format!("as {}", names.join(", ")),
            };
            context.printer.say(format_args!("igraph: {} is in {target}: {how}, {names}", self.label));
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        self.chosen.names.iter().map(Reference::familiar).collect()
    }

    /// The image, in the engine; brought back from where it was pushed to, if need be.
    fn held(&self, engine: &dyn Engine, attempt: &Attempt<'_>) -> Result<EngineImage, Error> {
        if let Some(image) = engine.find(self.chosen.image)? {
            return Ok(image);
        }
        let client = self.bench.client(self.bench.context.clock(), None)?;
        let mut failed = None;
        for place in self.state.locations(self.chosen.image)? {
            let Some(reference) = place.reference() else { continue };
            self.bench.context.printer.say(format_args!("igraph: {} is not in the engine: pulling {reference}", self.label));
            let pulled = client.image(&reference, attempt.cancel).and_then(|source| {
                if source.image_id() != self.chosen.image {
                    return Err(Failure::infra(format!("{reference} is {}, not {}", source.image_id(), self.chosen.image)));
                }
                engine.load(&source, &self.chosen.platform, "export", attempt)
            });
            match pulled {
                Ok(image) => return Ok(image),
                Err(failure) => failed = Some(failure),
            }
        }
        Err(Error::Failure(failed.unwrap_or_else(|| {
            let message = format!("the engine has no image {} any more, and no registry is known to have it", self.chosen.image.0.short());
            Failure::infra(message).retry(Retry::Never).hint(format!("`igraph build --verify {}` builds it again", self.label))
        })))
    }

    fn to_layout(&self, engine: &dyn Engine, image: &EngineImage, folder: &Path, attempt: &Attempt<'_>) -> Result<String, Failure> {
        let writer = LayoutWriter::open(folder)?;
        let compression = self.bench.catalogue.workspace.compression;
        let mut sink = LayoutSink { compression, kept: engine.packed_layers(), writer, config: Vec::new(), layers: BTreeMap::new() };
        let diff_ids = engine.config(image)?.diff_ids;
        let mut wanted: BTreeSet<Digest> = diff_ids.iter().copied().collect();
        for diff_id in wanted.clone() {
            if let Some(kept) = find_packed(engine, diff_id, compression)? {
                sink.take(diff_id, &kept)?;
                wanted.remove(&diff_id);
            }
        }
        engine.export(std::slice::from_ref(image), &wanted, &mut sink, attempt)?;
        let LayoutSink { mut writer, config, layers, .. } = sink;
        let layers: Option<Vec<LayerBlob>> = diff_ids.iter().map(|diff_id| layers.get(diff_id).cloned()).collect();
        let layers = layers.ok_or_else(incomplete)?;
        // its own name alone: readers of a layout with several entries ask which is meant
        let manifest = writer.image(&config, &layers, &self.chosen.platform, self.names().first().map(String::as_str))?;
        Ok(format!("image {}, manifest {manifest}, {} of {} layers packed anew", self.chosen.image.0.short(), wanted.len(), layers.len()))
    }

    fn to_archive(&self, engine: &dyn Engine, image: &EngineImage, file: &Path, attempt: &Attempt<'_>) -> Result<String, Failure> {
        use std::os::unix::fs::PermissionsExt;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fail = |error: io::Error| Failure::infra(format!("cannot write `{}`: {error}", file.display())).retry(Retry::Never);
        let spooled = Spooled::of(engine, image, folder, attempt)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".igraph-").permissions(std::fs::Permissions::from_mode(0o666));
        let archive = builder.tempfile_in(folder).map_err(fail)?;
        let mut stops = |_, _| if attempt.cancel.is_cancelled() { Err(Failure::stopped()) } else { Ok(()) };
        docker_archive::write(&spooled, &self.names(), BufWriter::with_capacity(1 << 20, archive.as_file()), &mut stops)?;
        archive.as_file().sync_all().map_err(fail)?;
        archive.persist(file).map_err(|error| fail(error.error))?;
        Ok(format!("image {}", self.chosen.image.0.short()))
    }

    fn to_docker(&self, engine: &dyn Engine, image: &EngineImage, url: Option<&str>, attempt: &Attempt<'_>) -> Result<String, Failure> {
        let environment = self.bench.context.environment;
        // whose content tags are nobody else's: they go once the names are there
        let owner = if self.chosen.names.is_empty() { self.bench.owner() } else { format!("export{}", std::process::id()) };
        let docker = workbench::connect(environment, url, owner, "export", self.bench.folder.bases())?;
        if docker.find(self.chosen.image)?.is_none() || self.chosen.names.is_empty() {
            let fail = |error: io::Error| Failure::infra(format!("cannot write to `{}`: {error}", self.bench.folder.path().display()));
            std::fs::create_dir_all(self.bench.folder.path()).map_err(fail)?;
            let spooled = Spooled::of(engine, image, self.bench.folder.path(), attempt)?;
            docker.load(&spooled, &self.chosen.platform, &slug(self.label), attempt)?;
        }
        let loaded = docker.find(self.chosen.image)?.ok_or_else(|| Failure::infra("the docker daemon lost the image at once"))?;
        for name in &self.chosen.names {
            docker.tag(&loaded, name)?;
        }
        if !self.chosen.names.is_empty() {
            docker.collect(&BTreeSet::new(), &Limits::default(), false)?;
        }
        Ok(format!("image {} in {}", self.chosen.image.0.short(), docker.description()))
    }
}

fn incomplete() -> Failure {
    Failure::infra("the engine did not export all of the image")
}

/// A label as content tags take it.
fn slug(label: &Label) -> String {
    label.to_string().trim_start_matches('/').replace(['/', ':'], "-")
}

struct LayoutSink<'a> {
    compression: Compression,
    kept: Option<&'a dyn PackedLayers>,
    writer: LayoutWriter,
    config: Vec<u8>,
    layers: BTreeMap<Digest, LayerBlob>,
}

impl LayoutSink<'_> {
    /// Takes over a layer that is packed already.
    fn take(&mut self, diff_id: Digest, kept: &KeptLayer) -> Result<(), Failure> {
        let layer = LayerBlob { diff_id, digest: kept.blob.digest, size: kept.blob.size, compression: self.compression };
        self.writer.take(&kept.path, &layer)?;
        self.layers.insert(diff_id, layer);
        Ok(())
    }
}

impl ExportSink for LayoutSink<'_> {
    fn config(&mut self, _: ImageId, bytes: &[u8]) -> Result<(), Failure> {
        bytes.clone_into(&mut self.config);
        Ok(())
    }

    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure> {
        if let Some(kept) = keep_packed(self.kept, diff_id, self.compression, tar)? {
            return self.take(diff_id, &kept);
        }
        let layer = self.writer.layer(tar, self.compression)?;
        if layer.diff_id != diff_id {
            return Err(Failure::infra(format!("the engine's layer {diff_id} has other bytes")));
        }
        self.layers.insert(diff_id, layer);
        Ok(())
    }
}

/// An image taken out of an engine, its layers in files without a name: they go with this process, however it ends.
struct Spooled {
    config: Vec<u8>,
    layers: Vec<LayerBlob>,
    files: BTreeMap<Digest, File>,
}

impl Spooled {
    fn of(engine: &dyn Engine, image: &EngineImage, folder: &Path, attempt: &Attempt<'_>) -> Result<Self, Failure> {
        let mut sink = SpoolSink { folder, config: Vec::new(), files: BTreeMap::new() };
        let wanted: BTreeSet<Digest> = engine.config(image)?.diff_ids.into_iter().collect();
        engine.export(std::slice::from_ref(image), &wanted, &mut sink, attempt)?;
        let SpoolSink { config, files, .. } = sink;
        let parsed = ImageConfig::parse(&config).map_err(|error| Failure::infra(format!("the image's config can't be read: {error}")))?;
        let layer = |diff_id: &Digest| {
            let size = files.get(diff_id).ok_or_else(incomplete)?.1;
            Ok(LayerBlob { diff_id: *diff_id, digest: *diff_id, size, compression: Compression::None })
        };
        let layers = parsed.diff_ids.iter().map(layer).collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self { config, layers, files: files.into_iter().map(|(diff_id, (file, _))| (diff_id, file)).collect() })
    }
}

impl ImageSource for Spooled {
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        let file = self.layers.get(index).and_then(|layer| self.files.get(&layer.diff_id)).ok_or_else(incomplete)?;
        Ok(Box::new(FromStart { file, at: 0 }))
    }
}

/// Reads a file from its start, whoever else reads it.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

struct SpoolSink<'a> {
    folder: &'a Path,
    config: Vec<u8>,
    files: BTreeMap<Digest, (File, u64)>,
}

impl ExportSink for SpoolSink<'_> {
    fn config(&mut self, _: ImageId, bytes: &[u8]) -> Result<(), Failure> {
        bytes.clone_into(&mut self.config);
        Ok(())
    }

    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure> {
        let fail = |error: io::Error| match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::infra(format!("cannot write to `{}`: {error}", self.folder.display())).retry(Retry::Never),
        };
        let mut file = tempfile::tempfile_in(self.folder).map_err(fail)?;
        let size = io::copy(tar, &mut file).map_err(fail)?;
        file.flush().map_err(fail)?;
        self.files.insert(diff_id, (file, size));
        Ok(())
    }
}
