//! Where to listen, and the proxy that connections go through.

use super::or;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::schema::{At, NetworkDoc};
use crate::source::{SourceFile, layer_of};
use policy_format::{Host, Listeners, UnixSockets, Upstream};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Listeners and upstream. A `proxy_url` or `socks_url` that names another host is the upstream: nobody can listen there.
pub(super) fn check(
    network: &NetworkDoc,
    unix_sockets: &UnixSockets,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> (Listeners, Option<Upstream>) {
    let listeners = listeners(network, unix_sockets, diagnostics);
    (listeners, upstream(network, sources, diagnostics))
}

/// The port that a URL listens on; `None` when it is without one, names another machine, or is not an address to listen on.
pub(crate) fn listening_port(url: &str) -> Option<u16> {
    let port = |default| listen_address(url, default).ok().map(|address| address.port());
    // A port that is left out follows the default.
    port(1).filter(|found| !is_remote(url) && port(2) == Some(*found))
}

/// Whether a URL names a host that cannot be listened on: a name other than `localhost`.
pub(crate) fn is_remote(url: &str) -> bool {
    let url = url.trim();
    // Without a scheme, a word alone is more likely a mistake than a machine.
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest,
        None if url.contains('.') => url,
        None => return false,
    };
    match split_authority(rest).map(|authority| Host::parse(authority.host)) {
        Some(Ok(host)) => host.name().is_some() && !host.is_localhost(),
        _ => false,
    }
}

/// `user:password@host:port`, of which only the host must be there.
pub(crate) struct Authority<'a> {
    pub(crate) userinfo: Option<&'a str>,
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

/// `None` when there is a path, or the port is none.
pub(crate) fn split_authority(rest: &str) -> Option<Authority<'_>> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (userinfo, rest) = match rest.rsplit_once('@') {
        Some((userinfo, rest)) => (Some(userinfo), rest),
        None => (None, rest),
    };
    if rest.is_empty() || rest.contains(['/', '?', '#']) {
        return None;
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(policy_format::pattern::parse_port(port)?)),
        _ => (rest, None),
    };
    Some(Authority { userinfo, host, port })
}

fn listeners(network: &NetworkDoc, unix_sockets: &UnixSockets, diagnostics: &mut Vec<Diagnostic>) -> Listeners {
    let mut default = Listeners::default();
    if let Some(port) = &network.http_port {
        default.http.set_port(port.value);
    }
    if let (Some(port), Some(socks)) = (&network.socks_port, &mut default.socks) {
        socks.set_port(port.value);
    }
    let socks_on = or(&network.enable_socks5, true);
    let mut address = |key: &str, url: &Option<At<String>>, default: SocketAddr| match url {
        None => default,
        Some(url) if key != "admin_url" && is_remote(&url.value) => default,
        Some(url) => listen_address(&url.value, default.port()).unwrap_or_else(|why| {
            let scheme = if key == "socks_url" { "socks5" } else { "http" };
            let mut error =
                Diagnostic::error(Code::InvalidAddress, format!("`{key}` is not an address to listen on: {why}"), url.place.clone());
            error.fix(&format!("\"{scheme}://{default}\""));
            error.help = Some("write an address of this machine".into());
            diagnostics.push(error);
            default
        }),
    };
    let http = address("proxy_url", &network.proxy_url, default.http);
    let admin = address("admin_url", &network.admin_url, default.admin);
    // Read although it may be off, so that a mistake in it is not hidden.
    let socks = default.socks.map(|default| address("socks_url", &network.socks_url, default));
    let listeners = Listeners { http, socks: socks.filter(|_| socks_on), admin };
    let open_proxy = or(&network.dangerously_allow_non_loopback_proxy, false);
    let open_admin = or(&network.dangerously_allow_non_loopback_admin, false);
    let keys = [
        ("proxy_url", &network.proxy_url, Some(http), open_proxy, "dangerously_allow_non_loopback_proxy"),
        ("socks_url", &network.socks_url, listeners.socks, open_proxy, "dangerously_allow_non_loopback_proxy"),
        ("admin_url", &network.admin_url, Some(admin), open_admin, "dangerously_allow_non_loopback_admin"),
    ];
    for (key, url, address, open, opens) in keys {
        let (Some(url), Some(address)) = (url, address.filter(|address| !address.ip().is_loopback())) else { continue };
        if !open {
            let message = format!("`{key}` opens the listener to other machines");
            let mut help = format!("use 127.0.0.1, or set `{opens} = true`");
            if key != "admin_url" && !address.ip().is_unspecified() {
                help.push_str("; a proxy that connections are to go through is `upstream = \"http://…\"`");
            }
            diagnostics.push(Diagnostic::error(Code::OpenListener, message, url.place.clone()).with_help(help));
        } else if unix_sockets.any() {
            let message =
                format!("`{key}` opens the listener to other machines, and the policy opens unix sockets: it would be a bridge to them");
            diagnostics.push(Diagnostic::error(Code::OpenListener, message, url.place.clone()).with_help("use 127.0.0.1"));
        }
    }
    same_address(&listeners, network, diagnostics);
    listeners
}

