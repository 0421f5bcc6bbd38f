//! A `Denial` to its replies, once for every protocol.
//!
//! Messages are short, say what to change, and never echo a path, a query or a header.

use super::Question;
use super::remedy::{By, Refused, Remedy};
use crate::audit::event::{Answer, Verdict};
use crate::parse::target::Target;
use crate::policy::Snapshot;
use policy_format::asked::Asked;
use policy_format::{Access, DecisionSource, Denied, Host, Mode, Protocol, Reason, Rule, RuleId, net};
use std::fmt::Write;
use std::sync::Arc;

/// A request that may not go on.
pub(crate) struct Denial {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) protocol: Protocol,
    pub(super) target: Target,
    /// Of a request that was read.
    pub(super) method: Option<Box<str>>,
    pub(super) path: Option<Box<str>>,
    /// It was for a unix socket.
    pub(super) socket: bool,
    pub(super) denied: Denied,
    /// The log of what is decided is full, and nothing may go on that is not in it.
    pub(super) full: bool,
    /// Who embeds the proxy was asked, and said no.
    pub(super) said: Option<Answer>,
}

impl Denial {
    /// One that nobody has met, to say what it would say.
    pub(crate) fn explained(snapshot: Arc<Snapshot>, asked: &Asked, denied: Denied) -> Self {
        let target = Target { host: asked.host.clone(), port: asked.port };
        let [method, path] = [&asked.method, &asked.path].map(|text| text.as_deref().map(Box::from));
        Self { snapshot, protocol: asked.protocol, target, method, path, socket: false, denied, said: None, full: false }
    }

    pub(super) fn new(snapshot: Arc<Snapshot>, question: &Question<'_>, denied: Denied) -> Self {
        Self {
            snapshot,
            protocol: question.protocol,
            target: question.target.clone(),
            method: question.method.map(Box::from),
            path: question.path.map(Box::from),
            socket: question.socket,
            denied,
            full: false,
            said: None,
        }
    }

