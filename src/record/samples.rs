//! What the tests of this room are made of: a world with a state in it, and records that look real.

use tempfile::TempDir;

use crate::clock::Timestamp;
use crate::component::{Component, key_of};
use crate::digest::{Digest, ImageId, Key};
use crate::event::NodeKind;
use crate::image::{Compression, EngineImage};
use crate::label::NodeLabel;
use crate::platform::Platform;
use crate::record::{BlobPlace, Location, NameRecord, NameScope, ResultRecord, State, StateFolder, Verdict};

/// A workspace in a temporary folder.
pub(crate) struct World {
    temp: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn root(&self) -> &std::path::Path {
        self.temp.path()
    }

    pub(crate) fn folder(&self) -> StateFolder {
        StateFolder::new(self.temp.path().join("igraph-out"))
    }

    pub(crate) fn state(&self) -> State {
        State::open(&self.folder()).unwrap()
    }
}

pub(crate) fn label(text: &str) -> NodeLabel {
    text.parse().unwrap()
}

pub(crate) fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

pub(crate) fn image(text: &str) -> EngineImage {
    let id = ImageId(Digest::of(text.as_bytes()));
    EngineImage { id, handle: id.to_string(), platform: platform() }
}

pub(crate) fn components(input: &str) -> Vec<Component> {
    let mut components = vec![
        Component::new("file node/4.2.1/Dockerfile", Key::from_bytes(*blake3::hash(input.as_bytes()).as_bytes()).to_string()),
        Component::new("arg VERSION", input),
        Component::new("base docker.io/library/debian:jessie", Digest::of(b"jessie").to_string()),
    ];
    components.sort();
    components
}

pub(crate) fn key(input: &str) -> Key {
    key_of(&mut components(input))
}

/// A good result of `node`, made from `input` at `at`; its image follows from `input`.
pub(crate) fn result(node: &str, input: &str, at: i64) -> ResultRecord {
    ResultRecord {
        key: key(input),
        node: label(node),
        platform: platform(),
        kind: NodeKind::Image,
        verdict: Verdict::Succeeded,
        image: Some(image(input)),
        manifest: None,
        components: components(input),
        run: "7f3k".into(),
        at: Timestamp(at),
        duration_ms: 12_400,
        attempts: 1,
        failure: None,
        reasons: Vec::new(),
    }
}

pub(crate) fn name(reference: &str, image: &str) -> NameRecord {
    NameRecord {
        scope: NameScope::Registry,
        name: reference.parse().unwrap(),
        image: ImageId(Digest::of(image.as_bytes())),
        manifest: Some(Digest::of(b"manifest")),
        key: key(image),
        node: label("//debian/jessie:4.2.1[push/4.2]"),
        run: "7f3k".into(),
        at: Timestamp(7),
    }
}

pub(crate) fn location(image: &str, host: &str) -> Location {
    Location {
        image: ImageId(Digest::of(image.as_bytes())),
        host: host.into(),
        repository: "library/debian".into(),
        manifest: Digest::of(b"manifest"),
    }
}

pub(crate) fn blob(layer: &str, host: &str) -> BlobPlace {
    BlobPlace {
        diff_id: Digest::of(layer.as_bytes()),
        host: host.into(),
        repository: "library/debian".into(),
        digest: Digest::of(b"packed"),
        size: 120_000_000,
        compression: Compression::Gzip,
    }
}
