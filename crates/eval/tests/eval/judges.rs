//! Judges are correct, and untrusted answers can neither hang nor do harm.

use std::fs;
use std::time::Duration;

use tandem_eval::Verdict;
use tandem_eval::judge::python;
use tandem_eval::judge::sqlite::{self, Database};

fn name(verdict: Verdict) -> String {
    match verdict {
        Verdict::Right => "right".to_owned(),
        Verdict::Wrong => "wrong".to_owned(),
        Verdict::Failed { name, .. } => name,
        Verdict::NotJudged { name, message } => format!("not judged: {name}: {message}"),
        Verdict::Unjudged => "unjudged".to_owned(),
    }
}

fn tables() -> Database {
    let rows: Vec<_> =
        (0..200).map(|i| serde_json::json!([i, format!("n{}", i % 7), f64::from(i) / 3.0, null])).collect();
    let table = serde_json::json!({
        "columns": ["id", "name", "x", "none"], "types": ["INTEGER", "TEXT", "REAL", "TEXT"], "rows": rows,
    });
    Database::Tables([("t".to_owned(), serde_json::from_value(table).unwrap())].into())
}

fn sql(gold: &str, answer: &str) -> String {
    name(sqlite::judge(&tables(), gold, answer))
}

#[test]
fn rows_are_compared_as_a_multiset() {
    for (gold, answer, expected) in [
        ("SELECT id, name FROM t", "SELECT id, name FROM t ORDER BY id DESC", "right"),
        ("SELECT id, name FROM t", "SELECT name, id FROM t", "wrong"),
        ("SELECT name FROM t", "SELECT DISTINCT name FROM t", "wrong"),
        ("SELECT 1 UNION ALL SELECT 1", "SELECT 1", "wrong"),
        ("SELECT 1, 2", "SELECT 1", "wrong"),
        ("SELECT none FROM t", "SELECT NULL FROM t", "right"),
        ("SELECT NULL", "SELECT ''", "wrong"),
        ("SELECT NULL", "SELECT 0", "wrong"),
        ("SELECT 1", "SELECT 1.0", "right"),
        ("SELECT 1", "SELECT '1'", "wrong"),
        ("SELECT 0.3", "SELECT 0.1 + 0.2", "right"),
        ("SELECT 0.0", "SELECT 0.1 + 0.2 - 0.3", "right"),
        ("SELECT 100.0", "SELECT 100.01", "wrong"),
        ("SELECT 9007199254740993", "SELECT 9007199254740992", "wrong"),
        (
            "SELECT 9007199254740993 UNION SELECT 9007199254740992",
            "VALUES (9007199254740993), (9007199254740992)",
            "right",
        ),
        ("SELECT 'a'", "SELECT x'61'", "wrong"),
        (
            "SELECT name, avg(x) FROM t GROUP BY 1",
            "SELECT name, sum(x) / count(*) FROM t GROUP BY 1 ORDER BY 2",
            "right",
        ),
        // Rounding errors in the first column must not change how rows are matched.
        ("VALUES (1.0000000000000002, 2), (1.0, 3)", "VALUES (1.0, 2), (1.0000000000000002, 3)", "right"),
        ("SELECT 1 WHERE 0", "SELECT 2 WHERE 0", "right"),
        ("SELECT 1 WHERE 0", "SELECT 2, 3 WHERE 0", "wrong"),
        ("SELECT 5", "SELECT 9e999", "wrong"),
        ("SELECT 1;", " SELECT 1 -- one", "right"),
        (
            "SELECT 1",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 9) SELECT min(x) FROM c",
            "right",
        ),
    ] {
        assert_eq!(sql(gold, answer), expected, "{gold} | {answer}");
    }
}

