//! The net effect against a naive model: a table as a map, changed row by row.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What a row holds beside its key: a plain value and a large one, which updates may leave unsent.
type Rest = (u8, u8);
type Model = BTreeMap<u8, Rest>;

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, Rest),
    /// Key, new key, new plain value, new large value or none to leave it.
    Update(u8, u8, u8, Option<u8>),
    Delete(u8),
    /// The chunk ends here.
    Cut,
}

/// Columns: plain value, key, large value; so the key is not the first one.
fn row(key: u8, plain: Option<u8>, large: Option<Option<u8>>) -> Vec<u8> {
    let mut bytes = vec![0, 3];
    let mut value = |byte: u8| bytes.extend_from_slice(&[b'b', 0, 0, 0, 1, byte]);
    match plain {
        Some(plain) => value(plain),
        None => bytes.push(b'n'),
    }
    let mut value = |byte: u8| bytes.extend_from_slice(&[b'b', 0, 0, 0, 1, byte]);
    value(key);
    match large {
        Some(Some(large)) => value(large),
        Some(None) => bytes.push(b'u'),
        None => bytes.push(b'n'),
    }
    bytes
}

fn tuple(bytes: &[u8]) -> Tuple<'_> {
    Tuple::split_from(bytes).unwrap().0
}

/// The statements' way: each list at once, in the order of `Settled`.
fn perform(net: &Net, settled: &Settled, table: &mut Model) {
    let key = |at: u32| net.key(at)[0];
    let image = |at: u32| {
        let values: Vec<_> = Values::of_body(net.image(at)).collect();
        let byte = |n: usize| match values[n] {
            ColumnValue::Binary(bytes) => Some(bytes[0]),
            _ => None,
        };
        (byte(0), byte(1), byte(2))
    };
    for at in &settled.deletes {
        table.remove(&key(*at)).expect("deletes a row that is there");
    }
    let moved: Vec<_> = settled
        .rekeys
        .iter()
        .map(|(from, to)| {
            let (plain, large) = table.remove(&key(*from)).expect("moves a row that is there");
            let (new_plain, new_key, new_large) = image(*to);
            let rest = (new_plain.unwrap_or(plain), new_large.unwrap_or(large));
            (new_key.expect("a key is known"), rest)
        })
        .collect();
    for (key, rest) in moved {
        assert_eq!(table.insert(key, rest), None, "moves onto a row");
    }
    for at in &settled.updates {
        let (plain, _, large) = image(*at);
        let rest = table.get_mut(&key(*at)).expect("updates a row that is there");
        *rest = (plain.unwrap_or(rest.0), large.unwrap_or(rest.1));
    }
    for at in &settled.inserts {
        let (plain, new_key, large) = image(*at);
        assert_eq!(new_key, Some(key(*at)));
        let rest = (plain.expect("whole"), large.expect("whole"));
        assert_eq!(table.insert(key(*at), rest), None, "inserts over a row");
    }
}

#[derive(Clone, Copy, Debug)]
enum Identity {
    Key,
    Full,
}

fn offer(net: &mut Net, table: &Model, step: &Step, identity: Identity) {
    let taken = match step {
        Step::Insert(key, (plain, large)) => net.insert(tuple(&row(*key, Some(*plain), Some(Some(*large))))),
        Step::Update(key, new_key, plain, large) => {
            let (old_plain, old_large) = table[key];
            let new = row(*new_key, Some(*plain), Some(*large));
            let (only_key, whole) = (
                row(*key, None, None),
                row(*key, Some(old_plain), Some(Some(old_large))),
            );
            let old = match identity {
                Identity::Full => Some(OldRow::Full(tuple(&whole))),
                Identity::Key if key != new_key => Some(OldRow::Key(tuple(&only_key))),
                Identity::Key => None,
            };
            net.update(old, tuple(&new))
        }
        Step::Delete(key) => net.delete(OldRow::Key(tuple(&row(*key, None, None)))),
        Step::Cut => return,
    };
    assert_eq!(taken, Ok(Taken::Yes));
}

