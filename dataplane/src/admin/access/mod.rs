//! Who may use the API, and for what.
//!
//! Without a file of tokens and without a shared secret, everybody who reaches the listener may: it is a loopback one then, and [`super::door`] keeps web pages out. With
//! either, a request needs `Authorization: Bearer …`; a token of the file is compared by its MAC under a key of this process, so that comparing takes as long whatever
//! it is. Who comes through the unix socket is known by the kernel, and needs none.

mod files;
pub(crate) mod throttle;

use crate::parse::jws::{Expected, MIN_SECRET, Verifier};
pub use files::AdminFileError;
use files::Kept;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use ring::hmac;
use ring::rand::SystemRandom;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use throttle::Throttle;

/// Tokens that a file may have.
const MAX_TOKENS: usize = 256;
/// Characters of a token at least: 128 bits, as 22 of base64 are.
const MIN_TOKEN: usize = 22;
/// Bytes of the field `Authorization`, beyond which nothing is looked at.
const MAX_FIELD: usize = 9 << 10;

/// How the admin API is reached beside its listener, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAccess {
    /// A file with tokens, one a line: `TOKEN`, or `read:TOKEN` for one that only reads. Nobody but its owner may read it. It is read again when it changes.
    pub token_file: Option<PathBuf>,
    /// A file with a secret of 32 bytes or more, which tokens are signed with (HS256). Read again as well.
    pub shared_secret_file: Option<PathBuf>,
    /// The issuer that signed tokens must have.
    pub issuer: Option<String>,
    /// The audience that signed tokens must be for.
    pub audience: Option<String>,
    /// How far the clocks of who signs and who checks may be apart.
    pub max_clock_skew: Duration,
    /// Names by which callers may call the API, beside addresses and `localhost`: only together with tokens.
    pub hosts: Vec<String>,
    /// A unix socket to listen on as well.
    pub socket: Option<PathBuf>,
    /// Who may use it beside the user of this process and root: a number.
    pub socket_user: Option<u32>,
}

impl Default for AdminAccess {
    fn default() -> Self {
        Self {
            token_file: None,
            shared_secret_file: None,
            issuer: None,
            audience: None,
            max_clock_skew: Duration::from_secs(30),
            hosts: Vec::new(),
            socket: None,
            socket_user: None,
        }
    }
}

impl AdminAccess {
    /// Whether a caller has to show a token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.token_file.is_some() || self.shared_secret_file.is_some()
    }

    /// Files that are read again while the proxy runs.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        [&self.token_file, &self.shared_secret_file].into_iter().flatten().cloned().collect()
    }
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scopes {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Read,
    Write,
}

impl Scopes {
    pub(crate) const ALL: Self = Self { read: true, write: true };
    const READ: Self = Self { read: true, write: false };

    pub(crate) fn has(self, scope: Scope) -> bool {
        match scope {
            Scope::Read => self.read,
            Scope::Write => self.write,
        }
    }

    /// Of a claim: who may write sees what there is to write.
    fn of_claim(scope: &str) -> Self {
        let has = |wanted: &str| scope.split(' ').any(|word| word == wanted);
        let write = has("netproxy:write");
        Self { read: write || has("netproxy:read"), write }
    }
}

impl Scope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "netproxy:read",
            Self::Write => "netproxy:write",
        }
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// Through the listener.
    Address(IpAddr),
    /// Through the unix socket, from somebody who may use it.
    Socket,
}

/// Why a request has no scopes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has no token.
    Missing,
    /// It has one that does not hold.
    Invalid(String),
    /// Too many of its kind came from that address: after so long, one more.
    TooMany(Duration),
}

/// Checks who may.
pub(crate) struct Access {
    settings: AdminAccess,
    /// Of this process: what tokens are compared under.
    comparing: hmac::Key,
    tokens: Option<Mutex<Kept<Vec<Token>>>>,
    signed: Option<Mutex<Kept<Verifier>>>,
    failures: Throttle,
}

