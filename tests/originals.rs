//! The modules' sessions on the original modules: these are the oracle for what we print.
//!
//! `<session>.orig` beside a session says how the original differs: reasons, each line after `#`, then the
//! difference itself (`-` ours, `+` theirs). Without such a file there is none. A file that begins with
//! `# not run:` is of a session that the original cannot follow. `SKYTIDE_RECORD=1` writes the differences
//! anew and leaves the reasons.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{modules, packaged};

/// What the sessions need to come to the point.
const STAND_INS: &str = include_str!("peers/originals.sql");
const NOT_RUN: &str = "# not run:";

#[tokio::test]
async fn sessions_print_the_same_on_the_originals() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("template").await.unwrap();
    packaged::create_extensions(&server, "template").await;
    server.psql("template", STAND_INS).await.unwrap();
    let record = std::env::var_os("SKYTIDE_RECORD").is_some();
    let mut wrong = Vec::new();
    for (nr, path) in modules::sessions().iter().enumerate() {
        let module = path.ancestors().nth(2).and_then(Path::file_name).unwrap();
        if !packaged::EXTENSIONS.iter().any(|e| *e == module) {
            continue;
        }
        let known_path = path.with_extension("orig");
        let known = fs::read_to_string(&known_path).unwrap_or_default();
        if known.starts_with(NOT_RUN) {
            continue;
        }
        let name = format!("session_{nr}");
        modules::database(&server, &name).await;
        let printed = modules::run(&server, &name, path);
        let found = difference(&path.with_extension("out"), &printed);
        let (reasons, known): (Vec<&str>, Vec<&str>) = known.lines().partition(|l| l.starts_with('#'));
        if record {
            let text: Vec<&str> = reasons.into_iter().chain(found.lines()).collect();
            match text.is_empty() {
                true => drop(fs::remove_file(&known_path)),
                false => fs::write(&known_path, text.join("\n") + "\n").unwrap(),
            }
        } else if found.lines().ne(known.iter().copied()) {
            wrong.push(format!("{}: another difference:\n{found}", path.display()));
        } else if found.is_empty() != reasons.is_empty() {
            wrong.push(format!("{}: a difference needs a reason", known_path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Lines of the two, without places.
fn difference(ours: &Path, printed: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), printed).unwrap();
    let out = Command::new("diff")
        .arg("-U0")
        .arg(ours)
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let ruler = |line: &str| line.len() > 1 && line.chars().all(|c| c == '-' || c == '+');
    let lines = text
        .lines()
        .skip(2)
        .filter(|line| !line.starts_with("@@") && !ruler(line));
    lines.map(|line| format!("{line}\n")).collect()
}
