//! Certificates as others see them: rustls, OpenSSL and Python.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::Alpn;
use super::authority::Authority;
use super::constraints::Constraints;
use super::failure::TlsError;
use super::leaf::Leaves;
use super::pem;
use super::roots::{Roots, Sources};
use policy_format::Host;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::SystemTime;
use tempfile::TempDir;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion, version,
};

pub(super) const LONG: &str = "a-label-of-forty-characters-or-thereabout.another-one-of-the-same-length-or-so.example.com";

pub(super) fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

pub(super) fn server_name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

/// Runs a handshake to its end, and what is sent after it.
pub(super) fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(Arc::clone(client), server_name(name))?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            // The client says why, if it is the one that does not want to.
            if let Err(error) = server.process_new_packets()
                && !matches!(error, Error::AlertReceived(_))
            {
                let mut alert = Vec::new();
                server.write_tls(&mut alert).unwrap();
                let _ = client.read_tls(&mut alert.as_slice());
                client.process_new_packets()?;
                return Err(error);
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        if bytes.is_empty() {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok((client, server));
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
}

/// A configuration that trusts an authority.
pub(super) fn trusting(authority: &CertificateDer<'static>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::clone(super::provider())).with_protocol_versions(versions).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

fn accepted_by_rustls(authority: &CertificateDer<'static>, chain: &[CertificateDer<'static>], name: &str) -> Result<(), TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(super::provider())).build().unwrap();
    let verified = verifier.verify_server_cert(&chain[0], &chain[1..], &server_name(name), &[], UnixTime::now());
    verified.map(drop).map_err(|error| TlsError::from(&error))
}

/// What `openssl` says; nothing where there is none.
fn openssl(folder: &Path, arguments: &[&str]) -> Option<Output> {
    match Command::new("openssl").current_dir(folder).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: openssl: {error}");
            None
        }
    }
}

