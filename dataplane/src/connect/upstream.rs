//! Which proxy for which destination: what the policy says, then what the environment says. Read once, asked for every request.
//!
//! A [`Proxy`] is made here and nowhere else, of what the policy or the environment of the process configures. Nothing of a request can name one, not even a header that a
//! CGI program would find in a variable called `HTTP_PROXY`.

use crate::error::EnvironmentError;
use crate::parse::target::Target;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy_format::{Host, Hosts, Meta, Pattern, Settings, Upstream, UpstreamRule};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What is spoken to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    /// HTTP inside TLS.
    Https,
    /// SOCKS5 with addresses: names are looked up here.
    Socks5,
    /// SOCKS5 with names.
    Socks5h,
}

impl Scheme {
    const ALL: [(&'static str, Self, u16); 4] =
        [("http", Self::Http, 80), ("https", Self::Https, 443), ("socks5", Self::Socks5, 1080), ("socks5h", Self::Socks5h, 1080)];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::find(name).map(|(_, scheme, _)| scheme)
    }

    fn find(name: &str) -> Option<(&'static str, Self, u16)> {
        Self::ALL.into_iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))
    }

    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// User and password, as bytes: what is percent-encoded in a URL may be anything.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credentials {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Vec<u8>,
}

/// A proxy to go through.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Proxy {
    scheme: Scheme,
    at: Target,
    credentials: Option<Credentials>,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

/// Without user and password, for people and logs.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Scheme::ALL.iter().find(|(_, scheme, _)| *scheme == self.scheme).map_or("", |(name, ..)| name);
        write!(f, "{name}://{}", self.at)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Proxy {
    /// Reads `SCHEME://[USER[:PASSWORD]@]HOST[:PORT]`. What is wrong is said without the text, which may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.trim().split_once("://").ok_or("it has no scheme")?;
        let (_, scheme, default_port) = Scheme::find(scheme).ok_or("its scheme is none of `http`, `https`, `socks5` and `socks5h`")?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Credentials::parse(userinfo, scheme)?, host),
            None => (None, authority),
        };
        let at = Target::parse(host, Some(default_port)).map_err(|_| "its host or its port is none")?;
        if matches!(at.host, Host::NumericLookalike(_)) {
            return Err("its host is a number that some programs read as an address");
        }
        let authorization = credentials.as_ref().map(Credentials::basic);
        Ok(Self { scheme, at, credentials, authorization })
    }

    /// For tests of those who are given proxies.
    #[cfg(test)]
    pub(crate) fn of(url: &str) -> Arc<Self> {
        Arc::new(Self::parse(url).unwrap_or_else(|why| unreachable!("{url}: {why}")))
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its own host and port.
    pub(crate) fn at(&self) -> &Target {
        &self.at
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The value of `Proxy-Authorization`, for HTTP proxies.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl Credentials {
    fn parse(userinfo: &str, scheme: Scheme) -> Result<Option<Self>, &'static str> {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
        if user.is_empty() && password.is_empty() {
            return Ok(None);
        }
        if user.iter().chain(&password).any(u8::is_ascii_control) {
            return Err("its user or its password has control characters");
        }
        // RFC 7617, section 2; RFC 1929, section 2.
        if scheme.is_http() && user.contains(&b':') {
            return Err("its user has a colon, which HTTP cannot say");
        }
        if !scheme.is_http() && (user.is_empty() || user.len() > 255 || password.len() > 255) {
            return Err("its user or its password is empty or longer than 255 bytes, which SOCKS5 cannot say");
        }
        Ok(Some(Self { user, password }))
    }

    fn basic(&self) -> String {
        let pair = [self.user.as_slice(), b":", self.password.as_slice()].concat();
        format!("Basic {}", STANDARD.encode(pair))
    }
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("its user or its password has a `%` without two digits behind it");
        };
        out.extend(u8::try_from(high * 16 + low));
    }
    Ok(out)
}

/// Destinations: names, suffixes, addresses and networks, each with or without a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Destinations(Vec<Pattern>);

