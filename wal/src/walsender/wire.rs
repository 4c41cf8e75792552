//! One socket with what has been read and what is still to be written.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use skytide_sql::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::WalsenderError;
use super::frame::{Frames, READ_BYTES};
use super::message::Backend;

/// A server that takes no byte for this long is gone, or as good as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Both directions are cancel-safe: half-read messages stay in `frames`, half-written ones in `out`.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    pub frames: Frames,
    pub out: BytesMut,
}

impl Wire {
    pub fn new(transport: Transport) -> Wire {
        Wire {
            transport,
            frames: Frames::new(),
            out: BytesMut::new(),
        }
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Reads once; at least one byte more is there afterwards.
    pub async fn fill(&mut self) -> Result<(), WalsenderError> {
        let room = self.frames.spare()?;
        debug_assert!(room.capacity() - room.len() >= READ_BYTES / 4);
        if self.transport.read_buf(room).await? > 0 {
            return Ok(());
        }
        if self.frames.is_mid_message() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Err(WalsenderError::Closed)
    }

    /// Waits for the next message. Its type is returned too, for error texts.
    pub async fn receive(&mut self) -> Result<(u8, Backend<'_>), WalsenderError> {
        while self.frames.next_tag()?.is_none() {
            self.fill().await?;
        }
        let frame = self.frames.take()?.ok_or(WalsenderError::Closed)?;
        Ok((frame.tag, Backend::decode(frame)?))
    }

    /// Writes what has been put into `out`.
    pub async fn flush(&mut self) -> Result<(), WalsenderError> {
        while self.out.has_remaining() {
            let write = self.transport.write_buf(&mut self.out);
            match tokio::time::timeout(WRITE_TIMEOUT, write).await {
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(result) => result?,
                Err(_) => return Err(WalsenderError::WriteTimeout { limit: WRITE_TIMEOUT }),
            };
        }
        self.transport.flush().await?;
        Ok(())
    }

    /// A last word, as far as it goes without waiting: we are leaving, or dropped.
    pub fn flush_now_or_never(&mut self) {
        use futures_util::FutureExt as _;
        let _ = self.flush().now_or_never();
    }
}
