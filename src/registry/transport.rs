//! HTTP as everything here uses it: retries, redirects, proxies, TLS with the system's roots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, COOKIE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::auth::basic;
use super::config::{RegistryConfig, Trust};
use super::error::{Broken, RegistryError};
use connect::{Proxy, Route};
pub use payload::Payload;
use payload::Sending;
use url::authority_of;
pub use url::{join_url, parse_url, unescape};

mod connect;
mod failure;
mod fetch;
mod payload;
mod tls;
mod url;

/// Bytes that are read from a connection at once.
const LARGEST_READ: usize = 128 << 10;

/// A chain of redirects longer than this does not end.
const MOST_REDIRECTS: usize = 10;

/// Sends requests. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    config: RegistryConfig,
    /// One connection pool per scheme and authority, since trust differs by host.
    pools: Mutex<HashMap<String, Pool>>,
    /// By authority, what was found out about it since the start.
    trusts: Mutex<HashMap<String, Trust>>,
    roots: OnceLock<rustls::RootCertStore>,
}

type Pool = legacy::Client<HttpsConnector<Route>, Sending>;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// Any.
    pub method: Method,
    /// Absolute, without user and password.
    pub url: Uri,
    /// Headers; `Authorization` stays with the host it was written for.
    pub headers: HeaderMap,
    /// Empty for most.
    pub body: Payload,
}

/// What came back; the body is still on its way.
pub struct Response {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// What was asked in the end, after redirects.
    pub url: Uri,
    body: Incoming,
    stall: Duration,
}

impl Transport {
    /// Reads nothing yet; TLS roots are loaded when the first https URL is asked for.
    pub fn new(config: RegistryConfig) -> Transport {
        let shared = Shared { config, pools: Mutex::default(), trusts: Mutex::default(), roots: OnceLock::new() };
        Transport { shared: Arc::new(shared) }
    }

    /// How hosts are reached.
    pub fn config(&self) -> &RegistryConfig {
        &self.shared.config
    }

    /// Whom to trust at `authority` from now on, rather than those that the configuration names.
    pub(super) fn set_trust(&self, authority: &str, trust: Trust) {
        let mut trusts = self.shared.trusts.lock().unwrap_or_else(PoisonError::into_inner);
        trusts.insert(authority.to_owned(), trust);
    }

    /// Sends `request`, again after a broken connection or an answer that promises a better one later (408, 429, 5xx).
    /// Any status may come back. Refusals, unknown names and TLS errors are final at once.
    pub async fn send(&self, request: &Request) -> Result<Response, RegistryError> {
        let retry = self.shared.config.retry;
        let (mut attempt, mut silences) = (1, 0);
        loop {
            let result = self.send_once(request).await;
            silences += u32::from(matches!(&result, Err(RegistryError::Unreachable { broken: Broken::Silent { .. }, .. })));
            if attempt >= retry.attempts || silences > 1 || !deserves_retry(&result) {
                return result;
            }
            let wished = result.ok().and_then(|response| response.retry_after());
            tokio::time::sleep(wished.unwrap_or_else(|| self.pause(attempt)).min(retry.longest_pause)).await;
            attempt += 1;
        }
    }

