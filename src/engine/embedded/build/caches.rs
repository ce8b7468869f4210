//! Cache mounts: folders of the store that outlive a build, one for each id, filled at first from a stage or an image where the
//! mount says so. Knows nothing of what steps do with them.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::key::KeyHasher;
use super::place::Destination;
use super::run::Held;
use super::stage::Builder;
use super::tree::Tree;
use crate::digest::Digest;
use crate::dockerfile::{FromTarget, Ignore, Mount};
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::view::View;
use crate::engine::embedded::sandbox;
use crate::failure::Failure;

impl Builder<'_> {
    /// The folder of a cache mount. One that starts from other files is another for other files.
    pub(super) fn cache_folder(
        &self,
        mount: &Mount,
        target: &str,
        from: Option<&FromTarget>,
        held: &mut Held,
    ) -> Result<std::path::PathBuf, Failure> {
        let mut key = KeyHasher::new("cache mount");
        key.text(self.store.owner());
        key.text(mount.id.as_deref().unwrap_or(target));
        let seed = from.map(|from| self.layers_of(from)).transpose()?;
        if let Some(layers) = &seed {
            key.layers(layers);
            key.text(mount.source.as_deref().unwrap_or(""));
        }
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
        // says when it was last of use
        std::fs::write(caches.join(format!("{name}.used")), "").map_err(disk("a cache mount"))?;
        let path = caches.join(name);
        if files::stat(&path).map_err(disk("a cache mount"))?.is_none() {
            let new = self.store.work()?;
            let folder = new.path().join("cache");
            std::fs::create_dir(&folder).map_err(disk("a cache mount"))?;
            files::set_mode(&folder, 0o755).map_err(disk("a cache mount"))?;
            let mut like = None;
            if let Some(layers) = &seed {
                like = Some(self.seed(layers, mount.source.as_deref().unwrap_or(""), &folder)?);
            }
            let make = || {
                let (uid, gid, mode) = like.unwrap_or((0, 0, 0o755));
                files::set_owner(&folder, mount.uid.unwrap_or(uid), mount.gid.unwrap_or(gid))?;
                files::set_mode(&folder, mount.mode.unwrap_or(mode))?;
                match std::fs::rename(&folder, &path) {
                    Err(_) if path.is_dir() => Ok(()),
                    other => other,
                }
            };
            make().map_err(disk("a cache mount"))?;
            held.works.push(new);
        }
        Ok(path)
    }

    /// Copies what a new cache starts with; owner and mode of the folder that it comes from.
    fn seed(&self, layers: &[Digest], source: &str, to: &Path) -> Result<(u32, u32, u32), Failure> {
        let tree = Tree::Layers(self.store.view(layers)?);
        let node = tree.locate(source, true).map_err(disk("a cache mount"))?;
        let node = node.filter(super::tree::Node::is_folder);
        let node = node.ok_or_else(|| Failure::step(format!("`{source}`, from which the cache mount starts, is no folder")))?;
        let none = View::new(Vec::new());
        let mut writer = Destination::new(to, &none, self.request.epoch, None, None);
        writer.copy(&tree, &node, Path::new(""), "", &Ignore::default())?;
        let (uid, gid) = node.owner();
        Ok((uid, gid, node.mode()))
    }
}
