//! What an answer or a broken connection means: `Failure`s with their class (DESIGN §6). Sends nothing.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::clock::Timestamp;
use crate::failure::{Failure, Retry};

/// What kind of trouble it is, for code that resumes or falls through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection could not be made, or broke.
    Broken,
    /// An answer with a status that is no success.
    Status(StatusCode),
    /// Anything else: bytes that do not fit their digest, a cancelled call.
    Other,
}

/// A failure on its way out, with what the caller in this room must know of it.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub kind: Kind,
    /// Error codes of the registry, like `MANIFEST_UNKNOWN` (distribution-spec, "Error Codes").
    pub codes: Vec<String>,
    /// Boxed, since results carry it through every call.
    pub failure: Box<Failure>,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(super) fn other(failure: Failure) -> Self {
        Self { kind: Kind::Other, codes: Vec::new(), failure: failure.into() }
    }

    /// Infra that another attempt would meet again.
    pub(super) fn never(message: impl Into<String>) -> Self {
        Self::other(Failure::infra(message).retry(Retry::Never))
    }

    pub(super) fn broken(message: impl Into<String>) -> Self {
        Self { kind: Kind::Broken, codes: Vec::new(), failure: Failure::infra(message).into() }
    }

    pub(super) fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|own| own == code)
    }

    pub(super) fn is_status(&self, status: StatusCode) -> bool {
        self.kind == Kind::Status(status)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        *fault.failure
    }
}

/// The failure inside an error that a reader of this room gave; any other error becomes infra.
pub fn failure_of(error: std::io::Error) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::infra(error.to_string()),
    }
}

/// The failure as a reader's error; [`failure_of`] takes it out again.
pub(super) fn into_io(failure: Failure) -> std::io::Error {
    std::io::Error::other(failure)
}

/// How long `Retry-After` asks to wait: seconds, or an HTTP-date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    parse_http_date(text).map(|then| then.since(now))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may be written (RFC 9110, 5.6.7).
fn parse_http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day = words.next()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? + 1;
    let (year, time) = (words.next()?, words.next()?);
    (words.next() == Some("GMT")).then_some(())?;
    Timestamp::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Codes and a text for people from an error body; anything that is no registry's JSON says nothing.
fn explain(body: &[u8]) -> (Vec<String>, Option<String>) {
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(body) else { return (Vec::new(), None) };
    let text = parsed.errors.iter().map(|item| match (item.code.as_str(), item.message.lines().next().unwrap_or_default().trim()) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    });
    let text = text.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
    (parsed.errors.into_iter().map(|item| item.code).collect(), (!text.is_empty()).then_some(text))
}

/// The fault for an answer that is no success. `wait` is its `Retry-After`, already known not to be too long.
pub(super) fn answered(doing: &str, host: &str, status: StatusCode, body: &[u8], wait: Option<Duration>) -> Fault {
    let (codes, text) = explain(body);
    let said = text.map_or_else(String::new, |text| format!(" ({text})"));
    let failure = Failure::infra(format!("{doing}: `{host}` answered {}{said}", shown(status)));
    let transient = matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error();
    let lost_blob = codes.iter().any(|code| code == "MANIFEST_BLOB_UNKNOWN" || code == "BLOB_UPLOAD_UNKNOWN");
    let failure = match (transient || lost_blob, wait) {
        (true, Some(wait)) => failure.retry(Retry::After(wait)),
        (true, None) => failure,
        (false, _) => failure.retry(Retry::Never),
    };
    let failure = if codes.iter().any(|code| code == "NAME_UNKNOWN") {
        failure.hint("the repository does not exist; some registries want it created before the first push")
    } else {
        failure
    };
    Fault { kind: Kind::Status(status), codes, failure: failure.into() }
}

/// Like `429 Too Many Requests`.
pub(super) fn shown(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// The fault for a request that got no answer, or an answer that broke off.
pub(super) fn connection(doing: &str, host: &str, error: &(dyn Error + 'static)) -> Fault {
    let mut reason = error.to_string();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = tls_error(error) {
            return tls_fault(doing, host, tls);
        }
        reason = error.to_string();
        next = error.source();
    }
    Fault::broken(format!("{doing}: connection to `{host}` failed: {reason}"))
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    // an io::Error tells its inner error by `get_ref` only, `source` skips it
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
        tls_error(inner)
    })
}

fn tls_fault(doing: &str, host: &str, error: &rustls::Error) -> Fault {
    match error {
        rustls::Error::InvalidCertificate(_) => Fault::other(
            Failure::infra(format!("{doing}: the certificate of `{host}` is not trusted: {error}"))
                .retry(Retry::Never)
                .hint(format!("name its CA in the workspace: `registries: {{\"{host}\": (tls: Ca(\"ca.pem\"))}}`")),
        ),
        rustls::Error::InvalidMessage(_) => Fault::other(
            Failure::infra(format!("{doing}: `{host}` does not speak TLS: {error}"))
                .retry(Retry::Never)
                .hint(format!("if it is plain http, say so in the workspace: `registries: {{\"{host}\": (tls: Off)}}`")),
        ),
        _ => Fault::broken(format!("{doing}: TLS with `{host}` failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        let now = Timestamp::parse_rfc3339("1994-11-06T08:49:00Z").unwrap();
        let table = [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("soon", None),
            ("-3", None),
        ];
        for (text, seconds) in table {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn answers_have_classes() {
        let body = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"said why"}}]}}"#);
        let wait = Some(Duration::from_secs(3));
        for (status, code, wait, retry) in [
            (429, "TOOMANYREQUESTS", wait, Retry::After(Duration::from_secs(3))),
            (503, "UNAVAILABLE", None, Retry::Backoff),
            (500, "UNKNOWN", None, Retry::Backoff),
            (408, "X", None, Retry::Backoff),
            (400, "NAME_INVALID", None, Retry::Never),
            (400, "MANIFEST_INVALID", wait, Retry::Never),
            (400, "MANIFEST_BLOB_UNKNOWN", None, Retry::Backoff),
            (404, "NAME_UNKNOWN", None, Retry::Never),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let fault = answered("push `r/x`", "r", status, body(code).as_bytes(), wait);
            assert_eq!((fault.failure.class, fault.failure.retry), (FailureClass::Infra, retry), "{status} {code}");
            assert_eq!(fault.failure.message, format!("push `r/x`: `r` answered {} ({code}: said why)", shown(status)));
            assert!(fault.has_code(code) && fault.is_status(status));
        }
    }

    #[test]
    fn bodies_that_are_no_json_say_nothing() {
        let fault = answered("read `x`", "r", StatusCode::BAD_GATEWAY, b"<html>", None);
        assert_eq!(fault.failure.message, "read `x`: `r` answered 502 Bad Gateway");
    }

    #[test]
    fn failures_travel_through_readers() {
        let failure = Failure::infra("x").retry(Retry::Never);
        assert_eq!(failure_of(into_io(failure.clone())), failure);
        assert_eq!(failure_of(std::io::Error::other("boom")).message, "boom");
    }
}
