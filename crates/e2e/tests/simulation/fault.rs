//! What goes wrong.

use std::time::Duration;

use turmoil::Sim;

use super::World;

/// Something that goes wrong, or right again.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The process is gone without a word.
    Crash(String),
    /// A new life of it.
    Restart(String),
    /// Messages between the two are lost.
    Partition((String, String)),
    Repair((String, String)),
    /// Messages between the two wait.
    Hold((String, String)),
    Release((String, String)),
    /// Of every message between the two.
    Latency((String, String), Duration),
    /// SIGTERM.
    Drain(String),
    /// A name no longer stands for a host, as when a pod is scaled away.
    Unname(String, String),
    Name(String, String),
}

impl Fault {
    pub(crate) fn apply(&self, sim: &mut Sim<'_>, world: &World) {
        match &self.kind {
            Kind::Crash(host) => {
                world.with(|w| w.workers.remove(host));
                sim.crash(host.as_str());
            }
            Kind::Restart(host) => sim.bounce(host.as_str()),
            Kind::Partition((a, b)) => sim.partition(a.as_str(), b.as_str()),
            Kind::Repair((a, b)) => sim.repair(a.as_str(), b.as_str()),
            Kind::Hold((a, b)) => sim.hold(a.as_str(), b.as_str()),
            Kind::Release((a, b)) => sim.release(a.as_str(), b.as_str()),
            Kind::Latency((a, b), latency) => sim.set_link_latency(a.as_str(), b.as_str(), *latency),
            Kind::Drain(host) => {
                if let Some(shutdown) = world.with(|w| w.workers.get(host).map(|(_, s)| s.clone())) {
                    shutdown.drain();
                }
            }
            Kind::Unname(name, host) => world.with(|w| {
                if let Some(hosts) = w.names.get_mut(name).filter(|hosts| hosts.len() > 1) {
                    hosts.retain(|h| h != host);
                }
            }),
            Kind::Name(name, host) => world.with(|w| {
                if let Some(hosts) = w.names.get_mut(name).filter(|hosts| !hosts.contains(host)) {
                    hosts.push(host.clone());
                }
            }),
        }
    }
}
