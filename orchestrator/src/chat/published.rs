//! Templates of published models, rendered as Python renders them. `orchestrator/tests/templates/render.py` says how to run this.

use std::collections::BTreeMap;

use serde::Deserialize;
use tandem_generation::ChatMessage;

use super::ChatTemplate;

/// The output of `render.py`.
#[derive(Deserialize)]
struct Rendered {
    special_tokens: BTreeMap<String, String>,
    templates: Vec<Template>,
}

#[derive(Deserialize)]
struct Template {
    file: String,
    source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    /// `None` if Python raised an error.
    prompt: Option<String>,
    /// The error, if the template raised it itself.
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// How many conversations have which outcome.
#[derive(Debug, Default)]
struct Outcomes {
    equal: usize,
    refused_by_both: usize,
    /// Python stumbled over something that was not given: it does not iterate over `None`, for example.
    only_python_fails: usize,
    different: usize,
}

fn count(rendered: &Rendered, template: &Template) -> Outcomes {
    let config = serde_json::to_vec(&rendered.special_tokens).unwrap();
    let chat = ChatTemplate::new(&config, &template.source).unwrap_or_else(|why| {
        println!("{}: {why}", template.file);
        None
    });
    let mut outcomes = Outcomes::default();
    for case in &template.cases {
        let messages = case
            .messages
            .iter()
            .map(|message| ChatMessage { role: message.role.clone(), content: message.content.clone() });
        let messages: Vec<ChatMessage> = messages.collect();
        let ours = match &chat {
            Some(chat) => {
                let rendered = chat.rendered(&messages, case.add_generation_prompt);
                rendered.map_err(|error| error.detail().unwrap_or_default().to_owned())
            }
            None => Err("the template cannot be used".into()),
        };
        match (ours, &case.prompt, &case.refusal) {
            (Ok(ours), Some(theirs), _) if ours == *theirs => outcomes.equal += 1,
            (Err(ours), None, Some(theirs)) if ours == *theirs => outcomes.refused_by_both += 1,
            (Err(_), None, None) => outcomes.refused_by_both += 1,
            (Ok(_), None, None) => outcomes.only_python_fails += 1,
            (ours, theirs, _) => {
                outcomes.different += 1;
                println!("{}, {}: {ours:?} instead of {theirs:?}", template.file, case.name);
            }
        }
    }
    outcomes
}

#[test]
#[ignore = "needs a file that tests/templates/render.py writes"]
fn published_templates_are_rendered_as_python_does() {
    let path = std::env::var_os("TANDEM_RENDERED_TEMPLATES").expect("render.py says how to run this");
    let rendered: Rendered = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut different = Vec::new();
    for template in &rendered.templates {
        let outcomes = count(&rendered, template);
        println!("{}: {outcomes:?}", template.file);
        if outcomes.different > 0 {
            different.push(&template.file);
        }
    }
    assert!(different.is_empty(), "{different:?} of {} templates", rendered.templates.len());
}
