//! Dials a checked address, never a name.

use super::UpstreamError;
use crate::decide::Route;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Tries the route's addresses in turn, each with its share of the time that is left, and gives the first that accepts. Dropping the future drops the attempt.
pub(crate) async fn dial(route: &Route, patience: Duration) -> Result<TcpStream, UpstreamError> {
    let deadline = Instant::now() + patience;
    let mut last = UpstreamError::Unreachable;
    let mut left = u32::try_from(route.addresses().len()).unwrap_or(u32::MAX);
    for address in route.addresses() {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left.max(1);
        left = left.saturating_sub(1);
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = connect_error(&error),
            Err(_) => last = UpstreamError::ConnectTimeout,
        }
    }
    Err(last)
}

fn connect_error(error: &io::Error) -> UpstreamError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => UpstreamError::Refused,
        io::ErrorKind::TimedOut => UpstreamError::ConnectTimeout,
        io::ErrorKind::NetworkUnreachable => UpstreamError::NetworkUnreachable,
        _ => UpstreamError::Unreachable,
    }
}
