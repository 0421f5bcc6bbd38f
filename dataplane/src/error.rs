//! What an embedding program can meet.

use policy_format::{FormatError, Layer, Network};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the data plane did not start. Nothing is listening.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The policy could not be loaded.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// The policy switches the proxy off.
    #[error("{}", off(*.0))]
    Off(Network),
    /// An address that other machines can reach, without the policy's word.
    #[error(
        "the {listener} listener {address} can be reached from other machines; use a loopback address, or set `{key} = true` in the policy"
    )]
    NotLoopback {
        /// Which listener.
        listener: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The policy's key that would allow it.
        key: &'static str,
    },
    /// The admin listener on other than loopback addresses needs a token.
    #[error(
        "the admin listener {0} can be reached from other machines; that needs a token: name a file with `--admin-token-file` or `--admin-shared-secret-file`, or use a loopback address"
    )]
    AdminNotLoopback(SocketAddr),
    /// A file with tokens, or with the secret that they are signed with, cannot be used.
    #[error("the admin API cannot be kept to those who may use it: {0}")]
    AdminFile(#[from] crate::admin::access::AdminFileError),
    /// No unix socket can be made for the admin API.
    #[error("cannot listen on the unix socket `{path}` for the admin API: {error}; another path can be given with `--admin-socket`")]
    AdminSocket {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A listener that other machines can reach would be a bridge to the unix sockets that the policy opens.
    #[error(
        "the {listener} listener {address} can be reached from other machines, and the policy opens unix sockets: use a loopback address"
    )]
    UnixSockets {
        /// Which listener.
        listener: &'static str,
        /// Its address.
        address: SocketAddr,
    },
    /// The address is taken, or not ours; or a listener that was given cannot be used.
    #[error("cannot listen on {address} for {listener}: {error}; another address can be given with `{flag}`, and port 0 takes a free one")]
    Bind {
        /// Which listener.
        listener: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        error: io::Error,
    },
    /// Nobody has said what the second of two listeners is for.
    #[error(
        "the policy has SOCKS5 off, and the second of two sockets without names is at {found}, where the admin API is at {admin}: name the sockets (`FileDescriptorName=`), or have the admin API at the address of its socket"
    )]
    Second {
        /// Where it is.
        found: String,
        /// Where the admin API is to be.
        admin: SocketAddr,
    },
    /// Whom to trust of origins cannot be read.
    #[error("TLS is to be opened, and whom to trust of origins cannot be read: {0}")]
    Roots(crate::tls::roots::RootsError),
    /// A proxy that the environment names cannot be used.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// It is not called in a tokio runtime.
    #[error("a proxy is bound, and run, in a tokio runtime with I/O: {0}")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
    /// The system gives no more descriptors, or no more threads.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// An audit log that cannot be written.
    #[error("{0}")]
    Audit(String),
    /// A file with host names that cannot be read.
    #[error("cannot use the hosts file `{path}`: {what}")]
    Hosts {
        /// Which file.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// Why the environment is refused. The value is not shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error(
    "the environment variable `{variable}` is not the URL of a proxy: {what}; write `http://`, `https://`, `socks5://` or `socks5h://`, a host and a port, or unset it"
)]
pub struct EnvironmentError {
    /// Its name, as it is set.
    pub variable: String,
    /// What is wrong.
    pub what: &'static str,
}

