//! A server that speaks as much of Azure Blob Storage, and of the cache service of GitHub Actions in front of it, as a cache
//! asks of them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use croze::base64;
use croze::digest::hmac;
use croze::registry::unescape;
use serde_json::{Value, json};

/// The account that signs its requests, and its key.
const ACCOUNT: &str = "mine";
const KEY: &[u8] = b"the key of the account";

/// What stands in the URLs that the cache service gives.
const SIGNATURE: &str = "sig=signed%2Fby+it";

/// Holds blobs by path.
pub struct Azure {
    /// `127.0.0.1:PORT`.
    pub host: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    containers: Vec<String>,
    blobs: BTreeMap<String, Vec<u8>>,
    blocks: BTreeMap<String, Vec<u8>>,
    /// Names of the cache service, and whether they are complete, in the order of their making.
    entries: Vec<(String, bool)>,
    refused: usize,
}

/// One request.
struct Asked {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Azure {
    /// On a free port of loopback.
    pub fn start() -> Azure {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let host = listener.local_addr().expect("it is bound").to_string();
        let azure = Azure { host: host.clone(), state: Arc::default() };
        let state = azure.state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (state, host) = (state.clone(), host.clone());
                // a client that went away is none of the server's business
                thread::spawn(move || drop(serve(stream, &host, &state)));
            }
        });
        azure
    }

    /// Names of all blobs.
    pub fn names(&self) -> Vec<String> {
        self.state.lock().expect("no panics").blobs.keys().cloned().collect()
    }

    /// How many requests had no right to what they asked for.
    pub fn refused(&self) -> usize {
        self.state.lock().expect("no panics").refused
    }

    /// `type=azblob` for this account.
    pub fn container(&self) -> String {
        let key = base64::encode(KEY);
        format!("type=azblob,account_url=http://{}/{ACCOUNT},account_name={ACCOUNT},secret_access_key={key}", self.host)
    }

    /// A token that is good for these branches: 1 to read, 3 to write as well.
    pub fn token(branches: &[(&str, u32)]) -> String {
        let list: Vec<Value> = branches.iter().map(|(name, rights)| json!({ "Scope": name, "Permission": rights })).collect();
        let claims = json!({ "ac": Value::from(list).to_string() }).to_string();
        format!("e30.{}.x", base64::encode(claims.as_bytes()).trim_end_matches('=').replace('+', "-").replace('/', "_"))
    }
}

