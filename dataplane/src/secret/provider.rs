//! The credentials that are known without a word of the policy: which variables hold them, where they go, and how they are sent.

use super::binding::{Binding, is_below};
use super::dummy::Shape;
use crate::parse::target::Target;
use policy_format::Host;

/// An authentication scheme of `Authorization` (RFC 9110, section 11.1). Schemes are compared without regard to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// RFC 6750.
    Bearer,
    /// As GitHub's interfaces accept it.
    Token,
    /// RFC 7617, with the credential as user or as password.
    Basic,
}

/// A kind of credential.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Provider {
    /// Its name in messages.
    pub(super) id: &'static str,
    /// Variables of the environment that hold one.
    pub(super) variables: &'static [&'static str],
    /// Hosts that it goes to, on any port.
    pub(super) hosts: &'static [&'static str],
    /// All hosts below these, which begin with a dot.
    pub(super) below: &'static [&'static str],
    /// The variable that names one host more.
    pub(super) named_by: Option<Named>,
    /// How dummies look.
    pub(super) shape: Shape,
    /// How it is sent.
    pub(super) schemes: &'static [Scheme],
}

/// A variable that names a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// By its name. Hosts of `unless` belong to that provider.
    Host { variable: &'static str, unless: &'static Provider },
    /// By the `https` URL of an interface; so does the setting of the policy.
    Url { variable: &'static str },
}

const GITHUB_SHAPE: Shape = Shape::Listed { known: &["github_pat_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"], other: "ghp_", least: 40 };
const GITHUB_SCHEMES: &[Scheme] = &[Scheme::Bearer, Scheme::Token, Scheme::Basic];

pub(super) static GITHUB: Provider = Provider {
    id: "github",
    variables: &["GH_TOKEN", "GITHUB_TOKEN"],
    hosts: &["api.github.com", "github.com", "uploads.github.com"],
    below: &[".ghe.com"],
    named_by: None,
    shape: GITHUB_SHAPE,
    schemes: GITHUB_SCHEMES,
};

pub(super) static GITHUB_ENTERPRISE: Provider = Provider {
    id: "github-enterprise",
    variables: &["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"],
    hosts: &[],
    below: &[],
    named_by: Some(Named::Host { variable: "GH_HOST", unless: &GITHUB }),
    shape: GITHUB_SHAPE,
    schemes: GITHUB_SCHEMES,
};

pub(super) static OPENAI: Provider = Provider {
    id: "openai",
    variables: &["OPENAI_API_KEY"],
    hosts: &["api.openai.com"],
    below: &[],
    named_by: Some(Named::Url { variable: "OPENAI_BASE_URL" }),
    shape: Shape::Worded { first: "sk-", least: 51 },
    schemes: &[Scheme::Bearer],
};

/// All of them, in the order in which they are listed to children.
pub(super) static PROVIDERS: &[&Provider] = &[&GITHUB, &GITHUB_ENTERPRISE, &OPENAI];

impl Provider {
    fn has(&self, host: &Host) -> bool {
        host.name().is_some_and(|name| self.hosts.contains(&name.as_str())) || is_below(host, self.below)
    }

    /// Where its credentials go in an environment; `None` where there is no such place. `configured` is the URL of the policy, if it names one.
    pub(super) fn binding<'v>(&self, configured: Option<&str>, variable: impl Fn(&str) -> Option<&'v str>) -> Option<Binding> {
        let mut hosts: Vec<Host> = self.hosts.iter().filter_map(|host| Host::parse(host).ok()).collect();
        let more = match &self.named_by {
            None => [None, None],
            Some(Named::Host { variable: name, unless }) => [variable(name).and_then(named_host).filter(|host| !unless.has(host)), None],
            Some(Named::Url { variable: name }) => [configured.and_then(https_host), variable(name).and_then(https_host)],
        };
        for host in more.into_iter().flatten() {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        (!hosts.is_empty() || !self.below.is_empty()).then_some(Binding::Hosts { hosts, below: self.below })
    }

    /// Whether the policy may name a host for it too.
    pub(super) fn is_configured(&self) -> bool {
        matches!(self.named_by, Some(Named::Url { .. }))
    }

    /// Why there is no such place.
    pub(super) fn unbound(&self) -> &'static str {
        match self.named_by {
            Some(Named::Host { .. }) => "`GH_HOST` does not name the host that it is for",
            Some(Named::Url { .. }) | None => "it is for no host",
        }
    }
}

/// The host of `GH_HOST`, which may have a port. Credentials go to it on any port.
fn named_host(text: &str) -> Option<Host> {
    let target = Target::parse(text.trim(), Some(443)).ok();
    // IPv6 without brackets is an address too.
    usable(target.map(|target| target.host).or_else(|| Host::parse(text).ok())?)
}

/// The host of an `https` URL without user and password.
fn https_host(url: &str) -> Option<Host> {
    let (scheme, rest) = url.trim().split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") || !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    usable(Target::parse(authority, Some(443)).ok()?.host)
}

fn usable(host: Host) -> Option<Host> {
    match host {
        Host::NumericLookalike(_) => None,
        Host::Name(_) | Host::Ip(_) => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(host: &Host) -> String {
        match host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) | Host::NumericLookalike(name) => name.as_str().to_owned(),
        }
    }

    #[test]
    fn urls_name_hosts_if_they_are_https_and_nothing_else() {
        let cases = [
            ("https://gateway.example.com/v1", Some("gateway.example.com")),
            ("https://gateway.example.com./v1", Some("gateway.example.com")),
            ("https://GATEWAY.example.com:8443", Some("gateway.example.com")),
            ("https://gateway.example.com?x=@evil.example", Some("gateway.example.com")),
            ("https://gateway.example.com#@evil.example", Some("gateway.example.com")),
            ("HTTPS://gateway.example.com", Some("gateway.example.com")),
            (" https://gateway.example.com/v1 ", Some("gateway.example.com")),
            ("https://[2001:db8::1]/v1", Some("2001:db8::1")),
            ("https://192.0.2.7/v1", Some("192.0.2.7")),
            ("http://gateway.example.com/v1", None),
            ("https://user@gateway.example.com/v1", None),
            ("https://user:password@gateway.example.com/v1", None),
            ("https://gateway.example.com\\@evil.example", None),
            ("https://gateway.example.com\t/v1", None),
            ("https://gateway.example.com:0/", None),
            ("https://2130706433/", None),
            ("https:///v1", None),
            ("https:gateway.example.com", None),
            ("gateway.example.com", None),
            ("not-a-url", None),
            ("", None),
        ];
        for (url, expected) in cases {
            assert_eq!(https_host(url).as_ref().map(text).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn gh_host_is_a_host() {
        let cases = [
            ("github.example.com", Some("github.example.com")),
            (" GitHub.Example.com. ", Some("github.example.com")),
            ("github.example.com:8443", Some("github.example.com")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("", None),
            ("  ", None),
            ("https://github.example.com", None),
            ("user@github.example.com", None),
            ("github.example.com/path", None),
            ("127.1", None),
        ];
        for (value, expected) in cases {
            assert_eq!(named_host(value).as_ref().map(text).as_deref(), expected, "{value}");
        }
    }
}
