//! Options of the Java virtual machine, which reads no variable that others do.

use std::net::SocketAddr;

/// The properties that are ours, by name. A virtual machine takes the last of two values.
const PROPERTIES: &[&str] = &[
    "http.proxyHost",
    "http.proxyPort",
    "https.proxyHost",
    "https.proxyPort",
    "http.nonProxyHosts",
    // Maven since 3.9: its own transport looks at the properties above only with this.
    "aether.connector.http.useSystemProperties",
    "javax.net.ssl.trustStore",
    "javax.net.ssl.trustStoreType",
    "javax.net.ssl.trustStorePassword",
];

/// What is not public, in Java's words, which have no networks.
const LOCAL: &str = "localhost|127.*|[::1]|10.*|192.168.*|172.16.*|172.17.*|172.18.*|172.19.*|172.20.*|172.21.*|172.22.*|172.23.*|172.24.*|172.25.*|172.26.*|172.27.*|172.28.*|172.29.*|172.30.*|172.31.*";

/// The value of `JAVA_TOOL_OPTIONS`: what was in it, and ours behind that. A truststore whose path no quotes can hold is left out.
pub(super) fn options(before: Option<&str>, http: SocketAddr, allow_local_binding: bool, truststore: Option<&str>) -> String {
    let (host, port) = (http.ip().to_string(), http.port().to_string());
    let mut values = vec![
        host.as_str(),
        &port,
        &host,
        &port,
        // Left out, it would be this machine.
        if allow_local_binding { LOCAL } else { "" },
        "true",
    ];
    if let Some(truststore) = truststore.filter(|path| quoted(path).is_some()) {
        values.extend([truststore, "PKCS12", super::truststore::PASSWORD]);
    }
    let ours = PROPERTIES.iter().zip(values).filter_map(|(name, value)| quoted(&format!("-D{name}={value}")));
    before.map(without_ours).into_iter().filter(|before| !before.is_empty()).chain(ours).collect::<Vec<_>>().join(" ")
}

/// The options without those that set one of our properties.
pub(super) fn without_ours(options: &str) -> String {
    let ours = |word: &str| {
        let bare = word.replace(['"', '\''], "");
        let name = bare.strip_prefix("-D").and_then(|rest| rest.split('=').next());
        name.is_some_and(|name| PROPERTIES.contains(&name))
    };
    words(options).into_iter().filter(|word| !ours(word)).collect::<Vec<_>>().join(" ")
}

/// The words as they stand, quotes included: the virtual machine parts them at blanks outside of quotes, and knows no other escape.
fn words(options: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quote) = (None, None);
    for (at, c) in options.char_indices() {
        match quote {
            Some(open) => quote = (open != c).then_some(open),
            None if c.is_ascii_whitespace() => words.extend(start.take().and_then(|start| options.get(start..at))),
            None => {
                start = start.or(Some(at));
                quote = matches!(c, '"' | '\'').then_some(c);
            }
        }
    }
    words.extend(start.and_then(|start| options.get(start..)));
    words
}

/// The word in quotes where it needs them; `None` where it has both kinds itself, or a line's end.
fn quoted(word: &str) -> Option<String> {
    let plain = !word.contains(|c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\''));
    let quote = match (word.contains('"'), word.contains('\'')) {
        _ if plain => return Some(word.to_owned()),
        _ if word.contains(['\n', '\r']) => return None,
        (true, true) => return None,
        (true, false) => '\'',
        (false, _) => '"',
    };
    Some(format!("{quote}{word}{quote}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    #[test]
    fn words_are_parted_as_the_virtual_machine_does() {
        for (text, found) in [
            ("", &[][..]),
            ("  -Xmx1g   -ea ", &["-Xmx1g", "-ea"]),
            ("-Dname='a b' \"-Dother=it's\"", &["-Dname='a b'", "\"-Dother=it's\""]),
            ("-Dopen='a b", &["-Dopen='a b"]),
        ] {
            assert_eq!(words(text), found, "{text}");
        }
    }

    #[test]
    fn ours_come_last_and_once() {
        let http = "[::1]:3128".parse().unwrap();
        let first =
            options(Some("-Xmx1g -Dhttp.proxyHost=old '-Djavax.net.ssl.trustStore=/old place/t.p12'"), http, false, Some("/a b/it's.p12"));
        assert_eq!(
            first,
            "-Xmx1g -Dhttp.proxyHost=::1 -Dhttp.proxyPort=3128 -Dhttps.proxyHost=::1 -Dhttps.proxyPort=3128 -Dhttp.nonProxyHosts= \
             -Daether.connector.http.useSystemProperties=true \"-Djavax.net.ssl.trustStore=/a b/it's.p12\" -Djavax.net.ssl.trustStoreType=PKCS12 \
             -Djavax.net.ssl.trustStorePassword=changeit"
        );
        assert_eq!(options(Some(&first), http, false, Some("/a b/it's.p12")), first);
        assert_eq!(without_ours(&first), "-Xmx1g");
        // No quotes hold both kinds.
        assert!(!options(None, http, true, Some("/'/\"")).contains("trustStore"));
    }
}
