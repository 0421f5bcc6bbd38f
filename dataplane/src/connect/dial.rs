//! Dials a checked address, never a name.
//!
//! Of several addresses, the next is tried when one has failed, or has not answered for a while, and the first that accepts is taken (RFC 8305, "happy eyeballs"). Addresses that a proxy is asked
//! for take part in the same race.

use super::UpstreamError;
use super::chain::ProxyError;
use crate::decide::Route;
use crate::spare::{self, is_exhausted};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long one attempt has the network to itself (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to one of the route's addresses, and says to which. Dropping the future drops every attempt.
pub(crate) async fn dial(route: &Route<'_>, patience: Duration) -> Result<(TcpStream, SocketAddr), UpstreamError> {
    let connect = |address| async move {
        let stream = spare::again(|| TcpStream::connect(address)).await.map_err(|error| Told::by(&error))?;
        Ok((stream, address))
    };
    first(route.addresses(), Instant::now() + patience, Told::TimedOut, connect).await
}

/// The families take turns, beginning with that of the first address; within each, the order stays (RFC 8305, section 4).
pub(crate) fn take_turns(addresses: &mut Vec<IpAddr>) {
    let Some(first) = addresses.first().map(IpAddr::is_ipv6) else { return };
    if addresses.iter().all(|address| address.is_ipv6() == first) {
        return;
    }
    let (one, other): (Vec<IpAddr>, Vec<IpAddr>) = addresses.drain(..).partition(|address| address.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            return;
        }
        addresses.extend(pair.into_iter().flatten());
    }
}

/// What an attempt tells, the more the later: that a proxy could not, which does not say why; a family that the system has no way for, a proxy's silence, time-out, what the network said, what
/// the host said; and that there was no attempt, for want of a descriptor, which is nothing that the destination has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    AtProxy,
    NoWay,
    ProxySilent,
    TimedOut,
    Unreachable,
    Refused,
    Exhausted,
}

impl Told {
    fn by(error: &io::Error) -> Self {
        match error.kind() {
            _ if is_exhausted(error) => Self::Exhausted,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => Self::NoWay,
            _ => Self::Unreachable,
        }
    }
}

impl From<Told> for UpstreamError {
    fn from(told: Told) -> Self {
        match told {
            Told::AtProxy => Self::Proxy(ProxyError::Failed),
            Told::ProxySilent => Self::Proxy(ProxyError::Timeout),
            Told::NoWay => Self::NetworkUnreachable,
            Told::Unreachable => Self::Unreachable,
            Told::TimedOut => Self::ConnectTimeout,
            Told::Refused => Self::Refused,
            Told::Exhausted => Self::NoDescriptor,
        }
    }
}

/// What the first attempt comes to that does not fail, or what told most of those that have. `late` is what it tells that time is over.
pub(super) async fn first<A: Copy, S, F>(addresses: &[A], deadline: Instant, late: Told, begin: impl Fn(A) -> F) -> Result<S, UpstreamError>
where
    F: Future<Output = Result<S, Told>>,
{
    let mut told = None;
    // One address, as most have, needs no race.
    let ended = match addresses {
        [only] => timeout_at(deadline, begin(*only)).await.map(|done| done.map_err(|error| told = Some(error))),
        _ => timeout_at(deadline, race(addresses, begin, &mut told)).await,
    };
    match ended {
        Ok(Ok(first)) => Ok(first),
        Ok(Err(())) => Err(told.unwrap_or(Told::NoWay).into()),
        Err(_) => Err(told.map_or(late, |told| told.max(late)).into()),
    }
}

