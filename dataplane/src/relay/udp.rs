//! The datagrams of one SOCKS5 client, both ways (RFC 1928, section 7).
//!
//! What cannot go on now is dropped: nothing queues here but the first datagrams for names that are being looked up and for proxies that are being asked, a few of them.

mod flows;

use crate::audit::event::Dropped;
use crate::connect::udp::{Door, News, Outward, Unsent};
use crate::counters::Reached;
use crate::decide::datagram::Flow;
use crate::parse::socks5_udp::{Header, LONGEST_HEADER, parse_datagram};
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use crate::signal::Ear;
use flows::Flows;
use policy_format::Host;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep};

/// The longest datagram that there is.
const LONGEST: usize = 65_535;
/// Datagrams that are moved before others have their turn.
const BATCH: usize = 64;
/// Targets of one client that wait at once, for their names to be looked up or for a proxy.
const WAITING: usize = 16;
/// What waits for all of them, in bytes; and for each, in datagrams.
const HELD_BYTES: usize = 128 * 1024;
const HELD: usize = 8;

/// Where datagrams may go, and, if a proxy is on the way, the door that leads to it.
pub(crate) struct Way {
    pub(crate) flow: Flow,
    pub(crate) door: Option<Arc<Door>>,
}

/// A decision under way.
pub(crate) type Routing<'w> = Pin<Box<dyn Future<Output = Result<Way, Dropped>> + Send + 'w>>;

/// Who decides where datagrams may go.
pub(crate) trait Ways: Sync {
    /// Decides on a target, and resolves it. Waits only for names, and for proxies.
    fn route(&self, target: Target) -> Routing<'_>;

    /// Whether a policy gives a flow still.
    fn holds(&self, flow: &mut Flow, policy: &Snapshot) -> bool;

    /// The policy that it asks.
    fn policy(&self) -> &PolicyHandle;

    /// Hears of what was dropped.
    fn dropped(&self, why: Dropped);

    /// Hears of a limit that keeps datagrams from going along a flow.
    fn reached(&self, reached: Reached, flow: &Flow);

    /// Hears of what the client was handed: bytes of data.
    fn handed(&self, bytes: usize);

    /// Hears under which policy all goes on.
    fn renewed(&self, generation: u64);

    /// Whether somebody who runs the proxy wants it closed.
    fn is_closing(&self) -> bool;
}

/// Moves datagrams between a client, who sends to `socket`, and the world, until `control` ends, nothing moves for `idle`, or the policy has datagrams off.
pub(crate) async fn relay(
    control: &TcpStream,
    socket: UdpSocket,
    client: SocketAddr,
    ways: &impl Ways,
    idle: Duration,
    mut ear: Ear,
) -> Over {
    let mut changes = ways.policy().changes();
    let mut relay = Relay {
        socket,
        outward: Outward::default(),
        client: client.ip().to_canonical(),
        port: None,
        flows: Flows::new(ways.policy().generation()),
        waiting: Vec::new(),
        ways,
        off: false,
        last: Instant::now(),
    };
    let mut silence = Box::pin(sleep(idle));
    let over = loop {
        if relay.off {
            break Over::Revoked;
        }
        if ways.is_closing() {
            break Over::Closed;
        }
        let event = tokio::select! {
            Ok(()) = changes.changed() => Event::Policy,
            () = poll_fn(|cx| ear.poll_rung(cx)) => continue,
            ended = ended(control) => Event::Control { ended },
            () = &mut silence => Event::Silence,
            (address, held, routed) = next(&mut relay.waiting) => Event::Routed(address, held, routed),
            Ok(()) = relay.socket.readable() => Event::Readable(End::Client),
            (door, news) = relay.outward.next() => match news {
                News::Readable => Event::Readable(End::World(door)),
                News::Ended => Event::Closed(door),
            },
            // The runtime ends.
            else => break Over::Ended,
        };
        let went_well = match event {
            Event::Policy => {
                relay.renew();
                Ok(())
            }
            Event::Control { ended: true } => break Over::Ended,
            // Nothing is to be said there. It is read so that its end is seen.
            Event::Control { ended: false } => {
                tokio::task::yield_now().await;
                Ok(())
            }
            Event::Silence => {
                let due = relay.last + idle;
                if due <= Instant::now() {
                    break Over::Idle;
                }
                silence.as_mut().reset(due);
                Ok(())
            }
            Event::Routed(address, held, routed) => {
                relay.routed(address, &held, routed).await;
                Ok(())
            }
            Event::Readable(from) => match (relay.take(&from).await, from) {
                // That of a proxy is no more than the way to it.
                (Err(_), End::World(door)) if door.proxy().is_some() => {
                    relay.close(&door);
                    Ok(())
                }
                (taken, _) => taken,
            },
            Event::Closed(door) => {
                relay.close(&door);
                Ok(())
            }
        };
        if went_well.is_err() {
            break Over::Failed;
        }
    };
    // What waits still goes nowhere.
    relay.waiting.iter().flat_map(|waiting| &waiting.held).for_each(|_| ways.dropped(Dropped::NotSent));
    over
}

