//! How often each piece occurs in a stream of documents.

use crate::hash::{FastMap, fold};
use crate::simd::prefetch;
use crate::split::Splitter;

/// Pieces of up to this many bytes are packed into one number together with their length.
pub(crate) const PACKED: usize = 15;
const BATCH: usize = 64;
const LEAST_SLOTS: usize = 1 << 12;

/// Counts pieces on several threads; the outcome does not depend on how many.
pub struct Counter {
    splitter: Splitter,
    tables: Vec<Table>,
    documents: u64,
    bytes: u64,
}

/// Distinct pieces end to end, in no particular order.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<i64>,
}

impl Pieces {
    /// Number of distinct pieces.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Bytes of all distinct pieces together.
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a piece that is not among them yet.
    pub fn push(&mut self, piece: &[u8], count: i64) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
        self.counts.push(count);
    }

    /// Each piece with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).zip(&self.counts).map(|((start, &end), &count)| (&self.bytes[start..end], count))
    }
}

impl Counter {
    /// An empty counter that uses up to `threads` threads (at least one).
    pub fn new(splitter: Splitter, threads: usize) -> Counter {
        let tables = (0..threads.max(1)).map(|_| Table::new()).collect();
        Counter { splitter, tables, documents: 0, bytes: 0 }
    }

    /// Adds documents.
    pub fn feed(&mut self, texts: &[&str]) {
        let total: usize = texts.iter().map(|text| text.len()).sum();
        self.documents += texts.len() as u64;
        self.bytes += total as u64;
        let share = total.div_ceil(self.tables.len()).max(1 << 14); // a thread costs more than 16 KB of text
        let splitter = self.splitter;
        let mut rest = texts;
        std::thread::scope(|scope| {
            for table in &mut self.tables {
                let (mine, others) = rest.split_at(leading(rest, share));
                rest = others;
                if others.is_empty() {
                    count(splitter, mine, table); // the last share is the calling thread's own
                    break;
                }
                scope.spawn(move || count(splitter, mine, table));
            }
        });
    }

    /// Documents fed so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes of UTF-8 fed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every distinct piece with its count.
    pub fn finish(self) -> Pieces {
        let mut tables = self.tables.into_iter();
        let mut all = tables.next().unwrap_or_else(Table::new);
        for table in tables {
            all.absorb(table);
        }
        all.into_pieces()
    }
}

/// How many leading texts make up `share` bytes; all of them if they are fewer.
pub(crate) fn leading(texts: &[&str], share: usize) -> usize {
    let mut bytes = 0;
    texts
        .iter()
        .position(|text| {
            bytes += text.len();
            bytes >= share
        })
        .map_or(texts.len(), |last| last + 1)
}

fn count(splitter: Splitter, texts: &[&str], table: &mut Table) {
    let mut keys = [0; BATCH];
    let mut waiting = 0;
    for text in texts {
        let bytes = text.as_bytes();
        splitter.for_each(text, |start, end| {
            if end - start > PACKED {
                table.add_long(&bytes[start..end], 1);
                return;
            }
            keys[waiting] = packed(bytes, start, end);
            waiting += 1;
            if waiting == BATCH {
                table.add_batch(&keys);
                waiting = 0;
            }
        });
    }
    table.add_batch(&keys[..waiting]);
}

/// The bytes from `start` to `end`, [`PACKED`] at most, and how many they are, as one number; never zero.
#[inline]
pub(crate) fn packed(bytes: &[u8], start: usize, end: usize) -> u128 {
    let length = end - start;
    let raw = match bytes.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
        Some(chunk) => u128::from_le_bytes(*chunk) & ((1 << (8 * length)) - 1),
        None => {
            let mut chunk = [0; 16];
            chunk[..length].copy_from_slice(&bytes[start..end]);
            u128::from_le_bytes(chunk)
        }
    };
    raw | (length as u128) << (8 * PACKED)
}

/// Spreads a packed piece over 64 bits.
#[inline]
pub(crate) fn hash_of(key: u128) -> u64 {
    fold(key as u64, (key >> 64) as u64)
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: u128, // zero: free
    count: i64,
}

/// Packed pieces in an open table at most half full, longer ones beside it.
struct Table {
    slots: Vec<Slot>,
    used: usize,
    long: FastMap<Box<[u8]>, i64>,
}

