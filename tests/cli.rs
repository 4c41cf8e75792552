//! The program as a user meets it: arguments, messages, exit codes. No server is needed here.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

fn skytide(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("our output is UTF-8")
}

#[test]
fn help_is_complete() {
    let help = skytide(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    insta::assert_snapshot!("help", text(&help.stdout));
    for command in [&["queue"][..], &["queue", "consume"]] {
        let mut words = command.to_vec();
        words.push("--help");
        let help = skytide(&words);
        assert_eq!(help.status.code(), Some(0));
        insta::assert_snapshot!(format!("help_{}", command.join("_")), text(&help.stdout));
    }
}

#[test]
fn a_usage_error_leaves_with_2_and_under_an_old_name_with_1() {
    let refused = skytide(&["frobnicate"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("unrecognized subcommand 'frobnicate'"));
    assert!(refused.stdout.is_empty());

    let refused = Command::new(PROGRAM)
        .arg0("/usr/local/bin/pgqd")
        .arg("--no-such-switch")
        .output();
    assert_eq!(refused.expect("the program starts").status.code(), Some(1));
}

#[test]
fn without_arguments_it_shows_its_commands() {
    let shown = skytide(&[]);
    assert_eq!(shown.status.code(), Some(2));
    assert!(text(&shown.stderr).contains("Usage: skytide"));
}

#[test]
fn pages_go_where_they_are_told_and_a_failure_names_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = directory.path().to_str().expect("a plain path");
    assert_eq!(skytide(&["docs", "--write", place]).status.code(), Some(0));
    assert!(directory.path().join("config.md").is_file());

    let failed = skytide(&["docs", "--write", "/nonexistent/place"]);
    assert_eq!(failed.status.code(), Some(1));
    let message = text(&failed.stderr);
    assert!(
        message.starts_with("ERROR:  write /nonexistent/place/config.md\nDETAIL:  No such file"),
        "{message}"
    );
    let verbose = skytide(&["-v", "docs", "--write", "/nonexistent/place"]);
    assert!(text(&verbose.stderr).contains("\nCAUSE:  No such file"));
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let mut child = Command::new(PROGRAM)
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let left = child.wait_with_output().expect("it ends");
    assert_eq!(left.status.code(), Some(0), "{}", text(&left.stderr));
    assert!(left.stderr.is_empty());
}