impl Destinations {
    /// Entries that mean nothing are left out: then more goes through the proxy, and nothing around it.
    fn read<'a>(entries: impl Iterator<Item = &'a str>) -> Self {
        Self(entries.filter_map(Self::entry).collect())
    }

    /// `example.com` is that name and all below it, `.example.com` and `*.example.com` only what is below it.
    fn entry(text: &str) -> Option<Pattern> {
        let text = text.trim();
        if let Some(suffix) = text.strip_prefix('.') {
            return Pattern::parse(&format!("*.{suffix}")).ok();
        }
        let pattern = Pattern::parse(text).ok()?;
        match pattern.hosts {
            Hosts::Exact(_) => Pattern::parse(&format!("**.{text}")).ok(),
            _ => Some(pattern),
        }
    }

    fn has(&self, target: &Target) -> bool {
        self.0.iter().any(|pattern| pattern.port.is_none_or(|port| port == target.port) && pattern.hosts.matches(&target.host))
    }
}

/// What the policy says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upstreams {
    /// Whether there may be any.
    allowed: bool,
    rules: Vec<(Destinations, Option<Arc<Proxy>>)>,
    /// For what no rule is for: the proxy, and what is reached without it.
    proxy: Option<(Arc<Proxy>, Destinations)>,
}

impl Upstreams {
    /// Reads what a profile says. The error names the proxy that cannot be gone through, and why.
    pub(crate) fn read(meta: &Meta, settings: &Settings) -> Result<Self, (String, &'static str)> {
        let proxy = |upstream: &Upstream| match Proxy::parse(&upstream.url) {
            // Connecting directly instead would go around it.
            _ if !meta.allow_upstream_proxy => Err((upstream.shown(), "`allow_upstream_proxy` is false")),
            Ok(proxy) => Ok((Arc::new(proxy), Destinations::read(upstream.no_proxy.iter().map(String::as_str)))),
            Err(why) => Err((upstream.shown(), why)),
        };
        let rule = |rule: &UpstreamRule| {
            let hosts = Destinations::read(rule.hosts.iter().map(String::as_str));
            // A destination that cannot be read would be sent elsewhere than the rule says.
            if hosts.0.len() != rule.hosts.len() {
                return Err((rule.proxy.as_ref().map(Upstream::shown).unwrap_or_default(), "a destination of its rule is none"));
            }
            Ok((hosts, rule.proxy.as_ref().map(&proxy).transpose()?.map(|(proxy, _)| proxy)))
        };
        Ok(Self {
            allowed: meta.allow_upstream_proxy,
            rules: settings.upstream_rules.iter().map(rule).collect::<Result<_, _>>()?,
            proxy: meta.upstream.as_ref().map(proxy).transpose()?,
        })
    }

    /// The proxy for `target`; `None` is a direct connection. The first rule that has it decides; then the policy's proxy, if it has one; then the environment.
    ///
    /// This machine itself is never asked of a proxy, unless a rule says so: what is allowed there is allowed here, and the proxy's `localhost` is another one.
    pub(crate) fn choose(&self, environment: &Environment, target: &Target, traffic: Traffic) -> Option<Arc<Proxy>> {
        if !self.allowed {
            return None;
        }
        if let Some((_, proxy)) = self.rules.iter().find(|(hosts, _)| hosts.has(target)) {
            return proxy.clone();
        }
        if is_this_machine(&target.host) {
            return None;
        }
        match &self.proxy {
            Some((proxy, without)) => (!without.has(target)).then(|| Arc::clone(proxy)),
            None => environment.choose(target, traffic),
        }
    }
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip.is_unspecified()
        }
        Host::Name(_) | Host::NumericLookalike(_) => host.is_localhost(),
    }
}

/// What goes to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// A plain request.
    Http,
    /// A plain request that would switch to another protocol.
    Upgrade,
    /// Bytes that nobody here reads: CONNECT and SOCKS5, its datagrams too.
    Tunnel,
}

