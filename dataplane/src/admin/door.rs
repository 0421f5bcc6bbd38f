//! Keeps web pages out. A page that a browser on this machine shows can send requests to any address; it must neither read what is answered nor drive anything.
//!
//! - A request has to name this machine, by an address or as `localhost`: the page of a name that was bound anew to one of our addresses names that name (DNS rebinding).
//! - What a browser says comes from another origin is refused, and no answer allows another origin to read it.
//! - What changes something, and comes from a browser, has to come from our own page, or to carry a field that pages cannot send elsewhere without asking.
//! - A body that is not called JSON is taken as such from nothing that shows a sign of a browser: pages can send those types anywhere without asking.
//!
//! Cookies mean nothing here.

use super::reply::Refusal;
use crate::parse::target::Target;
use hyper::header::{COOKIE, HOST, HeaderMap, HeaderName, ORIGIN, REFERER, USER_AGENT};
use hyper::{StatusCode, Uri};
use policy_format::Host;

/// A field that only programs, and our own page, send.
pub(crate) const OWN_FIELD: HeaderName = HeaderName::from_static("x-netproxy-admin");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request is by nobody's page but ours.
pub(super) fn check(uri: &Uri, headers: &HeaderMap, hosts: &[String], writes: bool) -> Result<(), Refusal> {
    let host = host(headers)?;
    let absolute = uri.authority().map(hyper::http::uri::Authority::as_str);
    for named in [Some(host), absolute].into_iter().flatten() {
        if !names_us(named, hosts) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "the Host header must be an address or localhost, or a name that `--admin-host` has",
            ));
        }
    }
    let elsewhere = || Refusal::new(StatusCode::FORBIDDEN, "requests of web pages of other origins are refused");
    let origin = single(headers, &ORIGIN)?;
    let is_own = match origin {
        // Behind something that speaks TLS for us, it is `https`.
        Some(origin) => {
            ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme).is_some_and(|at| at.eq_ignore_ascii_case(host)))
        }
        None => false,
    };
    if origin.is_some() && !is_own {
        return Err(elsewhere());
    }
    let site = single(headers, &FETCH_SITE)?;
    // `none` is a person who typed it.
    if site.is_some_and(|site| !["same-origin", "none"].contains(&site)) {
        return Err(elsewhere());
    }
    let by_browser = site.is_some() || origin.is_some() || headers.contains_key(REFERER) || is_called_a_browser(headers);
    let shown = is_own || site == Some("same-origin") || headers.contains_key(OWN_FIELD);
    if writes && by_browser && !shown {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "what changes something, and comes from a browser, needs the field `{OWN_FIELD}: 1`, or has to come from this very origin"
            ),
        ));
    }
    Ok(())
}

/// Whether nothing in a request is a sign of a browser. Those of today send `Origin` and `Sec-Fetch-Site` with everything that changes something, older ones at least their name.
pub(super) fn is_of_a_program(headers: &HeaderMap) -> bool {
    // No page can set or take away a field that begins with `Sec-`, and programs have none to send.
    let by_browser = |name: &HeaderName| [ORIGIN, REFERER, COOKIE].contains(name) || name.as_str().starts_with("sec-");
    !headers.keys().any(by_browser) && !is_called_a_browser(headers)
}

fn is_called_a_browser(headers: &HeaderMap) -> bool {
    headers.get_all(USER_AGENT).iter().any(|agent| agent.as_bytes().starts_with(b"Mozilla/"))
}

fn host(headers: &HeaderMap) -> Result<&str, Refusal> {
    single(headers, &HOST)?.ok_or_else(|| Refusal::bad("a request has a Host header"))
}

/// The value of a field that there may be one of.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value)),
        (Err(_), _) => Err(Refusal::bad(format!("`{name}` is not ASCII"))),
        (_, Some(_)) => Err(Refusal::bad(format!("there is more than one `{name}`"))),
    }
}

