//! Whether a draft's tokens mean what its target's mean.
//!
//! A draft only proposes, so that a token which it lacks or names differently never makes a text wrong. But where the same id stands for
//! different text, a draft is of no use.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;
use tokenizers::Tokenizer;

/// Words in the names of tokens that vocabularies keep free for later use.
const UNUSED: [&str; 2] = ["unused", "reserved"];

/// The tokens of a tokenizer by their ids.
pub struct TokenTable(BTreeMap<u32, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Part of the model's own vocabulary.
    Ordinary,
    /// Added to it.
    Added,
    /// Added to it, and no text.
    Special,
}

/// A model and its tokens.
pub struct ModelVocabulary<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Its tokens.
    pub tokens: &'a TokenTable,
    /// Number of rows of its embedding: it can read the tokens below.
    pub rows: u32,
}

/// How the vocabulary of a draft that can be used differs from its target's. The text is what a log says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VocabularyDifferences {
    /// Special tokens that have another name.
    renamed: Example,
    /// Tokens that only the target's tokenizer has, and that the draft can read.
    lacking: Example,
    /// Tokens for which the draft has no embedding.
    unreadable: Example,
    /// Tokens that only the draft's tokenizer has.
    unknown: Example,
}

/// A number of tokens, and a description of the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Example {
    count: usize,
    first: String,
}

/// The first token for which a draft cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum VocabularyMismatch {
    #[error("token {id} is {in_target:?} in the target {target}, but {in_draft:?} in the draft {draft}")]
    OtherText { id: u32, target: String, in_target: String, draft: String, in_draft: String },
    #[error(
        "token {id}, {text:?} in the target {target}, does not exist in the draft {draft}, whose embedding has {rows} rows"
    )]
    NoEmbedding { id: u32, target: String, text: String, draft: String, rows: u32 },
}

/// Compares the vocabularies of a target and a draft, id by id.
///
/// # Errors
/// If the draft cannot be used: an id stands for different text, or the draft cannot read a token that a text may have.
pub fn compare_vocabularies(
    target: &ModelVocabulary<'_>,
    draft: &ModelVocabulary<'_>,
) -> Result<VocabularyDifferences, VocabularyMismatch> {
    let mut differences = VocabularyDifferences::default();
    // A target never emits an id that its own embedding has no row for.
    for (&id, in_target) in target.tokens.0.range(..target.rows) {
        let in_draft = draft.tokens.0.get(&id);
        if id >= draft.rows {
            if !in_target.is_out_of_use() {
                return Err(no_embedding(id, in_target, target, draft));
            }
            differences.unreadable.add(|| format!("{id} {:?}", in_target.text));
        } else if let Some(in_draft) = in_draft.filter(|entry| entry.text != in_target.text) {
            if !in_target.may_be_renamed(in_draft) {
                return Err(other_text(id, in_target, target, in_draft, draft));
            }
            differences.renamed.add(|| format!("{id} is {:?}, not {:?}", in_draft.text, in_target.text));
        } else if in_draft.is_none() {
            differences.lacking.add(|| format!("{id} {:?}", in_target.text));
        }
    }
    for (id, in_draft) in draft.tokens.0.iter().filter(|(id, _)| !target.tokens.0.contains_key(id)) {
        differences.unknown.add(|| format!("{id} {:?}", in_draft.text));
    }
    Ok(differences)
}

fn other_text(
    id: u32,
    in_target: &Entry,
    target: &ModelVocabulary<'_>,
    in_draft: &Entry,
    draft: &ModelVocabulary<'_>,
) -> VocabularyMismatch {
    VocabularyMismatch::OtherText {
        id,
        target: target.model.to_owned(),
        in_target: in_target.text.clone(),
        draft: draft.model.to_owned(),
        in_draft: in_draft.text.clone(),
    }
}

fn no_embedding(
    id: u32,
    in_target: &Entry,
    target: &ModelVocabulary<'_>,
    draft: &ModelVocabulary<'_>,
) -> VocabularyMismatch {
    VocabularyMismatch::NoEmbedding {
        id,
        target: target.model.to_owned(),
        text: in_target.text.clone(),
        draft: draft.model.to_owned(),
        rows: draft.rows,
    }
}

impl TokenTable {
    /// The tokens of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not valid; the text says why.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        Tokenizer::from_bytes(json).map(|tokenizer| Self::new(&tokenizer)).map_err(|error| error.to_string())
    }

    /// The tokens of `tokenizer`, added ones included.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let ordinary = tokenizer.get_vocab(false).into_iter();
        let mut entries: BTreeMap<u32, Entry> =
            ordinary.map(|(text, id)| (id, Entry { text, kind: Kind::Ordinary })).collect();
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            let kind = if token.special { Kind::Special } else { Kind::Added };
            entries.insert(id, Entry { text: token.content, kind });
        }
        Self(entries)
    }

    /// One more than the largest id.
    pub fn size(&self) -> u32 {
        self.0.last_key_value().map_or(0, |(&id, _)| id.saturating_add(1))
    }
}

impl Entry {
    /// Whether both control the conversation instead of being text of it: such tokens are added, and at least one of the two is
    /// marked as special.
    fn may_be_renamed(&self, other: &Self) -> bool {
        let kinds = [self.kind, other.kind];
        kinds.contains(&Kind::Special) && !kinds.contains(&Kind::Ordinary)
    }

    /// Whether ordinary text does not have the token.
    fn is_out_of_use(&self) -> bool {
        let name = self.text.to_lowercase();
        self.kind == Kind::Special || UNUSED.iter().any(|word| name.contains(word))
    }
}

