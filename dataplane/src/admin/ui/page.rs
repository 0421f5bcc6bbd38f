//! The page. All of it is written through `html!`, which escapes whatever is put into it: hosts and clients are what strangers choose.

use super::super::model::{BlockedRequest, Change, Mode, Policy, Tunnel, Tunnels};
use super::chart::{self, Line};
use super::overview::{Overview, Times, TopBlocked};
use super::text::{Age, Bytes, Count, Micros, PROTOCOLS, clock, known, seconds};
use maud::{DOCTYPE, Markup, Render, html};
use serde_json::{Map, json};

/// Rows of what was blocked lately, for those who have no JavaScript and until there is something new.
const RECENT: usize = 30;
/// Digits of a digest that people compare.
const DIGITS: usize = 12;
/// What became of a request, for people.
const VERDICTS: &[(&str, &str)] = &[("allow", "Allowed"), ("deny", "Blocked"), ("ask", "Asked")];
/// Why it was blocked; reasons of an embedding program are shown as they are.
const REASONS: &[(&str, &str)] = &[
    ("proxy_disabled", "the policy is off"),
    ("denied", "denied by a rule"),
    ("not_allowed_local", "not a public address"),
    ("not_allowed", "no rule allows it"),
    ("method_not_allowed", "only reading is allowed"),
    ("mitm_required", "it cannot be read, and has to be"),
    ("mitm_hook_denied", "no hook matches"),
    ("policy_denied", "the policy forbids it"),
];

macro_rules! render {
    ($($name:ident),+) => {$(
        impl Render for $name {
            fn render_to(&self, out: &mut String) {
                self.to_string().render_to(out);
            }
        }
    )+};
}
render!(Count, Bytes, Micros, Age);

/// What the page shows.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// Hosts that were blocked, and what was done in the last minutes.
    pub(crate) overview: &'a Overview,
    /// The policy in force.
    pub(crate) policy: &'a Policy,
    /// Open tunnels.
    pub(crate) tunnels: &'a Tunnels,
    /// What was blocked lately, the oldest first.
    pub(crate) recent: &'a [BlockedRequest],
    /// Client connections that are open.
    pub(crate) connections: u64,
    /// Whether whoever asks may change anything.
    pub(crate) may_write: bool,
    /// Whether the page was asked for with a token, which it can forget.
    pub(crate) has_token: bool,
    /// Seconds after which the page is asked for again, for those who have no JavaScript.
    pub(crate) refresh: Option<u64>,
    /// Milliseconds since 1970.
    pub(crate) now_ms: u64,
}

/// The whole page.
pub(crate) fn page(page: &Page<'_>) -> String {
    let Page { overview, policy, tunnels, .. } = *page;
    let access = if page.may_write { "write" } else { "read" };
    let body = html! {
        a.skip href="#main" { "Skip to what is blocked and allowed" }
        header {
            div.brand {
                h1 { "netproxy" }
                p.state data-part="state" id="state" { (state(policy)) }
            }
            nav aria-label="Sections" {
                a href="#live" { "Live" }
                a href="#blocked" { "Blocked" }
                a href="#tunnels" { "Tunnels" }
                a href="#policy" { "Policy" }
            }
            div.controls data-part="controls" id="controls" { (controls(page)) }
        }
        noscript { p.hint {
            "This is what it was when you asked. "
            a href="/ui" { "Ask again" }
            ", or have it "
            a href="/ui?refresh=10" { "asked every ten seconds" }
            ". What is allowed shows here only with JavaScript, and so do the buttons."
        } }
        p #said role="status" {}
        main #main tabindex="-1" {
            section.numbers data-part="numbers" id="numbers" aria-label="Now" { (numbers(page)) }
            section.charts data-part="charts" id="charts" aria-label="The last minutes" { (charts(overview)) }
            section.wide #live aria-labelledby="live-title" { (live(page)) }
            section.wide data-part="blocked" id="blocked" aria-labelledby="blocked-title" { (blocked(page)) }
            section.wide data-part="tunnels" id="tunnels" aria-labelledby="tunnels-title" { (open_tunnels(page, tunnels)) }
            section.wide data-part="policy" id="policy" aria-labelledby="policy-title" { (in_force(page)) }
        }
        footer {
            p {
                "netproxy " (env!("CARGO_PKG_VERSION")) " · "
                a href="/metrics" { "Metrics" } " · "
                a href="/v1/openapi.json" { "API" }
                @if page.has_token { " · " button.link type="button" data-act="forget" { "Forget the token" } }
            }
        }
        template #row data-words=(words()) { (row(None)) }
    };
    document(access, page.refresh, &body)
}

