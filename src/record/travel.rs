//! `state save` and `state load`: records between machines, in one file that holds no path of either. Results that hold,
//! names, places, configs, strikes and answers travel; failures, attempts, logs, claims and an engine's own handles stay at home.
//!
//! The file: a line `igraph state VERSION LENGTH BLAKE3` about the bytes after it, which are gzip of JSON lines, each an
//! object with one of the fields of [`Line`]. Additions keep the version.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::ImageConfig;
use crate::record::error::RecordError;
use crate::record::facts::{BlobPlace, Facts, Location, NameRecord, all_places, write_facts};
use crate::record::folder::replace_durably;
use crate::record::result::{ResultRecord, each_good_result};
use crate::record::settle::{settled_at, write_result};
use crate::record::state::State;
use crate::record::strikes::{AnswerRecord, Strikes, all_answers, all_strikes, take_strikes};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

const MAGIC: &str = "igraph state";

/// One line; one field of it is there.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<NameRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<BlobPlace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<(Digest, ImageConfig)>,
    /// The text of a published manifest or config; its digest is that of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strikes: Option<Strikes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerRecord>,
}

/// What a load brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Results in the file.
    pub results: usize,
    /// Of these, those that are new here, or newer than what was here.
    pub taken: usize,
    /// Names taken.
    pub names: usize,
}

impl State {
    /// Writes what may travel to `file`, whole or not at all. The same records give the same bytes.
    ///
    /// # Errors
    /// Of the database, or where the file can't be written.
    pub fn save(&self, file: &Path) -> Result<(), RecordError> {
        let names = self.names()?;
        let packed = self.read(|connection| {
            let mut lines = GzEncoder::new(Vec::new(), Compression::default());
            let mut put = |line: Line| {
                let told = serde_json::to_writer(&mut lines, &line).map_err(std::io::Error::from);
                told.and_then(|()| lines.write_all(b"\n")).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
            };
            each_good_result(connection, |mut result| {
                result.failure = None;
                if let Some(image) = &mut result.image {
                    image.handle = image.id.to_string();
                }
                put(Line { result: Some(result), ..Line::default() })
            })?;
            let places = all_places(connection)?;
            names.into_iter().try_for_each(|name| put(Line { name: Some(name), ..Line::default() }))?;
            places.locations.into_iter().try_for_each(|location| put(Line { location: Some(location), ..Line::default() }))?;
            places.blobs.into_iter().try_for_each(|blob| put(Line { blob: Some(blob), ..Line::default() }))?;
            places.configs.into_iter().try_for_each(|config| put(Line { config: Some(config), ..Line::default() }))?;
            for (_, bytes) in places.documents {
                // both are JSON, and so UTF-8
                if let Ok(text) = String::from_utf8(bytes) {
                    put(Line { document: Some(text), ..Line::default() })?;
                }
            }
            all_strikes(connection)?.into_iter().try_for_each(|strikes| put(Line { strikes: Some(strikes), ..Line::default() }))?;
            all_answers(connection)?.into_iter().try_for_each(|answer| put(Line { answer: Some(answer), ..Line::default() }))?;
            lines.finish().map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
        })?;
        let mut bytes = first_line(&packed).into_bytes();
        bytes.extend_from_slice(&packed);
        replace_durably(file, &bytes)
    }

    /// Takes over what `file` holds, in one transaction: of two results under one key, and of two writes of one name, the
    /// newer stays.
    ///
    /// # Errors
    /// Where the file is not whole, not a saved state, or of a newer version; then nothing has changed.
    pub fn load(&self, file: &Path) -> Result<Loaded, RecordError> {
        let bytes = std::fs::read(file).map_err(|source| RecordError::io("read", file, source))?;
        let packed = check(&bytes, file)?;
        let damaged = |detail: String| RecordError::DamagedSave { path: file.to_owned(), detail };
        self.transact(true, |transaction| {
            let fail = |source| RecordError::database(self.path(), source);
            let mut loaded = Loaded::default();
            let mut lines = BufReader::new(GzDecoder::new(packed));
            let mut text = Vec::new();
            loop {
                text.clear();
                if lines.read_until(b'\n', &mut text).map_err(|error| damaged(error.to_string()))? == 0 {
                    break;
                }
                let line: Line = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
                if let Some(result) = line.result {
                    loaded.results += 1;
                    if settled_at(transaction, &result).map_err(fail)?.is_none_or(|here| here < result.at) {
                        write_result(transaction, &result, result.at.0).map_err(fail)?;
                        loaded.taken += 1;
                    }
                }
                let mut facts = Facts {
                    locations: line.location.into_iter().collect(),
                    blobs: line.blob.into_iter().collect(),
                    configs: line.config.into_iter().collect(),
                    documents: line.document.into_iter().map(|text| (Digest::of(text.as_bytes()), text.into_bytes())).collect(),
                    answers: line.answer.into_iter().collect(),
                    ..Facts::default()
                };
                if let Some(strikes) = &line.strikes {
                    take_strikes(transaction, strikes).map_err(fail)?;
                }
                if let Some(name) = line.name
                    && named_at(transaction, &name).map_err(fail)?.is_none_or(|here| here < name.at.0)
                {
                    loaded.names += 1;
                    facts.names.push(name);
                }
                write_facts(transaction, &facts).map_err(fail)?;
            }
            Ok(loaded)
        })
    }
}

