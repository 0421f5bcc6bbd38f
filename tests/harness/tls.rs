//! TLS around origins and clients: bytes go through a loopback connection to what speaks plain HTTP, so that both are written and read as everywhere else.

use crate::client::Client;
use crate::origin::Origin;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Moves bytes for all tests.
pub(crate) static MOVERS: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// An authority of a test, and a file with its certificate, as `SSL_CERT_FILE` names it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    key: String,
    folder: tempfile::TempDir,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // One of the same name would be taken for it, and its signatures for wrong ones.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {} of a test", MADE.fetch_add(1, Ordering::SeqCst));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("roots.pem"), &pem).unwrap();
        Self { key: key.serialize_pem(), issuer: Issuer::new(params, key), pem, folder }
    }

    /// The file with its certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    /// The file with its certificate, and one with its key, which only its owner can read.
    #[must_use]
    pub fn files(&self) -> (PathBuf, PathBuf) {
        let key = self.folder.path().join("key.pem");
        std::fs::write(&key, &self.key).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        (self.file(), key)
    }

    /// A server with a certificate for these names, which speaks these protocols.
    #[must_use]
    pub fn server(&self, names: &[&str], protocols: &[&str]) -> ServerConfig {
        let (certificate, key) = self.certificate(names);
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// The same, and clients have to show a certificate of this authority.
    #[must_use]
    pub fn server_for_known(&self, names: &[&str]) -> ServerConfig {
        let (certificate, key) = self.certificate(names);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let known = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        config.with_client_cert_verifier(known).with_single_cert(vec![certificate], key).unwrap()
    }

    /// Files with a certificate for a client and its key, as PEM.
    #[must_use]
    pub fn client_files(&self) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["client.test".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (cert, private) = (self.folder.path().join("client.pem"), self.folder.path().join("client-key.pem"));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        (cert, private)
    }

    /// A certificate for these names, and its key.
    #[must_use]
    pub fn certificate(&self, names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// A client that trusts the authorities of `pem`, and offers these protocols.
#[must_use]
pub fn trusting(pem: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Moves bytes until both sides have ended, or one failed: then the other is closed, as far as it can be told.
async fn join(mut secured: impl AsyncRead + AsyncWrite + Unpin, mut plain: TcpStream) {
    let _ = copy_bidirectional(&mut secured, &mut plain).await;
}

/// A port in front of an origin, on which TLS is spoken.
pub struct Front {
    port: u16,
    handshakes: Arc<AtomicUsize>,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

impl Front {
    #[must_use]
    pub fn of(origin: &Origin, config: ServerConfig) -> Self {
        Self::before(origin.address(), config)
    }

    /// The same in front of anything that listens.
    #[must_use]
    pub fn before(behind: SocketAddr, config: ServerConfig) -> Self {
        let listener = MOVERS.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let front = Self { port: listener.local_addr().unwrap().port(), handshakes: Arc::default(), names: Arc::default() };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (handshakes, names) = (Arc::clone(&front.handshakes), Arc::clone(&front.names));
        MOVERS.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, handshakes, names) = (acceptor.clone(), Arc::clone(&handshakes), Arc::clone(&names));
                tokio::spawn(async move {
                    let Ok(secured) = acceptor.accept(stream).await else { return };
                    handshakes.fetch_add(1, Ordering::SeqCst);
                    names.lock().unwrap().push(secured.get_ref().1.server_name().map(str::to_owned));
                    if let Ok(plain) = TcpStream::connect(behind).await {
                        join(secured, plain).await;
                    }
                });
            }
        });
        front
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Handshakes that were finished so far.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }

    /// The names that were asked for.
    #[must_use]
    pub fn names(&self) -> Vec<Option<String>> {
        self.names.lock().unwrap().clone()
    }
}

/// Inside TLS.
pub struct Secured {
    pub client: Client,
    /// What the other side chose.
    pub protocol: Option<String>,
    /// What the other side showed first.
    pub leaf: CertificateDer<'static>,
}

/// Begins TLS on a connection, with whoever proves to be `name`.
///
/// # Errors
/// There is no TLS with it.
pub fn secure(client: Client, name: &str, config: &Arc<ClientConfig>) -> io::Result<Secured> {
    let stream = client.into_stream();
    stream.set_nonblocking(true).unwrap();
    let (name, config) = (ServerName::try_from(name.to_owned()).unwrap(), Arc::clone(config));
    MOVERS.block_on(async move {
        let connecting = TlsConnector::from(config).connect(name, TcpStream::from_std(stream)?);
        let secured = tokio::time::timeout(crate::PATIENCE, connecting).await??;
        let session = secured.get_ref().1;
        let protocol = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        let leaf = session.peer_certificates().unwrap()[0].clone().into_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        let (far, _) = listener.accept().await?;
        far.set_nodelay(true)?;
        tokio::spawn(join(secured, far));
        let near = near.into_std()?;
        near.set_nonblocking(false)?;
        Ok(Secured { client: Client::over(near), protocol, leaf })
    })
}

/// Opens a tunnel by CONNECT, and TLS in it.
///
/// # Errors
/// There is no TLS in it.
pub fn through(proxy: SocketAddr, authority: &str, config: &Arc<ClientConfig>) -> io::Result<Secured> {
    let mut client = Client::connect(proxy);
    let answer = client.tunnel(authority);
    assert_eq!(answer.status, 200, "{answer:?}");
    let host = authority.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
    secure(client, host, config)
}
