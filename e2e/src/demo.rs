//! What `make demo` does once a host cluster is there: `install` puts the chart into it, `tenant` makes an example tenant
//! with a workload and prints how to go on, `uninstall` takes both away again.

mod install;
mod tenant;

pub use install::{install, uninstall};
pub use tenant::tenant;
