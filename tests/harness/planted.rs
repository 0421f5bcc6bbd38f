//! Requests that carry a value in one place of their head or another, and a search for a value that must not have got out.
//!
//! It uses the standard library alone: the unit tests of the data plane include this file too, and ask the broker directly what the tests here ask the whole proxy.

/// How a credential is presented where one belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `Authorization: Bearer VALUE`.
    Bearer,
    /// `Authorization: token VALUE`.
    Token,
    /// `Authorization: Basic …`, as user.
    BasicUser,
    /// `Authorization: Basic …`, as password.
    BasicPassword,
    /// [`FIELD`], behind [`PREFIX`].
    Field,
}

/// The field of [`Way::Field`].
pub const FIELD: &str = "x-service-key";
/// What stands before the value in it.
pub const PREFIX: &str = "Key ";

/// A request that carries a value.
#[derive(Debug, Clone)]
pub struct Planted {
    /// Where, in words.
    pub place: &'static str,
    /// How it is presented, if this is a place for credentials. Nobody may put one in anywhere else.
    pub way: Option<Way>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path_and_query: String,
    /// Fields beside `Host`.
    pub headers: Vec<(String, String)>,
}

type Plant = fn(&mut Planted, &str);

/// Every place, how a value stands in it, and whether a credential may.
const PLACES: &[(&str, Option<Way>, Plant)] = &[
    ("bearer", Some(Way::Bearer), |request, value| request.authorize(format!("Bearer {value}"))),
    ("bearer in lower case", Some(Way::Bearer), |request, value| request.authorize(format!("bearer {value}"))),
    ("bearer in upper case", Some(Way::Bearer), |request, value| request.field("AUTHORIZATION", format!("BEARER {value}"))),
    ("bearer behind blanks", Some(Way::Bearer), |request, value| request.field("authorization", format!("Bearer   {value}"))),
    ("token", Some(Way::Token), |request, value| request.authorize(format!("token {value}"))),
    ("token, capital", Some(Way::Token), |request, value| request.authorize(format!("Token {value}"))),
    ("basic, user", Some(Way::BasicUser), |request, value| request.basic(&format!("{value}:x-oauth-basic"))),
    ("basic, user without password", Some(Way::BasicUser), |request, value| request.basic(&format!("{value}:"))),
    ("basic, password", Some(Way::BasicPassword), |request, value| request.basic(&format!("x-access-token:{value}"))),
    ("basic, password without user", Some(Way::BasicPassword), |request, value| request.basic(&format!(":{value}"))),
    ("a field of its own", Some(Way::Field), |request, value| request.field(FIELD, format!("{PREFIX}{value}"))),
    ("method", None, |request, value| request.method = value.to_owned()),
    ("path", None, |request, value| request.path_and_query = format!("/{value}")),
    ("path, in a segment", None, |request, value| request.path_and_query = format!("/a/x{value}y/b")),
    ("path, escaped", None, |request, value| request.path_and_query = format!("/{}", percent(value))),
    ("path of a URL with a user", None, |request, value| request.path_and_query = format!("//{value}@evil.example/")),
    ("query, value", None, |request, value| request.path_and_query = format!("/?token={value}")),
    ("query, name", None, |request, value| request.path_and_query = format!("/?{value}=1")),
    ("query, escaped", None, |request, value| request.path_and_query = format!("/?q={}", percent(value))),
    ("fragment", None, |request, value| request.path_and_query = format!("/#{value}")),
    ("trace", None, |request, value| {
        request.method = "TRACE".to_owned();
        request.authorize(format!("Bearer {value}"));
    }),
    ("alone in authorization", None, |request, value| request.authorize(value.to_owned())),
    ("bearer without a blank", None, |request, value| request.authorize(format!("Bearer{value}"))),
    ("bearer behind a tab", None, |request, value| request.authorize(format!("Bearer\t{value}"))),
    ("bearer with more before it", None, |request, value| request.authorize(format!("Bearer x{value}"))),
    ("bearer with more behind it", None, |request, value| request.authorize(format!("Bearer {value}x"))),
    ("bearer with another word", None, |request, value| request.authorize(format!("Bearer {value} {value}"))),
    ("bearer in a list", None, |request, value| request.authorize(format!("Bearer {value}, Bearer {value}"))),
    ("bearer in quotes", None, |request, value| request.authorize(format!("Bearer \"{value}\""))),
    ("bearer, escaped", None, |request, value| request.authorize(format!("Bearer {}", percent(value)))),
    ("bearer, encoded", None, |request, value| request.authorize(format!("Bearer {}", base64(value.as_bytes())))),
    ("bearer in the other case", None, |request, value| request.authorize(format!("Bearer {}", other_case(value)))),
    ("bearer cut off", None, |request, value| request.authorize(format!("Bearer {}", &value[..value.len() - 1]))),
    ("basic without a colon", None, |request, value| request.basic(value)),
    ("basic, user with more", None, |request, value| request.basic(&format!("x{value}:x"))),
    ("basic, password with more", None, |request, value| request.basic(&format!("a:b:{value}"))),
    ("basic, not encoded", None, |request, value| request.authorize(format!("Basic x:{value}"))),
    ("basic, encoded twice", None, |request, value| request.basic(&base64(format!("x:{value}").as_bytes()))),
    ("digest", None, |request, value| request.authorize(format!("Digest username=\"{value}\", response=\"{value}\""))),
    ("an unknown scheme", None, |request, value| request.authorize(format!("ApiKey {value}"))),
    ("authorization, twice", None, |request, value| {
        request.authorize(format!("Bearer {value}"));
        request.field("authorization", format!("Bearer {value}"));
    }),
    ("authorization behind another", None, |request, value| {
        request.authorize("Bearer other".to_owned());
        request.field("AUTHORIZATION", format!("Bearer {value}"));
    }),
    ("the field of its own, twice", None, |request, value| {
        request.field(FIELD, format!("{PREFIX}{value}"));
        request.field("X-Service-Key", format!("{PREFIX}{value}"));
    }),
    ("the field of its own without the prefix", None, |request, value| request.field(FIELD, value.to_owned())),
    ("the field of its own with another prefix", None, |request, value| request.field(FIELD, format!("key {value}"))),
    ("proxy-authorization", None, |request, value| request.field("Proxy-Authorization", format!("Bearer {value}"))),
    ("another field of authorization", None, |request, value| request.field("X-Authorization", format!("Bearer {value}"))),
    ("cookie", None, |request, value| request.field("Cookie", format!("session={value}"))),
    ("referer", None, |request, value| request.field("Referer", format!("https://a.example/?{value}"))),
    ("user-agent", None, |request, value| request.field("User-Agent", value.to_owned())),
    ("accept", None, |request, value| request.field("Accept", format!("text/html, {value}"))),
    ("the name of a field", None, |request, value| request.field(&format!("x-{}", value.replace(['=', '/', ':'], "-")), "1".to_owned())),
];

