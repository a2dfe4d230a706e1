//! Text to token ids, with the tokens that training produced.

use std::sync::Mutex;

use crate::cache::{Cache, SLOT_IDS};
use crate::count::{LARGEST_PART, LEAST_SHARE, leading};
use crate::hash::FastMap;
use crate::memory::with_room;
use crate::split::{Part, Splitter};
use crate::table::{BATCH, PACKED, packed};
use crate::vocabulary::Vocabulary;

/// Encodes text; immutable and shared between threads.
pub struct Encoder {
    splitter: Splitter,
    vocabulary: Vocabulary,
    short: FastMap<u128, u32>, // tokens of up to PACKED bytes, by their packed bytes
    long: FastMap<Box<[u8]>, u32>,
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
        let vocabulary = Vocabulary::new(tokens)?;
        let mut encoder = Encoder {
            splitter,
            vocabulary,
            short: FastMap::default(),
            long: FastMap::default(),
            caches: Mutex::default(),
        };
        for (id, token) in tokens.iter().enumerate() {
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
        self.vocabulary.merges()
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
            cache.fetch(*place);
        }
        let mut found = [0; (BATCH + 1) * SLOT_IDS];
        let mut length = 0;
        for (&place, &key) in places.iter().zip(keys) {
            if let Some((known, many)) = cache.get(place, key) {
                // All of them are copied, which is one instruction; those behind the last one are overwritten.
                found[length..length + SLOT_IDS].copy_from_slice(&known);
                length += many;
                continue;
            }
            ids.extend_from_slice(&found[..length]);
            length = 0;
            let (known, raw) = (ids.len(), key.to_le_bytes());
            match self.short.get(&key) {
                Some(&id) => ids.push(id),
                None => self.vocabulary.merge(&raw[..usize::from(raw[PACKED])], ids),
            }
            cache.put(place, key, &ids[known..]);
        }
        ids.extend_from_slice(&found[..length]);
    }

    fn encode_piece(&self, piece: &[u8], ids: &mut Vec<u32>) {
        match self.long.get(piece) {
            Some(&id) => ids.push(id), // a token's own bytes always encode to itself
            None => self.vocabulary.merge(piece, ids),
        }
    }

    fn borrow_cache(&self) -> Cache {
        let free = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        free.unwrap_or_else(Cache::new)
    }

    fn return_cache(&self, cache: Cache) {
        self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(cache);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::Counter;
    use crate::train::Trainer;
    use crate::vocabulary::SCAN_LIMIT;
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
            encoder.vocabulary.merge(token, &mut ids);
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
                encoder.vocabulary.merge_by_scan(window, &mut scan);
                encoder.vocabulary.merge_by_heap(window, &mut heap);
                encoder.vocabulary.merge_by_lists(window, &mut lists);
                assert_eq!(scan, heap, "{window:?}");
                assert_eq!(scan, lists, "{window:?}");
            }
        }
        let (mut heap, mut lists) = (Vec::new(), Vec::new());
        let long = text.repeat(50) + &"a".repeat(3000) + &"ab".repeat(3000);
        encoder.vocabulary.merge_by_heap(long.as_bytes(), &mut heap);
        encoder.vocabulary.merge_by_lists(long.as_bytes(), &mut lists);
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
        let (tokens, encoder) = encoder(400);
        for text in [" ".repeat(2_000_000), "abcz".repeat(300_000), "bananas".repeat(100_000)] {
            let ids = encoder.encode(&text);
            assert!(ids.len() < text.len());
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokens[id as usize].iter().copied()).collect();
            assert!(bytes == text.as_bytes());
        }
    }

    #[test]
    fn more_pieces_than_the_cache_holds() {
        let (_, encoder) = encoder(400);
        let word = |i: usize| -> String {
            [i, i / 26, i / 676, i / 17_576].iter().map(|n| char::from(b'a' + (n % 26) as u8)).collect()
        };
        let words: Vec<String> = (0..400_000).map(word).collect();
        for _ in 0..2 {
            let ids = encoder.encode(&words.join("\n"));
            let mut want = Vec::new();
            for (number, word) in words.iter().enumerate() {
                if number > 0 {
                    want.push(u32::from(b'\n'));
                }
                encoder.vocabulary.merge(word.as_bytes(), &mut want);
            }
            assert!(ids == want);
        }
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
