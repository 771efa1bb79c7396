//! The table of all commands: name, arity, flags, keys, handler.
//!
//! The opcodes of writes stand in the log: they are never changed and never used again.

use std::sync::LazyLock;

use super::Command;
use super::Handler::{Read, Session, Write};
use super::{
    bits, client_cmd, command_cmd, config_cmd, connection, counter, expire, key, lcs, member,
    object, primary_backup, replication, scan, server_cmd, server_info, strandline, string,
    string_set,
};

type Flags = &'static [&'static str];

const READ: Flags = &["readonly"];
const READ_FAST: Flags = &["readonly", "fast"];
const WRITE: Flags = &["write", "denyoom"];
const WRITE_FAST: Flags = &["write", "denyoom", "fast"];
const REMOVE: Flags = &["write"];
const REMOVE_FAST: Flags = &["write", "fast"];
const ADMIN: Flags = &["admin", "noscript", "loading", "stale"];
const ANY: Flags = &["loading", "stale"];
const ANY_FAST: Flags = &["loading", "stale", "fast"];
const HANDSHAKE: Flags = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];

type Keys = (i32, i32, i32);

const NO_KEYS: Keys = (0, 0, 0);
const ONE: Keys = (1, 1, 1);
const TWO: Keys = (1, 2, 1);
const ALL: Keys = (1, -1, 1);
const PAIRS: Keys = (1, -1, 2);
const SECOND: Keys = (2, 2, 1);

macro_rules! commands {
    ($($name:literal $arity:literal $flags:ident $keys:ident $group:literal $handler:expr;)*) => {
        &[$(Command {
            name: $name,
            arity: $arity,
            flags: $flags,
            keys: $keys,
            group: $group,
            handler: $handler,
        },)*]
    };
}

macro_rules! write {
    ($opcode:literal, $check:expr, $apply:expr) => {
        Write { opcode: $opcode, check: $check, apply: $apply }
    };
}