/// Makes a possible history of wishes: keys that are taken or missing are bent to what fits.
fn possible(start: &Model, wishes: &[(u8, u8, u8, Option<u8>, u8)]) -> Vec<Step> {
    let mut table = start.clone();
    let mut steps = Vec::new();
    for (kind, key, plain, large, new_key) in wishes {
        let step = match (kind % 8, table.get(key).copied()) {
            (0, _) => Step::Cut,
            (_, None) => {
                let rest = (*plain, large.unwrap_or(1));
                table.insert(*key, rest);
                Step::Insert(*key, rest)
            }
            (1, Some(_)) => {
                table.remove(key);
                Step::Delete(*key)
            }
            (kind, Some((_, old_large))) => {
                let moves = kind < 5 && !table.contains_key(new_key);
                let to = if moves { *new_key } else { *key };
                table.remove(key);
                table.insert(to, (*plain, large.unwrap_or(old_large)));
                Step::Update(*key, to, *plain, *large)
            }
        };
        steps.push(step);
    }
    steps
}

fn follow(table: &mut Model, step: &Step) {
    match step {
        Step::Insert(key, rest) => {
            table.insert(*key, *rest);
        }
        Step::Update(key, to, plain, large) => {
            let (_, old_large) = table.remove(key).unwrap();
            table.insert(*to, (*plain, large.unwrap_or(old_large)));
        }
        Step::Delete(key) => {
            table.remove(key);
        }
        Step::Cut => {}
    }
}

