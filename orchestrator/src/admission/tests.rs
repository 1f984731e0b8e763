use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tandem_decoding::TokenId;
use tandem_serving::SourceFile;

use super::*;

const ALICE: &str = "alices-key-of-24-letters";
const BOB: &str = "bobs-key-is-only-a-hash!";

fn hex(key: &str) -> String {
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn access(dir: &Path, text: &str) -> Access {
    let path = dir.join("keys");
    std::fs::write(&path, text).unwrap();
    Access { keys: Some(Keys::load(path).unwrap()), log_prompts: false }
}

fn call(access: &Access, key: &str) -> Result<ClientIdentity, KeyError> {
    access.identify(Some(format!("Bearer {key}").as_bytes()), None)
}

fn refusal<T>(result: Result<T, KeyError>) -> KeyError {
    result.err().expect("was admitted")
}

#[test]
fn only_the_keys_of_the_file_are_known_plain_or_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("# who\n\nalice {ALICE} concurrent=2\n  bob\tsha256:{}\n", hex(BOB).to_uppercase());
    let access = access(dir.path(), &text);
    assert_eq!(call(&access, ALICE).unwrap().name(), "alice");
    assert_eq!(call(&access, BOB).unwrap().name(), "bob");
    assert_eq!(access.identify(Some(format!("bEARER {BOB}").as_bytes()), None).unwrap().name(), "bob");

    assert_eq!(refusal(access.identify(None, None)), KeyError::Missing);
    let long = "x".repeat(100_000);
    for header in
        ["", "Bearer", "Bearer ", "Bearer  two spaces is two", "Basic YWxpY2U6YWxpY2U=", "é", ALICE, &long]
    {
        assert_eq!(
            refusal(access.identify(Some(header.as_bytes()), None)),
            KeyError::Malformed,
            "{header:.40}"
        );
    }
    assert_eq!(refusal(call(&access, &long)), KeyError::Malformed);
    assert_eq!(
        refusal(access.identify(Some(b"Bearer \xff\xfe\xfd but long enough"), None)),
        KeyError::Malformed
    );
    let almost =
        ["alices-key-of-24-letterz", "Alices-key-of-24-letters", &hex(BOB), &format!("sha256:{}", hex(BOB))];
    for key in almost {
        assert_eq!(refusal(call(&access, key)), KeyError::Unknown, "{key}");
    }
    let refused = refusal(call(&access, almost[0]));
    assert!(refused.is_unauthenticated());
    assert!(!refused.to_string().contains(almost[0]));
}

#[test]
fn without_a_file_every_client_is_admitted_without_limits() {
    let client = Access::default().identify(None, Some([10, 0, 0, 1].into())).unwrap();
    assert_eq!((client.name(), client.address()), ("anonymous", Some([10, 0, 0, 1].into())));
    let mut reservations: Vec<_> = (0..100).map(|_| client.reserve(1).unwrap()).collect();
    reservations[0].reserve(usize::MAX, usize::MAX).unwrap();
    reservations[0].spend(usize::MAX);
}

/// The comparison itself takes the same time for all bytes (subtle); here: that each key is compared, wherever the right one is.
#[test]
fn a_wrong_key_takes_as_long_as_a_right_one() {
    let keys: Vec<[u8; 32]> = (0..100u8).map(|i| [i; 32]).collect();
    for wanted in [0, 57, 99, 200] {
        let mut compared = 0;
        let found = file::position(keys.iter().inspect(|_| compared += 1), &[wanted; 32]);
        assert_eq!(compared, 100);
        assert_eq!(keys.get(found), keys.get(usize::from(wanted)));
    }
}

#[test]
fn a_broken_file_is_refused_by_line_and_its_keys_are_not_shown() {
    let bad = |text: &str| {
        let file = SourceFile { path: "keys".into(), bytes: text.as_bytes().to_vec() };
        Table::read(&file, None).err().unwrap_or_else(|| panic!("accepted {text:?}")).to_string()
    };
    let cases = [
        ("", "has no key"),
        ("# nothing\n", "has no key"),
        ("alice", "line 1: no key"),
        ("\nalice short-secret", "line 2: a key must have 16"),
        ("alice sha256:12", "64 hexadecimal"),
        (&format!("alice sha256:{}", "g".repeat(64)), "64 hexadecimal"),
        (&format!("al/ice {ALICE}"), "the name"),
        (&format!("alice = {ALICE}"), "a key must have"),
        (&format!("alice {ALICE} concurrent=0"), "concurrent=N"),
        (&format!("alice {ALICE} concurent=1"), "concurrent=N"),
        (&format!("alice {ALICE} tokens_per_minute=-1"), "concurrent=N"),
        (&format!("alice {ALICE}\nalice {BOB}"), "line 2: the name"),
        (&format!("alice {ALICE}\nbob sha256:{}", hex(ALICE)), "line 2: the key"),
    ];
    for (text, expected) in cases {
        let error = bad(text);
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        assert!(!error.contains("secret") && !error.contains(ALICE) && !error.contains(BOB), "{error}");
    }
}

#[test]
fn no_debug_output_has_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path(), &format!("alice {ALICE}"));
    let client = call(&access, ALICE).unwrap();
    let shown = format!("{access:?} {client:?}");
    assert!(shown.contains("alice") && shown.contains("path"), "{shown}");
    assert!(!shown.contains(ALICE) && !shown.contains(&hex(ALICE)), "{shown}");
}

