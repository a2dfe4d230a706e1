//! Every adjacent pair of tokens: how often it occurs, where it was born, and which comes next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::count::Pieces;
use crate::hash::fold;
use crate::memory::{filled, reserve, with_room};
use crate::train::Pair;

/// Where a pair begins: a position among the symbols, and the piece that it lies in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub position: u32,
    pub piece: u32,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: u64, // zero: free
    count: i64,
    start: u64,
    places: u32,
}

/// Pairs in an open table at most half full; their places in one long list; and a heap of counts.
pub(crate) struct Pairs {
    slots: Vec<Slot>,
    used: usize,
    places: Vec<Place>,
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
    tidy_at: usize,
}

const BYTES: usize = 256;
const LEAST_TIDY: usize = 1 << 20;

/// A pair as one number, never zero.
fn key(pair: Pair) -> u64 {
    (u64::from(pair.0) << 32 | u64::from(pair.1)) + 1
}

fn pair_of(key: u64) -> Pair {
    (((key - 1) >> 32) as u32, (key - 1) as u32)
}

impl Pairs {
    /// The pairs of single bytes in all pieces. Position 0 is the edge before the first piece.
    pub fn of(pieces: &Pieces) -> Pairs {
        let mut counts = vec![0i64; BYTES * BYTES];
        let mut ends = vec![0usize; BYTES * BYTES];
        let index = |two: &[u8]| usize::from(two[0]) * BYTES + usize::from(two[1]);
        for (piece, count) in pieces.iter() {
            for two in piece.windows(2) {
                counts[index(two)] += count;
                ends[index(two)] += 1;
            }
        }
        let mut total = 0;
        let starts: Vec<usize> = ends.iter().map(|&places| (total, total += places).0).collect();
        let mut next = starts.clone();
        let mut places = filled(Place::default(), total);
        let mut position = 1;
        for (number, (piece, _)) in pieces.iter().enumerate() {
            for (offset, two) in piece.windows(2).enumerate() {
                let place = &mut next[index(two)];
                places[*place] = Place { position: (position + offset) as u32, piece: number as u32 };
                *place += 1;
            }
            position += piece.len() + 1;
        }
        let mut pairs = Pairs {
            slots: filled(Slot::default(), 1 << 12),
            used: 0,
            places,
            heap: BinaryHeap::new(),
            tidy_at: LEAST_TIDY.max(2 * total),
        };
        for (which, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let pair = ((which / BYTES) as u32, (which % BYTES) as u32);
            pairs.insert(pair, count, starts[which], ends[which] as u32);
        }
        pairs
    }

    /// Takes the top of the heap. Counts never rise after a pair is born, so a stale entry can only be too high.
    pub fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let live = self.count(pair);
            if live == count && live > 0 {
                return Some(pair);
            }
            if live > 0 {
                self.heap.push((live, Reverse(pair)));
            }
        }
        None
    }

    /// How often a pair occurs.
    pub fn count(&self, pair: Pair) -> i64 {
        self.find(pair).map_or(0, |slot| self.slots[slot].count)
    }

    /// Forgets a pair and returns which places are its own.
    pub fn take(&mut self, pair: Pair) -> Range<usize> {
        let Some(slot) = self.find(pair) else { return 0..0 };
        let slot = &mut self.slots[slot];
        slot.count = 0;
        slot.start as usize..slot.start as usize + slot.places as usize
    }

    pub fn place(&self, index: usize) -> Place {
        self.places[index]
    }

    /// Lowers a count. The pair that is being merged has none any more, which an overlap may still name.
    pub fn lose(&mut self, pair: Pair, count: i64) {
        if let Some(slot) = self.find(pair) {
            let slot = &mut self.slots[slot];
            slot.count = if slot.count == 0 { 0 } else { slot.count - count };
            debug_assert!(slot.count >= 0);
        }
    }

    /// Makes room for places and returns where it begins.
    pub fn reserve(&mut self, places: usize) -> usize {
        let start = self.places.len();
        reserve(&mut self.places, places);
        self.places.resize(start + places, Place::default());
        start
    }

    pub fn put(&mut self, index: usize, place: Place) {
        self.places[index] = place;
    }

    /// Adds a pair that is new.
    pub fn insert(&mut self, pair: Pair, count: i64, start: usize, places: u32) {
        if (self.used + 1) * 2 > self.slots.len() {
            self.rebuild();
        }
        self.set(Slot { key: key(pair), count, start: start as u64, places });
        self.heap.push((count, Reverse(pair)));
    }

    /// Drops the places that `stands` denies and those of dead pairs, when the list has grown to twice its size.
    pub fn tidy(&mut self, stands: impl Fn(Pair, Place) -> bool) {
        if self.places.len() < self.tidy_at {
            return;
        }
        let mut kept = with_room(self.places.len() / 2);
        for slot in &mut self.slots {
            let old = slot.start as usize..slot.start as usize + slot.places as usize;
            slot.start = kept.len() as u64;
            if slot.count > 0 {
                let pair = pair_of(slot.key);
                kept.extend(self.places[old].iter().filter(|&&place| stands(pair, place)));
            }
            slot.places = (kept.len() - slot.start as usize) as u32;
        }
        self.places = kept;
        self.tidy_at = LEAST_TIDY.max(2 * self.places.len());
    }

    #[inline]
    fn find(&self, pair: Pair) -> Option<usize> {
        let key = key(pair);
        let mask = self.slots.len() - 1;
        let mut at = fold(key, key >> 32) as usize & mask;
        loop {
            match self.slots[at].key {
                found if found == key => return Some(at),
                0 => return None,
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn set(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = fold(slot.key, slot.key >> 32) as usize & mask;
        while self.slots[at].key != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
        self.used += 1;
    }

    /// Drops pairs that occur no more, and doubles the table if most of it still lives.
    fn rebuild(&mut self) {
        let live = self.slots.iter().filter(|slot| slot.count > 0).count();
        let size = if live * 4 > self.slots.len() { self.slots.len() * 2 } else { self.slots.len() };
        let old = std::mem::replace(&mut self.slots, filled(Slot::default(), size));
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.count > 0) {
            self.set(slot);
        }
    }

    /// Every pair that occurs, with its count.
    #[cfg(test)]
    pub fn live(&self) -> impl Iterator<Item = (Pair, i64)> {
        self.slots.iter().filter(|slot| slot.count > 0).map(|slot| (pair_of(slot.key), slot.count))
    }
}
