//! Which file imports which, and the circles among them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Imports from file to file, each with a path that causes it.
#[derive(Default)]
pub(super) struct Graph {
    imports: BTreeMap<String, BTreeMap<String, String>>,
}

impl Graph {
    /// Adds that `from` imports `to` by naming `path`.
    pub(super) fn add(&mut self, from: String, to: String, path: String) {
        if from != to {
            self.imports.entry(from).or_default().entry(to).or_insert(path);
        }
    }

    /// A shortest circle through each group of files that import one another.
    pub(super) fn circles(&self) -> Vec<String> {
        let mut circles = Vec::new();
        let mut done = BTreeSet::new();
        for file in self.imports.keys() {
            if done.contains(file) {
                continue;
            }
            let Some(circle) = self.shortest_circle(file) else { continue };
            // The group: files that this one reaches, and that reach it.
            let group: BTreeSet<&String> = self
                .reachable(file)
                .into_iter()
                .filter(|other| self.reachable(other).contains(file))
                .collect();
            done.extend(group.iter().copied().cloned());
            let shortest = group.iter().filter_map(|other| self.shortest_circle(other)).min_by_key(Vec::len);
            let circle = shortest.unwrap_or(circle);
            let others = group.len() - circle.len();
            let more = if others > 0 { format!(", and {others} more files") } else { String::new() };
            circles.push(self.show(&circle) + &more);
        }
        circles
    }

    fn imports_of(&self, file: &str) -> impl Iterator<Item = &String> {
        self.imports.get(file).into_iter().flat_map(BTreeMap::keys)
    }

    fn reachable(&self, file: &str) -> BTreeSet<&String> {
        let mut reached = BTreeSet::new();
        let mut queue: Vec<&String> = self.imports_of(file).collect();
        while let Some(file) = queue.pop() {
            if reached.insert(file) {
                queue.extend(self.imports_of(file));
            }
        }
        reached
    }

    /// The files of a shortest circle through `file`, which is the first of them.
    fn shortest_circle(&self, file: &str) -> Option<Vec<String>> {
        let mut reached_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([file]);
        while let Some(current) = queue.pop_front() {
            for next in self.imports_of(current) {
                if next == file {
                    let mut circle = vec![current.to_owned()];
                    let mut at = current;
                    while at != file {
                        at = reached_from[at];
                        circle.push(at.to_owned());
                    }
                    circle.reverse();
                    return Some(circle);
                }
                if !reached_from.contains_key(next.as_str()) {
                    reached_from.insert(next, current);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// `a.rs -> b.rs (path) -> a.rs (path)`.
    fn show(&self, circle: &[String]) -> String {
        let mut shown = circle[0].clone();
        for (i, from) in circle.iter().enumerate() {
            let to = &circle[(i + 1) % circle.len()];
            shown += &format!(" -> {to} ({})", self.imports[from][to]);
        }
        shown
    }
}
