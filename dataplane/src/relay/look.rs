//! The first look into a tunnel: whom does the client want to speak to in there?
//!
//! What the client sends first is held back until that is known; what the server sends first is not, so that protocols in which the server speaks first lose no time. A server of TLS 1.3 may
//! ask for a second hello, and goes by that: what comes behind the first one goes on record by record, until it is known that it is no hello, or an allowed one too.

use crate::counters::{Reached, reached};
use crate::decide::guard::{Guard, Inner};
use crate::parse::look::{Look, OddLine, look};
use crate::parse::target::Target;
use crate::parse::tls::Behind;
use crate::patience::Patience;
use crate::stream::{Stream, poll_read_scratch};
use policy_format::{Host, Limits, Sni};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes asked for at a time.
const PIECE: usize = 4 * 1024;

/// What is known so far.
#[derive(Debug)]
pub(crate) struct Looking {
    bytes: Vec<u8>,
    /// How many of them were looked at.
    seen: usize,
    port: u16,
    most: usize,
    max_fields: usize,
    wait: Duration,
    /// From the first byte on that is held back.
    patience: Option<Patience>,
    /// A first hello was let on.
    behind: Option<First>,
    /// The beginning of a line was.
    odd: Option<OddLine>,
}

/// What is known of a first hello.
#[derive(Debug)]
struct First {
    behind: Behind,
    /// The server that it named, and that the policy was asked about.
    name: Option<Box<str>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Looked {
    /// These bytes, and all that follows, may go on.
    Pass(Vec<u8>),
    /// These bytes may, and what follows is looked at.
    Part(Vec<u8>),
    /// They are the first of requests in the clear ([`Looking::into_bytes`]): each is decided on, and not only the first.
    Http,
    /// Nothing may; because of a limit, if there is one.
    Refuse(Option<Reached>),
    /// The client's connection failed.
    Failed,
}

impl Looking {
    /// `None` if the policy does not want it.
    pub(crate) fn wanted(guard: &Guard, limits: &Limits) -> Option<Box<Self>> {
        let look = Self {
            bytes: Vec::new(),
            seen: 0,
            port: guard.live().port(),
            most: limits.look_bytes,
            max_fields: limits.head_fields,
            wait: limits.look_timeout,
            patience: None,
            behind: None,
            odd: None,
        };
        (guard.sni() != Sni::Off).then(|| Box::new(look))
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, client: &mut Stream, guard: &mut Guard) -> Poll<Looked> {
        loop {
            if self.bytes.len() > self.seen {
                self.seen = self.bytes.len();
                let look = match (&mut self.behind, &mut self.odd) {
                    (None, None) => look(&self.bytes, self.port, self.max_fields),
                    (None, Some(line)) => match line.look(&self.bytes) {
                        Look::More => return Poll::Ready(Looked::Part(self.take(usize::MAX))),
                        look => look,
                    },
                    (Some(first), _) => match first.behind.look(&self.bytes) {
                        (on @ 1.., Look::More) => return Poll::Ready(Looked::Part(self.take(on))),
                        (_, look) => look,
                    },
                };
                match look {
                    Look::More if self.seen < self.most => {}
                    Look::Hello { server_name, behind, .. } => {
                        let may = self.may_hello(server_name.as_ref(), guard);
                        match behind.filter(|_| may && self.behind.is_none()) {
                            None => return Poll::Ready(self.end(may, None)),
                            Some(behind) => {
                                self.behind = Some(First { behind, name: server_name.map(|name| name.to_string().into()) });
                                self.seen = 0;
                                continue;
                            }
                        }
                    }
                    Look::Http(Target { host, port }) => {
                        let may = guard.inner(Inner::Server(&host, port));
                        return Poll::Ready(if may && guard.sni() == Sni::Enforce { Looked::Http } else { self.end(may, None) });
                    }
                    Look::Opaque => return Poll::Ready(self.end(true, None)),
                    Look::Odd => {
                        self.odd = Some(OddLine::default());
                        self.seen = 0;
                        continue;
                    }
                    // What could be a greeting, and goes on for too long, is not one that anybody sends.
                    Look::More => return Poll::Ready(self.end(guard.inner(Inner::Unclear), Some(reached!(look_bytes)))),
                    Look::Malformed(_) => return Poll::Ready(self.end(guard.inner(Inner::Unclear), None)),
                }
            }
            if !self.bytes.is_empty() {
                let patience = self.patience.get_or_insert_with(|| Patience::new(self.wait));
                if patience.poll_over(cx).is_ready() {
                    return Poll::Ready(self.end(guard.inner(Inner::Unclear), Some(reached!(look_timeout))));
                }
            }
            let bytes = &mut self.bytes;
            let read = poll_read_scratch(client, cx, PIECE, |_, read| {
                bytes.extend_from_slice(read);
                read.len()
            });
            match ready!(read) {
                Err(_) => return Poll::Ready(Looked::Failed),
                // An end: the rest of it never comes.
                Ok(0) => {
                    let may = self.bytes.is_empty() || guard.inner(Inner::Unclear);
                    return Poll::Ready(self.end(may, None));
                }
                Ok(_) => {}
            }
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes from the front that go on.
    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(len.min(self.bytes.len()));
        self.seen = rest.len();
        self.patience = None;
        std::mem::replace(&mut self.bytes, rest)
    }

    /// Whether a hello may go on. A second one names the same server (RFC 8446, section 4.1.2), and then nobody is asked again; if it does not, it is one for that other server.
    fn may_hello(&self, name: Option<&Host>, guard: &mut Guard) -> bool {
        let Some(name) = name else { return true };
        let asked = self.behind.as_ref().and_then(|first| first.name.as_deref());
        asked.is_some_and(|asked| asked == name.to_string()) || guard.inner(Inner::Server(name, self.port))
    }

    fn end(&mut self, may: bool, reached: Option<Reached>) -> Looked {
        if may { Looked::Pass(std::mem::take(&mut self.bytes)) } else { Looked::Refuse(reached) }
    }
}
