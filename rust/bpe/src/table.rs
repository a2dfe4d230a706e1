//! A table of pieces and how often they occur.

use crate::hash::{FastMap, fold};
use crate::memory::{grow_zeroed, zeroed};
use crate::simd::prefetch;

/// Pieces of up to this many bytes are packed into one number together with their length.
pub(crate) const PACKED: usize = 15;
/// Pieces that are counted together.
pub(crate) const BATCH: usize = 64;
const LEAST_SLOTS: usize = 1 << 12;
const ROOM: usize = 1 << 20; // slots that need no move; memory that is not used yet is not taken either

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

/// A packed piece as two halves, both zero in a free slot, and its count: three words, where a `u128` would make it four.
type Slot = [u64; 3];

const FREE: Slot = [0; 3];

fn key_of(slot: &Slot) -> u128 {
    u128::from(slot[0]) | u128::from(slot[1]) << 64
}

fn halves(key: u128) -> (u64, u64) {
    (key as u64, (key >> 64) as u64)
}

/// Packed pieces in an open table at most half full, longer ones beside it.
pub(crate) struct Table {
    slots: Vec<Slot>, // those from `size` on are zero and wait
    size: usize,      // a power of two
    used: usize,
    long: FastMap<Box<[u8]>, i64>,
    long_bytes: usize,
    pub seen: u64, // pieces counted, each as often as it occurred
}

const LONG_ENTRY: usize = 25; // a pointer, a length, a count and a byte of the map's own

impl Table {
    pub fn new() -> Table {
        Table { slots: zeroed(ROOM), size: LEAST_SLOTS, used: 0, long: FastMap::default(), long_bytes: 0, seen: 0 }
    }

    /// Counts many pieces: first all places are asked for, then all are visited, so that their misses overlap.
    pub fn add_batch(&mut self, keys: &[u128]) {
        if (self.used + keys.len()) * 2 > self.size {
            self.grow();
        }
        let mask = self.size - 1;
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
        let mask = self.size - 1;
        let (low, high) = halves(key);
        loop {
            let slot = &mut self.slots[place & mask];
            if (slot[0], slot[1]) == (low, high) {
                slot[2] += count as u64;
                return;
            }
            if slot[1] == 0 {
                *slot = [low, high, count as u64]; // the length is in the upper half, so that it is never zero
                self.used += 1;
                return;
            }
            place += 1;
        }
    }

    pub fn add_long(&mut self, piece: &[u8], count: i64) {
        match self.long.get_mut(piece) {
            Some(known) => *known += count,
            None => {
                self.long.insert(piece.into(), count);
                self.long_bytes += piece.len() + 16; // with what the allocator keeps
            }
        }
    }

    /// Doubles the table where it is. A piece whose home was `h` moves to the first free slot from `h` or from `h` and the
    /// old size on. Taken in the order of the old slots, none moves further than that size, and so none lands on one that is
    /// still to move, if those that had wrapped around the old end are put aside first.
    fn grow(&mut self) {
        let old = self.size;
        let first_free = self.slots.iter().position(|slot| slot[1] == 0).unwrap_or(old);
        let aside: Vec<Slot> = self.slots[..first_free].to_vec();
        self.slots[..first_free].fill(FREE);
        self.size = 2 * old;
        self.used = 0;
        if self.size > self.slots.len() {
            grow_zeroed(&mut self.slots, self.size);
        }
        for place in first_free..old {
            let slot = std::mem::replace(&mut self.slots[place], FREE);
            self.put_back(slot);
        }
        aside.into_iter().for_each(|slot| self.put_back(slot));
    }

    fn put_back(&mut self, slot: Slot) {
        if slot[1] != 0 {
            let key = key_of(&slot);
            self.add_at(hash_of(key) as usize, key, slot[2] as i64);
        }
    }

    /// Counts a piece `count` times.
    pub fn add(&mut self, piece: &[u8], count: i64) {
        if piece.len() > PACKED {
            return self.add_long(piece, count);
        }
        if (self.used + 1) * 2 > self.size {
            self.grow();
        }
        let key = packed(piece, 0, piece.len());
        self.add_at(hash_of(key) as usize, key, count);
    }

    /// How often a packed piece of that hash was counted; none if it was not.
    #[inline]
    fn count_at(&self, hash: u64, key: u128) -> Option<i64> {
        let mask = self.size - 1;
        let (low, high) = halves(key);
        let mut place = hash as usize;
        loop {
            let slot = &self.slots[place & mask];
            if (slot[0], slot[1]) == (low, high) {
                return Some(slot[2] as i64);
            }
            if slot[1] == 0 {
                return None;
            }
            place += 1;
        }
    }

