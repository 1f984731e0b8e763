//! The pieces of any sequence of tokens make up what its tokenizer decodes the whole sequence to.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, TestRunner};
use tandem_decoding::TokenId;
use tokenizers::Tokenizer;

use super::incremental::REPLACEMENT;
use super::{Piece, TextStream};

/// Tokens of the tokenizers below that are text.
const WORDS: [&str; 14] =
    ["▁", "▁▁", "▁is", "▁the", "a", "ab", "é", "日", "😀", "\u{FFFD}", ".", "##s", "", "<tool call>"];
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// The decoder of Llama 2 and Mistral.
const STRIPPING: &str = r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
    {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#;
/// The decoder of Gemma.
const FUSING: &str = r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
    {"type":"ByteFallback"},{"type":"Fuse"}]}"#;
const METASPACE: &str = r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#;
const WORD_PIECE: &str = r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###;

/// A tokenizer with the tokens above and one for each byte.
fn synthetic(decoder: &str) -> Tokenizer {
    let bytes = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"));
    let names = SPECIAL.into_iter().chain(WORDS).map(str::to_owned).chain(bytes);
    let vocab: Vec<String> = names.enumerate().map(|(id, name)| format!("\"{name}\":{id}")).collect();
    let special = SPECIAL.iter().enumerate().map(|(id, name)| added(id, name, true));
    let tool = added(SPECIAL.len() + WORDS.len() - 1, WORDS[WORDS.len() - 1], false);
    let added: Vec<String> = special.chain([tool]).collect();
    let json = format!(
        r#"{{"added_tokens":[{}],"decoder":{decoder},
            "model":{{"type":"BPE","unk_token":"<unk>","byte_fallback":true,"vocab":{{{}}},"merges":[]}}}}"#,
        added.join(","),
        vocab.join(",")
    );
    Tokenizer::from_bytes(json).unwrap()
}

fn added(id: usize, name: &str, special: bool) -> String {
    format!(
        r#"{{"id":{id},"content":"{name}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
            "special":{special}}}"#
    )
}

/// A tokenizer like that of Llama 2.
pub(super) fn sentence_piece() -> Tokenizer {
    synthetic(STRIPPING)
}

/// The ids of tokens.
pub(super) fn ids(tokenizer: &Tokenizer, tokens: &[&str]) -> Vec<TokenId> {
    tokens.iter().map(|token| TokenId(tokenizer.token_to_id(token).unwrap())).collect()
}

/// The demo pair's tokenizer.
fn byte_level() -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/target/tokenizer.json");
    Tokenizer::from_file(path).unwrap()
}

/// The token of a byte.
fn byte_token(tokenizer: &Tokenizer, byte: u8) -> u32 {
    let fallback = tokenizer.token_to_id(&format!("<0x{byte:02X}>"));
    fallback.unwrap_or_else(|| byte_level_token(tokenizer, byte))
}

/// The token of a byte in the alphabet of GPT-2.
fn byte_level_token(tokenizer: &Tokenizer, byte: u8) -> u32 {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let left_over = (0..byte).filter(|&before| !is_printable(before)).count() as u32;
    let code = if is_printable(byte) { u32::from(byte) } else { 0x100 + left_over };
    tokenizer.token_to_id(&char::from_u32(code).unwrap().to_string()).unwrap()
}

/// Whether the decoder makes characters of tokens like `<0x41>`.
fn has_byte_fallback(tokenizer: &Tokenizer) -> bool {
    tokenizer.token_to_id("<0x41>").is_some_and(|id| decode(tokenizer, &[id]) == "A")
}

