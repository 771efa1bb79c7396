//! The table of settings.
//!
//! Names are Redis' where Redis has the setting. Some of Redis' settings are accepted, kept and shown
//! although they steer nothing here (marked *accepted*), because clients, tools and configuration
//! files set them.

use crate::backup::standing_file::Target;

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number within bounds.
    Number(i64, i64),
    /// A size in bytes: a number with `k`, `kb`, `m`, `mb`, `g` or `gb` after it.
    Bytes,
    /// A size in bytes, or a share of the memory in percent.
    BytesOrPercent,
    /// `yes` or `no`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// Where a primary is: host and port. `no one` is empty.
    Primary,
}

impl Kind {
    /// The value as it is kept, or what it should have been.
    ///
    /// # Errors
    ///
    /// What was expected, as text for people.
    pub fn normalise(self, value: &str) -> Result<String, String> {
        match self {
            Kind::Text => Ok(value.to_owned()),
            Kind::Primary if value.trim().is_empty() => Ok(String::new()),
            Kind::Primary if value.trim().eq_ignore_ascii_case("no one") => Ok(String::new()),
            Kind::Primary => Target::parse(value)
                .map(|target| target.as_words())
                .ok_or_else(|| "argument must be a host and a port, such as 'db1 6379'".into()),
            Kind::Number(min, max) => match value.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
                Ok(_) => Err(format!("argument must be between {min} and {max} inclusive")),
                Err(_) => Err("argument couldn't be parsed into an integer".into()),
            },
            Kind::Bytes => parse_bytes(value)
                .map(|bytes| bytes.to_string())
                .ok_or_else(|| "argument must be a memory value".into()),
            Kind::BytesOrPercent => match value.strip_suffix('%').map(str::parse::<u8>) {
                Some(Ok(percent)) if percent <= 100 => Ok(format!("{percent}%")),
                Some(_) => Err("percentage argument must be less or equal to 100".into()),
                None => Kind::Bytes.normalise(value),
            },
            Kind::Switch => match value.to_ascii_lowercase().as_str() {
                "yes" | "true" | "1" => Ok("yes".into()),
                "no" | "false" | "0" => Ok("no".into()),
                _ => Err("argument must be 'yes' or 'no'".into()),
            },
            Kind::Choice(words) => {
                let found = words.iter().find(|word| word.eq_ignore_ascii_case(value));
                found.map(|word| (*word).to_owned()).ok_or_else(|| {
                    format!("argument must be one of the following: {}", words.join(", "))
                })
            }
        }
    }
}

fn parse_bytes(value: &str) -> Option<i64> {
    let value = value.to_ascii_lowercase();
    let digits = value.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor: i64 = match &value[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its value unless told otherwise, normalised.
    pub default: &'static str,
    /// Whether it can be changed while the server runs.
    pub is_live: bool,
    /// What it does, in a few words.
    pub help: &'static str,
}

const fn live(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, kind, default, is_live: true, help }
}

const fn fixed(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, kind, default, is_live: false, help }
}

const fn accepted(name: &'static str, kind: Kind, default: &'static str) -> Setting {
    Setting { name, kind, default, is_live: true, help: "accepted, steers nothing here" }
}

/// Accepted where the server starts, and not while it runs.
const fn shown(name: &'static str, kind: Kind, default: &'static str) -> Setting {
    Setting { name, kind, default, is_live: false, help: "accepted, steers nothing here" }
}

const COUNT: Kind = Kind::Number(0, i64::MAX);
const ANY: Kind = Kind::Number(i64::MIN, i64::MAX);
const RUNGS: Kind = Kind::Choice(&[
    "auto",
    "io_uring",
    "pwritev2",
    "direct-fdatasync",
    "buffered-fdatasync",
    "fsync",
]);

