//! Signatures of requests, version 4 of AWS. Pure: the library's own would read the clock of the machine.

use std::fmt::Write;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

/// What a server makes of headers on the way is not signed.
const UNSIGNED: [&str; 6] = ["accept", "authorization", "connection", "content-length", "expect", "user-agent"];

/// The one who asks.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) key: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

/// Where it is asked, and when.
#[derive(Clone, Copy)]
pub(super) struct Occasion<'a> {
    pub(super) region: &'a str,
    /// Since 1970.
    pub(super) at: Duration,
}

/// Adds the headers that sign a request, of which `host` must be there. The body is left out where `body` is `None`, for
/// connections that nobody can change.
pub(super) fn sign(
    credentials: &Credentials,
    occasion: Occasion<'_>,
    (method, uri): (&Method, &Uri),
    headers: &mut HeaderMap,
    body: Option<&[u8]>,
) -> Result<(), http::header::InvalidHeaderValue> {
    let time = stamp(occasion.at);
    let day = &time[..8];
    let hash = body.map_or_else(|| "UNSIGNED-PAYLOAD".to_owned(), hash);
    headers.insert(HeaderName::from_static("x-amz-date"), HeaderValue::from_str(&time)?);
    headers.insert(HeaderName::from_static("x-amz-content-sha256"), HeaderValue::from_str(&hash)?);
    if let Some(token) = &credentials.token {
        headers.insert(HeaderName::from_static("x-amz-security-token"), HeaderValue::from_str(token)?);
    }
    debug_assert!(headers.contains_key(HOST), "a host is signed");
    let mut signed: Vec<_> = headers.keys().map(HeaderName::as_str).filter(|name| !UNSIGNED.contains(name)).collect();
    signed.sort_unstable();
    let mut request = format!("{method}\n{}\n{}\n", uri.path(), query(uri.query().unwrap_or_default()));
    for name in &signed {
        let values: Vec<_> = headers.get_all(*name).iter().map(|it| String::from_utf8_lossy(it.as_bytes())).collect();
        let text = values.iter().map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        request.push_str(&format!("{name}:{}\n", text.join(",")));
    }
    let signed = signed.join(";");
    request.push_str(&format!("\n{signed}\n{hash}"));

    let scope = format!("{day}/{}/s3/aws4_request", occasion.region);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", self::hash(request.as_bytes()));
    let mut key = format!("AWS4{}", credentials.secret).into_bytes();
    for part in [day, occasion.region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &text));
    let key = &credentials.key;
    let value = format!("AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={signature}");
    let mut value = HeaderValue::from_str(&value)?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes it");
        text
    })
}

/// The parameters of a query in order, each part encoded in the one way that is signed.
fn query(query: &str) -> String {
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (encoded(key), encoded(value)))
        .collect();
    pairs.sort_unstable();
    pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&")
}

/// Encodes what is encoded in some way.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            b'+' => encoded.push_str("%20"),
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|it| it.map_or('0', char::from).to_ascii_uppercase());
                encoded.push('%');
                encoded.extend(digits);
            }
            other => write!(encoded, "%{other:02X}").expect("a text takes it"),
        }
    }
    // What needs no code has none.
    encoded.replace("%7E", "~").replace("%2D", "-").replace("%5F", "_").replace("%2E", ".")
}

/// `20260102T030405Z`, of a time since 1970.
fn stamp(at: Duration) -> String {
    let (days, second) = (at.as_secs() / 86_400, at.as_secs() % 86_400);
    // Years that begin in March, so that a leap day is their last; 400 of them have 146,097 days (H. Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let since = days + 719_468;
    let (era, of_era) = (since / 146_097, since % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, is_next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 400 * era + year + is_next;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the documentation: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)", examples GET Object,
    /// GET Bucket (List Objects).
    fn signature(uri: &str, extra: &[(&'static str, &str)]) -> String {
        let credentials = Credentials {
            key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("examplebucket.s3.amazonaws.com"));
        headers.insert("user-agent", HeaderValue::from_static("not signed"));
        for (name, value) in extra {
            headers.insert(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let uri: Uri = uri.parse().expect("a URI");
        let occasion = Occasion { region: "us-east-1", at: Duration::from_secs(1_369_353_600) };
        sign(&credentials, occasion, (&Method::GET, &uri), &mut headers, Some(b"")).expect("it is signed");
        let text = headers[AUTHORIZATION].to_str().expect("text").to_owned();
        assert!(!format!("{headers:?}").contains("AKIA"), "a signature is not shown");
        text.rsplit_once('=').expect("it ends with the signature").1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_documentation() {
        assert_eq!(
            signature("/test.txt", &[("range", "bytes=0-9")]),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            signature("/?max-keys=2&prefix=J", &[]),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_767_225_599, "20251231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_query_is_signed_in_order_and_in_one_code() {
        assert_eq!(query("b=x+y%2fz&a"), "a=&b=x%20y%2Fz");
        assert_eq!(query("prefix=a%7Eb*%2"), "prefix=a~b%2A%20");
    }
}
