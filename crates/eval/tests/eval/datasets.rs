//! Datasets are read in their published formats; invalid parts are reported by name.

use std::fs;
use std::path::{Path, PathBuf};

use tandem_eval::dataset::{self, DatasetKind, mtbench};
use tandem_eval::judge::sqlite::Database;
use tandem_eval::{Dataset, DatasetError, Judge, Verdict};
use tempfile::TempDir;

fn file(content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("set.jsonl");
    fs::write(&path, content).unwrap();
    (directory, path)
}

fn bad(dataset: &Dataset) -> Vec<(&str, &str)> {
    dataset.bad.iter().map(|b| (b.item.as_str(), b.reason.as_str())).collect()
}

fn ids(dataset: &Dataset) -> Vec<&str> {
    dataset.items.iter().map(|i| i.id.as_str()).collect()
}

#[test]
fn the_bundled_dataset_is_complete_and_its_gold_sql_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/data/sql_eval.jsonl");
    let set = Dataset::load(DatasetKind::TextToSql, &path).unwrap();
    assert_eq!((set.name.as_str(), set.items.len(), set.bad.len()), ("text-to-sql", 600, 0));
    assert_eq!(
        (set.stop[0].as_str(), set.max_new_tokens, set.metric),
        (";", 100, Some("execution accuracy"))
    );
    assert_eq!(set.items[0].id, "sql-0001");
    assert_eq!(
        set.items[0].turns,
        ["Schema:\nTable owner, columns = [*,owner_id,name,salary,city]\n\
          Table dog, columns = [*,dog_id,name,age,color,owner_id]\n\
          Foreign_keys = [dog.owner_id = owner.owner_id]\nQuestion: How many owners are there?\nSQL:"]
    );
    for item in &set.items {
        let Judge::Sql { gold, .. } = &item.judge else { panic!("{} has no SQL", item.id) };
        assert_eq!(item.judge.judge(&format!(" {gold}; and so on")), Verdict::Right, "{}", item.id);
    }
}

#[test]
fn an_invalid_line_does_not_affect_the_others() {
    let mut content =
        b"{\"prompt\": \"one\"}\n\n  \r\n{oops\n{\"prompt\": \"\xff\"}\n{\"prompt\": \"\"}\n{\"prompt\": \""
            .to_vec();
    content.resize(content.len() + (16 << 20), b'x');
    content.extend_from_slice(
        b"\"}\n{\"prompt\": \"two\", \"id\": \"b\"}\n{\"prompt\": \"three\", \"id\": \"b\"}\n{\"prompt\": \"four\"}",
    );
    let (_directory, path) = file(content);
    let set = dataset::prompts(&path).unwrap();
    assert_eq!(ids(&set), ["prompt-0001", "b", "prompt-0010"]);
    assert_eq!(set.items[1].turns, ["two"]);
    assert_eq!((set.stop.len(), set.max_new_tokens, set.metric), (0, 128, None));
    let bad = bad(&set);
    assert_eq!(
        bad.iter().map(|b| b.0).collect::<Vec<_>>(),
        ["line 4", "line 5", "line 6", "line 7", "line 9"]
    );
    assert!(bad[1].1.contains("unicode"), "{bad:?}");
    assert!(bad[3].1.contains("longer than 16777216 bytes"), "{bad:?}");
    assert!(bad[4].1.contains("\"b\" is taken"), "{bad:?}");
}

