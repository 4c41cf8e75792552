//! The `skytide` program: arguments in, exit code out.

use std::process::ExitCode;

use skytide::cli::walmgr::client::{self, Quick};
use skytide::cli::{self, failure};

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = stop_points::arm();
    let call = cli::compat::Call::from_env();
    if call.restores() {
        stop_recovery_on_panic();
    }
    if let Quick::Answered(answer) = client::quick(call.arguments()) {
        return answer;
    }
    if call.lacks_configuration() {
        let error = failure::Failure::usage("no configuration file is named".to_owned())
            .hint("Call it as before: pgqd FILE.ini. To tick without one: skytide ticker --db CONNSTR");
        let _ = failure::report(&error.into(), skytide::daemon::log::Verbosity::Normal);
        return ExitCode::FAILURE;
    }
    let cli = match cli::parse(&call) {
        Ok(cli) => cli,
        Err(refusal) => return call.failed(call.usage_exit(refusal.print().is_ok(), refusal.exit_code())),
    };
    let verbosity = cli.globals.verbosity();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = anyhow::Error::new(error).context("start the runtime");
            return call.failed(failure::report(&error, verbosity));
        }
    };
    let result = runtime.block_on(cli::run(cli));
    // A blocking thread may be in the middle of a write: give it a moment, but never hang on it.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => call.failed(failure::report(&error, verbosity)),
    }
}

/// A panic's own exit code would tell PostgreSQL that a file of WAL does not exist.
fn stop_recovery_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(i32::from(cli::walmgr::STOP_RECOVERY));
    }));
}

/// Places where a test wants the program to stop, to be killed there.
#[cfg(feature = "failpoints")]
mod stop_points {
    use std::sync::atomic::{AtomicU64, Ordering};

    use fail::FailScenario;
    use rustix::process::{Signal, getpid, kill_process};

    /// `NAME=HITS`: the so-manieth time the failpoint is reached, the whole process stops (SIGSTOP), which
    /// its parent can see and nothing in it can outrun.
    const STOP_AT: &str = "SKYTIDE_STOP_AT";

    /// Arms what `FAILPOINTS` and `SKYTIDE_STOP_AT` ask for, as long as the answer lives.
    pub fn arm() -> FailScenario<'static> {
        let scenario = FailScenario::setup();
        if let Ok(text) = std::env::var(STOP_AT) {
            let (name, hits) = text.split_once('=').unwrap_or((&text, "1"));
            let wanted: u64 = hits.parse().expect("SKYTIDE_STOP_AT is NAME=HITS");
            let hits = AtomicU64::new(0);
            let stop = move || {
                if hits.fetch_add(1, Ordering::Relaxed) + 1 == wanted {
                    kill_process(getpid(), Signal::STOP).expect("a process may stop itself");
                    until_taken();
                }
            };
            fail::cfg_callback(name, stop).expect("failpoints are built in");
        }
        scenario
    }

    /// The signal is pending until one of the threads takes it, which stops them all; this one would run on until then.
    fn until_taken() {
        let stop = 1 << (Signal::STOP.as_raw() - 1);
        let is_pending = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let shared = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
            let shared = shared.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
            shared.is_some_and(|bits| bits & stop != 0)
        };
        while is_pending() {
            std::thread::yield_now();
        }
    }
}
