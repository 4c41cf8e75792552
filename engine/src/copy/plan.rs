//! What to copy: the columns both tables have, the format, and the ranges.

use skytide_sql::ident::quote_ident;
use skytide_sql::{Oid, TableName};
use tokio_postgres::Client;
use tracing::warn;

use super::CopyError;

/// One side's table.
#[derive(Clone, Debug)]
pub struct TableShape {
    pub oid: Oid,
    pub bytes: u64,
    pub pages: u64,
    pub estimated_rows: u64,
    pub columns: Vec<ColumnShape>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnShape {
    pub name: String,
    /// Schema-qualified type name with its modifier.
    pub type_name: String,
    /// The same bytes on every server: a built-in type (but those like `regclass`, which are numbers of objects), an
    /// enum, or a domain over one of these.
    pub portable: bool,
    pub generated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

#[derive(Clone, Debug)]
pub struct CopyPlan {
    pub source: TableName,
    pub dest: TableName,
    pub columns: Vec<String>,
    pub format: Format,
    pub source_shape: TableShape,
}

/// Half-open range of pages; `None` is the whole table.
pub type PageRange = Option<(u64, Option<u64>)>;

const SHAPE: &str = "
    select a.attname, a.attgenerated <> '' as generated,
           n.nspname || '.' || b.typname || ':' || a.atttypmod::text as type_name,
           (b.oid < 16384 and b.typtype in ('b', 'r', 'm') and b.typname !~ '^_?reg' or b.typtype = 'e')
             and b.binary as portable
    from pg_catalog.pg_attribute a
    cross join lateral (
        with recursive base as (
            select t.oid, t.typname, t.typtype, t.typbasetype, t.typnamespace, t.typelem, t.typcategory,
                   t.typsend <> 0 and t.typreceive <> 0 as binary
            from pg_catalog.pg_type t where t.oid = a.atttypid
            union all
            select t.oid, t.typname, t.typtype, t.typbasetype, t.typnamespace, t.typelem, t.typcategory,
                   t.typsend <> 0 and t.typreceive <> 0
            from base join pg_catalog.pg_type t on base.typtype = 'd' and t.oid = base.typbasetype
        )
        select base.oid, base.typname, base.typtype, base.typnamespace,
               base.binary and (base.typcategory <> 'A' or e.typsend <> 0 and e.typreceive <> 0) as binary
        from base left join pg_catalog.pg_type e on e.oid = base.typelem
        where base.typtype <> 'd'
    ) b
    join pg_catalog.pg_namespace n on n.oid = b.typnamespace
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
    order by a.attnum";

/// Reads a table's shape.
pub async fn shape(client: &Client, table: &TableName, side: &'static str) -> Result<TableShape, CopyError> {
    let row = client
        .query_opt(
            "select c.oid, pg_catalog.pg_table_size(c.oid), \
                    pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8, \
                    greatest(c.reltuples, 0)::int8 \
             from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
             where n.nspname = $1 and c.relname = $2 and c.relkind = 'r'",
            &[&table.schema, &table.name],
        )
        .await?;
    let Some(row) = row else {
        return Err(CopyError::NoTable {
            table: table.clone(),
            side,
        });
    };
    let oid: u32 = row.get(0);
    let unsigned = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    let columns = client.query(SHAPE, &[&oid]).await?;
    Ok(TableShape {
        oid: Oid::new(oid),
        bytes: unsigned(1),
        pages: unsigned(2),
        estimated_rows: unsigned(3),
        columns: columns
            .iter()
            .map(|r| ColumnShape {
                name: r.get(0),
                generated: r.get(1),
                type_name: r.get(2),
                portable: r.get(3),
            })
            .collect(),
    })
}

impl CopyPlan {
    /// Columns that only one side has are left out, with a warning.
    pub fn new(
        source: TableName,
        dest: TableName,
        source_shape: TableShape,
        dest_shape: &TableShape,
    ) -> Result<CopyPlan, CopyError> {
        let mut columns = Vec::new();
        let mut format = Format::Binary;
        for column in source_shape.columns.iter().filter(|c| !c.generated) {
            match dest_shape.columns.iter().find(|c| c.name == column.name) {
                Some(there) if there.generated => {}
                Some(there) => {
                    if !column.portable || there.type_name != column.type_name {
                        format = Format::Text;
                    }
                    columns.push(column.name.clone());
                }
                None => warn!(table = %dest, column = column.name, "column is missing on the subscriber"),
            }
        }
        for column in dest_shape.columns.iter().filter(|c| !c.generated) {
            match source_shape.columns.iter().find(|c| c.name == column.name) {
                None => warn!(table = %source, column = column.name, "column is missing on the provider"),
                Some(there) if there.generated => {
                    warn!(table = %source, column = column.name, "column is generated on the provider: it gets no values here");
                }
                Some(_) => {}
            }
        }
        if columns.is_empty() {
            return Err(CopyError::NoColumns { table: source });
        }
        Ok(CopyPlan {
            source,
            dest,
            columns,
            format,
            source_shape,
        })
    }

    fn column_list(&self) -> String {
        let quoted: Vec<_> = self.columns.iter().map(|c| quote_ident(c)).collect();
        quoted.join(", ")
    }

    fn options(&self) -> &'static str {
        match self.format {
            Format::Binary => "(format binary)",
            Format::Text => "(format text)",
        }
    }

    pub fn copy_out(&self, range: PageRange) -> String {
        let bound = match range {
            None => String::new(),
            Some((from, None)) => format!(" where ctid >= '({from},0)'::pg_catalog.tid"),
            Some((from, Some(to))) => {
                format!(" where ctid >= '({from},0)'::pg_catalog.tid and ctid < '({to},0)'::pg_catalog.tid")
            }
        };
        format!(
            "copy (select {} from only {}{bound}) to stdout {}",
            self.column_list(),
            self.source.quoted(),
            self.options()
        )
    }

    pub fn copy_in(&self) -> String {
        format!(
            "copy {} ({}) from stdin {}",
            self.dest.quoted(),
            self.column_list(),
            self.options()
        )
    }

    /// Page ranges for several connections. Before 14 a range costs a whole scan (no TID range scan),
    /// so there the table stays whole. The last range is open: the table may grow.
    pub fn ranges(&self, provider_version: u32, connections: usize) -> Vec<PageRange> {
        const SMALL_PAGES: u64 = 4096;
        let pages = self.source_shape.pages;
        if provider_version < 140_000 || connections < 2 || pages <= SMALL_PAGES {
            return vec![None];
        }
        let step = (pages / (connections as u64 * 8)).clamp(SMALL_PAGES / 2, 65_536);
        let count = pages.div_ceil(step);
        (0..count)
            .map(|i| Some((i * step, (i + 1 < count).then_some((i + 1) * step))))
            .collect()
    }
}
