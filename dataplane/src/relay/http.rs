//! One request forwarded, and its response: framing, hop-by-hop fields, both directions at once.
//!
//! Bodies are streamed. A response may come before its request has ended: then it is passed on, and the connections end with it (RFC 9112, section 9.5).

use super::body::{BodyCopy, Copied, CopyError};
use super::flow::Flow;
use super::turn::Turn;
use crate::audit::event::Ending;
use crate::connect::UpstreamError;
use crate::connect::chain::{Form, ProxyError};
use crate::counters::{Counters, Reached, reached};
use crate::decide::guard::Cause;
use crate::inside::judge::Actions;
use crate::limits::{Meter, fits};
use crate::parse::chunks::LONG_TRAILERS;
use crate::parse::forwarding::Forwarding;
use crate::parse::http::{self, Ask, Body, RequestHead, ResponseHead, ToProxy};
use crate::patience::LazyPatience;
use crate::signal::Ear;
use crate::stream::Buffered;
use bytes::Buf;
use policy_format::Limits;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// For an exchange under way when a policy comes into force that does not allow it: what is short ends by itself.
const GRACE: Duration = Duration::from_millis(50);

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    /// The response is out.
    Done {
        /// The client may send another request.
        client_reusable: bool,
        /// The upstream may be given another request.
        upstream_reusable: bool,
        /// Of this client only: something authenticated the connection.
        bound: bool,
        /// The request had not ended by then: what the client still sends is for nobody.
        unread: bool,
    },
    /// Both sides now speak another protocol.
    Upgraded,
}

/// Why an exchange ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeError {
    /// Nothing was sent to the client yet: it can be told.
    BeforeResponse(UpstreamError),
    /// The client sent a broken body, and nothing was sent to it yet.
    BadBody(&'static str),
    /// A limit was reached, and nothing was sent to the client yet.
    Limited(Reached),
    /// A new policy does not allow it, and nothing was sent to the client yet.
    Revoked,
    /// Somebody who runs the proxy wants the tunnel closed that it is in.
    Closed,
    /// The connections are of no more use.
    Broken,
}

impl ExchangeError {
    /// The same of an upstream that is a proxy: whoever is behind it had no say in that.
    pub(crate) fn at_proxy(self) -> Self {
        match self {
            Self::BeforeResponse(UpstreamError::Closed) => Self::BeforeResponse(ProxyError::Closed.into()),
            Self::BeforeResponse(UpstreamError::BadResponse) => Self::BeforeResponse(ProxyError::BadAnswer.into()),
            other => other,
        }
    }
}

/// What an exchange works with: the two sides, and what a connection has once.
pub(crate) struct Sides<'c> {
    pub(crate) client: &'c mut Buffered,
    pub(crate) upstream: &'c mut Buffered,
    pub(crate) flows: &'c mut Flows,
    pub(crate) patience: &'c mut LazyPatience,
    pub(crate) ear: &'c mut Ear,
    pub(crate) limits: &'c Limits,
    /// What is changed in the two heads.
    pub(crate) actions: &'c Actions,
    /// The client may end its way before it has its answer, as it may in every tunnel.
    pub(crate) half_closes: bool,
    /// It may go out a little later than it was read ([`Turn`]), if what was decided still holds then, which this tells. If it does not, or the upstream connection has ended meanwhile, nothing is sent:
    /// that is [`UpstreamError::Closed`], as of any connection that had gone stale.
    pub(crate) still_holds: Option<&'c (dyn Fn() -> bool + Sync)>,
    /// Is told of limits that were reached.
    pub(crate) reached: &'c (dyn Fn(Reached) + Sync),
    /// What is known of it afterwards.
    pub(crate) span: &'c mut Span,
}

/// When an exchange was, and what went over it. Times are those of readings of the clock that are made anyway, where there are such.
#[derive(Debug, Default)]
pub(crate) struct Span {
    pub(crate) began: Option<Instant>,
    /// When the head of the response was there.
    pub(crate) answered: Option<Instant>,
    /// When the response was out.
    pub(crate) ended: Option<Instant>,
    /// Bytes of bodies.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Why it was broken off, where it was not a side that did.
    pub(crate) cause: Option<Ending>,
}

