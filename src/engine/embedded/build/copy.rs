//! COPY and ADD. What is copied decides the key of the instruction cache, so it is found before anything is written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::archive;
use super::download::download;
use super::git::Checkout;
use super::key::KeyHasher;
use super::mode::Chmod;
use super::place::{Destination, named, new_upper};
use super::stage::{Builder, StageState};
use super::tree::{Node, Tree};
use super::users;
use crate::digest::Digest;
use crate::dockerfile::{AddFlags, Command, FileSource, FromTarget, Ignore, SourceKind, Step, Transfer, source_kind};
use crate::engine::embedded::files::disk;
use crate::engine::embedded::layer::view::{View, clean};
use crate::engine::embedded::store::Work;
use crate::failure::Failure;

/// Something found to be copied.
enum Found {
    /// By its name in a folder.
    Node(OsString, Node),
    /// Of COPY `--parents`: folders on the way, and the path below the destination.
    Below(Vec<(PathBuf, Node)>, PathBuf, Node),
    /// A heredoc.
    Text(String, Vec<u8>),
    /// Of ADD: a file that was downloaded, and its name.
    Download(String, PathBuf),
    /// Of ADD: what was checked out of a Git repository.
    Checkout(Checkout),
}

/// The parts of the instruction that both have.
struct Asked<'a> {
    transfer: &'a Transfer,
    add: Option<&'a AddFlags>,
    exclude: Ignore,
    chmod: Option<Chmod>,
}

