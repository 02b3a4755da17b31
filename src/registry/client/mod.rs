//! The distribution protocol.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use super::auth::{self, Access, Answer, Granted};
use super::config::{Endpoint, RegistryConfig};
use super::credentials::{Credential, Credentials};
use super::error::{Broken, RegistryError, Tags};
use super::manifest::ACCEPTED;
use super::transport::{Request, Response, Transport, same_service};
use crate::digest::Digest;
use crate::reference::ImageRef;
use crate::task;

mod login;
mod pull;
mod push;

pub use pull::Fetched;
pub use push::{Pushing, Taken};

/// Talks to registries: their mirrors first, with credentials when they are asked for. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    credentials: Arc<dyn Credentials>,
    granted: Arc<Granted>,
    /// By host, as people write it.
    endpoints: Arc<Mutex<HashMap<String, Arc<[Endpoint]>>>>,
}

/// Whether a request may be sent again by itself after a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tries {
    Many,
    /// What follows a failure depends on how far it came.
    One,
}

impl Client {
    /// Connects to nobody yet.
    pub fn new(config: RegistryConfig, credentials: Arc<dyn Credentials>) -> Client {
        Client { transport: Transport::new(config), credentials, granted: Arc::default(), endpoints: Arc::default() }
    }

    /// The HTTP below, for files that are in no registry.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The same client, but for `host` any certificate will do, and plain http where there is no TLS.
    pub fn insecure(&self, host: &str) -> Client {
        let mut config = self.transport.config().clone();
        config.hosts.entry(host.to_owned()).or_default().insecure = true;
        Client::new(config, self.credentials.clone())
    }

    /// Where to ask for repositories of `host`, looked up once.
    async fn endpoints(&self, host: &str) -> Result<Arc<[Endpoint]>, RegistryError> {
        let known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        if let Some(endpoints) = known {
            return Ok(endpoints);
        }
        let (transport, wanted) = (self.transport.clone(), host.to_owned());
        let found = task::blocking(move || transport.config().endpoints(&wanted)).await?;
        for endpoint in &found {
            self.transport.set_trust(&endpoint.authority, endpoint.trust.clone());
        }
        let endpoints: Arc<[Endpoint]> = found.into();
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), endpoints.clone());
        Ok(endpoints)
    }

    /// Sends `request`, with credentials once they are asked for. Any status may come back but a final 401 or 403, which
    /// are an error about `name`.
    async fn authorized(
        &self,
        endpoint: &Endpoint,
        access: &Access,
        name: &str,
        mut request: Request,
        tries: Tries,
    ) -> Result<Response, RegistryError> {
        let send = async |request: &Request| match tries {
            Tries::Many => self.transport.send(request).await,
            Tries::One => self.transport.send_once(request).await,
        };
        // an upload may go on at another host, which has no business with our tokens
        let own: Option<Uri> = format!("{}://{}/", endpoint.scheme, endpoint.authority).parse().ok();
        let is_own = |url: &Uri| own.as_ref().is_some_and(|own| same_service(own, url));
        let is_ours = is_own(&request.url);
        if let Some(value) = self.granted.get(endpoint, access).filter(|_| is_ours) {
            request.headers.insert(AUTHORIZATION, value);
        }
        let mut response = send(&request).await?;
        let mut credential = None;
        if response.status == StatusCode::UNAUTHORIZED && is_ours && is_own(&response.url) {
            credential = self.credential(endpoint, access).await?;
            let answer = auth::answer(&self.transport, endpoint, access, &response.headers, credential.as_ref()).await?;
            if let Answer::Retry(value) = answer {
                request.headers.insert(AUTHORIZATION, value.clone());
                response = send(&request).await?;
                if !matches!(response.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.granted.set(endpoint, access, value);
                }
            }
        }
        match response.status {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let used = auth::used(credential.as_ref());
                Err(RegistryError::Denied { name: name.to_owned(), host: response.host(), status: status.as_u16(), used })
            }
            _ => Ok(response),
        }
    }

    async fn credential(&self, endpoint: &Endpoint, access: &Access) -> Result<Option<Credential>, RegistryError> {
        let (credentials, host, repository) = (self.credentials.clone(), endpoint.host.clone(), access.repository().to_owned());
        // files are read and helpers run
        Ok(task::blocking(move || credentials.find(&host, &repository)).await?)
    }
}

impl Endpoint {
    /// Whether both are one place under two schemes, of which one will do.
    fn is_guess_beside(&self, other: &Endpoint) -> bool {
        self.authority == other.authority && self.path == other.path && self.scheme != other.scheme
    }

