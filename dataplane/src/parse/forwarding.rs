//! What a proxy adds to heads on their way, and takes out of them: `Via`, `Forwarded` and its older kin.

use super::http::trim;
use policy_format::Forwarded;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

/// What is added to the heads of one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// Our name in `Via` (see [`pseudonym`]); without it, heads get no `Via` of ours.
    pub via: Option<&'a str>,
    /// Whether requests say whose they are.
    pub forwarded: Forwarded,
    /// Whose they are.
    pub client: IpAddr,
}

/// A new name for `Via`. It is random, so that proxies behind one another, on one machine or on several, do not take each other for themselves, and says nothing of
/// the machine.
#[must_use]
pub fn pseudonym() -> String {
    // The standard library's only source of randomness.
    let random = RandomState::new().build_hasher().finish();
    format!("netproxy-{:08x}", random >> 32)
}

/// Fields that say whose a request is, beside those that begin with `x-forwarded-`.
const TELLING: &[&str] = &["forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "client-ip", "true-client-ip"];

/// Whether the field has to do with whose a request is, so that [`Forwarded`] says what becomes of it.
pub(crate) fn tells_the_client(name: &str) -> bool {
    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    // Most other fields begin otherwise.
    if !matches!(name.as_bytes().first().map(u8::to_ascii_lowercase), Some(b'c' | b'f' | b't' | b'x')) {
        return false;
    }
    starts("x-forwarded-") || TELLING.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Whether a `Via` names `own` among those that the message went through (RFC 9110, section 7.6.3): `1.1 name (comment), 1.1 name`.
pub(crate) fn names(value: &[u8], own: &str) -> bool {
    value.split(|byte| *byte == b',').any(|entry| {
        let mut words = trim(entry).split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(own.as_bytes()))
    })
}

impl Forwarding<'_> {
    /// Our entry in `Via`, behind those of others. `is_1_1` is of the message as it was received.
    pub(super) fn write_via(&self, is_1_1: bool, out: &mut Vec<u8>) {
        write_entry(self.via, is_1_1, out);
    }

    /// What is said of the client: `said` are the lines in which the client spoke of itself.
    pub(super) fn write_client(&self, said: &[u8], out: &mut Vec<u8>) {
        match self.client_entry() {
            Some((name, client)) => write_list(said, name, &client, out),
            None if self.forwarded == Forwarded::Pass => out.extend_from_slice(said),
            None => {}
        }
    }

    /// The field that says whose a request is, and what it says of this client at the end of its list, where the policy wants it said.
    pub(crate) fn client_entry(&self) -> Option<(&'static str, String)> {
        let client = self.client.to_canonical();
        match (self.forwarded, client) {
            (Forwarded::Pass | Forwarded::Strip, _) => None,
            (Forwarded::XForwardedFor, _) => Some(("X-Forwarded-For", client.to_string())),
            (Forwarded::Forwarded, IpAddr::V4(ip)) => Some(("Forwarded", format!("for={ip}"))),
            // Brackets and colons are no token, so that they need quotes (RFC 7239, section 6).
            (Forwarded::Forwarded, IpAddr::V6(ip)) => Some(("Forwarded", format!("for=\"[{ip}]\""))),
        }
    }
}

/// An entry in `Via` for `own`.
pub(super) fn write_entry(own: Option<&str>, is_1_1: bool, out: &mut Vec<u8>) {
    if let Some(own) = own {
        out.extend_from_slice(if is_1_1 { b"Via: 1.1 " } else { b"Via: 1.0 " });
        out.extend_from_slice(own.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The lines of `said`, those of field `name` made one, with `last` at its end.
fn write_list(said: &[u8], name: &str, last: &str, out: &mut Vec<u8>) {
    let mut list = Vec::new();
    for line in said.split_inclusive(|byte| *byte == b'\n') {
        match line.split_at_checked(name.len()) {
            Some((found, [b':', value @ ..])) if found.eq_ignore_ascii_case(name.as_bytes()) => {
                let value = trim(value);
                if !value.is_empty() {
                    list.extend_from_slice(value);
                    list.extend_from_slice(b", ");
                }
            }
            _ => out.extend_from_slice(line),
        }
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(&list);
    out.extend_from_slice(last.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_tells_the_client_is_known() {
        for name in TELLING.iter().chain(&["x-forwarded-for", "x-forwarded-"]) {
            assert!(tells_the_client(name) && tells_the_client(&name.to_ascii_uppercase()), "{name}");
        }
        assert!(!["", "x-forwarded", "host", "forwarded-", "xforwarded"].iter().any(|name| tells_the_client(name)));
    }

    #[test]
    fn only_our_own_name_is_a_loop() {
        let cases: [(&str, bool); 10] = [
            ("1.1 netproxy-0", true),
            ("1.1 NETPROXY-0", true),
            ("HTTP/1.1 netproxy-0 (a comment)", true),
            ("1.0 fred, 1.1\t netproxy-0 ,1.1 p.example", true),
            ("1.1 fred (1.1, netproxy-0)", false),
            ("1.1 netproxy-1", false),
            ("1.1 netproxy-0:80", false),
            ("netproxy-0", false),
            ("", false),
            (", ,", false),
        ];
        for (value, expected) in cases {
            assert_eq!(names(value.as_bytes(), "netproxy-0"), expected, "{value:?}");
        }
        let name = pseudonym();
        assert!(name.len() == 17 && names(format!("1.1 {name}").as_bytes(), &name), "{name}");
        assert!((0..8).any(|_| pseudonym() != name), "it is random");
    }

    #[test]
    fn the_client_is_told_as_the_policy_says() {
        let said =
            "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=_a;by=_b\r\nX-Real-IP: 192.0.2.9\r\nx-forwarded-for: 192.0.2.2,192.0.2.3\r\n";
        let rest = "Forwarded: for=_a;by=_b\r\nX-Real-IP: 192.0.2.9\r\n";
        let x_rest = "X-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.9\r\nx-forwarded-for: 192.0.2.2,192.0.2.3\r\n";
        let cases = [
            (Forwarded::Pass, "192.0.2.7", said, said.to_owned()),
            (Forwarded::Strip, "192.0.2.7", said, String::new()),
            (Forwarded::XForwardedFor, "192.0.2.7", "", "X-Forwarded-For: 192.0.2.7\r\n".to_owned()),
            (Forwarded::XForwardedFor, "::ffff:192.0.2.7", "", "X-Forwarded-For: 192.0.2.7\r\n".to_owned()),
            (Forwarded::XForwardedFor, "2001:db8::1", "X-Forwarded-For:\r\n", "X-Forwarded-For: 2001:db8::1\r\n".to_owned()),
            (Forwarded::XForwardedFor, "::1", said, format!("{rest}X-Forwarded-For: 192.0.2.1, 192.0.2.2,192.0.2.3, ::1\r\n")),
            (Forwarded::Forwarded, "192.0.2.7", "", "Forwarded: for=192.0.2.7\r\n".to_owned()),
            (Forwarded::Forwarded, "2001:db8::1", said, format!("{x_rest}Forwarded: for=_a;by=_b, for=\"[2001:db8::1]\"\r\n")),
        ];
        for (forwarded, client, said, expected) in cases {
            let mut out = Vec::new();
            Forwarding { via: None, forwarded, client: client.parse().unwrap() }.write_client(said.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{forwarded:?} {client}");
        }
    }
}
