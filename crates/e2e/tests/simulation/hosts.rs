//! The hosts: workers, the orchestrator, its clients.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tandem_engine::ModelThread;
use tandem_orchestrator::{OrchestratorArgs, Pair};
use tandem_serving::Shutdown;
use tandem_worker::WorkerArgs;
use turmoil::{Builder, Sim};

use super::network::{SimulatedNetwork, incoming};
use super::scenario::{DRAFT, Scenario, TARGET};
use super::{LONGEST, TICK, World, client, rude};

pub(crate) const ORCHESTRATOR: &str = "orchestrator";

/// The name of a worker's host.
pub(crate) fn worker(kind: &str, index: usize) -> String {
    format!("{kind}-{index}")
}

/// All hosts of `scenario`.
pub(crate) fn build<'a>(scenario: &Scenario, world: &World) -> Sim<'a> {
    let mut sim = Builder::new()
        .rng_seed(scenario.seed)
        .tick_duration(TICK)
        .simulation_duration(LONGEST)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(scenario.latency)
        .build();
    for (kind, count) in [("draft", scenario.drafts), ("target", scenario.targets)] {
        let hosts: Vec<String> = (0..count).map(|i| worker(kind, i)).collect();
        for host in &hosts {
            let (world, name) = (world.clone(), host.clone());
            let (target, kv_tokens) = (kind == "target", scenario.kv_tokens);
            sim.host(host.as_str(), move || serve_worker(world.clone(), name.clone(), target, kv_tokens));
        }
        world.with(|w| w.names.insert(kind.into(), hosts));
    }
    let network = world.clone();
    sim.host(ORCHESTRATOR, move || serve_orchestrator(network.clone()));
    for (i, request) in scenario.requests.iter().enumerate() {
        sim.client(format!("client-{i}"), client::run(i, request.clone(), world.clone()));
    }
    if scenario.rude {
        sim.client("rude", rude::run(scenario.seed, world.clone()));
    }
    sim
}

async fn serve_worker(world: World, host: String, target: bool, kv_tokens: usize) -> turmoil::Result {
    let mut args = WorkerArgs::try_parse_from(["worker", "--model", "toy", "--session-lease-seconds", "2"])?;
    args.incarnation = world.begin_life();
    let model = if target { TARGET } else { DRAFT };
    let model = ModelThread::start_as_task(model.loaded(&host, kv_tokens));
    let shutdown = Shutdown::new();
    world.with(|w| w.workers.insert(host, (model.budget().clone(), shutdown.clone())));
    let serving = if target {
        tandem_target_service::serving(model, &args)
    } else {
        tandem_draft_service::serving(model, &args)
    };
    Ok(serving.run(incoming().await?, shutdown).await?)
}

async fn serve_orchestrator(world: World) -> turmoil::Result {
    let args = OrchestratorArgs::try_parse_from(
        "orchestrator --draft http://draft:7000 --target http://target:7000 --step-seconds 1 \
         --worker-silence-seconds 0.4 --failover-seconds 5 --resolve-seconds 0.25"
            .split_whitespace(),
    )?;
    let (patience, limits) = (Duration::from_secs(20), args.limits.workers());
    let network = Arc::new(SimulatedNetwork(world));
    let pair = Pair::connect(args.names(), patience, limits, network).await?;
    Ok(tandem_orchestrator::serving(pair, &args, None).run(incoming().await?, Shutdown::new()).await?)
}
