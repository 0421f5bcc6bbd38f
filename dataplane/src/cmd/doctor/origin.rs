//! What tools are sent to: a server that speaks TLS on loopback, with a certificate of an authority that is thrown away with it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A name that nobody else has (RFC 6761).
pub(super) const NAME: &str = "doctor.netproxy.test";

/// A request's head is not longer.
const MAX_HEAD: usize = 16 << 10;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone)]
pub(super) struct Origin {
    listener: Arc<TcpListener>,
    port: u16,
    tls: TlsAcceptor,
    /// The first segments of paths that were asked for.
    asked: Arc<Mutex<HashSet<String>>>,
    tokens: Arc<AtomicUsize>,
}

impl Origin {
    /// The origin, listening, and the authority behind its certificate, as PEM.
    pub(super) fn new() -> io::Result<(Self, String)> {
        let (tls, authority) = certified().map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let origin = Self { listener: Arc::new(listener), port, tls, asked: Arc::default(), tokens: Arc::default() };
        Ok((origin, authority))
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// A path's first segment that was not given out before.
    pub(super) fn token(&self) -> String {
        format!("probe-{}", self.tokens.fetch_add(1, Ordering::SeqCst))
    }

    /// Whether somebody asked below that segment.
    pub(super) fn was_asked(&self, token: &str) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(token)
    }

    /// Answers everything with three bytes.
    pub(super) async fn serve(self) {
        let listener = self.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        let Ok(listener) = listener else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, asked) = (self.tls.clone(), Arc::clone(&self.asked));
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                while let Some(path) = path(&mut stream).await {
                    let token = path.split('/').nth(1).unwrap_or_default().to_owned();
                    asked.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";
                    if stream.write_all(answer).await.and(stream.flush().await).is_err() {
                        return;
                    }
                }
            });
        }
    }
}

/// The path of the next request; those that are sent have no body.
async fn path(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).map(str::to_owned)
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn certified() -> Result<(TlsAcceptor, String), Error> {
    let valid = |params: &mut CertificateParams| {
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - DAY).into(), (now + DAY).into());
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "netproxy-dp doctor");
    valid(&mut params);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    valid(&mut params);
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &issuer)?.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority))
}
