//! Images in a daemon: finding by id, content tags, names, loading, collecting. Knows neither builds nor containers' runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};

use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::build::{ChannelWriter, messages, post, receiver_stream};
use super::engine::{DockerEngine, daemon_failure, infra_text, lock, status_of};
use super::plain::Plain;
use crate::digest::{Digest, ImageId, Key};
use crate::docker_archive;
use crate::engine::{Attempt, Collected};
use crate::failure::Failure;
use crate::image::{Compression, EngineImage, ImageConfig, ImageSource};
use crate::platform::Platform;
use crate::reference::Reference;

/// All names that igraph makes for itself lie below it; they are no names in the sense of a catalogue.
const NAMESPACE: &str = "igraph/";
const THROWAWAY: &str = "igraph/throwaway";
const BY_DIGEST: &str = "igraph/image";

/// Label of igraph's containers: the run.
pub(super) const RUN_LABEL: &str = "igraph.run";
/// Label of igraph's containers: whose they are.
pub(super) const OWNER_LABEL: &str = "igraph.owner";

/// The content tag of a node's image.
pub(super) fn content_tag(owner: &str, slug: &str, key: Key) -> String {
    format!("{NAMESPACE}{}:{owner}-{}", segment(slug), &key.to_string()[..16])
}

/// The tag of an image that only a test makes.
pub(super) fn throwaway_tag(owner: &str, run: &str, key: Key) -> String {
    format!("{THROWAWAY}:{owner}-{}-{}", segment(run), &key.to_string()[..16])
}

/// A segment of a repository (distribution/reference: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`) that looks like `slug`.
fn segment(slug: &str) -> String {
    let mut segment = String::new();
    for character in slug.chars() {
        match character.to_ascii_lowercase() {
            plain @ ('a'..='z' | '0'..='9') => segment.push(plain),
            separator if !segment.is_empty() && !segment.ends_with(['-', '.', '_']) => {
                segment.push(if matches!(separator, '.' | '_') { separator } else { '-' });
            }
            _ => {}
        }
    }
    let segment = segment.trim_end_matches(['-', '.', '_']);
    if segment.is_empty() {
        "node".to_owned()
    } else {
        segment.chars().take(100).collect::<String>().trim_end_matches(['-', '.', '_']).to_owned()
    }
}

fn not_found<T>(error: Error, what: &str) -> Result<Option<T>, Failure> {
    match status_of(&error) {
        Some(404) => Ok(None),
        _ => Err(daemon_failure(what, &error)),
    }
}