/// All commands.
pub static COMMANDS: &[Command] = commands! {
    "get" 2 READ_FAST ONE "string" Read(string::get);
    "mget" -2 READ_FAST ALL "string" Read(string::mget);
    "strlen" 2 READ_FAST ONE "string" Read(string::strlen);
    "getrange" 4 READ ONE "string" Read(string::getrange);
    "substr" 4 READ ONE "string" Read(string::getrange);
    "lcs" -3 READ TWO "string" Read(lcs::lcs);
    "getbit" 3 READ_FAST ONE "bitmap" Read(bits::getbit);
    "bitcount" -2 READ ONE "bitmap" Read(bits::bitcount);
    "set" -3 WRITE ONE "string" write!(1, string_set::check_set, string_set::set);
    "setnx" 3 WRITE_FAST ONE "string" write!(2, string::check_none, string_set::setnx);
    "setex" 4 WRITE ONE "string" write!(3, string_set::check_setex, string_set::setex);
    "psetex" 4 WRITE ONE "string" write!(4, string_set::check_psetex, string_set::psetex);
    "getset" 3 WRITE_FAST ONE "string" write!(5, string::check_none, string_set::getset);
    "getdel" 2 REMOVE_FAST ONE "string" write!(6, string::check_none, string_set::getdel);
    "getex" -2 WRITE_FAST ONE "string" write!(7, string_set::check_getex, string_set::getex);
    "mset" -3 WRITE PAIRS "string" write!(8, string::check_mset, string::mset);
    "msetnx" -3 WRITE PAIRS "string" write!(9, string::check_mset, string::msetnx);
    "append" 3 WRITE_FAST ONE "string" write!(10, string::check_none, string::append);
    "setrange" 4 WRITE ONE "string" write!(11, string::check_setrange, string::setrange);
    "incr" 2 WRITE_FAST ONE "string" write!(12, string::check_none, counter::incr);
    "decr" 2 WRITE_FAST ONE "string" write!(13, string::check_none, counter::decr);
    "incrby" 3 WRITE_FAST ONE "string" write!(14, counter::check_incrby, counter::incrby);
    "decrby" 3 WRITE_FAST ONE "string" write!(15, counter::check_decrby, counter::decrby);
    "incrbyfloat" 3 WRITE_FAST ONE "string"
        write!(16, counter::check_incrbyfloat, counter::incrbyfloat);
    "setbit" 4 WRITE ONE "bitmap" write!(17, bits::check_setbit, bits::setbit);
    "exists" -2 READ_FAST ALL "generic" Read(key::exists);
    "touch" -2 READ_FAST ALL "generic" Read(key::exists);
    "type" 2 READ_FAST ONE "generic" Read(key::type_of);
    "keys" 2 READ NO_KEYS "generic" Read(scan::keys);
    "scan" -2 READ NO_KEYS "generic" Read(scan::scan);
    "randomkey" 1 READ NO_KEYS "generic" Read(scan::randomkey);
    "dbsize" 1 READ_FAST NO_KEYS "server" Read(key::dbsize);
    "object" -2 READ SECOND "generic" Read(object::object);
    "memory" -2 READ SECOND "server" Read(object::memory);
    "ttl" 2 READ_FAST ONE "generic" Read(expire::ttl);
    "pttl" 2 READ_FAST ONE "generic" Read(expire::pttl);
    "expiretime" 2 READ_FAST ONE "generic" Read(expire::expiretime);
    "pexpiretime" 2 READ_FAST ONE "generic" Read(expire::pexpiretime);
    "del" -2 REMOVE ALL "generic" write!(32, string::check_none, key::del);
    "unlink" -2 REMOVE_FAST ALL "generic" write!(33, string::check_none, key::del);
    "rename" 3 REMOVE TWO "generic" write!(34, string::check_none, key::rename);
    "renamenx" 3 REMOVE_FAST TWO "generic" write!(35, string::check_none, key::renamenx);
    "copy" -3 WRITE TWO "generic" write!(36, key::check_copy, key::copy);
    "move" 3 REMOVE_FAST ONE "generic" write!(37, key::check_move, key::move_key);
    "expire" -3 REMOVE_FAST ONE "generic" write!(38, expire::check_expire, expire::expire);
    "pexpire" -3 REMOVE_FAST ONE "generic" write!(39, expire::check_expire, expire::pexpire);
    "expireat" -3 REMOVE_FAST ONE "generic" write!(40, expire::check_expire, expire::expireat);
    "pexpireat" -3 REMOVE_FAST ONE "generic" write!(41, expire::check_expire, expire::pexpireat);
    "persist" 2 REMOVE_FAST ONE "generic" write!(42, string::check_none, expire::persist);
    "flushdb" -1 REMOVE NO_KEYS "server" write!(48, key::check_flush, key::flushdb);
    "flushall" -1 REMOVE NO_KEYS "server" write!(49, key::check_flush, key::flushall);
    "swapdb" 3 REMOVE_FAST NO_KEYS "server" write!(50, key::check_swapdb, key::swapdb);
    "strandline" -3 WRITE NO_KEYS "generic" write!(56, strandline::check, strandline::apply);
    "ping" -1 ANY_FAST NO_KEYS "connection" Session(connection::ping);
    "echo" 2 ANY_FAST NO_KEYS "connection" Session(connection::echo);
    "quit" -1 HANDSHAKE NO_KEYS "connection" Session(connection::quit);
    "reset" 1 HANDSHAKE NO_KEYS "connection" Session(connection::reset);
    "hello" -1 HANDSHAKE NO_KEYS "connection" Session(connection::hello);
    "auth" -2 HANDSHAKE NO_KEYS "connection" Session(connection::auth);
    "select" 2 ANY_FAST NO_KEYS "connection" Session(connection::select);
    "client" -2 ADMIN NO_KEYS "connection" Session(client_cmd::client);
    "readonly" 1 ANY_FAST NO_KEYS "cluster" Session(replication::readonly);
    "readwrite" 1 ANY_FAST NO_KEYS "cluster" Session(replication::readwrite);
    "command" -1 ANY NO_KEYS "server" Session(command_cmd::command);
    "config" -2 ADMIN NO_KEYS "server" Session(config_cmd::config);
    "info" -1 ANY NO_KEYS "server" Session(server_info::info);
    "time" 1 ANY_FAST NO_KEYS "server" Session(server_cmd::time);
    "slowlog" -2 ADMIN NO_KEYS "server" Session(server_cmd::slowlog);
    "latency" -2 ADMIN NO_KEYS "server" Session(server_cmd::latency);
    "debug" -2 ADMIN NO_KEYS "server" Session(server_cmd::debug);
    "shutdown" -1 ADMIN NO_KEYS "server" Session(server_cmd::shutdown);
    "save" 1 ADMIN NO_KEYS "server" Session(server_cmd::save);
    "bgsave" -1 ADMIN NO_KEYS "server" Session(server_cmd::bgsave);
    "lastsave" 1 ANY_FAST NO_KEYS "server" Session(server_cmd::lastsave);
    "bgrewriteaof" 1 ADMIN NO_KEYS "server" Session(server_cmd::bgrewriteaof);
    "acl" -2 ADMIN NO_KEYS "server" Session(server_cmd::acl);
    "lolwut" -1 READ_FAST NO_KEYS "server" Session(server_cmd::lolwut);
    "role" 1 ADMIN NO_KEYS "server" Session(replication::role);
    "replicaof" -3 ADMIN NO_KEYS "server" Session(replication::replicaof);
    "slaveof" -3 ADMIN NO_KEYS "server" Session(replication::replicaof);
    "follow" -3 ADMIN NO_KEYS "server" Session(primary_backup::follow);
    "failover" -1 ADMIN NO_KEYS "server" Session(replication::failover);
    "member" -2 ADMIN NO_KEYS "server" Session(member::member);
    "wait" 3 ANY NO_KEYS "generic" Session(replication::wait);
    "waitaof" 4 ANY NO_KEYS "generic" Session(replication::waitaof);
    "function" -2 ADMIN NO_KEYS "scripting" Session(server_cmd::function);
};

