//! The merges of a vocabulary with scores.
//!
//! SentencePiece and llama.cpp merge the pair whose token has the highest score, and the leftmost of several. A
//! `tokenizer.json` has a list of pairs instead, of which no two are equal. Both give the same tokens where no
//! two tokens have one score. Of equal ones only runs of one character are known to: those of llama.cpp grow from
//! the left, and so do ours if the pair with the longest left side is first.

use std::collections::HashMap;

/// Bytes of a token, at most: a token of n characters may have n - 1 merges.
const MAX_TOKEN_BYTES: usize = 1024;
/// Bytes of all merges, at most. The known vocabularies have a tenth.
const MAX_MERGE_BYTES: usize = 64 << 20;

/// A token that pairs of others may be merged to.
#[derive(Clone, Copy)]
pub(super) struct Scored<'a> {
    pub(super) text: &'a str,
    pub(super) score: f32,
    /// Whether it comes from merges alone. Others are found in a text before, or stand for bytes.
    pub(super) only_merged: bool,
}

/// Two tokens that together are a third one.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
}

/// Every pair of tokens that together are a token, the first to merge first. The error says why they cannot be
/// listed.
pub(super) fn merges_by_score<'a>(
    tokens: impl Iterator<Item = Scored<'a>>,
    is_token: impl Fn(&str) -> bool,
) -> Result<Vec<(&'a str, &'a str)>, String> {
    let mut merges = Vec::new();
    let mut merged = Vec::new();
    let mut bytes = 0;
    for token in tokens {
        let Scored { text, score, only_merged } = token;
        if text.len() > MAX_TOKEN_BYTES {
            return Err(format!("a token has {} bytes, and {MAX_TOKEN_BYTES} are supported", text.len()));
        }
        let before = merges.len();
        let pairs = splits(text).filter(|(left, right)| is_token(left) && is_token(right));
        merges.extend(pairs.map(|(left, right)| Merge { left, right, score }));
        let ways = merges.len() - before;
        bytes += ways * text.len();
        if bytes > MAX_MERGE_BYTES {
            return Err(format!("its tokens can be merged from others in more than {} ways", merges.len()));
        }
        if only_merged && ways > 0 {
            merged.push(token);
        }
    }
    check_equal_scores(merged)?;
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.left.len().cmp(&a.left.len())));
    Ok(merges.into_iter().map(|merge| (merge.left, merge.right)).collect())
}

/// A text in two parts, in every way.
fn splits(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).filter_map(|(at, _)| text.split_at_checked(at))
}

/// Refuses two tokens of one score, unless they and all runs of their character are runs of that score.
fn check_equal_scores(mut merged: Vec<Scored<'_>>) -> Result<(), String> {
    merged.sort_by(|a, b| a.score.total_cmp(&b.score));
    let mut scores_of_runs: HashMap<char, f32> = HashMap::new();
    let mut several_scores = Vec::new();
    for token in &merged {
        let Some(character) = run(token.text) else { continue };
        if *scores_of_runs.entry(character).or_insert(token.score) != token.score {
            several_scores.push(character);
        }
    }
    for equal in merged.chunk_by(|a, b| a.score == b.score) {
        let [first, .., last] = equal else { continue };
        let runs = run(first.text).filter(|character| !several_scores.contains(character));
        let other =
            equal.iter().find(|token| run(token.text).is_none_or(|character| Some(character) != runs));
        if let Some(other) = other {
            let (one, two) = if other.text == first.text { (first, last) } else { (first, other) };
            return Err(format!(
                "tokens {:?} and {:?} have the same score, so the order of merges depends on the text",
                one.text, two.text
            ));
        }
    }
    Ok(())
}

