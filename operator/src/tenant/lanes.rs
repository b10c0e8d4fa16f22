//! Bounds on what is under way inside tenants. A tenant whose API hangs must not keep the others waiting, however many of
//! them there are: work in a tenant that does not answer passes through a lane of its own.

use nestling_crds::names::TenantUid;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Tenants that are worked in at the same time. Also limits how many connections are opened at once when the operator starts.
const ANSWERING: usize = 64;
/// The same for tenants that do not answer.
const SILENT: usize = 64;
/// Work that takes longer is taken for work in a tenant that does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Lanes {
    answering: Semaphore,
    silent: Semaphore,
    /// Tenants whose last work took longer than [`PATIENCE`].
    known: Mutex<HashSet<TenantUid>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { answering: Semaphore::new(ANSWERING), silent: Semaphore::new(SILENT), known: Mutex::default() }
    }
}

impl Lanes {
    /// Does `work` in a tenant as soon as its lane has room. Work that turns out to take long changes the lane.
    pub(crate) async fn pass<T>(&self, tenant: &TenantUid, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if !self.is_silent(tenant) {
            // A semaphore fails only when it is closed, and these are not.
            let _room = self.answering.acquire().await;
            if let Ok(done) = timeout(PATIENCE, &mut work).await {
                return done;
            }
            self.known().insert(tenant.clone());
        }
        let _room = self.silent.acquire().await;
        match timeout(PATIENCE, &mut work).await {
            Ok(done) => {
                self.known().remove(tenant);
                done
            }
            Err(_) => work.await,
        }
    }

    pub(crate) fn is_silent(&self, tenant: &TenantUid) -> bool {
        self.known().contains(tenant)
    }

    /// Keeps what is known of existing tenants.
    pub(crate) fn retain(&self, existing: &HashSet<TenantUid>) {
        self.known().retain(|tenant| existing.contains(tenant));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<TenantUid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::Arc;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    fn uid(index: usize) -> TenantUid {
        TenantUid::new(index.to_string())
    }

    /// Work in tenants that takes `lasts` each.
    fn start(lanes: &Arc<Lanes>, tenants: std::ops::Range<usize>, lasts: Duration) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for index in tenants {
            let lanes = lanes.clone();
            tasks.spawn(async move { lanes.pass(&uid(index), async { sleep(lasts).await }).await });
        }
        tasks
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_that_do_not_answer_keep_no_other_waiting() {
        let lanes = Arc::new(Lanes::default());
        let hour = Duration::from_secs(3600);
        let _dead = start(&lanes, 0..100, hour);
        tokio::task::yield_now().await;
        let begun = Instant::now();
        lanes.pass(&uid(1000), async {}).await;
        assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
        sleep(PATIENCE * 2).await;

        // Once they are known, nobody waits for them at all.
        let _again = start(&lanes, 0..100, hour);
        tokio::task::yield_now().await;
        let begun = Instant::now();
        lanes.pass(&uid(1000), async {}).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_tenants_are_worked_in_at_once() {
        let lanes = Arc::new(Lanes::default());
        let step = Duration::from_millis(100);
        let begun = Instant::now();
        start(&lanes, 0..ANSWERING * 3, step).join_all().await;
        assert_eq!(begun.elapsed(), step * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_answers_again_goes_back() {
        let lanes = Lanes::default();
        let dead = timeout(Duration::from_secs(5), lanes.pass(&uid(1), pending::<()>())).await;
        assert!(dead.is_err() && lanes.is_silent(&uid(1)));
        lanes.pass(&uid(1), async {}).await;
        assert!(!lanes.is_silent(&uid(1)));
        drop(timeout(Duration::from_secs(5), lanes.pass(&uid(1), pending::<()>())).await);
        lanes.retain(&HashSet::new());
        assert!(!lanes.is_silent(&uid(1)));
    }
}
