//! A session that has become a feed: entries go to a backup, acknowledgements come back.
//!
//! What is durable is sent, in the order of the log, and nothing else: a backup never has what its
//! primary may lose. The feed keeps nothing of its own: it reads the log, and while it waits for the
//! backup to read, the log waits for it (see [`Feeds`](crate::backup::feeds::Feeds)).

use std::sync::atomic::Ordering;
use std::time::Duration;

use strandline_engine::Index;
use strandline_wal::Lsn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::Session;
use crate::backup::feeds::{Feeds, Request};
use crate::backup::frame::{self, CopyFile, Frame};
use crate::clock;
use crate::resp::Reply;
use crate::server::Server;

/// How often a backup hears from its primary, at least.
const BEAT: Duration = Duration::from_secs(1);
/// About how many bytes are read from the log before they are sent.
const PIECE_LEN: usize = 1 << 20;
/// How many bytes of a copy go at once.
const PART_LEN: usize = 256 << 10;
/// What a backup sends is small.
const INPUT_LEN_MAX: usize = 4096;

/// Why a feed ends.
type Ended = Box<dyn std::error::Error>;

/// Forgets the feed when it ends, however it ends.
struct Presence<'a>(&'a Feeds, u64);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl Session {
    /// Feeds a backup until the connection ends.
    pub(super) async fn feed(&mut self, request: Request) {
        // A feed holds up no stop, and is not idle in the sense of `timeout`.
        self.slot.idle.set(true);
        let ended = match request {
            Request::Entries { node, port, from, generation } => {
                self.feed_entries(node, port, from, generation).await
            }
            Request::Copy => self.feed_copy().await,
        };
        if let Err(reason) = ended {
            tracing::info!(client = %self.client.address, %reason, "a backup is not fed any more");
        }
    }

    async fn accept(&mut self, text: &str) -> std::io::Result<()> {
        Reply::new(&mut self.output, self.state.protocol).simple(text);
        self.send().await
    }

    async fn feed_entries(
        &mut self,
        node: u128,
        port: u16,
        from: Index,
        generation: u128,
    ) -> Result<(), Ended> {
        let server = self.server.clone();
        let store = &server.store;
        let before = Index(from.0.saturating_sub(1));
        let known = store.standing().lineage().at(before).map_or(0, |one| one.id);
        let is_ours = from.0 > 0 && before <= store.db().durable();
        if !is_ours || before > Index(0) && known != generation {
            self.answer_error("ERR the log has changed meanwhile: ask again");
            self.send().await?;
            return Ok(());
        }
        self.accept("FEED").await?;
        let feeds = &store.shared().feeds;
        let host = self.client.address.ip().to_canonical().to_string();
        feeds.begin(self.client.id, node, host, port, before);
        let _presence = Presence(feeds, self.client.id);
        server.refresh_gate();
        tracing::info!(client = %self.client.address, port, %from, "feeding a backup");
        let client = self.client.clone();
        let heard = |durable| {
            client.active_ms.store(clock::now_ms(), Ordering::Relaxed);
            feeds.heard(client.id, durable)
        };
        let (input, output) = self.stream.split();
        tokio::select! {
            ended = send_entries(&server, output, from) => ended,
            ended = receive(input, heard) => ended,
        }
    }

