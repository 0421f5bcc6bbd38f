//! Credentials of the broker, and certificates that servers ask for: what a policy says of them. The secrets themselves are never in a policy.

use crate::host::Host;
use crate::path;
use crate::pattern::parse_port;
use std::fmt;
use std::net::IpAddr;

/// A credential that children get a stand-in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its name.
    pub id: String,
    /// The environment variables that have it, each by itself.
    pub env: Vec<String>,
    /// Where it may go.
    pub url_prefixes: Vec<UrlPrefix>,
    /// How requests carry it.
    pub auth: CredentialAuth,
}

/// How requests carry a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialAuth {
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer,
    /// `Authorization: token …`.
    Token,
    /// In `Authorization: Basic …` (RFC 7617), as the password or as the user.
    Basic,
    /// In a header of its own.
    Header {
        /// The header, lower case.
        name: String,
        /// What stands before the credential; may be empty.
        prefix: String,
    },
}

/// Headers that say how a message is framed, or where it goes: no secret is sent in them.
const OF_THE_MESSAGE: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-unix-socket",
];

/// Whether a header, as it was sent, is the one of that name, which is in lower case: programs that turn names into variables (RFC 3875, section 4.1.18) cannot tell `x_team` from `x-team`.
#[must_use]
pub fn same_header(name: &str, sent: &[u8]) -> bool {
    let folded = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == sent.len() && name.bytes().zip(sent).all(|(own, sent)| folded(own) == folded(*sent))
}

/// Whether a hook may take a header of this name, which is in lower case, out of a message: not those that say where it ends, or where it goes.
#[must_use]
pub fn may_be_taken_out(header: &str) -> bool {
    const FRAMING: &[&str] =
        &["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
    !FRAMING.contains(&header)
}

/// Whether a secret may be sent in a header of this name, which is in lower case.
#[must_use]
pub fn carries_secrets(header: &str) -> bool {
    !OF_THE_MESSAGE.contains(&header) && !header.starts_with("proxy-") && !header.starts_with("x-forwarded-")
}

impl CredentialAuth {
    /// The names that users type and read.
    pub const NAMES: &'static [&'static str] = &["bearer", "token", "basic", "header"];

    /// The name that users type and read.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Token => "token",
            Self::Basic => "basic",
            Self::Header { .. } => "header",
        }
    }

    /// The header, lower case.
    #[must_use]
    pub fn header(&self) -> &str {
        if let Self::Header { name, .. } = self { name } else { "authorization" }
    }
}

/// Where a credential may go: a scheme, a host, a port, and a path with what lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPrefix {
    /// Whether it is `https`.
    pub tls: bool,
    /// The host: a name or an address.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// The path, from the root.
    pub path: String,
}

/// Why text is no [`UrlPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlPrefixError {
    /// No `https://` or `http://`.
    #[error("it starts with `https://` or `http://`")]
    Scheme,
    /// `user@`.
    #[error("user information has no place in it")]
    User,
    /// What stands before the path is no host, or no port.
    #[error("its host is a name or an address, perhaps with a port, without wildcards")]
    Host,
    /// The path cannot be one.
    #[error("{0}")]
    Path(#[from] path::PathError),
}

