//! What registries ask for: Basic, or a token from the server that they name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use super::config::{Endpoint, is_loopback};
use super::credentials::{Credential, Secret};
use super::error::{CredentialsUsed, RegistryError};
use super::transport::{Payload, Request, Transport};
use crate::base64;

/// Our name at token servers.
const CLIENT_ID: &str = "croze";

/// What requests are for, as a token server is asked for it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Access {
    /// To see whether credentials are good.
    LogIn,
    /// To read a repository.
    Pull {
        /// Its path.
        repository: String,
    },
    /// To write a repository.
    Push {
        /// Its path.
        repository: String,
        /// Other repositories of the host, whose blobs may be taken over.
        mounts: Vec<String>,
    },
}

impl Access {
    /// The repository, for messages and credentials.
    pub fn repository(&self) -> &str {
        match self {
            Access::LogIn => "",
            Access::Pull { repository } | Access::Push { repository, .. } => repository,
        }
    }

    /// The scopes to ask for. A challenge to a read knows best; one to the first read of a push asks for too little.
    fn scopes(&self, challenged: Option<&str>) -> Vec<String> {
        match self {
            Access::LogIn => challenged.map(str::to_owned).into_iter().collect(),
            Access::Pull { repository } => {
                vec![challenged.map_or_else(|| format!("repository:{repository}:pull"), str::to_owned)]
            }
            Access::Push { repository, mounts } => {
                let mounts = mounts.iter().map(|repository| format!("repository:{repository}:pull"));
                std::iter::once(format!("repository:{repository}:pull,push")).chain(mounts).collect()
            }
        }
    }
}

/// `Authorization` values that were accepted, by authority and access.
#[derive(Default)]
pub(super) struct Granted {
    values: Mutex<HashMap<(String, Access), HeaderValue>>,
}

impl Granted {
    pub fn get(&self, endpoint: &Endpoint, access: &Access) -> Option<HeaderValue> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.get(&(endpoint.authority.clone(), access.clone())).cloned()
    }

    pub fn set(&self, endpoint: &Endpoint, access: &Access, value: HeaderValue) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert((endpoint.authority.clone(), access.clone()), value);
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
    access: &Access,
    headers: &HeaderMap,
    credential: Option<&Credential>,
) -> Result<Answer, RegistryError> {
    let challenges: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(challenges).collect();
    if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        return token(transport, endpoint, access, bearer, credential).await;
    }
    let basic_asked = challenges.iter().any(|challenge| challenge.scheme == "basic");
    Ok(match credential.map(|credential| (&credential.username, &credential.secret)) {
        Some((username, Secret::Password(password))) if basic_asked => Answer::Retry(basic(username, password)),
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
    let text = format!("Basic {}", base64::encode(format!("{username}:{password}").as_bytes()));
    let mut value = HeaderValue::try_from(text).expect("base64 is made of header characters");
    value.set_sensitive(true);
    value
}

/// Asks the token server that a challenge names (distribution, `docs/spec/auth/token.md`; with an identity token
/// `docs/spec/auth/oauth.md`).
async fn token(
    transport: &Transport,
    endpoint: &Endpoint,
    access: &Access,
    bearer: &Challenge,
    credential: Option<&Credential>,
) -> Result<Answer, RegistryError> {
    #[derive(Deserialize)]
    struct Grant {
        token: Option<String>,
        access_token: Option<String>,
    }
    if let Some(Credential { secret: Secret::RegistryToken(token), .. }) = credential {
        return Ok(bearer_value(token).map_or(Answer::GiveUp, Answer::Retry));
    }
    let Some(realm) = bearer.parameter("realm") else { return Ok(Answer::GiveUp) };
    let scopes = access.scopes(bearer.parameter("scope"));
    let service = bearer.parameter("service");
    let request = match credential.map(|credential| (&credential.username, &credential.secret)) {
        Some((_, Secret::IdentityToken(token))) => {
            let scope = scopes.join(" ");
            let fields = [
                ("grant_type", "refresh_token"),
                ("service", service.unwrap_or_default()),
                ("client_id", CLIENT_ID),
                ("scope", &scope),
                ("refresh_token", token),
            ];
            let form = query(fields.into_iter());
            let request = Request::get(realm)?.method(Method::POST).body(Payload::Bytes(Bytes::from(form)));
            request.header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
        }
        shown => {
            let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
            let separator = if realm.contains('?') { '&' } else { '?' };
            let query = query(scopes.chain(service.map(|service| ("service", service))));
            let request = Request::get(&format!("{realm}{separator}{query}"))?;
            match shown {
                Some((username, Secret::Password(password))) => request.header(AUTHORIZATION, basic(username, password)),
                _ => request,
            }
        }
    };
    // A registry reached over https must not talk us into showing a secret in the clear.
    let in_clear = request.url.scheme_str() == Some("http");
    let realm_host = request.url.authority().map_or("", |authority| authority.as_str());
    if credential.is_some() && in_clear && endpoint.scheme == "https" && !is_loopback(realm_host) {
        return Ok(Answer::GiveUp);
    }
    let response = transport.send(&request).await?;
    match response.status {
        StatusCode::OK => {}
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let used = used(credential);
            let name = format!("{}/{}", endpoint.host, access.repository());
            let name = name.trim_end_matches('/').to_owned();
            return Err(RegistryError::Denied { name, host: response.host(), status: status.as_u16(), used });
        }
        _ => return Err(response.into_status_error().await),
    }
    let url = response.url_for_people();
    let body = response.bytes(1 << 20).await?.unwrap_or_default();
    let grant: Option<Grant> = serde_json::from_slice(&body).ok();
    // some servers give both, one of them empty
    let words = grant.into_iter().flat_map(|grant| [grant.token, grant.access_token]);
    let word = words.flatten().find(|word| !word.is_empty()).unwrap_or_default();
    match bearer_value(&word) {
        Some(value) if !word.is_empty() => Ok(Answer::Retry(value)),
        _ => Err(RegistryError::Status { url, status: 200, message: "the token server sent no token".to_owned() }),
    }
}

/// `Bearer …`, marked as secret.
fn bearer_value(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `a=b&c=d`, escaped.
fn query<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    fields.map(|(name, value)| format!("{name}={}", query_escape(value))).collect::<Vec<_>>().join("&")
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
    fn scopes_survive_a_query() {
        assert_eq!(query_escape("repository:a/b:pull x&y"), "repository:a/b:pull%20x%26y");
    }

    #[test]
    fn a_push_asks_for_all_it_needs_at_once() {
        let push = Access::Push { repository: "a".into(), mounts: vec!["b".into()] };
        assert_eq!(push.scopes(Some("repository:a:pull")), ["repository:a:pull,push", "repository:b:pull"]);
        assert_eq!(Access::Pull { repository: "a".into() }.scopes(None), ["repository:a:pull"]);
        assert!(Access::LogIn.scopes(None).is_empty());
    }
}
