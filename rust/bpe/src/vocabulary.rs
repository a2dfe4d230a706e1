//! The tokens of a vocabulary, and how a piece is joined from single bytes to them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::FastMap;

/// Shorter pieces are merged by looking for the minimum, longer ones with a heap.
pub(crate) const SCAN_LIMIT: usize = 48;
/// Longer pieces still are worth a list for each token of the vocabulary.
const HEAP_LIMIT: usize = 8192;
const NONE: u32 = u32::MAX;

/// Which two tokens join to which.
pub(crate) struct Vocabulary {
    pairs: FastMap<u64, u32>,
    byte_ids: [u32; 256],
    two_bytes: Vec<u32>, // what each pair of bytes joins to: spares half of all looks at `pairs`
    lengths: Vec<u32>,   // of each token, in bytes
}

impl Vocabulary {
    /// Learns from the bytes of each token, in the order of ids, which two earlier ones it joins; fails if none.
    pub fn new(tokens: &[Vec<u8>]) -> Result<Vocabulary, String> {
        let mut vocabulary = Vocabulary {
            pairs: FastMap::default(),
            byte_ids: [NONE; 256],
            two_bytes: vec![NONE; 1 << 16],
            lengths: tokens.iter().map(|token| token.len() as u32).collect(),
        };
        for (id, token) in tokens.iter().enumerate() {
            if let [byte] = token[..] {
                vocabulary.byte_ids[byte as usize] = id as u32;
            }
        }
        if let Some(byte) = vocabulary.byte_ids.iter().position(|&id| id == NONE) {
            return Err(format!("no token for the byte 0x{byte:02x}"));
        }
        for (id, token) in tokens.iter().enumerate().filter(|(_, token)| token.len() != 1) {
            let mut parts = Vec::new();
            vocabulary.merge(token, &mut parts);
            let [left, right] = parts[..] else {
                return Err(format!("token {id} does not join two earlier tokens"));
            };
            vocabulary.pairs.insert(key(left, right), id as u32);
            if let [first, second] = token[..] {
                vocabulary.two_bytes[usize::from(first) << 8 | usize::from(second)] = id as u32;
            }
        }
        Ok(vocabulary)
    }

    /// The two tokens that each token of more than one byte joins, in the order of ids.
    pub fn merges(&self) -> Vec<(u32, u32)> {
        let mut joined: Vec<(u32, u64)> = self.pairs.iter().map(|(&pair, &id)| (id, pair)).collect();
        joined.sort_unstable();
        joined.into_iter().map(|(_, pair)| ((pair >> 32) as u32, pair as u32)).collect()
    }

    /// Appends the ids of `piece`: joins the pair with the lowest id, leftmost first, until none is left.
    pub fn merge(&self, piece: &[u8], ids: &mut Vec<u32>) {
        match piece.len() {
            length if length <= SCAN_LIMIT => self.merge_by_scan(piece, ids),
            length if length <= HEAP_LIMIT => self.merge_by_heap(piece, ids),
            _ => self.merge_by_lists(piece, ids),
        }
    }

    pub fn merge_by_scan(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let mut parts = [NONE; SCAN_LIMIT];
        let mut joined = [NONE; SCAN_LIMIT]; // what part i and its right neighbour join to
        for (part, &byte) in parts.iter_mut().zip(piece) {
            *part = self.byte_ids[usize::from(byte)];
        }
        for (id, two) in joined.iter_mut().zip(piece.windows(2)) {
            *id = self.two_bytes[usize::from(two[0]) << 8 | usize::from(two[1])];
        }
        let mut length = piece.len();
        while length > 1 {
            let (mut at, mut id) = (0, NONE);
            for (place, &candidate) in joined[..length - 1].iter().enumerate() {
                if candidate < id {
                    (at, id) = (place, candidate);
                }
            }
            if id == NONE {
                break;
            }
            parts.copy_within(at + 1..length, at);
            joined.copy_within(at + 1..length, at);
            length -= 1;
            parts[at] = id;
            if at > 0 {
                joined[at - 1] = self.join(parts[at - 1], id);
            }
            joined[at] = if at + 1 < length { self.join(id, parts[at + 1]) } else { NONE };
        }
        ids.extend_from_slice(&parts[..length]);
    }

