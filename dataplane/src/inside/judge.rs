//! What whoever reads requests inside TLS asks of those who decide: facts in, and what is to be changed on the way, or the answer instead.

use crate::audit::event::Answer as Said;
use crate::decide::asked::Asking;
use crate::decide::{Told, ids};
use crate::parse::http::Edits;
use crate::parse::target::Target;
use zeroize::Zeroizing;

/// A request inside TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'r> {
    /// Where it goes: host and port of the tunnel, which its `Host` or `:authority` names.
    pub(crate) target: &'r Target,
    pub(crate) method: &'r str,
    /// As it was sent; `*` of OPTIONS.
    pub(crate) path_and_query: &'r str,
    /// The end-to-end fields, names in lower case.
    pub(crate) headers: &'r [(&'r str, &'r [u8])],
    /// The whole body, where it was read because [`Judge::body_wanted`] asked for it.
    pub(crate) body: Option<&'r [u8]>,
}

impl<'r> Facts<'r> {
    /// Path and query, apart.
    pub(crate) fn path(&self) -> (&'r str, Option<&'r str>) {
        match self.path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.path_and_query, None),
        }
    }
}

/// What is changed in a request that may go on, and in its response. Names are in lower case.
#[derive(Default)]
pub(crate) struct Actions {
    /// Fields that are taken out of the request.
    pub(crate) strip_request: Vec<String>,
    /// Fields that are put into it, each instead of all that have its name.
    pub(crate) set_request: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Fields that are taken out of the response.
    pub(crate) strip_response: Vec<String>,
    /// Nothing that cannot be read may follow: no other protocol is switched to.
    pub(crate) read_only: bool,
}

/// Without values: they may be secrets.
impl std::fmt::Debug for Actions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set: Vec<&str> = self.set_request.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Actions")
            .field("strip_request", &self.strip_request)
            .field("set_request", &set)
            .field("strip_response", &self.strip_response)
            .field("read_only", &self.read_only)
            .finish()
    }
}

impl Actions {
    pub(crate) fn request(&self) -> Edits<'_> {
        Edits { without: &self.strip_request, with: &self.set_request }
    }

    pub(crate) fn response(&self) -> Edits<'_> {
        Edits { without: &self.strip_response, with: &[] }
    }
}

/// A whole reply of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case. No length and no connection: whoever sends it knows how.
    pub(crate) fields: Vec<(&'static str, String)>,
    /// Left out where the request was HEAD.
    pub(crate) body: String,
}

/// What is known of a request beside what it says: its number, and what was said of it so far.
pub(crate) struct Standing {
    pub(crate) id: u64,
    pub(crate) told: Told,
    /// What whoever embeds the proxy answered, where it was asked.
    pub(crate) said: Option<Said>,
}

impl Standing {
    /// That of a request that has just come.
    pub(crate) fn new() -> Self {
        Self { id: ids::next(), told: Told::Nothing, said: None }
    }
}

/// A request that may go on.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) actions: Actions,
    /// The policy that lets it.
    pub(crate) generation: u64,
}

/// Why a request does not go on, or not yet.
pub(crate) enum Refusal {
    /// What the client is answered instead: 403 and its reason.
    Answer(Answer),
    /// Whoever embeds the proxy has to be asked. The request is judged again with what is said.
    Ask(Asking),
}

/// Decides on requests inside one tunnel.
pub(crate) trait Judge: Send + Sync {
    /// How many bytes of the body have to be there, whole, before the decision; `None` where none is looked at.
    fn body_wanted(&self, facts: &Facts<'_>) -> Option<usize>;

    /// Decides under the policy that is in force now, and tells whoever observes.
    ///
    /// # Errors
    /// [`Refusal`].
    fn judge(&self, facts: &Facts<'_>, standing: &Standing) -> Result<Judged, Refusal>;

    /// Tells that a request is refused whose client has gone while somebody was asked about it.
    fn given_up(&self, facts: &Facts<'_>, standing: &Standing);

    /// Whether the policy in force, which may have come since, would still let the request go on. Asked of what is under way; whoever observes is told where it would not.
    fn still_allows(&self, facts: &Facts<'_>, standing: &Standing) -> bool;
}
