//! TLS to origins, over a stream that leads to one: directly, or through another proxy.

use super::UpstreamError;
use crate::parse::target::Target;
use crate::stream::{Buffered, Stream};
use crate::tls::Alpn;
use crate::tls::failure::TlsError;
use policy_format::Host;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{DnsName, ServerName};

/// The name that an origin has to prove.
fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Ip(ip) => Some(ServerName::from(*ip)),
        Host::Name(name) | Host::NumericLookalike(name) => DnsName::try_from(name.as_str().to_owned()).ok().map(ServerName::from),
    }
}

/// TLS over `stream`, with whoever proves to be `target`.
pub(crate) async fn secure(
    stream: Buffered,
    target: &Target,
    config: &Arc<ClientConfig>,
    patience: Duration,
) -> Result<Buffered, UpstreamError> {
    let failed = |error| Err(UpstreamError::Tls(error));
    let Some(name) = server_name(&target.host) else { return failed(TlsError::OtherName) };
    let peer = stream.peer();
    // A server of TLS does not speak first.
    if !stream.buffer.is_empty() {
        return failed(TlsError::NotTls);
    }
    match timeout(patience, TlsConnector::from(Arc::clone(config)).connect(name, stream.stream)).await {
        Ok(Ok(stream)) => Ok(Buffered::wrapped(Stream::Tls(Box::new(stream)), peer)),
        Ok(Err(error)) => failed(TlsError::from(&error)),
        Err(_) => Err(UpstreamError::TlsTimeout),
    }
}

/// What the origin chose of the protocols that were offered.
pub(crate) fn chosen(stream: &Stream) -> Alpn {
    match stream {
        Stream::Tls(stream) => Alpn::common(stream.get_ref().1.alpn_protocol()),
        _ => Alpn::None,
    }
}
