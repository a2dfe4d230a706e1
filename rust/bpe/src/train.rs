//! Byte-pair training: repeatedly joins the most frequent adjacent pair of tokens.
//!
//! Every piece lies once in an array of positions, linked to its neighbours, and weighs its count. Each pair knows the
//! positions where it once stood, so a merge costs what it touches, however long the pieces are. Rules, all of which
//! fix the outcome: overlapping pairs count ("aaa" holds "aa" twice), replacement runs left to right, and among equally
//! frequent pairs the smaller (left id, right id) wins.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::hash::FastMap;

type Pair = (u32, u32);

/// End of a piece in the links; a dead position in the symbols.
const NONE: u32 = u32::MAX;

/// One pair: its live count, and where it stands or stood, ascending.
#[derive(Default)]
struct Entry {
    count: i64,
    positions: Vec<u32>,
}

/// The state of a training run.
pub struct Trainer {
    symbols: Vec<u32>,
    next: Vec<u32>,
    prev: Vec<u32>,
    word_of: Vec<u32>,
    word_counts: Vec<i64>,
    pairs: FastMap<u64, Entry>,
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
    tokens: Vec<Vec<u8>>,
    target: usize,
}

fn key(pair: Pair) -> u64 {
    u64::from(pair.0) << 32 | u64::from(pair.1)
}

impl Trainer {
    /// Prepares training to `target` tokens, the 256 single bytes included.
    ///
    /// Pieces are distinct and counts positive. Fails if the distinct pieces hold 2^32 bytes or more.
    pub fn new(pieces: &[(Box<[u8]>, i64)], target: usize) -> Result<Trainer, String> {
        let total: usize = pieces.iter().map(|(piece, _)| piece.len()).sum();
        if total >= NONE as usize {
            return Err(format!("too many bytes in distinct pieces: {total}"));
        }
        let mut trainer = Trainer {
            symbols: Vec::with_capacity(total),
            next: Vec::with_capacity(total),
            prev: Vec::with_capacity(total),
            word_of: Vec::with_capacity(total),
            word_counts: Vec::with_capacity(pieces.len()),
            pairs: FastMap::default(),
            heap: BinaryHeap::new(),
            tokens: (0..=255u8).map(|byte| vec![byte]).collect(),
            target,
        };
        for (piece, count) in pieces {
            trainer.add_word(piece, *count);
        }
        trainer.heap = trainer.pairs.iter().map(|(&key, entry)| (entry.count, Reverse(pair_of(key)))).collect();
        Ok(trainer)
    }

    fn add_word(&mut self, piece: &[u8], count: i64) {
        let word = self.word_counts.len() as u32;
        self.word_counts.push(count);
        for (i, &byte) in piece.iter().enumerate() {
            let here = self.symbols.len() as u32;
            self.symbols.push(u32::from(byte));
            self.word_of.push(word);
            self.prev.push(if i == 0 { NONE } else { here - 1 });
            self.next.push(if i + 1 == piece.len() { NONE } else { here + 1 });
            if let Some(&after) = piece.get(i + 1) {
                let entry = self.pairs.entry(key((u32::from(byte), u32::from(after)))).or_default();
                entry.count += count;
                entry.positions.push(here);
            }
        }
    }

    /// Merges until the target is reached, no pair is left or `budget` is spent; true when there is nothing more to do.
    pub fn step(&mut self, budget: Duration) -> bool {
        let start = Instant::now();
        while self.tokens.len() < self.target {
            let Some(pair) = self.most_frequent() else { return true };
            self.merge(pair);
            if start.elapsed() >= budget {
                break;
            }
        }
        self.tokens.len() >= self.target
    }

    /// The bytes of every token so far, in the order of their ids.
    pub fn tokens(&self) -> &[Vec<u8>] {
        &self.tokens
    }

    /// How many tokens the training text has now.
    pub fn encoded_length(&self) -> i64 {
        let live = self.symbols.iter().zip(&self.word_of).filter(|&(&symbol, _)| symbol != NONE);
        live.map(|(_, &word)| self.word_counts[word as usize]).sum()
    }

