//! Decoding alone: no server, no socket, one core. Single-row transactions, the dearest kind.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Context;
use skytide::capture::assemble::Assembler;
use skytide::capture::pgoutput::{Within, decode};
use skytide::spool::{Identity, Settings, Writer};
use skytide_sql::{QueueName, SlotName};
use skytide_wal::walsender::{Frames, StreamMessage};

use super::Effort;
use crate::figures::{Findings, Verdict, median, thousands};

const OID: u32 = 16_400;
/// What a read from a socket brings at most.
const READ: usize = 64 << 10;

pub fn run(effort: Effort) -> anyhow::Result<Findings> {
    let transactions = effort.size(1_000_000, 300_000) as u32;
    let stream = stream(transactions);
    let messages = f64::from(transactions) * 3.0 + 1.0;
    let (mut parsed, mut spooled) = (Vec::new(), Vec::new());
    for _ in 0..effort.reps {
        parsed.push(messages / parse(&stream)?.as_secs_f64());
        spooled.push(messages / spool(&stream)?.as_secs_f64());
    }
    let mut findings = Findings::default();
    findings.note(format!(
        "{transactions} single-row transactions, three messages each ({:.0} bytes a transaction with the frames of \
         copy-both mode), from memory in reads of 64 KiB, on one core: framing and decoding alone, and the same into a \
         spool on disk with its checksums and zstd, synced at the end.",
        stream.len() as f64 / f64::from(transactions)
    ));
    let line = |what: &str, rates: &[f64]| {
        let rate = median(rates);
        vec![what.to_owned(), thousands(rate), format!("{:.2}", 3e6 / rate)]
    };
    findings.table(
        &["on one core", "messages/s", "µs a transaction"],
        &[line("decode", &parsed), line("decode and spool", &spooled)],
    );
    findings.verdicts.push(Verdict::at_least(
        "parser alone",
        2.0,
        median(&parsed) / 1e6,
        "million messages/s",
    ));
    Ok(findings)
}

/// What a walsender sends for one relation and `transactions` inserts of one row.
fn stream(transactions: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = Vec::new();
    let relation = |body: &mut Vec<u8>| {
        body.push(b'R');
        body.extend(OID.to_be_bytes());
        body.extend(b"public\0load\0d");
        body.extend(4_u16.to_be_bytes());
        for (key, name, oid) in [(1_u8, "id", 20_u32), (0, "a", 23), (0, "b", 23), (0, "v", 25)] {
            body.push(key);
            body.extend(name.as_bytes());
            body.push(0);
            body.extend(oid.to_be_bytes());
            body.extend((-1_i32).to_be_bytes());
        }
    };
    let mut lsn = 0x0100_0000_u64;
    for xid in 1_000..1_000 + transactions {
        let end = lsn + 0x100;
        body.clear();
        body.push(b'B');
        body.extend(lsn.to_be_bytes());
        body.extend(i64::from(xid).to_be_bytes());
        body.extend(xid.to_be_bytes());
        copy_data(&mut out, lsn, &body);
        if xid == 1_000 {
            body.clear();
            relation(&mut body);
            copy_data(&mut out, lsn, &body);
        }
        body.clear();
        body.push(b'I');
        body.extend(OID.to_be_bytes());
        body.push(b'N');
        body.extend(4_u16.to_be_bytes());
        let text = format!("a row with some text {xid}");
        for value in [
            &i64::from(xid).to_be_bytes()[..],
            &xid.to_be_bytes(),
            &7_u32.to_be_bytes(),
            text.as_bytes(),
        ] {
            body.push(b'b');
            body.extend((value.len() as u32).to_be_bytes());
            body.extend(value);
        }
        copy_data(&mut out, lsn, &body);
        body.clear();
        body.extend([b'C', 0]);
        body.extend(lsn.to_be_bytes());
        body.extend(end.to_be_bytes());
        body.extend(i64::from(xid).to_be_bytes());
        copy_data(&mut out, end, &body);
        lsn = end;
    }
    out
}

fn copy_data(out: &mut Vec<u8>, lsn: u64, message: &[u8]) {
    out.push(b'd');
    out.extend((4 + 25 + message.len() as u32).to_be_bytes());
    out.push(b'w');
    out.extend(lsn.to_be_bytes());
    out.extend(lsn.to_be_bytes());
    out.extend(0_i64.to_be_bytes());
    out.extend(message);
}

/// Hands each pgoutput message of the stream to `take`.
fn messages(stream: &[u8], mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut frames = Frames::new();
    for read in stream.chunks(READ) {
        frames.spare()?.extend_from_slice(read);
        while let Some(frame) = frames.take()? {
            if let StreamMessage::Data { payload, .. } = StreamMessage::decode(frame.body)? {
                take(payload)?;
            }
        }
    }
    Ok(started.elapsed())
}

fn parse(stream: &[u8]) -> anyhow::Result<Duration> {
    messages(stream, |payload| {
        black_box(decode(black_box(payload), Within::Transaction)?);
        Ok(())
    })
}

fn spool(stream: &[u8]) -> anyhow::Result<Duration> {
    let dir = tempfile::Builder::new().prefix("skytide-bench.").tempdir()?;
    let identity = Identity {
        system_id: 1,
        timeline: 1,
        database: "app".into(),
        slot: SlotName::new("bench").context("slot name")?,
        queue: QueueName::new("q").context("queue name")?,
    };
    let (mut writer, spool) = Writer::open(Settings::new(dir.path()), identity)?;
    let mut assembler = Assembler::new(1, true, None);
    let started = Instant::now();
    messages(stream, |payload| {
        assembler.message(payload, &mut writer)?;
        Ok(())
    })?;
    writer.publish()?;
    writer.request_sync();
    while writer.durable_lsn() < writer.end_lsn() {
        spool.check()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(started.elapsed())
}