/// Two listeners on one address: the second would not start.
fn same_address(listeners: &Listeners, network: &NetworkDoc, diagnostics: &mut Vec<Diagnostic>) {
    let all = [
        ("proxy_url", Some(listeners.http), &network.proxy_url),
        ("socks_url", listeners.socks, &network.socks_url),
        ("admin_url", Some(listeners.admin), &network.admin_url),
    ];
    for (n, (key, address, url)) in all.iter().enumerate() {
        for (other, _, other_url) in
            all.iter().skip(n + 1).filter(|(_, other, _)| *other == *address && address.is_some_and(|at| at.port() != 0))
        {
            let Some(place) = url.as_ref().or(other_url.as_ref()) else { continue };
            let message = format!("`{key}` and `{other}` are one address, and only one of them can listen there");
            diagnostics
                .push(Diagnostic::error(Code::InvalidAddress, message, place.place.clone()).with_help("give one of them another port"));
        }
    }
}

/// `http://127.0.0.1:3128`, with or without scheme and port.
fn listen_address(url: &str, default_port: u16) -> Result<SocketAddr, &'static str> {
    let rest = match url.trim().split_once("://") {
        Some(("http" | "https" | "socks5" | "socks5h", rest)) => rest,
        Some(_) => return Err("the scheme is not `http` or `socks5`"),
        None => url.trim(),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err("it has more than a host and a port");
    }
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return Ok(address);
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| "the port is not a number up to 65535")?)
        }
        _ => (rest, default_port),
    };
    let host = host.trim_matches(['[', ']']);
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let ip: IpAddr = host.parse().map_err(|_| "it is not an IP address")?;
    Ok(SocketAddr::new(ip, port))
}

fn upstream(network: &NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Option<Upstream> {
    let mut named: Vec<At<String>> = network.upstream.iter().filter_map(|upstream| upstream.url.clone()).collect();
    for (key, url) in [("proxy_url", &network.proxy_url), ("socks_url", &network.socks_url)] {
        let Some(url) = url.as_ref().filter(|url| is_remote(&url.value)) else { continue };
        let meant = as_upstream(key, url.value.trim());
        let shown = Upstream { url: meant.clone(), no_proxy: Vec::new() }.shown();
        let message = format!("`{key}` names another machine: it is taken to be the proxy that connections go through");
        let help = format!("write `upstream = \"{shown}\"`; `netpolicy migrate` rewrites the file");
        diagnostics.push(Diagnostic::warning(Code::OlderSpelling, message, url.place.clone()).with_help(help));
        if named.iter().all(|at| at.value != meant) {
            named.push(At { value: meant, place: url.place.clone() });
        }
    }
    let mut named = named.into_iter();
    let first = named.next();
    for other in named {
        let error = Diagnostic::error(Code::InvalidValue, "two upstream proxies are named, and only one can be used", other.place);
        let error = error.with_help("keep one of them");
        diagnostics.push(match &first {
            Some(first) => error.and(first.place.clone(), "the other one"),
            None => error,
        });
    }
    let no_proxy = network.upstream.as_ref().and_then(|upstream| upstream.no_proxy.as_ref());
    let Some(url) = first else {
        if let Some(no_proxy) = no_proxy.filter(|list| !list.value.is_empty()) {
            let message = "`no_proxy` has no effect: no upstream proxy is named";
            let warning = Diagnostic::warning(Code::NoEffect, message, no_proxy.place.clone());
            diagnostics.push(
                warning.with_help("remove it, or name the proxy: `upstream = { url = \"http://proxy.example.com:8080\", no_proxy = […] }`"),
            );
        }
        return None;
    };
    diagnostics.extend(switched_off(network, &url.place));
    // What an administrator sends through a proxy, nobody below takes out of it.
    let owner = layer_of(sources, &url.place);
    let no_proxy = match no_proxy.filter(|list| !list.value.is_empty()) {
        Some(list) if owner.is_managed() && owner < layer_of(sources, &list.place) => {
            let message = format!("`no_proxy` is ignored: the upstream proxy belongs to the {owner} layer");
            let warning = Diagnostic::warning(Code::IgnoredEntry, message, list.place.clone()).and(url.place.clone(), "named here");
            diagnostics.push(warning.with_help("remove it: it has no effect here"));
            Vec::new()
        }
        list => list.map(|list| destinations("no_proxy", list, diagnostics)).unwrap_or_default(),
    };
    match check_upstream(&url.value) {
        Ok(has_credentials) => {
            diagnostics.extend(has_credentials.then(|| password_in_file(url.place.clone())));
            Some(Upstream { url: url.value, no_proxy })
        }
        Err(why) => {
            let error = Diagnostic::error(Code::InvalidAddress, format!("this is not the URL of a proxy: {why}"), url.place);
            diagnostics.push(error.with_help("write `http://`, `https://`, `socks5://` or `socks5h://`, a host and a port"));
            None
        }
    }
}

/// A proxy that is named although none may be used.
pub(super) fn switched_off(network: &NetworkDoc, url: &Place) -> Option<Diagnostic> {
    let allow = network.allow_upstream_proxy.as_ref().filter(|allow| !allow.value)?;
    let message = "an upstream proxy is named, and `allow_upstream_proxy` is false";
    let error = Diagnostic::error(Code::InvalidValue, message, url.clone()).and(allow.place.clone(), "switched off here");
    Some(error.with_help("remove one of them: connections either go through the proxy or do not"))
}

pub(super) fn password_in_file(url: Place) -> Diagnostic {
    let message = "the upstream proxy's password stands in a file, and in the compiled policy";
    let help = "whoever can read the file or the policy can read it; a proxy that asks for no password, or one on this machine that adds it, keeps it out";
    Diagnostic::warning(Code::Credentials, message, url).with_help(help)
}

/// In `socks_url` the scheme was always `http`, although SOCKS5 was spoken.
fn as_upstream(key: &str, url: &str) -> String {
    match (key, url.split_once("://")) {
        ("socks_url", Some((scheme, rest))) if scheme != "socks5h" => format!("socks5://{rest}"),
        ("socks_url", None) => format!("socks5://{url}"),
        (_, None) => format!("http://{url}"),
        _ => url.to_owned(),
    }
}

/// Whether the URL has a user or a password in it.
pub(super) fn check_upstream(url: &str) -> Result<bool, &'static str> {
    let (scheme, rest) = url.trim().split_once("://").ok_or("it has no scheme")?;
    if !matches!(scheme, "http" | "https" | "socks5" | "socks5h") {
        return Err("the scheme is none of a proxy");
    }
    let authority = split_authority(rest).ok_or("it is a scheme, a host and a port, without a path")?;
    match Host::parse(authority.host) {
        Ok(Host::NumericLookalike(_)) | Err(_) => Err("the host is none"),
        Ok(_) if authority.port.is_none() && scheme.starts_with("socks") => Err("it needs a port"),
        Ok(_) => Ok(authority.userinfo.is_some()),
    }
}