fn check(start: &Model, steps: &[Step], identity: Identity, whole_updates: WholeUpdates, has_others: bool) {
    let mut net = Net::new([1].into(), 3);
    net.keep_others(has_others);
    let (mut naive, mut table) = (start.clone(), start.clone());
    for step in steps.iter().chain([&Step::Cut]) {
        offer(&mut net, &naive, step, identity);
        follow(&mut naive, step);
        if matches!(step, Step::Cut) {
            perform(&net, &net.settle(whole_updates), &mut table);
            assert_eq!(table, naive);
            net.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn the_net_effect_is_that_of_the_changes(
        start in proptest::collection::btree_map(0u8..10, any::<Rest>(), 0..10),
        wishes in proptest::collection::vec((any::<u8>(), 0u8..10, any::<u8>(), any::<Option<u8>>(), 0u8..10), 0..40),
        full: bool,
        replace: bool,
        has_others: bool,
    ) {
        let identity = if full { Identity::Full } else { Identity::Key };
        let whole = if replace { WholeUpdates::Replace } else { WholeUpdates::Update };
        check(&start, &possible(&start, &wishes), identity, whole, has_others);
    }
}

fn settle(start: &[u8], steps: &[Step]) -> Settled {
    let mut naive: Model = start.iter().map(|key| (*key, (0, 0))).collect();
    let mut net = Net::new([1].into(), 3);
    for step in steps {
        offer(&mut net, &naive, step, Identity::Key);
        follow(&mut naive, step);
    }
    net.settle(WholeUpdates::Update)
}

#[test]
fn a_row_that_comes_and_goes_leaves_nothing() {
    let steps = [
        Step::Insert(1, (1, 1)),
        Step::Update(1, 2, 3, None),
        Step::Delete(2),
    ];
    assert_eq!(settle(&[], &steps), Settled::default());
}

#[test]
fn many_updates_of_a_row_are_one() {
    let steps: Vec<Step> = (0..100).map(|n| Step::Update(1, 1, n, None)).collect();
    let settled = settle(&[1], &steps);
    assert_eq!(settled.updates, [0]);
    assert_eq!(
        settled.deletes.len() + settled.inserts.len() + settled.rekeys.len(),
        0
    );
}

#[test]
fn a_row_moved_with_a_value_unsent_stays_an_update() {
    let settled = settle(&[1], &[Step::Update(1, 2, 3, None)]);
    assert_eq!(settled.rekeys, [(0, 1)]);
    assert!(settled.deletes.is_empty() && settled.inserts.is_empty());
    let settled = settle(&[1], &[Step::Update(1, 2, 3, Some(4))]);
    assert_eq!((settled.deletes, settled.inserts), (vec![0], vec![1]));
}

/// Prevents: the subscriber's own columns are lost where a row is deleted and inserted.
#[test]
fn a_row_with_values_of_the_subscribers_own_is_moved() {
    let mut net = Net::new([1].into(), 3);
    net.keep_others(true);
    let mut table: Model = [(1, (0, 0))].into();
    let steps = [
        Step::Update(1, 1, 2, Some(3)),
        Step::Update(1, 2, 3, Some(4)),
        Step::Update(2, 4, 3, Some(4)),
    ];
    for step in &steps {
        offer(&mut net, &table, step, Identity::Full);
        follow(&mut table, step);
    }
    let settled = net.settle(WholeUpdates::Update);
    assert_eq!(settled.rekeys, [(0, 2)]);
    assert!(settled.deletes.is_empty() && settled.inserts.is_empty());
    // And back.
    offer(&mut net, &table, &Step::Update(4, 1, 5, Some(5)), Identity::Full);
    assert_eq!(net.settle(WholeUpdates::Update).updates, [0]);
}

#[test]
fn changes_that_do_not_fit_are_refused() {
    let mut net = Net::new([1].into(), 3);
    assert_eq!(
        net.insert(tuple(&row(1, Some(1), Some(None)))),
        Err(Refused::NotSent(2))
    );
    assert_eq!(net.insert(tuple(&[0, 1, b'n'])), Err(Refused::ColumnCount(1)));
    assert_eq!(
        net.insert(tuple(&[0, 3, b'n', b'n', b'n'])),
        Err(Refused::NullKey)
    );
    net.insert(tuple(&row(1, Some(1), Some(Some(1))))).unwrap();
    let text = [0, 3, b'n', b't', 0, 0, 0, 1, b'7', b'n'];
    assert_eq!(net.insert(tuple(&text)), Err(Refused::OtherFormat));
    let mut keyless = Net::new(Box::default(), 3);
    let deleted = keyless.delete(OldRow::Key(tuple(&row(1, None, None))));
    assert_eq!(deleted, Err(Refused::NoKey));
}

/// A deferrable key: 1 becomes 2 while 2 is still there, and then it is 2's turn.
#[test]
fn a_row_that_is_not_the_one_left_at_its_key_is_refused() {
    let mut net = Net::new([1].into(), 3);
    let full = |key, v| row(key, Some(v), Some(Some(v)));
    let update = |net: &mut Net, from: (u8, u8), to: (u8, u8)| {
        let (old, new) = (full(from.0, from.1), full(to.0, to.1));
        net.update(Some(OldRow::Full(tuple(&old))), tuple(&new))
    };
    assert_eq!(update(&mut net, (1, 1), (2, 1)), Ok(Taken::Yes));
    assert_eq!(update(&mut net, (2, 2), (3, 2)), Err(Refused::OtherRow));
    let old = full(2, 2);
    assert_eq!(net.delete(OldRow::Full(tuple(&old))), Err(Refused::OtherRow));
    // The one that was left there.
    assert_eq!(update(&mut net, (2, 1), (3, 1)), Ok(Taken::Yes));
}

#[test]
fn keys_sort_as_the_index_does() {
    let mut net = Net::new([1].into(), 3);
    for key in [9, 3, 7] {
        net.insert(tuple(&row(key, Some(1), Some(Some(1))))).unwrap();
    }
    let mut list = vec![0, 1, 2];
    net.sort_by_key(&mut list);
    assert_eq!(list, [1, 2, 0]);
}
