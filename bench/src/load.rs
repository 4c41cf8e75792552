//! The measured table and the load on it.

use futures_util::future::try_join_all;

use crate::rig::{PROVIDER_DB, Rig};

pub const SCHEMA: &str = include_str!("../sql/load.sql");
pub const TABLES: [&str; 2] = ["load", "mark"];
/// Connections that make the load.
const LANES: i32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 40 % insert, 40 % update, 20 % delete.
    Mix,
    /// Updates of which 90 % go to 1 % of the keys.
    Hot,
    Insert,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::Mix => "mix",
            Shape::Hot => "hot",
            Shape::Insert => "insert",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub shape: Shape,
    pub changes: i32,
    pub per_tx: i32,
}

/// The measured table as it was filled, and what loads have done to it.
pub struct Table {
    keys: i32,
    deleted: i32,
}

impl Table {
    /// Fills the provider's table.
    pub async fn fill(rig: &Rig, keys: i32) -> anyhow::Result<Table> {
        rig.on_provider
            .batch_execute(&format!(
                "insert into load select n, n % 1000, n % 7, 'a row with some text ' || n, now() \
                 from generate_series(1, {keys}) n; \
                 select setval('load_id', {keys} + 1000000)"
            ))
            .await?;
        rig.on_provider.batch_execute("vacuum analyze load").await?;
        Ok(Table { keys, deleted: 0 })
    }

    /// Makes the load and returns how many rows it changed.
    pub async fn run(&mut self, rig: &Rig, load: Load) -> anyhow::Result<i64> {
        let lanes = (0..LANES).map(|lane| {
            let call = format!(
                "call load_changes({}, {}, {}, {}, '{}', {lane}, {LANES}, null)",
                load.changes / LANES,
                load.per_tx,
                self.keys,
                self.deleted,
                load.shape.name(),
            );
            async move {
                let client = rig.provider.connect(PROVIDER_DB).await?;
                client.batch_execute("set synchronous_commit = off").await?;
                anyhow::Ok(client.query_one(&call, &[]).await?.get::<_, i64>(0))
            }
        });
        let made = try_join_all(lanes).await?.iter().sum();
        if load.shape == Shape::Mix {
            self.deleted += load.changes / LANES / 5;
        }
        Ok(made)
    }

    /// Changes as many rows as the table was filled with, all in one transaction. Once only: it deletes
    /// what it deletes.
    pub async fn run_as_one(&self, rig: &Rig) -> anyhow::Result<i64> {
        let mut client = rig.provider.connect(PROVIDER_DB).await?;
        let tx = client.transaction().await?;
        let mut made = 0;
        for sql in [
            "insert into load select nextval('load_id'), n, 0, 'a new row with some text ' || n, now() \
             from generate_series(1, $1::int * 2 / 5) n",
            "update load set a = a + 1, v = 'a changed row with some text ' || id \
             where id <= $1::int and id % 5 in (1, 3)",
            "delete from load where id <= $1::int and id % 5 = 4",
        ] {
            made += tx.execute(sql, &[&self.keys]).await?;
        }
        tx.commit().await?;
        Ok(i64::try_from(made)?)
    }
}