#[test]
fn an_unusable_dataset_is_an_error_with_its_path() {
    for kind in DatasetKind::ALL {
        let missing = Dataset::load(kind, Path::new("/nowhere/set")).unwrap_err();
        assert!(matches!(missing, DatasetError::Unreadable { .. }), "{missing}");
        assert!(missing.to_string().contains("/nowhere/set"), "{missing}");
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let (directory, path) = file("[]\n");
    let empty = dataset::humaneval(&path).unwrap_err();
    assert!(matches!(&empty, DatasetError::Empty { bad, .. } if bad.len() == 1), "{empty}");
    assert!(matches!(dataset::prompts(directory.path()), Err(DatasetError::Unreadable { .. })));
    assert_eq!(
        "squad".parse::<DatasetKind>().unwrap_err().to_string(),
        "unknown dataset \"squad\": use one of text-to-sql, spider, humaneval, mt-bench, prompts"
    );
}

#[test]
fn items_with_invalid_tables_are_bad_items() {
    let line = |rows: &str| {
        let table = format!(r#"{{"columns": ["a", "b\"c"], "types": ["INTEGER", "TEXT"], "rows": {rows}}}"#);
        format!(r#"{{"schema": "S\n", "pairs": [["Q", "SELECT 1"]], "db": {{"t": {table}}}}}"#)
    };
    let lines = [line(r#"[[1, "x"], [null, 2.5]]"#), line("[[1]]"), line("[[1, true]]")];
    let (_directory, path) = file(lines.join("\n"));
    let set = dataset::text_to_sql(&path).unwrap();
    assert_eq!(ids(&set), ["sql-0001"]);
    assert_eq!(set.items[0].turns, ["S\nQuestion: Q\nSQL:"]);
    assert_eq!(bad(&set)[0].0, "line 2");
    assert!(bad(&set)[1].1.contains("true is neither null nor a number nor a string"), "{:?}", set.bad);
}

#[test]
fn spider_is_read_in_its_published_layout() {
    let directory = tempfile::tempdir().unwrap();
    let tables = r#"[
        {"db_id": "pets", "table_names_original": ["owner", "dog"], "primary_keys": [1, 3], "foreign_keys": [[4, 1]],
         "column_names_original": [[-1, "*"], [0, "owner_id"], [0, "name"], [1, "dog_id"], [1, "owner_id"]]},
        {"db_id": "gone", "table_names_original": ["t"], "foreign_keys": [], "column_names_original": [[-1, "*"], [0, "a"]]},
        {"db_id": "odd", "table_names_original": ["t"], "foreign_keys": [[7, 8]], "column_names_original": [[0, "a"]]},
        {"db_id": "half"}]"#;
    let dev = r#"[
        {"db_id": "pets", "question": "How many dogs?", "query": "SELECT count(*) FROM dog", "query_toks": []},
        {"db_id": "gone", "question": "Q", "query": "SELECT 1"},
        {"db_id": "odd", "question": "Q", "query": "SELECT 1"},
        {"db_id": "half", "question": "Q", "query": "SELECT 1"},
        {"db_id": "../pets", "question": "Q", "query": "SELECT 1"},
        {"db_id": "pets"}]"#;
    fs::write(directory.path().join("tables.json"), tables).unwrap();
    fs::write(directory.path().join("dev.json"), dev).unwrap();
    let pets = directory.path().join("database/pets");
    fs::create_dir_all(&pets).unwrap();
    let database = rusqlite::Connection::open(pets.join("pets.sqlite")).unwrap();
    database
        .execute_batch("CREATE TABLE dog (dog_id, owner_id); INSERT INTO dog VALUES (1, 1), (2, 1)")
        .unwrap();

    let set = Dataset::load(DatasetKind::Spider, directory.path()).unwrap();
    assert_eq!(ids(&set), ["spider-0001", "spider-0002"]);
    assert_eq!(
        set.items[0].turns,
        ["Schema:\nTable owner, columns = [*,owner_id,name]\nTable dog, columns = [*,dog_id,owner_id]\n\
          Foreign_keys = [dog.owner_id = owner.owner_id]\nQuestion: How many dogs?\nSQL:"]
    );
    assert_eq!(set.items[1].turns, ["Schema:\nTable t, columns = [*,a]\nQuestion: Q\nSQL:"]);
    assert_eq!(bad(&set).iter().map(|b| b.0).collect::<Vec<_>>(), ["item 3", "item 4", "item 5", "item 6"]);
    assert!(bad(&set)[2].1.contains("\"../pets\" is not a valid database name"), "{:?}", set.bad);

    assert_eq!(set.items[0].judge.judge(" SELECT 2"), Verdict::Right);
    assert!(
        matches!(&set.items[1].judge, Judge::Sql { database: Database::File(path), .. } if path.ends_with("gone/gone.sqlite"))
    );
    let Verdict::NotJudged { name, .. } = set.items[1].judge.judge(" SELECT 1") else { panic!() };
    assert_eq!(name, "missing database");
}

#[test]
fn humaneval_is_read_in_its_published_format_and_judged() {
    let task = |id: u32, entry: &str| {
        serde_json::json!({
            "task_id": format!("HumanEval/{id}"), "prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": entry,
        })
    };
    let (_directory, path) = file(format!("{}\n{}\n", task(0, "add"), task(1, "add); import os; (")));
    let set = Dataset::load(DatasetKind::HumanEval, &path).unwrap();
    assert_eq!(ids(&set), ["HumanEval/0"]);
    assert_eq!((set.max_new_tokens, set.metric, set.stop.len()), (512, Some("pass@1"), 5));
    assert!(bad(&set)[0].1.contains("is not a valid Python name"), "{:?}", set.bad);
    assert_eq!(set.items[0].turns, ["def add(a, b):\n"]);
    assert_eq!(set.items[0].judge.judge("    return a + b\n"), Verdict::Right);
    assert_eq!(set.items[0].judge.judge("    return a - b\n"), Verdict::Wrong);
}

#[test]
fn mt_bench_prompts_are_plain_text_and_answers_have_fastchats_format() {
    let (_directory, path) = file(concat!(
        r#"{"question_id": 81, "category": "writing", "turns": ["Compose.", "Rewrite."], "reference": ["", ""]}"#,
        "\n",
        r#"{"question_id": 82, "category": "math", "turns": []}"#,
    ));
    let set = Dataset::load(DatasetKind::MtBench, &path).unwrap();
    assert_eq!(set.items[0].turns, ["User: Compose.\nAssistant:", "\nUser: Rewrite.\nAssistant:"]);
    assert_eq!(set.items[0].judge.judge("Anything."), Verdict::Unjudged);
    assert_eq!(bad(&set), [("line 2", "it has no turns")]);
    assert_eq!(mtbench::question_id(&set.items[0].id), Some(81));
    let line = mtbench::answer_line(81, "tandem", &["A".to_owned(), "B".to_owned()], 1.5, "x1");
    let expected = r#"{"question_id":81,"answer_id":"x1","model_id":"tandem","choices":[{"index":0,"turns":["A","B"]}],"tstamp":1.5}"#;
    assert_eq!(line, serde_json::from_str::<serde_json::Value>(expected).unwrap());
}
