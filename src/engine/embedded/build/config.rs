//! The config of an image: read from a base, changed by instructions, written always the same way (image-spec, config.md; Docker's
//! extensions as BuildKit writes them). Knows no layer but by its diff id.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::dockerfile::{Command, CommandLine, Healthcheck, HealthcheckTest, Pair};
use crate::platform::Platform;

/// What Docker gives an image that says no PATH.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What history says of who made it.
const COMMENT: &str = "igraph";

fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `null` is what Go writes for an empty list or map.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// An image's config.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub created: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub author: String,
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub variant: String,
    #[serde(deserialize_with = "nullable")]
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub os_features: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub config: RunConfig,
    #[serde(deserialize_with = "nullable")]
    pub rootfs: RootFs,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub history: Vec<History>,
}

/// What containers of it start with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RunConfig {
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub user: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Health>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub on_build: Vec<String>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    pub shell: Vec<String>,
}

/// `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Empty {}

/// HEALTHCHECK; durations are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Health {
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    test: Vec<String>,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    interval: u64,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    timeout: u64,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    start_period: u64,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    start_interval: u64,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    retries: u32,
}

/// The layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    r#type: String,
    #[serde(deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// How one layer, or change of the config, came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct History {
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    created: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    created_by: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    author: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    comment: String,
    #[serde(skip_serializing_if = "is_empty", deserialize_with = "nullable")]
    empty_layer: bool,
}

