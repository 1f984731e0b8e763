//! TLS of servers and clients: rustls, with certificates from files.

mod certificates;
mod client;
mod server;

pub use client::{ClientStream, ClientTls, ClientTlsFiles};
pub use server::{Protocol, ServerTls, TlsFiles};
