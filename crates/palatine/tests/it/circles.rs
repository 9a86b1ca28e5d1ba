//! No file of a crate imports another that imports it, however far around. What a
//! `lib.rs` or `mod.rs` merely re-exports is no import of its own: a name counts as
//! imported from the file that defines it. Tests inside a file do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Crates whose files still import each other: which, and why. The list may only shrink.
const KNOWN: &[(&str, &[&str], &str)] = &[];

#[test]
fn no_file_imports_one_that_imports_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut wrong, mut read) = (Vec::new(), 0);
    for entry in fs::read_dir(folder).unwrap() {
        let krate = entry.unwrap();
        let name = krate.file_name().into_string().unwrap();
        let all = Crate::read(&krate.path().join("src"));
        read += all.modules.len();
        let circles = all.circles();
        let known = KNOWN.iter().find(|(known, ..)| *known == name).map_or(&[][..], |(_, files, _)| files);
        let known: BTreeSet<&str> = known.iter().copied().collect();
        let found: BTreeSet<&str> = circles.iter().flatten().map(String::as_str).collect();
        if known != found {
            let shown: Vec<String> = circles.iter().map(|circle| circle.join(" ↔ ")).collect();
            let more: Vec<_> = found.difference(&known).collect();
            let gone: Vec<_> = known.difference(&found).collect();
            wrong.push(format!("{name}: {shown:#?}\n  not in the list: {more:?}\n  no longer in a circle: {gone:?}"));
        }
    }
    assert!(read > 300, "only {read} modules were found");
    assert!(wrong.is_empty(), "files that import each other in a circle:\n{}", wrong.join("\n"));
}

/// A path of names, from the crate's root.
type Names = Vec<String>;

/// The modules of one crate.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Names, Module>,
}

