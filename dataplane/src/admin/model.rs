//! What the admin API says and is told: one struct for each answer and each body.
//!
//! The OpenAPI document is made of these types, so that what is documented is what is sent; the dashboard and `netproxy-dp top` read them. Times are RFC 3339 in UTC with
//! milliseconds. What is not known, or does not apply, is left out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Declares types of the API alike: they are sent, read, compared and, for the document, described.
macro_rules! models {
    ($($(#[$meta:meta])* pub $kind:ident $name:ident { $($body:tt)* })+) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        $(#[$meta])*
        pub $kind $name { $($body)* }
    )+};
}

models! {
    /// `GET /v1/health`: it runs.
    pub struct Health {
        /// `ok`.
        pub status: String,
        /// The version of the program.
        pub version: String,
        /// Since when it serves.
        pub started: String,
        /// The policy in force.
        pub policy: HealthPolicy,
        /// What the process is: how it is confined, whether its memory is protected.
        #[serde(flatten)]
        pub process: Map<String, Value>,
    }

    /// The policy in force, in short.
    pub struct HealthPolicy {
        /// Which policy this is since the start, from 1.
        pub generation: u64,
        /// Its name for machines: 64 hexadecimal digits.
        pub digest: String,
        /// The profile that requests are decided under.
        pub profile: String,
        /// `proxied`; `blocked` or `direct` where nothing is let through.
        pub network: String,
        /// The mode in force.
        pub mode: Mode,
        /// How many rules the policy has, those of other profiles included.
        pub rules: u32,
        /// Why the last reload was refused, if it was.
        pub last_error: Option<String>,
    }

    /// `GET /v1/ready`: whether new requests should be sent here. With the status 503 where they should not.
    pub struct Ready {
        /// Whether they should.
        pub ready: bool,
        /// What it is doing.
        pub status: Readiness,
        /// Why it is not ready.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Which policy is in force.
        pub generation: u64,
    }

    /// What it is doing.
    #[derive(Copy, Eq)]
    #[serde(rename_all = "snake_case")]
    pub enum Readiness {
        /// It serves.
        Ready,
        /// It finishes what is open, and accepts no more.
        Draining,
        /// The policy in force lets nothing through: it says so, or the one before it was withdrawn.
        Blocked,
        /// New requests are refused: the queue of audit events is full and the policy wants that then, or the embedding program does.
        Refusing,
        /// Requests wait: the queue of audit events is full, and the policy wants that then.
        Waiting,
    }

    /// `full`: every method. `limited`: GET, HEAD and OPTIONS.
    #[derive(Copy, Eq)]
    #[serde(rename_all = "snake_case")]
    pub enum Mode {
        /// Every method.
        Full,
        /// GET, HEAD and OPTIONS.
        Limited,
    }

    /// `GET /v1/config`: what is in force. There is never a secret in it: URLs come without user and password, and of files there are the paths.
    pub struct Config {
        /// The profile that requests are decided under.
        pub profile: String,
        /// `proxied`, `blocked` or `direct`.
        pub network: String,
        /// The mode.
        pub mode: ModeState,
        /// Where it listens.
        pub listeners: Listeners,
        /// Who may use this API.
        pub admin: AdminAccess,
        /// What the policy switches on and off.
        pub switches: Switches,
        /// When TLS is opened, and where it stays closed.
        pub mitm: Mitm,
        /// Which unix sockets may be reached.
        pub unix_sockets: UnixSockets,
        /// Every limit by its name, in its unit: numbers, bytes, or milliseconds.
        pub limits: BTreeMap<String, u64>,
        /// Who is asked for addresses, in this order; nobody is the system.
        pub resolver: Vec<String>,
        /// The proxies that connections go through.
        pub upstream: Upstream,
        /// Where events go, and how that goes.
        pub audit: Audit,
        /// Threads that serve connections.
        pub workers: u32,
        /// The policy's file; none where it is built in, or was given by the embedding program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub policy_file: Option<String>,
    }

    /// Where events go, and how that goes.
    pub struct Audit {
        /// Events that may wait.
        pub queue: u64,
        /// Events that wait, about.
        pub queued: u64,
        /// Events that were told.
        pub told: u64,
        /// Events that there was no room for.
        pub lost: u64,
        /// Where they go.
        pub sinks: Vec<AuditSink>,
    }

    /// Where events go.
    pub struct AuditSink {
        /// Its name.
        pub name: String,
        /// Events that it was given.
        pub told: u64,
        /// Events that it has not written yet.
        pub pending: u64,
        /// Events that it has given up.
        pub lost: u64,
        /// Times that it failed.
        pub failures: u64,
        /// Whether it fails now.
        pub failing: bool,
    }

    /// Where it listens.
    pub struct Listeners {
        /// HTTP proxy.
        pub http: String,
        /// SOCKS5 proxy, unless it is off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub socks5: Option<String>,
        /// Admin API, unless it has no address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub admin: Option<String>,
        /// Admin API, as the path of a unix socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub admin_socket: Option<String>,
    }

    /// Who may use this API.
    pub struct AdminAccess {
        /// How a caller shows that it may.
        pub auth: AuthKind,
        /// The issuer that signed tokens must have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub issuer: Option<String>,
        /// The audience that signed tokens must be for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub audience: Option<String>,
        /// Names that callers may call this API by, beside addresses and `localhost`.
        pub hosts: Vec<String>,
    }

    /// How a caller shows that it may.
    #[derive(Copy, Eq)]
    #[serde(rename_all = "snake_case")]
    pub enum AuthKind {
        /// It is on this machine.
        None,
        /// By a token of a file.
        Token,
        /// By a signed token (HS256).
        Signed,
        /// By either.
        TokenOrSigned,
    }

    /// What the policy switches on and off.
    pub struct Switches {
        /// Whether addresses that are not public are open.
        pub allow_local_binding: bool,
        /// Whether connections may go through another proxy.
        pub allow_upstream_proxy: bool,
        /// Whether SOCKS5 clients may send datagrams.
        pub enable_socks5_udp: bool,
        /// Whether children get stand-ins for their credentials.
        pub credential_broker: bool,
        /// Whether those are replaced in requests that are not encrypted, too.
        pub dangerously_allow_plaintext_credential_injection: bool,
        /// Whether other machines may reach the proxy listeners.
        pub dangerously_allow_non_loopback_proxy: bool,
        /// Whether other machines may reach this API.
        pub dangerously_allow_non_loopback_admin: bool,
        /// What happens when a tunnel speaks of another server than the one that it was opened for: `enforce`, `log` or `off`.
        pub sni: String,
        /// Whether requests and responses carry `Via`.
        pub via: bool,
        /// Whether requests say whose they are: `pass`, `strip`, `x-forwarded-for` or `forwarded`.
        pub forwarded: String,
        /// What happens to what a new policy would not allow: `close` or `keep`.
        pub on_revoke: String,
    }

    /// When TLS is opened.
    pub struct Mitm {
        /// `auto` or `always`.
        pub mode: String,
        /// Whether it can be opened.
        pub can_intercept: bool,
        /// Patterns of hosts whose TLS stays closed.
        pub bypass: Vec<String>,
        /// The authority's certificate; none where it is made in memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ca_cert_path: Option<String>,
        /// How many hooks there are.
        pub hooks: u32,
    }

    /// Which unix sockets may be reached.
    pub struct UnixSockets {
        /// Their paths.
        pub allow: Vec<String>,
        /// All of them.
        pub dangerously_allow_all: bool,
        /// Paths of those that stay closed, by whatever path they are asked for.
        pub deny: Vec<String>,
    }

    /// The proxies that connections go through. URLs are without user and password.
    pub struct Upstream {
        /// The one that connections go through, unless a rule says otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub url: Option<String>,
        /// Hosts that are reached without it.
        pub no_proxy: Vec<String>,
        /// Those for some destinations, in this order.
        pub rules: Vec<UpstreamRule>,
    }

    /// A proxy for some destinations.
    pub struct UpstreamRule {
        /// For which destinations: names, suffixes, addresses and networks, each with or without a port.
        pub hosts: Vec<String>,
        /// The proxy; none is a direct connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub url: Option<String>,
    }

    /// `GET /v1/patterns`: rules of the profile in force, by their numbers.
    pub struct Patterns {
        /// The rules of this page.
        pub rules: Vec<Rule>,
        /// The hosts of those that allow or let read.
        pub allowed: Vec<String>,
        /// The hosts of those that deny.
        pub denied: Vec<String>,
        /// `after` of the next page; none at the end. Pages may have fewer rules than were asked for, or none, before the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub next: Option<u32>,
        /// How many rules the policy has, those of other profiles included.
        pub total: u32,
        /// Of which policy they are: numbers are a policy's own.
        pub generation: u64,
    }

    /// A rule.
    pub struct Rule {
        /// Its number in this policy.
        pub id: u32,
        /// Its hosts.
        pub hosts: String,
        /// `allow`, `read-only` or `deny`.
        pub access: String,
        /// Its ports, as `443` or `8000-8080`; none is all.
        pub ports: Vec<String>,
        /// Its methods; none is all.
        pub methods: Vec<String>,
        /// Its paths; none is all.
        pub paths: Vec<String>,
        /// What its author says of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// The layer that it stands in: `mdm`, `managed`, `cli`, `user` or `project`.
        pub layer: String,
        /// The file that it stands in, without its folder.
        pub file: String,
        /// Its line there, from 1; none where the file has no lines.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub line: Option<u32>,
        /// Layer, file and line, for people.
        pub place: String,
    }

    /// `GET /v1/blocked`: what was refused lately, the oldest first. Asking takes nothing away.
    pub struct Blocked {
        /// The requests.
        pub blocked: Vec<BlockedRequest>,
        /// `since` of the next question.
        pub next: u64,
        /// How many after `since`, and after the last drain, have made room for others.
        pub lost: u64,
    }

    /// A request that was refused.
    pub struct BlockedRequest {
        /// Its number among those that were refused: `since` counts in these.
        pub seq: u64,
        /// The host that was asked for.
        pub host: String,
        /// Why, for machines.
        pub reason: String,
        /// Who asked.
        pub client: Option<String>,
        /// The method, where there is one.
        pub method: Option<String>,
        /// The mode that was in force, where it is what refused it.
        pub mode: Option<String>,
        /// `http`, `https`, `https_connect`, `socks5_tcp` or `socks5_udp`.
        pub protocol: String,
        /// `deny` or `ask`.
        pub decision: String,
        /// Who decided: `baseline_policy`, `mode_guard`, `proxy_state` or `decider`.
        pub source: String,
        /// The port that was asked for.
        pub port: u16,
        /// When, in seconds since 1970.
        pub timestamp: i64,
        /// When.
        pub at: String,
        /// The rule that refused it, as it is written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub rule: Option<String>,
        /// The layer of that rule.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub layer: Option<String>,
        /// Layer, file and line of that rule.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub place: Option<String>,
        /// Which policy decided.
        pub generation: u64,
        /// What would allow it; none where nothing does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub change: Option<Change>,
    }

    /// `POST /v1/blocked/drain`: forgets what `GET /v1/blocked` shows.
    pub struct Drained {
        /// How many were forgotten.
        pub drained: u64,
    }

    /// `GET /v1/policy`: the policy in force.
    pub struct Policy {
        /// Which policy this is since the start, from 1.
        pub generation: u64,
        /// Its name for machines: 64 hexadecimal digits.
        pub digest: String,
        /// The format of its file, as `1.1`.
        pub format: String,
        /// The profile that requests are decided under.
        pub profile: String,
        /// All profiles that it has.
        pub profiles: Vec<String>,
        /// `proxied`, `blocked` or `direct`.
        pub network: String,
        /// The mode.
        pub mode: ModeState,
        /// How many rules it has, those of other profiles included.
        pub rules: u32,
        /// How many hooks it has.
        pub hooks: u32,
        /// Its size in bytes.
        pub bytes: u64,
        /// The layers that have rules in it, and those that hold something, strongest first. A layer that has settings alone is not told of.
        pub layers: Vec<Layer>,
        /// Where it is from.
        pub origin: Origin,
        /// Its file, where it is from one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub file: Option<String>,
        /// Since when it is in force.
        pub loaded: String,
        /// Why the last reload was refused, if it was.
        pub last_error: Option<String>,
        /// Whether everything is blocked, because the one before it was withdrawn: its file was changed in place, or is wrong inside.
        pub withdrawn: bool,
    }

    /// A layer with its files.
    pub struct Layer {
        /// `mdm`, `managed`, `cli`, `user` or `project`.
        pub layer: String,
        /// Its files that have rules, without their folders, and built-in sets.
        pub files: Vec<String>,
        /// What it holds, whatever weaker layers say, as a requirement says it: `mode = "limited"`, `allow_local_binding = false`, `managed_allowed_domains_only = true`.
        #[serde(default)]
        pub holds: Vec<String>,
    }

    /// Where a policy is from.
    #[derive(Copy, Eq)]
    #[serde(rename_all = "snake_case")]
    pub enum Origin {
        /// It is part of the program.
        BuiltIn,
        /// A file.
        File,
        /// The embedding program.
        Given,
    }

    /// `GET /v1/explain`: what the policy in force says of a request, and why.
    pub struct Explanation {
        /// What was asked, as the proxy would be asked it.
        pub request: String,
        /// `http`, `https`, `https_connect`, `socks5_tcp` or `socks5_udp`.
        pub protocol: String,
        /// The host.
        pub host: String,
        /// The port.
        pub port: u16,
        /// The method, where it is seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub method: Option<String>,
        /// `allow` or `deny`.
        pub decision: String,
        /// `allow`, or why not, for machines.
        pub reason: String,
        /// Who decided: `baseline_policy`, `mode_guard` or `proxy_state`.
        pub source: String,
        /// What clients are told in `x-proxy-error`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub proxy_error: Option<String>,
        /// Whether only reading may go on.
        pub read_only: bool,
        /// Whether the tunnel goes on only if its TLS is opened.
        pub intercept: bool,
        /// The hook that matches a request inside TLS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hook: Option<String>,
        /// What was decided on: the request as it was made, or the address that it resolves to.
        pub step: Step,
        /// The address that decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub address: Option<String>,
        /// The rule that decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub rule: Option<Rule>,
        /// Other rules that name the host, the closest first.
        pub others: Vec<Rule>,
        /// Why, for people.
        pub message: String,
        /// What to know beside the answer.
        pub notes: Vec<String>,
        /// What would allow it; none where nothing does, or nothing has to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub change: Option<Change>,
        /// Which policy said so.
        pub generation: u64,
    }

    /// What was decided on.
    #[derive(Copy, Eq)]
    #[serde(rename_all = "snake_case")]
    pub enum Step {
        /// The request as it was made.
        Name,
        /// An address that the host stands for or was said to resolve to.
        Address,
    }

    /// An edit of the policy's source that would allow a request, as far as the compiled policy tells.
    pub struct Change {
        /// The table that the line belongs under, as `[permissions.dev.network.domains]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub table: Option<String>,
        /// The line, as TOML.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub toml: Option<String>,
        /// The place of what has to be changed first: a rule that denies.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub place: Option<String>,
        /// The layer that alone can change it, where it is one that users do not write: `mdm` or `managed`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub only: Option<String>,
        /// The same for people.
        pub help: String,
    }

    /// `GET /v1/tunnels`: what is open, by their numbers.
    pub struct Tunnels {
        /// The tunnels of this page.
        pub tunnels: Vec<Tunnel>,
        /// `after` of the next page; none at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub next: Option<u64>,
        /// How many are open.
        pub total: u64,
    }

    /// An open tunnel.
    pub struct Tunnel {
        /// Its number, which events have as `network.exchange.id`.
        pub id: u64,
        /// Whose it is.
        pub client: String,
        /// `https_connect`, `socks5_tcp` or `socks5_udp`; `http` and `https` are of protocols that were switched to.
        pub protocol: String,
        /// Where it leads.
        pub host: String,
        /// To which port.
        pub port: u16,
        /// Since when it is open.
        pub opened: String,
        /// The same in milliseconds since 1970.
        pub opened_ms: u64,
        /// Bytes from the client so far.
        pub up: u64,
        /// Bytes to the client so far.
        pub down: u64,
        /// Which policy lets it go on.
        pub generation: u64,
    }

    /// `DELETE /v1/tunnels/{id}` and `POST /v1/tunnels/{id}/close`: the tunnel is being closed.
    pub struct TunnelClosed {
        /// Which.
        pub id: u64,
        /// `closing`.
        pub status: String,
    }

    /// `POST /v1/mode`: the body.
    #[serde(deny_unknown_fields)]
    #[cfg_attr(test, schemars(extend("required" = ["mode"])))]
    pub struct ModeChange {
        /// The mode that is wanted; null takes back what was wanted before. `full` is refused where the policy is held in limited mode (`may_be_full`).
        #[serde(deserialize_with = "required")]
        pub mode: Option<Mode>,
    }

    /// `POST /v1/mode`: what came of it.
    pub struct ModeChanged {
        /// `ok`.
        pub status: String,
        /// The mode in force.
        #[serde(flatten)]
        pub mode: ModeState,
        /// Which policy is in force: a change of the mode is a new one.
        pub generation: u64,
    }

    /// The mode, and who wants it.
    pub struct ModeState {
        /// The mode in force.
        pub mode: Mode,
        /// The policy's own.
        pub policy_mode: Mode,
        /// What an operator wanted, since `POST /v1/mode`. It is not in force where the policy does not let it be.
        pub wanted: Option<Mode>,
        /// Whether the policy lets `full` be in force: not where an administrators' layer requires limited mode, or where it is limited and does not say whether one does.
        pub may_be_full: bool,
        /// The layer that requires limited mode: `mdm` or `managed`.
        pub required_by: Option<String>,
    }

    /// `POST /v1/reload`: what came of it. A policy that is refused is a problem with the status 422.
    pub struct Reloaded {
        /// `reloaded`.
        pub status: String,
        /// Whether there is a new policy.
        pub outcome: ReloadOutcome,
        /// Which policy is in force.
        pub generation: u64,
        /// Its name for machines.
        pub digest: String,
    }

    /// What came of a reload.
    #[derive(Copy, Eq)]
    #[serde(rename_all = "snake_case")]
    pub enum ReloadOutcome {
        /// A new policy is in force.
        Swapped,
        /// The file holds the policy that is in force.
        Unchanged,
    }

    /// `POST /v1/drain`: it accepts no more, finishes what is open, and ends.
    pub struct Draining {
        /// `draining`.
        pub status: String,
        /// Tunnels that are open still.
        pub tunnels: u64,
    }

    /// `GET /v1/stats`: numbers since the start, for dashboards. Two of them make a rate.
    pub struct Stats {
        /// When they were read, in milliseconds since 1970.
        pub at_ms: u64,
        /// Since when they are counted.
        pub started: String,
        /// Requests and tunnels that were allowed.
        pub allowed: u64,
        /// Those that were refused.
        pub denied: u64,
        /// The same by reason.
        pub denied_by_reason: BTreeMap<String, u64>,
        /// Client connections that are open.
        pub connections: u64,
        /// Tunnels that are open.
        pub tunnels: u64,
        /// Bytes of bodies and tunnels from clients.
        pub bytes_up: u64,
        /// Bytes of bodies and tunnels to clients.
        pub bytes_down: u64,
        /// Requests that were allowed and failed upstream.
        pub upstream_failures: u64,
        /// Times by what took them: `decide`, `resolve`, `connect`, `first_byte` and others.
        pub latencies: BTreeMap<String, Latency>,
        /// Events that were lost because nobody took them in time.
        pub events_lost: u64,
        /// Which policy is in force.
        pub generation: u64,
    }

    /// How long something took, since the start. Two of them make a distribution for the time between.
    pub struct Latency {
        /// How often it was measured.
        pub count: u64,
        /// All of them together, in seconds.
        pub sum_seconds: f64,
        /// How many took no longer than so many seconds, for each bound, growing.
        pub buckets: Vec<Bucket>,
    }

    /// How many took no longer than that.
    pub struct Bucket {
        /// The bound, in seconds.
        pub le: f64,
        /// How many, those of lower bounds included.
        pub count: u64,
    }

    /// What went wrong (RFC 9457), as `application/problem+json`.
    pub struct Problem {
        /// `about:blank`: the status says which kind it is.
        #[serde(rename = "type")]
        pub kind: String,
        /// The status in words.
        pub title: String,
        /// The status.
        pub status: u16,
        /// What is wrong here, and what to do.
        pub detail: String,
    }
}

/// `null` is a value, and its absence is a mistake.
fn required<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Mode>, D::Error> {
    Option::deserialize(deserializer)
}

impl From<policy_format::Mode> for Mode {
    fn from(mode: policy_format::Mode) -> Self {
        match mode {
            policy_format::Mode::Full => Self::Full,
            policy_format::Mode::Limited => Self::Limited,
        }
    }
}

impl From<Mode> for policy_format::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Full => Self::Full,
            Mode::Limited => Self::Limited,
        }
    }
}
