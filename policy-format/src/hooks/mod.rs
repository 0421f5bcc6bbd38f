//! Hooks: which of them matches a request inside TLS.
//!
//! A hook matches if its host, one of its methods, one of its paths, and all that it says of query, headers and body hold. Of the hooks of a host the first that matches
//! counts. What two servers could read in two ways never matches: paths ([`has_one_reading`](crate::path::has_one_reading())), queries (`query.rs`) and bodies (`json.rs`).
//!
//! What hooks say is prepared when a blob is opened; matching allocates nothing. What cannot be read, such as a broken glob in a blob that nobody checked, matches nothing.

mod json;
mod query;
mod text;

pub use text::{GlobError, MAX_GLOB, TextGlob, TextKind};

use crate::credentials::{HookBody, JsonValue};
use crate::host::Host;
use crate::path;
use crate::pattern::{Hosts, Pattern};
use crate::records::{Hook, MAX_HOOKS, Meta, ProfileId, Profiles};
use crate::request::{Inside, Request};
use crate::settings::Settings;
use json::{JsonMatcher, PointerMatcher};
use query::{Query, ValueMatcher};

/// Steps that all globs of a policy's hooks may have: what a foreign file can make them take in memory.
const MAX_STEPS: usize = 1 << 18;

/// Whether text is a JSON pointer (RFC 6901).
#[must_use]
pub fn is_pointer(text: &str) -> bool {
    json::pointer(text).is_some()
}

/// All hooks of a policy, ready to match.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks(Vec<Matcher>);

#[derive(Debug, Clone)]
struct Matcher {
    hosts: Hosts,
    profiles: Profiles,
    methods: Vec<Box<str>>,
    paths: Vec<PathMatcher>,
    query: Vec<(Box<str>, Vec<ValueMatcher>)>,
    headers: Vec<(Box<str>, Vec<ValueMatcher>)>,
    /// What profiles say of the body.
    bodies: Vec<(ProfileId, BodyMatcher)>,
}

#[derive(Debug, Clone)]
enum PathMatcher {
    /// That path, and what lies below it.
    Prefix(Box<str>),
    Glob(TextGlob),
}

#[derive(Debug, Clone)]
struct BodyMatcher {
    max_bytes: usize,
    pointers: Vec<PointerMatcher>,
}

impl Hooks {
    /// Prepares the hooks of a policy with these profiles. Says what is wrong with them where a policy cannot have them.
    pub(crate) fn prepare(hooks: &[Hook], profiles: &[Meta], settings: &[Settings]) -> Result<Self, &'static str> {
        if hooks.len() > MAX_HOOKS {
            return Err("too many hooks");
        }
        let mut matchers = hooks.iter().map(Matcher::new).collect::<Result<Vec<_>, _>>()?;
        for (profile, body) in
            (0..).zip(settings).flat_map(|(number, settings)| settings.hook_bodies.iter().map(move |body| (ProfileId(number), body)))
        {
            let of_it = hooks.iter().zip(&mut matchers).filter(|(hook, _)| hook.profiles.has(profile) && hook.name == body.hook);
            let most = profiles.get(usize::from(profile.0)).and_then(|meta| meta.mitm.max_body_bytes);
            let mut found = false;
            for (_, matcher) in of_it {
                matcher.bodies.push((profile, BodyMatcher::new(body, most)));
                found = true;
            }
            if !found {
                return Err("what a body has to be is said of a hook that is not there");
            }
        }
        if matchers.iter().map(Matcher::steps).sum::<usize>() > MAX_STEPS {
            return Err("globs that are too long, or have too many alternatives");
        }
        Ok(Self(matchers))
    }

    /// Whether a hook of the profile speaks of the host.
    pub(crate) fn speak_of(&self, profile: ProfileId, host: &Host) -> bool {
        self.0.iter().any(|matcher| matcher.speaks_of(profile, host))
    }

    /// The place of the first that matches.
    pub(crate) fn first(&self, request: &Request<'_>) -> Option<usize> {
        let parts = Parts::of(request)?;
        self.0.iter().position(|matcher| {
            matcher.matches_head(request, &parts) && matcher.body(request.profile).is_none_or(|body| body.matches(&parts.inside))
        })
    }

    /// Bytes of the body that have to be read before it is known which of them matches first.
    pub(crate) fn body_wanted(&self, request: &Request<'_>) -> Option<usize> {
        let parts = Parts::of(request)?;
        let mut wanted = None;
        for matcher in self.0.iter().filter(|matcher| matcher.matches_head(request, &parts)) {
            match matcher.body(request.profile) {
                // Those behind it do not count any more.
                None => break,
                Some(body) if sends_json(&parts.inside) => wanted = wanted.max(Some(body.max_bytes)),
                Some(_) => {}
            }
        }
        wanted
    }
}