impl Builder<'_> {
    /// The layer that COPY or ADD makes; `None` where it changes nothing.
    pub(super) fn copy(&self, state: &StageState, step: &Step) -> Result<Option<Digest>, Failure> {
        let (transfer, add) = match &step.instruction.command {
            Command::Copy(transfer) => (transfer, None),
            Command::Add(transfer, add) => (transfer, Some(add)),
            _ => return Ok(None),
        };
        let patterns: Vec<String> = transfer.exclude.iter().map(|pattern| pattern.value.clone()).collect();
        let exclude = Ignore::of_patterns(&patterns).ok_or_else(|| Failure::step("`--exclude` holds a malformed pattern"))?;
        let chmod = match &transfer.chmod {
            Some(text) => Some(Chmod::parse(&text.value).ok_or_else(|| Failure::step(format!("`{}` is no mode", text.value)))?),
            None => None,
        };
        let asked = Asked { transfer, add, exclude, chmod };
        let none = View::new(Vec::new());
        let lower_view = self.store.view(&state.image.rootfs.diff_ids)?;
        // names of owners are those of the image, though with --link nothing else of it counts
        let owner = transfer.chown.as_ref().map(|text| users::owner(&text.value, &lower_view)).transpose()?;
        let lower = if transfer.link { &none } else { &lower_view };
        let from = step.from.first().and_then(Option::as_ref);
        let layers = from.map(|target| self.layers_of(target)).transpose()?;
        let tree = match &layers {
            Some(layers) => Tree::Layers(self.store.view(layers)?),
            None => Tree::Context(&self.context),
        };
        let scratch = self.store.work()?;
        let found = self.find(&tree, &asked, step, &scratch)?;
        let destination = state.image.absolute(&transfer.destination.value);
        let key = self.copy_key(state, &asked, layers.as_deref(), &tree, &found, owner, &destination)?;
        let below: &[Digest] = if transfer.link { &[] } else { &state.image.rootfs.diff_ids };
        if let Some(layer) = self.cached(&key, below) {
            return Ok(layer);
        }
        let work = self.store.work()?;
        let upper = work.path().join("fs");
        new_upper(&upper, lower)?;
        let mut writer = Destination::new(&upper, lower, self.request.epoch, owner, asked.chmod.as_ref());
        for item in &found {
            writer.forget_links();
            self.place(&mut writer, &tree, item, &asked, &destination, found.len())?;
        }
        let made = self.store.make_layer(work, lower, self.request.epoch)?.map(|made| made.diff_id);
        self.store.cache(&key, made)?;
        Ok(made)
    }

    /// Diff ids of what `--from` or `from=` leads to.
    pub(super) fn layers_of(&self, target: &FromTarget) -> Result<Vec<Digest>, Failure> {
        match target {
            FromTarget::Scratch => Ok(Vec::new()),
            FromTarget::Stage(index) => self.finished(*index).map(|stage| stage.image.rootfs.diff_ids.clone()),
            FromTarget::Image(text) => Ok(self.base(text)?.rootfs.diff_ids),
        }
    }

    fn find(&self, tree: &Tree<'_>, asked: &Asked<'_>, step: &Step, scratch: &Work) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::new();
        for (number, source) in asked.transfer.sources.iter().enumerate() {
            let path = match source {
                FileSource::Heredoc(index) => {
                    let heredoc = step.instruction.heredocs.get(*index).ok_or_else(|| Failure::infra("a heredoc without text"))?;
                    found.push(Found::Text(heredoc.name.clone(), heredoc.body().into_bytes()));
                    continue;
                }
                FileSource::Path(path) => &path.value,
            };
            if let (Some(add), SourceKind::Url) = (asked.add, source_kind(path)) {
                let to = scratch.path().join(number.to_string());
                let checksum = add.checksum.as_ref().map(|text| text.value.as_str());
                let name = download(path, checksum, &to, self.request.proxies, self.attempt)?;
                found.push(Found::Download(name, to));
            } else if let (Some(add), SourceKind::Git) = (asked.add, source_kind(path)) {
                found.push(Found::Checkout(self.checkout(path, add, &scratch.path().join(number.to_string()))?));
            } else if asked.transfer.parents {
                below(tree, path, &asked.exclude, &mut found)?;
            } else {
                found.extend(tree.find(path)?.into_iter().map(|(name, node)| Found::Node(name, node)));
            }
        }
        Ok(found)
    }

    #[expect(clippy::too_many_arguments, reason = "a key is made of everything")]
    fn copy_key(
        &self,
        state: &StageState,
        asked: &Asked<'_>,
        layers: Option<&[Digest]>,
        tree: &Tree<'_>,
        found: &[Found],
        owner: Option<(u32, u32)>,
        destination: &str,
    ) -> Result<blake3::Hash, Failure> {
        let mut key = KeyHasher::new(if asked.add.is_some() { "add" } else { "copy" });
        let transfer = asked.transfer;
        key.layers(if transfer.link { &[] } else { &state.image.rootfs.diff_ids });
        key.text(&self.request.epoch.to_string());
        key.text(&format!("{destination} {owner:?} {:?} {} {}", asked.chmod, transfer.link, transfer.parents));
        key.text(&format!("{:?}", asked.add.map(|add| (add.unpack, add.keep_git_dir))));
        key.texts(transfer.exclude.iter().map(|pattern| pattern.value.as_str()).collect::<Vec<_>>().into_iter());
        key.layers(layers.unwrap_or_default());
        key.text(if layers.is_some() { "layers" } else { "context" });
        for source in &transfer.sources {
            key.text(match source {
                FileSource::Path(path) => &path.value,
                FileSource::Heredoc(_) => "<<",
            });
        }
        for item in found {
            match item {
                Found::Node(name, node) => tree.describe(&name.to_string_lossy(), node, &mut key),
                Found::Below(_, path, node) => tree.describe(&path.to_string_lossy(), node, &mut key),
                Found::Text(name, bytes) => {
                    key.text(name);
                    key.bytes(bytes);
                }
                // the source itself tells the folder
                Found::Checkout(checkout) => key.text(&checkout.commit),
                Found::Download(name, path) => {
                    key.text(name);
                    let mut hasher = blake3::Hasher::new();
                    let file = std::fs::File::open(path).map_err(disk("a download"))?;
                    hasher.update_reader(file).map_err(disk("a download"))?;
                    key.bytes(hasher.finalize().as_bytes());
                }
            }
        }
        Ok(key.finish())
    }

    fn place(
        &self,
        writer: &mut Destination<'_>,
        tree: &Tree<'_>,
        item: &Found,
        asked: &Asked<'_>,
        destination: &str,
        count: usize,
    ) -> Result<(), Failure> {
        let last = destination.rsplit('/').next().unwrap_or("");
        let located = writer.locate(Path::new(destination), !asked.transfer.link)?;
        let is_folder = matches!(last, "" | "." | "..")
            || count > 1 && asked.transfer.sources.len() > 1
            || located.spot.is_some_and(|spot| spot.is_folder());
        let to = located.path;
        let in_folder = |name: &OsString| if is_folder { named(&to, name) } else { to.clone() };
        match item {
            Found::Node(_, node) if node.is_folder() => {
                // the folder itself is no part of what is copied: a new one is 0755, whatever the source's mode
                writer.folder(&to)?;
                writer.copy(tree, node, &to, "", &asked.exclude)
            }
            Found::Node(name, _) if asked.exclude.excludes(&name.to_string_lossy()) => Ok(()),
            Found::Node(name, node) => {
                if asked.add.is_some_and(|add| add.unpack != Some(false)) && archive::try_node(writer, tree, node, &to)? {
                    return Ok(());
                }
                let to = writer.locate(&in_folder(name), !asked.transfer.link)?.path;
                writer.copy(tree, node, &to, "", &Ignore::default())
            }
            Found::Below(on_the_way, path, node) => {
                writer.folder(&to)?;
                let on_the_way: Vec<(PathBuf, Node)> = on_the_way.iter().map(|(path, node)| (to.join(path), node.clone())).collect();
                writer.parents(&on_the_way)?;
                writer.copy(tree, node, &to.join(path), &path.to_string_lossy(), &asked.exclude)
            }
            Found::Text(name, bytes) => {
                let to = writer.locate(&in_folder(&name.into()), true)?.path;
                writer.write(&to, bytes, 0o644)
            }
            Found::Checkout(checkout) => {
                let tree = Tree::Layers(View::new(vec![checkout.folder.clone()]));
                let root = tree.root().map_err(disk("a Git repository"))?;
                writer.folder(to.parent().unwrap_or(Path::new("")))?;
                root.map_or(Ok(()), |root| writer.copy(&tree, &root, &to, "", &asked.exclude))
            }
            Found::Download(name, path) => {
                let file = std::fs::File::open(path).map_err(disk("a download"))?;
                if asked.add.is_some_and(|add| add.unpack == Some(true)) && archive::try_file(writer, file, &to)? {
                    return Ok(());
                }
                let to = writer.locate(&in_folder(&name.into()), true)?.path;
                let bytes = std::fs::read(path).map_err(disk("a download"))?;
                writer.write(&to, &bytes, 0o600)
            }
        }
    }
}

