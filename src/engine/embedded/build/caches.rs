//! Cache mounts: folders of the store that outlive a build, one for each id, filled at first from a stage or an image where the
//! mount says so. Knows nothing of what steps do with them.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::key::KeyHasher;
use super::place::Destination;
use super::run::Held;
use super::stage::Builder;
use super::tree::{Node, Tree};
use crate::digest::Digest;
use crate::dockerfile::{FromTarget, Ignore, Mount};
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::view::{View, clean};
use crate::engine::embedded::sandbox;
use crate::failure::Failure;

impl Builder<'_> {
    /// The folder of a cache mount, and what of it is mounted. One that starts from other files is another for other files. Without an
    /// image to start from, `source` names something of the cache itself (BuildKit's dispatchRunMounts).
    pub(super) fn cache_folder(
        &self,
        mount: &Mount,
        target: &str,
        from: Option<&FromTarget>,
        held: &mut Held,
    ) -> Result<(PathBuf, String), Failure> {
        let source = clean(Path::new(mount.source.as_deref().unwrap_or(""))).to_string_lossy().into_owned();
        let mut key = KeyHasher::new("cache mount");
        key.text(self.store.owner());
        key.text(mount.id.as_deref().unwrap_or(target));
        // owner and mode are those of a new folder: then nothing of the image shows, and of others of that id neither
        let own = source.is_empty() && (mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some());
        if own {
            key.text(&format!("{:?} {:?} {:?}", mount.uid, mount.gid, mount.mode));
        }
        let mut seed = None;
        if let Some(from) = from {
            let layers = self.layers_of(from)?;
            key.layers(&layers);
            key.text(&source);
            if !own {
                seed = Some(self.seed(&layers, &source)?);
            }
        }
        let at = match &seed {
            Some(seed) => seed.file.clone().unwrap_or_default(),
            None if from.is_some() => String::new(),
            None => source.clone(),
        };
        let mut name = key.finish().to_hex()[..32].to_owned();
        let caches = self.store.root().join("caches");
        // where it can't be bound to several places, it is in one at a time
        if matches!(mount.sharing.as_deref(), Some("locked" | "private")) || self.host.root == sandbox::Root::Chroot {
            let private = mount.sharing.as_deref() == Some("private");
            let base = name.clone();
            for number in 1.. {
                let file = File::options().create(true).truncate(false).write(true).open(caches.join(format!("{name}.lock")));
                let mut file = file.map_err(disk("a cache mount"))?;
                let lock = loop {
                    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                        Ok(lock) => break Some(lock),
                        Err((_, nix::errno::Errno::EWOULDBLOCK)) if private => break None,
                        Err((back, nix::errno::Errno::EWOULDBLOCK)) => {
                            self.left()?;
                            std::thread::sleep(std::time::Duration::from_millis(20));
                            file = back;
                        }
                        Err((_, error)) => return Err(disk("a cache mount")(error.into())),
                    }
                };
                if let Some(lock) = lock {
                    held.locks.push(lock);
                    break;
                }
                name = format!("{base}-{number}");
            }
        }
        let path = caches.join(&name);
        let there = || match files::stat(&path)? {
            Some(_) => View::new(vec![path.clone()]).locate(Path::new(&at), true).map(|located| located.spot.is_some()),
            None => Ok(false),
        };
        if seed.is_none() && !at.is_empty() && !there().map_err(disk("a cache mount"))? {
            return Err(Failure::step(format!("`{at}` is not in the cache that is mounted at `{target}`")));
        }
        // says when it was last of use
        std::fs::write(caches.join(format!("{name}.used")), "").map_err(disk("a cache mount"))?;
        if files::stat(&path).map_err(disk("a cache mount"))?.is_none() {
            let new = self.store.work()?;
            let folder = new.path().join("cache");
            std::fs::create_dir(&folder).map_err(disk("a cache mount"))?;
            files::set_mode(&folder, 0o755).map_err(disk("a cache mount"))?;
            let (mut uid, mut gid, mut mode) = (0, 0, 0o755);
            if let Some(seed) = seed {
                let to = seed.file.as_deref().unwrap_or("");
                let none = View::new(Vec::new());
                let mut writer = Destination::new(&folder, &none, self.request.epoch, None, None);
                writer.copy(&seed.tree, &seed.node, Path::new(to), "", &Ignore::default())?;
                if seed.file.is_none() {
                    ((uid, gid), mode) = (seed.node.owner(), seed.node.mode());
                }
            }
            if source.is_empty() {
                (uid, gid) = (mount.uid.unwrap_or(uid), mount.gid.unwrap_or(gid));
                mode = mount.mode.unwrap_or(mode);
            }
            let make = || {
                files::set_owner(&folder, uid, gid)?;
                files::set_mode(&folder, mode)?;
                match std::fs::rename(&folder, &path) {
                    Err(_) if path.is_dir() => Ok(()),
                    other => other,
                }
            };
            make().map_err(disk("a cache mount"))?;
            held.works.push(new);
        }
        Ok((path, at))
    }

    /// What a new cache starts with.
    fn seed(&self, layers: &[Digest], source: &str) -> Result<Seed<'_>, Failure> {
        let tree = Tree::Layers(self.store.view(layers)?);
        let node = tree.locate(source, true).map_err(disk("a cache mount"))?;
        let node = node.ok_or_else(|| Failure::step(format!("`{source}`, from which the cache mount starts, is not there")))?;
        let name = Path::new(source).file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Seed { file: name.filter(|_| !node.is_folder()), tree, node })
    }
}

/// What a new cache starts with.
struct Seed<'a> {
    tree: Tree<'a>,
    node: Node,
    /// Its name, where it is no folder.
    file: Option<String>,
}