/// The byte that a token is by byte fallback.
fn fallback_byte(tokenizer: &Tokenizer, id: u32) -> Option<u8> {
    let token = tokenizer.id_to_token(id).filter(|_| has_byte_fallback(tokenizer))?;
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// The ids of `tokenizer` that are skipped; one of them does not exist.
fn skipped(tokenizer: &Tokenizer) -> Vec<u32> {
    let added = tokenizer.get_added_tokens_decoder().into_iter();
    added.filter(|(_, token)| token.special).map(|(id, _)| id).chain([u32::MAX]).collect()
}

/// Ids of tokens that are text; for a byte-level tokenizer, of any token.
fn words(tokenizer: &Tokenizer) -> Vec<u32> {
    let is_synthetic = tokenizer.token_to_id("<0x00>").is_some();
    match is_synthetic {
        true => WORDS.iter().map(|word| tokenizer.token_to_id(word).unwrap()).collect(),
        false => tokenizer.get_vocab(true).into_values().collect(),
    }
}

/// The byte tokens of `encoded`.
fn byte_tokens(tokenizer: &Tokenizer, encoded: &[u8]) -> Vec<u32> {
    encoded.iter().map(|&byte| byte_token(tokenizer, byte)).collect()
}

fn characters(tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    let characters = ["é", "日", "😀", "\n", " ", "a", "\u{10FFFF}", "\u{800}"];
    characters.iter().map(|character| byte_tokens(tokenizer, character.as_bytes())).collect()
}

/// Words, special tokens, characters that are spread over tokens, and bytes that are none.
fn sequence(tokenizer: &Tokenizer) -> BoxedStrategy<Vec<u32>> {
    let bytes: Vec<u32> = (0..=255).map(|byte| byte_token(tokenizer, byte)).collect();
    let item = prop_oneof![
        4 => select(words(tokenizer)).prop_map(|id| vec![id]),
        2 => select(skipped(tokenizer)).prop_map(|id| vec![id]),
        4 => select(characters(tokenizer)),
        2 => prop::collection::vec(select(bytes), 1..4),
    ];
    prop::collection::vec(item, 0..14).prop_map(|items| items.concat()).boxed()
}

/// Words and special tokens, and perhaps the beginning of a character.
fn prompt(tokenizer: &Tokenizer) -> BoxedStrategy<Vec<u32>> {
    let ids = [words(tokenizer), skipped(tokenizer).repeat(5)].concat();
    let ends = characters(tokenizer);
    (prop::collection::vec(select(ids), 0..12), select(ends), 0..4usize)
        .prop_map(|(ids, end, length)| [ids.as_slice(), &end[..length.min(end.len())]].concat())
        .boxed()
}

fn stops() -> BoxedStrategy<Vec<String>> {
    let all = ["a", " is", "é", "\n", "s t", "😀", "\u{FFFD}", " ", "日 "].map(str::to_owned);
    prop_oneof![Just(Vec::new()), prop::sample::subsequence(all.to_vec(), 1..3)].boxed()
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode(ids, true).unwrap()
}

/// What `tokenizer` decodes the whole to, without the beginning of a character at the end.
fn whole(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    if has_byte_fallback(tokenizer) {
        let skipped = skipped(tokenizer);
        let visible: Vec<u32> = ids.iter().copied().filter(|id| !skipped.contains(id)).collect();
        let mut run: Vec<u8> = visible.iter().rev().map_while(|&id| fallback_byte(tokenizer, id)).collect();
        run.reverse();
        let incomplete = match std::str::from_utf8(&run) {
            Err(error) if error.error_len().is_none() => run.len() - error.valid_up_to(),
            _ => 0,
        };
        return decode(tokenizer, &visible[..visible.len() - incomplete]);
    }
    let mut text = decode(tokenizer, ids);
    let replacements = |text: &str| text.matches(REPLACEMENT).count();
    let bytes = [0x80, 0x90, 0xA0].map(|byte| byte_token(tokenizer, byte));
    let endings = (0..27).map(|i| [bytes[i / 9], bytes[i / 3 % 3], bytes[i % 3]]);
    let mut endings = endings.flat_map(|ending| (1..=3).map(move |length| ending[..length].to_vec()));
    // A character at the end is incomplete if there is an ending that makes one of it.
    let is_incomplete = text.ends_with(REPLACEMENT)
        && endings
            .any(|ending| replacements(&decode(tokenizer, &[ids, &ending].concat())) < replacements(&text));
    if is_incomplete {
        text.pop();
    }
    text
}

/// The stop string that begins first in `text`, and of those the longest.
fn first_stop(text: &str, stops: &[String]) -> Option<(usize, String)> {
    (0..text.len()).filter(|&at| text.is_char_boundary(at)).find_map(|at| {
        let here = stops.iter().filter(|stop| text[at..].starts_with(stop.as_str()));
        here.max_by_key(|stop| stop.len()).map(|stop| (at, stop.clone()))
    })
}

/// Streams `generated` after `prompt`, and compares every moment with the whole so far.
fn check(
    tokenizer: &Tokenizer,
    prompt: &[u32],
    generated: &[u32],
    stops: &[String],
) -> Result<(), TestCaseError> {
    let start = whole(tokenizer, prompt);
    let prompt_tokens: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let mut stream = TextStream::new(tokenizer, &prompt_tokens, stops).unwrap();
    let mut all = Piece::default();
    for end in 1..=generated.len() {
        let ids = [prompt, &generated[..end]].concat();
        let so_far = whole(tokenizer, &ids);
        // Invalid bytes after a prompt that ends in bytes change its text, which is not ours to change.
        let Some(expected) = so_far.strip_prefix(&start) else { return Ok(()) };
        match (stream.push(TokenId(generated[end - 1])).unwrap(), first_stop(expected, stops)) {
            (Ok(piece), None) => all.append(piece),
            (Err(stop), Some((at, expected_stop))) => {
                all.append(stop.last);
                prop_assert_eq!(&all.text, &expected[..at]);
                prop_assert_eq!(stop.stop, expected_stop);
                let sent: Vec<u32> = all.tokens.iter().map(|token| token.0).collect();
                prop_assert!(generated.starts_with(&sent));
                return Ok(());
            }
            (result, stop) => {
                prop_assert!(false, "{result:?}, but the stop string is {stop:?} in {expected:?}")
            }
        }
        prop_assert!(expected.starts_with(&all.text), "{:?} of {:?}", all.text, expected);
        // Nothing waits but bytes that may still change.
        let skipped = skipped(tokenizer);
        let last = ids.iter().rfind(|id| !skipped.contains(id));
        if stops.is_empty() && last.is_none_or(|&id| fallback_byte(tokenizer, id).is_none()) {
            prop_assert_eq!(&all.text, expected);
        }
    }
    all.append(stream.finish());
    let whole = whole(tokenizer, &[prompt, generated].concat());
    prop_assert_eq!(Some(all.text.as_str()), whole.strip_prefix(&start));
    prop_assert_eq!(all.texts.concat(), all.text);
    prop_assert_eq!(all.texts.len(), all.tokens.len());
    let tokens: Vec<u32> = all.tokens.iter().map(|token| token.0).collect();
    prop_assert_eq!(tokens, generated);
    Ok(())
}

fn check_any(tokenizer: &Tokenizer) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let cases = (prompt(tokenizer), sequence(tokenizer), stops());
    let outcome =
        runner.run(&cases, |(prompt, generated, stops)| check(tokenizer, &prompt, &generated, &stops));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn byte_level_pieces_make_up_the_whole() {
    check_any(&byte_level());
}

#[test]
fn pieces_with_byte_fallback_make_up_the_whole() {
    check_any(&sentence_piece());
    check_any(&synthetic(FUSING));
}

#[test]
fn pieces_of_text_tokens_make_up_the_whole() {
    check_any(&synthetic(METASPACE));
    check_any(&synthetic(WORD_PIECE));
}

/// The context is cut out of a run of bytes here.
#[test]
fn a_prompt_may_end_in_a_long_run_of_bytes() {
    let t = sentence_piece();
    let prompt = byte_tokens(&t, "日本語テキスト".as_bytes());
    for (tokens, expected) in
        [(byte_tokens(&t, "é".as_bytes()), "é"), (vec![t.token_to_id("▁is").unwrap()], " is")]
    {
        for given in 0..3 {
            let ids = [&prompt[prompt.len() - given..], &tokens].concat();
            let prompt: Vec<TokenId> = prompt[..prompt.len() - given].iter().copied().map(TokenId).collect();
            let mut stream = TextStream::new(&t, &prompt, &[]).unwrap();
            let mut text: String =
                ids.iter().map(|&id| stream.push(TokenId(id)).unwrap().unwrap().text).collect();
            text += &stream.finish().text;
            let ending = if given == 0 { "" } else { "ト" };
            assert_eq!(text, format!("{ending}{expected}"));
        }
    }
}
