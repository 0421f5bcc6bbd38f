//! Where a credential goes: to whole hosts, or to URLs that begin in a certain way.

use policy_format::{Host, UrlPrefix};

/// Where a request goes, and what it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    /// The host that it is sent to.
    pub(crate) host: &'a Host,
    /// The port there.
    pub(crate) port: u16,
    /// Whether it is sent in TLS.
    pub(crate) tls: bool,
    /// Its method.
    pub(crate) method: &'a str,
    /// Its path, perhaps with a query.
    pub(crate) path_and_query: &'a str,
}

/// Where a credential goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Binding {
    /// To these hosts, on any port and in any path. In the clear only if the policy lets that be.
    Hosts { hosts: Vec<Host>, below: &'static [&'static str] },
    /// To what begins with one of these.
    Urls(Vec<UrlPrefix>),
}

impl Binding {
    /// Whether a request may have the credential. `plaintext` is whether any may that is in the clear.
    pub(super) fn covers(&self, to: &Destination<'_>, plaintext: bool) -> bool {
        if !to.tls && !plaintext {
            return false;
        }
        match self {
            Self::Hosts { hosts, below } => hosts.contains(to.host) || is_below(to.host, below),
            Self::Urls(prefixes) => prefixes.iter().any(|prefix| is_within(prefix, to)),
        }
    }
}

/// Whether the host is a name below one of the suffixes, each of which begins with a dot.
pub(super) fn is_below(host: &Host, suffixes: &[&str]) -> bool {
    host.name().is_some_and(|name| suffixes.iter().any(|suffix| name.as_str().ends_with(suffix)))
}

fn is_within(prefix: &UrlPrefix, to: &Destination<'_>) -> bool {
    // Whatever a path means, it means something below the root.
    prefix.is_for(to.tls, to.host, to.port) && (prefix.path == "/" || prefix.holds(to.path_and_query.split('?').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::target::Target;

    fn covers(prefix: &str, url: &str, plaintext: bool) -> bool {
        let binding = Binding::Urls(vec![UrlPrefix::parse(prefix).unwrap()]);
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_at(rest.find('/').unwrap());
        let tls = scheme == "https";
        let target = Target::parse(authority, Some(if tls { 443 } else { 80 })).unwrap();
        let to = Destination { host: &target.host, port: target.port, tls, method: "GET", path_and_query: path };
        binding.covers(&to, plaintext)
    }

    #[test]
    fn urls_are_covered_by_scheme_host_port_and_path() {
        let cases = [
            ("https://a.example", "https://a.example/", true),
            ("https://a.example", "https://a.example/any/path?and=query", true),
            ("https://a.example/", "https://a.example:443/x", true),
            ("https://a.example", "https://A.EXAMPLE./x", true),
            ("https://a.example", "https://b.a.example/", false),
            ("https://a.example", "https://example/", false),
            ("https://a.example", "https://a.example.evil.example/", false),
            ("https://a.example", "https://a.example:8443/", false),
            ("https://a.example:8443", "https://a.example:8443/", true),
            ("https://a.example:8443", "https://a.example/", false),
            ("https://[2001:db8::1]/", "https://[2001:db8:0::1]/", true),
            ("https://192.0.2.7/", "https://192.0.2.7/", true),
            // Another scheme is another place, also where plaintext may be.
            ("https://a.example", "http://a.example:443/", false),
            ("https://a.example:80", "http://a.example/", false),
            ("http://a.example", "https://a.example:80/", false),
            ("http://a.example", "http://a.example/", true),
            // Paths end at segments.
            ("https://a.example/v1", "https://a.example/v1", true),
            ("https://a.example/v1", "https://a.example/v1?x=/v2", true),
            ("https://a.example/v1", "https://a.example/v1/x", true),
            ("https://a.example/v1", "https://a.example/v10", false),
            ("https://a.example/v1", "https://a.example/V1", false),
            ("https://a.example/v1", "https://a.example/", false),
            ("https://a.example/v1", "https://a.example/x/v1", false),
            ("https://a.example/v1", "https://a.example/x?/v1", false),
            ("https://a.example/v1/", "https://a.example/v1", false),
            ("https://a.example/v1/", "https://a.example/v1/x", true),
            // Paths that are read in two ways are covered by nothing but the root.
            ("https://a.example/v1", "https://a.example/v1/../admin", false),
            ("https://a.example/v1", "https://a.example/v1/%2e%2e/admin", false),
            ("https://a.example/v1", "https://a.example/v1/%2E./admin", false),
            ("https://a.example/v1", "https://a.example/v1/..;/admin", false),
            ("https://a.example/v1", "https://a.example/v1%2fadmin", false),
            ("https://a.example/v1", "https://a.example/v1\\..\\admin", false),
            ("https://a.example/v1", "https://a.example/v1/%252e%252e/admin", false),
            ("https://a.example/v1", "https://a.example//v1", false),
            ("https://a.example/v1", "https://a.example/%761", false),
            ("https://a.example/v1", "https://a.example/v1/%zz", false),
            ("https://a.example", "https://a.example/@scope%2fpackage", true),
            ("https://a.example", "https://a.example/../x", true),
        ];
        for (prefix, url, expected) in cases {
            assert_eq!(covers(prefix, url, true), expected, "{prefix} {url}");
            assert_eq!(covers(prefix, url, false), expected && url.starts_with("https:"), "{prefix} {url}, without plaintext");
        }
    }
}