/// Why an association is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The client's connection ended.
    Ended,
    /// A socket failed.
    Failed,
    /// The policy has datagrams off.
    Revoked,
    /// Somebody who runs the proxy wants it closed.
    Closed,
    /// Nothing moved for too long.
    Idle,
}

/// What an association waits for.
enum Event {
    Policy,
    Control { ended: bool },
    Silence,
    Routed(Box<[u8]>, Vec<Box<[u8]>>, Result<Way, Dropped>),
    Readable(End),
    Closed(Arc<Door>),
}

/// Where datagrams come from.
enum End {
    Client,
    World(Arc<Door>),
}

struct Relay<'w, W> {
    /// Towards the client.
    socket: UdpSocket,
    outward: Outward,
    client: IpAddr,
    /// Where the client sends from: known from its first datagram.
    port: Option<u16>,
    flows: Flows,
    waiting: Vec<Waiting<'w>>,
    ways: &'w W,
    /// The policy has datagrams off.
    off: bool,
    /// When a datagram of the client's, or one for it, came last.
    last: Instant,
}

/// A target that is being resolved, or whose proxy is being asked, and what is to be sent there.
struct Waiting<'w> {
    address: Box<[u8]>,
    held: Vec<Box<[u8]>>,
    routing: Routing<'w>,
}

impl<W: Ways> Relay<'_, W> {
    /// Takes in what has come. An error is the end of the socket.
    async fn take(&mut self, from: &End) -> io::Result<()> {
        let now = Instant::now();
        // Only as long as there is something to move: an idle association costs its sockets.
        let mut buffer = Vec::with_capacity(LONGEST_HEADER + LONGEST);
        let mut failed = 0;
        for _ in 0..BATCH {
            buffer.clear();
            // Before what comes there is room for a header.
            buffer.resize(LONGEST_HEADER, 0);
            let socket = match from {
                End::Client => &self.socket,
                End::World(door) => door.socket(),
            };
            let taken = match (socket.try_recv_buf_from(&mut buffer), from) {
                (Ok((_, source)), End::Client) => self.send(received(&buffer), source, now).await,
                (Ok((_, source)), End::World(door)) => self.reply(door, &mut buffer, source, now),
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                (Err(error), _) => {
                    failed = one_more(failed, error)?;
                    continue;
                }
            };
            if let Err(why) = taken {
                self.ways.dropped(why);
            }
        }
        drop(buffer);
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Sends a datagram of the client's on, or has it wait for what its target waits for.
    async fn send(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Result<(), Dropped> {
        if from.ip().to_canonical() != self.client || self.port.is_some_and(|port| port != from.port()) {
            return Err(Dropped::Stranger);
        }
        let datagram = parse_datagram(bytes).ok_or(Dropped::Malformed)?;
        self.port = Some(from.port());
        self.last = now;
        if datagram.fragment != 0 {
            return Err(Dropped::Fragment);
        }
        self.renew();
        if self.off {
            return Err(Dropped::Denied);
        }
        if let Some(flow) = self.flows.get(datagram.address, now) {
            let Err(why) = self.outward.send(flow, datagram.payload).await else { return Ok(()) };
            match why {
                Unsent::Limited(reached) => self.ways.reached(reached, flow),
                // Perhaps the name leads elsewhere by now.
                Unsent::Failed(error) if leads_nowhere(&error) => self.flows.remove(datagram.address),
                Unsent::Failed(_) => {}
            }
            return Err(Dropped::NotSent);
        }
        let held: usize = self.waiting.iter().flat_map(|waiting| &waiting.held).map(|held| held.len()).sum();
        let room = held + datagram.payload.len() <= HELD_BYTES;
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| *waiting.address == *datagram.address) {
            if !room || waiting.held.len() >= HELD {
                return Err(Dropped::Busy);
            }
            waiting.held.push(datagram.payload.into());
            return Ok(());
        }
        let target = datagram.target().ok_or(Dropped::Malformed)?;
        if (!room || self.waiting.len() >= WAITING) && matches!(target.host, Host::Name(_)) {
            return Err(Dropped::Busy);
        }
        let mut routing = self.ways.route(target);
        // What need not wait is decided here and now.
        match poll_fn(|context| Poll::Ready(routing.as_mut().poll(context))).await {
            Poll::Ready(routed) => self.routed(datagram.address.into(), &[datagram.payload], routed).await,
            // An address waits only for a proxy.
            Poll::Pending if !room || self.waiting.len() >= WAITING => return Err(Dropped::Busy),
            Poll::Pending => self.waiting.push(Waiting { address: datagram.address.into(), held: vec![datagram.payload.into()], routing }),
        }
        Ok(())
    }

    /// Sends what waited for a decision, if it is good.
    async fn routed(&mut self, address: Box<[u8]>, payloads: &[impl AsRef<[u8]>], routed: Result<Way, Dropped>) {
        self.renew();
        let current = self.ways.policy().current();
        // Of a policy that was replaced while the name was looked up, nothing counts.
        let allowed =
            routed.and_then(|mut way| if self.ways.holds(&mut way.flow, &current) && !self.off { Ok(way) } else { Err(Dropped::Denied) });
        let Way { mut flow, door } = match allowed {
            Ok(way) => way,
            Err(why) => return payloads.iter().for_each(|_| self.ways.dropped(why)),
        };
        if let Some(door) = door {
            self.outward.add(door);
        }
        let mut settled = false;
        for payload in payloads {
            match self.outward.send(&mut flow, payload.as_ref()).await {
                Ok(()) => settled = true,
                Err(why) => {
                    match why {
                        Unsent::Limited(reached) => self.ways.reached(reached, &flow),
                        Unsent::Failed(error) => settled |= error.kind() == io::ErrorKind::WouldBlock,
                    }
                    self.ways.dropped(Dropped::NotSent);
                }
            }
        }
        if settled {
            self.flows.insert(address, flow, Instant::now());
        }
    }

    /// Hands the client what somebody that it has sent to has answered. `buffer` has room for the header before the data; what a proxy hands over has one already, the same.
    fn reply(&mut self, door: &Door, buffer: &mut [u8], from: SocketAddr, now: Instant) -> Result<(), Dropped> {
        self.renew();
        let (known, bytes, datagram) = match door.proxy() {
            None => {
                let bytes = received(buffer).len();
                (self.flows.knows(from), bytes, Header::from(from).before(buffer))
            }
            Some(proxy) => {
                let datagram = parse_datagram(received(buffer)).ok_or(Dropped::Malformed)?;
                if datagram.fragment != 0 {
                    return Err(Dropped::Fragment);
                }
                let source = datagram.target().ok_or(Dropped::Malformed)?;
                (self.flows.knows_behind(proxy, &source), datagram.payload.len(), received(buffer))
            }
        };
        let Some(port) = self.port.filter(|_| known) else { return Err(Dropped::NotAsked) };
        self.last = now;
        self.socket.try_send_to(datagram, SocketAddr::new(self.client, port)).map_err(|_| Dropped::NotSent)?;
        self.ways.handed(bytes);
        Ok(())
    }

    /// A proxy takes no more datagrams: what went there is decided again, and may open another way.
    fn close(&mut self, door: &Arc<Door>) {
        self.outward.close(door);
        self.flows.retain(|flow| flow.proxy() != door.proxy());
    }

    /// Looks whether the policy has changed, and keeps to the new one.
    fn renew(&mut self) {
        if self.ways.policy().generation() == self.flows.generation() {
            return;
        }
        let current = self.ways.policy().current();
        self.ways.renewed(current.generation());
        self.off = !allows_datagrams(&current);
        if self.off {
            self.flows.clear();
        }
        self.flows.renew(&current, |flow| self.ways.holds(flow, &current));
        self.outward.keep(|proxy| self.flows.has(proxy));
    }
}