fn serve(mut client: TcpStream, host: &str, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    for line in reader.by_ref().lines() {
        match line? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let mut words = head[0].split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pair = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (unescape(name), unescape(value))
    };
    let query = query.split('&').filter(|text| !text.is_empty()).map(pair).collect();
    let header = |line: &String| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let headers: BTreeMap<String, String> = head[1..].iter().filter_map(header).collect();
    let mut body = vec![0; headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let asked = Asked { method, path: path.to_owned(), query, headers, body };
    let (status, code, answer) = {
        let mut state = state.lock().expect("no panics");
        match asked.path.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") {
            Some(question) => service(&mut state, host, question, &asked),
            None => storage(&mut state, &asked),
        }
    };
    write!(client, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n", answer.len())?;
    if !code.is_empty() {
        write!(client, "x-ms-error-code: {code}\r\n")?;
    }
    write!(client, "\r\n")?;
    if asked.method == "HEAD" { Ok(()) } else { client.write_all(&answer) }
}

type Answer = (u16, &'static str, Vec<u8>);

fn storage(state: &mut State, asked: &Asked) -> Answer {
    let is_entry = asked.path.starts_with("/entries/");
    let may = match is_entry {
        true => asked.query.get("sig").map(String::as_str) == Some("signed/by+it"),
        false => asked.headers.get("authorization") == Some(&signature(asked)),
    };
    if !may || !asked.headers.contains_key("x-ms-version") {
        state.refused += 1;
        return (403, "AuthenticationFailed", Vec::new());
    }
    let container = asked.path.split('/').take(3).collect::<Vec<_>>().join("/");
    let word = |name: &str| asked.query.get(name).map(String::as_str);
    match (asked.method.as_str(), word("comp"), word("restype")) {
        ("PUT", _, Some("container")) => {
            state.containers.push(container);
            (201, "", Vec::new())
        }
        _ if !is_entry && !state.containers.contains(&container) && asked.method == "PUT" => {
            (404, "ContainerNotFound", Vec::new())
        }
        ("PUT", Some("block"), _) => {
            let id = word("blockid").unwrap_or_default();
            state.blocks.insert(format!("{}#{id}", asked.path), asked.body.clone());
            (201, "", Vec::new())
        }
        ("PUT", Some("blocklist"), _) => {
            let list = String::from_utf8_lossy(&asked.body).into_owned();
            let ids = list.split("<Latest>").skip(1).filter_map(|rest| rest.split_once("</Latest>"));
            let blocks: Option<Vec<Vec<u8>>> = ids.map(|(id, _)| state.blocks.remove(&format!("{}#{id}", asked.path))).collect();
            let Some(blocks) = blocks else { return (400, "InvalidBlockList", Vec::new()) };
            state.blobs.insert(asked.path.clone(), blocks.concat());
            (201, "", Vec::new())
        }
        ("PUT", None, None) if asked.headers.get("x-ms-blob-type").map(String::as_str) == Some("BlockBlob") => {
            state.blobs.insert(asked.path.clone(), asked.body.clone());
            (201, "", Vec::new())
        }
        ("GET" | "HEAD", None, None) => match state.blobs.get(&asked.path) {
            Some(blob) => (200, "", blob.clone()),
            None => (404, "BlobNotFound", Vec::new()),
        },
        _ => (400, "InvalidHeaderValue", Vec::new()),
    }
}

/// What Azure computes to see whether it was the account that asked ("Authorize with Shared Key").
fn signature(asked: &Asked) -> String {
    let header = |name: &str| asked.headers.get(name).cloned().unwrap_or_default();
    let length = Some(header("content-length")).filter(|length| length != "0").unwrap_or_default();
    let mut lines = vec![asked.method.clone(), header("content-encoding"), header("content-language"), length];
    lines.extend(["content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match"].map(header));
    lines.extend(["if-unmodified-since", "range"].map(header));
    let own = asked.headers.iter().filter(|(name, _)| name.starts_with("x-ms-"));
    lines.extend(own.map(|(name, value)| format!("{name}:{value}")));
    lines.push(format!("/{ACCOUNT}{}", asked.path));
    lines.extend(asked.query.iter().map(|(name, value)| format!("{name}:{value}")));
    let signed = hmac(KEY, lines.join("\n").as_bytes());
    format!("SharedKey {ACCOUNT}:{}", base64::encode(signed.as_bytes()))
}

fn service(state: &mut State, host: &str, question: &str, asked: &Asked) -> Answer {
    let is_known = asked.headers.get("authorization").is_some_and(|text| text.starts_with("Bearer e30."));
    if !is_known {
        state.refused += 1;
        return (401, "", json!({ "code": "unauthenticated", "msg": "no such token" }).to_string().into_bytes());
    }
    let words: Value = serde_json::from_slice(&asked.body).expect("JSON");
    let name = words["key"].as_str().expect("a name").to_owned();
    let url = |name: &str| format!("http://{host}/entries/{}?{SIGNATURE}", name.replace([':', '#'], "-"));
    let answer = match question {
        "CreateCacheEntry" if state.entries.iter().any(|(known, _)| *known == name) => {
            return (409, "", json!({ "code": "already_exists", "msg": "there is one" }).to_string().into_bytes());
        }
        "CreateCacheEntry" => {
            state.entries.push((name.clone(), false));
            json!({ "ok": true, "signed_upload_url": url(&name) })
        }
        "FinalizeCacheEntryUpload" => {
            let entry = state.entries.iter_mut().find(|(known, _)| *known == name);
            json!({ "ok": entry.map(|(_, complete)| *complete = true).is_some(), "entry_id": "1" })
        }
        _ => match state.entries.iter().rev().find(|(known, complete)| *complete && known.starts_with(&name)) {
            Some((known, _)) => json!({ "ok": true, "signed_download_url": url(known), "matched_key": known }),
            None => json!({ "ok": false, "signed_download_url": "", "matched_key": "" }),
        },
    };
    (200, "", answer.to_string().into_bytes())
}
