//! A shop's day: customers order, pay, complain and change their minds, all at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

use super::shop::Size;
use super::world::World;

/// What the shop's clients do, and how often in a thousand.
const DEALS: [(Deal, u64); 9] = [
    (Deal::Order, 380),
    (Deal::Pay, 200),
    (Deal::Ship, 180),
    (Deal::Customer, 120),
    (Deal::Cancel, 60),
    (Deal::ChangedMind, 30),
    (Deal::Abandoned, 20),
    (Deal::Restock, 9),
    (Deal::Sale, 1),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deal {
    /// An order with its items; a few goods are in most of them.
    Order,
    Pay,
    Ship,
    /// One in a hundred customers causes most of the changes; some of them move to another address.
    Customer,
    /// An order goes, with everything that hangs on it.
    Cancel,
    /// Items put in and taken out again: a savepoint rolled back.
    ChangedMind,
    /// A whole transaction rolled back.
    Abandoned,
    /// Some hundred rows at once.
    Restock,
    /// Some thousand rows at once.
    Sale,
}

impl Deal {
    fn draw(dice: &mut Dice) -> Deal {
        let mut left = dice.below(1_000);
        for (deal, weight) in DEALS {
            if left < weight {
                return deal;
            }
            left -= weight;
        }
        Deal::Order
    }
}

/// What was done so far.
#[derive(Default, Debug)]
pub struct Counters {
    pub transactions: AtomicU64,
    pub rows: AtomicU64,
    /// Deadlocks, after which the client goes on with something else.
    pub conflicts: AtomicU64,
}

/// Clients at work. All end when this is dropped.
pub struct Load {
    pub counters: Arc<Counters>,
    /// Transactions a second of all clients; 0 is as fast as they can.
    pace: Arc<AtomicU64>,
    cancel: CancellationToken,
    clients: JoinSet<anyhow::Result<()>>,
}

impl Load {
    pub async fn start(world: &World, size: Size, clients: usize, pace: u64) -> anyhow::Result<Load> {
        let counters = Arc::new(Counters::default());
        let newest = Arc::new(AtomicI64::new(size.orders));
        let mut load = Load {
            counters: Arc::clone(&counters),
            pace: Arc::new(AtomicU64::new(pace)),
            cancel: CancellationToken::new(),
            clients: JoinSet::new(),
        };
        for number in 0..clients {
            let session = world.provider_session(&format!("shop {number}")).await?;
            let worker = Shopper {
                statements: Statements::prepare(&session).await?,
                dice: Dice::new(number),
                size,
                newest: Arc::clone(&newest),
            };
            let (pace, cancel) = (Arc::clone(&load.pace), load.cancel.clone());
            let counters = Arc::clone(&counters);
            let clients = u64::try_from(clients)?;
            load.clients.spawn(async move {
                let mut worker = worker;
                let mut due = Instant::now();
                while !cancel.is_cancelled() {
                    worker.serve(&session, &counters).await?;
                    due = match pace.load(Relaxed) {
                        0 => Instant::now(),
                        pace => due + Duration::from_micros(1_000_000 * clients / pace),
                    };
                    // A client that fell far behind does not make up for it by a burst.
                    due = due.max(Instant::now() - Duration::from_millis(100));
                    if due > Instant::now() {
                        tokio::select! {
                            () = sleep_until(due.into()) => {}
                            () = cancel.cancelled() => {}
                        }
                    }
                }
                Ok(())
            });
        }
        Ok(load)
    }

    pub fn set_pace(&self, pace: u64) {
        self.pace.store(pace, Relaxed);
    }

    /// An error of a client that gave up.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        match self.clients.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }

    /// Lets every client finish what it is doing.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(())
    }
}

struct Shopper {
    statements: Statements,
    dice: Dice,
    size: Size,
    /// The newest order.
    newest: Arc<AtomicI64>,
}