impl UrlPrefix {
    /// Reads `https://host[:port][/path]`.
    ///
    /// # Errors
    /// [`UrlPrefixError`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, UrlPrefixError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlPrefixError::Scheme)?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => true,
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err(UrlPrefixError::Scheme),
        };
        let (authority, path) = rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(UrlPrefixError::User);
        }
        let colon = authority.rfind(':').filter(|colon| authority.rfind(']').is_none_or(|bracket| bracket < *colon));
        let (host, port) = match colon.and_then(|colon| authority.split_at_checked(colon)) {
            Some((host, port)) => (host, parse_port(port.get(1..).unwrap_or_default()).ok_or(UrlPrefixError::Host)?),
            None => (authority, default_port(tls)),
        };
        let host = match Host::parse(host) {
            Ok(host @ (Host::Name(_) | Host::Ip(_))) => host,
            Ok(Host::NumericLookalike(_)) | Err(_) => return Err(UrlPrefixError::Host),
        };
        let path = if path.is_empty() { "/" } else { path };
        path::check_prefix(path)?;
        Ok(Self { tls, host, port, path: path.to_owned() })
    }

    /// Whether it speaks of what is sent there.
    #[must_use]
    pub fn is_for(&self, tls: bool, host: &Host, port: u16) -> bool {
        self.tls == tls && self.port == port && self.host == *host
    }

    /// Whether a path is within it. One that servers read in two ways is not.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        path::has_one_reading(path) && path::lies_below(path, &self.path)
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for UrlPrefix {
    /// As it may be written, in one way only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "https://" } else { "http://" })?;
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            host => write!(f, "{host}")?,
        }
        if self.port != default_port(self.tls) {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

/// A certificate that we show to servers which ask for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The servers, as a pattern: a name, `*.name`, `**.name`, an address or a network.
    pub host: String,
    /// The absolute path of the certificate, as PEM, with those between it and the authority.
    pub cert_path: String,
    /// The absolute path of its private key, as PEM.
    pub key_path: String,
}

/// What a hook asks of the body of a request. Numbers and the like are [`JsonValue`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookBody {
    /// The hook's name.
    pub hook: String,
    /// JSON pointers (RFC 6901), sorted, and the values that each may lead to.
    pub json: Vec<(String, Vec<JsonValue>)>,
    /// Bytes that the body may have: from 1 to [`HookBody::MOST_BYTES`].
    pub max_bytes: u64,
}

impl HookBody {
    /// The most that `max_bytes` may be: a body is held until it is decided on.
    pub const MOST_BYTES: u64 = 16 << 20;
    /// What it is where nothing is said.
    pub const DEFAULT_BYTES: u64 = 64 << 10;
}

/// A value that a JSON pointer may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonValue {
    /// A string: the text, or a glob behind `pattern:`; `literal:` escapes.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, as digits.
    Number(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_shown_in_one_way() {
        for (text, expected) in [
            ("https://api.example.com", "https://api.example.com/"),
            ("HTTPS://API.example.com:443/v1", "https://api.example.com/v1"),
            ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"),
            ("http://localhost:80/a/", "http://localhost/a/"),
        ] {
            let prefix = UrlPrefix::parse(text).unwrap();
            assert_eq!(prefix.to_string(), expected);
            assert_eq!(UrlPrefix::parse(expected), Ok(prefix));
        }
        for (text, error) in [
            ("api.example.com", UrlPrefixError::Scheme),
            ("ftp://api.example.com", UrlPrefixError::Scheme),
            ("https://u:p@api.example.com", UrlPrefixError::User),
            ("https://*.example.com", UrlPrefixError::Host),
            ("https://", UrlPrefixError::Host),
            ("https://a.test:0", UrlPrefixError::Host),
            ("https://127.1/", UrlPrefixError::Host),
            ("https://a.test/a?b", UrlPrefixError::Path(path::PathError::Query)),
            ("https://a.test?b", UrlPrefixError::Path(path::PathError::NotAbsolute)),
            ("https://a.test/../b", UrlPrefixError::Path(path::PathError::TwoReadings)),
        ] {
            assert_eq!(UrlPrefix::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn prefixes_hold_what_lies_below_them() {
        let prefix = UrlPrefix::parse("https://a.test/v1").unwrap();
        let is_for = |tls, host, port| prefix.is_for(tls, &Host::parse(host).unwrap(), port);
        assert!(is_for(true, "A.test", 443));
        assert!(!is_for(false, "a.test", 443) && !is_for(true, "b.a.test", 443) && !is_for(true, "a.test", 8443));
        for (path, expected) in
            [("/v1", true), ("/v1/x", true), ("/v10", false), ("/", false), ("/v1/../x", false), ("/v1/%2e%2e/x", false)]
        {
            assert_eq!(prefix.holds(path), expected, "{path}");
        }
    }
}
