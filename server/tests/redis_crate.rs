//! Goal: the Rust client `redis` drives a node unchanged, in both protocols, blocking and not.
//!
//! Method: the client's own typed calls, nothing sent by hand, so that what it sends at connect (AUTH
//! or HELLO, SELECT, CLIENT SETINFO) and what it makes of our answers is what is tested.

#![allow(clippy::unwrap_used)]

#[path = "common/directory.rs"]
mod directory;

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, Commands, Connection, ConnectionLike, ErrorKind,
    ExistenceCheck, Expiry, IntegerReplyOrNoOp, RedisResult, ServerErrorKind, SetExpiry,
    SetOptions, Value, ValueType,
};
use strandline_server::config::{Config, Origin};
use strandline_server::start::{Node, start};

use directory::Directory;

/// A machine that is busy is no reason to give up.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(300));
const PROTOCOLS: [&str; 2] = ["resp2", "resp3"];

fn serve(dir: &Directory, settings: &[(&str, &str)]) -> Node {
    let mut config = Config::default();
    let dir = dir.0.to_str().unwrap();
    let common = [("port", "0"), ("dir", dir), ("write-timeout-ms", "60000")];
    for (name, value) in common.iter().chain(settings) {
        config.set(name, value, Origin::Command).unwrap();
    }
    start(config).unwrap()
}

fn client(node: &Node, user: &str, rest: &str) -> Client {
    let address = node.addresses()[0];
    Client::open(format!("redis://{user}{address}/{rest}")).unwrap()
}

/// Runs `test` on a fresh node in each of the protocols.
fn in_both_protocols(test: impl Fn(&mut Connection)) {
    for protocol in PROTOCOLS {
        let dir = Directory::new();
        let node = serve(&dir, &[]);
        let client = client(&node, "", &format!("0?protocol={protocol}"));
        let mut connection = client.get_connection().unwrap();
        test(&mut connection);
        drop(connection);
        node.finish().unwrap();
    }
}

fn server_error<T: std::fmt::Debug>(result: RedisResult<T>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.detail().unwrap_or_default().to_owned())
}

#[test]
fn strings_and_all_options_of_set() {
    in_both_protocols(|connection| {
        let () = connection.set("tide", "high").unwrap();
        assert_eq!(connection.get::<_, String>("tide").unwrap(), "high");
        assert_eq!(connection.get::<_, Option<String>>("none").unwrap(), None);
        let set = |connection: &mut Connection, value: &str, options: SetOptions| {
            connection.set_options::<_, _, Value>("tide", value, options).unwrap()
        };
        let options = SetOptions::default;
        let nx = options().conditional_set(ExistenceCheck::NX);
        assert_eq!(set(connection, "no", nx), Value::Nil);
        let xx = options().conditional_set(ExistenceCheck::XX).get(true);
        assert_eq!(set(connection, "low", xx), Value::BulkString(b"high".to_vec()));
        let ex = options().with_expiration(SetExpiry::EX(1000));
        assert_eq!(set(connection, "slack", ex), Value::Okay);
        let ttl: i64 = connection.ttl::<_, i64>("tide").unwrap();
        assert!((1..=1000).contains(&ttl), "{ttl}");
        set(connection, "kept", options().with_expiration(SetExpiry::KEEPTTL));
        assert!(connection.ttl::<_, i64>("tide").unwrap() > 0);
        set(connection, "ever", options());
        let never = connection.ttl::<_, IntegerReplyOrNoOp>("tide").unwrap();
        assert_eq!(never, IntegerReplyOrNoOp::ExistsButNotRelevant);
        set(connection, "gone", options().with_expiration(SetExpiry::PXAT(1)));
        assert!(!connection.exists::<_, bool>("tide").unwrap());

        let () = connection.mset(&[("a", "1"), ("b", "2")]).unwrap();
        assert!(!connection.mset_nx::<_, _, bool>(&[("b", "3"), ("c", "3")]).unwrap());
        let all: Vec<Option<String>> = connection.mget(&["a", "b", "c"]).unwrap();
        assert_eq!(all, [Some("1".into()), Some("2".into()), None]);
        assert_eq!(connection.append::<_, _, usize>("a", "23").unwrap(), 3);
        assert_eq!(connection.getrange::<_, String>("a", 1, 2).unwrap(), "23");
        assert_eq!(connection.setrange::<_, _, usize>("a", 5, "x").unwrap(), 6);
        assert_eq!(connection.get::<_, Vec<u8>>("a").unwrap(), b"123\0\0x");
        assert_eq!(connection.get_del::<_, String>("b").unwrap(), "2");
        assert_eq!(connection.key_type::<_, ValueType>("a").unwrap(), ValueType::String);
        assert_eq!(connection.key_type::<_, ValueType>("b").unwrap(), ValueType::None);
        let () = connection.rename("a", "z").unwrap();
        assert_eq!(connection.del::<_, usize>(&["a", "z", "y"]).unwrap(), 1);
    });
}

