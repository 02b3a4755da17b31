//! URLs as people and servers write them.

use hyper::Uri;

use crate::registry::RegistryError;

/// User and password.
pub type UserInfo = (String, String);

/// Reads an absolute http(s) URL: drops the fragment, escapes what may not stand in a path, takes user and password out.
///
/// # Errors
/// `RegistryError::BadUrl` for other schemes, no host, or an unreadable authority.
pub fn parse_url(text: &str) -> Result<(Uri, Option<UserInfo>), RegistryError> {
    let bad = |reason: &str| RegistryError::BadUrl { url: text.to_owned(), reason: reason.to_owned() };
    let whole = text.split('#').next().unwrap_or_default();
    let (scheme, rest) = whole.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err(bad("only http and https are fetched"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if host.is_empty() || host.starts_with(':') {
        return Err(bad("it names no host"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let uri = format!("{scheme}://{host}{slash}{}", escape(path)).parse().map_err(|error| bad(&format!("{error}")))?;
    let user = user.map(|user| {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        (unescape(name), unescape(password))
    });
    Ok((uri, user))
}

/// What `location` means on a page at `base` (RFC 3986, 5.2, without dot segments).
pub fn join_url(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = authority_of(base);
    let has_scheme = location
        .split_once(':')
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if has_scheme {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    }
}

/// Host with port, as written.
pub fn authority_of(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str())
}

/// `%41` → `A`; what is no escape stays.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let hex = bytes.get(index + 1..index + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.filter(|pair| byte == b'%' && !pair.starts_with('+')).and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(escaped) => {
                out.push(escaped);
                index += 3;
            }
            None => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Escapes bytes that a request line cannot carry; escapes that are there stay.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
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
    fn parsed(text: &str, expected: &str) {
        assert_eq!(parse_url(text).expect(text).0.to_string(), expected);
    }

    #[test]
    fn urls_become_requestable() {
        parsed("http://host/a b#part", "http://host/a%20b");
        parsed("HTTPS://host", "https://host/");
        parsed("http://host:81?q=1", "http://host:81/?q=1");
        parsed("http://host/%41é", "http://host/%41%C3%A9");
        let (url, user) = parse_url("http://me:s%40cret@host/x").expect("valid");
        assert_eq!((url.to_string().as_str(), user), ("http://host/x", Some(("me".to_owned(), "s@cret".to_owned()))));
    }

    #[test]
    fn other_texts_are_no_urls() {
        for text in ["", "host/x", "ftp://host/x", "http://", "http:///x", "http://:80/", "http://a b/"] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    #[track_caller]
    fn joined(location: &str, expected: &str) {
        assert_eq!(join_url(&"http://host:81/a/b?q".parse().expect("valid"), location), expected);
    }

    #[test]
    fn locations_are_relative_to_where_they_were_found() {
        joined("https://other/x", "https://other/x");
        joined("//other/x", "http://other/x");
        joined("/x?y:z", "http://host:81/x?y:z");
        joined("c", "http://host:81/a/c");
        joined("?r", "http://host:81/a/b?r");
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescape("a%20b%2541%zz%"), "a b%41%zz%");
    }
}
