//! Opens connections, directly or through a proxy.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::url::parse_url;
use crate::registry::RegistryError;
use crate::registry::auth::basic;

/// An HTTP proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it is.
    pub uri: Uri,
    /// What it wants to see.
    pub authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`; the scheme may be left out.
    pub fn parse(text: &str) -> Result<Proxy, RegistryError> {
        let (uri, user) = if text.contains("://") { parse_url(text)? } else { parse_url(&format!("http://{text}"))? };
        if uri.scheme_str() != Some("http") {
            return Err(RegistryError::BadUrl { url: text.to_owned(), reason: "a proxy is reached over plain http".to_owned() });
        }
        Ok(Proxy { uri, authorization: user.map(|(name, password)| basic(&name, &password)) })
    }
}

/// Connects to a host: straight, by `CONNECT` (https), or to a proxy that forwards whole requests (http).
#[derive(Clone)]
pub struct Route {
    tcp: HttpConnector,
    proxy: Option<Proxy>,
}

impl Route {
    /// A connection that does not come up within `patience` is given up.
    pub fn new(proxy: Option<Proxy>, patience: Duration) -> Route {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(patience));
        Route { tcp, proxy }
    }
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let proxy = self.proxy.clone();
        Box::pin(async move {
            match proxy {
                None => Ok(Stream { io: tcp.call(destination).await?, forwarding: false }),
                Some(proxy) if destination.scheme_str() == Some("https") => {
                    let mut tunnel = Tunnel::new(proxy.uri, tcp);
                    if let Some(authorization) = proxy.authorization {
                        tunnel = tunnel.with_auth(authorization);
                    }
                    Ok(Stream { io: tunnel.call(destination).await?, forwarding: false })
                }
                Some(proxy) => Ok(Stream { io: tcp.call(proxy.uri).await?, forwarding: true }),
            }
        })
    }
}

/// A connection that knows whether requests on it must carry the whole URL.
pub struct Stream {
    io: TokioIo<TcpStream>,
    forwarding: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarding)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }
}
