//! Text to token ids, with the tokens that training produced.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;

use crate::count::{LARGEST_PART, LEAST_SHARE, PACKED, hash_of, leading, packed};
use crate::hash::FastMap;
use crate::split::{Part, Splitter};

/// Longer pieces are merged with a heap, shorter ones by looking for the minimum.
const SCAN_LIMIT: usize = 48;
const NONE: u32 = u32::MAX;

/// Encodes text; immutable and shared between threads.
pub struct Encoder {
    splitter: Splitter,
    whole: FastMap<Box<[u8]>, u32>,
    pairs: FastMap<u64, u32>,
    byte_ids: [u32; 256],
    caches: Mutex<Vec<Cache>>,
}

/// Ids of several texts, end to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// All ids.
    pub ids: Vec<u32>,
    /// How many of them belong to each text.
    pub lengths: Vec<u64>,
}

impl Encoder {
    /// Builds an encoder from the bytes of each token, in the order of their ids.
    ///
    /// Fails unless there is a token for each single byte and every other one joins two earlier ones.
    pub fn new(tokens: &[Vec<u8>], splitter: Splitter) -> Result<Encoder, String> {
        let mut encoder = Encoder {
            splitter,
            whole: FastMap::default(),
            pairs: FastMap::default(),
            byte_ids: [NONE; 256],
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
            }
            if encoder.whole.insert(token[..].into(), id as u32).is_some() {
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
        if let [only] = shares[..] {
            return self.encode_share(only, first);
        }
        let done: Vec<Batch> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                shares.iter().map(|share| scope.spawn(move || self.encode_share(share, first))).collect();
            workers.into_iter().map(|worker| worker.join().expect("encoding does not panic")).collect()
        });
        let mut all = Batch { ids: Vec::new(), lengths: Vec::with_capacity(texts.len()) };
        all.ids.reserve_exact(done.iter().map(|batch| batch.ids.len()).sum());
        for (batch, share) in done.iter().zip(shares) {
            all.ids.extend_from_slice(&batch.ids);
            let mut lengths = &batch.lengths[..];
            if let (Some(last), [more, others @ ..]) = (all.lengths.last_mut(), lengths)
                && !share[0].first
            {
                *last += more; // of the text that the share before had begun
                lengths = others;
            }
            all.lengths.extend_from_slice(lengths);
        }
        all
    }

    /// Ids of the parts; lengths of each text that begins among them, behind that of what continues an earlier one.
    fn encode_share(&self, parts: &[Part<'_>], first: Option<u32>) -> Batch {
        let mut batch = Batch { ids: Vec::new(), lengths: Vec::with_capacity(parts.len()) };
        let mut cache = self.borrow_cache();
        for part in parts {
            let start = batch.ids.len();
            if part.first {
                batch.ids.extend(first);
            }
            self.encode_into(part.text, &mut cache, &mut batch.ids);
            let length = (batch.ids.len() - start) as u64;
            match batch.lengths.last_mut() {
                Some(last) if !part.first => *last += length,
                _ => batch.lengths.push(length),
            }
        }
        self.return_cache(cache);
        batch
    }

    fn encode_into(&self, text: &str, cache: &mut Cache, ids: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        self.splitter.for_each(text, |start, end| {
            if end - start == 1 {
                ids.push(self.byte_ids[bytes[start] as usize]);
            } else if end - start <= PACKED {
                let key = packed(bytes, start, end);
                if !cache.get(key, ids) {
                    let known = ids.len();
                    self.encode_piece(&bytes[start..end], ids);
                    cache.put(key, &ids[known..]);
                }
            } else {
                self.encode_piece(&bytes[start..end], ids);
            }
        });
    }

    fn encode_piece(&self, piece: &[u8], ids: &mut Vec<u32>) {
        match self.whole.get(piece) {
            Some(&id) => ids.push(id), // a token's own bytes always encode to itself
            None => self.merge(piece, ids),
        }
    }

    /// Appends the ids of `piece`: joins the pair with the lowest id, leftmost first, until none is left.
    fn merge(&self, piece: &[u8], ids: &mut Vec<u32>) {
        if piece.len() <= SCAN_LIMIT { self.merge_by_scan(piece, ids) } else { self.merge_by_heap(piece, ids) }
    }

    fn merge_by_scan(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let start = ids.len();
        ids.extend(piece.iter().map(|&byte| self.byte_ids[byte as usize]));
        let mut joined = [NONE; SCAN_LIMIT]; // what part i and its right neighbour join to
        let mut length = piece.len();
        for i in 0..length.saturating_sub(1) {
            joined[i] = self.join(ids[start + i], ids[start + i + 1]);
        }
        while length > 1 {
            let (at, &id) = joined[..length - 1].iter().enumerate().min_by_key(|&(_, id)| id).expect("two parts");
            if id == NONE {
                break;
            }
            ids[start + at] = id;
            ids.remove(start + at + 1);
            joined.copy_within(at + 1..length, at);
            length -= 1;
            if at > 0 {
                joined[at - 1] = self.join(ids[start + at - 1], id);
            }
            joined[at] = if at + 1 < length { self.join(id, ids[start + at + 1]) } else { NONE };
        }
    }

    fn merge_by_heap(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let mut parts: Vec<u32> = piece.iter().map(|&byte| self.byte_ids[byte as usize]).collect();
        let mut next: Vec<usize> = (1..=parts.len()).collect();
        let mut prev: Vec<usize> = (0..parts.len()).map(|i| i.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let push = |heap: &mut BinaryHeap<_>, parts: &[u32], at: usize, right: usize| {
            if let Some(&after) = parts.get(right) {
                let id = self.join(parts[at], after);
                if id != NONE {
                    heap.push(Reverse((id, at)));
                }
            }
        };
        for at in 0..parts.len() {
            push(&mut heap, &parts, at, at + 1);
        }
        while let Some(Reverse((id, at))) = heap.pop() {
            let right = next[at];
            if parts[at] == NONE || right >= parts.len() || self.join(parts[at], parts[right]) != id {
                continue; // a neighbour has been joined since
            }
            parts[at] = id;
            parts[right] = NONE;
            next[at] = next[right];
            if next[at] < parts.len() {
                prev[next[at]] = at;
            }
            push(&mut heap, &parts, at, next[at]);
            if at > 0 {
                push(&mut heap, &parts, prev[at], at);
            }
        }
        ids.extend(parts.into_iter().filter(|&id| id != NONE));
    }

    fn join(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(&key(left, right)).copied().unwrap_or(NONE)
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

const CACHE_SLOTS: usize = 1 << 16;
const CACHED_IDS: usize = 7;

/// Remembers the ids of pieces seen lately. One slot per hash: a newer piece takes the place of an older one.
struct Cache {
    slots: Vec<Slot>,
}

/// 32 bytes, so that two share a cache line. Pieces with an id beyond 16 bits are not remembered.
#[derive(Clone, Copy, Default)]
struct Slot {
    key: u128, // zero: free
    ids: [u16; CACHED_IDS],
    length: u16,
}

impl Cache {
    fn new() -> Cache {
        Cache { slots: vec![Slot::default(); CACHE_SLOTS] }
    }

    #[inline]
    fn place(key: u128) -> usize {
        hash_of(key) as usize % CACHE_SLOTS
    }

    /// Appends the ids of a remembered piece; false if it is not there.
    #[inline]
    fn get(&mut self, key: u128, ids: &mut Vec<u32>) -> bool {
        let slot = &self.slots[Cache::place(key)];
        if slot.key != key {
            return false;
        }
        ids.extend(slot.ids[..usize::from(slot.length).min(CACHED_IDS)].iter().map(|&id| u32::from(id)));
        true
    }

    fn put(&mut self, key: u128, ids: &[u32]) {
        if ids.len() > CACHED_IDS || ids.iter().any(|&id| id > u32::from(u16::MAX)) {
            return;
        }
        let slot = &mut self.slots[Cache::place(key)];
        slot.key = key;
        slot.length = ids.len() as u16;
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
    fn heap_and_scan_agree() {
        let (_, encoder) = encoder(600);
        let text = CORPUS.concat();
        for length in 1..=SCAN_LIMIT {
            for window in text.as_bytes().windows(length).step_by(3) {
                let (mut scan, mut heap) = (vec![7], vec![7]);
                encoder.merge_by_scan(window, &mut scan);
                encoder.merge_by_heap(window, &mut heap);
                assert_eq!(scan, heap, "{window:?}");
            }
        }
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
                let extra = u64::from(first.is_some());
                let lengths: Vec<u64> = single.iter().map(|ids| ids.len() as u64 + extra).collect();
                let ids: Vec<u32> =
                    single.iter().flat_map(|ids| first.into_iter().chain(ids.iter().copied())).collect();
                assert_eq!(batch, Batch { ids, lengths });
            }
        }
        assert_eq!(encoder.encode_batch(&[], 2, None), Batch::default());
    }

    #[test]
    fn long_documents_are_shared_between_threads() {
        let (_, encoder) = encoder(400);
        let texts = [CORPUS.concat().repeat(9000), "short".into(), " x".repeat(1 << 20), CORPUS[0].repeat(40_000)];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut want = Batch::default();
        for text in &texts {
            let mut ids = vec![7];
            encoder.encode_into(text, &mut Cache::new(), &mut ids);
            want.lengths.push(ids.len() as u64);
            want.ids.extend(ids);
        }
        for threads in [1, 2, 3, 8] {
            assert!(encoder.encode_batch(&texts, threads, Some(7)) == want, "{threads} threads");
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
