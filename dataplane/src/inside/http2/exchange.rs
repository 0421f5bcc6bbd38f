//! One stream of a client: a request and its response, or a WebSocket.

use super::Side;
use super::answer::{self, say};
use super::head::{self, Head};
use super::upstream::failure;
use super::way::{Broken, Way};
use crate::audit::event::Ending;
use crate::connect::UpstreamError;
use crate::counters::{Counter, Reached, Timed, reached};
use crate::decide::Told;
use crate::decide::open::Open;
use crate::inside::judge::{Answer, Facts, Judged, Refusal, Standing};
use crate::limits::{Meter, Place, Upload};
use crate::parse::forwarding::Forwarding;
use crate::parse::http::{BadRequest, Body};
use crate::patience::Patience;
use crate::policy::Snapshot;
use crate::signal::Ear;
use crate::tunnels::Listed;
use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use policy_format::{Forwarded, Limits, OnRevoke};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// For what is under way when a policy comes into force that does not allow it: what is short ends by itself.
const GRACE: Duration = Duration::from_millis(50);

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered, or the client was told why not.
    Done,
    /// The client gave it up.
    Cancelled,
}

/// Serves a stream: read → decide → send on → relay.
pub(super) async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, side: Arc<Side>) -> Outcome {
    // Nothing is done for whoever has gone already.
    if poll_fn(|cx| Poll::Ready(respond.poll_reset(cx).is_ready())).await {
        return Outcome::Cancelled;
    }
    let (parts, body) = request.into_parts();
    let to_head = parts.method == Method::HEAD;
    let snapshot = side.terms.shared.decider.policy().current();
    match begin(parts, body, &mut respond, &side, snapshot).await {
        Ok(begun) => Exchange::new(begun, respond, &side).run().await,
        Err(Refused::Answer(answer)) => {
            say(&mut respond, answer, to_head);
            Outcome::Done
        }
        Err(Refused::Reset(reason)) => {
            respond.send_reset(reason);
            Outcome::Done
        }
        Err(Refused::Gone) => Outcome::Cancelled,
    }
}

/// Why a request does not go on.
enum Refused {
    Answer(Answer),
    Reset(Reason),
    /// The client gave it up.
    Gone,
}

impl From<Answer> for Refused {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// A request that is on its way.
struct Begun<'e> {
    head: Head,
    standing: Standing,
    /// Until it is said how it has ended.
    open: Open<'e>,
    /// The body, where it was decided on.
    judged: Option<Bytes>,
    limits: Arc<Limits>,
    /// Of the policy that it was decided under, or of one before.
    generation: u64,
    via: bool,
    without: Vec<String>,
    answer: ResponseFuture,
    up: Way,
    ear: Ear,
    room: Option<Place>,
}

async fn begin<'e>(
    parts: http::request::Parts,
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    side: &'e Side,
    snapshot: Arc<Snapshot>,
) -> Result<Begun<'e>, Refused> {
    let (shared, target) = (&side.terms.shared, &side.tunnel.target);
    let (limits, settings, generation) = (Arc::clone(snapshot.limits()), snapshot.settings(), snapshot.generation());
    let via = settings.via;
    let forwarding = side.forwarding(via, settings.forwarded);
    let mut head = Head::read(parts, body.is_end_stream(), &side.tunnel, &limits).map_err(|bad| side.refuse(bad))?;
    if let Some(answer) = answer::own(&head, target, &forwarding) {
        return Err(answer.into());
    }
    // The policy is not held on to while a body is waited for.
    drop(snapshot);
    let Early { first, judged } = early(&mut head, &mut body, respond, side, &limits).await?;
    // Before the decision: what comes after it is heard.
    let ear = side.news.ear();
    let mut standing = Standing::new();
    let Judged { mut actions, generation: decided } = judge(&head, judged.as_deref(), &mut standing, respond, side).await?;
    standing.told = Told::Allowed;
    let mut open = Open::inside(&shared.decider, side.terms.client, target, (standing.id, decided));
    if head.tunnels && actions.read_only {
        return Err(answer::read_only(target).into());
    }
    let (upload, room) = match room(&head, side, &limits) {
        Ok(room) => room,
        Err(reached) => {
            open.end(reached.into());
            side.reached(reached);
            return Err(answer::limited(target, reached).into());
        }
    };
    let set = actions.set_request.iter().map(|(name, _)| name);
    let without_up = actions.strip_request.iter().chain(set).cloned().collect();
    let without = std::mem::take(&mut actions.strip_response);
    let request = head.request(&side.tunnel, &forwarding, actions).map_err(|head::Unfit| answer::unfit(target))?;
    let ended = first.is_empty() && body.is_end_stream();
    let (answer, to) = match side.upstream.send(request, ended) {
        Ok(sent) => sent,
        Err(_) if side.upstream.is_usable() => return Err(answer::unfit(target).into()),
        // The origin does not know of it: the client may ask again, and comes with a new connection.
        Err(_) => return Err(Refused::Reset(Reason::REFUSED_STREAM)),
    };
    let mut up = Way::new(body, to, Meter::up(&shared.counters, upload)).without(without_up).ended(ended);
    if let Err(reached) = up.begin_with(first) {
        open.end(reached.into());
        side.reached(reached);
        return Err(answer::limited(target, reached).into());
    }
    Ok(Begun { head, standing, open, judged, limits, generation, via, without, answer, up, ear, room })
}