/// The same, and it has to work.
fn openssl_does(folder: &Path, command: &str) -> Option<()> {
    let output = openssl(folder, &command.split_whitespace().collect::<Vec<_>>())?;
    assert!(output.status.success(), "openssl {command}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

fn write_chain(path: PathBuf, chain: &[CertificateDer<'_>]) {
    std::fs::write(path, chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect::<String>()).unwrap();
}

/// Whether OpenSSL accepts a chain for a host by its strict rules, or what it has against it.
fn accepted_by_openssl(authority: &CertificateDer<'_>, chain: &[CertificateDer<'_>], name: &str) -> Option<Result<(), String>> {
    let folder = tempfile::tempdir().unwrap();
    write_chain(folder.path().join("authority.pem"), std::slice::from_ref(authority));
    write_chain(folder.path().join("leaf.pem"), &chain[..1]);
    write_chain(folder.path().join("between.pem"), &chain[1..]);
    let what = if name.parse::<std::net::IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
    let mut arguments = vec!["verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-CAfile", "authority.pem", what, name];
    if chain.len() > 1 {
        arguments.extend(["-untrusted", "between.pem"]);
    }
    arguments.push("leaf.pem");
    let output = openssl(folder.path(), &arguments)?;
    let said = [output.stdout, output.stderr].concat();
    Some(if output.status.success() { Ok(()) } else { Err(String::from_utf8(said).unwrap()) })
}

fn issue(authority: &Authority, name: &str) -> Vec<CertificateDer<'static>> {
    authority.issue_unchecked(&host(name), SystemTime::now()).unwrap().key.cert.clone()
}

#[test]
fn leaves_are_accepted_strictly() {
    let hosts = ["a.example.com", "example.com", "under_score.example.com", "xn--bcher-kva.example.com", LONG, "192.0.2.7", "2001:db8::1"];
    for constraints in [Constraints::none(), Constraints::of(["**.example.com", "192.0.2.0/24", "2001:db8::/32"])] {
        let authority = Authority::in_memory(&constraints).unwrap();
        for name in hosts.into_iter().chain(constraints.is_none().then_some("localhost")) {
            assert!(authority.covers(&host(name)), "{name}");
            let chain = issue(&authority, name);
            assert_eq!(accepted_by_rustls(authority.der(), &chain, name), Ok(()), "{name}");
            assert_eq!(accepted_by_rustls(authority.der(), &chain, "b.example.com"), Err(TlsError::OtherName), "{name}");
            match accepted_by_openssl(authority.der(), &chain, name) {
                Some(accepted) => assert_eq!(accepted, Ok(()), "{name}"),
                None => return,
            }
        }
    }
}

#[test]
fn a_leaf_outside_the_name_constraints_is_refused() {
    let rows: [(&[&str], &[&str]); 5] = [
        (&["a.example.com"], &["b.example.com", "example.com", "xa.example.com", "192.0.2.7", "2001:db8::1"]),
        (&["*.example.com", "192.0.2.0/24"], &["example.org", "192.0.3.1", "2001:db8::1"]),
        (&["192.0.2.7"], &["a.example.com", "localhost", "192.0.2.8", "::1"]),
        (&["[2001:db8::]/32"], &["192.0.2.7", "2001:db9::", "a.example.com"]),
        (&[], &["a.example.com", "192.0.2.7", "::1"]),
    ];
    for (permitted, outside) in rows {
        let authority = Authority::in_memory(&Constraints::of(permitted)).unwrap();
        for name in outside {
            assert!(!authority.covers(&host(name)), "{permitted:?}: {name}");
            let chain = issue(&authority, name);
            assert_eq!(accepted_by_rustls(authority.der(), &chain, name), Err(TlsError::Constrained), "{permitted:?}: {name}");
            let Some(accepted) = accepted_by_openssl(authority.der(), &chain, name) else { return };
            let error = accepted.unwrap_err();
            assert!(error.contains("subtree violation"), "{permitted:?}: {name}: {error}");
        }
    }
}

#[test]
fn authorities_that_openssl_has_made() {
    // Each with how its key is made; the subject has parts of one type and strings of a kind that is not written here.
    let keys = [
        ("p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY.key"),
        ("sec1", "ecparam -name prime256v1 -genkey -out KEY.key"),
        ("p384", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out KEY.key"),
        ("ed25519", "genpkey -algorithm ED25519 -out KEY.key"),
        ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out KEY.key"),
        ("pkcs1", "genrsa -traditional -out KEY.key 2048"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, make) in keys {
        let file = |kind: &str| folder.path().join(format!("{name}.{kind}"));
        if openssl_does(folder.path(), &make.replace("KEY", name)).is_none() {
            return;
        }
        only_ours(&file("key"));
        let request = "req -x509 -new -key KEY.key -out KEY.pem -days 30 -subj /DC=example/DC=corp/O=Corp/CN=Authority -addext keyUsage=critical,keyCertSign";
        openssl_does(folder.path(), &request.replace("KEY", name));
        let authority = Authority::load(&file("pem"), &file("key")).unwrap();
        let chain = issue(&authority, "a.example.com");
        assert_eq!(chain.len(), 1, "who trusts it has it");
        assert_eq!(accepted_by_rustls(authority.der(), &chain, "a.example.com"), Ok(()), "{name}");
        assert_eq!(accepted_by_openssl(authority.der(), &chain, "a.example.com"), Some(Ok(())), "{name}");
    }
}

#[cfg(unix)]
pub(super) fn only_ours(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[cfg(not(unix))]
pub(super) fn only_ours(_: &Path) {}

#[test]
fn an_authority_below_another_comes_with_its_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let run = |command: &str| openssl_does(folder.path(), command);
    let path = |name: &str| folder.path().join(name);
    let root = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 30 -subj /CN=Root -addext keyUsage=critical,keyCertSign";
    if run(root).is_none() {
        return;
    }
    std::fs::write(
        path("extensions"),
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n\
         nameConstraints=critical,permitted;DNS:corp.test\n",
    )
    .unwrap();
    run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout between.key -out between.csr -subj /CN=Between");
    run("x509 -req -in between.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile extensions -out between.pem");
    let both = [std::fs::read(path("between.pem")).unwrap(), std::fs::read(path("root.pem")).unwrap()].concat();
    std::fs::write(path("both.pem"), both).unwrap();
    only_ours(&path("between.key"));
    let authority = Authority::load(&path("both.pem"), &path("between.key")).unwrap();
    assert!(authority.covers(&host("a.corp.test")));
    assert!(!authority.covers(&host("a.test")), "its constraints are read");
    let root = &pem::certificates(&std::fs::read(path("root.pem")).unwrap()).unwrap()[0];
    let chain = issue(&authority, "a.corp.test");
    assert_eq!(chain.len(), 2, "the leaf and what leads to the root; not the root");
    assert_eq!(accepted_by_rustls(root, &chain, "a.corp.test"), Ok(()));
    assert_eq!(accepted_by_openssl(root, &chain, "a.corp.test"), Some(Ok(())));
}

/// Connects by its strict rules, reads, and connects again with the session.
const PYTHON: &str = r#"
import socket, ssl, sys
port, authority, *names = sys.argv[1:]
for name in names:
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)
    session = None
    for resumed in (False, True):
        with socket.create_connection(("127.0.0.1", int(port))) as plain:
            plain.sendall(bytes([len(name)]) + name.encode())
            with context.wrap_socket(plain, server_hostname=name, session=session) as tls:
                assert tls.recv(2) == b"ok"
                assert tls.session_reused == resumed, (name, resumed)
                session = tls.session
    print(name)
"#;

#[test]
fn python_accepts_strictly_and_resumes() {
    let names = ["a.example.com", LONG, "192.0.2.7", "2001:db8::1"];
    let authority = Arc::new(Authority::in_memory(&Constraints::of(["**.example.com", "192.0.2.7", "2001:db8::/32"])).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let leaves = Leaves::new(Arc::clone(&authority), 8).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let python =
        Command::new("python3").args(["-c", PYTHON, &port]).arg(&file).args(names).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let python = match python {
        Ok(python) => python,
        Err(error) => return eprintln!("skipped: python3: {error}"),
    };
    let waiting = std::thread::spawn(move || python.wait_with_output().unwrap());
    listener.set_nonblocking(true).unwrap();
    // Until Python ends, of itself or because it does not like what it gets.
    while !waiting.is_finished() {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::yield_now();
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        let mut length = [0];
        stream.read_exact(&mut length).unwrap();
        let mut name = vec![0; length[0].into()];
        stream.read_exact(&mut name).unwrap();
        let config = runtime.block_on(leaves.server_config(&host(std::str::from_utf8(&name).unwrap()), Alpn::None)).unwrap();
        let mut server = ServerConnection::new(config).unwrap();
        let mut tls = tokio_rustls::rustls::Stream::new(&mut server, &mut stream);
        let _ = tls.write_all(b"ok").and_then(|()| tls.flush());
        let _ = tls.read(&mut [0]);
    }
    let output = waiting.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>(), names);
}

#[tokio::test]
async fn clients_resume_whatever_is_spoken_inside() {
    let authority = Arc::new(Authority::in_memory(&Constraints::none()).unwrap());
    let leaves = Leaves::new(Arc::clone(&authority), 8).unwrap();
    for (version, name) in
        [(&version::TLS13, "a.test"), (&version::TLS12, "a.test"), (&version::TLS13, "192.0.2.1"), (&version::TLS12, "::1")]
    {
        let mut client = trusting(authority.der(), &[version]);
        let mut kinds = Vec::new();
        for alpn in [Alpn::Http1, Alpn::Http1, Alpn::Http2] {
            client.alpn_protocols = Alpn::Both.protocols();
            let server = leaves.server_config(&host(name), alpn).await.unwrap();
            let (client, server) = handshake(&Arc::new(client.clone()), &server, name).unwrap();
            assert_eq!(client.alpn_protocol(), alpn.protocols().first().map(Vec::as_slice));
            assert_eq!(client.protocol_version(), Some(version.version));
            assert_eq!(client.handshake_kind(), server.handshake_kind());
            kinds.extend(client.handshake_kind());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed], "{name}");
    }
    assert_eq!(leaves.made(), 3);
}

#[tokio::test]
async fn nothing_is_accepted_before_the_handshake_is_done() {
    let authority = Arc::new(Authority::in_memory(&Constraints::none()).unwrap());
    let leaves = Leaves::new(Arc::clone(&authority), 8).unwrap();
    let mut client = trusting(authority.der(), &[&version::TLS13]);
    client.enable_early_data = true;
    let client = Arc::new(client);
    let server = leaves.server_config(&host("a.test"), Alpn::Http1).await.unwrap();
    handshake(&client, &server, "a.test").unwrap();
    let mut again = ClientConnection::new(client, server_name("a.test")).unwrap();
    assert!(again.early_data().is_none(), "the ticket does not offer it");
}

/// Roots of a file that has just this.
pub(super) fn roots_of(authority: &CertificateDer<'static>, own: &[CertificateDer<'static>]) -> (TempDir, Roots) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roots.pem");
    std::fs::write(&file, pem::encode("CERTIFICATE", authority).as_bytes()).unwrap();
    let roots = Roots::load(&Sources::read([("SSL_CERT_FILE", file.to_str().unwrap())]), own).unwrap();
    (folder, roots)
}