/// One module, in a file of its own or inside another's.
#[derive(Default)]
struct Module {
    file: String,
    /// The items that it defines.
    defines: BTreeSet<String>,
    /// The names that it imports: from where, and whether it re-exports them.
    uses: BTreeMap<String, (Names, bool)>,
    /// The modules of which it imports everything, and whether it re-exports that.
    globs: Vec<(Names, bool)>,
    /// Paths that are written out where they are used.
    inline: BTreeSet<Names>,
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut all = Self::default();
        let root = if source.join("lib.rs").exists() { "lib.rs" } else { "main.rs" };
        for path in files(source) {
            let file = path.strip_prefix(source).unwrap().to_str().unwrap().to_owned();
            if let Some(names) = names_of(&file, root) {
                all.add(names, &file, &fs::read_to_string(&path).unwrap());
            }
        }
        all
    }

    fn add(&mut self, names: Names, file: &str, text: &str) {
        let tokens = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.scan(&names, file, &tokens.into_iter().collect::<Vec<_>>());
    }

    /// Notes what a run of tokens defines, imports and names.
    fn scan(&mut self, at: &Names, file: &str, tokens: &[TokenTree]) {
        self.modules.entry(at.clone()).or_default().file = file.to_owned();
        let mut next = 0;
        while let Some(token) = tokens.get(next) {
            let word = word(tokens.get(next));
            next += match (token, word.as_deref()) {
                (TokenTree::Punct(mark), _) if mark.as_char() == '#' && is_test(tokens.get(next + 1)) => {
                    item_length(&tokens[next..])
                }
                (TokenTree::Ident(_), Some("use")) => self.import(at, tokens, next),
                (TokenTree::Ident(_), Some("mod")) => self.module(at, file, &tokens[next..]),
                (TokenTree::Ident(_), Some("fn" | "struct" | "enum" | "trait" | "type" | "const" | "static")) => {
                    self.module_at(at).defines.extend(self::word(tokens.get(next + 1)));
                    1
                }
                (TokenTree::Ident(_), _) => {
                    let path = path(&tokens[next..]);
                    let length = 1 + (path.len().max(1) - 1) * 3;
                    if path.len() > 1 {
                        self.module_at(at).inline.insert(path);
                    }
                    length
                }
                (TokenTree::Group(group), _) => {
                    self.scan(at, file, &inside(group));
                    1
                }
                _ => 1,
            };
        }
    }

    fn module_at(&mut self, at: &Names) -> &mut Module {
        self.modules.entry(at.clone()).or_default()
    }

    /// A module that is written inside its parent.
    fn module(&mut self, at: &Names, file: &str, tokens: &[TokenTree]) -> usize {
        let (Some(name), Some(TokenTree::Group(body))) = (word(tokens.get(1)), tokens.get(2)) else { return 1 };
        let names = at.iter().cloned().chain([name]).collect();
        self.scan(&names, file, &inside(body));
        3
    }

    /// `use …;`
    fn import(&mut self, at: &Names, tokens: &[TokenTree], begin: usize) -> usize {
        let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ';');
        let length = tokens[begin..].iter().position(is_end).unwrap_or(1);
        let before = begin.checked_sub(1).and_then(|before| tokens.get(before));
        let reexports = word(before).as_deref() == Some("pub") || matches!(before, Some(TokenTree::Group(_)));
        let mut leaves = Vec::new();
        tree(&tokens[begin + 1..begin + length], &Names::new(), &mut leaves);
        let module = self.module_at(at);
        for (target, name) in leaves {
            match name {
                Some(name) => drop(module.uses.insert(name, (target, reexports))),
                None => module.globs.push((target, reexports)),
            }
        }
        length
    }

    /// The file of ours that defines what a path written in a module names.
    fn target(&self, at: &Names, path: &[String], depth: usize) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        let child = |names: &Names| names.iter().cloned().chain([first.clone()]).collect::<Names>();
        match first.as_str() {
            "crate" => self.walk(Names::new(), rest, depth),
            "self" => self.walk(at.clone(), rest, depth),
            "super" => {
                let parent = at.split_last().map(|(_, parent)| parent.to_vec())?;
                let ups = rest.iter().take_while(|name| *name == "super").count();
                self.walk(parent[..parent.len().checked_sub(ups)?].to_vec(), &rest[ups..], depth)
            }
            _ if self.modules.contains_key(&child(at)) => self.walk(child(at), rest, depth),
            _ => {
                let (target, _) = self.modules[at].uses.get(first).filter(|_| depth > 0)?;
                let whole: Names = target.iter().chain(rest).cloned().collect();
                if whole == path { None } else { self.target(at, &whole, depth - 1) }
            }
        }
    }

    /// Follows the names from a module downwards, and through re-exports.
    fn walk(&self, at: Names, names: &[String], depth: usize) -> Option<&str> {
        let module = self.modules.get(&at)?;
        let Some((name, rest)) = names.split_first() else { return Some(&module.file) };
        let child: Names = at.iter().cloned().chain([name.clone()]).collect();
        if self.modules.contains_key(&child) {
            return self.walk(child, rest, depth);
        }
        if module.defines.contains(name) || depth == 0 {
            return Some(&module.file);
        }
        if let Some((target, _)) = module.uses.get(name) {
            let whole: Names = target.iter().chain(rest).cloned().collect();
            return self.target(&at, &whole, depth - 1);
        }
        let through = module.globs.iter().find_map(|(glob, _)| {
            let whole: Names = glob.iter().chain(names).cloned().collect();
            self.target(&at, &whole, depth - 1)
        });
        through.or(Some(&module.file))
    }

    /// The files that each file imports.
    fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        const DEPTH: usize = 8;
        let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (at, module) in &self.modules {
            let used = module.uses.values().chain(&module.globs).filter(|(_, reexports)| !reexports);
            let paths = used.map(|(path, _)| path).chain(&module.inline);
            let targets = paths.filter_map(|path| self.target(at, path, DEPTH));
            imports.entry(&module.file).or_default().extend(targets.filter(|file| *file != module.file));
        }
        imports
    }

    /// Files that reach each other, each group once.
    fn circles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            imports.keys().map(|file| (*file, reach(&imports, file))).collect();
        let mut circles = BTreeSet::new();
        for (file, far) in &reached {
            if far.contains(file) {
                let back = |other: &&&str| reached.get(**other).is_some_and(|far| far.contains(file));
                circles.insert(far.iter().filter(back).map(|file| (*file).to_owned()).collect::<Vec<_>>());
            }
        }
        circles.into_iter().collect()
    }
}

fn reach<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        for next in imports.get(file).into_iter().flatten() {
            if found.insert(*next) {
                open.push(next);
            }
        }
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let all = paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// The module that a file is; another program's root is none of this crate.
fn names_of(file: &str, root: &str) -> Option<Names> {
    if file == root {
        return Some(Names::new());
    }
    if matches!(file, "main.rs" | "lib.rs") || file.starts_with("bin/") {
        return None;
    }
    let names = file.strip_suffix("/mod.rs").or_else(|| file.strip_suffix(".rs"))?;
    Some(names.split('/').map(str::to_owned).collect())
}

fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(name)) => Some(name.to_string()),
        _ => None,
    }
}

fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == mark)
}

