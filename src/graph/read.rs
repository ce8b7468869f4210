//! Reads a Dockerfile for the graph: its text, parsed, with the stat from before it was read.

use std::path::Path;
use std::sync::Arc;

use super::node::DockerfileRead;
use crate::dockerfile::Dockerfile;
use crate::problem::{Place, Problem, Source};
use crate::stamp::Stamp;

/// The Dockerfile at `path` relative to `root`; `place` is where a build file names it.
///
/// # Errors
/// That it is not there, can't be read, is no text, or is broken.
pub(super) fn dockerfile(
    root: &Path,
    path: &str,
    place: &Place,
    parse: fn(&Arc<Source>) -> Result<Dockerfile, Vec<Problem>>,
) -> Result<DockerfileRead, Vec<Problem>> {
    let full = root.join(path);
    let fail = |error: &std::io::Error| {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file `{path}`"),
            _ => format!("`{path}` can't be read: {error}"),
        };
        vec![Problem { message, places: vec![place.clone()], hint: None }]
    };
    let metadata = std::fs::metadata(&full).map_err(|error| fail(&error))?;
    let bytes = std::fs::read(&full).map_err(|error| fail(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        vec![Problem {
            message: format!("`{path}` is not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            places: vec![place.clone()],
            hint: None,
        }]
    })?;
    let source = Arc::new(Source { path: path.to_owned(), text });
    let parsed = parse(&source)?;
    Ok(DockerfileRead { path: path.to_owned(), stamp: Stamp::of(&metadata), parsed: Arc::new(parsed) })
}
