//! Admin API: only reads.
//!
//! `GET /health` says that the proxy runs, and under which policy; `GET /metrics` gives its counters to Prometheus. A web page that a browser on this machine shows must not be able to read it: requests
//! must name the listener by address or as `localhost`, so that a name that was rebound to loopback does not pass.

use crate::counters::{self, Counters};
use crate::policy::PolicyHandle;
use crate::shutdown::Shutdown;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use policy_format::Host;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Admin connections at once.
const CONNECTIONS: usize = 64;
/// For a request to come and its answer to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until the shutdown starts.
pub(crate) async fn serve(
    listener: TcpListener,
    policy: PolicyHandle,
    counters: Arc<Counters>,
    process: serde_json::Map<String, serde_json::Value>,
    shutdown: Shutdown,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let process = Arc::new(process);
    loop {
        let accepted = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => match permit {
                Ok(permit) => tokio::select! {
                    accepted = listener.accept() => accepted.map(|accepted| (accepted, permit)),
                    () = shutdown.started() => break,
                },
                Err(_) => return,
            },
            () = shutdown.started() => break,
        };
        let Ok(((stream, _), permit)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (policy, counters, process, shutdown) = (policy.clone(), Arc::clone(&counters), Arc::clone(&process), shutdown.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &policy, &counters, &process);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            // One answer a connection, in bounded time: who does not read holds nothing for long.
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(16 * 1024).keep_alive(false);
            tokio::select! {
                // A client that went away is no news.
                _ = tokio::time::timeout(PATIENCE, builder.serve_connection(TokioIo::new(stream), service)) => {}
                () = shutdown.started_a_while_ago() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    // Who was accepted is answered; each of them ends a while after the shutdown began.
    let _ = permits.acquire_many(u32::try_from(CONNECTIONS).unwrap_or(u32::MAX)).await;
}

fn answer(
    request: &Request<Incoming>,
    policy: &PolicyHandle,
    counters: &Counters,
    process: &serde_json::Map<String, serde_json::Value>,
) -> Response<Full<Bytes>> {
    if !names_this_machine(request) {
        let help = "the Host header must be an address or localhost";
        return reply(StatusCode::FORBIDDEN, &json!({ "error": help }));
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") => reply(StatusCode::OK, &health(policy, process)),
        (&Method::GET | &Method::HEAD, "/metrics") => text(metrics(policy, counters), "text/plain; version=0.0.4; charset=utf-8"),
        (_, "/health" | "/metrics") => {
            let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "use GET" }));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        _ => reply(StatusCode::NOT_FOUND, &json!({ "error": "there are only GET /health and GET /metrics" })),
    }
}

fn health(policy: &PolicyHandle, process: &serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
    let snapshot = policy.current();
    let mut health = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "policy": {
            "generation": snapshot.generation(),
            "digest": snapshot.digest().to_string(),
            "profile": snapshot.meta().profile,
            "network": snapshot.meta().network.to_string(),
            "mode": snapshot.meta().mode.as_str(),
            "rules": snapshot.rule_count(),
            "last_error": policy.last_error(),
        },
    });
    if let Some(health) = health.as_object_mut() {
        health.extend(process.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    health
}

fn metrics(policy: &PolicyHandle, counters: &Counters) -> String {
    let snapshot = policy.current();
    let mut out = counters.text();
    counters::gauge(&mut out, "netproxy_policy_generation", "Policies that have been in force so far.", snapshot.generation());
    counters::gauge(&mut out, "netproxy_policy_rules", "Rules of the policy in force.", snapshot.rule_count() as u64);
    out
}

fn names_this_machine(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    match crate::parse::target::Target::parse(host, Some(80)) {
        Ok(target) => matches!(target.host, Host::Ip(_)) || target.host.is_localhost(),
        Err(_) => false,
    }
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = text(body.to_string() + "\n", "application/json");
    *response.status_mut() = status;
    response
}

fn text(body: String, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
