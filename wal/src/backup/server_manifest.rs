//! The server's own list of what it sent, `backup_manifest` (PostgreSQL manual, "Backup Manifest Format").

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::BackupError;

#[derive(serde::Deserialize)]
struct Raw {
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(serde::Deserialize)]
struct RawFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Size")]
    bytes: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

/// By path: length, and CRC-32C if that is what the server computed.
pub struct ServerManifest(HashMap<String, (u64, Option<u32>)>);

impl ServerManifest {
    pub fn parse(bytes: &[u8]) -> Result<ServerManifest, BackupError> {
        let bad = |what: String| BackupError::ServerManifest(what);
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        // Of every byte before this field.
        const FIELD: &[u8] = b"\"Manifest-Checksum\"";
        let end = bytes.windows(FIELD.len()).rposition(|window| window == FIELD);
        let covered = end.and_then(|end| bytes.get(..end)).unwrap_or_default();
        let hex: String = Sha256::digest(covered)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if hex != raw.checksum {
            return Err(bad("its own checksum is wrong".into()));
        }
        let mut files = HashMap::with_capacity(raw.files.len());
        for file in raw.files {
            // Names that are no UTF-8 are refused where the archive is read.
            let Some(path) = file.path else { continue };
            let crc = match (file.algorithm.as_deref(), &file.checksum) {
                (Some("CRC32C"), Some(text)) => {
                    Some(crc(text).ok_or_else(|| bad(format!("checksum of {path}")))?)
                }
                _ => None,
            };
            files.insert(path, (file.bytes, crc));
        }
        Ok(ServerManifest(files))
    }

    /// Takes the file off the list; an error if it is not as announced.
    pub fn check(&mut self, path: &str, bytes: u64, crc: u32) -> Result<(), BackupError> {
        let bad = |what: String| Err(BackupError::ServerManifest(what));
        match self.0.remove(path) {
            None => bad(format!("{path} is not in it")),
            Some((announced, _)) if announced != bytes => {
                bad(format!("{path} has {bytes} bytes, announced are {announced}"))
            }
            Some((_, Some(announced))) if announced != crc => bad(format!("{path} has another checksum")),
            Some(_) => Ok(()),
        }
    }

    /// Nothing that was announced is missing.
    pub fn finish(self) -> Result<(), BackupError> {
        match self.0.into_keys().min() {
            None => Ok(()),
            Some(path) => Err(BackupError::ServerManifest(format!("{path} did not come"))),
        }
    }
}

/// The server prints the four bytes in its memory's order, little-endian.
fn crc(text: &str) -> Option<u32> {
    (text.len() == 8).then_some(())?;
    u32::from_str_radix(text, 16).ok().map(u32::swap_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_compared_with_what_was_announced() {
        let head = r#"{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "a", "Size": 3, "Last-Modified": "2026-11-25 10:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "b825884b" },
{ "Path": "b", "Size": 0 }
],
"#;
        let hex: String = Sha256::digest(head)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let text = format!("{head}\"Manifest-Checksum\": \"{hex}\"}}\n");
        let parse = || ServerManifest::parse(text.as_bytes()).unwrap();
        let mut good = parse();
        good.check("a", 3, 0x4b88_25b8).unwrap();
        good.check("b", 0, 0).unwrap();
        good.finish().unwrap();
        assert!(parse().check("a", 4, 0x4b88_25b8).is_err());
        assert!(parse().check("a", 3, 1).is_err());
        assert!(parse().check("c", 0, 0).is_err());
        assert!(parse().finish().is_err());
        assert!(ServerManifest::parse(text.replace("\"Size\": 0", "\"Size\": 1").as_bytes()).is_err());
    }
}
