//! A client that speaks SOCKS5 (RFC 1928 and 1929): its handshake, and what it is told of its request.

use super::{Connection, Next, NoTunnel};
use crate::association::Association;
use crate::connect::UpstreamError;
use crate::connect::chain::ProxyError;
use crate::counters::{Counter, reached};
use crate::parse::socks5::{self, Parsed, Reply, Request};
use crate::stream::Stream;
use bytes::BytesMut;
use policy_format::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout_at;

impl Connection<'_> {
    /// SOCKS5: greeting, request, decide → connect → say so → relay.
    pub(super) async fn socks5(&mut self) -> Next {
        let request = match timeout_at(self.patience.due(), self.handshake()).await {
            Ok(Some(request)) => request,
            Ok(None) => return Next::Close,
            Err(_) => {
                self.reached(reached!(head_timeout));
                return Next::Close;
            }
        };
        let target = match request {
            Ok(Request::Connect(target)) => target,
            Ok(Request::Associate) => {
                Box::pin(self.associate()).await;
                return Next::Close;
            }
            Err(code) => {
                self.shared.counters.count(Counter::BadSocksRequests);
                self.say_and_close(&socks5::reply(code)).await;
                return Next::Close;
            }
        };
        match self.stand(Protocol::Socks5Tcp, &target, None).await {
            Ok(stands) => {
                if self.say(&socks5::reply(Reply::Succeeded)).await {
                    return self.begin(stands, Protocol::Socks5Tcp, &target);
                }
            }
            Err(NoTunnel::Gone) => {}
            Err(NoTunnel::Limited(reached)) => {
                let code = if reached == reached!(upload_bytes) { Reply::NotAllowed } else { Reply::Failure };
                self.say_and_close(&socks5::reply(code)).await;
            }
            Err(NoTunnel::Denied(_)) => self.say_and_close(&socks5::reply(Reply::NotAllowed)).await,
            Err(NoTunnel::Upstream(error)) => self.say_and_close(&socks5::reply(reply_for(error))).await,
        }
        Next::Close
    }

    /// UDP ASSOCIATE: sockets → say where → relay. Each datagram is decided by itself, in `association.rs`.
    async fn associate(&mut self) {
        if self.client.stream.settle().is_err() {
            return;
        }
        let Stream::Tcp(control) = &self.client.stream else { return };
        let ear = self.shutdown.ear();
        self.limits = self.shared.decider.limits();
        match Association::open(control, self.address, self.shared, &self.limits, ear).await {
            Ok(association) => {
                if self.say(&socks5::associated(association.address())).await {
                    self.client.buffer = BytesMut::new();
                    if let Stream::Tcp(control) = &self.client.stream {
                        association.relay(control).await;
                    }
                }
            }
            Err(code) => self.say_and_close(&socks5::reply(code)).await,
        }
    }

    /// The handshake up to the request; `None` when the client does not keep to it.
    async fn handshake(&mut self) -> Option<Result<Request, Reply>> {
        match self.handshake_message(socks5::parse_greeting).await? {
            None => {
                self.say_and_close(&socks5::NO_METHOD).await;
                return None;
            }
            Some(method) => {
                self.client.stream.write_all(&socks5::greeting_reply(method)).await.ok()?;
                if method == socks5::Method::Password {
                    self.handshake_message(socks5::parse_password).await?;
                    self.client.stream.write_all(&socks5::PASSWORD_ACCEPTED).await.ok()?;
                }
            }
        }
        self.handshake_message(socks5::parse_request).await
    }

    /// One message of the handshake. No message is longer than 513 bytes, so the buffer is bounded by what the parsers ask for.
    async fn handshake_message<T>(&mut self, parse: impl Fn(&[u8]) -> Parsed<T>) -> Option<T> {
        loop {
            match parse(&self.client.buffer) {
                Parsed::Complete(message, used) => {
                    let _ = self.client.buffer.split_to(used);
                    return Some(message);
                }
                Parsed::Malformed => return None,
                Parsed::More => match self.client.more().await {
                    Ok(1..) => {}
                    _ => return None,
                },
            }
        }
    }
}

/// The reply that says most of why there is no tunnel.
fn reply_for(error: UpstreamError) -> Reply {
    match error {
        UpstreamError::Refused => Reply::Refused,
        UpstreamError::NameNotResolved | UpstreamError::NameServerFailed | UpstreamError::Unreachable => Reply::HostUnreachable,
        UpstreamError::NetworkUnreachable => Reply::NetworkUnreachable,
        UpstreamError::ResolveTimeout | UpstreamError::ConnectTimeout | UpstreamError::Proxy(ProxyError::Timeout) => Reply::TimedOut,
        UpstreamError::ResponseTimeout
        | UpstreamError::Closed
        | UpstreamError::BadResponse
        | UpstreamError::NoDescriptor
        | UpstreamError::SocketMissing
        | UpstreamError::NotASocket
        | UpstreamError::Tls(_)
        | UpstreamError::TlsTimeout
        | UpstreamError::Proxy(_) => Reply::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_the_reply_that_says_most() {
        let cases = [
            (UpstreamError::NameNotResolved, 4),
            (UpstreamError::NameServerFailed, 4),
            (UpstreamError::Unreachable, 4),
            (UpstreamError::NetworkUnreachable, 3),
            (UpstreamError::Refused, 5),
            (UpstreamError::ResolveTimeout, 6),
            (UpstreamError::ConnectTimeout, 6),
            (UpstreamError::Closed, 1),
            (UpstreamError::NoDescriptor, 1),
        ];
        for (error, expected) in cases {
            assert_eq!(reply_for(error) as u8, expected, "{error:?}");
        }
    }
}