/// All settings.
pub static SETTINGS: &[Setting] = &[
    fixed("dir", Kind::Text, "strandline-data", "directory of the data"),
    fixed("bind", Kind::Text, "127.0.0.1", "addresses to listen on"),
    fixed("port", Kind::Number(0, 65535), "6379", "port to listen on; 0: any"),
    live("requirepass", Kind::Text, "", "password that clients must give; empty: none"),
    fixed("insecure", Kind::Switch, "no", "listen beyond loopback without a password"),
    fixed("node-id", Kind::Number(0, i64::MAX), "0", "this node's number in the cluster"),
    fixed("cluster", Kind::Text, "", "all nodes: 1=HOST:PORT@PEERPORT,2=...; empty: stands alone"),
    fixed(
        "cluster-id",
        Kind::Number(1, i64::MAX),
        "1",
        "which cluster that is; cluster init draws a number",
    ),
    fixed("join", Kind::Switch, "no", "a new node that waits to be added to a running cluster"),
    fixed(
        "stall-max-ms",
        Kind::Number(0, 3_600_000),
        "500",
        "a leader whose disk takes longer for a write hands over; 0: never",
    ),
    fixed(
        "memory-left-min",
        Kind::Bytes,
        "33554432",
        "a leader hands over when the system has less memory left; 0: never",
    ),
    fixed("leases", Kind::Switch, "no", "a leader answers reads alone while none can replace it"),
    fixed(
        "lease-drift-per-mille",
        Kind::Number(0, 500),
        "50",
        "how much faster one node's clock may go than another's, in parts of a thousand",
    ),
    live(
        "stale-read-max-ms",
        Kind::Number(0, 3_600_000),
        "500",
        "how old what a node answers after READONLY may be; 0: as of now",
    ),
    fixed("cluster-tls-cert", Kind::Text, "", "this node's certificate for the others"),
    fixed("cluster-tls-key", Kind::Text, "", "the key of that certificate"),
    fixed(
        "cluster-tls-ca",
        Kind::Text,
        "",
        "the authority that has signed the certificates of all",
    ),
    fixed("cluster-secret-file", Kind::Text, "", "what the nodes of a cluster know in common"),
    fixed(
        "replicaof",
        Kind::Primary,
        "",
        "primary to follow: HOST PORT; empty: what was typed last",
    ),
    live("masterauth", Kind::Text, "", "the primary's password"),
    live(
        "min-replicas-to-write",
        COUNT,
        "0",
        "a primary refuses writes while fewer backups are near; 0: never",
    ),
    live("min-replicas-max-lag", COUNT, "10", "seconds of silence after which one is not near"),
    live(
        "replica-serve-stale-data",
        Kind::Switch,
        "yes",
        "a backup without its primary serves reads",
    ),
    fixed("replica-read-only", Kind::Choice(&["yes"]), "yes", "always: a backup takes no writes"),
    fixed("rung", RUNGS, "auto", "how durable writes are made"),
    fixed(
        "log-spare-dir",
        Kind::Text,
        "",
        "directory on another disk, for when the log's own fails",
    ),
    fixed(
        "log-stall-ms",
        Kind::Number(0, 3_600_000),
        "0",
        "after which a write of the log counts as failed if log-spare-dir is set; 0: never",
    ),
    fixed(
        "log-compression",
        Kind::Choice(&["no", "lz4"]),
        "no",
        "compress what is written to the log, where that saves a block",
    ),
    live("durability", Kind::Choice(&["disk", "memory"]), "disk", "when writes are acknowledged"),
    fixed("io-threads", Kind::Number(0, 128), "0", "threads for connections; 0: half the cores"),
    live("maxclients", Kind::Number(1, 1_000_000), "10000", "most connections"),
    live(
        "timeout",
        Kind::Number(0, 2_147_483_647),
        "0",
        "seconds after which idle clients go; 0: never",
    ),
    live(
        "tcp-keepalive",
        Kind::Number(0, 2_147_483_647),
        "300",
        "seconds between keepalive probes",
    ),
    fixed("tcp-backlog", Kind::Number(1, 65535), "511", "connections that wait to be accepted"),
    live(
        "write-timeout-ms",
        Kind::Number(1, 3_600_000),
        "900",
        "after which a write is answered UNKNOWN",
    ),
    live(
        "stall-timeout-ms",
        Kind::Number(1, 3_600_000),
        "60000",
        "after which a client that does not read goes",
    ),
    fixed("in-flight-bytes-max", Kind::Bytes, "67108864", "writes on their way through the log"),
    fixed(
        "scrub-rate",
        Kind::Bytes,
        "1048576",
        "bytes of a node's log verified per second; 0: none",
    ),
    fixed("retention-bytes-max", Kind::Bytes, "1073741824", "log kept for nodes that lag"),
    fixed(
        "lag-bytes-max",
        Kind::Bytes,
        "0",
        "writes wait for a node in step that lags by more; 0: never",
    ),
    fixed(
        "snapshot-rate",
        Kind::Bytes,
        "52428800",
        "bytes per second sent to a node that needs a snapshot",
    ),
    live("cache-bytes", Kind::Bytes, "67108864", "memory for values that were used lately"),
    live("slowlog-log-slower-than", ANY, "10000", "microseconds; negative: nothing is logged"),
    live("slowlog-max-len", COUNT, "128", "slow commands that are kept"),
    live("active-expire", Kind::Switch, "yes", "delete expired keys in the background"),
    fixed("databases", Kind::Number(16, 16), "16", "always 16"),
    accepted("save", Kind::Text, ""),
    accepted("appendonly", Kind::Switch, "yes"),
    shown("daemonize", Kind::Switch, "no"),
    accepted("protected-mode", Kind::Switch, "yes"),
    shown("supervised", Kind::Text, "no"),
    shown("pidfile", Kind::Text, ""),
    shown("logfile", Kind::Text, ""),
    accepted("loglevel", Kind::Text, "notice"),
    accepted("dbfilename", Kind::Text, "dump.rdb"),
    shown("appendfilename", Kind::Text, "appendonly.aof"),
    shown("appenddirname", Kind::Text, "appendonlydir"),
    accepted("auto-aof-rewrite-percentage", COUNT, "100"),
    accepted("auto-aof-rewrite-min-size", Kind::Bytes, "67108864"),
    accepted("aof-use-rdb-preamble", Kind::Switch, "yes"),
    accepted("no-appendfsync-on-rewrite", Kind::Switch, "no"),
    accepted("rdbcompression", Kind::Switch, "yes"),
    shown("rdbchecksum", Kind::Switch, "yes"),
    accepted("stop-writes-on-bgsave-error", Kind::Switch, "yes"),
    accepted("key-load-delay", ANY, "0"),
    accepted("maxmemory", Kind::Bytes, "0"),
    accepted("maxmemory-clients", Kind::BytesOrPercent, "0"),
    accepted("maxmemory-policy", Kind::Text, "noeviction"),
    accepted("maxmemory-samples", COUNT, "5"),
    accepted("lazyfree-lazy-eviction", Kind::Switch, "no"),
    accepted("lazyfree-lazy-expire", Kind::Switch, "no"),
    accepted("lazyfree-lazy-server-del", Kind::Switch, "no"),
    accepted("lazyfree-lazy-user-del", Kind::Switch, "no"),
    accepted("lazyfree-lazy-user-flush", Kind::Switch, "no"),
    accepted("proto-max-bulk-len", Kind::Bytes, "536870912"),
    accepted("client-query-buffer-limit", Kind::Bytes, "1073741824"),
    accepted("client-output-buffer-limit", Kind::Text, "normal 0 0 0"),
    accepted("latency-monitor-threshold", COUNT, "0"),
    accepted("latency-tracking", Kind::Switch, "yes"),
    accepted("notify-keyspace-events", Kind::Text, ""),
    accepted("hz", Kind::Number(1, 500), "10"),
    accepted("dynamic-hz", Kind::Switch, "yes"),
    accepted("activerehashing", Kind::Switch, "yes"),
    accepted("active-defrag", Kind::Switch, "no"),
    accepted("activedefrag", Kind::Switch, "no"),
    accepted("active-expire-effort", Kind::Number(1, 10), "1"),
    accepted("jemalloc-bg-thread", Kind::Switch, "yes"),
    shown("always-show-logo", Kind::Switch, "no"),
    accepted("lua-time-limit", COUNT, "5000"),
    accepted("busy-reply-threshold", COUNT, "5000"),
    shown("enable-debug-command", Kind::Text, "no"),
    shown("set-proc-title", Kind::Switch, "yes"),
    shown("cluster-enabled", Kind::Switch, "no"),
    accepted("masteruser", Kind::Text, ""),
    accepted("repl-timeout", COUNT, "60"),
    accepted("repl-ping-replica-period", COUNT, "10"),
    accepted("repl-backlog-size", Kind::Bytes, "1048576"),
    accepted("repl-diskless-sync", Kind::Switch, "yes"),
    accepted("repl-diskless-sync-delay", COUNT, "5"),
    accepted("replica-priority", COUNT, "100"),
    accepted("list-max-listpack-size", ANY, "-2"),
    accepted("list-max-ziplist-size", ANY, "-2"),
    accepted("list-compress-depth", COUNT, "0"),
    accepted("hash-max-listpack-entries", COUNT, "512"),
    accepted("hash-max-listpack-value", COUNT, "64"),
    accepted("hash-max-ziplist-entries", COUNT, "512"),
    accepted("hash-max-ziplist-value", COUNT, "64"),
    accepted("set-max-intset-entries", COUNT, "512"),
    accepted("zset-max-listpack-entries", COUNT, "128"),
    accepted("zset-max-listpack-value", COUNT, "64"),
    accepted("zset-max-ziplist-entries", COUNT, "128"),
    accepted("zset-max-ziplist-value", COUNT, "64"),
    accepted("hll-sparse-max-bytes", Kind::Bytes, "3000"),
    accepted("stream-node-max-bytes", Kind::Bytes, "4096"),
    accepted("stream-node-max-entries", COUNT, "100"),
    accepted("sanitize-dump-payload", Kind::Text, "no"),
    accepted("oom-score-adj", Kind::Text, "no"),
    accepted("crash-log-enabled", Kind::Switch, "yes"),
    accepted("acllog-max-len", COUNT, "128"),
];

/// The place in [`SETTINGS`] of the setting with this name, in upper or lower case.
pub(super) fn place_of(name: &str) -> Option<usize> {
    SETTINGS.iter().position(|setting| setting.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_normal_and_names_are_unique() {
        for (place, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.kind.normalise(setting.default).as_deref(), Ok(setting.default));
            assert_eq!(place_of(setting.name), Some(place), "{} is there twice", setting.name);
        }
    }

    #[test]
    fn a_share_of_the_memory_is_at_most_all_of_it() {
        let kept = |value: &str| Kind::BytesOrPercent.normalise(value).ok();
        assert_eq!(kept("1mb"), Some("1048576".into()));
        assert_eq!(kept("100%"), Some("100%".into()));
        for value in ["101%", "200%", "%", "-1%", "x"] {
            assert_eq!(kept(value), None, "{value}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let cases =
            [("1", Some(1)), ("2kb", Some(2048)), ("3MB", Some(3 << 20)), ("1k", Some(1000))];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
        for text in ["", "x", "1tb", "-", "9999999999gb"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