struct Statements {
    order: Statement,
    items: Statement,
    take: Statement,
    pay: Statement,
    paid: Statement,
    ship: Statement,
    customer: Statement,
    moves: Statement,
    cancel: [Statement; 3],
    restock: Statement,
    sale: Statement,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Statements, tokio_postgres::Error> {
        Ok(Statements {
            order: client
                .prepare(
                    "insert into orders (number, customer_id, total) values ($1, $2, $3::int8::numeric / 100) \
                     returning id",
                )
                .await?,
            items: client
                .prepare(
                    "insert into order_item (order_id, line, sku, quantity, price) \
                     select $1, g.line, g.sku, 1 + g.line % 3, 9.95 * g.line \
                     from unnest($2::text[]) with ordinality g (sku, line)",
                )
                .await?,
            // In one order for everybody, or two carts with the same goods would block each other.
            take: client
                .prepare(
                    "with wanted as (select warehouse, sku from stock where warehouse = $1 and sku = any($2) \
                                     order by sku for update) \
                     update stock s set quantity = s.quantity - 1, updated_at = now() \
                     from wanted w where s.warehouse = w.warehouse and s.sku = w.sku",
                )
                .await?,
            pay: client
                .prepare(
                    "insert into payment (order_id, amount, details) \
                     select id, total, jsonb_build_object('method', 'card', 'at', now()) from orders where id = $1 \
                     on conflict do nothing",
                )
                .await?,
            paid: client
                .prepare("update orders set state = 'paid' where id = $1 and state = 'open'")
                .await?,
            ship: client
                .prepare("update orders set state = 'shipped', note = $2 where id = $1")
                .await?,
            customer: client
                .prepare(
                    "update customer set credit = credit + 1.25, status = 'active', \
                     preferences = preferences || jsonb_build_object('seen', now()) where id = $1",
                )
                .await?,
            moves: client
                .prepare("update customer set email = $2, city = 'Graz' where id = $1")
                .await?,
            cancel: [
                client.prepare("delete from payment where order_id = $1").await?,
                client
                    .prepare("delete from order_item where order_id = $1")
                    .await?,
                client.prepare("delete from orders where id = $1").await?,
            ],
            restock: client
                .prepare(
                    "with low as (select warehouse, sku from stock where warehouse = $1 and sku >= $2 \
                                  order by sku limit 300 for update) \
                     update stock s set quantity = s.quantity + 50, updated_at = now() \
                     from low where s.warehouse = low.warehouse and s.sku = low.sku",
                )
                .await?,
            sale: client
                .prepare(
                    "with cheaper as (select sku from product where sku >= $1 order by sku limit 3000 for update) \
                     update product p set price = greatest(0.99, round(p.price * 0.95, 2)) \
                     from cheaper where p.sku = cheaper.sku",
                )
                .await?,
        })
    }
}