fn named_at(connection: &rusqlite::Connection, name: &NameRecord) -> rusqlite::Result<Option<i64>> {
    use rusqlite::OptionalExtension;
    connection
        .prepare_cached("SELECT at FROM names WHERE scope = ?1 AND name = ?2")?
        .query_row([name.scope.word(), &name.name.to_string()], |row| row.get(0))
        .optional()
}

fn first_line(packed: &[u8]) -> String {
    format!("{MAGIC} {VERSION} {} {}\n", packed.len(), blake3::hash(packed))
}

/// The packed bytes, proven to be those that were saved.
fn check<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a [u8], RecordError> {
    let foreign = || RecordError::NoSavedState { path: file.to_owned() };
    let mut packed = bytes;
    let mut first = Vec::new();
    packed.by_ref().take(200).read_until(b'\n', &mut first).map_err(|_| foreign())?;
    let first = std::str::from_utf8(&first).map_err(|_| foreign())?;
    let mut words = first.strip_prefix(MAGIC).ok_or_else(foreign)?.split_whitespace();
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(foreign)?;
    if version > VERSION {
        return Err(RecordError::Newer { path: file.to_owned(), found: version.into(), known: VERSION.into() });
    }
    let cut = |detail: &str| RecordError::DamagedSave { path: file.to_owned(), detail: detail.into() };
    let length: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| cut("its first line is cut short"))?;
    if packed.len() < length {
        return Err(cut(&format!("{} of {length} bytes are there", packed.len())));
    }
    if packed.len() > length || first != first_line(packed) {
        return Err(cut("its bytes are not those that were saved"));
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::Timestamp;
    use crate::digest::ImageId;
    use crate::failure::Failure;
    use crate::image::EngineImage;
    use crate::record::samples::{self, World, components, image, key, label, platform, result};
    use crate::record::{NameScope, Settlement, Verdict};

    fn filled() -> World {
        let world = World::new();
        let state = world.state();
        let secret = format!("cannot read {}", world.root().display());
        let made = EngineImage { handle: "sha256:of-this-store".into(), ..image("v1") };
        let good = ResultRecord { image: Some(made), ..result("//debian/jessie:4.2.1", "v1", 10) };
        let bad = ResultRecord { verdict: Verdict::Failed, failure: Some(Failure::infra(secret)), ..result("//a:1", "bad", 11) };
        state.commit_all(&[Settlement::new(good), Settlement::new(bad)]).unwrap();
        state
            .learn(&Facts {
                names: vec![samples::name("nodesource/jessie:4.2", "v1")],
                locations: vec![samples::location("v1", "docker.io")],
                blobs: vec![samples::blob("layer", "docker.io")],
                configs: vec![(Digest::of(b"config"), ImageConfig { user: "node".into(), ..ImageConfig::default() })],
                documents: vec![(Digest::of(b"{}"), b"{}".to_vec())],
                claims: vec![ImageId(Digest::of(b"claim"))],
                ..Facts::default()
            })
            .unwrap();
        world
    }

    fn check_arrived(state: &State, with_documents: bool) {
        let arrived = state.result(&key("v1")).unwrap().unwrap();
        assert_eq!(arrived, result("//debian/jessie:4.2.1", "v1", 10), "the handle stays at home");
        assert_eq!(state.components(&key("v1")).unwrap(), Some(components("v1")));
        assert_eq!(state.name(NameScope::Registry, &"nodesource/jessie:4.2".parse().unwrap()).unwrap().unwrap().at, Timestamp(7));
        assert_eq!(state.locations(image("v1").id).unwrap().len(), 1);
        assert_eq!(state.blobs(Digest::of(b"layer")).unwrap().len(), 1);
        assert_eq!(state.config(Digest::of(b"config")).unwrap().unwrap().user, "node");
        if with_documents {
            assert_eq!(state.document(&Digest::of(b"{}")).unwrap().as_deref(), Some(&b"{}"[..]));
        }
        assert_eq!(state.results_for_keys(&[key("bad")]).unwrap(), [None], "failures stay at home");
        assert!(state.claims().unwrap().is_empty());
    }

    #[test]
    fn a_saved_state_is_the_same_elsewhere_and_holds_no_path() {
        let (here, there) = (filled(), World::new());
        let file = here.root().join("state");
        here.state().save(&file).unwrap();
        let state = there.state();
        assert_eq!(state.load(&file).unwrap(), Loaded { results: 1, taken: 1, names: 1 });
        check_arrived(&state, true);
        assert_eq!(state.load(&file).unwrap(), Loaded { results: 1, taken: 0, names: 0 });

        let again = there.root().join("again");
        state.save(&again).unwrap();
        assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());
        let bytes = fs::read(&file).unwrap();
        let mut text = String::new();
        GzDecoder::new(check(&bytes, &file).unwrap()).read_to_string(&mut text).unwrap();
        assert!(text.contains("//debian/jessie:4.2.1") && !text.contains(here.root().to_str().unwrap()), "{text}");
    }

    #[test]
    fn the_newer_result_stays_whichever_way_it_came() {
        let (here, there) = (World::new(), World::new());
        let (old, new) = (result("//a:1", "v1", 10), ResultRecord { run: "zzzz".into(), ..result("//a:1", "v1", 20) });
        let file = here.root().join("state");
        for (mine, theirs) in [(&old, &new), (&new, &old)] {
            here.state().commit(&Settlement::new(theirs.clone())).unwrap();
            here.state().save(&file).unwrap();
            let state = there.state();
            state.commit(&Settlement::new(mine.clone())).unwrap();
            state.load(&file).unwrap();
            assert_eq!(state.result(&key("v1")).unwrap().as_ref(), Some(&new));
        }
        // an older result of the node under another key does not become its latest
        let older = World::new();
        older.state().commit(&Settlement::new(result("//a:1", "v0", 5))).unwrap();
        older.state().save(&file).unwrap();
        there.state().load(&file).unwrap();
        assert_eq!(there.state().latest(&label("//a:1"), &platform()).unwrap().unwrap().key, key("v1"));
        assert!(there.state().result(&key("v0")).unwrap().is_some());
    }

    #[test]
    fn what_is_not_whole_is_told_and_changes_nothing() {
        let (here, there) = (filled(), World::new());
        let file = here.root().join("state");
        here.state().save(&file).unwrap();
        let whole = fs::read(&file).unwrap();
        let state = there.state();
        let refuse = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            state.load(&file).unwrap_err()
        };
        for length in 0..whole.len() {
            let error = refuse(&whole[..length]);
            assert!(matches!(error, RecordError::DamagedSave { .. } | RecordError::NoSavedState { .. }), "cut at {length}: {error}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            refuse(&flipped);
        }
        assert!(matches!(refuse(&[&whole[..], b"x"].concat()), RecordError::DamagedSave { .. }));
        let newer = String::from_utf8_lossy(&whole[..20]).replacen(" 1 ", " 2 ", 1);
        let error = refuse(&[newer.as_bytes(), &whole[20..]].concat());
        assert!(matches!(error, RecordError::Newer { found: 2, known: 1, .. }) && error.hint().is_some(), "{error}");
        assert!(matches!(refuse(b"#!/bin/sh\n"), RecordError::NoSavedState { .. }));
        // whole and of this version, but its last line is no record
        let mut lines = GzEncoder::new(Vec::new(), Compression::default());
        let good = serde_json::to_string(&Line { name: Some(samples::name("a/b:1", "v1")), ..Line::default() }).unwrap();
        writeln!(lines, "{good}\n{{\"name\":3}}").unwrap();
        let packed = lines.finish().unwrap();
        assert!(matches!(refuse(&[first_line(&packed).as_bytes(), &packed].concat()), RecordError::DamagedSave { .. }));
        assert_eq!(state.results_for_keys(&[key("v1")]).unwrap(), [None]);
        assert_eq!((state.names().unwrap(), state.blobs(Digest::of(b"layer")).unwrap()), (vec![], vec![]));
    }

    #[test]
    fn the_saved_state_of_version_1_is_read() {
        let world = World::new();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/record/saved-v1.igraph-state");
        let state = world.state();
        assert_eq!(state.load(&file).unwrap(), Loaded { results: 1, taken: 1, names: 1 });
        check_arrived(&state, false);
    }
}
