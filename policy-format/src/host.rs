//! `Host`: one normalisation for patterns and requests.
//!
//! Trim, ASCII-lowercase, IDNA to A-labels (UTS 46, as browsers do it), one trailing dot stripped, brackets of IPv6 stripped, canonical
//! IP text. What comes out is a name of LDH labels and underscores (RFC 1035 lengths, RFC 5891 A-labels), an address, or a name
//! that some C libraries would read as an address and that is therefore never resolved.

use crate::trie::{Keys, Labels};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes in the longest name (RFC 1035, without the trailing dot).
pub const MAX_NAME: usize = 253;
/// Bytes in the longest label (RFC 1035).
pub const MAX_LABEL: usize = 63;

/// A normalised host, as a request or a rule names it. Holds no heap memory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A domain name.
    Name(Name),
    /// An address literal.
    Ip(IpAddr),
    /// A name that ends in a number (`127.1`, `0x7f.1`, `2130706433`): an IPv4 address to some C libraries and no host name to anyone.
    /// It is never resolved and never allowed (WHATWG URL, "ends in a number").
    NumericLookalike(Name),
}

/// A normalised domain name: lower case, no trailing dot, at most [`MAX_NAME`] bytes. What every lookup asks of it is worked out once, when it is made.
#[derive(Clone, Copy)]
pub struct Name {
    keys: Keys,
    bytes: [u8; MAX_NAME],
}

/// A normalised host whose name lies elsewhere: that of a [`Host`], or what [`Host::parse_into`] finds. Shown as a [`Host`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRef<'b> {
    /// A domain name.
    Name(&'b str),
    /// An address literal.
    Ip(IpAddr),
    /// See [`Host::NumericLookalike`].
    NumericLookalike(&'b str),
}

/// Why something is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// Over 253 bytes.
    #[error("the name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    /// Over 63 bytes between two dots.
    #[error("a label (the part between two dots) is longer than {MAX_LABEL} bytes")]
    LabelTooLong,
    /// Two dots in a row, or one at the start.
    #[error("a label (the part between two dots) is empty")]
    EmptyLabel,
    /// A byte that no host name has.
    #[error("{0:?} cannot stand in a host name")]
    Character(char),
    /// Brackets or colons that are not an IPv6 address.
    #[error("this is not an IPv6 address")]
    Ipv6,
    /// `fe80::1%eth0`.
    #[error("an IPv6 zone (after `%`) means something on one machine only and is not accepted")]
    Zone,
    /// Non-ASCII text that IDNA refuses.
    #[error("this is not a valid internationalised domain name")]
    Idna,
}

impl Host {
    /// Normalises `text`.
    ///
    /// # Errors
    /// [`HostError`] for what no client can mean.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let ascii = match Self::address_or_ascii(text)? {
            AddressOrAscii::Address(ip) => return Ok(Self::Ip(ip)),
            AddressOrAscii::Ascii(ascii) => ascii,
        };
        let name = Name::new(&ascii)?;
        Ok(if ends_in_a_number(name.as_str()) { Self::NumericLookalike(name) } else { Self::Name(name) })
    }

    /// What [`Self::parse`] says, with the name in `buffer` and nothing worked out for lookups: for those who read millions of names and ask nothing of them.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_into<'b>(text: &str, buffer: &'b mut [u8; MAX_NAME]) -> Result<HostRef<'b>, HostError> {
        let ascii = match Self::address_or_ascii(text)? {
            AddressOrAscii::Address(ip) => return Ok(HostRef::Ip(ip)),
            AddressOrAscii::Ascii(ascii) => ascii,
        };
        normalise(&ascii, buffer)?;
        let name = buffer.get(..ascii.len()).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default();
        Ok(if ends_in_a_number(name) { HostRef::NumericLookalike(name) } else { HostRef::Name(name) })
    }

    /// An address, or the ASCII text of what may be a name, without a trailing dot.
    fn address_or_ascii(text: &str) -> Result<AddressOrAscii<'_>, HostError> {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(inner) = text.strip_prefix('[') {
            return parse_ipv6(inner.strip_suffix(']').ok_or(HostError::Ipv6)?);
        }
        if text.contains(':') {
            return parse_ipv6(text);
        }
        let ascii = match to_ascii(text)? {
            Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix('.').unwrap_or(text)),
            Cow::Owned(mut text) => {
                if text.ends_with('.') {
                    text.pop();
                }
                Cow::Owned(text)
            }
        };
        if ascii.is_empty() {
            return Err(HostError::Empty);
        }
        // Nearly no name begins like an address.
        if ascii.starts_with(|first: char| first.is_ascii_digit())
            && let Ok(ip) = ascii.parse::<Ipv4Addr>()
        {
            return Ok(AddressOrAscii::Address(IpAddr::V4(ip)));
        }
        Ok(AddressOrAscii::Ascii(ascii))
    }

    /// The name, unless the host is an address.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) | Self::NumericLookalike(_) => None,
        }
    }

    /// `localhost` or a name below it: loopback by definition (RFC 6761, section 6.3), never asked of a name server.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        self.name().is_some_and(|name| name.as_str() == "localhost" || name.as_str().ends_with(".localhost"))
    }
}