impl Planted {
    fn field(&mut self, name: &str, value: String) {
        self.headers.push((name.to_owned(), value));
    }

    fn authorize(&mut self, value: String) {
        self.field("Authorization", value);
    }

    fn basic(&mut self, pair: &str) {
        self.authorize(format!("Basic {}", base64(pair.as_bytes())));
    }

    /// The head, with fields of another value in place of those that are named.
    #[must_use]
    pub fn head(&self, host: &str, changed: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.path_and_query).into_bytes();
        for (name, value) in &self.headers {
            let new = changed.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice());
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(new.unwrap_or(value.as_bytes()));
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// A request for each place, with `value` planted there. `value` has at least two characters, one of them a letter.
#[must_use]
pub fn everywhere(value: &str) -> Vec<Planted> {
    PLACES
        .iter()
        .map(|(place, way, plant)| {
            let mut request = Planted {
                place,
                way: *way,
                method: "GET".to_owned(),
                path_and_query: "/v1/things?page=2".to_owned(),
                headers: vec![("Accept-Language".to_owned(), "en".to_owned())],
            };
            plant(&mut request, value);
            request
        })
        .collect()
}

/// What a field is to be once the credential stands in it: the value, as the origin is to see it.
#[must_use]
pub fn field_with(request: &Planted, dummy: &str, real: &str) -> Vec<u8> {
    let value = &request.headers.last().map(|(_, value)| value.as_str()).unwrap_or_default();
    match value.strip_prefix("Basic ") {
        Some(encoded) => {
            // Encoding is the only thing that is undone here: the pair is planted again.
            let pair = [format!("{dummy}:x-oauth-basic"), format!("{dummy}:"), format!("x-access-token:{dummy}"), format!(":{dummy}")]
                .into_iter()
                .find(|pair| base64(pair.as_bytes()) == encoded)
                .unwrap_or_default();
            format!("Basic {}", base64(pair.replace(dummy, real).as_bytes())).into_bytes()
        }
        // One blank stands behind the scheme.
        None => value.split_whitespace().collect::<Vec<_>>().join(" ").replace(dummy, real).into_bytes(),
    }
}

/// How a secret shows in some bytes, as it is or in a disguise; `None` if it does not.
#[must_use]
pub fn found(bytes: &[u8], secret: &str) -> Option<&'static str> {
    let has = |bytes: &[u8], wanted: &[u8]| !wanted.is_empty() && bytes.windows(wanted.len()).any(|window| window == wanted);
    let lower = bytes.to_ascii_lowercase();
    let secret_lower = secret.to_ascii_lowercase();
    let reversed: String = secret_lower.chars().rev().collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    if has(&lower, secret_lower.as_bytes()) {
        return Some("as it is");
    }
    if has(&lower, percent(secret).to_ascii_lowercase().as_bytes()) {
        return Some("percent-encoded");
    }
    if has(&lower, hex.as_bytes()) {
        return Some("in hexadecimal");
    }
    if has(&lower, reversed.as_bytes()) {
        return Some("backwards");
    }
    // In base64, what a secret looks like depends on how many bytes stand before it.
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(secret.as_bytes());
        let text = base64(&padded);
        let whole = text.get((before * 8).div_ceil(6)..padded.len() * 8 / 6).unwrap_or_default();
        if has(bytes, whole.as_bytes()) || has(bytes, whole.replace('+', "-").replace('/', "_").as_bytes()) {
            return Some("in base64");
        }
    }
    None
}

/// A secret that looks like one: `prefix`, and random characters.
#[must_use]
pub fn secret(prefix: &str, seed: u64) -> String {
    const CHARACTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x2545_f491_4f6c_dd1d);
    let mut text = prefix.to_owned();
    for _ in 0..32 {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let drawn = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        text.extend(CHARACTERS.get(usize::try_from(drawn).unwrap_or_default() % CHARACTERS.len()).copied().map(char::from));
    }
    text
}

/// Every byte as `%XX`.
fn percent(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn other_case(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect()
}

/// RFC 4648, section 4.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let digit = ALPHABET.get(bits >> (18 - 6 * at) & 63).copied().unwrap_or_default();
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
