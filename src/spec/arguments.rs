//! What builds and tests are given of an entry: build args, environment, commands. Knows no Dockerfile.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Image, Test, TestForm};
use crate::label::Label;

/// The argv of each command of a `run` or `exec` test.
pub fn test_commands(form: &TestForm) -> Vec<Vec<String>> {
    match form {
        TestForm::Run { commands, .. } => {
            commands.iter().map(|line| vec!["/bin/sh".to_owned(), "-ec".to_owned(), line.to_string()]).collect()
        }
        TestForm::Exec { commands, .. } => commands.iter().map(|argv| argv.iter().map(ToString::to_string).collect()).collect(),
        TestForm::Dockerfile { .. } => Vec::new(),
    }
}

type Texts = BTreeMap<Arc<str>, Arc<str>>;

fn owned(texts: &Texts) -> impl Iterator<Item = (String, String)> + '_ {
    texts.iter().map(|(name, value)| (name.to_string(), value.to_string()))
}

/// The build args of an image.
pub fn image_arguments(image: &Image) -> BTreeMap<String, String> {
    owned(&image.args).collect()
}

/// What a test sees of its subject.
fn subject_variables<'a>(label: &Label, image: &'a Image) -> impl Iterator<Item = (String, String)> + use<'a> {
    let name = ("IGRAPH_NAME".to_owned(), label.name.to_string());
    let package = ("IGRAPH_PACKAGE".to_owned(), label.package.as_str().to_owned());
    [name, package]
        .into_iter()
        .chain(image.args.iter().map(|(key, value)| (format!("IGRAPH_ARG_{}", key.to_ascii_uppercase()), value.to_string())))
}

/// The environment of a `run` or `exec` test; the test's own `env` wins.
pub fn test_environment(test: &Test, label: &Label, image: &Image) -> BTreeMap<String, String> {
    match &test.form {
        TestForm::Run { env, .. } | TestForm::Exec { env, .. } => subject_variables(label, image).chain(owned(env)).collect(),
        TestForm::Dockerfile { .. } => BTreeMap::new(),
    }
}

/// The build args of a test Dockerfile; the test's own `args` win.
pub fn test_arguments(test: &Test, label: &Label, image: &Image) -> BTreeMap<String, String> {
    match &test.form {
        TestForm::Dockerfile { args, .. } => subject_variables(label, image).chain(owned(args)).collect(),
        TestForm::Run { .. } | TestForm::Exec { .. } => BTreeMap::new(),
    }
}
