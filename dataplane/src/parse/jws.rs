//! Signed tokens: JWS in compact form (RFC 7515, section 7.1) with the claims of a JWT (RFC 7519), signed with HS256 and nothing else.
//!
//! What is not exactly that is refused: another algorithm, whatever the key would say to it; a header that has to be understood and is not (`crit`); names that stand twice,
//! which two readers may read in two ways; times that are no whole seconds; padding, and other bytes that do not belong into base64url. Nothing of the claims is looked at
//! before the signature holds.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Bytes that a token may have.
pub const MAX_TOKEN: usize = 8 << 10;
/// Bytes that a secret has at least: those of what HS256 makes of it (RFC 7518, section 3.2).
pub const MIN_SECRET: usize = 32;

/// Why a token is refused. Nothing of the token is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`MAX_TOKEN`].
    #[error("the token is too long")]
    Long,
    /// It does not have three parts.
    #[error("the token does not have three parts")]
    Parts,
    /// A part is no base64url without padding.
    #[error("a part of the token is not base64url without padding")]
    Base64,
    /// The header or the claims are no JSON object, or a name stands twice in it.
    #[error("a part of the token is not a JSON object with each name once")]
    Json,
    /// Another algorithm than HS256.
    #[error("the token is not signed with HS256")]
    Algorithm,
    /// A header that has to be understood.
    #[error("the token has critical headers")]
    Critical,
    /// It is not signed with our secret.
    #[error("the signature is not right")]
    Signature,
    /// A time is no whole number of seconds, or `exp` is missing.
    #[error("`{0}` is missing, or is not a whole number of seconds")]
    Time(&'static str),
    /// A claim is of another type than it should be.
    #[error("`{0}` is not of its type")]
    Type(&'static str),
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time is to come.
    #[error("the token is not valid yet")]
    Early,
    /// Another issuer, or none.
    #[error("the token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
}

/// What tokens have to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The issuer; any, or none, if it is not set.
    pub issuer: Option<String>,
    /// The audience that is to be among theirs. If it is not set, tokens that name an audience are for somebody else (RFC 7519, section 4.1.3).
    pub audience: Option<String>,
    /// Seconds that clocks may differ by.
    pub skew: u64,
}

/// What a token that holds says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `scope`: words, separated by blanks (RFC 8693, section 4.2).
    pub scope: String,
    /// `exp`, in seconds since 1970.
    pub expires: u64,
}

/// Checks tokens.
pub struct Verifier {
    key: hmac::Key,
    expected: Expected,
}

impl Verifier {
    /// With a secret of at least [`MIN_SECRET`] bytes; `None` for a shorter one.
    #[must_use]
    pub fn new(secret: &[u8], expected: Expected) -> Option<Self> {
        (secret.len() >= MIN_SECRET).then(|| Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), expected })
    }

    /// Checks a token at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`JwsError`].
    pub fn verify(&self, token: &[u8], now: u64) -> Result<Claims, JwsError> {
        verify(token, &self.key, &self.expected, now)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

fn verify(token: &[u8], key: &hmac::Key, expected: &Expected, now: u64) -> Result<Claims, JwsError> {
    if token.len() > MAX_TOKEN {
        return Err(JwsError::Long);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(JwsError::Parts);
    };
    check_header(&object(header)?)?;
    let signature = decode(signature)?;
    // As it came, not as it would be written anew.
    let signed = token.get(..header.len() + 1 + claims.len()).ok_or(JwsError::Parts)?;
    hmac::verify(key, signed, &signature).map_err(|_| JwsError::Signature)?;
    check_claims(&object(claims)?, expected, now)
}

fn check_header(header: &Object) -> Result<(), JwsError> {
    if header.get("alg").and_then(Value::as_str) != Some("HS256") {
        return Err(JwsError::Algorithm);
    }
    if header.get("crit").is_some() {
        return Err(JwsError::Critical);
    }
    match header.get("typ") {
        None => Ok(()),
        Some(Value::String(kind)) if ["jwt", "at+jwt"].contains(&kind.to_ascii_lowercase().trim_start_matches("application/")) => Ok(()),
        Some(_) => Err(JwsError::Type("typ")),
    }
}

fn check_claims(claims: &Object, expected: &Expected, now: u64) -> Result<Claims, JwsError> {
    let expires = claims.time("exp")?.ok_or(JwsError::Time("exp"))?;
    let not_before = claims.time("nbf")?;
    claims.time("iat")?;
    if now >= expires.saturating_add(expected.skew) {
        return Err(JwsError::Expired);
    }
    if not_before.is_some_and(|not_before| now.saturating_add(expected.skew) < not_before) {
        return Err(JwsError::Early);
    }
    let issuer = claims.text("iss")?;
    if expected.issuer.is_some() && issuer != expected.issuer.as_deref() {
        return Err(JwsError::Issuer);
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => many.iter().map(Value::as_str).collect::<Option<_>>().ok_or(JwsError::Type("aud"))?,
        Some(_) => return Err(JwsError::Type("aud")),
    };
    let is_for_us = match &expected.audience {
        Some(own) => audiences.contains(&own.as_str()),
        None => claims.get("aud").is_none(),
    };
    if !is_for_us {
        return Err(JwsError::Audience);
    }
    Ok(Claims { scope: claims.text("scope")?.unwrap_or_default().to_owned(), expires })
}

fn decode(part: &[u8]) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Base64)
}

