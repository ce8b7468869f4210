//! The components of each kind of node. What depends on other nodes is added last, when those have settled.
//!
//! | component | of | holds |
//! |---|---|---|
//! | `engine` | image, test | kind and results version |
//! | `instruction S I` | image, test | an instruction of a needed stage, canonical |
//! | `file P`, `extra P` | image, test | exec bit and content, link text |
//! | `context` | image, test | why the whole context counts |
//! | `arg N` | image, test | value of a declared build arg |
//! | `platform` `target` `network` `epoch` | image, test | the setting |
//! | `secret I`, `ssh I` | image | whether it is given, never its value |
//! | `base R`, `base R for P` | image, test | manifest digest, or image id of a local base; P where another platform's |
//! | `parent L` | image, test | image id |
//! | `command N`, `env N` | test, base | what is run |
//! | `folder` | base | where its command runs, relative to the workspace |
//! | `policy` | image, base | the stamp of its last renewal, and the policy that renewed it |
//! | `subject` | test | image id |
//! | `name`, `image`, `test L`, `untested` | tag, push | what the name needs |

use std::path::Path;
use std::sync::Arc;

use super::files::FileDigests;
use super::inputs::{self, Inputs, Shared, Watched};
use crate::access::Network;
use crate::clock::Timestamp;
use crate::component::Component;
use crate::digest::{ImageId, Key};
use crate::dockerfile::{Configs, ContextSource, ContextUse, Dockerfile, Request, Resolved};
use crate::folder::Folder;
use crate::graph::{BaseNode, BaseSource, ImageNode, StandIn, TestNode};
use crate::label::NodeLabel;
use crate::platform::Platform;
use crate::problem::{Place, Problem, Source};
use crate::reference::Reference;
use crate::spec::{self, image_arguments, test_arguments, test_commands, test_environment};

/// What of a node's key is its own: all but the results of other nodes.
#[derive(Clone)]
pub struct Own {
    /// The components.
    pub components: Vec<Component>,
    /// The files.
    pub inputs: Inputs,
    /// What else was looked at.
    pub more: Vec<Watched>,
    /// The Dockerfile's resolution, where there is one.
    pub resolved: Option<Arc<Resolved>>,
}

impl Own {
    /// All components, with those of the dependencies.
    pub fn with(&self, dependencies: impl IntoIterator<Item = Component>) -> Vec<Component> {
        self.components.iter().cloned().chain(dependencies).collect()
    }

    /// All paths that it relies on.
    pub fn watched(&self) -> impl Iterator<Item = Watched> {
        self.inputs.watched().chain(self.more.iter().cloned())
    }
}

/// Why a node has no key yet.
#[derive(Clone, Debug)]
pub enum KeyError {
    /// The config of an image that it starts from is not known, and might hold ENV or ONBUILD: the references.
    ConfigUnknown(Vec<String>),
    /// Its definition or its files are broken.
    Problems(Vec<Problem>),
}

impl From<Vec<Problem>> for KeyError {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Problems(problems)
    }
}

/// What all keys of a run share.
pub struct Keys<'a> {
    /// Workspace root.
    pub root: &'a Path,
    /// Content digests by stat.
    pub digests: &'a FileDigests,
    /// Engine kind and results version, like `docker 1`.
    pub engine: String,
    /// SOURCE_DATE_EPOCH, seconds.
    pub epoch: i64,
    /// BUILDPLATFORM.
    pub build_platform: &'a Platform,
}