/// Slots of the name table: a power of two well above the count of commands, so that most names are
/// found at the first look.
const SLOTS: usize = 1024;

/// Which command has a name: places in [`COMMANDS`] by hash of the name, probed linearly.
static BY_NAME: LazyLock<[Option<u8>; SLOTS]> = LazyLock::new(|| {
    let mut slots = [None; SLOTS];
    for (place, command) in COMMANDS.iter().enumerate() {
        let mut slot = slot_of(command.name.as_bytes());
        while slots[slot].is_some() {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = Some(u8::try_from(place).expect("there are fewer than 256 commands"));
    }
    slots
});

const _: () = assert!(COMMANDS.len() < 256, "a place in the table is one byte");

fn slot_of(name: &[u8]) -> usize {
    let hash = name.iter().fold(name.len(), |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(usize::from(byte.to_ascii_lowercase()))
    });
    hash % SLOTS
}

/// The place in [`COMMANDS`] of the command with this name, in upper or lower case.
pub fn place_of(name: &[u8]) -> Option<usize> {
    let by_name = &*BY_NAME;
    let mut slot = slot_of(name);
    while let Some(place) = by_name[slot] {
        let place = usize::from(place);
        if COMMANDS[place].name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(place);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

/// The command with this name.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    place_of(name).map(|place| &COMMANDS[place])
}

/// The largest opcode in use.
const OPCODE_MAX: usize = 63;

/// Which command has an opcode.
static BY_OPCODE: LazyLock<[Option<u8>; OPCODE_MAX + 1]> = LazyLock::new(|| {
    let mut places = [None; OPCODE_MAX + 1];
    for (place, command) in COMMANDS.iter().enumerate() {
        if let Write { opcode, .. } = command.handler {
            let slot = &mut places[usize::from(opcode)];
            assert!(slot.is_none(), "opcode {opcode} is given twice");
            *slot = Some(u8::try_from(place).expect("there are fewer than 256 commands"));
        }
    }
    places
});

/// The place in [`COMMANDS`] of the write with this opcode.
pub fn place_of_opcode(opcode: u16) -> Option<usize> {
    BY_OPCODE.get(usize::from(opcode)).copied().flatten().map(usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_either_case() {
        for (place, command) in COMMANDS.iter().enumerate() {
            assert_eq!(command.name, command.name.to_lowercase());
            assert_eq!(place_of(command.name.to_uppercase().as_bytes()), Some(place));
            if let Write { opcode, .. } = command.handler {
                assert_eq!(place_of_opcode(opcode), Some(place));
            }
        }
        assert!(find(b"gett").is_none());
        assert!(find(b"").is_none());
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let keys = |name: &str, count| -> Vec<usize> {
            find(name.as_bytes()).unwrap().key_places(count).collect()
        };
        assert_eq!(keys("get", 2), [1]);
        assert_eq!(keys("mset", 5), [1, 3]);
        assert_eq!(keys("del", 4), [1, 2, 3]);
        assert_eq!(keys("copy", 3), [1, 2]);
        assert!(keys("ping", 1).is_empty());
    }
}