/// The proxies that the environment of a process names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    http: Option<Arc<Proxy>>,
    https: Option<Arc<Proxy>>,
    ws: Option<Arc<Proxy>>,
    wss: Option<Arc<Proxy>>,
    all: Option<Arc<Proxy>>,
    without: Destinations,
}

impl Environment {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `WS_PROXY`, `WSS_PROXY`, `ALL_PROXY` and `NO_PROXY`, each in upper case or else in lower case. An empty one is not set.
    pub(crate) fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, EnvironmentError> {
        let set: HashMap<String, String> = variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let find = |name: &str| [name.to_owned(), name.to_ascii_lowercase()].into_iter().find_map(|name| set.get_key_value(&name));
        let proxy = |name: &str| {
            let Some((name, value)) = find(name) else { return Ok(None) };
            let value = value.trim();
            // What every client takes for HTTP.
            let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
            Proxy::parse(&url).map(|proxy| Some(Arc::new(proxy))).map_err(|what| EnvironmentError { variable: name.clone(), what })
        };
        let without =
            find("NO_PROXY").map(|(_, value)| Destinations::read(value.split([',', ' ', '\t']).filter(|entry| !entry.is_empty())));
        Ok(Self {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            ws: proxy("WS_PROXY")?,
            wss: proxy("WSS_PROXY")?,
            all: proxy("ALL_PROXY")?,
            without: without.unwrap_or_default(),
        })
    }