/// Has a request decided on: at once, or once whoever embeds the proxy has said what it says.
async fn judge(
    head: &Head,
    body: Option<&[u8]>,
    standing: &mut Standing,
    respond: &mut SendResponse<Bytes>,
    side: &Side,
) -> Result<Judged, Refused> {
    loop {
        let judged = head.with_facts(&side.tunnel.target, body, |facts| side.terms.judge.judge(facts, standing));
        let mut asking = match judged {
            Ok(judged) => return Ok(judged),
            Err(Refusal::Answer(answer)) => return Err(answer.into()),
            Err(Refusal::Ask(asking)) => asking,
        };
        let said = poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Ready(said) => Poll::Ready(Some(said)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        });
        let Some(said) = said.await else {
            head.with_facts(&side.tunnel.target, body, |facts| side.terms.judge.given_up(facts, standing));
            return Err(Refused::Gone);
        };
        standing.said = Some(said);
    }
}

/// What a request may send, and a place among the tunnels to its host, where it becomes one.
fn room(head: &Head, side: &Side, limits: &Limits) -> Result<(Upload, Option<Place>), Reached> {
    let (shared, host) = (&side.terms.shared, &side.tunnel.target.host);
    if head.tunnels {
        let place = shared.gate.tunnel(host, limits)?;
        return Ok((shared.gate.stream(host, limits)?, Some(place)));
    }
    let body = match head.length {
        _ if head.ended => Body::None,
        Some(length) => Body::Length(length),
        None => Body::Chunked,
    };
    Ok((shared.gate.body(host, body, limits)?, None))
}

/// What was read of a body before the decision.
#[derive(Default)]
struct Early {
    /// It goes to the origin first.
    first: Bytes,
    /// The whole body, where the decision needs it and it is no longer than that.
    judged: Option<Bytes>,
}

/// Reads as much of the body as the decision needs.
async fn early(
    head: &mut Head,
    body: &mut RecvStream,
    respond: &mut SendResponse<Bytes>,
    side: &Side,
    limits: &Limits,
) -> Result<Early, Refused> {
    let wanted = head.with_facts(&side.tunnel.target, None, |facts| side.terms.judge.body_wanted(facts));
    let Some(most) = wanted.filter(|most| !head.tunnels && head.length.is_none_or(|length| length <= *most as u64)) else {
        return Ok(Early::default());
    };
    if std::mem::take(&mut head.expects) {
        head.fields.remove(http::header::EXPECT);
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        respond.send_informational(go_on).map_err(|_| Refused::Gone)?;
    }
    // Where others hold all there is, nothing is read, and no hook that looks at the body matches.
    let Some(_held) = side.terms.shared.gate.ahead(most) else { return Ok(Early::default()) };
    let read = async {
        let mut bytes = BytesMut::new();
        while bytes.len() <= most {
            let Some(data) = body.data().await.transpose().map_err(|_| Refused::Gone)? else {
                let first = bytes.freeze();
                return Ok(Early { judged: Some(first.clone()), first });
            };
            let _ = body.flow_control().release_capacity(data.len());
            bytes.extend_from_slice(&data);
        }
        Ok(Early { first: bytes.freeze(), judged: None })
    };
    let late = |_| {
        side.reached(reached!(idle_timeout));
        answer::bad_request(BadRequest { status: 408, message: "the request body did not come in time" })
    };
    timeout(limits.idle_timeout, read).await.map_err(late)?
}

