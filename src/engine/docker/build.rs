//! Builds: the request as a job, the job through BuildKit or the classic builder, and what became of it. Knows no other call.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use base64::Engine as _;
use bollard::moby::buildkit::v1::StatusResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use prost::Message as _;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::engine::{DockerEngine, infra_text};
use super::images::{content_tag, throwaway_tag};
use super::progress::{BuildKitProgress, ClassicProgress, Line, StepLog};
use super::session::{DOCKERFILE, Served, Session, open_session};
use super::steps::{exit_code, place_of, plain_error, said};
use crate::engine::classify::{classify, ignored_index_failure};
use crate::engine::context::{ContextFiles, ReadError};
use crate::engine::{Attempt, BuildRequest, Output};
use crate::failure::{Failure, FailureClass, Retry};
use crate::image::EngineImage;

/// Where the classic builder finds the Dockerfile: at the root of the tar, and gone before the first COPY.
const CLASSIC_DOCKERFILE: &str = ".igraph.Dockerfile";

/// A build as a daemon is asked for it.
pub(super) struct Job {
    /// The generated Dockerfile.
    pub text: String,
    /// The context.
    pub context: Arc<ContextFiles>,
    /// The name the result gets.
    pub tag: String,
    /// Build args, proxies and epoch included.
    pub args: BTreeMap<String, String>,
    /// `default`, `host` or `none`.
    pub network: &'static str,
    /// As OCI writes it; `None` for the daemon's own.
    pub platform: Option<String>,
    /// Run every step.
    pub no_cache: bool,
}

