//! Paths in tokens of Rust code: `crate::a::B`, `self::c`, `Name`, and those in groups such as `super::{a, b::C}`.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Segments of a path.
pub(super) type Path = Vec<String>;

/// All paths in `tokens`, except in what is compiled for tests alone.
pub(super) fn paths(tokens: TokenStream) -> Vec<Path> {
    let mut paths = Vec::new();
    scan(tokens, &[], &mut paths);
    paths
}

/// Whether an attribute is `#[cfg(test)]` or another condition that requires tests.
pub(super) fn is_for_tests(attribute: &TokenStream) -> bool {
    let words: Vec<String> = flatten(attribute.clone());
    words.first().is_some_and(|first| first == "cfg")
        && words.iter().any(|word| word == "test")
        && !words.iter().any(|word| word == "not")
}

fn flatten(tokens: TokenStream) -> Vec<String> {
    let mut words = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => words.push(ident.to_string()),
            TokenTree::Group(group) => words.extend(flatten(group.stream())),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    words
}

/// Adds the paths in `tokens`, each after `prefix`.
fn scan(tokens: TokenStream, prefix: &[String], paths: &mut Vec<Path>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        at = match &tokens[at] {
            // `a as b`: the new name is not a path.
            TokenTree::Ident(ident) if ident == "as" && !prefix.is_empty() => at + 2,
            TokenTree::Ident(_) if !continues_something(&tokens, at) => path(&tokens, at, prefix, paths),
            TokenTree::Group(group) => {
                scan(group.stream(), &[], paths);
                at + 1
            }
            TokenTree::Punct(punct) if punct.as_char() == '#' => after_attribute(&tokens, at),
            _ => at + 1,
        };
    }
}

/// Whether the identifier is a field or a method (`x.name`), part of another crate's path (`::name`), or a lifetime.
fn continues_something(tokens: &[TokenTree], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map(|i| &tokens[i]);
    // `a..b` is a range, and `b` a path.
    let after_dot = is_punct(before(1), '.') && !is_punct(before(2), '.');
    after_dot || is_punct(before(1), ':') && is_punct(before(2), ':') || is_punct(before(1), '\'')
}

/// Reads the path that begins at `at`, and returns where it ends.
fn path(tokens: &[TokenTree], mut at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(ident)) => path.push(ident.to_string().trim_start_matches("r#").to_owned()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                scan_group(group, &path, paths);
                return at + 1;
            }
            // `a::<T>` or `a::*`.
            _ => break,
        }
        at += 1;
        if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
            break;
        }
        at += 2;
    }
    let is_declared_here = path.len() == 1 && is_punct(tokens.get(at), ':');
    if !is_declared_here {
        paths.push(path);
    }
    at
}

/// `a::{b, self}` after the prefix `a`.
fn scan_group(group: &Group, prefix: &[String], paths: &mut Vec<Path>) {
    let mut inner = Vec::new();
    scan(group.stream(), prefix, &mut inner);
    for path in &mut inner {
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
    }
    paths.extend(inner);
}

/// Where the code goes on after an attribute, and after the item that it leaves out.
fn after_attribute(tokens: &[TokenTree], at: usize) -> usize {
    let Some(TokenTree::Group(attribute)) = tokens.get(at + 1) else { return at + 1 };
    if !is_for_tests(&attribute.stream()) {
        return at + 2;
    }
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';' || punct.as_char() == ',',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    let rest = &tokens[at + 2..];
    rest.iter().position(ends).map_or(tokens.len(), |length| at + 2 + length + 1)
}

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(code: &str) -> Vec<String> {
        paths(code.parse().unwrap()).iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_expressions_types_macros_and_groups() {
        assert_eq!(read("crate::a::b(x.c, y)"), ["crate::a::b", "x", "y"]);
        assert_eq!(read("use super::{a, b::{C, self}};"), ["use", "super::a", "super::b::C", "super::b"]);
        assert_eq!(read("super::{a as b, c as _}"), ["super::a", "super::c"]);
        assert_eq!(read("vec![self::f::<Vec<T>>()]"), ["vec", "self::f", "Vec", "T"]);
        assert_eq!(read("::std::mem::take(&mut value)"), ["mut", "value"]);
        assert_eq!(read("0..end"), ["end"]);
        assert_eq!(read("name: Type"), ["Type"]);
    }

    #[test]
    fn code_for_tests_is_left_out() {
        assert_eq!(read("#[cfg(test)] mod tests { use super::A; } f()"), ["f"]);
        assert_eq!(read("#[cfg(not(test))] f()"), ["f"]);
        assert_eq!(read("#[must_use] f()"), ["f"]);
    }
}