impl Example {
    fn add(&mut self, describe: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = describe();
        }
        self.count += 1;
    }
}

impl VocabularyDifferences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for VocabularyDifferences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (&self.renamed, "named differently"),
            (&self.lacking, "that the draft lacks, so that it does not propose them"),
            (&self.unreadable, "that the draft cannot read: a sequence goes on without it from there"),
            (&self.unknown, "that only the draft has"),
        ];
        let mut separator = "";
        for (example, what) in kinds.into_iter().filter(|(example, _)| example.count > 0) {
            let tokens = if example.count == 1 { "token" } else { "tokens" };
            write!(f, "{separator}{} {tokens} {what} (the first: {})", example.count, example.first)?;
            separator = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens `a`, `b` and so on with the ids from 0 on, and added tokens with the ids after them; a `!` marks special ones.
    fn table(ordinary: usize, added: &[&str]) -> TokenTable {
        let letters = ('a'..='z').take(ordinary).map(|letter| (letter.to_string(), Kind::Ordinary));
        let added = added.iter().map(|name| match name.strip_prefix('!') {
            Some(special) => (special.to_owned(), Kind::Special),
            None => ((*name).to_owned(), Kind::Added),
        });
        TokenTable(
            (0..).zip(letters.chain(added)).map(|(id, (text, kind))| (id, Entry { text, kind })).collect(),
        )
    }

    fn compare(
        target: (&TokenTable, u32),
        draft: (&TokenTable, u32),
    ) -> Result<VocabularyDifferences, VocabularyMismatch> {
        compare_vocabularies(
            &ModelVocabulary { model: "acme/large", tokens: target.0, rows: target.1 },
            &ModelVocabulary { model: "acme/small", tokens: draft.0, rows: draft.1 },
        )
    }

    #[test]
    fn equal_vocabularies_do_not_differ_whatever_the_padding() {
        let tokens = table(4, &["!<s>"]);
        assert!(compare((&tokens, 8), (&tokens, 5)).unwrap().is_empty());
        assert!(compare((&tokens, 5), (&tokens, 8)).unwrap().is_empty());
        assert_eq!(tokens.size(), 5);
    }

    #[test]
    fn the_first_token_of_other_text_is_named() {
        let mut other = table(4, &["!<s>"]);
        other.0.get_mut(&2).unwrap().text = "ç".into();
        other.0.get_mut(&3).unwrap().text = "e".into();
        let error = compare((&table(4, &["!<s>"]), 8), (&other, 8)).unwrap_err();
        let expected = "token 2 is \"c\" in the target acme/large, but \"ç\" in the draft acme/small";
        assert_eq!(error.to_string(), expected);
        // An added token is text here, and a special one is not.
        assert!(compare((&table(4, &["!<s>"]), 8), (&table(5, &[]), 8)).is_err());
        assert!(compare((&table(4, &["  "]), 8), (&table(4, &["   "]), 8)).is_err());
    }

    #[test]
    fn special_tokens_may_have_other_names() {
        let differences =
            compare((&table(4, &["!<s>", "<think>"]), 8), (&table(4, &["!<bos>", "!<box>"]), 8)).unwrap();
        let expected = "2 tokens named differently (the first: 4 is \"<bos>\", not \"<s>\")";
        assert_eq!(differences.to_string(), expected);
    }

    #[test]
    fn a_draft_may_lack_tokens_that_it_can_read() {
        let differences = compare((&table(4, &["!<s>"]), 8), (&table(3, &[]), 5)).unwrap();
        let expected = "2 tokens that the draft lacks, so that it does not propose them (the first: 3 \"d\")";
        assert_eq!(differences.to_string(), expected);
    }

    #[test]
    fn a_draft_may_lack_embeddings_only_of_tokens_out_of_use() {
        let target = table(3, &["!<|end|>", "<unused0>"]);
        let differences = compare((&target, 8), (&table(3, &[]), 3)).unwrap();
        let expected = "2 tokens that the draft cannot read: a sequence goes on without it from there \
                        (the first: 3 \"<|end|>\")";
        assert_eq!(differences.to_string(), expected);
        let error = compare((&table(3, &["!<|end|>", "<think>"]), 8), (&table(3, &[]), 3)).unwrap_err();
        let expected = "token 4, \"<think>\" in the target acme/large, does not exist in the draft acme/small, \
                        whose embedding has 3 rows";
        assert_eq!(error.to_string(), expected);
        // The target itself has no embedding for it.
        assert!(compare((&table(4, &[]), 3), (&table(3, &[]), 3)).unwrap().is_empty());
    }

    #[test]
    fn tokens_that_only_the_draft_has_are_harmless() {
        let differences = compare((&table(3, &[]), 8), (&table(3, &["!<pad>"]), 8)).unwrap();
        let expected = "1 token that only the draft has (the first: 3 \"<pad>\")";
        assert_eq!(differences.to_string(), expected);
    }

    #[test]
    fn added_tokens_take_the_place_of_ordinary_ones() {
        let tokenizer = Tokenizer::from_bytes(
            r#"{"added_tokens":[{"id":1,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
                "normalized":false,"special":true}],"model":{"type":"BPE","vocab":{"a":0,"<s>":1,"c":9},"merges":[]}}"#,
        )
        .unwrap();
        let tokens = TokenTable::new(&tokenizer);
        let kinds: Vec<_> =
            tokens.0.iter().map(|(id, entry)| (*id, entry.text.as_str(), entry.kind)).collect();
        assert_eq!(kinds, [(0, "a", Kind::Ordinary), (1, "<s>", Kind::Special), (9, "c", Kind::Ordinary)]);
        assert_eq!(tokens.size(), 10);
    }
}