/// What COPY `--parents` finds: paths relative to the root, or to what stands before `/./`.
fn below(tree: &Tree<'_>, source: &str, exclude: &Ignore, found: &mut Vec<Found>) -> Result<(), Failure> {
    let reading = |error| disk(format!("`{source}`"))(error);
    let (start, rest) = source.split_once("/./").unwrap_or(("", source));
    let rest = clean(Path::new(rest));
    let starts = if start.is_empty() {
        vec![(OsString::new(), tree.root().map_err(reading)?)]
    } else {
        tree.find(start)?.into_iter().map(|(name, node)| (name, Some(node))).collect()
    };
    let pattern = rest.to_string_lossy().into_owned();
    let before = found.len();
    for (_, node) in starts {
        let Some(node) = node else { continue };
        if pattern.is_empty() {
            found.push(Found::Below(Vec::new(), PathBuf::new(), node));
            continue;
        }
        let include =
            Ignore::of_patterns(std::slice::from_ref(&pattern)).ok_or_else(|| Failure::step(format!("`{source}` is no pattern")))?;
        let mut way = Vec::new();
        search(tree, &node, Path::new(""), &include, exclude, &mut way, found).map_err(reading)?;
    }
    if found.len() == before && !crate::dockerfile::has_wildcard(source) {
        return Err(Failure::step(format!("`{source}` is not there")));
    }
    Ok(())
}

fn search(
    tree: &Tree<'_>,
    folder: &Node,
    path: &Path,
    include: &Ignore,
    exclude: &Ignore,
    way: &mut Vec<(PathBuf, Node)>,
    found: &mut Vec<Found>,
) -> std::io::Result<()> {
    for name in tree.names(folder)? {
        let Some(child) = tree.child(folder, &name)? else { continue };
        let path = path.join(&name);
        let text = path.to_string_lossy();
        if exclude.excludes(&text) && !exclude.may_reinclude_below(&text) {
            continue;
        }
        if include.excludes(&text) {
            found.push(Found::Below(way.clone(), path.clone(), child));
        } else if child.is_folder() {
            way.push((path.clone(), child.clone()));
            search(tree, &child, &path, include, exclude, way, found)?;
            way.pop();
        }
    }
    Ok(())
}
