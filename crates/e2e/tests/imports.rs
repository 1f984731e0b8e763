//! Which crate may import which, and that no files of a crate import one another in a circle. A change of these tables is a
//! change of the architecture: see docs/architecture.md.

mod circles;
mod graph;
mod module_tree;
mod references;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the two workers share.
const WORKER: [&str; 6] = ["decoding", "energy", "engine", "generation", "proto", "serving"];
const DRAFT_SERVICE: &[&str] = &["decoding", "energy", "engine", "generation", "proto", "serving", "worker"];
/// A target proposes its own beams for MTJD, so it serves the draft's API too.
const TARGET_SERVICE: &[&str] =
    &["decoding", "draft-service", "energy", "engine", "generation", "proto", "serving", "worker"];
/// Never the engine: the orchestrator runs on machines without accelerators.
const ORCHESTRATOR: &[&str] = &["decoding", "generation", "proto", "serving"];
/// Everything but the top floor.
const ALL: &[&str] = &[
    "decoding",
    "draft-service",
    "energy",
    "engine",
    "eval",
    "generation",
    "orchestrator",
    "proto",
    "serving",
    "target-service",
    "worker",
];
const TOP_FLOOR: &[&str] = &[
    "cli",
    "decoding",
    "draft-service",
    "energy",
    "engine",
    "eval",
    "generation",
    "orchestrator",
    "proto",
    "serving",
    "target-service",
    "testkit",
    "worker",
];

/// Allowed dependencies among our crates; dev-dependencies are free. A new crate must be added here.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("tandem-decoding", &[]),
    ("tandem-energy", &[]),
    ("tandem-serving", &[]),
    ("tandem-generation", &["decoding"]),
    ("tandem-engine", &["decoding"]),
    ("tandem-eval", &["decoding"]),
    ("tandem-proto", &["decoding", "generation"]),
    ("tandem-proto-codegen", &[]),
    ("tandem-worker", &WORKER),
    ("tandem-draft-service", DRAFT_SERVICE),
    ("tandem-target-service", TARGET_SERVICE),
    ("tandem-orchestrator", ORCHESTRATOR),
    ("tandem-testkit", ALL),
    ("tandem-cli", ALL),
    ("tandem-e2e", TOP_FLOOR),
];

/// Crates of others that a crate of ours must not use, not even through others of ours.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("tandem-decoding", &["tokio", "tonic", "prost", "candle-core", "clap"]),
    ("tandem-generation", &["tonic", "prost", "axum", "clap", "candle-core", "candle-nn"]),
    ("tandem-engine", &["tonic", "prost", "clap"]),
    ("tandem-orchestrator", &["candle-core", "candle-nn", "candle-transformers", "tandem-engine"]),
];

/// A crate of the workspace.
struct Package {
    name: String,
    /// Names of its dependencies, without those for tests and builds.
    dependencies: BTreeSet<String>,
    /// The root file of each target: library, programs, tests, benchmarks.
    roots: Vec<PathBuf>,
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(Package::read).collect()
}

impl Package {
    fn read(package: &serde_json::Value) -> Self {
        let string = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let dependencies = package["dependencies"].as_array().unwrap();
        let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        let targets = package["targets"].as_array().unwrap();
        Self {
            name: string(&package["name"]),
            dependencies: normal.map(|dependency| string(&dependency["name"])).collect(),
            roots: targets.iter().map(|target| PathBuf::from(string(&target["src_path"]))).collect(),
        }
    }
}

#[test]
fn crates_import_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for package in packages() {
        let name = &package.name;
        let Some(allowed) = allowed.get(name.as_str()) else {
            panic!("{name} is not in the table of allowed imports");
        };
        for ours in package.dependencies.iter().filter_map(|d| d.strip_prefix("tandem-")) {
            assert!(allowed.contains(&ours), "{name} must not import tandem-{ours}");
        }
    }
}

#[test]
fn some_crates_never_meet() {
    let all: BTreeMap<String, BTreeSet<String>> =
        packages().into_iter().map(|package| (package.name, package.dependencies)).collect();
    let mut violations = Vec::new();
    for (package, forbidden) in FORBIDDEN {
        let mut seen = BTreeSet::from([package.to_owned()]);
        let mut queue = vec![package.to_owned()];
        while let Some(name) = queue.pop() {
            for dependency in all.get(&name).into_iter().flatten() {
                if forbidden.contains(&dependency.as_str()) {
                    violations.push(format!("{package} reaches {dependency} through {name}"));
                }
                if seen.insert(dependency.clone()) {
                    queue.push(dependency.clone());
                }
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn no_files_of_a_crate_import_one_another_in_a_circle() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let mut circles = Vec::new();
    for package in packages() {
        for root in &package.roots {
            circles.extend(circles::circles(root, &workspace));
        }
    }
    assert!(circles.is_empty(), "{} circles of imports:\n{}", circles.len(), circles.join("\n"));
}