/// The character of which `text` is a run.
fn run(text: &str) -> Option<char> {
    let mut characters = text.chars();
    let first = characters.next()?;
    characters.all(|character| character == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::json;
    use tokenizers::Tokenizer;

    use super::*;

    type Vocabulary = BTreeMap<String, f32>;

    fn merges(vocabulary: &Vocabulary) -> Result<Vec<(&str, &str)>, String> {
        let tokens = vocabulary.iter().map(|(text, &score)| Scored { text, score, only_merged: true });
        merges_by_score(tokens, |text| vocabulary.contains_key(text))
    }

    /// The tokens of `text` by the list of merges.
    fn by_list(vocabulary: &Vocabulary, text: &str) -> Vec<String> {
        let ids: BTreeMap<&str, usize> = vocabulary.keys().map(String::as_str).zip(0..).collect();
        let model = json!({ "type": "BPE", "vocab": ids, "merges": merges(vocabulary).unwrap() });
        let tokenizer = Tokenizer::from_bytes(json!({ "model": model }).to_string()).unwrap();
        tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
    }

    /// The tokens of `text` by the rule: the pair with the highest score, and of several the leftmost.
    fn by_rule(vocabulary: &Vocabulary, text: &str) -> Vec<String> {
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for (at, pair) in symbols.windows(2).enumerate() {
                let score = vocabulary.get(&pair.concat()).copied();
                if let Some(score) = score.filter(|score| best.is_none_or(|(highest, _)| *score > highest)) {
                    best = Some((score, at));
                }
            }
            let Some((_, at)) = best else { return symbols };
            let right = symbols.remove(at + 1);
            symbols[at].push_str(&right);
        }
    }

    /// The characters a, b and c, and tokens that are two others, all of different scores.
    fn vocabularies() -> impl Strategy<Value = Vocabulary> {
        let pair = (any::<Index>(), any::<Index>());
        let texts = proptest::collection::vec(pair, 1..16).prop_map(|pairs| {
            let mut texts = vec!["a".to_owned(), "b".into(), "c".into()];
            for (left, right) in pairs {
                let text = [left.get(&texts).as_str(), right.get(&texts).as_str()].concat();
                if text.len() <= 8 && !texts.contains(&text) {
                    texts.push(text);
                }
            }
            texts
        });
        texts.prop_shuffle().prop_map(|texts| texts.into_iter().zip((0u8..).map(f32::from)).collect())
    }

    proptest! {
        #[test]
        fn a_list_of_merges_gives_the_tokens_of_the_rule(vocabulary in vocabularies(), text in "[abc]{1,30}") {
            prop_assert_eq!(by_list(&vocabulary, &text), by_rule(&vocabulary, &text));
        }

        #[test]
        fn runs_of_one_score_grow_from_the_left(longest in 2usize..12, score in -3f32..3.0, text in "[ab]{1,40}") {
            let mut vocabulary: Vocabulary = (1..=longest).map(|n| ("a".repeat(n), score)).collect();
            vocabulary.extend([("b".to_owned(), 0.0), ("ab".into(), 4.0), ("ba".into(), -4.0)]);
            prop_assert_eq!(by_list(&vocabulary, &text), by_rule(&vocabulary, &text));
        }
    }

    #[test]
    fn tokens_of_one_score_are_refused_unless_they_are_all_runs_of_a_character() {
        let vocabulary = |tokens: &[(&str, f32)]| -> Vocabulary {
            tokens.iter().map(|&(text, score)| (text.to_owned(), score)).collect()
        };
        let characters = [("a", -9.0), ("b", -9.0)];
        let with = |more: &[(&str, f32)]| vocabulary(&[&characters, more].concat());
        assert!(merges(&with(&[("aa", 1.0), ("aaa", 1.0), ("ab", 2.0)])).is_ok());
        let error = merges(&with(&[("ab", 1.0), ("ba", 1.0)])).unwrap_err();
        assert!(error.contains("\"ab\" and \"ba\" have the same score"), "{error}");
        assert!(merges(&with(&[("aa", 1.0), ("bb", 1.0)])).is_err());
        assert!(merges(&with(&[("aa", 1.0), ("aaa", 1.0), ("aaaa", 2.0)])).is_err());
        // No pair is merged to it.
        assert!(merges(&with(&[("ab", 1.0), ("xy", 1.0)])).is_ok());
    }
}
