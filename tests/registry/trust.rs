//! TLS: a certificate authority of the test's own, and a server that it vouches for (`openssl s_server`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use croze::registry::{Anonymous, Client, RegistryConfig, RegistryError, Request};
use tempfile::TempDir;

use crate::fixture::can_run;

struct TlsServer {
    /// `localhost:PORT`.
    host: String,
    ca: PathBuf,
    child: Child,
    _directory: TempDir,
}

impl TlsServer {
    /// `None` when `openssl` is not installed.
    fn start() -> Option<TlsServer> {
        if !can_run(&["openssl"]) {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args([
                "-subj",
                "/CN=croze test",
                "-addext",
                "subjectAltName=DNS:localhost",
                "-addext",
                "basicConstraints=critical,CA:false",
            ])
            .args(["-keyout", "key.pem", "-out", "ca.pem"])
            .current_dir(directory.path())
            .stderr(Stdio::null())
            .status()
            .expect("openssl starts");
        assert!(made.success(), "openssl makes a certificate");
        fs::write(directory.path().join("hello"), "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi\n").expect("writable");
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "localhost:0", "-HTTP", "-cert", "ca.pem", "-key", "key.pem"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let accept = lines.map_while(Result::ok).find(|line| line.starts_with("ACCEPT ")).expect("it says where it listens");
        let port = accept.rsplit_once(':').expect("an address").1.to_owned();
        let ca = directory.path().join("ca.pem");
        Some(TlsServer { host: format!("localhost:{port}"), ca, child, _directory: directory })
    }

    async fn get(&self, ca: Option<PathBuf>) -> Result<Vec<u8>, RegistryError> {
        let mut config = RegistryConfig::default();
        config.hosts.entry(self.host.clone()).or_default().ca = ca.into_iter().collect();
        let client = Client::new(config, Arc::new(Anonymous));
        let response = client.transport().send(&Request::get(&format!("https://{}/hello", self.host))?).await?;
        Ok(response.bytes(100).await?.unwrap_or_default())
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.child.kill().expect("it is a child of ours");
        self.child.wait().expect("it is a child of ours");
    }
}

#[tokio::test]
async fn a_host_is_trusted_by_its_own_ca_and_not_without_it() {
    let Some(server) = TlsServer::start() else { return };
    assert_eq!(server.get(Some(server.ca.clone())).await.expect("trusted"), b"hi\n");
    let error = server.get(None).await.expect_err("nobody vouches for it");
    assert!(matches!(&error, RegistryError::Tls { reason, .. } if reason.contains("not trusted")), "{error}");
    let error = server.get(Some(server.ca.with_file_name("hello"))).await.expect_err("no certificates");
    assert!(matches!(&error, RegistryError::BadCertificates { .. }), "{error}");
}