/// The two ways of a connection, with buffers that serve one exchange after the other.
pub(crate) struct Flows {
    up: Flow,
    down: Flow,
}

impl Flows {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        Self { up: Flow::kept(Meter::down(counters)), down: Flow::kept(Meter::down(counters)) }
    }
}

/// Sends `head` and the body that follows it on the client's side to the upstream, and the response back. `read_only` keeps a switch of protocols from being offered;
/// `cause` is asked whenever there is news: an exchange ends soon after it says that it is revoked, wherever it stands, and a short one may finish.
///
/// The head stands in its buffer when this returns; nothing of it is sent before the future is polled. It is no `async fn`, whose future would keep what it was called with beside the
/// [`Exchange`] that is made of it.
pub(crate) fn exchange<'c>(
    sides: Sides<'c>,
    head: &'c RequestHead,
    form: &Form,
    forwarding: &'c Forwarding<'c>,
    upload: Meter,
    read_only: bool,
    mut cause: impl FnMut() -> Option<Cause>,
) -> Result<impl Future<Output = Result<Exchanged, ExchangeError>>, ExchangeError> {
    let Ask::Resource(resource) = &head.ask else { return Err(ExchangeError::Broken) };
    let Sides { client, upstream, flows, patience, ear, limits, actions, half_closes, still_holds, reached, span } = sides;
    flows.up.set_meter(upload);
    flows.down.begin();
    let upgrade = !read_only && head.body == Body::None;
    let proxy = match form {
        Form::Origin => None,
        Form::Absolute(proxy) => Some(ToProxy { authorization: proxy.authorization() }),
    };
    head.write_to(proxy, resource, upgrade, forwarding, actions.request(), flows.up.buffer());
    if !actions.request().is_empty() || proxy.is_some() {
        flows.up.has_secrets();
    }
    let offered = upgrade && head.upgrade.is_some();
    let up = Up::Sending(BodyCopy::new(head.body, true, limits).without_trailers(!actions.request().is_empty()));
    let now = Instant::now();
    span.began = Some(now);
    let answer_due = now + limits.response_timeout;
    patience.set_until(answer_due);
    if matches!(head.body, Body::Length(1..) | Body::Chunked) {
        patience.set_until(now + limits.response_timeout.min(limits.idle_timeout));
    }
    let down = Down::Head { interim: 0 };
    let mut exchange = Exchange {
        client,
        upstream,
        flows,
        patience,
        head,
        proxied: proxy.is_some(),
        forwarding,
        limits,
        actions,
        half_closes,
        reached,
        span,
        offered,
        up,
        down,
        answer_due,
        now: None,
        revoked: false,
        cut: None,
        is_unframed: false,
    };
    let mut waiting = still_holds.and_then(|still_holds| Some((Turn::take()?, still_holds)));
    Ok(poll_fn(move |cx| {
        exchange.now = None;
        if let Some((turn, still_holds)) = &mut waiting {
            ready!(turn.poll(cx));
            if !still_holds() || !exchange.upstream.is_quiet() {
                return Poll::Ready(Err(ExchangeError::BeforeResponse(UpstreamError::Closed)));
            }
            waiting = None;
            exchange.begins();
        }
        let ended = exchange.poll(cx);
        if exchange.is_unframed
            && matches!(&ended, Poll::Ready(ended) if !matches!(ended, Err(ExchangeError::Closed | ExchangeError::Broken)))
        {
            // It has the whole body, or none of it: the connection may go on, or ends as others do.
            exchange.client.stream.set_reset_by_close(false);
        }
        match &ended {
            Poll::Ready(Ok(_)) => exchange.span.ended = Some(exchange.now()),
            Poll::Pending if ear.poll_rung(cx).is_ready() => {
                match cause() {
                    Some(Cause::Closed) => return Poll::Ready(Err(ExchangeError::Closed)),
                    Some(Cause::Revoked) => exchange.revoked = true,
                    None => exchange.goes_on(),
                }
                // Whoever listens anew has to be woken too.
                cx.waker().wake_by_ref();
            }
            _ => {}
        }
        ended
    }))
}

