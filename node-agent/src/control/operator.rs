//! The connection to the operator, built on what the host API says of the control CA.

use super::installation::{self, InstallationCas, InstallationError};
use kube::Client;
use nestling_runtime::control::{Control, ControlArgs, ControlError};
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("the installation's certificate authorities are not known")]
    Installation(#[from] InstallationError),
    #[error("cannot speak to the operator")]
    Control(#[from] ControlError),
}

/// Clones share one connection.
#[derive(Clone)]
pub struct Operator(Arc<Inner>);

struct Inner {
    host: Client,
    namespace: String,
    args: ControlArgs,
    /// The connection, and the authorities it was made with.
    current: watch::Sender<Option<(Control, InstallationCas)>>,
}

impl Operator {
    /// `namespace` is the one Nestling is installed in.
    pub fn new(host: Client, namespace: &str, args: ControlArgs) -> Self {
        let current = watch::channel(None).0;
        Self(Arc::new(Inner { host, namespace: namespace.into(), args, current }))
    }

    /// The connection; made when there is none yet.
    pub async fn control(&self) -> Result<Control, OperatorError> {
        let current = self.0.current.borrow().as_ref().map(|(control, _)| control.clone());
        match current {
            Some(control) => Ok(control),
            None => self.reconnect().await,
        }
    }

    /// Reads the authorities anew and connects with them: they may be why the last connection broke.
    pub async fn reconnect(&self) -> Result<Control, OperatorError> {
        let cas = installation::read(&self.0.host, &self.0.namespace).await?;
        let control = Control::new(&self.0.args, &cas.control)?;
        self.0.current.send_replace(Some((control.clone(), cas)));
        Ok(control)
    }

    /// The authorities as they were last read; waits for a change from `seen`.
    pub async fn changed_cas(&self, seen: Option<&InstallationCas>) -> InstallationCas {
        let mut current = self.0.current.subscribe();
        loop {
            if let Some((_, cas)) = current.borrow_and_update().as_ref().filter(|(_, cas)| Some(cas) != seen) {
                return cas.clone();
            }
            if current.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
