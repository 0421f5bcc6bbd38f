//! What a network table says beyond its rules: name servers, limits, proxies for some destinations.

use super::{At, Key, LimitsDoc, Reader, UpstreamRuleDoc, Value};
use crate::check::split_authority;
use crate::diagnostic::Code;
use crate::keys;
use crate::source::quote;
use policy_format::{Host, Limit, NameServer, OnRevoke};
use std::net::{IpAddr, SocketAddr};
use toml::de::DeValue;

/// The port of DNS servers (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;
/// The path that most servers of DNS over HTTPS have (RFC 8484 leaves it to them).
const DNS_PATH: &str = "/dns-query";

impl Reader<'_> {
    /// `resolver = ["10.0.0.53", "https://dns.example.com/dns-query"]`.
    pub(super) fn resolver(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<NameServer>>> {
        let texts = self.strings(key, value)?;
        let mut servers = Vec::with_capacity(texts.value.len());
        for text in texts.value {
            match name_server(text.value.trim()) {
                Ok(server) => servers.push(server),
                Err(Wrong { why, instead }) => {
                    let message = format!("`{}` is no name server: {why}", text.value.escape_debug());
                    let error = self.error(Code::InvalidAddress, text.place.span, message);
                    match instead {
                        Some(instead) => error.did_you_mean(&quote(&instead)),
                        None => {
                            error.help = Some(
                                "write the address of a DNS server, such as \"10.0.0.53\" or \"[2001:db8::53]:5353\", or the `https://` URL of DNS over HTTPS".into(),
                            );
                        }
                    }
                }
            }
        }
        Some(At { value: servers, place: texts.place })
    }

    /// `[….limits]`.
    pub(super) fn limits(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut LimitsDoc) {
        let Some(table) = self.table(key, value) else { return };
        for (key, value) in table {
            match (Limit::named(key.get_ref()), key.get_ref().as_ref()) {
                (Some(limit), _) => {
                    if let Some(at) = self.limit(limit, key, value) {
                        doc.values.insert(limit.name, at);
                    }
                }
                (None, "on_revoke") => doc.on_revoke = self.word_or(key, value, OnRevoke::ALL, &[("finish", "keep"), ("abort", "close")]),
                (None, _) => self.unknown_key(key, table, "`limits`", &keys::LIMITS),
            }
        }
    }

    /// A number, or text with a unit.
    pub(super) fn limit(&mut self, limit: &'static Limit, key: &Key<'_>, value: &Value<'_>) -> Option<At<u64>> {
        let default = limit_toml(limit, limit.default);
        let text = match value.get_ref() {
            DeValue::String(text) => text.trim(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => {
                self.wrong_type(key, value, limit.expected(), &format!("{} = {default}", limit.name));
                return None;
            }
        };
        match limit.parse(text) {
            Ok(parsed) => Some(At { value: parsed, place: self.place(value.span()) }),
            Err(wrong) => {
                let error = self.error(Code::InvalidValue, value.span(), format!("this limit cannot be set: {wrong}"));
                error.fix(&default);
                error.help = Some(format!("the default is {default}"));
                None
            }
        }
    }

    /// `rules` of `upstream`.
    pub(super) fn upstream_rules(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<UpstreamRuleDoc>>> {
        const EXAMPLE: &str = "rules = [{ hosts = [\"*.corp.example\"], url = \"http://proxy.example.com:3128\" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables", EXAMPLE);
            if let (true, Some(error)) = (value.get_ref().is_table(), self.diagnostics.last_mut()) {
                error.help = Some("write `[[….upstream.rules]]`, or put it into brackets".into());
            }
            return None;
        };
        let mut rules = Vec::with_capacity(array.len());
        for item in array.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.wrong_type(key, item, "a list of tables", EXAMPLE);
                continue;
            };
            let (mut hosts, mut url) = (None, None);
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "hosts" => hosts = self.strings(key, value),
                    "url" => url = self.string(key, value),
                    _ => self.unknown_key(key, table, "a rule of `upstream`", &keys::UPSTREAM_RULE),
                }
            }
            for name in ["hosts", "url"] {
                if !table.contains_key(name) {
                    let error = self.error(Code::MissingKey, item.span(), format!("a rule of `upstream` needs `{name}`"));
                    error.help = Some(format!("write `{EXAMPLE}`"));
                }
            }
            if let (Some(hosts), Some(url)) = (hosts, url) {
                rules.push(UpstreamRuleDoc { hosts, url });
            }
        }
        Some(At { value: rules, place: self.place(value.span()) })
    }
}

/// The value of a limit as TOML: a number, or text where it has a unit, or where TOML has no such number.
pub(crate) fn limit_toml(limit: &Limit, value: u64) -> String {
    let shown = limit.shown(value);
    if shown.parse::<i64>().is_ok() { shown } else { quote(&shown) }
}

/// Why text is no name server, and perhaps what was meant.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    why: String,
    instead: Option<String>,
}

