//! `INFO`: the server in sections, under the names that clients and tools read.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::connection::REDIS_VERSION;
use super::table::COMMANDS;
use super::{Next, replication};
use crate::clock;
use crate::databases::DATABASE_COUNT;
use crate::refusal::Failure;
use crate::resp::{Args, Reply};
use crate::server::Server;
use crate::session::Connection;

type Section = fn(&Server, &mut String) -> std::fmt::Result;

/// The sections, in order; those with `true` are shown unless others are asked for.
const SECTIONS: &[(&str, bool, Section)] = &[
    ("server", true, server),
    ("clients", true, clients),
    ("memory", true, memory),
    ("persistence", true, persistence),
    ("stats", true, stats),
    ("replication", true, replication::info),
    ("cpu", true, cpu),
    ("modules", true, modules),
    ("commandstats", false, commandstats),
    ("errorstats", true, errorstats),
    ("strandline", true, strandline),
    ("cluster", true, cluster),
    ("keyspace", true, keyspace),
];

/// `INFO [section ...]`
pub(super) fn info(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<Next, Failure> {
    let asked = |word: &str| (1..args.len()).any(|at| args.is(at, word));
    let everything = asked("all") || asked("everything");
    let defaults = args.len() == 1 || asked("default");
    let mut text = String::new();
    for (name, is_default, section) in SECTIONS {
        if everything || asked(name) || defaults && *is_default {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let title = name[..1].to_uppercase() + &name[1..];
            let title = if *name == "cpu" { "CPU" } else { &title };
            // Writing to a string does not fail.
            let _ = write!(text, "# {title}\r\n");
            let _ = section(connection.server, &mut text);
        }
    }
    reply.verbatim(&text);
    Ok(Next::Continue)
}

fn server(server: &Server, out: &mut String) -> std::fmt::Result {
    let uptime_s = server.started.elapsed().as_secs();
    let port = server.addresses().first().map_or(0, |address| address.port());
    write!(out, "redis_version:{REDIS_VERSION}\r\n")?;
    write!(out, "redis_git_sha1:00000000\r\nredis_git_dirty:0\r\nredis_build_id:0\r\n")?;
    write!(out, "redis_mode:standalone\r\n")?;
    write!(out, "strandline_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
    write!(out, "os:{} {}\r\n", std::env::consts::OS, std::env::consts::ARCH)?;
    write!(out, "arch_bits:{}\r\nmultiplexing_api:epoll\r\n", usize::BITS)?;
    write!(out, "process_id:{}\r\nprocess_supervised:no\r\n", std::process::id())?;
    write!(out, "run_id:{}\r\ntcp_port:{port}\r\n", server.run_id)?;
    write!(out, "server_time_usec:{}\r\n", clock::now_us())?;
    write!(out, "uptime_in_seconds:{uptime_s}\r\nuptime_in_days:{}\r\n", uptime_s / 86400)?;
    write!(out, "hz:10\r\nconfigured_hz:10\r\nlru_clock:0\r\nexecutable:\r\nconfig_file:\r\n")?;
    write!(out, "io_threads_active:1\r\n")
}

fn clients(server: &Server, out: &mut String) -> std::fmt::Result {
    let clients_max = server.live.clients_max.load(Ordering::Relaxed);
    write!(out, "connected_clients:{}\r\ncluster_connections:0\r\n", server.clients.count())?;
    write!(out, "maxclients:{clients_max}\r\nclient_recent_max_input_buffer:0\r\n")?;
    write!(out, "client_recent_max_output_buffer:0\r\nblocked_clients:0\r\n")?;
    write!(out, "tracking_clients:0\r\nclients_in_timeout_table:0\r\n")
}

/// Pages of memory that the process has, by the system's own account; 0 where that is not to be had.
fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * u64::try_from(rustix::param::page_size()).unwrap_or(0)
}

fn memory(_: &Server, out: &mut String) -> std::fmt::Result {
    let bytes = resident_bytes();
    write!(out, "used_memory:{bytes}\r\nused_memory_human:{}M\r\n", bytes >> 20)?;
    write!(out, "used_memory_rss:{bytes}\r\nused_memory_rss_human:{}M\r\n", bytes >> 20)?;
    write!(out, "used_memory_peak:{bytes}\r\nused_memory_lua:0\r\nmaxmemory:0\r\n")?;
    write!(out, "maxmemory_human:0B\r\nmaxmemory_policy:noeviction\r\n")?;
    write!(out, "mem_fragmentation_ratio:1.00\r\nmem_allocator:system\r\n")?;
    write!(out, "active_defrag_running:0\r\nlazyfree_pending_objects:0\r\n")
}

fn persistence(server: &Server, out: &mut String) -> std::fmt::Result {
    let is_stopped = server.store.shared().stopped.get().is_some();
    let status = if is_stopped { "err" } else { "ok" };
    write!(out, "loading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:0\r\n")?;
    write!(out, "rdb_bgsave_in_progress:0\r\nrdb_last_save_time:{}\r\n", clock::now_ms() / 1000)?;
    write!(out, "rdb_last_bgsave_status:ok\r\nrdb_last_bgsave_time_sec:-1\r\n")?;
    write!(out, "rdb_current_bgsave_time_sec:-1\r\nrdb_saves:0\r\n")?;
    write!(out, "aof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0\r\n")?;
    write!(out, "aof_last_rewrite_time_sec:-1\r\naof_current_rewrite_time_sec:-1\r\n")?;
    write!(out, "aof_last_bgrewrite_status:ok\r\naof_last_write_status:{status}\r\n")?;
    log(&server.store.db().stats().1, out)
}

/// What the log counts; sizes in bytes, times in microseconds.
fn log(log: &strandline_wal::Stats, out: &mut String) -> std::fmt::Result {
    let rung = log.rung.map_or("none", strandline_wal::disk::Rung::name);
    let space = if log.is_full { "full" } else { "ok" };
    write!(out, "log_rung:{rung}\r\nlog_space:{space}\r\nlog_spares:{}\r\n", log.spares)?;
    write!(out, "log_segments:{}\r\nlog_depth:{}\r\n", log.segments_in_use, log.depth)?;
    write!(out, "log_depth_max_seen:{}\r\nlog_pending:{}\r\n", log.depth_max, log.pending_bytes)?;
    write!(out, "log_syncs:{}\r\nlog_groups:{}\r\n", log.syncs, log.groups)?;
    write!(
        out,
        "log_groups_idle:{}\r\nlog_groups_size:{}\r\n",
        log.submitted_idle, log.submitted_size
    )?;
    write!(out, "log_groups_age:{}\r\nlog_rewrites:{}\r\n", log.submitted_age, log.rewrites)?;
    let moved = log.moved.map_or("no", strandline_wal::Moved::name);
    write!(out, "log_moved:{moved}\r\nlog_spares_elsewhere:{}\r\n", log.spares_elsewhere)?;
    let (segments, given_up) = (log.segments_elsewhere, log.writes_given_up);
    write!(out, "log_segments_elsewhere:{segments}\r\nlog_writes_given_up:{given_up}\r\n")?;
    write!(out, "log_payload:{}\r\nlog_written:{}\r\n", log.payload_bytes, log.device_bytes)?;
    for (name, values) in [("sync_us", &log.sync_micros), ("group_bytes", &log.group_bytes)] {
        for (part, percent) in [("p50", 50.0), ("p99", 99.0), ("p99_9", 99.9)] {
            write!(out, "log_{name}_{part}:{}\r\n", values.percentile(percent))?;
        }
        write!(out, "log_{name}_max:{}\r\n", values.max())?;
    }
    Ok(())
}

fn stats(server: &Server, out: &mut String) -> std::fmt::Result {
    let stats = &server.stats;
    let counters = [
        ("total_connections_received", &stats.connections),
        ("rejected_connections", &stats.rejected_connections),
        ("total_net_input_bytes", &stats.input_bytes),
        ("total_net_output_bytes", &stats.output_bytes),
        ("expired_keys", &stats.expired_keys),
        ("keyspace_hits", &stats.hits),
        ("keyspace_misses", &stats.misses),
        ("total_error_replies", &stats.errors),
        ("unknown_outcomes", &stats.unknown_outcomes),
    ];
    write!(out, "total_commands_processed:{}\r\n", stats.calls())?;
    for (name, counter) in counters {
        write!(out, "{name}:{}\r\n", counter.load(Ordering::Relaxed))?;
    }
    write!(out, "instantaneous_ops_per_sec:0\r\nevicted_keys:0\r\nevicted_clients:0\r\n")?;
    write!(out, "sync_full:0\r\nsync_partial_ok:0\r\nsync_partial_err:0\r\n")?;
    write!(out, "expired_stale_perc:0.00\r\nexpire_cycle_cpu_milliseconds:0\r\n")?;
    write!(out, "pubsub_channels:0\r\npubsub_patterns:0\r\nlatest_fork_usec:0\r\n")
}

/// Ticks of user and system time by the system's own account, in seconds.
fn cpu(_: &Server, out: &mut String) -> std::fmt::Result {
    /// What `/proc` counts in, on every system that has it.
    const TICKS_PER_SECOND: u32 = 100;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let seconds = |at: usize| {
        let ticks: u32 = fields.split(' ').nth(at).and_then(|text| text.parse().ok()).unwrap_or(0);
        f64::from(ticks) / f64::from(TICKS_PER_SECOND)
    };
    write!(out, "used_cpu_sys:{:.6}\r\nused_cpu_user:{:.6}\r\n", seconds(12), seconds(11))?;
    write!(out, "used_cpu_sys_children:0.000000\r\nused_cpu_user_children:0.000000\r\n")
}

fn modules(_: &Server, _: &mut String) -> std::fmt::Result {
    Ok(())
}

fn commandstats(server: &Server, out: &mut String) -> std::fmt::Result {
    for (command, stats) in COMMANDS.iter().zip(&server.stats.commands) {
        let calls = stats.calls.load(Ordering::Relaxed);
        let rejected = stats.rejected.load(Ordering::Relaxed);
        if calls + rejected == 0 {
            continue;
        }
        let nanoseconds = stats.nanoseconds.load(Ordering::Relaxed);
        let each = nanoseconds / calls.max(1);
        write!(
            out,
            "cmdstat_{}:calls={calls},usec={},usec_per_call={}.{:02},rejected_calls={rejected},\
             failed_calls=0\r\n",
            command.name,
            nanoseconds / 1000,
            each / 1000,
            each % 1000 / 10,
        )?;
    }
    Ok(())
}

fn errorstats(_: &Server, _: &mut String) -> std::fmt::Result {
    Ok(())
}

/// What Redis has no name for.
fn strandline(server: &Server, out: &mut String) -> std::fmt::Result {
    let store = &server.store;
    let (_, wal) = store.db().stats();
    let stopped =
        store.shared().stopped.get().map_or("", String::as_str).replace(['\r', '\n'], " ");
    write!(out, "durability:{:?}\r\nrung:{}\r\n", store.durability(), store.rung())?;
    write!(
        out,
        "applied_index:{}\r\ndurable_index:{}\r\n",
        store.db().applied(),
        store.db().durable()
    )?;
    write!(out, "log_groups:{}\r\nlog_syncs:{}\r\n", wal.groups, wal.syncs)?;
    write!(
        out,
        "log_device_bytes:{}\r\nlog_payload_bytes:{}\r\n",
        wal.device_bytes, wal.payload_bytes
    )?;
    let (hits, misses) = store.shared().cache.hits_and_misses();
    write!(out, "cache_hits:{hits}\r\ncache_misses:{misses}\r\n")?;
    write!(out, "log_full:{}\r\nstopped:{stopped}\r\n", u8::from(wal.is_full))
}

fn cluster(_: &Server, out: &mut String) -> std::fmt::Result {
    write!(out, "cluster_enabled:0\r\n")
}

fn keyspace(server: &Server, out: &mut String) -> std::fmt::Result {
    for number in 0..DATABASE_COUNT {
        let database = server.store.shared().directory.get(number);
        if database.keys > 0 {
            let (keys, expires) = (database.keys, database.expires);
            write!(out, "db{number}:keys={keys},expires={expires},avg_ttl=0\r\n")?;
        }
    }
    Ok(())
}
