//! Page headers on the way: read, checked in PostgreSQL's order (`XLogReaderValidatePageHeader`), and what they say of
//! the record that goes on.

use super::{Decoder, State, WalError, WalFault};
use crate::format::cursor::Cursor;
use crate::format::page::{LONG_HEADER, LongHeader, PageFlags, PageHeader, PageSize, SHORT_HEADER};
use crate::format::version::{Format, UnknownMagic};
use skytide_sql::Lsn;

impl Decoder {
    /// Reads the header of the page that begins at the position. `false` if it is not all there yet.
    pub(super) fn page_header(&mut self, input: &mut &[u8]) -> Result<bool, WalError> {
        let first_of_file = self
            .segment_size
            .offset_of(self.page_size.start_of(self.position))
            == 0;
        let wanted = if first_of_file { LONG_HEADER } else { SHORT_HEADER };
        let mut bytes = [0; LONG_HEADER];
        let partial = &mut self.partial_header;
        let missing = wanted.saturating_sub(partial.filled);
        let piece = input.get(..missing).unwrap_or(input);
        let room = partial.bytes.get_mut(partial.filled..).unwrap_or_default();
        room.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
        partial.filled += piece.len();
        let whole = partial.filled == wanted;
        if whole {
            bytes = partial.bytes;
            partial.filled = 0;
        }
        let page = self.page_size.start_of(self.position);
        *input = input.get(piece.len()..).unwrap_or_default();
        self.position = Lsn::new(self.position.as_u64().wrapping_add(piece.len() as u64));
        if !whole {
            return Ok(false);
        }
        let mut cursor = Cursor::new(&bytes);
        let blank = |_| self.error(page, 0, WalFault::Magic(UnknownMagic::Blank));
        let header = PageHeader::parse(&mut cursor).map_err(blank)?;
        let long = LongHeader::parse(&mut cursor).ok().filter(|_| first_of_file);
        self.check_page(page, &header, long.as_ref())
            .and_then(|()| self.enter_page(&header))
            .map_err(|fault| self.error(page, 0, fault))?;
        if header.padding != 0 && self.stray.is_none() {
            self.stray = Some(Lsn::new(page.as_u64().wrapping_add(SHORT_HEADER as u64 - 4)));
        }
        self.in_page = true;
        self.cold = false;
        Ok(true)
    }

    fn check_page(
        &mut self,
        page: Lsn,
        header: &PageHeader,
        long: Option<&LongHeader>,
    ) -> Result<(), WalFault> {
        let format = match self.format {
            Some(format) if format.magic == header.magic => format,
            expected => {
                let found = Format::of_magic(header.magic).map_err(WalFault::Magic)?;
                if let Some(expected) = expected {
                    return Err(WalFault::OtherMajor {
                        expected: expected.major,
                        found: found.major,
                    });
                }
                found
            }
        };
        let known = format.page_flags.bits();
        if header.flags.bits() & !known != 0 {
            return Err(WalFault::PageFlags(header.flags.bits()));
        }
        match (long, header.flags.contains(PageFlags::LONG)) {
            (Some(_), false) => return Err(WalFault::NoLongHeader),
            (None, true) => return Err(WalFault::StrayLongHeader),
            (Some(long), true) => self.check_long(long)?,
            (None, false) => {}
        }
        if header.address != page {
            return Err(WalFault::Address {
                found: header.address,
            });
        }
        if header.timeline < self.page_timeline {
            return Err(WalFault::TimelineBackwards {
                before: self.page_timeline,
                found: header.timeline,
            });
        }
        if header.timeline != self.page_timeline || self.cold {
            let timelines = &self.expected.timelines;
            timelines.check(page, header.timeline, self.page_size)?;
        }
        self.format = Some(format);
        self.page_timeline = header.timeline;
        Ok(())
    }

    fn check_long(&mut self, long: &LongHeader) -> Result<(), WalFault> {
        match self.expected.system_id {
            Some(expected) if expected != long.system_id => {
                return Err(WalFault::SystemId {
                    expected,
                    found: long.system_id,
                });
            }
            _ => {}
        }
        if long.segment_size != self.segment_size.as_u32() {
            return Err(WalFault::SegmentSize {
                expected: self.segment_size.as_u32(),
                found: long.segment_size,
            });
        }
        match PageSize::new(long.page_size) {
            // Pages of another size are learnt only where no page was read in the usual one.
            Some(size) if size == self.page_size || self.cold => self.page_size = size,
            _ => {
                return Err(WalFault::PageSize {
                    expected: self.page_size.as_u32(),
                    found: long.page_size,
                });
            }
        }
        self.expected.system_id = Some(long.system_id);
        Ok(())
    }

    /// What the page says of the record that goes on, against what is known of it.
    fn enter_page(&mut self, header: &PageHeader) -> Result<(), WalFault> {
        let continues = header.flags.contains(PageFlags::CONTINUES_RECORD);
        let gives_up = header.flags.contains(PageFlags::OVERWRITES_RECORD);
        if continues && gives_up {
            return Err(WalFault::PageFlags(header.flags.bits()));
        }
        let missing = match self.state {
            State::Seeking(_) => return Ok(()),
            State::Inside(record) if gives_up => {
                self.overwrite = Some(Some(record));
                self.state = State::Between;
                return Ok(());
            }
            State::Foreign(_) if gives_up => {
                self.overwrite = Some(None);
                self.state = State::Between;
                return Ok(());
            }
            State::Inside(record) => {
                if !continues || header.remaining == 0 {
                    return Err(WalFault::NotContinued { record });
                }
                let whole = self.record_length().unwrap_or(u32::MAX);
                whole.saturating_sub(u32::try_from(self.buffer.len()).unwrap_or(u32::MAX))
            }
            State::Foreign(missing) => {
                if !continues || header.remaining == 0 {
                    return Err(WalFault::ContinuedLength {
                        expected: missing,
                        found: 0,
                    });
                }
                missing
            }
            State::Between | State::Switched => {
                if continues && self.cold && header.remaining > 0 {
                    self.head.announced = header.remaining;
                    self.state = State::Foreign(header.remaining);
                } else if continues || header.remaining > 0 {
                    return Err(WalFault::NothingToContinue);
                } else if gives_up {
                    self.overwrite = Some(None);
                }
                return Ok(());
            }
        };
        match header.remaining == missing {
            true => Ok(()),
            false => Err(WalFault::ContinuedLength {
                expected: missing,
                found: header.remaining,
            }),
        }
    }
}