/// The address of a DNS server, with or without a port, or the URL of DNS over HTTPS.
fn name_server(text: &str) -> Result<NameServer, Wrong> {
    let wrong = |why: &str, instead: Option<String>| Err(Wrong { why: why.to_owned(), instead });
    let Some((scheme, rest)) = text.split_once("://") else {
        return match address(text) {
            Some(server) if server.port() == 0 || !is_unicast(server.ip()) => wrong("no server has this address", None),
            Some(server) => Ok(NameServer::Dns(server)),
            None if Host::parse(text).is_ok_and(|host| host.name().is_some()) => {
                wrong("a DNS server is named by its address, since a name would have to be looked up first", None)
            }
            None => wrong("it is neither an address nor a URL", None),
        };
    };
    match scheme.to_ascii_lowercase().as_str() {
        "https" => https(rest),
        "http" => wrong("over HTTP, anybody on the way could answer", https(rest).ok().map(|server| server.to_string())),
        other => match address(rest.trim_end_matches('/')) {
            Some(server) if matches!(other, "dns" | "udp" | "tcp") => {
                wrong("a DNS server is written without a scheme; UDP and TCP are both spoken", Some(server.to_string()))
            }
            _ => wrong(&format!("`{other}` is not spoken"), None),
        },
    }
}

/// What stands behind `https://`.
fn https(rest: &str) -> Result<NameServer, Wrong> {
    let wrong = |why: &str, instead: Option<String>| Err(Wrong { why: why.to_owned(), instead });
    if let Some(shorter) = rest.strip_suffix("{?dns}") {
        return wrong("the variable of the template is not written", https(shorter).ok().map(|server| server.to_string()));
    }
    if rest.contains(|c: char| c.is_control() || c.is_whitespace() || "?#{}\\\"<>".contains(c)) {
        return wrong("it has a query, a fragment, or characters that no URL has", None);
    }
    let (before, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match split_authority(before) {
        Some(authority) if authority.userinfo.is_some() => wrong("a user or a password is not sent", None),
        Some(authority) if matches!(Host::parse(authority.host), Ok(Host::Name(_) | Host::Ip(_))) => match path {
            "" | "/" => wrong("it has no path", Some(format!("https://{before}{DNS_PATH}"))),
            _ => Ok(NameServer::Https(format!("https://{rest}"))),
        },
        _ => wrong("its host or its port is none", None),
    }
}

/// `10.0.0.53`, `10.0.0.53:53`, `2001:db8::53`, `[2001:db8::53]` or `[2001:db8::53]:53`.
fn address(text: &str) -> Option<SocketAddr> {
    let ip = || text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>();
    text.parse().ok().or_else(|| Some(SocketAddr::new(ip().ok()?, DNS_PORT)))
}

fn is_unicast(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_servers() {
        for (text, expected) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
            ("127.0.0.53", "127.0.0.53:53"),
            ("https://dns.example.com/dns-query", "https://dns.example.com/dns-query"),
            ("HTTPS://dns.example.com:8443/a/b", "https://dns.example.com:8443/a/b"),
            ("https://[2001:db8::53]/dns-query", "https://[2001:db8::53]/dns-query"),
        ] {
            assert_eq!(name_server(text).map(|server| server.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for (text, instead) in [
            ("https://dns.example.com", Some("https://dns.example.com/dns-query")),
            ("https://dns.example.com/", Some("https://dns.example.com/dns-query")),
            ("https://dns.example.com/dns-query{?dns}", Some("https://dns.example.com/dns-query")),
            ("http://dns.example.com/dns-query", Some("https://dns.example.com/dns-query")),
            ("udp://10.0.0.53:53", Some("10.0.0.53:53")),
            ("dns://10.0.0.53/", Some("10.0.0.53:53")),
            ("tls://10.0.0.53", None),
            ("quic://dns.example.com", None),
            ("dns.example.com", None),
            ("localhost:53", None),
            ("10.0.0.53:0", None),
            ("10.0.0.53:70000", None),
            ("0.0.0.0", None),
            ("255.255.255.255", None),
            ("[ff02::fb]:5353", None),
            ("10.0.53", None),
            ("", None),
            ("https://", None),
            ("https://127.1/dns-query", None),
            ("https://user:pw@dns.example.com/dns-query", None),
            ("https://dns.example.com/dns-query?dns=x", None),
            ("https://dns.example.com/a b", None),
            ("https://dns.example.com:0/dns-query", None),
        ] {
            let wrong = name_server(text).unwrap_err();
            assert_eq!(wrong.instead.as_deref(), instead, "{text}: {}", wrong.why);
        }
    }

    #[test]
    fn values_of_limits_read_back_as_they_are() {
        for limit in policy_format::Limits::ALL {
            for value in [limit.min, limit.default, limit.max] {
                let toml = limit_toml(limit, value);
                let text = toml.trim_matches('"');
                assert_eq!(limit.parse(text), Ok(value), "{}", limit.name);
                assert!(toml.starts_with('"') || toml.parse::<i64>().is_ok(), "{toml}");
            }
        }
    }
}
