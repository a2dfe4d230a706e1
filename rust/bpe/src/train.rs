//! Byte-pair training: repeatedly joins the most frequent adjacent pair of tokens.
//!
//! All distinct pieces lie in one array of symbols, with an edge between two of them. A token keeps the bytes of its
//! text: its id stands at its first and at its last byte, so that both neighbours are found in one look, however long
//! the piece. Each pair knows the places where it was born. A merge gathers what it changes by neighbour, in a dense
//! array, and then brings each neighbouring pair up to date once. Rules, all of which fix the outcome: overlapping
//! pairs count ("aaa" holds "aa" twice), replacement runs left to right, and among equally frequent pairs the smaller
//! (left id, right id) wins.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::count::Pieces;
use crate::memory::with_room;
use crate::pairs::{Pairs, Place};
use crate::simd::prefetch;

pub(crate) type Pair = (u32, u32);

const AHEAD: usize = 12; // places that are fetched before they are needed
const PLACES_PER_BYTE: usize = 3; // one at first, twice that before they are tidied, and what one merge may add
const BYTES_PER_TOKEN: usize = 400; // pairs, their heap and the neighbours
const BYTES_PER_LEAST: i64 = 64;
const SHARES: u64 = 4; // in which all pairs are counted again
const LARGEST: usize = 1 << 31; // the list of places may grow to twice the symbols, and is indexed with 32 bits

/// An id as it is stored: two bytes while all ids fit, four otherwise.
trait Symbol: Copy + Eq {
    /// Between two pieces.
    const EDGE: Self;
    /// Inside a token.
    const INNER: Self;
    fn of(id: u32) -> Self;
    fn id(self) -> u32;
}

impl Symbol for u16 {
    const EDGE: u16 = u16::MAX;
    const INNER: u16 = u16::MAX - 1;
    fn of(id: u32) -> u16 {
        id as u16
    }
    fn id(self) -> u32 {
        u32::from(self)
    }
}

impl Symbol for u32 {
    const EDGE: u32 = u32::MAX;
    const INNER: u32 = u32::MAX - 1;
    fn of(id: u32) -> u32 {
        id
    }
    fn id(self) -> u32 {
        self
    }
}

/// The state of a training run.
pub struct Trainer {
    tokens: Vec<Vec<u8>>,
    merges: Vec<Pair>,
    script: VecDeque<Pair>,
    target: usize,
    counts: Vec<i64>,
    pairs: Pairs,
    text: Text,
}

enum Text {
    Narrow(Merger<u16>),
    Wide(Merger<u32>),
}

impl Text {
    fn walk(&self, pieces: usize, found: &mut dyn FnMut(Pair, Place)) {
        match self {
            Text::Narrow(merger) => merger.walk(pieces, found),
            Text::Wide(merger) => merger.walk(pieces, found),
        }
    }
}

fn is_narrow(target: usize) -> bool {
    target <= usize::from(u16::INNER)
}

/// About how many bytes a [`Trainer`] takes at most, with the pieces that it is made from.
pub fn memory(pieces: &Pieces, target: usize) -> usize {
    let bytes = pieces.num_bytes();
    let symbols = if is_narrow(target) { 2 } else { 4 };
    let own = bytes * symbols + pieces.len() * (symbols + 8 + 24);
    own + bytes * PLACES_PER_BYTE * size_of::<Place>() + target * BYTES_PER_TOKEN
}

impl Trainer {
    /// Prepares training to `target` tokens, the 256 single bytes included.
    ///
    /// Pieces are distinct and counts positive. Fails if the distinct pieces hold about 2^31 bytes or more.
    pub fn new(pieces: &Pieces, target: usize) -> Result<Trainer, String> {
        let bytes: i64 = pieces.iter().map(|(piece, count)| piece.len() as i64 * count).sum();
        Trainer::with_least(pieces, target, bytes / (target as i64 * BYTES_PER_LEAST))
    }

    /// The same, with a guess how often the last pair occurs that is merged.
    fn with_least(pieces: &Pieces, target: usize, least: i64) -> Result<Trainer, String> {
        let room = pieces.num_bytes() + pieces.len() + 1;
        if room >= LARGEST || target >= LARGEST {
            return Err(format!("too many bytes in distinct pieces: {}", pieces.num_bytes()));
        }
        let tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        let text = if is_narrow(target) {
            Text::Narrow(Merger::new(pieces, target))
        } else {
            Text::Wide(Merger::new(pieces, target))
        };
        let counts: Vec<i64> = pieces.iter().map(|(_, count)| count).collect();
        let (merges, script) = (Vec::new(), VecDeque::new());
        let pairs = Pairs::of_bytes(|found| text.walk(counts.len(), found), &counts, least.max(1));
        Ok(Trainer { tokens, merges, script, target, counts, pairs, text })
    }

