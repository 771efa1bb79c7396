//! A store in a directory: write, read a consistent view, open again.

use strandline::{Batch, Db, DbOptions, Durability, KeyspaceId, Range, Read};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("strandline-example-{}", std::process::id()));
    {
        let db = Db::open(&dir, DbOptions::default())?;
        let tides = db.create_keyspace("tides")?;
        let mut batch = Batch::new();
        batch.put(tides, b"2026-11-23", b"high at 04:12")?;
        batch.put(KeyspaceId::DEFAULT, b"station", b"harbour")?;
        let index = db.write(&batch, Durability::Disk)?;
        println!("on disk as entry {index}");
    }
    let db = Db::open(&dir, DbOptions::default())?;
    let tides = db.keyspace("tides").ok_or("the keyspace was created above")?;
    let view = db.view();
    for pair in view.range(tides, Range::all()) {
        let (day, tide) = pair?;
        println!("{}: {}", day.escape_ascii(), tide.escape_ascii());
    }
    drop(view);
    db.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
