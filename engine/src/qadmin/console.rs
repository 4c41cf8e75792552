//! The console: a session, a default queue, and one way for statements to reach the server.

use std::pin::pin;

use futures_util::FutureExt as _;
use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_sql::{QueueName, install};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::answer::{Answer, Rows, value_of_text};
use super::call::Call;
use super::command::{Command, Connect, Which};
use super::error::QadminError;
use super::foreign::{Transaction, is_copy_through_the_link, meant, tag, transaction_after};
use super::lex::Statement;
use super::{change, grammar, help, londiste, queries, show};
use crate::cli::output::{Output, OutputMode};

pub const APPLICATION: &str = "skytide qadmin";

/// What happens to the SQL of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Run,
    /// Shown, then run.
    Echo,
    /// Shown. Only what a `*` stands for and the like is still asked from the server.
    DryRun,
}

/// Whether there is a next command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    Go,
    Exit,
}

pub struct Console {
    pub session: Session,
    target: ConnectString,
    pub queue: Option<QueueName>,
    mode: Mode,
    output: Output,
    /// Ctrl-C while a statement runs cancels the statement.
    interrupts: Signal,
    /// The user opened a transaction: ours become savepoints of it.
    transaction: Transaction,
}

pub struct Settings {
    pub target: ConnectString,
    pub queue: Option<QueueName>,
    pub mode: Mode,
    pub output: Output,
}

impl Console {
    pub async fn open(settings: Settings) -> Result<Console, QadminError> {
        Ok(Console {
            session: connect(&settings.target, APPLICATION).await?,
            target: settings.target,
            queue: settings.queue,
            mode: settings.mode,
            output: settings.output,
            interrupts: signal(SignalKind::interrupt()).map_err(QadminError::Input)?,
            transaction: Transaction::None,
        })
    }

    pub fn target(&self) -> &ConnectString {
        &self.target
    }

    pub fn output(&self) -> &Output {
        &self.output
    }

    pub fn transaction(&self) -> Transaction {
        self.transaction
    }

    pub fn is_dry(&self) -> bool {
        self.mode == Mode::DryRun
    }

    /// Waits for input; Ctrl-C ends the waiting.
    pub async fn unless_interrupted<T>(&mut self, input: impl Future<Output = T>) -> Result<T, QadminError> {
        tokio::select! {
            input = input => Ok(input),
            Some(()) = self.interrupts.recv() => Err(QadminError::Interrupted),
        }
    }

    /// Ctrl-C that came while nothing ran is not meant for the next statement.
    pub fn forget_interrupts(&mut self) {
        while self.interrupts.recv().now_or_never().flatten().is_some() {}
    }

    /// Carries out one statement of `source` and prints its answer.
    pub async fn execute(&mut self, source: &str, statement: &Statement) -> Result<Flow, QadminError> {
        let command = grammar::parse(source, statement)?;
        self.reconnect_if_lost().await?;
        let answer = match command {
            Command::Exit => return Ok(Flow::Exit),
            Command::Sql => self.pass_through(source, statement).await?,
            Command::Help => Answer::Text {
                name: "help",
                text: help::TEXT.trim_end().to_owned(),
            },
            Command::Connect(connect) => self.connect(connect).await?,
            Command::Install => self.install().await?,
            Command::Show(show) => show::run(self, show).await?,
            Command::Londiste(command) => londiste::run(self, command).await?,
            Command::Change(change) => change::run(self, change).await?,
        };
        answer.print(&self.output)?;
        Ok(Flow::Go)
    }

    async fn reconnect_if_lost(&mut self) -> Result<(), QadminError> {
        if self.session.is_closed() {
            self.session = connect(&self.target, APPLICATION).await?;
            self.transaction = Transaction::None;
            self.output.note("The link was lost; connected anew.");
        }
        Ok(())
    }

    /// The queue that is named, or else the default queue.
    pub fn queue_or_default(&self, named: Option<QueueName>) -> Result<QueueName, QadminError> {
        named.or_else(|| self.queue.clone()).ok_or(QadminError::NoQueue)
    }