    /// Lets the next merges be these, which the same pieces led to before.
    pub fn follow(&mut self, merges: impl IntoIterator<Item = Pair>) {
        self.script.extend(merges);
    }

    /// Merges until the target is reached, no pair is left or `budget` is spent; true when there is nothing more to do.
    ///
    /// Fails if a merge that is to be followed is not the one that these pieces lead to.
    pub fn step(&mut self, budget: Duration) -> Result<bool, String> {
        let start = Instant::now();
        while self.tokens.len() < self.target {
            let Some(pair) = self.pairs.most_frequent() else {
                match self.pairs.least() {
                    1 => return Ok(true),
                    least => self.count_again((least / 4).max(1)),
                }
                continue;
            };
            if let Some(known) = self.script.pop_front()
                && known != pair
            {
                return Err(format!("merge {} is {known:?} and should be {pair:?}", self.merges.len()));
            }
            self.merge(pair);
            if start.elapsed() >= budget {
                break;
            }
        }
        Ok(self.tokens.len() >= self.target)
    }

    fn count_again(&mut self, least: i64) {
        self.pairs = Pairs::empty(least); // the old ones go before the new ones come
        let (text, counts) = (&self.text, &self.counts[..]);
        self.pairs = Pairs::of_tokens(|found| text.walk(counts.len(), found), counts, least, SHARES);
    }

    fn merge(&mut self, pair: Pair) {
        let (left, right) = pair;
        let token = [&self.tokens[left as usize][..], &self.tokens[right as usize][..]].concat();
        match &mut self.text {
            Text::Narrow(merger) => merger.merge(pair, &self.counts, &mut self.pairs),
            Text::Wide(merger) => merger.merge(pair, &self.counts, &mut self.pairs),
        }
        self.tokens.push(token);
        self.merges.push(pair);
    }

    /// The two tokens that each new token joins, in the order of their ids.
    pub fn merges(&self) -> &[Pair] {
        &self.merges
    }

    /// The bytes of every token so far, in the order of their ids.
    pub fn tokens(&self) -> &[Vec<u8>] {
        &self.tokens
    }

    /// How many tokens the training text has now.
    pub fn encoded_length(&self) -> i64 {
        match &self.text {
            Text::Narrow(merger) => merger.encoded_length(&self.counts),
            Text::Wide(merger) => merger.encoded_length(&self.counts),
        }
    }
}

const NOWHERE: u32 = u32::MAX;

/// What a merge changes for one neighbouring token.
#[derive(Clone, Copy, Default)]
struct Neighbour {
    lost: i64,
    gained: i64,
    places: u32, // of the gained pair
    next: u32,   // where the next of them goes; NOWHERE if the pair is too rare to be kept
}

/// Everything on one side of the merged pair.
struct Side {
    of: Vec<Neighbour>,
    touched: Vec<u32>,
    places: Vec<(u32, Place)>,
}

impl Side {
    fn new(target: usize) -> Side {
        Side { of: vec![Neighbour::default(); target.max(256)], touched: Vec::new(), places: Vec::new() }
    }

    #[inline]
    fn change(&mut self, id: u32, count: i64, place: Place) {
        let neighbour = &mut self.of[id as usize];
        if neighbour.places == 0 {
            self.touched.push(id);
        }
        neighbour.lost += count;
        neighbour.gained += count;
        neighbour.places += 1;
        self.places.push((id, place));
    }

    /// Hands all changes over: `old` names the pair that an id stood in, `new` the one it stands in now.
    /// Places go where `free` ones are, if there are enough.
    fn flush(
        &mut self,
        pairs: &mut Pairs,
        free: &mut Range<usize>,
        old: impl Fn(u32) -> Pair,
        new: impl Fn(u32) -> Pair,
    ) {
        let of_frequent = |&id: &u32| {
            let neighbour = &self.of[id as usize];
            if neighbour.gained >= pairs.least() { neighbour.places as usize } else { 0 }
        };
        let mut start = pairs.reserve(self.touched.iter().map(of_frequent).sum(), free);
        for (index, &id) in self.touched.iter().enumerate() {
            if let Some(&later) = self.touched.get(index + AHEAD) {
                pairs.expect(old(later));
                pairs.expect(new(later));
            }
            let neighbour = &mut self.of[id as usize];
            pairs.lose(old(id), neighbour.lost);
            if neighbour.gained >= pairs.least() {
                pairs.insert(new(id), neighbour.gained, start, neighbour.places);
                neighbour.next = start as u32;
                start += neighbour.places as usize;
            } else {
                neighbour.next = NOWHERE;
            }
        }
        for &(id, place) in &self.places {
            let next = &mut self.of[id as usize].next;
            if *next != NOWHERE {
                pairs.put(*next as usize, place);
                *next += 1;
            }
        }
        for id in self.touched.drain(..) {
            self.of[id as usize] = Neighbour::default();
        }
        self.places.clear();
    }
}

