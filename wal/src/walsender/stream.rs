//! A stream of WAL or of decoded changes, with our positions going the other way.

use postgres_protocol::message::frontend;

use super::client::{Client, NextTimeline};
use super::error::WalsenderError;
use super::message::{
    Backend, BadMessage, HotStandbyFeedback, Positions, ReplyRequested, StreamMessage, Timestamp,
};

const COPY_DATA: u8 = b'd';
/// object_not_in_prerequisite_state
const NOT_READY: &str = "55000";

/// A connection in copy-both mode. All its methods but `finish` are cancel-safe.
///
/// Keeping time is the caller's: send a status often enough (half the server's `wal_sender_timeout`),
/// and put a deadline around `next` to notice a server that has gone without a word.
#[derive(Debug)]
pub struct CopyBoth {
    client: Client,
    /// The server has sent CopyDone.
    ended: bool,
}

impl CopyBoth {
    pub(super) fn new(client: Client) -> CopyBoth {
        CopyBoth { client, ended: false }
    }

    pub fn server_version_num(&self) -> u32 {
        self.client.server_version_num()
    }

    /// Waits for the next message. `None`: the server has ended the stream (a physical one, when its
    /// timeline has); `finish` tells how to go on.
    pub async fn next(&mut self) -> Result<Option<StreamMessage<'_>>, WalsenderError> {
        while !self.ended {
            match self.client.wire.frames.next_tag()? {
                Some(COPY_DATA) => return self.data(),
                Some(_) => self.control()?,
                None => self.client.wire.fill().await?,
            }
        }
        Ok(None)
    }

    /// The next message, if it has been received already: no system call is made. Lets a caller work
    /// through what is there before it flushes or waits.
    pub fn buffered(&mut self) -> Result<Option<StreamMessage<'_>>, WalsenderError> {
        while !self.ended {
            match self.client.wire.frames.next_tag()? {
                Some(COPY_DATA) => return self.data(),
                Some(_) => self.control()?,
                None => break,
            }
        }
        Ok(None)
    }

    /// Tells the server how far we are. After a cancelled call the status goes out with the next one.
    pub async fn send_status(
        &mut self,
        positions: &Positions,
        reply: ReplyRequested,
    ) -> Result<(), WalsenderError> {
        positions.encode(Timestamp::now(), reply, &mut self.client.wire.out);
        self.client.wire.flush().await
    }

    /// Tells a primary which rows this standby's queries still need.
    pub async fn send_hot_standby_feedback(
        &mut self,
        feedback: &HotStandbyFeedback,
    ) -> Result<(), WalsenderError> {
        feedback.encode(Timestamp::now(), &mut self.client.wire.out);
        self.client.wire.flush().await
    }

    /// Ends the stream from our side and reads it to its end. A server inside a long decode answers only
    /// when it next looks at its socket; put a deadline around this, or drop the stream instead.
    pub async fn finish(mut self) -> Result<(Client, Option<NextTimeline>), WalsenderError> {
        frontend::copy_done(&mut self.client.wire.out);
        self.client.wire.flush().await?;
        while self.next().await?.is_some() {}
        self.client.end_of_stream().await
    }

    #[inline]
    fn data(&mut self) -> Result<Option<StreamMessage<'_>>, WalsenderError> {
        match self.client.wire.frames.take()? {
            Some(frame) => Ok(Some(StreamMessage::decode(frame.body)?)),
            None => Ok(None),
        }
    }

    /// Handles the message at the front, which is no CopyData.
    fn control(&mut self) -> Result<(), WalsenderError> {
        let Client { wire, server, .. } = &mut self.client;
        let Some(frame) = wire.frames.take()? else {
            return Ok(());
        };
        match Backend::decode(frame)? {
            Backend::CopyDone => self.ended = true,
            Backend::Error(error) => return Err(error.into()),
            // Without CopyDone before it: the server has sent all it had and exits.
            Backend::CommandComplete => return Err(WalsenderError::Shutdown),
            // From 18 on a publication that is not there only gets a warning, and its changes are left out
            // (pgoutput.c, LoadPublications). To us that is the error it was before.
            Backend::Notice(notice) if notice.severity == "WARNING" && notice.code == NOT_READY => {
                return Err(notice.into());
            }
            Backend::Notice(notice) => tracing::debug!(%notice, "from the server"),
            Backend::ParameterStatus { name, value } => server.set(name, value),
            Backend::Notification => {}
            _ => {
                let what = "it has no place in a stream";
                return Err(BadMessage { tag: frame.tag, what }.into());
            }
        }
        Ok(())
    }
}