/// A token of the file.
struct Token {
    tag: hmac::Tag,
    scopes: Scopes,
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// [`AdminFileError`].
    pub(crate) fn new(settings: AdminAccess) -> Result<Self, AdminFileError> {
        let comparing = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| AdminFileError::Random)?;
        let tokens = settings.token_file.clone().map(|path| Kept::read(path, |text| read_tokens(text, &comparing))).transpose()?;
        let expected =
            Expected { issuer: settings.issuer.clone(), audience: settings.audience.clone(), skew: settings.max_clock_skew.as_secs() };
        let signed = settings.shared_secret_file.clone();
        let signed = signed.map(|path| Kept::read(path, |text| read_secret(text, &expected))).transpose()?;
        Ok(Self { settings, comparing, tokens: tokens.map(Mutex::new), signed: signed.map(Mutex::new), failures: Throttle::failures() })
    }

    pub(crate) fn settings(&self) -> &AdminAccess {
        &self.settings
    }

    /// What a request may do. `fault` is told once of a file that cannot be read any more: then no token holds.
    pub(crate) fn check(&self, headers: &HeaderMap, peer: Peer, fault: &dyn Fn(&str)) -> Result<Scopes, Refused> {
        let Peer::Address(address) = peer else { return Ok(Scopes::ALL) };
        if !self.settings.needs_token() {
            return Ok(Scopes::ALL);
        }
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let Some(field) = fields.next() else { return Err(Refused::Missing) };
        let found = match fields.next() {
            Some(_) => Err("there is more than one `Authorization`".to_owned()),
            None => self.scopes(field.as_bytes(), fault),
        };
        // Only what does not hold is counted: tokens are too long to be guessed, and who shows wrong ones must not lock those out who come from the same address with right ones.
        found.map_err(|what| self.failures.take(address).map_or_else(Refused::TooMany, |()| Refused::Invalid(what)))
    }

    fn scopes(&self, field: &[u8], fault: &dyn Fn(&str)) -> Result<Scopes, String> {
        if field.len() > MAX_FIELD {
            return Err("the field `Authorization` is too long".to_owned());
        }
        let scheme = b"bearer ";
        let token = field.split_at_checked(scheme.len()).filter(|(name, _)| name.eq_ignore_ascii_case(scheme));
        let (_, token) = token.ok_or("a token is given as `Authorization: Bearer TOKEN`")?;
        let token = token.trim_ascii();
        if let Some(scopes) = self.tokens.as_ref().and_then(|kept| {
            let expected = |text: &[u8]| read_tokens(text, &self.comparing);
            files::with(kept, expected, fault, |tokens| compare(token, tokens, &self.comparing)).flatten()
        }) {
            return Ok(scopes);
        }
        let Some(signed) = &self.signed else { return Err("the token is not known".to_owned()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let expected = Expected {
            issuer: self.settings.issuer.clone(),
            audience: self.settings.audience.clone(),
            skew: self.settings.max_clock_skew.as_secs(),
        };
        let checked = files::with(signed, |text| read_secret(text, &expected), fault, |verifier| verifier.verify(token, now));
        match checked {
            Some(Ok(claims)) => Ok(Scopes::of_claim(&claims.scope)),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("signed tokens cannot be checked now".to_owned()),
        }
    }
}

/// The scopes of a token; all of them are compared, whichever it is.
fn compare(token: &[u8], tokens: &[Token], key: &hmac::Key) -> Option<Scopes> {
    let mut found = None;
    for known in tokens {
        if hmac::verify(key, token, known.tag.as_ref()).is_ok() {
            found = Some(known.scopes);
        }
    }
    found
}

/// One token a line; `#` begins a line that is none.
fn read_tokens(text: &[u8], key: &hmac::Key) -> Result<Vec<Token>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: String| format!("line {}: {what}", number + 1);
        let (scopes, token) = match line.split_once(':') {
            None => (Scopes::ALL, line),
            Some(("read", token)) => (Scopes::READ, token),
            Some(("write", token)) => (Scopes::ALL, token),
            Some(_) => return Err(wrong("what stands before `:` is `read` or `write`".to_owned())),
        };
        // What a field may have as a token (RFC 6750, section 2.1).
        if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
            return Err(wrong("a token is of letters, digits and `-._~+/=`".to_owned()));
        }
        if token.len() < MIN_TOKEN {
            return Err(wrong(format!("a token has at least {MIN_TOKEN} characters; `openssl rand -hex 32` makes a good one")));
        }
        if tokens.len() == MAX_TOKENS {
            return Err(format!("there are more than {MAX_TOKENS} tokens"));
        }
        tokens.push(Token { tag: hmac::sign(key, token.as_bytes()), scopes });
    }
    if tokens.is_empty() { Err("there is no token in it".to_owned()) } else { Ok(tokens) }
}

