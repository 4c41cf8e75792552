//! PostgreSQL snapshots in text form (`txid_snapshot`, `pg_snapshot`): `xmin:xmax:xip,xip,…`.

use std::fmt;
use std::str::FromStr;

use crate::Xid;

/// Which transactions had ended when a statement looked.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    /// In progress, each in `[xmin, xmax)`, ascending.
    xip: Box<[Xid]>,
}

/// The parts do not make a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: {0}")]
pub struct BadSnapshot(String);

impl Snapshot {
    /// Checks what the server guarantees: `0 < xmin <= xmax`, `xip` strictly ascending in `[xmin, xmax)`.
    pub fn new(xmin: Xid, xmax: Xid, xip: Vec<Xid>) -> Result<Snapshot, BadSnapshot> {
        let ascending = xip.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = xip.iter().all(|x| *x >= xmin && *x < xmax);
        if xmin.as_u64() == 0 || xmin > xmax || !ascending || !inside {
            return Err(BadSnapshot(format!(
                "xmin {xmin}, xmax {xmax}, {} in progress",
                xip.len()
            )));
        }
        Ok(Snapshot {
            xmin,
            xmax,
            xip: xip.into(),
        })
    }

    /// Every transaction before `xmin` had ended.
    pub fn xmin(&self) -> Xid {
        self.xmin
    }

    /// No transaction from `xmax` on had ended.
    pub fn xmax(&self) -> Xid {
        self.xmax
    }

    pub fn in_progress(&self) -> &[Xid] {
        &self.xip
    }

    /// Whether the transaction had ended, as `pg_visible_in_snapshot()` says it. Top-level ids only:
    /// a running subtransaction is not listed and would look visible.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// Whether everything visible in `earlier` is visible here too, as it must be from tick to tick.
    pub fn contains(&self, earlier: &Snapshot) -> bool {
        self.xmax >= earlier.xmax
            && self
                .xip
                .iter()
                .filter(|x| **x < earlier.xmax)
                .all(|x| !earlier.sees(*x))
    }

    /// Whether nothing that ends after this snapshot can still be one that `other` missed: from here on
    /// every newly visible transaction is invisible in `other`.
    pub fn is_wholly_after(&self, other: &Snapshot) -> bool {
        self.xmin >= other.xmax
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.xip.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Snapshot {
    type Err = BadSnapshot;

    fn from_str(text: &str) -> Result<Snapshot, BadSnapshot> {
        let wrong = || BadSnapshot(text.chars().take(80).collect());
        let xid = |s: &str| s.parse::<u64>().map(Xid::new).map_err(|_| wrong());
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or_else(wrong);
        let (xmin, xmax, list) = (xid(part()?)?, xid(part()?)?, part()?);
        let xip = match list {
            "" => Vec::new(),
            list => list.split(',').map(xid).collect::<Result<Vec<_>, _>>()?,
        };
        Snapshot::new(xmin, xmax, xip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn prints_what_it_parsed() {
        for text in ["1203:1362:1203,1354", "7:7:", "4294967290:4294967301:4294967290"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
        for bad in [
            "", "1:2", "2:1:", "1:5:5", "1:5:3,2", "1:5:3,3", "0:1:", "a:1:", "1:5:,",
        ] {
            assert!(bad.parse::<Snapshot>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sees_what_had_ended() {
        let s = snapshot("10:20:10,15");
        let seen: Vec<u64> = (8..22).filter(|x| s.sees(Xid::new(*x))).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
    }

    #[test]
    fn contains_is_subset_of_visible() {
        assert!(snapshot("12:20:12").contains(&snapshot("10:20:10,12")));
        assert!(snapshot("10:21:10,12").contains(&snapshot("10:20:10,12")));
        assert!(
            !snapshot("10:21:10,12").contains(&snapshot("12:20:12")),
            "10 was visible before"
        );
        assert!(!snapshot("10:19:").contains(&snapshot("10:20:")));
    }
}
