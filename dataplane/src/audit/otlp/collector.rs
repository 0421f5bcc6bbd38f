//! Which collector, how it is spoken to, and the header fields that a file adds to every request.

use crate::parse::target::{AuthorityError, Target};
use crate::private::{self, Links};
use http::{HeaderMap, HeaderName, HeaderValue};
use policy_format::{Host, Otlp, OtlpProtocol as Protocol};
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes of a collector's URL.
const MAX_URL: usize = 2048;
/// Bytes of a file with header fields.
const MAX_FILE: usize = 64 << 10;
/// Where OTLP/HTTP takes logs, unless the URL says otherwise.
const HTTP_PATH: &str = "/v1/logs";
/// Where OTLP/gRPC does.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Fields that a request has of itself.
const OWN_FIELDS: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A collector of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collector {
    pub(super) protocol: Protocol,
    pub(super) tls: bool,
    pub(super) at: Target,
    pub(super) path: String,
}

/// Why text is not the URL of a collector. The text is not shown: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the URL of the OTLP collector cannot be used: {0}; it is `http://` or `https://`, a host, perhaps a port, and for OTLP/HTTP perhaps a path"
)]
pub(super) struct CollectorError(&'static str);

impl Collector {
    /// The collector of a setting, which says apart from the URL, `http://` or `https://`, what is spoken. Without a port, it is 4318 for HTTP and 4317 for gRPC, and 443 inside
    /// TLS; without a path, `/v1/logs` for HTTP. gRPC has none.
    pub(super) fn of(otlp: &Otlp) -> Result<Self, CollectorError> {
        let (scheme, rest) = otlp.endpoint.split_once("://").ok_or(CollectorError("it has no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(CollectorError("its scheme is neither `http` nor `https`")),
        };
        let port = match (otlp.protocol, tls) {
            (_, true) => 443,
            (Protocol::Http, false) => 4318,
            (Protocol::Grpc, false) => 4317,
        };
        Self::read(rest, otlp.protocol, tls, port)
    }

    /// Whether it is on this machine, as far as the URL says.
    pub(super) fn is_near(&self) -> bool {
        match &self.at.host {
            Host::Ip(ip) => ip.is_loopback(),
            host => host.is_localhost(),
        }
    }

    fn read(rest: &str, protocol: Protocol, tls: bool, port: u16) -> Result<Self, CollectorError> {
        if rest.len() > MAX_URL {
            return Err(CollectorError("it is too long"));
        }
        if rest.contains(['?', '#']) {
            return Err(CollectorError("it has a query or a fragment"));
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>{}^`|".contains(&byte)) {
            return Err(CollectorError("it has characters that no URL has"));
        }
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, ""));
        let at = Target::parse(authority, Some(port)).map_err(|error| match error {
            AuthorityError::UserInfo => CollectorError("a user or a password has no place in it, but in the file with headers"),
            AuthorityError::Host | AuthorityError::Port => CollectorError("its host or its port is none"),
        })?;
        if matches!(at.host, Host::NumericLookalike(_)) {
            return Err(CollectorError("its host is a number that some programs read as an address"));
        }
        let path = match (protocol, path) {
            (Protocol::Http, "" | "/") => HTTP_PATH,
            (Protocol::Http, path) => path,
            (Protocol::Grpc, "" | "/") => GRPC_PATH,
            (Protocol::Grpc, _) => return Err(CollectorError("gRPC has no path")),
        };
        Ok(Self { protocol, tls, at, path: path.to_owned() })
    }

    /// As the target of a request of HTTP/1.1, or in an absolute URL.
    pub(super) fn http_scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// For people, and as the flag has it.
impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, path) = match self.protocol {
            Protocol::Http => ("http", self.path.as_str()),
            Protocol::Grpc => ("grpc", ""),
        };
        write!(f, "{name}{}://{}{path}", if self.tls { "s" } else { "" }, self.at)
    }
}

/// Why header fields cannot be had of a file. Nothing of a value is in here.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadersError {
    /// It cannot be read.
    #[error("cannot read `{}`, which has header fields for the collector: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A folder, a pipe, a device; or it is too long.
    #[error("`{}`, which has header fields for the collector, has to be a regular file of at most {MAX_FILE} bytes", path.display())]
    NotAFile {
        /// Which file.
        path: PathBuf,
    },
    /// Others may read it.
    #[cfg(unix)]
    #[error("`{}` has header fields for the collector, and others than its owner may read or change it (mode {mode:04o}); run `chmod 600` on it", path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line is no field.
    #[error("`{}:{line}`: {what}; a line is `name: value`, and one that begins with `#` says nothing", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The fields of a file, as they are now.
pub(super) struct Headers {
    path: PathBuf,
    stamp: Stamp,
    fields: HeaderMap,
}

/// What is another when a file is another, or has other content.
type Stamp = (Option<SystemTime>, u64, (u64, i64, i64));

impl Headers {
    pub(super) fn read(path: &Path) -> Result<Self, HeadersError> {
        let failed = |error| HeadersError::Read { path: path.to_owned(), error };
        // What is looked at is what was opened, and a pipe is not waited for.
        let file = private::open(path, Links::Followed).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > MAX_FILE as u64 {
            return Err(HeadersError::NotAFile { path: path.to_owned() });
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // A group may be who a service manager, or an orchestrator, lets read its secrets.
            let mode = metadata.permissions().mode() & 0o7777;
            if mode & 0o027 != 0 {
                return Err(HeadersError::Mode { path: path.to_owned(), mode });
            }
        }
        let stamp = stamp(&metadata);
        let content = private::content(file.take(MAX_FILE as u64), MAX_FILE).map_err(failed)?.unwrap_or_default();
        let fields = fields(&content).map_err(|(line, what)| HeadersError::Line { path: path.to_owned(), line, what })?;
        Ok(Self { path: path.to_owned(), stamp, fields })
    }

    /// The fields; read again if the file changed. What cannot be read leaves those that are known.
    pub(super) fn current(&mut self) -> (&HeaderMap, Option<HeadersError>) {
        let unchanged = std::fs::metadata(&self.path).is_ok_and(|metadata| stamp(&metadata) == self.stamp);
        let failed = if unchanged {
            None
        } else {
            match Self::read(&self.path) {
                Ok(read) => {
                    *self = read;
                    None
                }
                Err(error) => Some(error),
            }
        };
        (&self.fields, failed)
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    #[cfg(unix)]
    let identity = {
        use std::os::unix::fs::MetadataExt;
        (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    #[cfg(not(unix))]
    let identity = (0, 0, 0);
    (metadata.modified().ok(), metadata.len(), identity)
}

/// Reads `name: value`, a line each; what is wrong, with its line.
fn fields(content: &[u8]) -> Result<HeaderMap, (usize, &'static str)> {
    let mut found = HeaderMap::new();
    for (line, text) in content.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |what| (line + 1, what);
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        let colon = text.iter().position(|byte| *byte == b':').ok_or_else(|| wrong("it has no colon"))?;
        let (name, value) = text.split_at_checked(colon).unwrap_or((text, &[]));
        let name = HeaderName::from_bytes(name.trim_ascii_end()).map_err(|_| wrong("no field has such a name"))?;
        if OWN_FIELDS.contains(&name.as_str()) || name.as_str().starts_with("grpc-") {
            return Err(wrong("requests have this field of themselves"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let mut value = HeaderValue::from_bytes(value).map_err(|_| wrong("its value has bytes that cannot stand in a field"))?;
        // Neither shown nor kept in tables of HTTP/2.
        value.set_sensitive(true);
        found.append(name, value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: Protocol, endpoint: &str) -> Result<Collector, CollectorError> {
        Collector::of(&Otlp { endpoint: endpoint.to_owned(), protocol, headers_file: None })
    }

    #[test]
    fn settings_say_what_is_spoken_where() {
        let cases = [
            (Protocol::Http, "http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/logs", true),
            (Protocol::Http, "http://collector.test", "http://collector.test:4318/v1/logs", false),
            (Protocol::Http, "HTTPS://Collector.Test/", "https://collector.test:443/v1/logs", false),
            (Protocol::Http, "https://[2001:db8::1]:8443/otlp/logs", "https://[2001:db8::1]:8443/otlp/logs", false),
            (Protocol::Grpc, "http://localhost", "grpc://localhost:4317", true),
            (Protocol::Grpc, "http://[::1]:1", "grpc://[::1]:1", true),
            (Protocol::Grpc, "https://collector.test/", "grpcs://collector.test:443", false),
        ];
        for (protocol, url, shown, near) in cases {
            let collector = of(protocol, url).unwrap();
            assert_eq!((collector.to_string().as_str(), collector.is_near()), (shown, near), "{url}");
        }
        assert_eq!(of(Protocol::Grpc, "https://a.test").unwrap().path, GRPC_PATH);
    }

    #[test]
    fn other_text_is_refused_and_not_shown() {
        let both = [
            ("collector.test:4318", "no scheme"),
            ("ftp://collector.test", "neither"),
            ("http://", "host or its port"),
            ("http://a.test:0", "host or its port"),
            ("http://a.test:99999", "host or its port"),
            ("http://user:hush@a.test", "no place in it"),
            ("http://a.test/v1/logs?token=hush", "a query"),
            ("http://a.test/#hush", "a query"),
            ("http://a.test/a b", "characters"),
            ("http://127.1/", "a number"),
        ];
        let refused = |protocol, url| of(protocol, url).unwrap_err().to_string();
        for (url, what) in both {
            for error in [Protocol::Http, Protocol::Grpc].map(|protocol| refused(protocol, url)) {
                assert!(error.contains(what) && !error.contains("hush"), "{url}: {error}");
            }
        }
        assert!(refused(Protocol::Grpc, "http://a.test/v1/logs").contains("gRPC has no path"));
    }

    #[test]
    fn a_file_has_fields() {
        let read = fields(b"# for the collector\n\nAuthorization: Bearer a:b\r\nx-scope:\tteam \nx-scope: other").unwrap();
        assert_eq!(read.get("authorization").unwrap(), "Bearer a:b");
        assert_eq!(read.get_all("x-scope").iter().collect::<Vec<_>>(), ["team", "other"]);
        assert!(read.values().all(HeaderValue::is_sensitive) && !format!("{read:?}").contains("Bearer"));
        for (text, line, what) in [
            (&b"a: b\nno colon"[..], 2, "no colon"),
            (b"a b: c", 1, "such a name"),
            (b": c", 1, "such a name"),
            (b"\n\nContent-Type: text/plain", 3, "of themselves"),
            (b"grpc-timeout: 1S", 1, "of themselves"),
            (b"a: b\x01c", 1, "cannot stand"),
        ] {
            let (found, why) = fields(text).unwrap_err();
            assert!(found == line && why.contains(what), "{found} {why}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_read_again_when_it_changes_and_is_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        let write = |text: &str, mode: u32| {
            // As it is replaced: by rename.
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        assert!(matches!(Headers::read(&path), Err(HeadersError::Read { .. })));
        assert!(matches!(Headers::read(folder.path()), Err(HeadersError::NotAFile { .. })));
        write("a: 1", 0o644);
        assert!(matches!(Headers::read(&path), Err(HeadersError::Mode { mode: 0o644, .. })));
        write("a: 1", 0o640);
        let mut headers = Headers::read(&path).unwrap();
        let now = |headers: &mut Headers| {
            let (fields, error) = headers.current();
            (fields.get("a").unwrap().to_str().unwrap().to_owned(), error.map(|error| error.to_string()))
        };
        assert_eq!(now(&mut headers), ("1".to_owned(), None));
        write("a: 2", 0o600);
        assert_eq!(now(&mut headers), ("2".to_owned(), None));
        // What is wrong is said, and what is known goes on.
        write("hush", 0o600);
        let (value, error) = now(&mut headers);
        let error = error.unwrap();
        assert!(value == "2" && error.contains("headers:1`: it has no colon") && !error.contains("hush"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(now(&mut headers).1.is_some());
    }
}