/// The response's way.
enum Down {
    /// Its head is waited for; so many interim ones came.
    Head {
        interim: usize,
    },
    Body(Way),
}

struct Exchange<'e> {
    side: &'e Side,
    head: Head,
    standing: Standing,
    open: Option<Open<'e>>,
    /// The tunnel that it became.
    live: Option<Listed>,
    /// How it ends, as far as is known.
    ending: Option<Ending>,
    began: Instant,
    judged: Option<Bytes>,
    limits: Arc<Limits>,
    generation: u64,
    via: bool,
    without: Vec<String>,
    respond: SendResponse<Bytes>,
    answer: ResponseFuture,
    up: Way,
    down: Down,
    ear: Ear,
    patience: Patience,
    /// When the final response's head has to be there.
    answer_due: Instant,
    /// When a WebSocket ends, however busy it is.
    lasts: Option<Instant>,
    /// The policy in force does not allow it any more.
    revoked: bool,
    /// When it is cut off.
    cut: Option<Instant>,
    /// Until it is known that it becomes no tunnel, or is over.
    room: Option<Place>,
}

impl Drop for Exchange<'_> {
    /// Also where its connection is gone.
    fn drop(&mut self) {
        let cut_off = self.side.terms.shared.decider.tunnels().cut_off();
        let ending = self.ending.unwrap_or(if self.side.is_closing() { Ending::Closed } else { cut_off });
        let (up, down) = (self.up.total(), if let Down::Body(down) = &self.down { down.total() } else { 0 });
        if let Some(tunnel) = &self.side.terms.tunnel {
            tunnel.add(up, down);
        }
        if let Some(mut open) = self.open.take() {
            (open.span.up, open.span.down) = (up, down);
            open.end(ending);
        }
        if let Some(live) = self.live.take() {
            live.end(ending);
        }
    }
}

impl<'e> Exchange<'e> {
    fn new(begun: Begun<'e>, respond: SendResponse<Bytes>, side: &'e Side) -> Self {
        let Begun { head, standing, open, judged, limits, generation, via, without, answer, up, ear, room } = begun;
        let began = Instant::now();
        let answer_due = began + limits.response_timeout;
        let mut patience = Patience::new(limits.response_timeout);
        if !up.ended {
            patience.set(limits.response_timeout.min(limits.idle_timeout));
        }
        Self {
            side,
            head,
            standing,
            open: Some(open),
            live: None,
            ending: None,
            began,
            judged,
            limits,
            generation,
            via,
            without,
            respond,
            answer,
            up,
            down: Down::Head { interim: 0 },
            ear,
            patience,
            answer_due,
            lasts: None,
            revoked: false,
            cut: None,
            room,
        }
    }

    async fn run(mut self) -> Outcome {
        poll_fn(|cx| {
            let mut rung = false;
            while self.ear.poll_rung(cx).is_ready() {
                rung = true;
            }
            if rung && self.live.as_ref().is_some_and(|live| live.is_closing()) {
                self.reset_both();
                return Poll::Ready(self.ends(Ending::Closed, Outcome::Done));
            }
            if rung && !self.revoked {
                self.revoked = !self.is_allowed();
            }
            self.poll(cx)
        })
        .await
    }

    /// Whether the policy in force, where it is another one, would still let it go on.
    fn is_allowed(&mut self) -> bool {
        let current = self.side.terms.shared.decider.policy().current();
        let last = std::mem::replace(&mut self.generation, current.generation());
        if let Some(live) = &self.live {
            live.set_generation(current.generation());
        }
        if last == current.generation() || current.settings().on_revoke == OnRevoke::Keep {
            return true;
        }
        drop(current);
        let judge = &self.side.terms.judge;
        self.head.with_facts(&self.side.tunnel.target, self.judged.as_deref(), |facts| {
            // What is read-only by now has no place for what cannot be read.
            let opaque = || self.head.tunnels && judge.judge(facts, &self.standing).is_ok_and(|judged| judged.actions.read_only);
            judge.still_allows(facts, &self.standing) && !opaque()
        })
    }

