//! A web server on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// Serves the files of a directory on a free port of loopback, until the test ends; returns `HOST:PORT`.
///
/// A file's `Last-Modified` is what the file beside it holds that has the further ending `.changed`.
pub fn serve(directory: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let host = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // a client that went away is none of the server's business
            let _ = answer(&directory, stream);
        }
    });
    host
}

fn answer(directory: &Path, mut client: TcpStream) -> std::io::Result<()> {
    let lines = BufReader::new(client.try_clone()?).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let head: Vec<String> = lines.collect();
    let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    let (status, body) = match std::fs::read(directory.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let changed = std::fs::read_to_string(directory.join(format!("{path}.changed")));
    let changed = changed.map(|time| format!("Last-Modified: {}\r\n", time.trim())).unwrap_or_default();
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{changed}Connection: close\r\n\r\n", body.len())?;
    client.write_all(&body)
}