    /// Hands over every piece of several tables with its count in all of them together. Calls for each `share` of `shares`
    /// hand over all of it; they may run side by side.
    pub fn sums(tables: &[Table], share: usize, shares: usize, mut take: impl FnMut(&[u8], i64)) {
        for (which, table) in tables.iter().enumerate() {
            let (earlier, later) = (&tables[..which], &tables[which + 1..]);
            let range = table.size * share / shares..table.size * (share + 1) / shares;
            for slot in table.slots[range].iter().filter(|slot| slot[1] != 0) {
                let key = key_of(slot);
                let hash = hash_of(key); // neighbours here are neighbours there, so that this reads in order
                if earlier.iter().any(|other| other.count_at(hash, key).is_some()) {
                    continue;
                }
                let others: i64 = later.iter().filter_map(|other| other.count_at(hash, key)).sum();
                let raw = key.to_le_bytes();
                take(&raw[..raw[PACKED] as usize], slot[2] as i64 + others);
            }
            for (piece, &count) in table.long.iter().filter(|(piece, _)| piece.len() % shares == share) {
                if !earlier.iter().any(|other| other.long.contains_key(piece)) {
                    take(piece, count + later.iter().filter_map(|other| other.long.get(piece)).sum::<i64>());
                }
            }
        }
    }

    /// Hands over every piece with its count.
    pub fn for_each(&self, mut take: impl FnMut(&[u8], i64)) {
        for slot in self.slots[..self.size].iter().filter(|slot| slot[1] != 0) {
            let raw = key_of(slot).to_le_bytes();
            take(&raw[..raw[PACKED] as usize], slot[2] as i64);
        }
        for (piece, &count) in &self.long {
            take(piece, count);
        }
    }

    /// Forgets all counts, but not how many pieces it has seen.
    pub fn clear(&mut self) {
        *self = Table { seen: self.seen, ..Table::new() };
    }

    /// Number of distinct pieces.
    pub fn len(&self) -> usize {
        self.used + self.long.len()
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> usize {
        self.size * size_of::<Slot>() + self.long.capacity() * LONG_ENTRY + self.long_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn counted(table: &Table) -> HashMap<Vec<u8>, i64> {
        let mut found = HashMap::new();
        table.for_each(|piece, count| assert!(found.insert(piece.to_vec(), count).is_none(), "twice"));
        found
    }

    #[test]
    fn nothing_is_lost_while_the_table_grows() {
        let mut table = Table::new();
        let mut want = HashMap::new();
        let mut next = LEAST_SLOTS / 2;
        for i in 0..600_000u64 {
            let piece = (i * i % 700_001).to_string().into_bytes();
            table.add(&piece, i as i64 % 5 + 1);
            *want.entry(piece).or_insert(0) += i as i64 % 5 + 1;
            if want.len() == next {
                next *= 2;
                table.add(b"x", 1); // the next one makes it grow
                *want.entry(b"x".to_vec()).or_insert(0) += 1;
                assert!(counted(&table) == want);
            }
        }
        assert!(counted(&table) == want);
        assert_eq!(table.len(), want.len());
    }

    #[test]
    fn pieces_that_wrap_around_the_end_survive_growing() {
        let mut table = Table::new();
        let at_the_end: Vec<Vec<u8>> = (0u64..)
            .map(|i| i.to_string().into_bytes())
            .filter(|piece| hash_of(packed(piece, 0, piece.len())) as usize % LEAST_SLOTS >= LEAST_SLOTS - 3)
            .take(40)
            .collect();
        at_the_end.iter().for_each(|piece| table.add(piece, 7));
        table.grow();
        table.grow();
        at_the_end.iter().for_each(|piece| table.add(piece, 1));
        assert_eq!(table.len(), 40);
        assert!(counted(&table).values().all(|&count| count == 8));
    }

    #[test]
    fn sums_of_several_tables_come_once_each() {
        let mut tables: Vec<Table> = (0..3).map(|_| Table::new()).collect();
        let mut want = HashMap::new();
        for i in 0..30_000u64 {
            let long = if i % 11 == 0 { "and a piece of more than fifteen bytes" } else { "" };
            let piece = format!("{}{long}", i * i % 7919).into_bytes();
            tables[(i % 3) as usize * usize::from(i % 7 > 0)].add(&piece, i as i64);
            *want.entry(piece).or_insert(0) += i as i64;
        }
        tables[1].grow();
        for shares in [1, 2, 3, 7] {
            let mut found = HashMap::new();
            for share in 0..shares {
                Table::sums(&tables, share, shares, |piece, count| {
                    assert!(found.insert(piece.to_vec(), count).is_none(), "twice");
                });
            }
            assert!(found == want, "{shares}");
        }
    }
}
