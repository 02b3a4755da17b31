//! A server that speaks as much of S3 as a cache asks of it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Answers whoever asks, with 200 once a blob has come.
pub const ARRIVED: &str = "/arrived";

/// Holds objects by path, for those who sign as `id`.
pub struct Bucket {
    /// `127.0.0.1:PORT`.
    pub host: String,
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// Bytes of all answers.
    sent: Arc<Mutex<u64>>,
}

impl Bucket {
    /// On a free port of loopback.
    pub fn start() -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let host = listener.local_addr().expect("it is bound").to_string();
        let bucket = Bucket { host, objects: Arc::default(), sent: Arc::default() };
        let (objects, sent) = (bucket.objects.clone(), bucket.sent.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (objects, sent) = (objects.clone(), sent.clone());
                // a client that went away is none of the server's business
                thread::spawn(move || drop(serve(stream, &objects, &sent)));
            }
        });
        bucket
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        self.objects.lock().expect("no panics").keys().cloned().collect()
    }

    /// Bytes of the bodies that were sent so far.
    pub fn sent_bytes(&self) -> u64 {
        *self.sent.lock().expect("no panics")
    }
}

fn serve(mut client: TcpStream, objects: &Mutex<BTreeMap<String, Vec<u8>>>, sent: &Mutex<u64>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    for line in reader.by_ref().lines() {
        match line? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let header =
        |name: &str| head.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(|rest| rest.trim().to_owned()));
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
    let mut body = vec![0; header("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let is_signed = header("authorization:").is_some_and(|text| text.starts_with("aws4-hmac-sha256 credential=id/"));
    let (path, query) = path.split_once('?').map_or((path.clone(), String::new()), |(path, query)| (path.into(), query.into()));
    let mut tag = "";
    let mut objects = objects.lock().expect("no panics");
    let parts = |objects: &BTreeMap<String, Vec<u8>>| -> Vec<String> {
        objects.keys().filter(|name| name.starts_with(&format!("{path}#"))).cloned().collect()
    };
    let (status, answer) = match (method, objects.get(&path)) {
        // whoever asks may know whether any blob has come
        ("GET", _) if path == ARRIVED => match objects.keys().any(|name| name.contains("/blobs/")) {
            true => ("200 OK", Vec::new()),
            false => ("404 Not Found", Vec::new()),
        },
        _ if !is_signed => ("403 Forbidden", Vec::new()),
        ("POST", _) if query == "uploads=" => ("200 OK", b"<R><UploadId>an id</UploadId></R>".to_vec()),
        ("POST", _) if query == "uploadId=an%20id" => {
            let parts = parts(&objects);
            let listed = String::from_utf8_lossy(&body).matches("<ETag>").count();
            let whole: Vec<u8> = parts.iter().filter_map(|part| objects.remove(part)).flatten().collect();
            objects.insert(path, whole);
            // so that a test sees how many there were
            objects.insert(format!("parts/{}", listed.min(parts.len())), Vec::new());
            ("200 OK", b"<R/>".to_vec())
        }
        ("PUT", _) if query.starts_with("partNumber=") && query.ends_with("&uploadId=an%20id") => {
            let number = query.trim_start_matches("partNumber=").split('&').next().and_then(|text| text.parse::<u32>().ok());
            objects.insert(format!("{path}#{:05}", number.unwrap_or_default()), body);
            tag = "ETag: \"tag\"\r\n";
            ("200 OK", Vec::new())
        }
        ("PUT", _) => {
            objects.insert(path, body);
            ("200 OK", Vec::new())
        }
        (_, Some(object)) => ("200 OK", object.clone()),
        _ => ("404 Not Found", Vec::new()),
    };
    write!(client, "HTTP/1.1 {status}\r\n{tag}Content-Length: {}\r\nConnection: close\r\n\r\n", answer.len())?;
    if method == "GET" {
        *sent.lock().expect("no panics") += answer.len() as u64;
    }
    if method == "HEAD" { Ok(()) } else { client.write_all(&answer) }
}
