//! BuildKit's cache in the daemon: makes it forget a step whose result is not to be trusted, and what was built on that. Decides nothing.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use serde::Deserialize;

use super::build::post;
use super::engine::DockerEngine;

#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(rename = "BuildCache", default)]
    records: Option<Vec<Record>>,
}

/// What the daemon keeps of one step. Up to API 1.41 it names one parent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Record {
    #[serde(rename = "ID")]
    id: String,
    parent: String,
    parents: Option<Vec<String>>,
    /// `mount / from exec /bin/sh -c apt-get update`
    description: String,
}

impl DockerEngine {
    /// Removes what the cache has of a RUN of this name, so that no later build of whatever image takes it. What another build holds
    /// just now stays; a daemon that does not answer keeps it too.
    pub(super) async fn forget_step(&self, name: &str) {
        let Some(records) = self.cache_records().await else { return };
        let ids = standing_on(name, &records);
        // one that has several parents may come after one of them
        for id in ids.iter().rev().chain(ids.iter().rev()) {
            let filters = serde_json::json!({ "id": { id.as_str(): true } }).to_string();
            let request = post("build/prune", &self.api, &[("all", "1".to_owned()), ("filters", filters)]).body(Empty::<Bytes>::new());
            let Ok(request) = request else { return };
            let Ok(answer) = self.dialer.send(request).await else { return };
            drop(answer.into_body().collect().await);
        }
    }

    async fn cache_records(&self) -> Option<Vec<Record>> {
        let request = Request::get(format!("/{}/system/df?type=build-cache", self.api)).body(Empty::<Bytes>::new()).ok()?;
        let body = self.dialer.send(request).await.ok()?.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice::<Usage>(&body).ok()?.records
    }
}

/// Ids of the records of a RUN that BuildKit calls `[2/3] RUN --mount=… apt-get update`, and of all that stand on them, parents first.
fn standing_on(name: &str, records: &[Record]) -> Vec<String> {
    let Some((_, line)) = name.split_once("] RUN ") else { return Vec::new() };
    let mut command = line.trim_start();
    while command.starts_with("--") {
        command = command.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
    }
    let ran = |record: &Record| record.description.strip_prefix("mount / from exec ").is_some_and(|argv| argv.ends_with(command));
    let mut found: Vec<String> =
        records.iter().filter(|record| !command.is_empty() && ran(record)).map(|record| record.id.clone()).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).cloned() {
        let is_child = |record: &&Record| record.parent == parent || record.parents.iter().flatten().any(|id| *id == parent);
        for child in records.iter().filter(is_child) {
            if !found.contains(&child.id) {
                found.push(child.id.clone());
            }
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_what_stands_on_it() {
        let usage = r#"{"BuildCache": [
            {"ID": "base", "Parent": "", "Description": "pulled from x"},
            {"ID": "copy", "Parents": ["update", "base"], "Description": "mount / from exec /bin/sh -c make"},
            {"ID": "update", "Parent": "base", "Description": "mount / from exec /bin/sh -c apt-get update"},
            {"ID": "install", "Parent": "update", "Description": "mount / from exec /bin/sh -c apt-get install x"},
            {"ID": "other", "Parent": "base", "Description": "mount / from exec /bin/sh -c apt-get update && true"}
        ]}"#;
        let records = serde_json::from_str::<Usage>(usage).unwrap().records.unwrap();
        for name in ["[2/3] RUN apt-get update", "[one 2/3] RUN --mount=type=cache,target=/x --network=host apt-get update"] {
            assert_eq!(standing_on(name, &records), ["update", "copy", "install"], "{name}");
        }
        for name in ["[2/3] COPY apt-get update", "[2/3] RUN --network=host", "Step 2/3 : RUN apt-get update"] {
            assert_eq!(standing_on(name, &records), [""; 0], "{name}");
        }
        assert!(serde_json::from_str::<Usage>("{}").unwrap().records.is_none());
    }
}
