//! Which counters there are: a line of the table is one.

use super::text::Kind;
use crate::audit::event::{Dropped, Reload};
use policy_format::Protocol;

/// A metric with its samples: a counter, and what tells it from the others.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) samples: &'static [(Counter, &'static str)],
}

macro_rules! counters {
    ($($kind:ident $family:literal, $help:literal { $($counter:ident = $labels:literal),+ })+) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Counter {
            $($($counter),+),+
        }

        impl Counter {
            pub(super) const COUNT: usize = [$($(Self::$counter),+),+].len();
        }

        pub(super) const FAMILIES: &[Family] = &[$(
            Family { name: $family, kind: Kind::$kind, help: $help, samples: &[$((Counter::$counter, $labels)),+] }
        ),+];
    };
}

counters! {
    Counter "netproxy_connections_total", "Client connections accepted." { HttpConnections = r#"listener="http""#, SocksConnections = r#"listener="socks5""# }
    Gauge "netproxy_connections_open", "Client connections that are open." { ConnectionsOpen = "" }
    Counter "netproxy_accept_errors_total", "Connections that could not be accepted." { AcceptErrors = "" }
    Counter "netproxy_accept_pauses_total", "Times that accepting paused because descriptors or memory had run out." { AcceptPauses = "" }
    Counter "netproxy_requests_total", "Requests that could be read." {
        HttpRequests = r#"protocol="http""#,
        HttpsRequests = r#"protocol="https""#,
        ConnectRequests = r#"protocol="https_connect""#,
        SocksRequests = r#"protocol="socks5_tcp""#
    }
    Counter "netproxy_bad_requests_total", "Requests that could not." { BadHttpRequests = r#"protocol="http""#, BadSocksRequests = r#"protocol="socks5""# }
    Counter "netproxy_decider_answers_total", "Answers of the embedding program, where it is asked; `timeout` is its silence." {
        DeciderAllowed = r#"answer="allow""#,
        DeciderDenied = r#"answer="deny""#,
        DeciderAsks = r#"answer="ask""#,
        DeciderSilent = r#"answer="timeout""#
    }
    Counter "netproxy_upstream_connections_total", "Upstream connections that were opened, or used again." {
        UpstreamOpened = r#"how="opened""#, UpstreamReused = r#"how="reused""#
    }
    Counter "netproxy_upstream_failures_total", "Requests that were allowed and failed upstream, by `x-proxy-error`; all of upstream proxies together, and all of TLS." {
        NameNotResolved = r#"error="upstream-name-not-resolved""#,
        NameServerFailed = r#"error="upstream-name-server-failed""#,
        ResolveTimeout = r#"error="upstream-resolve-timeout""#,
        Refused = r#"error="upstream-refused""#,
        Unreachable = r#"error="upstream-unreachable""#,
        ConnectTimeout = r#"error="upstream-connect-timeout""#,
        ResponseTimeout = r#"error="upstream-response-timeout""#,
        UpstreamClosed = r#"error="upstream-closed""#,
        BadResponse = r#"error="upstream-bad-response""#,
        NoDescriptor = r#"error="no-descriptor""#,
        SocketMissing = r#"error="upstream-socket-missing""#,
        NotASocket = r#"error="upstream-not-a-socket""#,
        AtProxy = r#"error="upstream-proxy""#,
        OriginTls = r#"error="upstream-tls""#
    }
    Counter "netproxy_tunnels_total", "Tunnels opened, by how they were asked for: those of `http` and `https` are of protocols that were switched to." {
        HttpTunnels = r#"protocol="http""#,
        HttpsTunnels = r#"protocol="https""#,
        ConnectTunnels = r#"protocol="https_connect""#,
        SocksTunnels = r#"protocol="socks5_tcp""#
    }
    Gauge "netproxy_tunnels_open", "Tunnels that are open." { TunnelsOpen = "" }
    Counter "netproxy_tunnels_revoked_total", "Tunnels closed because a new policy does not allow them." { TunnelsRevoked = "" }
    Counter "netproxy_tunnels_looked_total", "Tunnels whose first bytes speak of a server that the policy does not allow, or cannot be made out." {
        LookedClosed = r#"outcome="closed""#, LookedPassed = r#"outcome="passed""#
    }
    Counter "netproxy_intercepted_total", "Tunnels that have to be read: opened, or closed because what the client sends is no TLS, or for another server." {
        Intercepted = r#"outcome="opened""#, InterceptedClosed = r#"outcome="closed""#
    }
    Counter "netproxy_tls_handshakes_total", "TLS handshakes of tunnels that are read, by the side and how they ended." {
        ClientHandshakes = r#"side="client",outcome="done""#,
        ClientHandshakesFailed = r#"side="client",outcome="failed""#,
        OriginHandshakes = r#"side="origin",outcome="done""#,
        OriginHandshakesFailed = r#"side="origin",outcome="failed""#
    }
    Counter "netproxy_associations_total", "SOCKS5 clients that were let send datagrams." { Associations = "" }
    Counter "netproxy_datagrams_dropped_total", "Datagrams of SOCKS5 clients, or to them, that went no further." {
        DatagramMalformed = r#"reason="malformed""#,
        DatagramFragment = r#"reason="fragment""#,
        DatagramStranger = r#"reason="stranger""#,
        DatagramDenied = r#"reason="denied""#,
        DatagramProxied = r#"reason="proxied""#,
        DatagramNotResolved = r#"reason="not_resolved""#,
        DatagramBusy = r#"reason="busy""#,
        DatagramNotSent = r#"reason="not_sent""#,
        DatagramNotAsked = r#"reason="not_asked""#
    }
    Counter "netproxy_bytes_total", "Bytes of bodies and tunnels, from clients (up) and to them (down)." { BytesUp = r#"direction="up""#, BytesDown = r#"direction="down""# }
    Gauge "netproxy_pool_idle_connections", "Upstream connections that wait for a request." { PoolIdle = r#"protocol="http/1.1""#, PoolIdleHttp2 = r#"protocol="h2""# }
    Counter "netproxy_pool_lookups_total", "Looks for an upstream connection that waits, and what was found." { PoolHits = r#"result="hit""#, PoolMisses = r#"result="miss""# }
    Counter "netproxy_pool_evictions_total", "Upstream connections that waited, or would have: not kept for want of room, closed after `pool_timeout`, by the origin, or for want of descriptors." {
        PoolFull = r#"reason="full""#, PoolExpired = r#"reason="expired""#, PoolClosed = r#"reason="closed""#, PoolGivenUp = r#"reason="descriptors""#
    }
    Counter "netproxy_dns_cache_lookups_total", "Looks into the cache of names: there; there, but no longer to be relied on; being looked up for another; not there." {
        NameHits = r#"result="hit""#, NameStale = r#"result="stale""#, NameJoined = r#"result="joined""#, NameMisses = r#"result="miss""#
    }
    Gauge "netproxy_dns_cache_entries", "Names in the cache." { NameEntries = "" }
    Counter "netproxy_certificate_cache_lookups_total", "Looks for the certificate that a client is shown where TLS is opened: there; being made for another; not there, or too old." {
        LeafHits = r#"result="hit""#, LeafJoined = r#"result="joined""#, LeafMisses = r#"result="miss""#
    }
    Gauge "netproxy_certificate_cache_entries", "Certificates that are kept." { LeafEntries = "" }
    Counter "netproxy_certificate_cache_evictions_total", "Certificates that made room for others." { LeafEvictions = "" }
    Counter "netproxy_policy_reloads_total", "Reloads of the policy file, by what came of them; one that fails again for the same reason is not counted again." {
        ReloadSwapped = r#"outcome="swapped""#,
        ReloadUnchanged = r#"outcome="unchanged""#,
        ReloadRefused = r#"outcome="refused""#,
        ReloadWithdrawn = r#"outcome="withdrawn""#
    }
    Counter "netproxy_faults_total", "Faults that whoever runs the proxy has to see to, and that clients are not told." { Faults = "" }
    Gauge "netproxy_workers", "Threads that serve connections." { Workers = "" }
}

impl Counter {
    /// That of a datagram that was dropped.
    pub(crate) fn dropped(why: Dropped) -> Self {
        match why {
            Dropped::Malformed => Self::DatagramMalformed,
            Dropped::Fragment => Self::DatagramFragment,
            Dropped::Stranger => Self::DatagramStranger,
            Dropped::Denied => Self::DatagramDenied,
            Dropped::Proxied => Self::DatagramProxied,
            Dropped::NotResolved => Self::DatagramNotResolved,
            Dropped::Busy => Self::DatagramBusy,
            Dropped::NotSent => Self::DatagramNotSent,
            Dropped::NotAsked => Self::DatagramNotAsked,
        }
    }

    /// That of a request; datagrams are none.
    pub(crate) fn requests(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Http => Some(Self::HttpRequests),
            Protocol::Https => Some(Self::HttpsRequests),
            Protocol::Connect => Some(Self::ConnectRequests),
            Protocol::Socks5Tcp => Some(Self::SocksRequests),
            Protocol::Socks5Udp => None,
        }
    }

    /// That of a tunnel that was asked for like this; associations are counted by themselves.
    pub(crate) fn tunnels(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::HttpTunnels,
            Protocol::Https => Self::HttpsTunnels,
            Protocol::Connect => Self::ConnectTunnels,
            Protocol::Socks5Tcp => Self::SocksTunnels,
            Protocol::Socks5Udp => Self::Associations,
        }
    }

    /// That of a reload.
    pub(crate) fn reloaded(outcome: &Reload<'_>) -> Self {
        match outcome {
            Reload::Swapped(_) => Self::ReloadSwapped,
            Reload::Unchanged => Self::ReloadUnchanged,
            Reload::Refused(_) => Self::ReloadRefused,
            Reload::Withdrawn(_) => Self::ReloadWithdrawn,
        }
    }
}