    fn choose(&self, target: &Target, traffic: Traffic) -> Option<Arc<Proxy>> {
        let named = match traffic {
            Traffic::Http => self.http.as_ref(),
            Traffic::Upgrade => self.http.as_ref().or(self.ws.as_ref()),
            Traffic::Tunnel => self.https.as_ref().or(self.wss.as_ref()),
        };
        named.or(self.all.as_ref()).filter(|_| !self.without.has(target)).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text, None).unwrap()
    }

    fn upstream(url: &str, no_proxy: &[&str]) -> Upstream {
        Upstream { url: url.to_owned(), no_proxy: no_proxy.iter().map(|entry| (*entry).to_owned()).collect() }
    }

    fn environment(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        Environment::read(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn urls_are_read_and_shown_without_their_passwords() {
        for (url, shown, authorization) in [
            ("http://proxy.test", "http://proxy.test:80", None),
            ("HTTPS://Proxy.Test./", "https://proxy.test:443", None),
            ("socks5://[::1]", "socks5://[::1]:1080", None),
            ("socks5h://u:p@10.0.0.1:9", "socks5h://10.0.0.1:9", Some("Basic dTpw")),
            ("http://u@proxy.test:8080", "http://proxy.test:8080", Some("Basic dTo=")),
            ("http://user:p%40ss%3aw%C3%B6rd@proxy.test:8080", "http://proxy.test:8080", Some("Basic dXNlcjpwQHNzOnfDtnJk")),
            ("http://user:a@b@proxy.test:8080", "http://proxy.test:8080", Some("Basic dXNlcjphQGI=")),
            ("http://@proxy.test:8080", "http://proxy.test:8080", None),
        ] {
            let proxy = Proxy::parse(url).unwrap();
            assert_eq!((proxy.to_string().as_str(), proxy.authorization()), (shown, authorization), "{url}");
            assert_eq!(format!("{proxy:?}"), shown);
        }
        let long = format!("socks5://{}:p@proxy.test:1", "u".repeat(256));
        for url in [
            "proxy.test:80",
            "ftp://proxy.test",
            "socks4://proxy.test:1",
            "http://",
            "http://proxy.test/path",
            "http://proxy.test:0",
            "http://proxy.test:x",
            "http://u%0a:p@proxy.test:1",
            "http://u%3a:p@proxy.test:1",
            "http://u%4:p@proxy.test:1",
            "http://127.1:80",
            "socks5://:p@proxy.test:1",
            &long,
        ] {
            assert!(Proxy::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn destinations_that_go_without_a_proxy() {
        let cases: [(&str, &[&str], &[&str]); 13] = [
            ("*", &["a.test:1", "192.0.2.1:1", "[2001:db8::1]:1"], &[]),
            ("example.com", &["example.com:80", "a.b.example.com:443"], &["notexample.com:80", "example.com.test:80"]),
            (".example.com", &["a.example.com:80"], &["example.com:80", "aexample.com:80"]),
            ("*.example.com", &["a.example.com:80"], &["example.com:80"]),
            ("**.example.com", &["a.example.com:80", "example.com:80"], &["example.org:80"]),
            ("Example.COM.", &["example.com:80"], &["example.org:80"]),
            ("example.com:443", &["example.com:443", "a.example.com:443"], &["example.com:80"]),
            (".example.com:443", &["a.example.com:443"], &["a.example.com:80", "example.com:443"]),
            ("192.0.2.7", &["192.0.2.7:80"], &["192.0.2.8:80", "a192.0.2.7.test:80"]),
            ("10.0.0.0/8", &["10.1.2.3:80"], &["11.0.0.1:80"]),
            ("[2001:db8::1]:443", &["[2001:db8::1]:443"], &["[2001:db8::1]:80"]),
            ("2001:db8::/32", &["[2001:db8:1::1]:80"], &["[2001:db9::1]:80"]),
            ("a.test, b.test\tc.test ,, <local>", &["a.test:1", "b.test:1", "c.test:1"], &["d.test:1", "local:1"]),
        ];
        for (list, without, through) in cases {
            let environment = environment(&[("ALL_PROXY", "http://proxy.test:8080"), ("NO_PROXY", list)]).unwrap();
            let upstreams = Upstreams { allowed: true, ..Upstreams::default() };
            for (text, expected) in without.iter().map(|text| (text, true)).chain(through.iter().map(|text| (text, false))) {
                let direct = upstreams.choose(&environment, &target(text), Traffic::Tunnel).is_none();
                assert_eq!(direct, expected, "{list:?} for {text}");
            }
        }
    }

    #[test]
    fn the_order_in_which_proxies_are_asked_for() {
        /// Variables; what is sent; the proxy.
        type Case<'a> = (&'a [(&'a str, &'a str)], Traffic, Option<&'a str>);
        use Traffic::{Http, Tunnel, Upgrade};
        let cases: [Case<'_>; 16] = [
            (&[], Http, None),
            (&[("HTTP_PROXY", "http://h:1")], Http, Some("http://h:1")),
            (&[("HTTP_PROXY", "h:1")], Http, Some("http://h:1")),
            (&[("http_proxy", "http://l:1")], Http, Some("http://l:1")),
            (&[("http_proxy", "http://l:1"), ("HTTP_PROXY", "http://u:1")], Http, Some("http://u:1")),
            (&[("http_proxy", "http://l:1"), ("HTTP_PROXY", "  ")], Http, Some("http://l:1")),
            (&[("HTTP_PROXY", "http://h:1")], Tunnel, None),
            (&[("HTTPS_PROXY", "http://s:1"), ("HTTP_PROXY", "http://h:1")], Tunnel, Some("http://s:1")),
            (&[("HTTPS_PROXY", "http://s:1")], Http, None),
            (&[("WSS_PROXY", "http://w:1"), ("ALL_PROXY", "socks5h://a:1")], Tunnel, Some("http://w:1")),
            (&[("HTTPS_PROXY", "http://s:1"), ("WSS_PROXY", "http://w:1")], Tunnel, Some("http://s:1")),
            (&[("WS_PROXY", "http://w:1")], Http, None),
            (&[("WS_PROXY", "http://w:1")], Upgrade, Some("http://w:1")),
            (&[("HTTP_PROXY", "http://h:1"), ("WS_PROXY", "http://w:1")], Upgrade, Some("http://h:1")),
            (&[("all_proxy", "socks5://a:1")], Upgrade, Some("socks5://a:1")),
            (&[("ALL_PROXY", "socks5://a:1"), ("HTTP_PROXY", "http://h:1")], Tunnel, Some("socks5://a:1")),
        ];
        let policy = Upstreams { allowed: true, ..Upstreams::default() };
        for (variables, traffic, expected) in cases {
            let chosen = policy.choose(&environment(variables).unwrap(), &target("a.test:80"), traffic);
            assert_eq!(chosen.map(|proxy| proxy.to_string()).as_deref(), expected, "{variables:?} {traffic:?}");
        }
    }

    #[test]
    fn the_policy_comes_before_the_environment() {
        let environment = environment(&[("ALL_PROXY", "http://env:1"), ("NO_PROXY", "direct.test")]).unwrap();
        let rule = |hosts: &[&str], proxy: Option<&str>| UpstreamRule {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            proxy: proxy.map(|url| upstream(url, &[])),
        };
        let settings = Settings {
            upstream_rules: vec![
                rule(&["none.test", "10.0.0.0/8"], None),
                rule(&["special.test:443", "127.0.0.0/8"], Some("socks5h://special:1")),
                rule(&["special.test"], Some("https://other:1")),
            ],
            ..Settings::default()
        };
        let meta = Meta { upstream: Some(upstream("http://policy:1", &["apart.test"])), ..Meta::default() };
        let plain = Meta::default();
        let off = Meta { allow_upstream_proxy: false, ..Meta::default() };
        for (meta, settings, text, expected) in [
            (&meta, &settings, "a.test:80", Some("http://policy:1")),
            (&meta, &settings, "apart.test:80", None),
            (&meta, &settings, "direct.test:80", Some("http://policy:1")),
            (&meta, &settings, "none.test:80", None),
            (&meta, &settings, "10.1.1.1:80", None),
            (&meta, &settings, "special.test:443", Some("socks5h://special:1")),
            (&meta, &settings, "special.test:80", Some("https://other:1")),
            // This machine is not the proxy's, but where a rule says so.
            (&meta, &settings, "127.0.0.1:80", Some("socks5h://special:1")),
            (&meta, &settings, "localhost:80", None),
            (&meta, &settings, "[::1]:80", None),
            (&plain, &Settings::default(), "a.test:80", Some("http://env:1")),
            (&plain, &Settings::default(), "direct.test:80", None),
            (&plain, &Settings::default(), "127.0.0.2:80", None),
            (&plain, &Settings::default(), "[::ffff:127.0.0.1]:80", None),
            (&plain, &Settings::default(), "0.0.0.0:80", None),
            (&off, &Settings::default(), "a.test:80", None),
        ] {
            let chosen = Upstreams::read(meta, settings).unwrap().choose(&environment, &target(text), Traffic::Tunnel);
            assert_eq!(chosen.map(|proxy| proxy.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_gone_through_is_refused_without_its_password() {
        let refused = |meta: &Meta, settings: &Settings| Upstreams::read(meta, settings).unwrap_err();
        let meta = Meta { upstream: Some(upstream("gopher://u:hunter2@proxy.test:1", &[])), ..Meta::default() };
        let (shown, why) = refused(&meta, &Settings::default());
        assert_eq!((shown.as_str(), why), ("gopher://proxy.test:1", "its scheme is none of `http`, `https`, `socks5` and `socks5h`"));
        let meta = Meta { upstream: Some(upstream("http://proxy.test:1", &[])), allow_upstream_proxy: false, ..Meta::default() };
        assert_eq!(refused(&meta, &Settings::default()).1, "`allow_upstream_proxy` is false");
        let settings = Settings { upstream_rules: vec![UpstreamRule { hosts: vec!["a b".into()], proxy: None }], ..Settings::default() };
        assert_eq!(refused(&Meta::default(), &settings).1, "a destination of its rule is none");
        let error = environment(&[("https_proxy", "gopher://u:hunter2@proxy.test:1")]).unwrap_err().to_string();
        assert!(error.starts_with("the environment variable `https_proxy` is not the URL of a proxy: its scheme"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
