//! Which routes there are: one table, which requests are looked up in and which the OpenAPI document is made of.

use super::access::Scope;
use super::events;
use super::reply::JSON;
use crate::audit::feed::RING;
use policy_format::Protocol;

/// Text of Prometheus.
pub(super) const METRICS: &str = "text/plain";
/// The same in the later format.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text";

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    Health,
    Ready,
    Config,
    Patterns,
    Blocked,
    DrainBlocked,
    Policy,
    Explain,
    Tunnels,
    CloseTunnel,
    Events,
    Metrics,
    Stats,
    Overview,
    Mode,
    Reload,
    Drain,
    OpenApi,
}

/// A parameter of a query.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "the document has it"))]
    pub(super) kind: Kind,
    #[cfg_attr(not(test), expect(dead_code, reason = "the document has it"))]
    pub(super) required: bool,
    #[cfg_attr(not(test), expect(dead_code, reason = "the document has it"))]
    pub(super) doc: &'static str,
}

/// What its value is.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "the document has it"))]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// A number within bounds.
    Number(u64, u64),
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// A route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    /// Behind `/v1`; `{id}` stands for a number.
    pub(super) path: &'static str,
    pub(super) does: Does,
    pub(super) scope: Scope,
    /// What is answered.
    pub(super) kinds: &'static [&'static str],
    pub(super) parameters: &'static [Parameter],
    /// Whether there has to be a body.
    pub(super) body: bool,
    #[cfg_attr(not(test), expect(dead_code, reason = "the document has it"))]
    pub(super) doc: &'static str,
}

const fn text(name: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Text, required: false, doc }
}

const fn number(name: &'static str, least: u64, most: u64, doc: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Number(least, most), required: false, doc }
}

const fn get(path: &'static str, does: Does, parameters: &'static [Parameter], doc: &'static str) -> Route {
    Route { method: "GET", path, does, scope: Scope::Read, kinds: &[JSON], parameters, body: false, doc }
}

const fn write(method: &'static str, path: &'static str, does: Does, doc: &'static str) -> Route {
    Route { method, path, does, scope: Scope::Write, kinds: &[JSON], parameters: &[], body: false, doc }
}

/// The largest number that JSON is sure to keep.
pub(super) const MAX_SAFE: u64 = (1 << 53) - 1;

/// All of them.
pub(super) const ROUTES: &[Route] = &[
    get("/health", Does::Health, &[], "It runs: its version, its policy in short, and what the process is."),
    get(
        "/ready",
        Does::Ready,
        &[],
        "Whether new requests should be sent here. 503: it drains, its policy lets nothing through, or new requests are refused, or wait, because the audit queue is full.",
    ),
    get("/config", Does::Config, &[], "What is in force: listeners, mode, switches, limits. Never a secret."),
    get(
        "/patterns",
        Does::Patterns,
        &[
            number("after", 0, u32::MAX as u64, "The number of the last rule of the page before."),
            number("limit", 1, super::views::MOST, "How many rules at most; 100 unless it is set."),
            text("contains", "Only rules whose hosts have this in them."),
        ],
        "Rules of the profile in force, a page at a time.",
    ),
    get(
        "/blocked",
        Does::Blocked,
        &[
            number(
                "since",
                0,
                MAX_SAFE,
                "`next` of the answer before. One that is yet to come is of a process before this one, and stands for 0.",
            ),
            number("limit", 1, RING as u64, "How many at most; all that are kept unless it is set."),
        ],
        "What was refused lately, the oldest first. Asking takes nothing away.",
    ),
    write("POST", "/blocked/drain", Does::DrainBlocked, "Forgets what was refused."),
    get("/policy", Does::Policy, &[], "The policy in force: digest, generation, layers, and why the last reload was refused, if it was."),
    get(
        "/explain",
        Does::Explain,
        &[
            Parameter {
                name: "request",
                kind: Kind::Text,
                required: true,
                doc: "A request in words, as `netpolicy explain` reads it: `GET https://example.com/x`, `CONNECT example.com:443`, `socks example.com:22`, `example.com`.",
            },
            text("addresses", "What the host resolves to, separated by commas: they are looked at too. No name is looked up."),
        ],
        "What the policy in force says of a request, and why.",
    ),
    get(
        "/tunnels",
        Does::Tunnels,
        &[
            number("after", 0, MAX_SAFE, "The number of the last tunnel of the page before."),
            number("limit", 1, super::views::MOST, "How many at most; 100 unless it is set."),
        ],
        "What is open, a page at a time.",
    ),
    write("DELETE", "/tunnels/{id}", Does::CloseTunnel, "Closes a tunnel."),
    write("POST", "/tunnels/{id}/close", Does::CloseTunnel, "Closes a tunnel, for who cannot say DELETE."),
    Route {
        kinds: &[events::KIND],
        ..get(
            "/events",
            Does::Events,
            &[
                Parameter {
                    name: "decision",
                    kind: Kind::OneOf(&["allow", "deny", "ask"]),
                    required: false,
                    doc: "Only decisions of this outcome.",
                },
                text("reason", "Only what was decided for this reason."),
                text("host", "Only what is about this host, or, after `*.`, about what is below it."),
                Parameter {
                    name: "protocol",
                    kind: Kind::OneOf(Protocol::NAMES),
                    required: false,
                    doc: "Only what was asked for in this way.",
                },
            ],
            "Events as they come, each a line of JSON as the audit log has it (`text/event-stream`). With `Last-Event-ID`, refusals that were missed come first.",
        )
    },
    Route { kinds: &[METRICS, OPENMETRICS], ..get("/metrics", Does::Metrics, &[], "Counters, as Prometheus reads them.") },
    get("/stats", Does::Stats, &[], "The most important counters as JSON, for dashboards."),
    get(
        "/overview",
        Does::Overview,
        &[],
        "What the dashboard shows beyond the rest: hosts that were blocked most, with what would allow them, and how much was done in each of the last seconds.",
    ),
    Route {
        body: true,
        ..write(
            "POST",
            "/mode",
            Does::Mode,
            "Sets the mode, or, with null, takes that back. Never looser than what administrators require in the policy.",
        )
    },
    write(
        "POST",
        "/reload",
        Does::Reload,
        "Looks at the policy file now, and says what came of it. 422: it was refused, and the policy in force stays.",
    ),
    write("POST", "/drain", Does::Drain, "Accepts no more, finishes what is open, and ends."),
    get("/openapi.json", Does::OpenApi, &[], "This document."),
];

