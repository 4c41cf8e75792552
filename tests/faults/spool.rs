//! The spool: empty, another queue's, rotten, with a gap, full.

use skytide_fixtures::wait;

use super::stage::{PATIENCE, Stage, skytide};
use super::{COUNT, http_says, usual};

#[tokio::test]
async fn an_empty_spool_is_first_of_all_a_wrong_place() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let aside = stage.dir.path().join("not_mounted");
    std::fs::rename(stage.spool(), &aside).unwrap();
    let words = [
        "is empty, but tables depend on it",
        "spool_dir",
        "mounted",
        "resync --all",
    ];
    stage.doctor("leaf").with(3, &words);
    stage.worker_stops(&words).await;
    stage.doctor("leaf").with(3, &words);

    // Mounted again, it goes on.
    std::fs::remove_dir_all(stage.spool()).unwrap();
    std::fs::rename(aside, stage.spool()).unwrap();
    stage.run("root", "insert into a values (1, 'x')").await;
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

/// Prevents: the slot goes on, and what it gave is in files that nobody can open again.
#[tokio::test]
async fn a_spool_that_is_removed_under_the_worker_stops_it() {
    let (stage, mut worker) = Stage::replicating(usual()).await;
    let aside = stage.dir.path().join("aside");
    std::fs::rename(stage.spool(), &aside).unwrap();
    assert_eq!(worker.ended().await, Some(1), "{}", stage.log());
    assert!(
        stage
            .log()
            .contains("was removed or replaced while it was written"),
        "{}",
        stage.log()
    );
    // Put back, it goes on.
    stage.run("root", "insert into a values (1, 'x')").await;
    std::fs::rename(aside, stage.spool()).unwrap();
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

#[tokio::test]
async fn a_position_the_spool_does_not_reach_is_an_error() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    stage
        .run(
            "leaf",
            "select pgq_node.set_consumer_completed('q', 'leaf_worker', 1)",
        )
        .await;
    stage
        .worker_stops(&["tick 1 is not in the spool", "resync --all"])
        .await;
}

