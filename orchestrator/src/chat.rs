//! Chat templates, which turn conversations into prompts, as Hugging Face checkpoints carry them.
//!
//! Templates are Jinja, with the extensions that `transformers` gives them: `raise_exception`, `strftime_now`, `tojson`, the loop
//! controls, Python's string methods, and blocks trimmed on both sides
//! (<https://huggingface.co/docs/transformers/chat_templating_writing>).

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Deserialize;
use tandem_generation::{ChatMessage, Field, InvalidRequest};

/// Steps that a template may take: far more than any conversation that fits a context needs, so that an endless loop is stopped.
const FUEL: u64 = 20_000_000;
/// The template's name in error messages.
const NAME: &str = "chat_template";

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// The part of `tokenizer_config.json` that concerns chats.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(default)]
    bos_token: Option<SpecialToken>,
    #[serde(default)]
    eos_token: Option<SpecialToken>,
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
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_blocks(&template))
            .map_err(|e| e.to_string())?;
        let text = |token: Option<SpecialToken>| match token {
            Some(SpecialToken::Text(text) | SpecialToken::Added { content: text }) => text,
            None => String::new(),
        };
        Ok(Some(Self { environment, bos_token: text(config.bos_token), eos_token: text(config.eos_token) }))
    }

    /// The prompt of a conversation, up to where the assistant's answer begins. It already has its special tokens.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, InvalidRequest> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
            .collect();
        let context = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        let rendered = self.environment.get_template(NAME).and_then(|t| t.render(context));
        let prompt = rendered.map_err(|e| {
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
}

/// Removes `{% generation %}` blocks: they mark what a model is trained on, which makes no difference to a prompt.
fn without_generation_blocks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{%")
        && let Some((inner, after)) = tag.split_once("%}")
    {
        let kept = match inner.trim_matches(['-', '+', ' ', '\t', '\n']) {
            "generation" => inner.replace("generation", "if true"),
            "endgeneration" => inner.replace("endgeneration", "endif"),
            _ => inner.to_owned(),
        };
        out.extend([before, "{%", &kept, "%}"]);
        rest = after;
    }
    out + rest
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The date, in UTC, for templates that tell it to the model.
fn strftime_now(format: String) -> Result<String, Error> {
    let now = jiff::Timestamp::try_from(SystemTime::now()).map(|t| t.to_zoned(jiff::tz::TimeZone::UTC));
    let text = now.and_then(|now| jiff::fmt::strtime::format(&format, &now));
    text.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// JSON as `transformers` writes it: with the spaces of Python's `json.dumps`, and nothing escaped for HTML.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let broken = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    let spaces = " ".repeat(indent.unwrap_or(0));
    match indent {
        Some(_) => {
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut to = serde_json::Serializer::with_formatter(&mut out, pretty);
            serde::Serialize::serialize(&value, &mut to).map_err(broken)?;
        }
        None => {
            let mut to = serde_json::Serializer::with_formatter(&mut out, PythonSpaces);
            serde::Serialize::serialize(&value, &mut to).map_err(broken)?;
        }
    }
    let json = String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    if ascii != Some(true) {
        return Ok(json);
    }
    let escape = |c: char| match c {
        '\0'..='\x7f' => c.to_string(),
        c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    Ok(json.chars().map(escape).collect())
}

/// `{"a": 1, "b": [1, 2]}`
struct PythonSpaces;

impl serde_json::ser::Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(all: &[(&str, &str)]) -> Vec<ChatMessage> {
        all.iter()
            .map(|&(role, content)| ChatMessage { role: role.into(), content: content.into() })
            .collect()
    }

    fn template(source: &str) -> ChatTemplate {
        let config = serde_json::json!({
            "chat_template": source, "bos_token": {"content": "<s>"}, "eos_token": "</s>"
        });
        ChatTemplate::new(config.to_string().as_bytes(), "").unwrap().unwrap()
    }

    const CHATML: &str = "{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message['content'].strip() + '<|im_end|>\n' -}}
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}";

    #[test]
    fn conversations_become_prompts() {
        let chat = template(CHATML);
        let prompt = chat.render(&messages(&[("system", "Be brief."), ("user", " Hi {{ 1 }} ")])).unwrap();
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ 1 }}<|im_end|>\n\
                        <|im_start|>assistant\n";
        assert_eq!(prompt, expected);
        let special = template("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}");
        assert_eq!(special.render(&messages(&[("user", "x")])).unwrap(), "<s>x</s>");
    }

    #[test]
    fn extensions_of_the_hub_work() {
        let render =
            |source: &str| template(source).render(&messages(&[("user", "a\"b"), ("assistant", "é")]));
        assert_eq!(render("{{ messages[0] | tojson }}").unwrap(), r#"{"role": "user", "content": "a\"b"}"#);
        assert_eq!(render("{{ 'é😀' | tojson(ensure_ascii=true) }}").unwrap(), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(render("{{ 'é' | tojson(ensure_ascii=false) }}").unwrap(), "\"é\"");
        assert_eq!(render("{%- generation -%} a {% endgeneration %}b").unwrap(), "a b");
        assert_eq!(render("{{ [1, 2] | tojson(indent=2) }}").unwrap(), "[\n  1,\n  2\n]");
        assert_eq!(
            render("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}")
                .unwrap(),
            "user"
        );
        assert_eq!(render("{{ messages[0].role.upper() }}{{ 'a,b'.split(',')[1] }}").unwrap(), "USERb");
        assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
        let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        let message = refused.describe(|_| "messages");
        assert_eq!(message, "messages were refused by the model's chat template: roles must alternate");
    }

    #[test]
    fn a_template_without_end_is_stopped() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        assert!(template(source).render(&messages(&[("user", "x")])).is_err());
    }

    #[test]
    fn templates_are_found_where_checkpoints_keep_them() {
        assert!(ChatTemplate::new(b"", "").unwrap().is_none());
        assert!(ChatTemplate::new(b"{\"bos_token\": null}", "").unwrap().is_none());
        let several = br#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        let render = |config: &[u8], file| {
            ChatTemplate::new(config, file).unwrap().unwrap().render(&messages(&[("user", "x")])).unwrap()
        };
        assert_eq!(render(several, ""), "d");
        assert_eq!(render(several, "file"), "file");
        assert!(ChatTemplate::new(b"{", "").is_err());
        assert!(ChatTemplate::new(b"", "{% for %}").is_err());
    }
}