/// Attempts in the order of the addresses, each begun when one has failed, or the last was begun a while ago.
async fn race<A: Copy, S, F>(addresses: &[A], begin: impl Fn(A) -> F, told: &mut Option<Told>) -> Result<S, ()>
where
    F: Future<Output = Result<S, Told>>,
{
    let mut waiting = addresses.iter();
    let mut running = Vec::new();
    let mut delay = pin!(sleep_until(Instant::now()));
    poll_fn(|cx| {
        loop {
            let before = running.len();
            let mut accepted = None;
            running.retain_mut(|attempt: &mut std::pin::Pin<Box<F>>| {
                accepted.is_none()
                    && match attempt.as_mut().poll(cx) {
                        Poll::Pending => true,
                        Poll::Ready(Ok(stream)) => {
                            accepted = Some(stream);
                            false
                        }
                        Poll::Ready(Err(error)) => {
                            *told = Some(error).max(*told);
                            false
                        }
                    }
            });
            if let Some(stream) = accepted {
                return Poll::Ready(Ok(stream));
            }
            let is_time = running.len() < before || running.is_empty() || delay.as_mut().poll(cx).is_ready();
            match if is_time { waiting.next() } else { None } {
                Some(address) => {
                    running.push(Box::pin(begin(*address)));
                    delay.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
                }
                None if running.is_empty() => return Poll::Ready(Err(())),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use tokio::time::sleep;

    /// What an address does, and after how many milliseconds.
    type Behaviour = (Result<(), io::ErrorKind>, u64);

    /// What happens, what comes of it, when the attempts begin, and when it is over.
    type Case = (&'static str, &'static [Behaviour], Result<usize, UpstreamError>, &'static [u64], u64);

    fn addresses(count: usize) -> Vec<SocketAddr> {
        (0..count).map(|last| SocketAddr::from(([192, 0, 2, u8::try_from(last).unwrap()], 443))).collect()
    }

    /// Which address was taken, which were dialled and when, and when that was over.
    async fn run(behaviours: &[Behaviour], patience: u64) -> (Result<usize, UpstreamError>, Vec<(SocketAddr, u64)>, u64) {
        let all = addresses(behaviours.len());
        let began = Instant::now();
        let since = |began: Instant| u64::try_from(began.elapsed().as_millis()).unwrap();
        let dialled = Mutex::new(Vec::new());
        let connect = |address: SocketAddr| {
            dialled.lock().unwrap().push((address, since(began)));
            let index = all.iter().position(|known| *known == address).unwrap();
            let (outcome, after) = behaviours[index];
            async move {
                sleep(Duration::from_millis(after)).await;
                outcome.map(|()| index).map_err(|kind| Told::by(&kind.into()))
            }
        };
        let taken = first(&all, began + Duration::from_millis(patience), Told::TimedOut, connect).await;
        let over = since(began);
        (taken, dialled.into_inner().unwrap(), over)
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_begin_when_one_failed_or_took_too_long() {
        use io::ErrorKind::{ConnectionRefused as No, HostUnreachable as Host, NetworkUnreachable as Net, TimedOut as Late};
        const NEVER: u64 = 1_000_000;
        let cases: &[Case] = &[
            ("one that accepts", &[(Ok(()), 10)], Ok(0), &[0], 10),
            ("one that takes long is waited for", &[(Ok(()), 900)], Ok(0), &[0], 900),
            ("one that does nothing", &[(Ok(()), NEVER)], Err(UpstreamError::ConnectTimeout), &[0], 990),
            ("one that refuses", &[(Err(No), 5)], Err(UpstreamError::Refused), &[0], 5),
            ("the first accepts before the second begins", &[(Ok(()), 249), (Ok(()), 0)], Ok(0), &[0], 249),
            ("the second overtakes", &[(Ok(()), 400), (Ok(()), 100)], Ok(1), &[0, 250], 350),
            ("the first is not given up", &[(Ok(()), 300), (Ok(()), 100)], Ok(0), &[0, 250], 300),
            ("the next at once after a failure", &[(Err(No), 20), (Err(Net), 0), (Ok(()), 10)], Ok(2), &[0, 20, 20], 30),
            ("a failure of an earlier one begins the next", &[(Err(No), 300), (Ok(()), NEVER), (Ok(()), 10)], Ok(2), &[0, 250, 300], 310),
            (
                "each has its delay",
                &[(Ok(()), NEVER), (Ok(()), NEVER), (Ok(()), NEVER)],
                Err(UpstreamError::ConnectTimeout),
                &[0, 250, 500],
                990,
            ),
            ("time ends before all are tried", &[(Ok(()), NEVER); 9], Err(UpstreamError::ConnectTimeout), &[0, 250, 500, 750], 990),
            (
                "refused tells more than unreachable",
                &[(Err(Host), 1), (Err(No), 1), (Err(Host), 1)],
                Err(UpstreamError::Refused),
                &[0, 1, 2],
                3,
            ),
            ("unreachable more than late", &[(Err(Host), 1), (Err(Late), 1)], Err(UpstreamError::Unreachable), &[0, 1], 2),
            ("late more than a family without a way", &[(Err(Net), 1), (Ok(()), NEVER)], Err(UpstreamError::ConnectTimeout), &[0, 1], 990),
            ("no family has a way", &[(Err(Net), 1), (Err(Net), 1)], Err(UpstreamError::NetworkUnreachable), &[0, 1], 2),
            ("refused more than late", &[(Err(No), 1), (Ok(()), NEVER)], Err(UpstreamError::Refused), &[0, 1], 990),
        ];
        for (what, behaviours, expected, begun, over) in cases {
            let (taken, dialled, ended) = run(behaviours, 990).await;
            assert_eq!(taken, *expected, "{what}");
            assert_eq!(dialled.iter().map(|(_, at)| *at).collect::<Vec<_>>(), *begun, "{what}");
            assert_eq!(ended, *over, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    #[cfg(unix)]
    async fn without_a_descriptor_it_is_nobody_elses_fault() {
        use rustix::io::Errno;
        let all = addresses(3);
        for errno in [Errno::MFILE, Errno::NFILE] {
            for count in [1, 3] {
                let connect = |address: SocketAddr| {
                    let error = if address == all[0] { errno.into() } else { io::ErrorKind::ConnectionRefused.into() };
                    async move { Result::<(), Told>::Err(Told::by(&error)) }
                };
                let taken = first(&all[..count], Instant::now() + Duration::from_secs(1), Told::TimedOut, connect).await;
                assert_eq!(taken, Err(UpstreamError::NoDescriptor), "{errno} {count}");
            }
        }
    }

    fn behaviour() -> impl Strategy<Value = Behaviour> {
        let outcome = prop_oneof![
            Just(Ok(())),
            Just(Err(io::ErrorKind::ConnectionRefused)),
            Just(Err(io::ErrorKind::NetworkUnreachable)),
            Just(Err(io::ErrorKind::TimedOut)),
        ];
        (outcome, 0..2000_u64)
    }

    proptest! {
        #[test]
        fn only_what_was_decided_on_is_dialled_each_once_in_order(behaviours in prop::collection::vec(behaviour(), 1..20), patience in 10..4000_u64) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            let (taken, dialled, over) = runtime.block_on(run(&behaviours, patience));
            let dialled: Vec<SocketAddr> = dialled.into_iter().map(|(address, _)| address).collect();
            prop_assert_eq!(&dialled[..], &addresses(behaviours.len())[..dialled.len()]);
            prop_assert!(over <= patience);
            match taken {
                Ok(index) => prop_assert!(index < dialled.len() && behaviours[index].0.is_ok()),
                // Before its time is over, it gives up when every address has failed, and not before.
                Err(_) => prop_assert!(over == patience || (dialled.len() == behaviours.len() && behaviours.iter().all(|(outcome, _)| outcome.is_err()))),
            }
        }

        #[test]
        fn families_take_turns(bits in prop::collection::vec(any::<bool>(), 0..40)) {
            let address = |(number, six): (usize, &bool)| -> IpAddr {
                let last = u8::try_from(number).unwrap();
                if *six { [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into() } else { [192, 0, 2, last].into() }
            };
            let before: Vec<IpAddr> = bits.iter().enumerate().map(address).collect();
            let mut after = before.clone();
            take_turns(&mut after);
            for six in [true, false] {
                let of = |all: &[IpAddr]| all.iter().filter(|ip| ip.is_ipv6() == six).copied().collect::<Vec<_>>();
                prop_assert_eq!(of(&before), of(&after));
            }
            prop_assert_eq!(before.first(), after.first());
            let fewer = bits.iter().filter(|six| **six).count().min(bits.iter().filter(|six| !**six).count());
            for pair in after.windows(2).take((2 * fewer).saturating_sub(1)) {
                prop_assert_ne!(pair[0].is_ipv6(), pair[1].is_ipv6());
            }
        }
    }
}