    async fn feed_copy(&mut self) -> Result<(), Ended> {
        self.accept("COPY").await?;
        let server = self.server.clone();
        let checkpoint = server.store.db().checkpoint();
        let index = checkpoint.index();
        let lineage = server.store.standing().lineage().until(index);
        // A state that is in no table yet is all in the log.
        let files = if index > Index(0) { checkpoint.files() } else { Vec::new() };
        let lens: Vec<u64> = files.iter().map(|file| file.len).collect();
        let named =
            |file: strandline_engine::CheckpointFile| CopyFile { name: file.name, len: file.len };
        let files = files.into_iter().map(named).collect();
        let mut bytes = Vec::new();
        Frame::Copy { index, lineage, files }.encode(&mut bytes);
        tracing::info!(client = %self.client.address, %index, "sending a copy of the whole state");
        let stalled = server.stall_timeout();
        for (file, len) in lens.into_iter().enumerate() {
            let mut offset = 0;
            while offset < len {
                let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
                let part = checkpoint.read(file, offset, rest.min(PART_LEN))?;
                let part = part.ok_or("a file of the checkpoint is shorter than it says")?;
                Frame::Part { file, offset, bytes: part }.encode(&mut bytes);
                offset += u64::try_from(part.len())?;
                if bytes.len() >= PART_LEN {
                    tokio::time::timeout(stalled, self.stream.write_all(&bytes)).await??;
                    bytes.clear();
                    self.client.active_ms.store(clock::now_ms(), Ordering::Relaxed);
                    // Other sessions of this thread have their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
        Frame::Copied.encode(&mut bytes);
        tokio::time::timeout(stalled, self.stream.write_all(&bytes)).await??;
        // The backup ends the connection when it has everything.
        while self.stream.read(&mut [0; 64]).await? > 0 {}
        Ok(())
    }
}

/// Sends what becomes durable.
async fn send_entries(
    server: &Server,
    mut output: WriteHalf<'_>,
    from: Index,
) -> Result<(), Ended> {
    let (store, stalled) = (&server.store, server.stall_timeout());
    let (db, notify) = (store.db(), store.shared().feeds.notify());
    let mut reader = db.log().reader(Lsn(from.0));
    let mut bytes = Vec::new();
    loop {
        let moved = notify.notified();
        tokio::pin!(moved);
        // Registered before the log is read, so that nothing is missed in between.
        moved.as_mut().enable();
        bytes.clear();
        while bytes.len() < PIECE_LEN
            && let Some(records) = reader.next_records()?
        {
            encode_records(server, &records, &mut bytes)?;
        }
        let has_more = bytes.len() >= PIECE_LEN;
        if bytes.is_empty() {
            Frame::Beat { durable: db.durable() }.encode(&mut bytes);
        }
        tokio::time::timeout(stalled, output.write_all(&bytes)).await??;
        if has_more {
            tokio::task::yield_now().await;
            continue;
        }
        // Nothing more: a beat says so after a while.
        let _ = tokio::time::timeout(BEAT, moved).await;
    }
}

/// Appends records as frames, each generation announced where it begins.
fn encode_records(
    server: &Server,
    records: &strandline_wal::Records,
    bytes: &mut Vec<u8>,
) -> Result<(), Ended> {
    let mut list = Vec::new();
    for record in records.iter() {
        let (lsn, record) = record.map_err(|refusal| refusal.to_string())?;
        list.push((Index(lsn.0), record.payload));
    }
    let lineage = server.store.standing().lineage();
    let mut rest = &list[..];
    while let Some((first, _)) = rest.first() {
        if let Some(generation) = lineage.at(*first).filter(|one| one.first == *first) {
            Frame::Generation(generation).encode(bytes);
        }
        let end = lineage.next_after(*first).map_or(u64::MAX, |next| next.first.0);
        let mut len = 0;
        let fits = |(index, payload): &&(Index, &[u8])| {
            len += payload.len();
            index.0 < end && (index == first || len <= PIECE_LEN)
        };
        let count = rest.iter().take_while(fits).count();
        frame::encode_entries(bytes, *first, rest[..count].iter().map(|(_, payload)| *payload));
        rest = &rest[count..];
    }
    Ok(())
}

/// Takes what the backup says of itself; `heard` says whether it still counts.
async fn receive(mut input: ReadHalf<'_>, heard: impl Fn(Index) -> bool) -> Result<(), Ended> {
    let mut bytes = Vec::new();
    loop {
        if input.read_buf(&mut bytes).await? == 0 {
            return Err("it has closed the connection".into());
        }
        while let Some(header) = bytes.first_chunk() {
            let len = frame::body_len(header)? + frame::HEADER_LEN;
            if len > INPUT_LEN_MAX {
                return Err("a frame that is too long".into());
            }
            if bytes.len() < len {
                break;
            }
            let Frame::Durable(index) = frame::decode(&bytes[..len])? else {
                return Err("a frame that does not belong here".into());
            };
            if !heard(index) {
                return Err("another connection feeds it".into());
            }
            bytes.drain(..len);
        }
    }
}
