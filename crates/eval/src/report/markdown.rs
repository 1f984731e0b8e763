//! The report as Markdown.

use super::format::{facts, incomplete};
use super::plots::available;
use super::schema::Report;
use super::tables::{Field, Table, all};

/// The report as Markdown. It refers to the plots as `plots/NAME.svg`.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("# Evaluation on {}\n\n", inline(&report.dataset.name));
    if let Some(warning) = incomplete(report) {
        out += &format!("**{warning}**\n\n");
    }
    for (name, value) in facts(report) {
        let value = if name == "Command" { code(&value) } else { inline(&value) };
        out += &format!("- {name}: {value}\n");
    }
    let mut plots = available(report);
    for table in all(report) {
        section(&mut out, &table);
        // The plots follow the table that they show.
        if table.title == "Results" {
            for plot in plots.drain(..) {
                out += &format!("\n![{}](plots/{})\n", plot.title, plot.file);
            }
        }
    }
    out
}

fn section(out: &mut String, table: &Table) {
    *out += &format!("\n## {}\n\n", table.title);
    let bullet = if table.about.contains('\n') { "- " } else { "" };
    for line in table.about.lines() {
        *out += &format!("{bullet}{line}\n");
    }
    *out += &format!("\n| {} |\n|", table.header.join(" | "));
    for column in 0..table.header.len() {
        let right = table.rows.iter().any(|r| matches!(r.get(column), Some(Field::Number(..))));
        *out += if right { " ---: |" } else { " --- |" };
    }
    for row in &table.rows {
        *out += "\n|";
        for field in row {
            *out += &match field {
                Field::Word(text) => format!(" {} |", inline(text)),
                Field::Number(text, _) => format!(" {text} |"),
            };
        }
    }
    *out += "\n";
}

/// Escapes text so that it stays on its line and in its table cell, and is not read as HTML or Markdown.
fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '&' => out += "&amp;",
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A code span. Its fence is longer than any sequence of backticks in the text.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A backtick at either end must not touch the fence.
    let pad = if longest > 0 { " " } else { "" };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{fence}{pad}{text}{pad}{fence}")
}
