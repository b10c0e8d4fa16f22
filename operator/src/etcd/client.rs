//! etcd's own API over gRPC, one connection to each member.

use super::{EtcdError, Maintenance, Member};
use crate::pki::Identity;
use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use proto::cluster_client::ClusterClient;
use proto::kv_client::KvClient;
use proto::maintenance_client::MaintenanceClient;
use proto::{
    AlarmAction, AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, MoveLeaderRequest, StatusRequest, StatusResponse,
};
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

pub(crate) use proto::Member as Listed;

const CONNECT: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(5);
/// A database is copied: gigabytes on a slow disk take minutes.
const DEFRAGMENT: Duration = Duration::from_secs(15 * 60);

/// Where a member is reached: at the address of its pod, under the name in its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) name: String,
}

/// How far a member's log is, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) id: u64,
    /// Zero without one.
    pub(crate) leader: u64,
    /// The newest entry that it knows to be committed, and the newest that it has applied.
    pub(crate) committed: u64,
    pub(crate) applied: u64,
}

pub(crate) struct EtcdClient {
    members: Vec<Channel>,
}

impl EtcdClient {
    /// Connects when first needed. `ca` is the PEM bundle that the members' certificates chain to.
    pub(crate) fn new(endpoints: &[Endpoint], ca: &str, identity: &Identity) -> Result<Self, EtcdError> {
        let channel = |endpoint: &Endpoint| {
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(ca))
                .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
                .domain_name(&endpoint.name);
            let url = format!("https://{}", endpoint.address);
            let channel = Channel::from_shared(url).ok()?.connect_timeout(CONNECT).tls_config(tls).ok()?;
            Some(channel.connect_lazy())
        };
        let members: Option<_> = endpoints.iter().map(channel).collect();
        Ok(Self { members: members.ok_or(EtcdError::Authority)? })
    }

    /// The members as most of them know them; fails without a quorum.
    pub(crate) async fn list(&self) -> Result<Vec<Listed>, EtcdError> {
        let request = MemberListRequest { linearizable: true };
        let list = |channel| async move { call("MemberList", CALL, ClusterClient::new(channel).member_list(request)).await };
        self.on_any(list).await.map(|response| response.members)
    }

    /// Of those that answer.
    pub(crate) async fn progress(&self) -> Vec<Progress> {
        let all = self.members.iter().map(|channel| async {
            let (id, status) = self.status(channel).await.ok()?;
            Some(Progress { id, leader: status.leader, committed: status.raft_index, applied: status.raft_applied_index })
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    pub(crate) async fn add_learner(&self, peer_url: &str) -> Result<(), EtcdError> {
        let request = MemberAddRequest { peer_urls: vec![peer_url.to_owned()], is_learner: true };
        let add = |channel| {
            let request = request.clone();
            async move { call("MemberAdd", CALL, ClusterClient::new(channel).member_add(request)).await }
        };
        self.on_any(add).await.map(drop)
    }

    pub(crate) async fn promote(&self, id: u64) -> Result<(), EtcdError> {
        let request = MemberPromoteRequest { id };
        let promote = |channel| async move { call("MemberPromote", CALL, ClusterClient::new(channel).member_promote(request)).await };
        self.on_any(promote).await.map(drop)
    }

    pub(crate) async fn remove(&self, id: u64) -> Result<(), EtcdError> {
        let request = MemberRemoveRequest { id };
        let remove = |channel| async move { call("MemberRemove", CALL, ClusterClient::new(channel).member_remove(request)).await };
        self.on_any(remove).await.map(drop)
    }

    /// Only the leader does that.
    pub(crate) async fn move_leader(&self, leader: u64, to: u64) -> Result<(), EtcdError> {
        let leader = MaintenanceClient::new(self.member(leader).await?);
        let request = MoveLeaderRequest { target_id: to };
        call("MoveLeader", CALL, { leader }.move_leader(request)).await.map(drop)
    }

    async fn status(&self, channel: &Channel) -> Result<(u64, StatusResponse), EtcdError> {
        let status = call("Status", CALL, MaintenanceClient::new(channel.clone()).status(StatusRequest {})).await?;
        Ok((status.header.map_or(0, |header| header.member_id), status))
    }

    /// The connection to a member.
    async fn member(&self, id: u64) -> Result<Channel, EtcdError> {
        for channel in &self.members {
            if self.status(channel).await.is_ok_and(|(other, _)| other == id) {
                return Ok(channel.clone());
            }
        }
        Err(EtcdError::NoMember(id))
    }

    /// One member after the other, until a call succeeds: some may be down, and learners refuse most calls.
    async fn on_any<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let mut failed = EtcdError::NoMember(0);
        for channel in &self.members {
            match call(channel.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn alarm(&self, action: AlarmAction, member_id: u64, alarm: AlarmType) -> Result<Vec<proto::AlarmMember>, EtcdError> {
        let request = AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
        let ask = |channel| async move { call("Alarm", CALL, MaintenanceClient::new(channel).alarm(request)).await };
        self.on_any(ask).await.map(|response| response.alarms)
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
        let compact = |channel| async move { call("Compact", DEFRAGMENT, KvClient::new(channel).compact(request)).await };
        match self.on_any(compact).await {
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

async fn call<T>(call: &'static str, limit: Duration, future: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, EtcdError> {
    match timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(EtcdError::Call { call, source: Box::new(status) }),
        Err(_) => Err(EtcdError::TooSlow { call, limit }),
    }
}
