//! The server's name in a TLS ClientHello (RFC 8446, section 4.1.2; RFC 5246, section 7.4.1.2; RFC 6066, section 3).
//!
//! Only what leads to the name is read. The hello may be cut into records anywhere (RFC 8446, section 5.1). What a server could read in another way is malformed. A server may ask for a second
//! hello (section 4.1.4), and then takes the name in that one: [`Behind`] finds it.

use super::look::Look;
use policy_format::Host;

/// Record type of handshake messages.
const HANDSHAKE: u8 = 22;
/// Record type of what an application sends.
const DATA: u8 = 23;
/// Bytes in the longest record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;
/// No server takes a longer hello: OpenSSL takes 131,396 bytes, and others fewer. With post-quantum keys, they have some 2,000.
const MAX_HELLO: usize = 1 << 18;
/// Bytes of early data behind a first hello that may come before a second one. Servers skip some 16 KiB.
const MAX_EARLY: usize = 1 << 20;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// What came before it, in drafts: the name of the server alone.
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;

const NO_HELLO: &str = "the first message of TLS is no ClientHello";
const TOO_LONG: &str = "a ClientHello that is too long";
const DATA_INSIDE: &str = "data inside of a ClientHello";

/// What the first bytes of a client are, if they are TLS: [`Look::Opaque`] if they are not.
#[must_use]
pub fn client_hello(bytes: &[u8]) -> Look {
    match bytes {
        [] | [HANDSHAKE, ..] => {}
        // Servers skip some records before a hello, such as an empty one of another type: what follows would not be seen.
        [20..=24, 3, ..] => return Look::Malformed("a TLS record of another type before the ClientHello"),
        [20..=24] => return Look::More,
        _ => return Look::Opaque,
    }
    match message(bytes) {
        Ok(Some((hello, len))) => match read(&hello, len) {
            Ok(look) => look,
            Err(Malformed(what)) => Look::Malformed(what),
        },
        Ok(None) => Look::More,
        Err(Malformed(what)) => Look::Malformed(what),
    }
}

struct Malformed(&'static str);

/// A record's content, and what is behind it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The body of the hello, out of its records, and how many bytes these have; `None` while it is not whole.
fn message(all: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let (mut message, mut bytes) = (Vec::new(), all);
    loop {
        let Some((fragment, rest)) = record(bytes)? else { return Ok(None) };
        message.extend_from_slice(fragment);
        bytes = rest;
        // A header that is wrong is said at once, however long the rest says that it will be.
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Malformed(NO_HELLO));
        }
        let [_, a, b, c, body @ ..] = message.as_slice() else { continue };
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if len > MAX_HELLO {
            return Err(Malformed(TOO_LONG));
        }
        match body.len() {
            have if have < len => {}
            have if have == len => return Ok(Some((body.to_vec(), all.len() - bytes.len()))),
            _ => return Err(Malformed("a ClientHello with something behind it")),
        }
    }
}

/// The record at the front, and what is behind it; `None` while it is not whole.
fn record(bytes: &[u8]) -> Result<Option<Split<'_>>, Malformed> {
    match bytes {
        [DATA, ..] => return Err(Malformed(DATA_INSIDE)),
        [kind, ..] if *kind != HANDSHAKE => return Err(Malformed("another record inside of a ClientHello")),
        // RFC 8446 has servers ignore the version. All send 3.x, and a first byte that only looks like TLS has to be told from it.
        [_, version, ..] if *version != 3 => return Err(Malformed("a TLS record of an unknown version")),
        _ => {}
    }
    let [_, _, _, high, low, rest @ ..] = bytes else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len == 0 || len > MAX_RECORD {
        return Err(Malformed("a TLS record of a length that none has"));
    }
    Ok(rest.split_at_checked(len))
}

/// What is left of a structure.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed("a ClientHello that ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, Malformed> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What has its length before it, as a number of so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Result<Cursor<'a>, Malformed> {
        let len = self.number(length_bytes)?;
        Ok(Cursor(self.take(len)?))
    }
}

