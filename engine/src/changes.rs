//! What one entry is changing: a batch that can be read through.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;

use crate::{Batch, Direction, KeyspaceId, Pair, Range, Read, Result, Value};

/// The changes of one entry over the state before it. Reads see the entry's own writes.
pub struct Changes<'a> {
    /// The state before the entry.
    base: &'a dyn Read,
    /// What the entry writes, in the order written.
    batch: &'a mut Batch,
    /// The newest write of every changed key; none deletes it. Filled from the batch when it is read:
    /// most entries write once and read nothing after that.
    newest: RefCell<Newest>,
    /// How many bytes of the batch are in `newest`.
    indexed: Cell<usize>,
}

type Newest = BTreeMap<(KeyspaceId, Vec<u8>), Option<Value>>;

impl<'a> Changes<'a> {
    /// No changes yet over `base`; what is written is added to `batch`.
    pub fn new(base: &'a dyn Read, batch: &'a mut Batch) -> Self {
        let indexed = Cell::new(batch.encoded().len());
        Self { base, batch, newest: RefCell::default(), indexed }
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    ///
    /// As for [`Batch::put`].
    pub fn put(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) -> Result<()> {
        self.batch.put(keyspace, key, value)
    }

    /// Sets `key` to a value in two parts that lie apart.
    ///
    /// # Errors
    ///
    /// As for [`Batch::put`].
    pub fn put_parts(&mut self, keyspace: KeyspaceId, key: &[u8], value: [&[u8]; 2]) -> Result<()> {
        self.batch.put_parts(keyspace, key, value)
    }

    /// Deletes `key`.
    ///
    /// # Errors
    ///
    /// As for [`Batch::delete`].
    pub fn delete(&mut self, keyspace: KeyspaceId, key: &[u8]) -> Result<()> {
        self.batch.delete(keyspace, key)
    }

    /// Takes over an encoded batch whole.
    ///
    /// # Errors
    ///
    /// If the bytes are not a batch within the limits.
    pub fn put_batch(&mut self, encoded: &[u8]) -> Result<()> {
        for op in Batch::decode(encoded) {
            let op = op?;
            match op.value {
                Some(value) => self.batch.put(op.keyspace, op.key, value)?,
                None => self.batch.delete(op.keyspace, op.key)?,
            }
        }
        Ok(())
    }

    /// What the entry has written so far, to be read.
    fn newest(&self) -> Ref<'_, Newest> {
        let encoded = self.batch.encoded();
        if self.indexed.get() < encoded.len() {
            let mut newest = self.newest.borrow_mut();
            for op in Batch::decode(&encoded[self.indexed.get()..]) {
                let op = op.expect("a batch holds what it encoded");
                let value = op.value.map(|value| Value::from(value.to_vec()));
                newest.insert((op.keyspace, op.key.to_vec()), value);
            }
            self.indexed.set(encoded.len());
        }
        self.newest.borrow()
    }
}

impl Read for Changes<'_> {
    fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        let newest = self.newest();
        if !newest.is_empty()
            && let Some(newest) = newest.get(&(keyspace, key.to_vec()))
        {
            return Ok(newest.clone());
        }
        self.base.get(keyspace, key)
    }

    fn range<'a>(
        &'a self,
        keyspace: KeyspaceId,
        range: Range,
    ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a> {
        let newest = self.newest();
        let changed = newest
            .range((keyspace, Vec::new())..)
            .take_while(move |((other, _), _)| *other == keyspace)
            .filter(|((_, key), _)| range.contains(key))
            .map(|((_, key), value)| (key.clone(), value.clone()));
        let direction = range.direction;
        let mut changed: Vec<_> = changed.collect();
        if direction == Direction::Backward {
            changed.reverse();
        }
        let mut changed = changed.into_iter().peekable();
        let mut base = self.base.range(keyspace, range).peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                let takes_base = match (base.peek(), changed.peek()) {
                    (None, None) => return None,
                    (Some(Err(_)), _) | (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (Some(Ok((key, _))), Some((own, _))) => match direction {
                        Direction::Forward => key < own,
                        Direction::Backward => key > own,
                    },
                };
                if takes_base {
                    return base.next();
                }
                let (key, value) = changed.next().expect("peeked just above");
                base.next_if(|pair| matches!(pair, Ok((other, _)) if *other == key));
                if let Some(value) = value {
                    return Some(Ok((key, value)));
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pairs(Vec<(&'static [u8], &'static [u8])>);

    impl Read for Pairs {
        fn get(&self, _: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
            let found = self.0.iter().find(|(own, _)| *own == key);
            Ok(found.map(|(_, value)| Value::from(value.to_vec())))
        }
        fn range<'a>(
            &'a self,
            _: KeyspaceId,
            range: Range,
        ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a> {
            let mut pairs: Vec<_> = self.0.iter().filter(|(key, _)| range.contains(key)).collect();
            if range.direction == Direction::Backward {
                pairs.reverse();
            }
            Box::new(
                pairs
                    .into_iter()
                    .map(|(key, value)| Ok((key.to_vec(), Value::from(value.to_vec())))),
            )
        }
    }

    #[test]
    fn an_entry_reads_its_own_writes_both_ways() {
        let base = Pairs(vec![(b"a", b"1"), (b"c", b"3"), (b"e", b"5")]);
        let mut batch = Batch::new();
        let mut changes = Changes::new(&base, &mut batch);
        changes.delete(KeyspaceId::DEFAULT, b"c").unwrap();
        changes.put(KeyspaceId::DEFAULT, b"d", b"4").unwrap();
        changes.put(KeyspaceId::DEFAULT, b"e", b"6").unwrap();
        let keys = |range: Range| -> Vec<(Vec<u8>, Vec<u8>)> {
            changes
                .range(KeyspaceId::DEFAULT, range)
                .map(|pair| pair.map(|(key, value)| (key, value.to_vec())).unwrap())
                .collect()
        };
        let expected = vec![
            (b"a".to_vec(), b"1".to_vec()),
            (b"d".to_vec(), b"4".to_vec()),
            (b"e".to_vec(), b"6".to_vec()),
        ];
        assert_eq!(keys(Range::all()), expected);
        let backward: Vec<_> = expected.into_iter().rev().collect();
        assert_eq!(keys(Range::all().backward()), backward);
        assert!(changes.get(KeyspaceId::DEFAULT, b"c").unwrap().is_none());
    }
}
