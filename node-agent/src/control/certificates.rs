//! Certificates from the operator: the key is made here and never leaves memory, the operator signs, and at two thirds of
//! its life a certificate is renewed, with a new key.

use super::{Operator, OperatorError};
use jiff::Timestamp;
use nestling_control_api::v1alpha1::{CertificateKind, SignRequest};
use nestling_crds::names::TenantUid;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::control::{ControlError, call};
use nestling_runtime::tls::{Certificate, CertificateError};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);
/// A clock that runs ahead must not turn renewal into a busy loop.
const RENEW_AT_LEAST_AFTER: Duration = Duration::from_secs(10);

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `system:node:<node>` toward a tenant.
    Kubelet(TenantUid),
    /// The proxy half toward a tenant.
    Proxy(TenantUid),
    /// The serving side of the kubelet API.
    Serving,
}

#[derive(Debug, thiserror::Error)]
enum IssueError {
    #[error("cannot generate a key or its request")]
    Key(#[source] rcgen::Error),
    #[error("cannot reach the operator for a certificate")]
    Operator(#[from] OperatorError),
    #[error("the operator did not sign")]
    Sign(#[source] ControlError),
    #[error("the operator's answer is not a certificate for the key")]
    Certificate(#[from] CertificateError),
    #[error("the operator's answer has no valid notAfter")]
    Expiry(#[source] jiff::Error),
}

/// A signed certificate with its key.
pub(crate) struct Issued {
    chain: String,
    key: PrivateKeyDer<'static>,
    issued: Timestamp,
    not_after: Timestamp,
}

impl Issued {
    /// Makes `certificate` present this one from now on.
    pub(crate) fn install(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        certificate.set(self.chain.as_bytes(), &self.key)
    }

    fn renew_after(&self) -> Duration {
        let life = Duration::try_from(self.not_after.duration_since(self.issued)).unwrap_or_default();
        (life * 2 / 3).max(RENEW_AT_LEAST_AFTER)
    }
}

/// The first certificate for `purpose`; failures are retried for ever.
pub(crate) async fn first(operator: &Operator, purpose: &Purpose) -> Issued {
    let mut steps = Backoff::new(RETRY, RETRY_AT_MOST);
    loop {
        match issue(operator, purpose).await {
            Ok(issued) => return issued,
            Err(error) => {
                let pause = steps.failed();
                tracing::warn!(error = &error as &dyn std::error::Error, ?purpose, ?pause, "cannot obtain a certificate; retrying");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Renews for ever and passes each new certificate to `install`.
pub(crate) async fn keep(operator: &Operator, purpose: &Purpose, mut current: Issued, mut install: impl FnMut(&Issued)) {
    loop {
        tokio::time::sleep(current.renew_after()).await;
        current = first(operator, purpose).await;
        install(&current);
        tracing::info!(?purpose, not_after = %current.not_after, "renewed a certificate");
    }
}

async fn issue(operator: &Operator, purpose: &Purpose) -> Result<Issued, IssueError> {
    let key = KeyPair::generate().map_err(IssueError::Key)?;
    // The operator decides subject and names; only the public key of the request counts.
    let csr = CertificateParams::default().serialize_request(&key).map_err(IssueError::Key)?;
    let (kind, tenant) = match purpose {
        Purpose::Kubelet(tenant) => (CertificateKind::Kubelet, tenant.to_string()),
        Purpose::Proxy(tenant) => (CertificateKind::Proxy, tenant.to_string()),
        Purpose::Serving => (CertificateKind::KubeletServing, String::new()),
    };
    let message = SignRequest { tenant_uid: tenant, kind: kind.into(), csr_der: csr.der().to_vec() };
    let issued = Timestamp::now();
    let control = operator.control().await?;
    let request = control.request(message).await.map_err(OperatorError::from)?;
    let mut client = control.client();
    let answer = call(client.sign(request)).await.map_err(IssueError::Sign)?;
    let issued = Issued {
        chain: answer.chain_pem,
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        issued,
        not_after: Timestamp::from_second(answer.not_after).map_err(IssueError::Expiry)?,
    };
    issued.install(&Certificate::default())?;
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn living(seconds: i64) -> Issued {
        let issued = Timestamp::UNIX_EPOCH;
        let not_after = Timestamp::from_second(seconds).unwrap();
        Issued { chain: String::new(), key: PrivatePkcs8KeyDer::from(Vec::new()).into(), issued, not_after }
    }

    #[test]
    fn renewal_is_due_at_two_thirds_of_life() {
        assert_eq!(living(3600).renew_after(), Duration::from_secs(2400));
    }

    #[test]
    fn a_wrong_clock_makes_no_busy_loop() {
        assert_eq!(living(0).renew_after(), RENEW_AT_LEAST_AFTER);
        assert_eq!(living(-100).renew_after(), RENEW_AT_LEAST_AFTER);
    }
}
