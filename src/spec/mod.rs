//! BUILD.ron: from the files of a workspace to a catalogue of images, tests and bases, checked and fully defaulted.
//! Knows no Dockerfile, no graph and no engine.
//!
//! A rule is read from a tree of our own (`tree`), not by serde: a deserializer stops at the first problem of a rule,
//! keeps the last of two equal map keys, says what it wanted in Rust's words, and gives the cursor's place, not the
//! word's. ron reads what it is asked to: escapes of strings here, the lock elsewhere.

mod arguments;
mod claims;
mod duration;
mod fields;
mod freshness;
mod load;
mod model;
mod names;
mod package;
mod paths;
mod rules;
mod settings;
mod tree;
mod walk;
mod workspace;

pub use arguments::{image_arguments, test_arguments, test_commands, test_environment};
pub use claims::Claims;
pub use duration::{ParseDurationError, parse_duration, render_duration};
pub use load::load;
pub use model::{
    Base, BaseFrom, Catalogue, EngineChoice, Freshness, Glob, Image, LoadedFile, Origin, PackageSpec, RegistrySettings, RetryPolicy, Span,
    Test, TestForm, Tls, Workspace,
};
pub use names::{Destination, ImageName, ParseRegistryError, Registry};
pub use walk::{BUILD_FILE, find_root, lists_the_same};
pub use workspace::{DOCKER_URLS, is_docker_url};
