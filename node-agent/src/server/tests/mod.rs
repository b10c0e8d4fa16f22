//! The whole server in process: real TLS and HTTP over loopback, a fake runtime with a fake streaming server, and fake
//! tenant apiservers that review accesses.

mod access;
mod logs;
mod runtime;
mod stats;
mod streams;
mod world;
