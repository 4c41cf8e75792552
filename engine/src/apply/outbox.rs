//! What the planner hands over to the side that holds the connection, in messages of a fair size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use skytide_sql::TableName;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::ApplyError;
use super::shape::Shape;
use super::statement::{CopyFormat, Form};
use crate::change::Relation;

/// Work is handed over in messages of about so much.
const MESSAGE_BYTES: usize = 1 << 20;
const MESSAGE_OPS: usize = 256;

/// Rows for one statement.
#[derive(Debug)]
pub(super) struct Work {
    pub form: Arc<Form>,
    pub rows: u32,
    pub payload: Vec<u8>,
    pub way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Array,
    Copy(CopyFormat),
}

#[derive(Debug)]
pub(super) enum Op {
    Work(Work),
    Truncate {
        tables: Vec<Arc<Shape>>,
        restart_identity: bool,
    },
}

/// What the planner tells the side that holds the connection.
#[derive(Debug)]
pub(super) enum Message {
    Resolve {
        relation: Arc<Relation>,
        dest: TableName,
        reply: oneshot::Sender<Arc<Shape>>,
    },
    Ops(Vec<Op>),
}

/// Gathers operations into messages. Blocks where the other side has not taken the last one.
pub(super) struct Outbox<'a> {
    sender: &'a mpsc::Sender<Message>,
    ops: Vec<Op>,
    bytes: usize,
    waited: Duration,
}

impl Outbox<'_> {
    pub fn new(sender: &mpsc::Sender<Message>) -> Outbox<'_> {
        Outbox {
            sender,
            ops: Vec::new(),
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// Time spent waiting for the other side.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    pub fn push(&mut self, op: Op) -> Result<(), ApplyError> {
        if let Op::Work(work) = &op {
            self.bytes += work.payload.len();
        }
        self.ops.push(op);
        if self.bytes >= MESSAGE_BYTES || self.ops.len() >= MESSAGE_OPS {
            self.send()?;
        }
        Ok(())
    }

    /// Hands over what was gathered.
    pub fn send(&mut self) -> Result<(), ApplyError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let ops = std::mem::take(&mut self.ops);
        self.hand_over(Message::Ops(ops))
    }

    /// Asks for a table's shape on the subscriber, after all that was pushed before.
    pub fn resolve(&mut self, relation: Arc<Relation>, dest: TableName) -> Result<Arc<Shape>, ApplyError> {
        self.send()?;
        let (reply, shape) = oneshot::channel();
        self.hand_over(Message::Resolve {
            relation,
            dest,
            reply,
        })?;
        // A message that came while the receiver was dropped stays in the channel, and the reply with it:
        // nobody drops that before us.
        let answer = async {
            tokio::select! {
                shape = shape => shape.map_err(|_| ApplyError::Stopped),
                () = self.sender.closed() => Err(ApplyError::Stopped),
            }
        };
        let waiting = Instant::now();
        let shape = Handle::current().block_on(answer);
        self.waited += waiting.elapsed();
        shape
    }

    fn hand_over(&mut self, message: Message) -> Result<(), ApplyError> {
        let waiting = Instant::now();
        let sent = self.sender.blocking_send(message);
        self.waited += waiting.elapsed();
        sent.map_err(|_| ApplyError::Stopped)
    }
}