impl Image {
    /// `FROM scratch`.
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            variant: platform.variant().unwrap_or_default().to_owned(),
            os: platform.os().to_owned(),
            config: RunConfig { env: vec![format!("PATH={DEFAULT_PATH}")], working_dir: "/".into(), ..RunConfig::default() },
            ..Self::default()
        }
    }

    /// What a stage starts with: the base's triggers have run, and there is a PATH.
    pub fn into_base(mut self) -> Self {
        self.config.on_build.clear();
        if !self.config.env.iter().any(|variable| variable.starts_with("PATH=")) {
            self.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        self
    }

    /// The bytes whose digest is the image's id.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_bytes(&self, created: &str) -> Result<Vec<u8>, serde_json::Error> {
        let mut image = self.clone();
        image.created = created.to_owned();
        image.rootfs.r#type = "layers".into();
        serde_json::to_vec(&image)
    }

    /// Adds a line of history, and the layer if there is one.
    pub fn record(&mut self, created: &str, by: String, layer: Option<Digest>) {
        let history = History {
            created: created.to_owned(),
            created_by: by,
            author: self.author.clone(),
            comment: COMMENT.into(),
            empty_layer: layer.is_none(),
        };
        self.history.push(history);
        self.rootfs.diff_ids.extend(layer);
    }

    /// SHELL, or its default.
    pub fn shell(&self) -> Vec<String> {
        if self.config.shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { self.config.shell.clone() }
    }

    /// argv of a command.
    pub fn argv(&self, line: &CommandLine) -> Vec<String> {
        match line {
            CommandLine::Exec(argv) => argv.clone(),
            CommandLine::Shell(text) => {
                let mut argv = self.shell();
                argv.push(text.clone());
                argv
            }
        }
    }

    /// A path as seen from the working directory.
    pub fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        let folder = if self.config.working_dir.is_empty() { "/" } else { &self.config.working_dir };
        format!("{}/{path}", folder.trim_end_matches('/'))
    }

    /// Applies an instruction that changes the config alone; what history says of it, if anything. `None` for all others. `has_cmd` tells
    /// whether the stage has said CMD.
    pub fn apply(&mut self, command: &Command, has_cmd: &mut bool) -> Option<Option<String>> {
        let config = &mut self.config;
        let by = match command {
            Command::Env(pairs) => {
                for pair in pairs {
                    let (name, value) = (&pair.key.value, &pair.value.value);
                    let variable = format!("{name}={value}");
                    let prefix = format!("{name}=");
                    match config.env.iter_mut().find(|known| known.starts_with(&prefix)) {
                        Some(known) => *known = variable,
                        None => config.env.push(variable),
                    }
                }
                format!("ENV {}", pairs_text(pairs))
            }
            Command::Label(pairs) => {
                config.labels.extend(pairs.iter().map(|pair| (pair.key.value.clone(), pair.value.value.clone())));
                format!("LABEL {}", pairs_text(pairs))
            }
            Command::Maintainer(name) => {
                self.author = name.value.clone();
                format!("MAINTAINER {}", name.value)
            }
            Command::Expose(ports) => {
                let exposed: BTreeSet<String> = ports.iter().flat_map(|port| expand_port(&port.value)).collect();
                let by = format!("EXPOSE map[{}]", exposed.iter().map(|port| format!("{port}:{{}}")).collect::<Vec<_>>().join(" "));
                config.exposed_ports.extend(exposed.into_iter().map(|port| (port, Empty {})));
                by
            }
            Command::Cmd(line) => {
                let argv = self.argv(line);
                *has_cmd = true;
                let by = format!("CMD {}", quoted(&argv));
                (self.config.cmd, self.config.args_escaped) = (argv, true);
                by
            }
            Command::Entrypoint(line) => {
                let argv = self.argv(line);
                let by = format!("ENTRYPOINT {}", quoted(&argv));
                self.config.entrypoint = argv;
                if !*has_cmd {
                    self.config.cmd.clear();
                }
                by
            }
            Command::User(user) => {
                config.user = user.value.clone();
                format!("USER {}", user.value)
            }
            Command::Volume(paths) => {
                let paths: Vec<String> = paths.iter().map(|path| path.value.clone()).collect();
                let by = format!("VOLUME [{}]", paths.join(" "));
                config.volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
                by
            }
            Command::StopSignal(signal) => {
                config.stop_signal = signal.value.clone();
                format!("STOPSIGNAL {}", signal.value)
            }
            Command::Shell(argv) => {
                config.shell = argv.clone();
                format!("SHELL [{}]", argv.join(" "))
            }
            Command::Healthcheck(check) => {
                let health = self.health(check);
                let by = format!("HEALTHCHECK {}", quoted(&health.test));
                self.config.healthcheck = Some(health);
                by
            }
            Command::OnBuild(trigger) => {
                config.on_build.push(trigger.text.clone());
                // BuildKit tells no history of it
                return Some(None);
            }
            Command::Arg(declarations) => {
                let names: Vec<String> = declarations
                    .iter()
                    .map(|declaration| match &declaration.default {
                        Some(default) => format!("{}={}", declaration.name.value, default.value),
                        None => declaration.name.value.clone(),
                    })
                    .collect();
                format!("ARG {}", names.join(" "))
            }
            Command::From(_) | Command::Run(_) | Command::Copy(_) | Command::Add(..) | Command::Workdir(_) => return None,
        };
        Some(Some(by))
    }

    fn health(&self, check: &Healthcheck) -> Health {
        let test = match &check.test {
            HealthcheckTest::None => vec!["NONE".into()],
            HealthcheckTest::Command(CommandLine::Shell(text)) => vec!["CMD-SHELL".into(), text.clone()],
            HealthcheckTest::Command(CommandLine::Exec(argv)) => std::iter::once("CMD".to_owned()).chain(argv.iter().cloned()).collect(),
        };
        Health {
            test,
            interval: check.interval.unwrap_or_default(),
            timeout: check.timeout.unwrap_or_default(),
            start_period: check.start_period.unwrap_or_default(),
            start_interval: check.start_interval.unwrap_or_default(),
            retries: check.retries.unwrap_or_default(),
        }
    }
}

fn pairs_text(pairs: &[Pair]) -> String {
    pairs.iter().map(|pair| format!("{}={}", pair.key.value, pair.value.value)).collect::<Vec<_>>().join(" ")
}

fn quoted(argv: &[String]) -> String {
    format!("[{}]", argv.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" "))
}

/// `8000-8001/udp` as `8000/udp`, `8001/udp`; of `address:host:port` only the last counts.
fn expand_port(text: &str) -> Vec<String> {
    let text = text.rsplit(':').next().unwrap_or(text);
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).map(|port| format!("{port}/{protocol}")).collect(),
        _ => vec![format!("{ports}/{protocol}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_unknown_fields_of_bases_do_not_matter() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Hostname":"","Volumes":null,"Labels":{"a":"b"}},
            "rootfs":{"type":"layers","diff_ids":[]},"history":null,"container":"x"}"#;
        let image: Image = serde_json::from_str(text).unwrap();
        let bytes = image.into_base().to_bytes("1980-01-01T00:00:00Z").unwrap();
        insta::assert_snapshot!(String::from_utf8(bytes).unwrap(), @r#"{"created":"1980-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"],"Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":[]}}"#);
    }

    #[test]
    fn ports() {
        assert_eq!(expand_port("80"), ["80/tcp"]);
        assert_eq!(expand_port("127.0.0.1:8000-8001/UDP"), ["8000/udp", "8001/udp"]);
    }
}