/// Names, suffixes, addresses and networks, each with or without a port; `*` is everything.
pub(super) fn destinations(key: &str, list: &At<Vec<At<String>>>, diagnostics: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut kept = Vec::new();
    for entry in &list.value {
        let text = entry.value.trim();
        let name = text.strip_prefix('.').unwrap_or(text);
        match policy_format::Pattern::parse(name) {
            Ok(_) => kept.push(text.to_ascii_lowercase()),
            Err(error) => {
                let message = format!("`{}` is no entry of `{key}`: {error}", text.escape_debug());
                let error = Diagnostic::error(Code::InvalidValue, message, entry.place.clone());
                diagnostics.push(error.with_help("write a name, a suffix such as \".example.com\", an address or a network"));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_listen_addresses_in_every_spelling() {
        for (url, expected) in [
            ("http://127.0.0.1:3128", "127.0.0.1:3128"),
            ("http://127.0.0.1:3128/", "127.0.0.1:3128"),
            ("socks5h://localhost:1080", "127.0.0.1:1080"),
            ("127.0.0.1", "127.0.0.1:9"),
            ("[::1]:5", "[::1]:5"),
            ("http://[::1]", "[::1]:9"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(listen_address(url, 9).map(|address| address.to_string()), Ok(expected.to_owned()), "{url}");
        }
        for url in
            ["http://proxy.corp.example:8080", "ftp://127.0.0.1", "http://u:p@127.0.0.1:1", "http://127.0.0.1:1/x", "127.0.0.1:70000", ""]
        {
            assert!(listen_address(url, 9).is_err(), "{url}");
        }
    }

    #[test]
    fn tells_listeners_from_upstreams() {
        for (url, remote) in [
            ("http://proxy.corp.example:8080", true),
            ("socks5h://u:p@proxy.corp.example:1080", true),
            ("http://localhost:3128", false),
            ("http://10.0.0.1:3128", false),
            ("http://0.0.0.0:3128", false),
            ("proxy", false),
            ("proxy.corp.example:8080", true),
            ("127.0.0.1:3128", false),
            ("http://", false),
        ] {
            assert_eq!(is_remote(url), remote, "{url}");
        }
    }

    #[test]
    fn knows_the_urls_of_proxies() {
        for (url, expected) in [
            ("http://proxy.test:8080", Ok(false)),
            ("https://proxy.test", Ok(false)),
            ("http://user:pass@proxy.test:8080/", Ok(true)),
            ("socks5h://10.0.0.1:1080", Ok(false)),
            ("socks5://[::1]:1080", Ok(false)),
        ] {
            assert_eq!(check_upstream(url), expected, "{url}");
        }
        for url in [
            "proxy.test:8080",
            "ftp://proxy.test",
            "http://",
            "http://proxy.test/path",
            "http://proxy.test:0",
            "socks5://proxy.test",
            "http://127.1:80",
        ] {
            assert!(check_upstream(url).is_err(), "{url}");
        }
    }
}