    /// Asks what has to be known before a command can be carried out. A dry run asks too.
    pub async fn look_up(&mut self, call: &Call) -> Result<Vec<Row>, QadminError> {
        if self.mode == Mode::Echo {
            self.output.note(&format!("{};", call.shown()));
        }
        self.send(call).await
    }

    /// Runs a command's own statement; a dry run shows it instead and has no rows.
    pub async fn run(&mut self, call: &Call) -> Result<Vec<Row>, QadminError> {
        match self.mode {
            Mode::DryRun => {
                self.show_sql(&call.shown())?;
                Ok(Vec::new())
            }
            Mode::Echo | Mode::Run => self.look_up(call).await,
        }
    }

    async fn send(&mut self, call: &Call) -> Result<Vec<Row>, QadminError> {
        let values = call.values();
        let query = self.session.query(call.sql, &values);
        interruptible(&self.session, &mut self.interrupts, query)
            .await
            .map_err(|error| QadminError::from_call(error, call.sql))
    }

    /// The rows of a query, to be shown.
    pub async fn rows(&mut self, call: &Call) -> Result<Option<Rows>, QadminError> {
        if self.is_dry() {
            self.show_sql(&call.shown())?;
            return Ok(None);
        }
        let failed = |error| QadminError::from_call(error, call.sql);
        let columns = self.session.prepare(call.sql).await.map_err(failed)?;
        let rows = self.look_up(call).await?;
        Rows::read(columns.columns(), &rows).map(Some).map_err(failed)
    }

    /// A statement of ours without values or rows.
    pub async fn control(&mut self, sql: &str) -> Result<(), QadminError> {
        match self.mode {
            Mode::DryRun => return self.show_sql(sql),
            Mode::Echo => self.output.note(&format!("{sql};")),
            Mode::Run => {}
        }
        let statement = self.session.batch_execute(sql);
        interruptible(&self.session, &mut self.interrupts, statement)
            .await
            .map_err(|error| QadminError::from_server(error, sql))
    }

    fn show_sql(&self, sql: &str) -> Result<(), QadminError> {
        let shown = match self.output.mode() {
            OutputMode::Json => self.output.json(&serde_json::json!({ "sql": sql })),
            OutputMode::Table => self.output.line(format!("{sql};")),
        };
        shown.map_err(QadminError::Print)
    }

