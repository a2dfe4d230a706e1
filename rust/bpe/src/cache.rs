//! The ids of pieces that were seen lately.

use crate::memory::filled;
use crate::simd::prefetch;
use crate::table::hash_of;

const CACHE_SLOTS: usize = 1 << 18;
pub(crate) const SLOT_IDS: usize = 8;
const CACHED_IDS: usize = SLOT_IDS - 1;

/// Remembers the ids of pieces seen lately. One slot per hash: a newer piece takes the place of an older one.
pub(crate) struct Cache {
    slots: Vec<Slot>,
}

/// 32 bytes, so that two share a cache line. Pieces with an id beyond 16 bits are not remembered.
#[derive(Clone, Copy, Default)]
struct Slot {
    key: u128,            // zero: free
    ids: [u16; SLOT_IDS], // the last one says how many of the others there are
}

impl Slot {
    #[inline]
    fn length(&self) -> usize {
        usize::from(self.ids[CACHED_IDS]) % SLOT_IDS
    }
}

impl Cache {
    pub fn new() -> Cache {
        Cache { slots: filled(Slot::default(), CACHE_SLOTS) }
    }

    /// Where a piece is looked for.
    #[inline]
    pub fn place(key: u128) -> usize {
        hash_of(key) as usize % CACHE_SLOTS
    }

    /// Has the memory of a place fetched before it is needed.
    #[inline]
    pub fn fetch(&self, place: usize) {
        prefetch(&self.slots, place);
    }

    /// Room for the ids of a piece, and how many of them are its own; None if it is not here.
    #[inline]
    pub fn get(&self, place: usize, key: u128) -> Option<([u32; SLOT_IDS], usize)> {
        let slot = &self.slots[place % CACHE_SLOTS];
        (slot.key == key).then(|| (slot.ids.map(u32::from), slot.length()))
    }

    /// Remembers the ids of a piece, unless they are too many or too large.
    pub fn put(&mut self, place: usize, key: u128, ids: &[u32]) {
        if ids.len() > CACHED_IDS || ids.iter().any(|&id| id > u32::from(u16::MAX)) {
            return;
        }
        let slot = &mut self.slots[place];
        slot.key = key;
        slot.ids[CACHED_IDS] = ids.len() as u16;
        for (known, &id) in slot.ids.iter_mut().zip(ids) {
            *known = id as u16;
        }
    }
}