/// The pieces as symbols, and what is needed to replace a pair everywhere.
struct Merger<S> {
    symbols: Vec<S>,
    lengths: Vec<u32>, // of each token, in bytes
    left: Side,
    right: Side,
    twins: Vec<Place>, // of two new tokens side by side
}

impl<S: Symbol> Merger<S> {
    fn new(pieces: &Pieces, target: usize) -> Merger<S> {
        let mut symbols = with_room(pieces.num_bytes() + pieces.len() + 1);
        symbols.push(S::EDGE);
        for (piece, _) in pieces.iter() {
            symbols.extend(piece.iter().map(|&byte| S::of(u32::from(byte))));
            symbols.push(S::EDGE);
        }
        Merger { symbols, lengths: vec![1; 256], left: Side::new(target), right: Side::new(target), twins: Vec::new() }
    }

    /// Replaces `pair` by a new token everywhere, and brings the counts of all neighbouring pairs up to date.
    fn merge(&mut self, pair: Pair, counts: &[i64], pairs: &mut Pairs) {
        let token = self.lengths.len() as u32;
        let (first, second, new) = (S::of(pair.0), S::of(pair.1), S::of(token));
        let (first_bytes, second_bytes) = (self.lengths[pair.0 as usize], self.lengths[pair.1 as usize]);
        let (first_bytes, second_bytes) = (first_bytes as usize, second_bytes as usize);
        let bytes = first_bytes + second_bytes;
        self.lengths.push(bytes as u32);
        let mut twin_count = 0;

        let places = pairs.take(pair);
        for index in places.clone() {
            let ahead = (index + AHEAD).min(places.end - 1);
            let later = pairs.place(ahead);
            prefetch(&self.symbols, later.position as usize);
            prefetch(counts, later.piece as usize);
            let place = pairs.place(index);
            let at = place.position as usize;
            let middle = at + first_bytes;
            if self.symbols[at] != first || self.symbols[middle] != second {
                continue; // another merge, or an overlapping one of this pair, was here first
            }
            let end = middle + second_bytes;
            let count = counts[place.piece as usize];
            let (before, after) = (self.symbols[at - 1], self.symbols[end]);
            self.symbols[middle - 1] = S::INNER;
            self.symbols[middle] = S::INNER;
            self.symbols[at] = new;
            self.symbols[end - 1] = new;
            if before == new {
                // Its right neighbour was still `first` when it was merged, a moment ago: now it is the new token.
                self.right.of[pair.0 as usize].gained -= count;
                self.twins.push(Place { position: (at - bytes) as u32, piece: place.piece });
                twin_count += count;
            } else if before != S::EDGE {
                let start = at - self.lengths[before.id() as usize] as usize;
                self.left.change(before.id(), count, Place { position: start as u32, piece: place.piece });
            }
            if after != S::EDGE {
                self.right.change(after.id(), count, place);
            }
        }
        let mut free = places; // they have been read
        self.left.flush(pairs, &mut free, |id| (id, pair.0), |id| (id, token));
        self.right.flush(pairs, &mut free, |id| (pair.1, id), |id| (token, id));
        if twin_count >= pairs.least() {
            let start = pairs.reserve(self.twins.len(), &mut free);
            pairs.insert((token, token), twin_count, start, self.twins.len() as u32);
            for (index, &place) in self.twins.iter().enumerate() {
                pairs.put(start + index, place);
            }
        }
        self.twins.clear();
        pairs.tidy(|(left, right), place| {
            let middle = place.position as usize + self.lengths[left as usize] as usize;
            self.symbols[place.position as usize] == S::of(left) && self.symbols[middle] == S::of(right)
        });
    }