/// What is asked of a request more than once.
struct Parts<'a> {
    method: &'a str,
    /// One that has one reading.
    path: &'a str,
    inside: Inside<'a>,
    /// `None` where it has several readings.
    query: Option<Query<'a>>,
}

impl<'a> Parts<'a> {
    /// `None` where no hook can match.
    fn of(request: &Request<'a>) -> Option<Self> {
        let path = request.path.filter(|path| path::has_one_reading(path))?;
        let inside = request.inside?;
        Some(Self { method: request.method?, path, inside, query: Query::read(inside.query.unwrap_or_default()) })
    }
}

impl Matcher {
    fn new(hook: &Hook) -> Result<Self, &'static str> {
        let hosts = match Pattern::parse(&hook.host) {
            Ok(Pattern {
                hosts: hosts @ (Hosts::Exact(_) | Hosts::Subdomains(_) | Hosts::ApexAndSubdomains(_) | Hosts::Network(_)),
                port: None,
            }) => hosts,
            _ => return Err("a hook's host is not a name or a scoped wildcard"),
        };
        let fields = |fields: &[(String, Vec<String>)]| {
            let matchers = |values: &[String]| values.iter().map(|value| ValueMatcher::new(value)).collect();
            fields.iter().map(|(name, values)| (name.as_str().into(), matchers(values))).collect()
        };
        Ok(Self {
            hosts,
            profiles: hook.profiles,
            methods: hook.methods.iter().map(|method| method.as_str().into()).collect(),
            // One that cannot be read matches nothing; the others still do.
            paths: hook.path_prefixes.iter().filter_map(|text| PathMatcher::new(text)).collect(),
            query: fields(&hook.query),
            headers: fields(&hook.headers),
            bodies: Vec::new(),
        })
    }

    /// Steps of its globs.
    fn steps(&self) -> usize {
        let paths = self.paths.iter().map(|path| if let PathMatcher::Glob(glob) = path { glob.steps() } else { 0 });
        let values = self.query.iter().chain(&self.headers).flat_map(|(_, values)| values).map(ValueMatcher::steps);
        let allowed = self.bodies.iter().flat_map(|(_, body)| &body.pointers).flat_map(|pointer| &pointer.allowed);
        let bodies = allowed.map(|allowed| if let JsonMatcher::Text(matcher) = allowed { matcher.steps() } else { 0 });
        paths.chain(values).chain(bodies).sum()
    }

    fn speaks_of(&self, profile: ProfileId, host: &Host) -> bool {
        self.profiles.has(profile) && self.hosts.matches(host)
    }

    /// What the profile says of the body.
    fn body(&self, profile: ProfileId) -> Option<&BodyMatcher> {
        self.bodies.iter().find(|(of, _)| *of == profile).map(|(_, body)| body)
    }

    /// Whether all but the body matches.
    fn matches_head(&self, request: &Request<'_>, parts: &Parts<'_>) -> bool {
        self.speaks_of(request.profile, request.host)
            && self.methods.iter().any(|method| **method == *parts.method)
            && self.paths.iter().any(|path| path.matches(parts.path))
            && self.query.iter().all(|(name, allowed)| parts.query.is_some_and(|query| query.holds(name, allowed)))
            && self.headers.iter().all(|(name, allowed)| header_holds(parts.inside.headers, name, allowed))
    }
}

