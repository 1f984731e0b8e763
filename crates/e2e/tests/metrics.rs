//! The table of metrics in docs/observability.md lists exactly the metrics of the services.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tandem_engine::ModelThread;
use tandem_orchestrator::Tcp;
use tandem_serving::Serving;
use tandem_testkit::{Services, ToyModel, orchestrator_config, orchestrator_serving, worker_config};

/// Present only where an energy meter can be read.
const OPTIONAL: &str = "tandem_energy_joules_total";

/// The rows of the table: name, services, type.
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
    let mut found = existing().await;
    let mut documented = documented();
    found.retain(|row| row.0 != OPTIONAL);
    documented.retain(|row| row.0 != OPTIONAL);
    assert_eq!(found.difference(&documented).collect::<Vec<_>>(), Vec::<&_>::new(), "not in the table");
    assert_eq!(documented.difference(&found).collect::<Vec<_>>(), Vec::<&_>::new(), "only in the table");
}

/// The same rows, from the services.
async fn existing() -> BTreeSet<(String, String, String)> {
    let services = Services::default();
    let mut by_metric: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut add = |service: &'static str, serving: &Serving| {
        for metric in serving.metrics.described() {
            by_metric.entry((metric.name.clone(), metric.kind.clone())).or_default().insert(service);
        }
    };
    let args = worker_config("");
    let draft = ModelThread::start_as_task(ToyModel::DRAFT.loaded("draft", 100));
    let draft = tandem_draft_service::serving(draft, &args);
    add("draft", &draft);
    let target = ModelThread::start_as_task(ToyModel::TARGET.loaded("target", 100));
    let target = tandem_target_service::serving(target, &args);
    add("target", &target);
    let draft = services.serve(draft, None).await;
    let target = services.serve(target, None).await;
    let args = orchestrator_config(&format!("--draft http://{draft} --target http://{target}"));
    let serving = orchestrator_serving(&args, Tcp::default().shared(), None).await.unwrap();
    add("orchestrator", &serving);
    by_metric
        .into_iter()
        .map(|((name, kind), services)| {
            let services = group(&name, services);
            (name, services.to_owned(), kind)
        })
        .collect()
}

/// What the table calls a set of services.
fn group<'a>(metric: &str, services: BTreeSet<&'a str>) -> &'a str {
    match services.into_iter().collect::<Vec<_>>()[..] {
        ["draft", "orchestrator", "target"] => "all",
        ["draft", "target"] => "workers",
        [one] => one,
        ref some => panic!("{metric} on {some:?}: the table has no name for these services"),
    }
}
