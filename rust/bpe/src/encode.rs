//! Text to token ids, with the tokens that training produced.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;

use crate::count::{LARGEST_PART, LEAST_SHARE, PACKED, hash_of, leading, packed};
use crate::hash::FastMap;
use crate::memory::{filled, with_room};
use crate::simd::prefetch;
use crate::split::{Part, Splitter};

const BATCH: usize = 64;
/// Shorter pieces are merged by looking for the minimum, longer ones with a heap.
const SCAN_LIMIT: usize = 48;
/// Longer pieces still are worth a list for each token of the vocabulary.
const HEAP_LIMIT: usize = 8192;
const NONE: u32 = u32::MAX;

/// Encodes text; immutable and shared between threads.
pub struct Encoder {
    splitter: Splitter,
    short: FastMap<u128, u32>, // tokens of up to PACKED bytes, by their packed bytes
    long: FastMap<Box<[u8]>, u32>,
    pairs: FastMap<u64, u32>,
    byte_ids: [u32; 256],
    two_bytes: Vec<u32>, // what each pair of bytes joins to: spares half of all looks at `pairs`
    lengths: Vec<u32>,   // of each token, in bytes
    caches: Mutex<Vec<Cache>>,
}

/// Ids of several texts.
#[derive(Debug, Default)]
pub struct Batch {
    /// All ids, in as many lists as there were threads.
    pub ids: Vec<Vec<u32>>,
    /// How many of them belong to each text.
    pub lengths: Vec<u64>,
}

/// What one thread has encoded.
struct Share {
    ids: Vec<u32>,
    lengths: Vec<u64>,
}

impl Encoder {
    /// Builds an encoder from the bytes of each token, in the order of their ids.
    ///
    /// Fails unless there is a token for each single byte and every other one joins two earlier ones.
    pub fn new(tokens: &[Vec<u8>], splitter: Splitter) -> Result<Encoder, String> {
        let mut encoder = Encoder {
            splitter,
            short: FastMap::default(),
            long: FastMap::default(),
            pairs: FastMap::default(),
            byte_ids: [NONE; 256],
            two_bytes: vec![NONE; 1 << 16],
            lengths: tokens.iter().map(|token| token.len() as u32).collect(),
            caches: Mutex::default(),
        };
        for (id, token) in tokens.iter().enumerate() {
            if let [byte] = token[..] {
                encoder.byte_ids[byte as usize] = id as u32;
            }
        }
        if let Some(byte) = encoder.byte_ids.iter().position(|&id| id == NONE) {
            return Err(format!("no token for the byte 0x{byte:02x}"));
        }
        for (id, token) in tokens.iter().enumerate() {
            if token.len() != 1 {
                let mut parts = Vec::new();
                encoder.merge(token, &mut parts);
                let [left, right] = parts[..] else {
                    return Err(format!("token {id} does not join two earlier tokens"));
                };
                encoder.pairs.insert(key(left, right), id as u32);
                if let [first, second] = token[..] {
                    encoder.two_bytes[usize::from(first) << 8 | usize::from(second)] = id as u32;
                }
            }
            let earlier = if token.len() <= PACKED {
                encoder.short.insert(packed(token, 0, token.len()), id as u32)
            } else {
                encoder.long.insert(token[..].into(), id as u32)
            };
            if earlier.is_some() {
                return Err(format!("token {id} spells the same bytes as an earlier one"));
            }
        }
        Ok(encoder)
    }

    /// The two tokens that each token of more than one byte joins, in the order of ids.
    pub fn merges(&self) -> Vec<(u32, u32)> {
        let mut joined: Vec<(u32, u64)> = self.pairs.iter().map(|(&pair, &id)| (id, pair)).collect();
        joined.sort_unstable();
        joined.into_iter().map(|(_, pair)| ((pair >> 32) as u32, pair as u32)).collect()
    }