impl DockerEngine {
    /// Looks an image up by name or by the daemon's id.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<ImageInspect>, Failure> {
        self.docker.inspect_image(name).await.map(Some).or_else(|error| not_found(error, &format!("inspect `{name}`")))
    }

    /// What the seam calls the image that the daemon calls `handle`.
    pub(super) async fn engine_image(&self, handle: &str) -> Result<EngineImage, Failure> {
        let inspect =
            self.inspect(handle).await?.ok_or_else(|| Failure::infra(format!("image `{handle}` is gone from the docker daemon")))?;
        self.of_inspect(&inspect).await
    }

    async fn of_inspect(&self, inspect: &ImageInspect) -> Result<EngineImage, Failure> {
        let handle = inspect.id.clone().unwrap_or_default();
        let id = self.config_digest(&handle).await?;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let platform = [text(&inspect.os), text(&inspect.architecture), text(&inspect.variant)];
        let platform: Vec<String> = platform.into_iter().filter(|part| !part.is_empty()).collect();
        let platform = platform.join("/").parse().unwrap_or_else(|_| self.facts.platform.clone());
        if self.facts.containerd {
            // there the daemon can't be asked for a config's digest, so it is kept as a name
            self.tag_handle(&handle, BY_DIGEST, &self.digest_tag(&id.0)).await?;
        }
        Ok(EngineImage { id, handle, platform })
    }

    /// The image id of what the daemon calls `handle`.
    async fn config_digest(&self, handle: &str) -> Result<ImageId, Failure> {
        if !self.facts.containerd {
            return handle.parse().map_err(|_| Failure::infra(format!("the docker daemon names an image `{handle}`, which is no digest")));
        }
        if let Some((id, _)) = lock(&self.configs).get(handle) {
            return Ok(*id);
        }
        let (id, bytes) = self.read_config(handle).await?;
        lock(&self.configs).insert(handle.to_owned(), (id, bytes));
        Ok(id)
    }

    fn digest_tag(&self, digest: &Digest) -> String {
        format!("{}-{}", self.options.owner, digest.hex())
    }

    pub(super) fn find_image(&self, id: ImageId) -> Result<Option<EngineImage>, Failure> {
        self.ask("find an image", async {
            let name = if self.facts.containerd { format!("{BY_DIGEST}:{}", self.digest_tag(&id.0)) } else { id.to_string() };
            let Some(inspect) = self.inspect(&name).await? else { return Ok(None) };
            let image = self.of_inspect(&inspect).await?;
            Ok((image.id == id).then_some(image))
        })
    }

    pub(super) fn image_config(&self, image: &EngineImage) -> Result<ImageConfig, Failure> {
        self.ask("read a config", async {
            let gone = || Failure::infra(format!("image `{}` is gone from the docker daemon", image.handle));
            let inspect = self.inspect(&image.handle).await?.ok_or_else(gone)?;
            let config = inspect.config.unwrap_or_default();
            let layers = inspect.root_fs.and_then(|root| root.layers).unwrap_or_default();
            let diff_ids: Result<Vec<Digest>, _> = layers.iter().map(|layer| layer.parse()).collect();
            Ok(ImageConfig {
                env: config.env.unwrap_or_default(),
                user: config.user.unwrap_or_default(),
                working_dir: config.working_dir.unwrap_or_default(),
                shell: config.shell.unwrap_or_default(),
                on_build: config.on_build.unwrap_or_default(),
                diff_ids: diff_ids.map_err(|error| Failure::infra(format!("layers of `{}`: {error}", image.handle)))?,
            })
        })
    }

    /// A name under which a Dockerfile can start from the image: BuildKit takes no ids. Checked to point there now.
    pub(super) async fn content_name(&self, image: &EngineImage) -> Result<String, Failure> {
        let gone = || Failure::infra(format!("image `{}` is gone from the docker daemon", image.id));
        let inspect = self.inspect(&image.handle).await?.ok_or_else(gone)?;
        let own = |name: &&String| name.starts_with(NAMESPACE) && !name.starts_with(THROWAWAY) && !name.starts_with(BY_DIGEST);
        let name = match inspect.repo_tags.unwrap_or_default().iter().filter(own).min() {
            Some(name) => name.clone(),
            None => {
                let tag = self.digest_tag(&image.id.0);
                self.tag_handle(&image.handle, BY_DIGEST, &tag).await?;
                format!("{BY_DIGEST}:{tag}")
            }
        };
        match self.inspect(&name).await?.and_then(|inspect| inspect.id) {
            Some(id) if id == image.handle => Ok(name),
            _ => Err(Failure::infra(format!("`{name}` does not point at image `{}`", image.id))),
        }
    }

    async fn tag_handle(&self, handle: &str, repository: &str, tag: &str) -> Result<(), Failure> {
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        self.docker.tag_image(handle, Some(options)).await.map_err(|error| daemon_failure(&format!("tag `{repository}:{tag}`"), &error))
    }

    /// Removes a name, and the image with it when it was the last one. Whether the image went.
    pub(super) async fn untag(&self, name: &str) -> Result<bool, Failure> {
        let options = RemoveImageOptionsBuilder::default().force(false).noprune(false).build();
        match self.docker.remove_image(name, Some(options), None).await {
            Ok(answer) => Ok(answer.iter().any(|item| item.deleted.is_some())),
            // gone already, or still the base of a container or an image that goes later
            Err(error) if matches!(status_of(&error), Some(404 | 409)) => Ok(false),
            Err(error) => Err(daemon_failure(&format!("remove `{name}`"), &error)),
        }
    }

    pub(super) fn tag_image(&self, image: &EngineImage, name: &Reference) -> Result<(), Failure> {
        let Some(tag) = name.tag() else {
            return Err(Failure::step(format!("`{name}` has no tag: a local name needs one")));
        };
        self.ask("tag an image", async {
            self.tag_handle(&image.handle, &name.name(), tag).await?;
            match self.inspect(&name.to_string()).await?.and_then(|inspect| inspect.id) {
                Some(id) if id == image.handle => Ok(()),
                _ => Err(Failure::infra(format!("`{}` was moved by someone else", name.familiar()))),
            }
        })
    }

    pub(super) fn named_image(&self, name: &Reference) -> Result<Option<ImageId>, Failure> {
        self.ask("look a name up", async {
            match self.inspect(&name.to_string()).await?.and_then(|inspect| inspect.id) {
                Some(handle) => self.config_digest(&handle).await.map(Some),
                None => Ok(None),
            }
        })
    }

    pub(super) fn load_image(
        &self,
        source: &dyn ImageSource,
        platform: &Platform,
        slug: &str,
        attempt: &Attempt<'_>,
    ) -> Result<EngineImage, Failure> {
        let id = source.image_id();
        let (repository, tag) = (format!("{NAMESPACE}base-{}", segment(slug)), format!("{}-{}", self.options.owner, id.0.short()));
        let name = format!("{repository}:{tag}");
        if let Some(found) = self.find_image(id)? {
            self.ask("tag a base", self.tag_handle(&found.handle, &repository, &tag))?;
            return Ok(found);
        }
        let plain;
        let source = match self.facts.number < (23, 0) && source.layers().iter().any(|layer| layer.compression == Compression::Zstd) {
            true => {
                plain = Plain::of(source, &self.options.scratch, attempt)?;
                &plain
            }
            false => source,
        };
        let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(16);
        let loaded = std::thread::scope(|scope| {
            let name = &name;
            let writing = scope.spawn(move || {
                let mut writer = io::BufWriter::with_capacity(64 * 1024, ChannelWriter(sender.clone()));
                let mut progress = |done, total| match attempt.cancel.is_cancelled() {
                    true => Err(Failure::stopped()),
                    false => {
                        attempt.output.progress("load", done, Some(total));
                        Ok(())
                    }
                };
                let names = std::slice::from_ref(name);
                let written =
                    docker_archive::write(source, names, &mut writer, &mut progress).and_then(|()| writer.flush().map_err(sending));
                if let Err(failure) = &written {
                    // an honest end of the body would let the daemon load what it has
                    drop(sender.blocking_send(Err(io::Error::other(failure.message.clone()))));
                }
                drop(writer.into_parts());
                written
            });
            let body = bollard::body_try_stream(receiver_stream(receiver));
            let loaded = self.run(attempt, async {
                let request =
                    post("images/load", &self.api, &[("quiet", "1".to_owned())]).header("Content-Type", "application/x-tar").body(body);
                let request = request.map_err(|error| Failure::infra(error.to_string()))?;
                let response = self.dialer.send(request).await.map_err(|error| infra_text("load", &error.to_string()))?;
                match messages(response, |_| {}).await? {
                    Some(error) => Err(infra_text("load", &error)),
                    None => self.engine_image(name).await,
                }
            });
            match (writing.join(), loaded) {
                (Ok(Err(failure)), Err(other)) if other.class == crate::failure::FailureClass::Infra => Err(failure),
                (_, loaded) => loaded,
            }
        })?;
        if loaded.id != id {
            drop(self.ask("remove", self.untag(&name)));
            return Err(Failure::infra(format!("loaded image `{id}`, but the docker daemon calls it `{}`", loaded.id)));
        }
        Ok(EngineImage { platform: platform.clone(), ..loaded })
    }

    pub(super) fn discard_image(&self, image: &EngineImage) -> Result<(), Failure> {
        self.ask("discard an image", async {
            let Some(inspect) = self.inspect(&image.handle).await? else { return Ok(()) };
            let own = format!("{THROWAWAY}:{}-{}-", self.options.owner, segment(&self.options.run));
            let tags = inspect.repo_tags.unwrap_or_default();
            for name in tags.iter().filter(|name| name.starts_with(&own)) {
                self.untag(name).await?;
            }
            if self.facts.containerd && tags.iter().all(|name| name.starts_with(&own) || name.starts_with(BY_DIGEST)) {
                self.untag(&format!("{BY_DIGEST}:{}", self.digest_tag(&image.id.0))).await?;
            }
            Ok(())
        })
    }

    pub(super) fn collect_garbage(&self, keep: &BTreeSet<ImageId>, dry_run: bool) -> Result<Collected, Failure> {
        self.ask("collect", async {
            let mut collected = Collected::default();
            self.collect_containers(&mut collected, dry_run).await?;
            let filters = HashMap::from([("reference".to_owned(), vec![format!("{NAMESPACE}*")])]);
            let options = ListImagesOptionsBuilder::default().filters(&filters).build();
            let images = self.docker.list_images(Some(options)).await.map_err(|error| daemon_failure("list images", &error))?;
            let mut tags: BTreeMap<String, (String, u64)> = BTreeMap::new();
            for image in &images {
                for name in &image.repo_tags {
                    tags.insert(name.clone(), (image.id.clone(), u64::try_from(image.size).unwrap_or(0)));
                }
            }
            let mine = |name: &str| {
                name.strip_prefix(NAMESPACE)
                    .and_then(|rest| rest.rsplit_once(':'))
                    .is_some_and(|(_, tag)| tag.strip_prefix(self.options.owner.as_str()).is_some_and(|rest| rest.starts_with('-')))
            };
            let (mut gone, mut touched) = (BTreeMap::<&str, u64>::new(), BTreeSet::new());
            for (name, (handle, size)) in tags.iter().filter(|(name, _)| mine(name)) {
                if !name.starts_with(THROWAWAY) && keep.contains(&self.config_digest(handle).await?) {
                    continue;
                }
                // an image may have several content tags
                collected.images += usize::from(touched.insert(handle));
                if dry_run {
                    let others = tags.iter().any(|(other, (its, _))| its == handle && !mine(other));
                    if !others {
                        gone.insert(handle, *size);
                    }
                } else if self.untag(name).await? {
                    gone.insert(handle, *size);
                }
            }
            collected.bytes = gone.values().sum();
            Ok(collected)
        })
    }

    async fn collect_containers(&self, collected: &mut Collected, dry_run: bool) -> Result<(), Failure> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{OWNER_LABEL}={}", self.options.owner)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await.map_err(|error| daemon_failure("list containers", &error))?;
        for container in containers {
            let run = container.labels.unwrap_or_default().remove(RUN_LABEL);
            if run.as_deref() == Some(&self.options.run) {
                continue;
            }
            collected.containers += 1;
            if let Some(id) = container.id.filter(|_| !dry_run) {
                self.remove_container(&id).await?;
            }
        }
        Ok(())
    }

    /// Removes a container, running or not, with its volumes. Whether it was there.
    pub(super) async fn remove_container(&self, name: &str) -> Result<bool, Failure> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.docker.remove_container(name, Some(options)).await {
            Ok(()) => Ok(true),
            // 409: its removal is under way
            Err(error) if matches!(status_of(&error), Some(404 | 409)) => Ok(false),
            Err(error) => Err(daemon_failure("remove a container", &error)),
        }
    }
}

fn sending(error: io::Error) -> Failure {
    Failure::infra(format!("the image could not be sent: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_become_repositories() {
        for (slug, expected) in [
            ("debian-jessie-4.2.1", "debian-jessie-4.2.1"),
            ("a..b", "a.b"),
            (".-x-", "x"),
            ("Up_Case", "up_case"),
            ("a.-b", "a.b"),
            ("---", "node"),
        ] {
            assert_eq!(segment(slug), expected);
            let name = format!("igraph/{}:o-0123", segment(slug));
            assert_eq!(name.parse::<Reference>().unwrap().familiar(), name);
        }
    }
}
