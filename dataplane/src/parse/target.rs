//! `Target`: a host and a port, from an authority (RFC 3986, section 3.2, without user information).

use crate::digits;
use policy_format::Host;
use policy_format::pattern::parse_port;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// The port of HTTP in the clear.
pub const HTTP_PORT: u16 = 80;

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host, normalised.
    pub host: Host,
    /// The port, from 1.
    pub port: u16,
}

/// Why text is not an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityError {
    /// The host is missing, or no host name and no address.
    Host,
    /// The port is missing where it is needed, or not 1 to 65535.
    Port,
    /// `user@`.
    UserInfo,
}

impl Hash for Target {
    /// What is hashed for each connection: an address is one number, and not its kind, its length and its bytes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.host {
            Host::Ip(ip) => state.write_u128(ipv6_bits(*ip)),
            Host::Name(name) | Host::NumericLookalike(name) => name.hash(state),
        }
        state.write_u16(self.port);
    }
}

/// An address as a number, an IPv4 address as the one that IPv6 has for it (RFC 4291, section 2.5.5.2).
pub(crate) fn ipv6_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Target {
    /// Parses `host`, `host:port` or `[v6]:port`. Without `default_port`, a port is needed.
    ///
    /// # Errors
    /// [`AuthorityError`] for what has no single meaning.
    pub fn parse(authority: &str, default_port: Option<u16>) -> Result<Self, AuthorityError> {
        if authority.bytes().any(|byte| byte == b'@') {
            return Err(AuthorityError::UserInfo);
        }
        // Host names are normalised liberally in policies; on the wire there is no white space, and IPv6 has its brackets.
        let host_end = match authority.strip_prefix('[') {
            Some(rest) => rest.find(']').ok_or(AuthorityError::Host)? + 2,
            None => memchr::memchr(b':', authority.as_bytes()).unwrap_or(authority.len()),
        };
        let (host, rest) = authority.split_at_checked(host_end).ok_or(AuthorityError::Host)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => parse_port(digits).ok_or(AuthorityError::Port)?,
            None if rest.is_empty() => default_port.ok_or(AuthorityError::Port)?,
            None => return Err(AuthorityError::Host),
        };
        if host.bytes().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(AuthorityError::Host);
        }
        let host = Host::parse(host).map_err(|_| AuthorityError::Host)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Authority { target: self, default_port: None }.fmt(f)
    }
}

/// The authority of the last plain request on a connection, with what it means: nearly always, the next request is for the same. A host that is taken has at most some hundred letters,
/// and a port five digits: so has what is kept.
#[derive(Debug, Default)]
pub(crate) struct LastTarget {
    /// There was a request: most connections have one, and nothing is kept for what does not come.
    has_been: bool,
    authority: String,
    target: Option<Arc<Target>>,
    is_host: bool,
}

impl LastTarget {
    /// The authority.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether it is what `Host` said, letter by letter.
    pub(super) fn is_host(&self) -> bool {
        self.is_host
    }

    /// Whether there is one: that of a connection's first request is not kept.
    pub(super) fn is_kept(&self) -> bool {
        self.target.is_some()
    }

    /// As [`Target::parse`], with the port of HTTP where there is none; `host` is what `Host` says.
    pub(super) fn parse(&mut self, authority: &str, host: Option<&[u8]>) -> Result<Arc<Target>, AuthorityError> {
        self.is_host = host == Some(authority.as_bytes());
        if let Some(target) = self.target.as_ref().filter(|_| self.authority == authority) {
            return Ok(Arc::clone(target));
        }
        let target = Arc::new(Target::parse(authority, Some(HTTP_PORT))?);
        if std::mem::replace(&mut self.has_been, true) {
            authority.clone_into(&mut self.authority);
            self.target = Some(Arc::clone(&target));
        }
        Ok(target)
    }
}

/// A target as it stands in a `Host` header: with brackets, and without a port that goes without saying.
pub(crate) struct Authority<'a> {
    pub(crate) target: &'a Target,
    pub(crate) default_port: Option<u16>,
}

