//! URLs of stores. Pure.

use std::fmt;

/// What a URL of a store says. What it says in secret is in neither of its texts.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "redis", feature = "s3")), allow(dead_code, reason = "files have no host"))]
pub(crate) struct Address {
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// A name, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// What follows the host, from its slash on.
    pub(crate) path: String,
    query: Vec<(String, String)>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match self.scheme.as_str() {
            "dir" => return write!(f, "dir:{}", self.path),
            _ if host.contains(':') => write!(f, "{}://[{host}]", self.scheme)?,
            _ => write!(f, "{}://{host}", self.scheme)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    /// Reads `scheme://user:password@host:port/path?key=value&…`, or `dir:path`.
    ///
    /// # Errors
    /// What is wrong with it, without any of it that may be secret.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) =
            url.split_once(':').ok_or("a store is given as a URL, such as dir:/path or redis://host")?;
        let scheme = scheme.to_ascii_lowercase();
        let mut address = Self {
            scheme,
            user: None,
            password: None,
            host: String::new(),
            port: None,
            path: String::new(),
            query: Vec::new(),
        };
        if address.scheme == "dir" {
            address.path = rest.strip_prefix("//").unwrap_or(rest).to_owned();
            return Ok(address);
        }
        let rest = rest.strip_prefix("//").ok_or("two slashes must follow the scheme")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        address.path = path.to_owned();
        let host = match authority.rsplit_once('@') {
            None => authority,
            Some((secret, host)) => {
                let (user, password) = match secret.split_once(':') {
                    None => (secret, None),
                    Some((user, password)) => (user, Some(decoded(password)?)),
                };
                address.user = Some(decoded(user)?).filter(|user| !user.is_empty());
                address.password = password;
                host
            }
        };
        let (host, port) = host_and_port(host)?;
        (address.host, address.port) = (host.to_owned(), port);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            address.query.push((key.to_owned(), decoded(value)?));
        }
        Ok(address)
    }

    /// The values of these keys of the query, each `None` where it is not given.
    ///
    /// # Errors
    /// If there are other keys.
    #[cfg(any(feature = "redis", feature = "s3", test))]
    pub(crate) fn settings<const N: usize>(&self, keys: [&str; N]) -> Result<[Option<&str>; N], String> {
        if let Some((unknown, _)) = self.query.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
            let known = if N == 0 { "there are none".into() } else { format!("there are {}", keys.join(", ")) };
            return Err(format!("no setting of such a store is called {unknown:?}; {known}"));
        }
        Ok(keys.map(|key| self.query.iter().rev().find(|(it, _)| it == key).map(|(_, value)| value.as_str())))
    }
}

/// Splits off the port, and takes the brackets off an address of IPv6.
pub(crate) fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a bracket before the host is not closed")?;
            (host, rest.strip_prefix(':').or_else(|| (!rest.is_empty()).then_some(rest)))
        }
        None => match authority.rsplit_once(':') {
            None => (authority, None),
            Some((host, _)) if host.contains(':') => return Err("an IPv6 address is written in brackets".into()),
            Some((host, port)) => (host, Some(port)),
        },
    };
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    let port = port.map(|port| port.parse().map_err(|_| "the port is no number below 65,536")).transpose()?;
    Ok((host, port))
}

/// Resolves `%20` and the like.
fn decoded(text: &str) -> Result<String, String> {
    const WRONG: &str = "a % is not followed by two hexadecimal digits of UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit =
            || rest.next().and_then(|byte| char::from(byte).to_digit(16)).and_then(|it| u8::try_from(it).ok());
        let (high, low) = digit().zip(digit()).ok_or(WRONG)?;
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| WRONG.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_keeps_its_secrets() {
        let address = Address::parse("Redis://me:p%40ss:w%2F@[fd00::1]:7000/3?a=b%20c&d").expect("it is one");
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("me"), Some("p@ss:w/")));
        assert_eq!((address.host.as_str(), address.port, address.path.as_str()), ("fd00::1", Some(7000), "/3"));
        assert_eq!(address.settings(["d", "a", "e"]), Ok([Some(""), Some("b c"), None]));
        assert!(address.settings(["a"]).expect_err("d is unknown").contains("\"d\""));
        assert_eq!(address.to_string(), "redis://[fd00::1]:7000/3");
        assert_eq!(format!("{address:?}"), "Address(redis://[fd00::1]:7000/3)");

        let address = Address::parse("rediss://:secret@cache.example").expect("it is one");
        assert_eq!((address.user, address.password.as_deref(), address.port), (None, Some("secret"), None));
        for (url, path) in [("dir:/a/b?c", "/a/b?c"), ("dir:///a", "/a"), ("dir:a", "a")] {
            assert_eq!(Address::parse(url).map(|it| it.path), Ok(path.into()));
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (url, said) in [
            ("/some/folder", "given as a URL"),
            ("redis:secret@host", "two slashes"),
            ("redis://me:secret@", "host is missing"),
            ("redis://me:secret@host:port", "port is no number"),
            ("redis://me:secret@host:65536", "port is no number"),
            ("redis://me:secret@[::1", "bracket"),
            ("redis://me:secret@::1", "in brackets"),
            ("redis://me:secret%4@host", "hexadecimal"),
            ("redis://me:secret%ff@host", "UTF-8"),
            ("redis://me:secret%é@host", "hexadecimal"),
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(error.contains(said) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
