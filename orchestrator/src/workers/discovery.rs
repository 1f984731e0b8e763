//! Discovery: resolves the names of workers again and again, and follows the health of each address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use tandem_generation::Role;
use tonic::transport::Endpoint as Transport;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::endpoint::{Endpoint, Health};
use super::name::WorkerName;
use super::registry::Registry;
use crate::retry::Backoff;

/// Takes over what the names resolve to now.
fn update(registry: &Arc<Registry>, found: &BTreeMap<SocketAddr, WorkerName>) {
    registry.update(|endpoints| {
        endpoints.retain(|endpoint| {
            let is_found = found.contains_key(&endpoint.address);
            if !is_found {
                tracing::info!(worker = %registry.role, address = %endpoint.address, "its name no longer resolves to it");
                endpoint.retire();
            }
            is_found
        });
        for (&address, name) in found {
            if endpoints.iter().all(|endpoint| endpoint.address != address) {
                let transport = transport(registry, address, name);
                let channel = registry.network.channel(transport, name.tls_name());
                let endpoint = Arc::new(Endpoint::new(address, name.clone(), channel));
                registry.spawn(follow_forever(registry.clone(), endpoint.clone()));
                endpoints.push(endpoint);
            }
        }
    });
}

fn transport(registry: &Registry, address: SocketAddr, name: &WorkerName) -> Transport {
    let silence = registry.timeouts.silence;
    // An address is always a valid authority.
    let transport = Transport::from_shared(format!("http://{address}"));
    let transport = transport.unwrap_or_else(|_| Transport::from_static("http://invalid"));
    // Over TLS the worker is addressed by its name, although each of its addresses has a connection of its own.
    let origin = name.tls_name().and_then(|_| name.to_string().parse().ok());
    let transport = origin.into_iter().fold(transport, Transport::origin);
    transport
        .connect_timeout(silence)
        // A worker that was stopped or cut off keeps its connection, but does not answer pings.
        .http2_keep_alive_interval(silence / 2)
        .keep_alive_timeout(silence / 2)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

/// Follows the health of a worker until the stream breaks; the error says why it did.
async fn follow(registry: &Registry, endpoint: &Endpoint, backoff: &mut Backoff) -> Result<(), Status> {
    let mut health = HealthClient::new(endpoint.channel.clone());
    let request = HealthCheckRequest { service: service_name(registry.role).into() };
    let opened = tokio::time::timeout(registry.timeouts.silence, health.watch(request)).await;
    let silent = |_| Status::deadline_exceeded("it listens, but does not answer: is it still loading?");
    let mut states = opened.map_err(silent)??.into_inner();
    let mut is_serving = false;
    loop {
        tokio::select! {
            biased;
            state = states.message() => match state? {
                Some(state) if state.status() == ServingStatus::Serving => is_serving = true,
                Some(_) => {
                    is_serving = false;
                    registry.report(endpoint, Health::Draining);
                }
                None => return Err(Status::unavailable("it shut down")),
            },
            () = endpoint.suspected.notified() => {
                if endpoint.is_retired() {
                    return Ok(());
                }
            }
        }
        if is_serving {
            let info = registry.request_model(endpoint).await?;
            match registry.check(endpoint, &info).await? {
                Ok(()) => {
                    endpoint.set_checked(info.incarnation);
                    backoff.reset();
                    registry.report(endpoint, Health::Serving);
                }
                Err(why) => registry.report(endpoint, Health::Unfit(why)),
            }
        }
    }
}

/// The gRPC service by whose name the health of a worker is requested.
fn service_name(role: Role) -> &'static str {
    match role {
        Role::Draft => "tandem.v1.Draft",
        Role::Target => "tandem.v1.Target",
    }
}

/// The seed of a worker's backoff: workers that were lost together are not all tried again at the same moments.
fn seed(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
        std::net::IpAddr::V6(ip) => ip.to_bits() as u64,
    };
    ip << 16 | u64::from(address.port())
}

/// Follows the health of a worker for as long as its name resolves to it.
async fn follow_forever(registry: Arc<Registry>, endpoint: Arc<Endpoint>) {
    let mut backoff = Backoff::new(seed(endpoint.address));
    loop {
        let followed = follow(&registry, &endpoint, &mut backoff).await;
        if endpoint.is_retired() {
            return;
        }
        if let Err(status) = followed {
            registry.report(&endpoint, Health::Unreachable(reason(&status)));
        }
        #[allow(clippy::disallowed_methods, reason = "no event says when another process begins to listen")]
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Resolves the names again and again.
pub(super) async fn resolve_forever(registry: Arc<Registry>) {
    loop {
        let lookups = registry.names.iter().map(|n| registry.network.resolve(n.host.clone(), n.port));
        let answers = join_all(lookups).await;
        let mut found = BTreeMap::new();
        let mut is_complete = true;
        for (name, answer) in registry.names.iter().zip(answers) {
            match answer {
                Ok(addresses) => {
                    for address in addresses {
                        found.entry(address).or_insert_with(|| name.clone());
                    }
                }
                Err(error) => {
                    is_complete = false;
                    tracing::warn!(worker = %registry.role, %name, %error, "cannot be resolved");
                    registry.set_unresolved(format!("{name} cannot be resolved: {error}"));
                }
            }
        }
        if !is_complete {
            // A name server that fails is no reason to give up workers that serve.
            for endpoint in registry.endpoints() {
                found.entry(endpoint.address).or_insert_with(|| endpoint.name.clone());
            }
        }
        update(&registry, &found);
        #[allow(clippy::disallowed_methods, reason = "names change without notice")]
        tokio::time::sleep(registry.timeouts.resolve_interval).await;
    }
}

/// The innermost cause, which names what happened on the network.
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
