//! The locks of [`queue`](crate::queue), which its interleaving test replaces by ones that it schedules.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};
