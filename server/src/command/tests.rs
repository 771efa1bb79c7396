//! Commands against a map: what they answer, and what they leave behind.

use std::collections::{BTreeMap, BTreeSet};

use super::testing::Fixture;
use crate::clock::Randomness;
use crate::machine::{OPCODE_NODES, OPCODE_SWEEP, SLICE_KEYS_MAX};
use strandline_engine::Machine as _;

/// Runs lines and compares their replies, without the last line end.
fn check(fixture: &mut Fixture, cases: &[(&str, &str)]) {
    for (line, expected) in cases {
        let reply = fixture.run(line);
        assert_eq!(reply.trim_end().replace("\r\n", " "), *expected, "{line}");
    }
}

#[test]
fn set_has_all_its_options() {
    let mut fixture = Fixture::new();
    check(
        &mut fixture,
        &[
            ("set a 1", "+OK"),
            ("set a 2 nx", "$-1"),
            ("set a 2 xx get", "$1 1"),
            ("set b 2 xx", "$-1"),
            ("set b 2 xx get", "$-1"),
            ("set b 2 nx get", "$-1"),
            ("set b 3 ex 10", "+OK"),
            ("pttl b", ":10000"),
            ("set b 4 keepttl", "+OK"),
            ("pttl b", ":10000"),
            ("set b 5", "+OK"),
            ("pttl b", ":-1"),
            ("set b 5 pxat 1700000000500", "+OK"),
            ("pttl b", ":500"),
            ("set b 5 exat 1", "+OK"),
            ("exists b", ":0"),
            ("set b 5 nx xx", "-ERR syntax error"),
            ("set b 5 ex 10 px 10", "-ERR syntax error"),
            ("set b 5 ex", "-ERR syntax error"),
            ("set b 5 ex 0", "-ERR invalid expire time in 'set' command"),
            ("set b 5 ex x", "-ERR value is not an integer or out of range"),
            ("set b 5 ex 9223372036854775807", "-ERR invalid expire time in 'set' command"),
            ("set b 5 px 9223372036854775807", "-ERR invalid expire time in 'set' command"),
            ("set b", "-ERR wrong number of arguments for 'set' command"),
        ],
    );
}

#[test]
fn counters_refuse_what_is_no_number() {
    let mut fixture = Fixture::new();
    check(
        &mut fixture,
        &[
            ("incr n", ":1"),
            ("decrby n 5", ":-4"),
            ("set n 9223372036854775807", "+OK"),
            ("incr n", "-ERR increment or decrement would overflow"),
            ("decrby n -9223372036854775808", "-ERR decrement would overflow"),
            ("set n ' 1'", "+OK"),
            ("incr n", "-ERR value is not an integer or out of range"),
            ("set f 3", "+OK"),
            ("incrbyfloat f 0.1", "$3 3.1"),
            ("incrbyfloat f inf", "-ERR increment would produce NaN or Infinity"),
            ("incrbyfloat f x", "-ERR value is not a valid float"),
        ],
    );
}

#[test]
fn several_keys_change_together_or_not_at_all() {
    let mut fixture = Fixture::new();
    check(
        &mut fixture,
        &[
            ("mset a 1 b 2 a 3", "+OK"),
            ("mget a b c", "*3 $1 3 $1 2 $-1"),
            ("msetnx c 1 a 1", ":0"),
            ("exists a b c a", ":3"),
            ("mset a 1 b", "-ERR wrong number of arguments for 'mset' command"),
            ("rename a a", "+OK"),
            ("rename a b", "+OK"),
            ("rename a b", "-ERR no such key"),
            ("get b", "$1 3"),
            ("copy b c", ":1"),
            ("copy b c", ":0"),
            ("copy b b", "-ERR source and destination objects are the same"),
            ("move b 1", ":1"),
            ("dbsize", ":1"),
            ("del b c c", ":1"),
            ("dbsize", ":0"),
        ],
    );
}

