//! TLS towards clients, with a leaf of our authority.

use super::{Alpn, provider};
use std::sync::{Arc, OnceLock};
use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{Error, ServerConfig};

/// Sessions of clients that know no tickets. Whoever does carries the session itself.
const SESSIONS: usize = 1024;
/// Tickets after each handshake. A client that resumes gets the next one.
const TICKETS: usize = 1;

/// What all that is spoken with clients has in common.
pub(crate) struct ServerConfigs {
    /// Its keys change every six hours.
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

/// The configurations of one leaf, made when they are needed first.
#[derive(Debug, Default)]
pub(crate) struct OfLeaf([OnceLock<Arc<ServerConfig>>; Alpn::ALL.len()]);

impl ServerConfigs {
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self { ticketer: Ticketer::new()?, sessions: ServerSessionMemoryCache::new(SESSIONS) })
    }

    /// The configuration with which this leaf is shown, and `alpn` offered.
    pub(crate) fn get(&self, made: &OfLeaf, leaf: &Arc<CertifiedKey>, alpn: Alpn) -> Result<Arc<ServerConfig>, Error> {
        let OfLeaf([none, http1, http2, both]) = made;
        let made = match alpn {
            Alpn::None => none,
            Alpn::Http1 => http1,
            Alpn::Http2 => http2,
            Alpn::Both => both,
        };
        if let Some(config) = made.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make(leaf, alpn)?);
        Ok(Arc::clone(made.get_or_init(|| config)))
    }

    fn make(&self, leaf: &Arc<CertifiedKey>, alpn: Alpn) -> Result<ServerConfig, Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider())).with_safe_default_protocol_versions()?;
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(leaf)));
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = alpn.protocols();
        config.ticketer = Arc::clone(&self.ticketer);
        config.session_storage = Arc::clone(&self.sessions);
        config.send_tls13_tickets = TICKETS;
        // What is sent before the handshake is done could be sent again by others.
        config.max_early_data_size = 0;
        Ok(config)
    }
}
