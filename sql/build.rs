//! Embeds the SQL modules. Each module's `index` is the install order; a file it names and lacks, a
//! file it has and does not name, or text or a function that breaks the house rules fails the build.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const MODULES: [&str; 5] = ["pgq", "pgq_coop", "pgq_ext", "pgq_node", "londiste"];
const PINNED: &str = "security definer set search_path = pg_catalog, pg_temp;";

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let mut out = format!("static EMBEDDED: [Embedded; {}] = [\n", MODULES.len());
    for module in MODULES {
        println!("cargo:rerun-if-changed={module}");
        embed(&Path::new(&root).join(module), module, &mut out);
    }
    out.push_str("];\n");
    let target = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("modules.rs");
    fs::write(&target, out).unwrap_or_else(|e| panic!("write {}: {e}", target.display()));
}

fn embed(dir: &Path, schema: &str, out: &mut String) {
    let index = read(&dir.join("index"));
    let mut group = "";
    let mut listed = Vec::new();
    let mut groups = Vec::new();
    for line in index.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix('#') {
            Some(heading) => group = heading.trim(),
            None => {
                listed.push(line);
                groups.push(group);
            }
        }
    }
    compare_with_directory(dir, &listed);

    let mut checksum = Fnv::new();
    let mut scripts = String::new();
    let mut public = BTreeSet::new();
    for (file, group) in listed.into_iter().zip(groups) {
        let sql = read(&dir.join(file));
        check_text(&format!("{schema}/{file}"), &sql);
        checksum.add(file);
        checksum.add(&sql);
        let (function, overloads) = match file.strip_prefix("functions/") {
            Some(name) => check_functions(schema, file, name, &sql),
            None => (String::new(), 0),
        };
        if file == "roles.sql" {
            public.extend(granted_to_public(&sql));
        }
        writeln!(
            scripts,
            "        Script {{ file: {file:?}, group: {group:?}, function: {function:?}, overloads: {overloads}, sql: include_str!({:?}) }},",
            dir.join(file).display().to_string()
        )
        .expect("a String takes all");
    }
    writeln!(
        out,
        "    Embedded {{ checksum: \"{:016x}\", public: &{:?}, before: {}, after: {}, scripts: &[\n{scripts}    ] }},",
        checksum.0,
        public.into_iter().collect::<Vec<_>>(),
        upgrade(dir, "before"),
        upgrade(dir, "after"),
    )
    .expect("a String takes all");
}

