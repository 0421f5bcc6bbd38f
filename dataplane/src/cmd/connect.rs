//! `netproxy-dp connect`: standard input and output through a tunnel.

use super::{no, running};
use crate::Failure;
use crate::cli::Connect;
use netproxy::child::tunnel::{Tunnel, TunnelError};

/// Where a proxy is looked for, first to last: what is for tunnels, what is for all, what is for plain requests.
const VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];

pub(crate) fn run(arguments: &Connect) -> Result<u8, Failure> {
    let named = VARIABLES.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    let proxy = match arguments.proxy.clone().or(named) {
        Some(proxy) if proxy.contains("://") => proxy,
        // What every client takes for HTTP.
        Some(proxy) => format!("http://{proxy}"),
        None => running(&arguments.state)?.0.env.http_url(),
    };
    let opened = Tunnel::open(&proxy, &arguments.host, arguments.port);
    let tunnel = opened.map_err(|error| match error {
        TunnelError::Url(_) | TunnelError::Target(_) => crate::unusable(error),
        error => no(error),
    })?;
    tunnel.relay(std::io::stdin(), &mut std::io::stdout().lock()).map_err(|error| no(format!("the connection broke off: {error}")))?;
    Ok(0)
}
