//! Chat templates, which turn conversations into prompts, as Hugging Face checkpoints carry them.
//!
//! Templates are Jinja, with the extensions that `transformers` gives them: `raise_exception`, `strftime_now`, `tojson`, the loop
//! controls, Python's string methods, and blocks trimmed on both sides
//! (<https://huggingface.co/docs/transformers/chat_templating_writing>).

mod extensions;
mod json;
#[cfg(test)]
mod published;
mod python;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, Value, context};
use serde::Deserialize;
use tandem_generation::{ChatMessage, Field, InvalidRequest};

use extensions::{raise_exception, strftime_now, without_generation_blocks};
use json::to_json;

/// Steps that a template may take: far more than any conversation that fits a context needs, so that an endless loop is stopped.
const FUEL: u64 = 20_000_000;
/// The special tokens that templates may use.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// The template's name in error messages.
const NAME: &str = "chat_template";

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The texts of special tokens by the names that templates have for them.
    special_tokens: Value,
}

/// The part of `tokenizer_config.json` that concerns chats.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl ChatTemplate {
    /// The template in `chat_template.jinja` or, if that is empty, in `tokenizer_config.json`, which may be empty too. `None` if neither
    /// has one. The error says why a template is not valid.
    pub fn new(config: &[u8], file: &str) -> Result<Option<Self>, String> {
        let config: Config = match config {
            [] => serde_json::from_str("{}"),
            json => serde_json::from_slice(json),
        }
        .map_err(|e| format!("tokenizer_config.json: {e}"))?;
        let template = match config.chat_template {
            _ if !file.is_empty() => Some(file.to_owned()),
            Some(Templates::One(template)) => Some(template),
            Some(Templates::Several(all)) => {
                all.into_iter().find(|t| t.name == "default").map(|t| t.template)
            }
            None => None,
        };
        let Some(template) = template else { return Ok(None) };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| e.to_string())?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python::method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_filter("length", python::length);
        environment.add_filter("count", python::length);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment
            .add_template_owned(NAME, without_generation_blocks(&template))
            .map_err(|e| e.to_string())?;
        let special_tokens = special_tokens(&config.others)?;
        Ok(Some(Self { environment, special_tokens }))
    }

    /// The prompt of a conversation, up to where the assistant's answer begins. It already has its special tokens.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, InvalidRequest> {
        let prompt = self.rendered(messages, true).map_err(|e| {
            let why = e.detail().map_or_else(|| e.to_string(), str::to_owned);
            InvalidRequest::new(Field::Messages, format!("were refused by the model's chat template: {why}"))
        })?;
        match prompt.is_empty() {
            true => Err(InvalidRequest::new(
                Field::Messages,
                "are rendered to nothing by the model's chat template",
            )),
            false => Ok(prompt),
        }
    }

    fn rendered(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String, Error> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
            .collect();
        let context = context! {
            messages => messages,
            // As in transformers, these are always defined.
            tools => (),
            documents => (),
            add_generation_prompt => add_generation_prompt,
            ..self.special_tokens.clone()
        };
        self.environment.get_template(NAME)?.render(context)
    }
}

/// The special tokens of `tokenizer_config.json`. Those that it lacks are undefined, but for the two that templates use without a look:
/// many tokenizers have no token for the beginning.
fn special_tokens(config: &serde_json::Map<String, serde_json::Value>) -> Result<Value, String> {
    let mut tokens = BTreeMap::from([("bos_token", String::new()), ("eos_token", String::new())]);
    for name in SPECIAL_TOKENS {
        let Some(value) = config.get(name).filter(|value| !value.is_null()) else { continue };
        let token =
            SpecialToken::deserialize(value).map_err(|e| format!("tokenizer_config.json: {name}: {e}"))?;
        let (SpecialToken::Text(text) | SpecialToken::Added { content: text }) = token;
        tokens.insert(name, text);
    }
    Ok(Value::from_pairs(tokens))
}