/// What is logged while `work` runs.
fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn prompts_are_logged_only_on_request_and_keys_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut access = access(dir.path(), &format!("alice {ALICE}"));
    let ask = |access: &Access| {
        let client = call(access, ALICE).unwrap();
        access.log_prompt(&client, &Input::Text("my secret plan".into()));
        access.log_prompt(&client, &Input::Tokens(vec![TokenId(4711)]));
        refusal(call(access, "alices-key-of-24-letterz"));
    };
    assert_eq!(logged(|| ask(&access)), "");
    access.log_prompts = true;
    let log = logged(|| ask(&access));
    assert!(log.contains("my secret plan") && log.contains("4711") && log.contains("alice"), "{log}");
    assert!(!log.contains("alices-key"), "{log}");
}

#[test]
fn each_key_has_its_own_limit_of_generations_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path(), &format!("alice {ALICE} concurrent=2\nbob {BOB} concurrent=1"));
    let alice = call(&access, ALICE).unwrap();
    let too_many = refusal(alice.reserve(3));
    assert_eq!(too_many, KeyError::TooMany { name: "alice".into(), limit: 2, requested: 3 });
    assert_eq!(too_many.retry_after(), None);
    drop(alice.reserve(2).unwrap());
    let held = [alice.reserve(1).unwrap(), call(&access, ALICE).unwrap().reserve(1).unwrap()];
    let refused = refusal(alice.reserve(1));
    assert_eq!(refused, KeyError::Busy { name: "alice".into(), limit: 2 });
    assert!(refused.retry_after().is_some());
    let bob = call(&access, BOB).unwrap().reserve(1).unwrap();
    drop(held);
    drop((alice.reserve(1).unwrap(), bob));
}

#[tokio::test(start_paused = true)]
async fn tokens_per_minute_are_reserved_given_back_and_refilled() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path(), &format!("alice {ALICE} tokens_per_minute=600"));
    let alice = call(&access, ALICE).unwrap();
    let mut first = alice.reserve(1).unwrap();
    first.reserve(100, 300).unwrap();
    // 200 are left, although nothing was written yet.
    let mut second = alice.reserve(1).unwrap();
    let KeyError::Spent { limit: 600, needed: 201, retry_after, .. } = refusal(second.reserve(1, 200)) else {
        panic!("another refusal");
    };
    assert!(
        retry_after.as_millis() >= 100 && retry_after.as_millis() <= 102,
        "a token is a tenth of a second"
    );
    second.reserve(1, 199).unwrap();
    drop(second); // It used the prompt's token: 199 come back.
    first.spend(50);
    drop(first); // 250 come back: 449.
    let mut third = alice.reserve(1).unwrap();
    assert!(third.reserve(450, 0).is_err());
    tokio::time::advance(Duration::from_millis(150)).await;
    third.reserve(450, 0).unwrap();
    drop(third);
    // After any pause the bucket holds at most the tokens of one minute.
    tokio::time::advance(Duration::from_secs(3600)).await;
    let mut long = alice.reserve(1).unwrap();
    // More than a minute's can begin, if nothing else runs; what is beyond is taken as it comes.
    long.reserve(500, 10_000).unwrap();
    long.spend(700);
    drop(long);
    let KeyError::Spent { retry_after, .. } = refusal(alice.reserve(1).unwrap().reserve(1, 0)) else {
        panic!("another refusal");
    };
    // 600 owed, and one.
    assert!((60.0..60.2).contains(&retry_after.as_secs_f64()), "{retry_after:?}");
    tokio::time::advance(retry_after).await;
    alice.reserve(1).unwrap().reserve(1, 0).unwrap();
}

#[test]
fn a_changed_file_takes_effect_and_usage_stays() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path(), &format!("alice {ALICE} concurrent=1"));
    let keys = access.keys.clone().unwrap();
    let alice = call(&access, ALICE).unwrap();
    let held = alice.reserve(1).unwrap();

    // Another key and another limit of hers: what runs still counts.
    let other = "alices-next-key-is-this";
    std::fs::write(dir.path().join("keys"), format!("alice {other} concurrent=2\nbob {BOB}")).unwrap();
    assert!(keys.table.refresh().unwrap());
    assert_eq!(refusal(call(&access, ALICE)), KeyError::Unknown);
    let alice = call(&access, other).unwrap();
    let second = alice.reserve(1).unwrap();
    assert!(alice.reserve(1).is_err());
    drop((held, second));

    std::fs::write(dir.path().join("keys"), "alice").unwrap();
    assert!(keys.table.refresh().is_err());
    assert_eq!(call(&access, other).unwrap().name(), "alice", "a broken file changes nothing");
}

#[tokio::test(start_paused = true)]
async fn several_sequences_share_what_their_request_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, format!("alice {ALICE} tokens_per_minute=600\n")).unwrap();
    let access = Access { keys: Some(Keys::load(path).unwrap()), log_prompts: false };
    let alice = call(&access, ALICE).unwrap();
    // Together they need more than a minute's tokens, and begin all the same.
    let mut reservation = alice.reserve(2).unwrap();
    reservation.reserve(200, 1000).unwrap();
    let mut sequences = reservation.split(&[(100, 500), (100, 500)]);
    assert!(alice.reserve(1).unwrap().reserve(1, 0).is_err());
    sequences[0].spend(50);
    drop(sequences);
    // 250 of 600 were used; a refusal costs nothing.
    assert!(alice.reserve(1).unwrap().reserve(351, 0).is_err());
    alice.reserve(1).unwrap().reserve(350, 0).unwrap();
}