impl Keys<'_> {
    /// An image's own components.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn image(&self, node: &ImageNode<'_>, platform: &Platform, configs: &dyn Configs) -> Result<Own, KeyError> {
        let spec = &node.spec;
        let args = image_arguments(spec);
        let request = Request { target: spec.target.as_deref(), args: &args, platform, build_platform: self.build_platform };
        let read = &node.dockerfile;
        let resolved = read.parsed.resolve(&request, configs)?;
        given(&read.parsed, &resolved, Some(spec))?;
        let opened = self.open_context(&resolved, &spec.context, &|| spec.origin.field("context"))?;
        let context = (&*spec.context, &opened);
        let resolved = self.settled(resolved, &read.path, context)?;
        let files = inputs::context(self.root, context, Some(&read.path), &resolved.context, self.digests)?;
        let mut own = self.dockerfile(&read.parsed, resolved, files, spec.network, platform);
        own.components.extend(own.resolved.iter().flat_map(|resolved| mounts(resolved, spec)).collect::<Vec<_>>());
        own.more.push((node.dockerfile.path.clone(), Some(node.dockerfile.stamp)));
        own.components.extend(spec.scrub.iter().map(|scrub| Component::new(format!("scrub {scrub}"), "left out")));
        if let Some(target) = &spec.target {
            own.components.push(Component::new("target", &**target));
        }
        if !spec.extra_inputs.is_empty() {
            let extra = inputs::globs(self.root, &spec.extra_inputs, &spec.origin.field("extra_inputs"), self.digests)?;
            own.components.extend(inputs::components("extra", &extra.context));
            own.more.extend(extra.watched());
        }
        Ok(own)
    }

    /// A test's own components. What it reads of a context that other tests have read too is taken from `shared`.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn test(&self, node: &TestNode<'_>, platform: &Platform, configs: &dyn Configs, shared: &Shared) -> Result<Own, KeyError> {
        match (&node.spec.form, &node.dockerfile) {
            (spec::TestForm::Dockerfile { context, .. }, Some(read)) => {
                let args = test_arguments(node.spec, &node.image_label, node.image);
                let request = Request { target: None, args: &args, platform, build_platform: self.build_platform };
                let resolved = read.parsed.resolve(&request, configs)?;
                given(&read.parsed, &resolved, None)?;
                let known = shared.known(context, &read.path, &resolved.context);
                let (resolved, files) = match known.filter(|_| resolved.configs_needed.is_empty()) {
                    Some(files) => (resolved, files),
                    None => {
                        let opened = self.open_context(&resolved, context, &|| node.spec.origin.field("context"))?;
                        let context = (&**context, &opened);
                        let resolved = self.settled(resolved, &read.path, context)?;
                        let files = shared.context(self.root, context, &read.path, &resolved.context, self.digests)?;
                        (resolved, files)
                    }
                };
                let mut own = self.dockerfile(&read.parsed, resolved, files, node.spec.network, platform);
                own.more.push((read.path.clone(), Some(read.stamp)));
                Ok(own)
            }
            (form, _) => {
                let mut components = self.common(node.spec.network, platform);
                components.extend(
                    test_commands(form)
                        .iter()
                        .enumerate()
                        .map(|(position, command)| Component::new(format!("command {position:03}"), format!("{command:?}"))),
                );
                let environment = test_environment(node.spec, &node.image_label, node.image);
                components.extend(environment.into_iter().map(|(name, value)| Component::new(format!("env {name}"), value)));
                Ok(Own { components, inputs: Inputs::default(), more: Vec::new(), resolved: None })
            }
        }
    }

    /// The components of a base that is made or lies on this machine; `None` for one in a registry.
    ///
    /// # Errors
    /// Where its files can't be read.
    pub fn local_base(&self, node: &BaseNode<'_>, platform: &Platform) -> Result<Option<Own>, Vec<Problem>> {
        let own = |components: Vec<Component>, inputs: Inputs| Ok(Some(Own { components, inputs, more: Vec::new(), resolved: None }));
        let platform_part = Component::new("platform", platform.to_string());
        match &node.source {
            BaseSource::Registry(_) | BaseSource::StandIn(StandIn::Registry(_)) => Ok(None),
            BaseSource::Entry => match node.entry.map(|entry| (entry, &entry.from)) {
                None | Some((_, spec::BaseFrom::Registry(_))) => Ok(None),
                Some((entry, spec::BaseFrom::Command { argv, inputs: globs, env })) => {
                    let files = inputs::globs(self.root, globs, &entry.origin.field("inputs"), self.digests)?;
                    let mut parts = vec![
                        platform_part,
                        Component::new("folder", command_folder(entry)),
                        Component::new("epoch", self.epoch.to_string()),
                        Component::new("command", format!("{argv:?}")),
                    ];
                    parts.extend(env.iter().map(|(name, value)| Component::new(format!("env {name}"), &**value)));
                    parts.extend(inputs::components("file", &files.context));
                    own(parts, files)
                }
                Some((entry, spec::BaseFrom::Rootfs(path) | spec::BaseFrom::OciLayout(path))) => {
                    let (parts, files) = self.tree(path, &entry.origin.field("from"))?;
                    own([parts, vec![platform_part, Component::new("epoch", self.epoch.to_string())]].concat(), files)
                }
            },
            BaseSource::StandIn(StandIn::Rootfs(path) | StandIn::OciLayout(path)) => {
                let source = Arc::new(Source { path: "--base".to_owned(), text: path.to_string_lossy().into_owned() });
                let whole = 0..source.text.len();
                let (parts, files) = self.tree(&path.to_string_lossy(), &Place { source, span: whole, note: None })?;
                own(
                    [parts, vec![platform_part, Component::new("epoch", self.epoch.to_string()), Component::new("stand-in", "yes")]]
                        .concat(),
                    files,
                )
            }
        }
    }

    /// A file, or all below a folder, wherever it is.
    fn tree(&self, path: &str, place: &Place) -> Result<(Vec<Component>, Inputs), Vec<Problem>> {
        let files = inputs::tree(self.root, path, place, self.digests)?;
        Ok((inputs::components("file", &files.context).collect(), files))
    }

    /// The context's folder, which is there if anything of it is read.
    fn open_context(&self, resolved: &Resolved, context: &str, place: &dyn Fn() -> Place) -> Result<Folder, Vec<Problem>> {
        let folder = Folder::open(self.root.join(context));
        if resolved.context.is_empty() || folder.is_there() {
            return Ok(folder);
        }
        let what = if folder.path().exists() { "is no folder, but the context" } else { "is the context, and is not there" };
        Err(vec![Problem { message: format!("`{context}` {what}"), places: vec![place()], hint: None }])
    }

    /// The resolution, if it is not provisional. If it is, sources that are surely missing are told all the same: nobody wants to
    /// wait for the build of a parent to learn of a slip.
    fn settled(&self, resolved: Resolved, dockerfile: &str, context: (&str, &Folder)) -> Result<Resolved, KeyError> {
        if resolved.configs_needed.is_empty() {
            return Ok(resolved);
        }
        // a variable may come from the config that is not known
        let sure =
            |source: &&ContextSource| source.place.source.text.get(source.place.span.clone()).is_some_and(|text| !text.contains('$'));
        let sources = resolved.context.sources.iter().filter(sure).cloned().collect();
        if resolved.context.whole.is_none() {
            inputs::list(self.root, context, Some(dockerfile), &ContextUse { sources, whole: None })?;
        }
        Err(KeyError::ConfigUnknown(resolved.configs_needed))
    }

    fn common(&self, network: Network, platform: &Platform) -> Vec<Component> {
        vec![
            Component::new("engine", &self.engine),
            Component::new("platform", platform.to_string()),
            Component::new("network", network.to_string()),
            Component::new("epoch", self.epoch.to_string()),
        ]
    }

    fn dockerfile(&self, parsed: &Dockerfile, resolved: Resolved, files: Inputs, network: Network, platform: &Platform) -> Own {
        let mut components = self.common(network, platform);
        components.extend(resolved.canonical(parsed).into_iter().map(|(place, text)| Component::new(format!("instruction {place}"), text)));
        components.extend(resolved.args.iter().map(|(name, value)| {
            Component::new(format!("arg {name}"), value.as_deref().map_or("(unset)".to_owned(), |value| format!("={value}")))
        }));
        if let Some(reason) = &resolved.context.whole {
            components.push(Component::new("context", reason));
        }
        components.extend(inputs::components("file", &files.context));
        Own { components, inputs: files, more: Vec::new(), resolved: Some(Arc::new(resolved)) }
    }
}