enum AddressOrAscii<'t> {
    Address(IpAddr),
    Ascii(Cow<'t, str>),
}

impl Name {
    /// Checks and lower-cases ASCII text without a trailing dot.
    pub(crate) fn new(text: &str) -> Result<Self, HostError> {
        let mut bytes = [0; MAX_NAME];
        let (top, base) = normalise(text, &mut bytes)?;
        let keys = Keys::new(bytes.get(..text.len()).unwrap_or_default(), top, base);
        Ok(Self { keys, bytes })
    }

    /// What a lookup needs of it.
    #[inline]
    pub(crate) fn labels(&self) -> Labels<'_> {
        Labels { text: &self.bytes, keys: &self.keys }
    }

    /// Its length in bytes; never 0.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.keys.len)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The name as ASCII bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }
}

/// Checks ASCII text without a trailing dot, and writes it in lower case; says where its last label and its last two labels begin.
#[inline]
fn normalise(text: &str, bytes: &mut [u8; MAX_NAME]) -> Result<(usize, usize), HostError> {
    if text.len() > MAX_NAME {
        return Err(HostError::NameTooLong);
    }
    let (mut top, mut base) = (0, 0);
    let mut start = 0;
    for (at, (to, from)) in (0..).zip(bytes.iter_mut().zip(text.bytes())) {
        *to = from.to_ascii_lowercase();
        if from == b'.' {
            check_label(at - start)?;
            start = at + 1;
            (base, top) = (top, start);
        } else if !is_name_byte(from) {
            return Err(HostError::Character(text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or_default()));
        }
    }
    check_label(text.len() - start)?;
    Ok((top, base))
}

fn check_label(len: usize) -> Result<(), HostError> {
    match len {
        0 => Err(HostError::EmptyLabel),
        1..=MAX_LABEL => Ok(()),
        _ => Err(HostError::LabelTooLong),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn parse_ipv6(text: &str) -> Result<AddressOrAscii<'_>, HostError> {
    match text.parse::<Ipv6Addr>() {
        Ok(ip) => Ok(AddressOrAscii::Address(IpAddr::V6(ip))),
        Err(_) if text.contains('%') => Err(HostError::Zone),
        Err(_) => Err(HostError::Ipv6),
    }
}

/// A-labels for U-labels. ASCII text is passed through: it needs no mapping but lower case, which the caller does.
pub(crate) fn to_ascii(text: &str) -> Result<Cow<'_, str>, HostError> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    // Mapping grows names by a bounded factor, but there is no need to map what cannot be a name.
    if text.len() > 4 * MAX_NAME {
        return Err(HostError::NameTooLong);
    }
    idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL)
        .map(|ascii| Cow::Owned(ascii.into_owned()))
        .map_err(|_| HostError::Idna)
}

