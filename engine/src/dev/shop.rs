//! The tables of a small web shop, and rows to begin with.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::world::World;
use crate::cli::output::{Measure, Output};

/// Tables only, as they are on both sides.
const TABLES: &str = include_str!("shop/tables.sql");
const INDEXES: &str = include_str!("shop/indexes.sql");

/// Rows put in by one statement: often enough to show progress.
const CHUNK: i64 = 50_000;

/// How many rows each table begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub customers: i64,
    pub products: i64,
    pub stock: i64,
    pub orders: i64,
    pub items: i64,
    pub payments: i64,
}

impl Size {
    /// Shares of about so many rows: half of them order items, two or three an order.
    pub fn of(rows: u64) -> Size {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX / 100).max(1_000);
        let (products, orders) = (rows / 100, rows / 5);
        Size {
            customers: rows / 10,
            products,
            stock: products * 4,
            orders,
            items: orders / 2 * 5,
            payments: orders * 3 / 4,
        }
    }

    pub fn total(self) -> i64 {
        self.customers + self.products + self.stock + self.orders + self.items + self.payments
    }

    /// What the provider holds, if it was filled by an earlier run.
    pub async fn read(client: &Client) -> anyhow::Result<Size> {
        let row = client
            .query_one(
                "select (select count(*) from customer), (select count(*) from product), \
                 (select count(*) from stock), (select coalesce(max(id), 0) from orders), \
                 (select count(*) from order_item), (select count(*) from payment)",
                &[],
            )
            .await?;
        Ok(Size {
            customers: row.get(0),
            products: row.get(1),
            stock: row.get(2),
            orders: row.get(3),
            items: row.get(4),
            payments: row.get(5),
        })
    }
}

struct Fill {
    table: &'static str,
    sql: &'static str,
    rows: i64,
    /// The third parameter, if the statement has one: how many rows the table it points to has.
    points_to: Option<i64>,
}

/// Tables on both sides, rows on the provider.
pub async fn create(world: &World, size: Size, output: &Output) -> anyhow::Result<()> {
    let provider = world.provider_session("skytide dev").await?;
    let other = world.provider_session("skytide dev").await?;
    let subscriber = world.subscriber_session("skytide dev").await?;
    provider.batch_execute(TABLES).await?;
    subscriber.batch_execute(TABLES).await?;
    subscriber.batch_execute(INDEXES).await?;

    let fill = |table, sql, rows, points_to| Fill {
        table,
        sql,
        rows,
        points_to,
    };
    let big = [fill(
        "order_item",
        include_str!("shop/fill_order_item.sql"),
        size.items,
        Some(size.products),
    )];
    let rest = [
        fill(
            "customer",
            include_str!("shop/fill_customer.sql"),
            size.customers,
            None,
        ),
        fill(
            "product",
            include_str!("shop/fill_product.sql"),
            size.products,
            None,
        ),
        fill("stock", include_str!("shop/fill_stock.sql"), size.stock, None),
        fill(
            "orders",
            include_str!("shop/fill_orders.sql"),
            size.orders,
            Some(size.customers),
        ),
        fill(
            "payment",
            include_str!("shop/fill_payment.sql"),
            size.payments,
            None,
        ),
    ];
    tokio::try_join!(run(&provider, &big, output), run(&other, &rest, output))?;
    provider.batch_execute(INDEXES).await?;
    provider
        .batch_execute("analyze customer, product, stock, orders, order_item, payment, pulse")
        .await?;
    Ok(())
}

async fn run(client: &Client, fills: &[Fill], output: &Output) -> anyhow::Result<()> {
    client.batch_execute("set synchronous_commit = off").await?;
    for fill in fills {
        let statement = client.prepare(fill.sql).await?;
        let total = u64::try_from(fill.rows).unwrap_or(0);
        let mut progress = output.progress(format!("  fill {}", fill.table), Some(total), Measure::Rows);
        let mut first = 1;
        while first <= fill.rows {
            let last = (first + CHUNK - 1).min(fill.rows);
            let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&first, &last];
            if let Some(points_to) = &fill.points_to {
                parameters.push(points_to);
            }
            progress.add(client.execute(&statement, &parameters).await?);
            first = last + 1;
        }
        progress.finish();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        let size = Size::of(3_000_000);
        assert_eq!(size.items, 1_500_000);
        assert!((2_800_000..=3_000_000).contains(&size.total()), "{size:?}");
        assert!(Size::of(0).products >= 10, "even the smallest shop has goods");
    }
}