    /// Takes the top of the heap. Counts never rise after a pair is born, so a stale entry can only be too high.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let live = self.pairs.get(&key(pair)).map_or(0, |entry| entry.count);
            if live == count && live > 0 {
                return Some(pair);
            }
            if live > 0 {
                self.heap.push((live, Reverse(pair)));
            }
        }
        None
    }

    /// Replaces `pair` by a new token everywhere, and brings the counts of all neighbouring pairs up to date.
    fn merge(&mut self, pair: Pair) {
        let (left, right) = pair;
        let token = self.tokens.len() as u32;
        self.tokens.push([&self.tokens[left as usize][..], &self.tokens[right as usize][..]].concat());
        let merged = self.pairs.remove(&key(pair)).unwrap_or_default();
        let mut born = Vec::new();
        for at in merged.positions {
            let second = self.next[at as usize];
            if self.symbols[at as usize] != left || second == NONE || self.symbols[second as usize] != right {
                continue; // another merge, or an overlapping one of this pair, was here first
            }
            let count = self.word_counts[self.word_of[at as usize] as usize];
            let before = self.prev[at as usize];
            let after = self.next[second as usize];
            if before != NONE {
                let neighbour = self.symbols[before as usize];
                self.lose((neighbour, left), count);
                self.gain((neighbour, token), count, before, &mut born);
            }
            if after != NONE {
                let neighbour = self.symbols[after as usize];
                self.lose((right, neighbour), count);
                self.gain((token, neighbour), count, at, &mut born);
                self.prev[after as usize] = at;
            }
            self.symbols[at as usize] = token;
            self.symbols[second as usize] = NONE;
            self.next[at as usize] = after;
        }
        for pair in born {
            if let Some(entry) = self.pairs.get(&key(pair))
                && entry.count > 0
            {
                self.heap.push((entry.count, Reverse(pair)));
            }
        }
    }

    /// Lowers a count. The pair being merged is gone from the table already, which an overlap may still name.
    fn lose(&mut self, pair: Pair, count: i64) {
        if let Some(entry) = self.pairs.get_mut(&key(pair)) {
            entry.count -= count;
            debug_assert!(entry.count >= 0);
        }
    }

    fn gain(&mut self, pair: Pair, count: i64, at: u32, born: &mut Vec<Pair>) {
        let entry = self.pairs.entry(key(pair)).or_default();
        if entry.positions.is_empty() {
            born.push(pair);
        }
        entry.count += count;
        entry.positions.push(at);
    }
}

fn pair_of(key: u64) -> Pair {
    ((key >> 32) as u32, key as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(words: &[(&str, i64)], target: usize) -> Vec<String> {
        let pieces: Vec<(Box<[u8]>, i64)> = words.iter().map(|&(word, n)| (word.as_bytes().into(), n)).collect();
        let mut trainer = Trainer::new(&pieces, target).expect("small input");
        while !trainer.step(Duration::ZERO) {
            check_counts(&trainer);
        }
        trainer.tokens()[256..].iter().map(|token| String::from_utf8_lossy(token).into_owned()).collect()
    }

    /// Recounts every pair from the links: the incremental counts must be the same.
    fn check_counts(trainer: &Trainer) {
        let mut recount = FastMap::<u64, i64>::default();
        for (at, &symbol) in trainer.symbols.iter().enumerate() {
            let next = trainer.next[at];
            if symbol != NONE && next != NONE {
                let count = trainer.word_counts[trainer.word_of[at] as usize];
                *recount.entry(key((symbol, trainer.symbols[next as usize]))).or_insert(0) += count;
            }
        }
        for (key, entry) in &trainer.pairs {
            assert_eq!(entry.count, recount.remove(key).unwrap_or(0), "{:?}", pair_of(*key));
        }
        assert!(recount.is_empty(), "pairs without an entry: {recount:?}");
    }

    #[test]
    fn joins_the_most_frequent_pair_first() {
        assert_eq!(
            trained(&[("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)], 261),
            ["es", "est", "lo", "low", "ew"]
        );
    }

    #[test]
    fn overlaps_count_and_merge_from_the_left() {
        assert_eq!(trained(&[("aaaa", 3), ("aaa", 1)], 259), ["aa", "aaaa", "aaa"]);
        assert_eq!(trained(&[("abababa", 1)], 300), ["ab", "abab", "aba", "abababa"]);
    }

    #[test]
    fn ties_go_to_the_smaller_pair() {
        assert_eq!(trained(&[("xy", 2), ("ab", 2), ("ax", 2)], 259), ["ab", "ax", "xy"]);
    }

    #[test]
    fn knows_the_length_of_the_encoded_text() {
        let mut trainer = Trainer::new(&[(Box::from(*b"abc"), 5), (Box::from(*b"ab"), 3)], 257).expect("small input");
        assert_eq!(trainer.encoded_length(), 21);
        assert!(trainer.step(Duration::ZERO));
        assert_eq!(trainer.encoded_length(), 13);
    }

    #[test]
    fn stops_when_nothing_is_left_to_merge() {
        assert_eq!(trained(&[("abc", 1), ("d", 9)], 1000), ["ab", "abc"]);
        assert_eq!(trained(&[], 1000), Vec::<String>::new());
        assert_eq!(trained(&[("abc", 1)], 256), Vec::<String>::new());
    }

    #[test]
    fn counts_go_beyond_32_bits() {
        assert_eq!(trained(&[("ab", 3_000_000_000), ("cd", 2_999_999_999), ("abcd", 2)], 258), ["ab", "cd"]);
    }

    #[test]
    fn long_pieces_cost_no_more_than_short_ones() {
        let long: String =
            (0..60_000).map(|i: u64| char::from(b'a' + (i * i * 2_654_435_761 % 9973 % 26) as u8)).collect();
        let pieces = [(long.as_bytes().into(), 1)];
        let mut trainer = Trainer::new(&pieces, 3000).expect("small input");
        while !trainer.step(Duration::from_millis(50)) {}
        assert_eq!(trainer.tokens().len(), 3000);
        check_counts(&trainer);
    }
}