impl Authority<'_> {
    /// As it is displayed.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Target { host, port } = self.target;
        match host {
            Host::Name(name) | Host::NumericLookalike(name) => out.extend_from_slice(name.as_str().as_bytes()),
            Host::Ip(ip) => {
                let [open, close]: [&[u8]; 2] = if ip.is_ipv6() { [b"[", b"]"] } else { [b"", b""] };
                out.extend_from_slice(open);
                out.extend_from_slice(digits::address(*ip, &mut [0; digits::ADDRESS]));
                out.extend_from_slice(close);
            }
        }
        if Some(*port) != self.default_port {
            out.push(b':');
            out.extend_from_slice(digits::number((*port).into(), &mut [0; 20]));
        }
    }
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { host, port } = self.target;
        match host {
            Host::Ip(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            host => write!(f, "{host}")?,
        }
        if Some(*port) == self.default_port { Ok(()) } else { write!(f, ":{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_it_is_displayed() {
        for text in ["a.test:80", "a.test:8080", "127.0.0.1:1", "255.10.0.9:65535", "[2001:db8::1]:80", "[::1]:443", "127.1:80"] {
            let target = Target::parse(text, None).unwrap();
            for default_port in [None, Some(80)] {
                let (authority, mut out) = (Authority { target: &target, default_port }, Vec::new());
                authority.write(&mut out);
                assert_eq!(String::from_utf8(out).unwrap(), authority.to_string());
            }
        }
    }

    #[test]
    fn the_last_authority_means_the_same_again() {
        let (zeros, labels) = (format!("a.test:{}80", "0".repeat(300)), "a.".repeat(300));
        let mut last = LastTarget::default();
        for (text, expected) in [
            ("a.test", Ok("a.test:80")),
            ("a.test", Ok("a.test:80")),
            ("a.test:8080", Ok("a.test:8080")),
            (&zeros, Err(AuthorityError::Port)),
            (&labels, Err(AuthorityError::Host)),
            ("u@a.test", Err(AuthorityError::UserInfo)),
            ("a.test:8080", Ok("a.test:8080")),
            ("a.test:", Err(AuthorityError::Port)),
            ("A.test", Ok("a.test:80")),
        ] {
            assert_eq!(last.parse(text, None).map(|target| target.to_string()), expected.map(str::to_owned), "{text}");
        }
        let (one, other) = (last.parse("b.test", None).unwrap(), last.parse("b.test", None).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn reads_authorities_with_one_meaning_only() {
        let cases = [
            ("Example.com:443", None, "example.com:443"),
            ("example.com", Some(80), "example.com:80"),
            ("example.com.:1", None, "example.com:1"),
            ("[2001:DB8::1]:443", None, "[2001:db8::1]:443"),
            ("[::1]", Some(80), "[::1]:80"),
            ("127.0.0.1:65535", None, "127.0.0.1:65535"),
            ("example.com", None, "Port"),
            ("example.com:", None, "Port"),
            ("example.com:", Some(80), "Port"),
            ("example.com:0", None, "Port"),
            ("example.com:65536", None, "Port"),
            ("example.com:99999", None, "Port"),
            ("example.com:+80", None, "Port"),
            ("example.com: 80", None, "Port"),
            ("example.com:080", None, "example.com:80"),
            (":443", None, "Host"),
            ("", Some(80), "Host"),
            // A bare IPv6 address is cut at its first colon, and then one half or the other is wrong.
            ("::1", Some(80), "Port"),
            ("2001:db8::1:443", None, "Port"),
            ("[::1]443", None, "Host"),
            ("[::1", None, "Host"),
            ("[fe80::1%25eth0]:80", None, "Host"),
            ("http://example.com:443", None, "Port"),
            ("u:p@example.com:443", None, "UserInfo"),
            (" example.com:443", None, "Host"),
            ("exa mple:443", None, "Host"),
            ("a%2eb:443", None, "Host"),
        ];
        for (text, default_port, expected) in cases {
            let shown = Target::parse(text, default_port).map_or_else(|error| format!("{error:?}"), |target| target.to_string());
            assert_eq!(shown, expected, "{text:?}");
        }
    }
}