#[test]
fn untrusted_sql_can_only_read_and_always_ends() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    let vacuum = format!("VACUUM INTO '{}'", copy.display());
    let attach = format!("ATTACH '{}' AS a", copy.display());
    let nested: String = (1..25)
        .map(|i| format!(", c{i} AS (SELECT DISTINCT a.id FROM c{} a, c{} b)", i - 1, i - 1))
        .collect();
    let nested = format!("WITH c0 AS (SELECT id FROM t){nested} SELECT * FROM c24");
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    let wide = format!("SELECT count(*) FROM t{}", ", t AS z".repeat(70));
    for (answer, expected) in [
        ("", "invalid SQL"),
        (" -- nothing", "invalid SQL"),
        ("SELEC 1", "invalid SQL"),
        ("SELECT absent FROM t", "invalid SQL"),
        ("SELECT 1; SELECT 2", "invalid SQL"),
        ("SELECT 1\0; DROP TABLE t", "invalid SQL"),
        ("\u{1F600}", "invalid SQL"),
        ("SELECT length(randomblob(1000000000))", "invalid SQL"),
        ("SELECT ?", "invalid SQL"),
        (deep.as_str(), "invalid SQL"),
        ("DROP TABLE t", "not a query"),
        ("DELETE FROM t RETURNING id", "not a query"),
        ("CREATE TABLE u (a)", "not a query"),
        (&attach, "not a query"),
        (&vacuum, "not a query"),
        ("VACUUM", "not a query"),
        ("PRAGMA query_only = OFF", "not a query"),
        ("PRAGMA table_info(t)", "not a query"),
        ("BEGIN", "not a query"),
        ("REINDEX", "not a query"),
        ("ANALYZE", "not a query"),
        ("SELECT load_extension('x')", "invalid SQL"),
        ("SELECT * FROM t, t AS b, t AS c", "too many rows"),
        ("SELECT randomblob(200000) FROM t, t AS b", "too many rows"),
        (
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c",
            "ran too long",
        ),
        ("SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h", "ran too long"),
        (
            "SELECT max(x) FROM (SELECT randomblob(200000) AS x FROM t, t AS b ORDER BY random())",
            "out of memory",
        ),
        (&nested, "invalid SQL"),
        (&wide, "invalid SQL"),
    ] {
        let verdict = sqlite::judge(&tables(), "SELECT 1", answer);
        assert_eq!(name(verdict.clone()), expected, "{verdict:?} {answer:.80}");
    }
    assert!(!copy.exists());
    // Earlier queries have no effect on later ones.
    assert_eq!(sql("SELECT count(*) FROM t", "SELECT 200"), "right");
}

#[test]
fn an_answer_is_not_at_fault_for_an_invalid_reference() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.sqlite");
    fs::write(&text, "this is not a database, but long enough to be opened ".repeat(100)).unwrap();
    let judge = |path, gold| name(sqlite::judge(&Database::File(path), gold, "SELECT a FROM t"));
    let starts = |verdict: String, with: &str| assert!(verdict.starts_with(with), "{verdict}");
    starts(judge(directory.path().join("absent"), "SELECT 1"), "not judged: missing database");
    starts(judge(directory.path().to_owned(), "SELECT 1"), "not judged: missing database");
    starts(judge(text, "SELECT a FROM t"), "not judged: corrupt database");
    starts(
        sql("SELECT absent FROM t", "SELECT 1"),
        "not judged: wrong gold SQL: invalid SQL: no such column: absent",
    );
    starts(sql("DROP TABLE t", "SELECT 1"), "not judged: wrong gold SQL: not a query");

    let latin = directory.path().join("latin.sqlite");
    let connection = rusqlite::Connection::open(&latin).unwrap();
    connection
        .execute_batch("CREATE TABLE t (a TEXT); INSERT INTO t VALUES (CAST(x'e96c616e' AS TEXT))")
        .unwrap();
    drop(connection);
    assert_eq!(judge(latin.clone(), "SELECT max(a) FROM t"), "right");
    let before = fs::read(&latin).unwrap();
    assert_eq!(
        name(sqlite::judge(&Database::File(latin.clone()), "SELECT 1", "DELETE FROM t")),
        "not a query"
    );
    assert_eq!(fs::read(&latin).unwrap(), before);
}

fn python(program: &str) -> Verdict {
    python::judge(program, Duration::from_secs(8))
}

fn assert_python(program: &str, expected: &str) {
    let verdict = python(program);
    assert_eq!(name(verdict.clone()), expected, "{verdict:?} of\n{program}");
}

