//! A table of pieces and how often they occur.

use crate::hash::{FastMap, fold};
use crate::memory::filled;
use crate::simd::prefetch;

/// Pieces of up to this many bytes are packed into one number together with their length.
pub(crate) const PACKED: usize = 15;
/// Pieces that are counted together.
pub(crate) const BATCH: usize = 64;
const LEAST_SLOTS: usize = 1 << 12;

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
pub(crate) struct Table {
    slots: Vec<Slot>,
    used: usize,
    long: FastMap<Box<[u8]>, i64>,
    long_bytes: usize,
    pub seen: u64, // pieces counted, each as often as it occurred
}

const LONG_ENTRY: usize = 25; // a pointer, a length, a count and a byte of the map's own

impl Table {
    pub fn new() -> Table {
        Table { slots: filled(Slot::default(), LEAST_SLOTS), used: 0, long: FastMap::default(), long_bytes: 0, seen: 0 }
    }

    /// Counts many pieces: first all places are asked for, then all are visited, so that their misses overlap.
    pub fn add_batch(&mut self, keys: &[u128]) {
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

    pub fn add_long(&mut self, piece: &[u8], count: i64) {
        match self.long.get_mut(piece) {
            Some(known) => *known += count,
            None => {
                self.long.insert(piece.into(), count);
                self.long_bytes += piece.len() + 16; // with what the allocator keeps
            }
        }
    }

    fn grow(&mut self) {
        let twice = filled(Slot::default(), self.slots.len() * 2);
        let old = std::mem::replace(&mut self.slots, twice);
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.key != 0) {
            self.add_at(hash_of(slot.key) as usize, slot.key, slot.count);
        }
    }

    /// Counts a piece `count` times.
    pub fn add(&mut self, piece: &[u8], count: i64) {
        if piece.len() > PACKED {
            return self.add_long(piece, count);
        }
        if (self.used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let key = packed(piece, 0, piece.len());
        self.add_at(hash_of(key) as usize, key, count);
    }

    /// Counts a piece `count` times if it is here already; false if not.
    pub fn add_known(&mut self, piece: &[u8], count: i64) -> bool {
        if piece.len() > PACKED {
            return self.long.get_mut(piece).map(|known| *known += count).is_some();
        }
        let key = packed(piece, 0, piece.len());
        let mask = self.slots.len() - 1;
        let mut place = hash_of(key) as usize;
        loop {
            let slot = &mut self.slots[place & mask];
            if slot.key == key {
                slot.count += count;
                return true;
            }
            if slot.key == 0 {
                return false;
            }
            place += 1;
        }
    }

    /// Takes over all counts of another table.
    pub fn absorb(&mut self, other: Table) {
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

    /// Hands over every piece with its count.
    pub fn for_each(&self, mut take: impl FnMut(&[u8], i64)) {
        for slot in self.slots.iter().filter(|slot| slot.key != 0) {
            let raw = slot.key.to_le_bytes();
            take(&raw[..raw[PACKED] as usize], slot.count);
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
        self.slots.len() * size_of::<Slot>() + self.long.capacity() * LONG_ENTRY + self.long_bytes
    }
}