/// Whether an error is of the address, and not of the moment.
fn leads_nowhere(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable, NotConnected};
    matches!(error.kind(), NetworkUnreachable | HostUnreachable | AddrNotAvailable | NotConnected)
}

/// Whether a policy has datagrams on.
pub(crate) fn allows_datagrams(policy: &Snapshot) -> bool {
    policy.meta().enable_socks5_udp
}

/// One error of a socket is that of one datagram. A batch of nothing else is the socket's own.
fn one_more(failed: usize, error: io::Error) -> io::Result<usize> {
    if failed + 1 < BATCH { Ok(failed + 1) } else { Err(error) }
}

/// Whether the client's connection has ended, once something has happened there.
async fn ended(control: &TcpStream) -> bool {
    if control.readable().await.is_err() {
        return true;
    }
    match control.try_read(&mut [0; 256]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// What came, behind the room for a header.
fn received(buffer: &[u8]) -> &[u8] {
    buffer.get(LONGEST_HEADER..).unwrap_or_default()
}

/// The next of those that wait to have got an answer. They are few, so that all are asked.
async fn next(waiting: &mut Vec<Waiting<'_>>) -> (Box<[u8]>, Vec<Box<[u8]>>, Result<Way, Dropped>) {
    poll_fn(|context| {
        for at in 0..waiting.len() {
            let Some(one) = waiting.get_mut(at) else { break };
            if let Poll::Ready(routed) = one.routing.as_mut().poll(context) {
                let Waiting { address, held, .. } = waiting.swap_remove(at);
                return Poll::Ready((address, held, routed));
            }
        }
        Poll::Pending
    })
    .await
}
