//! Clients of the operator's control API: connections, calls and streams, for node agents and cloud controller managers.

use crate::backoff::Backoff;
use crate::error::chain;
use nestling_control_api::consts::{CONTROL_PORT, SYSTEM_NAMESPACE, TOKEN_PATH, control_url};
use nestling_control_api::v1alpha1::control_client::ControlClient;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

const CONNECT: Duration = Duration::from_secs(5);
/// A connection whose peer has vanished is given up after both.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// Limit of a unary call, and of the opening of a stream.
const CALL: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);

/// Flags for reaching the operator, to be flattened into a program's arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct ControlArgs {
    /// The operator's control API. The host part is also the name that its certificate must carry.
    #[arg(long, env = "NESTLING_OPERATOR", default_value_t = control_url(SYSTEM_NAMESPACE), value_name = "URL")]
    pub operator: String,

    /// Connect to this address instead of resolving the name: a pod on the host's network may have no cluster DNS.
    #[arg(long, env = "NESTLING_OPERATOR_ADDRESS", value_name = "IP")]
    pub operator_address: Option<IpAddr>,

    /// File with the projected service-account token for the control API; read for each call.
    #[arg(long, env = "NESTLING_OPERATOR_TOKEN_FILE", default_value = TOKEN_PATH, value_name = "FILE")]
    pub operator_token_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{url:?} is not the URL of a control API, such as https://name:8443")]
    Url { url: String },
    #[error("cannot prepare the connection to the operator")]
    Endpoint(#[source] tonic::transport::Error),
    #[error("cannot read the token {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the token is not a bearer token")]
    TokenFormat(#[source] InvalidMetadataValue),
    #[error("the operator did not answer within {CALL:?}")]
    Deadline,
    #[error("the operator refused the call")]
    Refused(#[source] Box<Status>),
    #[error("the stream from the operator broke")]
    Broken(#[source] Box<Status>),
}

impl ControlError {
    /// The error of a stream that had been opened.
    pub fn broken(status: Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

/// Waits for the answer to a call, for at most 15 s; for a stream that is its beginning.
pub async fn call<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, ControlError> {
    let answer = tokio::time::timeout(CALL, answer).await.map_err(|_| ControlError::Deadline)?;
    answer.map(Response::into_inner).map_err(|status| ControlError::Refused(Box::new(status)))
}

/// Runs `session` again and again, for ever; it opens a stream, reads it until it ends, and sets its flag once it has all
/// that there is. A session that ends without an error after that is followed by the next one at once: the operator ends
/// streams regularly, so that callers present a current token. Else a growing pause comes before the next one, and a
/// warning that names `what` is watched.
pub async fn keep_open<E: Error + 'static>(what: &'static str, mut session: impl AsyncFnMut(&mut bool) -> Result<(), E>) {
    let mut backoff = Backoff::new(RETRY, RETRY_AT_MOST);
    loop {
        let mut synced = false;
        let ended = session(&mut synced).await;
        if synced {
            backoff.succeeded();
        }
        match ended {
            Ok(()) if synced => tracing::debug!(what, "the operator ended the stream; opening the next one"),
            ended => {
                let pause = backoff.failed();
                let error = ended.err().map_or_else(|| "the stream ended early".to_owned(), |error| chain(&error));
                tracing::warn!(what, error, ?pause, "control API watch failed; serving the last known state");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// A connection to the operator: made when first used, and again whenever it breaks.
#[derive(Clone, Debug)]
pub struct Control {
    channel: Channel,
    token_file: PathBuf,
}

impl Control {
    /// `ca` is the PEM bundle of the control CA.
    pub fn new(args: &ControlArgs, ca: &[u8]) -> Result<Self, ControlError> {
        let (host, port) = split(&args.operator).ok_or_else(|| ControlError::Url { url: args.operator.clone() })?;
        let dial = match args.operator_address {
            Some(address) => format!("https://{}", SocketAddr::new(address, port)),
            None => format!("https://{host}:{port}"),
        };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(host);
        let endpoint = Endpoint::from_shared(dial)
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(ControlError::Endpoint)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true);
        Ok(Self { channel: endpoint.connect_lazy(), token_file: args.operator_token_file.clone() })
    }

    pub fn client(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    /// `message` with the caller's token.
    pub async fn request<T>(&self, message: T) -> Result<Request<T>, ControlError> {
        let token = tokio::fs::read_to_string(&self.token_file)
            .await
            .map_err(|source| ControlError::Token { path: self.token_file.clone(), source })?;
        let mut header: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().map_err(ControlError::TokenFormat)?;
        header.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// Host and port of `https://host[:port]`.
fn split(url: &str) -> Option<(&str, u16)> {
    let authority = url.strip_prefix("https://")?.trim_end_matches('/');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, CONTROL_PORT),
    };
    (!host.is_empty() && !host.contains(['/', ':', '@'])).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        assert_eq!(split("https://operator.svc:8443"), Some(("operator.svc", 8443)));
        assert_eq!(split("https://operator.svc/"), Some(("operator.svc", CONTROL_PORT)));
        for wrong in ["http://operator.svc", "operator.svc:8443", "https://", "https://a:b", "https://a/b"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_opened_again_at_once_only_after_it_was_complete() {
        let mut sessions = 0;
        let start = tokio::time::Instant::now();
        let mut times = Vec::new();
        let limit = Duration::from_secs(1);
        let endless = keep_open("test", async |synced: &mut bool| {
            sessions += 1;
            times.push(start.elapsed().as_millis());
            *synced = sessions == 2;
            if sessions == 3 { Err(ControlError::Deadline) } else { Ok(()) }
        });
        assert!(tokio::time::timeout(limit, endless).await.is_err());
        assert_eq!(times, [0, 200, 200, 400, 800], "200 ms after a failure, nothing after a full session, then doubling");
    }

    #[tokio::test]
    async fn each_call_reads_the_token_file() {
        crate::tls::install_provider();
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(["ca".to_owned()]).unwrap().self_signed(&key).unwrap();
        let args = ControlArgs {
            operator: "https://operator.svc:8443".into(),
            operator_address: Some([127, 0, 0, 1].into()),
            operator_token_file: file.path().into(),
        };
        let control = Control::new(&args, ca.pem().as_bytes()).unwrap();
        for token in ["one", "two\n"] {
            std::fs::write(file.path(), token).unwrap();
            let request = control.request(()).await.unwrap();
            assert_eq!(request.metadata().get("authorization").unwrap(), &format!("Bearer {}", token.trim()));
        }
    }
}