    /// Ids of one text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut cache = self.borrow_cache();
        self.encode_into(text, &mut cache, &mut ids);
        self.return_cache(cache);
        ids
    }

    /// Ids of many texts on up to `threads` threads, each text behind the id `first` if there is one.
    pub fn encode_batch(&self, texts: &[&str], threads: usize, first: Option<u32>) -> Batch {
        let total: usize = texts.iter().map(|text| text.len()).sum();
        let share = total.div_ceil(threads.max(1)).max(LEAST_SHARE);
        let parts = self.splitter.parts(texts, share.min(LARGEST_PART));
        let mut shares = Vec::new();
        let mut rest = &parts[..];
        while !rest.is_empty() {
            let (mine, others) = rest.split_at(leading(rest, share));
            shares.push(mine);
            rest = others;
        }
        let done: Vec<Share> = match shares[..] {
            [only] => vec![self.encode_share(only, first)],
            _ => std::thread::scope(|scope| {
                let workers: Vec<_> =
                    shares.iter().map(|share| scope.spawn(move || self.encode_share(share, first))).collect();
                workers.into_iter().map(|worker| worker.join().expect("encoding does not panic")).collect()
            }),
        };
        let mut all = Batch { ids: Vec::with_capacity(done.len()), lengths: Vec::with_capacity(texts.len()) };
        for (share, parts) in done.into_iter().zip(shares) {
            let mut lengths = &share.lengths[..];
            if let (Some(last), [more, others @ ..]) = (all.lengths.last_mut(), lengths)
                && !parts[0].first
            {
                *last += more; // of the text that the share before had begun
                lengths = others;
            }
            all.lengths.extend_from_slice(lengths);
            all.ids.push(share.ids);
        }
        all
    }

    /// Ids of the parts; lengths of each text that begins among them, behind that of what continues an earlier one.
    fn encode_share(&self, parts: &[Part<'_>], first: Option<u32>) -> Share {
        let bytes: usize = parts.iter().map(|part| part.text.len()).sum();
        let mut share = Share { ids: with_room(bytes / 3), lengths: Vec::with_capacity(parts.len()) };
        let mut cache = self.borrow_cache();
        for part in parts {
            let start = share.ids.len();
            if part.first {
                share.ids.extend(first);
            }
            self.encode_into(part.text, &mut cache, &mut share.ids);
            let length = (share.ids.len() - start) as u64;
            match share.lengths.last_mut() {
                Some(last) if !part.first => *last += length,
                _ => share.lengths.push(length),
            }
        }
        self.return_cache(cache);
        share
    }

    fn encode_into(&self, text: &str, cache: &mut Cache, ids: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut keys = [0; BATCH];
        let mut waiting = 0;
        self.splitter.for_each(text, |start, end| {
            if end - start > PACKED {
                self.encode_keys(&keys[..waiting], cache, ids);
                waiting = 0;
                self.encode_piece(&bytes[start..end], ids);
                return;
            }
            keys[waiting] = packed(bytes, start, end);
            waiting += 1;
            if waiting == BATCH {
                self.encode_keys(&keys, cache, ids);
                waiting = 0;
            }
        });
        self.encode_keys(&keys[..waiting], cache, ids);
    }

    /// Appends the ids of packed pieces. First all slots are asked for, then all are read, so that their misses overlap.
    fn encode_keys(&self, keys: &[u128], cache: &mut Cache, ids: &mut Vec<u32>) {
        let mut places = [0; BATCH];
        for (place, &key) in places.iter_mut().zip(keys) {
            *place = Cache::place(key);
            prefetch(&cache.slots, *place);
        }
        let mut found = [0; (BATCH + 1) * SLOT_IDS];
        let mut length = 0;
        for (&place, &key) in places.iter().zip(keys) {
            let slot = &cache.slots[place % CACHE_SLOTS];
            if slot.key == key {
                // All of them are copied, which is one instruction; those behind the last one are overwritten.
                found[length..length + SLOT_IDS].copy_from_slice(&slot.ids.map(u32::from));
                length += slot.length();
                continue;
            }
            ids.extend_from_slice(&found[..length]);
            length = 0;
            let (known, raw) = (ids.len(), key.to_le_bytes());
            match self.short.get(&key) {
                Some(&id) => ids.push(id),
                None => self.merge(&raw[..usize::from(raw[PACKED])], ids),
            }
            cache.put(place, key, &ids[known..]);
        }
        ids.extend_from_slice(&found[..length]);
    }

    fn encode_piece(&self, piece: &[u8], ids: &mut Vec<u32>) {
        match self.long.get(piece) {
            Some(&id) => ids.push(id), // a token's own bytes always encode to itself
            None => self.merge(piece, ids),
        }
    }

    /// Appends the ids of `piece`: joins the pair with the lowest id, leftmost first, until none is left.
    fn merge(&self, piece: &[u8], ids: &mut Vec<u32>) {
        match piece.len() {
            length if length <= SCAN_LIMIT => self.merge_by_scan(piece, ids),
            length if length <= HEAP_LIMIT => self.merge_by_heap(piece, ids),
            _ => self.merge_by_lists(piece, ids),
        }
    }

    fn merge_by_scan(&self, piece: &[u8], ids: &mut Vec<u32>) {
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

    fn merge_by_heap(&self, piece: &[u8], ids: &mut Vec<u32>) {
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
    fn merge_by_lists(&self, piece: &[u8], ids: &mut Vec<u32>) {
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

    fn borrow_cache(&self) -> Cache {
        let free = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        free.unwrap_or_else(Cache::new)
    }

    fn return_cache(&self, cache: Cache) {
        self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(cache);
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

const CACHE_SLOTS: usize = 1 << 18;
const SLOT_IDS: usize = 8;
const CACHED_IDS: usize = SLOT_IDS - 1;

/// Remembers the ids of pieces seen lately. One slot per hash: a newer piece takes the place of an older one.
struct Cache {
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
    fn new() -> Cache {
        Cache { slots: filled(Slot::default(), CACHE_SLOTS) }
    }

    #[inline]
    fn place(key: u128) -> usize {
        hash_of(key) as usize % CACHE_SLOTS
    }

    fn put(&mut self, place: usize, key: u128, ids: &[u32]) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::Counter;
    use crate::train::Trainer;
    use std::time::Duration;

    const SPLITTER: Splitter = Splitter::Gpt4 { max_digits: 2 };
    const CORPUS: &[&str] = &[
        "the cat sat on the mat, and the other cat sat on the other mat\n\n",
        "aaaaaaaaaaaaaaaa aaaaaaa aaa abababababab banana bandana 1234 12 34 5678",
        "naïve café 中文字 中文 😀😀 don't we'll they've   spaces   \t\ttabs\r\n",
    ];

    fn tokens(target: usize) -> Vec<Vec<u8>> {
        let mut counter = Counter::new(SPLITTER, 1);
        counter.feed(CORPUS);
        let mut trainer = Trainer::new(&counter.finish(1), target).expect("small input");
        while !trainer.step(Duration::from_secs(1)).unwrap() {}
        trainer.tokens().to_vec()
    }

    fn encoder(target: usize) -> (Vec<Vec<u8>>, Encoder) {
        let tokens = tokens(target);
        let encoder = Encoder::new(&tokens, SPLITTER).expect("trained tokens");
        (tokens, encoder)
    }

    #[test]
    fn ids_spell_the_text() {
        let (tokens, encoder) = encoder(400);
        for text in CORPUS.iter().chain(&["", "zebra \u{0}\u{10ffff} unseen Ωmega", "the the the"]) {
            let bytes: Vec<u8> = encoder.encode(text).iter().flat_map(|&id| tokens[id as usize].clone()).collect();
            assert_eq!(bytes, text.as_bytes());
        }
    }

    #[test]
    fn every_token_encodes_to_itself_without_the_shortcut() {
        let (tokens, encoder) = encoder(1000);
        for (id, token) in tokens.iter().enumerate() {
            let mut ids = Vec::new();
            encoder.merge(token, &mut ids);
            assert_eq!(ids, [id as u32], "{:?}", String::from_utf8_lossy(token));
        }
    }

    #[test]
    fn all_ways_to_merge_agree() {
        let (_, encoder) = encoder(600);
        let text = CORPUS.concat();
        for length in 1..=SCAN_LIMIT {
            for window in text.as_bytes().windows(length).step_by(3) {
                let (mut scan, mut heap, mut lists) = (vec![7], vec![7], vec![7]);
                encoder.merge_by_scan(window, &mut scan);
                encoder.merge_by_heap(window, &mut heap);
                encoder.merge_by_lists(window, &mut lists);
                assert_eq!(scan, heap, "{window:?}");
                assert_eq!(scan, lists, "{window:?}");
            }
        }
        let (mut heap, mut lists) = (Vec::new(), Vec::new());
        let long = text.repeat(50) + &"a".repeat(3000) + &"ab".repeat(3000);
        encoder.merge_by_heap(long.as_bytes(), &mut heap);
        encoder.merge_by_lists(long.as_bytes(), &mut lists);
        assert_eq!(heap, lists);
    }

    #[test]
    fn the_cache_changes_nothing() {
        let (_, encoder) = encoder(400);
        let cold: Vec<_> =
            CORPUS.iter().map(|text| Encoder::new(&tokens(400), SPLITTER).unwrap().encode(text)).collect();
        for _ in 0..3 {
            let warm: Vec<_> = CORPUS.iter().map(|text| encoder.encode(text)).collect();
            assert_eq!(warm, cold);
        }
    }

    #[test]
    fn batches_equal_single_texts_for_any_threads() {
        let (_, encoder) = encoder(400);
        let texts: Vec<String> = (0..300).map(|i| CORPUS[i % 3].repeat(i % 11)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let single: Vec<Vec<u32>> = texts.iter().map(|text| encoder.encode(text)).collect();
        for threads in [1, 2, 5] {
            for first in [None, Some(9)] {
                let batch = encoder.encode_batch(&texts, threads, first);
                assert!(batch.ids.len() <= threads);
                let extra = u64::from(first.is_some());
                let lengths: Vec<u64> = single.iter().map(|ids| ids.len() as u64 + extra).collect();
                let ids: Vec<u32> =
                    single.iter().flat_map(|ids| first.into_iter().chain(ids.iter().copied())).collect();
                assert_eq!((batch.ids.concat(), batch.lengths), (ids, lengths));
            }
        }
        assert!(encoder.encode_batch(&[], 2, None).lengths.is_empty());
    }

    #[test]
    fn long_documents_are_shared_between_threads() {
        let (_, encoder) = encoder(400);
        let texts = [CORPUS.concat().repeat(9000), "short".into(), " x".repeat(1 << 20), CORPUS[0].repeat(40_000)];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        for text in &texts {
            let before = ids.len();
            ids.push(7);
            encoder.encode_into(text, &mut Cache::new(), &mut ids);
            lengths.push((ids.len() - before) as u64);
        }
        for threads in [1, 2, 3, 8] {
            let batch = encoder.encode_batch(&texts, threads, Some(7));
            assert!(batch.ids.concat() == ids && batch.lengths == lengths, "{threads} threads");
        }
    }

    #[test]
    fn very_long_pieces_are_not_quadratic() {
        let (_, encoder) = encoder(400);
        assert!(encoder.encode(&" ".repeat(2_000_000)).len() <= 2_000_000);
        assert!(encoder.encode(&"abcz".repeat(300_000)).len() <= 1_200_000);
    }

    #[test]
    fn rejects_what_training_cannot_produce() {
        let good = tokens(300);
        let missing: Vec<_> = good[1..].to_vec();
        assert!(Encoder::new(&missing, SPLITTER).err().unwrap().contains("0x00"));
        let mut orphan = good.clone();
        orphan.push(b"qzqzq".to_vec());
        assert!(Encoder::new(&orphan, SPLITTER).err().unwrap().contains("token 300"));
        let mut twice = good.clone();
        twice.push(good[299].clone());
        assert!(Encoder::new(&twice, SPLITTER).is_err());
        let mut empty = good;
        empty.push(Vec::new());
        assert!(Encoder::new(&empty, SPLITTER).is_err());
    }
}
