//! Challenges, scopes, tokens and breakers: what a host demanded and what is in hand for it. Sends nothing; `transport`
//! fetches tokens (distribution's "Token Authentication Specification", RFC 9110 section 11).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::credentials::Credential;
use crate::failure::{Failure, Retry};

/// What a token must allow, as the token service spells it; several words for a mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    words: Vec<String>,
    repository: String,
    push: bool,
}

impl Scope {
    pub(super) fn pull(repository: &str) -> Self {
        Self { words: vec![format!("repository:{repository}:pull")], repository: repository.to_owned(), push: false }
    }

    pub(super) fn push(repository: &str) -> Self {
        Self { words: vec![format!("repository:{repository}:pull,push")], repository: repository.to_owned(), push: true }
    }

    /// Push to `repository`, pull from `source`: what a mount needs.
    pub(super) fn mount(repository: &str, source: &str) -> Self {
        let mut scope = Self::push(repository);
        scope.words.push(format!("repository:{source}:pull"));
        scope
    }

    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn is_push(&self) -> bool {
        self.push
    }
}

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The first challenge of `WWW-Authenticate` values that can be met; Bearer before Basic.
pub(super) fn parse_challenges<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for (scheme, parameters) in values.into_iter().flat_map(split_challenges) {
        let parameter = |name: &str| parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        if scheme == "bearer" {
            if let Some(realm) = parameter("realm") {
                return Some(Challenge::Bearer { realm, service: parameter("service") });
            }
        } else if scheme == "basic" {
            found = Some(Challenge::Basic);
        }
    }
    found
}

type Parameters = Vec<(String, String)>;

/// Splits `Scheme a="b", c=d, Other` into schemes (lower case) and their parameters.
fn split_challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return challenges;
        }
        let word = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            challenges.push((word, Vec::new()));
            continue;
        };
        let (value, after) = take_value(value.trim_start());
        rest = after;
        if let Some((_, parameters)) = challenges.last_mut() {
            parameters.push((word, value));
        }
    }
}

/// A token or quoted string at the start of `text`, and what follows.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// A bearer token in hand.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub header: HeaderValue,
    /// On the monotonic clock.
    pub expires: Duration,
}

/// The answer of a token service.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenAnswer {
    /// The token, counted from `now`. It is dropped ten seconds early, so that none expires on its way.
    pub(super) fn into_token(self, now: Duration) -> Option<Token> {
        let text = self.token.or(self.access_token).filter(|text| !text.is_empty())?;
        // the specification: without `expires_in` it is 60 seconds, and never less
        let lifetime = Duration::from_secs(self.expires_in.unwrap_or(60).max(60)) - Duration::from_secs(10);
        Some(Token { header: secret_header(&format!("Bearer {text}"))?, expires: now + lifetime })
    }
}

/// `Basic …` for user and password.
pub(super) fn basic_header(username: &str, password: &str) -> Option<HeaderValue> {
    secret_header(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))))
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One scope's token; the lock is held while it is fetched, so that a hundred requests fetch one.
pub(super) type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

#[derive(Default)]
struct HostState {
    challenge: Option<Challenge>,
    /// `Some(None)`: asked, there is none.
    credential: Option<Option<Credential>>,
    slots: HashMap<Scope, Slot>,
    refused: HashMap<(String, bool), Failure>,
}

/// What is known of each host.
#[derive(Default)]
pub(super) struct Authority {
    hosts: Mutex<HashMap<String, HostState>>,
}

