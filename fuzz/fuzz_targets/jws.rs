//! A signed token is taken only if its header says HS256 and its claims say when it expires, whatever else stands in it; and nothing unsigned is taken.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use netproxy::parse::jws::{Expected, Verifier};
use ring::hmac;

const SECRET: &[u8] = b"thirty-two bytes that are secret";

fuzz_target!(|data: &[u8]| {
    let verifier = Verifier::new(SECRET, Expected { skew: 30, ..Expected::default() }).unwrap();
    // As it is: nobody finds a signature.
    assert!(verifier.verify(data, 0).is_err());
    // Signed by who has the secret: the first line is the header, the rest are the claims.
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (header, claims) = (&data[..end], &data[end + 1..]);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
    let Ok(taken) = verifier.verify(token.as_bytes(), 1_000) else { return };
    assert!(taken.expires.saturating_add(30) > 1_000);
    let has = |part: &[u8], name: &str| String::from_utf8_lossy(part).contains(name) || part.contains(&b'\\');
    assert!(has(header, "HS256") && has(header, "alg") && has(claims, "exp"));
    assert!(verifier.verify(token.as_bytes(), taken.expires.saturating_add(30)).is_err(), "it expires");
});
