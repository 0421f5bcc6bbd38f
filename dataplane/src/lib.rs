//! netproxy: enforces a compiled policy for HTTP, CONNECT and SOCKS5 clients, inside the program that embeds it.
//!
//! [`NetworkProxy::builder`] takes a policy, from memory or from a file, and what else there is to say; [`NetworkProxyBuilder::bind`] opens the listeners; [`NetworkProxy::run`] serves, and
//! gives the [`Handle`] by which the policy is replaced, children are told of the proxy, and it is shut down.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use netproxy::NetworkProxy;
//!
//! let handle = NetworkProxy::builder().free_ports().bind().await?.run().await?;
//! println!("HTTP proxy on {}", handle.addrs().http);
//! handle.shutdown().await;
//! # Ok(())
//! # }
//! ```

#[doc(hidden)]
pub mod admin;
mod association;
mod audit;
mod blocked;
mod builder;
mod calendar;
pub mod child;
mod config;
mod connect;
mod connection;
mod counters;
mod decide;
mod decider;
mod digits;
mod error;
mod handle;
mod inside;
mod limits;
mod listen;
mod log;
#[doc(hidden)]
pub mod parse;
mod patience;
mod policy;
mod private;
mod proxy;
mod pulse;
mod relay;
mod reply;
mod secret;
mod shutdown;
mod signal;
mod spare;
mod stream;
#[doc(hidden)]
pub mod tls;
mod tunnels;
mod worker;

pub use admin::access::{AdminAccess, AdminFileError};
pub use audit::event::{Accepting, Answer, Closed, Decided, Dropped, Ending, LimitReached, Observer, Reload, Verdict};
pub use audit::feed::Feed;
pub use audit::hub::AuditStats;
pub use audit::record::Event;
pub use audit::setup::AuditOverrides;
pub use audit::sink::Sink as EventSink;
pub use blocked::BlockedRequest;
pub use builder::NetworkProxyBuilder;
pub use config::PolicyMap;
pub use connect::resolve::{Lookup, NameServers, Resolve, SystemResolver};
pub use decide::asked::PolicyRequest;
pub use error::{EnvironmentError, LoadError, ModeError, PolicyError, ShareError, StartError};
pub use handle::{Handle, Health};
pub use log::LOG_TARGETS;
pub use policy::source::PolicySource;
pub use policy::{Policy, Snapshot};
pub use policy_format::{
    Audit, AuditLevel, AuditNaming, BrokerFallback, Credential, CredentialAuth, Decision, Digest, Forwarded, Host, HostRef, Layer, Limit,
    LimitError, LimitOverride, Limits, Mode, NameServer, OnFull, Otlp, OtlpProtocol, Protocol, Reason, Rule, RuleId, SyslogTarget,
    UrlPrefix,
};
pub use proxy::{Addresses, NetworkProxy, Sockets};
pub use secret::{Broker, BrokerSetup, Brokering, Child, CredentialError, Dummies, DummiesError, Outcome, Virtualized};
pub use tls::files::CertificateFileError;
pub use tls::roots::RootsError;
pub use tunnels::Row as Tunnel;

/// What an [`Event`] is made of, and what a [`Feed`] gives.
pub mod event {
    pub use crate::audit::feed::{Blocked, Item, Subscription};
    pub use crate::audit::hub::SinkStats;
    pub use crate::audit::record::{Change, Ended, Exchange, Gap, Judged, Kind, Label, PolicyName, Reached, RuleName, Start, Text, Wants};
}