struct Exchange<'c> {
    client: &'c mut Buffered,
    upstream: &'c mut Buffered,
    flows: &'c mut Flows,
    patience: &'c mut LazyPatience,
    head: &'c RequestHead,
    forwarding: &'c Forwarding<'c>,
    limits: &'c Limits,
    actions: &'c Actions,
    half_closes: bool,
    reached: &'c (dyn Fn(Reached) + Sync),
    span: &'c mut Span,
    /// The client offered to switch protocols, and the offer was passed on.
    offered: bool,
    /// A proxy answers, and not the origin.
    proxied: bool,
    up: Up,
    down: Down,
    /// When the final response's head has to be there.
    answer_due: Instant,
    /// The clock, where it was read since this was polled.
    now: Option<Instant>,
    /// The policy in force does not allow it any more.
    revoked: bool,
    /// When it is cut off.
    cut: Option<Instant>,
    /// Nothing but the end of the connection tells the client that it has the whole body.
    is_unframed: bool,
}

/// The request's way.
enum Up {
    /// The head, then the body.
    Sending(BodyCopy),
    Sent,
    /// The origin stopped reading. It may have answered why.
    Refused,
}

/// The response's way.
enum Down {
    /// Its head is waited for; so many interim ones came.
    Head { interim: usize },
    /// The head is going out, then the body.
    Body { copy: BodyCopy, end: Exchanged },
}

impl Drop for Exchange<'_> {
    /// Also where it is given up from outside.
    fn drop(&mut self) {
        (self.span.up, self.span.down) = (self.flows.up.total(), self.flows.down.total());
    }
}