impl Authority {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, HostState>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, host: &str, act: impl FnOnce(&mut HostState) -> T) -> T {
        let mut hosts = self.lock();
        if let Some(state) = hosts.get_mut(host) {
            return act(state);
        }
        act(hosts.entry(host.to_owned()).or_default())
    }

    pub(super) fn challenge(&self, host: &str) -> Option<Challenge> {
        self.with(host, |state| state.challenge.clone())
    }

    pub(super) fn set_challenge(&self, host: &str, challenge: Challenge) {
        self.with(host, |state| state.challenge = Some(challenge));
    }

    pub(super) fn credential(&self, host: &str) -> Option<Option<Credential>> {
        self.with(host, |state| state.credential.clone())
    }

    pub(super) fn set_credential(&self, host: &str, credential: Option<Credential>) {
        self.with(host, |state| state.credential = Some(credential));
    }

    /// The slot of `scope`.
    pub(super) fn slot(&self, host: &str, scope: &Scope) -> Slot {
        self.with(host, |state| state.slots.entry(scope.clone()).or_default().clone())
    }

    /// For a pull: the token for pushing to the same repository, if one is in hand; it allows more than enough.
    pub(super) fn pushing(&self, host: &str, scope: &Scope, now: Duration) -> Option<HeaderValue> {
        if scope.push {
            return None;
        }
        let slot = self.with(host, |state| state.slots.get(&Scope::push(&scope.repository)).cloned())?;
        let token = slot.try_lock().ok()?.clone()?;
        (token.expires > now).then_some(token.header)
    }

    /// The failure that tripped this repository, for what `scope` wants. Where pulling is refused, so is pushing.
    pub(super) fn tripped(&self, host: &str, scope: &Scope) -> Option<Failure> {
        self.with(host, |state| {
            let own = state.refused.get(&(scope.repository.clone(), false));
            own.or_else(|| scope.push.then(|| state.refused.get(&(scope.repository.clone(), true))).flatten()).cloned()
        })
    }

    /// Trips the breaker of a repository: its calls fail at once from now on.
    pub(super) fn trip(&self, host: &str, scope: &Scope, failure: Failure) {
        self.with(host, |state| state.refused.insert((scope.repository.clone(), scope.push), failure));
    }
}

/// The one failure of a repository whose account was refused, however many calls meet it.
pub(super) fn refused(host: &str, scope: &Scope, doing: &str, said: &str, account: Option<&Credential>) -> Failure {
    let (repository, verb) = (scope.repository(), if scope.is_push() { "push to" } else { "pull from" });
    let who = match account {
        Some(Credential::Basic { username, .. }) => format!("user `{username}`"),
        Some(Credential::IdentityToken(_)) => "the account logged in".to_owned(),
        None => "without an account one".to_owned(),
    };
    let hint = match account {
        Some(_) => format!("check that the account may {verb} `{repository}`, or log in anew: `docker login {host}`"),
        None => format!("`docker login {host}`"),
    };
    Failure::infra(format!("{doing}: {who} may not {verb} `{host}/{repository}`: {said}"))
        .retry(Retry::Never)
        .hint(hint)
        .group(format!("credentials {host}/{repository}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let bearer =
            |realm: &str, service: Option<&str>| Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) });
        for (values, expected) in [
            (
                vec![r#"Bearer realm="https://auth/token",service="reg",scope="repository:a/b:pull,push""#],
                bearer("https://auth/token", Some("reg")),
            ),
            (vec![r#"bearer realm=https://auth/token"#], bearer("https://auth/token", None)),
            (vec![r#"Basic realm="x, y", Bearer realm="t",service="a\"b""#], bearer("t", Some("a\"b"))),
            (vec!["Negotiate", r#"Basic realm="Registry Realm""#], Some(Challenge::Basic)),
            (vec!["Basic"], Some(Challenge::Basic)),
            (vec!["Negotiate abc=="], None),
            (vec![r#"Bearer service="x""#], None),
            (vec![""], None),
        ] {
            assert_eq!(parse_challenges(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_refused_pull_refuses_pushes_and_not_the_other_way_round() {
        let authority = Authority::default();
        let failure = Failure::infra("x");
        authority.trip("h", &Scope::push("a"), failure.clone());
        assert_eq!(authority.tripped("h", &Scope::push("a")), Some(failure.clone()));
        assert_eq!(authority.tripped("h", &Scope::pull("a")), None);
        assert_eq!(authority.tripped("h", &Scope::push("b")), None);
        authority.trip("h", &Scope::pull("b"), failure.clone());
        assert_eq!(authority.tripped("h", &Scope::push("b")), Some(failure));
    }

    #[test]
    fn tokens_live_at_least_a_minute() {
        let answer: TokenAnswer = serde_json::from_str(r#"{"access_token": "t", "expires_in": 5}"#).unwrap();
        let token = answer.into_token(Duration::from_secs(100)).unwrap();
        assert_eq!((token.header.to_str().unwrap(), token.expires), ("Bearer t", Duration::from_secs(150)));
        assert!(serde_json::from_str::<TokenAnswer>("{}").unwrap().into_token(Duration::ZERO).is_none());
    }
}
