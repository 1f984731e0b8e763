//! Fields of OpenAI's API that have no effect: those that would change the answer are accepted only if they request nothing.

use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::openai::error::ApiError;

/// Fields that would change the answer in ways that Tandem does not offer. Any value but the one that changes nothing is refused.
#[derive(Deserialize, ToSchema)]
pub(super) struct UnsupportedFields {
    /// Not supported.
    audio: Option<Value>,
    /// Only `false` is supported.
    echo: Option<Value>,
    /// Only 0 is supported.
    frequency_penalty: Option<Value>,
    /// Only `"none"` is supported.
    function_call: Option<Value>,
    /// Only `[]` is supported.
    functions: Option<Value>,
    /// Only `{}` is supported.
    logit_bias: Option<Value>,
    /// Only `["text"]` is supported.
    modalities: Option<Value>,
    /// Not supported.
    moderation: Option<Value>,
    /// Only `false` is supported.
    parallel_tool_calls: Option<Value>,
    /// Not supported.
    prediction: Option<Value>,
    /// Only 0 is supported.
    presence_penalty: Option<Value>,
    /// Not supported.
    prompt_cache_options: Option<Value>,
    /// Only `"none"` is supported.
    reasoning_effort: Option<Value>,
    /// Only `{"type": "text"}` is supported.
    response_format: Option<Value>,
    /// Only `false` is supported.
    store: Option<Value>,
    /// Only `""` is supported.
    suffix: Option<Value>,
    /// Only `"none"` is supported.
    tool_choice: Option<Value>,
    /// Only `[]` is supported.
    tools: Option<Value>,
    /// Not supported.
    verbosity: Option<Value>,
    /// Not supported.
    web_search_options: Option<Value>,
}

/// Fields for the client's own bookkeeping. They are accepted, without effect.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "they have no effect")]
pub(super) struct HarmlessFields {
    metadata: Option<Value>,
    prompt_cache_key: Option<Value>,
    prompt_cache_retention: Option<Value>,
    safety_identifier: Option<Value>,
    service_tier: Option<Value>,
    user: Option<Value>,
}

impl UnsupportedFields {
    /// Refuses every field whose value would change the answer.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        for (name, value, neutral) in [
            ("audio", &self.audio, Value::Null),
            ("echo", &self.echo, json!(false)),
            ("frequency_penalty", &self.frequency_penalty, json!(0)),
            ("function_call", &self.function_call, json!("none")),
            ("functions", &self.functions, json!([])),
            ("logit_bias", &self.logit_bias, json!({})),
            ("modalities", &self.modalities, json!(["text"])),
            ("moderation", &self.moderation, Value::Null),
            ("parallel_tool_calls", &self.parallel_tool_calls, json!(false)),
            ("prediction", &self.prediction, Value::Null),
            ("presence_penalty", &self.presence_penalty, json!(0)),
            ("prompt_cache_options", &self.prompt_cache_options, Value::Null),
            ("reasoning_effort", &self.reasoning_effort, json!("none")),
            ("response_format", &self.response_format, json!({ "type": "text" })),
            ("store", &self.store, json!(false)),
            ("suffix", &self.suffix, json!("")),
            ("tool_choice", &self.tool_choice, json!("none")),
            ("tools", &self.tools, json!([])),
            ("verbosity", &self.verbosity, Value::Null),
            ("web_search_options", &self.web_search_options, Value::Null),
        ] {
            refuse_unless(name, value, &neutral)?;
        }
        Ok(())
    }
}

/// Refuses a field that has another value than the neutral one; null if it has none.
pub(super) fn refuse_unless(name: &str, value: &Option<Value>, neutral: &Value) -> Result<(), ApiError> {
    let Some(value) = value else { return Ok(()) };
    // 0 and 0.0 are the same.
    let same_number = neutral.as_f64().is_some_and(|neutral| value.as_f64() == Some(neutral));
    if same_number || value == neutral {
        return Ok(());
    }
    if neutral.is_null() {
        return Err(ApiError::unsupported(name, "is not supported: omit it"));
    }
    Err(ApiError::unsupported(name, format!("is not supported: omit it, or set it to {neutral}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: Value, neutral: Value) -> Option<String> {
        let value = Some(value).filter(|value| !value.is_null());
        let error = refuse_unless("field", &value, &neutral).err()?;
        let body = serde_json::to_value(error.body()).unwrap();
        assert_eq!(body["error"]["code"], "unsupported_parameter");
        Some(body["error"]["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn a_value_is_refused_unless_it_requests_nothing() {
        assert_eq!(refused(json!(0.0), json!(0)), None);
        assert_eq!(refused(json!(null), json!(0)), None);
        assert_eq!(refused(json!(null), Value::Null), None);
        assert_eq!(refused(json!({ "type": "text" }), json!({ "type": "text" })), None);
        assert_eq!(refused(json!(1), json!(0)).unwrap(), "field is not supported: omit it, or set it to 0");
        assert_eq!(refused(json!([]), Value::Null).unwrap(), "field is not supported: omit it");
    }
}
