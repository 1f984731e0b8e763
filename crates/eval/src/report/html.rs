//! The report as a self-contained HTML page.

use serde_json::to_string;
use thiserror::Error;

use super::format::{facts, incomplete};
use super::plots::{PlotError, plots};
use super::schema::Report;
use super::tables::{Field, Table, all};

const PAGE: &str = include_str!("page.html");

/// The page could not be created.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum HtmlError {
    #[error(transparent)]
    Plot(#[from] PlotError),
    #[error("cannot write the replays as JSON: {0}")]
    Replays(#[from] serde_json::Error),
}

/// A self-contained page: sortable tables, the plots, and the generations to step through.
pub fn html(report: &Report) -> Result<String, HtmlError> {
    // Text that is filled in is not searched for further placeholders, so data cannot pull in other parts.
    let mut pieces = PAGE.split("<!--@");
    let mut page = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (placeholder, rest) = piece.split_once("-->").unwrap_or((piece, ""));
        page += &fill(placeholder, report)?;
        page += rest;
    }
    Ok(page)
}

/// The content of a placeholder.
fn fill(placeholder: &str, report: &Report) -> Result<String, HtmlError> {
    Ok(match placeholder {
        "dataset" => escape(&report.dataset.name),
        "warning" => match incomplete(report) {
            Some(warning) => format!("<p class=warning>{}</p>", escape(&warning)),
            None => String::new(),
        },
        "facts" => facts(report).into_iter().map(fact).collect(),
        "results" => all(report).iter().take(1).map(table).collect(),
        "tables" => all(report).iter().skip(1).map(table).collect(),
        "plots" => plot_section(&plots(report)?),
        // Inside a script element only "<" can begin the end of the element.
        "replays" => to_string(&report.replays)?.replace('<', "\\u003c"),
        "style" => include_str!("page.css").into(),
        "script" => include_str!("page.js").into(),
        // Not a placeholder: keep the text of the page.
        other => format!("<!--@{other}-->"),
    })
}

fn fact((name, value): (&'static str, String)) -> String {
    format!("<dt>{name}</dt><dd>{}</dd>", escape(&value))
}

fn plot_section(plots: &[(String, String)]) -> String {
    if plots.is_empty() {
        return String::new();
    }
    let figures: String = plots.iter().map(|(file, svg)| figure(file, svg)).collect();
    format!("<section aria-labelledby=plots><h2 id=plots>Plots</h2>\n{figures}</section>\n")
}

fn table(table: &Table) -> String {
    let about: String = table.about.lines().map(|line| format!("<li>{}</li>", escape(line))).collect();
    let head: String = table.header.iter().map(|h| format!("<th scope=col>{}</th>", escape(h))).collect();
    let mut rows = String::new();
    for row in &table.rows {
        rows += "<tr>";
        for (column, field) in row.iter().enumerate() {
            rows += &table_field(column, field);
        }
        rows += "</tr>\n";
    }
    let title = table.title;
    let id = title.to_lowercase().replace(' ', "-");
    format!(
        "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{title}</h2>\n\
         <div class=wide><table class=sortable aria-labelledby=\"{id}\"><thead><tr>{head}</tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div>\n\
         <ul class=about>{about}</ul></section>\n"
    )
}

fn table_field(column: usize, field: &Field) -> String {
    let text = escape(field.text());
    match field {
        Field::Word(_) if column == 0 => format!("<th scope=row>{text}</th>"),
        Field::Word(_) => format!("<td>{text}</td>"),
        Field::Number(_, None) => format!("<td class=number>{}</td>", small_interval(text)),
        Field::Number(_, Some(key)) => {
            format!("<td class=number data-key=\"{key}\">{}</td>", small_interval(text))
        }
    }
}

/// Puts an interval below its value, which keeps the table narrow.
fn small_interval(text: String) -> String {
    match text.split_once(" [") {
        Some((value, rest)) => format!("{value} <small>[{rest}</small>"),
        None => text,
    }
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