fn read_secret(text: &[u8], expected: &Expected) -> Result<Verifier, String> {
    Verifier::new(text.trim_ascii(), expected.clone())
        .ok_or_else(|| format!("a secret has at least {MIN_SECRET} bytes; `openssl rand -hex 32` makes a good one"))
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const BOTH: &str = "0123456789abcdef0123456789abcdef";
    const READ: &str = "read-only-read-only-read-only-ok";

    fn write(path: &Path, text: &str, mode: u32) {
        // By rename, as who replaces a file does.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&new, path).unwrap();
    }

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers
    }

    fn peer(last: u8) -> Peer {
        Peer::Address(IpAddr::from([127, 0, 0, last]))
    }

    #[test]
    fn tokens_are_read_again_when_their_file_changes_and_none_holds_when_it_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        write(&path, &format!("# ours\n\n{BOTH}\nread:{READ}\n"), 0o600);
        let access = Access::new(AdminAccess { token_file: Some(path.clone()), ..AdminAccess::default() }).unwrap();
        let faults = Mutex::new(Vec::new());
        let fault = |what: &str| faults.lock().unwrap().push(what.to_owned());
        let check = |token: &str, from| access.check(&bearer(token), peer(from), &fault);
        assert_eq!(check(BOTH, 1), Ok(Scopes::ALL));
        assert_eq!(check(READ, 1), Ok(Scopes::READ));
        for wrong in ["", "x", &BOTH[1..], &format!("{BOTH}0"), &BOTH.to_uppercase(), &format!("read:{READ}")] {
            assert!(matches!(check(wrong, 2), Err(Refused::Invalid(_))), "{wrong}");
        }
        assert_eq!(access.check(&HeaderMap::new(), peer(1), &fault), Err(Refused::Missing));
        let mut basic = HeaderMap::new();
        basic.insert(AUTHORIZATION, format!("Basic {BOTH}").parse().unwrap());
        assert!(matches!(access.check(&basic, peer(3), &fault), Err(Refused::Invalid(_))));
        let mut twice = bearer(BOTH);
        twice.append(AUTHORIZATION, format!("Bearer {BOTH}").parse().unwrap());
        assert!(matches!(access.check(&twice, peer(3), &fault), Err(Refused::Invalid(_))));
        assert_eq!(access.check(&HeaderMap::new(), Peer::Socket, &fault), Ok(Scopes::ALL));

        let other = "another-token-another-token-0123";
        write(&path, other, 0o600);
        assert!(matches!(check(BOTH, 4), Err(Refused::Invalid(_))));
        assert_eq!(check(other, 4), Ok(Scopes::ALL));
        assert!(faults.lock().unwrap().is_empty());
        write(&path, other, 0o644);
        assert!(matches!(check(other, 5), Err(Refused::Invalid(_))));
        assert!(matches!(check(other, 6), Err(Refused::Invalid(_))));
        assert_eq!(faults.lock().unwrap().len(), 1, "it is said once");
        write(&path, other, 0o600);
        assert_eq!(check(other, 7), Ok(Scopes::ALL));
        fs::remove_file(&path).unwrap();
        assert!(matches!(check(other, 8), Err(Refused::Invalid(_))));
    }

    #[test]
    fn who_guesses_is_told_to_wait_and_tokens_that_hold_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        write(&path, BOTH, 0o600);
        let access = Access::new(AdminAccess { token_file: Some(path), ..AdminAccess::default() }).unwrap();
        let check = |token: &str, from| access.check(&bearer(token), peer(from), &|_| ());
        let mut refused = 0;
        while let Err(Refused::Invalid(_)) = check("guess", 9) {
            refused += 1;
            assert!(refused < 100);
        }
        assert!(refused >= 10);
        assert!(matches!(check("guess", 9), Err(Refused::TooMany(wait)) if wait > Duration::ZERO));
        assert_eq!(check(BOTH, 9), Ok(Scopes::ALL), "who guesses locks nobody out who comes from the same address");
        assert_eq!(check(BOTH, 10), Ok(Scopes::ALL));
        assert_eq!(access.check(&HeaderMap::new(), peer(9), &|_| ()), Err(Refused::Missing), "who shows no token guesses none");
    }

    #[test]
    fn files_that_cannot_be_relied_on_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let start = |token: bool| {
            let path = Some(path.clone());
            let (token_file, shared_secret_file) = if token { (path, None) } else { (None, path) };
            Access::new(AdminAccess { token_file, shared_secret_file, ..AdminAccess::default() }).err().map(|error| error.to_string())
        };
        let shown = path.display().to_string();
        for (text, mode, token, expected) in [
            (BOTH, 0o644, true, format!("`{shown}` is open to others than its owner (mode 0644); run `chmod 600 {shown}`")),
            ("", 0o600, true, format!("`{shown}` cannot be used: there is no token in it")),
            (
                "short",
                0o600,
                true,
                format!("`{shown}` cannot be used: line 1: a token has at least 22 characters; `openssl rand -hex 32` makes a good one"),
            ),
            (
                "#\nadmin:0123456789012345678901",
                0o600,
                true,
                format!("`{shown}` cannot be used: line 2: what stands before `:` is `read` or `write`"),
            ),
            (
                "two words that are long enough",
                0o600,
                true,
                format!("`{shown}` cannot be used: line 1: a token is of letters, digits and `-._~+/=`"),
            ),
            (
                "thirty-one bytes are not enough\n",
                0o600,
                false,
                format!("`{shown}` cannot be used: a secret has at least 32 bytes; `openssl rand -hex 32` makes a good one"),
            ),
        ] {
            write(&path, text, mode);
            assert_eq!(start(token), Some(expected), "{text}");
        }
        write(&path, &"0123456789012345678901\n".repeat(257), 0o600);
        assert_eq!(start(true), Some(format!("`{shown}` cannot be used: there are more than 256 tokens")));
        write(&path, "thirty-two bytes are enough, here", 0o600);
        assert_eq!(start(false), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(start(true), Some(format!("`{shown}` is not a regular file")));
    }

    #[test]
    fn claims_give_scopes_word_by_word() {
        for (claim, read, write) in [
            ("", false, false),
            ("netproxy:read", true, false),
            ("netproxy:write", true, true),
            ("other netproxy:read x", true, false),
            ("netproxy:reader xnetproxy:write netproxy:write,netproxy:read", false, false),
        ] {
            assert_eq!(Scopes::of_claim(claim), Scopes { read, write }, "{claim}");
        }
    }
}
