//! Every key of the network policy's TOML, in tables: name, kind of value, default, meaning, and what replaces an older spelling.
//!
//! Limits, and the words of settings, are those of `policy_format::Settings`. The JSON Schema for editors is generated from these tables, and whoever refuses unknown keys can ask them what is known.

use policy_format::{
    Audit, AuditLevel, AuditNaming, CredentialAuth, Forwarded, Fsync, Layer, Limit, Limits, OnFull, OnRevoke, OtlpProtocol, Sni,
};

/// A table of the TOML.
#[derive(Debug)]
pub struct Table {
    /// Its name among the tables, unique.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub doc: &'static str,
    /// Whether keys that are not listed belong to other programs, and are passed over.
    pub open: bool,
    /// Its keys.
    pub keys: &'static [Key],
    /// Tables whose keys may stand here as well.
    pub also: &'static [&'static Table],
    /// Keys without which it says nothing. Each element is a set of alternatives, of which one has to be there.
    pub required: &'static [&'static [&'static str]],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What it means, in a sentence.
    pub doc: &'static str,
    /// What holds when it is not there, as JSON.
    pub default: Option<&'static str>,
    /// Values to show, as JSON.
    pub examples: &'static [&'static str],
    /// For an older spelling: what to write in its place.
    pub instead: Option<&'static str>,
}

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// Any text.
    Text,
    /// Text that a regular expression describes.
    Matches(&'static str),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A whole number, from and to.
    Integer(i64, i64),
    /// A list, with the fewest items that it may have.
    List(&'static Kind, u64),
    /// A table with known keys.
    Table(&'static Table),
    /// A table whose keys are names that users choose, as far as a regular expression describes them.
    Map(&'static str, &'static Kind),
    /// The table of patterns.
    Domains,
    /// One of several kinds.
    Any(&'static [Kind]),
    /// The value of a limit: a number, or text with a unit.
    Limit(&'static Limit),
    /// A table that is described elsewhere.
    Free,
}

impl Table {
    /// Its keys, those that other tables lend it included.
    pub fn all_keys(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().chain(self.also.iter().flat_map(|table| table.keys))
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.all_keys().find(|key| key.name == name)
    }
}

impl Key {
    const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, doc, default: None, examples: &[], instead: None }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn examples(self, examples: &'static [&'static str]) -> Self {
        Self { examples, ..self }
    }

    const fn older(self, instead: &'static str) -> Self {
        Self { instead: Some(instead), ..self }
    }
}

impl Table {
    /// The names of its keys, those that other tables lend it included.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.all_keys().map(|key| key.name).collect()
    }

    const fn closed(name: &'static str, doc: &'static str, keys: &'static [Key]) -> Self {
        Self { name, doc, open: false, keys, also: &[], required: &[] }
    }

    const fn open(name: &'static str, doc: &'static str, keys: &'static [Key]) -> Self {
        Self { open: true, ..Self::closed(name, doc, keys) }
    }

    const fn also(self, also: &'static [&'static Table]) -> Self {
        Self { also, ..self }
    }

    const fn required(self, required: &'static [&'static [&'static str]]) -> Self {
        Self { required, ..self }
    }
}

/// What a rule may say.
pub const ACCESS: &[&str] = &["allow", "deny", "read-only", "none"];
/// What an entry of `unix_sockets` may say.
pub const SOCKET_ACCESS: &[&str] = &["allow", "deny", "none"];
/// The modes of a network.
pub const MODES: &[&str] = &["limited", "full"];
/// What `sni` may say.
pub const SNI: &[&str] = Sni::NAMES;
/// What `forwarded` may say.
pub const FORWARDED: &[&str] = Forwarded::NAMES;
/// What `limits.on_revoke` may say.
pub const ON_REVOKE: &[&str] = OnRevoke::NAMES;
/// What `audit.naming` may say.
pub const AUDIT_NAMING: &[&str] = AuditNaming::NAMES;
/// What `audit.level` may say.
pub const AUDIT_LEVEL: &[&str] = AuditLevel::NAMES;
/// What `audit.on_full` may say.
pub const ON_FULL: &[&str] = OnFull::NAMES;
/// What `audit.fsync` may say.
pub const FSYNC: &[&str] = Fsync::NAMES;
/// What `audit.otlp.protocol` may say.
pub const OTLP_PROTOCOL: &[&str] = OtlpProtocol::NAMES;
/// What an upstream rule says that goes through no proxy.
pub const DIRECT: &str = "direct";
/// The formats of domain lists.
pub const LIST_FORMATS: &[&str] = &["domains", "hosts", "adblock", "dnsmasq"];
/// Why a request is denied.
pub const REASONS: &[&str] = &[
    "proxy_disabled",
    "denied",
    "not_allowed_local",
    "not_allowed",
    "method_not_allowed",
    "mitm_required",
    "mitm_hook_denied",
    "policy_denied",
];
/// The layers, strongest first.
pub const LAYERS: &[&str] = Layer::NAMES;
/// A pattern of hosts, as far as a cheap expression can tell: no spaces inside, no scheme, no path, no user.
pub const PATTERN: &str = r"^\s*[^\s/@]+(/[0-9]{1,3})?\s*$";
/// Spellings of "everything" that are refused; `*` is the one that is meant.
pub const EVERYTHING: &[&str] = &["**", "*.*", "?*", "*?", "**.*", "*.**", "***"];

const NAME: &str = "^.+$";
const METHOD: Kind = Kind::Matches("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$");
const PATH: Kind = Kind::Matches("^/");
const UPSTREAM_URL: Kind = Kind::Matches("^(http|https|socks5|socks5h)://");
const RULE_URL: Kind = Kind::Matches("^(direct$|(http|https|socks5|socks5h)://)");
const NAME_SERVER: Kind = Kind::Matches(
    r"^(https://[^\s?#]+|[0-9]+(\.[0-9]+){3}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+(%[0-9]+)?\](:[0-9]{1,5})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+)$",
);
const HOOK_PATH: Kind = Kind::Matches("^(/|literal:/|pattern:.)");
const HEADER: Kind = Kind::Matches("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$");
const JSON_VALUE: Kind = Kind::Any(&[Kind::Text, Kind::Bool, Kind::Integer(0, i64::MAX)]);
const VARIABLE: Kind = Kind::Matches("^[A-Za-z_][A-Za-z0-9_]*$");
const URL_PREFIX: Kind = Kind::Matches(r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#@*]+(/[^\s?#]*)?$");
const SINK_PATH: Kind = Kind::Matches("^/.*[^/]$");
const OTLP_URL: Kind = Kind::Matches(r"^https?://[^\s/?#@]+(/[^\s?#]*)?$");
const FIELD: &str = r"^[a-z0-9_]+(\.[a-z0-9_]+)*$";
const TEXTS: Kind = Kind::List(&Kind::Text, 0);
const PATTERNS: Kind = Kind::List(&Kind::Matches(PATTERN), 0);
const VALUES: Kind = Kind::Map(NAME, &Kind::List(&Kind::Text, 1));
const PORT: Kind = Kind::Any(&[Kind::Integer(1, 65535), Kind::Matches(r"^\s*[0-9]{1,5}\s*(-\s*[0-9]{1,5}\s*)?$")]);
const PORTS: Kind = Kind::List(&PORT, 1);
const SOCKETS: Kind = Kind::Map("^/", &Kind::Choice(SOCKET_ACCESS));
const URL: Kind = Kind::Matches(r"^\s*([A-Za-z][A-Za-z0-9+.-]*://)?[^\s/]+/?\s*$");

/// `config.toml`.
pub static CONFIG: Table = Table::open(
    "config",
    "Settings of a layer. Keys outside the network policy belong to other programs.",
    &[
        Key::new("default_permissions", Kind::Text, "The permission profile that is in force.").examples(&["\"workspace\""]),
        Key::new("permissions", Kind::Map(NAME, &Kind::Table(&PROFILE)), "Permission profiles by name."),
        Key::new("features", Kind::Table(&FEATURES), "Switches of features."),
        Key::new("sandbox_workspace_write", Kind::Table(&SANDBOX), "The sandbox that has no profile."),
        Key::new("network_proxy", Kind::Table(&NETWORK_PROXY), "The network policy before there were profiles.")
            .older("[permissions.NAME.network]"),
        Key::new("network", Kind::Table(&OLDER_UPSTREAM), "The upstream proxy.").older("[permissions.NAME.network.upstream]"),
    ],
);

/// `[features]`.
pub static FEATURES: Table = Table::open(
    "features",
    "Switches of features.",
    &[Key::new(
        "network_proxy",
        Kind::Any(&[Kind::Bool, Kind::Table(&NETWORK)]),
        "Whether networks that are on are proxied; as a table, `enabled` is the switch and the other keys lie over the profile's.",
    )],
);

/// `[sandbox_workspace_write]`.
pub static SANDBOX: Table = Table::open(
    "sandbox_workspace_write",
    "The sandbox that has no profile.",
    &[Key::new("network_access", Kind::Bool, "Whether it has a network: proxied if `features.network_proxy` is on, else direct.")
        .default("false")],
);

/// `[permissions.NAME]`.
pub static PROFILE: Table = Table::open(
    "profile",
    "A permission profile.",
    &[
        Key::new("extends", Kind::Text, "The profile that this one lies over."),
        Key::new("network", Kind::Table(&NETWORK), "The profile's network policy."),
    ],
);

/// `[permissions.NAME.network]`.
pub static NETWORK: Table = Table::closed(
    "network",
    "A network policy. What no rule allows is denied; any matching deny beats any matching allow.",
    &[
        Key::new("enabled", Kind::Bool, "Whether there is a network at all.").default("false"),
        Key::new("mode", Kind::Choice(MODES), "`limited` allows reading only (GET, HEAD, OPTIONS).").default("\"full\""),
        Key::new("proxy_url", URL, "Where the HTTP proxy listens.").default("\"http://127.0.0.1:3128\""),
        Key::new("enable_socks5", Kind::Bool, "Whether there is a SOCKS5 proxy.").default("true"),
        Key::new("socks_url", URL, "Where the SOCKS5 proxy listens.").default("\"http://127.0.0.1:8081\""),
        Key::new("enable_socks5_udp", Kind::Bool, "Whether SOCKS5 clients may send datagrams.").default("false"),
        Key::new("admin_url", URL, "Where the admin API listens.").default("\"http://127.0.0.1:8080\""),
        Key::new("allow_upstream_proxy", Kind::Bool, "Whether connections may go through another proxy.").default("true"),
        Key::new(
            "allow_local_binding",
            Kind::Bool,
            "Whether all addresses that are not public are open; cloud metadata services never are.",
        )
        .default("false"),
        Key::new("dangerously_allow_non_loopback_proxy", Kind::Bool, "Whether other machines may reach the proxies.").default("false"),
        Key::new("dangerously_allow_non_loopback_admin", Kind::Bool, "Whether other machines may reach the admin API.").default("false"),
        Key::new("dangerously_allow_all_unix_sockets", Kind::Bool, "Whether every unix socket may be reached.").default("false"),
        Key::new("credential_broker", Kind::Bool, "Whether placeholders are replaced by secrets on the way out.").default("false"),
        Key::new("dangerously_allow_plaintext_credential_injection", Kind::Bool, "Whether secrets may go out without TLS.")
            .default("false"),
        Key::new(
            "dangerously_pass_credentials_without_broker",
            Kind::Bool,
            "Whether programs get their real credentials where the broker cannot run; else they get none.",
        )
        .default("false"),
        Key::new("presets", TEXTS, "Built-in sets of domains, each of which allows or denies.")
            .examples(&["[\"common-dependencies\"]", "[\"github\", \"openai\"]"]),
        Key::new("domains", Kind::Domains, "What each host, or pattern of hosts, may be used for.")
            .examples(&["{\"**.example.com\": \"allow\", \"api.example.org:8443\": \"read-only\", \"10.20.0.0/16\": \"allow\"}"]),
        Key::new("domain_lists", Kind::List(&Kind::Table(&DOMAIN_LIST), 0), "Files with many domains."),
        Key::new("unix_sockets", SOCKETS, "What each unix socket may be used for, by its absolute path.")
            .examples(&["{\"/tmp/example.sock\": \"allow\"}"]),
        Key::new("mitm", Kind::Table(&MITM), "Reading inside TLS, and hooks on what is read."),
        Key::new("upstream", Kind::Any(&[UPSTREAM_URL, Kind::Table(&UPSTREAM)]), "The proxy that connections go through."),
        Key::new("sni", Kind::Choice(SNI), "What happens when a tunnel speaks of another server than the one that it was opened for: the policy has to allow that one too, it is told to whoever observes, or nothing is looked at.")
            .default("\"enforce\""),
        Key::new("via", Kind::Bool, "Whether requests and responses carry `Via`.").default("true"),
        Key::new("forwarded", Kind::Choice(FORWARDED), "Whether requests say whose they are: `pass` leaves what the client says, `strip` takes it out, the others add the client's address in that header.")
            .default("\"pass\""),
        Key::new("resolver", Kind::List(&NAME_SERVER, 0), "Who is asked for addresses, in this order: addresses of DNS servers, and URLs of DNS over HTTPS. Nobody: the system's resolver.")
            .default("[]")
            .examples(&["[\"10.0.0.53\", \"[2001:db8::53]:5353\"]", "[\"https://dns.example.com/dns-query\"]"]),
        Key::new("limits", Kind::Table(&LIMITS), "What peers may use up."),
        Key::new("audit", Kind::Table(&AUDIT), "What is written down of decisions, and where. A project cannot set it."),
        Key::new("clients", Kind::Free, "Not in this version: it is refused."),
        Key::new("credentials", Kind::Map(NAME, &Kind::Table(&CREDENTIAL)), "Credentials of the broker beside those that it knows, by name."),
        Key::new("allowed_domains", PATTERNS, "Patterns to allow.").older("domains, each pattern with \"allow\""),
        Key::new("denied_domains", PATTERNS, "Patterns to deny.").older("domains, each pattern with \"deny\""),
        Key::new("allow_unix_sockets", TEXTS, "Sockets to allow.").older("unix_sockets, each path with \"allow\""),
    ],
);

/// The table form of a rule in `domains`.
pub static RULE: Table = Table::closed(
    "rule",
    "What a host may be used for, in detail.",
    &[
        Key::new("access", Kind::Choice(ACCESS), "`read-only` allows GET, HEAD and OPTIONS; `none` takes a weaker layer's entry back."),
        Key::new("ports", PORTS, "Only these ports: numbers, or ranges as text.").examples(&["[443, \"8000-8999\"]"]),
        Key::new("methods", Kind::List(&METHOD, 1), "Only these HTTP methods.").examples(&["[\"GET\"]"]),
        Key::new("paths", Kind::List(&PATH, 1), "Only paths that start with one of these.").examples(&["[\"/v1/\"]"]),
        Key::new("reason", Kind::Text, "Why the rule is there, for people."),
    ],
)
.required(&[&["access"]]);

/// An item of `domain_lists`.
pub static DOMAIN_LIST: Table = Table::closed(
    "domain_list",
    "A file with many domains.",
    &[
        Key::new("path", Kind::Matches("."), "The file, relative to the one that names it.").examples(&["\"lists/ads.txt\""]),
        Key::new("format", Kind::Choice(LIST_FORMATS), "How the file is written."),
        Key::new("access", Kind::Choice(&["allow", "deny", "read-only"]), "What its domains may be used for."),
    ],
)
.required(&[&["path"], &["format"], &["access"]]);

/// `[….network.mitm]`.
pub static MITM: Table = Table::closed(
    "mitm",
    "Reading inside TLS, and hooks on what is read.",
    &[
        Key::new("mode", Kind::Choice(&["auto", "always"]), "`auto` reads only where a rule or a hook needs it.").default("\"auto\""),
        Key::new("bypass", PATTERNS, "Hosts whose TLS is never opened."),
        Key::new(
            "dangerously_bypass_read_only",
            Kind::Bool,
            "Whether `bypass` holds even where only what reads may pass, or where rules ask for methods or paths, which nobody sees then.",
        )
        .default("false"),
        Key::new(
            "client_certificates",
            Kind::List(&Kind::Table(&CLIENT_CERTIFICATE), 0),
            "Certificates for servers that ask for one. The first that is for a host counts.",
        ),
        Key::new("ca_cert_path", Kind::Text, "The certificate of the authority that clients trust, a PEM file."),
        Key::new("ca_key_path", Kind::Text, "The key of that authority, a PEM file."),
        Key::new("max_body_bytes", Kind::Integer(0, i64::MAX), "Bytes of a body that are held for inspection."),
        Key::new(
            "hooks",
            Kind::Map(NAME, &Kind::Table(&HOOK)),
            "Hooks by name, tried in the order of the file. A host with hooks is closed to what none of them matches.",
        ),
        Key::new("actions", Kind::Map(NAME, &Kind::Table(&ACTION)), "What hooks do, by name."),
        Key::new("enabled", Kind::Bool, "Whether every TLS connection is opened.").older("mode = \"always\""),
        Key::new("inspect", Kind::Bool, "Whether what is inside is read.").older("mode = \"always\""),
    ],
);

/// `[….network.mitm.hooks.NAME]`.
pub static HOOK: Table = Table::closed(
    "hook",
    "Which requests it is for, and what is done with them. All that is given has to match.",
    &[
        Key::new("host", Kind::Matches(PATTERN), "The host, or pattern of hosts.").examples(&["\"api.github.com\""]),
        Key::new("methods", Kind::List(&METHOD, 1), "HTTP methods.").examples(&["[\"POST\", \"PUT\"]"]),
        Key::new("path_prefixes", Kind::List(&HOOK_PATH, 1), "What the path starts with, or a glob after `pattern:`.")
            .examples(&["[\"/repos/openai/\"]"]),
        Key::new("query", VALUES, "Query parameters, each with the values that it may have.").examples(&["{\"state\": [\"open\"]}"]),
        Key::new("headers", VALUES, "Headers, each with the values that it may have.").examples(&["{\"accept\": [\"application/json\"]}"]),
        Key::new("body", Kind::Table(&BODY), "What the body has to be: JSON, with these values."),
        Key::new("action", Kind::List(&Kind::Text, 1), "Names of actions, in order.").examples(&["[\"strip_auth\"]"]),
    ],
)
.required(&[&["host"], &["methods"], &["path_prefixes"], &["action"]]);

/// `body` of a hook.
pub static BODY: Table = Table::closed(
    "body",
    "What the body of a request has to be: JSON, sent as `application/json` and not packed, in which every pointer leads to one of its values.",
    &[
        Key::new(
            "json",
            Kind::Map("^(/.*)?$", &Kind::List(&JSON_VALUE, 1)),
            "JSON pointers (RFC 6901), each with the values that it may lead to: texts, globs after `pattern:`, `true`, `false` and whole numbers.",
        )
        .examples(&["{\"/event\": [\"COMMENT\"], \"/draft\": [true]}"]),
        Key::new(
            "max_bytes",
            Kind::Any(&[Kind::Integer(1, 16 << 20), Kind::Matches("^[0-9]+ *(kB|MB|KiB|MiB)?$")]),
            "Bytes that the body may have: it is held until it is decided on.",
        )
        .default("65536")
        .examples(&["\"256KiB\""]),
    ],
)
.required(&[&["json"]]);

/// An item of `mitm.client_certificates`.
pub static CLIENT_CERTIFICATE: Table = Table::closed(
    "client_certificate",
    "A certificate for servers that ask for one.",
    &[
        Key::new("host", Kind::Matches(PATTERN), "The server, or pattern of servers.").examples(&["\"api.corp.example\""]),
        Key::new("cert_path", Kind::Matches("^/"), "The certificate, a PEM file, with those between it and the authority."),
        Key::new("key_path", Kind::Matches("^/"), "Its key, a PEM file."),
    ],
)
.required(&[&["host"], &["cert_path"], &["key_path"]]);

/// `[….network.credentials.NAME]`.
pub static CREDENTIAL: Table = Table::closed(
    "credential",
    "A credential that children get a stand-in for. Its value is in the environment; the policy has its name only.",
    &[
        Key::new(
            "env",
            Kind::Any(&[VARIABLE, Kind::List(&VARIABLE, 1)]),
            "The environment variable that has it, or several, each by itself.",
        )
        .examples(&["\"EXAMPLE_TOKEN\"", "[\"EXAMPLE_TOKEN\", \"EXAMPLE_API_KEY\"]"]),
        Key::new(
            "url_prefixes",
            Kind::List(&URL_PREFIX, 1),
            "Where it may go: scheme, host, and perhaps port and path. What lies below the path is within.",
        )
        .examples(&["[\"https://api.example.com/\"]"]),
        Key::new(
            "auth",
            Kind::Choice(CredentialAuth::NAMES),
            "How requests carry it: as `Authorization` of that scheme, or in a header of its own.",
        )
        .default("\"bearer\""),
        Key::new("header", HEADER, "The header, for `auth = \"header\"`.").examples(&["\"x-api-key\""]),
        Key::new("prefix", Kind::Text, "What stands before it in that header.").examples(&["\"Key \""]),
    ],
)
.required(&[&["env"], &["url_prefixes"]]);

/// `[….network.mitm.actions.NAME]`.
pub static ACTION: Table = Table::closed(
    "action",
    "What is done with a request that a hook matches, and with its response.",
    &[
        Key::new("strip_request_headers", Kind::List(&HEADER, 0), "Headers to remove from the request.").examples(&["[\"authorization\"]"]),
        Key::new("inject_request_headers", Kind::List(&Kind::Table(&INJECT), 0), "Headers to add to the request."),
        Key::new("strip_response_headers", Kind::List(&HEADER, 0), "Headers to remove from the response.").examples(&["[\"set-cookie\"]"]),
    ],
);

/// An item of `inject_request_headers`.
pub static INJECT: Table = Table::closed(
    "inject",
    "A header to add. Its value is a secret that the policy does not hold, only names.",
    &[
        Key::new("name", HEADER, "The header.").examples(&["\"authorization\""]),
        Key::new("secret_env_var", Kind::Matches("."), "The environment variable of the proxy that has the secret."),
        Key::new("secret_file", Kind::Matches("."), "The file that has the secret."),
        Key::new("prefix", Kind::Text, "What stands before the secret.").examples(&["\"Bearer \""]),
    ],
)
.required(&[&["name"], &["secret_env_var", "secret_file"]]);

/// `[….network.upstream]`.
pub static UPSTREAM: Table = Table::closed(
    "upstream",
    "The proxy that connections go through.",
    &[
        Key::new("url", UPSTREAM_URL, "The proxy; `socks5h` lets it look names up.").examples(&["\"http://proxy.example.com:8080\""]),
        Key::new("no_proxy", TEXTS, "Names, suffixes and networks that are connected to directly.")
            .examples(&["[\"localhost\", \".internal\", \"10.0.0.0/8\"]"]),
        Key::new("rules", Kind::List(&Kind::Table(&UPSTREAM_RULE), 0), "Proxies for some destinations. The first rule that is for a destination counts; what none is for goes as `url` and `no_proxy` say.")
            .examples(&["[{ \"hosts\": [\"*.corp.example\", \"10.0.0.0/8\"], \"url\": \"direct\" }]"]),
    ],
);

/// An item of `[….network.upstream] rules`.
pub static UPSTREAM_RULE: Table = Table::closed(
    "upstream_rule",
    "The proxy for some destinations.",
    &[
        Key::new(
            "hosts",
            Kind::List(&Kind::Text, 1),
            "Names, patterns, suffixes, addresses and networks, each with or without a port; `*` is all.",
        )
        .examples(&["[\"*.corp.example\", \"10.0.0.0/8\"]"]),
        Key::new("url", RULE_URL, "The proxy, or `direct`.").examples(&["\"http://proxy.example.com:3128\"", "\"direct\""]),
    ],
)
.required(&[&["hosts"], &["url"]]);

/// A setting that is a number.
const fn number(limit: &'static Limit) -> Key {
    Key::new(limit.name, Kind::Limit(limit), limit.doc)
}

/// A setting of audit that is a number.
#[expect(clippy::indexing_slicing, reason = "evaluated when this is compiled, and not below the length")]
const fn audit_number(at: usize) -> Key {
    number(&Audit::NUMBERS[at])
}

const AUDIT_QUEUE: Key = audit_number(0);
const AUDIT_ROTATE_BYTES: Key = audit_number(1);
const AUDIT_ROTATE_AGE: Key = audit_number(2);
const AUDIT_KEEP: Key = audit_number(3);

/// `[….network.audit]`.
pub static AUDIT: Table = Table::closed(
    "audit",
    "What is written down of decisions, and where.",
    &[
        Key::new("file", SINK_PATH, "A file that gets a line of JSON for each event.").examples(&["\"/var/log/netproxy/audit.jsonl\""]),
        Key::new("stdout", Kind::Bool, "Whether standard output gets the same lines.").default("false"),
        Key::new("syslog", Kind::Matches("^(/[^/]|(udp|tcp)://[0-9\\[])"), "The syslog server that gets each event: a socket, or an address by UDP or TCP.")
            .examples(&["\"/dev/log\"", "\"udp://10.0.0.1:514\""]),
        Key::new("journald", Kind::Bool, "Whether the journal of systemd gets each event.").default("false"),
        Key::new("otlp", Kind::Any(&[OTLP_URL, Kind::Table(&OTLP)]), "The collector of OpenTelemetry that gets each event.")
            .examples(&["\"http://127.0.0.1:4318\""]),
        Key::new("naming", Kind::Choice(AUDIT_NAMING), "How the fields of events are called: as in OpenTelemetry, or as in OCSF.")
            .default("\"codex\""),
        Key::new("level", Kind::Choice(AUDIT_LEVEL), "Which events there are: what was denied, what was allowed too, how it ended too.")
            .default("\"all\""),
        Key::new("on_full", Kind::Choice(ON_FULL), "What happens to requests when the queue of events is full: they go on and events are lost and counted, they wait, or they are denied.")
            .default("\"drop\""),
        AUDIT_QUEUE,
        AUDIT_ROTATE_BYTES,
        AUDIT_ROTATE_AGE,
        AUDIT_KEEP,
        Key::new("fsync", Kind::Choice(FSYNC), "When the file is forced to the disk: never, when it is closed, or after each batch of events.")
            .default("\"rotate\""),
        Key::new("chain", Kind::Bool, "Whether the lines of the file are chained by hashes, so that what was changed is found.").default("true"),
        Key::new("metadata", Kind::Map(FIELD, &Kind::Text), "Fields that every event gets.")
            .examples(&["{\"app.version\": \"1.2.3\", \"model\": \"m\"}"]),
    ],
);

/// `otlp` of `[….network.audit]`.
pub static OTLP: Table = Table::closed(
    "otlp",
    "A collector of OpenTelemetry.",
    &[
        Key::new("endpoint", OTLP_URL, "Its URL.").examples(&["\"http://127.0.0.1:4318\"", "\"https://otel.example.com:4317\""]),
        Key::new("protocol", Kind::Choice(OTLP_PROTOCOL), "OTLP/HTTP with protobuf, or OTLP/gRPC.").default("\"http\""),
        Key::new("headers_file", SINK_PATH, "A file with headers that requests carry, such as a token: `name: value`, a line each.")
            .examples(&["\"/etc/netproxy/otlp-headers\""]),
    ],
)
.required(&[&["endpoint"]]);

/// `[….network.limits]`.
pub static LIMITS: Table = Table::closed("limits", "What peers may use up: bytes, time, counts.", &LIMIT_KEYS);

const ON_REVOKE_KEY: Key =
    Key::new("on_revoke", Kind::Choice(ON_REVOKE), "What happens to open tunnels and exchanges that a new policy would not allow.")
        .default("\"close\"");

/// All limits, and `on_revoke` as the last.
#[expect(clippy::indexing_slicing, reason = "evaluated when this is compiled, and not below the length")]
const LIMIT_KEYS: [Key; Limits::ALL.len() + 1] = {
    let mut keys = [ON_REVOKE_KEY; Limits::ALL.len() + 1];
    let mut at = 0;
    while at < Limits::ALL.len() {
        let limit = &Limits::ALL[at];
        keys[at] = number(limit);
        at += 1;
    }
    keys
};

/// `[network]`.
pub static OLDER_UPSTREAM: Table = Table::closed(
    "older_upstream",
    "The upstream proxy.",
    &[
        Key::new("proxy", Kind::Text, "The proxy.").older("upstream.url"),
        Key::new("no_proxy", TEXTS, "Hosts that are connected to directly.").older("upstream.no_proxy"),
    ],
);

/// `[network_proxy]`.
pub static NETWORK_PROXY: Table = Table::closed(
    "network_proxy",
    "The network policy before there were profiles.",
    &[
        Key::new("policy", Kind::Table(&OLDER_POLICY), "Its rules.").older("domains and unix_sockets"),
        Key::new("mitm", Kind::Table(&MITM), "Reading inside TLS.").older("[permissions.NAME.network.mitm]"),
    ],
)
.also(&[&NETWORK]);

/// `[network_proxy.policy]`.
pub static OLDER_POLICY: Table = Table::closed(
    "older_policy",
    "The rules before there were profiles.",
    &[
        Key::new("allowed_domains", PATTERNS, "Patterns to allow.").older("domains, each pattern with \"allow\""),
        Key::new("denied_domains", PATTERNS, "Patterns to deny.").older("domains, each pattern with \"deny\""),
        Key::new("allow_local_binding", Kind::Bool, "Whether addresses that are not public are open.").older("allow_local_binding"),
        Key::new("allow_unix_sockets", TEXTS, "Sockets to allow.").older("unix_sockets, each path with \"allow\""),
    ],
);

/// `requirements.toml`.
pub static REQUIREMENTS: Table = Table::open(
    "requirements",
    "What an administrator demands of settings. Keys outside the network policy belong to other programs.",
    &[Key::new("experimental_network", Kind::Table(&EXPERIMENTAL_NETWORK), "Demands on network policies.")],
);

/// `[experimental_network]`.
pub static EXPERIMENTAL_NETWORK: Table = Table::closed(
    "experimental_network",
    "Demands on network policies. Settings of the same or a weaker layer that conflict are rejected.",
    &[
        Key::new("enabled", Kind::Bool, "Whether there is a network; `true` starts the proxy by itself."),
        Key::new("http_port", Kind::Integer(1, 65535), "The port that the HTTP proxy listens on.").examples(&["3128"]),
        Key::new("socks_port", Kind::Integer(1, 65535), "The port that the SOCKS5 proxy listens on.").examples(&["8081"]),
        Key::new("allow_upstream_proxy", Kind::Bool, "Whether connections may go through another proxy."),
        Key::new("dangerously_allow_non_loopback_proxy", Kind::Bool, "Whether other machines may reach the proxies."),
        Key::new("dangerously_allow_non_loopback_admin", Kind::Bool, "Whether other machines may reach the admin API."),
        Key::new("dangerously_allow_all_unix_sockets", Kind::Bool, "Whether every unix socket may be reached."),
        Key::new("allow_local_binding", Kind::Bool, "Whether addresses that are not public may be open."),
        Key::new("enable_socks5", Kind::Bool, "Whether there may be a SOCKS5 proxy."),
        Key::new("enable_socks5_udp", Kind::Bool, "Whether SOCKS5 clients may send datagrams."),
        Key::new("credential_broker", Kind::Bool, "Whether placeholders are replaced by secrets on the way out."),
        Key::new("dangerously_allow_plaintext_credential_injection", Kind::Bool, "Whether secrets may go out without TLS."),
        Key::new(
            "dangerously_pass_credentials_without_broker",
            Kind::Bool,
            "Whether programs may get their real credentials where the broker cannot run.",
        ),
        Key::new("mode", Kind::Choice(MODES), "The mode, or a more restrictive one."),
        Key::new("mitm", Kind::Table(&MITM), "Interception, hooks and actions that weaker layers can neither change nor add to."),
        Key::new(
            "audit",
            Kind::Table(&AUDIT),
            "What has to be written down, and where. A named sink demands `level = \"all\"` where it does not say another.",
        ),
        Key::new("domains", Kind::Domains, "Rules that are always there; a deny cannot be taken back."),
        Key::new("unix_sockets", SOCKETS, "What each unix socket may be used for, by its absolute path."),
        Key::new("managed_allowed_domains_only", Kind::Bool, "Whether weaker layers may allow nothing.").default("false"),
        Key::new("allowed_domains", PATTERNS, "Patterns to allow.").older("domains, each pattern with \"allow\""),
        Key::new("denied_domains", PATTERNS, "Patterns to deny.").older("domains, each pattern with \"deny\""),
        Key::new("allow_unix_sockets", TEXTS, "Sockets to allow.").older("unix_sockets, each path with \"allow\""),
    ],
);

/// `policy.test.toml`.
pub static TESTS: Table = Table::closed(
    "tests",
    "What a policy is expected to decide.",
    &[Key::new("case", Kind::List(&Kind::Table(&CASE), 0), "Cases, in order.")],
);

/// `[[case]]`.
pub static CASE: Table = Table::closed(
    "case",
    "Requests, and what is expected of them.",
    &[
        Key::new("name", Kind::Matches("."), "What the case shows."),
        Key::new("request", REQUEST, "A request: METHOD URL, `CONNECT host:port` or `socks host:port`.").examples(&[
            "\"GET https://github.com/\"",
            "\"CONNECT github.com:443\"",
            "\"socks github.com:22\"",
        ]),
        Key::new("requests", Kind::List(&REQUEST, 1), "Several requests, for each of which the same is expected."),
        Key::new("hosts", TEXTS, "Hosts, each with or without a port: a tunnel to each is asked for.")
            .examples(&["[\"a.example.com\", \"b.example.com:8443\"]"]),
        Key::new("headers", Kind::Map(NAME, &Kind::Any(&[Kind::Text, TEXTS])), "Header fields of the requests, which are inside TLS.")
            .examples(&["{\"accept\": \"application/json\"}"]),
        Key::new("body", Kind::Text, "The body of the requests; JSON, unless `headers` says otherwise.")
            .examples(&["\"{\\\"event\\\": \\\"COMMENT\\\"}\""]),
        Key::new("resolve", TEXTS, "The addresses that the names resolve to.").examples(&["[\"203.0.113.7\"]"]),
        Key::new("expect", Kind::Choice(&["allow", "deny"]), "What is decided."),
        Key::new("reason", Kind::Choice(REASONS), "Why it is denied."),
        Key::new("rule", Kind::Text, "The pattern of the rule that decides.").examples(&["\"**.example.com\""]),
        Key::new("layer", Kind::Choice(LAYERS), "The layer of the rule that decides."),
        Key::new("hook", Kind::Text, "The hook that matches.").examples(&["\"github_write\""]),
    ],
)
.required(&[&["expect"], &["request", "requests", "hosts"]]);

const REQUEST: Kind = Kind::Matches(r"^\s*([A-Za-z0-9]+ +[^ ]+|[^ ]*[.:\[][^ ]*|localhost)\s*$");

/// The tables that are documents of their own.
pub static DOCUMENTS: [&Table; 3] = [&CONFIG, &REQUIREMENTS, &TESTS];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Role, SourceFile};
    use crate::{Layer, Options, compile};
    use std::collections::BTreeMap;

    /// Every table that can be reached from the documents, by name.
    fn tables() -> BTreeMap<&'static str, &'static Table> {
        fn kind(kind: &Kind, found: &mut BTreeMap<&'static str, &'static Table>) {
            match kind {
                Kind::Table(inner) => table(inner, found),
                Kind::List(inner, _) | Kind::Map(_, inner) => kind_(inner, found),
                Kind::Any(kinds) => kinds.iter().for_each(|inner| kind_(inner, found)),
                Kind::Domains => table(&RULE, found),
                Kind::Bool | Kind::Text | Kind::Matches(_) | Kind::Choice(_) | Kind::Integer(..) | Kind::Limit(_) | Kind::Free => {}
            }
        }
        use kind as kind_;
        fn table(this: &'static Table, found: &mut BTreeMap<&'static str, &'static Table>) {
            if let Some(old) = found.insert(this.name, this) {
                assert!(std::ptr::eq(old, this), "two tables are named {}", this.name);
                return;
            }
            this.all_keys().for_each(|key| kind(&key.kind, found));
        }
        let mut found = BTreeMap::new();
        DOCUMENTS.into_iter().for_each(|document| table(document, &mut found));
        found
    }

    #[test]
    fn every_key_is_documented_once() {
        let tables = tables();
        assert!(tables.len() >= 19, "{:?}", tables.keys());
        for table in tables.values() {
            for key in table.all_keys() {
                let place = format!("{}.{}", table.name, key.name);
                let first = table.key(key.name).unwrap();
                let shadowed = table.keys.iter().any(|own| std::ptr::eq(own, first));
                assert!(std::ptr::eq(first, key) || shadowed, "{place} is there twice");
                assert!(key.doc.ends_with('.') && !key.doc.contains('\n') && key.doc.len() > 5, "{place}: {}", key.doc);
            }
            for names in table.required {
                assert!(names.iter().all(|name| table.key(name).is_some()), "{}: {names:?}", table.name);
            }
        }
    }

    #[test]
    fn defaults_of_settings_are_those_of_the_format() {
        let default = policy_format::Settings::default();
        let of = |key: Option<&'static Key>| key.and_then(|key| key.default).unwrap().trim_matches('"');
        assert_eq!(of(NETWORK.key("sni")), default.sni.as_str());
        assert_eq!(of(NETWORK.key("via")), default.via.to_string());
        assert_eq!(of(NETWORK.key("forwarded")), default.forwarded.as_str());
        assert_eq!(of(LIMITS.key("on_revoke")), default.on_revoke.as_str());
        assert!(of(NETWORK.key("resolver")) == "[]" && default.resolver.is_empty());
        for limit in Limits::ALL {
            assert!(LIMITS.key(limit.name).is_some_and(|key| key.doc == limit.doc), "{}", limit.name);
        }
        let audit = policy_format::Audit::default();
        assert_eq!(of(AUDIT.key("stdout")), audit.stdout.to_string());
        assert_eq!(of(AUDIT.key("journald")), audit.journald.to_string());
        assert_eq!(of(AUDIT.key("naming")), audit.naming.as_str());
        assert_eq!(of(AUDIT.key("level")), audit.level.as_str());
        assert_eq!(of(AUDIT.key("on_full")), audit.on_full.as_str());
        assert_eq!(of(AUDIT.key("fsync")), audit.fsync.as_str());
        assert_eq!(of(AUDIT.key("chain")), audit.chain.to_string());
        assert_eq!(of(OTLP.key("protocol")), policy_format::OtlpProtocol::default().as_str());
        for number in policy_format::Audit::NUMBERS {
            let key = AUDIT.key(number.name).unwrap();
            assert!(key.doc == number.doc && matches!(key.kind, Kind::Limit(limit) if limit.name == number.name), "{}", number.name);
        }
        assert_eq!(SNI, Sni::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn older_spellings_say_what_to_write() {
        let older: Vec<_> =
            tables().values().flat_map(|table| table.keys).filter(|key| key.instead.is_some()).map(|key| key.name).collect();
        for name in ["network_proxy", "network", "allowed_domains", "denied_domains", "allow_unix_sockets", "no_proxy", "policy"] {
            assert!(older.contains(&name), "{name}");
        }
    }

    #[test]
    fn spellings_of_everything_are_refused_by_the_compiler_too() {
        for text in EVERYTHING {
            assert!(policy_format::Pattern::parse(text).is_err(), "{text}");
        }
    }

    fn said(role: Role, text: String) -> String {
        match compile(vec![SourceFile::from_text(Layer::User, role, "config.toml", text)], Options::default()) {
            Ok(compiled) => crate::diagnostic::render(&compiled.sources, &compiled.diagnostics, false),
            Err(failure) => failure.to_string(),
        }
    }

    /// What an editor offers, the compiler must know.
    #[test]
    fn the_compiler_knows_every_key() {
        for key in NETWORK.all_keys() {
            let said = said(Role::Config, format!("[permissions.w.network]\n{} = false\n", key.name));
            assert!(!said.contains("is not a key of"), "{said}");
        }
        for key in RULE.all_keys() {
            let said = said(Role::Config, format!("[permissions.w.network.domains]\n\"a.test\" = {{ {} = false }}\n", key.name));
            assert!(!said.contains("is not a key of"), "{said}");
        }
        for key in EXPERIMENTAL_NETWORK.all_keys() {
            let said = said(Role::Requirements, format!("[experimental_network]\n{} = false\n", key.name));
            assert!(!said.contains("is not a key of"), "{said}");
        }
        let inside = [
            (&MITM, "[permissions.w.network.mitm]"),
            (&HOOK, "[permissions.w.network.mitm.hooks.h]"),
            (&ACTION, "[permissions.w.network.mitm.actions.a]"),
            (&BODY, "[permissions.w.network.mitm.hooks.h.body]"),
            (&CLIENT_CERTIFICATE, "[[permissions.w.network.mitm.client_certificates]]"),
            (&CREDENTIAL, "[permissions.w.network.credentials.c]"),
            (&INJECT, "[[permissions.w.network.mitm.actions.a.inject_request_headers]]"),
            (&UPSTREAM, "[permissions.w.network.upstream]"),
            (&UPSTREAM_RULE, "[[permissions.w.network.upstream.rules]]"),
            (&LIMITS, "[permissions.w.network.limits]"),
            (&AUDIT, "[permissions.w.network.audit]"),
            (&OTLP, "[permissions.w.network.audit.otlp]"),
            (&OLDER_UPSTREAM, "[network]"),
            (&NETWORK_PROXY, "[network_proxy]"),
            (&OLDER_POLICY, "[network_proxy.policy]"),
            (&MITM, "[network_proxy.mitm]"),
            (&DOMAIN_LIST, "[[permissions.w.network.domain_lists]]"),
        ];
        for (table, header) in inside {
            for key in table.all_keys() {
                let said = said(Role::Config, format!("{header}\n{} = false\n", key.name));
                assert!(!said.contains("is not a key of"), "{said}");
            }
            assert!(said(Role::Config, format!("{header}\nno_such_key = 1\n")).contains("is not a key of"), "{header}");
        }
        for key in CASE.all_keys() {
            let source =
                SourceFile::from_text(Layer::Project, Role::Config, "policy.test.toml", format!("[[case]]\n{} = false\n", key.name));
            let mut diagnostics = Vec::new();
            crate::testing::read(crate::source::SourceId(0), &[source], &mut diagnostics);
            assert!(diagnostics.iter().all(|diagnostic| !diagnostic.message.contains("is not a key of")), "{diagnostics:?}");
        }
        assert!(said(Role::Config, "[permissions.w.network]\nx = 1\n".into()).contains("is not a key of"));
    }
}