fn object(part: &[u8]) -> Result<Object, JwsError> {
    serde_json::from_slice(&decode(part)?).map_err(|_| JwsError::Json)
}

/// A JSON object in which no name stands twice.
struct Object(serde_json::Map<String, Value>);

impl Object {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A whole number of seconds, without a fraction or an exponent.
    fn time(&self, name: &'static str) -> Result<Option<u64>, JwsError> {
        self.get(name).map(|value| value.as_u64().ok_or(JwsError::Time(name))).transpose()
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, JwsError> {
        self.get(name).map(|value| value.as_str().ok_or(JwsError::Type(name))).transpose()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut found = serde_json::Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if found.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(Object(found))
            }
        }

        deserializer.deserialize_map(Once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret that has thirty-two byte";
    const NOW: u64 = 1_800_000_000;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, SECRET)
    }

    fn sign(header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&key(), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn check(token: &str) -> Result<Claims, JwsError> {
        let expected = Expected { issuer: Some("ops".into()), audience: Some("netproxy".into()), skew: 30 };
        verify(token.as_bytes(), &key(), &expected, NOW)
    }

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn claims(more: &str) -> String {
        format!(r#"{{"iss":"ops","aud":"netproxy","exp":{},"scope":"netproxy:read"{more}}}"#, NOW + 60)
    }

    #[test]
    fn a_token_that_is_right_is_taken() {
        let scope = Claims { scope: "netproxy:read".into(), expires: NOW + 60 };
        assert_eq!(check(&sign(HEADER, &claims(""))), Ok(scope.clone()));
        assert_eq!(check(&sign(r#"{"kid":"7","alg":"HS256"}"#, &claims(r#","sub":"me","jti":{"a":[1]}"#))), Ok(scope.clone()));
        let listed = format!(r#"{{"iss":"ops","aud":["other","netproxy"],"exp":{},"scope":"netproxy:read"}}"#, NOW + 60);
        assert_eq!(check(&sign(HEADER, &listed)), Ok(scope));
    }

    /// The token of RFC 7515, appendix A.1: made by somebody else, with line ends in its JSON.
    #[test]
    fn the_example_of_the_standard_holds_until_it_expires() {
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(secret).unwrap());
        let expected = Expected { issuer: Some("joe".into()), ..Expected::default() };
        let at = |now| verify(token.as_bytes(), &key, &expected, now).map(|claims| claims.expires);
        assert_eq!((at(1_300_819_379), at(1_300_819_380)), (Ok(1_300_819_380), Err(JwsError::Expired)));
    }

    #[test]
    fn hostile_tokens_are_refused() {
        use JwsError::*;
        let good = sign(HEADER, &claims(""));
        let (signed, _) = good.rsplit_once('.').unwrap();
        let with = |header: &str| sign(header, &claims(""));
        let says = |claims: &str| sign(HEADER, claims);
        let timed = |exp: &str| says(&format!(r#"{{"iss":"ops","aud":"netproxy","exp":{exp}}}"#));
        let more = |more: &str| says(&claims(more));
        let resigned = |algorithm, secret: &[u8]| {
            let tag = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
        };
        let mut flipped = good.clone().into_bytes();
        let last = flipped.len() - 10;
        flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
        let table: Vec<(&str, String, JwsError)> = vec![
            ("nothing", String::new(), Parts),
            ("one part", "abc".into(), Parts),
            ("two parts", signed.into(), Parts),
            ("four parts", format!("{good}.x"), Parts),
            ("a nested one, of five parts", format!("{good}.a.b"), Parts),
            ("huge", "a".repeat(MAX_TOKEN + 1), Long),
            ("dots", ".".repeat(MAX_TOKEN), Parts),
            ("empty parts", "..".into(), Json),
            ("alg none", with(r#"{"alg":"none"}"#), Algorithm),
            (
                "alg none, unsigned",
                format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims(""))),
                Algorithm,
            ),
            ("alg NONE", with(r#"{"alg":"NONE"}"#), Algorithm),
            ("alg in lower case", with(r#"{"alg":"hs256"}"#), Algorithm),
            ("alg HS512", with(r#"{"alg":"HS512"}"#), Algorithm),
            ("alg RS256, the key taken for a secret", with(r#"{"alg":"RS256"}"#), Algorithm),
            ("alg missing", with(r#"{"typ":"JWT"}"#), Algorithm),
            ("alg of another type", with(r#"{"alg":["HS256"]}"#), Algorithm),
            ("alg twice", with(r#"{"alg":"none","alg":"HS256"}"#), Json),
            ("alg twice, once escaped", with(r#"{"alg":"HS256","\u0061lg":"none"}"#), Json),
            ("crit", with(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#), Critical),
            ("typ of another token", with(r#"{"alg":"HS256","typ":"JWE"}"#), Type("typ")),
            ("the header is a list", with(r#"["HS256"]"#), Json),
            ("the header is cut off", with(r#"{"alg":"HS256""#), Json),
            ("the header goes on", with(r#"{"alg":"HS256"}{}"#), Json),
            ("the header is not UTF-8", format!("{}.e30.", URL_SAFE_NO_PAD.encode([b'{', 0xff, b'}'])), Json),
            ("padding", format!("{signed}=.x"), Base64),
            ("padded signature", format!("{good}="), Base64),
            ("standard base64", good.replacen('.', "+.", 1), Base64),
            ("white space", format!(" {good}"), Base64),
            ("a line end", format!("{good}\n"), Base64),
            ("trailing bits", format!("{}.e31.", URL_SAFE_NO_PAD.encode(HEADER)), Signature),
            ("no signature", format!("{signed}."), Signature),
            ("a short signature", good[..good.len() - 22].to_owned(), Base64),
            ("one bit off", String::from_utf8(flipped).unwrap(), Signature),
            ("another secret", resigned(hmac::HMAC_SHA256, b"another secret that has 32 bytes"), Signature),
            ("no secret", resigned(hmac::HMAC_SHA256, b""), Signature),
            ("HMAC-SHA512 under our name", resigned(hmac::HMAC_SHA512, SECRET), Signature),
            ("claims that are no object", says("[]"), Json),
            ("claims that are null", says("null"), Json),
            ("claims that are deep", says(&format!(r#"{{"exp":{},"x":{}1{}}}"#, NOW + 60, "[".repeat(2000), "]".repeat(2000))), Json),
            ("exp missing", says(r#"{"iss":"ops","aud":"netproxy"}"#), Time("exp")),
            ("exp null", timed("null"), Time("exp")),
            ("exp as text", timed("\"1900000000\""), Time("exp")),
            ("exp with a fraction", timed("1900000000.5"), Time("exp")),
            ("exp with an exponent", timed("1.9e9"), Time("exp")),
            ("exp negative", timed("-1"), Time("exp")),
            ("exp beyond numbers", timed("18446744073709551616"), Time("exp")),
            ("exp infinite", timed("1e999"), Json),
            ("exp twice", more(&format!(r#","exp":{}"#, NOW + 9999)), Json),
            ("expired", timed(&(NOW - 30).to_string()), Expired),
            ("nbf to come", more(&format!(r#","nbf":{}"#, NOW + 31)), Early),
            ("nbf as text", more(r#","nbf":"0""#), Time("nbf")),
            ("iat as text", more(r#","iat":"0""#), Time("iat")),
            ("no issuer", says(&format!(r#"{{"aud":"netproxy","exp":{}}}"#, NOW + 60)), Issuer),
            ("another issuer", says(&format!(r#"{{"iss":"ops2","aud":"netproxy","exp":{}}}"#, NOW + 60)), Issuer),
            ("an issuer of another type", says(&format!(r#"{{"iss":["ops"],"aud":"netproxy","exp":{}}}"#, NOW + 60)), Type("iss")),
            ("no audience", says(&format!(r#"{{"iss":"ops","exp":{}}}"#, NOW + 60)), Audience),
            ("another audience", says(&format!(r#"{{"iss":"ops","aud":"netproxy2","exp":{}}}"#, NOW + 60)), Audience),
            ("audiences of another type", says(&format!(r#"{{"iss":"ops","aud":["netproxy",7],"exp":{}}}"#, NOW + 60)), Type("aud")),
            ("a scope that is a list", says(&claims("").replace("\"netproxy:read\"", "[\"netproxy:read\"]")), Type("scope")),
        ];
        for (what, token, error) in table {
            assert_eq!(check(&token), Err(error), "{what}");
        }
    }

    #[test]
    fn short_secrets_are_none() {
        assert!(Verifier::new(&[7; MIN_SECRET - 1], Expected::default()).is_none());
        let verifier = Verifier::new(&[7; MIN_SECRET], Expected::default()).unwrap();
        assert_eq!(verifier.verify(b"x", NOW), Err(JwsError::Parts));
        assert!(!format!("{verifier:?}").contains('7'));
    }

    #[test]
    fn clocks_may_differ_by_so_much() {
        let at = |exp: u64, nbf: u64| check(&sign(HEADER, &format!(r#"{{"iss":"ops","aud":"netproxy","exp":{exp},"nbf":{nbf}}}"#))).err();
        assert_eq!(at(NOW - 29, NOW + 30), None);
        assert_eq!(at(NOW - 30, NOW), Some(JwsError::Expired));
        assert_eq!(at(NOW + 1, NOW + 31), Some(JwsError::Early));
        assert_eq!(at(u64::MAX, 0), None);
    }

    #[test]
    fn a_token_for_somebody_is_not_for_nobody() {
        let nobody = Expected::default();
        let check = |claims: String| verify(sign(HEADER, &claims).as_bytes(), &key(), &nobody, NOW).err();
        assert_eq!(check(format!(r#"{{"exp":{}}}"#, NOW + 1)), None);
        assert_eq!(check(format!(r#"{{"exp":{},"iss":"any"}}"#, NOW + 1)), None);
        assert_eq!(check(format!(r#"{{"exp":{},"aud":"any"}}"#, NOW + 1)), Some(JwsError::Audience));
        assert_eq!(check(format!(r#"{{"exp":{},"aud":[]}}"#, NOW + 1)), Some(JwsError::Audience));
    }

    proptest::proptest! {
        #[test]
        fn only_what_was_signed_is_taken(at in 0usize..400, byte: u8) {
            let good = sign(HEADER, &claims(""));
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let taken = verify(&bytes, &key(), &Expected { issuer: Some("ops".into()), audience: Some("netproxy".into()), skew: 0 }, NOW).is_ok();
            proptest::prop_assert_eq!(taken, bytes == good.as_bytes());
        }
    }
}
