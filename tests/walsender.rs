//! The replication client against a real walsender.

use std::time::Duration;

use skytide_fixtures::server::{Options, Server, StopMode};
use skytide_sql::conn::{ConnectString, connect};
use skytide_sql::fault::Fault;
use skytide_sql::{Lsn, SlotName};
use skytide_wal::walsender::{
    Client, CopyBoth, LogicalSlot, Mode, Positions, ReplyRequested, SlotLifetime, StreamMessage,
    WalReservation, WalsenderError,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const OPTIONS: [(&str, &str); 2] = [("proto_version", "1"), ("publication_names", "\"Odd 'p'\"")];

struct Provider {
    server: Server,
    target: ConnectString,
    slot: SlotName,
}

impl Provider {
    /// A table, its publication, a slot.
    async fn start() -> Provider {
        let server = Server::start(Options::default()).await.unwrap();
        let setup = "create table t (id int primary key, v text); create publication \"Odd 'p'\" for table t";
        server.psql("postgres", setup).await.unwrap();
        let provider = Provider {
            target: ConnectString::parse(&server.dsn("postgres")).unwrap(),
            slot: SlotName::new("stories").unwrap(),
            server,
        };
        let mut client = provider.client(Mode::Logical).await;
        client
            .create_logical_slot(&LogicalSlot::pgoutput(&provider.slot))
            .await
            .unwrap();
        provider
    }

    async fn client(&self, mode: Mode) -> Client {
        Client::connect(&self.target, mode, "stories").await.unwrap()
    }

    async fn stream(&self) -> CopyBoth {
        let client = self.client(Mode::Logical).await;
        client
            .start_logical(&self.slot, Lsn::INVALID, &OPTIONS)
            .await
            .unwrap()
    }
}

fn flushed(lsn: Lsn) -> Positions {
    Positions {
        write: lsn,
        flush: lsn,
        apply: lsn,
    }
}

/// What a test wants to know of pgoutput's messages.
#[derive(Default, Debug, PartialEq, Eq)]
struct Seen {
    inserts: usize,
    value_bytes: usize,
    commits: usize,
    end: Lsn,
}

impl Seen {
    fn note(&mut self, payload: &[u8]) {
        match payload.first() {
            Some(b'I') => {
                // 'I', Int32 relation, 'N', Int16 columns; per column 't', Int32 length, text.
                let length = |at: usize| i32::from_be_bytes(*payload[at..].first_chunk().unwrap()) as usize;
                let value = 14 + length(9);
                assert_eq!(payload[value + 4..].len(), length(value));
                assert!(payload[value + 4..].iter().all(|byte| *byte == b'x'));
                self.inserts += 1;
                self.value_bytes += length(value);
            }
            Some(b'C') => {
                self.commits += 1;
                self.end = Lsn::new(u64::from_be_bytes(*payload[10..].first_chunk().unwrap()));
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn the_server_says_who_it_is() {
    let provider = Provider::start().await;
    let mut client = provider.client(Mode::Logical).await;
    assert_eq!(
        client.server_version_num() / 10_000,
        provider.server.version().major
    );
    let system = client.identify_system().await.unwrap();
    assert_eq!(system.dbname.as_deref(), Some("postgres"));
    assert_eq!(system.timeline.as_u32(), 1);
    let rows = client
        .simple_query("select system_identifier from pg_control_system(); show datestyle")
        .await
        .unwrap();
    assert_eq!(rows[0], [Some(system.system_id.to_string())]);
    assert!(rows[1][0].as_deref().unwrap().starts_with("ISO"));
    assert_eq!(client.show("wal_segment_size").await.unwrap(), "16MB");

    let mut physical = provider.client(Mode::Physical).await;
    let name = SlotName::new("held").unwrap();
    physical
        .create_physical_slot(&name, SlotLifetime::Temporary, WalReservation::Now)
        .await
        .unwrap();
    if physical.server_version_num() >= 150_000 {
        assert!(
            physical
                .read_slot(&name)
                .await
                .unwrap()
                .unwrap()
                .restart_lsn
                .is_some()
        );
        assert_eq!(
            physical
                .read_slot(&SlotName::new("other").unwrap())
                .await
                .unwrap(),
            None
        );
    }
    physical.drop_slot(&name).await.unwrap();
    assert_eq!(physical.identify_system().await.unwrap().dbname, None);
}

#[tokio::test]
async fn changes_come_and_the_slot_follows_what_was_flushed() {
    let provider = Provider::start().await;
    let sql = connect(&provider.target, "stories").await.unwrap();
    let mut stream = provider.stream().await;
    sql.execute(
        "insert into t select i, repeat('x', 100) from generate_series(1, 1000) i",
        &[],
    )
    .await
    .unwrap();

    let mut seen = Seen::default();
    while seen.commits == 0 {
        match timeout(PATIENCE, stream.next()).await.unwrap().unwrap() {
            Some(StreamMessage::Data { payload, .. }) => seen.note(payload),
            Some(StreamMessage::Keepalive { .. }) => {}
            None => panic!("the stream ended"),
        }
        // What has come is there without waiting.
        while let Some(message) = stream.buffered().unwrap() {
            if let StreamMessage::Data { payload, .. } = message {
                seen.note(payload);
            }
        }
    }
    assert_eq!((seen.inserts, seen.value_bytes, seen.commits), (1000, 100_000, 1));

    stream
        .send_status(&flushed(seen.end), ReplyRequested::Yes)
        .await
        .unwrap();
    loop {
        match timeout(PATIENCE, stream.next()).await.unwrap().unwrap() {
            Some(StreamMessage::Keepalive { wal_end, .. }) if wal_end >= seen.end => break,
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
    let (mut client, next) = timeout(PATIENCE, stream.finish()).await.unwrap().unwrap();
    assert_eq!(next, None);
    let confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'stories'";
    assert_eq!(
        client.simple_query(confirmed).await.unwrap(),
        [[Some(seen.end.to_string())]]
    );

    // The connection takes commands again, only not a second logical stream.
    let again = client.start_logical(&provider.slot, Lsn::INVALID, &OPTIONS).await;
    assert!(matches!(again, Err(WalsenderError::StreamedBefore)));
}

#[tokio::test]
async fn a_storm_of_cancelled_reads_loses_nothing() {
    let provider = Provider::start().await;
    let mut stream = provider.stream().await;
    let target = provider.target.clone();
    let writer = tokio::spawn(async move {
        let sql = connect(&target, "stories").await.unwrap();
        let insert = "insert into t select i, repeat('x', i % 5000) from generate_series($1::int, $1 + 49) i";
        for batch in 0..100 {
            sql.execute(insert, &[&(batch * 50)]).await.unwrap();
        }
    });
    let (mut seen, mut cancelled) = (Seen::default(), 0_u64);
    let all_seen = async {
        while seen.commits < 100 {
            tokio::select! {
                biased;
                message = stream.next() => {
                    if let Some(StreamMessage::Data { payload, .. }) = message.unwrap() {
                        seen.note(payload);
                    }
                }
                () = tokio::task::yield_now() => cancelled += 1,
            }
            if cancelled % 64 == 1 {
                stream
                    .send_status(&flushed(seen.end), ReplyRequested::Yes)
                    .await
                    .unwrap();
            }
        }
    };
    timeout(PATIENCE, all_seen).await.unwrap();
    writer.await.unwrap();
    assert_eq!((seen.inserts, seen.value_bytes), (5000, (0..5000).sum()));
    assert!(cancelled > 0);
}

#[tokio::test]
async fn refusals_keep_the_servers_words() {
    let provider = Provider::start().await;
    let _holder = provider.stream().await;
    let mut client = provider.client(Mode::Logical).await;

    let raise = "do $$ begin raise exception using errcode = 'XX001', message = 'm', detail = 'd', hint = 'h', \
                 schema = 's', table = 't', column = 'c', constraint = 'k', datatype = 'y'; end $$";
    let error = client.simple_query(raise).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    let told = error.server_error().unwrap();
    assert_eq!(
        (told.severity.as_str(), told.code.as_str(), told.message.as_str()),
        ("ERROR", "XX001", "m")
    );
    let fields = [
        &told.detail,
        &told.hint,
        &told.schema,
        &told.table,
        &told.column,
        &told.constraint,
        &told.data_type,
    ];
    assert_eq!(
        fields.map(|field| field.as_deref().unwrap()),
        ["d", "h", "s", "t", "c", "k", "y"]
    );
    assert!(told.context.is_some() && told.file.is_some() && told.line.is_some() && told.routine.is_some());

    // The connection survives, and so do the next commands.
    let slot = LogicalSlot::pgoutput(&provider.slot);
    let error = client.create_logical_slot(&slot).await.unwrap_err();
    assert_eq!(
        (error.fault(), error.server_error().unwrap().code.as_str()),
        (Fault::Operator, "42710")
    );
    let error = client
        .drop_slot(&SlotName::new("missing").unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.server_error().unwrap().code, "42704");
    let error = client
        .start_logical(&provider.slot, Lsn::INVALID, &OPTIONS)
        .await
        .unwrap_err();
    assert_eq!(
        (error.fault(), error.server_error().unwrap().code.as_str()),
        (Fault::Retry, "55006")
    );
}

#[tokio::test]
async fn an_error_in_the_stream_arrives_whole() {
    let provider = Provider::start().await;
    let sql = connect(&provider.target, "stories").await.unwrap();
    let client = provider.client(Mode::Logical).await;
    let client_version = client.server_version_num();
    let options = [("proto_version", "1"), ("publication_names", "nowhere")];
    let mut stream = client
        .start_logical(&provider.slot, Lsn::INVALID, &options)
        .await
        .unwrap();
    sql.execute("insert into t values (1)", &[]).await.unwrap();
    let until_error = async {
        loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        }
    };
    let error = timeout(PATIENCE, until_error).await.unwrap();
    assert_eq!(error.fault(), Fault::Operator);
    let told = error.server_error().unwrap();
    // A warning since 18; changes are left out all the same.
    let expected = match client_version / 10_000 {
        ..18 => ("ERROR", "42704", "publication \"nowhere\" does not exist"),
        18.. => ("WARNING", "55000", "skipped loading publication \"nowhere\""),
    };
    assert_eq!(
        (told.severity.as_str(), told.code.as_str(), told.message.as_str()),
        expected
    );
}

#[tokio::test]
async fn raw_wal_comes_too_and_a_stopping_server_says_so() {
    let provider = Provider::start().await;
    let mut client = provider.client(Mode::Physical).await;
    let system = client.identify_system().await.unwrap();
    let segment_start = Lsn::new(system.flush_lsn.as_u64() & !0xFF_FFFF);
    let mut stream = client
        .start_physical(None, segment_start, system.timeline)
        .await
        .unwrap();
    let mut expected = segment_start;
    while expected < system.flush_lsn {
        if let Some(StreamMessage::Data {
            start_lsn, payload, ..
        }) = timeout(PATIENCE, stream.next()).await.unwrap().unwrap()
        {
            assert_eq!(start_lsn, expected);
            expected = Lsn::new(start_lsn.as_u64() + payload.len() as u64);
        }
    }
    let (client, next) = timeout(PATIENCE, stream.finish()).await.unwrap().unwrap();
    assert_eq!(next, None);

    // A physical stream may be started again; a fast stop ends it in order.
    let mut stream = client
        .start_physical(None, segment_start, system.timeline)
        .await
        .unwrap();
    let until_end = async {
        let mut last = segment_start;
        loop {
            match stream.next().await {
                Ok(Some(StreamMessage::Data {
                    start_lsn, payload, ..
                })) => {
                    last = Lsn::new(start_lsn.as_u64() + payload.len() as u64);
                }
                Ok(Some(StreamMessage::Keepalive { .. })) => {}
                Ok(None) => panic!("the timeline has not ended"),
                Err(error) => break error,
            }
            // A server that stops waits for its standbys to have everything. It may be gone before it gets
            // this; why is still to be read then.
            let _ = stream.send_status(&flushed(last), ReplyRequested::No).await;
        }
    };
    let (stopped, end) = tokio::join!(provider.server.stop(StopMode::Fast), timeout(PATIENCE, until_end));
    stopped.unwrap();
    let end = end.unwrap();
    assert!(matches!(end, WalsenderError::Shutdown), "{end:?}");
    assert_eq!(end.fault(), Fault::Retry);
}

#[tokio::test]
async fn a_killed_server_is_a_lost_link() {
    let provider = Provider::start().await;
    let mut stream = provider.stream().await;
    provider.server.kill().unwrap();
    let until_error = async {
        loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        }
    };
    let error = timeout(PATIENCE, until_error).await.unwrap();
    assert_eq!(error.fault(), Fault::Retry, "{error:?}");
    let error = Client::connect(&provider.target, Mode::Logical, "stories")
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Fault::Retry, "{error:?}");
}
