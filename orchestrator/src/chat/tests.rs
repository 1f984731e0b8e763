use super::*;

fn messages(all: &[(&str, &str)]) -> Vec<ChatMessage> {
    all.iter().map(|&(role, content)| ChatMessage { role: role.into(), content: content.into() }).collect()
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
    let render = |source: &str| template(source).render(&messages(&[("user", "a\"b"), ("assistant", "é")]));
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

/// `transformers` defines these variables always.
#[test]
fn tools_and_documents_are_none() {
    let render = |source: &str| template(source).render(&messages(&[("user", "x")])).unwrap();
    assert_eq!(render("{% if tools is not none %}tools{% else %}no tools{% endif %}"), "no tools");
    assert_eq!(
        render("{{ tools is none and documents is none }}{{ enable_thinking is defined }}"),
        "TrueFalse"
    );
    assert_eq!(
        render("{% if tools is iterable and tools | length > 0 %}tools{% endif %}{{ tools }}"),
        "None"
    );
}

#[test]
fn special_tokens_have_the_names_of_the_configuration() {
    let config = br#"{"chat_template": "{{ unk_token }}{{ pad_token }}|{{ sep_token is defined }}|{{ bos_token }}",
        "unk_token": "<unk>", "pad_token": {"content": "<pad>"}, "sep_token": null, "model_max_length": 512}"#;
    let chat = ChatTemplate::new(config, "").unwrap().unwrap();
    assert_eq!(chat.render(&messages(&[("user", "x")])).unwrap(), "<unk><pad>|False|");
    let refused = ChatTemplate::new(br#"{"chat_template": "x", "unk_token": 7}"#, "").err().unwrap();
    assert!(refused.starts_with("tokenizer_config.json: unk_token: "), "{refused}");
}

#[test]
fn values_are_what_python_says_they_are() {
    let render = |source: &str| template(source).render(&messages(&[("user", "x")])).unwrap();
    assert_eq!(
        render("{{ 'a' is sequence }}{{ messages[0] is sequence }}{{ 1 is sequence }}"),
        "TrueTrueFalse"
    );
    assert_eq!(
        render("{{ tools is iterable }}{{ missing is iterable }}{{ 'a' is iterable }}"),
        "FalseTrueTrue"
    );
    assert_eq!(render("{{ messages[0].tool_calls | length }}{{ 'ab' | count }}"), "02");
}

#[test]
fn strings_have_methods_of_python() {
    let render = |source: &str| template(source).render(&messages(&[("user", "x")])).unwrap();
    assert_eq!(
        render("{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ 'a'.removeprefix('b') }}"),
        "bcaba"
    );
    assert_eq!(render("{{ 'a=b=c'.partition('=') }}"), "('a', '=', 'b=c')");
    assert_eq!(render("{{ 'a=b=c'.rpartition('=') }}"), "('a=b', '=', 'c')");
    assert_eq!(render("{{ 'ab'.partition('=') }}{{ 'ab'.rpartition('=') }}"), "('ab', '', '')('', '', 'ab')");
    assert_eq!(render("{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a,b'.rsplit(',') }}"), "['a,b', 'c']['a', 'b']");
    assert_eq!(
        render("{{ ' a b  c '.rsplit() }}{{ ' a b  c '.rsplit(none, 1) }}"),
        "['a', 'b', 'c'][' a b', 'c']"
    );
    for source in ["{{ 'a'.rsplit('') }}", "{{ 'a'.partition('') }}", "{{ 'a'.no_such_method() }}"] {
        assert!(template(source).render(&messages(&[("user", "x")])).is_err(), "{source}");
    }
}

#[test]
fn json_is_written_with_the_options_of_python() {
    let render = |source: &str| template(source).render(&messages(&[("user", "x")]));
    let value = "{'b': [1, {'d': 2, 'c': []}], 'a': {}}";
    let json = |options: &str| render(&format!("{{{{ {value} | tojson({options}) }}}}")).unwrap();
    assert_eq!(json(""), r#"{"b": [1, {"d": 2, "c": []}], "a": {}}"#);
    assert_eq!(json("sort_keys=true"), r#"{"a": {}, "b": [1, {"c": [], "d": 2}]}"#);
    assert_eq!(json("separators=(',', ':')"), r#"{"b":[1,{"d":2,"c":[]}],"a":{}}"#);
    let indented = "{\n \"b\": [\n  1,\n  {\n   \"d\": 2,\n   \"c\": []\n  }\n ],\n \"a\": {}\n}";
    assert_eq!(json("indent=1"), indented);
    for options in ["indent=1000000000000", "separators=(',',)", "no_such_option=1"] {
        assert!(render(&format!("{{{{ 1 | tojson({options}) }}}}")).is_err(), "{options}");
    }
}
