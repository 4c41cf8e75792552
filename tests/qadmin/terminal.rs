//! The line editor at a terminal: completion, history, several lines, Ctrl-C.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skytide_fixtures::wait;

use super::{PROGRAM, Place};

const PATIENCE: Duration = Duration::from_secs(30);

/// A program at a terminal.
struct Terminal {
    child: Child,
    screen: Arc<Mutex<String>>,
    seen: usize,
}

impl Terminal {
    fn open(program: &Command, home: &Path) -> Terminal {
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let quoted: Vec<String> = words
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        // No shell stays in between: some die of the Ctrl-C that is meant for the program.
        let mut child = Command::new("script")
            .args(["-qefc", &format!("exec {}", quoted.join(" ")), "/dev/null"])
            .env("HOME", home)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut out, shared) = (child.stdout.take().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut bytes) {
                shared
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Terminal {
            child,
            screen,
            seen: 0,
        }
    }

    fn type_in(&mut self, keys: &str) {
        let mut keyboard = self.child.stdin.as_ref().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// Waits until the text is shown, after what was waited for before.
    async fn shows(&mut self, text: &str) {
        let (screen, seen) = (self.screen.clone(), self.seen);
        self.seen = wait::until(text, PATIENCE, async || {
            let screen = screen.lock().unwrap();
            let found = screen[seen..].find(text).map(|at| seen + at + text.len());
            anyhow::ensure!(found.is_some(), "on the screen: {:?}", &screen[seen..]);
            Ok(found)
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_it_completes_remembers_and_survives_errors() {
    let place = Place::new().await;
    place.done("create queue orders; create queue \"Old queue\"");
    let mut program = Command::new(PROGRAM);
    program.args(["qadmin", &place.dsn()]);
    let mut terminal = Terminal::open(&program, place.home.path());
    terminal.shows("show help; lists the commands.").await;
    terminal.shows("(noqueue)@app> ").await;
    // Keywords from the grammar, names from the server.
    terminal.type_in("conn\t qu\tor\t;\r");
    terminal.shows("CONNECT").await;
    terminal.shows("orders@app> ").await;
    terminal.type_in("show quue;\r");
    terminal.shows("Did you mean").await;
    terminal.shows("orders@app> ").await;
    // Several lines until the semicolon; Ctrl-C drops them.
    terminal.type_in("register consumer\r");
    terminal.type_in("wrong");
    terminal.shows("wrong").await;
    terminal.type_in("\x03");
    // The editor lets go of the terminal; the prompt before that is only the line drawn again.
    terminal.shows("\u{1b}[?2004l").await;
    terminal.shows("orders@app> ").await;
    terminal.type_in("register consumer\r  mover;\r");
    terminal.shows("REGISTER").await;
    terminal.shows("orders@app> ").await;
    terminal.type_in("begin;\r");
    terminal.shows("orders@app*> ").await;
    terminal.type_in("rollback;\r");
    terminal.shows("orders@app> ").await;
    terminal.type_in("connect user=postgres password='secret';\r");
    terminal.shows("CONNECT").await;
    terminal.shows("orders@app> ").await;
    // Ctrl-C ends a statement, not the session.
    terminal.type_in("select pg_sleep(1000);\r");
    let admin = place.server.connect("app").await.unwrap();
    wait::until("the statement runs", PATIENCE, async || {
        let sql =
            "select 1 from pg_stat_activity where query like 'select pg_sleep(1000)%' and state = 'active'";
        Ok(admin.query_opt(sql, &[]).await?)
    })
    .await
    .unwrap();
    terminal.type_in("\x03");
    terminal.shows("canceling statement due to user request").await;
    terminal.shows("orders@app> ").await;
    terminal.type_in("\x04");
    let left = wait::until("it leaves", PATIENCE, async || Ok(terminal.child.try_wait()?))
        .await
        .unwrap();
    assert!(left.success(), "{left}");

    let history = place.home.path().join(".qadmin_history");
    let mode = std::fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let remembered = std::fs::read_to_string(&history).unwrap();
    assert!(remembered.contains("connect queue=orders;"), "{remembered}");
    assert!(!remembered.contains("secret"), "{remembered}");
    assert_eq!(place.json("show consumer")[0]["consumer_name"], "mover");
}
