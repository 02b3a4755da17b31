//! Stands in front of a registry and spoils chosen answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is done to one request. Requests that are not spoiled pass.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer ends after so many bytes of its body.
    CutBodyAfter(usize),
    /// The connection closes without an answer.
    CutHead,
    /// One bit of this byte of the body is wrong.
    FlipBodyByte(usize),
    /// Another answer, such as `429 Too Many Requests`.
    Status(&'static str),
    /// A success with this `Content-Type` and body.
    Answer(&'static str, &'static str),
    /// No answer, on a connection that stays.
    Hang,
    /// 401 unless the token of `/token` is shown.
    NeedToken,
    /// 401 whatever is shown: a token is good no longer.
    Expired,
    /// 401 unless `me` and `secret` are shown.
    NeedBasic,
    /// 307 to the same path on another host.
    RedirectTo(String),
    /// 302 to the same path on this host, in a `Location` without a host; what follows meets the next fault.
    RedirectHere,
    /// The answer's head becomes another one. The body ends where the connection does.
    Head(fn(&str) -> String),
    /// The body comes in chunks, without a word on its size.
    Chunked,
    /// The request's `Range` does not arrive.
    WholeAlways,
    /// Nothing is done.
    Nothing,
}

/// A running proxy, one thread per connection, one request per connection.
pub struct Proxy {
    /// `127.0.0.1:PORT`.
    pub host: String,
    log: Arc<Mutex<Vec<Request>>>,
}

#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether the faults counted it.
    counted: bool,
}

struct Plan {
    upstream: String,
    host: String,
    /// Requests whose path contains this meet the faults, one each, in order.
    spoiled: String,
    faults: Mutex<std::vec::IntoIter<Fault>>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Proxy {
    /// Forwards to `upstream`.
    pub fn start(upstream: &str, spoiled: &str, faults: Vec<Fault>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let host = listener.local_addr().expect("it is bound").to_string();
        let log = Arc::new(Mutex::default());
        let plan = Arc::new(Plan {
            upstream: upstream.to_owned(),
            host: host.clone(),
            spoiled: spoiled.to_owned(),
            faults: Mutex::new(faults.into_iter()),
            log: Arc::clone(&log),
        });
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let plan = Arc::clone(&plan);
                // a client that went away is none of the proxy's business
                thread::spawn(move || drop(plan.serve(stream)));
            }
        });
        Proxy { host, log }
    }

    /// The values of a header in the requests that met the faults, in order.
    pub fn headers(&self, name: &str) -> Vec<Option<String>> {
        let log = self.log.lock().expect("no panics");
        log.iter().filter(|request| request.counted).map(|request| request.header(name).map(str::to_owned)).collect()
    }

    /// The first lines of all requests that contain `part`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        let log = self.log.lock().expect("no panics");
        log.iter().map(|request| request.line.clone()).filter(|line| line.contains(part)).collect()
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn read(reader: &mut impl BufRead) -> std::io::Result<Request> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut headers = Vec::new();
        loop {
            let mut text = String::new();
            reader.read_line(&mut text)?;
            match text.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => break,
            }
        }
        let mut request = Request { line: line.trim_end().to_owned(), headers, body: Vec::new(), counted: false };
        // read even if nobody wants it: a connection that closes before is reset
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        reader.take(length).read_to_end(&mut request.body)?;
        Ok(request)
    }
}

impl Plan {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut request = Request::read(&mut BufReader::new(client.try_clone()?))?;
        let path = request.line.split(' ').nth(1).unwrap_or_default().to_owned();
        request.counted = path.contains(&self.spoiled);
        self.log.lock().expect("no panics").push(request.clone());
        let say = |mut client: TcpStream, status: &str, headers: &str, body: &str| {
            let length = body.len();
            write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
        };
        if path.starts_with("/token?") {
            return say(client, "200 OK", "", r#"{"token":"t0ken"}"#);
        }
        let fault = if request.counted { self.faults.lock().expect("no panics").next() } else { None };
        let shown = request.header("authorization");
        match fault {
            Some(Fault::CutHead) => return Ok(()),
            Some(Fault::Hang) => {
                // until the client has had enough
                let _end = client.read(&mut [0; 64])?;
                return Ok(());
            }
            Some(Fault::Answer(kind, body)) => return say(client, "200 OK", &format!("Content-Type: {kind}\r\n"), body),
            Some(Fault::Status(status)) => return say(client, status, "Retry-After: 0\r\n", ""),
            Some(Fault::NeedToken) if shown == Some("Bearer t0ken") => {}
            Some(Fault::NeedToken | Fault::Expired) => {
                let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"fault\"\r\n", self.host);
                return say(client, "401 Unauthorized", &challenge, "");
            }
            Some(Fault::NeedBasic) if shown != Some("Basic bWU6c2VjcmV0") => {
                return say(client, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"fault\"\r\n", "");
            }
            Some(Fault::RedirectHere) => {
                return say(client, "302 Found", &format!("Location: {path}?moved=true\r\n"), "");
            }
            Some(Fault::RedirectTo(host)) => {
                return say(client, "307 Temporary Redirect", &format!("Location: http://{host}{path}\r\n"), "");
            }
            _ => {}
        }
        let mut upstream = TcpStream::connect(&self.upstream)?;
        // with the `Host` that was asked, so that uploads come back here
        write!(upstream, "{}\r\nConnection: close\r\n", request.line)?;
        for (name, value) in &request.headers {
            let is_dropped = name == "range" && matches!(fault, Some(Fault::WholeAlways));
            if !is_dropped && !matches!(name.as_str(), "connection" | "authorization") {
                write!(upstream, "{name}: {value}\r\n")?;
            }
        }
        upstream.write_all(b"\r\n")?;
        upstream.write_all(&request.body)?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
        match fault {
            Some(Fault::CutBodyAfter(bytes)) => answer.truncate(body + bytes),
            Some(Fault::FlipBodyByte(index)) => answer[body + index] ^= 1,
            Some(Fault::Head(change)) => {
                let head = change(&String::from_utf8_lossy(&answer[..body]));
                answer.splice(..body, head.into_bytes());
            }
            Some(Fault::Chunked) => {
                let lines = String::from_utf8_lossy(&answer[..body]).into_owned();
                let kept =
                    lines.lines().filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("content-length"));
                let mut chunked = kept.map(|line| format!("{line}\r\n")).collect::<String>().into_bytes();
                chunked.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in answer[body..].chunks(1000) {
                    chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    chunked.extend_from_slice(chunk);
                    chunked.extend_from_slice(b"\r\n");
                }
                chunked.extend_from_slice(b"0\r\n\r\n");
                answer = chunked;
            }
            _ => {}
        }
        client.write_all(&answer)
    }
}