/// Reads the body of a hello, whose records have so many bytes.
fn read(body: &[u8], len: usize) -> Result<Look, Malformed> {
    let mut hello = Cursor(body);
    // The version, and 32 random bytes.
    hello.take(2 + 32)?;
    let session = hello.vector(1)?;
    let suites = hello.vector(2)?;
    let compressions = hello.vector(1)?;
    if session.0.len() > 32 || suites.0.is_empty() || !suites.0.len().is_multiple_of(2) || compressions.0.is_empty() {
        return Err(Malformed("a ClientHello with fields of lengths that none has"));
    }
    let (mut server_name, mut encrypted) = (None, false);
    let (mut has_versions, mut has_early) = (false, false);
    // Before TLS 1.2, a hello may end here.
    if !hello.0.is_empty() {
        let mut extensions = hello.vector(2)?;
        if !hello.0.is_empty() {
            return Err(Malformed("a ClientHello with something behind its extensions"));
        }
        while !extensions.0.is_empty() {
            let kind = extensions.number(2)?;
            let data = extensions.vector(2)?;
            match u16::try_from(kind) {
                Ok(SERVER_NAME) => {
                    let earlier = server_name.replace(name(data)?);
                    if earlier.is_some() {
                        return Err(Malformed("a ClientHello with two server names"));
                    }
                }
                Ok(ENCRYPTED_CLIENT_HELLO | ENCRYPTED_SERVER_NAME) => encrypted = true,
                Ok(EARLY_DATA) => has_early = true,
                Ok(SUPPORTED_VERSIONS) => has_versions = true,
                _ => {}
            }
        }
    }
    // Before TLS 1.3, which is offered in no other way, there is one hello.
    let behind = has_versions.then_some(Behind { left: len, early: if has_early { MAX_EARLY } else { 0 } });
    Ok(Look::Hello { server_name, encrypted, behind })
}

/// What a client sends from its first hello on, record by record, until it is known whether it sends a second one.
///
/// Servers that have asked for a second hello take it behind records of some other types, and behind early data, if the first one has announced any. Nothing of what is looked at here is
/// encrypted in TLS 1.3; in TLS 1.2, it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Bytes of a record, or of the first hello, that are still to come.
    left: usize,
    /// Bytes of early data that may come.
    early: usize,
}

impl Behind {
    /// How many of `bytes`, which begin behind those that went on before, may go on, and what the rest is: [`Look::Opaque`] if there is no second hello.
    pub fn look(&mut self, bytes: &[u8]) -> (usize, Look) {
        let mut on = 0;
        loop {
            let skipped = self.left.min(bytes.len() - on);
            self.left -= skipped;
            on += skipped;
            let rest = bytes.get(on..).unwrap_or_default();
            match rest {
                [] => return (on, Look::More),
                [HANDSHAKE, ..] => return (on, self.handshake(rest)),
                [DATA, ..] if self.early == 0 => return (on, Look::Opaque),
                // Their bodies say nothing, and go on as they come.
                [20..=24, _, _, high, low, ..] => {
                    self.left = 5 + usize::from(u16::from_be_bytes([*high, *low]));
                    if rest.first() == Some(&DATA) {
                        self.early = self.early.saturating_sub(self.left);
                    }
                }
                [20..=24, ..] => return (on, Look::More),
                _ => return (on, Look::Opaque),
            }
        }
    }

    fn handshake(&self, bytes: &[u8]) -> Look {
        match client_hello(bytes) {
            // A client of TLS 1.2 goes on with other messages, or, where it resumes a session, with one that is encrypted, and begins with any bytes.
            Look::Malformed(NO_HELLO | TOO_LONG) => Look::Opaque,
            // As long as this is no early data, it stands inside of no hello that anybody takes.
            Look::Malformed(DATA_INSIDE) if self.early == 0 => Look::Opaque,
            look => look,
        }
    }
}