#[tokio::test]
async fn a_spool_of_another_queue_is_left_alone() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let files = || {
        let mut names: Vec<_> = stage
            .spool()
            .read_dir()
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = files();
    let second = |name: &str| {
        let path = stage.dir.path().join(format!("{name}2.ini"));
        let text = std::fs::read_to_string(stage.conf(name)).unwrap();
        std::fs::write(&path, text.replace("queue_name = q", "queue_name = q2")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (root, leaf) = (stage.server.dsn("root"), stage.server.dsn("leaf"));
    skytide(&["londiste", &second("root"), "create-root", "root", &root]).well();
    let conf = second("leaf");
    skytide(&[
        "londiste",
        &conf,
        "create-leaf",
        "leaf",
        &leaf,
        "--provider",
        &root,
    ])
    .well();
    skytide(&["doctor", &conf]).with(3, &["is the spool of queue q, not q2", "spool_dir"]);
    skytide(&["londiste", &conf, "worker"]).with(1, &["belongs to queue q, not q2"]);
    assert_eq!(files(), before);
}

const SEGMENT_HEAD: usize = 4096;
const FRAME_HEAD: usize = 40;

/// A frame of a segment file, as docs/format/spool.md draws it: where it begins, and as positions in the spool
/// its end and what it says was durable.
struct Frame {
    start: usize,
    end: u64,
    durable: u64,
}

fn frames(segment: &[u8]) -> Vec<Frame> {
    let u32_at = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(segment[at..at + 8].try_into().unwrap());
    let mut frames = Vec::new();
    let mut start = SEGMENT_HEAD;
    while start + FRAME_HEAD <= segment.len() && u32_at(start + 4) > 0 {
        let length = (u32_at(start + 4) as usize).next_multiple_of(8);
        frames.push(Frame {
            start,
            end: u64_at(start + 24) + length as u64,
            durable: u64_at(start + 32),
        });
        start += length;
    }
    frames
}

/// A node's position that its spool has no tick for: changes before and after it may be missing.
#[tokio::test]
async fn rot_in_the_middle_of_the_spool_is_not_cut_off() {
    let (stage, worker) = Stage::replicating(usual()).await;
    for i in 0..20 {
        stage
            .run("root", &format!("insert into a values ({i}, repeat('x', 100))"))
            .await;
    }
    stage.leaf_gets(COUNT, 20).await;
    let segment = stage
        .spool()
        .read_dir()
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .max()
        .unwrap();
    // Rot is told from a torn tail by a later frame that says: this was on disk once.
    let mut id = 100;
    let victim = wait::until("a frame that a later one vouches for", PATIENCE, async || {
        let frames = frames(&std::fs::read(&segment)?);
        let vouched = frames.last().map_or(0, |last| last.durable);
        let middle = &frames[frames.len() / 2];
        if middle.end <= vouched {
            return Ok(Some(middle.start));
        }
        id += 1;
        stage
            .run("root", &format!("insert into a values ({id}, 'x')"))
            .await;
        Ok(None)
    })
    .await
    .unwrap();
    worker.stop().await;
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[victim + FRAME_HEAD] ^= 0x40;
    std::fs::write(&segment, &bytes).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    stage.worker_stops(&[name, "is corrupt at byte", "resync"]).await;
    stage.doctor("leaf").with(3, &[name, "is corrupt at byte"]);
    skytide(&["spool", "verify", stage.spool().to_str().unwrap()]).with(3, &[name]);
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "nothing was touched");
}

#[tokio::test]
async fn a_position_between_the_ticks_of_the_spool_stops_the_worker() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let last = "select last_tick_id from pgq_node.local_state where consumer_name = 'leaf_worker'";
    let lost = stage.count("leaf", last).await + 10;
    let worker = stage.worker();
    let jump = format!(
        "select setval(queue_tick_seq::regclass, {}) from pgq.queue where queue_name = 'q'",
        lost + 10
    );
    stage.run("root", &jump).await;
    stage
        .run("root", "insert into a values (1, 'x'); select pgq.tick_now('q')")
        .await;
    stage.leaf_gets(COUNT, 1).await;
    worker.stop().await;
    let before = stage.count("leaf", last).await;
    let set = "update pgq_node.local_state set last_tick_id = ";
    stage
        .run(
            "leaf",
            &format!("{set}{lost} where consumer_name = 'leaf_worker'"),
        )
        .await;
    let words = ["changes are missing", "resync --all"];
    stage
        .doctor("leaf")
        .with(3, &[&format!("but not {lost}"), words[0], words[1]]);
    stage.worker_stops(&words).await;
    stage
        .run(
            "leaf",
            &format!("{set}{before} where consumer_name = 'leaf_worker'"),
        )
        .await;
    stage.run("root", "insert into a values (2, 'y')").await;
    let worker = stage.worker();
    stage.leaf_gets(COUNT, 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_full_spool_stops_reading_and_goes_on_when_there_is_room() {
    let mut stage = Stage::nodes(usual()).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    stage.extra =
        format!("spool_max_bytes = 2MiB\nspool_segment_bytes = 1MiB\nmetrics_listen = 127.0.0.1:{port}\n");
    let _worker = stage.sync_a();
    let pause = |on: bool| format!("select pgq_node.set_consumer_paused('q', 'leaf_worker', {on})");
    stage.run("leaf", &pause(true)).await;
    // Hex digits of digests do not compress to less than half.
    for chunk in 0..8 {
        let rows = format!(
            "insert into a select n, (select string_agg(md5(n || '.' || i), '') from generate_series(1, 40) i) \
             from generate_series({}, {}) n",
            chunk * 1000 + 1,
            chunk * 1000 + 1000
        );
        stage.run("root", &rows).await;
        // Room can only be made up to a tick that is in the spool.
        stage.run("root", "select pgq.tick_now('q')").await;
    }
    http_says(port, "/readyz", "the spool is full").await;
    let metrics = http_says(port, "/metrics", "skytide_spool_full 1").await;
    assert!(metrics.contains("skytide_capture_connected 1"), "{metrics}");
    assert_ne!(stage.count("leaf", COUNT).await, 8000);
    stage.run("leaf", &pause(false)).await;
    stage.leaf_gets(COUNT, 8000).await;
    http_says(port, "/metrics", "skytide_spool_full 0").await;
    stage.leaf(&["compare"]).well();
}
