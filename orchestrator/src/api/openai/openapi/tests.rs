use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

const DOCS: &str = include_str!("../../../../../docs/api.md");

fn json() -> Value {
    serde_json::from_str(&Document::openapi().to_json().unwrap()).unwrap()
}

/// The fields in the first column of a table of docs/api.md.
fn documented(heading: &str) -> Vec<&'static str> {
    let (_, section) = DOCS.split_once(&format!("### {heading}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(','));
    names.map(|name| name.trim_matches([' ', '`'])).collect()
}

/// The names of the fields of a schema, those of the schemas that it is composed of included.
fn fields(document: &Value, schema: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Some(reference) = schema["$ref"].as_str() {
        let referred = document.pointer(reference.trim_start_matches('#')).unwrap();
        names.extend(fields(document, referred));
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        names.extend(fields(document, part));
    }
    names.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    names
}

#[test]
fn every_field_of_the_documentation_is_in_the_document() {
    let document = json();
    for (heading, schema) in [
        ("Completions", "CompletionRequest"),
        ("Chat completions", "ChatCompletionRequest"),
        ("Tandem's own fields", "DecodingOptions"),
    ] {
        let known = fields(&document, &document["components"]["schemas"][schema]);
        let documented = documented(heading);
        assert!(documented.len() > 5, "{heading}: {documented:?}");
        for field in documented {
            assert!(known.contains(field), "{schema} lacks {field}: {known:?}");
        }
    }
}

#[test]
fn every_route_is_in_the_document() {
    let document = json();
    for (path, method) in [
        ("/v1/models", "get"),
        ("/v1/models/{id}", "get"),
        ("/v1/completions", "post"),
        ("/v1/chat/completions", "post"),
        ("/v1/status", "get"),
        ("/health", "get"),
        ("/ready", "get"),
        ("/metrics", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
}

/// Every `$ref` leads somewhere.
#[test]
fn the_document_is_complete() {
    fn check(document: &Value, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.trim_start_matches('#');
                    assert!(document.pointer(pointer).is_some(), "{reference} is missing");
                }
                fields.values().for_each(|field| check(document, field));
            }
            Value::Array(items) => items.iter().for_each(|item| check(document, item)),
            _ => {}
        }
    }
    let document = json();
    check(&document, &document);
}