    /// All of it or nothing.
    pub async fn atomically<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Console) -> Result<T, QadminError>,
    ) -> Result<T, QadminError> {
        let (begin, commit, undo) = match self.transaction {
            Transaction::None => ("begin", "commit", "rollback"),
            Transaction::Open => (
                "savepoint skytide_qadmin",
                "release savepoint skytide_qadmin",
                "rollback to savepoint skytide_qadmin",
            ),
        };
        self.control(begin).await?;
        match work(self).await {
            Ok(done) => {
                self.control(commit).await?;
                Ok(done)
            }
            Err(error) => {
                if !self.is_dry() && self.control(undo).await.is_err() {
                    tracing::debug!("rollback failed: the link is gone, and the transaction with it");
                }
                Err(error)
            }
        }
    }

    /// What a command did. A dry run did nothing, and has said all there is to say.
    pub fn done(&self, tag: &str, notes: Vec<String>) -> Answer {
        match self.mode {
            Mode::DryRun => Answer::Nothing,
            Mode::Echo | Mode::Run => Answer::noted(tag, notes),
        }
    }

    /// The names that `*` stands for, or the one that is given.
    pub async fn each_queue(&mut self, which: Which<QueueName>) -> Result<Vec<QueueName>, QadminError> {
        match which {
            Which::One(queue) => Ok(vec![queue]),
            Which::All => {
                let rows = self.look_up(&Call::new(queries::QUEUE_NAMES, [])).await?;
                let name = |row: &Row| Ok(QueueName::stored(row.get::<_, String>(0))?);
                rows.iter().map(name).collect()
            }
        }
    }

    async fn connect(&mut self, to: Connect) -> Result<Answer, QadminError> {
        match to {
            Connect::Queue(queue) => {
                show::check_queue(self, &queue).await?;
                self.queue = Some(queue);
            }
            Connect::Node { queue, node } => {
                let queue = self.queue_or_default(queue)?;
                let location = show::node_location(self, &queue, &node).await?;
                self.move_to(ConnectString::parse(&location)?).await?;
                self.queue = Some(queue);
            }
            Connect::Database(changes) => {
                let changes: Vec<(&str, &str)> = changes
                    .iter()
                    .map(|(keyword, value)| (*keyword, value.as_str()))
                    .collect();
                // A password is for one account on one server.
                let elsewhere = changes.iter().any(|(keyword, _)| *keyword != "dbname");
                let base = if elsewhere {
                    self.target.without_password()
                } else {
                    self.target.clone()
                };
                self.move_to(base.with(&changes)?).await?;
            }
        }
        Ok(Answer::done("CONNECT"))
    }

    /// The old session stays if the new one cannot be had.
    async fn move_to(&mut self, target: ConnectString) -> Result<(), QadminError> {
        self.session = connect(&target, APPLICATION).await?;
        self.target = target;
        self.transaction = Transaction::None;
        Ok(())
    }

    async fn install(&mut self) -> Result<Answer, QadminError> {
        if self.transaction == Transaction::Open {
            return Err(QadminError::Unsupported {
                what: "install inside a transaction",
                hint: "First: commit;",
            });
        }
        let plan = match self.mode {
            Mode::DryRun => install::plan(&*self.session).await?,
            Mode::Echo | Mode::Run => install::install(&mut self.session).await?,
        };
        let would = if self.is_dry() { "would " } else { "" };
        let notes = plan.modules.iter().map(|entry| {
            format!(
                "{would}{} {} {}",
                entry.action.word(),
                entry.module,
                install::VERSION
            )
        });
        Ok(Answer::noted("INSTALL", notes.collect()))
    }

    /// A statement for the server, as it was typed.
    async fn pass_through(&mut self, source: &str, statement: &Statement) -> Result<Answer, QadminError> {
        let sql = statement.text(source);
        if is_copy_through_the_link(statement) {
            return Err(QadminError::Unsupported {
                what: "COPY from or to the client",
                hint: "Use psql for it.",
            });
        }
        match self.mode {
            Mode::DryRun => {
                self.show_sql(sql)?;
                return Ok(Answer::Nothing);
            }
            Mode::Echo => self.output.note(&format!("{sql};")),
            Mode::Run => {}
        }
        match self.simple_query(sql).await {
            Ok(answer) => {
                self.transaction = transaction_after(self.transaction, statement);
                Ok(answer)
            }
            Err(QadminError::Server(mut error)) => {
                if error.hint.is_none() && ["42601", "42704"].contains(&error.code()) {
                    error.hint = meant(source, statement);
                }
                Err(QadminError::Server(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn simple_query(&mut self, sql: &str) -> Result<Answer, QadminError> {
        let failed = |error| QadminError::from_server(error, sql);
        // The types of the columns are known to the extended protocol only.
        let kinds = match self.output.mode() {
            OutputMode::Json => self.session.prepare(sql).await.ok(),
            OutputMode::Table => None,
        };
        let query = self.session.simple_query(sql);
        let messages = interruptible(&self.session, &mut self.interrupts, query)
            .await
            .map_err(failed)?;
        let kind = |at: usize| Some(kinds.as_ref()?.columns().get(at)?.type_());
        let mut rows: Option<Rows> = None;
        let mut count = 0;
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    rows = Some(Rows {
                        columns: columns.iter().map(|column| column.name().to_owned()).collect(),
                        rows: Vec::new(),
                    });
                }
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|at| value_of_text(row.get(at), kind(at)));
                    rows.get_or_insert_default().rows.push(values.collect());
                }
                SimpleQueryMessage::CommandComplete(affected) => count = affected,
                _ => {}
            }
        }
        Ok(match rows {
            Some(rows) => Answer::Rows(rows),
            None => Answer::done(&tag(sql, count)),
        })
    }
}

/// Waits for an answer; Ctrl-C asks the server to give it up, and the answer then is its error.
async fn interruptible<T>(session: &Session, interrupts: &mut Signal, work: impl Future<Output = T>) -> T {
    let canceller = session.canceller();
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(()) = interrupts.recv() => {
                if let Err(error) = canceller.cancel().await {
                    tracing::warn!(error = %error, "the statement could not be cancelled");
                }
            }
        }
    }
}