/// What a path leads to.
#[derive(Debug)]
pub(super) struct Found {
    /// Its routes, by their methods.
    pub(super) routes: Vec<&'static Route>,
    /// What stands for `{id}`.
    pub(super) id: Option<u64>,
}

impl Found {
    /// The methods, as `Allow` has them.
    pub(super) fn allow(&self) -> String {
        let mut methods: Vec<&str> = Vec::new();
        for route in &self.routes {
            methods.push(route.method);
            if route.method == "GET" {
                methods.push("HEAD");
            }
        }
        methods.push("OPTIONS");
        methods.join(", ")
    }

    /// The route of a method; HEAD is GET without what it would say.
    pub(super) fn route(&self, method: &str) -> Option<&'static Route> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.routes.iter().copied().find(|route| route.method == method)
    }
}

/// Looks a path up, with `/v1` or, as the proxy whose API this knows had it, without.
pub(super) fn find(path: &str) -> Option<Found> {
    let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let mut found = Found { routes: Vec::new(), id: None };
    for route in ROUTES {
        if let Some(id) = matches(route.path, path) {
            found.routes.push(route);
            found.id = id;
        }
    }
    (!found.routes.is_empty()).then_some(found)
}

/// Whether a path is that of a route; what stands for `{id}` if there is one.
fn matches(route: &str, path: &str) -> Option<Option<u64>> {
    let Some((before, after)) = route.split_once("{id}") else { return (route == path).then_some(None) };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    // Of one spelling.
    let number: u64 = id.parse().ok().filter(|number: &u64| number.to_string() == id)?;
    Some(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_route_is_found_under_both_of_its_paths() {
        for route in ROUTES {
            let path = route.path.replace("{id}", "7");
            for path in [path.clone(), format!("/v1{path}")] {
                let found = find(&path).unwrap();
                assert_eq!(found.route(route.method).map(|route| route.does), Some(route.does), "{path}");
                assert_eq!(found.id, route.path.contains("{id}").then_some(7), "{path}");
            }
        }
        let distinct: HashSet<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
        assert_eq!(distinct.len(), ROUTES.len());
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v2/health",
            "/v1/v1/health",
            "/healthz",
            "/health/",
            "//health",
            "/v1health",
            "/Health",
            "/tunnels/",
            "/tunnels/x",
            "/tunnels/-1",
            "/tunnels/+1",
            "/tunnels/07",
            "/tunnels/1/",
            "/tunnels/1/2/close",
            "/tunnels/18446744073709551616",
            "/tunnels//close",
            "*",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn what_changes_something_is_no_get_and_asks_for_the_scope() {
        for route in ROUTES {
            assert_eq!(route.method == "GET", route.scope == Scope::Read, "{}", route.path);
            assert_eq!(find(&route.path.replace("{id}", "1")).unwrap().allow().contains("HEAD"), route.method == "GET", "{}", route.path);
        }
        assert_eq!(find("/v1/health").unwrap().allow(), "GET, HEAD, OPTIONS");
        assert_eq!(find("/v1/tunnels/1").unwrap().allow(), "DELETE, OPTIONS");
        assert!(find("/mode").unwrap().route("HEAD").is_none());
    }
}