impl Table {
    fn new() -> Table {
        Table { slots: vec![Slot::default(); LEAST_SLOTS], used: 0, long: FastMap::default() }
    }

    /// Counts many pieces: first all places are asked for, then all are visited, so that their misses overlap.
    fn add_batch(&mut self, keys: &[u128]) {
        if (self.used + keys.len()) * 2 > self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut places = [0; BATCH];
        for (place, &key) in places.iter_mut().zip(keys) {
            *place = hash_of(key) as usize & mask;
            prefetch(&self.slots, *place);
        }
        for (&place, &key) in places.iter().zip(keys) {
            self.add_at(place, key, 1);
        }
    }

    #[inline]
    fn add_at(&mut self, mut place: usize, key: u128, count: i64) {
        let mask = self.slots.len() - 1;
        loop {
            let slot = &mut self.slots[place & mask];
            if slot.key == key {
                slot.count += count;
                return;
            }
            if slot.key == 0 {
                *slot = Slot { key, count };
                self.used += 1;
                return;
            }
            place += 1;
        }
    }

    fn add_long(&mut self, piece: &[u8], count: i64) {
        match self.long.get_mut(piece) {
            Some(known) => *known += count,
            None => {
                self.long.insert(piece.into(), count);
            }
        }
    }

    fn grow(&mut self) {
        let twice = vec![Slot::default(); self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, twice);
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.key != 0) {
            self.add_at(hash_of(slot.key) as usize, slot.key, slot.count);
        }
    }

    fn absorb(&mut self, other: Table) {
        for slot in other.slots.into_iter().filter(|slot| slot.key != 0) {
            if (self.used + 1) * 2 > self.slots.len() {
                self.grow();
            }
            self.add_at(hash_of(slot.key) as usize, slot.key, slot.count);
        }
        for (piece, count) in other.long {
            self.add_long(&piece, count);
        }
    }

    fn into_pieces(self) -> Pieces {
        let mut pieces = Pieces::default();
        for slot in self.slots.iter().filter(|slot| slot.key != 0) {
            let raw = slot.key.to_le_bytes();
            pieces.push(&raw[..raw[PACKED] as usize], slot.count);
        }
        for (piece, count) in self.long {
            pieces.push(&piece, count);
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(texts: &[&str], threads: usize) -> Vec<(Vec<u8>, i64)> {
        let mut counter = Counter::new(Splitter { max_digits: 2 }, threads);
        for part in texts.chunks(7) {
            counter.feed(part);
        }
        let pieces = counter.finish();
        assert_eq!(pieces.num_bytes(), pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>());
        let mut found: Vec<_> = pieces.iter().map(|(piece, count)| (piece.to_vec(), count)).collect();
        assert_eq!(found.len(), pieces.len());
        found.sort_unstable();
        found
    }

    #[test]
    fn counts_pieces() {
        let want: [(&[u8], i64); 4] = [(b" a", 1), (b" b", 1), (b"a", 1), (b"b", 1)];
        assert_eq!(counted(&["a b a", "", "b"], 1), want.map(|(piece, count)| (piece.to_vec(), count)));
        assert!(counted(&[], 2).is_empty());
    }

    #[test]
    fn pieces_of_every_length_come_back_whole() {
        let words: Vec<String> = (1..70).flat_map(|n| ["x".repeat(n), "é".repeat(n)]).collect();
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut want: Vec<_> = words.iter().map(|word| (word.clone().into_bytes(), 1)).collect();
        want.sort_unstable();
        assert_eq!(counted(&texts, 1), want);
    }

    #[test]
    fn many_distinct_pieces_and_threads_do_not_change_the_counts() {
        let texts: Vec<String> = (0..3000)
            .map(|i| format!("text{} and {} {}\n", i % 1700, "word ".repeat(i % 20), "long".repeat(i % 9)))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let one = counted(&texts, 1);
        assert_eq!(one, counted(&texts, 2));
        assert_eq!(one, counted(&texts, 5));
        let letters: usize = texts.iter().map(|text| text.len()).sum();
        assert_eq!(one.iter().map(|(piece, count)| piece.len() as i64 * count).sum::<i64>(), letters as i64);
    }

    #[test]
    fn shares_cover_every_text() {
        assert_eq!(leading(&["aa", "bb", "cc"], 3), 2);
        assert_eq!(leading(&["aa", "bb", "cc"], 100), 3);
        assert_eq!(leading(&[], 1), 0);
    }
}