    pub fn merge_by_heap(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let mut parts = self.parts(piece);
        let mut heap: BinaryHeap<_> = self.places(&parts).map(Reverse).collect();
        while let Some(Reverse((id, at))) = heap.pop() {
            if self.joins(&parts, at) == Some(id) {
                heap.extend(self.join_at(&mut parts, at, id).map(Reverse));
            }
        }
        self.take(&parts, ids);
    }

    /// The same for very long pieces: places wait in a list for each id. Joining only ever leads to higher ids, so the
    /// lists are worked through in their order, each from left to right, and memory is mostly read in order, too.
    pub fn merge_by_lists(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let mut parts = self.parts(piece);
        let mut lists = vec![Vec::new(); self.lengths.len()];
        for (id, at) in self.places(&parts) {
            lists[id as usize].push(at);
        }
        for id in 0..lists.len() {
            let mut places = std::mem::take(&mut lists[id]);
            places.sort_unstable(); // they were found while different lower ids were joined
            for at in places {
                if self.joins(&parts, at) == Some(id as u32) {
                    for (higher, at) in self.join_at(&mut parts, at, id as u32) {
                        lists[higher as usize].push(at);
                    }
                }
            }
        }
        self.take(&parts, ids);
    }

    /// A piece as single bytes. As parts are joined, the id of each stands at its first and at its last byte.
    fn parts(&self, piece: &[u8]) -> Vec<u32> {
        piece.iter().map(|&byte| self.byte_ids[byte as usize]).collect()
    }

    /// Where two parts join to a token, and to which.
    fn places(&self, parts: &[u32]) -> impl Iterator<Item = (u32, usize)> {
        (0..parts.len()).filter_map(|at| Some((self.joins(parts, at)?, at)))
    }

    /// What the part that begins at `at` and the next one join to. Of what is inside a part nothing comes that anybody
    /// waits for: either there is no id, or one that was put there after whoever waits had looked.
    #[inline]
    fn joins(&self, parts: &[u32], at: usize) -> Option<u32> {
        let part = parts[at];
        let &length = self.lengths.get(part as usize)?;
        let &after = parts.get(at + length as usize)?;
        self.known(part, after)
    }

    /// Makes the part at `at` and the next one the token `id`; returns what that joins to on both sides, and where.
    #[inline]
    fn join_at(&self, parts: &mut [u32], at: usize, id: u32) -> impl Iterator<Item = (u32, usize)> + use<> {
        let middle = at + self.lengths[parts[at] as usize] as usize;
        let end = at + self.lengths[id as usize] as usize;
        parts[middle - 1] = NONE;
        parts[middle] = NONE;
        parts[at] = id;
        parts[end - 1] = id;
        let right = parts.get(end).and_then(|&after| Some((self.known(id, after)?, at)));
        let left = at.checked_sub(1).and_then(|last| {
            let before = parts[last];
            Some((self.known(before, id)?, at - self.lengths[before as usize] as usize))
        });
        right.into_iter().chain(left)
    }

    fn take(&self, parts: &[u32], ids: &mut Vec<u32>) {
        let mut at = 0;
        while let Some(&id) = parts.get(at) {
            ids.push(id);
            at += self.lengths[id as usize] as usize;
        }
    }

    /// What two tokens join to, if to anything.
    #[inline]
    fn known(&self, left: u32, right: u32) -> Option<u32> {
        self.pairs.get(&key(left, right)).copied()
    }

    fn join(&self, left: u32, right: u32) -> u32 {
        self.known(left, right).unwrap_or(NONE)
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