    /// How long to wait after the attempt of this number, counted from 1.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        let retry = self.shared.config.retry;
        retry.backoff.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1))).min(retry.longest_pause)
    }

    /// As [`Transport::send`], but never twice: for what must not be done again blindly.
    pub(super) async fn send_once(&self, request: &Request) -> Result<Response, RegistryError> {
        let mut request = request.clone();
        let start = request.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.exchange(&request).await?;
            let target = match redirect_target(&response)? {
                Some(target) => target,
                None => return Ok(response),
            };
            if !same_service(&request.url, &target) {
                request.headers.remove(AUTHORIZATION);
                request.headers.remove(COOKIE);
            }
            if response.status == StatusCode::SEE_OTHER && request.method != Method::HEAD {
                request.method = Method::GET;
                request.body = Payload::default();
            }
            request.url = target;
        }
        Err(RegistryError::Redirects { url: start.to_string() })
    }

    async fn exchange(&self, request: &Request) -> Result<Response, RegistryError> {
        let (pool, proxy) = self.pool(&request.url)?;
        let (body, progress) = request.body.send();
        let mut message = hyper::Request::new(body);
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = request.url.clone();
        *message.headers_mut() = request.headers.clone();
        message.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("croze/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization)
            && request.url.scheme_str() == Some("http")
        {
            message.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let stall = self.shared.config.retry.stall;
        let mut exchange = std::pin::pin!(pool.request(message));
        let mut taken = progress.taken_bytes();
        let answer = loop {
            match tokio::time::timeout(stall, &mut exchange).await {
                Ok(Ok(answer)) => break answer,
                Ok(Err(error)) => return Err(failure::classify(&error, authority_of(&request.url))),
                // a long upload is no silence as long as it is being taken
                Err(_) if progress.taken_bytes() > taken => taken = progress.taken_bytes(),
                Err(_) => return Err(silent(&request.url, stall)),
            }
        };
        let (head, body) = answer.into_parts();
        Ok(Response { status: head.status, headers: head.headers, url: request.url.clone(), body, stall })
    }

    /// The connections to the host of `url`, and the proxy they go through.
    fn pool(&self, url: &Uri) -> Result<(Pool, Option<Proxy>), RegistryError> {
        let proxy = match self.shared.config.proxies.for_url(url) {
            Some(text) => Some(Proxy::parse(text)?),
            None => None,
        };
        let authority = authority_of(url);
        let key = format!("{}://{authority}", url.scheme_str().unwrap_or_default());
        let mut pools = self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key) {
            return Ok((pool.clone(), proxy));
        }
        let tls = match url.scheme_str() {
            Some("https") => {
                let known = self.shared.trusts.lock().unwrap_or_else(PoisonError::into_inner).get(authority).cloned();
                let trust = known.unwrap_or_else(|| self.shared.config.trust(authority));
                tls::client_config(&self.shared.roots, &trust)?
            }
            _ => tls::never()?,
        };
        let route = Route::new(proxy.clone(), self.shared.config.retry.stall);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(route);
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            // all layers of an image come at once, each with some of these in memory
            .http1_max_buf_size(LARGEST_READ)
            .build(connector);
        pools.insert(key, Pool::clone(&pool));
        Ok((pool, proxy))
    }
}

impl Request {
    /// A `GET` of `url`. User and password in it become an `Authorization` header.
    ///
    /// # Errors
    /// `RegistryError::BadUrl` for anything but an absolute http(s) URL.
    pub fn get(url: &str) -> Result<Request, RegistryError> {
        let (url, user) = parse_url(url)?;
        let request = Request { method: Method::GET, url, headers: HeaderMap::new(), body: Payload::default() };
        Ok(match user {
            Some((name, password)) => request.header(AUTHORIZATION, basic(&name, &password)),
            None => request,
        })
    }

    /// The same with another method.
    pub fn method(mut self, method: Method) -> Request {
        self.method = method;
        self
    }

    /// The same with a body.
    pub fn body(mut self, body: Payload) -> Request {
        self.body = body;
        self
    }

    /// The same with one more header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Request {
        self.headers.append(name, value);
        self
    }
}