/// A script for schemas of older makers, as an expression. Not part of the checksum: it runs once, when such
/// a schema is adopted.
fn upgrade(dir: &Path, moment: &str) -> String {
    let path = dir.join("upgrade").join(format!("{moment}.sql"));
    if path.is_file() {
        check_text(&path.display().to_string(), &read(&path));
    }
    match path.is_file() {
        true => format!("include_str!({:?})", path.display().to_string()),
        false => "\"\"".into(),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Every SQL file of the module must be in the index, once, and the other way round.
fn compare_with_directory(dir: &Path, listed: &[&str]) {
    let mut present = BTreeSet::new();
    for sub in ["", "functions"] {
        let sub_dir = dir.join(sub);
        let entries = fs::read_dir(&sub_dir).unwrap_or_else(|e| panic!("list {}: {e}", sub_dir.display()));
        for entry in entries {
            let name = entry.expect("a readable directory").file_name();
            let name = name.to_str().expect("file names are ASCII").to_owned();
            if name.ends_with(".sql") {
                present.insert(if sub.is_empty() {
                    name
                } else {
                    format!("{sub}/{name}")
                });
            } else if !["index", "functions", "tests", "upgrade"].contains(&name.as_str()) {
                panic!("{}: {name} does not belong here", sub_dir.display());
            }
        }
    }
    let mut seen = BTreeSet::new();
    for file in listed {
        assert!(
            present.contains(*file),
            "{}/index names {file}, which is missing",
            dir.display()
        );
        assert!(seen.insert(*file), "{}/index names {file} twice", dir.display());
    }
    for file in &present {
        assert!(
            seen.contains(file.as_str()),
            "{}/{file} is not in the index",
            dir.display()
        );
    }
}

/// Scripts go into databases of any encoding, so they are ASCII. Function bodies are parsed under the setting
/// `standard_conforming_strings` of whoever calls them, so a backslash is in `E'…'` only, which means the same
/// under both.
fn check_text(path: &str, sql: &str) {
    for (nr, line) in sql.lines().enumerate() {
        assert!(line.is_ascii(), "{path}, line {}: not ASCII: {line}", nr + 1);
    }
    if let Some(nr) = plain_backslash(sql) {
        panic!("{path}, line {nr}: a backslash in a string that is not E'…'");
    }
}

/// The line of the first backslash in a plain string. What dollar quotes enclose is code like all else.
fn plain_backslash(sql: &str) -> Option<usize> {
    enum Within {
        Code,
        Comment,
        Block,
        Name,
        Plain,
        Escaped,
    }
    let mut within = Within::Code;
    let mut line = 1;
    let mut before = '\n';
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        // an identifier that ends in e is no prefix, but then no quote follows it either
        within = match (within, c) {
            (Within::Code, '-') if chars.peek() == Some(&'-') => Within::Comment,
            (Within::Code, '/') if chars.peek() == Some(&'*') => Within::Block,
            (Within::Code, '"') => Within::Name,
            (Within::Code, '\'') if matches!(before, 'e' | 'E') => Within::Escaped,
            (Within::Code, '\'') => Within::Plain,
            (Within::Comment, '\n') => Within::Code,
            (Within::Block, '/') if before == '*' => Within::Code,
            (Within::Name, '"') => Within::Code,
            (Within::Plain, '\\') => return Some(line),
            (Within::Escaped, '\\') => {
                line += usize::from(chars.next() == Some('\n'));
                Within::Escaped
            }
            // a doubled quote ends the string and begins it again, as the same kind
            (Within::Plain | Within::Escaped, '\'') if chars.peek() != Some(&'\'') => Within::Code,
            (kind @ (Within::Plain | Within::Escaped), '\'') => {
                chars.next();
                kind
            }
            (same, _) => same,
        };
        line += usize::from(c == '\n');
        before = c;
    }
    None
}

/// One function a file, named like it, with its header; definer functions have a pinned search path.
fn check_functions(schema: &str, path: &str, file: &str, sql: &str) -> (String, usize) {
    let function = file
        .strip_suffix(".sql")
        .and_then(|name| name.strip_prefix(schema))
        .and_then(|name| name.strip_prefix('.'))
        .unwrap_or_else(|| panic!("{path}: must be named {schema}.<function>.sql"));
    let creates = sql.matches("create or replace function ").count();
    let own = sql
        .matches(&format!("create or replace function {schema}.{function}("))
        .count();
    assert!(
        own > 0 && own == creates,
        "{path}: creates other functions than {schema}.{function}"
    );
    let headers = sql.matches(&format!("-- {schema}.{function}(")).count();
    assert!(headers >= own, "{path}: each overload needs its header comment");
    let definers = sql.matches("security definer").count();
    assert!(
        definers == sql.matches(PINNED).count(),
        "{path}: a definer function must end in \"{PINNED}\""
    );
    (function.to_owned(), own)
}

/// Names of the functions in `grant execute on function … to public;`.
fn granted_to_public(sql: &str) -> Vec<String> {
    sql.split(';')
        .filter_map(|statement| statement.split_once("grant execute on function"))
        .filter_map(|(_, rest)| rest.rsplit_once(") "))
        .chain(
            sql.split(';')
                .filter_map(|statement| statement.split_once("grant execute on function"))
                .filter_map(|(_, rest)| rest.rsplit_once(")\n")),
        )
        .filter(|(_, to)| to.trim() == "to public")
        .flat_map(|(functions, _)| functions.split('\n'))
        .filter_map(|line| line.trim().split_once('('))
        .filter_map(|(name, _)| name.split_once('.'))
        .map(|(_, function)| function.to_owned())
        .collect()
}

/// FNV-1a: a checksum that is the same with every compiler. It tells versions apart, nothing more.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, text: &str) {
        for byte in text.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