    /// The value of `x-proxy-error`.
    pub(crate) fn proxy_error(&self) -> &'static str {
        self.denied.reason.proxy_error()
    }

    /// Why, for machines.
    pub(crate) fn reason(&self) -> &str {
        match &self.said {
            Some(Answer::Deny(reason) | Answer::Ask(reason)) => reason,
            Some(Answer::Allow) | None => self.denied.reason.as_str(),
        }
    }

    /// The reply to a plain HTTP request: its `x-proxy-error` and its JSON.
    pub(crate) fn json(&self) -> String {
        let rule = self.rule();
        let (decision, source) = match &self.said {
            Some(Answer::Ask(_)) => (Verdict::Ask, DecisionSource::Decider),
            Some(_) => (Verdict::Deny, DecisionSource::Decider),
            None if self.full => (Verdict::Deny, DecisionSource::ProxyState),
            None => (Verdict::Deny, self.denied.reason.source()),
        };
        let mut body = serde_json::json!({
            "status": "blocked",
            "host": self.target.host.to_string(),
            "reason": self.reason(),
            "decision": decision.as_str(),
            "source": source.as_str(),
            "protocol": self.protocol.as_str(),
            "port": self.target.port,
            "message": self.message(),
        });
        if let (Some(rule), Some(body)) = (rule, body.as_object_mut()) {
            body.insert("rule".into(), rule.to_string().into());
            body.insert("layer".into(), rule.layer.as_str().into());
        }
        body.to_string()
    }

    fn rule(&self) -> Option<Rule> {
        self.denied.rule.and_then(|id: RuleId| self.snapshot.rule(id))
    }

    /// What would let it pass.
    fn remedy(&self) -> Option<Remedy> {
        let Target { host, port } = self.target.clone();
        let [method, path] = [&self.method, &self.path].map(|text| text.as_deref().filter(|_| self.protocol.is_read()).map(str::to_owned));
        let (profile, can_intercept) = (self.snapshot.profile(), self.snapshot.can_intercept());
        let asked = Asked { profile, protocol: self.protocol, host, port, method, path, inside: None, can_intercept };
        let (reason, rule) = (self.denied.reason.as_str(), self.rule().as_ref().map(By::from));
        Refused { reason, asked, addresses: &[], address: None, socket: self.socket, rule }.remedy(&self.snapshot)
    }

    /// One line for people: what, why, and what to change.
    pub(crate) fn message(&self) -> String {
        if self.full {
            let what = if self.socket { "the unix socket".to_owned() } else { self.target.to_string() };
            return format!(
                "{what} is blocked: the audit log is full, and audit.on_full = \"deny\" allows nothing new until there is room; try again later"
            );
        }
        if self.socket {
            return self.socket_message();
        }
        let target = &self.target;
        match &self.said {
            Some(Answer::Ask(reason)) => {
                return format!(
                    "{target} is blocked until somebody approves it ({reason}): no rule allows it; try again once that was done"
                );
            }
            Some(_) => return format!("{target} is blocked: no rule allows it, and it was not approved ({})", self.reason()),
            None => {}
        }
        let host = &target.host;
        let remedy = |purpose: &str| self.remedy().map(|remedy| remedy.after(purpose)).unwrap_or_default();
        let rule = self.rule();
        let by = rule.as_ref().map(|rule| format!("\"{rule}\" in {}", rule.place())).unwrap_or_default();
        let mut text = format!("{target} is blocked: ");
        // Writing to a string cannot fail.
        let _ = match self.denied.reason {
            Reason::ProxyDisabled => write!(text, "the network policy is switched off"),
            Reason::Denied => write!(text, "it is denied by {by}"),
            Reason::MitmRequired if self.snapshot.is_hooked(host) => {
                write!(text, "it has hooks, which act inside TLS: ask for it by https://, through CONNECT or SOCKS5")
            }
            Reason::NotAllowedLocal if is_metadata(host) => {
                write!(text, "a cloud metadata service has to be named exactly{}", remedy("open it"))
            }
            Reason::NotAllowedLocal => {
                write!(text, "it is, or resolves to, an address that is not public{}", remedy("open it"))
            }
            Reason::NotAllowed if matches!(host, Host::NumericLookalike(_)) => {
                write!(text, "it is a number that some programs read as an address; write the address in full")
            }
            Reason::NotAllowed => write!(text, "no rule allows it{}", remedy("allow it")),
            Reason::MethodNotAllowed if by.is_empty() => {
                write!(text, "mode = \"limited\" allows GET, HEAD and OPTIONS only{}", remedy("allow other methods"))
            }
            Reason::MethodNotAllowed => write!(text, "it is read-only by {by}: GET, HEAD and OPTIONS only"),
            Reason::MitmRequired if by.is_empty() && self.snapshot.mode() == Mode::Full => {
                write!(text, "mitm.mode = \"always\" has every tunnel read, and this one cannot be{}", remedy("allow it"))
            }
            Reason::MitmRequired if by.is_empty() => {
                write!(
                    text,
                    "mode = \"limited\" allows only what can be read: plain HTTP, and TLS through CONNECT, or through SOCKS5 to port 443{}",
                    remedy("allow the rest")
                )
            }
            Reason::MitmRequired if rule.as_ref().is_some_and(|rule| rule.access != Access::ReadOnly) => {
                write!(text, "{by} asks for methods or paths, and this cannot be read")
            }
            Reason::MitmRequired => write!(text, "it is read-only by {by}, and this cannot be read"),
            Reason::MitmHookDenied => write!(text, "no hook of this host matches the request"),
            Reason::PolicyDenied => {
                write!(
                    text,
                    "it would come back to this proxy, or might where a proxy on this machine looks it up; its own listeners are never opened, and none of them can be its upstream proxy"
                )
            }
        };
        if let Some(rule) = rule.filter(|rule| !rule.reason.is_empty()) {
            let _ = write!(text, " ({})", rule.reason);
        }
        text
    }

    /// The same of a unix socket. Its path is a header's value: it is not echoed.
    fn socket_message(&self) -> String {
        let remedy = |purpose: &str| self.remedy().map(|remedy| remedy.after(purpose)).unwrap_or_default();
        match self.denied.reason {
            Reason::ProxyDisabled => "the unix socket is blocked: the network policy is switched off".to_owned(),
            Reason::MethodNotAllowed => {
                let remedy = remedy("allow other methods");
                format!("the unix socket is blocked: mode = \"limited\" allows GET, HEAD and OPTIONS only{remedy}")
            }
            // By a profile, or by a requirement: the policy does not tell.
            Reason::Denied => "the unix socket is blocked: the policy denies its real path (`unix_sockets`)".to_owned(),
            Reason::PolicyDenied => "the unix socket is blocked: it is the proxy's own, or the client is on another machine".to_owned(),
            _ => format!("the unix socket is blocked: its real path is not allowed{}", remedy("allow it")),
        }
    }

    /// Whether the reply is JSON: requests that programs made see JSON, tunnels see a line.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Https)
    }
}

fn is_metadata(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => net::is_metadata_address(*ip),
        Host::Name(name) => net::is_metadata_name(name.as_str()),
        Host::NumericLookalike(_) => false,
    }
}