#[test]
fn counters_and_expiry() {
    in_both_protocols(|connection| {
        assert_eq!(connection.incr::<_, _, i64>("n", 5).unwrap(), 5);
        assert_eq!(connection.decr::<_, _, i64>("n", 7).unwrap(), -2);
        assert_eq!(connection.incr::<_, _, f64>("n", 0.5).unwrap(), -1.5);
        let () = connection.set("n", i64::MAX).unwrap();
        let overflow = server_error(connection.incr::<_, _, i64>("n", 1));
        assert_eq!(overflow.0, ErrorKind::Server(ServerErrorKind::ResponseError));
        assert_eq!(overflow.1, "increment or decrement would overflow");

        assert!(connection.expire::<_, bool>("n", 1000).unwrap());
        assert!(connection.pttl::<_, i64>("n").unwrap() > 1000);
        assert!(connection.persist::<_, bool>("n").unwrap());
        assert!(!connection.persist::<_, bool>("n").unwrap());
        let value: i64 = connection.get_ex("n", Expiry::EX(1000)).unwrap();
        assert_eq!(value, i64::MAX);
        assert!(connection.expire_time::<_, i64>("n").unwrap() > 1_700_000_000);
        assert!(connection.pexpire::<_, bool>("n", -1).unwrap());
        let gone = connection.ttl::<_, IntegerReplyOrNoOp>("n").unwrap();
        assert_eq!(gone, IntegerReplyOrNoOp::NotExists);
        // What expires by itself is gone as well.
        let () = connection.pset_ex("short", "life", 1).unwrap();
        while connection.exists::<_, bool>("short").unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn scanning_meets_every_key_once() {
    in_both_protocols(|connection| {
        let mut pipe = redis::pipe();
        for number in 0..3000 {
            pipe.set(format!("shell:{number}"), number).ignore();
            pipe.set(format!("stone:{number}"), number).ignore();
        }
        let () = pipe.query(connection).unwrap();
        let met: Vec<String> =
            connection.scan_match("shell:*").unwrap().collect::<RedisResult<_>>().unwrap();
        let distinct: BTreeSet<&String> = met.iter().collect();
        assert_eq!((met.len(), distinct.len()), (3000, 3000));
        assert_eq!(connection.scan::<String>().unwrap().count(), 6000);
        assert_eq!(connection.keys::<_, Vec<String>>("stone:29?9").unwrap().len(), 10);
        let size: usize = redis::cmd("DBSIZE").query(connection).unwrap();
        assert_eq!(size, 6000);
    });
}

#[test]
fn a_pipeline_is_answered_in_order_and_its_errors_stay_in_place() {
    in_both_protocols(|connection| {
        let answers: (i64, String, Option<String>, i64) = redis::pipe()
            .incr("n", 1)
            .set("s", "x")
            .ignore()
            .get("s")
            .get("none")
            .incr("n", 1)
            .query(connection)
            .unwrap();
        assert_eq!(answers, (1, "x".into(), None, 2));
        let failed = redis::pipe().incr("s", 1).set("after", 1).query::<(i64, ())>(connection);
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Server(ServerErrorKind::ResponseError));
        assert_eq!(connection.get::<_, i64>("after").unwrap(), 1, "the others were executed");
    });
}

#[test]
fn large_values_come_back() {
    in_both_protocols(|connection| {
        for len in [0, 1, 4095, 1 << 16, (8 << 20) + 1] {
            let value: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[at % 3]).collect();
            let () = connection.set("large", &value).unwrap();
            assert!(connection.get::<_, Vec<u8>>("large").unwrap() == value, "{len} bytes");
        }
    });
}

#[test]
fn errors_are_those_that_the_client_knows() {
    in_both_protocols(|connection| {
        let () = connection.set("text", "tide").unwrap();
        let general = ErrorKind::Server(ServerErrorKind::ResponseError);
        let integer = server_error(connection.incr::<_, _, i64>("text", 1));
        assert_eq!(integer, (general, "value is not an integer or out of range".into()));
        let arity = server_error(redis::cmd("GET").query::<()>(connection));
        assert_eq!(arity, (general, "wrong number of arguments for 'get' command".into()));
        let unknown = server_error(redis::cmd("NOSUCH").query::<()>(connection));
        assert_eq!(unknown.0, general);
        assert!(unknown.1.starts_with("unknown command 'NOSUCH'"), "{}", unknown.1);
        // Types that are not there yet say so, and the connection stays usable.
        let list = server_error(connection.lpush::<_, _, i64>("list", 1));
        assert!(list.1.starts_with("unknown command 'LPUSH'"), "{}", list.1);
        assert_eq!(connection.get::<_, String>("text").unwrap(), "tide");
        assert!(connection.is_open());
    });
}

#[test]
fn the_handshake_with_password_database_and_name() {
    let dir = Directory::new();
    let node = serve(&dir, &[("requirepass", "tide")]);
    for protocol in PROTOCOLS {
        let rest = format!("3?protocol={protocol}");
        let refused = client(&node, "", &rest).get_connection().map(|_| ()).unwrap_err();
        // HELLO has words of its own to say so.
        let told = ["Authentication required", "HELLO must be called with the client already"];
        let text = refused.to_string();
        assert!(told.iter().any(|words| text.contains(words)), "{protocol}: {refused}");
        let wrong = client(&node, ":ebb@", &rest).get_connection().map(|_| ()).unwrap_err();
        // The client hides the word in its own kind of error where it sends AUTH rather than HELLO.
        let told = wrong.kind() == ErrorKind::AuthenticationFailed;
        assert!(told || wrong.code() == Some("WRONGPASS"), "{protocol}: {wrong}");
        for user in [":tide@", "default:tide@"] {
            let mut connection = client(&node, user, &rest).get_connection().unwrap();
            let () =
                redis::cmd("CLIENT").arg("SETNAME").arg("gauge").exec(&mut connection).unwrap();
            let () = connection.set(protocol, user).unwrap();
            let text: String = redis::cmd("CLIENT").arg("INFO").query(&mut connection).unwrap();
            let resp = format!("resp={}", &protocol[4..]);
            for part in ["db=3", "name=gauge", "lib-name=redis-rs", "lib-ver=", &resp] {
                assert!(text.contains(part), "{protocol}: {part} in {text}");
            }
            // Another database does not have it.
            let mut other = client(&node, user, "0").get_connection().unwrap();
            assert!(!other.exists::<_, bool>(protocol).unwrap());
        }
    }
    node.finish().unwrap();
}

fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(PATIENCE).set_connection_timeout(PATIENCE)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// One connection carries the commands of many tasks at a time.
#[test]
fn a_multiplexed_connection_keeps_answers_apart() {
    for protocol in PROTOCOLS {
        let dir = Directory::new();
        let node = serve(&dir, &[]);
        let client = client(&node, "", &format!("0?protocol={protocol}"));
        run(async {
            let connection =
                client.get_multiplexed_async_connection_with_config(&patient()).await.unwrap();
            let tasks = (0..200).map(|number: usize| {
                let mut connection = connection.clone();
                tokio::spawn(async move {
                    let key = format!("key:{number}");
                    let () = connection.set(&key, number).await.unwrap();
                    let (found, count): (usize, i64) = redis::pipe()
                        .get(&key)
                        .incr("count", 1)
                        .query_async(&mut connection)
                        .await
                        .unwrap();
                    assert_eq!(found, number);
                    count
                })
            });
            let mut counts = BTreeSet::new();
            for task in tasks.collect::<Vec<_>>() {
                counts.insert(task.await.unwrap());
            }
            assert_eq!(counts, (1..=200).collect(), "every increment was answered once");
        });
        node.finish().unwrap();
    }
}

/// The manager notices that the server went, and finds the next one at the same address, which has
/// everything that was acknowledged.
#[test]
fn the_connection_manager_survives_a_restart_of_the_server() {
    let dir = Directory::new();
    let node = serve(&dir, &[]);
    let port = node.addresses()[0].port().to_string();
    let client = client(&node, "", "0?protocol=resp3");
    run(async {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(PATIENCE)
            .set_connection_timeout(PATIENCE)
            .set_number_of_retries(20)
            .set_max_delay(Duration::from_millis(100));
        let mut manager = ConnectionManager::new_with_config(client, config).await.unwrap();
        let () = manager.set("before", "acknowledged").await.unwrap();
        // A node has a runtime of its own, which must not end inside of this one.
        let (node, dir) = std::thread::spawn(move || {
            node.finish().unwrap();
            (serve(&dir, &[("port", &port)]), dir)
        })
        .join()
        .unwrap();
        // The first command finds the connection closed and has it made anew; a command that was
        // lost with it is not sent again by the client: that is for its caller to decide.
        let mut failed = 0;
        let found: String = loop {
            match manager.get("before").await {
                Ok(found) => break found,
                Err(error) => {
                    assert!(error.is_connection_dropped() || error.is_io_error(), "{error}");
                    failed += 1;
                    assert!(failed < 100, "{error}");
                }
            }
        };
        assert_eq!(found, "acknowledged");
        let () = manager.set("after", 1).await.unwrap();
        std::thread::spawn(move || node.finish().unwrap()).join().unwrap();
        drop(dir);
    });
}