impl Shopper {
    /// One transaction, committed or given up.
    async fn serve(&mut self, client: &Client, counters: &Counters) -> anyhow::Result<()> {
        let deal = Deal::draw(&mut self.dice);
        match self.deal(client, deal).await {
            Ok(rows) => {
                let end = match deal {
                    Deal::Abandoned => "rollback",
                    _ => "commit",
                };
                client.batch_execute(end).await?;
                if deal != Deal::Abandoned {
                    counters.transactions.fetch_add(1, Relaxed);
                    counters.rows.fetch_add(rows, Relaxed);
                }
                Ok(())
            }
            Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                counters.conflicts.fetch_add(1, Relaxed);
                Ok(client.batch_execute("rollback").await?)
            }
            Err(error) => Err(anyhow::Error::new(error).context(format!("{deal:?} in the shop"))),
        }
    }

    /// The number of rows changed.
    async fn deal(&mut self, client: &Client, deal: Deal) -> Result<u64, tokio_postgres::Error> {
        client.batch_execute("begin").await?;
        let s = &self.statements;
        let any_order = 1 + self.dice.below_i64(self.newest.load(Relaxed));
        let changed = match deal {
            Deal::Order | Deal::Abandoned => {
                let goods = self.dice.cart(self.size.products);
                let id = self.order(client).await?;
                let warehouse = self.dice.warehouse();
                let s = &self.statements;
                let items = client.execute(&s.items, &[&id, &goods]).await?;
                1 + items + client.execute(&s.take, &[&warehouse, &goods]).await?
            }
            Deal::ChangedMind => {
                let goods = self.dice.cart(self.size.products);
                let id = self.order(client).await?;
                client.batch_execute("savepoint cart").await?;
                client.execute(&self.statements.items, &[&id, &goods]).await?;
                client.batch_execute("rollback to savepoint cart").await?;
                1
            }
            Deal::Pay => {
                let paid = client.execute(&s.pay, &[&any_order]).await?;
                paid + client.execute(&s.paid, &[&any_order]).await?
            }
            Deal::Ship => {
                let note = format!("parcel {:016x}", self.dice.next());
                client.execute(&s.ship, &[&any_order, &note]).await?
            }
            Deal::Customer => {
                let hot = self.dice.below(10) != 0;
                let among = if hot {
                    (self.size.customers / 100).max(1)
                } else {
                    self.size.customers
                };
                let customer = 1 + self.dice.below_i64(among);
                if self.dice.below(20) == 0 {
                    let email = format!("moved{:016x}@example.net", self.dice.next());
                    client.execute(&s.moves, &[&customer, &email]).await?
                } else {
                    client.execute(&s.customer, &[&customer]).await?
                }
            }
            Deal::Cancel => {
                let mut rows = 0;
                for statement in &s.cancel {
                    rows += client.execute(statement, &[&any_order]).await?;
                }
                rows
            }
            Deal::Restock => {
                let from = self.dice.sku(self.size.products);
                client
                    .execute(&s.restock, &[&self.dice.warehouse(), &from])
                    .await?
            }
            Deal::Sale => {
                let from = self.dice.sku(self.size.products);
                client.execute(&s.sale, &[&from]).await?
            }
        };
        Ok(changed)
    }

    async fn order(&mut self, client: &Client) -> Result<i64, tokio_postgres::Error> {
        let number = format!("N-{:016x}", self.dice.next());
        let customer = 1 + self.dice.below_i64(self.size.customers);
        let cents = 1_000 + self.dice.below_i64(90_000);
        let row = client
            .query_one(&self.statements.order, &[&number, &customer, &cents])
            .await?;
        let id: i64 = row.get(0);
        self.newest.fetch_max(id, Relaxed);
        Ok(id)
    }
}

/// Random numbers of no great quality and no cost (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new(salt: usize) -> Dice {
        use std::hash::{BuildHasher, RandomState};
        Dice(RandomState::new().hash_one(salt))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn below_i64(&mut self, limit: i64) -> i64 {
        let below = self.below(u64::try_from(limit).unwrap_or(1));
        i64::try_from(below).expect("below an i64")
    }

    fn warehouse(&mut self) -> i16 {
        1 + i16::try_from(self.below(4)).expect("below 4")
    }

    fn sku(&mut self, products: i64) -> String {
        format!("SKU-{:07}", 1 + self.below_i64(products))
    }

    /// One to five goods, no two the same; most of them bestsellers.
    fn cart(&mut self, products: i64) -> Vec<String> {
        let mut goods = Vec::new();
        for _ in 0..=self.below(5) {
            let among = if self.below(10) < 8 { 20 } else { products };
            goods.push(self.sku(among.min(products)));
        }
        goods.sort();
        goods.dedup();
        goods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deal_has_its_share() {
        assert_eq!(DEALS.iter().map(|(_, weight)| weight).sum::<u64>(), 1_000);
        let mut dice = Dice(7);
        let drawn: Vec<Deal> = (0..20_000).map(|_| Deal::draw(&mut dice)).collect();
        for (deal, _) in DEALS {
            assert!(drawn.contains(&deal), "{deal:?} never happens");
        }
    }

    #[test]
    fn a_cart_is_sorted_and_never_empty() {
        let mut dice = Dice(1);
        for _ in 0..1_000 {
            let goods = dice.cart(30);
            assert!(
                !goods.is_empty() && goods.windows(2).all(|w| w[0] < w[1]),
                "{goods:?}"
            );
        }
    }
}