    /// Names each two tokens side by side and where, from left to right. Position 0 is the edge before the first piece.
    fn walk(&self, pieces: usize, found: &mut dyn FnMut(Pair, Place)) {
        let (mut at, mut piece) = (1, 0);
        while piece < pieces {
            let symbol = self.symbols[at];
            if symbol == S::EDGE {
                piece += 1;
                at += 1;
                continue;
            }
            let next = at + self.lengths[symbol.id() as usize] as usize;
            let after = self.symbols[next];
            if after != S::EDGE {
                found((symbol.id(), after.id()), Place { position: at as u32, piece: piece as u32 });
            }
            at = next;
        }
    }

    fn encoded_length(&self, counts: &[i64]) -> i64 {
        let (mut at, mut piece, mut total) = (1, 0, 0);
        while piece < counts.len() {
            match self.symbols[at] {
                symbol if symbol == S::EDGE => {
                    piece += 1;
                    at += 1;
                }
                symbol => {
                    total += counts[piece];
                    at += self.lengths[symbol.id() as usize] as usize;
                }
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn pieces(words: &[(&str, i64)]) -> Pieces {
        let mut pieces = Pieces::default();
        words.iter().for_each(|(word, count)| pieces.push(word.as_bytes(), *count));
        pieces
    }

    fn trained(words: &[(&str, i64)], target: usize) -> Vec<String> {
        let mut trainer = Trainer::new(&pieces(words), target).expect("small input");
        while !trainer.step(Duration::ZERO).unwrap() {
            check_counts(&trainer);
        }
        trainer.tokens()[256..].iter().map(|token| String::from_utf8_lossy(token).into_owned()).collect()
    }

    /// Recounts every pair from the symbols: the incremental counts must be the same.
    fn check_counts(trainer: &Trainer) {
        let Text::Narrow(merger) = &trainer.text else { panic!("a small vocabulary") };
        let mut recount = HashMap::<Pair, i64>::new();
        let mut piece = 0;
        let mut at = 1;
        while piece < trainer.counts.len() {
            let symbol = merger.symbols[at];
            if symbol == u16::EDGE {
                piece += 1;
                at += 1;
                continue;
            }
            let next = at + merger.lengths[symbol as usize] as usize;
            assert_eq!(merger.symbols[next - 1], symbol);
            if merger.symbols[next] != u16::EDGE {
                *recount.entry((symbol.into(), merger.symbols[next].into())).or_insert(0) += trainer.counts[piece];
            }
            at = next;
        }
        recount.retain(|_, count| *count >= trainer.pairs.least());
        let live: HashMap<Pair, i64> = trainer.pairs.live().collect();
        assert_eq!(live, recount);
    }

    /// Counts everything anew before each merge: slow, and plainly right.
    fn naive(words: &[(&str, i64)], target: usize) -> Vec<Vec<u8>> {
        let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        let mut split: Vec<(Vec<u32>, i64)> =
            words.iter().map(|(word, count)| (word.bytes().map(u32::from).collect(), *count)).collect();
        while tokens.len() < target {
            let mut counts = HashMap::<Pair, i64>::new();
            for (word, count) in &split {
                word.windows(2).for_each(|two| *counts.entry((two[0], two[1])).or_insert(0) += count);
            }
            let Some((&pair, _)) = counts.iter().max_by_key(|&(&pair, &count)| (count, std::cmp::Reverse(pair))) else {
                break;
            };
            let id = tokens.len() as u32;
            tokens.push([&tokens[pair.0 as usize][..], &tokens[pair.1 as usize][..]].concat());
            for (word, _) in &mut split {
                let mut at = 0;
                while at + 1 < word.len() {
                    if (word[at], word[at + 1]) == pair {
                        word[at] = id;
                        word.remove(at + 1);
                    }
                    at += 1;
                }
            }
        }
        tokens
    }

    #[test]
    fn equals_the_naive_way_on_texts_full_of_overlaps_and_ties() {
        let mut state = 1u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        };
        for round in 0..300 {
            let letters = 1 + draw(4);
            let mut words = std::collections::BTreeMap::new();
            for _ in 0..1 + draw(12) {
                let word: String = (0..1 + draw(24)).map(|_| char::from(b'a' + draw(letters) as u8)).collect();
                words.insert(word, 1 + draw(5) as i64);
            }
            let words: Vec<(&str, i64)> = words.iter().map(|(word, &count)| (word.as_str(), count)).collect();
            let target = 257 + draw(60) as usize;
            let least = [1, 1, 2, 5, 30][draw(5) as usize];
            let mut trainer = Trainer::with_least(&pieces(&words), target, least).expect("small input");
            while !trainer.step(Duration::ZERO).unwrap() {
                check_counts(&trainer);
            }
            assert_eq!(trainer.tokens(), naive(&words, target), "round {round}: {words:?}");
        }
    }

    #[test]
    fn wide_ids_give_what_narrow_ones_give() {
        let text: Vec<String> = (0..4000u32).map(|i| format!("w{}x{}", i % 611, i * i % 977)).collect();
        let mut words: Vec<(&str, i64)> = text.iter().map(|word| (word.as_str(), 1)).collect();
        words.sort_unstable();
        words.dedup();
        let pieces = pieces(&words);
        let mut narrow = Trainer::new(&pieces, 900).expect("small input");
        let mut wide = Trainer::new(&pieces, 900).expect("small input");
        wide.text = Text::Wide(Merger::new(&pieces, 900));
        while !narrow.step(Duration::from_secs(1)).unwrap() || !wide.step(Duration::from_secs(1)).unwrap() {}
        assert_eq!(narrow.tokens(), wide.tokens());
        assert_eq!(narrow.encoded_length(), wide.encoded_length());
    }

    #[test]
    fn rare_pairs_come_in_when_frequent_ones_run_out() {
        let words: Vec<String> = (0..3000u32).map(|i| format!("w{}x{}y{}", i % 61, i * i % 97, i % 7)).collect();
        let mut counts = HashMap::<&str, i64>::new();
        words.iter().for_each(|word| *counts.entry(word).or_default() += 1 + word.len() as i64 % 5);
        let mut words: Vec<(&str, i64)> = counts.into_iter().collect();
        words.sort_unstable();
        let run = |least: i64| {
            let mut trainer = Trainer::with_least(&pieces(&words), 2000, least).expect("small input");
            while !trainer.step(Duration::from_secs(1)).unwrap() {}
            assert!(trainer.pairs.least() < least.max(2) || least == 3);
            (trainer.tokens().to_vec(), trainer.encoded_length())
        };
        let all = run(1);
        for least in [3, 50, 1000, 1_000_000] {
            assert!(run(least) == all, "{least}");
        }
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
        let mut trainer = Trainer::new(&pieces(&[("abc", 5), ("ab", 3)]), 257).expect("small input");
        assert_eq!(trainer.encoded_length(), 21);
        assert!(trainer.step(Duration::ZERO).unwrap());
        assert_eq!(trainer.encoded_length(), 13);
    }

    #[test]
    fn stops_when_nothing_is_left_to_merge() {
        assert_eq!(trained(&[("abc", 1), ("d", 9)], 1000), ["ab", "abc"]);
        assert_eq!(trained(&[], 1000), Vec::<String>::new());
        assert_eq!(trained(&[("abc", 1)], 256), Vec::<String>::new());
    }

    #[test]
    fn following_earlier_merges_leads_to_the_same() {
        let words = [("banana", 5), ("bandana", 2), ("ananas", 6), ("aaaa", 3)];
        let mut whole = Trainer::new(&pieces(&words), 270).expect("small input");
        while !whole.step(Duration::ZERO).unwrap() {}
        for known in 0..whole.merges().len() {
            let mut again = Trainer::new(&pieces(&words), 270).expect("small input");
            again.follow(whole.merges()[..known].iter().copied());
            while !again.step(Duration::ZERO).unwrap() {
                check_counts(&again);
            }
            assert_eq!(again.tokens(), whole.tokens());
        }
        let mut lost = Trainer::new(&pieces(&words), 270).expect("small input");
        lost.follow([(u32::from(b'x'), u32::from(b'y'))]);
        assert!(lost.step(Duration::ZERO).is_err());
    }

    #[test]
    fn counts_go_beyond_32_bits() {
        assert_eq!(trained(&[("ab", 3_000_000_000), ("cd", 2_999_999_999), ("abcd", 2)], 258), ["ab", "cd"]);
    }

    #[test]
    fn long_pieces_cost_no_more_than_short_ones() {
        let long: String =
            (0..60_000).map(|i: u64| char::from(b'a' + (i * i * 2_654_435_761 % 9973 % 26) as u8)).collect();
        let mut trainer = Trainer::new(&pieces(&[(&long, 1)]), 3000).expect("small input");
        while !trainer.step(Duration::from_millis(50)).unwrap() {}
        assert_eq!(trainer.tokens().len(), 3000);
        check_counts(&trainer);
    }
}