/// What who has no token sees.
pub(crate) fn locked() -> String {
    let body = html! {
        header { div.brand { h1 { "netproxy" } } }
        p #said role="status" {}
        main.locked #main tabindex="-1" {
            h2 { "The admin API asks for a token" }
            form #unlock {
                label for="token" { "Token" }
                input #token type="password" autocomplete="off" spellcheck="false" required aria-describedby="token-help";
                button.primary type="submit" { "Show" }
                p.quiet #token-help { "It stays in this tab, and is gone when the tab is closed." }
            }
            noscript { p {
                "Without JavaScript, a browser cannot send it. "
                code { "netproxy-dp top --admin-token-file FILE" }
                " shows the same in a terminal."
            } }
        }
    };
    document("locked", None, &body)
}

fn document(access: &str, refresh: Option<u64>, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "netproxy" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                @if let Some(seconds) = refresh { noscript { meta http-equiv="refresh" content=(seconds); } }
                link rel="icon" href="/ui/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/ui/app.css";
                script src="/ui/app.js" defer {}
            }
            body data-access=(access) { (body) }
        }
    };
    page.into_string()
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Full => "full",
        Mode::Limited => "limited",
    }
}

fn state(policy: &Policy) -> Markup {
    html! {
        @if policy.withdrawn || policy.network == "blocked" { strong { "Everything is blocked" } } @else { "Mode " strong { (mode(policy.mode.mode)) } }
        " · policy " (policy.generation)
        @if policy.last_error.is_some() && !policy.withdrawn { " · " a href="#policy" { strong { "the last reload was refused" } } }
    }
}

