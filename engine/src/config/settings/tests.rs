use super::*;
use crate::cli::failure::Advice;
use crate::config::keys::Key;

fn londiste(text: &str, set: &[&str]) -> Result<LondisteSettings, ConfigError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("myjob.ini");
    std::fs::write(&path, text).expect("write");
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    LondisteSettings::load(&path, &Overrides::from_arguments(&set)?)
}

const LEAST: &str = "[londiste]\ndb = dbname=here password=secret\nqueue_name = q\n";

#[test]
fn two_keys_are_enough_and_presets_fill_the_rest() {
    let settings = londiste(LEAST, &[]).expect("legal");
    assert_eq!(settings.process.job_name, "myjob");
    assert_eq!(settings.consumer_name.as_str(), "myjob");
    assert!(
        settings.spool_dir.ends_with("spool/myjob"),
        "{:?}",
        settings.spool_dir
    );
    assert_eq!(settings.spool_max_bytes, 16 << 30);
    assert_eq!(settings.tick_request_interval, Duration::from_millis(5));
    assert_eq!(
        (settings.capture, settings.confirm),
        (Capture::Wal, Confirm::Spooled)
    );
    assert!(settings.threaded_copy_pool_size >= 1);
    assert_eq!(settings.parallel_copies, 2);
    assert!(!format!("{settings:?}").contains("secret"));
}

#[test]
fn an_old_file_is_understood() {
    let text = "\
[DEFAULT]
dbhost = h1
[londiste3]
job_name = l3_%(queue_name)s
db = host=%(dbhost)s dbname=${mydb}
mydb = app
pgq_queue_name = repl
parallel_copies = 4
pgq_autocommit = 1
pgq_lazy_fetch = 0
pidfile = ~/pid/%(job_name)s.pid
logfile = -
register_only_tables = public.a,
    public.b
";
    let settings = londiste(text, &[]).expect("legal");
    assert_eq!(settings.process.job_name, "l3_repl");
    assert_eq!((settings.db.dbname(), settings.db.hosts().len()), ("app", 1));
    assert_eq!(settings.parallel_copies, 4);
    assert_eq!(settings.process.logfile, None);
    assert!(
        settings
            .process
            .pidfile
            .is_some_and(|path| path.ends_with("pid/l3_repl.pid"))
    );
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest() {
    let error = londiste(&format!("{LEAST}paralel_copies = 4\n"), &[]).expect_err("a slip");
    assert!(
        error
            .to_string()
            .ends_with("myjob.ini:4: unknown key \"paralel_copies\""),
        "{error}"
    );
    assert_eq!(error.hint().as_deref(), Some("Did you mean parallel_copies?"));
}

#[test]
fn bad_values_are_refused_without_repeating_secrets() {
    for (line, key) in [
        ("loop_delay = soon", "loop_delay"),
        ("parallel_copies = 0", "parallel_copies"),
        ("capture = wall", "capture"),
        ("spool_max_bytes = 1MB", "spool_max_bytes"),
        ("spool_segment_bytes = 4kB", "spool_segment_bytes"),
        ("slot_name = Big", "slot_name"),
        ("metrics_listen = 9187", "metrics_listen"),
        ("batch_max_rows =", "batch_max_rows"),
        ("obfuscator_key = k", "obfuscator_key"),
    ] {
        let error = londiste(&format!("{LEAST}{line}\n"), &[]).expect_err(line);
        assert!(
            matches!(error, ConfigError::Value { key: named, .. } if named == key),
            "{line}: {error}"
        );
        assert_eq!(error.exit(), crate::cli::failure::Exit::Usage);
    }
    let error = londiste("[londiste]\nqueue_name = q\n", &[]).expect_err("no db");
    assert!(matches!(error, ConfigError::Missing { key: "db", .. }), "{error}");
    let error = londiste("[pgqd]\n", &[]).expect_err("another program's file");
    assert!(matches!(error, ConfigError::NoSection { .. }), "{error}");
}

#[test]
fn later_layers_win() {
    let settings = londiste(&format!("{LEAST}loop_delay = 2\nloop_delay = 3\n"), &[]).expect("legal");
    assert_eq!(settings.loop_delay, Duration::from_secs(3));
    let settings = londiste(&format!("{LEAST}loop_delay = 2\n"), &["loop_delay=10ms"]).expect("legal");
    assert_eq!(settings.loop_delay, Duration::from_millis(10));
    let error = londiste(LEAST, &["loop_dely=1"]).expect_err("a slip");
    assert_eq!(error.to_string(), "command line: unknown key \"loop_dely\"");

    let environment =
        |key: &Key| (key.name == "loop_delay").then(|| ("SKYTIDE_LOOP_DELAY".to_owned(), "7s".to_owned()));
    let values = Values::join(&LONDISTE, None, environment, &Overrides::default()).expect("legal");
    assert_eq!(
        values.duration("loop_delay").expect("legal"),
        Duration::from_secs(7)
    );
    let bad = |_: &Key| Some(("SKYTIDE_X".to_owned(), "never".to_owned()));
    let error = Values::join(&LONDISTE, None, bad, &Overrides::default())
        .err()
        .expect("bad values");
    assert!(
        error
            .to_string()
            .starts_with("environment variable SKYTIDE_X: bad value for "),
        "{error}"
    );
}

#[test]
fn the_ticker_needs_no_file() {
    let settings = TickerSettings::load(None, &Overrides::default()).expect("presets are legal");
    assert_eq!(settings.process.job_name, "pgqd");
    assert_eq!(settings.ticker_period, Duration::from_secs(1));
    assert_eq!(settings.initial_database, "template1");
    let set = [
        "database_list=a, b,,c".to_owned(),
        "ticker_period=10ms".to_owned(),
        "stats_period=0".to_owned(),
    ];
    let overrides = Overrides::from_arguments(&set).expect("key=value");
    let settings = TickerSettings::load(None, &overrides).expect("legal");
    assert_eq!(settings.database_list, ["a", "b", "c"]);
    assert_eq!(settings.process.stats_period, None);
    let overrides = Overrides::from_arguments(&["ticker_period=0".to_owned()]).expect("key=value");
    assert!(TickerSettings::load(None, &overrides).is_err());
}

#[test]
fn the_sample_is_a_legal_file() {
    let sample = crate::config::pages::sample(&LONDISTE);
    let filled = sample
        .replace("\ndb =\n", "\ndb = dbname=x\n")
        .replace("\nqueue_name =\n", "\nqueue_name = q\n");
    let presets = londiste(&filled, &[]).expect("the sample is legal");
    assert_eq!(
        presets,
        londiste("[londiste]\ndb = dbname=x\nqueue_name = q\n", &[]).expect("legal")
    );
    // And so it is with every preset written out.
    let spelled: String = filled
        .lines()
        .map(|line| {
            format!(
                "{}\n",
                line.strip_prefix('#')
                    .filter(|rest| !rest.starts_with([' ', '#']))
                    .unwrap_or(line)
            )
        })
        .collect();
    assert_eq!(londiste(&spelled, &[]).expect("legal"), presets);
}
