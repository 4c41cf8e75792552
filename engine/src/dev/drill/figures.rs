//! What a drill found out.

use serde::Serialize;
use serde_json::Value;

#[derive(Serialize)]
pub struct Figures {
    pub postgresql: String,
    pub switchover: bool,
    pub synchronous: bool,
    /// The old primary's disk could be read.
    pub disk: bool,
    pub clients: usize,
    /// Commits that clients were told of.
    pub acknowledged: usize,
    /// Those of them that the new primary does not have.
    pub lost: usize,
    /// From the first lost commit's acknowledgement to the kill.
    pub loss_window_ms: f64,
    /// From the kill until a client could commit.
    pub unavailable_ms: f64,
    pub decision_ms: Option<f64>,
    pub until_writes_ms: Option<f64>,
    pub server_ms: Option<f64>,
    /// Standbys that have all that the new primary has.
    pub following: usize,
    /// The command's own report.
    pub promotion: Value,
}

impl Figures {
    /// Nothing was lost where nothing may be.
    pub fn is_good(&self) -> bool {
        self.lost == 0 || !(self.switchover || self.synchronous || self.disk)
    }
}
