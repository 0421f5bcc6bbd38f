//! A proxy inside a program: a policy from memory, somebody who is asked about what no rule allows, a sink for events, requests, another policy, and the end.
//!
//! `cargo run -p dataplane --example embed`. Nothing leaves this machine: the origin is part of the example, and every name leads to it.

#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use netproxy::{Answer, Event, EventSink, Lookup, NetworkProxy, PolicyRequest, Resolve};
use policy_format::{Access, BlobBuilder, Layer, Meta, Pattern, RuleInput, Source};
use std::collections::HashSet;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let origin = origin().await?;

    // What somebody has approved so far: a question on a screen, in a real program.
    let approved = Arc::new(Mutex::new(HashSet::new()));
    let asked = Arc::clone(&approved);
    let decider = move |request: PolicyRequest| {
        let asked = Arc::clone(&asked);
        async move {
            println!(
                "asked: {} to {}:{}, for `{}`",
                request.protocol.as_str(),
                request.host,
                request.port,
                request.command.unwrap_or_default()
            );
            if asked.lock().unwrap_or_else(PoisonError::into_inner).contains(&request.host) {
                Answer::Allow
            } else {
                Answer::Ask("not_approved_yet".to_owned())
            }
        }
    };

    let proxy = NetworkProxy::builder()
        .policy(policy(&[("docs.test", Access::Allow)])?)
        .free_ports()
        .without_admin()
        .resolver(Here)
        .policy_decider(decider)
        .decider_timeout(Duration::from_secs(5))
        .command("cargo build")
        .event_sink(Printed)
        .blocked_request_observer(|blocked| async move { println!("blocked: {}:{} ({})", blocked.host, blocked.port, blocked.reason) })
        .bind()
        .await?;
    let handle = proxy.run().await?;
    let http = handle.addrs().http;
    println!("proxy: {http}, {} rule in force", handle.policy().rule_count());

    println!("docs.test: {}", get(http, "docs.test", origin).await?);
    println!("crate.test: {}", get(http, "crate.test", origin).await?);
    approved.lock().unwrap_or_else(PoisonError::into_inner).insert("crate.test".to_owned());
    println!("crate.test, approved: {}", get(http, "crate.test", origin).await?);

    // What a rule denies, nobody is asked about.
    let policy = handle.reload(policy(&[("docs.test", Access::Allow), ("crate.test", Access::Deny)])?).await?;
    println!("reload: generation {}", policy.generation());
    println!("crate.test, denied: {}", get(http, "crate.test", origin).await?);

    // Children of this program would go through it with these.
    let variables = handle.child_env().variables(&std::env::vars().collect());
    println!("child: HTTPS_PROXY is set: {}", variables.contains_key("HTTPS_PROXY"));

    handle.shutdown().await;
    println!("shut down: {}", TcpStream::connect(http).await.is_err());
    Ok(())
}

/// A policy of a few rules. Programs that have theirs as TOML compile it, with `netpolicy compile` or the library `policy_compiler`.
fn policy(rules: &[(&str, Access)]) -> Result<Vec<u8>, Box<dyn Error>> {
    // The origin is on this machine.
    let meta = Meta { profile: "embedded".to_owned(), allow_local_binding: true, ..Meta::default() };
    let mut builder = BlobBuilder::new(meta);
    for (pattern, access) in rules {
        let source = Source { layer: Layer::User, label: "embed.rs".to_owned() };
        builder.rule(RuleInput::new(Pattern::parse(pattern)?, *access, source, 0));
    }
    Ok(builder.build()?)
}

/// Every name is on this machine.
struct Here;

impl Resolve for Here {
    fn resolve<'a>(&'a self, _name: &'a str) -> Lookup<'a> {
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

/// Prints events. A real one would write them to a file or send them on.
struct Printed;

impl EventSink for Printed {
    fn name(&self) -> &'static str {
        "printed"
    }

    fn write(&mut self, events: &[Event]) -> std::io::Result<()> {
        for event in events {
            println!("event: {}", event.json());
        }
        Ok(())
    }
}

/// A server that says the same to everybody.
async fn origin() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            if stream.read(&mut head).await.is_ok() {
                // Who has gone need not be answered.
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await;
            }
        }
    });
    Ok(address)
}

/// The status line of the answer to a request through the proxy.
async fn get(proxy: SocketAddr, host: &str, origin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(proxy).await?;
    let authority = format!("{host}:{}", origin.port());
    stream.write_all(format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
