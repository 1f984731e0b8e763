//! Looking for the workers of a pool, and after them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use futures_util::future::join_all;
use tonic::transport::Endpoint as Transport;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::WorkerName;
use super::endpoint::{Endpoint, Health};
use super::pool::Inner;
use crate::retry::Backoff;

impl Inner {
    /// Takes what the names resolve to now.
    fn update(self: &Arc<Self>, found: &BTreeMap<SocketAddr, WorkerName>) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|e| {
            let stays = found.contains_key(&e.address);
            if !stays {
                tracing::info!(worker = %self.kind, address = %e.address, "gone from its name");
                e.retire();
            }
            stays
        });
        for (&address, name) in found {
            if endpoints.iter().all(|e| e.address != address) {
                let channel = self.network.channel(self.transport(address, name), name.tls_name());
                let endpoint = Arc::new(Endpoint::new(address, name.clone(), channel));
                self.spawn(watch_forever(self.clone(), endpoint.clone()));
                endpoints.push(endpoint);
            }
        }
    }

    fn transport(&self, address: SocketAddr, name: &WorkerName) -> Transport {
        let silence = self.limits.silence;
        // An address always is a valid authority.
        let transport = Transport::from_shared(format!("http://{address}"));
        let transport = transport.unwrap_or_else(|_| Transport::from_static("http://invalid"));
        // Over TLS the worker is spoken to by its name, although each of its addresses is connected to.
        let origin = name.tls_name().and_then(|_| name.to_string().parse().ok());
        let transport = origin.into_iter().fold(transport, Transport::origin);
        transport
            .connect_timeout(silence)
            // A worker that was stopped or cut off keeps its connection; it does not answer pings.
            .http2_keep_alive_interval(silence / 2)
            .keep_alive_timeout(silence / 2)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
    }

    /// Follows the health of a worker until it breaks: why it did.
    async fn follow(&self, endpoint: &Endpoint, backoff: &mut Backoff) -> Result<(), Status> {
        let mut health = HealthClient::new(endpoint.channel.clone());
        let request = HealthCheckRequest { service: self.kind.service().into() };
        let opened = tokio::time::timeout(self.limits.silence, health.watch(request)).await;
        let listens = || Status::deadline_exceeded("it listens, but does not answer: is it still loading?");
        let mut states = opened.map_err(|_| listens())??.into_inner();
        let mut serving = false;
        loop {
            tokio::select! {
                biased;
                state = states.message() => match state? {
                    Some(state) if state.status() == ServingStatus::Serving => serving = true,
                    Some(_) => {
                        serving = false;
                        self.report(endpoint, Health::Draining);
                    }
                    None => return Err(Status::unavailable("it shut down")),
                },
                () = endpoint.suspected.notified() => {
                    if endpoint.is_retired() {
                        return Ok(());
                    }
                }
            }
            if serving {
                let info = self.ask(endpoint).await?;
                match self.check(&info) {
                    Ok(()) => {
                        endpoint.learn(info.incarnation);
                        backoff.reset();
                        self.report(endpoint, Health::Serving);
                    }
                    Err(why) => self.report(endpoint, Health::Unfit(why)),
                }
            }
        }
    }
}

/// Workers that went away together are not all looked for at the same moments.
fn seed(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
        std::net::IpAddr::V6(ip) => ip.to_bits() as u64,
    };
    ip << 16 | u64::from(address.port())
}

/// Watches a worker for as long as its name stands for it.
async fn watch_forever(pool: Arc<Inner>, endpoint: Arc<Endpoint>) {
    let mut backoff = Backoff::new(seed(endpoint.address));
    loop {
        let followed = pool.follow(&endpoint, &mut backoff).await;
        if endpoint.is_retired() {
            return;
        }
        if let Err(status) = followed {
            pool.report(&endpoint, Health::Unreachable(reason(&status)));
        }
        // Nobody tells when another process begins to listen.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Looks again and again at what the names stand for.
pub(super) async fn resolve_forever(inner: Arc<Inner>) {
    loop {
        let lookups = inner.names.iter().map(|n| inner.network.resolve(n.host.clone(), n.port));
        let answers = join_all(lookups).await;
        let mut found = BTreeMap::new();
        let mut complete = true;
        for (name, answer) in inner.names.iter().zip(answers) {
            match answer {
                Ok(addresses) => {
                    addresses.into_iter().for_each(|a| _ = found.entry(a).or_insert_with(|| name.clone()));
                }
                Err(error) => {
                    complete = false;
                    tracing::warn!(worker = %inner.kind, %name, %error, "cannot be resolved");
                    *inner.unresolved.lock().unwrap_or_else(PoisonError::into_inner) =
                        format!("{name} cannot be resolved: {error}");
                }
            }
        }
        if !complete {
            // A name server that fails is no reason to give up workers that serve.
            for endpoint in inner.endpoints.read().unwrap_or_else(PoisonError::into_inner).iter() {
                found.entry(endpoint.address).or_insert_with(|| endpoint.name.clone());
            }
        }
        inner.update(&found);
        // Names change without notice.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(inner.limits.resolve).await;
    }
}

/// The innermost cause, which names what happened on the wire.
fn reason(status: &Status) -> String {
    let mut deepest: &dyn std::error::Error = status;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match status.code() {
        Code::DeadlineExceeded => status.message().to_owned(),
        _ if std::ptr::addr_eq(deepest, status) => status.message().to_owned(),
        _ => deepest.to_string(),
    }
}