#[test]
fn programs_are_judged_by_their_tests() {
    assert_python("def f(x):\n    return x + 1\nassert f(1) == 2", "right");
    assert_python("assert 1 == 2", "wrong");
    assert_python("1 / 0", "raised an error");
    assert_python("def f(:", "raised an error");
    assert_python("x = '\0'", "raised an error");
    assert_python("def f(n):\n    return f(n + 1)\nf(0)", "raised an error");
    assert_python(
        "class E(Exception):\n    def __str__(self):\n        raise self\nraise E()",
        "raised an error",
    );
    assert_python("input()", "raised an error");
    assert_python("print('x' * 50_000_000)\nimport sys; sys.stderr.write('x' * 50_000_000)", "right");
    assert_python(&format!("# {}\nassert True", "é".repeat(200_000)), "right");
    assert_python(
        "import hashlib, json, datetime, random, heapq, decimal, functools\nrandom.random()",
        "right",
    );
    assert_python("import threading\nt = threading.Thread(target=print)\nt.start(); t.join()", "right");
    assert_python("assert list({'a', 'b', 'c', 'd'}) == list({'a', 'b', 'c', 'd'})", "right");
}

#[test]
fn a_program_that_ends_early_does_not_pass() {
    assert_python("import sys; sys.exit(0)", "raised an error");
    assert_python("import os; os._exit(0)", "ended early");
    assert_python(
        "import os\nos.write(1, b'right \\n'); os.write(3, b'right \\n'); os._exit(0)",
        "ended early",
    );
    assert_python("import os, ctypes\nctypes.string_at(0)", "ended early");
    // The judge does not wait for a program that closed its output.
    assert_python("import os, time\nos.closerange(0, 32)\ntime.sleep(60)", "ended early");
    // The judge stops reading endless output.
    assert_python("import os\nwhile True:\n    os.write(3, b'x' * 65536)", "ended early");
}

#[test]
fn time_and_memory_are_bounded() {
    let short = |program| name(python::judge(program, Duration::from_millis(700)));
    assert_eq!(short("while True:\n    pass"), "ran too long");
    assert_eq!(short("import time; time.sleep(60)"), "ran too long");
    assert_eq!(short("try:\n    while True:\n        pass\nexcept BaseException:\n    pass"), "ran too long");
    assert_python("x = [0] * 10**10", "out of memory");
    assert_python("x = []\nwhile True:\n    x.append(bytes(10**7))", "out of memory");
}

#[test]
fn the_sandbox_refuses_every_side_effect() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    let (kept_path, new) = (kept.display(), directory.path().join("new"));
    let new_path = new.display();
    for action in [
        "os.fork()".to_owned(),
        "import subprocess; subprocess.run(['true'])".to_owned(),
        "os.posix_spawn('/bin/true', ['true'], {})".to_owned(),
        "import socket; socket.socket()".to_owned(),
        "import socket; socket.socketpair()".to_owned(),
        format!("open({new_path:?}, 'w')", new_path = new_path.to_string()),
        format!("open('{kept_path}', 'a')"),
        format!("open('{kept_path}', 'r+')"),
        format!("os.open('{kept_path}', os.O_RDONLY | os.O_TRUNC)"),
        format!("os.open('{}', os.O_TMPFILE | os.O_RDWR)", directory.path().display()),
        format!("os.unlink('{kept_path}')"),
        format!("os.rename('{kept_path}', '{new_path}')"),
        format!("os.link('{kept_path}', '{new_path}')"),
        format!("os.symlink('{kept_path}', '{new_path}')"),
        format!("os.truncate('{kept_path}', 0)"),
        format!("os.chmod('{kept_path}', 0)"),
        format!("os.utime('{kept_path}')"),
        format!("os.mkdir('{new_path}')"),
        format!("os.mkfifo('{new_path}')"),
        "os.kill(os.getppid(), 0)".to_owned(),
        "os.setsid()".to_owned(),
        "os.nice(-5)".to_owned(),
        "os.memfd_create('x')".to_owned(),
        "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))".to_owned(),
        "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())".to_owned(),
    ] {
        assert_python(&format!("import os\n{action}"), "refused by the sandbox");
    }
    assert_python(&format!("assert open('{kept_path}').read() == 'kept'"), "right");
    // A program executed in place of Python is under the same limits and cannot pass a test.
    assert_python(
        &format!("import os\nos.execv('/bin/sh', ['sh', '-c', 'echo x > {new_path}'])"),
        "ended early",
    );
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    assert!(!new.exists());
}