/// Why a build gave no image.
pub(super) enum Broken {
    /// The daemon says so: its error, the log of the step if it is known, and the logs of all.
    Failed { error: String, step: Option<Box<StepLog>>, steps: Vec<StepLog> },
    /// Something of ours, or the connection.
    Failure(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// The daemon's name for the result, and the log of every step that ran.
pub(super) struct Built {
    pub handle: String,
    pub steps: Vec<StepLog>,
}

impl DockerEngine {
    pub(super) fn build_request(&self, request: &BuildRequest<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        let tag = if request.throwaway {
            throwaway_tag(&self.options.owner, &self.options.run, request.key)
        } else {
            content_tag(&self.options.owner, request.slug, request.key)
        };
        let result = self.run(attempt, self.build_tagged(request, &tag, attempt.output));
        if result.is_err() {
            // a result that is not to be used must not stay under the name that says it may
            drop(self.ask("remove", async { self.untag(&tag).await }));
        }
        result
    }

    async fn build_tagged(&self, request: &BuildRequest<'_>, tag: &str, output: &dyn Output) -> Result<EngineImage, Failure> {
        if let Some(missing) = request.resolved.references.iter().find(|image| !request.references.contains_key(&image.key())) {
            // left as it is, the daemon would ask a registry for it
            return Err(Failure::infra(format!("`{}` is not resolved to an image", missing.text)).retry(Retry::Never));
        }
        let mut replaced = BTreeMap::new();
        for (text, image) in request.references {
            replaced.insert(text.as_str(), (self.content_name(image).await?, image));
        }
        let replace = |text: &str| replaced.get(text).map_or_else(|| text.to_owned(), |(name, _)| name.clone());
        let mut args: BTreeMap<String, String> = request
            .args
            .iter()
            .filter(|(name, _)| request.resolved.args.contains_key(*name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if self.facts.buildkit || request.resolved.args.contains_key("SOURCE_DATE_EPOCH") {
            args.entry("SOURCE_DATE_EPOCH".into()).or_insert_with(|| request.epoch.to_string());
        }
        args.extend(crate::engine::words::proxy_variables(request.proxies));
        let job = Job {
            text: request.resolved.generate(request.dockerfile, &replace),
            context: Arc::new(ContextFiles::new(request.context_root, request.context, request.epoch)),
            tag: tag.to_owned(),
            args,
            network: self.network_mode(request.network),
            platform: (*request.platform != self.facts.platform).then(|| request.platform.to_string()),
            no_cache: request.no_cache,
        };
        let built = if self.facts.buildkit {
            let served = Served {
                dockerfile: job.text.clone(),
                context: job.context.clone(),
                secrets: request.secrets.clone(),
                ssh: request.ssh.clone(),
                environment: self.options.environment.clone(),
            };
            self.build_with_buildkit(&job, served, output).await
        } else {
            self.build_with_classic(&job, output).await
        };
        let (built, mut steps) = match built {
            Ok(Built { handle, steps }) => (Ok(handle), steps),
            Err(Broken::Failure(failure)) => return Err(failure),
            Err(Broken::Failed { error, step, mut steps }) => {
                let failed = step.as_deref();
                steps.retain(|other| failed.is_none_or(|step| step.name != other.name));
                (Err(failed_step(&error, failed, request)), steps)
            }
        };
        // what failed behind such a step may have failed for that
        steps.retain(|step| ignored_index_failure(step.lines.iter().map(String::as_str)).is_some());
        if let Some(step) = steps.first() {
            if self.facts.buildkit {
                self.forget_step(&step.name).await;
            }
            return Err(ignored_indexes(step, request, built.err()));
        }
        let handle = built?;
        for (name, image) in replaced.values() {
            let now = self.inspect(name).await?.and_then(|inspect| inspect.id);
            if now.as_deref() != Some(image.handle.as_str()) {
                return Err(Failure::infra(format!("`{name}` was moved in the daemon during the build")));
            }
        }
        let image = self.engine_image(&handle).await?;
        match self.inspect(tag).await?.and_then(|inspect| inspect.id) {
            Some(id) if id == image.handle => Ok(image),
            _ => Err(Failure::infra(format!("`{tag}` is not what was built: someone else moved it"))),
        }
    }

    /// One build through BuildKit, with a session of its own.
    pub(super) async fn build_with_buildkit(&self, job: &Job, served: Served, output: &dyn Output) -> Result<Built, Broken> {
        let id = format!("igraph{:032x}", fastrand::u128(..));
        let session = open_session(&self.dialer, &self.api, &id, served).await;
        let session = session.map_err(|error| infra_text("the build session", &error.to_string()))?;
        let mut query = self.query(job);
        query.extend([("version", "2".to_owned()), ("session", id.clone()), ("buildid", id), ("remote", "client-session".to_owned())]);
        query.push(("dockerfile", DOCKERFILE.to_owned()));
        let request = post("build", &self.api, &query).body(Empty::<Bytes>::new()).map_err(|error| Failure::infra(error.to_string()))?;
        let response = self.dialer.send(request).await.map_err(|error| infra_text("the build", &error.to_string()))?;
        let mut progress = BuildKitProgress::default();
        let mut handle = None;
        let end = messages(response, |message| {
            if let Some(id) = message.image_id() {
                handle = Some(id);
            }
            if let Some(status) = message.status_update() {
                emit(output, progress.take(&status));
            }
        })
        .await;
        emit(output, progress.rest());
        self.outcome(end, handle, Some(&session), progress.failed().cloned(), || progress.steps().cloned().collect())
    }

    /// One build through the classic builder.
    pub(super) async fn build_with_classic(&self, job: &Job, output: &dyn Output) -> Result<Built, Broken> {
        if job.context.has(".dockerignore") {
            // the daemon reads it once more, and would need other lines in it to drop the Dockerfile
            let message = "the classic builder can't bring `.dockerignore` itself into an image";
            return Err(Failure::step(message).hint("use a daemon with BuildKit, or list `.dockerignore` in `.dockerignore`").into());
        }
        let mut query = self.query(job);
        query.extend([("version", "1".to_owned()), ("rm", "1".to_owned()), ("forcerm", "1".to_owned())]);
        query.push(("dockerfile", CLASSIC_DOCKERFILE.to_owned()));
        let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(16);
        let (context, text) = (job.context.clone(), job.text.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let ignore = format!("{CLASSIC_DOCKERFILE}\n.dockerignore\n");
            let extra: [(&str, &[u8]); 2] = [(CLASSIC_DOCKERFILE, text.as_bytes()), (".dockerignore", ignore.as_bytes())];
            let mut writer = io::BufWriter::with_capacity(64 * 1024, ChannelWriter(sender.clone()));
            let written = context.write_tar(&mut writer, &extra).and_then(|()| writer.flush().map_err(ReadError::Stopped));
            if let Err(error) = &written {
                // an honest end of the body would let the daemon build what it has
                drop(sender.blocking_send(Err(io::Error::other(format!("{error:?}")))));
            }
            drop(writer.into_parts());
            written
        });
        let body = bollard::body_try_stream(receiver_stream(receiver));
        let request = post("build", &self.api, &query).header("Content-Type", "application/x-tar").body(body);
        let request = request.map_err(|error| Failure::infra(error.to_string()))?;
        let sent = self.dialer.send(request).await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                if let Ok(Err(problem @ ReadError::Changed(_))) = writing.await {
                    return Err(problem.failure().into());
                }
                return Err(infra_text("the build", &error.to_string()).into());
            }
        };
        let mut progress = ClassicProgress::default();
        let mut handle = None;
        let end = messages(response, |message| {
            if let Some(id) = message.image_id() {
                handle = Some(id);
            }
            if let Some(text) = &message.stream {
                emit(output, progress.take(text));
            }
        })
        .await;
        emit(output, progress.rest());
        if let Ok(Err(problem @ ReadError::Changed(_))) = writing.await {
            return Err(problem.failure().into());
        }
        self.outcome(end, handle, None, progress.failed().cloned(), || progress.steps().cloned().collect())
    }

    fn outcome(
        &self,
        end: Result<Option<String>, Failure>,
        handle: Option<String>,
        session: Option<&Session>,
        failed: Option<StepLog>,
        steps: impl FnOnce() -> Vec<StepLog>,
    ) -> Result<Built, Broken> {
        if let Some(problem) = session.and_then(Session::problem) {
            return Err(problem.into());
        }
        match (end?, handle) {
            (Some(error), _) => Err(Broken::Failed { error, step: failed.map(Box::new), steps: steps() }),
            (None, Some(handle)) => Ok(Built { handle, steps: steps() }),
            (None, None) => Err(Failure::infra("the build ended without an image: the docker daemon closed the connection").into()),
        }
    }

    fn query(&self, job: &Job) -> Vec<(&'static str, String)> {
        let args = serde_json::to_string(&job.args).unwrap_or_default();
        let mut query = vec![("t", job.tag.clone()), ("networkmode", job.network.to_owned()), ("buildargs", args)];
        if job.no_cache {
            query.push(("nocache", "1".to_owned()));
        }
        if let Some(platform) = &job.platform {
            query.push(("platform", platform.clone()));
        }
        query
    }
}

/// A step that apt ended well without its indexes; `then` is how a later one failed.
fn ignored_indexes(step: &StepLog, request: &BuildRequest<'_>, then: Option<Failure>) -> Failure {
    let line = ignored_index_failure(step.lines.iter().map(String::as_str)).unwrap_or_default();
    let place = place_of(&step.name, request.dockerfile, request.resolved).unwrap_or_else(|| step.name.clone());
    let then = then.map_or_else(|| "the result is not used".to_owned(), |failure| failure.message);
    let failure = Failure::infra(format!("`{line}` at {place}: apt went on without its indexes; {then}"));
    failure.hint("`apt-get -o APT::Update::Error-Mode=any update` fails right there")
}

/// The failure of a step: `exit 100 at RUN apt-get update (Dockerfile:7)`, its class from the step's own log.
fn failed_step(error: &str, step: Option<&StepLog>, request: &BuildRequest<'_>) -> Failure {
    let code = exit_code(error);
    let lines = step.map(|step| step.lines.iter().map(String::as_str)).into_iter().flatten();
    let verdict = classify(lines, code, said(error));
    let place = step.and_then(|step| place_of(&step.name, request.dockerfile, request.resolved));
    let what = match code {
        Some(code) => format!("exit {code}"),
        None => plain_error(step.and_then(|step| step.error.as_deref()).unwrap_or(error)),
    };
    let message = match (place, step) {
        (Some(place), _) => format!("{what} at {place}"),
        (None, Some(step)) if code.is_some() => format!("{what} at {}", step.name),
        _ => what,
    };
    let mut failure = match verdict.class {
        FailureClass::Infra => Failure::infra(message).retry(verdict.retry),
        _ => Failure::step(message),
    };
    failure.exit_code = code;
    failure.hint = verdict.evidence.filter(|_| verdict.class == FailureClass::Infra).map(|line| format!("`{line}`"));
    if verdict.class == FailureClass::Infra && verdict.retry == Retry::Never {
        failure.group = verdict.group.map(str::to_owned);
    }
    failure
}

fn emit(output: &dyn Output, lines: Vec<Line>) {
    for (stream, line) in lines {
        output.line(stream, &line);
    }
}

/// A POST with a query.
pub(super) fn post(path: &str, api: &str, query: &[(&'static str, String)]) -> hyper::http::request::Builder {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
    Request::post(format!("/{api}/{path}?{}", query.join("&")))
}

/// RFC 3986, section 2.1: all but unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A receiver as a stream.
pub(super) fn receiver_stream<T: Send + 'static>(mut receiver: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// Writes into a channel; fails when nobody takes.
pub(super) struct ChannelWriter(pub mpsc::Sender<Result<Bytes, io::Error>>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line of a daemon's stream.
#[derive(Debug, Deserialize)]
pub(super) struct StreamMessage {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    pub stream: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, rename = "errorDetail")]
    detail: Option<ErrorDetail>,
    #[serde(default)]
    aux: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    message: String,
}

impl StreamMessage {
    fn image_id(&self) -> Option<String> {
        Some(self.aux.as_ref()?.get("ID")?.as_str()?.to_owned())
    }

    fn status_update(&self) -> Option<StatusResponse> {
        let encoded = self.aux.as_ref().filter(|_| self.id.as_deref() == Some("moby.buildkit.trace"))?.as_str()?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        StatusResponse::decode(bytes.as_slice()).ok()
    }
}

/// Reads a daemon's stream of JSON lines to its end; gives the error in it, if there is one.
pub(super) async fn messages(response: Response<Incoming>, mut take: impl FnMut(&StreamMessage)) -> Result<Option<String>, Failure> {
    let status = response.status();
    let closed = |error: hyper::Error| infra_text("the docker daemon's answer", &super::transport::io_error(error).to_string());
    if !status.is_success() {
        #[derive(Deserialize)]
        struct Refused {
            message: String,
        }
        let body = response.into_body().collect().await.map_err(closed)?.to_bytes();
        let message = serde_json::from_slice::<Refused>(&body).map(|refused| refused.message);
        return Ok(Some(message.unwrap_or_else(|_| String::from_utf8_lossy(&body).trim().to_owned())));
    }
    let mut frames = BodyStream::new(response.into_body());
    let mut buffer = Vec::new();
    let mut error = None;
    while let Some(frame) = frames.next().await {
        let Ok(data) = frame.map_err(closed)?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let Ok(message) = serde_json::from_slice::<StreamMessage>(&line) else { continue };
            take(&message);
            if let Some(text) = message.detail.map(|detail| detail.message).filter(|text| !text.is_empty()).or(message.error) {
                error = Some(text);
            }
        }
    }
    if let Ok(message) = serde_json::from_slice::<StreamMessage>(&buffer) {
        take(&message);
        error = message.error.or(error);
    }
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let request = post("build", "v1.41", &[("t", "igraph/a:b".into()), ("buildargs", r#"{"A":"ü &"}"#.into())]);
        let uri = request.body(()).unwrap().uri().to_string();
        assert_eq!(uri, "/v1.41/build?t=igraph%2Fa%3Ab&buildargs=%7B%22A%22%3A%22%C3%BC%20%26%22%7D");
    }
}