/// Whether a header is there, and each field of that name has an allowed value; any, if none is listed.
fn header_holds(headers: &[(&str, &[u8])], name: &str, allowed: &[ValueMatcher]) -> bool {
    // Another spelling of the name may be what a server reads.
    if headers.iter().any(|(own, _)| *own != name && crate::credentials::same_header(name, own.as_bytes())) {
        return false;
    }
    let mut values = headers.iter().filter(|(own, _)| *own == name).map(|(_, value)| value).peekable();
    // More than ASCII is read in two ways.
    let holds = |value: &[u8]| value.is_ascii() && allowed.iter().any(|matcher| matcher.matches(value.iter().copied()));
    values.peek().is_some() && (allowed.is_empty() || values.all(|value| holds(value)))
}

impl PathMatcher {
    fn new(text: &str) -> Option<Self> {
        match (text.strip_prefix("literal:"), text.strip_prefix("pattern:")) {
            (Some(literal), _) => Some(Self::Prefix(literal.into())),
            (None, Some(glob)) => TextGlob::parse(glob, TextKind::Path).ok().map(Self::Glob),
            (None, None) => Some(Self::Prefix(text.into())),
        }
        // An empty prefix would be every path.
        .filter(|matcher| !matches!(matcher, Self::Prefix(prefix) if prefix.is_empty()))
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => path::lies_below(path, prefix),
            Self::Glob(glob) => glob.matches(path.bytes()),
        }
    }
}

impl BodyMatcher {
    /// `most` is what the profile allows bodies of all its hooks, in bytes.
    fn new(body: &HookBody, most: Option<u64>) -> Self {
        let matcher = |value: &JsonValue| match value {
            JsonValue::Text(text) => JsonMatcher::Text(ValueMatcher::new(text)),
            JsonValue::Bool(value) => JsonMatcher::Bool(*value),
            JsonValue::Number(value) => JsonMatcher::Number(*value),
        };
        let pointers = body.json.iter().map(|(at, allowed)| match json::pointer(at) {
            Some(path) => PointerMatcher { path, allowed: allowed.iter().map(matcher).collect() },
            None => PointerMatcher { path: Vec::new(), allowed: Vec::new() },
        });
        let max_bytes = most.map_or(body.max_bytes, |most| body.max_bytes.min(most));
        Self { max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX), pointers: pointers.collect() }
    }

    fn matches(&self, inside: &Inside<'_>) -> bool {
        sends_json(inside) && inside.body.is_some_and(|body| body.len() <= self.max_bytes && json::holds(body, &self.pointers))
    }
}

/// Whether a body is sent as JSON, as it stands: a server that takes it for a form, or unpacks it, would read something else.
fn sends_json(inside: &Inside<'_>) -> bool {
    let values = |name: &'static str| inside.headers.iter().filter(move |(own, _)| *own == name).map(|(_, value)| *value);
    let mut types = values("content-type");
    let is_json = types.next().is_some_and(is_json_type);
    is_json && types.next().is_none() && values("content-encoding").all(|coding| coding.eq_ignore_ascii_case(b"identity"))
}

/// `application/json`, or `application/` with `+json`; in UTF-8, if it says so.
fn is_json_type(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let mut parts = value.split(';');
    let kind = parts.next().unwrap_or_default().trim();
    let (main, sub) = kind.split_once('/').unwrap_or_default();
    let suffix = sub.rsplit_once('+').map_or(sub, |(_, suffix)| suffix);
    let is_json = main.eq_ignore_ascii_case("application") && suffix.eq_ignore_ascii_case("json");
    is_json
        && parts.all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}