fn controls(page: &Page<'_>) -> Markup {
    if !page.may_write {
        return html! { p.quiet { "This token may only read." } };
    }
    let state = &page.policy.mode;
    let choice = |wanted: Mode, name: &str| {
        let is_looser = wanted == Mode::Full && !state.may_be_full;
        let why = || match &state.required_by {
            Some(layer) => format!("The {layer} layer requires limited mode"),
            None => "The policy says limited, and not whether a requirement does: it was compiled by an older version".to_owned(),
        };
        html! {
            button type="button" data-act="mode" data-mode=(mode(wanted)) aria-pressed=(state.mode == wanted) disabled[is_looser]
                title=[is_looser.then(why)] id={ "mode-" (mode(wanted)) } { (name) }
        }
    };
    html! {
        div.choice role="group" aria-label="Mode" {
            (choice(Mode::Full, "Full"))
            (choice(Mode::Limited, "Limited"))
        }
        @if state.wanted.is_some() { button #mode-policy type="button" data-act="mode" data-mode="" { "As the policy says" } }
        button #reload type="button" data-act="reload" { "Reload the policy" }
    }
}

fn numbers(page: &Page<'_>) -> Markup {
    let series = &page.overview.series;
    let last = |values: &[u64]| values.last().copied().unwrap_or_default();
    let first_byte = series
        .times
        .iter()
        .find(|times| times.what == "first_byte")
        .and_then(|times| times.p99.iter().rev().copied().find_map(|time| time));
    html! {
        dl {
            div { dt { "Allowed" } dd { (Count(last(&series.allowed))) span.unit { "/s" } } }
            div.is-denied { dt { "Blocked" } dd { (Count(last(&series.denied))) span.unit { "/s" } } }
            div { dt { "Tunnels" } dd { (Count(page.tunnels.total)) } }
            div { dt { "Connections" } dd { (Count(page.connections)) } }
            div { dt { "Down" } dd { (Bytes(last(&series.down))) span.unit { "/s" } } }
            div { dt { "Up" } dd { (Bytes(last(&series.up))) span.unit { "/s" } } }
            div { dt { "First byte, p99" } dd { @match first_byte { Some(time) => (Micros(time)), None => "–" } } }
        }
    }
}

fn charts(overview: &Overview) -> Markup {
    let series = &overview.series;
    let count = |value: f64| format!("{}/s", Count(whole(value)));
    let bytes = |value: f64| format!("{}/s", Bytes(whole(value)));
    let micros = |value: f64| Micros(whole(value)).to_string();
    let numbers = |values: &[u64]| values.iter().map(|value| Some(*value as f64)).collect::<Vec<_>>();
    let times = |what: &str, of: fn(&Times) -> &Vec<Option<u64>>| {
        let times = series.times.iter().find(|times| times.what == what);
        times.map_or_else(Vec::new, |times| of(times).iter().map(|value| value.map(|value| value as f64)).collect())
    };
    html! {
        (chart::chart("Requests and tunnels", &count, &[
            Line { name: "allowed", class: "one", values: numbers(&series.allowed) },
            Line { name: "blocked", class: "denied", values: numbers(&series.denied) },
        ]))
        (chart::chart("Bytes", &bytes, &[
            Line { name: "down", class: "one", values: numbers(&series.down) },
            Line { name: "up", class: "two", values: numbers(&series.up) },
        ]))
        (chart::chart("Time to the first byte", &micros, &[
            Line { name: "median", class: "one", values: times("first_byte", |times| &times.p50) },
            Line { name: "p99", class: "two", values: times("first_byte", |times| &times.p99) },
        ]))
        (chart::chart("Time to connect", &micros, &[
            Line { name: "median", class: "one", values: times("connect", |times| &times.p50) },
            Line { name: "p99", class: "two", values: times("connect", |times| &times.p99) },
        ]))
    }
}

/// A number of a chart as it was before it was drawn.
#[expect(clippy::cast_possible_truncation, reason = "it was whole, and a cast to an integer saturates")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn live(page: &Page<'_>) -> Markup {
    html! {
        div.head {
            h2 #live-title { "Live" }
            fieldset.filter {
                legend.unseen { "Which decisions are shown" }
                @for (value, name) in [("all", "All"), ("deny", "Blocked"), ("allow", "Allowed")] {
                    label { input type="radio" name="show" value=(value) checked[value == "all"]; span { (name) } }
                }
            }
            button #pause type="button" data-act="pause" aria-pressed="false" { "Pause" }
            p.quiet #live-state { "what was blocked lately" }
        }
        p.unseen #live-said role="status" aria-live="polite" {}
        div.rows role="group" aria-label="Decisions" tabindex="0" {
            table role="table" {
                caption.unseen { "Decisions, the latest first. Times are in UTC." }
                thead role="rowgroup" { tr role="row" {
                    @for name in ["Time", "Verdict", "Host", "Request", "Client", "Why"] { th role="columnheader" scope="col" { (name) } }
                } }
                tbody #live-rows role="rowgroup" {
                    @for request in page.recent.iter().rev().take(RECENT) { (row(Some(request))) }
                }
            }
        }
        p.empty #live-empty hidden[!page.recent.is_empty()] { "Nothing yet." }
    }
}

/// The tables by which the script calls things as this page does, as JSON.
fn words() -> String {
    let object = |table: &[(&str, &str)]| table.iter().map(|(name, said)| ((*name).to_owned(), (*said).into())).collect::<Map<_, _>>();
    json!({ "verdicts": object(VERDICTS), "protocols": object(PROTOCOLS), "reasons": object(REASONS) }).to_string()
}

/// How it was asked for: `CONNECT` is a method and what its protocol is called, which is said once.
fn asked(method: Option<&str>, protocol: &str) -> String {
    let protocol = known(PROTOCOLS, protocol);
    match method {
        Some(method) if method != protocol => format!("{method} {protocol}"),
        _ => protocol.to_owned(),
    }
}

/// A row of the live table, or what the script makes one of.
fn row(request: Option<&BlockedRequest>) -> Markup {
    let text = |of: &dyn Fn(&BlockedRequest) -> String| request.map(of).unwrap_or_default();
    let verdict = request.map_or("allow", |request| &request.decision);
    html! {
        tr role="row" data-verdict=(verdict) {
            td role="cell" data-label="Time" data-field="time" { (text(&|request| clock(request.timestamp))) }
            td role="cell" data-label="Verdict" { span.verdict data-field="verdict" { (request.map_or("", |request| known(VERDICTS, &request.decision))) } }
            td.host role="cell" data-label="Host" data-field="host" { (text(&|request| authority(&request.host, request.port))) }
            td role="cell" data-label="Request" data-field="request" { (text(&|request| asked(request.method.as_deref(), &request.protocol))) }
            td role="cell" data-label="Client" data-field="client" { (text(&|request| request.client.clone().unwrap_or_default())) }
            td role="cell" data-label="Why" data-field="why" { (text(&|request| known(REASONS, &request.reason).to_owned())) }
        }
    }
}

