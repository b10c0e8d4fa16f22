//! etcd's own API over gRPC, one connection to each member.

use super::{EtcdError, Maintenance, Member};
use crate::pki::Identity;
use async_trait::async_trait;
use futures::future::try_join_all;
use proto::kv_client::KvClient;
use proto::maintenance_client::MaintenanceClient;
use proto::{AlarmAction, AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, StatusRequest, StatusResponse};
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Response, Status};

/// Generated.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
mod proto {
    tonic::include_proto!("etcdserverpb");
}

const CONNECT: Duration = Duration::from_secs(3);
const CALL: Duration = Duration::from_secs(5);
/// A database is copied: gigabytes on a slow disk take minutes.
const DEFRAGMENT: Duration = Duration::from_secs(15 * 60);

/// Where a member is reached: at the address of its pod, under the name in its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) name: String,
}

pub(crate) struct EtcdClient {
    members: Vec<Channel>,
}

impl EtcdClient {
    /// `ca` is the PEM bundle that the members' certificates chain to.
    pub(crate) async fn connect(endpoints: &[Endpoint], ca: &str, identity: &Identity) -> Result<Self, EtcdError> {
        let connect = endpoints.iter().map(|endpoint| async {
            let connected = connect(endpoint, ca, identity).await;
            connected.map_err(|source| EtcdError::Connect { member: endpoint.name.clone(), source })
        });
        Ok(Self { members: try_join_all(connect).await? })
    }

    async fn status(&self, channel: &Channel) -> Result<(u64, StatusResponse), EtcdError> {
        let status = call("Status", CALL, MaintenanceClient::new(channel.clone()).status(StatusRequest {})).await?;
        Ok((status.header.map_or(0, |header| header.member_id), status))
    }

    /// The connection to a member.
    async fn member(&self, id: u64) -> Result<Channel, EtcdError> {
        for channel in &self.members {
            if self.status(channel).await?.0 == id {
                return Ok(channel.clone());
            }
        }
        Err(EtcdError::NoMember(id))
    }

    /// A connection to any member.
    fn any(&self) -> Result<Channel, EtcdError> {
        self.members.first().cloned().ok_or(EtcdError::NoMember(0))
    }

    async fn alarm(&self, action: AlarmAction, member_id: u64, alarm: AlarmType) -> Result<Vec<proto::AlarmMember>, EtcdError> {
        let request = AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
        Ok(call("Alarm", CALL, MaintenanceClient::new(self.any()?).alarm(request)).await?.alarms)
    }
}

#[async_trait]
impl Maintenance for EtcdClient {
    async fn members(&self) -> Result<Vec<Member>, EtcdError> {
        let alarms = self.alarm(AlarmAction::Get, 0, AlarmType::None).await?;
        let members = self.members.iter().map(|channel| async {
            let (id, status) = self.status(channel).await?;
            let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
            Ok(Member {
                id,
                is_leader: status.leader == id,
                size: bytes(status.db_size),
                in_use: bytes(status.db_size_in_use),
                quota: bytes(status.db_size_quota),
                revision: status.header.map_or(0, |header| header.revision),
                no_space: alarms.iter().any(|alarm| alarm.member_id == id && alarm.alarm() == AlarmType::Nospace),
            })
        });
        try_join_all(members).await
    }

    async fn compact(&self, revision: i64) -> Result<(), EtcdError> {
        let request = CompactionRequest { revision, physical: true };
        match call("Compact", DEFRAGMENT, KvClient::new(self.any()?).compact(request)).await {
            // Compacted already: by kube-apiserver, or by a call whose answer was lost.
            Err(EtcdError::Call { source, .. }) if source.code() == Code::OutOfRange => Ok(()),
            result => result.map(drop),
        }
    }

    async fn defragment(&self, member: u64) -> Result<(), EtcdError> {
        let channel = self.member(member).await?;
        call("Defragment", DEFRAGMENT, MaintenanceClient::new(channel).defragment(DefragmentRequest {})).await.map(drop)
    }

    async fn disarm(&self, member: u64) -> Result<(), EtcdError> {
        self.alarm(AlarmAction::Deactivate, member, AlarmType::Nospace).await.map(drop)
    }
}

async fn connect(endpoint: &Endpoint, ca: &str, identity: &Identity) -> Result<Channel, Box<dyn StdError + Send + Sync>> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
        .domain_name(&endpoint.name);
    let channel = Channel::from_shared(format!("https://{}", endpoint.address))?.connect_timeout(CONNECT).tls_config(tls)?;
    Ok(channel.connect().await?)
}

async fn call<T>(call: &'static str, limit: Duration, future: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, EtcdError> {
    match timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(EtcdError::Call { call, source: Box::new(status) }),
        Err(_) => Err(EtcdError::TooSlow { call, limit }),
    }
}
