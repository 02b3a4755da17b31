//! Credentials, and what registries ask for: Basic, or a token from the server that they name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::config::{Endpoint, is_loopback};
use super::error::{CredentialsUsed, RegistryError};
use super::transport::{Request, Transport};

/// Where credentials come from; asked when a registry wants some.
pub trait Credentials: Send + Sync {
    /// Those for `host`, which is written as people write it (`docker.io`, `registry.example.com:5000`).
    fn for_host(&self, host: &str) -> Option<Credential>;
}

/// A user and what proves it.
#[derive(Clone)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// Password or access token.
    pub password: String,
    /// Where it was found, for messages: `~/.docker/config.json`.
    pub origin: String,
}

/// Has no credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn for_host(&self, _host: &str) -> Option<Credential> {
        None
    }
}

/// `Authorization` values that were accepted, by authority and repository.
#[derive(Default)]
pub(super) struct Granted {
    values: Mutex<HashMap<(String, String), HeaderValue>>,
}

impl Granted {
    pub fn get(&self, endpoint: &Endpoint, repository: &str) -> Option<HeaderValue> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.get(&(endpoint.authority.clone(), repository.to_owned())).cloned()
    }

    pub fn set(&self, endpoint: &Endpoint, repository: &str, value: HeaderValue) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert((endpoint.authority.clone(), repository.to_owned()), value);
    }
}

/// What a 401 means for us.
pub(super) enum Answer {
    /// Send the request again with this `Authorization`.
    Retry(HeaderValue),
    /// There is nothing better to show.
    GiveUp,
}

/// Answers the challenge in the `headers` of a 401: asks the token server, or shows the password itself.
pub(super) async fn answer(
    transport: &Transport,
    endpoint: &Endpoint,
    repository: &str,
    headers: &HeaderMap,
    credential: Option<&Credential>,
) -> Result<Answer, RegistryError> {
    let challenges: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(challenges).collect();
    if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        return token(transport, endpoint, repository, bearer, credential).await;
    }
    let basic_asked = challenges.iter().any(|challenge| challenge.scheme == "basic");
    Ok(match credential {
        Some(credential) if basic_asked => Answer::Retry(basic(&credential.username, &credential.password)),
        _ => Answer::GiveUp,
    })
}

/// Which credentials a request carried.
pub(super) fn used(credential: Option<&Credential>) -> CredentialsUsed {
    match credential {
        Some(credential) => CredentialsUsed::User { name: credential.username.clone(), origin: credential.origin.clone() },
        None => CredentialsUsed::None,
    }
}

/// The `Authorization` value `Basic …` (RFC 7617), marked as secret.
pub fn basic(username: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", base64(format!("{username}:{password}").as_bytes()));
    let mut value = HeaderValue::try_from(text).expect("base64 is made of header characters");
    value.set_sensitive(true);
    value
}

async fn token(
    transport: &Transport,
    endpoint: &Endpoint,
    repository: &str,
    bearer: &Challenge,
    credential: Option<&Credential>,
) -> Result<Answer, RegistryError> {
    #[derive(Deserialize)]
    struct Grant {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let Some(realm) = bearer.parameter("realm") else { return Ok(Answer::GiveUp) };
    let scope = bearer.parameter("scope").map_or_else(|| format!("repository:{repository}:pull"), str::to_owned);
    let mut query = format!("scope={}", query_escape(&scope));
    if let Some(service) = bearer.parameter("service") {
        query.push_str(&format!("&service={}", query_escape(service)));
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    let mut request = Request::get(&format!("{realm}{separator}{query}"))?;
    if let Some(credential) = credential {
        // A registry reached over https must not talk us into showing a password in the clear.
        let in_clear = request.url.scheme_str() == Some("http");
        let realm_host = request.url.authority().map_or("", |authority| authority.as_str());
        if in_clear && endpoint.scheme == "https" && !is_loopback(realm_host) {
            return Ok(Answer::GiveUp);
        }
        request = request.header(AUTHORIZATION, basic(&credential.username, &credential.password));
    }
    let response = transport.send(&request).await?;
    match response.status {
        StatusCode::OK => {}
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let used = used(credential);
            let name = format!("{}/{repository}", endpoint.host);
            return Err(RegistryError::Denied { name, host: response.host(), status: status.as_u16(), used });
        }
        _ => return Err(response.into_status_error().await),
    }
    let url = response.url.to_string();
    let body = response.bytes(1 << 20).await?.unwrap_or_default();
    let grant: Option<Grant> = serde_json::from_slice(&body).ok();
    let word = grant.map(|grant| if grant.token.is_empty() { grant.access_token } else { grant.token }).unwrap_or_default();
    match HeaderValue::try_from(format!("Bearer {word}")) {
        Ok(mut value) if !word.is_empty() => {
            value.set_sensitive(true);
            Ok(Answer::Retry(value))
        }
        _ => Err(RegistryError::Status { url, status: 200, message: "the token server sent no token".to_owned() }),
    }
}

/// One way to authenticate, from a `WWW-Authenticate` header (RFC 9110, 11.6.1).
#[derive(PartialEq, Eq, Debug)]
struct Challenge {
    /// Lower case.
    scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of one header value. A word without `=` begins a new one.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        match after.trim_start().strip_prefix('=') {
            Some(after) => {
                let (value, after) = parameter_value(after.trim_start());
                if let Some(challenge) = found.last_mut() {
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found
}

/// A quoted or plain value, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (index, character) in quoted.char_indices() {
        match character {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &quoted[index + 1..]),
            other => {
                value.push(other);
                escaped = false;
            }
        }
    }
    (value, "")
}

fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/' | b':' | b',') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Standard alphabet, padded (RFC 4648, 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let sextet = (bits >> (18 - 6 * position)) & 63;
            out.push(if position <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: &[(&str, &[(&str, &str)])]) {
        let found = challenges(header);
        let found: Vec<(&str, Vec<(&str, &str)>)> = found
            .iter()
            .map(|challenge| {
                let parameters = challenge.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                (challenge.scheme.as_str(), parameters)
            })
            .collect();
        let expected: Vec<(&str, Vec<(&str, &str)>)> = expected.iter().map(|(scheme, list)| (*scheme, list.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn challenges_are_read() {
        check(
            r#"Bearer realm="https://auth/token",service="r",scope="repository:a/b:pull,push""#,
            &[("bearer", &[("realm", "https://auth/token"), ("service", "r"), ("scope", "repository:a/b:pull,push")])],
        );
        check(
            r#"Basic realm="a \"b\"", Bearer realm=x , service=y"#,
            &[("basic", &[("realm", "a \"b\"")]), ("bearer", &[("realm", "x"), ("service", "y")])],
        );
        check("Negotiate", &[("negotiate", &[])]);
        check(r#"Basic realm="open"#, &[("basic", &[("realm", "open")])]);
        check(", =x", &[]);
        check("", &[]);
    }

    #[test]
    fn base64_pads() {
        assert_eq!(["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn scopes_survive_a_query() {
        assert_eq!(query_escape("repository:a/b:pull x&y"), "repository:a/b:pull%20x%26y");
    }
}
