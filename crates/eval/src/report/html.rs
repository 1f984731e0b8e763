//! The report as one page that needs nothing else.

use serde_json::to_string;
use thiserror::Error;

use super::format::{facts, incomplete};
use super::plots::{PlotError, plots};
use super::tables::{Field, Table, all};
use crate::report::Report;

const PAGE: &str = include_str!("page.html");

/// The page could not be written.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HtmlError {
    #[error(transparent)]
    Plot(#[from] PlotError),
    #[error("cannot write the replays as JSON: {0}")]
    Replays(#[from] serde_json::Error),
}

/// A self-contained page: tables that sort, the plots, and the generations to step through.
pub fn html(report: &Report) -> Result<String, HtmlError> {
    let fill = |name: &str| -> Result<String, HtmlError> {
        Ok(match name {
            "dataset" => escape(&report.dataset.name),
            "warning" => incomplete(report)
                .map_or_else(String::new, |w| format!("<p class=warning>{}</p>", escape(&w))),
            "facts" => {
                let fact =
                    |(name, value): (&str, String)| format!("<dt>{name}</dt><dd>{}</dd>", escape(&value));
                facts(report).into_iter().map(fact).collect()
            }
            "results" => all(report).iter().take(1).map(table).collect(),
            "tables" => all(report).iter().skip(1).map(table).collect(),
            "plots" => match plots(report)? {
                plots if plots.is_empty() => String::new(),
                plots => {
                    let figures: String = plots.iter().map(|(file, svg)| figure(file, svg)).collect();
                    format!("<section aria-labelledby=plots><h2 id=plots>Plots</h2>\n{figures}</section>\n")
                }
            },
            // Inside a script element only "<" can begin anything that ends it.
            "replays" => to_string(&report.replays)?.replace('<', "\\u003c"),
            "style" => include_str!("page.css").into(),
            "script" => include_str!("page.js").into(),
            // A part of the page itself.
            other => format!("<!--@{other}-->"),
        })
    };
    // What is filled in is not searched for further parts: data cannot pull in any.
    let mut parts = PAGE.split("<!--@");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("-->").unwrap_or((part, ""));
        out += &fill(name)?;
        out += rest;
    }
    Ok(out)
}

fn table(table: &Table) -> String {
    let about: String = table.about.lines().map(|line| format!("<li>{}</li>", escape(line))).collect();
    let head: String = table.header.iter().map(|h| format!("<th scope=col>{}</th>", escape(h))).collect();
    let mut rows = String::new();
    for row in &table.rows {
        rows += "<tr>";
        for (column, field) in row.iter().enumerate() {
            let text = escape(field.text());
            // An interval goes below its value, which keeps the table narrow.
            let text = match text.split_once(" [") {
                Some((value, rest)) if matches!(field, Field::Number(..)) => {
                    format!("{value} <small>[{rest}</small>")
                }
                _ => text,
            };
            rows += &match field {
                Field::Word(_) if column == 0 => format!("<th scope=row>{text}</th>"),
                Field::Word(_) => format!("<td>{text}</td>"),
                Field::Number(_, None) => format!("<td class=number>{text}</td>"),
                Field::Number(_, Some(key)) => format!("<td class=number data-key=\"{key}\">{text}</td>"),
            };
        }
        rows += "</tr>\n";
    }
    let title = table.title;
    let id = title.to_lowercase().replace(' ', "-");
    format!(
        "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{title}</h2>\n\
         <div class=wide><table class=sortable aria-labelledby=\"{id}\"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n\
         <ul class=about>{about}</ul></section>\n"
    )
}

fn figure(file: &str, svg: &str) -> String {
    let name = file.trim_end_matches(".svg").replace('_', " ");
    format!(
        "<figure class=wide>{}</figure>\n",
        svg.replacen("<svg ", &format!("<svg role=img aria-label=\"{name}\" "), 1)
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}
