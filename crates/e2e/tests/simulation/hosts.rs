//! The hosts: workers, the orchestrator, its clients.

use std::sync::Arc;
use std::time::Duration;

use tandem_engine::ModelThread;
use tandem_serving::Shutdown;
use tandem_testkit::{ToyModel, incoming, orchestrator_config, orchestrator_serving, worker_config};
use turmoil::{Builder, Sim};

use super::names::{ORCHESTRATOR, worker};
use super::scenario::Scenario;
use super::world::{RunningWorker, World};
use super::{client, rude};

/// A step of the simulation: short enough that faults fall between the messages of a generation.
const TICK: Duration = Duration::from_millis(4);
/// How long the simulation may run; every run ends earlier.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a session without steps stays open on a worker.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// All hosts of `scenario`.
pub(crate) fn build<'a>(scenario: &Scenario, world: &World) -> Sim<'a> {
    let mut sim = Builder::new()
        .rng_seed(scenario.seed)
        .tick_duration(TICK)
        .simulation_duration(LONGEST)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(scenario.latency)
        .build();
    for (role, count) in [("draft", scenario.drafts), ("target", scenario.targets)] {
        let hosts: Vec<String> = (0..count).map(|i| worker(role, i)).collect();
        for host in &hosts {
            let world = world.clone();
            let name = host.clone();
            let kv_tokens = scenario.kv_tokens;
            sim.host(host.as_str(), move || serve_worker(world.clone(), name.clone(), role, kv_tokens));
        }
        world.network.set_name(role, hosts);
    }
    let orchestrator_world = world.clone();
    sim.host(ORCHESTRATOR, move || serve_orchestrator(orchestrator_world.clone()));
    for (i, request) in scenario.requests.iter().enumerate() {
        sim.client(format!("client-{i}"), client::run(i, request.clone(), world.clone()));
    }
    if scenario.rude {
        sim.client("rude", rude::run(scenario.seed, world.clone()));
    }
    sim
}

async fn serve_worker(world: World, host: String, role: &str, kv_tokens: usize) -> turmoil::Result {
    let mut args = worker_config(&format!("--session-lease-seconds {}", LEASE.as_secs()));
    args.incarnation = world.next_incarnation();
    let toy = if role == "target" { ToyModel::TARGET } else { ToyModel::DRAFT };
    let model = ModelThread::start_as_task(toy.loaded(&host, kv_tokens));
    let shutdown = Shutdown::new();
    let running = RunningWorker { budget: model.budget().clone(), shutdown: shutdown.clone() };
    world.with(|shared| shared.workers.insert(host, running));
    let serving = if role == "target" {
        tandem_target_service::serving(model, &args)
    } else {
        tandem_draft_service::serving(model, &args)
    };
    Ok(serving.run(incoming().await?, shutdown).await?)
}

async fn serve_orchestrator(world: World) -> turmoil::Result {
    let args = orchestrator_config(
        "--connect-seconds 20 --draft http://draft:7000 --target http://target:7000 --step-seconds 1 \
         --worker-silence-seconds 0.4 --failover-seconds 5 --resolve-seconds 0.25",
    );
    let network = Arc::new(world.network);
    let serving = orchestrator_serving(&args, network, None).await?;
    Ok(serving.run(incoming().await?, Shutdown::new()).await?)
}
