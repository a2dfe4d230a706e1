//! Every adjacent pair of tokens: how often it occurs, where it was born, and which comes next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::hash::{FastMap, fold};
use crate::memory::{filled, reserve, with_room};
use crate::simd::prefetch;
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
    start: u32,
    places: u32,
}

/// Pairs in an open table at most half full; their places in one long list; and a heap of counts.
///
/// Most pairs are rare and never merged. Only those that occur `least` times are here, which takes a fraction of the memory
/// and the time; when they run out, all are counted again for a lower `least`.
pub(crate) struct Pairs {
    slots: Vec<Slot>,
    used: usize,
    places: Vec<Place>,
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
    tidy_at: usize,
    least: i64,
}

const LEAST_TIDY: usize = 1 << 20;

/// A pair as one number, never zero.
fn key(pair: Pair) -> u64 {
    (u64::from(pair.0) << 32 | u64::from(pair.1)) + 1
}

fn pair_of(key: u64) -> Pair {
    (((key - 1) >> 32) as u32, (key - 1) as u32)
}

impl Pairs {
    /// No pairs at all.
    pub fn empty(least: i64) -> Pairs {
        let slots = filled(Slot::default(), 1 << 12);
        Pairs { slots, used: 0, places: Vec::new(), heap: BinaryHeap::new(), tidy_at: 0, least }
    }

    /// Every pair of single bytes that occurs `least` times or more. `walk` names each two tokens side by side, from left
    /// to right.
    pub fn of_bytes(walk: impl Fn(&mut dyn FnMut(Pair, Place)), counts: &[i64], least: i64) -> Pairs {
        let index = |pair: Pair| (pair.0 << 8 | pair.1) as usize;
        let mut seen = vec![(0i64, 0usize); 1 << 16];
        walk(&mut |pair, place| {
            let (count, places) = &mut seen[index(pair)];
            *count += counts[place.piece as usize];
            *places += 1;
        });
        let mut pairs = Pairs::empty(least);
        let mut next = vec![usize::MAX; seen.len()]; // where the next place of a pair goes
        let mut total = 0;
        for (which, &(count, places)) in seen.iter().enumerate().filter(|(_, (count, _))| *count >= least) {
            pairs.insert(((which >> 8) as u32, (which & 0xff) as u32), count, total, places as u32);
            next[which] = total;
            total += places;
        }
        pairs.make_room(total);
        walk(&mut |pair, place| {
            let next = &mut next[index(pair)];
            if let Some(free) = pairs.places.get_mut(*next) {
                *free = place;
                *next += 1;
            }
        });
        pairs
    }

    /// The same for any tokens. Only one of `shares` of the pairs is counted at a time, so that the rare ones, of which
    /// there are many, are never all in memory.
    pub fn of_tokens(walk: impl Fn(&mut dyn FnMut(Pair, Place)), counts: &[i64], least: i64, shares: u64) -> Pairs {
        let mut pairs = Pairs::empty(least);
        let mut total = 0;
        for share in 0..shares {
            let mut seen = FastMap::<u64, (i64, u32)>::default();
            walk(&mut |pair, place| {
                let key = key(pair);
                if fold(key, key) % shares == share {
                    let (count, places) = seen.entry(key).or_default();
                    *count += counts[place.piece as usize];
                    *places += 1;
                }
            });
            for (key, (count, places)) in seen.into_iter().filter(|(_, (count, _))| *count >= least) {
                pairs.insert(pair_of(key), count, total, 0);
                total += places as usize;
            }
        }
        pairs.make_room(total);
        walk(&mut |pair, place| {
            if let Some(slot) = pairs.find(pair) {
                let slot = &mut pairs.slots[slot];
                pairs.places[slot.start as usize + slot.places as usize] = place;
                slot.places += 1;
            }
        });
        pairs
    }

    fn make_room(&mut self, total: usize) {
        self.places = with_room(2 * total + total / 4); // it is tidied at twice its size: a list that grows is copied
        self.places.resize(total, Place::default());
        self.tidy_at = LEAST_TIDY.max(2 * total);
    }

    /// Pairs that occur less often are not here.
    pub fn least(&self) -> i64 {
        self.least
    }

    /// Takes the top of the heap. Counts never rise after a pair is born, so a stale entry can only be too high. None if
    /// no pair is left that occurs [`Pairs::least`] times: a rarer one, here or not, may then be the most frequent.
    pub fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let live = self.count(pair);
            if live < self.least {
                continue;
            }
            if live == count {
                return Some(pair);
            }
            self.heap.push((live, Reverse(pair)));
        }
        None
    }

    /// Asks for what [`Pairs::lose`] or [`Pairs::insert`] will look at.
    #[inline]
    pub fn expect(&self, pair: Pair) {
        let key = key(pair);
        prefetch(&self.slots, fold(key, key >> 32) as usize & (self.slots.len() - 1));
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

    /// Makes room for places and returns where it begins: inside `free` if that is enough, which then shrinks.
    pub fn reserve(&mut self, places: usize, free: &mut Range<usize>) -> usize {
        if places <= free.len() {
            let start = free.start;
            free.start += places;
            return start;
        }
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
        self.set(Slot { key: key(pair), count, start: start as u32, places });
        self.heap.push((count, Reverse(pair)));
    }

    /// Drops the places that `stands` denies and those of dead pairs, when the list has grown to twice its size.
    pub fn tidy(&mut self, stands: impl Fn(Pair, Place) -> bool) {
        if self.places.len() < self.tidy_at {
            return;
        }
        let mut order: Vec<usize> = (0..self.slots.len()).filter(|&at| self.slots[at].key != 0).collect();
        order.sort_unstable_by_key(|&at| self.slots[at].start);
        let mut kept = 0; // places move to the left in the list where they are, so that no second one is needed
        for at in order {
            let slot = &mut self.slots[at];
            let old = slot.start as usize..slot.start as usize + slot.places as usize;
            slot.start = kept as u32;
            if slot.count >= self.least {
                let pair = pair_of(slot.key);
                for index in old {
                    let place = self.places[index];
                    if stands(pair, place) {
                        self.places[kept] = place;
                        kept += 1;
                    }
                }
            }
            slot.places = (kept - slot.start as usize) as u32;
        }
        self.places.truncate(kept);
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

    /// Drops pairs that have become rare, and doubles the table if most of it still lives.
    fn rebuild(&mut self) {
        let live = self.slots.iter().filter(|slot| slot.count >= self.least).count();
        let size = if live * 4 > self.slots.len() { self.slots.len() * 2 } else { self.slots.len() };
        let old = std::mem::replace(&mut self.slots, filled(Slot::default(), size));
        self.used = 0;
        let least = self.least;
        for slot in old.into_iter().filter(|slot| slot.count >= least) {
            self.set(slot);
        }
    }

    /// Every pair that occurs often enough, with its count.
    #[cfg(test)]
    pub fn live(&self) -> impl Iterator<Item = (Pair, i64)> {
        self.slots.iter().filter(|slot| slot.count >= self.least).map(|slot| (pair_of(slot.key), slot.count))
    }
}
