//! Accounts for registries, from the Docker config and its helpers. Knows no token and no request.

use std::fmt;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};

/// An account. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password (or access token).
    Basic { username: String, password: String },
    /// An OAuth2 refresh token, which only a token service takes.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

/// Where accounts come from. May start helper programs, so the client keeps an answer until a registry refuses it.
pub trait Credentials: Send + Sync {
    /// The account for `host` (like `docker.io` or `reg.corp:5000`), `None` to go without.
    ///
    /// # Errors
    /// Where the configuration or a helper is broken: one line for people.
    fn for_host(&self, host: &str) -> Result<Option<Credential>, String>;
}

/// No accounts: everything is asked anonymously.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn for_host(&self, _: &str) -> Result<Option<Credential>, String> {
        Ok(None)
    }
}

/// The `config.json` of a Docker config folder: `auths`, `credHelpers`, `credsStore`, identity tokens.
#[derive(Clone, Debug)]
pub struct DockerConfigCredentials {
    file: PathBuf,
}

impl DockerConfigCredentials {
    /// Reads `folder/config.json` at each question; a missing file means no accounts.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { file: folder.into().join("config.json") }
    }
}

const HUB_SERVER: &str = "https://index.docker.io/v1/";

impl Credentials for DockerConfigCredentials {
    fn for_host(&self, host: &str) -> Result<Option<Credential>, String> {
        let text = match std::fs::read(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read `{}`: {error}", self.file.display())),
        };
        let server = if host == "docker.io" { HUB_SERVER } else { host };
        match docker_credential::get_credential_from_reader(text.as_slice(), server) {
            Ok(DockerCredential::UsernamePassword(username, password)) => Ok(Some(Credential::Basic { username, password })),
            Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
            Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => Ok(None),
            // every helper says this, each in its own words, when it simply has no entry; anonymous access may do
            Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. }) if no_entry(&stdout) || no_entry(&stderr) => Ok(None),
            Err(CredentialRetrievalError::HelperFailure { helper, stdout, stderr }) => {
                let said = [stderr.trim(), stdout.trim()].into_iter().find(|text| !text.is_empty()).unwrap_or("nothing");
                Err(format!("`{helper}` failed for `{host}`: {}", said.lines().next().unwrap_or(said)))
            }
            Err(CredentialRetrievalError::HelperCommunicationError) => {
                Err(format!("the credential helper for `{host}` in `{}` cannot be run", self.file.display()))
            }
            Err(CredentialRetrievalError::MalformedHelperResponse) => {
                Err(format!("the credential helper for `{host}` in `{}` answers no JSON with Username and Secret", self.file.display()))
            }
            Err(error) => Err(format!("`{}` for `{host}`: {}", self.file.display(), lower_first(&error.to_string()))),
        }
    }
}

fn no_entry(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("credentials not found") || said.contains("no credentials")
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_docker_config() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = DockerConfigCredentials::new(folder.path());
        assert_eq!(credentials.for_host("reg.corp"), Ok(None));
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
            "reg.corp:5000": {"auth": "dXNlcjpwYTpzcw=="},
            "https://other.corp": {"identitytoken": "refresh"},
            "broken.corp": {"auth": "!!"}
        }, "credHelpers": {"helped.corp": "igraph-test-no-such-helper"}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let basic = |username: &str, password: &str| Ok(Some(Credential::Basic { username: username.into(), password: password.into() }));
        assert_eq!(credentials.for_host("docker.io"), basic("hub", "secret"));
        assert_eq!(credentials.for_host("reg.corp:5000"), basic("user", "pa:ss"));
        assert_eq!(credentials.for_host("other.corp"), Ok(Some(Credential::IdentityToken("refresh".into()))));
        assert_eq!(credentials.for_host("nobody.corp"), Ok(None));
        assert!(credentials.for_host("broken.corp").unwrap_err().contains("unable to decode"));
        assert!(credentials.for_host("helped.corp").unwrap_err().contains("cannot be run"));
    }

    #[test]
    fn debug_hides_the_secret() {
        let credential = Credential::Basic { username: "user".into(), password: "secret".into() };
        assert_eq!(format!("{credential:?}"), "Basic(user)");
    }
}