fn blocked(page: &Page<'_>) -> Markup {
    let Overview { blocked, not_counted, .. } = page.overview;
    let row = |top: &TopBlocked| {
        let last = &top.last;
        let host = authority(&last.host, last.port);
        html! {
            tr role="row" {
                th.host role="rowheader" scope="row" data-label="Host" { (host) }
                td.number role="cell" data-label="Count" { (Count(top.count)) }
                td role="cell" data-label="Last" { (ago(page, last.timestamp)) }
                td role="cell" data-label="Reason" { (known(REASONS, &last.reason)) " " code.quiet { (last.reason) } }
                td role="cell" data-label="Rule" {
                    @match &last.rule {
                        Some(rule) => { code { (rule) } @if let Some(place) = &last.place { br; span.quiet { (place) } } }
                        None => { span.quiet { "no rule" } }
                    }
                }
                td role="cell" data-label="To allow it" { (remedy(&format!("{host}-{}", last.reason), &host, last.change.as_ref())) }
            }
        }
    };
    html! {
        div.head { h2 #blocked-title { "Blocked most" } p.quiet { "since the start" @if *not_counted > 0 { ", and " (Count(*not_counted)) " more that are not among these" } } }
        @if blocked.is_empty() { p.empty { "Nothing was blocked." } } @else {
            table role="table" {
                caption.unseen { "Hosts that were blocked, those that were blocked most first, and what would allow them" }
                thead role="rowgroup" { tr role="row" {
                    @for name in ["Host", "Count", "Last", "Reason", "Rule", "To allow it"] { th role="columnheader" scope="col" .number[name == "Count"] { (name) } }
                } }
                tbody role="rowgroup" { @for top in blocked { (row(top)) } }
            }
        }
    }
}

/// What would let it pass.
fn remedy(id: &str, host: &str, change: Option<&Change>) -> Markup {
    let Some(change) = change else { return html! { span.quiet { "No single line allows it." } } };
    html! {
        @if let Some(only) = &change.only {
            p.only { strong { "Only the " (only) " layer" } " can change this" @match &change.place { Some(place) => { ": the rule is in " (place) }, None => { ". " (change.help) } } }
        } @else if let Some(toml) = &change.toml {
            @if let Some(table) = &change.table { code.quiet { (table) } br; }
            span.copy {
                code.line { (toml) }
                button type="button" data-act="copy" data-text=(toml) aria-label={ "Copy the line that allows " (host) } id={ "copy-" (id) } { "Copy" }
            }
            @if let Some(place) = &change.place { p.quiet { "instead of the line at " (place) } }
        } @else { p { (change.help) } }
    }
}

fn open_tunnels(page: &Page<'_>, tunnels: &Tunnels) -> Markup {
    let row = |tunnel: &Tunnel| {
        let host = authority(&tunnel.host, tunnel.port);
        html! {
            tr role="row" {
                th.host role="rowheader" scope="row" data-label="Host" { (host) }
                td role="cell" data-label="Client" { (tunnel.client) }
                td role="cell" data-label="Protocol" { (known(PROTOCOLS, &tunnel.protocol)) }
                td.number role="cell" data-label="Age" { (Age(page.now_ms.saturating_sub(tunnel.opened_ms) / 1_000)) }
                td.number role="cell" data-label="Up" { (Bytes(tunnel.up)) }
                td.number role="cell" data-label="Down" { (Bytes(tunnel.down)) }
                @if page.may_write {
                    td role="cell" data-label="" {
                        button type="button" data-act="close" data-id=(tunnel.id) id={ "close-" (tunnel.id) } aria-label={ "Close the tunnel of " (tunnel.client) " to " (host) } { "Close" }
                    }
                }
            }
        }
    };
    html! {
        div.head {
            h2 #tunnels-title { "Tunnels" }
            p.quiet { (Count(tunnels.total)) " open" @if (tunnels.tunnels.len() as u64) < tunnels.total { ", of which these are the first " (tunnels.tunnels.len()) } }
        }
        @if tunnels.tunnels.is_empty() { p.empty { "None is open." } } @else {
            table role="table" {
                caption.unseen { "Open tunnels" }
                thead role="rowgroup" { tr role="row" {
                    @for name in ["Host", "Client", "Protocol", "Age", "Up", "Down"] { th role="columnheader" scope="col" .number[matches!(name, "Age" | "Up" | "Down")] { (name) } }
                    @if page.may_write { th role="columnheader" scope="col" { span.unseen { "Close" } } }
                } }
                tbody role="rowgroup" { @for tunnel in &tunnels.tunnels { (row(tunnel)) } }
            }
        }
    }
}

fn in_force(page: &Page<'_>) -> Markup {
    let policy = page.policy;
    let short = policy.digest.get(..DIGITS).unwrap_or(&policy.digest);
    html! {
        div.head { h2 #policy-title { "Policy" } }
        @if let Some(error) = &policy.last_error {
            p.error role="alert" {
                @if policy.withdrawn { strong { "Everything is blocked until a good policy is loaded. " } } @else { strong { "The last reload was refused; the policy in force stays. " } }
                (error)
            }
        }
        dl.facts {
            div { dt { "Digest" } dd { code title=(policy.digest) { (short) "…" } } }
            div { dt { "Generation" } dd { (policy.generation) } }
            div { dt { "In force since" } dd { (policy.loaded) @if let Some(at) = seconds(&policy.loaded) { " (" (ago(page, at)) ")" } } }
            div { dt { "Profile" } dd { (policy.profile) @if policy.profiles.len() > 1 { " of " (policy.profiles.join(", ")) } } }
            div { dt { "Network" } dd { (policy.network) } }
            div { dt { "Mode" } dd {
                (mode(policy.mode.mode))
                @match policy.mode.wanted {
                    Some(wanted) if wanted == policy.mode.mode => { ", as switched here; the policy says " (mode(policy.mode.policy_mode)) }
                    Some(wanted) => { ", held by the policy; switched here: " (mode(wanted)) }
                    None => { ", as the policy says" }
                }
                @if let Some(layer) = &policy.mode.required_by { ", required by the " (layer) " layer" }
            } }
            div { dt { "Rules" } dd { (Count(policy.rules.into())) @if policy.hooks > 0 { ", and " (policy.hooks) " hooks" } } }
            div { dt { "Size" } dd { (Bytes(policy.bytes)) ", format " (policy.format) } }
            @if let Some(file) = &policy.file { div { dt { "File" } dd { code { (file) } } } }
            div { dt { "Layers that have rules or hold something, strongest first" } dd {
                @if policy.layers.is_empty() { "none" } @else { ol {
                    @for layer in &policy.layers { li {
                        strong { (layer.layer) }
                        @for file in &layer.files { " " code { (file) } }
                        @for demand in &layer.holds { ", holds " code { (demand) } }
                    } }
                } }
            } }
        }
    }
}

fn ago(page: &Page<'_>, at: i64) -> String {
    let now = i64::try_from(page.now_ms / 1_000).unwrap_or(i64::MAX);
    format!("{} ago", Age(u64::try_from(now.saturating_sub(at)).unwrap_or_default()))
}

/// A host with its port, as URLs write it.
fn authority(host: &str, port: u16) -> String {
    match port {
        0 => host.to_owned(),
        _ if host.contains(':') => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::{Protocol, Reason};

    #[test]
    fn what_is_a_method_and_a_protocol_is_said_once() {
        let said = [(Some("CONNECT"), "https_connect"), (Some("GET"), "http"), (None, "socks5_tcp")]
            .map(|(method, protocol)| asked(method, protocol));
        assert_eq!(said, ["CONNECT", "GET HTTP", "SOCKS5"]);
    }

    #[test]
    fn there_is_a_word_for_each_name() {
        assert!(Protocol::NAMES.iter().eq(PROTOCOLS.iter().map(|(name, _)| name)));
        assert!(Reason::ALL.iter().map(|reason| reason.as_str()).eq(REASONS.iter().map(|(name, _)| *name)));
        assert_eq!((known(REASONS, "denied"), known(REASONS, "not_approved")), ("denied by a rule", "not_approved"));
    }
}
