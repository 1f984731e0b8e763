//! Faults: what goes wrong in a run, and when.

use std::time::Duration;

use turmoil::Sim;

use super::world::World;

/// Something that breaks or recovers at a moment of a run.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The process of a host ends without closing anything.
    Crash(String),
    /// A new incarnation starts on the host.
    Restart(String),
    /// Messages between two hosts are lost.
    Partition((String, String)),
    Repair((String, String)),
    /// Messages between two hosts are held back.
    Hold((String, String)),
    Release((String, String)),
    /// Every message between two hosts takes so long.
    Latency((String, String), Duration),
    /// The worker drains, as after SIGTERM.
    Drain(String),
    /// A name no longer stands for a host, as when a pod is scaled away.
    RemoveFromName(String, String),
    AddToName(String, String),
}

impl Fault {
    pub(crate) fn apply(&self, sim: &mut Sim<'_>, world: &World) {
        match &self.kind {
            Kind::Crash(host) => {
                world.with(|shared| shared.workers.remove(host));
                sim.crash(host.as_str());
            }
            Kind::Restart(host) => sim.bounce(host.as_str()),
            Kind::Partition((a, b)) => sim.partition(a.as_str(), b.as_str()),
            Kind::Repair((a, b)) => sim.repair(a.as_str(), b.as_str()),
            Kind::Hold((a, b)) => sim.hold(a.as_str(), b.as_str()),
            Kind::Release((a, b)) => sim.release(a.as_str(), b.as_str()),
            Kind::Latency((a, b), latency) => sim.set_link_latency(a.as_str(), b.as_str(), *latency),
            Kind::Drain(host) => {
                if let Some(worker) = world.with(|shared| shared.workers.get(host).cloned()) {
                    worker.shutdown.drain();
                }
            }
            Kind::RemoveFromName(name, host) => world.network.remove_host(name, host),
            Kind::AddToName(name, host) => world.network.add_host(name, host),
        }
    }
}
