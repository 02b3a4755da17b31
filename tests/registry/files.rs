//! A web server with one small file under several paths.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Serves `hello.txt` plainly, behind a redirect (`moved/`), behind a token (`secret/`), and once cut short (`cut-once/`).
pub struct FileServer {
    host: String,
    answers: Arc<Mutex<Vec<String>>>,
}

const BODY: &str = "hello\n";

impl FileServer {
    /// On a free port of loopback.
    pub fn start() -> FileServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let host = listener.local_addr().expect("it is bound").to_string();
        let answers = Arc::new(Mutex::default());
        let log = Arc::clone(&answers);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // a client that went away is none of the server's business
                let _ = serve(stream, &log);
            }
        });
        FileServer { host, answers }
    }

    /// The URL of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    /// The statuses sent so far.
    pub fn answers(&self) -> Vec<String> {
        self.answers.lock().expect("no panics").clone()
    }
}

fn serve(mut client: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let lines = BufReader::new(client.try_clone()?).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let head: Vec<String> = lines.map(|line| line.to_ascii_lowercase()).collect();
    let path = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
    let has = |start: &str| head.iter().any(|line| line.starts_with(start));
    let asked = log.lock().expect("no panics").len();
    let (status, header, body) = match path.split('?').next().unwrap_or_default() {
        "/moved/hello.txt" => ("302 Found", "Location: /hello.txt\r\n", ""),
        "/secret/hello.txt" if !has("authorization: bearer t0ken") => ("401 Unauthorized", "", ""),
        "/hello.txt" if has("if-none-match: \"one\"") => ("304 Not Modified", "", ""),
        "/hello.txt" | "/secret/hello.txt" => {
            ("200 OK", "ETag: \"one\"\r\nLast-Modified: Thu, 02 Jan 2020 03:04:05 GMT\r\n", BODY)
        }
        "/cut-once/hello.txt" => ("200 OK", "", BODY),
        _ => ("404 Not Found", "", ""),
    };
    log.lock().expect("no panics").push(status[..3].to_owned());
    let sent = if path.starts_with("/cut-once/") && asked == 0 { &body[..2] } else { body };
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{header}\r\n{sent}", body.len())
}