impl Response {
    /// The next piece of the body; `None` at its end. A server that stays silent too long counts as gone.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = match tokio::time::timeout(self.stall, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(failure::classify(&error, authority_of(&self.url))),
                Err(_) => return Err(silent(&self.url, self.stall)),
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, at most `limit_bytes` of it; `None` when it is longer.
    pub async fn bytes(mut self, limit_bytes: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() as u64 + chunk.len() as u64 > limit_bytes {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// A header's value, when it is there and readable.
    pub fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What was asked, without its query: storage behind a registry puts secrets there.
    pub fn url_for_people(&self) -> String {
        let text = self.url.to_string();
        text.split('?').next().unwrap_or_default().to_owned()
    }

    /// Host with port that answered.
    pub fn host(&self) -> String {
        authority_of(&self.url).to_owned()
    }

    /// The answer as an error, with the first words of its body where they are words: a registry's error list, or plain text.
    pub async fn into_status_error(self) -> RegistryError {
        let (url, status) = (self.url_for_people(), self.status.as_u16());
        let body = self.bytes(64 << 10).await.ok().flatten().unwrap_or_default();
        RegistryError::Status { url, status, message: failure::words(&body) }
    }

    fn retry_after(&self) -> Option<Duration> {
        parse_retry_after(self.header(RETRY_AFTER)?, self.header(DATE))
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3). The date is held against the answer's own: the two clocks may differ.
fn parse_retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let second = |date: &str| jiff::fmt::rfc2822::parse(date).ok().map(|time| time.timestamp().as_second());
    let seconds = second(text)?.checked_sub(second(date?.trim())?)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn deserves_retry(result: &Result<Response, RegistryError>) -> bool {
    match result {
        Ok(response) => matches!(response.status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
        Err(RegistryError::Unreachable { broken, .. }) => matches!(broken, Broken::Cut(_) | Broken::Silent { .. }),
        Err(_) => false,
    }
}

fn redirect_target(response: &Response) -> Result<Option<Uri>, RegistryError> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    match response.header(LOCATION) {
        Some(location) => Ok(Some(parse_url(&join_url(&response.url, location))?.0)),
        None => Ok(None),
    }
}

/// Whether a secret meant for `from` may be shown to `to`: the same host and port, or its upgrade to https.
pub(super) fn same_service(from: &Uri, to: &Uri) -> bool {
    let port = |url: &Uri| url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    let upgrade = (from.scheme_str(), to.scheme_str()) == (Some("http"), Some("https")) && (port(from), port(to)) == (80, 443);
    from.host() == to.host() && ((from.scheme() == to.scheme() && port(from) == port(to)) || upgrade)
}

fn silent(url: &Uri, stall: Duration) -> RegistryError {
    RegistryError::Unreachable { host: authority_of(url).to_owned(), broken: Broken::Silent { stall_secs: stall.as_secs() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn keeps_secrets(from: &str, to: &str, expected: bool) {
        assert_eq!(same_service(&from.parse().expect(from), &to.parse().expect(to)), expected, "{from} → {to}");
    }

    #[test]
    fn secrets_stay_with_their_host() {
        keeps_secrets("https://a/x", "https://a/y", true);
        keeps_secrets("https://a/x", "https://a:443/y", true);
        keeps_secrets("http://a/x", "https://a/y", true);
        keeps_secrets("https://a/x", "http://a/y", false);
        keeps_secrets("https://a/x", "https://b/x", false);
        keeps_secrets("http://a:1/x", "http://a:2/x", false);
        keeps_secrets("http://a:1/x", "https://a/x", false);
    }

    #[test]
    fn a_wish_for_a_pause_is_a_number_or_a_date() {
        let now = Some("Sun, 06 Nov 1994 08:49:30 GMT");
        let seconds = |text, date| parse_retry_after(text, date).map(|pause| pause.as_secs());
        assert_eq!(seconds(" 3", now), Some(3));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(7));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(0), "it has passed");
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT", None), None);
        assert_eq!(seconds("soon", now), None);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let mut config = RegistryConfig::default();
        config.retry.backoff = Duration::from_secs(1);
        config.retry.longest_pause = Duration::from_secs(5);
        let transport = Transport::new(config);
        assert_eq!([1, 2, 3, 4, 200].map(|attempt| transport.pause(attempt).as_secs()), [1, 2, 4, 5, 5]);
    }
}
