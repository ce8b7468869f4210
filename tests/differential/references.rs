//! The cases as the reference builders build them: hands them to scripts/references, and reads what it leaves. Knows no igraph engine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Index;
use std::path::Path;
use std::process::Command;

use igraph::digest::Digest;
use serde_json::Value;

use super::builder::{Agent, base};
use super::cases::{By, Case};
use super::fixture;
use super::image::Image;
use super::records::{Outcome, Record};
use super::servers::Servers;

pub struct Found {
    records: BTreeMap<By, Record>,
    versions: BTreeMap<By, String>,
}

impl Found {
    pub fn version(&self, by: By) -> String {
        self.versions[&by].clone()
    }
}

impl Index<&By> for Found {
    type Output = Record;

    fn index(&self, by: &By) -> &Record {
        &self.records[by]
    }
}

pub fn run(cases: &[Case], builders: &[By]) -> Found {
    let kept = std::env::var_os("IGRAPH_REFERENCES_FOLDER");
    let scratch = tempfile::tempdir().unwrap();
    let folder = kept.as_deref().map_or(scratch.path(), Path::new);
    let servers = Servers::start();
    let _agent = Agent::start(&folder.join("agent.sock"));
    fs::write(folder.join("base.tar"), fixture::base_archive()).unwrap();
    let (mut first, mut then) = (String::new(), String::new());
    for case in cases {
        let place = folder.join("cases").join(&case.name);
        fs::create_dir_all(place.join("context")).unwrap();
        fixture::context(&place.join("context"), case);
        fs::write(place.join("Dockerfile"), servers.fill(&case.dockerfile)).unwrap();
        let mut arguments: Vec<String> = Vec::new();
        for (name, value) in &case.args {
            arguments.extend(["--build-arg".into(), format!("{name}={value}")]);
        }
        for (id, text) in &case.secrets {
            fs::write(place.join(format!("secret.{id}")), text).unwrap();
            arguments.push(format!("--secret=id={id},src=cases/{}/secret.{id}", case.name));
        }
        arguments.extend(case.target.iter().map(|target| format!("--target={target}")));
        arguments.extend(case.ssh.then(|| "--ssh=default=/cases/agent.sock".into()));
        let arguments: String = arguments.iter().map(|argument| format!("{argument}\n")).collect();
        fs::write(place.join("arguments"), arguments).unwrap();
        let is_parent = cases.iter().any(|other| other.parents().any(|parent| parent == case.name));
        let wave = if is_parent { &mut first } else { &mut then };
        wave.push_str(&format!("{}\n", case.name));
    }
    fs::write(folder.join("first"), first).unwrap();
    fs::write(folder.join("then"), then).unwrap();
    let status = Command::new("scripts/references").arg(folder).args(builders.iter().map(|by| by.name())).status().unwrap();
    assert!(status.success(), "scripts/references: {status}");

    let version = |by: By| fs::read_to_string(folder.join(by.name()).join("version")).unwrap().trim().to_owned();
    let versions = builders.iter().map(|by| (*by, version(*by))).collect();
    let mut records = BTreeMap::new();
    for by in builders.iter().copied() {
        let mut archive = (by == By::Dockerd).then(|| Archive::open(&folder.join("dockerd/images.tar")));
        let mut record = Record::new();
        for case in cases {
            let place = |suffix: &str| folder.join(by.name()).join(format!("{}{suffix}", case.name));
            let status = fs::read_to_string(place(".status")).unwrap();
            let outcome = if status.trim() == "0" {
                let image = match &mut archive {
                    Some(archive) => archive.image(&format!("case/{}:latest", case.name)),
                    None => layout(&place("")),
                };
                Outcome::Built(image.lines(&base()).iter().map(|line| servers.hide(line)).collect())
            } else {
                Outcome::Failed(servers.hide(&why(&fs::read_to_string(place(".log")).unwrap())))
            };
            record.insert(case.name.clone(), outcome);
        }
        records.insert(by, record);
    }
    Found { records, versions }
}

/// The last line of a log that tells of an error, without what changes from run to run.
fn why(log: &str) -> String {
    let line = log.lines().rev().find(|line| line.to_ascii_lowercase().contains("error")).unwrap_or_default().trim();
    let mut words: Vec<&str> = line.split(' ').collect();
    words.retain(|word| !word.contains("::") && !word.contains("/scratch/") && !word.contains("/tmp/"));
    words.join(" ")
}

/// What `docker save` wrote; entries are read by their place.
struct Archive {
    file: fs::File,
    places: BTreeMap<String, (u64, u64)>,
}

impl Archive {
    fn open(path: &Path) -> Self {
        let file = fs::File::open(path).unwrap();
        let mut archive = tar::Archive::new(BufReader::new(file.try_clone().unwrap()));
        let mut places = BTreeMap::new();
        let mut links = Vec::new();
        for entry in archive.entries_with_seek().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            if let Some(target) = entry.link_name().unwrap() {
                links.push((path, target.to_string_lossy().into_owned()));
                continue;
            }
            places.insert(path, (entry.raw_file_position(), entry.size()));
        }
        for (path, target) in links {
            // of the old layout: `../ID/layer.tar`
            let target = target.trim_start_matches("../").to_owned();
            if let Some(place) = places.get(&target).copied() {
                places.insert(path, place);
            }
        }
        Self { file, places }
    }

    fn bytes(&mut self, path: &str) -> Vec<u8> {
        let (offset, size) = *self.places.get(path).unwrap_or_else(|| panic!("{path} is not in the archive"));
        self.file.seek(SeekFrom::Start(offset)).unwrap();
        let mut bytes = Vec::new();
        (&mut self.file).take(size).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn image(&mut self, name: &str) -> Image {
        let manifest: Value = serde_json::from_slice(&self.bytes("manifest.json")).unwrap();
        let images = manifest.as_array().unwrap();
        let named = |image: &&Value| image["RepoTags"].as_array().into_iter().flatten().any(|tag| tag == name);
        let image = images.iter().find(named).unwrap_or_else(|| panic!("{name} was not saved")).clone();
        let config = self.bytes(image["Config"].as_str().unwrap());
        let layers: Vec<String> = image["Layers"].as_array().unwrap().iter().map(|layer| layer.as_str().unwrap().to_owned()).collect();
        Image::read(&config, |index, diff_id| {
            let bytes = self.bytes(&layers[index]);
            assert_eq!(Digest::of(&bytes), diff_id);
            Box::new(std::io::Cursor::new(bytes))
        })
    }
}

/// An image that lies in a folder as manifest, config and uncompressed layers.
fn layout(folder: &Path) -> Image {
    let blob = |digest: &Value| folder.join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap());
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let config = fs::read(blob(&manifest["config"]["digest"])).unwrap();
    Image::read(&config, |index, diff_id| {
        assert_eq!(manifest["layers"][index]["digest"], diff_id.to_string());
        Box::new(BufReader::new(fs::File::open(blob(&manifest["layers"][index]["digest"])).unwrap()))
    })
}
