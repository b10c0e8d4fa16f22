//! Service ranges of tenants, taken from the operator's pool.
