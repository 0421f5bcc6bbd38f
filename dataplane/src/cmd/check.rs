//! `netproxy-dp check`: whether a policy could be put in force here.

use super::{builder, no, print};
use crate::cli::Check;
use crate::{Failure, unusable};
use netproxy::{AuditLevel, AuditOverrides, Policy, StartError};
use serde_json::json;
use std::net::SocketAddr;

pub(crate) fn run(arguments: &Check) -> Result<u8, Failure> {
    let source = &arguments.source;
    let shown = source.policy.as_ref().map_or_else(|| "(built in)".into(), |path| path.display().to_string());
    // The policy's own listeners are checked, and not opened: a proxy that runs has them.
    let policy = match (&source.policy, &source.profile) {
        (None, _) => Policy::built_in(),
        (Some(path), profile) => {
            let bytes = std::fs::read(path).map_err(|error| unusable(format!("cannot read the policy `{}`: {error}", path.display())))?;
            match profile {
                None => Policy::from_bytes(bytes),
                Some(profile) => Policy::from_bytes_as(bytes, profile),
            }
        }
    };
    let refused = |error: String| {
        if arguments.json {
            print(&format!("{}\n", json!({ "policy": shown, "ok": false, "error": error })));
        }
        no(error)
    };
    let policy = policy.map_err(|error| refused(format!("the policy `{shown}` is refused: {error}")))?;
    let listeners = policy.meta().listeners;
    let free = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
    let admin = listeners.admin;
    if !admin.ip().is_loopback() {
        // Whether it asks for tokens is up to the flags of who runs it.
        let refusal = if policy.meta().unix_sockets.any() {
            Some(StartError::UnixSockets { listener: "admin", address: admin })
        } else {
            let key = "dangerously_allow_non_loopback_admin";
            (!policy.meta().dangerously_allow_non_loopback_admin).then_some(StartError::NotLoopback {
                listener: "admin",
                address: admin,
                key,
            })
        };
        if let Some(error) = refusal {
            return Err(refused(error.to_string()));
        }
    }
    let mut builder = builder(source).http_addr(free(listeners.http)).without_admin();
    if let Some(socks) = listeners.socks {
        builder = builder.socks_addr(free(socks));
    }
    // Its file is the running proxy's.
    builder = builder.audit(AuditOverrides { level: Some(AuditLevel::Off), ..AuditOverrides::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    let bound = runtime.block_on(builder.bind());
    let proxy = bound.map_err(|error| match error {
        StartError::Environment(_) | StartError::Hosts { .. } | StartError::Bind { .. } => unusable(error),
        error => refused(error.to_string()),
    })?;
    let snapshot = proxy.policy();
    let meta = snapshot.meta();
    let (mode, rules, digest) = (meta.mode.as_str(), snapshot.rule_count(), snapshot.digest().to_string());
    if arguments.json {
        let line = json!({ "policy": shown, "ok": true, "profile": meta.profile, "mode": mode, "rules": rules, "digest": digest });
        print(&format!("{line}\n"));
    } else {
        print(&format!("{shown}: profile {}, mode {mode}, {rules} rules, digest {digest}\n", meta.profile));
    }
    Ok(0)
}