fn names_us(authority: &str, hosts: &[String]) -> bool {
    let Ok(target) = Target::parse(authority, Some(80)) else { return false };
    match &target.host {
        Host::Ip(_) => true,
        host => host.is_localhost() || hosts.iter().any(|own| Host::parse(own).is_ok_and(|own| own == *host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a request with these fields: its status, or 200.
    fn status(fields: &[(&str, &str)], hosts: &[&str], writes: bool) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        check(&"/v1/mode".parse().unwrap(), &headers, &hosts, writes).map_or_else(|refusal| refusal.answer().status().as_u16(), |()| 200)
    }

    #[test]
    fn a_request_names_this_machine() {
        for (host, expected) in [
            ("127.0.0.1:8080", 200),
            ("127.0.0.1", 200),
            ("[::1]:8080", 200),
            ("192.0.2.1:8080", 200),
            ("localhost:8080", 200),
            ("LOCALHOST", 200),
            ("localhost.:8080", 200),
            ("proxy.internal.test:8080", 200),
            ("Proxy.Internal.Test", 200),
            ("attacker.test:8080", 403),
            ("localhost.attacker.test", 403),
            ("127.0.0.1.attacker.test", 403),
            ("127.1", 403),
            ("0x7f000001", 403),
            ("user@127.0.0.1", 403),
            ("127.0.0.1:port", 403),
            ("", 403),
        ] {
            assert_eq!(status(&[("host", host)], &["proxy.internal.test"], false), expected, "{host}");
        }
        assert_eq!(status(&[("host", "proxy.internal.test")], &[], false), 403);
        assert_eq!(status(&[], &[], false), 400);
        assert_eq!(status(&[("host", "127.0.0.1"), ("host", "attacker.test")], &[], false), 400);
        let absolute = |uri: &str| {
            let headers = HeaderMap::from_iter([(HOST, "127.0.0.1".parse().unwrap())]);
            check(&uri.parse().unwrap(), &headers, &[], false).is_ok()
        };
        assert!(absolute("http://127.0.0.1/v1/health") && !absolute("http://attacker.test/v1/health"));
    }

    #[test]
    fn pages_of_others_neither_read_nor_write() {
        let own = ("host", "127.0.0.1:8080");
        for (fields, read, write) in [
            (&[][..], 200, 200),
            (&[("origin", "http://127.0.0.1:8080")], 200, 200),
            (&[("origin", "https://127.0.0.1:8080")], 200, 200),
            (&[("origin", "http://127.0.0.1:8081")], 403, 403),
            (&[("origin", "http://localhost:8080")], 403, 403),
            (&[("origin", "http://attacker.test")], 403, 403),
            (&[("origin", "http://attacker.test/127.0.0.1:8080")], 403, 403),
            (&[("origin", "null")], 403, 403),
            (&[("origin", "null"), ("x-netproxy-admin", "1")], 403, 403),
            (&[("origin", "http://127.0.0.1:8080"), ("origin", "http://attacker.test")], 400, 400),
            (&[("sec-fetch-site", "same-origin")], 200, 200),
            (&[("sec-fetch-site", "none")], 200, 403),
            (&[("sec-fetch-site", "same-site")], 403, 403),
            (&[("sec-fetch-site", "cross-site")], 403, 403),
            (&[("sec-fetch-site", "cross-site"), ("x-netproxy-admin", "1")], 403, 403),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:8080")], 403, 403),
            // Browsers that say neither.
            (&[("referer", "http://attacker.test/")], 200, 403),
            (&[("user-agent", "Mozilla/5.0")], 200, 403),
            (&[("user-agent", "Mozilla/5.0"), ("x-netproxy-admin", "1")], 200, 200),
            (&[("user-agent", "curl/8.5.0")], 200, 200),
        ] {
            let fields: Vec<_> = std::iter::once(own).chain(fields.iter().copied()).collect();
            assert_eq!((status(&fields, &[], false), status(&fields, &[], true)), (read, write), "{fields:?}");
        }
    }

    #[test]
    fn a_program_shows_no_sign_of_a_browser() {
        for (name, value, expected) in [
            ("user-agent", "curl/8.5.0", true),
            ("user-agent", "python-requests/2.32.3", true),
            ("authorization", "Bearer x", true),
            ("x-netproxy-admin", "1", true),
            ("origin", "http://attacker.test", false),
            ("origin", "http://127.0.0.1:8080", false),
            ("origin", "null", false),
            ("referer", "http://attacker.test/", false),
            ("cookie", "a=b", false),
            ("sec-fetch-site", "none", false),
            ("sec-fetch-mode", "no-cors", false),
            ("sec-fetch-dest", "empty", false),
            ("sec-ch-ua", "x", false),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)", false),
        ] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
            assert_eq!(is_of_a_program(&headers), expected, "{name}: {value}");
        }
        assert!(is_of_a_program(&HeaderMap::new()));
    }
}
