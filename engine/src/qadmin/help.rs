//! The grammar, for people.

/// One command a line; `[ ]` may be left out, `|` is a choice, what is in capitals is put in.
pub const TEXT: &str = "\
Every command ends with a semicolon. Names with capitals or odd characters go in quotes.
on QUEUE and from QUEUE may be left out where there is a default queue.

Default queue, and where to work
  connect queue=QUEUE;
  connect [queue=QUEUE] node=NODE;
  connect [dbname=..] [host=..] [port=..] [user=..] [password=..];

Look
  show queue [QUEUE | *];
  show consumer [CONSUMER | * [on QUEUE | *]];
  show node [NODE | * [on QUEUE | *]];
  show batch ID | CONSUMER;
  show blockers [QUEUE | *];           who keeps event tables from being rotated
  show dead [QUEUE | *];               events that failed too often
  show table TABLE;                    the statements that make it
  show sequence SEQUENCE;
  show version;
  show help;

Queues
  create queue QUEUE;
  drop queue QUEUE;
  alter queue QUEUE | * set KEY = VALUE [, ..];
      keys: idle_period, max_lag, max_count, paused, rotation_period, external_ticker,
            max_retries, retry_delay, retry_max_delay

Consumers
  register consumer CONSUMER [on QUEUE] [at TICK] [copy CONSUMER];
  unregister consumer CONSUMER | * [from QUEUE];
  register subconsumer NAME for CONSUMER [on QUEUE];
  unregister subconsumer NAME | * for CONSUMER [from QUEUE] [close [batch]];
  pause consumer CONSUMER [on QUEUE];
  resume consumer CONSUMER [on QUEUE];
  seek consumer CONSUMER to TICK | 'TIME' [on QUEUE];
  purge consumer CONSUMER [on QUEUE];  skip all events there are

Replicated tables, of the default queue
  londiste tables;
  londiste seqs;
  londiste missing;
  londiste add table TABLE [, ..] [with OPTION [, ..]];
      options: skip_truncate, expect_sync, backup, skip, no_triggers,
               tgflags='..', pkey='..', when='..', ev_ignore='..', ev_type='..',
               ev_data='..', ev_extra1='..' to ev_extra4='..'
  londiste remove table TABLE [, ..];
  londiste add sequence SEQUENCE [, ..];
  londiste remove sequence SEQUENCE [, ..];

Others
  install pgq;                         the SQL modules, or their upgrade
  exit;
Anything else is SQL and goes to the server as it is.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_the_console_has_the_whole_help() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/qadmin.md");
        let page = std::fs::read_to_string(page).unwrap();
        for line in TEXT.lines().filter(|line| !line.is_empty()) {
            assert!(
                page.contains(&format!("\n    {line}\n")),
                "docs/qadmin.md lacks:\n    {line}"
            );
        }
    }

    #[test]
    fn help_names_every_first_word_of_the_grammar() {
        for word in crate::qadmin::grammar::FIRST {
            let is_there = TEXT.lines().any(|line| line.trim_start().starts_with(word));
            assert!(is_there || *word == "quit", "{word}");
        }
    }
}
