//! Names for the Tab key, asked from the server over a connection of its own: a lookup that fails must not
//! end the user's transaction.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use skytide_sql::QueueName;
use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_sql::ident::quote_ident;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;

use super::complete::Names;
use super::cursor::Thing;
use super::lex::{Kind, Script};

/// Somebody waits at the keyboard.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct ServerNames {
    runtime: Handle,
    target: RefCell<ConnectString>,
    queue: RefCell<Option<QueueName>>,
    session: RefCell<Option<Session>>,
    /// Of one prompt.
    known: RefCell<HashMap<Thing, Vec<String>>>,
    /// A server that did not answer is not asked again at this prompt.
    gave_up: Cell<bool>,
}

impl ServerNames {
    /// Must be made inside the runtime, and asked where blocking is allowed.
    pub fn new(target: ConnectString) -> ServerNames {
        ServerNames {
            runtime: Handle::current(),
            target: RefCell::new(target),
            queue: RefCell::new(None),
            session: RefCell::new(None),
            known: RefCell::default(),
            gave_up: Cell::new(false),
        }
    }

    /// At each prompt: things may have changed, and the user may have gone elsewhere.
    pub fn begin_prompt(&self, target: &ConnectString, queue: Option<&QueueName>) {
        self.known.borrow_mut().clear();
        self.gave_up.set(false);
        self.queue.replace(queue.cloned());
        if *self.target.borrow() != *target {
            self.target.replace(target.clone());
            self.session.replace(None);
        }
    }

    fn ask(&self, thing: Thing) -> Vec<String> {
        match thing {
            Thing::Host => hosts(&std::fs::read_to_string("/etc/hosts").unwrap_or_default()),
            Thing::Port => vec!["5432".to_owned(), "6432".to_owned()],
            _ if self.gave_up.get() => Vec::new(),
            _ => {
                let answer = self.runtime.block_on(timeout(PATIENCE, self.query(thing)));
                answer.ok().flatten().unwrap_or_else(|| {
                    self.gave_up.set(true);
                    Vec::new()
                })
            }
        }
    }

    /// `None` if the server cannot be asked. What it refuses to tell is an empty list.
    async fn query(&self, thing: Thing) -> Option<Vec<String>> {
        let mut session = self.session.take().filter(|session| !session.is_closed());
        if session.is_none() {
            let target = self.target.borrow().clone();
            session = connect(&target, "skytide qadmin completion").await.ok();
        }
        let session = session?;
        let queue = self.queue.borrow().as_ref().map(QueueName::to_string);
        let sql = query_for(thing);
        let values: &[&(dyn ToSql + Sync)] = if sql.contains("$1") { &[&queue] } else { &[] };
        let rows = session.query(sql, values).await.unwrap_or_default();
        let names = rows.iter().filter_map(|row| row.try_get::<_, String>(0).ok());
        let names = names.map(|name| as_typed(thing, &name)).collect();
        self.session.replace(Some(session));
        Some(names)
    }
}

impl Names for ServerNames {
    fn names(&self, thing: Thing) -> Vec<String> {
        if let Some(known) = self.known.borrow().get(&thing) {
            return known.clone();
        }
        let names = self.ask(thing);
        self.known.borrow_mut().insert(thing, names.clone());
        names
    }
}

