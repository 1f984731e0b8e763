//! The modules of a crate: their files, what they define, import and re-export, and their code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};

use quote::ToTokens;
use syn::{Attribute, Expr, Item, ItemMod, Lit, Meta, UseTree, Visibility};

use super::references::{Path, is_for_tests, paths};

/// An index into [`ModuleTree::modules`].
pub(super) type ModuleId = usize;

/// All modules that are not for tests alone; the root of the crate is the first.
#[derive(Default)]
pub(super) struct ModuleTree {
    pub(super) modules: Vec<Module>,
}

/// A module, in a file of its own or inline in that of its parent.
#[derive(Default)]
pub(super) struct Module {
    pub(super) file: PathBuf,
    pub(super) parent: Option<ModuleId>,
    pub(super) children: BTreeMap<String, ModuleId>,
    /// Names of its items.
    pub(super) defined: BTreeSet<String>,
    /// Names that it imports or re-exports, with the paths as they are written.
    pub(super) aliases: BTreeMap<String, Path>,
    /// Paths of its `use …::*`.
    pub(super) globs: Vec<Path>,
    /// Paths of its private imports.
    pub(super) imports: Vec<Path>,
    /// Paths in its code.
    pub(super) references: Vec<Path>,
}

impl ModuleTree {
    /// Reads the crate whose root is `file`.
    pub(super) fn read(file: &FilePath) -> Self {
        let mut tree = Self::default();
        let children = file.parent().unwrap().to_owned();
        tree.read_file(file, None, &children);
        tree
    }

    /// Reads a module with its children, whose files are in the directory `children`.
    fn read_file(&mut self, file: &FilePath, parent: Option<ModuleId>, children: &FilePath) -> ModuleId {
        let source = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&source).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let id = self.add(file, parent);
        self.read_items(id, parsed.items, children);
        id
    }

    fn add(&mut self, file: &FilePath, parent: Option<ModuleId>) -> ModuleId {
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        self.modules.len() - 1
    }

    fn read_items(&mut self, id: ModuleId, items: Vec<Item>, children: &FilePath) {
        for item in items {
            match item {
                Item::Mod(module) if !for_tests(&module.attrs) => self.read_module(id, module, children),
                Item::Use(import) if !for_tests(&import.attrs) => {
                    let is_private = matches!(import.vis, Visibility::Inherited);
                    self.modules[id].add_use(&import.tree, Vec::new(), is_private);
                }
                Item::Mod(_) | Item::Use(_) => {}
                item => {
                    let module = &mut self.modules[id];
                    module.defined.extend(name(&item));
                    module.references.extend(paths(item.into_token_stream()));
                }
            }
        }
    }

    fn read_module(&mut self, parent: ModuleId, module: ItemMod, children: &FilePath) {
        let name = module.ident.to_string();
        let file = self.modules[parent].file.clone();
        let id = if let Some((_, items)) = module.content {
            let id = self.add(&file, Some(parent));
            self.read_items(id, items, &children.join(&name));
            id
        } else {
            let path = match path_attribute(&module.attrs) {
                Some(path) => file.parent().unwrap().join(path),
                None => children.join(format!("{name}.rs")),
            };
            let nested = children.join(&name).join("mod.rs");
            let path = if path.exists() { path } else { nested };
            let below =
                if path.ends_with("mod.rs") { path.parent().unwrap() } else { &path.with_extension("") };
            self.read_file(&path, Some(parent), below)
        };
        self.modules[parent].children.insert(name, id);
    }
}

impl Module {
    /// Adds the names of a `use` after `prefix`.
    fn add_use(&mut self, tree: &UseTree, mut prefix: Path, is_private: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_use(&path.tree, prefix, is_private);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, prefix.clone(), is_private);
                }
            }
            UseTree::Glob(_) => self.globs.push(prefix),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                if name != "self" {
                    prefix.push(name);
                }
                self.add_alias(prefix.last().cloned().unwrap_or_default(), prefix, is_private);
            }
            UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    prefix.push(rename.ident.to_string());
                }
                self.add_alias(rename.rename.to_string(), prefix, is_private);
            }
        }
    }

    fn add_alias(&mut self, alias: String, path: Path, is_private: bool) {
        if is_private {
            self.imports.push(path.clone());
        }
        self.aliases.insert(alias, path);
    }
}

fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| is_for_tests(&attribute.meta.to_token_stream()))
}

/// The value of `#[path = "…"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(literal) = &pair.value else { return None };
        let Lit::Str(path) = &literal.lit else { return None };
        pair.path.is_ident("path").then(|| path.value())
    })
}

/// The name that an item defines, if it defines one.
fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