/// Whether the last label is digits only, or a hexadecimal number with `0x`.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl<'b> From<&'b Host> for HostRef<'b> {
    fn from(host: &'b Host) -> Self {
        match host {
            Host::Name(name) => Self::Name(name.as_str()),
            Host::Ip(ip) => Self::Ip(*ip),
            Host::NumericLookalike(name) => Self::NumericLookalike(name.as_str()),
        }
    }
}

impl fmt::Display for HostRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) | Self::NumericLookalike(name) => f.write_str(name),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HostRef::from(self).fmt(f)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({self})")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.as_str())
    }
}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Host::parse(text) {
            Ok(Host::Name(name)) => format!("name {}", name.as_str()),
            Ok(Host::Ip(ip)) => format!("ip {ip}"),
            Ok(Host::NumericLookalike(name)) => format!("number {}", name.as_str()),
            Err(error) => format!("{error:?}"),
        }
    }

    fn shown_into(text: &str) -> String {
        match Host::parse_into(text, &mut [b'x'; MAX_NAME]) {
            Ok(HostRef::Name(name)) => format!("name {name}"),
            Ok(HostRef::Ip(ip)) => format!("ip {ip}"),
            Ok(HostRef::NumericLookalike(name)) => format!("number {name}"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn normalises_every_spelling_to_one() {
        let long_label = "a".repeat(64);
        let long_name = format!("{}a", "ab.".repeat(85));
        let cases = [
            (" API.Example.COM. ", "name api.example.com"),
            ("bücher.example", "name xn--bcher-kva.example"),
            ("BÜCHER.example", "name xn--bcher-kva.example"),
            ("example。com", "name example.com"),
            ("under_score.example", "name under_score.example"),
            ("192.0.2.7", "ip 192.0.2.7"),
            ("192.0.2.7.", "ip 192.0.2.7"),
            ("[2001:DB8:0::1]", "ip 2001:db8::1"),
            ("2001:db8::1", "ip 2001:db8::1"),
            ("[::ffff:127.0.0.1]", "ip ::ffff:127.0.0.1"),
            ("127.1", "number 127.1"),
            ("2130706433", "number 2130706433"),
            ("0x7f.0.0.1", "number 0x7f.0.0.1"),
            ("0177.0.0.1", "number 0177.0.0.1"),
            ("1.2.3.0x", "number 1.2.3.0x"),
            ("256.256.256.256", "number 256.256.256.256"),
            ("1.2.3.4.5", "number 1.2.3.4.5"),
            ("１２７.1", "number 127.1"),
            ("3com.example", "name 3com.example"),
            ("", "Empty"),
            (".", "Empty"),
            ("a..b", "EmptyLabel"),
            (".a", "EmptyLabel"),
            ("a..", "EmptyLabel"),
            ("a b", "Character(' ')"),
            ("a@b", "Character('@')"),
            ("a/b", "Character('/')"),
            ("a%2eb", "Character('%')"),
            ("a\0b", "Character('\\0')"),
            ("[fe80::1%eth0]", "Zone"),
            ("[127.0.0.1]", "Ipv6"),
            ("[::1", "Ipv6"),
            ("a:80", "Ipv6"),
            (long_label.as_str(), "LabelTooLong"),
            (long_name.as_str(), "NameTooLong"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text:?}");
            assert_eq!(shown_into(text), expected, "{text:?}");
        }
    }

    #[test]
    fn knows_localhost_and_the_names_below_it() {
        for (text, expected) in
            [("localhost", true), ("LOCALHOST.", true), ("a.localhost", true), ("alocalhost", false), ("localhost.example", false)]
        {
            assert_eq!(Host::parse(text).unwrap().is_localhost(), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn both_ways_of_parsing_say_the_same(text in "\\PC{0,40}|[a-zA-Z0-9.:_-]{0,300}") {
            proptest::prop_assert_eq!(shown(&text), shown_into(&text));
        }

        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,40}") {
            if let Ok(host) = Host::parse(&text) {
                proptest::prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }
    }
}
