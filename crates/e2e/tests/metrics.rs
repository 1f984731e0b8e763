//! The reference of metrics in docs/observability.md is the metrics that there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Parser;
use tandem_engine::ModelThread;
use tandem_orchestrator::{OrchestratorArgs, Pair, Tcp};
use tandem_serving::{Metrics, Serving, Shutdown, bind, incoming};
use tandem_testkit::ToyModel;
use tandem_worker::WorkerArgs;

const TOY: ToyModel = ToyModel { vocab: 8, salt: 1 };
/// Only where a meter can be read.
const OPTIONAL: &str = "energy_joules_total";

/// The rows of the table: services, name, type.
fn documented() -> BTreeSet<(String, String, String)> {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/observability.md");
    let text = std::fs::read_to_string(text).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        (cells.len() == 8).then(|| (name.to_owned(), cells[2].to_owned(), cells[3].to_owned()))
    });
    rows.collect()
}

#[tokio::test]
async fn the_table_of_metrics_is_complete_and_true() {
    let mut shown: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut show = |service: &'static str, metrics: &Metrics| {
        for metric in metrics.described() {
            shown.entry((metric.name.clone(), metric.kind.clone())).or_default().insert(service);
        }
    };
    let args = WorkerArgs::try_parse_from(["worker", "--model", "toy"]).unwrap();
    let shutdown = Shutdown::new();
    let mut urls = Vec::new();
    for service in ["draft", "target"] {
        let model = ModelThread::start_as_task(TOY.loaded(service, 100));
        let serving: Serving = match service {
            "draft" => tandem_draft_service::serving(model, &args),
            _ => tandem_target_service::serving(model, &args),
        };
        show(service, &serving.metrics);
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(serving.run(incoming(listener, None), shutdown.clone()));
    }
    let flags = ["orchestrator", "--draft", &urls[0], "--target", &urls[1]];
    let args = OrchestratorArgs::try_parse_from(flags).unwrap();
    let pair = Pair::connect(args.names(), args.patience(), args.limits.workers(), Tcp::default().shared())
        .await
        .unwrap();
    let serving = tandem_orchestrator::serving(pair, &args, None);
    show("orchestrator", &serving.metrics);
    shutdown.end_now();

    let found: BTreeSet<_> = shown
        .into_iter()
        .map(|((name, kind), services)| {
            let services = match services.into_iter().collect::<Vec<_>>()[..] {
                ["draft", "orchestrator", "target"] => "all",
                ["draft", "target"] => "workers",
                [one] => one,
                ref some => panic!("{name} on {some:?}: say so in the table"),
            };
            (name, services.to_owned(), kind)
        })
        .collect();
    let of = |all: &BTreeSet<(String, String, String)>| -> BTreeSet<_> {
        all.iter().filter(|row| row.0 != OPTIONAL).cloned().collect()
    };
    let (found, documented) = (of(&found), of(&documented()));
    assert_eq!(found.difference(&documented).collect::<Vec<_>>(), Vec::<&_>::new(), "not in the table");
    assert_eq!(documented.difference(&found).collect::<Vec<_>>(), Vec::<&_>::new(), "only in the table");
}
