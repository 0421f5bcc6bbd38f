//! What one client has at SOCKS5 proxies: an association at each, opened when it is first needed, and one attempt at a time however many wait for it.

use super::{Chain, Door, open};
use crate::connect::upstream::Proxy;
use crate::connect::{UpstreamError, chain, chain::ProxyError};
use crate::decide::{Decider, Route};
use crate::parse::socks5;
use policy_format::Limits;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::time::timeout;

/// Proxies that one client has an association at.
const MOST: usize = 4;

/// The associations at proxies that were opened for one client. Who uses them holds them; here it is only known which there are.
#[derive(Default)]
pub(crate) struct Chains(Mutex<Vec<Slot>>);

struct Slot {
    proxy: Arc<Proxy>,
    door: Arc<tokio::sync::Mutex<Weak<Door>>>,
}

/// Why there is no way to a proxy for datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoChain {
    /// There are as many already as one client may have.
    TooMany,
    /// At the proxy.
    Upstream(UpstreamError),
}

impl Chains {
    /// The way to the proxy of a route, within the time for connecting; opened, if there is none.
    pub(crate) async fn door(
        &self,
        route: &Route<'_>,
        proxy: &Arc<Proxy>,
        decider: &Decider,
        limits: &Limits,
    ) -> Result<Arc<Door>, NoChain> {
        let slot = self.slot(proxy).ok_or(NoChain::TooMany)?;
        let opening = async {
            let mut door = slot.lock().await;
            if let Some(open) = door.upgrade() {
                return Ok(open);
            }
            let opened = Arc::new(associate(route, proxy, decider, limits).await?);
            *door = Arc::downgrade(&opened);
            Ok(opened)
        };
        timeout(limits.connect_timeout, opening).await.unwrap_or(Err(ProxyError::Timeout.into())).map_err(NoChain::Upstream)
    }

    fn slot(&self, proxy: &Arc<Proxy>) -> Option<Arc<tokio::sync::Mutex<Weak<Door>>>> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.iter().find(|slot| slot.proxy == *proxy) {
            return Some(Arc::clone(&slot.door));
        }
        // Nobody waits for the others or has them open.
        let is_used = |slot: &Slot| Arc::strong_count(&slot.door) > 1 || slot.door.try_lock().is_ok_and(|door| door.strong_count() > 0);
        slots.retain(is_used);
        if slots.len() >= MOST {
            return None;
        }
        let door = Arc::default();
        slots.push(Slot { proxy: Arc::clone(proxy), door: Arc::clone(&door) });
        Some(door)
    }
}

/// Opens one: the connection, and a socket that sends to the proxy's relay and hears from nobody else.
async fn associate(route: &Route<'_>, proxy: &Arc<Proxy>, decider: &Decider, limits: &Limits) -> Result<Door, UpstreamError> {
    let (control, at, said) = chain::associate(route, proxy, limits.connect_timeout).await?;
    let relay = socks5::relay(&said).and_then(|said| decider.relay_of(at, said)).ok_or(ProxyError::BadAnswer)?;
    let connect = async {
        // From the address that the proxy knows: it takes datagrams from nowhere else.
        let socket = open(SocketAddr::new(control.local_addr()?.ip(), 0)).await?;
        socket.connect(relay).await?;
        io::Result::Ok(socket)
    };
    let socket = connect.await.map_err(|_| ProxyError::Unreachable)?;
    let v6 = relay.ip().to_canonical().is_ipv6();
    Ok(Door { socket, v6, chain: Some(Chain { proxy: Arc::clone(proxy), control }) })
}