/// The name in the extension: one, of the only kind that there is.
fn name(mut data: Cursor<'_>) -> Result<Host, Malformed> {
    let mut list = data.vector(2)?;
    let kind = list.number(1)?;
    let name = list.vector(2)?.0;
    if kind != 0 || !list.0.is_empty() || !data.0.is_empty() {
        return Err(Malformed("a server name that is not one host name"));
    }
    // ASCII only (RFC 6066, section 3). Addresses must not stand there, and do: they are decided on as what they are.
    let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'));
    let host = std::str::from_utf8(name).ok().filter(|_| plain).and_then(|name| Host::parse(name).ok());
    host.ok_or(Malformed("a server name that is no host name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio_rustls::rustls;

    fn with_length(bytes: usize, content: &[u8]) -> Vec<u8> {
        [&content.len().to_be_bytes()[8 - bytes..], content].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length(2, data)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &with_length(2, &[&[0][..], &with_length(2, name)].concat()))
    }

    /// The body of a hello with these extensions.
    fn body(extensions: &[u8]) -> Vec<u8> {
        [&[3, 3][..], &[7; 32], &with_length(1, &[9; 32]), &with_length(2, &[0x13, 1, 0x1a, 0x1a]), &with_length(1, &[0]), extensions]
            .concat()
    }

    /// A hello with these extensions, as a message.
    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        message_of(1, &body(&with_length(2, &extensions.concat())))
    }

    fn message_of(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &with_length(3, body)].concat()
    }

    /// A message in records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|fragment| [&[HANDSHAKE, 3, 1][..], &with_length(2, fragment)].concat()).collect()
    }

    fn shown(look: &Look) -> String {
        match look {
            Look::Hello { server_name, encrypted, .. } => {
                let name = server_name.as_ref().map_or_else(|| "no name".to_owned(), ToString::to_string);
                if *encrypted { format!("{name}, encrypted") } else { name }
            }
            Look::Malformed(what) => format!("malformed: {what}"),
            other => format!("{other:?}"),
        }
    }

    /// What is said of `bytes`, and that nothing else is said of any beginning.
    fn told(bytes: &[u8], expected: &str) {
        assert_eq!(shown(&client_hello(bytes)), expected);
        for end in 0..bytes.len() {
            let early = shown(&client_hello(&bytes[..end]));
            assert!(early == "More" || early == expected, "after {end} of {}: {early}, not {expected}", bytes.len());
        }
    }

    #[test]
    fn a_hello_names_its_server_however_it_is_cut() {
        let long = [vec![b'a'; 60], b".test".to_vec()].concat();
        let grease = extension(0x1a1a, &[0]);
        let padding = extension(21, &[0; 1500]);
        let cases: [(Vec<Vec<u8>>, &str); 12] = [
            (vec![sni(b"a.test")], "a.test"),
            (vec![sni(b"A.Test.")], "a.test"),
            (vec![grease.clone(), sni(b"a.test"), grease.clone()], "a.test"),
            (vec![padding, sni(b"a.test")], "a.test"),
            (vec![sni(&long)], std::str::from_utf8(&long).unwrap()),
            (vec![sni(b"xn--bcher-kva.test")], "xn--bcher-kva.test"),
            (vec![sni(b"192.0.2.1")], "192.0.2.1"),
            (vec![sni(b"2001:DB8::1")], "2001:db8::1"),
            (vec![], "no name"),
            (vec![grease, extension(43, &[2, 3, 4])], "no name"),
            (vec![extension(ENCRYPTED_CLIENT_HELLO, &[0; 40]), sni(b"front.test")], "front.test, encrypted"),
            (vec![extension(ENCRYPTED_SERVER_NAME, &[0; 40])], "no name, encrypted"),
        ];
        for (extensions, expected) in cases {
            let message = hello(&extensions);
            for size in [1, 2, 3, 4, 5, 50, message.len() - 1, message.len(), MAX_RECORD] {
                let bytes = records(&message, size);
                told(&bytes, expected);
                assert_eq!(shown(&client_hello(&[&bytes[..], &[20, 3, 3, 0, 1, 1]].concat())), expected, "with more behind it");
            }
        }
        told(&records(&message_of(1, &body(&[])), MAX_RECORD), "no name");
    }

    #[test]
    fn what_has_more_than_one_reading_is_malformed() {
        let list = |entries: &[u8]| extension(SERVER_NAME, &with_length(2, entries));
        let entry = |kind: u8, name: &[u8]| [&[kind][..], &with_length(2, name)].concat();
        let not_one = "malformed: a server name that is not one host name";
        let no_host = "malformed: a server name that is no host name";
        let early = "malformed: a ClientHello that ends too early";
        let cases = [
            (vec![sni(b"a.test"), sni(b"b.test")], "malformed: a ClientHello with two server names"),
            (vec![sni(b"a.test"), sni(b"a.test")], "malformed: a ClientHello with two server names"),
            (vec![list(&[entry(0, b"a.test"), entry(0, b"b.test")].concat())], not_one),
            (vec![list(&[entry(0, b"a.test"), entry(1, b"x")].concat())], not_one),
            (vec![list(&entry(1, b"a.test"))], not_one),
            (vec![list(&[])], early),
            (vec![extension(SERVER_NAME, &[])], early),
            (vec![extension(SERVER_NAME, &[&with_length(2, &entry(0, b"a.test"))[..], &[0]].concat())], not_one),
            (vec![extension(SERVER_NAME, &[0, 9, 0, 0, 9, b'a', b'.', b'b', b'c', b'd', b'e'])], early),
            (vec![sni(b"")], no_host),
            (vec![sni(b".")], no_host),
            (vec![sni(b"a..test")], no_host),
            (vec![sni(b" a.test")], no_host),
            (vec![sni(b"a.test\0.b.test")], no_host),
            (vec![sni(b"*.test")], no_host),
            (vec![sni("bücher.test".as_bytes())], no_host),
            (vec![sni(b"\xff.test")], no_host),
            (vec![sni(b"[::1]")], no_host),
            (vec![sni(b"a.test:443")], no_host),
            (vec![sni(&[b'a'; 64])], no_host),
            (vec![sni(&[b"a.".repeat(127), b"a".to_vec()].concat())], no_host),
            (vec![vec![0]], early),
            (vec![vec![0, 0, 0, 9, 1]], early),
        ];
        for (extensions, expected) in cases {
            for size in [1, 7, MAX_RECORD] {
                told(&records(&hello(&extensions), size), expected);
            }
        }
    }

    #[test]
    fn records_and_messages_keep_to_their_bounds() {
        let good = hello(&[sni(b"a.test")]);
        let record = |kind: u8, version: u8, len: u16, content: &[u8]| [&[kind, version, 1][..], &len.to_be_bytes(), content].concat();
        let first = records(&good[..10], MAX_RECORD);
        let cases = [
            (vec![], "More"),
            (vec![HANDSHAKE], "More"),
            (vec![HANDSHAKE, 3], "More"),
            (record(HANDSHAKE, 3, 100, &[1]), "More"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "Opaque"),
            (vec![0x80, 0x2e, 1, 3, 1], "Opaque"),
            (record(20, 3, 1, &[1]), "malformed: a TLS record of another type before the ClientHello"),
            (record(20, 3, 0, &[]), "malformed: a TLS record of another type before the ClientHello"),
            (record(23, 3, 0, &[]), "malformed: a TLS record of another type before the ClientHello"),
            (vec![24], "More"),
            (vec![25, 3], "Opaque"),
            (vec![20, 2], "Opaque"),
            (record(HANDSHAKE, 2, 9, &good), "malformed: a TLS record of an unknown version"),
            (record(HANDSHAKE, 3, 0, &[]), "malformed: a TLS record of a length that none has"),
            (record(HANDSHAKE, 3, 0x4001, &[]), "malformed: a TLS record of a length that none has"),
            (records(&message_of(2, &body(&[])), 9), "malformed: the first message of TLS is no ClientHello"),
            (records(&[1, 4, 0, 1], 9), "malformed: a ClientHello that is too long"),
            (records(&[&good[..], &[1]].concat(), MAX_RECORD), "malformed: a ClientHello with something behind it"),
            ([&first[..], &[23, 3, 3, 0, 1, 0]].concat(), "malformed: data inside of a ClientHello"),
            ([&first[..], &[20, 3, 3, 0, 1, 1]].concat(), "malformed: another record inside of a ClientHello"),
            ([&first[..], b"GET / HTTP/1.1\r\n"].concat(), "malformed: another record inside of a ClientHello"),
            (records(&message_of(1, &[]), 9), "malformed: a ClientHello that ends too early"),
            (records(&message_of(1, &[3; 34]), 99), "malformed: a ClientHello that ends too early"),
            (records(&message_of(1, &body(&[0, 0, 1])), 999), "malformed: a ClientHello with something behind its extensions"),
            (records(&message_of(1, &body(&[0])), 999), "malformed: a ClientHello that ends too early"),
        ];
        for (bytes, expected) in cases {
            told(&bytes, expected);
        }
        let odd = [&[3, 3][..], &[7; 32], &[33][..], &[0; 33], &[0, 2, 1, 1, 1, 0]].concat();
        told(&records(&message_of(1, &odd), 999), "malformed: a ClientHello with fields of lengths that none has");
        for fields in [&[0, 0, 0, 1, 0][..], &[0, 0, 1, 1, 1, 0], &[0, 0, 2, 1, 1, 0]] {
            let bytes = [&[3, 3][..], &[7; 32], fields].concat();
            told(&records(&message_of(1, &bytes), 999), "malformed: a ClientHello with fields of lengths that none has");
        }
    }

    #[test]
    fn hellos_of_a_real_client_are_read() {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13], rustls::ALL_VERSIONS] {
            for (name, expected) in [("www.a.test", "www.a.test"), ("192.0.2.1", "no name")] {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
                let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
                let name = rustls::pki_types::ServerName::try_from(name).unwrap();
                let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
                let mut bytes = Vec::new();
                client.write_tls(&mut bytes).unwrap();
                told(&bytes, expected);
                told(&records(&bytes[5..], 17), expected);
            }
        }
    }

    /// How many bytes behind a hello with these extensions go on before what is there is known, and what that is, however it all arrives.
    fn told_behind(extensions: &[Vec<u8>], next: &[u8], expected: (usize, &str)) {
        let first = records(&hello(extensions), 50);
        let all = [&first[..], next].concat();
        for size in [1, 2, 5, 6, 50, all.len() - 1, all.len()] {
            let Look::Hello { behind: Some(mut behind), .. } = client_hello(&first) else { panic!("a second hello may follow") };
            let (mut held, mut went_on) = (Vec::new(), 0);
            let mut said = "More".to_owned();
            for piece in all.chunks(size) {
                held.extend_from_slice(piece);
                let (on, look) = behind.look(&held);
                held.drain(..on);
                went_on += on;
                said = shown(&look);
                if said != "More" {
                    break;
                }
            }
            assert_eq!((went_on.saturating_sub(first.len()), &*said), expected, "in pieces of {size}: {next:?}");
        }
    }

    #[test]
    fn a_second_hello_is_found_behind_the_first() {
        let versions = extension(SUPPORTED_VERSIONS, &[2, 3, 4]);
        let once = [versions.clone(), sni(b"a.test")];
        let early = [versions, extension(EARLY_DATA, &[]), sni(b"a.test")];
        let record = |kind: u8, content: &[u8]| [&[kind, 3, 3][..], &with_length(2, content)].concat();
        let (change, data) = (record(20, &[1]), record(DATA, &[9; 30]));
        let again = |name: &[u8]| records(&hello(&[sni(name)]), MAX_RECORD);
        let evil = again(b"evil.test");
        let cut = records(&hello(&[sni(b"evil.test")]), 1);
        let others = [change.clone(), change.clone(), record(21, &[1, 90]), record(24, &[1, 0, 0]), record(20, &[])].concat();
        // The last message of a client that resumes a session of TLS 1.2 is encrypted: it may begin as a hello does.
        let encrypted = |begins: &[u8]| record(HANDSHAKE, &[begins, &[7; 36]].concat());
        let most = record(DATA, &[0; MAX_RECORD]).repeat(MAX_EARLY / MAX_RECORD);
        let interrupted = |with: &[u8]| [&cut[..60], with, &cut[60..]].concat();
        let no_length = "malformed: a TLS record of a length that none has";
        let cases = [
            (&once, vec![], (0, "More")),
            (&once, again(b"a.test"), (0, "a.test")),
            (&once, evil.clone(), (0, "evil.test")),
            (&once, cut.clone(), (0, "evil.test")),
            (&once, cut[..cut.len() - 1].to_vec(), (0, "More")),
            (&once, [&change[..], &evil].concat(), (6, "evil.test")),
            (&once, [&others[..], &evil].concat(), (others.len(), "evil.test")),
            (&once, others.clone(), (others.len(), "More")),
            (&once, change[..5].to_vec(), (5, "More")),
            (&once, change[..4].to_vec(), (0, "More")),
            (&once, records(&hello(&[]), 9), (0, "no name")),
            (&once, again(b"a..test"), (0, "malformed: a server name that is no host name")),
            (&once, interrupted(&change), (0, "malformed: another record inside of a ClientHello")),
            (&once, record(HANDSHAKE, &[]), (0, no_length)),
            (&once, [&record(HANDSHAKE, &[])[..], &evil].concat(), (0, no_length)),
            (&once, vec![HANDSHAKE, 2], (0, "malformed: a TLS record of an unknown version")),
            // No server takes these for a second hello, or for what may come before one.
            (&once, data.clone(), (0, "Opaque")),
            (&once, [&change[..], &data].concat(), (6, "Opaque")),
            (&once, interrupted(&data), (0, "Opaque")),
            (&once, b"GET / HTTP/1.1\r\n\r\n".to_vec(), (0, "Opaque")),
            (&once, record(25, &[1]), (0, "Opaque")),
            // TLS 1.2.
            (&once, record(HANDSHAKE, &[16, 0, 0, 33]), (0, "Opaque")),
            (&once, record(HANDSHAKE, &[11, 0, 0, 3, 0, 0, 0]), (0, "Opaque")),
            (&once, [&change[..], &encrypted(&[0, 0, 0, 0])].concat(), (6, "Opaque")),
            (&once, [&change[..], &encrypted(&[1, 4, 0, 1])].concat(), (6, "Opaque")),
            (&once, [&change[..], &encrypted(&[1, 0, 9, 9])].concat(), (6, "More")),
            (&once, [&change[..], &encrypted(&[1, 0, 9, 9]), &data].concat(), (6, "Opaque")),
        ];
        for (first, next, expected) in cases {
            told_behind(first, &next, expected);
        }
        let cases = [
            (evil.clone(), (0, "evil.test")),
            ([&data[..], &evil].concat(), (data.len(), "evil.test")),
            ([&change[..], &data, &data, &change, &evil].concat(), (2 * (change.len() + data.len()), "evil.test")),
            (data[..7].to_vec(), (7, "More")),
            (interrupted(&data), (0, "malformed: data inside of a ClientHello")),
            (record(HANDSHAKE, &[16, 0, 0, 33]), (0, "Opaque")),
            ([&most[..], &data].concat(), (most.len(), "Opaque")),
        ];
        for (next, expected) in cases {
            told_behind(&early, &next, expected);
        }
    }

    #[test]
    fn before_tls_1_3_there_is_no_second_hello() {
        for extensions in [vec![], vec![sni(b"a.test")], vec![extension(EARLY_DATA, &[])]] {
            let look = client_hello(&records(&hello(&extensions), MAX_RECORD));
            assert!(matches!(look, Look::Hello { behind: None, .. }), "{look:?}");
        }
    }
}
