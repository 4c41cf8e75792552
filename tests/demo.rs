//! `skytide dev` as the README's first command runs it, small.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

/// A directory for servers; whatever runs in it ends with the test.
struct Dev {
    dir: PathBuf,
    _parent: tempfile::TempDir,
}

impl Dev {
    fn new() -> Dev {
        let parent = tempfile::tempdir().unwrap();
        // As root the servers belong to another user, who has to get in.
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Dev {
            dir: parent.path().join("dev"),
            _parent: parent,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .arg("dev")
            .args(arguments)
            .arg("--dir")
            .arg(&self.dir)
            .output()
            .expect("the program starts")
    }

    /// Its JSON, after the exit code that was to be.
    fn ask(&self, arguments: &[&str], code: i32) -> Value {
        let out = self.run(&[arguments, &["--json"]].concat());
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {told}");
        serde_json::from_slice(&out.stdout).expect("JSON on standard output")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.run(&["down", "--remove"]);
    }
}

/// Processes that work in the directory, or were told of it.
fn left_in(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let text = dir.to_str().unwrap();
    processes
        .filter(|process| {
            let at = fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
            let told = fs::read(process.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text));
            at || told
        })
        .map(|process| process.path().display().to_string())
        .collect()
}

/// A server's last children may take a moment to be gone.
fn assert_nothing_left(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !left_in(dir).is_empty() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(left_in(dir), Vec::<String>::new());
}

#[test]
fn a_demo_from_nothing_to_equal_and_back_to_nothing() {
    let dev = Dev::new();
    let figures = dev.ask(&["demo", "--rows", "20000", "--seconds", "2", "--rate", "100"], 0);
    assert_eq!(figures["equal"], true, "{figures}");
    let tables = figures["compare"]["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 7, "{figures}");
    for table in tables {
        let rows = table["provider"]["rows"].as_i64().unwrap();
        assert!(rows > 0, "{} is empty", table["table"]);
    }
    assert!(figures["copy"]["rows"].as_u64().unwrap() >= 19_000, "{figures}");
    assert!(figures["load"]["transactions"].as_u64().unwrap() > 0, "{figures}");
    assert!(figures["lag"]["samples"].as_u64().unwrap() > 0, "{figures}");
    assert!(figures["spool_bytes"].as_u64().unwrap() > 0, "{figures}");

    // It stays, can be looked at, and goes when told.
    let state = dev.ask(&["status"], 0);
    assert!(
        state["worker_pid"].is_i64() && state["ticker_pid"].is_i64(),
        "{state}"
    );
    assert_eq!(dev.run(&["down"]).status.code(), Some(0));
    assert_nothing_left(&dev.dir);
    let state = dev.ask(&["status"], 3);
    assert_eq!(state["servers"].as_array().unwrap().len(), 2, "{state}");

    // The tables of the first run are followed on by a second one.
    let again = dev.ask(&["demo", "--reuse", "--seconds", "1", "--rate", "100"], 0);
    assert_eq!(again["equal"], true, "{again}");
    assert!(again["copy"].is_null(), "{again}");
    assert_eq!(dev.run(&["down", "--remove"]).status.code(), Some(0));
    assert_nothing_left(&dev.dir);
    assert!(!dev.dir.exists());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let dev = Dev::new();
    fs::create_dir(&dev.dir).unwrap();
    fs::write(dev.dir.join("letter"), "dear").unwrap();
    for command in ["demo", "up", "down"] {
        let refused = dev.run(&[command]);
        assert_eq!(refused.status.code(), Some(2));
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains("not made by skytide dev"), "{told}");
    }
}