/// One column of names; `$1` is the default queue.
fn query_for(thing: Thing) -> &'static str {
    match thing {
        Thing::Queue => super::queries::QUEUE_NAMES,
        Thing::Consumer => "select co_name from pgq.consumer order by 1",
        Thing::Subconsumer => {
            "select distinct substr(co_name, strpos(co_name, '.') + 1) from pgq.consumer \
              where strpos(co_name, '.') > 1 order by 1"
        }
        Thing::Node => "select distinct node_name from pgq_node.node_location order by 1",
        Thing::Batch => {
            "select sub_batch::text from pgq.subscription s join pgq.queue q on q.queue_id = s.sub_queue \
              where sub_batch is not null and queue_name = coalesce($1, queue_name) order by sub_batch"
        }
        Thing::Relation => {
            "select format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class c \
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
              where c.relkind in ('r', 'p') and n.nspname !~ '^(pg_|information_schema$)' order by 1"
        }
        Thing::SequenceRelation => {
            "select format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class c \
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
              where c.relkind = 'S' and n.nspname !~ '^(pg_|information_schema$)' order by 1"
        }
        Thing::AddedTable => {
            "select table_name from londiste.table_info where local and queue_name = $1 order by 1"
        }
        Thing::AddedSequence => {
            "select seq_name from londiste.seq_info where local and queue_name = $1 order by 1"
        }
        Thing::MissingTable => {
            "select obj_name from londiste.local_show_missing($1) where obj_kind = 'r' order by 1"
        }
        Thing::MissingSequence => {
            "select obj_name from londiste.local_show_missing($1) where obj_kind = 'S' order by 1"
        }
        Thing::Database => "select datname::text from pg_catalog.pg_database where datallowconn order by 1",
        Thing::User => "select rolname::text from pg_catalog.pg_roles where rolcanlogin order by 1",
        Thing::Host | Thing::Port => "select null::text where false",
    }
}

/// A name as it has to be typed to be read as itself.
fn as_typed(thing: Thing, name: &str) -> String {
    match thing {
        // The server quoted it, or it is a number.
        Thing::Relation | Thing::SequenceRelation | Thing::Batch => name.to_owned(),
        Thing::AddedTable | Thing::MissingTable | Thing::AddedSequence | Thing::MissingSequence => {
            match name.split_once('.') {
                Some((schema, name)) => format!("{}.{}", plain_or_quoted(schema), plain_or_quoted(name)),
                None => plain_or_quoted(name),
            }
        }
        _ => plain_or_quoted(name),
    }
}

fn plain_or_quoted(name: &str) -> String {
    let read = Script::read(name).rest;
    let reads_as_itself = read.is_some_and(|statement| match statement.tokens.as_slice() {
        [token] => matches!(token.kind, Kind::Word | Kind::Name) && token.value() == name,
        _ => false,
    });
    if reads_as_itself {
        name.to_owned()
    } else {
        quote_ident(name)
    }
}

/// Names of `/etc/hosts` that a server may run on.
fn hosts(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(address, _)| !is_special(address))
        .flat_map(|(_, names)| names.split_whitespace())
        .map(plain_or_quoted)
        .collect();
    names.push("localhost".to_owned());
    names.sort();
    names.dedup();
    names
}

/// Loopback and multicast addresses have aliases that are no hosts.
fn is_special(address: &str) -> bool {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(address)) => address.is_loopback() || address.is_multicast(),
        Ok(std::net::IpAddr::V6(address)) => {
            address.is_loopback() || address.is_multicast() || address.segments().first() == Some(&0xfe00)
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_only_where_they_have_to_be() {
        assert_eq!(plain_or_quoted("orders"), "orders");
        assert_eq!(plain_or_quoted("mover.part1"), "mover.part1");
        assert_eq!(plain_or_quoted("Orders"), "\"Orders\"");
        assert_eq!(plain_or_quoted("a-b"), "\"a-b\"");
        assert_eq!(plain_or_quoted(""), "\"\"");
        assert_eq!(plain_or_quoted("a;"), "\"a;\"");
        assert_eq!(as_typed(Thing::AddedTable, "public.A.b"), "public.\"A.b\"");
    }

    #[test]
    fn hosts_are_those_a_server_may_run_on() {
        let text =
            "127.0.0.1 localhost\n10.0.0.5\tdb1 db-2 # comment\nff02::1 ip6-allnodes\n::1 ip6-loopback\n";
        assert_eq!(hosts(text), ["\"db-2\"", "db1", "localhost"]);
    }
}
