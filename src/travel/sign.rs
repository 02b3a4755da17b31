//! Signs requests to S3 (AWS Signature Version 4, "Authenticating Requests: Using the Authorization Header").
//!
//! The payload is left unsigned, as S3 allows: blobs are named by their digests, which whoever reads them checks.

use jiff::Timestamp;

use crate::digest::{Digest, hmac};

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// `access_key_id`.
    pub id: String,
    /// `secret_access_key`.
    pub secret: String,
    /// `session_token`, of temporary keys.
    pub token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.id)
    }
}

/// What is signed of a request.
pub struct Asked<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// Host, with the port where it is not the scheme's own.
    pub host: &'a str,
    /// As it is sent: every byte but unreserved ones and slashes as `%XX`.
    pub path: &'a str,
    /// As it is sent, without `?`: names sorted, values as [`escaped`] has them.
    pub query: &'a str,
    /// Where the bucket is.
    pub region: &'a str,
    /// When.
    pub at: Timestamp,
}

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

impl Asked<'_> {
    /// The headers that a request needs to be taken for one of `keys`; without keys, what an anonymous one has.
    pub fn headers(&self, keys: Option<&Keys>) -> Vec<(&'static str, String)> {
        let time = self.at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut headers = vec![("x-amz-content-sha256", UNSIGNED.to_owned()), ("x-amz-date", time.clone())];
        let Some(keys) = keys else { return headers };
        headers.extend(keys.token.clone().map(|token| ("x-amz-security-token", token)));
        // sorted by name, as the headers above are
        let signed: Vec<(&str, &str)> =
            [("host", self.host)].into_iter().chain(headers.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let request = format!("{}\n{}\n{}\n{lines}\n{names}\n{UNSIGNED}", self.method, self.path, self.query);
        let day = &time[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", Digest::of(request.as_bytes()).hex());
        let mut key = hmac(format!("AWS4{}", keys.secret).as_bytes(), day.as_bytes());
        for part in [self.region, "s3", "aws4_request"] {
            key = hmac(key.as_bytes(), part.as_bytes());
        }
        let signature = hmac(key.as_bytes(), text.as_bytes()).hex();
        let value = format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", keys.id);
        headers.push(("authorization", value));
        headers
    }
}

/// A key of an object as the path of a URL.
pub fn path_of(key: &str) -> String {
    let words: Vec<String> = key.split('/').map(escaped).collect();
    words.join("/")
}

/// Every byte but unreserved ones as `%XX`.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_as_other_programs_sign_it() {
        let keys = Keys { id: "AKIDEXAMPLE".into(), secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(), token: None };
        let at = "2013-05-24T00:00:00Z".parse().unwrap();
        let asked = Asked {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test%3A1.txt",
            query: "",
            region: "us-east-1",
            at,
        };
        let headers = asked.headers(Some(&keys));
        assert_eq!(headers[1], ("x-amz-date", "20130524T000000Z".to_owned()));
        // computed with the signer of botocore, Amazon's own library for Python
        let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20130524/us-east-1/s3/aws4_request, \
                        SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=d22295d53f70ade31850a7de3bec10aa33757f88928c02d83157e6a5643d257f";
        assert_eq!(headers[2].1, expected);
        let with_token = Keys { token: Some("t".into()), ..keys };
        assert!(asked.headers(Some(&with_token))[3].1.contains("x-amz-date;x-amz-security-token"));
        assert_eq!(asked.headers(None).len(), 2);
    }

    #[test]
    fn keys_are_escaped() {
        assert_eq!(path_of("p/blobs/sha256:ab c~"), "p/blobs/sha256%3Aab%20c~");
    }
}