    /// That is how it ends.
    fn ends(&mut self, ending: impl Into<Ending>, outcome: Outcome) -> Outcome {
        self.ending.get_or_insert(ending.into());
        outcome
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Poll::Ready(reason) = self.poll_gone(cx) {
            return Poll::Ready(self.give_up(reason));
        }
        // The request first, so that a response that came with its end does not look early.
        if let Poll::Ready(Err(broken)) = self.poll_up(cx) {
            return Poll::Ready(self.up_broke(broken));
        }
        if let Poll::Ready(Some(outcome)) = self.poll_down(cx) {
            return Poll::Ready(outcome);
        }
        if self.up.ended && matches!(&self.down, Down::Body(down) if down.ended) {
            return Poll::Ready(self.ends(Ending::Done, Outcome::Done));
        }
        self.poll_patience(cx)
    }

    /// Ready when the client has reset the stream, with its reason.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let reset = match &mut self.down {
            Down::Head { .. } => self.respond.poll_reset(cx),
            Down::Body(down) => down.to.poll_reset(cx),
        };
        Poll::Ready(match ready!(reset) {
            Ok(reason) if reason != Reason::NO_ERROR => reason,
            // Its connection is over.
            _ => Reason::CANCEL,
        })
    }

    /// The client takes nothing more: the origin is told, in the client's words.
    fn give_up(&mut self, reason: Reason) -> Outcome {
        self.up.to.send_reset(reason);
        self.ends(Ending::Broken, Outcome::Cancelled)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.up.ended {
            return Poll::Pending;
        }
        match self.up.poll(cx) {
            // The origin takes nothing more; what it answers says why.
            Poll::Ready(Err(Broken::Write)) => self.up.ended = true,
            Poll::Pending if self.up.to.poll_reset(cx).is_ready() => self.up.ended = true,
            polled => return polled,
        }
        Poll::Pending
    }

    fn up_broke(&mut self, broken: Broken) -> Outcome {
        match broken {
            Broken::Limited(reached) => {
                self.side.reached(reached);
                // The origin never sees the end of it.
                self.up.to.send_reset(Reason::CANCEL);
                match &mut self.down {
                    Down::Head { .. } => self.say(answer::limited(&self.side.tunnel.target, reached)),
                    Down::Body(down) => down.to.send_reset(Reason::ENHANCE_YOUR_CALM),
                }
                self.ends(reached, Outcome::Done)
            }
            Broken::Read(error) => {
                let told = error.reason().filter(|reason| error.is_reset() && error.is_remote() && *reason != Reason::NO_ERROR);
                self.give_up(told.unwrap_or(Reason::CANCEL))
            }
            Broken::Write | Broken::Malformed => self.give_up(Reason::CANCEL),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        if matches!(self.down, Down::Head { .. }) {
            let answered = match ready!(self.poll_head(cx)) {
                Ok(response) => self.begin(response),
                Err(failed) => Err(failed),
            };
            if let Err(failed) = answered {
                return Poll::Ready(Some(self.fail(failed)));
            }
        }
        let Down::Body(down) = &mut self.down else { return Poll::Pending };
        let broken = match ready!(down.poll(cx)) {
            Ok(()) => return Poll::Ready(None),
            Err(broken) => broken,
        };
        let (to_client, to_origin) = match broken {
            Broken::Read(error) if error.is_reset() && error.is_remote() => (error.reason().unwrap_or(Reason::CANCEL), None),
            Broken::Read(_) => (Reason::INTERNAL_ERROR, None),
            Broken::Malformed => (Reason::PROTOCOL_ERROR, Some(Reason::PROTOCOL_ERROR)),
            Broken::Write | Broken::Limited(_) => (Reason::CANCEL, Some(Reason::CANCEL)),
        };
        down.to.send_reset(to_client);
        if let Some(reason) = to_origin {
            self.up.to.send_reset(reason);
        }
        Poll::Ready(Some(self.ends(Ending::Broken, Outcome::Done)))
    }

    /// The head of the final response; those before it go to the client.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Failed>> {
        let Down::Head { interim } = &mut self.down else { return Poll::Pending };
        while let Some(response) = ready!(self.answer.poll_informational(cx)) {
            let (parts, ()) = response.map_err(Failed::Stream)?.into_parts();
            *interim += 1;
            if *interim > self.limits.interim_responses {
                self.side.reached(reached!(interim_responses));
                return Poll::Ready(Err(Failed::Upstream(UpstreamError::BadResponse)));
            }
            let forwarding = self.side.forwarding(self.via, Forwarded::Pass);
            let response = head::response(parts, &forwarding, &self.without, &self.limits);
            let response = response.map_err(|_| Failed::Upstream(UpstreamError::BadResponse))?;
            // A client that is gone shows itself above.
            let _ = self.respond.send_informational(response);
        }
        let response = ready!(Pin::new(&mut self.answer).poll(cx)).map_err(Failed::Stream)?;
        self.side.terms.shared.counters.observe(Timed::FirstByte, self.began.elapsed());
        self.side.upstream.answered();
        Poll::Ready(Ok(response))
    }

    /// What follows from the head of a response.
    fn begin(&mut self, response: Response<RecvStream>) -> Result<(), Failed> {
        let (parts, body) = response.into_parts();
        let (status, ended) = (parts.status, body.is_end_stream());
        let forwarding = self.side.forwarding(self.via, Forwarded::Pass);
        let response = head::response(parts, &forwarding, &self.without, &self.limits).map_err(|what| {
            if what == crate::parse::http::TOO_MANY_FIELDS {
                self.side.reached(reached!(head_fields));
            }
            Failed::Upstream(UpstreamError::BadResponse)
        })?;
        let to = self.respond.send_response(response, ended).map_err(|_| Failed::Gone)?;
        let empty = self.head.method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let meter = Meter::down(&self.side.terms.shared.counters);
        self.down = Down::Body(Way::new(body, to, meter).without(std::mem::take(&mut self.without)).empty(empty).ended(ended));
        if self.head.tunnels && status.is_success() {
            let counters = &self.side.terms.shared.counters;
            counters.count(Counter::HttpsTunnels);
            if let Some(open) = self.open.take() {
                let live = open.into_live(&self.side.terms.shared.decider, self.room.take(), true);
                self.up.switch(live.live());
                if let Down::Body(down) = &mut self.down {
                    down.switch(live.live());
                }
                self.live = Some(live);
            }
            self.lasts = Some(Instant::now() + self.limits.tunnel_lifetime);
        } else {
            self.room = None;
        }
        // From here on, idle time counts.
        self.be_patient();
        Ok(())
    }

    fn be_patient(&mut self) {
        let idle = Instant::now() + self.limits.idle_timeout;
        self.patience.set_until(self.lasts.map_or(idle, |lasts| lasts.min(idle)));
    }

    /// There is no response: the client is told why.
    fn fail(&mut self, failed: Failed) -> Outcome {
        let error = match failed {
            Failed::Gone => return self.give_up(Reason::CANCEL),
            Failed::Upstream(error) => error,
            Failed::Stream(error) => {
                if let Some(reason) = self.pass_on(&error) {
                    self.respond.send_reset(reason);
                    return self.ends(UpstreamError::Closed, Outcome::Done);
                }
                failure(&error)
            }
        };
        self.up.to.send_reset(Reason::CANCEL);
        let terms = &self.side.terms;
        terms.shared.gate.upstream_failed(error, terms.client, &self.side.tunnel.target);
        self.say(answer::upstream_failed(&self.side.tunnel.target, error));
        self.ends(error, Outcome::Done)
    }

    /// What is told to the client as a reset: the origin's own words, and that it may ask again where nothing was done about its request.
    fn pass_on(&self, error: &h2::Error) -> Option<Reason> {
        if error.is_remote() {
            // Streams that GOAWAY names as not processed end with it, and no others do.
            return if error.is_go_away() { Some(Reason::REFUSED_STREAM) } else { error.reason() };
        }
        // A connection that waited was ended by the origin meanwhile: asking again is safe (RFC 9110, section 9.2.2).
        let repeatable = self.head.ended && (self.head.method.is_idempotent());
        (error.is_io() && self.side.upstream.is_stale() && repeatable).then_some(Reason::REFUSED_STREAM)
    }

    fn say(&mut self, answer: Answer) {
        say(&mut self.respond, answer, self.head.method == Method::HEAD);
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let up_moved = self.up.take_moved();
        match &mut self.down {
            Down::Head { .. } if self.up.ended => self.patience.set_until(self.answer_due),
            Down::Head { .. } if up_moved => self.patience.set_until(self.answer_due.min(Instant::now() + self.limits.idle_timeout)),
            Down::Head { .. } => {}
            Down::Body(down) => {
                if down.take_moved() || up_moved {
                    self.be_patient();
                }
            }
        }
        if self.revoked {
            self.patience.set_until(*self.cut.get_or_insert_with(|| Instant::now() + GRACE));
        }
        ready!(self.patience.poll_over(cx));
        Poll::Ready(self.time_is_up())
    }

    fn time_is_up(&mut self) -> Outcome {
        let now = Instant::now();
        if self.cut.is_some() {
            return self.cut_off();
        }
        match &self.down {
            Down::Head { .. } if now >= self.answer_due => return self.fail(Failed::Upstream(UpstreamError::ResponseTimeout)),
            _ => {}
        }
        let is_over = matches!(&self.down, Down::Body(_) if self.lasts.is_some_and(|lasts| now >= lasts));
        // Nobody sends anything more, or nobody takes it.
        let reached = if is_over { reached!(tunnel_lifetime) } else { reached!(idle_timeout) };
        self.side.reached(reached);
        self.reset_both();
        self.ends(reached, Outcome::Done)
    }

    /// The policy in force does not allow it.
    fn cut_off(&mut self) -> Outcome {
        let judge = &self.side.terms.judge;
        if matches!(self.down, Down::Head { .. }) {
            // It was told that it is revoked.
            self.standing.told = Told::Revoked;
            let judge = |facts: &Facts<'_>| judge.judge(facts, &self.standing);
            let judged = self.head.with_facts(&self.side.tunnel.target, self.judged.as_deref(), judge);
            if let Err(Refusal::Answer(answer)) = judged {
                self.up.to.send_reset(Reason::CANCEL);
                self.say(answer);
                return self.ends(Ending::Revoked, Outcome::Done);
            }
        }
        if self.live.is_some() {
            self.side.terms.shared.counters.count(Counter::TunnelsRevoked);
        }
        self.reset_both();
        self.ends(Ending::Revoked, Outcome::Done)
    }

    fn reset_both(&mut self) {
        self.up.to.send_reset(Reason::CANCEL);
        match &mut self.down {
            Down::Head { .. } => self.respond.send_reset(Reason::CANCEL),
            Down::Body(down) => down.to.send_reset(Reason::CANCEL),
        }
    }
}

/// Why there is no response.
enum Failed {
    /// What the stream says.
    Stream(h2::Error),
    /// What we say of it.
    Upstream(UpstreamError),
    /// The client is gone.
    Gone,
}

impl Side {
    fn forwarding(&self, via: bool, forwarded: Forwarded) -> Forwarding<'_> {
        let own = self.terms.shared.pseudonym.as_str();
        Forwarding { via: via.then_some(own), forwarded, client: self.terms.client.ip() }
    }

    /// A limit was reached by a request for the tunnel's target.
    fn reached(&self, reached: Reached) {
        self.terms.shared.gate.reached(reached, Some(self.terms.client), Some(&self.tunnel.target));
    }

    fn refuse(&self, bad: BadRequest) -> Answer {
        self.terms.shared.counters.count(Counter::BadHttpRequests);
        match bad.status {
            414 => self.reached(reached!(request_line_bytes)),
            431 => self.reached(reached!(head_fields)),
            _ => {}
        }
        answer::bad_request(bad)
    }
}
