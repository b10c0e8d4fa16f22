//! Where the runtime streams. Pure.

use http::Uri;
use http::uri::Scheme;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A stream's address on this machine, and the path that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Tried in order.
    pub addresses: Vec<SocketAddr>,
    /// `host:port`, as the runtime wrote it.
    pub authority: String,
    pub path_and_query: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("the runtime's streaming URL cannot be read")]
    Parse(#[source] http::uri::InvalidUri),
    #[error("the runtime streams over something other than plain HTTP, which is not supported: turn off TLS of its streaming server")]
    NotHttp,
    /// Streams carry what users type; they stay on the machine, and the agent is nobody's proxy to other places.
    #[error("the runtime's streaming server is not on the loopback interface")]
    NotLoopback,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(TargetError::Parse)?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(TargetError::NotHttp);
        }
        let authority = uri.authority().ok_or(TargetError::NotHttp)?;
        let port = authority.port_u16().unwrap_or(80);
        let hosts = match authority.host() {
            "localhost" => vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)],
            host => match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() => vec![ip],
                _ => return Err(TargetError::NotLoopback),
            },
        };
        Ok(Self {
            addresses: hosts.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
            authority: authority.to_string(),
            path_and_query: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_dialled() {
        let target = Target::parse("http://127.0.0.1:40000/exec/To_k-en?x=1").unwrap();
        assert_eq!(target.addresses, ["127.0.0.1:40000".parse().unwrap()]);
        assert_eq!((target.authority.as_str(), target.path_and_query.as_str()), ("127.0.0.1:40000", "/exec/To_k-en?x=1"));
        assert_eq!(Target::parse("http://[::1]:1/").unwrap().addresses, ["[::1]:1".parse().unwrap()]);
        assert_eq!(Target::parse("http://localhost:1/x").unwrap().addresses.len(), 2);
    }

    #[test]
    fn nothing_else_is() {
        for url in [
            "http://10.0.0.1:1/x",
            "http://169.254.169.254/",
            "http://example.com:1/x",
            "http://0.0.0.0:1/x",
            "http://[::ffff:10.0.0.1]:1/",
        ] {
            assert!(matches!(Target::parse(url), Err(TargetError::NotLoopback)), "{url}");
        }
        for url in ["https://127.0.0.1:1/x", "/exec/token", "127.0.0.1:1"] {
            assert!(matches!(Target::parse(url), Err(TargetError::NotHttp)), "{url}");
        }
        assert!(matches!(Target::parse("http://a b"), Err(TargetError::Parse(_))));
    }
}