/// Which secrets and agents an image mounts, and whether its entry gives them: without an optional one it is another build.
fn mounts(resolved: &Resolved, spec: &spec::Image) -> Vec<Component> {
    let part = |kind: &str, id: &str, given: bool| Component::new(format!("{kind} {id}"), if given { "given" } else { "not given" });
    let secrets = resolved.secrets.iter().map(|secret| part("secret", &secret.id, spec.secrets.contains_key(secret.id.as_str())));
    let agents = resolved.ssh.iter().map(|agent| part("ssh", &agent.id, spec.ssh.contains_key(agent.id.as_str())));
    secrets.chain(agents).collect()
}

/// Where the command of a base runs: its package's folder, relative to the workspace root.
pub fn command_folder(entry: &spec::Base) -> &str {
    entry.origin.source().path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether the build file gives each secret and agent that an instruction can't do without; a test is given none.
fn given(dockerfile: &Dockerfile, resolved: &Resolved, image: Option<&spec::Image>) -> Result<(), Vec<Problem>> {
    let secrets = resolved.secrets.iter().filter(|secret| secret.required).map(|secret| ("secrets", &secret.id, &secret.span));
    let agents = resolved.ssh.iter().filter(|agent| agent.required).map(|agent| ("ssh", &agent.id, &agent.span));
    let missing = secrets.chain(agents).filter(|(field, id, _)| {
        let has = |image: &spec::Image| if *field == "ssh" { image.ssh.contains_key(&***id) } else { image.secrets.contains_key(&***id) };
        !image.is_some_and(has)
    });
    let problems: Vec<Problem> = missing
        .map(|(field, id, span)| {
            let what = if field == "ssh" { format!("the ssh agent `{id}`") } else { format!("the secret `{id}`") };
            let hint = match (image, field) {
                (None, _) => "tests are given neither secrets nor ssh agents".to_owned(),
                (Some(_), "ssh") => format!("give it in the build file: `ssh: [\"{id}\"]`"),
                (Some(_), _) => format!("give it in the build file: `secrets: {{\"{id}\": Env(\"VARIABLE\")}}`, or `File(\"path\")`"),
            };
            Problem::new(format!("{what} is required here, and not given")).at(dockerfile.source(), span.clone()).hint(hint)
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The components of a name.
pub fn names_components<'a>(
    name: &Reference,
    image: ImageId,
    tests: impl IntoIterator<Item = (&'a NodeLabel, Key)>,
    untested: Option<&str>,
) -> Vec<Component> {
    let mut parts = vec![Component::new("name", name.to_string()), Component::new("image", image.to_string())];
    parts.extend(tests.into_iter().map(|(label, key)| Component::new(format!("test {label}"), key.to_string())));
    parts.extend(untested.map(|reason| Component::new("untested", reason)));
    parts
}

/// Components of what a node gets from the nodes it depends on; `other` is the platform of a base that is not the node's.
pub fn dependency(owner: &NodeLabel, is_base: bool, other: Option<&Platform>, value: &str) -> Component {
    let of = other.map_or_else(String::new, |platform| format!(" for {platform}"));
    Component::new(format!("{} {owner}{of}", if is_base { "base" } else { "parent" }), value)
}

/// Component of a node that a freshness policy has renewed.
pub fn stamp(at: Timestamp, policy: &str) -> Component {
    Component::new("policy", format!("{} {policy}", at.to_rfc3339()))
}
