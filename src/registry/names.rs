//! Names: moves one from what it points at to a manifest that is in its repository, and reads back what was published.
//! Knows no tests; whoever calls it holds an image that may be named.

use std::collections::BTreeSet;

use super::auth::Scope;
use super::client::Client;
use super::fault::Fault;
use super::manifest::{Document, parse};
use crate::cancel::Cancel;
use crate::digest::{Digest, ImageId};
use crate::failure::Failure;
use crate::reference::Reference;

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameOutcome {
    /// It pointed there; nothing was written.
    AlreadyThere,
    /// It points there now, and was read back; before, it pointed at `from`, or did not exist.
    Moved { from: Option<Digest> },
    /// Somebody else moved it: it was expected at `expected` and found at `found`. Nothing was written, or what was
    /// written has been overwritten since.
    ForeignMove { expected: Digest, found: Option<Digest> },
    /// The registry has lost blobs of the manifest. Nothing was written.
    BlobsLost,
}

/// Moves the name (host, repository, tag) to the manifest of these bytes: HEAD, PUT, HEAD. `expected` is what
/// may be there without anybody else having moved it; when it is empty, whatever is there gives way. A name that has vanished is written again.
///
/// # Errors
/// Of the registry.
pub fn move_name(
    client: &Client,
    name: &Reference,
    manifest: &[u8],
    media_type: &str,
    expected: &BTreeSet<Digest>,
    cancel: &Cancel,
) -> Result<NameOutcome, Failure> {
    let wanted = Digest::of(manifest);
    let inner = &client.inner;
    client.block(cancel, async {
        // one token for all three
        let scope = || Scope::push(name.repository());
        let before = inner.head(name, scope()).await?.map(|found| found.digest);
        if before == Some(wanted) {
            return Ok(NameOutcome::AlreadyThere);
        }
        if let (Some(last), Some(found)) = (expected.first(), before)
            && !expected.contains(&found)
        {
            return Ok(NameOutcome::ForeignMove { expected: *last, found: before });
        }
        match inner.put_manifest(name, manifest, media_type).await {
            Err(fault) if fault.has_code("MANIFEST_BLOB_UNKNOWN") || fault.has_code("BLOB_UNKNOWN") => return Ok(NameOutcome::BlobsLost),
            put => put?,
        }
        let after = inner.head(name, scope()).await?.map(|found| found.digest);
        if after == Some(wanted) {
            return Ok(NameOutcome::Moved { from: before });
        }
        Ok(NameOutcome::ForeignMove { expected: wanted, found: after })
    })
}

/// Reads what lies under a name or digest and holds it against what was tested: its bytes hash to `manifest`, its config
/// is `tested`.
///
/// # Errors
/// Where it is something else, or can't be read.
pub fn verify_published(client: &Client, reference: &Reference, manifest: Digest, tested: ImageId, cancel: &Cancel) -> Result<(), Failure> {
    client.block(cancel, async {
        let found = client.inner.manifest(reference, Scope::pull(reference.repository())).await?;
        if found.digest != manifest {
            return Err(Fault::never(format!("`{reference}` holds {}, not the {manifest} that was pushed", found.digest)));
        }
        match parse(&found.bytes) {
            Ok(Document::Image { config, .. }) if config.digest == tested.0 => Ok(()),
            Ok(Document::Image { config, .. }) => {
                Err(Fault::never(format!("`{reference}` holds image {}, not the tested {tested}", config.digest)))
            }
            Ok(Document::Index(_)) => Err(Fault::never(format!("`{reference}` holds an index, not the tested {tested}"))),
            Err(problem) => Err(Fault::never(format!("`{reference}` cannot be read back: {problem}"))),
        }
    })
}