impl Exchange<'_> {
    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// It goes out now, and not when it was read.
    fn begins(&mut self) {
        let now = self.now();
        (self.span.began, self.answer_due) = (Some(now), now + self.limits.response_timeout);
    }

    /// The policy in force allows it: also where the one before did not.
    fn goes_on(&mut self) {
        if std::mem::take(&mut self.revoked) {
            self.cut = None;
            let idle = self.now() + self.limits.idle_timeout;
            let waits = matches!(self.down, Down::Head { .. });
            self.patience.set_until(if waits { self.answer_due.min(idle) } else { idle });
        }
    }

    /// What is malformed may be so because it is too long.
    fn bound(&self, what: &'static str) {
        match what {
            LONG_TRAILERS => (self.reached)(reached!(head_bytes)),
            http::TOO_MANY_FIELDS => (self.reached)(reached!(head_fields)),
            _ => {}
        }
    }

    /// A limit cuts it off, and nobody can be told any more.
    fn cut_off(&mut self, reached: Reached) -> ExchangeError {
        self.span.cause = Some(reached.into());
        ExchangeError::Broken
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchanged, ExchangeError>> {
        // The body first, so that a response that came with its end does not look early.
        if let Poll::Ready(Err(error)) = self.poll_up(cx) {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(ended) = self.poll_down(cx) {
            return Poll::Ready(ended);
        }
        if matches!(self.up, Up::Sent) && self.poll_gone(cx).is_ready() {
            // Nobody is there to hear the answer: nothing is held for them.
            return Poll::Ready(Err(ExchangeError::Broken));
        }
        let moved_up = self.flows.up.take_moved();
        let moved = self.flows.down.take_moved() || moved_up;
        if moved_up && matches!((&self.down, self.head.body), (Down::Head { .. }, Body::Length(1..) | Body::Chunked)) {
            // Nobody answers what has not come yet.
            self.answer_due = self.now() + self.limits.response_timeout;
        }
        match (&self.down, &self.up) {
            (Down::Head { .. }, Up::Sending(_)) if moved => {
                let idle = self.now() + self.limits.idle_timeout;
                self.patience.set_until(self.answer_due.min(idle));
            }
            (Down::Head { .. }, Up::Sending(_)) => {}
            (Down::Head { .. }, _) => self.patience.set_until(self.answer_due),
            (Down::Body { .. }, _) if moved => {
                let idle = self.now() + self.limits.idle_timeout;
                self.patience.set_until(idle);
            }
            (Down::Body { .. }, _) => {}
        }
        if self.revoked {
            self.patience.set_until(*self.cut.get_or_insert_with(|| Instant::now() + GRACE));
        }
        let over = self.patience.poll_over(cx);
        // Most have their answer before there is a timer: for them, the system is not asked whether they leave.
        if self.patience.is_armed() && matches!(self.up, Up::Sent) && self.client.stream.is_fresh() {
            if self.client.stream.settle().is_err() {
                return Poll::Ready(Err(ExchangeError::Broken));
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(over);
        Poll::Ready(Err(match self.down {
            // Nobody can be told in the middle of an interim response.
            Down::Head { .. } if self.flows.down.is_torn() => ExchangeError::Broken,
            Down::Head { .. } if self.cut.is_some() => ExchangeError::Revoked,
            Down::Body { .. } if self.cut.is_some() && self.flows.down.is_untouched() => ExchangeError::Revoked,
            Down::Head { .. } if Instant::now() >= self.answer_due => ExchangeError::BeforeResponse(UpstreamError::ResponseTimeout),
            Down::Body { .. } if self.cut.is_some() => {
                self.span.cause = Some(Ending::Revoked);
                ExchangeError::Broken
            }
            // The client sends nothing more, or one of them takes nothing more.
            Down::Head { .. } | Down::Body { .. } => {
                (self.reached)(reached!(idle_timeout));
                self.cut_off(reached!(idle_timeout))
            }
        }))
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        let Up::Sending(copy) = &mut self.up else { return Poll::Pending };
        let error = match ready!(copy.poll(cx, self.client, &mut self.upstream.stream, &mut self.flows.up)) {
            Ok(Copied) => {
                self.up = Up::Sent;
                return Poll::Ready(Ok(()));
            }
            Err(error) => error,
        };
        if let CopyError::Malformed(what) = error {
            self.bound(what);
        }
        match error {
            // A stale connection shows itself here, or at the first read: both mean that nothing was answered.
            CopyError::Write => {
                self.up = Up::Refused;
                Poll::Pending
            }
            CopyError::Read => Poll::Ready(Err(ExchangeError::Broken)),
            CopyError::Limited(reached) => {
                (self.reached)(reached);
                let told = matches!(self.down, Down::Body { .. });
                Poll::Ready(Err(if told { self.cut_off(reached) } else { ExchangeError::Limited(reached) }))
            }
            CopyError::Malformed(_) if matches!(self.down, Down::Body { .. }) => Poll::Ready(Err(ExchangeError::Broken)),
            CopyError::Malformed(what) => Poll::Ready(Err(ExchangeError::BadBody(what))),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchanged, ExchangeError>> {
        loop {
            match &mut self.down {
                Down::Head { .. } => {
                    // Interim responses that were not written yet go out before the next head.
                    if self.flows.down.is_blocked() {
                        ready!(self.flows.down.poll_write(cx, &mut self.client.stream)).map_err(|_| ExchangeError::Broken)?;
                    }
                    let response = ready!(self.poll_head(cx))?;
                    self.begin(&response)?;
                }
                Down::Body { copy, end } => {
                    let end = *end;
                    let copied = ready!(copy.poll(cx, self.upstream, &mut self.client.stream, &mut self.flows.down));
                    if let Err(CopyError::Malformed(what)) = copied {
                        self.bound(what);
                    }
                    match copied {
                        Ok(Copied) => {}
                        // Not even the head is out: the client can be told.
                        Err(CopyError::Malformed(_)) if self.flows.down.is_untouched() => {
                            return Poll::Ready(Err(ExchangeError::BeforeResponse(UpstreamError::BadResponse)));
                        }
                        Err(_) => return Poll::Ready(Err(ExchangeError::Broken)),
                    }
                    return Poll::Ready(Ok(self.end(end)));
                }
            }
        }
    }

    /// What follows from a response head.
    fn begin(&mut self, response: &ResponseHead) -> Result<(), ExchangeError> {
        const BAD: ExchangeError = ExchangeError::BeforeResponse(UpstreamError::BadResponse);
        if response.status >= 200 || response.status == 101 {
            self.span.answered = Some(self.now());
        }
        let (is_1_1, now) = (self.head.is_1_1, self.now());
        let edits = self.actions.response();
        self.flows.down.begin_head();
        let out = self.flows.down.buffer();
        match (response.status, &mut self.down) {
            (101, _) if self.offered && response.switches_as_offered(self.head) => {
                response.write_edited(is_1_1, false, false, self.forwarding, edits, out);
                self.down = Down::Body { copy: BodyCopy::new(Body::None, false, self.limits), end: Exchanged::Upgraded };
                Ok(())
            }
            // That is between the proxy and us: the client has no business with it.
            (407, _) if self.proxied => Err(ExchangeError::BeforeResponse(ProxyError::Status(407).into())),
            (101, _) => Err(BAD),
            (100..=199, Down::Head { interim }) => {
                *interim += 1;
                if *interim > self.limits.interim_responses {
                    (self.reached)(reached!(interim_responses));
                    return Err(BAD);
                }
                // HTTP/1.0 knows none of them.
                if is_1_1 {
                    response.write_edited(is_1_1, false, false, self.forwarding, edits, out);
                }
                Ok(())
            }
            _ => {
                let chunked = response.body == Body::Chunked && is_1_1;
                let delimited = match response.body {
                    Body::None | Body::Length(_) => true,
                    Body::Chunked => chunked,
                    Body::UntilClose => false,
                };
                // A client that is answered early, as one that waits for 100 may be, must know that its connection ends.
                let client_reusable = self.head.keep_alive && delimited && matches!(self.up, Up::Sent);
                response.write_edited(is_1_1, chunked, !client_reusable, self.forwarding, edits, out);
                response.write_missing_date(now, edits, out);
                if !delimited {
                    // Whatever ends it before its end must not look like that.
                    self.is_unframed = true;
                    self.client.stream.set_reset_by_close(true);
                }
                if delimited && !client_reusable && matches!(self.up, Up::Sent) {
                    self.flows.down.closes();
                }
                let upstream_reusable = response.keep_alive && response.body != Body::UntilClose;
                // What follows an answer to HEAD may be the body that it announces, and is no other client's answer.
                let bound = self.head.binds_connection || response.binds_connection || response.announces_body;
                let copy = BodyCopy::new(response.body, chunked, self.limits).without_trailers(!edits.is_empty());
                self.down = Down::Body { copy, end: Exchanged::Done { client_reusable, upstream_reusable, bound, unread: false } };
                // From here on, idle time counts.
                self.flows.down.touch();
                Ok(())
            }
        }
    }

    /// Connections whose request did not end cannot be used again.
    fn end(&self, end: Exchanged) -> Exchanged {
        match end {
            Exchanged::Done { client_reusable, upstream_reusable, bound, .. } => {
                let sent = matches!(self.up, Up::Sent);
                let (client_reusable, upstream_reusable) = (client_reusable && sent, upstream_reusable && sent);
                Exchanged::Done { client_reusable, upstream_reusable, bound, unread: !sent }
            }
            Exchanged::Upgraded => Exchanged::Upgraded,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, ExchangeError>> {
        let before = |error| Err(ExchangeError::BeforeResponse(error));
        let mut seen = 0;
        loop {
            let buffer = &mut self.upstream.buffer;
            let end = http::head_end(buffer, seen);
            if !fits(buffer.len(), end, self.limits) {
                (self.reached)(reached!(head_bytes));
                return Poll::Ready(before(UpstreamError::BadResponse));
            }
            if let Some(end) = end {
                let parsed = buffer.get(..end).map(|head| http::parse_response(head, &self.head.method, self.limits.head_fields));
                buffer.advance(end);
                return Poll::Ready(match parsed {
                    Some(Ok(response)) => Ok(response),
                    wrong => {
                        if matches!(wrong, Some(Err(http::TOO_MANY_FIELDS))) {
                            (self.reached)(reached!(head_fields));
                        }
                        before(UpstreamError::BadResponse)
                    }
                });
            }
            seen = buffer.len();
            match ready!(self.upstream.poll_more(cx)) {
                Ok(0) if seen == 0 => return Poll::Ready(before(UpstreamError::Closed)),
                Ok(0) => return Poll::Ready(before(UpstreamError::BadResponse)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(before(UpstreamError::by_read(&error))),
            }
        }
    }

    /// Ready when the client has ended its connection. What it sends meanwhile is its next request, and is kept, within bounds.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.client.stream.is_fresh() {
            // In vain: it is to be listened to first.
            return Poll::Pending;
        }
        while self.client.buffer.len() < self.limits.head_bytes {
            match ready!(self.client.poll_more(cx)) {
                Ok(1..) => {}
                // Nothing else comes.
                Ok(0) if self.half_closes => return Poll::Pending,
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}
