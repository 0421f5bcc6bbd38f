//! A plain request that goes to a unix socket instead of a host.

use super::{Connection, Next};
use crate::decide::Question;
use crate::parse::forwarding::Forwarding;
use crate::parse::http::RequestHead;
#[cfg(unix)]
use {
    super::{end, ended_by, span},
    crate::audit::event::Ending,
    crate::connect::chain::Form,
    crate::connect::{ConnectError, Watch},
    crate::decide::guard::Cause,
    crate::decide::socket::{self, SocketRoute},
    crate::inside::judge::Actions,
    crate::limits::Meter,
    crate::parse::target::Target,
    crate::relay::http::{ExchangeError, Exchanged, Flows, Sides, exchange},
    crate::stream::{Buffered, Stream},
    policy_format::Host,
    std::sync::Arc,
};

impl Connection<'_> {
    /// A plain request to a unix socket: decide → connect → relay.
    #[cfg(unix)]
    pub(super) async fn unix_socket(
        &mut self,
        head: &RequestHead,
        forwarding: &Forwarding<'_>,
        path: &str,
        question: Question<'_>,
    ) -> Next {
        // What stands for a socket in replies and events: no host has this name and port.
        let target = Host::parse(socket::NAME).map_or_else(|_| Target::clone(&head.target), |host| Target { host, port: 0 });
        let question = Question { target: &target, socket: true, ..question };
        let shared = self.shared;
        let connected = match shared.decider.socket(question) {
            Ok(permit) => {
                // Nor is one asked for inside of a tunnel.
                let mut watch = Watch { ear: &mut self.ear, tunnel: None };
                let revoked = |route: &SocketRoute| route.revoked(&shared.decider, &question, false);
                crate::connect::unix::connect(permit, path, &mut watch, revoked).await
            }
            Err(denial) => Err(ConnectError::Denied(denial)),
        };
        let (mut upstream, route, mut open) = match connected {
            Ok((stream, route, open)) => (Buffered::new(Stream::Unix(stream)), route, open),
            Err(ConnectError::Denied(denial)) => return self.deny(head, &denial).await,
            Err(ConnectError::Closed) => return Next::Close,
            Err(ConnectError::Upstream(error)) => return self.upstream_failed(head, &"the unix socket", error).await,
        };
        self.limits = Arc::clone(route.limits());
        let gate = &shared.gate;
        let room = match head.upgrade.as_ref().map(|_| self.room(&target, &self.limits)).transpose() {
            Ok(room) => room,
            Err(reached) => {
                end(&mut open, reached.into());
                return self.limited(head, &target, reached).await;
            }
        };
        let upload = match gate.body(&target.host, head.body, &self.limits) {
            Ok(upload) => Meter::up(&shared.counters, upload),
            Err(reached) => {
                end(&mut open, reached.into());
                return self.limited(head, &target, reached).await;
            }
        };
        let (decider, client) = (&shared.decider, self.address);
        let mut unheard = None;
        let sides = Sides {
            client: &mut self.client,
            upstream: &mut upstream,
            flows: &mut self.flows,
            patience: &mut self.patience,
            ear: &mut self.ear,
            limits: &self.limits,
            actions: &Actions::default(),
            half_closes: false,
            still_holds: None,
            reached: &|reached| gate.reached(reached, Some(client), Some(&target)),
            span: span(&mut open, &mut unheard),
        };
        let (mut denial, mut heard) = (None, false);
        let cause = || {
            denial = route.revoked(decider, &question, heard);
            heard |= denial.is_some();
            denial.as_ref().map(|_| Cause::Revoked)
        };
        let exchanged = match exchange(sides, head, &Form::Origin, forwarding, upload, route.read_only(), cause) {
            Ok(exchange) => exchange.await,
            Err(error) => Err(error),
        };
        if exchanged.is_err() {
            // What was to go either way belongs to nobody else.
            self.flows = Flows::new(&shared.counters);
        }
        match exchanged {
            Ok(Exchanged::Done { client_reusable, unread, .. }) => {
                end(&mut open, Ending::Done);
                if client_reusable {
                    return Next::Request;
                }
                if let Some(goodbye) = self.goodbye(unread, head.secure) {
                    goodbye.await;
                }
                Next::Close
            }
            Ok(Exchanged::Upgraded) => match room.zip(open) {
                Some(((place, upload), open)) => {
                    let live = open.into_live(decider, Some(place), true);
                    let guard = Box::new(route.guard(self.shutdown.ear(), live));
                    Next::Tunnel(upstream, guard, upload, None)
                }
                // Nobody offered to.
                None => Next::Close,
            },
            Err(ExchangeError::Revoked) => {
                end(&mut open, Ending::Revoked);
                self.revoked(head, denial).await
            }
            Err(error) => {
                ended_by(&mut open, error);
                self.broke_off(head, &target, &"the unix socket", error).await
            }
        }
    }

    /// There are none on this system.
    #[cfg(not(unix))]
    pub(super) async fn unix_socket(&mut self, head: &RequestHead, _: &Forwarding<'_>, _path: &str, question: Question<'_>) -> Next {
        let denial = match self.shared.decider.socket(Question { socket: true, ..question }) {
            Ok(permit) => permit.refuse(),
            Err(denial) => denial,
        };
        self.deny(head, &denial).await
    }
}