fn off(network: Network) -> &'static str {
    match network {
        Network::Blocked => "the policy switches the network off (`enabled` is not true): there is nothing to proxy, so nothing listens",
        Network::Direct => {
            "the policy switches the proxy off (`features.network_proxy = false`): clients connect directly, so nothing listens"
        }
        Network::Proxied => "the policy is on",
    }
}

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Its bytes.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It does not have the profile that requests are to be decided under.
    #[error("it has no profile `{name}`; it has {}", quoted(known))]
    Profile {
        /// The name that was asked for.
        name: String,
        /// The names that it has.
        known: Vec<String>,
    },
    /// It wants connections to go through a proxy that there is no way to. Connecting directly instead would go around it.
    #[error("it sends connections through the upstream proxy `{proxy}`, which cannot be used: {why}")]
    Upstream {
        /// The proxy, without user and password.
        proxy: String,
        /// Why.
        why: &'static str,
    },
    /// It has TLS opened, and the authority for that cannot be had.
    #[error("it has TLS opened, and cannot be given the authority for it: {0}")]
    Authority(String),
    /// A certificate that origins are to be shown cannot be used.
    #[error("it lists a client certificate that cannot be used: {0}")]
    ClientCertificate(String),
    /// A name server that cannot be asked. Asking others instead might give other answers.
    #[error("{0}")]
    Resolver(String),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().join(", ")
}

/// Why a policy file may not be mapped as it is, or no longer be relied on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It cannot be looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Others may change the file, or put another in its place.
    #[error("`{path}` can be written by others than its owner (mode {mode:04o}); run `chmod go-w {path}`")]
    Writable {
        /// The file or its folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its owner may change it.
    #[error("`{path}` belongs to user {owner}; it has to belong to root or to the user of the proxy, {user} (`chown`)")]
    Owner {
        /// The file or its folder.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
        /// The number of the user of this process.
        user: u32,
    },
    /// It did change, so that the mapped policy is not the one that was verified.
    #[error("the file was written to while it was mapped; put a new one in its place by rename, as `netpolicy compile -o` does")]
    Changed,
    /// Who may change a file cannot be told.
    #[error("this system does not tell who may write a file")]
    Unsupported,
}

/// Why a policy was refused. The policy that was in force still is. Of a policy that is in no file, the path says so: `(built in)`, `(from memory)`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file.
    #[error("cannot read the policy `{path}`: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its content.
    #[error("the policy `{path}` is refused: {error}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: PolicyError,
    },
    /// It must not be mapped as it is, or was changed while it was.
    #[error("the policy `{path}` cannot be shared: {error}; or use `--policy-map private`")]
    Share {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: ShareError,
    },
    /// Listeners that are open and that the new policy forbids.
    #[error(
        "the policy `{path}` is refused: it forbids the open listener {address} (`dangerously_allow_non_loopback_proxy` is not true, or it opens unix sockets); restart with a loopback address"
    )]
    Listener {
        /// Which file.
        path: PathBuf,
        /// Which listener.
        address: SocketAddr,
    },
    /// The admin listener is open to other machines, and the new policy forbids it.
    #[error(
        "the policy `{path}` is refused: it forbids the open admin listener {address} (`dangerously_allow_non_loopback_admin` is not true, or it opens unix sockets); restart with a loopback address"
    )]
    AdminListener {
        /// Which file.
        path: PathBuf,
        /// Which listener.
        address: SocketAddr,
    },
    /// The file is asked for again, and there is none: the policy is the built-in one or came from memory, or the proxy has ended.
    #[error("there is no policy file to read again: the policy is the built-in one or came from memory, or the proxy has ended")]
    NotWatched,
}

/// Why the mode stays what it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModeError {
    /// The policy says limited, and not whether an administrators' requirement asks for it: its compiler did not write that down.
    #[error(
        "the policy has `mode = \"limited\"` in profile `{profile}`, and does not say whether a requirement asks for that: compile it with this version of `netpolicy`"
    )]
    Unknown {
        /// The profile that requests are decided under.
        profile: String,
    },
    /// An administrators' layer holds the policy in limited mode.
    #[error("the {layer} layer requires `mode = \"limited\"` in profile `{profile}`; only an administrator can change that")]
    Required {
        /// The profile that requests are decided under.
        profile: String,
        /// Which: the strongest that does, `mdm` or `managed`.
        layer: Layer,
    },
    /// In the mode that is wanted TLS has to be opened, and there is no authority for that.
    #[error("the mode has TLS of tunnels opened, and there is nothing to open it with: {0}")]
    Authority(String),
}
