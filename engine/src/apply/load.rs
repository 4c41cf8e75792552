//! Rows in COPY's two forms (PostgreSQL manual, "COPY", File Formats).

use super::statement::{BadValue, CopyFormat, Form, put_value};
use crate::change::ColumnValue;

/// Signature, flags, length of the header's extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const BINARY_TRAILER: &[u8] = &(-1i16).to_be_bytes();

pub(super) fn start(out: &mut Vec<u8>, format: CopyFormat) {
    if format == CopyFormat::Binary {
        out.extend_from_slice(BINARY_HEADER);
    }
}

pub(super) fn finish(out: &mut Vec<u8>, format: CopyFormat) {
    if format == CopyFormat::Binary {
        out.extend_from_slice(BINARY_TRAILER);
    }
}

pub(super) fn put_row(
    out: &mut Vec<u8>,
    form: &Form,
    format: CopyFormat,
    image: &[u8],
) -> Result<(), BadValue> {
    match format {
        CopyFormat::Binary => {
            let columns = form.stage.len() as i16; // a table has at most 1600 columns
            out.extend_from_slice(&columns.to_be_bytes());
            for (column, _, patch, value) in form.values_of(image) {
                put_value(out, column, patch, value)?;
            }
        }
        CopyFormat::Text => {
            for (n, (_, _, _, value)) in form.values_of(image).enumerate() {
                if n > 0 {
                    out.push(b'\t');
                }
                match value {
                    ColumnValue::Text(text) | ColumnValue::Binary(text) => escape(out, text),
                    ColumnValue::Null | ColumnValue::Unchanged => out.extend_from_slice(b"\\N"),
                }
            }
            out.push(b'\n');
        }
    }
    Ok(())
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut out = Vec::new();
        escape(&mut out, b"a\tb\\.\n\r\xc3\xa9");
        assert_eq!(out, b"a\\tb\\\\.\\n\\r\xc3\xa9");
    }
}