    /// A request below the endpoint's path.
    fn request(&self, method: Method, path: &str) -> Result<Request, RegistryError> {
        let mut url = format!("{}://{}{}/{path}", self.scheme, self.authority, self.path);
        if let Some(host) = &self.mirror_of {
            let separator = if path.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}ns={host}"));
        }
        let mut request = Request::get(&url)?.method(method);
        for (name, value) in &self.headers {
            request = request.header(name.clone(), value.clone());
        }
        Ok(request)
    }
}

/// What went wrong on the endpoints asked so far: the last one decides, since mirrors come before the host itself.
#[derive(Default)]
struct Failures {
    last: Option<(Endpoint, RegistryError)>,
}

impl Failures {
    /// Whether `endpoint` should be asked: https on loopback only where plain http met something that may be TLS, plain http
    /// of an insecure host only where no TLS was met.
    fn permit(&self, endpoint: &Endpoint) -> bool {
        match &self.last {
            Some((last, error)) if last.is_guess_beside(endpoint) => match error {
                RegistryError::Status { status, .. } => last.scheme == "http" && *status == 400,
                RegistryError::Tls { .. } => last.scheme == "https",
                RegistryError::Unreachable { broken, .. } => {
                    matches!(broken, Broken::Cut(_)) || (last.scheme == "https" && *broken == Broken::Refused)
                }
                _ => false,
            },
            _ => true,
        }
    }

    fn add(&mut self, endpoint: &Endpoint, error: RegistryError) {
        // A guess that was wrong says nothing: the connection in plain http is what broke. A host that refuses plain http in
        // words (400) was guessed right, and what its TLS lacks is the reason.
        let is_wrong_guess = match (&self.last, &error) {
            (Some((last, before)), RegistryError::Tls { .. }) => {
                last.is_guess_beside(endpoint) && last.scheme == "http" && !matches!(before, RegistryError::Status { .. })
            }
            (Some((last, _)), RegistryError::Unreachable { .. }) => last.is_guess_beside(endpoint) && last.scheme == "http",
            _ => false,
        };
        if !is_wrong_guess {
            self.last = Some((endpoint.clone(), error));
        }
    }

    fn last_error(self) -> Option<RegistryError> {
        self.last.map(|(_, error)| error)
    }

    fn into_error(self, image_ref: &ImageRef) -> RegistryError {
        let nobody = || RegistryError::NotFound { name: image_ref.familiar(), host: image_ref.host.clone(), tags: Tags::Unknown };
        self.last.map_or_else(nobody, |(_, error)| error)
    }
}

fn accept_manifests() -> Vec<(HeaderName, HeaderValue)> {
    ACCEPTED.iter().map(|media_type| (ACCEPT, HeaderValue::from_static(media_type))).collect()
}

fn content_digest(response: &Response) -> Option<Digest> {
    response.header("docker-content-digest")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::config::{Serves, Trust};

    fn endpoint(scheme: &'static str, host: &str) -> Endpoint {
        Endpoint {
            scheme,
            authority: host.to_owned(),
            path: "/v2".to_owned(),
            host: host.to_owned(),
            mirror_of: None,
            trust: Trust::default(),
            headers: Vec::new(),
            serves: Serves::ALL,
        }
    }

    #[test]
    fn https_is_guessed_on_loopback_only_when_http_meets_tls() {
        let permitted = |error| {
            let mut failures = Failures::default();
            failures.add(&endpoint("http", "127.0.0.1"), error);
            failures.permit(&endpoint("https", "127.0.0.1"))
        };
        let unreachable = |broken| RegistryError::Unreachable { host: "h".into(), broken };
        assert!(permitted(RegistryError::Status { url: "u".into(), status: 400, message: String::new() }));
        assert!(permitted(unreachable(Broken::Cut("reset".into()))));
        assert!(!permitted(unreachable(Broken::Refused)));
        assert!(!permitted(RegistryError::NotFound { name: "n".into(), host: "h".into(), tags: Tags::Unknown }));
    }

    #[test]
    fn the_host_itself_has_the_last_word() {
        let mut failures = Failures::default();
        failures.add(&endpoint("https", "mirror"), RegistryError::Redirects { url: "mirror".into() });
        assert!(failures.permit(&endpoint("https", "host")));
        failures.add(&endpoint("https", "host"), RegistryError::Redirects { url: "host".into() });
        let error = failures.into_error(&"x".parse().expect("valid"));
        assert!(matches!(error, RegistryError::Redirects { url } if url == "host"));
    }
}