/// Whether these are the brackets of an attribute that keeps an item for tests.
fn is_test(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = token else { return false };
    let text: String = group.stream().to_string().split_whitespace().collect();
    group.delimiter() == Delimiter::Bracket && (text == "cfg(test)" || text == "test")
}

/// How many tokens an item has, with the attributes before it.
fn item_length(tokens: &[TokenTree]) -> usize {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_mark(Some(token), ';'),
    };
    tokens.iter().position(is_end).map_or(tokens.len(), |end| end + 1)
}

/// The names of a path that begins here.
fn path(tokens: &[TokenTree]) -> Names {
    let mut names = Names::new();
    while let Some(name) = word(tokens.get(names.len() * 3)) {
        names.push(name);
        let behind = names.len() * 3 - 2;
        let goes_on = is_mark(tokens.get(behind), ':') && is_mark(tokens.get(behind + 1), ':');
        if !goes_on || word(tokens.get(behind + 2)).is_none() {
            break;
        }
    }
    names
}

/// The leaves of a tree of imports, and what each is called here: nothing for all of a module.
fn tree(tokens: &[TokenTree], before: &Names, leaves: &mut Vec<(Names, Option<String>)>) {
    let mut names = before.clone();
    let mut called = None;
    let mut is_leaf = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(name) if name == "as" => called = word(tokens.get(at + 1)),
            TokenTree::Ident(_) if called.is_some() => {}
            TokenTree::Ident(name) => {
                if name != "self" || names.is_empty() {
                    names.push(name.to_string());
                }
                is_leaf = true;
            }
            TokenTree::Group(group) => {
                tree(&inside(group), &names, leaves);
                is_leaf = false;
            }
            token if is_mark(Some(token), '*') => {
                leaves.push((names.clone(), None));
                is_leaf = false;
            }
            token if is_mark(Some(token), ',') => {
                leaves.extend(leaf(&names, called.take(), is_leaf));
                names.clone_from(before);
                is_leaf = false;
            }
            _ => {}
        }
    }
    leaves.extend(leaf(&names, called, is_leaf));
}

fn leaf(names: &Names, called: Option<String>, is_leaf: bool) -> Option<(Names, Option<String>)> {
    let name = called.or_else(|| names.last().cloned())?;
    is_leaf.then(|| (names.clone(), Some(name)))
}

#[test]
fn a_circle_is_found_however_its_imports_are_written() {
    let circles = |files: &[(&str, &str)]| {
        let mut all = Crate::default();
        for (file, text) in files {
            all.add(names_of(file, "lib.rs").unwrap(), file, text);
        }
        all.circles()
    };
    let root = ("lib.rs", "mod a; mod b; pub use b::{B, c::*};");
    let both = [vec!["a.rs".to_owned(), "b.rs".to_owned()]];
    let a = ("a.rs", "pub struct A; fn f() { crate::b::g() }");
    for b in [
        "use crate::a::A;",
        "use super::a::{self};",
        "use crate::{x::Y, a::{A as Z}};",
        "type X = super::a::A;",
        "use crate::a; fn g() { let x = [a::A]; }",
        "mod inner { fn h() { super::super::a::f() } }",
        "#[derive(X)] #[x(crate::a::A)] struct B;",
    ] {
        assert_eq!(circles(&[root, a, ("b.rs", b)]), both, "{b}");
    }
    for b in [
        "",
        "#[cfg(test)] mod tests { use crate::a::A; }",
        "//! crate::a::A",
        "const X: &str = \"crate::a::A\";",
        "use a::A;",
        "pub use crate::a::A;",
    ] {
        assert!(circles(&[root, a, ("b.rs", b)]).is_empty(), "{b}");
    }
    let through = [root, ("a.rs", "use crate::B; pub struct A;"), ("b.rs", "pub struct B(crate::a::A);")];
    assert_eq!(circles(&through), both, "through what the root re-exports");
    let deep = [
        root,
        ("a.rs", "use crate::C; pub struct A;"),
        ("b/mod.rs", "pub mod c;"),
        ("b/c.rs", "pub struct C(crate::a::A);"),
    ];
    assert_eq!(circles(&deep), [vec!["a.rs".to_owned(), "b/c.rs".to_owned()]], "through a glob that it re-exports");
    let own = [("lib.rs", "mod a; fn own() { a::f() }"), ("a.rs", "fn f() { crate::own() }")];
    assert_eq!(circles(&own), [vec!["a.rs".to_owned(), "lib.rs".to_owned()]], "with the root, where that does more");
}
