//! The locks of [`super::shared`], in a file of their own because its interleaving test replaces them by ones that it
//! schedules.

pub(super) use std::sync::{Mutex, MutexGuard};
