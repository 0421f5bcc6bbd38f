//! What opening the TLS of clients takes: an authority that they trust, and what was made with it.

use crate::tls::Alpn;
use crate::tls::authority::Authority;
use crate::tls::constraints::Constraints;
use crate::tls::leaf::Leaves;
use crate::tls::roots::Own;
use policy_format::{Host, Intercepted, Mitm};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Leaves that are kept.
const LEAVES: usize = 4096;

/// Authorities that are kept for policies to come.
const KEPT: usize = 8;

/// An authority, and the leaves that it signed.
pub(crate) struct Interception {
    /// What it was made for; `None` where it came from a file, and is what it is.
    made_for: Option<Constraints>,
    leaves: Leaves,
}

/// Nothing of the key.
impl fmt::Debug for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interception").field("authority", &self.leaves.authority().digest()).finish_non_exhaustive()
    }
}

impl Interception {
    /// For a policy that has the TLS of these hosts opened; `None` where it has none opened. The error says what is wrong with the authority.
    pub(crate) fn of(mitm: &Mitm, intercepted: &Intercepted) -> Result<Option<Arc<Self>>, String> {
        let constraints = match intercepted {
            Intercepted::Hosts(patterns) if patterns.is_empty() => return Ok(None),
            Intercepted::Hosts(patterns) => Constraints::of(patterns),
            Intercepted::All => Constraints::none(),
        };
        let (certificate, key) = (mitm.ca_cert_path.as_deref().map(Path::new), mitm.ca_key_path.as_deref().map(Path::new));
        let authority = Arc::new(Authority::of(certificate, key, &constraints).map_err(|error| error.to_string())?);
        let made_for = certificate.is_none().then_some(constraints);
        let leaves = Leaves::new(authority, LEAVES).map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(Self { made_for, leaves })))
    }

    /// Whether it does for what another one was made for: clients that trust it go on as they are.
    pub(crate) fn serves_for(&self, other: &Self) -> bool {
        match (&self.made_for, &other.made_for) {
            (Some(mine), Some(others)) => mine.contains(others),
            (None, None) => self.leaves.authority().digest() == other.leaves.authority().digest(),
            _ => false,
        }
    }

    /// The certificate of the authority.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        self.leaves.authority().der()
    }

    /// The same, as it is handed out.
    pub(crate) fn pem(&self) -> &str {
        self.leaves.authority().pem()
    }

    /// How a client that wants `host` is answered, speaking `protocol`.
    pub(crate) async fn server(&self, host: &Host, protocol: Alpn) -> Option<Arc<ServerConfig>> {
        self.leaves.server_config(host, protocol).await.ok()
    }
}

/// The authorities that were in force since the start. Clients were told of the first, and do not hear of others.
#[derive(Debug, Default)]
pub(crate) struct Authorities {
    /// The earliest first.
    kept: Mutex<Vec<Arc<Interception>>>,
    own: Arc<Own>,
}

impl Authorities {
    /// What a policy that comes into force opens TLS with: the earliest that serves for `wanted`, or that itself. Whether clients do not know it comes with it.
    pub(crate) fn choose(&self, wanted: Arc<Interception>) -> (Arc<Interception>, bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = kept.iter().find(|earlier| earlier.serves_for(&wanted)) {
            return (Arc::clone(earlier), false);
        }
        // Before anything is signed with it.
        self.own.add(wanted.der());
        if kept.len() == KEPT {
            // Not the first, which clients trust.
            kept.remove(1);
        }
        kept.push(Arc::clone(&wanted));
        (wanted, true)
    }

    /// All that ever were in force: what they vouch for came through here already.
    pub(crate) fn own(&self) -> &Arc<Own> {
        &self.own
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn opening(hosts: &[&str]) -> Arc<Interception> {
        let hosts = Intercepted::Hosts(hosts.iter().map(|host| (*host).to_owned()).collect());
        Interception::of(&Mitm::default(), &hosts).unwrap().unwrap()
    }

    #[test]
    fn the_authority_that_clients_trust_stays_as_long_as_it_serves() {
        let authorities = Authorities::default();
        let (first, news) = authorities.choose(opening(&["*.a.test", "b.test"]));
        assert!(news);
        for hosts in [&["*.a.test", "b.test"][..], &["b.test"], &["x.a.test"]] {
            let (same, news) = authorities.choose(opening(hosts));
            assert!(Arc::ptr_eq(&first, &same) && !news, "{hosts:?}");
        }
        let (wider, news) = authorities.choose(opening(&["*.a.test", "b.test", "c.test"]));
        assert!(!Arc::ptr_eq(&first, &wider) && news);
        // Back to the first where that serves, and to the second where only that does.
        assert!(Arc::ptr_eq(&first, &authorities.choose(opening(&["b.test"])).0));
        assert!(Arc::ptr_eq(&wider, &authorities.choose(opening(&["c.test"])).0));
        for other in 0..2 * KEPT {
            assert!(authorities.choose(opening(&[&format!("h{other}.test")])).1);
        }
        assert!(Arc::ptr_eq(&first, &authorities.choose(opening(&["b.test"])).0), "the first is not forgotten");
        assert!(!Arc::ptr_eq(&wider, &authorities.choose(opening(&["c.test"])).0), "others are, at last");
        assert!(authorities.own().all().contains(wider.der()), "and are never trusted");
    }
}