#[test]
fn an_expired_key_is_gone_before_it_is_deleted() {
    let mut fixture = Fixture::new();
    check(&mut fixture, &[("set a 1 px 100", "+OK"), ("set b 1 px 200", "+OK")]);
    fixture.now_ms += 99;
    check(&mut fixture, &[("get a", "$1 1")]);
    fixture.now_ms += 1;
    check(
        &mut fixture,
        &[
            ("get a", "$-1"),
            ("exists a", ":0"),
            ("ttl a", ":-2"),
            ("keys *", "*1 $1 b"),
            ("dbsize", ":2"),
            ("append a x", ":1"),
            ("ttl a", ":-1"),
            ("del a", ":1"),
        ],
    );
    fixture.now_ms += 100;
    assert_eq!(fixture.stored(), (1, 1));
    fixture.propose(OPCODE_SWEEP, [&[][..]].into_iter());
    assert_eq!(fixture.stored(), (0, 0));
    check(&mut fixture, &[("dbsize", ":0")]);
}

#[test]
fn expire_keeps_its_conditions() {
    let mut fixture = Fixture::new();
    check(
        &mut fixture,
        &[
            ("expire a 10", ":0"),
            ("set a 1", "+OK"),
            ("expire a 10 xx", ":0"),
            ("expire a 10 gt", ":0"),
            ("expire a 10 lt", ":1"),
            ("expire a 20 nx", ":0"),
            ("expire a 20 gt", ":1"),
            ("expire a 30 lt", ":0"),
            ("expiretime a", ":1700000020"),
            ("getex a persist", "$1 1"),
            ("ttl a", ":-1"),
            ("getex a ex 5", "$1 1"),
            ("persist a", ":1"),
            ("persist a", ":0"),
            (
                "expire a 1 nx gt",
                "-ERR NX and XX, GT or LT options at the same time are not compatible",
            ),
            ("expire a 1 what", "-ERR Unsupported option what"),
            ("expire a 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
            ("expire a -1", ":1"),
            ("exists a", ":0"),
        ],
    );
    assert_eq!(fixture.stored(), (0, 0));
}

#[test]
fn flushing_hides_at_once_and_reclaims_in_slices() {
    let mut fixture = Fixture::new();
    let count = SLICE_KEYS_MAX * 2 + 10;
    for number in 0..count {
        let options = if number % 2 == 0 { "px 100" } else { "" };
        fixture.run(&format!("set key:{number} v {options}"));
    }
    fixture.database = 1;
    check(&mut fixture, &[("set other 1", "+OK")]);
    fixture.database = 0;
    check(&mut fixture, &[("flushdb", "+OK"), ("dbsize", ":0"), ("get key:1", "$-1")]);
    check(&mut fixture, &[("set key:1 new", "+OK"), ("keys *", "*1 $5 key:1")]);
    assert_eq!(fixture.stored(), (count + 2, count / 2));
    for slice in 1..=3 {
        fixture.reclaim();
        let left = count.saturating_sub(SLICE_KEYS_MAX * slice);
        assert_eq!(fixture.stored().0, left + 2);
    }
    assert_eq!(fixture.stored(), (2, 0));
    check(&mut fixture, &[("swapdb 0 1", "+OK"), ("keys *", "*1 $5 other"), ("dbsize", ":1")]);
    check(&mut fixture, &[("flushall async", "+OK"), ("dbsize", ":0")]);
}

#[test]
fn a_flushed_key_that_expires_is_swept_without_touching_counts() {
    let mut fixture = Fixture::new();
    check(
        &mut fixture,
        &[("set a 1 px 100", "+OK"), ("flushdb", "+OK"), ("set a 2 px 500", "+OK")],
    );
    fixture.now_ms += 200;
    fixture.propose(OPCODE_SWEEP, [&[][..]].into_iter());
    check(&mut fixture, &[("dbsize", ":1"), ("get a", "$1 2")]);
    assert_eq!(fixture.stored(), (1, 1));
}

/// Keys that are there during the whole scan are met exactly once, while others come and go.
#[test]
fn a_scan_meets_every_key_that_stays() {
    let mut fixture = Fixture::new();
    for number in 0..500 {
        fixture.run(&format!("set stays:{number} v"));
        fixture.run(&format!("set goes:{number} v"));
    }
    let mut cursor = "0".to_owned();
    let mut met = Vec::new();
    for step in 0.. {
        let (next, keys) = fixture.scan_step(&cursor, 7);
        met.extend(keys.into_iter().filter(|key| key.starts_with("stays:")));
        if next == "0" {
            break;
        }
        cursor = next;
        fixture.run(&format!("del goes:{step}"));
        fixture.run(&format!("set comes:{step} v"));
    }
    let unique: BTreeSet<_> = met.iter().collect();
    assert_eq!((met.len(), unique.len()), (500, 500));
}

/// Random commands against a model that knows only keys, values and expiries: the answers of
/// `DBSIZE` and the indexes of expiries stay exact, and a machine that takes over the state goes on.
#[test]
fn counts_and_expiries_stay_exact() {
    let seed = Randomness::new().draw();
    println!("seed {seed}");
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let mut fixture = Fixture::new();
    let mut model: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    for _ in 0..3000 {
        let (key, other, ms) = (draw(20), draw(20), draw(50) + 1);
        fixture.now_ms += draw(3);
        let now_ms = fixture.now_ms;
        model.retain(|_, expire_ms| expire_ms.is_none_or(|expire_ms| expire_ms > now_ms));
        match draw(9) {
            0 | 1 => {
                fixture.run(&format!("set {key} v"));
                model.insert(key, None);
            }
            2 => {
                fixture.run(&format!("set {key} v px {ms}"));
                model.insert(key, Some(now_ms + ms));
            }
            3 => {
                fixture.run(&format!("del {key} {other}"));
                model.remove(&key);
                model.remove(&other);
            }
            4 => {
                fixture.run(&format!("rename {key} {other}"));
                if let Some(expire_ms) = model.remove(&key) {
                    model.insert(other, expire_ms);
                }
            }
            5 => {
                fixture.run(&format!("persist {key}"));
                model.entry(key).and_modify(|expire_ms| *expire_ms = None);
            }
            6 => {
                fixture.run(&format!("pexpire {key} {ms}"));
                model.entry(key).and_modify(|expire_ms| *expire_ms = Some(now_ms + ms));
            }
            7 if draw(50) == 0 => {
                fixture.run("flushdb");
                model.clear();
            }
            7 => {
                let state = fixture.machine.state();
                fixture.machine.restore(&state).unwrap();
            }
            _ => {
                fixture.propose(OPCODE_SWEEP, [&[][..]].into_iter());
                while fixture.reclaim() {}
                let expiring = model.values().flatten().count();
                assert_eq!(fixture.run("dbsize"), format!(":{}\r\n", model.len()));
                assert_eq!(
                    fixture.shared.directory.get(0).expires,
                    u64::try_from(expiring).unwrap()
                );
                assert_eq!(fixture.stored().1, expiring);
            }
        }
        let expected = if model.contains_key(&key) { ":1\r\n" } else { ":0\r\n" };
        assert_eq!(fixture.run(&format!("exists {key}")), expected);
    }
}

#[test]
fn random_keys_are_keys() {
    let mut fixture = Fixture::new();
    check(&mut fixture, &[("randomkey", "$-1"), ("set only 1", "+OK"), ("randomkey", "$4 only")]);
}

#[test]
fn the_book_of_nodes_comes_by_an_entry_and_with_the_state() {
    use strandline_engine::Machine;
    let mut fixture = Fixture::new();
    let id_last = 4_u64.to_le_bytes();
    let list = "1=a:1@2,4=b:1@2";
    fixture.propose(OPCODE_NODES, [&id_last[..], list.as_bytes()].into_iter());
    let book = fixture.shared.take_book().unwrap();
    assert_eq!((book.index, book.id_last, book.list.as_str()), (1, 4, list));
    assert_eq!(fixture.shared.take_book(), None, "it is told once");
    check(&mut fixture, &[("set k v", "+OK")]);
    let mut other = Fixture::new();
    other.machine.restore(&fixture.machine.state()).unwrap();
    assert_eq!(other.shared.take_book(), Some(book));
    assert_eq!(other.machine.state(), fixture.machine.state());
    let mut cut = fixture.machine.state();
    cut.pop();
    assert!(other.machine.restore(&cut).is_err());
}
