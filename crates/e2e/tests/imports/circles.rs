//! Imports from file to file within a crate, and the circles among them.
//!
//! A file imports another if it names an item that the other defines. A name that is re-exported on the way counts as the
//! file that defines it, and a re-export alone is no import.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};

use super::graph::Graph;
use super::module_tree::{ModuleId, ModuleTree};

/// What a path stands for.
enum Target {
    Module(ModuleId),
    Item(PathBuf),
    /// Nothing of this crate.
    External,
}

/// The circles of the crate whose root is `root`, as text with files below `base`.
pub(super) fn circles(root: &FilePath, base: &FilePath) -> Vec<String> {
    let tree = ModuleTree::read(root);
    let show = |file: &PathBuf| file.strip_prefix(base).unwrap_or(file).display().to_string();
    let mut graph = Graph::default();
    for (id, module) in tree.modules.iter().enumerate() {
        for path in module.imports.iter().chain(&module.references) {
            if let Target::Item(file) = tree.resolve(id, path, &mut Followed::new()) {
                graph.add(show(&module.file), show(&file), path.join("::"));
            }
        }
    }
    graph.circles()
}

/// Imports that were followed already: a module, and a name or a glob in it. Each is followed once, since
/// `use name::name` may otherwise stand for itself.
type Followed = BTreeSet<(ModuleId, String)>;

impl ModuleTree {
    /// What `path` stands for in the module `id`.
    fn resolve(&self, id: ModuleId, path: &[String], followed: &mut Followed) -> Target {
        let Some((first, rest)) = path.split_first() else { return Target::Module(id) };
        match (first.as_str(), self.modules[id].parent) {
            ("crate", _) => self.walk(0, rest, followed),
            ("self", _) => self.walk(id, rest, followed),
            ("super", None) => Target::External,
            ("super", Some(parent)) if rest.first().is_some_and(|next| next == "super") => {
                self.resolve(parent, rest, followed)
            }
            ("super", Some(parent)) => self.walk(parent, rest, followed),
            _ => self.lookup(id, path, followed).unwrap_or(Target::External),
        }
    }

    /// What `path` stands for after a path to the module `id`.
    fn walk(&self, id: ModuleId, path: &[String], followed: &mut Followed) -> Target {
        if path.is_empty() {
            return Target::Module(id);
        }
        // A name that is not found may be defined by a macro of the module.
        self.lookup(id, path, followed).unwrap_or_else(|| Target::Item(self.modules[id].file.clone()))
    }

    /// What `path` stands for, if the module has its first name.
    fn lookup(&self, id: ModuleId, path: &[String], followed: &mut Followed) -> Option<Target> {
        let module = &self.modules[id];
        let (first, rest) = path.split_first()?;
        if let Some(&child) = module.children.get(first) {
            return Some(self.walk(child, rest, followed));
        }
        if module.defined.contains(first) {
            return Some(Target::Item(module.file.clone()));
        }
        if let Some(alias) = module.aliases.get(first) {
            if !followed.insert((id, first.clone())) {
                return None;
            }
            return Some(self.resolve(id, &[alias, rest].concat(), followed));
        }
        module.globs.iter().find_map(|glob| {
            if !followed.insert((id, format!("{}::*", glob.join("::")))) {
                return None;
            }
            match self.resolve(id, glob, followed) {
                Target::Module(source) if source != id => self.lookup(source, path, followed),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, source) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, source).unwrap();
        }
        circles(&dir.path().join("lib.rs"), dir.path())
    }

    #[test]
    fn a_circle_through_re_exports_is_found() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B;"),
            ("a.rs", "use crate::B; pub struct A(B);"),
            ("b.rs", "use crate::c; pub struct B(c::C);"),
            ("c.rs", "pub struct C; fn f() -> super::A { todo!() }"),
        ]);
        assert_eq!(found, ["a.rs -> b.rs (crate::B) -> c.rs (c::C) -> a.rs (super::A)"]);
    }

    #[test]
    fn a_circle_of_parent_and_child_is_found() {
        let found = circles_of(&[
            ("lib.rs", "mod parent;"),
            ("parent.rs", "mod child; pub use child::Child; pub const LIMIT: u32 = 1; fn f(child: Child) {}"),
            ("parent/child.rs", "use super::LIMIT; pub struct Child([u8; LIMIT]);"),
        ]);
        assert_eq!(found, ["parent.rs -> parent/child.rs (Child) -> parent.rs (super::LIMIT)"]);
    }

    #[test]
    fn re_exports_tests_and_other_crates_make_no_circle() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b; pub use a::A; pub use b::*; pub struct Root;"),
            (
                "a.rs",
                "use crate::Root; use std::io::{self, Read}; use rand::rand; pub struct A(Root, io::Error, rand);",
            ),
            ("b.rs", "use super::*; pub struct B(A); #[cfg(test)] mod tests { use crate::a; }"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }
}
