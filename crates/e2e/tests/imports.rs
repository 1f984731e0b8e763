//! Who may import whom. A change of this table is a change of the architecture: see docs/architecture.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Allowed dependencies among our crates; dev-dependencies are free.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("tandem-decoding", &[]),
    ("tandem-serving", &[]),
    ("tandem-proto", &["decoding"]),
    ("tandem-proto-codegen", &[]),
    ("tandem-engine", &["decoding"]),
    ("tandem-energy", &[]),
    ("tandem-eval", &["decoding"]),
    ("tandem-worker", &["decoding", "energy", "engine", "proto", "serving"]),
    ("tandem-draft-service", &["decoding", "engine", "proto", "serving", "worker"]),
    // The draft's face too: a target proposes its own beams for MTJD.
    ("tandem-target-service", &["decoding", "draft-service", "engine", "proto", "serving", "worker"]),
    // Never the engine: the orchestrator runs on machines without one.
    ("tandem-orchestrator", &["decoding", "proto", "serving"]),
    (
        "tandem-cli",
        &[
            "decoding",
            "energy",
            "engine",
            "eval",
            "proto",
            "serving",
            "worker",
            "draft-service",
            "target-service",
            "orchestrator",
        ],
    ),
    // The whole system in a simulated network, and as processes; what asks it is the command's client.
    (
        "tandem-testkit",
        &[
            "cli",
            "decoding",
            "engine",
            "eval",
            "proto",
            "serving",
            "worker",
            "draft-service",
            "target-service",
            "orchestrator",
        ],
    ),
    // Whoever adds a crate says here what it may import.
    ("", &[]),
];

/// Crates that a crate of ours must not use, even through others of ours.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    ("tandem-decoding", &["tokio", "tonic", "prost", "candle-core"]),
    ("tandem-engine", &["tonic", "prost"]),
    ("tandem-orchestrator", &["candle-core", "candle-nn", "candle-transformers"]),
];

/// Normal dependencies of each workspace member, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|p| {
            let normal = p["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
            (name(p), normal.map(name).collect())
        })
        .collect()
}

#[test]
fn crates_import_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for (package, dependencies) in dependencies() {
        let Some(allowed) = allowed.get(package.as_str()) else {
            panic!("{package} is not in the table of allowed imports");
        };
        for ours in dependencies.iter().filter_map(|d| d.strip_prefix("tandem-")) {
            assert!(allowed.contains(&ours), "{package} must not import tandem-{ours}");
        }
    }
}

#[test]
fn some_crates_never_meet() {
    let all = dependencies();
    for (package, forbidden) in FORBIDDEN {
        let mut seen = BTreeSet::from([package.to_owned()]);
        let mut queue = vec![package.to_owned()];
        while let Some(name) = queue.pop() {
            for dependency in all.get(&name).into_iter().flatten() {
                assert!(
                    !forbidden.contains(&dependency.as_str()),
                    "{package} reaches {dependency} through {name}"
                );
                if seen.insert(dependency.clone()) {
                    queue.push(dependency.clone());
                }
            }
        }
    }
}
